/* http_listener.c - HTTP over libmicrohttpd, on the program's own loop.
 *
 *   client -> listening socket -> libmicrohttpd's epoll descriptor -> uv_poll -> MHD_run -> on_access
 *                                                    uv_timer (MHD_get_timeout) --'
 *
 * libmicrohttpd runs without threads: its epoll descriptor becomes readable whenever one of its sockets has
 * work, and MHD_get_timeout says when it wants to run without that. We bind the socket ourselves, because
 * MHD_start_daemon says only that it failed, not why. A request that is not answered at once is suspended;
 * libmicrohttpd then forgets its socket, so a client that leaves is noticed when the answer is there.
 *
 * Failures:
 * - Too many connections or silent ones: the kernel's backlog keeps new ones until old ones have gone.
 * - Two lengths, a length beside chunks, another coding than chunks: handed over as refused (400) at the
 * headers, and the connection ends, so that nobody has to agree where the body ends. libmicrohttpd would let
 * it pass.
 * - A body over the limit: refused (413) at the headers where its length is announced. In chunks it is read
 * and thrown away up to DRAIN_MAX, because libmicrohttpd takes no answer in the middle; beyond, the
 * connection is cut.
 * - No memory: the connection is closed without an answer.
 * - http_listener_close: connections are cut. The two libuv handles and our memory go in a later turn. */
#include "shared/http_listener.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

/* What is read of a chunked body that is over the limit before the connection is cut, bytes. */
enum { DRAIN_MAX = 4 * 1024 * 1024 };
/* Request line and headers, bytes: a token of 16 kB, and a query. */
enum { HEAD_MAX = 64 * 1024 };

struct http_request {
    LIST_ENTRY(http_request) link;
    struct http_listener *listener;
    struct MHD_Connection *connection; /* NULL: gone */
    struct MHD_Response *response;
    char *path; /* the query behind it, cut off */
    char *query;
    const char *method;
    struct buf body;
    unsigned status, refusal;
    bool seen, held, inside, suspended, answered;
};

struct http_listener {
    struct MHD_Daemon *daemon;
    http_request_cb *on_request;
    void *user;
    size_t body_max;
    uint16_t port;
    bool running; /* inside MHD_run, where http_listener_close would saw off its own branch */
    int open_handles;
    LIST_HEAD(, http_request) requests;
    uv_poll_t poll;
    uv_timer_t timer;
};

/* ---- Addresses ---- */

/* "1.2.3.4:80" or "[::1]:80". Returns 0, or -EINVAL. */
static int parse_listen(const char *listen, struct sockaddr_storage *ret_address)
{
    const char *colon = strrchr(listen, ':');
    char host[64];
    size_t len;
    char *end;
    long port;

    if (!colon || colon[1] < '0' || colon[1] > '9')
        return -EINVAL;
    port = strtol(colon + 1, &end, 10);
    if (*end || port > 65535)
        return -EINVAL;
    len = (size_t)(colon - listen);
    if (len == 0 || len >= sizeof(host))
        return -EINVAL;
    memset(ret_address, 0, sizeof(*ret_address));
    if (listen[0] == '[') {
        if (len < 3 || listen[len - 1] != ']')
            return -EINVAL;
        memcpy(host, listen + 1, len - 2);
        host[len - 2] = '\0';
        return uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)ret_address) ? -EINVAL : 0;
    }
    memcpy(host, listen, len);
    host[len] = '\0';
    return uv_ip4_addr(host, (int)port, (struct sockaddr_in *)ret_address) ? -EINVAL : 0;
}

static socklen_t address_length(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static uint16_t address_port(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

int http_listen_url(const char *listen, char *url, size_t size)
{
    struct sockaddr_storage address;
    char host[INET6_ADDRSTRLEN];
    int r = parse_listen(listen, &address);

    if (r < 0)
        return r;
    if (address.ss_family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;

        if (IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr))
            in6->sin6_addr = in6addr_loopback;
        uv_ip6_name(in6, host, sizeof(host));
        snprintf(url, size, "http://[%s]:%d", host, address_port(&address));
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&address;

        if (in->sin_addr.s_addr == htonl(INADDR_ANY))
            in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        uv_ip4_name(in, host, sizeof(host));
        snprintf(url, size, "http://%s:%d", host, address_port(&address));
    }
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* A listening socket, and the port that it got (asked for 0, the kernel chooses). */
static int listen_on(const struct sockaddr_storage *address, int backlog, uint16_t *ret_port, int *ret_fd)
{
    CLEANUP(close_fd) int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    int one = 1;

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)address, address_length(address)) != 0)
        return -errno;
    if (listen(fd, backlog) != 0 || getsockname(fd, (struct sockaddr *)&bound, &len) != 0)
        return -errno;
    *ret_port = address_port(&bound);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* ---- A request ---- */

static void request_free(struct http_request *r)
{
    if (r->listener)
        LIST_REMOVE(r, link);
    if (r->response)
        MHD_destroy_response(r->response); /* drops our reference; the connection has its own */
    buf_done(&r->body);
    free(r->path);
    free(r);
}

