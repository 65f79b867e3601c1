/* json_text.c - JSON and UTF-8 as bytes.
 *
 * The check runs on every event, so it neither recurses nor builds: the nesting is one bit per level, and
 * strings, where most bytes are, are read eight at a time. A byte that is no part of valid UTF-8 can
 * only stand inside a string, since the grammar has no other place for it; and replacing it by U+FFFD
 * later takes no quote or backslash away (the decoder never swallows an ASCII byte). So the answer is the
 * one that JSON.parse gives about the replaced text.
 *
 * Failures: what is not JSON is `false`; lack of memory is remembered by the buffer. */
#include "shared/json_text.h"

#include <string.h>

/* ---- eight bytes at a time ---- */

#define EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))

static uint64_t load8(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* High bits of the bytes that are `b` (below 0x20). Exact up to the first one in memory order on
 * little-endian machines; nothing is missed anywhere, and that there is none is exact everywhere. */
static uint64_t bytes_equal(uint64_t v, uint8_t b)
{
    uint64_t x = v ^ EACH_BYTE(b);

    return (x - EACH_BYTE(0x01)) & ~x & EACH_BYTE(0x80);
}
static uint64_t bytes_below_space(uint64_t v)
{
    return (v - EACH_BYTE(0x20)) & ~v & EACH_BYTE(0x80);
}

/* Bytes that end a plain stretch of a JSON string: quote, backslash, control characters. */
static uint64_t bytes_special(uint64_t v)
{
    return bytes_equal(v, '"') | bytes_equal(v, '\\') | bytes_below_space(v);
}

static bool byte_is_special(uint8_t b)
{
    return b == '"' || b == '\\' || b < 0x20;
}

/* How many bytes before the first marked one may be skipped; the caller looks at the next one itself. */
static int bytes_before(uint64_t marks)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_ctzll(marks) / 8;
#else
    (void)marks;
    return 0;
#endif
}

/* ---- grammar ---- */

static const uint8_t *skip_space(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

static bool is_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* p: behind the backslash. Returns the end of the escape, or NULL. */
static const uint8_t *skip_escape(const uint8_t *p, const uint8_t *end)
{
    if (p == end)
        return NULL;
    switch (*p) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return p + 1;
    case 'u':
        /* Any four digits: lone surrogates are grammar's business no more than JSON.parse's. */
        if (end - p < 5 || !is_hex(p[1]) || !is_hex(p[2]) || !is_hex(p[3]) || !is_hex(p[4]))
            return NULL;
        return p + 5;
    default:
        return NULL;
    }
}

/* p: behind the opening quote. Returns the place behind the closing one, or NULL. */
static const uint8_t *skip_string(const uint8_t *p, const uint8_t *end)
{
    for (;;) {
        while (end - p >= 8) {
            uint64_t marks = bytes_special(load8(p));

            if (marks) {
                p += bytes_before(marks);
                break;
            }
            p += 8;
        }
        while (p < end && !byte_is_special(*p))
            p++;
        if (p == end || *p < 0x20)
            return NULL;
        if (*p == '"')
            return p + 1;
        p = skip_escape(p + 1, end);
        if (!p)
            return NULL;
    }
}

static const uint8_t *skip_digits(const uint8_t *p, const uint8_t *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* At least one digit, or NULL. */
static const uint8_t *skip_some_digits(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *behind = skip_digits(p, end);

    return behind == p ? NULL : behind;
}

static const uint8_t *skip_number(const uint8_t *p, const uint8_t *end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == '0')
        p++;
    else
        p = skip_some_digits(p, end);
    if (p && p < end && *p == '.')
        p = skip_some_digits(p + 1, end);
    if (p && p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        p = skip_some_digits(p, end);
    }
    return p;
}

static const uint8_t *skip_word(const uint8_t *p, const uint8_t *end, const char *word, size_t len)
{
    return (size_t)(end - p) >= len && memcmp(p, word, len) == 0 ? p + len : NULL;
}

/* A member's name and its colon, with the white space behind it; or NULL. */
static const uint8_t *skip_name(const uint8_t *p, const uint8_t *end)
{
    if (p == end || *p != '"')
        return NULL;
    p = skip_string(p + 1, end);
    if (!p)
        return NULL;
    p = skip_space(p, end);
    return p < end && *p == ':' ? skip_space(p + 1, end) : NULL;
}

static const uint8_t *skip_scalar(const uint8_t *p, const uint8_t *end)
{
    switch (*p) {
    case '"':
        return skip_string(p + 1, end);
    case 't':
        return skip_word(p, end, "true", 4);
    case 'f':
        return skip_word(p, end, "false", 5);
    case 'n':
        return skip_word(p, end, "null", 4);
    default:
        return skip_number(p, end);
    }
}

/* The open objects (bit set) and arrays around a place. */
struct nest {
    unsigned depth;
    uint64_t objects[(JSON_TEXT_DEPTH_MAX + 63) / 64];
};

