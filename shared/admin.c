/* admin.c - probes and metrics over HTTP, on the program's own loop.
 *
 *   client -> listening socket -> libmicrohttpd's epoll descriptor -> uv_poll -> MHD_run -> on_request
 *                                                    uv_timer (MHD_get_timeout) --'
 *
 * libmicrohttpd runs without threads: its epoll descriptor becomes readable whenever one of its sockets has
 * work, and MHD_get_timeout says when it wants to run without that. We bind the socket ourselves, because
 * MHD_start_daemon says only that it failed, not why.
 *
 * Failures:
 * - Too many connections (ADMIN_CONNECTIONS_MAX) or silent ones (ADMIN_IDLE_S): the kernel's backlog keeps
 *   new ones until old ones have gone. Probes fail then, as they should.
 * - A request with a body: answered at its headers, and the connection is closed, so that nobody has to agree
 *   where the body ends.
 * - No memory for an answer: the connection is closed without one.
 * - admin_close: connections are cut. The two libuv handles and our memory go in a later turn. */
#include "shared/admin.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* Connections at once: a handful of probes and scrapers; more is a fault of theirs. */
enum { ADMIN_CONNECTIONS_MAX = 64 };
/* A connection that says nothing for so long is closed. */
enum { ADMIN_IDLE_S = 10 };
/* How long --health waits; orchestrators give up at about the same time. */
enum { HEALTH_TIMEOUT_MS = 3000 };
/* What --health prints at most. */
enum { HEALTH_BODY_MAX = 64 * 1024 };

struct admin {
    struct MHD_Daemon *daemon;
    struct metrics *metrics;
    struct ready *ready;
    admin_refresh_cb *refresh;
    void *user;
    uint16_t port;
    bool running; /* inside MHD_run, where admin_close would saw off its own branch */
    int open_handles;
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

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* A listening socket, and the port that it got (asked for 0, the kernel chooses). */
static int listen_on(const struct sockaddr_storage *address, uint16_t *ret_port, int *ret_fd)
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
    if (listen(fd, ADMIN_CONNECTIONS_MAX) != 0 || getsockname(fd, (struct sockaddr *)&bound, &len) != 0)
        return -errno;
    *ret_port = address_port(&bound);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* ---- Answers ---- */

static bool has_body(struct MHD_Connection *connection)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH) ||
           MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING);
}

/* body: taken. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              struct buf *body)
{
    size_t len = body->len;
    char *text = buf_take(body);
    struct MHD_Response *response;
    enum MHD_Result queued;
    bool complete;

    if (!text)
        return MHD_NO;
    response = MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return MHD_NO;
    }
    complete = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type) == MHD_YES &&
               MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") == MHD_YES;
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        complete =
            complete && MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD") == MHD_YES;
    if (has_body(connection))
        complete =
            complete && MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
    queued = complete ? MHD_queue_response(connection, status, response) : MHD_NO;
    MHD_destroy_response(response); /* drops our reference; the connection has its own */
    return queued;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    struct buf body = {0};

    buf_add_str(&body, text);
    return answer(connection, status, "text/plain; charset=utf-8", &body);
}

static enum MHD_Result answer_ready(struct admin *a, struct MHD_Connection *connection)
{
    struct buf body = {0};
    json_t *report = NULL;
    bool ready = ready_eval(a->ready, &report);
    CLEANUP(freep) char *text = report ? json_dumps(report, JSON_COMPACT) : NULL;

    json_decref(report);
    /* The verdict matters more than its reasons. */
    buf_add_str(&body, text ? text : ready ? "{\"ready\":true}" : "{\"ready\":false}");
    buf_add_char(&body, '\n');
    return answer(connection, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json", &body);
}

static enum MHD_Result answer_metrics(struct admin *a, struct MHD_Connection *connection)
{
    struct buf body = {0};