/* The first that libmicrohttpd tells of a request, and the only place where it shows the URI as it came. */
static void *on_uri(void *user, const char *uri, struct MHD_Connection *connection)
{
    struct http_listener *l = user;
    struct http_request *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->path = strdup(uri);
    if (!r->path) {
        free(r);
        return NULL;
    }
    r->query = strchr(r->path, '?');
    if (r->query)
        *r->query++ = '\0';
    r->listener = l;
    r->connection = connection;
    LIST_INSERT_HEAD(&l->requests, r, link);
    return r;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **connection_user,
                         enum MHD_RequestTerminationCode why)
{
    struct http_request *r = *connection_user;

    (void)user;
    (void)connection;
    (void)why;
    *connection_user = NULL;
    if (!r)
        return;
    r->connection = NULL;
    if (!r->held)
        request_free(r);
}

struct header_count {
    const char *name;
    unsigned count;
};

static enum MHD_Result count_header(void *user, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct header_count *c = user;

    (void)kind;
    (void)value;
    if (strcasecmp(name, c->name) == 0)
        c->count++;
    return MHD_YES;
}

static unsigned header_count(struct MHD_Connection *connection, const char *name)
{
    struct header_count c = {name, 0};

    MHD_get_connection_values(connection, MHD_HEADER_KIND, count_header, &c);
    return c.count;
}

bool http_request_has_one(const struct http_request *r, const char *name)
{
    return r->connection && header_count(r->connection, name) == 1;
}

const char *http_request_header(const struct http_request *r, const char *name)
{
    return r->connection ? MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name) : NULL;
}

const char *http_request_method(const struct http_request *r)
{
    return r->method;
}

const char *http_request_path(const struct http_request *r)
{
    return r->path;
}

const char *http_request_query(const struct http_request *r)
{
    return r->query;
}

const char *http_request_body(const struct http_request *r, size_t *ret_len)
{
    *ret_len = r->body.len;
    return r->body.data ? r->body.data : "";
}

unsigned http_request_refusal(const struct http_request *r)
{
    return r->refusal;
}

static bool has_body(struct MHD_Connection *connection)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH) ||
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING);
}

