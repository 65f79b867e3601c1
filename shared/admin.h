/* admin.h - the admin listener of a program: /livez, /readyz, /metrics.
 *
 * libmicrohttpd on the program's own libuv loop (its epoll descriptor is polled; no threads), so a
 * probe also proves that the loop turns. /livez: 200 "ok". /readyz: 200 or 503 with the report of
 * ready.h. /metrics: Prometheus text. Other paths 404, other methods than GET and HEAD 405. */
#ifndef EF_ADMIN_H
#define EF_ADMIN_H

#include "shared/metrics.h"
#include "shared/ready.h"

#include <uv.h>

struct admin;

/* Called before /metrics is rendered, to bring gauges up to date; may be NULL. */
typedef void admin_refresh_cb(void *user);

/* Where the answers come from, if not from a metrics and a ready object. */
struct admin_source {
    void (*metrics)(void *user, struct buf *out);
    /* The verdict, and the report as JSON (with no line break behind it). */
    bool (*ready)(void *user, struct buf *report);
};

/* listen: "address:port", IPv6 in brackets ("[::1]:9101"), no host names; port 0 lets the kernel choose; or
 * "pipe:3": a worker's descriptor to its supervisor, who asks on it instead (worker_pipe.h). All pointers are
 * borrowed until admin_close. Returns 0, -EINVAL for an address that is none, or a negative errno of bind
 * (-EADDRINUSE, ...). */
MUST_CHECK
int admin_start(uv_loop_t *loop, const char *listen, struct metrics *metrics, struct ready *ready,
                admin_refresh_cb *refresh, void *user, struct admin **ret_admin);
/* The same with another source, borrowed. */
MUST_CHECK
int admin_start_source(uv_loop_t *loop, const char *listen, const struct admin_source *source, void *user,
                       struct admin **ret_admin);
/* The port that it listens on; 0 in a worker. */
uint16_t admin_port(const struct admin *a);
/* Stops listening, cuts connections and frees everything; handles die in later turns of the loop. Not from
 * within the refresh callback. NULL is fine. */
void admin_close(struct admin *a);

/* What --health does: GET http://<listen>/readyz (a wildcard address is asked on loopback), at most 3 s.
 * Prints the body to stdout, or why there is none to stderr. Returns 0 if it answered 200, else 1. Blocking;
 * no loop needed. */
int admin_health(const char *listen);

#endif
