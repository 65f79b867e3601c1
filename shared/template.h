/* template.h - URL templates: "http://host/check/{key.0}?u={user}".
 *
 * {name} is replaced by a value, percent-encoded into one path segment or query value (everything but
 * RFC 3986's unreserved characters). A value "." or ".." is refused, so is an empty one in a path:
 * they would name another path. "{{" and "}}" stand for braces. */
#ifndef EF_TEMPLATE_H
#define EF_TEMPLATE_H

#include "shared/buf.h"

/* Longest name between braces, bytes; template_check refuses a longer one. */
enum { TEMPLATE_NAME_MAX = 63 };

/* Gives the value of a name. Returns 0 with bytes valid until the next call, or a negative code that
 * template_url hands on (there is no such value: ERR_TEMPLATE_VALUE). */
typedef int template_value_cb(void *user, const char *name, const char **ret_text, size_t *ret_len);

/* Append the expanded URL. Returns 0, ERR_TEMPLATE_VALUE (also for "." and ".."), a code of `value`, or
 * -ENOMEM; after an error `out` is as before. */
MUST_CHECK
int template_url(struct buf *out, const char *tmpl, template_value_cb *value, void *user);

/* The same for a text that is no URL: values are put in as they are, whatever they are. */
MUST_CHECK
int template_text(struct buf *out, const char *tmpl, template_value_cb *value, void *user);

/* Are the braces paired and every name known? `known(user, name)` judges a name. Returns NULL if all is
 * well, else what is wrong, to free(): "has the unknown name {usr}". (Also NULL if there is no memory for
 * that sentence; expanding such a template answers ERR_TEMPLATE_VALUE.) */
char *template_check(const char *tmpl, bool (*known)(void *user, const char *name), void *user);

#endif
