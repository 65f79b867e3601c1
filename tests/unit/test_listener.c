/* The listener with real sockets, client and server on one thread: what a client has sent is in the kernel
 * when the loop turns. */
#include "gateway/listener.h"

#include "shared/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define REQUEST   "GET /subscribe?x HTTP/1.1\r\nHost: a\r\n\r\n"
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define PROXY     SIGNATURE "\x21\x11\0\x0c\x01\x02\x03\x04\x0a\0\0\1\xc0\0\0\x50"

static int64_t clock_ahead_ms;

static int64_t test_mono_ms(void)
{
    return clock_mono_ms() + clock_ahead_ms;
}

struct fixture {
    uv_loop_t loop;
    struct listener *listener;
    int port;
    unsigned greeted;
    /* of the last greeting */
    char address[ADDRESS_TEXT_MAX];
    char path[64];
    char rest[64];
    int fd; /* kept open until the next greeting or the end */
};

static void on_greeted(void *user, const struct greeting *g)
{
    struct fixture *f = user;

    f->greeted++;
    assert_true(fcntl(g->fd, F_GETFL) & O_NONBLOCK);
    address_print(&g->address, f->address);
    snprintf(f->path, sizeof(f->path), "%.*s", (int)g->head.path.len, g->head.path.at);
    snprintf(f->rest, sizeof(f->rest), "%.*s", (int)g->rest_len, g->rest);
    if (f->fd >= 0)
        close(f->fd);
    f->fd = g->fd;
}

