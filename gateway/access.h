/* access.h - may this token bind this pattern on this exchange?
 *
 * The exchange's rules are tried in order, the first that applies decides, none denies (docs/access.md).
 * Local rules (claims, allow) are answered at once. An HTTP rule is answered by, in this order: this
 * process's memory (at most 30 s old), an equal check in flight (joined), Redis, the API itself. Only
 * a 2xx answer whose body is a JSON object with "status":"ok" grants; nothing else ever does.
 *
 * Checks are equal if the token's key, the rule as configured, the token's claims but iat, nbf and exp, the
 * exchange and the pattern are. A cached answer is capped by its TTL and by the end of the token that was
 * asked with. It is stored in Redis only if the user's generation is what it was before the API was asked,
 * and kept in memory only once it is stored there. Errors, timeouts and answers that are none are not cached.
 *
 * An API (by origin) that failed 5 times in a row (5xx, no answer, no connection) is not asked for 2 s
 * (doubling up to 30 s): checks answer ACCESS_ERROR at once; then one check is let through to try it. */
#ifndef EF_ACCESS_H
#define EF_ACCESS_H

#include "shared/config.h"
#include "shared/metrics.h"
#include "shared/redis_link.h"
#include "shared/token.h"

enum access_verdict {
    ACCESS_PENDING, /* the callback will tell */
    ACCESS_GRANTED,
    ACCESS_DENIED,
    ACCESS_TIMEOUT, /* the API did not answer within access.timeout_ms */
    ACCESS_ERROR,   /* it answered nonsense, could not be reached, or its breaker is open */
    ACCESS_BUSY,    /* access.pending_max checks are in flight */
};

struct access;
struct access_check;

/* text: one sentence for the client that says what is wrong, without secrets (static). */
typedef void access_cb(void *user, enum access_verdict verdict, const char *text);

/* redis: the command link for the shared cache, borrowed until access_close; it may be down: then checks
 * go to the API uncached. metrics: borrowed. config: a reference is taken. NULL on lack of memory. */
struct access *access_new(uv_loop_t *loop, struct config *config, struct redis_link *redis,
                          struct metrics *metrics);
/* New rules and limits. Checks in flight go on under the rules that they began with: the caller must
 * judge their answers anew if the exchange's rules changed (compare config_exchange.text). */
void access_reload(struct access *a, struct config *config);
/* Cancels everything: no callback comes after it, and checks are not to be cancelled any more. Handles die in
 * later turns of the loop, then `closed`. Not from within an access_cb. */
void access_close(struct access *a, void (*closed)(void *user), void *user);

/* Where TTLs in memory and breakers take their time from; clock_mono_ms unless told. For tests. */
void access_set_clock(struct access *a, int64_t (*mono_ms)(void));

/* token: may be NULL (then only a public exchange grants). exchange: of the current configuration, borrowed
 * for the call. pattern: at most TOPIC_MAX bytes, borrowed for the call. text: as in access_cb, set with
 * every verdict but ACCESS_PENDING. Returns the verdict at once, or ACCESS_PENDING: then *ret_check can be
 * cancelled until the callback, which comes exactly once and never before access_check has returned.
 * Callbacks may check and cancel. */
enum access_verdict access_check(struct access *a, struct token *token,
                                 const struct config_exchange *exchange, const char *pattern,
                                 size_t pattern_len, access_cb *cb, void *user,
                                 struct access_check **ret_check, const char **ret_text);
/* Its callback will not come. If it was the last that waits, the request is dropped. */
void access_cancel(struct access_check *check);

#endif
