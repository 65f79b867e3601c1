/* The admin listener, asked over real sockets: the loop turns here, the clients are threads. */
#include "shared/admin.h"

#include "shared/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <cmocka.h>

static const struct metric_row rows[] = {
    {"event_test_refreshed", METRIC_GAUGE, NULL, "How often /metrics was asked for."},
};

struct fixture {
    uv_loop_t loop;
    struct metrics *metrics;
    struct ready *ready;
    int redis;
    struct admin *admin;
    int refreshed;
};

static void refresh(void *user)
{
    struct fixture *f = user;

    metrics_set(f->metrics, 0, ++f->refreshed);
}

static int setup_on(struct fixture *f, const char *listen)
{
    memset(f, 0, sizeof(*f));
    if (uv_loop_init(&f->loop) != 0)
        return -1;
    f->metrics = metrics_new(rows, ARRAY_LEN(rows));
    f->ready = ready_new();
    f->redis = ready_add(f->ready, "redis", 0);
    return admin_start(&f->loop, listen, f->metrics, f->ready, refresh, f, &f->admin);
}

static int setup(void **state)
{
    static struct fixture f;

    *state = &f;
    return setup_on(&f, "127.0.0.1:0");
}

/* Also a test: the loop runs dry and the sanitizer sees no leak. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    int r;

    admin_close(f->admin);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    r = uv_loop_close(&f->loop);
    metrics_free(f->metrics);
    ready_free(f->ready);
    return r;
}

/* ---- Work in a thread while the loop turns ---- */

struct job {
    pthread_t thread;
    void (*work)(struct job *job);
    uv_async_t done;
    uint16_t port;
    const char *request;
    const char *listen;
    struct buf reply;
    int result;
};

static void *job_main(void *arg)
{
    struct job *job = arg;

    job->work(job);
    uv_async_send(&job->done);
    return NULL;
}

static void on_done(uv_async_t *done)
{
    uv_stop(done->loop);
}

static void job_run(struct fixture *f, struct job *job)
{
    uv_async_init(&f->loop, &job->done, on_done);
    assert_int_equal(pthread_create(&job->thread, NULL, job_main, job), 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    pthread_join(job->thread, NULL);
    uv_close((uv_handle_t *)&job->done, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Send the request, read until the server closes. result: 0, or errno. */
static void talk(struct job *job)
{
    char piece[4096];
    ssize_t n;
    int fd = connect_to(job->port);

    if (fd < 0 || send(fd, job->request, strlen(job->request), MSG_NOSIGNAL) < 0) {
        job->result = errno;
        return;
    }
    while ((n = recv(fd, piece, sizeof(piece), 0)) > 0)
        buf_add(&job->reply, piece, (size_t)n);
    job->result = n < 0 ? errno : 0;
    close(fd);
}

/* The whole reply as text, to free(). */
static char *ask(struct fixture *f, const char *request)
{
    struct job job = {.work = talk, .port = admin_port(f->admin), .request = request};
    char *reply;

    job_run(f, &job);
    assert_true(job.result == 0 || job.result == ECONNRESET);
    reply = buf_take(&job.reply);
    assert_non_null(reply);
    return reply;
}

static char *get(struct fixture *f, const char *method, const char *path)
{
    char request[256];

    snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", method,
             path);
    return ask(f, request);
}

static void assert_status(const char *reply, int status)
{
    char line[32];

    snprintf(line, sizeof(line), "HTTP/1.1 %d ", status);
    if (strncmp(reply, line, strlen(line)) != 0)
        fail_msg("expected %d, got '%s'", status, reply);
}

static void assert_header(const char *reply, const char *header)
{
    char line[256];
    const char *at, *body = strstr(reply, "\r\n\r\n");

    snprintf(line, sizeof(line), "\r\n%s\r\n", header);
    at = strcasestr(reply, line);
    if (!body || !at || at > body)
        fail_msg("no header '%s' in '%s'", header, reply);
}

static const char *body_of(const char *reply)
{
    const char *body = strstr(reply, "\r\n\r\n");

    assert_non_null(body);
    return body + 4;
}

static int count(const char *text, const char *part)
{
    int n = 0;

    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        n++;
    return n;
}

/* ---- Paths and methods ---- */

static void livez_says_ok(void **state)
{
    CLEANUP(freep) char *reply = get(*state, "GET", "/livez");

    assert_status(reply, 200);
    assert_header(reply, "Content-Type: text/plain; charset=utf-8");
    assert_header(reply, "Cache-Control: no-store");
    assert_string_equal(body_of(reply), "ok\n");
}

static void readyz_is_the_report_with_its_verdict_as_status(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *before = NULL, *good = NULL, *draining = NULL;

    ready_set(f->ready, f->redis, false, "refused");
    before = get(f, "GET", "/readyz");
    assert_status(before, 503);
    assert_header(before, "Content-Type: application/json");
    assert_string_equal(body_of(before),
                        "{\"ready\":false,\"draining\":false,\"checks\":{\"redis\":{\"ok\":false,"
                        "\"for_s\":0,\"detail\":\"refused\"}}}\n");
    ready_set(f->ready, f->redis, true, NULL);
    good = get(f, "GET", "/readyz");
    assert_status(good, 200);
    assert_non_null(strstr(body_of(good), "{\"ready\":true,"));
    ready_drain(f->ready);
    draining = get(f, "GET", "/readyz");
    assert_status(draining, 503);
    assert_non_null(strstr(body_of(draining), "\"draining\":true"));
}

static void metrics_are_refreshed_and_printed(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *first = get(f, "GET", "/metrics");
    CLEANUP(freep) char *second = get(f, "GET", "/metrics");

    assert_status(first, 200);
    assert_header(first, "Content-Type: text/plain; version=0.0.4; charset=utf-8");
    assert_non_null(strstr(body_of(first), "\nevent_test_refreshed 1\n"));
    assert_non_null(strstr(body_of(second), "\nevent_test_refreshed 2\n"));
}

static void head_answers_like_get_without_the_body(void **state)
{
    CLEANUP(freep) char *reply = get(*state, "HEAD", "/livez");

    assert_status(reply, 200);
    assert_header(reply, "Content-Length: 3");
    assert_string_equal(body_of(reply), "");
}

static void other_paths_are_404_and_other_methods_405(void **state)
{
    struct fixture *f = *state;
    static const char *const paths[] = {"/", "/livez/", "/LIVEZ", "/metrics/x", "//livez"};
    static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"};

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        CLEANUP(freep) char *reply = get(f, "GET", paths[i]);

        assert_status(reply, 404);
    }
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        CLEANUP(freep) char *reply = get(f, methods[i], "/livez");

        assert_status(reply, 405);
        assert_header(reply, "Allow: GET, HEAD");
    }
}

