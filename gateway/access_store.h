/* access_store.h - answers of access checks in Redis, shared by all gateways.
 *
 *   <prefix>:access:{<user>}:<digest>   "1" granted, "0" refused; always with a TTL
 *   <prefix>:access:{<user>}:gen        the user's generation; missing is the same as ""
 *
 * A lookup reads the answer, its TTL and the generation in one step. A put stores an answer only if the
 * generation is still the one that the lookup saw: whoever revokes a user's grants raises the generation and
 * deletes the answers, and an answer that was asked for before that is not written after it.
 *
 * Redis is a cache here: nobody waits for it longer than ACCESS_STORE_WAIT_MS, and without it checks go on.
 */
#ifndef EF_ACCESS_STORE_H
#define EF_ACCESS_STORE_H

#include "shared/digest.h"
#include "shared/redis_link.h"

/* A lookup that takes longer is given up. An API that answers in 50 ms would be slowed down more. */
enum { ACCESS_STORE_WAIT_MS = 500 };

/* Longest generation that is kept, bytes. A longer one is none of ours: nothing is stored then. */
enum { ACCESS_GENERATION_MAX = 64 };

enum access_store_result {
    STORE_GRANTED,
    STORE_REFUSED,
    STORE_MISS,
    STORE_SLOW,   /* no answer within ACCESS_STORE_WAIT_MS */
    STORE_FAILED, /* the link broke, or Redis answered with an error */
};

struct access_generation {
    bool known; /* false after STORE_SLOW and STORE_FAILED: then nothing can be stored */
    uint8_t len;
    char text[ACCESS_GENERATION_MAX];
};

struct access_store;
struct access_lookup;

/* end_ms: when the answer found ends, by the store's clock; 0 without one. gen: borrowed for the call. */
typedef void access_lookup_cb(void *user, enum access_store_result result, int64_t end_ms,
                              const struct access_generation *gen);

enum access_put_result {
    PUT_STORED,
    PUT_OUTDATED, /* the generation has changed: the answer is not to be kept */
    PUT_FAILED,
};

/* sent_ms: when it was handed to Redis, end_ms: when it ends, both by the store's clock. */
typedef void access_put_cb(void *user, enum access_put_result result, const char digest[DIGEST_HEX + 1],
                           bool granted, int64_t sent_ms, int64_t end_ms);

/* link: borrowed until access_store_close. prefix: of all keys, copied. put_done is called once for every put
 * that returned 0.
 * NULL on lack of memory. */
struct access_store *access_store_new(uv_loop_t *loop, struct redis_link *link, const char *prefix,
                                      access_put_cb *put_done, void *user);
/* No callback comes any more, but `closed` in a later turn. */
void access_store_close(struct access_store *s, void (*closed)(void *user), void *user);

/* Where the ends of answers are counted from; clock_mono_ms unless told. For tests. */
void access_store_set_clock(struct access_store *s, int64_t (*mono_ms)(void));

/* Returns 0, ERR_REDIS_DOWN or -ENOMEM; after 0 the callback comes once, never before this has returned. */
MUST_CHECK
int access_store_lookup(struct access_store *s, const char user_digest[DIGEST_HEX + 1],
                        const char digest[DIGEST_HEX + 1], access_lookup_cb *cb, void *user,
                        struct access_lookup **ret_lookup);
/* Its callback will not come. */
void access_store_cancel(struct access_lookup *l);

/* Store an answer for ttl_ms (above 0). Returns 0, ERR_REDIS_DOWN or -ENOMEM. */
MUST_CHECK
int access_store_put(struct access_store *s, const char user_digest[DIGEST_HEX + 1],
                     const char digest[DIGEST_HEX + 1], const struct access_generation *gen, bool granted,
                     int64_t ttl_ms);

#endif
