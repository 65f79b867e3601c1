/* test_redis_link_faults.c - what goes wrong between us and Redis: a real Redis that is killed or stopped,
 * ports that refuse, reset or swallow, servers that say nothing or nonsense, names that do not resolve. Each
 * attempt must end in exactly one `down`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/support/link_probe.h"
#include "tests/support/private_redis.h"

#include <dlfcn.h>
#include <netdb.h>
#include <semaphore.h>

/* ---- the resolver of this program: two names of our own, everything else is the C library's ---- */

static sem_t slow_lookup; /* slow.test answers when it is posted */

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(
            RTLD_NEXT, "getaddrinfo");
    int r;

    if (name && strcmp(name, "slow.test") == 0) {
        while (sem_wait(&slow_lookup) < 0)
            ;
        return real("127.0.0.1", service, hints, found);
    }
    if (!name || strcmp(name, "two.test") != 0)
        return real(name, service, hints, found);
    r = real("127.0.0.9", service, hints, found);
    return r ? r : real("127.0.0.1", service, hints, &(*found)->ai_next);
}

/* ---- a server on the probe's loop that is not Redis ---- */

enum fake_mode { FAKE_RESETS, FAKE_CLOSES, FAKE_IS_SILENT, FAKE_ANSWERS };

struct fake {
    uv_tcp_t listener;
    int port, accepted;
    enum fake_mode mode;
    const char *answers[4]; /* FAKE_ANSWERS: what the n-th connection gets for the first bytes it sends */
};

struct fake_client {
    uv_tcp_t tcp;
    const char *answer;
};

static void fake_client_closed(uv_handle_t *handle)
{
    free(container_of(handle, struct fake_client, tcp));
}

static void fake_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    static char bytes[4096];

    (void)handle;
    (void)size;
    *buf = uv_buf_init(bytes, sizeof(bytes));
}

static void fake_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct fake_client *c = container_of(stream, struct fake_client, tcp);

    (void)buf;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, fake_client_closed);
    } else if (n > 0 && c->answer) {
        uv_buf_t out = uv_buf_init((char *)(uintptr_t)c->answer, (unsigned)strlen(c->answer));

        assert_int_equal(uv_try_write(stream, &out, 1), strlen(c->answer));
        c->answer = NULL;
    }
}

static void fake_accept(uv_stream_t *listener, int status)
{
    struct fake *f = container_of(listener, struct fake, listener);
    struct fake_client *c = calloc(1, sizeof(*c));

    assert_int_equal(status, 0);
    assert_non_null(c);
    assert_int_equal(uv_tcp_init(listener->loop, &c->tcp), 0);
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&c->tcp), 0);
    if (f->mode == FAKE_ANSWERS && f->accepted < 4)
        c->answer = f->answers[f->accepted];
    f->accepted++;
    if (f->mode == FAKE_RESETS)
        assert_int_equal(uv_tcp_close_reset(&c->tcp, fake_client_closed), 0);
    else if (f->mode == FAKE_CLOSES)
        uv_close((uv_handle_t *)&c->tcp, fake_client_closed);
    else
        assert_int_equal(uv_read_start((uv_stream_t *)&c->tcp, fake_alloc, fake_read), 0);
}

/* A probe whose link (with `path` behind host and port, not started) leads to a fake server. */
static void fake_open(struct fake *f, struct link_probe *p, const char *userinfo, int connect_timeout_ms)
{
    char url[64];
    int fd = private_bound_socket(&f->port);

    snprintf(url, sizeof(url), "redis://%s127.0.0.1:%d", userinfo, f->port);
    probe_open(p,
               &(struct redis_link_conf){.url = url, .name = "n", .connect_timeout_ms = connect_timeout_ms});
    assert_int_equal(uv_tcp_init(&p->loop, &f->listener), 0);
    assert_int_equal(uv_tcp_open(&f->listener, fd), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&f->listener, 16, fake_accept), 0);
}

static void fake_done(struct fake *f, struct link_probe *p)
{
    uv_close((uv_handle_t *)&f->listener, NULL);
    probe_done(p);
}

/* A listener whose queue is full: Linux drops further SYNs, and a connect to it hangs. */
struct swallower {
    int listener, queued[4];
};