/* ---- Connections ---- */

static void a_connection_takes_several_requests(void **state)
{
    CLEANUP(freep)
    char *reply = ask(*state, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
                              "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
                              "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");

    assert_int_equal(count(reply, "HTTP/1.1 200 "), 3);
}

static void a_request_with_a_body_is_answered_once_and_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    static const char *const requests[] = {
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /metrics HTTP/1.1\r\nHost: "
        "smuggled\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: "
        "smuggled\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: smuggled\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nxyz",
    };

    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        CLEANUP(freep) char *reply = ask(f, requests[i]);

        assert_int_equal(count(reply, "HTTP/1.1 "), 1);
        assert_int_equal(f->refreshed, 0);
    }
}

static void nonsense_hurts_only_its_own_connection(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *reply = NULL;
    CLEANUP(freep) char *nonsense = ask(f, "\x16\x03\x01 not HTTP at all\r\n\r\n\r\n\r\n");

    assert_int_equal(count(nonsense, " 200 "), 0);
    reply = get(f, "GET", "/livez");
    assert_status(reply, 200);
}

static void beyond_the_limit_a_connection_waits_for_a_free_place(void **state)
{
    struct fixture *f = *state;
    struct job job = {.work = talk,
                      .port = admin_port(f->admin),
                      .request = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"};
    int idle[64];

    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        idle[i] = connect_to(job.port);
        assert_true(idle[i] >= 0);
    }
    /* All are in the backlog before the loop turns, so they are accepted first. */
    for (int turn = 0; turn < 10; turn++)
        uv_run(&f->loop, UV_RUN_NOWAIT);
    uv_async_init(&f->loop, &job.done, on_done);
    assert_int_equal(pthread_create(&job.thread, NULL, job_main, &job), 0);
    close(idle[10]);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    pthread_join(job.thread, NULL);
    uv_close((uv_handle_t *)&job.done, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        if (i != 10)
            close(idle[i]);
    }
    assert_int_equal(job.result, 0);
    assert_status(job.reply.data, 200);
    buf_done(&job.reply);
}

static void closing_cuts_the_connections(void **state)
{
    struct fixture *f = *state;
    uint16_t port = admin_port(f->admin);
    int fd = connect_to(port);
    char byte;

    assert_true(fd >= 0);
    for (int turn = 0; turn < 10; turn++)
        uv_run(&f->loop, UV_RUN_NOWAIT);
    admin_close(TAKE(f->admin));
    admin_close(NULL);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
    assert_int_equal(connect_to(port), -1);
}

/* ---- Addresses ---- */

static void a_taken_port_and_a_foreign_address_have_their_errno(void **state)
{
    struct fixture *f = *state;
    struct admin *second = NULL;
    char listen[32];

    snprintf(listen, sizeof(listen), "127.0.0.1:%d", admin_port(f->admin));
    assert_int_equal(admin_start(&f->loop, listen, f->metrics, f->ready, NULL, NULL, &second), -EADDRINUSE);
    assert_int_equal(admin_start(&f->loop, "192.0.2.1:0", f->metrics, f->ready, NULL, NULL, &second),
                     -EADDRNOTAVAIL);
    assert_null(second);
}

static void a_port_can_be_taken_again_at_once(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *reply = get(f, "GET", "/livez"); /* the server closes: its end is in TIME_WAIT */
    char listen[32];

    assert_status(reply, 200);
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", admin_port(f->admin));
    admin_close(TAKE(f->admin));
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(admin_start(&f->loop, listen, f->metrics, f->ready, NULL, NULL, &f->admin), 0);
}

