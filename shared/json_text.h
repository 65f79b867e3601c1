/* json_text.h - JSON as bytes: what jansson cannot do without changing numbers.
 *
 * json_text_check judges a text by the grammar of RFC 8259 (any value at the top, white space around
 * it), without building anything; depth is unlimited in the grammar and limited here. */
#ifndef EF_JSON_TEXT_H
#define EF_JSON_TEXT_H

#include "shared/buf.h"

/* Deepest nesting that is accepted as JSON; deeper texts count as not JSON. */
enum { JSON_TEXT_DEPTH_MAX = 512 };

/* Is it JSON? Invalid UTF-8 inside strings does not count as a fault here (see json_text_utf8). */
bool json_text_check(const char *text, size_t len);

/* Is it valid UTF-8 (RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF)? */
bool json_text_utf8(const char *text, size_t len);

/* Append the bytes as UTF-8, each maximal invalid sequence replaced by U+FFFD as the WHATWG decoder
 * (and Node.js) does. */
void json_text_add_utf8(struct buf *out, const char *text, size_t len);

/* Append a JSON string with its quotes, escaped as JSON.stringify does, invalid UTF-8 replaced. */
void json_text_add_string(struct buf *out, const char *text, size_t len);
/* The same without the quotes, for a string of several parts. */
void json_text_add_escaped(struct buf *out, const char *text, size_t len);

#endif
