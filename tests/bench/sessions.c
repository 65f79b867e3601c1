/* sessions.c - connecting, the binding dialogue, parsing; the story is in the header.
 *
 * Failures: a connection that is refused, an upgrade that is not answered 101, or a session that ends while
 * it binds is remembered as the run's failure. A live session that ends is counted, no more. */
#include "tests/bench/sessions.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 4 << 20,
    /* Sessions per source address, below the 28 k ports that Linux hands out by default. */
    PER_ADDRESS = 20000,
    OPCODE_TEXT = 1,
    OPCODE_BINARY = 2,
    OPCODE_CLOSE = 8,
    OPCODE_PING = 9,
    OPCODE_PONG = 10,
};

enum state { IDLE, CONNECTING, UPGRADING, BINDING, LIVE, CLOSED };

struct session {
    int fd;
    enum state state;
    uint32_t group;
    uint32_t step;
    uint64_t next; /* number of the group's next event */
    struct text rest;
};

struct sessions {
    struct session_plan plan;
    int epoll;
    sessions_on_message *on_message;
    void *user;
    struct session_counts counts;
    uint32_t started, pending;
    size_t hint;
    char *failure;
    uint32_t *group_live;
    char *buffer;
    struct text out;
    struct session all[];
};

static void *must(void *p)
{
    if (!p) {
        fputs("load: out of memory\n", stderr);
        exit(2);
    }
    return p;
}

struct sessions *sessions_new(const struct session_plan *plan, int epoll, sessions_on_message *on_message,
                              void *user)
{
    struct sessions *s = must(calloc(1, sizeof(*s) + plan->count * sizeof(s->all[0])));

    s->plan = *plan;
    s->epoll = epoll;
    s->on_message = on_message;
    s->user = user;
    s->buffer = must(malloc(BUFFER_BYTES));
    s->group_live = must(calloc(plan->groups, sizeof(*s->group_live)));
    for (uint32_t i = 0; i < plan->count; i++) {
        s->all[i].fd = -1;
        s->all[i].group = i % plan->groups;
        s->all[i].next = s->all[i].group;
    }
    return s;
}

void sessions_free(struct sessions *s)
{
    for (uint32_t i = 0; i < s->plan.count; i++) {
        if (s->all[i].fd >= 0)
            close(s->all[i].fd);
        free(s->all[i].rest.data);
    }
    free(s->out.data);
    free(s->failure);
    free(s->group_live);
    free(s->buffer);
    free(s);
}

static void fail(struct sessions *s, const struct session *x, const char *what, const char *detail,
                 size_t len)
{
    if (s->failure)
        return;
    if (asprintf(&s->failure, "session %td: %s %.*s", x - s->all, what, (int)(len < 500 ? len : 500),
                 detail) < 0)
        s->failure = must(strdup(what));
}

static void end(struct sessions *s, struct session *x, const char *why)
{
    if (x->state == CLOSED)
        return;
    if (x->state == LIVE) {
        s->counts.closed++;
        s->counts.live--;
        s->group_live[x->group]--;
    } else {
        s->pending--;
        fail(s, x, why, strerror(errno), strlen(strerror(errno)));
    }
    x->state = CLOSED;
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
}

/* What we send is small and goes into an empty socket buffer: it fits, or the session is broken. */
static void send_all(struct sessions *s, struct session *x, const struct text *t)
{
    if (send(x->fd, t->data, t->len, MSG_NOSIGNAL) != (ssize_t)t->len)
        end(s, x, "cannot send");
}

/* A masked frame. The mask is zero: RFC 6455, 5.3 asks for an unpredictable one, which only matters to
 * proxies. */
