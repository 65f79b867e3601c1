/* test_redis_link.c - a link against a real Redis: greeting, commands, scripts, subscriptions, and the end of
 * a link inside each of its callbacks. What goes wrong on the way is in test_redis_link_faults.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/support/link_probe.h"
#include "tests/support/private_redis.h"

static struct private_redis redis;

static int start_redis(void **state)
{
    (void)state;
    private_redis_start(&redis, NULL);
    return 0;
}

static int stop_redis(void **state)
{
    (void)state;
    private_redis_stop(&redis);
    return 0;
}

/* ---- commands ---- */

static void command_carries_binary_arguments_and_empty_ones(void **state)
{
    static const char key[] = "k\0\r\n$3 \xff", value[] = "\0\1\xc3\r\n";
    const char *set[] = {"SET", key, value}, *get[] = {"GET", key};
    const size_t set_lens[] = {3, sizeof(key) - 1, sizeof(value) - 1}, get_lens[] = {3, sizeof(key) - 1};
    struct link_probe p;
    struct answer a = {0}, b = {0};

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    assert_int_equal(redis_link_command(p.link, answer_cb, &a, 3, set, set_lens), 0);
    assert_int_equal(redis_link_command(p.link, answer_cb, &b, 2, get, get_lens), 0);
    assert_int_equal(a.calls, 0);
    assert_int_equal(redis_link_outstanding(p.link), 2);
    WAIT_FOR(&p, b.calls);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.kind, REPLY_STATUS);
    assert_string_equal(a.text, "OK");
    assert_int_equal(b.err, 0);
    assert_int_equal(b.len, sizeof(value) - 1);
    assert_memory_equal(b.text, value, sizeof(value) - 1);
    assert_int_equal(redis_link_outstanding(p.link), 0);

    a = ASK(&p, "SET", "empty", "");
    a = ASK(&p, "GET", "empty");
    assert_int_equal(a.kind, REPLY_STRING);
    assert_int_equal(a.len, 0);
    assert_int_equal(ASK(&p, "GET", "absent").kind, REPLY_NIL);
    assert_int_equal(ASK(&p, "STRLEN", "empty").kind, REPLY_INTEGER);
    a = ASK(&p, "MGET", "empty", "absent");
    assert_int_equal(a.kind, REPLY_ARRAY);
    assert_int_equal(a.count, 2);
    assert_int_equal(redis_link_send(p.link, NULL, NULL, "SET", "number", "-17", NULL), 0);
    assert_int_equal(ASK(&p, "GET", "number").integer, -17);
    probe_done(&p);
}

struct order {
    int64_t next;
    int64_t wrong;
};

static void order_cb(void *user, int err, const struct redisReply *reply)
{
    struct order *o = user;

    if (err || redis_reply_int(reply) != o->next)
        o->wrong++;
    o->next++;
}

static void pipeline_of_10000_commands_keeps_its_order_and_leaves_in_one_write(void **state)
{
    struct order o = {.next = 1};
    struct link_probe p;

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(redis_link_send(p.link, order_cb, &o, "INCR", "pipeline", NULL), 0);
    assert_int_equal(redis_link_unsent_bytes(p.link),
                     10000 * strlen("*2\r\n$4\r\nINCR\r\n$8\r\npipeline\r\n"));
    assert_int_equal(redis_link_outstanding(p.link), 10000);
    WAIT_FOR(&p, o.next == 10001);
    assert_int_equal(o.wrong, 0);
    assert_int_equal(redis_link_unsent_bytes(p.link), 0);
    assert_int_equal(p.downs, 0);
    probe_done(&p);
}

struct chain {
    struct link_probe *p;
    int left;
};

static void chain_cb(void *user, int err, const struct redisReply *reply)
{
    struct chain *c = user;

    (void)reply;
    assert_int_equal(err, 0);
    if (c->left && --c->left)
        assert_int_equal(redis_link_send(c->p->link, chain_cb, c, "PING", NULL), 0);
}

