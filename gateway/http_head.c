#include "gateway/http_head.h"

#include <string.h>
#include <strings.h>

size_t http_head_len(const char *bytes, size_t len)
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);

    return end ? (size_t)(end - bytes) + 4 : 0;
}

bool http_text_is(struct http_text t, const char *text)
{
    return t.len == strlen(text) && memcmp(t.at, text, t.len) == 0;
}

bool http_text_is_fold(struct http_text t, const char *text)
{
    return t.len == strlen(text) && strncasecmp(t.at, text, t.len) == 0;
}

/* RFC 9110, 5.6.2. */
static bool is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(struct http_text t)
{
    for (size_t i = 0; i < t.len; i++)
        if (!is_token_char((unsigned char)t.at[i]))
            return false;
    return t.len > 0;
}

/* The text before `stop`, which is taken off `rest` too; the whole rest if it does not occur. */
static struct http_text cut(struct http_text *rest, const char *stop)
{
    const char *at = memmem(rest->at, rest->len, stop, strlen(stop));
    struct http_text before = {rest->at, at ? (size_t)(at - rest->at) : rest->len};
    size_t skip = at ? before.len + strlen(stop) : rest->len;

    rest->at += skip;
    rest->len -= skip;
    return before;
}

static struct http_text trim(struct http_text t)
{
    while (t.len && (t.at[0] == ' ' || t.at[0] == '\t')) {
        t.at++;
        t.len--;
    }
    while (t.len && (t.at[t.len - 1] == ' ' || t.at[t.len - 1] == '\t'))
        t.len--;
    return t;
}

static int parse_request_line(struct http_text line, struct http_head *h)
{
    struct http_text target;

    h->method = cut(&line, " ");
    target = cut(&line, " ");
    if (!is_token(h->method) || target.len == 0 || target.at[0] != '/')
        return 400;
    if (line.len != 8 || memcmp(line.at, "HTTP/", 5) != 0 || line.at[6] != '.')
        return 400;
    if (line.at[5] != '1' || line.at[7] < '0' || line.at[7] > '9')
        return 505;
    h->minor = line.at[7] - '0';
    for (size_t i = 0; i < target.len; i++)
        if ((unsigned char)target.at[i] <= ' ' || target.at[i] == 0x7f)
            return 400;
    h->path = cut(&target, "?");
    h->query = target;
    return 0;
}

static int parse_field(struct http_text line, struct http_head *h)
{
    struct http_field *f = &h->fields[h->field_count];

    if (h->field_count == HTTP_FIELDS_MAX)
        return 431;
    if (!memchr(line.at, ':', line.len))
        return 400;
    f->name = cut(&line, ":");
    f->value = trim(line);
    h->field_count++;
    for (size_t i = 0; i < f->value.len; i++) {
        unsigned char c = (unsigned char)f->value.at[i];

        if ((c < ' ' && c != '\t') || c == 0x7f)
            return 400;
    }
    return is_token(f->name) ? 0 : 400;
}

int http_head_parse(const char *bytes, size_t len, struct http_head *h)
{
    struct http_text rest = {bytes, len}, line;
    int r;

    h->field_count = 0;
    line = cut(&rest, "\r\n");
    if (memchr(bytes, '\0', len) || memchr(line.at, '\n', line.len) || memchr(line.at, '\r', line.len))
        return 400;
    r = parse_request_line(line, h);
    while (r == 0) {
        line = cut(&rest, "\r\n");
        if (line.len == 0)
            break;
        if (memchr(line.at, '\n', line.len) || memchr(line.at, '\r', line.len))
            return 400;
        r = parse_field(line, h);
    }
    return r;
}

size_t http_head_field(const struct http_head *h, const char *name, struct http_text *ret_value)
{
    size_t n = 0;

    for (size_t i = 0; i < h->field_count; i++)
        if (http_text_is_fold(h->fields[i].name, name) && n++ == 0)
            *ret_value = h->fields[i].value;
    return n;
}

bool http_head_list(const struct http_head *h, const char *name, struct http_list *at,
                    struct http_text *ret_element)
{
    for (; at->field < h->field_count; at->field++, at->offset = 0) {
        const struct http_field *f = &h->fields[at->field];
        struct http_text rest = {f->value.at + at->offset, f->value.len - at->offset};

        if (!http_text_is_fold(f->name, name))
            continue;
        while (rest.len) {
            struct http_text element = trim(cut(&rest, ","));

            if (element.len == 0)
                continue;
            at->offset = f->value.len - rest.len;
            *ret_element = element;
            return true;
        }
    }
    return false;
}

bool http_head_list_has(const struct http_head *h, const char *name, const char *element)
{
    struct http_list at = {0};
    struct http_text e;

    while (http_head_list(h, name, &at, &e))
        if (http_text_is_fold(e, element))
            return true;
    return false;
}

size_t http_query(struct http_text query, const char *name, struct http_text *ret_value)
{
    size_t n = 0;

    while (query.len) {
        struct http_text value = cut(&query, "&");
        struct http_text key = cut(&value, "=");

        if (!http_text_is(key, name))
            continue;
        *ret_value = value;
        n++;
    }
    return n;
}