static void send_frame(struct sessions *s, struct session *x, int opcode, const char *payload, size_t len)
{
    struct text frame = {0};
    char head[8] = {(char)(0x80 | opcode)};
    size_t n = 2;

    if (len < 126) {
        head[1] = (char)(0x80 | len);
    } else {
        head[1] = (char)(0x80 | 126);
        head[2] = (char)(len >> 8);
        head[3] = (char)len;
        n = 4;
    }
    text_add(&frame, head, n);
    text_add(&frame, "\0\0\0", 4);
    text_add(&frame, payload, len);
    send_all(s, x, &frame);
    free(frame.data);
}

static void expand(struct sessions *s, const struct session *x, const struct text *template)
{
    uint64_t i = (uint64_t)(x - s->all);
    struct template_values v = {.session = i, .group = x->group};

    if (s->plan.token_count)
        v.token = s->plan.tokens[i % s->plan.token_count];
    s->out.len = 0;
    template_expand(&s->out, template, &v);
}

static void go_on_binding(struct sessions *s, struct session *x)
{
    while (x->state == BINDING && x->step < s->plan.step_count) {
        const struct session_step *step = &s->plan.steps[x->step];

        expand(s, x, &step->say);
        send_frame(s, x, s->plan.binary ? OPCODE_BINARY : OPCODE_TEXT, s->out.data, s->out.len);
        if (step->hear.len)
            return;
        x->step++;
    }
    if (x->state != BINDING)
        return;
    x->state = LIVE;
    s->pending--;
    s->counts.live++;
    s->group_live[x->group]++;
}

static void answer(struct sessions *s, struct session *x, const char *p, size_t len)
{
    const struct session_step *step = &s->plan.steps[x->step];

    if (memmem(p, len, "\"error\"", 7) || memmem(p, len, "-ERR", 4) || memmem(p, len, "ERROR\n", 6)) {
        fail(s, x, "bind was answered", p, len);
        return;
    }
    if (!memmem(p, len, step->hear.data, step->hear.len))
        return;
    x->step++;
    go_on_binding(s, x);
}

static void count_mark(struct sessions *s, struct session *x, const struct mark *m, uint64_t now)
{
    if (m->group != x->group) {
        s->counts.foreign++;
        return;
    }
    if (m->number < x->next) {
        s->counts.repeated++;
        return;
    }
    s->counts.missed += (m->number - x->next) / s->plan.groups;
    x->next = m->number + s->plan.groups;
    s->counts.messages++;
    s->on_message(s->user, m, now);
}

static void count_message(struct sessions *s, struct session *x, const char *p, size_t len, uint64_t now)
{
    struct mark m;
    size_t used = mark_find(p, len, &s->hint, &m);

    s->counts.frames++;
    s->counts.bytes += len;
    if (used == 0) {
        s->counts.other++;
        return;
    }
    s->counts.message_bytes += len;
    for (;;) {
        if (s->plan.check && !message_tail_matches(s->plan.check, p + used, len - used))
            s->counts.damaged++;
        count_mark(s, x, &m, now);
        if (!s->plan.batched)
            return;
        p += used;
        len -= used;
        s->hint = 0;
        used = mark_find(p, len, &s->hint, &m);
        if (used == 0)
            return;
    }
}

static void frame(struct sessions *s, struct session *x, int opcode, const char *p, size_t len, uint64_t now)
{
    switch (opcode) {
    case OPCODE_PING:
        send_frame(s, x, OPCODE_PONG, p, len < 126 ? len : 125);
        return;
    case OPCODE_CLOSE:
        errno = 0;
        if (x->state != LIVE)
            fail(s, x, "server closes with", p, len);
        end(s, x, "server closes");
        return;
    case OPCODE_PONG:
        return;
    default:
        if (x->state == LIVE)
            count_message(s, x, p, len, now);
        else
            answer(s, x, p, len);
    }
}