static void swallower_open(struct swallower *s, const char *address, int *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    socklen_t len = sizeof(in);

    inet_pton(AF_INET, address, &in.sin_addr);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(getsockname(s->listener, (struct sockaddr *)&in, &len), 0);
    assert_int_equal(listen(s->listener, 0), 0);
    *port = ntohs(in.sin_port);
    for (size_t i = 0; i < ARRAY_LEN(s->queued); i++) {
        s->queued[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(s->queued[i], (struct sockaddr *)&in, sizeof(in));
    }
}

static void swallower_done(struct swallower *s)
{
    close(s->listener);
    for (size_t i = 0; i < ARRAY_LEN(s->queued); i++)
        close(s->queued[i]);
}

/* ---- attempts that fail ---- */

static void refused_port_gives_one_down_per_attempt_with_growing_waits(void **state)
{
    static const int ceilings[] = {100, 200, 400, 800};
    struct link_probe p;
    int port, fd = private_bound_socket(&port);

    (void)state;
    probe_start(&p, port, "");
    assert_int_equal(p.downs, 0); /* never inside the call, although the kernel knows at once */
    for (int i = 0; i < 4; i++) {
        WAIT_FOR(&p, p.downs == i + 1);
        assert_int_equal(p.down_error, -ECONNREFUSED);
        assert_non_null(strstr(p.down_detail, "127.0.0.1"));
        assert_in_range(p.retry_ms, 1, ceilings[i]);
    }
    assert_int_equal(p.ups, 0);
    probe_done(&p);
    close(fd);
}

static void expect_three_downs(enum fake_mode mode)
{
    struct fake f = {.mode = mode};
    struct link_probe p;

    fake_open(&f, &p, "", 0);
    redis_link_start(p.link);
    for (int i = 1; i <= 3; i++) {
        WAIT_FOR(&p, p.downs == i);
        assert_int_equal(f.accepted, i);
        assert_int_equal(p.down_error, -ECONNRESET);
    }
    assert_int_equal(p.ups, 0);
    fake_done(&f, &p);
}

static void server_that_resets_or_closes_at_once_gives_one_down_per_attempt(void **state)
{
    (void)state;
    expect_three_downs(FAKE_RESETS);
    expect_three_downs(FAKE_CLOSES);
}

static void server_that_accepts_and_never_answers_is_given_up_in_time(void **state)
{
    struct fake f = {.mode = FAKE_IS_SILENT};
    struct link_probe p;
    int64_t begin;

    (void)state;
    fake_open(&f, &p, "", 300);
    begin = clock_mono_ms();
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_in_range(clock_mono_ms() - begin, 290, 1300);
    assert_int_equal(p.down_error, -ETIMEDOUT);
    WAIT_FOR(&p, p.downs == 2);
    assert_int_equal(f.accepted, 2);
    assert_int_equal(p.ups, 0);
    fake_done(&f, &p);
}

static void connect_that_hangs_is_given_up_in_time(void **state)
{
    struct swallower s;
    struct link_probe p;
    char url[64];
    int port = 0;
    int64_t begin;

    (void)state;
    swallower_open(&s, "127.0.0.1", &port);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%d", port);
    probe_open(&p, &(struct redis_link_conf){.url = url, .connect_timeout_ms = 300});
    begin = clock_mono_ms();
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_in_range(clock_mono_ms() - begin, 290, 1300);
    assert_int_equal(p.down_error, -ETIMEDOUT);
    assert_non_null(strstr(p.down_detail, "connect to"));
    probe_done(&p);
    swallower_done(&s);
}

static void redis_that_is_loading_is_tried_again(void **state)
{
    struct fake f = {
        .mode = FAKE_ANSWERS,
        .answers = {"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", "+OK\r\n+PONG\r\n"}};
    struct link_probe p;

    (void)state;
    fake_open(&f, &p, "", 0);
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_RETRY);
    assert_non_null(strstr(p.down_detail, "LOADING"));
    assert_in_range(p.retry_ms, 1, 100);
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(p.downs, 1);
    fake_done(&f, &p);
}

static void redis_that_is_full_is_not_taken_for_a_wrong_password(void **state)
{
    struct fake f = {.mode = FAKE_ANSWERS, .answers = {"-ERR max number of clients reached\r\n"}};
    struct link_probe p;

    (void)state;
    fake_open(&f, &p, "user:pw@", 0);
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_RETRY);
    assert_in_range(p.retry_ms, 1, 100);
    fake_done(&f, &p);
}

static void expect_protocol_error(const char *answer, int ups, const char *part_of_detail)
{
    struct fake f = {.mode = FAKE_ANSWERS, .answers = {answer}};
    struct link_probe p;

    fake_open(&f, &p, "", 0);
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, -EPROTO);
    assert_int_equal(p.ups, ups);
    if (!strstr(p.down_detail, part_of_detail))
        fail_msg("%s", p.down_detail);
    assert_null(strpbrk(p.down_detail, "\r\n"));
    fake_done(&f, &p);
}

