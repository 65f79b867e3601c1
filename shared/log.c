/* log.c - log lines, a ring, and one thread that writes them.
 *
 *   log_emit (any thread) -> format -> ring (1 MiB) -> writer thread -> standard error
 *
 * The caller formats its line outside the lock and copies it into the ring; it never waits for the
 * reader of our standard error. The writer takes whole lines, at most PIPE_BUF bytes at once (so that
 * lines of several processes on one pipe do not mix), and asks poll() first, so that it does not sit
 * in write() where log_close could not reach it.
 *
 * Failures:
 * - The ring is full (a stopped terminal, a slow collector): the line is dropped and counted. When the
 *   ring has drained to its half, the writer says how many are missing (LOG-DROPPED).
 * - Standard error would block: the writer waits. Closed, broken or full disk: what was to be written is
 *   dropped and counted, and the next lines try again.
 * - No memory for a line: dropped and counted.
 * - log_close gives the writer two seconds. What is left then is dropped; a writer that sits in the
 *   kernel nevertheless is left behind (the process is about to end).
 * - fork: the child has no writer thread, so a forked child must not log. (exec is fine.)
 * - SIGPIPE: the writer blocks all signals. Outside log_open..log_close lines are written by the caller,
 *   and the programs ignore SIGPIPE from their first line on. */
#include "shared/log.h"

#include "shared/buf.h"
#include "shared/clock.h"
#include "shared/json_text.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Bytes of lines that wait for the writer; beyond that they are dropped. */
enum { RING_BYTES = 1 << 20 };
/* A longer string in a field is cut: no single line may take the ring. */
enum { VALUE_MAX = 4096 };
/* How long log_close lets the writer write. */
enum { CLOSE_MS = 2000 };
/* How long a line outside log_open..log_close may hold up its caller: nothing is being served then. */
enum { DIRECT_MS = 200 };
/* How often a writer that waits for standard error looks whether the log is being closed. */
enum { WAIT_MS = 50 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;       /* there is something to write, or the log is being closed */
    pthread_cond_t ended_wake; /* the writer has ended */
    pthread_t writer;
    bool ended;
    bool open;
    bool closing;
    int64_t close_by_ms; /* monotonic; valid while closing */
    size_t head;         /* first byte in use */
    size_t used;
    uint64_t unsaid; /* dropped lines that the log does not mention yet */
} log_state = {.lock = PTHREAD_MUTEX_INITIALIZER,
               .wake = PTHREAD_COND_INITIALIZER,
               .ended_wake = PTHREAD_COND_INITIALIZER};

/* Apart from the rest, which has initial values: so its 1 MiB is not in the program's file. */
static char ring[RING_BYTES];
static const char *log_program = "";
static atomic_int log_level = LOG_INFO;
static atomic_int log_format = LOG_FORMAT_TEXT;
static atomic_uint_fast64_t log_lost;

static const struct {
    const char *json;
    const char *text; /* of equal width */
} level_names[] = {
    [LOG_DEBUG] = {"debug", "DEBUG"},
    [LOG_INFO] = {"info", "INFO "},
    [LOG_WARN] = {"warn", "WARN "},
    [LOG_ERROR] = {"error", "ERROR"},
};

/* ---- Formatting ---- */

/* How much of a string we print: all of it, or up to VALUE_MAX without cutting a character in two. */
static size_t value_length(const char *text, size_t len)
{
    size_t n = VALUE_MAX;

    if (len <= VALUE_MAX)
        return len;
    while (n > VALUE_MAX - 4 && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    return n;
}

/* For a terminal: valid UTF-8, and nothing that moves the cursor or ends the line. C1 controls are two
 * bytes in UTF-8 and as dangerous as ESC. */
static void add_visible(struct buf *out, const char *text, size_t len, bool quoted)
{
    CLEANUP(buf_done) struct buf clean = {0};

    json_text_add_utf8(&clean, text, len);
    for (size_t i = 0; i < clean.len; i++) {
        unsigned char c = (unsigned char)clean.data[i];
        unsigned char next = (unsigned char)clean.data[i + 1];

        if (c == '\n') {
            buf_add_str(out, "\\n");
        } else if (c < 0x20 || c == 0x7F) {
            buf_printf(out, "\\u%04x", c);
        } else if (c == 0xC2 && next >= 0x80 && next <= 0x9F) {
            buf_printf(out, "\\u%04x", next);
            i++;
        } else {
            if (quoted && (c == '"' || c == '\\'))
                buf_add_char(out, '\\');
            buf_add_char(out, (char)c);
        }
    }
    out->failed |= clean.failed;
}

static void add_string(struct buf *out, const char *text, size_t len, enum log_format format)
{
    CLEANUP(buf_done) struct buf cut = {0};
    size_t shown;

    if (!text) {
        buf_add_str(out, "null");
        return;
    }
    shown = value_length(text, len);
    if (shown < len) {
        buf_add(&cut, text, shown);
        buf_add_str(&cut, "...");
        out->failed |= cut.failed;
        text = cut.data ? cut.data : "";
        shown = cut.len;
    }
    if (format == LOG_FORMAT_JSON) {
        json_text_add_string(out, text, shown);
    } else {
        buf_add_char(out, '"');
        add_visible(out, text, shown, true);
        buf_add_char(out, '"');
    }
}

static void add_fields(struct buf *out, const struct log_field *fields, enum log_format format)
{
    for (const struct log_field *f = fields; f->type != LOG_FIELD_END; f++) {
        if (format == LOG_FORMAT_JSON)
            buf_printf(out, ",\"%s\":", f->key);
        else
            buf_printf(out, " %s=", f->key);
        switch (f->type) {
        case LOG_FIELD_STR:
            add_string(out, f->str, f->str ? strlen(f->str) : 0, format);
            break;
        case LOG_FIELD_BYTES:
            add_string(out, f->str, f->len, format);
            break;
        case LOG_FIELD_INT:
            buf_printf(out, "%lld", (long long)f->i);
            break;
        case LOG_FIELD_NUM:
            /* JSON has no infinity. */
            if (isfinite(f->num))
                buf_add_num(out, f->num);
            else
                buf_add_str(out, "null");
            break;
        case LOG_FIELD_END:
            break;
        }
    }
}

static void add_time(struct buf *out, enum log_format format)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    char text[40];
    struct tm tm;

    if (format == LOG_FORMAT_JSON) {
        gmtime_r(&seconds, &tm);
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
        buf_printf(out, "%s.%03dZ", text, (int)(now_ms % 1000));
    } else {
        localtime_r(&seconds, &tm);
        strftime(text, sizeof(text), "%H:%M:%S", &tm);
        buf_printf(out, "%s.%03d", text, (int)(now_ms % 1000));
    }
}

