/* Sessions on a fake transport: their limits, their ends, and what they say. Redis is never there, so no
 * binding goes live; tests/integration has those that do. */
#include "gateway/session.h"

#include "gateway/gateway_metrics.h"
#include "shared/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CONNECTIONS_MAX = 8 };

struct connection {
    struct session *session;
    struct buf got;
    bool blocked, wants, lingers, killed;
};

struct fixture {
    uv_loop_t loop;
    struct metrics *metrics;
    struct ready *ready;
    struct config *config;
    struct redis_link *command;
    struct feed *feed;
    struct access *access;
    struct sessions *sessions;
    struct connection connections[CONNECTIONS_MAX];
    size_t count;
    int closed;
};

/* --- the transport --- */

static bool on_blocked(void *transport)
{
    return ((struct connection *)transport)->blocked;
}

static int on_write(void *transport, const char *bytes, size_t len)
{
    struct connection *c = transport;

    assert_false(c->blocked);
    buf_add(&c->got, bytes, len);
    return 0;
}

static void on_want_writable(void *transport)
{
    ((struct connection *)transport)->wants = true;
}

static void on_linger(void *transport)
{
    ((struct connection *)transport)->lingers = true;
}

static void on_kill(void *transport)
{
    ((struct connection *)transport)->killed = true;
}

/* --- all that a session needs --- */

static void on_up(void *user)
{
    (void)user;
    fail();
}

static void on_down(void *user, int error, const char *detail, int retry_ms)
{
    (void)user;
    (void)error;
    (void)detail;
    (void)retry_ms;
    fail();
}

static void on_event(void *user, const struct feed_event *event)
{
    (void)user;
    (void)event;
    fail();
}

static void fixture_begin(struct fixture *f, const char *gateway)
{
    static const struct redis_link_events events = {.up = on_up, .down = on_down};
    static const struct feed_handlers handlers = {.event = on_event};
    struct redis_link_conf conf = {.url = "redis://127.0.0.1:1", .name = "never started"};
    struct sessions_deps deps;
    char *errors = NULL, text[1024];
    int n = snprintf(
        text, sizeof(text),
        "{\"jwt\":{\"keys\":[]},\"exchanges\":{\"open\":{\"access\":\"public\"}},\"gateway\":{%s}}", gateway);

    *f = (struct fixture){.count = 0};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    if (config_parse(text, (size_t)n, &f->config, &errors) != 0)
        fail_msg("%s", errors);
    f->metrics = metrics_new(gateway_metric_rows, GATEWAY_METRIC_COUNT);
    f->ready = ready_new();
    f->command = redis_link_new(&f->loop, &conf, &events, f);
    f->feed = feed_new(&f->loop, f->config, f->command, f->metrics, f->ready, &handlers, f);
    f->access = access_new(&f->loop, f->config, f->command, f->metrics);
    deps = (struct sessions_deps){
        &f->loop,  f->config, f->metrics,
        f->access, f->feed,   {{on_blocked, on_write, on_want_writable, NULL}, on_linger, on_kill}};
    f->sessions = sessions_new(&deps);
    assert_true(f->metrics && f->ready && f->command && f->feed && f->access && f->sessions);
}

static void on_closed(void *user)
{
    ((struct fixture *)user)->closed++;
}

