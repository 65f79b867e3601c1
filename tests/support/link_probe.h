/* link_probe.h - a Redis link on a loop of its own, with everything that it called written down, and a way to
 * wait for a condition. Include it after cmocka.h; static functions, so that a unit test stays one file. */
#ifndef EF_TESTS_LINK_PROBE_H
#define EF_TESTS_LINK_PROBE_H

#include "shared/clock.h"
#include "shared/err.h"
#include "shared/redis_link.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* What the callbacks of a test do to the link, beside writing down. */
enum probe_action { PROBE_NOTHING, PROBE_CLOSE, PROBE_CUT };

struct link_probe {
    uv_loop_t loop;
    uv_timer_t tick;         /* ends each turn after 20 ms at most */
    struct redis_link *link; /* NULL once closed */
    int ups, downs, closed;
    bool closing;
    int down_error, retry_ms;
    char down_detail[512];
    uint64_t messages, subscribed, unsubscribed;
    char last_channel[128], last_payload[128];
    size_t last_payload_len;
    enum probe_action at_up, at_down, at_message, at_subscribed;
    void (*on_up)(struct link_probe *p);
    void (*on_down)(struct link_probe *p);
};

static inline void probe_closed(void *user)
{
    struct link_probe *p = user;

    p->link = NULL;
    p->closed++;
}

static inline void probe_close(struct link_probe *p)
{
    p->closing = true;
    redis_link_close(p->link, probe_closed);
}

static inline void probe_act(struct link_probe *p, enum probe_action action)
{
    if (action == PROBE_CLOSE)
        probe_close(p);
    else if (action == PROBE_CUT)
        redis_link_cut(p->link, "the test says so");
}

static inline void probe_up(void *user)
{
    struct link_probe *p = user;

    assert_true(redis_link_is_up(p->link));
    p->ups++;
    if (p->on_up)
        p->on_up(p);
    probe_act(p, p->at_up);
}

static inline void probe_down(void *user, int error, const char *detail, int retry_ms)
{
    struct link_probe *p = user;

    assert_false(redis_link_is_up(p->link));
    assert_int_equal(redis_link_outstanding(p->link), 0);
    p->downs++;
    p->down_error = error;
    p->retry_ms = retry_ms;
    snprintf(p->down_detail, sizeof(p->down_detail), "%s", detail);
    if (p->on_down)
        p->on_down(p);
    probe_act(p, p->at_down);
}

static inline void probe_copy(char out[128], const char *bytes, size_t len)
{
    snprintf(out, 128, "%.*s", (int)(len < 127 ? len : 127), bytes);
}

static inline void probe_message(void *user, const char *channel, size_t channel_len, const char *payload,
                                 size_t len)
{
    struct link_probe *p = user;

    p->messages++;
    probe_copy(p->last_channel, channel, channel_len);
    probe_copy(p->last_payload, payload, len);
    p->last_payload_len = len;
    probe_act(p, p->at_message);
}

static inline void probe_subscribed(void *user, const char *channel, size_t channel_len, bool subscribed)
{
    struct link_probe *p = user;

    if (subscribed)
        p->subscribed++;
    else
        p->unsubscribed++;
    probe_copy(p->last_channel, channel, channel_len);
    probe_act(p, p->at_subscribed);
}

static inline void probe_tick(uv_timer_t *timer)
{
    (void)timer;
}

/* Turn the loop until `condition` holds; 20 s without it fail the test. */
#define WAIT_FOR(p, condition)                                                                      \
    do {                                                                                            \
        int64_t wait_end_ = clock_mono_ms() + 20000;                                                \
        while (!(condition)) {                                                                      \
            if (clock_mono_ms() > wait_end_)                                                        \
                fail_msg("waited in vain for: %s (%d up, %d down, last: %s)", #condition, (p)->ups, \
                         (p)->downs, (p)->down_detail);                                             \
            uv_run(&(p)->loop, UV_RUN_ONCE);                                                        \
        }                                                                                           \
    } while (0)

/* A link that is made, not started. conf->url is formatted by the caller. */
static inline void probe_open(struct link_probe *p, const struct redis_link_conf *conf)
{
    static const struct redis_link_events events = {
        .up = probe_up, .down = probe_down, .message = probe_message, .subscribed = probe_subscribed};

    memset(p, 0, sizeof(*p));
    assert_int_equal(uv_loop_init(&p->loop), 0);
    assert_int_equal(uv_timer_init(&p->loop, &p->tick), 0);
    assert_int_equal(uv_timer_start(&p->tick, probe_tick, 20, 20), 0);
    p->link = redis_link_new(&p->loop, conf, &events, p);
    assert_non_null(p->link);
}

/* redis://127.0.0.1:<port><path> with usual timeouts, started. */
static inline void probe_start(struct link_probe *p, int port, const char *path)
{
    char url[128];

    snprintf(url, sizeof(url), "redis://127.0.0.1:%d%s", port, path);
    probe_open(p, &(struct redis_link_conf){.url = url, .name = "unit test"});
    redis_link_start(p->link);
}

static inline void probe_start_and_wait_up(struct link_probe *p, int port)
{
    probe_start(p, port, "");
    WAIT_FOR(p, p->ups == 1);
}

/* The loop must run dry: nothing of the link is left on it. */
static inline void probe_done(struct link_probe *p)
{
    if (!p->closing)
        probe_close(p);
    WAIT_FOR(p, p->closed == 1);
    uv_close((uv_handle_t *)&p->tick, NULL);
    assert_int_equal(uv_run(&p->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&p->loop), 0);
    assert_int_equal(p->closed, 1);
}

/* One command's outcome. */
struct answer {
    int calls, err;
    enum redis_reply_kind kind;
    int64_t integer;
    size_t count, len;
    char text[256];
};

static inline void answer_cb(void *user, int err, const struct redisReply *reply)
{
    struct answer *a = user;
    const char *text = redis_reply_str(reply, &a->len);

    a->calls++;
    a->err = err;
    a->kind = redis_reply_kind(reply);
    a->integer = redis_reply_int(reply);
    a->count = redis_reply_count(reply);
    a->text[0] = '\0';
    if (text) {
        size_t n = a->len < sizeof(a->text) - 1 ? a->len : sizeof(a->text) - 1;

        memcpy(a->text, text, n);
        a->text[n] = '\0';
    }
}

/* Send and wait: ASK(&probe, "GET", "key") is a struct answer. */
#define ASK(p, ...)                                                                           \
    __extension__({                                                                           \
        struct answer ask_ = {0};                                                             \
        assert_int_equal(redis_link_send((p)->link, answer_cb, &ask_, __VA_ARGS__, NULL), 0); \
        WAIT_FOR((p), ask_.calls);                                                            \
        ask_;                                                                                 \
    })

#endif
