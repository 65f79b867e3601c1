/* redis_conn.h - one TCP connection attempt to Redis on the loop: resolve, connect, bytes in, bytes out.
 * Inside redis_link only; it knows nothing of the protocol. A connection is used once: when it fails, the
 * link closes it and opens another. */
#ifndef EF_REDIS_CONN_H
#define EF_REDIS_CONN_H

#include "shared/buf.h"
#include "shared/util.h"

#include <uv.h>

struct redis_conn;

/* None is called before redis_conn_open has returned, none after redis_conn_close. */
struct redis_conn_events {
    /* Once, when the peer has accepted. */
    void (*connected)(void *user);
    /* Borrowed bytes, in order, never 0 of them. */
    void (*bytes)(void *user, const char *data, size_t len);
    /* Once, and the last one: no address could be reached in time, or the connection ended. error: a
     * negative errno; detail: one line (borrowed). The owner still calls redis_conn_close. */
    void (*broken)(void *user, int error, const char *detail);
};

/* Begin to resolve `host` (a name or an address; copied) and to connect, trying its addresses in order.
 * timeout_ms covers both; each address gets an equal share of what is left of it, so that one that
 * swallows packets does not keep us from the next. NULL: out of memory. */
MUST_CHECK
struct redis_conn *redis_conn_open(uv_loop_t *loop, const char *host, int port, int timeout_ms,
                                   const struct redis_conn_events *events, void *user);
/* End it without a word. Safe inside its callbacks; NULL is accepted. The memory goes by itself in a later
 * turn: after a look-up that is under way, which cannot be stopped, when there is one. */
void redis_conn_close(struct redis_conn *c);

/* Append what is to be sent to this buffer (its owner resets `failed`), then call redis_conn_flush: it
 * writes what the socket takes (at most 1 MiB a turn) and sends the rest when the socket is ready. It calls
 * no callback. */
struct buf *redis_conn_out(struct redis_conn *c);
void redis_conn_flush(struct redis_conn *c);
/* Bytes appended and not yet taken by the socket. */
size_t redis_conn_unsent(const struct redis_conn *c);

#endif
