/* access_http.h - asks access-check APIs: HTTP on the program's loop, through curl_multi.
 *
 * One question is one GET with the client's token. No redirect, no retry, no proxy, no cookies; TLS
 * certificates are verified. At most 64 KiB of answer, at most ACCESS_HTTP_HOST_MAX connections to one host;
 * what is beyond waits, and its deadline runs meanwhile. Each origin has a breaker (access_breaker.h). */
#ifndef EF_ACCESS_HTTP_H
#define EF_ACCESS_HTTP_H

#include "gateway/access_breaker.h"
#include "shared/buf.h"
#include "shared/metrics.h"

#include <uv.h>

/* Longest answer read, and longest header section, bytes. An honest answer has some 20. */
enum { ACCESS_HTTP_BODY_MAX = 65536, ACCESS_HTTP_HEADERS_MAX = 65536 };

/* Connections to one host, so that a slow API does not use up our descriptors; and to all together. */
enum { ACCESS_HTTP_HOST_MAX = 64, ACCESS_HTTP_TOTAL_MAX = 256 };

/* How a question ended: the metric's label, and what it says about the API. What the client hears and what is
 * cached is access.c's. */
#define ACCESS_HTTP_RESULTS(X)                                                                        \
    /* name      label         breaker */                                                             \
    X(OK, "ok", BREAKER_ANSWERED)             /* 2xx, an object whose status is "ok" */               \
    X(REFUSED, "refused", BREAKER_ANSWERED)   /* 401, 403, 404; 2xx, an object with another status */ \
    X(NONSENSE, "nonsense", BREAKER_ANSWERED) /* other 3xx, 4xx; 2xx with anything else */            \
    X(EMPTY, "empty", BREAKER_ANSWERED)       /* 2xx (204, ..) without a body, or null */             \
    X(BUSY, "busy", BREAKER_UNCERTAIN)        /* 429: one client's limit must not stop the others */  \
    X(BROKEN, "broken", BREAKER_FAILED)       /* 5xx */                                               \
    X(NETWORK, "network", BREAKER_FAILED)     /* no or half an answer */                              \
    X(TIMEOUT, "timeout", BREAKER_FAILED)

enum access_http_result {
#define X(name, label, breaker) ACCESS_HTTP_##name,
    ACCESS_HTTP_RESULTS(X)
#undef X
};

struct access_http;
struct access_http_request;

typedef void access_http_cb(void *user, enum access_http_result result);

/* What an answer says: HTTP status and body. */
enum access_http_result access_http_judge(long status, const char *body, size_t len);

/* Append scheme and host of a URL (or of a template of one), without user and password, in lower case. */
void access_http_origin(struct buf *out, const char *url);

/* metrics: borrowed until close (rows GM_ACCESS_HTTP*, GM_ACCESS_BREAKER). NULL on lack of memory, or if
 * libcurl does not come up. */
struct access_http *access_http_new(uv_loop_t *loop, struct metrics *metrics);
/* No callback comes any more, but `closed` in a later turn. */
void access_http_close(struct access_http *h, void (*closed)(void *user), void *user);

/* Where the breakers take their time from; clock_mono_ms unless told. For tests. */
void access_http_set_clock(struct access_http *h, int64_t (*mono_ms)(void));

/* Forget the breakers of origins that `keep` does not know and that nobody is asking. */
void access_http_prune(struct access_http *h, bool (*keep)(void *user, const char *origin), void *user);

/* Put a question. origin: names the breaker. token: raw. All borrowed for the call. timeout_ms: for all of
 * it, from now on, waiting for a connection included. Returns 0; -EAGAIN if the origin's breaker is open;
 * -EINVAL if the token has no place in a header; -ENOMEM. After 0 the callback comes exactly once unless the
 * request is cancelled, and never before this has returned. */
MUST_CHECK
int access_http_get(struct access_http *h, const char *url, const char *origin, const char *token,
                    size_t token_len, int64_t timeout_ms, access_http_cb *cb, void *user,
                    struct access_http_request **ret_request);
void access_http_cancel(struct access_http_request *r);

#endif