static void callbacks_may_send_commands(void **state)
{
    struct link_probe p;
    struct chain c = {&p, 200};

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    assert_int_equal(redis_link_send(p.link, chain_cb, &c, "PING", NULL), 0);
    WAIT_FOR(&p, c.left == 0);
    probe_done(&p);
}

static void value_larger_than_all_socket_buffers_goes_there_and_back(void **state)
{
    const size_t size = 24u * 1024 * 1024;
    CLEANUP(freep) char *value = malloc(size);
    const char *argv[] = {"SET", "large", value};
    const size_t lens[] = {3, 5, size};
    struct link_probe p;
    struct answer a = {0}, b = {0};
    uint64_t before;

    (void)state;
    assert_non_null(value);
    for (size_t i = 0; i < size; i++)
        value[i] = (char)(i * 2654435761u >> 24);
    probe_start_and_wait_up(&p, redis.port);
    private_redis_signal(&redis, SIGSTOP);
    assert_int_equal(redis_link_command(p.link, answer_cb, &a, 3, argv, lens), 0);
    assert_int_equal(redis_link_send(p.link, answer_cb, &b, "GETRANGE", "large", "-100", "-1", NULL), 0);
    for (int i = 0; i < 20; i++)
        uv_run(&p.loop, UV_RUN_ONCE);
    assert_in_range(redis_link_unsent_bytes(p.link), 1, size - 1);
    private_redis_signal(&redis, SIGCONT);
    WAIT_FOR(&p, b.calls);
    assert_int_equal(a.err, 0);
    assert_memory_equal(b.text, value + size - 100, 100);

    before = redis_link_received_bytes(p.link);
    a = ASK(&p, "GET", "large");
    assert_int_equal(a.len, size);
    assert_memory_equal(a.text, value, 200);
    assert_int_equal(redis_link_received_bytes(p.link) - before, strlen("$25165824\r\n") + size + 2);
    (void)ASK(&p, "DEL", "large");
    probe_done(&p);
}

