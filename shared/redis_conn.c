/* redis_conn.c - one TCP connection to Redis, on a uv_poll handle.
 *
 * Happy path: uv_getaddrinfo (skipped for an address) -> socket, connect -> writable without SO_ERROR ->
 * `connected` -> readable: recv in pieces of 64 kB, at most 256 kB a turn, so that a burst reaches the link
 * as one and other handles get their share.
 *
 * Failures:
 * - The name does not resolve, or not in time: `broken`.
 * - An address refuses, resets or swallows the SYN: the next one is tried; after the last one `broken`
 *   with that one's error.
 * - A connect to a port of our own machine where nobody listens may meet itself (TCP simultaneous open when
 *   the kernel picks that very port as the source): taken for what it is, a refused connection.
 * - EOF, reset, a failed write: what the peer had sent before is read first (Redis says why it refuses a
 *   client and closes), then `broken`.
 * `broken` always comes from a timer in a later turn, so it meets no other callback half-way.
 *
 * libuv answers POLLERR with UV_EBADF and stops the handle: the true error is read from the socket.
 *
 * hiredis's own asynchronous context is not used, nor its adapter: 0.14 loses failed connects, aborts the
 * process (assert) when UNSUBSCRIBE of the last channel crosses a SUBSCRIBE or when the peer sends a reply
 * that nobody asked for, and later versions still do so in some orders (redis/hiredis issues 490, 581,
 * 1039). The reader and the reply structs, which the link does use, are the same in 0.14 and 1.2. */
#include "shared/redis_conn.h"

#include "shared/clock.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* One recv, bytes. */
enum { READ_BYTES = 65536 };

/* Read in one turn, bytes: some 1 ms of work for the subscriber. */
enum { READ_TURN_BYTES = 262144 };

/* Written in one turn, bytes. */
enum { WRITE_TURN_BYTES = 1048576 };

/* An empty output buffer larger than this is given back, bytes. */
enum { OUT_KEEP_BYTES = 1048576 };

enum conn_phase { CONN_RESOLVING, CONN_CONNECTING, CONN_OPEN, CONN_FAILED, CONN_CLOSED };

/* A uv_poll_t belongs to one descriptor for its life, so each address gets a new one. */
struct conn_socket {
    uv_poll_t poll;
    struct redis_conn *conn; /* NULL: dropped, waits for its close callback */
    const struct addrinfo *address;
    int fd;
};

struct redis_conn {
    uv_loop_t *loop;
    const struct redis_conn_events *events;
    void *user;
    char host[256];
    int port;
    enum conn_phase phase;
    int64_t deadline_ms; /* monotonic; of resolving and connecting */
    uv_timer_t timer;    /* RESOLVING, CONNECTING: time is up; FAILED: tell it */
    uv_getaddrinfo_t lookup;
    bool looking_up;
    bool timer_closed;
    struct addrinfo *found;      /* of the look-up; NULL for an address */
    const struct addrinfo *next; /* to be tried next */
    struct addrinfo literal;
    struct sockaddr_storage literal_addr;
    struct conn_socket *socket;
    bool waits_writable;
    int error;
    char detail[400];
    struct buf out;
    size_t out_sent; /* bytes of `out` that the socket has taken */
    char in[READ_BYTES];
};

static void conn_try_next(struct redis_conn *c);

static void conn_free_if_done(struct redis_conn *c)
{
    if (c->phase != CONN_CLOSED || c->looking_up || !c->timer_closed)
        return;
    uv_freeaddrinfo(c->found);
    buf_done(&c->out);
    free(c);
}

static void on_socket_closed(uv_handle_t *handle)
{
    free(container_of(handle, struct conn_socket, poll));
}

static void conn_drop_socket(struct redis_conn *c)
{
    struct conn_socket *s = TAKE(c->socket);

    if (!s)
        return;
    s->conn = NULL;
    uv_close((uv_handle_t *)&s->poll, on_socket_closed);
    /* uv_close has taken the descriptor out of the poll set (libuv manual, uv_poll_t). */
    close(s->fd);
}

static void on_failed(uv_timer_t *timer)
{
    struct redis_conn *c = container_of(timer, struct redis_conn, timer);

    c->events->broken(c->user, c->error, c->detail);
}

PRINTF_LIKE(3, 4) static void conn_fail(struct redis_conn *c, int error, const char *format, ...)
{
    va_list args;

    conn_drop_socket(c);
    c->phase = CONN_FAILED;
    c->error = error;
    va_start(args, format);
    vsnprintf(c->detail, sizeof(c->detail), format, args);
    va_end(args);
    uv_timer_start(&c->timer, on_failed, 0, 0);
}

/* ---- an open connection ---- */

/* Until EOF, an error, a short read, or `budget` bytes. */
static void conn_read(struct redis_conn *c, size_t budget)
{
    size_t total = 0;

    while (c->phase == CONN_OPEN && total < budget) {
        ssize_t n = recv(c->socket->fd, c->in, sizeof(c->in), 0);

        if (n > 0) {
            total += (size_t)n;
            c->events->bytes(c->user, c->in, (size_t)n);
            if ((size_t)n < sizeof(c->in))
                return;
        } else if (n == 0) {
            conn_fail(c, -ECONNRESET, "Redis closed the connection");
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            int error = errno;

            conn_fail(c, -error, "read: %s", strerrordesc_np(error));
        }
    }
}