/* Turn the loop until `condition` holds; the timer of the sessions keeps it turning. */
#define WAIT(f, condition)                                      \
    do {                                                        \
        int64_t wait_end_ = clock_mono_ms() + 20000;            \
        while (!(condition)) {                                  \
            if (clock_mono_ms() > wait_end_)                    \
                fail_msg("waited in vain for: %s", #condition); \
            uv_run(&(f)->loop, UV_RUN_ONCE);                    \
        }                                                       \
    } while (0)

static void fixture_end(struct fixture *f)
{
    for (size_t i = 0; i < f->count; i++) {
        session_detach(f->connections[i].session);
        buf_done(&f->connections[i].got);
    }
    assert_int_equal(sessions_count(f->sessions), 0);
    sessions_refresh_metrics(f->sessions);
    assert_int_equal((int)metric_value(metrics_get(f->metrics, GM_QUEUED_BYTES, NULL)), 0);
    sessions_close(f->sessions, on_closed, f);
    WAIT(f, f->closed == 1);
    access_close(f->access, on_closed, f);
    WAIT(f, f->closed == 2);
    feed_close(f->feed, on_closed, f);
    WAIT(f, f->closed == 3);
    redis_link_close(f->command, on_closed);
    WAIT(f, f->closed == 4);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    metrics_free(f->metrics);
    ready_free(f->ready);
    config_unref(f->config);
}

static struct address address_of(const char *text)
{
    struct address a;

    assert_true(address_parse(text, strlen(text), &a));
    return a;
}

static struct connection *connect_from(struct fixture *f, const char *from)
{
    struct connection *c = &f->connections[f->count++];
    struct address address = address_of(from);

    assert_true(f->count <= CONNECTIONS_MAX);
    c->session = session_new(f->sessions, NULL, &address);
    assert_non_null(c->session);
    session_attach(c->session, c);
    return c;
}

static void turn(struct fixture *f)
{
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

/* A whole message from the client, and a turn of the loop. */
static void hear(struct fixture *f, struct connection *c, const char *text, size_t len)
{
    session_receive(c->session, text, len, true, true, 0);
    turn(f);
}

static void hear_text(struct fixture *f, struct connection *c, const char *text)
{
    hear(f, c, text, strlen(text));
}

/* The next frame that the client got: a text message, or with FRAME_CLOSE code and reason, as text. */
static const char *next_frame(struct connection *c, enum frame_opcode opcode)
{
    static char text[512];
    const unsigned char *got = (const unsigned char *)c->got.data;
    size_t len, head = 2;

    if (c->got.len < 2 || got[0] != (0x80 | (unsigned)opcode))
        fail_msg("no frame with opcode %u, but %zu bytes", (unsigned)opcode, c->got.len);
    len = got[1];
    if (len == 126) {
        len = (size_t)got[2] * 256 + got[3];
        head = 4;
    }
    assert_true(len < sizeof(text) - 8 && head + len <= c->got.len);
    if (opcode == FRAME_CLOSE)
        snprintf(text, sizeof(text), "%u %.*s", got[head] * 256u + got[head + 1], (int)len - 2,
                 got + head + 2);
    else
        snprintf(text, sizeof(text), "%.*s", (int)len, got + head);
    c->got.len -= head + len;
    memmove(c->got.data, got + head + len, c->got.len);
    return text;
}

static void assert_closed(struct connection *c, const char *code_and_reason)
{
    assert_string_equal(next_frame(c, FRAME_CLOSE), code_and_reason);
    assert_int_equal(c->got.len, 0);
    assert_true(session_is_closing(c->session));
    assert_true(c->lingers);
    assert_false(c->killed);
}

static char *filled(size_t len)
{
    char *text = malloc(len);

    assert_non_null(text);
    memset(text, ' ', len);
    memcpy(text, "{}", 2);
    return text;
}

/* --- messages --- */

static void a_message_of_the_limit_is_served_and_a_longer_one_ends_the_session(void **state)
{
    char *text = filled(1001);
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"message_max_bytes\":1000");
    c = connect_from(&f, "1.1.1.1");
    hear(&f, c, text, 1000);
    assert_non_null(strstr(next_frame(c, FRAME_TEXT), "error"));
    hear(&f, c, text, 1001);
    assert_closed(c, "1009 message over message_max_bytes");
    free(text);
    fixture_end(&f);
}

static void a_length_that_is_only_announced_ends_the_session(void **state)
{
    static const size_t announced[] = {999, 1000, (size_t)1 << 62, SIZE_MAX};
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"message_max_bytes\":1000");
    for (size_t i = 0; i < ARRAY_LEN(announced); i++) {
        c = connect_from(&f, "1.1.1.1");
        session_receive(c->session, "{}", 2, true, false, announced[i]);
        turn(&f);
        assert_closed(c, "1009 message over message_max_bytes");
    }
    fixture_end(&f);
}