static void error_replies_arrive_with_their_codes(void **state)
{
    struct link_probe p;
    struct answer a;

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    (void)ASK(&p, "SET", "text", "x");
    a = ASK(&p, "LPUSH", "text", "y");
    assert_int_equal(a.kind, REPLY_ERROR);
    assert_int_equal(a.err, ERR_REDIS_WRONGTYPE);
    assert_int_equal(ASK(&p, "NOSUCHCOMMAND").err, ERR_REDIS_REPLY);
    assert_int_equal(ASK(&p, "XREADGROUP", "GROUP", "g", "c", "STREAMS", "nostream", ">").err,
                     ERR_REDIS_NOGROUP);
    assert_int_equal(ASK(&p, "XGROUP", "CREATE", "stream", "g", "0", "MKSTREAM").err, 0);
    assert_int_equal(ASK(&p, "XGROUP", "CREATE", "stream", "g", "0", "MKSTREAM").err, ERR_REDIS_REPLY);
    assert_int_equal(ASK(&p, "EVALSHA", "0000000000000000000000000000000000000000", "0").err,
                     ERR_REDIS_NOSCRIPT);
    assert_int_equal(ASK(&p, "CONFIG", "SET", "maxmemory", "1").err, 0);
    assert_int_equal(ASK(&p, "SET", "more", "x").err, ERR_REDIS_RETRY);
    assert_int_equal(ASK(&p, "EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "more").err,
                     ERR_REDIS_RETRY);
    assert_int_equal(ASK(&p, "CONFIG", "SET", "maxmemory", "0").err, 0);
    /* A primary that refuses connections: the link's own Redis turned into a replica. */
    assert_int_equal(ASK(&p, "REPLICAOF", "127.0.0.1", "1").err, 0);
    assert_int_equal(ASK(&p, "SET", "more", "x").err, ERR_REDIS_READONLY);
    assert_int_equal(ASK(&p, "EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "more").err,
                     ERR_REDIS_READONLY);
    assert_int_equal(ASK(&p, "CONFIG", "SET", "replica-serve-stale-data", "no").err, 0);
    assert_int_equal(ASK(&p, "GET", "more").err, ERR_REDIS_RETRY);
    assert_int_equal(ASK(&p, "CONFIG", "SET", "replica-serve-stale-data", "yes").err, 0);
    assert_int_equal(ASK(&p, "REPLICAOF", "NO", "ONE").err, 0);
    probe_done(&p);
}

static void script_is_loaded_and_its_errors_keep_their_codes(void **state)
{
    struct redis_script s;
    struct link_probe p;
    struct answer a = {0};

    (void)state;
    redis_script_init(&s, "if ARGV[1] == 'call' then return redis.call('LPUSH', KEYS[1], 'x') end\n"
                          "if ARGV[1] == 'pcall' then return redis.pcall('LPUSH', KEYS[1], 'x') end\n"
                          "if ARGV[1] == 'fault' then return nothing.here end\n"
                          "if ARGV[1] == 'ok' then return {KEYS[1], 7} end\n"
                          "return redis.error_reply(ARGV[1])");
    probe_start_and_wait_up(&p, redis.port);
    assert_int_equal(ASK(&p, "SCRIPT", "FLUSH").err, 0);
    (void)ASK(&p, "SET", "text", "x");
    assert_int_equal(ASK(&p, "EVALSHA", s.sha1, "1", "text", "ok").err, ERR_REDIS_NOSCRIPT);
    assert_int_equal(redis_link_script_load(p.link, &s, answer_cb, &a), 0);
    WAIT_FOR(&p, a.calls);
    assert_int_equal(a.err, 0);
    assert_string_equal(a.text, s.sha1);
    a = ASK(&p, "EVALSHA", s.sha1, "1", "text", "ok");
    assert_int_equal(a.count, 2);
    assert_int_equal(ASK(&p, "EVALSHA", s.sha1, "1", "text", "call").err, ERR_REDIS_WRONGTYPE);
    assert_int_equal(ASK(&p, "EVALSHA", s.sha1, "1", "text", "pcall").err, ERR_REDIS_WRONGTYPE);
    assert_int_equal(ASK(&p, "EVALSHA", s.sha1, "1", "text", "fault").err, ERR_REDIS_REPLY);
    a = ASK(&p, "EVALSHA", s.sha1, "1", "text", "FENCED gen 4");
    assert_int_equal(a.err, ERR_REDIS_FENCED);
    assert_string_equal(a.text, "FENCED gen 4");
    assert_int_equal(ASK(&p, "EVALSHA", s.sha1, "1", "text", "HOLE 3 5").err, ERR_REDIS_HOLE);
    probe_done(&p);
}

/* ---- greeting ---- */

static void name_is_set_and_its_spaces_are_replaced(void **state)
{
    struct link_probe p;

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    assert_string_equal(ASK(&p, "CLIENT", "GETNAME").text, "unit_test");
    probe_done(&p);
}

static void database_of_the_url_is_selected(void **state)
{
    struct link_probe three, zero;

    (void)state;
    probe_start(&three, redis.port, "/3");
    WAIT_FOR(&three, three.ups == 1);
    (void)ASK(&three, "SET", "only-in-3", "x");
    probe_start_and_wait_up(&zero, redis.port);
    assert_int_equal(ASK(&zero, "EXISTS", "only-in-3").integer, 0);
    assert_int_equal(ASK(&three, "EXISTS", "only-in-3").integer, 1);
    probe_done(&three);
    probe_done(&zero);
}

static void database_that_does_not_exist_is_said_and_retried_slowly(void **state)
{
    struct link_probe p;

    (void)state;
    probe_start(&p, redis.port, "/99");
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_REPLY);
    assert_non_null(strstr(p.down_detail, "SELECT"));
    assert_in_range(p.retry_ms, 5000, 10000);
    assert_int_equal(p.ups, 0);
    probe_done(&p);
}

static void try_login(int port, const char *userinfo, int expected_error, const char *expected_step)
{
    struct link_probe p;
    char url[128];

    snprintf(url, sizeof(url), "redis://%s127.0.0.1:%d", userinfo, port);
    probe_open(&p, &(struct redis_link_conf){.url = url});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.ups + p.downs == 1);
    if (expected_error) {
        assert_int_equal(p.downs, 1);
        assert_int_equal(p.down_error, expected_error);
        assert_in_range(p.retry_ms, 5000, 10000);
        assert_non_null(strstr(p.down_detail, expected_step));
        assert_null(strstr(p.down_detail, "s:e"));
    } else {
        assert_int_equal(p.ups, 1);
        assert_int_equal(ASK(&p, "GET", "x").err, 0);
    }
    probe_done(&p);
}