/* Handles the whole frames at `p`; returns the bytes used. */
static size_t parse_frames(struct sessions *s, struct session *x, const char *p, size_t len, uint64_t now)
{
    size_t used = 0;

    while (len - used >= 2 && x->state != CLOSED) {
        const unsigned char *u = (const unsigned char *)p + used;
        size_t head = 2;
        uint64_t payload = u[1] & 0x7f;

        if (payload == 126)
            head = 4;
        else if (payload == 127)
            head = 10;
        if (len - used < head)
            break;
        if (head > 2) {
            payload = 0;
            for (size_t i = 2; i < head; i++)
                payload = payload << 8 | u[i];
        }
        if (len - used - head < payload)
            break;
        frame(s, x, u[0] & 0x0f, p + used + head, payload, now);
        used += head + payload;
    }
    return used;
}

/* Handles the answer to the upgrade; returns the bytes used. */
static size_t parse_answer(struct sessions *s, struct session *x, const char *p, size_t len)
{
    const char *blank = memmem(p, len, "\r\n\r\n", 4);

    if (!blank)
        return 0;
    if (len < 12 || memcmp(p, "HTTP/1.1 101", 12) != 0) {
        fail(s, x, "upgrade was answered", p, len);
        end(s, x, "upgrade failed");
        return len;
    }
    x->state = BINDING;
    go_on_binding(s, x);
    return (size_t)(blank + 4 - p);
}

static void receive(struct sessions *s, struct session *x)
{
    size_t kept = x->rest.len;
    size_t used = 0;
    ssize_t n;
    uint64_t now;

    if (kept)
        memcpy(s->buffer, x->rest.data, kept);
    n = recv(x->fd, s->buffer + kept, BUFFER_BYTES - kept, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        if (n == 0)
            errno = ECONNRESET;
        end(s, x, "connection ended");
        return;
    }
    n += (ssize_t)kept;
    now = now_ns();
    if (x->state == UPGRADING)
        used = parse_answer(s, x, s->buffer, (size_t)n);
    if (x->state == BINDING || x->state == LIVE)
        used += parse_frames(s, x, s->buffer + used, (size_t)n - used, now);
    x->rest.len = 0;
    if (used < (size_t)n)
        text_add(&x->rest, s->buffer + used, (size_t)n - used);
}

static void connected(struct sessions *s, struct session *x)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)(x - s->all)};
    int error = 0;
    socklen_t len = sizeof(error);

    getsockopt(x->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        errno = error;
        end(s, x, "cannot connect:");
        return;
    }
    x->state = UPGRADING;
    epoll_ctl(s->epoll, EPOLL_CTL_MOD, x->fd, &e);
    expand(s, x, &s->plan.request);
    send_all(s, x, &s->out);
}

void sessions_ready(struct sessions *s, uint32_t index, uint32_t events)
{
    struct session *x = &s->all[index];

    if (x->state == CONNECTING)
        connected(s, x);
    else if (x->state != CLOSED && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        receive(s, x);
}

static int open_socket(const struct sessions *s, uint32_t index)
{
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + index / PER_ADDRESS)};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(s->plan.port)};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    /* The port is chosen when connecting, so that two sessions may share it towards different servers. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
        (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool sessions_connect_next(struct sessions *s)
{
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = s->started};
    struct session *x;

    if (s->started == s->plan.count || s->failure)
        return false;
    x = &s->all[s->started];
    x->fd = open_socket(s, s->started);
    if (x->fd < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, x->fd, &e) < 0) {
        fail(s, x, "cannot connect:", strerror(errno), strlen(strerror(errno)));
        return false;
    }
    x->state = CONNECTING;
    s->started++;
    s->pending++;
    return true;
}

uint32_t sessions_pending(const struct sessions *s)
{
    return s->pending;
}

uint32_t sessions_started(const struct sessions *s)
{
    return s->started;
}

const struct session_counts *sessions_counts(const struct sessions *s)
{
    return &s->counts;
}

uint32_t sessions_in_group(const struct sessions *s, uint32_t group)
{
    return s->group_live[group];
}

const char *sessions_failure(const struct sessions *s)
{
    return s->failure;
}