static void no_limit_for_messages_is_none(void **state)
{
    char *text = filled(200000);
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"message_max_bytes\":0");
    c = connect_from(&f, "1.1.1.1");
    hear_text(&f, c, "{\"ping\":1,\"req\":1}");
    assert_string_equal(next_frame(c, FRAME_TEXT), "{\"req\":1,\"ok\":true,\"pos\":{}}");
    hear(&f, c, text, 200000);
    assert_non_null(strstr(next_frame(c, FRAME_TEXT), "error"));
    for (size_t at = 0; at < 200000; at += 1000)
        session_receive(c->session, text + at, 1000, at == 0, at == 199000, 199000 - at);
    turn(&f);
    assert_non_null(strstr(next_frame(c, FRAME_TEXT), "error"));
    assert_false(session_is_closing(c->session));
    free(text);
    fixture_end(&f);
}

static void a_message_in_pieces_is_put_together(void **state)
{
    static const char text[] = "{\"ping\":1,\"req\":\"p\"}";
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"message_max_bytes\":1000");
    c = connect_from(&f, "1.1.1.1");
    for (int twice = 0; twice < 2; twice++) {
        for (size_t i = 0; i < strlen(text); i++) {
            session_receive(c->session, text + i, 1, i == 0, i + 1 == strlen(text), 0);
            session_receive(c->session, NULL, 0, false, false, 0); /* an empty fragment between two */
            if (i + 1 == strlen(text))
                break;
            turn(&f);
            assert_int_equal(c->got.len, 0);
        }
        turn(&f);
        assert_string_equal(next_frame(c, FRAME_TEXT), "{\"req\":\"p\",\"ok\":true,\"pos\":{}}");
    }
    fixture_end(&f);
}

static void fragments_without_end_end_the_session(void **state)
{
    struct connection *c;
    struct fixture f;
    unsigned pieces = 0;

    (void)state;
    fixture_begin(&f, "\"message_max_bytes\":1000");
    c = connect_from(&f, "1.1.1.1");
    for (; !session_is_closing(c->session); pieces++) {
        assert_true(pieces < 5000);
        session_receive(c->session, NULL, 0, pieces == 0, false, 0);
    }
    turn(&f);
    assert_closed(c, "1008 too many fragments");
    /* What comes behind is not looked at. */
    hear_text(&f, c, "{\"ping\":1,\"req\":1}");
    assert_int_equal(c->got.len, 0);
    fixture_end(&f);
}

static void what_is_not_json_ends_the_session_and_what_is_does_not(void **state)
{
    static const char *const not_json[] = {"", " ", "{", "garbage", "\"\xff\"", "{}x", "01"};
    static const char *const json[] = {
        "{}", "[]", "1", "null", "\"x\"", "{\"a\":1,\"a\":2}", "1e999", "123456789012345678901234567890"};
    struct connection *c = NULL;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "");
    for (size_t i = 0; i < ARRAY_LEN(not_json); i++) {
        c = connect_from(&f, "1.1.1.1");
        hear_text(&f, c, not_json[i]);
        assert_closed(c, "1007 message is not JSON");
    }
    c = connect_from(&f, "1.1.1.1");
    for (size_t i = 0; i < ARRAY_LEN(json); i++) {
        hear_text(&f, c, json[i]);
        assert_memory_equal(next_frame(c, FRAME_TEXT), "{\"error\":\"", 10);
    }
    fixture_end(&f);
}

/* --- requests --- */

static void requests_beyond_the_rate_are_refused_and_far_beyond_it_end_the_session(void **state)
{
    struct connection *c;
    struct fixture f;
    unsigned served = 0, refused = 0;

    (void)state;
    fixture_begin(&f, "\"session_requests_per_s\":1,\"session_bindings_max\":9");
    c = connect_from(&f, "1.1.1.1");
    while (!session_is_closing(c->session)) {
        const char *answer;

        hear_text(&f, c, "{\"ping\":1,\"req\":5}");
        if (session_is_closing(c->session))
            break;
        answer = next_frame(c, FRAME_TEXT);
        if (strcmp(answer, "{\"req\":5,\"error\":\"Too many requests\",\"code\":\"rate_limited\"}") == 0)
            refused++;
        else
            assert_string_equal(answer, "{\"req\":5,\"ok\":true,\"pos\":{}}");
        served += refused == 0;
        assert_true(served + refused < 5000);
    }
    /* All bindings at once, and one second's worth; some more if this takes seconds. */
    assert_in_range(served, 10, 40);
    assert_in_range(refused, 900, 1100);
    assert_closed(c, "1008 far too many requests");
    fixture_end(&f);
}

