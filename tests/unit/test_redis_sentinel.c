/* test_redis_sentinel.c - a link that finds its primary through sentinels: real sentinels, a real Redis that
 * is demoted and promoted by hand. A whole failover is in tests/integration/test_sentinel.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/support/link_probe.h"
#include "tests/support/private_redis.h"

static struct private_redis redis, other, sentinel, locked;

/* A sentinel rewrites its configuration, so that is a file, and the first argument. */
static void sentinel_start(struct private_redis *s, const char *more)
{
    for (int i = 0; i < 10; i++) {
        char path[128];
        FILE *f;

        memset(s, 0, sizeof(*s));
        strcpy(s->dir, "/tmp/event-fleet-redis-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        close(private_bound_socket(&s->port));
        snprintf(path, sizeof(path), "%s/sentinel.conf", s->dir);
        f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f,
                "port %d\nbind 127.0.0.1\ndir %s\nlogfile redis.log\n"
                "sentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 60000\n%s\n",
                s->port, s->dir, redis.port, more);
        fclose(f);
        s->pid = fork();
        assert_true(s->pid >= 0);
        if (s->pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            execlp("redis-server", "redis-server", path, "--sentinel", (char *)NULL);
            _exit(127);
        }
        for (int n = 0; n < 500; n++) {
            if (private_redis_answers(s->port))
                return;
            if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
                break;
            poll(NULL, 0, 10);
        }
        s->pid = 0;
    }
    fail_msg("no sentinel starts; see %s/redis.log", s->dir);
}

static void sentinel_stop(struct private_redis *s)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/sentinel.conf", s->dir);
    unlink(path);
    private_redis_stop(s);
}

static int start_all(void **state)
{
    (void)state;
    private_redis_start(&redis, NULL);
    private_redis_start(&other, NULL);
    sentinel_start(&sentinel, "");
    sentinel_start(&locked, "requirepass \"s/cret\"");
    return 0;
}

static int stop_all(void **state)
{
    (void)state;
    sentinel_stop(&sentinel);
    sentinel_stop(&locked);
    private_redis_stop(&redis);
    private_redis_stop(&other);
    return 0;
}

/* A command to a server, on a link of its own. */
#define TELL(port, ...)                                    \
    do {                                                   \
        struct link_probe tell_;                           \
        probe_start_and_wait_up(&tell_, (port));           \
        assert_int_equal(ASK(&tell_, __VA_ARGS__).err, 0); \
        probe_done(&tell_);                                \
    } while (0)

/* redis+sentinel://<places>/main<rest> */
static void probe_find(struct link_probe *p, const char *places, const char *rest)
{
    char url[256];

    snprintf(url, sizeof(url), "redis+sentinel://%s/%s", places, rest);
    probe_open(p, &(struct redis_link_conf){.url = url, .name = "unit test", .connect_timeout_ms = 3000});
    redis_link_start(p->link);
}

static const char *place(const struct private_redis *s)
{
    static char text[2][32];
    static int n;

    n = !n;
    snprintf(text[n], sizeof(text[n]), "127.0.0.1:%d", s->port);
    return text[n];
}

static void link_is_connected_to_the_primary_that_a_sentinel_names(void **state)
{
    struct link_probe p;

    (void)state;
    probe_find(&p, place(&sentinel), "main/2");
    WAIT_FOR(&p, p.ups == 1);
    assert_true(redis_link_has_sentinels(p.link));
    assert_int_equal(ASK(&p, "SET", "k", "v").err, 0);
    assert_non_null(strstr(ASK(&p, "CLIENT", "INFO").text, "db=2"));
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    TELL(redis.port, "FLUSHALL");
}