static void credentials_are_used_and_a_refusal_is_retried_slowly(void **state)
{
    struct private_redis guarded;

    (void)state;
    private_redis_start(&guarded, "--requirepass", "s:e/c@r%t", "--user", "fleet", "on", ">p%w", "~*", "&*",
                        "+@all", "--user", "narrow", "on", ">pw", "~*", "+get", "+auth", NULL);
    try_login(guarded.port, ":s%3Ae%2Fc%40r%25t@", 0, NULL);
    try_login(guarded.port, "default:s%3Ae%2Fc%40r%25t@", 0, NULL);
    try_login(guarded.port, "fleet:p%25w@", 0, NULL);
    try_login(guarded.port, "narrow:pw@", 0, NULL); /* neither PING nor CLIENT are allowed to it */
    try_login(guarded.port, ":wrong@", ERR_REDIS_AUTH, "AUTH: WRONGPASS");
    try_login(guarded.port, "fleet:s%3Ae%2Fc%40r%25t@", ERR_REDIS_AUTH, "AUTH: WRONGPASS");
    try_login(guarded.port, "nobody:pw@", ERR_REDIS_AUTH, "AUTH: WRONGPASS");
    try_login(guarded.port, "", ERR_REDIS_AUTH, "NOAUTH");
    private_redis_stop(&guarded);
    /* A password that this Redis does not want. */
    try_login(redis.port, ":x@", ERR_REDIS_AUTH, "AUTH");
}

static void channel_that_the_acl_refuses_breaks_the_link_with_auth(void **state)
{
    struct private_redis guarded;
    struct link_probe p;
    char url[64];

    (void)state;
    private_redis_start(&guarded, "--user", "narrow", "on", ">pw", "resetchannels", "&event:*", "+subscribe",
                        NULL);
    snprintf(url, sizeof(url), "redis://narrow:pw@localhost:%d", guarded.port);
    probe_open(&p, &(struct redis_link_conf){.url = url});
    redis_link_start(p.link);
    WAIT_FOR(&p, p.ups == 1);
    assert_int_equal(redis_link_subscribe(p.link, "event:a", 7), 0);
    WAIT_FOR(&p, p.subscribed == 1);
    assert_int_equal(redis_link_subscribe(p.link, "other", 5), 0);
    WAIT_FOR(&p, p.downs == 1);
    assert_int_equal(p.down_error, ERR_REDIS_AUTH);
    assert_non_null(strstr(p.down_detail, "NOPERM"));
    probe_done(&p);
    private_redis_stop(&guarded);
}

/* ---- subscriptions ---- */

static void subscribe(struct link_probe *p, const char *channel)
{
    assert_int_equal(redis_link_subscribe(p->link, channel, strlen(channel)), 0);
}

static void unsubscribe(struct link_probe *p, const char *channel)
{
    assert_int_equal(redis_link_unsubscribe(p->link, channel, strlen(channel)), 0);
}