static void bindings_beyond_the_limit_are_refused(void **state)
{
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"session_bindings_max\":2");
    c = connect_from(&f, "1.1.1.1");
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"a\"},\"req\":1}");
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"a\"},\"req\":2}");
    assert_int_equal(c->got.len, 0); /* they wait for Redis */
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"a\"},\"req\":3}");
    assert_string_equal(
        next_frame(c, FRAME_TEXT),
        "{\"req\":3,\"error\":\"A session may have 2 bindings\",\"code\":\"too_many_bindings\"}");
    hear_text(&f, c, "{\"unbind\":{\"ex\":\"open\",\"key\":\"a\"},\"req\":4}");
    assert_string_equal(next_frame(c, FRAME_TEXT),
                        "{\"req\":2,\"error\":\"Taken back before it was live\",\"code\":\"not_bound\"}");
    assert_non_null(strstr(next_frame(c, FRAME_TEXT), "\"req\":4,\"ok\":true"));
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"a\"},\"req\":5}");
    assert_int_equal(c->got.len, 0);
    fixture_end(&f);
}

static void a_binding_that_cannot_be_made_is_given_up_in_time(void **state)
{
    struct connection *c;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"bind_timeout_ms\":50");
    c = connect_from(&f, "1.1.1.1");
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"a.#\"},\"req\":1}");
    hear_text(&f, c, "{\"bind\":{\"ex\":\"open\",\"key\":\"b\"}}");
    WAIT(&f, c->got.len > 0);
    assert_string_equal(next_frame(c, FRAME_TEXT),
                        "{\"req\":1,\"error\":\"The event log cannot be reached\",\"code\":\"unavailable\"}");
    WAIT(&f, c->got.len > 0);
    assert_string_equal(next_frame(c, FRAME_TEXT), "{\"error\":\"The event log cannot be reached\"}");
    fixture_end(&f);
}

/* --- admission --- */

static void sessions_are_admitted_by_address_and_in_all(void **state)
{
    struct address one = address_of("1.1.1.1"), two = address_of("2.2.2.2");
    struct session *unborn;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"address_sessions_max\":2,\"sessions_max\":4");
    connect_from(&f, "1.1.1.1");
    assert_int_equal(sessions_admit(f.sessions, &one), ERROR_CODE_COUNT);
    /* One whose handshake is under way counts for its address. */
    unborn = session_new(f.sessions, NULL, &one);
    assert_int_equal(sessions_admit(f.sessions, &one), CODE_RATE_LIMITED);
    session_detach(unborn);
    assert_int_equal(sessions_admit(f.sessions, &one), ERROR_CODE_COUNT);
    connect_from(&f, "1.1.1.1");
    assert_int_equal(sessions_admit(f.sessions, &one), CODE_RATE_LIMITED);
    assert_int_equal(sessions_admit(f.sessions, &two), ERROR_CODE_COUNT);
    connect_from(&f, "2.2.2.2");
    connect_from(&f, "3.3.3.3");
    assert_int_equal(sessions_admit(f.sessions, &two), CODE_UNAVAILABLE);
    fixture_end(&f);
}

/* --- ends --- */