/* 0, 400 or 413 (RFC 9112, 6.3). */
static unsigned judge_head(struct http_request *r)
{
    unsigned lengths = header_count(r->connection, MHD_HTTP_HEADER_CONTENT_LENGTH);
    unsigned codings = header_count(r->connection, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    const char *length = http_request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *coding = http_request_header(r, MHD_HTTP_HEADER_TRANSFER_ENCODING);

    if (lengths + codings > 1 || (coding && strcasecmp(coding, "chunked") != 0))
        return MHD_HTTP_BAD_REQUEST;
    if (!length)
        return 0;
    if (!*length || strspn(length, "0123456789") != strlen(length))
        return MHD_HTTP_BAD_REQUEST;
    return strlen(length) > 18 || strtoull(length, NULL, 10) > r->listener->body_max ? 413 : 0;
}

static enum MHD_Result queue(struct http_request *r)
{
    if (!r->response)
        return MHD_NO;
    return MHD_queue_response(r->connection, r->status, r->response);
}

/* Hand it over; suspend it if there is no answer yet. */
static enum MHD_Result deliver(struct http_request *r)
{
    struct http_listener *l = r->listener;

    r->held = r->inside = true;
    l->on_request(l->user, r);
    r->inside = false;
    if (r->answered)
        return queue(r);
    r->suspended = true;
    MHD_suspend_connection(r->connection);
    return MHD_YES;
}

/* The first call has the headers only, and an answer given then ends the connection: right for a body that is
 * not read. */
static enum MHD_Result on_head(struct http_request *r)
{
    r->seen = true;
    if (!has_body(r->connection))
        return MHD_YES; /* answered at the second call, it may be followed by more requests */
    if (r->listener->body_max == 0)
        return deliver(r);
    r->refusal = judge_head(r);
    return r->refusal ? deliver(r) : MHD_YES;
}

static enum MHD_Result on_upload(struct http_request *r, const char *bytes, size_t *len)
{
    size_t n = *len;

    *len = 0;
    if (r->refusal || r->body.len + n > r->listener->body_max) {
        r->refusal = 413;
        r->body.len += n; /* counted, not kept */
        return r->body.len > r->listener->body_max + DRAIN_MAX ? MHD_NO : MHD_YES;
    }
    buf_add(&r->body, bytes, n);
    return buf_status(&r->body) < 0 ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_access(void *user, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_len, void **connection_user)
{
    struct http_request *r = *connection_user;

    (void)user;
    (void)url;
    (void)version;
    if (!r)
        return MHD_NO;
    assert(r->connection == connection);
    r->method = method;
    if (r->answered)
        return queue(r); /* it was suspended */
    if (!r->seen)
        return on_head(r);
    if (*upload_len)
        return on_upload(r, upload, upload_len);
    if (r->refusal)
        r->body.len = 0;
    return deliver(r);
}

static struct MHD_Response *response_new(struct http_request *r, const char *type, struct buf *body,
                                         const struct http_header *headers, size_t count)
{
    size_t len = body ? body->len : 0;
    char *text = NULL;
    struct MHD_Response *response;
    bool complete = true;

    if (body && len) {
        text = buf_take(body);
        if (!text)
            return NULL;
    } else if (body) {
        buf_done(body);
    }
    response = MHD_create_response_from_buffer(len, text ? text : (char *)(uintptr_t) "",
                                               text ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response) {
        free(text);
        return NULL;
    }
    if (type)
        complete = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES;
    for (size_t i = 0; i < count; i++)
        complete =
            complete && MHD_add_response_header(response, headers[i].name, headers[i].value) == MHD_YES;
    if (r->refusal || (r->listener->body_max == 0 && has_body(r->connection)))
        complete =
            complete && MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
    if (!complete) {
        MHD_destroy_response(response);
        return NULL;
    }
    return response;
}

void http_request_answer(struct http_request *r, unsigned status, const char *type, struct buf *body,
                         const struct http_header *headers, size_t header_count_)
{
    assert(r->held && !r->answered);
    r->held = false;
    r->answered = true;
    r->status = status;
    if (!r->connection || !r->listener) {
        if (body)
            buf_done(body);
        request_free(r);
        return;
    }
    r->response = response_new(r, type, body, headers, header_count_);
    if (r->suspended)
        MHD_resume_connection(r->connection); /* comes back to on_access */
}

/* ---- The loop ---- */

static void on_timer(uv_timer_t *timer);

static void run(struct http_listener *l)
{
    unsigned long long timeout_ms;

    l->running = true;
    (void)MHD_run(l->daemon); /* fails only for a daemon that has threads of its own */
    l->running = false;
    if (MHD_get_timeout(l->daemon, &timeout_ms) == MHD_YES)
        uv_timer_start(&l->timer, on_timer, timeout_ms, 0);
    else
        uv_timer_stop(&l->timer);
}

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

/* status: an error of the descriptor; MHD_run meets it as well and deals with it. */
static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    run(poll->data);
}

static void on_closed(uv_handle_t *handle)
{
    struct http_listener *l = handle->data;

    assert(l->open_handles > 0);
    if (--l->open_handles == 0)
        free(l);
}

static int start_daemon(struct http_listener *l, const struct http_listener_conf *conf, int fd)
{
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_access, l, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, conf->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, conf->idle_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEAD_MAX, MHD_OPTION_URI_LOG_CALLBACK, on_uri, l,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, l, MHD_OPTION_END);
    /* It may also lack descriptors for its epoll, but keeps the reason to itself. */
    return l->daemon ? 0 : -ENOMEM;
}

int http_listener_start(uv_loop_t *loop, const struct http_listener_conf *conf, http_request_cb *on_request,
                        void *user, struct http_listener **ret_listener)
{
    CLEANUP(freep) struct http_listener *l = NULL;
    CLEANUP(close_fd) int fd = -1;
    const union MHD_DaemonInfo *info;
    struct sockaddr_storage address;
    int r;

    r = parse_listen(conf->listen, &address);
    if (r < 0)
        return r;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->on_request = on_request;
    l->user = user;
    l->body_max = conf->body_max;
    r = listen_on(&address, (int)conf->connections_max, &l->port, &fd);
    if (r < 0)
        return r;
    r = start_daemon(l, conf, fd);
    if (r < 0)
        return r;
    fd = -1; /* the daemon closes it */

    info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    assert(info); /* given for every daemon with MHD_USE_EPOLL and no threads */
    r = uv_poll_init(loop, &l->poll, info->epoll_fd);
    if (r < 0) {
        MHD_stop_daemon(l->daemon);
        return r;
    }
    uv_timer_init(loop, &l->timer);
    l->poll.data = l->timer.data = l;
    l->open_handles = 2;
    uv_poll_start(&l->poll, UV_READABLE, on_poll);
    *ret_listener = TAKE(l);
    return 0;
}

uint16_t http_listener_port(const struct http_listener *l)
{
    return l->port;
}

void http_listener_close(struct http_listener *l)
{
    struct http_request *r;

    if (!l)
        return;
    assert(!l->running);
    /* libmicrohttpd wants them resumed before it stops. */
    LIST_FOREACH(r, &l->requests, link)
    if (r->held && r->suspended)
        MHD_resume_connection(r->connection);
    /* libuv lets go of the descriptor before the daemon closes it. */
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->timer, on_closed);
    MHD_stop_daemon(l->daemon);
    l->daemon = NULL;
    while ((r = LIST_FIRST(&l->requests))) {
        LIST_REMOVE(r, link);
        r->listener = NULL; /* held by the program, which still answers it */
    }
}