/* Both links are on loops of their own; PUBLISH's answer is the number of subscribers that got it. */
static int64_t publish(struct link_probe *by, const char *channel, const char *payload)
{
    return ASK(by, "PUBLISH", channel, payload).integer;
}

static void messages_come_while_subscribed_and_only_then(void **state)
{
    struct link_probe sub, pub;

    (void)state;
    probe_start_and_wait_up(&sub, redis.port);
    probe_start_and_wait_up(&pub, redis.port);
    subscribe(&sub, "a");
    subscribe(&sub, "b");
    WAIT_FOR(&sub, sub.subscribed == 2);
    assert_int_equal(publish(&pub, "a", "one"), 1);
    WAIT_FOR(&sub, sub.messages == 1);
    assert_string_equal(sub.last_channel, "a");
    assert_string_equal(sub.last_payload, "one");
    unsubscribe(&sub, "a");
    WAIT_FOR(&sub, sub.unsubscribed == 1);
    assert_int_equal(publish(&pub, "a", "two"), 0);
    assert_int_equal(publish(&pub, "b", ""), 1);
    WAIT_FOR(&sub, sub.messages == 2);
    assert_int_equal(sub.last_payload_len, 0);

    unsubscribe(&sub, "b"); /* the last one: Redis leaves the subscribed mode */
    WAIT_FOR(&sub, sub.unsubscribed == 2);
    unsubscribe(&sub, "never"); /* unknown, and nothing is subscribed */
    WAIT_FOR(&sub, sub.unsubscribed == 3);
    assert_string_equal(sub.last_channel, "never");
    subscribe(&sub, "a");
    WAIT_FOR(&sub, sub.subscribed == 3);
    assert_int_equal(publish(&pub, "a", "three"), 1);
    WAIT_FOR(&sub, sub.messages == 3);
    assert_string_equal(sub.last_payload, "three");
    assert_int_equal(sub.downs + pub.downs, 0);
    probe_done(&sub);
    probe_done(&pub);
}

static void subscribing_and_unsubscribing_may_cross(void **state)
{
    struct link_probe sub, pub;

    (void)state;
    probe_start_and_wait_up(&sub, redis.port);
    probe_start_and_wait_up(&pub, redis.port);
    for (int i = 0; i < 50; i++) { /* in one write */
        subscribe(&sub, "x");
        unsubscribe(&sub, "x");
        unsubscribe(&sub, "y");
        subscribe(&sub, "x");
        subscribe(&sub, "x");
        unsubscribe(&sub, "x");
    }
    subscribe(&sub, "x");
    WAIT_FOR(&sub, sub.subscribed == 151);
    assert_int_equal(sub.unsubscribed, 150);
    assert_int_equal(publish(&pub, "x", "m"), 1);
    WAIT_FOR(&sub, sub.messages == 1);
    assert_int_equal(sub.downs, 0);
    probe_done(&sub);
    probe_done(&pub);
}

static void commands_before_the_first_subscribe_are_answered(void **state)
{
    struct link_probe p;
    struct answer a = {0};

    (void)state;
    probe_start_and_wait_up(&p, redis.port);
    /* An answer that looks like a message. */
    assert_int_equal(
        redis_link_send(p.link, answer_cb, &a, "EVAL", "return {'message', 'ch', 'x'}", "0", NULL), 0);
    subscribe(&p, "ch");
    WAIT_FOR(&p, p.subscribed == 1);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.count, 3);
    assert_int_equal(p.messages, 0);
    probe_done(&p);
}

static void one_hundred_thousand_channels_are_subscribed(void **state)
{
    enum { CHANNELS = 100000 };
    struct link_probe sub, pub;
    char name[32];

    (void)state;
    probe_start_and_wait_up(&sub, redis.port);
    probe_start_and_wait_up(&pub, redis.port);
    for (int i = 0; i < CHANNELS; i++) {
        snprintf(name, sizeof(name), "many:%d", i);
        subscribe(&sub, name);
    }
    WAIT_FOR(&sub, sub.subscribed == CHANNELS);
    assert_string_equal(sub.last_channel, "many:99999");
    assert_int_equal(publish(&pub, "many:4711", "hit"), 1);
    WAIT_FOR(&sub, sub.messages == 1);
    assert_string_equal(sub.last_channel, "many:4711");
    probe_done(&sub);
    probe_done(&pub);
}

