/* redis_sentinel.c - one question to the sentinels.
 *
 *   sentinel 1: connect -> [AUTH] -> SENTINEL GET-MASTER-ADDR-BY-NAME -> host and port -> `found`
 *                  '-----------'--------------- refused, silent, does not know, nonsense --> sentinel 2 ..
 *
 * After the last one `failed`, from a timer. A sentinel that swallows packets costs its share of the time and
 * no more. An answer is two texts from the network: a host that is none, or a port out of range, counts as
 * nonsense. The connection is used once; questions are rare. */
#include "shared/redis_sentinel.h"

#include "shared/clock.h"
#include "shared/err.h"
#include "shared/redis_conn.h"
#include "shared/redis_link.h"
#include "shared/redis_resp.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No answer of a sentinel that we ask for is longer, bytes. */
enum { ANSWER_MAX_BYTES = 4096 };

struct redis_sentinel {
    uv_loop_t *loop;
    const struct redis_url *url;
    const struct redis_sentinel_events *events;
    void *user;
    size_t first, asked; /* asked: how many so far */
    int64_t deadline_ms; /* monotonic */
    uv_timer_t timer;    /* the share of this sentinel; at the end: tell the failure */
    struct redis_conn *conn;
    redisReader *reader;
    size_t received;
    bool auth_pending;
    bool closed;
    int error;
    char detail[400];
};

static void ask_next(struct redis_sentinel *s);

static const struct redis_place *place_of(const struct redis_sentinel *s)
{
    return &s->url->places[(s->first + s->asked - 1) % s->url->place_count];
}

/* This sentinel is of no use. */
PRINTF_LIKE(3, 4)
static void give_up(struct redis_sentinel *s, int error, const char *format, ...)
{
    const struct redis_place *p = place_of(s);
    size_t n;
    va_list args;

    if (s->closed)
        return;
    n = (size_t)snprintf(s->detail, sizeof(s->detail), "sentinel %.100s:%d: ", p->host, p->port);
    va_start(args, format);
    vsnprintf(s->detail + n, sizeof(s->detail) - n, format, args);
    va_end(args);
    s->error = error;
    redis_conn_close(TAKE(s->conn));
    ask_next(s);
}

/* ---- the answer ---- */

static bool is_host(const char *text, size_t len)
{
    if (len == 0 || len > REDIS_HOST_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    }
    return true;
}

static void take_address(struct redis_sentinel *s, const redisReply *r)
{
    size_t len = 0, error_len = 0;
    const char *text = redis_reply_str(redis_reply_at(r, 0), &len);
    const char *error = redis_reply_str(r, &error_len);
    int64_t port = redis_reply_int(redis_reply_at(r, 1));
    char host[REDIS_HOST_MAX + 1];

    if (redis_reply_kind(r) == REPLY_ERROR) {
        give_up(s, redis_error_code(error, error_len), "%s", error);
    } else if (redis_reply_kind(r) == REPLY_NIL) {
        give_up(s, ERR_REDIS_REPLY, "it knows no primary named %s", s->url->primary);
    } else if (redis_reply_count(r) != 2 || !is_host(text, len) || port < 1 || port > 65535) {
        give_up(s, -EPROTO, "its answer is not an address");
    } else {
        memcpy(host, text, len);
        host[len] = '\0';
        redis_conn_close(TAKE(s->conn));
        uv_timer_stop(&s->timer);
        s->events->found(s->user, host, (int)port);
    }
}

/* The reply is freed by the caller; what we call may close `s`. */
static void take_reply(struct redis_sentinel *s, const redisReply *r)
{
    if (!s->auth_pending) {
        take_address(s, r);
        return;
    }
    s->auth_pending = false;
    if (redis_reply_kind(r) != REPLY_STATUS) {
        const char *text = redis_reply_str(r, NULL);

        give_up(s, ERR_REDIS_AUTH, "AUTH: %s", text ? text : "an answer of another kind");
    }
}

