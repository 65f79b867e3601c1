/* message.h - what is published, and how a receiver knows it again.
 *
 * A body is JSON of a fixed size with a mark in front:
 *
 *   {"ef":"<t>.<n>.<g>","pad":"abcdef.."}
 *
 * t: nanoseconds of CLOCK_MONOTONIC at which the event was due, 19 digits; n: the event's number, 10 digits;
 * g: its group, 6 digits. Whatever a server wraps around it, the mark is found by its first characters.
 *
 * Templates are texts with these words: {i} number of the session, {g} group (six digits, so that a message's
 * length does not depend on it), {token}, {body}, {quoted} the body with its quotes escaped for a JSON
 * string, {n} the event's number, {ms} wall-clock milliseconds. */
#ifndef EF_BENCH_MESSAGE_H
#define EF_BENCH_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MESSAGE_BODY_MIN = 64, MESSAGE_BODY_MAX = 1 << 20 };

struct mark {
    uint64_t due_ns;
    uint64_t number;
    uint32_t group;
};

/* A growing text. All zeros is empty; running out of memory ends the program. */
struct text {
    char *data;
    size_t len, cap;
};
void text_add(struct text *t, const void *data, size_t len);
void text_cut_front(struct text *t, size_t len);

struct message {
    char *body; /* owned, `len` bytes and NUL */
    size_t len;
};
void message_init(struct message *m, size_t len);
/* Write the event's mark into the body. */
void message_stamp(struct message *m, const struct mark *mark);

/* Look for a mark in `len` bytes. Returns the offset behind it, or 0 if there is none. *hint: distance of
 * the mark from the end in the last such message; speeds up the search. */
size_t mark_find(const char *p, size_t len, size_t *hint, struct mark *ret_mark);
/* Are the bytes behind the mark those of the body? */
bool message_tail_matches(const struct message *m, const char *p, size_t len);

struct template_values {
    uint64_t session;
    uint32_t group;
    const char *token;
    const struct message *message;
    uint64_t number;
};
/* Append the template with its words replaced. */
void template_expand(struct text *out, const struct text *template, const struct template_values *v);
/* The text with \r \n \0 \xNN \\ decoded, and a NUL behind it that does not count. */
struct text unescape(const char *s);

uint64_t now_ns(void);

#endif