static void peer_that_is_not_a_redis_breaks_the_link_and_nothing_else(void **state)
{
    (void)state;
    expect_protocol_error("HTTP/1.1 400 Bad Request\r\n\r\n", 0, "not a Redis");
    expect_protocol_error("*-7\r\n", 0, "");
    expect_protocol_error("+OK\r\n$-5\r\n", 0, "");
    expect_protocol_error("+OK\r\n:1\r\n", 0, "PING");
    expect_protocol_error("+OK\r\n+PONG\r\n:1\r\n", 1, "unasked");
    expect_protocol_error("+OK\r\n+PONG\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n", 1, "unasked");
}

static void subscribe_in_up(struct link_probe *p)
{
    assert_int_equal(redis_link_subscribe(p->link, "a", 1), 0);
}

static void pushes_of_odd_shapes_break_a_subscribed_link(void **state)
{
    static const char *const pushes[] = {"*0\r\n",
                                         "*1\r\n$7\r\nmessage\r\n",
                                         "*3\r\n$7\r\nmessage\r\n$-1\r\n$1\r\nm\r\n",
                                         "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n:5\r\n",
                                         "*3\r\n:1\r\n$1\r\na\r\n$1\r\nm\r\n",
                                         "*2\r\n$9\r\nsubscribe\r\n$-1\r\n",
                                         "$-1\r\n",
                                         "+message\r\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pushes); i++) {
        char answer[128];
        struct fake f = {.mode = FAKE_ANSWERS, .answers = {answer}};
        struct link_probe p;

        snprintf(answer, sizeof(answer), "+OK\r\n+PONG\r\n%s", pushes[i]);
        fake_open(&f, &p, "", 0);
        p.on_up = subscribe_in_up;
        redis_link_start(p.link);
        WAIT_FOR(&p, p.downs == 1);
        assert_int_equal(p.ups, 1);
        assert_int_equal(p.down_error, -EPROTO);
        assert_int_equal(p.messages + p.subscribed, 0);
        fake_done(&f, &p);
    }
}

/* ---- names ---- */

static void name_that_does_not_resolve_gives_one_down_per_attempt(void **state)
{
    struct link_probe p;
    char url[80];

    (void)state;
    /* A label of 64 bytes: no resolver asks anybody about it (RFC 1035, 2.3.4). */
    strcpy(url, "redis://");
    memset(url + 8, 'x', 64);
    url[8 + 64] = '\0';
    probe_open(&p, &(struct redis_link_conf){.url = url});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 2);
    assert_int_equal(p.down_error, -EHOSTUNREACH);
    assert_non_null(strstr(p.down_detail, "resolve"));
    probe_done(&p);
}

static void addresses_of_a_name_are_tried_in_order(void **state)
{
    struct private_redis redis;
    struct swallower s;
    struct link_probe p;
    char url[64];

    (void)state;
    private_redis_start(&redis, NULL);
    snprintf(url, sizeof(url), "redis://two.test:%d", redis.port);
    /* The first one refuses. */
    probe_open(&p, &(struct redis_link_conf){.url = url});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    /* The first one swallows: it gets half of the time. */
    swallower_open(&s, "127.0.0.9", &redis.port);
    probe_open(&p, &(struct redis_link_conf){.url = url, .connect_timeout_ms = 600});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    swallower_done(&s);
    private_redis_stop(&redis);
}

static void look_up_that_hangs_is_given_up_in_time_and_does_not_hold_the_close(void **state)
{
    struct link_probe p;
    int64_t begin = clock_mono_ms();

    (void)state;
    probe_open(&p, &(struct redis_link_conf){.url = "redis://slow.test:1", .connect_timeout_ms = 200});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.downs == 1);
    assert_in_range(clock_mono_ms() - begin, 190, 1200);
    assert_int_equal(p.down_error, -ETIMEDOUT);
    assert_non_null(strstr(p.down_detail, "resolve"));
    WAIT_FOR(&p, p.downs == 2);
    probe_close(&p);
    WAIT_FOR(&p, p.closed);
    sem_post(&slow_lookup); /* both look-ups end after the link, and what they found is freed */
    sem_post(&slow_lookup);
    probe_done(&p);
}

/* ---- ends at every stage ---- */