static void on_open_poll(uv_poll_t *poll, int status, int events);

static void conn_wait_writable(struct redis_conn *c, bool wait)
{
    if (c->waits_writable == wait)
        return;
    c->waits_writable = wait;
    uv_poll_start(&c->socket->poll, UV_READABLE | (wait ? UV_WRITABLE : 0), on_open_poll);
}

static void conn_out_sent(struct redis_conn *c, size_t n)
{
    c->out_sent += n;
    if (c->out_sent == c->out.len) {
        if (c->out.cap > OUT_KEEP_BYTES)
            buf_done(&c->out);
        else
            buf_reset(&c->out);
        c->out_sent = 0;
    } else if (c->out_sent >= OUT_KEEP_BYTES && c->out_sent >= c->out.len / 2) {
        memmove(c->out.data, c->out.data + c->out_sent, c->out.len - c->out_sent);
        c->out.len -= c->out_sent;
        c->out_sent = 0;
    }
}

static void conn_write(struct redis_conn *c)
{
    size_t left = c->out.len - c->out_sent;
    ssize_t n;

    if (left) {
        do {
            n = send(c->socket->fd, c->out.data + c->out_sent,
                     left < WRITE_TURN_BYTES ? left : WRITE_TURN_BYTES, MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        if (n >= 0) {
            conn_out_sent(c, (size_t)n);
        } else if (errno == EPIPE || errno == ECONNRESET) {
            /* What the peer said before it left may wait in the socket; reading it ends with the error. */
            conn_wait_writable(c, false);
            return;
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) {
            int error = errno;

            conn_fail(c, -error, "write: %s", strerrordesc_np(error));
            return;
        }
    }
    conn_wait_writable(c, c->out.len > 0);
}

static void on_open_poll(uv_poll_t *poll, int status, int events)
{
    struct redis_conn *c = container_of(poll, struct conn_socket, poll)->conn;

    if (!c)
        return;
    if (status < 0) {
        /* POLLERR, and libuv has stopped the handle: read what came before the error, then the error. */
        conn_read(c, SIZE_MAX);
        if (c->phase == CONN_OPEN)
            conn_fail(c, -ECONNRESET, "the connection broke");
        return;
    }
    if (events & UV_READABLE)
        conn_read(c, READ_TURN_BYTES);
    if (c->phase == CONN_OPEN && (events & UV_WRITABLE))
        conn_write(c);
}

/* ---- connecting ---- */

static void address_text(const struct sockaddr *addr, socklen_t len, char out[64])
{
    if (getnameinfo(addr, len, out, 64, NULL, 0, NI_NUMERICHOST) != 0)
        strcpy(out, "?");
}

static bool socket_met_itself(int fd)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_len = sizeof(here), there_len = sizeof(there);

    return getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 && here_len == there_len &&
           memcmp(&here, &there, here_len) == 0;
}

/* Remember why this address was of no use, in case it is the last one. */
static void conn_note_error(struct redis_conn *c, const struct addrinfo *address, int error)
{
    char text[64];

    address_text(address->ai_addr, address->ai_addrlen, text);
    c->error = -error;
    snprintf(c->detail, sizeof(c->detail), "connect to %s:%d (%s): %s", c->host, c->port, text,
             strerrordesc_np(error));
}

static void on_connect_poll(uv_poll_t *poll, int status, int events)
{
    struct conn_socket *s = container_of(poll, struct conn_socket, poll);
    struct redis_conn *c = s->conn;
    socklen_t len = sizeof(int);
    int error = 0;

    (void)events;
    if (!c)
        return;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (!error && status < 0)
        error = ECONNRESET;
    if (!error && socket_met_itself(s->fd))
        error = ECONNREFUSED;
    if (error) {
        conn_note_error(c, s->address, error);
        conn_drop_socket(c);
        conn_try_next(c);
        return;
    }
    uv_timer_stop(&c->timer);
    c->phase = CONN_OPEN;
    uv_poll_start(&s->poll, UV_READABLE, on_open_poll);
    c->events->connected(c->user);
}

/* Begin to connect to one address. Returns 0 or a negative errno. */
static int conn_dial(struct redis_conn *c, const struct addrinfo *address)
{
    struct conn_socket *s = NULL;
    int on = 1, r;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    /* Neither is worth failing for: the first is for latency, the second ends half-dead idle connections. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0 && errno != EINPROGRESS && errno != EINTR) {
        r = -errno;
        goto fail;
    }
    s = calloc(1, sizeof(*s));
    if (!s) {
        r = -ENOMEM;
        goto fail;
    }
    r = uv_poll_init(c->loop, &s->poll, fd);
    if (r < 0)
        goto fail;
    s->fd = fd;
    s->conn = c;
    s->address = address;
    c->socket = s;
    c->waits_writable = false;
    uv_poll_start(&s->poll, UV_WRITABLE, on_connect_poll);
    return 0;

fail:
    free(s);
    close(fd);
    return r;
}

static void on_connect_timeout(uv_timer_t *timer)
{
    struct redis_conn *c = container_of(timer, struct redis_conn, timer);

    conn_note_error(c, c->socket->address, ETIMEDOUT);
    conn_drop_socket(c);
    conn_try_next(c);
}

static uint64_t conn_share_of_time_ms(const struct redis_conn *c)
{
    int64_t left = c->deadline_ms - clock_mono_ms();
    int64_t addresses = 1;

    for (const struct addrinfo *a = c->next; a; a = a->ai_next)
        addresses++;
    return left > 0 ? (uint64_t)(left / addresses) : 0;
}

static void conn_try_next(struct redis_conn *c)
{
    while (c->next && clock_mono_ms() < c->deadline_ms) {
        const struct addrinfo *address = c->next;
        int r;

        c->next = address->ai_next;
        r = conn_dial(c, address);
        if (r == 0) {
            c->phase = CONN_CONNECTING;
            uv_timer_start(&c->timer, on_connect_timeout, conn_share_of_time_ms(c), 0);
            return;
        }
        conn_note_error(c, address, -r);
    }
    if (!c->error) {
        conn_fail(c, -ETIMEDOUT, "resolve %s: the answer came too late to connect", c->host);
        return;
    }
    c->phase = CONN_FAILED;
    uv_timer_start(&c->timer, on_failed, 0, 0);
}

/* ---- resolving ---- */

static void on_lookup(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
    struct redis_conn *c = container_of(lookup, struct redis_conn, lookup);

    c->looking_up = false;
    c->found = found;
    if (c->phase == CONN_CLOSED) {
        conn_free_if_done(c);
        return;
    }
    if (c->phase != CONN_RESOLVING)
        return; /* Too late: the failure is on its way. */
    if (status < 0 || !found) {
        conn_fail(c, -EHOSTUNREACH, "resolve %s: %s", c->host,
                  status < 0 ? uv_strerror(status) : "no address");
        return;
    }
    c->next = found;
    conn_try_next(c);
}

static void on_lookup_timeout(uv_timer_t *timer)
{
    struct redis_conn *c = container_of(timer, struct redis_conn, timer);

    conn_fail(c, -ETIMEDOUT, "resolve %s: no answer in time", c->host);
}

/* An address needs no look-up, and so no thread of libuv's pool. */
static bool conn_host_is_address(struct redis_conn *c)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&c->literal_addr;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&c->literal_addr;

    if (uv_ip4_addr(c->host, c->port, in) == 0)
        c->literal.ai_addrlen = sizeof(*in);
    else if (uv_ip6_addr(c->host, c->port, in6) == 0)
        c->literal.ai_addrlen = sizeof(*in6);
    else
        return false;
    c->literal.ai_family = c->literal_addr.ss_family;
    c->literal.ai_addr = (struct sockaddr *)&c->literal_addr;
    return true;
}

static void conn_resolve(struct redis_conn *c, int timeout_ms)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char service[8];
    int r;

    snprintf(service, sizeof(service), "%d", c->port);
    r = uv_getaddrinfo(c->loop, &c->lookup, on_lookup, c->host, service, &hints);
    if (r < 0) {
        conn_fail(c, r, "resolve %s: %s", c->host, uv_strerror(r));
        return;
    }
    c->looking_up = true;
    uv_timer_start(&c->timer, on_lookup_timeout, (uint64_t)timeout_ms, 0);
}