static void received_bytes_are_what_redis_sent(void **state)
{
    enum { MESSAGES = 5000 };
    const size_t frame = strlen("*3\r\n$7\r\nmessage\r\n$1\r\nv\r\n$300\r\n") + 300 + 2;
    struct link_probe sub, pub;
    char payload[301];
    uint64_t before;

    (void)state;
    memset(payload, 'p', 300);
    payload[300] = '\0';
    probe_start_and_wait_up(&sub, redis.port);
    probe_start_and_wait_up(&pub, redis.port);
    subscribe(&sub, "v");
    WAIT_FOR(&sub, sub.subscribed == 1);
    before = redis_link_received_bytes(sub.link);
    for (int i = 0; i < MESSAGES; i++)
        assert_int_equal(redis_link_send(pub.link, NULL, NULL, "PUBLISH", "v", payload, NULL), 0);
    WAIT_FOR(&pub, redis_link_outstanding(pub.link) == 0);
    WAIT_FOR(&sub, sub.messages == MESSAGES);
    assert_int_equal(redis_link_received_bytes(sub.link) - before, MESSAGES * frame);
    probe_done(&sub);
    probe_done(&pub);
}

/* ---- the end, inside each callback ---- */

struct ending {
    struct link_probe p;
    enum probe_action action;
    int answered, cancelled, broken;
};

static void ending_cb(void *user, int err, const struct redisReply *reply)
{
    struct ending *e = user;

    if (err == -ECANCELED || err == ERR_REDIS_DOWN) {
        assert_null(reply);
        assert_int_equal(e->p.closed, 0);
        if (err == -ECANCELED)
            e->cancelled++;
        else
            e->broken++;
        assert_int_equal(redis_link_send(e->p.link, ending_cb, e, "PING", NULL), ERR_REDIS_DOWN);
        return;
    }
    if (++e->answered == 3) {
        probe_act(&e->p, e->action);
        assert_false(redis_link_is_up(e->p.link));
        assert_int_equal(redis_link_send(e->p.link, ending_cb, e, "PING", NULL), ERR_REDIS_DOWN);
    }
}

static void ten_pings(struct ending *e)
{
    for (int i = 0; i < 10; i++)
        assert_int_equal(redis_link_send(e->p.link, ending_cb, e, "PING", NULL), 0);
}

static void link_may_be_closed_inside_a_reply(void **state)
{
    struct ending e = {.action = PROBE_CLOSE};

    (void)state;
    probe_start_and_wait_up(&e.p, redis.port);
    ten_pings(&e);
    WAIT_FOR(&e.p, e.p.closed);
    assert_int_equal(e.answered, 3);
    assert_int_equal(e.cancelled, 7);
    assert_int_equal(e.p.downs, 0);
    probe_done(&e.p);
}

static void link_may_be_cut_inside_a_reply(void **state)
{
    struct ending e = {.action = PROBE_CUT};

    (void)state;
    probe_start_and_wait_up(&e.p, redis.port);
    ten_pings(&e);
    WAIT_FOR(&e.p, e.p.downs);
    assert_int_equal(e.answered, 3);
    assert_int_equal(e.broken, 7);
    assert_int_equal(e.p.down_error, ERR_REDIS_DOWN);
    assert_string_equal(e.p.down_detail, "cut: the test says so");
    WAIT_FOR(&e.p, e.p.ups == 2);
    assert_int_equal(ASK(&e.p, "PING").err, 0);
    assert_int_equal(e.p.downs, 1);
    probe_done(&e.p);
}