static void close_at_stage(const char *url, bool (*reached)(struct link_probe *p), bool cut)
{
    struct link_probe p;

    probe_open(&p, &(struct redis_link_conf){.url = url});
    redis_link_start(p.link);
    while (!reached(&p))
        uv_run(&p.loop, UV_RUN_ONCE);
    if (cut) {
        redis_link_cut(p.link, "early");
        WAIT_FOR(&p, p.downs == 1);
        assert_int_equal(p.down_error, ERR_REDIS_DOWN);
    }
    probe_close(&p);
    sem_post(&slow_lookup);
    if (cut)
        sem_post(&slow_lookup);
    probe_done(&p);
    while (sem_trywait(&slow_lookup) == 0)
        ;
    assert_int_equal(p.ups, 0);
    assert_int_equal(p.downs, cut ? 1 : 0);
}

static bool at_once(struct link_probe *p)
{
    (void)p;
    return true;
}

static bool in_the_greeting(struct link_probe *p)
{
    return redis_link_outstanding(p->link) > 0;
}

static void link_may_be_closed_or_cut_at_every_stage_of_an_attempt(void **state)
{
    struct swallower s;
    char swallowed[64], silent[64];
    int port = 0, silent_port;
    int silent_fd = private_bound_socket(&silent_port);

    (void)state;
    swallower_open(&s, "127.0.0.1", &port);
    assert_int_equal(listen(silent_fd, 16), 0); /* the kernel accepts, nobody reads */
    snprintf(swallowed, sizeof(swallowed), "redis://127.0.0.1:%d", port);
    snprintf(silent, sizeof(silent), "redis://127.0.0.1:%d", silent_port);
    for (int cut = 0; cut <= 1; cut++) {
        close_at_stage("redis://slow.test:1", at_once, cut);
        close_at_stage(swallowed, at_once, cut);
        close_at_stage(silent, in_the_greeting, cut);
    }
    swallower_done(&s);
    close(silent_fd);
}

/* ---- a Redis that dies or stops ---- */

enum { COMMANDS = 1000 };

struct lost {
    struct link_probe *p;
    int calls[COMMANDS];
    int total, wrong;
};

struct lost_one {
    struct lost *all;
    int number;
};

static void lost_cb(void *user, int err, const struct redisReply *reply)
{
    struct lost_one *one = user;
    struct lost *l = one->all;

    /* In the order of the commands, each once, all before `down`. */
    if (err != ERR_REDIS_DOWN || reply || l->total != one->number || l->p->downs ||
        redis_link_is_up(l->p->link))
        l->wrong++;
    l->calls[one->number]++;
    l->total++;
}

static void killed_redis_fails_each_outstanding_command_once_and_comes_back(void **state)
{
    struct private_redis redis;
    struct link_probe p;
    struct lost l = {.p = &p};
    static struct lost_one ones[COMMANDS];

    (void)state;
    private_redis_start(&redis, NULL);
    probe_start_and_wait_up(&p, redis.port);
    private_redis_signal(&redis, SIGSTOP);
    for (int i = 0; i < COMMANDS; i++) {
        ones[i] = (struct lost_one){&l, i};
        assert_int_equal(redis_link_send(p.link, lost_cb, &ones[i], "INCR", "n", NULL), 0);
    }
    WAIT_FOR(&p, redis_link_unsent_bytes(p.link) == 0);
    assert_int_equal(redis_link_outstanding(p.link), COMMANDS);
    private_redis_kill(&redis);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(l.total, COMMANDS);
    assert_int_equal(l.wrong, 0);
    for (int i = 0; i < COMMANDS; i++)
        assert_int_equal(l.calls[i], 1);
    assert_int_equal(p.down_error, -ECONNRESET);
    assert_int_equal(redis_link_send(p.link, lost_cb, &ones[0], "PING", NULL), ERR_REDIS_DOWN);

    WAIT_FOR(&p, p.downs >= 3); /* nobody listens there now */
    assert_int_equal(p.down_error, -ECONNREFUSED);
    assert_true(private_redis_launch(&redis));
    WAIT_FOR(&p, p.ups == 2);
    assert_int_equal(ASK(&p, "PING").err, 0);
    assert_int_equal(l.total, COMMANDS);
    probe_done(&p);
    private_redis_stop(&redis);
}

static void start_with_silence(struct link_probe *p, int port, int silence_ms)
{
    char url[64];

    snprintf(url, sizeof(url), "redis://127.0.0.1:%d", port);
    probe_open(p, &(struct redis_link_conf){.url = url, .silence_ms = silence_ms});
    redis_link_start(p->link);
    WAIT_FOR(p, p->ups == 1);
}

