/* floor.c - the least that a server can do, to measure the others against.
 *
 *   publisher --> "EV <group> <bytes>\n" body --> frame it once --> one write() per session of the group
 *
 * One thread, epoll, no locks, no timers; no check of anything. A session is a client that asked for
 * "GET /<group> .."; another connection begins with "EV" and publishes. Without --coalesce each event is a
 * write() of its own; with it, the events that one read brought for a group go out in one write(), which is
 * what a server can gain from bursts.
 *
 * A client that says {"bind" in its message is answered {"ok":true}, so that the load generator can treat the
 * floor like a real server.
 *
 * Failures: a short write keeps the rest for EPOLLOUT; a connection that ends is closed and forgotten.
 * Anything else that goes wrong ends the program: it serves nobody but the benchmark. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 65536, GROUPS_MAX = 65536, READ_BYTES = 1 << 20, BATCH = 256 };

enum kind { FREE, NEW, SESSION, PUBLISHER };

struct bytes {
    char *data;
    size_t len, cap;
};

/* By descriptor. */
struct connection {
    enum kind kind;
    uint32_t group;
    uint32_t place; /* in the group's list */
    struct bytes in;
    struct bytes out;
};

struct group {
    int *fds;
    uint32_t count, cap;
    struct bytes frames; /* not written yet */
};