static void closing_cb(void *user, int err, const struct redisReply *reply)
{
    struct ending *e = user;

    (void)reply;
    if (err == ERR_REDIS_DOWN && ++e->broken == 4)
        probe_close(&e->p);
    else if (err == -ECANCELED)
        e->cancelled++;
}

static void link_may_be_closed_while_its_commands_are_being_failed(void **state)
{
    struct ending e = {0};

    (void)state;
    probe_start_and_wait_up(&e.p, redis.port);
    for (int i = 0; i < 10; i++)
        assert_int_equal(redis_link_send(e.p.link, closing_cb, &e, "PING", NULL), 0);
    redis_link_cut(e.p.link, "before anything is sent");
    assert_int_equal(e.broken, 0); /* never inside the call */
    WAIT_FOR(&e.p, e.p.closed);
    assert_int_equal(e.broken, 4);
    assert_int_equal(e.cancelled, 6);
    assert_int_equal(e.p.downs, 0);
    probe_done(&e.p);
}

static void send_in_up(struct link_probe *p)
{
    ten_pings(container_of(p, struct ending, p));
}

static void end_in_up(enum probe_action action)
{
    struct ending e = {0};

    probe_start(&e.p, redis.port, "");
    e.p.on_up = send_in_up;
    e.p.at_up = action;
    if (action == PROBE_CUT) {
        WAIT_FOR(&e.p, e.p.downs == 2);
        assert_in_range(e.broken, 20, 20);
        e.p.at_up = PROBE_NOTHING;
        e.p.on_up = NULL;
        WAIT_FOR(&e.p, e.p.ups == 3);
    } else {
        WAIT_FOR(&e.p, e.p.closed);
        assert_int_equal(e.cancelled, 10);
        assert_int_equal(e.p.ups, 1);
        assert_int_equal(e.p.downs, 0);
    }
    probe_done(&e.p);
}

static void link_may_be_closed_or_cut_inside_up(void **state)
{
    (void)state;
    end_in_up(PROBE_CLOSE);
    end_in_up(PROBE_CUT);
}

static void end_in_down(enum probe_action action)
{
    struct link_probe p;

    probe_start_and_wait_up(&p, redis.port);
    p.at_down = action;
    redis_link_cut(p.link, "once");
    if (action == PROBE_CUT) {
        WAIT_FOR(&p, p.ups == 2);
        redis_link_cut(p.link, "and again");
        WAIT_FOR(&p, p.ups == 3);
        assert_int_equal(p.downs, 2); /* there was nothing to cut inside `down` */
    } else {
        WAIT_FOR(&p, p.closed);
        assert_int_equal(p.downs, 1);
        assert_int_equal(p.ups, 1);
    }
    probe_done(&p);
}

static void link_may_be_closed_or_cut_inside_down(void **state)
{
    (void)state;
    end_in_down(PROBE_CLOSE);
    end_in_down(PROBE_CUT);
}

static void end_in_message(enum probe_action action, bool at_subscribed)
{
    struct link_probe sub, pub;

    probe_start_and_wait_up(&sub, redis.port);
    probe_start_and_wait_up(&pub, redis.port);
    if (at_subscribed)
        sub.at_subscribed = action;
    else
        sub.at_message = action;
    subscribe(&sub, "a");
    subscribe(&sub, "b");
    if (!at_subscribed) {
        WAIT_FOR(&sub, sub.subscribed == 2);
        for (int i = 0; i < 10; i++)
            assert_int_equal(redis_link_send(pub.link, NULL, NULL, "PUBLISH", "a", "m", NULL), 0);
        assert_int_equal(publish(&pub, "b", "m"), 1);
    }
    if (action == PROBE_CUT)
        WAIT_FOR(&sub, sub.ups == 2);
    else
        WAIT_FOR(&sub, sub.closed);
    assert_int_equal(sub.subscribed, at_subscribed ? 1 : 2);
    assert_int_equal(sub.messages, at_subscribed ? 0 : 1);
    assert_int_equal(sub.downs, action == PROBE_CUT ? 1 : 0);
    probe_done(&sub);
    probe_done(&pub);
}