static void dead_and_silent_sentinels_are_passed_over(void **state)
{
    int dead_port, silent_port;
    int dead = private_bound_socket(&dead_port), silent = private_bound_socket(&silent_port);
    struct link_probe p;
    char places[128];

    (void)state;
    assert_int_equal(listen(silent, 16), 0); /* the kernel accepts, nobody reads */
    snprintf(places, sizeof(places), "127.0.0.1:%d,127.0.0.1:%d,%s", dead_port, silent_port,
             place(&sentinel));
    probe_find(&p, places, "main/0");
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    close(dead);
    close(silent);
}

static void no_sentinel_in_reach_is_an_error_that_names_the_last_one(void **state)
{
    int port, fd = private_bound_socket(&port);
    struct link_probe p;
    char places[64];

    (void)state;
    snprintf(places, sizeof(places), "127.0.0.1:%d", port);
    probe_find(&p, places, "main");
    WAIT_FOR(&p, p.downs == 6);
    assert_int_equal(p.down_error, -ECONNREFUSED);
    assert_non_null(strstr(p.down_detail, places));
    assert_in_range(p.retry_ms, 0, 2000);
    assert_int_equal(p.ups, 0);
    probe_done(&p);
    close(fd);
}

static void unknown_primary_is_an_error_that_names_it(void **state)
{
    struct link_probe p;

    (void)state;
    probe_find(&p, place(&sentinel), "%6dine/0");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_REPLY);
    assert_non_null(strstr(p.down_detail, "no primary named mine"));
    probe_done(&p);
}

static void sentinel_password_is_used_for_sentinels_only(void **state)
{
    struct link_probe p;

    (void)state;
    probe_find(&p, place(&locked), "main/0?sentinel_password=s%2Fcret");
    WAIT_FOR(&p, p.ups == 1);
    probe_done(&p);
    probe_find(&p, place(&locked), "main/0?sentinel_password=s%2Fcret&sentinel_user=default");
    WAIT_FOR(&p, p.ups == 1);
    probe_done(&p);
    probe_find(&p, place(&locked), "main/0?sentinel_password=wrong");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_AUTH);
    assert_null(strstr(p.down_detail, "wrong"));
    probe_done(&p);
    probe_find(&p, place(&locked), "main/0");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_AUTH);
    probe_done(&p);
}

static void wrong_sentinel_does_not_hold_us_because_the_next_one_is_asked(void **state)
{
    struct link_probe p;
    char places[128], port[16];

    (void)state;
    /* It names a port at which nobody listens. */
    snprintf(port, sizeof(port), "%d", other.port);
    private_redis_kill(&other);
    TELL(sentinel.port, "SENTINEL", "MONITOR", "second", "127.0.0.1", port, "1");
    snprintf(places, sizeof(places), "127.0.0.1:%d,127.0.0.1:%d", sentinel.port, redis.port);
    probe_find(&p, places, "second");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, -ECONNREFUSED);
    /* The next one is none, and then the first is asked again. */
    assert_true(private_redis_launch(&other));
    WAIT_FOR(&p, p.ups == 1);
    probe_done(&p);
    TELL(sentinel.port, "SENTINEL", "REMOVE", "second");
}

static void replica_is_refused_until_it_is_promoted(void **state)
{
    struct link_probe p;

    (void)state;
    TELL(redis.port, "REPLICAOF", "127.0.0.1", "1");
    probe_find(&p, place(&sentinel), "main/0");
    WAIT_FOR(&p, p.downs == 2);
    assert_int_equal(p.down_error, ERR_REDIS_READONLY);
    assert_non_null(strstr(p.down_detail, "slave"));
    assert_int_equal(p.ups, 0);
    TELL(redis.port, "REPLICAOF", "NO", "ONE");
    WAIT_FOR(&p, p.ups == 1);
    probe_done(&p);
}

