/* http_head.h - the head of one HTTP/1.x request, taken apart strictly.
 *
 * The gateway reads each head itself, before libwebsockets sees the connection, and hands on a request of
 * its own making: subprotocol lists that hold a token are longer than libwebsockets takes, PROXY
 * protocol headers come before the request, and nothing that a stranger wrote reaches another parser.
 * Grammar: RFC 9112 (request line 3, fields 5); obsolete line folding, bare CR or LF, NUL, and white space
 * before the colon are refused, as 5.1 and 5.2 ask. */
#ifndef EF_HTTP_HEAD_H
#define EF_HTTP_HEAD_H

#include "shared/util.h"

#include <stdbool.h>

/* Largest head, bytes (a token of TOKEN_MAX fits, and so does every browser's own part), and most fields. */
enum { HTTP_HEAD_MAX = 32768, HTTP_FIELDS_MAX = 100 };

struct http_text {
    const char *at; /* into the head */
    size_t len;
};

struct http_field {
    struct http_text name, value; /* the value without white space around it */
};

struct http_head {
    struct http_text method, path, query; /* the target split at '?'; still percent-encoded */
    int minor;                            /* of HTTP/1.x */
    struct http_field fields[HTTP_FIELDS_MAX];
    size_t field_count;
};

/* Length of the head that `bytes` begin with, to the empty line and with it; 0 if it is not complete yet. */
size_t http_head_len(const char *bytes, size_t len);

/* Parse a whole head of `len` bytes, which stay with the caller. Returns 0 or the HTTP status that says what
 * is wrong: 400, 431 (too many fields), 505. */
MUST_CHECK int http_head_parse(const char *bytes, size_t len, struct http_head *ret_head);

bool http_text_is(struct http_text t, const char *text);      /* exactly */
bool http_text_is_fold(struct http_text t, const char *text); /* ASCII case ignored */

/* How many fields have this name (case ignored); *ret_value is the first's value. */
size_t http_head_field(const struct http_head *h, const char *name, struct http_text *ret_value);

/* A place in a comma list; all zeros is its beginning. */
struct http_list {
    size_t field, offset; /* of the next element: in the head's fields, in that field's value */
};

/* The next element of a comma list over all fields of that name (RFC 9110, 5.6.1). Empty elements are
 * skipped. A walk over the whole list costs as much as the list is long. */
bool http_head_list(const struct http_head *h, const char *name, struct http_list *at,
                    struct http_text *ret_element);
/* Is `element` (case ignored) in that list? */
bool http_head_list_has(const struct http_head *h, const char *name, const char *element);

/* Number of `name=` in the query; *ret_value is the last one's raw value. */
size_t http_query(struct http_text query, const char *name, struct http_text *ret_value);

#endif
