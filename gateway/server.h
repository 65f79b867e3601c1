/* server.h - HTTP and WebSocket: what a connection asks for, and libwebsockets underneath.
 *
 *   listener: head --> decide: an answer (health, CORS, errors) or a session
 *                         |
 *                         '--> the connection goes to libwebsockets with a request of our own making, which
 * either upgrades (the session is attached) or gets the answer and is closed
 *
 * One request is served per connection that is not upgraded. Loop thread only. */
#ifndef EF_SERVER_H
#define EF_SERVER_H

#include "gateway/listener.h"
#include "gateway/session.h"

struct server;

struct server_deps {
    uv_loop_t *loop;
    struct config *config; /* a reference is taken */
    struct metrics *metrics;
    struct feed *feed; /* borrowed */
};

/* Make the libwebsockets context. Returns 0, or -ENOMEM, -ENOSYS (the libuv plugin of libwebsockets is
 * missing). */
MUST_CHECK int server_new(const struct server_deps *deps, struct server **ret_server);
/* The transport for sessions_new. */
struct session_transport server_transport(void);
/* Accept connections for these sessions. keys: taken; the sessions see them too. Returns 0 or a negative
 * errno (see listener_start). */
MUST_CHECK int server_start(struct server *s, struct sessions *sessions, struct token_keys *keys);
/* New limits, origins, keys (taken; the sessions see them too). */
void server_reload(struct server *s, struct config *config, struct token_keys *keys);
/* From now on upgrades are answered 503; /health says so. */
void server_drain(struct server *s);
void server_refresh_metrics(struct server *s);
/* Stop listening and cut all connections; their sessions are detached from inside. Handles die in later
 * turns. */
void server_close(struct server *s);
/* After server_close, when the loop has run dry. NULL is fine. */
void server_free(struct server *s);

#endif