static void replica_is_accepted_from_a_plain_url(void **state)
{
    struct link_probe p;

    (void)state;
    TELL(redis.port, "REPLICAOF", "127.0.0.1", "1");
    probe_start_and_wait_up(&p, redis.port);
    assert_false(redis_link_has_sentinels(p.link));
    assert_int_equal(ASK(&p, "SET", "k", "v").err, ERR_REDIS_READONLY);
    assert_true(redis_link_is_up(p.link));
    redis_link_check_primary(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_READONLY);
    TELL(redis.port, "REPLICAOF", "NO", "ONE");
    probe_done(&p);
}

static void readonly_reply_breaks_the_link_after_its_callback(void **state)
{
    struct link_probe p;
    struct answer a = {0}, b = {0};

    (void)state;
    probe_find(&p, place(&sentinel), "main/0");
    WAIT_FOR(&p, p.ups == 1);
    TELL(redis.port, "REPLICAOF", "127.0.0.1", "1");
    assert_int_equal(redis_link_send(p.link, answer_cb, &a, "SET", "k", "v", NULL), 0);
    assert_int_equal(redis_link_send(p.link, answer_cb, &b, "BLPOP", "nothing", "0", NULL), 0);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, ERR_REDIS_READONLY);
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.err, ERR_REDIS_DOWN);
    assert_int_equal(p.down_error, ERR_REDIS_READONLY);
    TELL(redis.port, "REPLICAOF", "NO", "ONE");
    WAIT_FOR(&p, p.ups == 2);
    assert_int_equal(ASK(&p, "SET", "k", "v").err, 0);
    probe_done(&p);
}

static void subscriber_moves_when_the_sentinels_name_another_primary(void **state)
{
    struct link_probe p;
    char port[16], old_port[16];

    (void)state;
    snprintf(port, sizeof(port), "%d", other.port);
    snprintf(old_port, sizeof(old_port), "%d", redis.port);
    probe_find(&p, place(&sentinel), "main/0");
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(redis_link_subscribe(p.link, "c", 1), 0);
    WAIT_FOR(&p, p.subscribed == 1);
    /* The same primary: nothing happens, however often it is asked. */
    for (int i = 0; i < 5; i++)
        redis_link_check_primary(p.link);
    TELL(redis.port, "PUBLISH", "c", "1");
    WAIT_FOR(&p, p.messages == 1);
    assert_int_equal(p.downs, 0);

    TELL(sentinel.port, "SENTINEL", "REMOVE", "main");
    TELL(sentinel.port, "SENTINEL", "MONITOR", "main", "127.0.0.1", port, "1");
    while (p.downs == 0) {
        redis_link_check_primary(p.link);
        uv_run(&p.loop, UV_RUN_ONCE);
    }
    assert_int_equal(p.down_error, ERR_REDIS_READONLY);
    assert_non_null(strstr(p.down_detail, port));
    WAIT_FOR(&p, p.ups == 2);
    assert_int_equal(redis_link_subscribe(p.link, "c", 1), 0);
    WAIT_FOR(&p, p.subscribed == 2);
    TELL(other.port, "PUBLISH", "c", "2");
    WAIT_FOR(&p, p.messages == 2);
    TELL(sentinel.port, "SENTINEL", "REMOVE", "main");
    TELL(sentinel.port, "SENTINEL", "MONITOR", "main", "127.0.0.1", old_port, "1");
    probe_done(&p);
}

static void sentinels_that_are_gone_do_not_break_a_link_that_works(void **state)
{
    struct link_probe p;

    (void)state;
    probe_find(&p, place(&locked), "main/0?sentinel_password=s%2Fcret");
    WAIT_FOR(&p, p.ups == 1);
    private_redis_kill(&locked);
    for (int i = 0; i < 20; i++) {
        redis_link_check_primary(p.link);
        assert_int_equal(ASK(&p, "PING").err, 0);
    }
    assert_int_equal(p.downs, 0);
    probe_done(&p);
}