static void stopped_redis_is_cut_after_the_silence(void **state)
{
    struct private_redis redis;
    struct link_probe p;
    struct answer a = {0}, b = {0};
    int64_t begin;

    (void)state;
    private_redis_start(&redis, NULL);
    start_with_silence(&p, redis.port, 400);
    (void)ASK(&p, "PING"); /* the watchdog has been running for an answered one */
    private_redis_signal(&redis, SIGSTOP);
    begin = clock_mono_ms();
    assert_int_equal(redis_link_send(p.link, answer_cb, &a, "PING", NULL), 0);
    assert_int_equal(redis_link_send(p.link, answer_cb, &b, "PING", NULL), 0);
    WAIT_FOR(&p, p.downs == 1);
    assert_in_range(clock_mono_ms() - begin, 400, 1400);
    assert_int_equal(p.down_error, -ETIMEDOUT);
    assert_int_equal(a.calls + b.calls, 2);
    assert_int_equal(a.err, ERR_REDIS_DOWN);
    private_redis_signal(&redis, SIGCONT);
    WAIT_FOR(&p, p.ups == 2);
    probe_done(&p);
    private_redis_stop(&redis);
}

static void run_for(struct link_probe *p, int ms)
{
    int64_t end = clock_mono_ms() + ms;

    while (clock_mono_ms() < end)
        uv_run(&p->loop, UV_RUN_ONCE);
}

static void neither_an_idle_link_nor_a_pause_of_our_own_process_is_silence(void **state)
{
    struct private_redis redis;
    struct link_probe p;
    struct answer a = {0};

    (void)state;
    private_redis_start(&redis, NULL);
    start_with_silence(&p, redis.port, 150);
    (void)ASK(&p, "PING");
    private_redis_signal(&redis, SIGSTOP);
    run_for(&p, 500); /* nothing is asked */
    assert_int_equal(p.downs, 0);
    private_redis_signal(&redis, SIGCONT);

    assert_int_equal(redis_link_send(p.link, answer_cb, &a, "PING", NULL), 0);
    WAIT_FOR(&p, redis_link_unsent_bytes(p.link) == 0);
    poll(NULL, 0, 600); /* Redis answers meanwhile, and we do not look */
    WAIT_FOR(&p, a.calls);
    assert_int_equal(a.err, 0);
    run_for(&p, 300);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    private_redis_stop(&redis);
}

static void long_queue_that_is_being_answered_is_not_silence(void **state)
{
    struct private_redis redis;
    struct link_probe p;
    struct answer a[30] = {0};
    char padding[40001];

    (void)state;
    memset(padding, 'p', sizeof(padding) - 1);
    padding[sizeof(padding) - 1] = '\0';
    private_redis_start(&redis, "--enable-debug-command", "yes", NULL);
    start_with_silence(&p, redis.port, 200);
    /* The padding ends what Redis reads in one piece: it writes answers only when it has executed all of a
     * piece. */
    for (size_t i = 0; i < ARRAY_LEN(a); i++) {
        assert_int_equal(redis_link_send(p.link, NULL, NULL, "DEBUG", "SLEEP", "0.03", NULL), 0);
        assert_int_equal(redis_link_send(p.link, answer_cb, &a[i], "ECHO", padding, NULL), 0);
    }
    WAIT_FOR(&p, a[ARRAY_LEN(a) - 1].calls);
    assert_int_equal(a[ARRAY_LEN(a) - 1].err, 0);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
    private_redis_stop(&redis);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_port_gives_one_down_per_attempt_with_growing_waits),
        cmocka_unit_test(server_that_resets_or_closes_at_once_gives_one_down_per_attempt),
        cmocka_unit_test(server_that_accepts_and_never_answers_is_given_up_in_time),
        cmocka_unit_test(connect_that_hangs_is_given_up_in_time),
        cmocka_unit_test(redis_that_is_loading_is_tried_again),
        cmocka_unit_test(redis_that_is_full_is_not_taken_for_a_wrong_password),
        cmocka_unit_test(peer_that_is_not_a_redis_breaks_the_link_and_nothing_else),
        cmocka_unit_test(pushes_of_odd_shapes_break_a_subscribed_link),
        cmocka_unit_test(name_that_does_not_resolve_gives_one_down_per_attempt),
        cmocka_unit_test(addresses_of_a_name_are_tried_in_order),
        cmocka_unit_test(look_up_that_hangs_is_given_up_in_time_and_does_not_hold_the_close),
        cmocka_unit_test(link_may_be_closed_or_cut_at_every_stage_of_an_attempt),
        cmocka_unit_test(killed_redis_fails_each_outstanding_command_once_and_comes_back),
        cmocka_unit_test(stopped_redis_is_cut_after_the_silence),
        cmocka_unit_test(neither_an_idle_link_nor_a_pause_of_our_own_process_is_silence),
        cmocka_unit_test(long_queue_that_is_being_answered_is_not_silence),
    };

    if (sem_init(&slow_lookup, 0, 0) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