static bool nest_open(struct nest *n, bool object)
{
    uint64_t bit = UINT64_C(1) << (n->depth % 64), *bits = &n->objects[n->depth / 64];

    if (n->depth == JSON_TEXT_DEPTH_MAX)
        return false;
    *bits = object ? *bits | bit : *bits & ~bit;
    n->depth++;
    return true;
}

static bool nest_is_object(const struct nest *n)
{
    return n->objects[(n->depth - 1) / 64] >> ((n->depth - 1) % 64) & 1;
}

/* A value has ended at p: close what closes here. Returns the place of the next value, or of the end with
 * *ret_over; NULL if the text is wrong. */
static const uint8_t *next_value(struct nest *nest, const uint8_t *p, const uint8_t *end, bool *ret_over)
{
    for (;;) {
        bool object;

        p = skip_space(p, end);
        *ret_over = nest->depth == 0;
        if (*ret_over)
            return p;
        object = nest_is_object(nest);
        if (p == end)
            return NULL;
        if (*p == ',') {
            p = skip_space(p + 1, end);
            return object ? skip_name(p, end) : p;
        }
        if (*p != (object ? '}' : ']'))
            return NULL;
        nest->depth--;
        p++;
    }
}

bool json_text_check(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;
    struct nest nest;
    bool over = false;

    if (len == 0)
        return false; /* also keeps a NULL text apart from the NULL that means "wrong" */
    nest.depth = 0;
    p = skip_space(p, end);
    while (p && !over) {
        bool object;

        if (p == end)
            return false;
        object = *p == '{';
        if (object || *p == '[') {
            if (!nest_open(&nest, object))
                return false;
            p = skip_space(p + 1, end);
            if (p == end || *p != (object ? '}' : ']')) {
                if (object)
                    p = skip_name(p, end);
                continue; /* at the first value inside */
            }
            nest.depth--;
            p++;
        } else {
            p = skip_scalar(p, end);
        }
        if (p)
            p = next_value(&nest, p, end, &over);
    }
    return p == end;
}

/* ---- UTF-8 ---- */

/* The length of the sequence at p if it is valid (RFC 3629, 4), else minus the length of the part that the
 * decoder replaces at once: as far as the bytes could have begun a valid one (Unicode, 3.9, U+FFFD
 * substitution of maximal subparts), at least one. */
static int utf8_step(const uint8_t *p, const uint8_t *end)
{
    uint8_t low = 0x80, high = 0xbf;
    int more;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    more = p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : 3;
    if (p[0] == 0xe0)
        low = 0xa0; /* overlong below */
    else if (p[0] == 0xed)
        high = 0x9f; /* surrogates above */
    else if (p[0] == 0xf0)
        low = 0x90; /* overlong below */
    else if (p[0] == 0xf4)
        high = 0x8f; /* above U+10FFFF */
    for (int i = 1; i <= more; i++) {
        if (p + i == end || p[i] < low || p[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
    }
    return more + 1;
}

/* The first place that is not valid, or the end. */
static const uint8_t *utf8_run(const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        int step;

        while (end - p >= 8 && !(load8(p) & EACH_BYTE(0x80)))
            p += 8;
        if (p == end)
            break;
        step = utf8_step(p, end);
        if (step < 0)
            break;
        p += step;
    }
    return p;
}

bool json_text_utf8(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;

    return utf8_run(p, end) == end;
}

#define REPLACEMENT "\xef\xbf\xbd"

void json_text_add_utf8(struct buf *out, const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;

    buf_reserve(out, len);
    while (p < end) {
        const uint8_t *bad = utf8_run(p, end);

        buf_add(out, p, (size_t)(bad - p));
        if (bad == end)
            break;
        buf_add_str(out, REPLACEMENT);
        p = bad - utf8_step(bad, end);
    }
}

/* ---- strings ---- */

static void add_escape(struct buf *out, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[0x20] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};

    if (c >= 0x20 || letters[c]) {
        text[1] = c >= 0x20 ? (char)c : letters[c];
        buf_add(out, text, 2);
    } else {
        buf_add(out, text, 6);
    }
}

/* The first place that cannot stand as it is in a JSON string, or the end. */
static const uint8_t *plain_run(const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        int step = 1;

        while (end - p >= 8) {
            uint64_t v = load8(p);

            if (bytes_special(v) | (v & EACH_BYTE(0x80)))
                break;
            p += 8;
        }
        if (p == end || byte_is_special(*p))
            break;
        if (*p >= 0x80)
            step = utf8_step(p, end);
        if (step < 0)
            break;
        p += step;
    }
    return p;
}

void json_text_add_escaped(struct buf *out, const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;

    buf_reserve(out, len);
    while (p < end) {
        const uint8_t *stop = plain_run(p, end);

        buf_add(out, p, (size_t)(stop - p));
        p = stop;
        if (p == end)
            break;
        if (byte_is_special(*p)) {
            add_escape(out, *p++);
        } else {
            buf_add_str(out, REPLACEMENT);
            p -= utf8_step(p, end);
        }
    }
}

void json_text_add_string(struct buf *out, const char *text, size_t len)
{
    buf_reserve(out, len + 2);
    buf_add_char(out, '"');
    json_text_add_escaped(out, text, len);
    buf_add_char(out, '"');
}