static void what_is_no_address_is_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const wrong[] = {"",
                                        ":9101",
                                        "127.0.0.1",
                                        "127.0.0.1:",
                                        "127.0.0.1:x",
                                        "1.2.3:80",
                                        "[::1]",
                                        "[::1:80",
                                        "::1:80",
                                        "[]:80",
                                        "a.test:80",
                                        "127.0.0.1:65536",
                                        "127.0.0.1:-1",
                                        "127.0.0.1: 80",
                                        "[::1]x:80",
                                        "127.0.0.1:80x"};
    struct admin *none = NULL;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (admin_start(&f->loop, wrong[i], f->metrics, f->ready, NULL, NULL, &none) != -EINVAL)
            fail_msg("'%s' was not refused", wrong[i]);
    }
    assert_null(none);
}

/* ---- --health ---- */

static void health_work(struct job *job)
{
    job->result = admin_health(job->listen);
}

/* Calls admin_health while the loop turns; what it prints to stdout is returned, to free(). */
static char *health(struct fixture *f, const char *host, int *ret_result)
{
    char listen[64], text[1000];
    struct job job = {.work = health_work, .listen = listen};
    int real = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 10), fd = memfd_create("stdout", MFD_CLOEXEC);
    ssize_t n;

    snprintf(listen, sizeof(listen), "%s:%d", host, admin_port(f->admin));
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    job_run(f, &job);
    fflush(stdout);
    dup2(real, STDOUT_FILENO);
    close(real);
    n = pread(fd, text, sizeof(text) - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
    *ret_result = job.result;
    return strdup(text);
}

static void health_prints_the_report_and_tells_by_its_result(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *bad = NULL, *good = NULL;
    int result;

    bad = health(f, "127.0.0.1", &result);
    assert_int_equal(result, 1);
    assert_non_null(strstr(bad, "{\"ready\":false,"));
    ready_set(f->ready, f->redis, true, NULL);
    good = health(f, "127.0.0.1", &result);
    assert_int_equal(result, 0);
    assert_non_null(strstr(good, "{\"ready\":true,"));
}

static void health_asks_a_wildcard_on_loopback_and_no_proxy(void **state)
{
    struct fixture *f = *state;
    CLEANUP(freep) char *text = NULL;
    int result;

    setenv("http_proxy", "http://127.0.0.1:1/", 1);
    ready_set(f->ready, f->redis, true, NULL);
    text = health(f, "0.0.0.0", &result);
    unsetenv("http_proxy");
    assert_int_equal(result, 0);
    assert_non_null(strstr(text, "{\"ready\":true,"));
}

static void ipv6_is_served_and_asked(void **state)
{
    struct fixture f;
    void *state6 = &f;
    CLEANUP(freep) char *text = NULL;
    int result, r = setup_on(&f, "[::]:0");

    (void)state;
    if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) {
        teardown(&state6);
        skip(); /* a machine without IPv6 */
    }
    assert_int_equal(r, 0);
    ready_set(f.ready, f.redis, true, NULL);
    text = health(&f, "[::]", &result);
    assert_int_equal(teardown(&state6), 0);
    assert_int_equal(result, 0);
}

static void health_fails_where_nobody_listens_or_no_address_is_given(void **state)
{
    struct fixture *f = *state;
    char listen[32];

    snprintf(listen, sizeof(listen), "127.0.0.1:%d", admin_port(f->admin));
    admin_close(TAKE(f->admin));
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(admin_health(listen), 1);
    assert_int_equal(admin_health("nonsense"), 1);
}

static void health_gives_up_on_a_loop_that_does_not_turn(void **state)
{
    struct fixture *f = *state;
    char listen[32];
    int64_t began = clock_mono_ms();

    snprintf(listen, sizeof(listen), "127.0.0.1:%d", admin_port(f->admin));
    assert_int_equal(admin_health(listen), 1); /* the loop is ours, and it stands still meanwhile */
    assert_in_range(clock_mono_ms() - began, 2900, 6000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(livez_says_ok),
        TEST(readyz_is_the_report_with_its_verdict_as_status),
        TEST(metrics_are_refreshed_and_printed),
        TEST(head_answers_like_get_without_the_body),
        TEST(other_paths_are_404_and_other_methods_405),
        TEST(a_connection_takes_several_requests),
        TEST(a_request_with_a_body_is_answered_once_and_ends_the_connection),
        TEST(nonsense_hurts_only_its_own_connection),
        TEST(beyond_the_limit_a_connection_waits_for_a_free_place),
        TEST(closing_cuts_the_connections),
        TEST(a_taken_port_and_a_foreign_address_have_their_errno),
        TEST(a_port_can_be_taken_again_at_once),
        TEST(what_is_no_address_is_refused),
        TEST(health_prints_the_report_and_tells_by_its_result),
        TEST(health_asks_a_wildcard_on_loopback_and_no_proxy),
        TEST(ipv6_is_served_and_asked),
        TEST(health_fails_where_nobody_listens_or_no_address_is_given),
        TEST(health_gives_up_on_a_loop_that_does_not_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
