/* listener.c - from accept() to a parsed request head; the story is in the header.
 *
 * TCP_DEFER_ACCEPT makes the kernel hold a connection back until its first bytes are there, so in the common
 * case the whole head is read right after accept(), and no handle is made for it. */
#include "gateway/listener.h"

#include "shared/clock.h"
#include "shared/log.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ACCEPTS_PER_TURN = 64, BACKLOG = 4096, PAUSE_MS = 100, DEFER_S = 5 };
/* Room for what a connection without a head has sent: grows by doubling, to a head behind a PROXY header and
 * a little of what follows it. */
enum { READ_STEP = 4096, READ_MAX = HTTP_HEAD_MAX + READ_STEP };
/* The kernel gives up a connection whose sent bytes stay unacknowledged for so long (tcp(7)). */
enum { USER_TIMEOUT_MS = 60000 };

struct pending {
    uv_poll_t poll;
    struct listener *listener;
    struct pending *older, *newer;
    struct address address; /* the peer's */
    int64_t deadline_ms;
    int fd;
    bool refused; /* and answered: waits for the peer's end */
    size_t len, cap;
    char *bytes;
};

struct listener {
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t timer;
    struct config *config;
    listener_cb *greeted;
    void *user;
    int64_t (*mono_ms)(void);
    struct pending *oldest, *newest;
    size_t pending;
    struct listener_counts counts;
    int fd;
    int handles;
    int64_t resume_ms; /* accepting pauses until then; 0: it does not */
    bool closing;
};

/* --- answers to what is no request --- */