static void link_may_be_closed_and_cut_while_a_sentinel_is_asked(void **state)
{
    int port, fd = private_bound_socket(&port);
    struct link_probe p;
    char places[64];

    (void)state;
    assert_int_equal(listen(fd, 16), 0);
    snprintf(places, sizeof(places), "127.0.0.1:%d", port);
    probe_find(&p, places, "main");
    for (int i = 0; i < 3; i++)
        uv_run(&p.loop, UV_RUN_ONCE);
    redis_link_cut(p.link, "the test says so");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_DOWN);
    WAIT_FOR(&p, p.downs == 2); /* the next attempt ran out of time */
    assert_int_equal(p.down_error, -ETIMEDOUT);
    probe_done(&p);

    probe_find(&p, places, "main");
    for (int i = 0; i < 3; i++)
        uv_run(&p.loop, UV_RUN_ONCE);
    probe_done(&p);

    probe_find(&p, place(&sentinel), "main");
    WAIT_FOR(&p, p.ups == 1);
    redis_link_check_primary(p.link);
    probe_done(&p);
    close(fd);
}

/* ---- a sentinel that talks nonsense ---- */

struct liar {
    int fd, port;
    pid_t pid;
};

/* Answers every connection's first bytes with `answer`, in a process of its own. */
static void liar_start(struct liar *l, const char *answer)
{
    l->fd = private_bound_socket(&l->port);
    assert_int_equal(listen(l->fd, 16), 0);
    l->pid = fork();
    assert_true(l->pid >= 0);
    if (l->pid)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        char bytes[256];
        int c = accept(l->fd, NULL, NULL);

        if (c >= 0 && recv(c, bytes, sizeof(bytes), 0) > 0)
            (void)!write(c, answer, strlen(answer));
        close(c);
    }
}

static void answers_that_are_no_address_are_refused(void **state)
{
    static const char *const answers[] = {
        "*2\r\n$1\r\na\r\n$1\r\n0\r\n",
        "*2\r\n$1\r\na\r\n$5\r\n65536\r\n",
        "*2\r\n$0\r\n\r\n$1\r\n1\r\n",
        "*2\r\n$2\r\na\n\r\n$1\r\n1\r\n",
        "*1\r\n$1\r\na\r\n",
        "*0\r\n",
        "$1\r\na\r\n",
        "+OK\r\n",
        ":1\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "*2\r\n*0\r\n*0\r\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct link_probe p;
        struct liar l;
        char places[64];

        liar_start(&l, answers[i]);
        snprintf(places, sizeof(places), "127.0.0.1:%d", l.port);
        probe_find(&p, places, "main");
        WAIT_FOR(&p, p.downs == 1);
        if (p.down_error != -EPROTO)
            fail_msg("%s: %d (%s)", answers[i], p.down_error, p.down_detail);
        probe_done(&p);
        kill(l.pid, SIGKILL);
        waitpid(l.pid, NULL, 0);
        close(l.fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(link_is_connected_to_the_primary_that_a_sentinel_names),
        cmocka_unit_test(dead_and_silent_sentinels_are_passed_over),
        cmocka_unit_test(no_sentinel_in_reach_is_an_error_that_names_the_last_one),
        cmocka_unit_test(unknown_primary_is_an_error_that_names_it),
        cmocka_unit_test(sentinel_password_is_used_for_sentinels_only),
        cmocka_unit_test(wrong_sentinel_does_not_hold_us_because_the_next_one_is_asked),
        cmocka_unit_test(replica_is_refused_until_it_is_promoted),
        cmocka_unit_test(replica_is_accepted_from_a_plain_url),
        cmocka_unit_test(readonly_reply_breaks_the_link_after_its_callback),
        cmocka_unit_test(subscriber_moves_when_the_sentinels_name_another_primary),
        cmocka_unit_test(answers_that_are_no_address_are_refused),
        cmocka_unit_test(link_may_be_closed_and_cut_while_a_sentinel_is_asked),
        cmocka_unit_test(sentinels_that_are_gone_do_not_break_a_link_that_works),
    };

    return cmocka_run_group_tests(tests, start_all, stop_all);
}