static void on_bytes(void *user, const char *data, size_t len)
{
    struct redis_sentinel *s = user;
    struct redis_conn *conn = s->conn;
    int r;

    s->received += len;
    if (s->received > ANSWER_MAX_BYTES) {
        give_up(s, -EPROTO, "its answer has no end");
        return;
    }
    r = redisReaderFeed(s->reader, data, len);
    /* As long as nobody has closed this connection. */
    while (r == REDIS_OK && s->conn == conn) {
        void *reply = NULL;

        r = redisReaderGetReply(s->reader, &reply);
        if (r != REDIS_OK || !reply)
            break;
        take_reply(s, reply);
        freeReplyObject(reply);
    }
    if (r != REDIS_OK && s->conn == conn)
        give_up(s, -EPROTO, "not a Redis: %s", s->reader->errstr);
}

/* ---- the question ---- */

static void on_connected(void *user)
{
    struct redis_sentinel *s = user;
    const struct redis_url *u = s->url;
    const char *auth[] = {"AUTH", u->sentinel_user ? u->sentinel_user : u->sentinel_password,
                          u->sentinel_password};
    const char *ask[] = {"SENTINEL", "GET-MASTER-ADDR-BY-NAME", u->primary};
    struct buf *out = redis_conn_out(s->conn);
    int r = 0;

    s->auth_pending = u->sentinel_password != NULL;
    if (s->auth_pending)
        r = resp_add_command(out, SIZE_MAX, u->sentinel_user ? 3 : 2, auth, NULL);
    if (r == 0)
        r = resp_add_command(out, SIZE_MAX, 3, ask, NULL);
    if (r < 0)
        give_up(s, r, "out of memory");
    else
        redis_conn_flush(s->conn);
}

static void on_broken(void *user, int error, const char *detail)
{
    struct redis_sentinel *s = user;

    give_up(s, error, "%s", detail);
}

static void on_share_over(uv_timer_t *timer)
{
    struct redis_sentinel *s = container_of(timer, struct redis_sentinel, timer);

    give_up(s, -ETIMEDOUT, "no answer in time");
}

static void on_failed(uv_timer_t *timer)
{
    struct redis_sentinel *s = container_of(timer, struct redis_sentinel, timer);

    s->events->failed(s->user, s->error, s->detail);
}

static void ask_next(struct redis_sentinel *s)
{
    static const struct redis_conn_events events = {
        .connected = on_connected, .bytes = on_bytes, .broken = on_broken};
    int64_t left = s->deadline_ms - clock_mono_ms();
    int64_t share = left / (int64_t)(s->url->place_count - s->asked + 1);

    uv_update_time(s->loop); /* the timers below count from now */
    if (s->reader && s->asked)
        redisReaderFree(TAKE(s->reader));
    if (s->asked == s->url->place_count || share <= 0) {
        uv_timer_start(&s->timer, on_failed, 0, 0);
        return;
    }
    s->asked++;
    s->received = 0;
    s->reader = redisReaderCreate();
    if (s->reader)
        s->conn = redis_conn_open(s->loop, place_of(s)->host, place_of(s)->port, (int)share, &events, s);
    if (!s->conn) {
        s->error = -ENOMEM;
        snprintf(s->detail, sizeof(s->detail), "out of memory for asking a sentinel");
        uv_timer_start(&s->timer, on_failed, 0, 0);
        return;
    }
    uv_timer_start(&s->timer, on_share_over, (uint64_t)share, 0);
}

/* ---- life ---- */

struct redis_sentinel *redis_sentinel_ask(uv_loop_t *loop, const struct redis_url *url, size_t first,
                                          int timeout_ms, const struct redis_sentinel_events *events,
                                          void *user)
{
    struct redis_sentinel *s = calloc(1, sizeof(*s));

    assert(url->primary && url->place_count);
    if (!s)
        return NULL;
    s->loop = loop;
    s->url = url;
    s->events = events;
    s->user = user;
    s->first = first % url->place_count;
    s->deadline_ms = clock_mono_ms() + timeout_ms;
    s->error = -ETIMEDOUT;
    snprintf(s->detail, sizeof(s->detail), "no time left to ask a sentinel");
    uv_timer_init(loop, &s->timer);
    ask_next(s);
    return s;
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct redis_sentinel *s = container_of(handle, struct redis_sentinel, timer);

    if (s->reader)
        redisReaderFree(s->reader);
    free(s);
}

void redis_sentinel_close(struct redis_sentinel *s)
{
    if (!s || s->closed)
        return;
    s->closed = true;
    redis_conn_close(TAKE(s->conn));
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}
