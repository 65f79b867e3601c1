/* access_rules.h - the rules of one exchange, judged without asking anybody.
 *
 * A rule applies when its `when` covers the whole binding; the first that applies decides. Most decide here;
 * an HTTP rule yields the URL to ask. Nothing in here keeps state, waits or knows libcurl or Redis. */
#ifndef EF_ACCESS_RULES_H
#define EF_ACCESS_RULES_H

#include "shared/buf.h"
#include "shared/config.h"

/* Who asks: a verified token, opened up. All borrowed. */
struct access_subject {
    const json_t *claims; /* an object */
    const char *sub;      /* NULL: the token names no user, rules that need {user} do not apply */
};

enum access_ruling {
    RULING_GRANTED,
    RULING_DENIED,
    RULING_ASK, /* the API at the URL decides */
};

/* Judge the binding of `pattern` on `exchange` (not a public one).
 *
 * ret_url: an empty buffer; holds the URL after RULING_ASK. ret_rule: the rule that decided, borrowed from
 * the exchange, NULL if none did. ret_text: one sentence for the client, static, set with every ruling.
 * Returns 0 or -ENOMEM (then no ruling was made: the caller must not grant). */
MUST_CHECK
int access_rules_judge(const struct config_exchange *exchange, const struct access_subject *subject,
                       const char *pattern, size_t pattern_len, struct buf *ret_url,
                       const struct config_rule **ret_rule, enum access_ruling *ret_ruling,
                       const char **ret_text);

/* The value at a JSON pointer (RFC 6901, 4), or NULL. Borrowed from `root`. */
const json_t *access_rules_pointer(const json_t *root, const char *pointer);

/* Is a claim equal to a configured text? Strings by their bytes, whole numbers by their decimal digits
 * (59 equals "59", not "59abc", "059" or 59.0); nothing else is equal to anything. */
bool access_rules_equal(const json_t *claim, const char *text, size_t len);

#endif