struct redis_conn *redis_conn_open(uv_loop_t *loop, const char *host, int port, int timeout_ms,
                                   const struct redis_conn_events *events, void *user)
{
    struct redis_conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    assert(strlen(host) < sizeof(c->host));
    c->loop = loop;
    c->events = events;
    c->user = user;
    c->port = port;
    strcpy(c->host, host);
    c->deadline_ms = clock_mono_ms() + timeout_ms;
    uv_timer_init(loop, &c->timer);
    /* The timers below count from now, not from the turn's beginning. */
    uv_update_time(loop);
    if (conn_host_is_address(c)) {
        c->next = &c->literal;
        conn_try_next(c);
    } else {
        conn_resolve(c, timeout_ms);
    }
    return c;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct redis_conn *c = container_of(handle, struct redis_conn, timer);

    c->timer_closed = true;
    conn_free_if_done(c);
}

void redis_conn_close(struct redis_conn *c)
{
    if (!c || c->phase == CONN_CLOSED)
        return;
    c->phase = CONN_CLOSED;
    conn_drop_socket(c);
    if (c->looking_up)
        (void)uv_cancel((uv_req_t *)&c->lookup); /* It works for one that still waits for a thread. */
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}

struct buf *redis_conn_out(struct redis_conn *c)
{
    return &c->out;
}

void redis_conn_flush(struct redis_conn *c)
{
    if (c->phase == CONN_OPEN && !c->waits_writable)
        conn_write(c);
}

size_t redis_conn_unsent(const struct redis_conn *c)
{
    return c->out.len - c->out_sent;
}
