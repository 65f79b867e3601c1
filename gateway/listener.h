/* listener.h - accepts connections and reads the head of their first request.
 *
 *   accept --> greeting: [PROXY v2 header from a trusted proxy] request head --> `greeted` takes the
 * connection
 *                 |
 *                 '-- no whole head within HEAD_TIMEOUT_MS, too large, not HTTP: answered 408/431/400, closed
 *
 * A head that cannot be parsed is answered here; what still comes behind it is read and thrown away, so that
 * the answer arrives, until the client ends too. At most GREETINGS_MAX connections may be without a head; the
 * oldest gives way to a new one. When descriptors run out (EMFILE), accepting pauses for 100 ms, so that the
 * loop does not spin; those who wait stay in the kernel's backlog. Loop thread only. */
#ifndef EF_LISTENER_H
#define EF_LISTENER_H

#include "gateway/address.h"

#include <uv.h>

enum { HEAD_TIMEOUT_MS = 10000, GREETINGS_MAX = 4096 };

struct listener;

/* A connection whose head has arrived; valid for the call. */
struct greeting {
    int fd;                 /* non-blocking; the callback takes it */
    struct address address; /* of the client, see address.h */
    const char *rest;       /* what came behind the head */
    size_t rest_len;
    struct http_head head;
};

typedef void listener_cb(void *user, const struct greeting *greeting);

struct listener_counts {
    uint64_t accepted, malformed, timeouts, evicted, exhausted;
};

/* listen: "host:port" or "[v6]:port". config: of the trusted proxies; kept until listener_reload.
 * Returns 0, -EINVAL, or the errno of bind. */
MUST_CHECK int listener_start(uv_loop_t *loop, const char *listen, struct config *config,
                              listener_cb *greeted, void *user, struct listener **ret_listener);
void listener_reload(struct listener *l, struct config *config);
struct listener_counts listener_counts(const struct listener *l);
/* For tests: a monotonic clock of theirs, in milliseconds. */
void listener_set_clock(struct listener *l, int64_t (*mono_ms)(void));
/* Stop accepting and drop the connections without a head. Freed in a later turn; NULL is fine. */
void listener_close(struct listener *l);

#endif