static void link_may_be_closed_or_cut_inside_message_and_subscribed(void **state)
{
    (void)state;
    end_in_message(PROBE_CLOSE, false);
    end_in_message(PROBE_CUT, false);
    end_in_message(PROBE_CLOSE, true);
    end_in_message(PROBE_CUT, true);
}

static void link_may_be_closed_before_it_is_started_and_without_a_callback(void **state)
{
    struct link_probe p;

    (void)state;
    probe_open(&p, &(struct redis_link_conf){.url = "redis://127.0.0.1:1"});
    assert_int_equal(redis_link_send(p.link, answer_cb, NULL, "PING", NULL), ERR_REDIS_DOWN);
    assert_int_equal(redis_link_subscribe(p.link, "a", 1), ERR_REDIS_DOWN);
    redis_link_cut(p.link, "nothing");
    redis_link_close(p.link, NULL);
    p.link = NULL;
    uv_close((uv_handle_t *)&p.tick, NULL);
    assert_int_equal(uv_run(&p.loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&p.loop), 0);
    assert_int_equal(p.ups + p.downs, 0);
}

static void last_command_before_close_still_reaches_redis(void **state)
{
    struct link_probe p, other;
    struct answer a = {0};

    (void)state;
    probe_start_and_wait_up(&other, redis.port);
    (void)ASK(&other, "DEL", "last-word");
    probe_start_and_wait_up(&p, redis.port);
    assert_int_equal(redis_link_send(p.link, answer_cb, &a, "SET", "last-word", "x", NULL), 0);
    probe_close(&p);
    WAIT_FOR(&p, p.closed);
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.err, -ECANCELED);
    while (!ASK(&other, "EXISTS", "last-word").integer)
        ; /* Redis may read the two connections in either order; the test's own timeout ends it. */
    probe_done(&p);
    probe_done(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(command_carries_binary_arguments_and_empty_ones),
        cmocka_unit_test(pipeline_of_10000_commands_keeps_its_order_and_leaves_in_one_write),
        cmocka_unit_test(callbacks_may_send_commands),
        cmocka_unit_test(value_larger_than_all_socket_buffers_goes_there_and_back),
        cmocka_unit_test(error_replies_arrive_with_their_codes),
        cmocka_unit_test(script_is_loaded_and_its_errors_keep_their_codes),
        cmocka_unit_test(name_is_set_and_its_spaces_are_replaced),
        cmocka_unit_test(database_of_the_url_is_selected),
        cmocka_unit_test(database_that_does_not_exist_is_said_and_retried_slowly),
        cmocka_unit_test(credentials_are_used_and_a_refusal_is_retried_slowly),
        cmocka_unit_test(channel_that_the_acl_refuses_breaks_the_link_with_auth),
        cmocka_unit_test(messages_come_while_subscribed_and_only_then),
        cmocka_unit_test(subscribing_and_unsubscribing_may_cross),
        cmocka_unit_test(commands_before_the_first_subscribe_are_answered),
        cmocka_unit_test(one_hundred_thousand_channels_are_subscribed),
        cmocka_unit_test(received_bytes_are_what_redis_sent),
        cmocka_unit_test(link_may_be_closed_inside_a_reply),
        cmocka_unit_test(link_may_be_cut_inside_a_reply),
        cmocka_unit_test(link_may_be_closed_while_its_commands_are_being_failed),
        cmocka_unit_test(link_may_be_closed_or_cut_inside_up),
        cmocka_unit_test(link_may_be_closed_or_cut_inside_down),
        cmocka_unit_test(link_may_be_closed_or_cut_inside_message_and_subscribed),
        cmocka_unit_test(link_may_be_closed_before_it_is_started_and_without_a_callback),
        cmocka_unit_test(last_command_before_close_still_reaches_redis),
    };

    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