static struct connection connections[CONNECTIONS_MAX];
static struct group groups[GROUPS_MAX];
static uint32_t touched[GROUPS_MAX];
static uint32_t touched_count;
static char buffer[READ_BYTES];
static int poller;
static bool coalesce;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void add(struct bytes *b, const void *data, size_t len)
{
    if (b->len + len > b->cap) {
        b->cap = (b->len + len) * 2;
        b->data = realloc(b->data, b->cap);
        if (!b->data)
            die("memory");
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void cut(struct bytes *b, size_t len)
{
    b->len -= len;
    memmove(b->data, b->data + len, b->len);
}

static void watch(int fd, uint32_t events, int operation)
{
    struct epoll_event e = {.events = events, .data.fd = fd};

    if (epoll_ctl(poller, operation, fd, &e) < 0)
        die("epoll_ctl");
}

static void join(int fd, uint32_t number)
{
    struct connection *c = &connections[fd];
    struct group *g = &groups[number % GROUPS_MAX];

    if (g->count == g->cap) {
        g->cap = g->cap ? g->cap * 2 : 16;
        g->fds = realloc(g->fds, g->cap * sizeof(*g->fds));
        if (!g->fds)
            die("memory");
    }
    c->kind = SESSION;
    c->group = number % GROUPS_MAX;
    c->place = g->count;
    g->fds[g->count++] = fd;
}

static void end(int fd)
{
    struct connection *c = &connections[fd];

    if (c->kind == SESSION) {
        struct group *g = &groups[c->group];
        int last = g->fds[--g->count];

        g->fds[c->place] = last;
        connections[last].place = c->place;
    }
    free(c->in.data);
    free(c->out.data);
    *c = (struct connection){0};
    close(fd);
}

static void write_out(int fd, const char *p, size_t len)
{
    struct connection *c = &connections[fd];
    ssize_t n = 0;

    if (c->out.len == 0) {
        n = write(fd, p, len);
        if (n == (ssize_t)len)
            return;
        if (n < 0 && errno != EAGAIN)
            return; /* The read that follows finds the end. */
        n = n < 0 ? 0 : n;
        watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    add(&c->out, p + n, len - (size_t)n);
}

static void go_on_writing(int fd)
{
    struct connection *c = &connections[fd];
    ssize_t n = write(fd, c->out.data, c->out.len);

    if (n > 0)
        cut(&c->out, (size_t)n);
    if (c->out.len == 0)
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
}

static void deliver(struct group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        write_out(g->fds[i], g->frames.data, g->frames.len);
    g->frames.len = 0;
}

static void event(uint32_t number, const char *body, size_t len)
{
    struct group *g = &groups[number % GROUPS_MAX];
    unsigned char head[10] = {0x81, (unsigned char)len};
    size_t head_len = 2;

    if (len >= 65536) {
        head[1] = 127;
        for (int i = 0; i < 8; i++)
            head[2 + i] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
        head_len = 10;
    } else if (len >= 126) {
        head[1] = 126;
        head[2] = (unsigned char)(len >> 8);
        head[3] = (unsigned char)len;
        head_len = 4;
    }
    if (g->frames.len == 0)
        touched[touched_count++] = number % GROUPS_MAX;
    add(&g->frames, head, head_len);
    add(&g->frames, body, len);
    if (!coalesce) {
        touched_count--;
        deliver(g);
    }
}

/* Whole events at the front of what the publisher sent. */
static void publisher_read(struct connection *c)
{
    size_t used = 0;

    while (used < c->in.len) {
        char *at = c->in.data + used;
        char *line = memchr(at, '\n', c->in.len - used);
        unsigned group;
        size_t len;

        if (!line)
            break;
        *line = '\0';
        if (sscanf(at, "EV %u %zu", &group, &len) != 2)
            die("publisher speaks another language");
        *line = '\n';
        if ((size_t)(c->in.data + c->in.len - line - 1) < len)
            break;
        event(group, line + 1, len);
        used = (size_t)(line + 1 - c->in.data) + len;
    }
    cut(&c->in, used);
    for (uint32_t i = 0; i < touched_count; i++)
        deliver(&groups[touched[i]]);
    touched_count = 0;
}

static void handshake(int fd, const char *head)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const char *key = strcasestr(head, "\r\nSec-WebSocket-Key: ");
    unsigned char digest[SHA_DIGEST_LENGTH];
    char text[256];
    char accept[32];
    int n;

    if (!key)
        die("no key in the handshake");
    n = snprintf(text, sizeof(text), "%.24s%s", key + 21, guid);
    SHA1((unsigned char *)text, (size_t)n, digest);
    EVP_EncodeBlock((unsigned char *)accept, digest, sizeof(digest));
    n = snprintf(text, sizeof(text),
                 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Accept: %s\r\n\r\n",
                 accept);
    write_out(fd, text, (size_t)n);
    join(fd, (uint32_t)strtoul(head + 5, NULL, 10));
}

static void new_read(int fd)
{
    struct connection *c = &connections[fd];
    char *blank;

    if (c->in.len >= 3 && memcmp(c->in.data, "EV ", 3) == 0) {
        c->kind = PUBLISHER;
        publisher_read(c);
        return;
    }
    blank = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!blank)
        return;
    *blank = '\0';
    handshake(fd, c->in.data);
    free(c->in.data);
    c->in = (struct bytes){0};
}

static void on_read(int fd)
{
    struct connection *c = &connections[fd];
    ssize_t n = read(fd, buffer, sizeof(buffer));

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        end(fd);
        return;
    }
    if (c->kind == SESSION) {
        /* One frame a read is what the load generator sends; pongs and closes need no answer. */
        if ((buffer[0] & 0x0f) == 1)
            write_out(fd, "\x81\x0b{\"ok\":true}", 13);
        return;
    }
    add(&c->in, buffer, (size_t)n);
    if (c->kind == PUBLISHER)
        publisher_read(c);
    else
        new_read(fd);
}

static void on_accept(int listener)
{
    int on = 1;

    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
            return;
        if (fd >= CONNECTIONS_MAX)
            die("too many connections");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        connections[fd] = (struct connection){.kind = NEW};
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static int open_listener(uint16_t port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 4096) < 0)
        die("listen");
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[BATCH];
    int listener;

    if (argc == 3 && strcmp(argv[2], "--coalesce") == 0)
        coalesce = true;
    else if (argc != 2) {
        fputs("usage: floor PORT [--coalesce]\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    listener = open_listener((uint16_t)strtoul(argv[1], NULL, 10));
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        int n = epoll_wait(poller, events, BATCH, -1);

        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;

            if (fd == listener) {
                on_accept(fd);
                continue;
            }
            if ((events[i].events & EPOLLOUT) && connections[fd].out.len)
                go_on_writing(fd);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                on_read(fd);
        }
    }
}
