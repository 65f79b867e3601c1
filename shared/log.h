/* log.h - structured log lines on standard error.
 *
 * A line has a level, a stable id (upper case, words joined by '-'), a sentence, and typed fields.
 * Formats: "json" (one object a line: ts, level, program, id, text, then the fields) and "text"
 * (for a terminal). Writing never blocks the caller: lines go through a bounded ring to a writer
 * thread; what does not fit is dropped, counted (log_dropped) and said in the log itself once there
 * is room again. Any thread may log; a forked child must not (it has no writer). A string in a field is cut
 * at 4096 bytes. Only the programs log above debug level; shared/ returns codes.
 *
 * Never log tokens, e-mail bodies or event payloads. Text from outside goes into a field, which quotes it. */
#ifndef EF_LOG_H
#define EF_LOG_H

#include "shared/util.h"

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_FORMAT_JSON, LOG_FORMAT_TEXT };

enum log_field_type { LOG_FIELD_END, LOG_FIELD_STR, LOG_FIELD_BYTES, LOG_FIELD_INT, LOG_FIELD_NUM };
struct log_field {
    const char *key;
    enum log_field_type type;
    const char *str; /* borrowed for the call; NULL prints as null */
    size_t len;      /* of LOG_FIELD_BYTES */
    int64_t i;
    double num;
};

#define LF_STR(k, v)      ((struct log_field){.key = (k), .type = LOG_FIELD_STR, .str = (v)})
#define LF_BYTES(k, v, n) ((struct log_field){.key = (k), .type = LOG_FIELD_BYTES, .str = (v), .len = (n)})
#define LF_INT(k, v)      ((struct log_field){.key = (k), .type = LOG_FIELD_INT, .i = (int64_t)(v)})
#define LF_NUM(k, v)      ((struct log_field){.key = (k), .type = LOG_FIELD_NUM, .num = (double)(v)})

/* log_warn("CLOSE-SLOW", "closing a session that does not read", LF_INT("queued_bytes", n)); */
#define log_debug(...)           log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)            log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...)            log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...)           log_line(LOG_ERROR, __VA_ARGS__)
#define log_line(level, id, ...) log_line_(level, id, __VA_ARGS__, (struct log_field){.type = LOG_FIELD_END})
#define log_line_(level, id, text, ...)                                         \
    do {                                                                        \
        if (log_enabled(level))                                                 \
            log_emit(level, id, text, (const struct log_field[]){__VA_ARGS__}); \
    } while (0)

/* Start the writer thread. `program` is borrowed for the life of the process. Before log_open, and
 * after log_close, lines are written at once and in text. Returns 0 or a negative errno. */
int log_open(const char *program, enum log_level level, enum log_format format);
void log_set_level(enum log_level level); /* on reload */
void log_close(void);                     /* writes what is queued (at most 2 s), ends the thread */
uint64_t log_dropped(void);               /* lines that did not fit or could not be written, since start */
bool log_enabled(enum log_level level);
void log_emit(enum log_level level, const char *id, const char *text, const struct log_field *fields);

#endif