static void add_line(struct buf *out, enum log_format format, enum log_level level, const char *id,
                     const char *text, const struct log_field *fields)
{
    if (format == LOG_FORMAT_JSON) {
        buf_add_str(out, "{\"ts\":\"");
        add_time(out, format);
        buf_printf(out,
                   "\",\"level\":\"%s\",\"program\":\"%s\",\"id\":\"%s\",\"text\":", level_names[level].json,
                   log_program, id);
        add_string(out, text, strlen(text), format);
        add_fields(out, fields, format);
        buf_add_str(out, "}\n");
    } else {
        add_time(out, format);
        buf_printf(out, " %s %s ", level_names[level].text, id);
        add_visible(out, text, value_length(text, strlen(text)), false);
        add_fields(out, fields, format);
        buf_add_char(out, '\n');
    }
}

/* ---- Writing ---- */

static size_t count_lines(const char *bytes, size_t len)
{
    size_t lines = 0;

    for (size_t i = 0; i < len; i++)
        lines += bytes[i] == '\n';
    return lines;
}

/* May we still wait for standard error? The writer (by_ms < 0) until the log is closed and its time is
 * over, a direct write until by_ms on the monotonic clock. */
static bool may_wait(int64_t by_ms)
{
    bool yes;

    if (by_ms >= 0)
        return clock_mono_ms() < by_ms;
    pthread_mutex_lock(&log_state.lock);
    yes = !log_state.closing || clock_mono_ms() < log_state.close_by_ms;
    pthread_mutex_unlock(&log_state.lock);
    return yes;
}

/* Write all of it, waiting as may_wait(by_ms) allows. Returns the number of bytes written. */
static size_t write_all(const char *bytes, size_t len, int64_t by_ms)
{
    size_t done = 0;

    while (done < len) {
        struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
        bool patient = may_wait(by_ms);
        int ready = poll(&p, 1, patient ? WAIT_MS : 0);
        ssize_t n;

        if (ready == 0 || (ready < 0 && errno == EINTR)) {
            if (!patient)
                break;
            continue;
        }
        n = write(STDERR_FILENO, bytes + done, len - done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n < 0 && (errno == EINTR || errno == EAGAIN) && patient) {
            /* EAGAIN although poll() said yes: somebody else took the room. */
            if (errno == EAGAIN)
                (void)poll(NULL, 0, 1);
        } else {
            break;
        }
    }
    return done;
}

/* Take whole lines from the ring, at most PIPE_BUF bytes (or a piece of one line that is longer). */
static size_t ring_take(char chunk[PIPE_BUF])
{
    size_t n = log_state.used < PIPE_BUF ? log_state.used : PIPE_BUF;
    size_t first = RING_BYTES - log_state.head;
    const char *end;

    if (first > n)
        first = n;
    memcpy(chunk, ring + log_state.head, first);
    memcpy(chunk + first, ring, n - first);
    end = memrchr(chunk, '\n', n);
    if (end)
        n = (size_t)(end - chunk) + 1;
    log_state.head = (log_state.head + n) % RING_BYTES;
    log_state.used -= n;
    return n;
}

static bool ring_add(const char *bytes, size_t len)
{
    size_t tail = (log_state.head + log_state.used) % RING_BYTES;
    size_t first = RING_BYTES - tail;

    if (len > RING_BYTES - log_state.used)
        return false;
    if (first > len)
        first = len;
    memcpy(ring + tail, bytes, first);
    memcpy(ring, bytes + first, len - first);
    log_state.used += len;
    return true;
}