/* Turn the loop until `condition` holds; the listener's own timer keeps it turning. */
#define WAIT(f, condition)                                      \
    do {                                                        \
        int64_t wait_end_ = clock_mono_ms() + 20000;            \
        while (!(condition)) {                                  \
            if (clock_mono_ms() > wait_end_)                    \
                fail_msg("waited in vain for: %s", #condition); \
            uv_run(&(f)->loop, UV_RUN_ONCE);                    \
        }                                                       \
    } while (0)

static struct config *config_of(const char *proxies)
{
    struct config *c = NULL;
    char *errors = NULL;
    char text[512];
    int n = snprintf(text, sizeof(text),
                     "{\"jwt\":{\"keys\":[]},\"exchanges\":{\"wf\":{\"access\":\"public\"}},"
                     "\"gateway\":{\"trusted_proxies\":%s}}",
                     proxies);

    if (config_parse(text, (size_t)n, &c, &errors) != 0)
        fail_msg("%s", errors);
    return c;
}

/* A port that nobody listens on just now. */
static int free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static void fixture_begin(struct fixture *f, const char *proxies)
{
    struct config *c = config_of(proxies);
    char listen[32];
    int r;

    *f = (struct fixture){.fd = -1};
    clock_ahead_ms = 0;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    do {
        f->port = free_port();
        snprintf(listen, sizeof(listen), "127.0.0.1:%d", f->port);
        r = listener_start(&f->loop, listen, c, on_greeted, f, &f->listener);
    } while (r == -EADDRINUSE);
    assert_int_equal(r, 0);
    listener_set_clock(f->listener, test_mono_ms);
    config_unref(c);
}

/* Nothing of the listener is left on the loop. */
static void fixture_end(struct fixture *f)
{
    listener_close(f->listener);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    if (f->fd >= 0)
        close(f->fd);
}

/* --- the client
 * ------------------------------------------------------------------------------------------------ */

static int dial(const struct fixture *f)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)f->port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void say(int fd, const char *bytes, size_t len)
{
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

static int dial_and_say(const struct fixture *f, const char *bytes, size_t len)
{
    int fd = dial(f);

    say(fd, bytes, len);
    return fd;
}

static bool has_ended(int fd, char *text, size_t size, size_t *len)
{
    ssize_t n = recv(fd, text + *len, size - 1 - *len, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return false;
    if (n < 0)
        fail_msg("the connection was reset, and the answer lost");
    *len += (size_t)n;
    text[*len] = '\0';
    return n == 0;
}

/* The server answers with this status and closes. */
static void hear_status(struct fixture *f, int fd, int status)
{
    char text[512] = "", expected[32];
    size_t len = 0;

    WAIT(f, has_ended(fd, text, sizeof(text), &len));
    snprintf(expected, sizeof(expected), "HTTP/1.1 %d ", status);
    if (strncmp(text, expected, strlen(expected)) != 0 || !strstr(text, "\r\nConnection: close\r\n"))
        fail_msg("instead of %d: %s", status, text);
    close(fd);
}

static uint64_t accepted(const struct fixture *f)
{
    return listener_counts(f->listener).accepted;
}

/* --- tests
 * ------------------------------------------------------------------------------------------------------- */

static void a_whole_head_is_greeted_with_what_follows_it(void **state)
{
    struct fixture f;
    int fd;

    (void)state;
    fixture_begin(&f, "[]");
    fd = dial_and_say(&f, REQUEST "more", strlen(REQUEST "more"));
    WAIT(&f, f.greeted == 1);
    assert_string_equal(f.path, "/subscribe");
    assert_string_equal(f.rest, "more");
    assert_string_equal(f.address, "127.0.0.1");
    assert_int_equal(accepted(&f), 1);
    assert_int_equal(listener_counts(f.listener).malformed, 0);
    close(fd);
    fixture_end(&f);
}

static void a_head_may_come_byte_by_byte(void **state)
{
    struct fixture f;
    int fd;

    (void)state;
    fixture_begin(&f, "[]");
    fd = dial(&f);
    for (size_t i = 0; i < strlen(REQUEST); i++) {
        assert_int_equal(f.greeted, 0);
        say(fd, &REQUEST[i], 1);
        WAIT(&f, accepted(&f) == 1);
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    WAIT(&f, f.greeted == 1);
    assert_string_equal(f.path, "/subscribe");
    close(fd);
    fixture_end(&f);
}

static void a_proxy_header_in_pieces_names_the_client(void **state)
{
    static const char bytes[] = PROXY REQUEST;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "[\"127.0.0.1\"]");
    for (size_t cut = 1; cut < sizeof(bytes) - 1; cut++) {
        int fd = dial_and_say(&f, bytes, cut);

        WAIT(&f, accepted(&f) == cut);
        uv_run(&f.loop, UV_RUN_NOWAIT);
        assert_int_equal(f.greeted, cut - 1);
        say(fd, bytes + cut, sizeof(bytes) - 1 - cut);
        WAIT(&f, f.greeted == cut);
        assert_string_equal(f.address, "1.2.3.4");
        assert_string_equal(f.path, "/subscribe");
        close(fd);
    }
    fixture_end(&f);
}

static void a_trusted_proxy_may_use_the_header_the_field_or_neither(void **state)
{
    static const char forwarded[] = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9, 8.8.8.8\r\n\r\n";
    static const char both[] = PROXY "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    struct fixture f;
    int fd[3];

    (void)state;
    fixture_begin(&f, "[\"127.0.0.0/8\"]");
    fd[0] = dial_and_say(&f, REQUEST, strlen(REQUEST));
    WAIT(&f, f.greeted == 1);
    assert_string_equal(f.address, "127.0.0.1");
    fd[1] = dial_and_say(&f, forwarded, strlen(forwarded));
    WAIT(&f, f.greeted == 2);
    assert_string_equal(f.address, "8.8.8.8");
    /* The client that the header names is no trusted proxy: its own field is not believed. */
    fd[2] = dial_and_say(&f, both, sizeof(both) - 1);
    WAIT(&f, f.greeted == 3);
    assert_string_equal(f.address, "1.2.3.4");
    for (size_t i = 0; i < ARRAY_LEN(fd); i++)
        close(fd[i]);
    fixture_end(&f);
}

static void a_stranger_may_not_say_who_it_is(void **state)
{
    static const char forwarded[] = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    struct fixture f;
    int fd;

    (void)state;
    fixture_begin(&f, "[\"10.0.0.0/8\"]");
    hear_status(&f, dial_and_say(&f, PROXY REQUEST, sizeof(PROXY REQUEST) - 1), 400);
    fd = dial_and_say(&f, forwarded, strlen(forwarded));
    WAIT(&f, f.greeted == 1);
    assert_string_equal(f.address, "127.0.0.1");
    close(fd);
    fixture_end(&f);
}

static void trust_changes_with_a_reload(void **state)
{
    struct config *c = config_of("[\"127.0.0.1\"]");
    struct fixture f;
    int fd;

    (void)state;
    fixture_begin(&f, "[]");
    listener_reload(f.listener, c);
    config_unref(c);
    fd = dial_and_say(&f, PROXY REQUEST, sizeof(PROXY REQUEST) - 1);
    WAIT(&f, f.greeted == 1);
    assert_string_equal(f.address, "1.2.3.4");
    close(fd);
    fixture_end(&f);
}

static void what_is_no_request_is_answered_and_closed(void **state)
{
    static const struct {
        const char *bytes;
        int status;
    } cases[] = {
        {"garbage\r\n\r\n", 400},
        {"\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n folded: x\r\n\r\nand more behind it", 400},
        {"GET / HTTP/3.0\r\n\r\n", 505},
    };
    struct fixture f;

    (void)state;
    fixture_begin(&f, "[]");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int fd = dial(&f);

        hear_status(&f, dial_and_say(&f, cases[i].bytes, strlen(cases[i].bytes)), cases[i].status);
        /* The same in two pieces. */
        say(fd, cases[i].bytes, 1);
        WAIT(&f, accepted(&f) == 2 * i + 2);
        say(fd, cases[i].bytes + 1, strlen(cases[i].bytes) - 1);
        hear_status(&f, fd, cases[i].status);
    }
    assert_int_equal(listener_counts(f.listener).malformed, 2 * ARRAY_LEN(cases));
    assert_int_equal(f.greeted, 0);
    fixture_end(&f);
}

static bool is_cut(int fd)
{
    return send(fd, "x", 1, MSG_NOSIGNAL) < 0;
}

static void a_refused_client_that_stays_is_cut_without_a_second_answer(void **state)
{
    struct fixture f;
    char text[512];
    size_t len = 0;
    int fd;

    (void)state;
    fixture_begin(&f, "[]");
    fd = dial_and_say(&f, "garbage\r\n\r\n", 11);
    WAIT(&f, has_ended(fd, text, sizeof(text), &len));
    assert_memory_equal(text, "HTTP/1.1 400 ", 13);
    assert_null(strstr(text + 1, "HTTP/1.1"));
    say(fd, "more", 4);
    uv_run(&f.loop, UV_RUN_NOWAIT);
    assert_false(is_cut(fd));
    clock_ahead_ms = HEAD_TIMEOUT_MS + 1;
    WAIT(&f, is_cut(fd));
    assert_int_equal(listener_counts(f.listener).timeouts, 0);
    close(fd);
    fixture_end(&f);
}

static void a_broken_proxy_header_is_answered_and_closed(void **state)
{
    static const char bytes[] = SIGNATURE "\x11\x11\0\x0c" REQUEST; /* of version 1 */
    struct fixture f;

    (void)state;
    fixture_begin(&f, "[\"127.0.0.1\"]");
    hear_status(&f, dial_and_say(&f, bytes, sizeof(bytes) - 1), 400);
    assert_int_equal(listener_counts(f.listener).malformed, 1);
    fixture_end(&f);
}

/* A request whose head has this length, to free(). */
static char *head_of_length(size_t len)
{
    static const char begin[] = "GET / HTTP/1.1\r\nHost: a\r\nCookie: ";
    char *text = malloc(len);

    assert_non_null(text);
    memset(text, 'c', len);
    memcpy(text, begin, sizeof(begin) - 1);
    memcpy(text + len - 4, "\r\n\r\n", 4);
    return text;
}

static void the_limit_of_a_head_is_exact(void **state)
{
    struct fixture f;

    (void)state;
    fixture_begin(&f, "[\"127.0.0.1\"]");
    for (int with_proxy = 0; with_proxy <= 1; with_proxy++) {
        for (int over = 0; over <= 1; over++) {
            char *text = head_of_length(HTTP_HEAD_MAX + (size_t)over);
            int fd = dial(&f);

            if (with_proxy)
                say(fd, PROXY, sizeof(PROXY) - 1);
            say(fd, text, HTTP_HEAD_MAX + (size_t)over);
            free(text);
            if (over) {
                hear_status(&f, fd, 431);
            } else {
                WAIT(&f, f.greeted == (unsigned)with_proxy + 1);
                close(fd);
            }
        }
    }
    fixture_end(&f);
}

static void a_head_without_end_is_refused_at_its_limit(void **state)
{
    char *text = malloc(300000);
    struct fixture f;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', 300000);
    fixture_begin(&f, "[]");
    hear_status(&f, dial_and_say(&f, text, 300000), 431);
    assert_int_equal(listener_counts(f.listener).malformed, 1);
    fixture_end(&f);
    free(text);
}

static void a_head_that_takes_too_long_is_refused(void **state)
{
    struct fixture f;
    int slow, slower;

    (void)state;
    fixture_begin(&f, "[]");
    slow = dial_and_say(&f, "GET / HT", 8);
    WAIT(&f, accepted(&f) == 1);
    clock_ahead_ms = HEAD_TIMEOUT_MS / 2;
    slower = dial_and_say(&f, "GET", 3);
    WAIT(&f, accepted(&f) == 2);
    say(slow, "TP/1.1", 6); /* a piece now and then is no excuse */
    clock_ahead_ms = HEAD_TIMEOUT_MS;
    hear_status(&f, slow, 408);
    assert_int_equal(listener_counts(f.listener).timeouts, 1);
    say(slower, " / HTTP/1.1\r\n\r\n", 15);
    WAIT(&f, f.greeted == 1);
    clock_ahead_ms = 2 * HEAD_TIMEOUT_MS;
    close(slower);
    fixture_end(&f);
}

static void a_client_that_leaves_early_is_forgotten(void **state)
{
    struct linger reset = {.l_onoff = 1};
    struct fixture f;
    int fd;

    (void)state;
    fixture_begin(&f, "[]");
    fd = dial_and_say(&f, "GET / HT", 8);
    WAIT(&f, accepted(&f) == 1);
    close(fd);
    fd = dial_and_say(&f, "GET / HT", 8);
    WAIT(&f, accepted(&f) == 2);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    fd = dial_and_say(&f, REQUEST, strlen(REQUEST));
    WAIT(&f, f.greeted == 1);
    clock_ahead_ms = 2 * HEAD_TIMEOUT_MS; /* nobody is left to be timed out */
    uv_run(&f.loop, UV_RUN_ONCE);
    assert_int_equal(listener_counts(f.listener).timeouts, 0);
    close(fd);
    fixture_end(&f);
}

static void connections_without_a_head_go_with_the_listener(void **state)
{
    struct fixture f;
    int fd[10];
    char byte;

    (void)state;
    fixture_begin(&f, "[]");
    for (size_t i = 0; i < ARRAY_LEN(fd); i++)
        fd[i] = dial_and_say(&f, "GET / HT", 8);
    WAIT(&f, accepted(&f) == ARRAY_LEN(fd));
    fixture_end(&f);
    for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
        assert_int_equal(recv(fd[i], &byte, 1, 0), 0);
        close(fd[i]);
    }
}