static void a_session_that_does_not_read_is_closed_when_its_queue_is_full(void **state)
{
    char text[1000];
    struct connection *slow, *other;
    struct fixture f;

    (void)state;
    memset(text, 'x', sizeof(text));
    fixture_begin(&f, "\"session_queue_max_bytes\":10000");
    slow = connect_from(&f, "1.1.1.1");
    other = connect_from(&f, "1.1.1.1");
    slow->blocked = true;
    for (int i = 0; i < 9; i++) {
        session_send(slow->session, text, sizeof(text));
        turn(&f);
    }
    assert_false(session_is_closing(slow->session));
    assert_int_equal(sessions_open(f.sessions), 2);
    session_send(slow->session, text, sizeof(text));
    session_send(other->session, "y", 1);
    turn(&f);
    assert_true(session_is_closing(slow->session));
    assert_int_equal(sessions_open(f.sessions), 1);
    assert_string_equal(next_frame(other, FRAME_TEXT), "y");
    turn(&f);
    slow->blocked = false;
    outbox_writable(&slow->session->out);
    assert_closed(slow, "1013 reader too slow"); /* instead of what waited */
    fixture_end(&f);
}

static void draining_closes_the_oldest_first_behind_what_they_are_to_get(void **state)
{
    struct connection *c[3];
    struct fixture f;

    (void)state;
    fixture_begin(&f, "");
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        c[i] = connect_from(&f, "1.1.1.1");
    session_send(c[0]->session, "last words", 10);
    sessions_close_some(f.sessions, 2, CLOSE_DRAIN);
    turn(&f);
    assert_string_equal(next_frame(c[0], FRAME_TEXT), "last words");
    assert_closed(c[0], "1001 server is going away");
    assert_closed(c[1], "1001 server is going away");
    assert_false(session_is_closing(c[2]->session));
    sessions_close_some(f.sessions, 2, CLOSE_DRAIN);
    turn(&f);
    assert_closed(c[2], "1001 server is going away");
    assert_int_equal(sessions_open(f.sessions), 0);
    assert_int_equal(sessions_count(f.sessions), 3);
    fixture_end(&f);
}

/* Three clients that say nothing: one answers pings, one does not, and one is still busy with what it was
 * sent (a large event on a thin line). */
static void a_silent_client_is_cut_but_not_one_that_answers_or_is_still_reading(void **state)
{
    struct connection *silent, *answering, *reading;
    struct fixture f;

    (void)state;
    fixture_begin(&f, "\"ping_interval_s\":1,\"pong_timeout_s\":1");
    reading = connect_from(&f, "1.1.1.1");
    answering = connect_from(&f, "1.1.1.1");
    silent = connect_from(&f, "1.1.1.1");
    reading->blocked = true;
    while (!silent->killed) {
        WAIT(&f, silent->killed || answering->got.len > 0);
        if (answering->got.len > 0) {
            assert_string_equal(next_frame(answering, FRAME_PING), "ping");
            session_pong(answering->session);
        }
    }
    assert_string_equal(next_frame(silent, FRAME_PING), "ping");
    assert_int_equal(silent->got.len, 0); /* no close frame: nobody is there */
    assert_false(silent->lingers);
    assert_false(session_is_closing(answering->session));
    assert_false(session_is_closing(reading->session));
    assert_int_equal((int)metric_value(metrics_get(f.metrics, GM_SESSIONS_CLOSED, "pong_timeout")), 1);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_of_the_limit_is_served_and_a_longer_one_ends_the_session),
        cmocka_unit_test(a_length_that_is_only_announced_ends_the_session),
        cmocka_unit_test(no_limit_for_messages_is_none),
        cmocka_unit_test(a_message_in_pieces_is_put_together),
        cmocka_unit_test(fragments_without_end_end_the_session),
        cmocka_unit_test(what_is_not_json_ends_the_session_and_what_is_does_not),
        cmocka_unit_test(requests_beyond_the_rate_are_refused_and_far_beyond_it_end_the_session),
        cmocka_unit_test(bindings_beyond_the_limit_are_refused),
        cmocka_unit_test(a_binding_that_cannot_be_made_is_given_up_in_time),
        cmocka_unit_test(sessions_are_admitted_by_address_and_in_all),
        cmocka_unit_test(a_session_that_does_not_read_is_closed_when_its_queue_is_full),
        cmocka_unit_test(draining_closes_the_oldest_first_behind_what_they_are_to_get),
        cmocka_unit_test(a_silent_client_is_cut_but_not_one_that_answers_or_is_still_reading),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