/* Say how many lines are missing. What fails here stays unsaid, for the next time. */
static void say_dropped(uint64_t count)
{
    CLEANUP(buf_done) struct buf line = {0};
    const struct log_field fields[] = {LF_INT("lines", count), {.type = LOG_FIELD_END}};

    add_line(&line, (enum log_format)atomic_load(&log_format), LOG_WARN, "LOG-DROPPED",
             "log lines were dropped, because standard error did not take them fast enough", fields);
    if (line.failed || write_all(line.data, line.len, -1) < line.len)
        return;
    pthread_mutex_lock(&log_state.lock);
    log_state.unsaid -= count;
    pthread_mutex_unlock(&log_state.lock);
}

static void *writer_main(void *unused)
{
    char chunk[PIPE_BUF];

    (void)unused;
    pthread_mutex_lock(&log_state.lock);
    for (;;) {
        uint64_t unsaid;
        size_t taken, done;

        while (!log_state.used && !log_state.closing)
            pthread_cond_wait(&log_state.wake, &log_state.lock);
        if (!log_state.used)
            break;
        taken = ring_take(chunk);
        pthread_mutex_unlock(&log_state.lock);

        done = write_all(chunk, taken, -1);

        pthread_mutex_lock(&log_state.lock);
        if (done < taken) {
            size_t lost = count_lines(chunk + done, taken - done);

            atomic_fetch_add(&log_lost, lost);
            log_state.unsaid += lost;
        }
        /* Below the half, not at every chunk: while lines keep being dropped one notice stands for many. */
        unsaid = log_state.used <= RING_BYTES / 2 && done == taken ? log_state.unsaid : 0;
        if (unsaid) {
            pthread_mutex_unlock(&log_state.lock);
            say_dropped(unsaid);
            pthread_mutex_lock(&log_state.lock);
        }
    }
    log_state.ended = true;
    pthread_cond_signal(&log_state.ended_wake);
    pthread_mutex_unlock(&log_state.lock);
    return NULL;
}

/* ---- The interface ---- */

int log_open(const char *program, enum log_level level, enum log_format format)
{
    sigset_t all, before;
    int r;

    assert(program && !log_state.open);
    log_program = program;
    atomic_store(&log_level, level);
    atomic_store(&log_format, format);
    log_state.closing = log_state.ended = false;
    log_state.head = log_state.used = 0;
    log_state.unsaid = 0;

    /* The thread inherits the mask: signals are the loop's, and a broken pipe must not kill us. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&log_state.writer, NULL, writer_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r) {
        atomic_store(&log_format, LOG_FORMAT_TEXT);
        return -r;
    }
    pthread_mutex_lock(&log_state.lock);
    log_state.open = true;
    pthread_mutex_unlock(&log_state.lock);
    return 0;
}

void log_set_level(enum log_level level)
{
    atomic_store(&log_level, level);
}

void log_close(void)
{
    struct timespec by;
    bool ended;
    int r = 0;

    pthread_mutex_lock(&log_state.lock);
    if (!log_state.open) {
        pthread_mutex_unlock(&log_state.lock);
        return;
    }
    log_state.open = false;
    log_state.closing = true;
    log_state.close_by_ms = clock_mono_ms() + CLOSE_MS;
    pthread_cond_signal(&log_state.wake);

    /* A little more than the writer's own limit: it passes only when the thread sits in the kernel. */
    clock_gettime(CLOCK_MONOTONIC, &by);
    by.tv_sec += CLOSE_MS / 1000 + 1;
    while (!log_state.ended && r == 0)
        r = pthread_cond_clockwait(&log_state.ended_wake, &log_state.lock, CLOCK_MONOTONIC, &by);
    ended = log_state.ended;
    pthread_mutex_unlock(&log_state.lock);

    if (ended)
        pthread_join(log_state.writer, NULL);
    else
        pthread_detach(log_state.writer);
    atomic_store(&log_format, LOG_FORMAT_TEXT);
}

uint64_t log_dropped(void)
{
    return atomic_load(&log_lost);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void log_emit(enum log_level level, const char *id, const char *text, const struct log_field *fields)
{
    CLEANUP(buf_done) struct buf line = {0};
    int saved_errno = errno; /* a log line between a call and the look at its errno changes nothing */
    bool open, taken = false;

    assert(id && text && fields);
    add_line(&line, (enum log_format)atomic_load(&log_format), level, id, text, fields);

    pthread_mutex_lock(&log_state.lock);
    open = log_state.open;
    if (open) {
        taken = !line.failed && ring_add(line.data, line.len);
        if (taken)
            pthread_cond_signal(&log_state.wake);
        else
            log_state.unsaid++;
    }
    pthread_mutex_unlock(&log_state.lock);

    if (!open)
        taken = !line.failed && write_all(line.data, line.len, clock_mono_ms() + DIRECT_MS) == line.len;
    if (!taken)
        atomic_fetch_add(&log_lost, 1);
    errno = saved_errno;
}
