/* private_redis.h - a real redis-server of a test's own: loopback, a free port, its own directory, killed by
 * its pid. Include it after cmocka.h; static functions, so that a unit test stays one file. */
#ifndef EF_TESTS_PRIVATE_REDIS_H
#define EF_TESTS_PRIVATE_REDIS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PRIVATE_REDIS_ARGS_MAX = 32 };

struct private_redis {
    pid_t pid; /* 0: not running */
    int port;
    char dir[64];
    const char *extra[PRIVATE_REDIS_ARGS_MAX]; /* further options, closed by NULL; kept over a restart */
};

/* A TCP socket bound to 127.0.0.1 and a port of the kernel's choice, not listening. */
static inline int private_bound_socket(int *ret_port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *ret_port = ntohs(in.sin_port);
    return fd;
}

/* Does it answer PING with anything (NOAUTH will do)? */
static inline bool private_redis_answers(int port)
{
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    char answer[64] = "";
    bool answers = connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0 &&
                   send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && poll(&readable, 1, 1000) == 1 &&
                   recv(fd, answer, sizeof(answer) - 1, 0) > 0 && strncmp(answer, "-LOADING", 8) != 0;

    close(fd);
    return answers;
}

/* Start (again) on the port it has. False: it ended at once, as when the port is taken. */
static inline bool private_redis_launch(struct private_redis *r)
{
    const char *argv[PRIVATE_REDIS_ARGS_MAX + 20];
    char port[16];
    size_t n = 0;

    snprintf(port, sizeof(port), "%d", r->port);
    argv[n++] = "redis-server";
    argv[n++] = "--port", argv[n++] = port;
    argv[n++] = "--bind", argv[n++] = "127.0.0.1";
    argv[n++] = "--dir", argv[n++] = r->dir;
    argv[n++] = "--logfile", argv[n++] = "redis.log";
    argv[n++] = "--save", argv[n++] = "";
    for (size_t i = 0; r->extra[i]; i++)
        argv[n++] = r->extra[i];
    argv[n] = NULL;
    r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        if (private_redis_answers(r->port))
            return true;
        if (waitpid(r->pid, NULL, WNOHANG) == r->pid) {
            r->pid = 0;
            return false;
        }
        poll(NULL, 0, 10);
    }
    fail_msg("redis-server on port %d does not answer; see %s/redis.log", r->port, r->dir);
    return false;
}

/* Further options as words, closed by NULL: private_redis_start(&r, "--requirepass", "secret", NULL). */
static inline void __attribute__((sentinel)) private_redis_start(struct private_redis *r, ...)
{
    va_list args;
    size_t n = 0;

    memset(r, 0, sizeof(*r));
    va_start(args, r);
    do {
        assert_true(n < PRIVATE_REDIS_ARGS_MAX);
        r->extra[n] = va_arg(args, const char *);
    } while (r->extra[n++]);
    va_end(args);
    strcpy(r->dir, "/tmp/event-fleet-redis-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    for (int i = 0; i < 10; i++) {
        close(private_bound_socket(&r->port));
        if (private_redis_launch(r))
            return;
    }
    fail_msg("redis-server does not start; see %s/redis.log", r->dir);
}

static inline void private_redis_signal(const struct private_redis *r, int sig)
{
    assert_true(r->pid > 0);
    assert_int_equal(kill(r->pid, sig), 0);
}

/* kill -9, and gone when it returns. */
static inline void private_redis_kill(struct private_redis *r)
{
    if (r->pid <= 0)
        return;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
}

static inline void private_redis_stop(struct private_redis *r)
{
    static const char *const files[] = {"redis.log", "dump.rdb"};
    char path[128];

    private_redis_kill(r);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", r->dir, files[i]);
        unlink(path);
    }
    if (r->dir[0])
        rmdir(r->dir);
}

#endif
