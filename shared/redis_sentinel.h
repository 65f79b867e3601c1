/* redis_sentinel.h - where is the primary now? Asks the sentinels of a URL, one after the other, until one
 * knows. Inside redis_link only.
 *
 * Whether the answer is true is for the caller to check (ROLE): a sentinel that is cut off from the others,
 * or has not heard yet, names the old primary. */
#ifndef EF_REDIS_SENTINEL_H
#define EF_REDIS_SENTINEL_H

#include "shared/redis_url.h"

#include <uv.h>

struct redis_sentinel;

/* Exactly one of the two is called, once, in a later turn than redis_sentinel_ask, and not after
 * redis_sentinel_close. The owner still calls redis_sentinel_close, there or later. */
struct redis_sentinel_events {
    /* host: borrowed, at most REDIS_HOST_MAX bytes of printable text; port: 1 to 65535. */
    void (*found)(void *user, const char *host, int port);
    /* No sentinel knew. error and detail are of the last one: a negative errno, ERR_REDIS_AUTH,
     * ERR_REDIS_RETRY or ERR_REDIS_REPLY, and one line (borrowed). */
    void (*failed)(void *user, int error, const char *detail);
};

/* Begin with the sentinel of that number (modulo how many there are). timeout_ms: each gets a share of what
 * is left of it, and the last share stays for what the caller does with the answer. url: with sentinels,
 * borrowed until redis_sentinel_close. NULL: out of memory. */
MUST_CHECK
struct redis_sentinel *redis_sentinel_ask(uv_loop_t *loop, const struct redis_url *url, size_t first,
                                          int timeout_ms, const struct redis_sentinel_events *events,
                                          void *user);
/* Safe inside its callbacks; NULL is accepted. Memory goes in a later turn. */
void redis_sentinel_close(struct redis_sentinel *s);

#endif
