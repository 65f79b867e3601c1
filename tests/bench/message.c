/* message.c - bodies, marks and templates; the story is in the header. */
#include "tests/bench/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char opening[] = "\"ef\":\"";
enum {
    OPENING_LEN = sizeof(opening) - 1,
    DUE_DIGITS = 19,
    NUMBER_DIGITS = 10,
    GROUP_DIGITS = 6,
    MARK_LEN = OPENING_LEN + DUE_DIGITS + 1 + NUMBER_DIGITS + 1 + GROUP_DIGITS,
    /* In the body the mark follows the brace. */
    TAIL_OFFSET = 1 + MARK_LEN,
};

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void text_add(struct text *t, const void *data, size_t len)
{
    if (t->len + len > t->cap) {
        size_t cap = (t->len + len) * 2;
        char *more = realloc(t->data, cap);

        if (!more) {
            fputs("load: out of memory\n", stderr);
            exit(2);
        }
        t->data = more;
        t->cap = cap;
    }
    if (len)
        memcpy(t->data + t->len, data, len);
    t->len += len;
}

void text_cut_front(struct text *t, size_t len)
{
    t->len -= len;
    if (t->len)
        memmove(t->data, t->data + len, t->len);
}

void message_init(struct message *m, size_t len)
{
    static const char pad_opening[] = "\",\"pad\":\"";
    struct text t = {0};

    text_add(&t, "{", 1);
    text_add(&t, opening, OPENING_LEN);
    for (int i = 0; i < MARK_LEN - OPENING_LEN; i++)
        text_add(&t, "0", 1);
    text_add(&t, pad_opening, sizeof(pad_opening) - 1);
    while (t.len < len - 2)
        text_add(&t, &"abcdefghijklmnopqrstuvwxyz012345"[t.len % 32], 1);
    text_add(&t, "\"}", 3);
    *m = (struct message){.body = t.data, .len = t.len - 1};
}

static void put_digits(char *to, int digits, uint64_t value)
{
    for (int i = digits - 1; i >= 0; i--) {
        to[i] = (char)('0' + value % 10);
        value /= 10;
    }
}

void message_stamp(struct message *m, const struct mark *mark)
{
    char *p = m->body + 1 + OPENING_LEN;

    put_digits(p, DUE_DIGITS, mark->due_ns);
    p += DUE_DIGITS;
    *p++ = '.';
    put_digits(p, NUMBER_DIGITS, mark->number);
    p += NUMBER_DIGITS;
    *p++ = '.';
    put_digits(p, GROUP_DIGITS, mark->group);
}

static uint64_t get_digits(const char *p, int digits)
{
    uint64_t value = 0;

    for (int i = 0; i < digits; i++)
        value = value * 10 + (uint64_t)(p[i] - '0');
    return value;
}

size_t mark_find(const char *p, size_t len, size_t *hint, struct mark *ret_mark)
{
    const char *at = NULL;

    if (*hint && *hint <= len && memcmp(p + len - *hint, opening, OPENING_LEN) == 0)
        at = p + len - *hint;
    else
        at = memmem(p, len, opening, OPENING_LEN);
    if (!at || (size_t)(p + len - at) < MARK_LEN)
        return 0;
    *hint = (size_t)(p + len - at);
    at += OPENING_LEN;
    ret_mark->due_ns = get_digits(at, DUE_DIGITS);
    at += DUE_DIGITS + 1;
    ret_mark->number = get_digits(at, NUMBER_DIGITS);
    at += NUMBER_DIGITS + 1;
    ret_mark->group = (uint32_t)get_digits(at, GROUP_DIGITS);
    return (size_t)(at + GROUP_DIGITS - p);
}

bool message_tail_matches(const struct message *m, const char *p, size_t len)
{
    size_t tail = m->len - TAIL_OFFSET;

    return len >= tail && memcmp(p, m->body + TAIL_OFFSET, tail) == 0;
}

static void add_number(struct text *out, const char *format, uint64_t value)
{
    char digits[32];
    int n = snprintf(digits, sizeof(digits), strcmp(format, "g") == 0 ? "%06" PRIu64 : "%" PRIu64, value);

    text_add(out, digits, (size_t)n);
}

static void add_quoted(struct text *out, const struct message *m)
{
    for (size_t i = 0; i < m->len; i++) {
        if (m->body[i] == '"')
            text_add(out, "\\", 1);
        text_add(out, m->body + i, 1);
    }
}

static uint64_t wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Replaces the word at `at`; returns its length in the template, or 0 if it is none. */
static size_t expand_word(struct text *out, const char *at, const struct template_values *v)
{
    static const char *const words[] = {"{i}", "{g}", "{token}", "{body}", "{quoted}", "{n}", "{ms}"};
    size_t k = 0;

    while (k < sizeof(words) / sizeof(words[0]) && strncmp(at, words[k], strlen(words[k])) != 0)
        k++;
    switch (k) {
    case 0:
        add_number(out, "", v->session);
        break;
    case 1:
        add_number(out, "g", v->group);
        break;
    case 2:
        if (v->token)
            text_add(out, v->token, strlen(v->token));
        break;
    case 3:
        if (v->message)
            text_add(out, v->message->body, v->message->len);
        break;
    case 4:
        if (v->message)
            add_quoted(out, v->message);
        break;
    case 5:
        add_number(out, "", v->number);
        break;
    case 6:
        add_number(out, "", wall_ms());
        break;
    default:
        return 0;
    }
    return strlen(words[k]);
}

void template_expand(struct text *out, const struct text *template, const struct template_values *v)
{
    const char *at = template->data;
    const char *end = at + template->len;

    while (at < end) {
        const char *brace = memchr(at, '{', (size_t)(end - at));
        size_t word;

        text_add(out, at, (size_t)((brace ? brace : end) - at));
        if (!brace)
            break;
        at = brace;
        word = expand_word(out, at, v);
        if (word == 0)
            text_add(out, at, word = 1);
        at += word;
    }
}

/* The byte of "xNN", and how many characters behind the backslash it took. */
static char escaped(const char *s, size_t *ret_len)
{
    const char digits[3] = {s[1], s[1] ? s[2] : '\0', '\0'};
    char *end;
    long value;

    *ret_len = 1;
    switch (*s) {
    case 'r':
        return '\r';
    case 'n':
        return '\n';
    case '0':
        return '\0';
    case 'x':
        value = strtol(digits, &end, 16);
        *ret_len += (size_t)(end - digits);
        return (char)value;
    default:
        return *s;
    }
}

struct text unescape(const char *s)
{
    struct text t = {0};

    while (*s) {
        size_t len = 0;
        char c = *s++;

        if (c == '\\' && *s)
            c = escaped(s, &len);
        s += len;
        text_add(&t, &c, 1);
    }
    /* A NUL behind it, so that it can be compared as a string, too. */
    text_add(&t, "", 1);
    t.len--;
    return t;
}
