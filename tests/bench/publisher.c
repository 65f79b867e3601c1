/* publisher.c - AMQP through rabbitmq-c, everything else as text on a TCP connection.
 *
 * rabbitmq-c's calls block: when the broker pushes back, the load generator stands still, and the latencies
 * show it, because an event carries the time at which it was due. */
#include "tests/bench/publisher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

/* A server that has been silent for so long has answered the greeting. */
enum { GREETING_QUIET_MS = 200 };

struct publisher {
    const struct publisher_plan *plan;
    amqp_connection_state_t amqp;
    int fd; /* tcp */
    struct text out;
    size_t sent; /* bytes of `out` that are gone */
    struct text key;
};

static int amqp_failed(const char *what)
{
    fprintf(stderr, "load: AMQP: cannot %s\n", what);
    return -1;
}

static int open_amqp(struct publisher *p)
{
    struct amqp_connection_info info;
    char *url = strdup(p->plan->amqp_url);
    amqp_socket_t *socket;
    int r = -1;

    if (!url)
        return -1;
    p->amqp = amqp_new_connection();
    if (amqp_parse_url(url, &info) != AMQP_STATUS_OK)
        (void)amqp_failed("read the URL");
    else if (!(socket = amqp_tcp_socket_new(p->amqp)) || amqp_socket_open(socket, info.host, info.port) != 0)
        (void)amqp_failed("connect");
    else if (amqp_login(p->amqp, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password)
                 .reply_type != AMQP_RESPONSE_NORMAL)
        (void)amqp_failed("log in");
    else if (!amqp_channel_open(p->amqp, 1))
        (void)amqp_failed("open a channel");
    else
        r = 0;
    free(url);
    return r;
}

static int open_tcp(struct publisher *p, int epoll, uint32_t tag)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons(p->plan->tcp_port)};
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = tag};
    struct pollfd readable = {.events = POLLIN};
    int on = 1;

    p->fd = readable.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        fprintf(stderr, "load: cannot connect to port %d: %s\n", p->plan->tcp_port, strerror(errno));
        return -1;
    }
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, p->fd, &e) < 0)
        return -1;
    if (p->plan->greeting.len == 0)
        return 0;
    text_add(&p->out, p->plan->greeting.data, p->plan->greeting.len);
    if (publisher_flush(p) < 0)
        return -1;
    /* ZeroMQ takes no message before it has said its own hello, so wait until the server has nothing to say.
     */
    while (poll(&readable, 1, GREETING_QUIET_MS) > 0)
        if (publisher_ready(p) < 0)
            return -1;
    return 0;
}

struct publisher *publisher_new(const struct publisher_plan *plan, int epoll, uint32_t tag)
{
    struct publisher *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->plan = plan;
    p->fd = -1;
    if ((plan->amqp_url ? open_amqp(p) : open_tcp(p, epoll, tag)) < 0) {
        publisher_free(p);
        return NULL;
    }
    return p;
}

void publisher_free(struct publisher *p)
{
    if (!p)
        return;
    if (p->amqp) {
        /* Whatever it answers: we are leaving. The orderly close makes the broker read what we sent. */
        (void)amqp_connection_close(p->amqp, AMQP_REPLY_SUCCESS);
        (void)amqp_destroy_connection(p->amqp);
    }
    if (p->fd >= 0)
        close(p->fd);
    free(p->out.data);
    free(p->key.data);
    free(p);
}

static int add_amqp(struct publisher *p, const struct message *m)
{
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG,
        .content_type = amqp_cstring_bytes("application/json"),
    };
    amqp_bytes_t key = {.len = p->key.len, .bytes = p->key.data};
    amqp_bytes_t body = {.len = m->len, .bytes = m->body};

    if (amqp_basic_publish(p->amqp, 1, amqp_cstring_bytes(p->plan->exchange), key, 0, 0, &properties, body) !=
        0)
        return amqp_failed("publish");
    return 0;
}

int publisher_add(struct publisher *p, const struct message *m, uint64_t number, uint32_t group)
{
    struct template_values v = {.group = group, .message = m, .number = number};

    if (!p->amqp) {
        template_expand(&p->out, &p->plan->message, &v);
        return 0;
    }
    p->key.len = 0;
    template_expand(&p->key, &p->plan->key, &v);
    return add_amqp(p, m);
}

int publisher_flush(struct publisher *p)
{
    while (p->sent < p->out.len) {
        ssize_t n = send(p->fd, p->out.data + p->sent, p->out.len - p->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            fprintf(stderr, "load: cannot publish: %s\n", strerror(errno));
            return -1;
        }
        p->sent += (size_t)n;
    }
    text_cut_front(&p->out, p->sent);
    p->sent = 0;
    return 0;
}

int publisher_ready(struct publisher *p)
{
    char answer[65536];
    ssize_t n = recv(p->fd, answer, sizeof(answer), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0) {
        fputs("load: the server ended the publisher's connection\n", stderr);
        return -1;
    }
    if (p->plan->refusal.len && memmem(answer, (size_t)n, p->plan->refusal.data, p->plan->refusal.len)) {
        fprintf(stderr, "load: publishing was answered: %.*s\n", (int)(n < 300 ? n : 300), answer);
        return -1;
    }
    return 0;
}

size_t publisher_waiting(const struct publisher *p)
{
    return p->out.len - p->sent;
}