static void answer(int fd, int status)
{
    const char *reason = status == 431   ? "Request Header Fields Too Large"
                         : status == 408 ? "Request Timeout"
                         : status == 505 ? "HTTP Version Not Supported"
                                         : "Bad Request";
    char text[200];
    int n = snprintf(text, sizeof(text), "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                     status, reason);

    /* The socket's buffer is empty, so this goes out whole; a peer that is gone needs no answer. */
    (void)!send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* --- connections without a head --- */

static void on_pending_closed(uv_handle_t *handle)
{
    struct pending *p = handle->data;

    free(p->bytes);
    free(p);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct listener *l = handle->data;

    if (--l->handles > 0)
        return;
    config_unref(l->config);
    free(l);
}

static void list_remove(struct pending *p)
{
    struct listener *l = p->listener;

    *(p->older ? &p->older->newer : &l->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &l->newest) = p->older;
    l->pending--;
}

static void list_add(struct pending *p)
{
    struct listener *l = p->listener;

    p->deadline_ms = l->mono_ms() + HEAD_TIMEOUT_MS;
    p->older = l->newest;
    p->newer = NULL;
    *(l->newest ? &l->newest->newer : &l->oldest) = p;
    l->newest = p;
    l->pending++;
}

/* The descriptor stays open. */
static void pending_remove(struct pending *p)
{
    list_remove(p);
    uv_close((uv_handle_t *)&p->poll, on_pending_closed);
}

static void pending_close(struct pending *p)
{
    int fd = p->fd;

    pending_remove(p);
    close(fd);
}

/* Time, or its place, is up. */
static void pending_expire(struct pending *p)
{
    if (!p->refused)
        answer(p->fd, 408);
    pending_close(p);
}

/* Answer, and read what is still coming until the peer ends too: bytes that nobody reads make the kernel
 * reset the connection, and the answer is lost with it. */
static void pending_refuse(struct pending *p, int status)
{
    p->listener->counts.malformed++;
    answer(p->fd, status);
    (void)shutdown(p->fd, SHUT_WR); /* fails if the peer has gone, which the next read tells */
    p->refused = true;
    list_remove(p);
    list_add(p);
}

/* What the bytes so far amount to. */
enum progress { PROGRESS_MORE, PROGRESS_DONE, PROGRESS_REFUSE };

/* Look for a whole head behind an optional PROXY header. */
static enum progress examine(struct listener *l, const char *bytes, size_t len, struct greeting *g,
                             int *ret_status)
{
    const struct config_cidr *trusted = l->config->gateway.trusted_proxies;
    size_t trusted_count = l->config->gateway.trusted_proxy_count, head_len;
    bool broken = false;
    long skip = 0;

    *ret_status = 400;
    if (len && address_in(&g->address, trusted, trusted_count)) {
        skip = address_proxy_header(bytes, len, &g->address, &broken);
        if (broken)
            return PROGRESS_REFUSE;
        if (skip == 0)
            return PROGRESS_MORE;
        if (skip < 0)
            skip = 0;
    }
    head_len = http_head_len(bytes + skip, len - (size_t)skip);
    if ((head_len ? head_len : len - (size_t)skip) > HTTP_HEAD_MAX) {
        *ret_status = 431;
        return PROGRESS_REFUSE;
    }
    if (head_len == 0)
        return PROGRESS_MORE;
    *ret_status = http_head_parse(bytes + skip, head_len, &g->head);
    if (*ret_status != 0)
        return PROGRESS_REFUSE;
    g->rest = bytes + skip + head_len;
    g->rest_len = len - (size_t)skip - head_len;
    g->address = address_forwarded(&g->address, &g->head, trusted, trusted_count);
    return PROGRESS_DONE;
}

/* Read what is there. Returns the bytes read, 0 for the end or an error, -1 for none yet. Not with READ_MAX
 * bytes there already: that much is a head, or refused. */
static ssize_t read_some(int fd, char **bytes, size_t *len, size_t *cap)
{
    ssize_t n;

    if (*cap - *len < READ_STEP && *cap < READ_MAX) {
        size_t bigger = *cap == 0 ? READ_STEP : *cap < READ_MAX / 2 ? *cap * 2 : READ_MAX;
        char *grown = realloc(*bytes, bigger);

        if (!grown)
            return 0;
        *bytes = grown;
        *cap = bigger;
    }
    do
        n = recv(fd, *bytes + *len, *cap - *len, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? -1 : 0;
    *len += (size_t)n;
    return n;
}

static void pending_discard(struct pending *p)
{
    ssize_t n = recv(p->fd, p->bytes, p->cap, 0);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        pending_close(p);
}

static void pending_progress(struct pending *p)
{
    struct listener *l = p->listener;
    struct greeting g = {.fd = p->fd, .address = p->address};
    int status;
    ssize_t n = read_some(p->fd, &p->bytes, &p->len, &p->cap);

    if (n < 0)
        return;
    if (n == 0) {
        pending_close(p);
        return;
    }
    switch (examine(l, p->bytes, p->len, &g, &status)) {
    case PROGRESS_MORE:
        break;
    case PROGRESS_REFUSE:
        pending_refuse(p, status);
        break;
    case PROGRESS_DONE:
        /* The handle lets go of the descriptor before another poller takes it; the bytes live until the
         * handle's close callback, so through this call. */
        pending_remove(p);
        l->greeted(l->user, &g);
        break;
    }
}

static void on_pending_poll(uv_poll_t *poll, int status, int events)
{
    struct pending *p = poll->data;

    (void)events;
    if (status < 0)
        pending_close(p);
    else if (p->refused)
        pending_discard(p);
    else
        pending_progress(p);
}

static void sweep(struct listener *l)
{
    int64_t now = l->mono_ms();

    while (l->oldest && now >= l->oldest->deadline_ms) {
        l->counts.timeouts += !l->oldest->refused;
        pending_expire(l->oldest);
    }
}

/* Keep the connection among those without a head. Takes fd and bytes. NULL: no memory; it is closed. */
static struct pending *pending_new(struct listener *l, int fd, const struct address *address, char *bytes,
                                   size_t len, size_t cap)
{
    struct pending *p = calloc(1, sizeof(*p));

    if (!p || uv_poll_init(l->loop, &p->poll, fd) < 0) {
        free(p);
        free(bytes);
        close(fd);
        return NULL;
    }
    if (l->pending >= GREETINGS_MAX) {
        l->counts.evicted++;
        pending_expire(l->oldest);
    }
    p->poll.data = p;
    p->listener = l;
    p->fd = fd;
    p->address = *address;
    p->bytes = bytes;
    p->len = len;
    p->cap = cap;
    list_add(p);
    uv_poll_start(&p->poll, UV_READABLE, on_pending_poll);
    return p;
}

/* --- accepting --- */

static void socket_options(int fd)
{
    int on = 1, timeout_ms = USER_TIMEOUT_MS;

    /* None of these can fail in a way that matters to the connection. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

static void greet(struct listener *l, int fd, const struct address *address)
{
    struct greeting g = {.fd = fd, .address = *address};
    char *bytes = NULL;
    size_t len = 0, cap = 0;
    ssize_t n = read_some(fd, &bytes, &len, &cap);
    struct pending *p;
    int status;

    if (n == 0) {
        close(fd);
        free(bytes);
        return;
    }
    switch (examine(l, bytes, len, &g, &status)) {
    case PROGRESS_MORE:
        (void)pending_new(l, fd, address, bytes, len, cap);
        break;
    case PROGRESS_REFUSE:
        p = pending_new(l, fd, address, bytes, len, cap);
        if (p)
            pending_refuse(p, status);
        break;
    case PROGRESS_DONE:
        l->greeted(l->user, &g);
        free(bytes);
        break;
    }
}

static void pause_accepting(struct listener *l, int error)
{
    l->counts.exhausted++;
    l->resume_ms = l->mono_ms() + PAUSE_MS;
    uv_poll_stop(&l->poll);
    if (l->counts.exhausted % 100 == 1)
        log_error("ACCEPT-EXHAUSTED", "cannot accept; new connections wait, retrying",
                  LF_STR("error", strerror(error)), LF_INT("retry_ms", PAUSE_MS));
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    struct listener *l = poll->data;

    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN && !l->closing; i++) {
        struct sockaddr_storage sa;
        socklen_t sa_len = sizeof(sa);
        struct address address = {{0}};
        int fd = accept4(l->fd, (struct sockaddr *)&sa, &sa_len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            pause_accepting(l, errno);
        if (fd < 0)
            return;
        l->counts.accepted++;
        socket_options(fd);
        (void)address_from_sockaddr((struct sockaddr *)&sa, &address);
        greet(l, fd, &address);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct listener *l = timer->data;

    sweep(l);
    if (l->resume_ms && l->mono_ms() >= l->resume_ms) {
        l->resume_ms = 0;
        uv_poll_start(&l->poll, UV_READABLE, on_acceptable);
    }
}

/* Split "host:port" or "[v6]:port"; both parts are numeric or names known to the resolver's files. */
static int resolve(const char *listen_text, struct addrinfo **ret)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    const char *colon = strrchr(listen_text, ':');
    char host[128];
    size_t n = colon ? (size_t)(colon - listen_text) : 0;

    if (n == 0 || n >= sizeof(host) || !colon[1])
        return -EINVAL;
    memcpy(host, listen_text, n);
    host[n] = '\0';
    if (host[0] == '[' && host[n - 1] == ']') {
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
    }
    if (strcmp(host, "localhost") == 0)
        snprintf(host, sizeof(host), "127.0.0.1");
    return getaddrinfo(host, colon + 1, &hints, ret) == 0 ? 0 : -EINVAL;
}

static int open_socket(const char *listen_text, bool shared_port, int *ret_fd)
{
    struct addrinfo *ai = NULL;
    int on = 1, defer = DEFER_S, fd, r = resolve(listen_text, &ai);

    if (r < 0)
        return r;
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        (shared_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0) ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        r = -errno;
        if (fd >= 0)
            close(fd);
    } else {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof(defer));
        *ret_fd = fd;
    }
    freeaddrinfo(ai);
    return r;
}

int listener_start(uv_loop_t *loop, const char *listen, struct config *config, listener_cb *greeted,
                   void *user, struct listener **ret_listener)
{
    struct listener *l = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return -ENOMEM;
    r = open_socket(listen, config->gateway.workers > 1, &l->fd);
    if (r < 0) {
        free(l);
        return r;
    }
    l->loop = loop;
    l->config = config_ref(config);
    l->greeted = greeted;
    l->user = user;
    l->mono_ms = clock_mono_ms;
    l->handles = 2;
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    uv_timer_start(&l->timer, on_timer, PAUSE_MS, PAUSE_MS);
    r = uv_poll_init(loop, &l->poll, l->fd);
    assert(r == 0); /* a fresh listening socket can be polled */
    l->poll.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_acceptable);
    *ret_listener = l;
    return 0;
}

void listener_reload(struct listener *l, struct config *config)
{
    config_ref(config);
    config_unref(l->config);
    l->config = config;
}

void listener_set_clock(struct listener *l, int64_t (*mono_ms)(void))
{
    l->mono_ms = mono_ms;
}

struct listener_counts listener_counts(const struct listener *l)
{
    return l->counts;
}

void listener_close(struct listener *l)
{
    if (!l)
        return;
    l->closing = true;
    while (l->oldest)
        pending_close(l->oldest);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
    uv_close((uv_handle_t *)&l->poll, on_handle_closed);
    close(l->fd);
}