    if (a->refresh)
        a->refresh(a->user);
    metrics_render(a->metrics, &body);
    return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", &body);
}

/* The first call has the headers only, and an answer given then ends the connection: right for a request with
 * a body, which we do not read. Any other is answered at the second call and may be followed by more. */
static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **connection_user)
{
    static char seen;
    struct admin *a = user;

    (void)version;
    (void)upload;
    (void)upload_len;
    if (!*connection_user && !has_body(connection)) {
        *connection_user = &seen;
        return MHD_YES;
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    if (strcmp(url, "/livez") == 0)
        return answer_text(connection, MHD_HTTP_OK, "ok\n");
    if (strcmp(url, "/readyz") == 0)
        return answer_ready(a, connection);
    if (strcmp(url, "/metrics") == 0)
        return answer_metrics(a, connection);
    return answer_text(connection, MHD_HTTP_NOT_FOUND, "try /livez, /readyz or /metrics\n");
}

/* ---- The loop ---- */

static void on_timer(uv_timer_t *timer);

static void run(struct admin *a)
{
    unsigned long long timeout_ms;

    a->running = true;
    (void)MHD_run(a->daemon); /* fails only for a daemon that has threads of its own */
    a->running = false;
    if (MHD_get_timeout(a->daemon, &timeout_ms) == MHD_YES)
        uv_timer_start(&a->timer, on_timer, timeout_ms, 0);
    else
        uv_timer_stop(&a->timer);
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
    struct admin *a = handle->data;

    assert(a->open_handles > 0);
    if (--a->open_handles == 0)
        free(a);
}

static int start_daemon(struct admin *a, int fd)
{
    a->daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, a, MHD_OPTION_LISTEN_SOCKET, fd,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)ADMIN_CONNECTIONS_MAX,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)ADMIN_IDLE_S, MHD_OPTION_END);
    /* It may also lack descriptors for its epoll, but keeps the reason to itself. */
    return a->daemon ? 0 : -ENOMEM;
}

int admin_start(uv_loop_t *loop, const char *listen, struct metrics *metrics, struct ready *ready,
                admin_refresh_cb *refresh, void *user, struct admin **ret_admin)
{
    CLEANUP(freep) struct admin *a = NULL;
    CLEANUP(close_fd) int fd = -1;
    const union MHD_DaemonInfo *info;
    struct sockaddr_storage address;
    int r;

    r = parse_listen(listen, &address);
    if (r < 0)
        return r;
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->metrics = metrics;
    a->ready = ready;
    a->refresh = refresh;
    a->user = user;
    r = listen_on(&address, &a->port, &fd);
    if (r < 0)
        return r;
    r = start_daemon(a, fd);
    if (r < 0)
        return r;
    fd = -1; /* the daemon closes it */

    info = MHD_get_daemon_info(a->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    assert(info); /* given for every daemon with MHD_USE_EPOLL and no threads */
    r = uv_poll_init(loop, &a->poll, info->epoll_fd);
    if (r < 0) {
        MHD_stop_daemon(a->daemon);
        return r;
    }
    uv_timer_init(loop, &a->timer);
    a->poll.data = a->timer.data = a;
    a->open_handles = 2;
    uv_poll_start(&a->poll, UV_READABLE, on_poll);
    *ret_admin = TAKE(a);
    return 0;
}

uint16_t admin_port(const struct admin *a)
{
    return a->port;
}

void admin_close(struct admin *a)
{
    if (!a)
        return;
    assert(!a->running);
    /* libuv lets go of the descriptor before the daemon closes it. */
    uv_close((uv_handle_t *)&a->poll, on_closed);
    uv_close((uv_handle_t *)&a->timer, on_closed);
    MHD_stop_daemon(a->daemon);
    a->daemon = NULL;
}

/* ---- --health ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct buf *body = user;
    size_t room = HEALTH_BODY_MAX - body->len;
    size_t n = size * count;

    buf_add(body, bytes, n < room ? n : room);
    return n;
}

/* "http://address:port/readyz". */
static int health_url(const char *listen, char *url, size_t size)
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
        snprintf(url, size, "http://[%s]:%d/readyz", host, address_port(&address));
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)&address;

        if (in->sin_addr.s_addr == htonl(INADDR_ANY))
            in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        uv_ip4_name(in, host, sizeof(host));
        snprintf(url, size, "http://%s:%d/readyz", host, address_port(&address));
    }
    return 0;
}

static void curl_cleanup(CURL **curl)
{
    curl_easy_cleanup(*curl);
}

int admin_health(const char *listen)
{
    CLEANUP(curl_cleanup) CURL *curl = curl_easy_init();
    CLEANUP(buf_done) struct buf body = {0};
    char url[128];
    long status = 0;
    CURLcode code;

    if (!curl || health_url(listen, url, sizeof(url)) < 0) {
        fprintf(stderr, "cannot ask '%s': %s\n", listen, curl ? "not an address and a port" : "no memory");
        return 1;
    }
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)HEALTH_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    code = curl_easy_perform(curl);
    if (code != CURLE_OK) {
        fprintf(stderr, "%s: %s\n", url, curl_easy_strerror(code));
        return 1;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (body.len)
        fwrite(body.data, 1, body.len, stdout);
    fflush(stdout);
    return status == 200 ? 0 : 1;
}