/* Descriptors for both ends of `connections`, and some. */
static bool may_open(size_t connections, struct rlimit *ret_before)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, ret_before), 0);
    limit = *ret_before;
    if (limit.rlim_cur < 2 * connections + 100)
        limit.rlim_cur = 2 * connections + 100;
    return limit.rlim_cur <= limit.rlim_max && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static void the_oldest_without_a_head_gives_way(void **state)
{
    static int fd[GREETINGS_MAX + 1];
    struct rlimit before;
    struct fixture f;

    (void)state;
    if (!may_open(GREETINGS_MAX + 1, &before))
        skip(); /* needs a hard limit of some 8300 descriptors */
    fixture_begin(&f, "[]");
    for (size_t i = 0; i <= GREETINGS_MAX; i++) {
        fd[i] = dial_and_say(&f, "GET / HTTP/1.1\r\n", 16);
        if (i % 64 == 0 || i >= GREETINGS_MAX - 1)
            WAIT(&f, accepted(&f) == i + 1);
        assert_int_equal(listener_counts(f.listener).evicted, i == GREETINGS_MAX);
    }
    hear_status(&f, fd[0], 408);
    say(fd[1], "\r\n", 2);
    say(fd[GREETINGS_MAX], "\r\n", 2);
    WAIT(&f, f.greeted == 2);
    for (size_t i = 1; i <= GREETINGS_MAX; i++)
        close(fd[i]);
    fixture_end(&f);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void a_lack_of_descriptors_is_waited_out(void **state)
{
    struct rlimit before, none;
    struct fixture f;
    unsigned turns = 0;
    int fd, lowest;

    (void)state;
    fixture_begin(&f, "[]");
    fd = dial_and_say(&f, REQUEST, strlen(REQUEST));
    lowest = dup(fd);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = (rlim_t)lowest, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    WAIT(&f, listener_counts(f.listener).exhausted == 1);
    /* It does not spin: the next attempts come with the timer. */
    while (listener_counts(f.listener).exhausted < 3) {
        uv_run(&f.loop, UV_RUN_ONCE);
        assert_true(++turns < 20);
    }
    assert_int_equal(f.greeted, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    clock_ahead_ms = 1000;
    WAIT(&f, f.greeted == 1);
    close(fd);
    fixture_end(&f);
}

static void an_address_that_cannot_be_had_is_an_error(void **state)
{
    static const char *const bad[] = {
        "",        "8080",         ":8080",       "127.0.0.1:", "127.0.0.1:http",
        "host:80", "300.1.1.1:80", "127.0.0.1:x", "[::1:80",    "127.0.0.1"};
    struct listener *second = NULL;
    struct config *c = config_of("[]");
    struct fixture f;
    char listen[32];

    (void)state;
    fixture_begin(&f, "[]");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (listener_start(&f.loop, bad[i], c, on_greeted, &f, &second) != -EINVAL)
            fail_msg("taken: %s", bad[i]);
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", f.port);
    assert_int_equal(listener_start(&f.loop, listen, c, on_greeted, &f, &second), -EADDRINUSE);
    assert_null(second);
    listener_close(NULL);
    config_unref(c);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_head_is_greeted_with_what_follows_it),
        cmocka_unit_test(a_head_may_come_byte_by_byte),
        cmocka_unit_test(a_proxy_header_in_pieces_names_the_client),
        cmocka_unit_test(a_trusted_proxy_may_use_the_header_the_field_or_neither),
        cmocka_unit_test(a_stranger_may_not_say_who_it_is),
        cmocka_unit_test(trust_changes_with_a_reload),
        cmocka_unit_test(what_is_no_request_is_answered_and_closed),
        cmocka_unit_test(a_refused_client_that_stays_is_cut_without_a_second_answer),
        cmocka_unit_test(a_broken_proxy_header_is_answered_and_closed),
        cmocka_unit_test(the_limit_of_a_head_is_exact),
        cmocka_unit_test(a_head_without_end_is_refused_at_its_limit),
        cmocka_unit_test(a_head_that_takes_too_long_is_refused),
        cmocka_unit_test(a_client_that_leaves_early_is_forgotten),
        cmocka_unit_test(connections_without_a_head_go_with_the_listener),
        cmocka_unit_test(the_oldest_without_a_head_gives_way),
        cmocka_unit_test(a_lack_of_descriptors_is_waited_out),
        cmocka_unit_test(an_address_that_cannot_be_had_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
