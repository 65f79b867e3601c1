/* ticker.c - tick.lua, once a second.
 *
 * Every ingest that is registered for a partition calls; the script lets one of them tick (the lease). One
 * call is under way at a time, so a slow Redis is not asked again. If trimming stopped half-way it goes on at
 * once, without a tick. A refusal is logged when it changes, shown in readiness, and tried again with the
 * next second. */
#include "ingest/ticker.h"

#include "shared/err.h"
#include "shared/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEASE_MS = 3000 };

struct ticker {
    struct ingest_ctx *ctx;
    const char *exchange;
    const struct partition_keys *keys;
    unsigned calls; /* under way: a tick, and at the end the release */
    bool dead, held;
    int fault;
    struct tick_state state; /* for trimming that goes on */
    char epoch[EPOCH_MAX + 1];
    void (*done)(void *user);
    void *user;
    struct metric *lease, *ticks, *epochs, *entries, *bytes, *trimmed, *lost;
};

static int call(struct ticker *t, const struct tick_state *state, bool tick, redis_reply_cb *cb);

struct ticker *ticker_new(struct ingest_ctx *ctx, const char *exchange, const struct partition_keys *keys)
{
    struct ticker *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->ctx = ctx;
    t->exchange = exchange;
    t->keys = keys;
    t->lease = metrics_get(ctx->metrics, IM_LEASE, exchange);
    t->ticks = metrics_get(ctx->metrics, IM_TICKS, exchange);
    t->epochs = metrics_get(ctx->metrics, IM_EPOCHS, exchange);
    t->entries = metrics_get(ctx->metrics, IM_LOG_ENTRIES, exchange);
    t->bytes = metrics_get(ctx->metrics, IM_LOG_BYTES, exchange);
    t->trimmed = metrics_get(ctx->metrics, IM_TRIMMED, exchange);
    t->lost = metrics_get(ctx->metrics, IM_TRIM_LOST, exchange);
    return t;
}

void ticker_free(struct ticker *t)
{
    if (!t)
        return;
    t->dead = true;
    t->done = NULL;
    if (t->calls)
        return;
    metric_set(t->lease, 0);
    free(t);
}

int ticker_fault(const struct ticker *t)
{
    return t->fault;
}

static void fault_set(struct ticker *t, int error, const struct redisReply *reply)
{
    /* A broken link is told elsewhere; scripts that are gone have been loaded again. */
    if (error == ERR_REDIS_DOWN || error == ERR_REDIS_NOSCRIPT || error == -ECANCELED || error == t->fault)
        return;
    t->fault = error;
    if (error)
        log_error("TICK-REFUSED", "Redis refuses the tick, trying again in a second",
                  LF_STR("exchange", t->exchange), LF_STR("error", err_text(error)),
                  LF_STR("detail", reply ? redis_reply_str(reply, NULL) : NULL));
    else
        log_info("TICK-RESUMED", "Redis takes ticks again", LF_STR("exchange", t->exchange));
}

static void lease_set(struct ticker *t, bool held)
{
    if (held != t->held)
        log_info(held ? "LEASE-TAKEN" : "LEASE-LOST",
                 held ? "this process ticks for the exchange" : "another ingest ticks for the exchange",
                 LF_STR("exchange", t->exchange));
    t->held = held;
    metric_set(t->lease, held);
}

static void answer(struct ticker *t, const struct redisReply *reply)
{
    size_t len = 0;
    const char *epoch = redis_reply_str(redis_reply_at(reply, 1), &len);
    int64_t trimmed = redis_reply_int(redis_reply_at(reply, 6)),
            lost = redis_reply_int(redis_reply_at(reply, 7));

    lease_set(t, redis_reply_int(redis_reply_at(reply, 0)) == 1);
    if (redis_reply_int(redis_reply_at(reply, 0)) != 1)
        return;
    if (epoch && len <= EPOCH_MAX && (strlen(t->epoch) != len || memcmp(t->epoch, epoch, len) != 0)) {
        memcpy(t->epoch, epoch, len);
        t->epoch[len] = '\0';
        log_info("EPOCH", "the log's epoch", LF_STR("exchange", t->exchange), LF_STR("epoch", t->epoch));
    }
    metric_set(t->entries, (double)redis_reply_int(redis_reply_at(reply, 4)));
    metric_set(t->bytes, (double)redis_reply_int(redis_reply_at(reply, 5)));
    metric_add(t->trimmed, (double)trimmed);
    metric_add(t->lost, (double)lost);
    if (lost)
        log_error("TRIM-LOST",
                  "the log is over history.hard_max_bytes: events were removed before they were read",
                  LF_STR("exchange", t->exchange), LF_INT("events", lost));
}

static void on_ticked(void *user, int error, const struct redisReply *reply)
{
    struct ticker *t = user;

    t->calls--;
    if (t->dead) {
        ticker_free(t);
        return;
    }
    if (error == 0 && redis_reply_count(reply) < 1)
        error = ERR_REDIS_REPLY;
    if (error == ERR_REDIS_NOSCRIPT)
        ingest_scripts_load(t->ctx);
    if (error == ERR_REDIS_READONLY)
        redis_link_cut(t->ctx->redis, "this Redis is read-only");
    fault_set(t, error, reply);
    if (error != 0)
        return;
    answer(t, reply);
    if (redis_reply_int(redis_reply_at(reply, 8)) == 1 && t->calls == 0)
        (void)call(t, &t->state, false, on_ticked); /* if the link is down there is no trimming either */
}

static void on_released(void *user, int error, const struct redisReply *reply)
{
    struct ticker *t = user;
    void (*done)(void *user) = TAKE(t->done);

    (void)error; /* then the lease runs out */
    (void)reply;
    t->calls--;
    if (t->dead)
        ticker_free(t);
    else if (done)
        done(t->user);
}

static int call(struct ticker *t, const struct tick_state *state, bool tick, redis_reply_cb *cb)
{
    const struct config *c = t->ctx->config;
    char epoch[EPOCH_NEW_LEN + 1], numbers[6][24];
    const int64_t values[] = {cb == on_released ? 0 : LEASE_MS,
                              state->above,
                              c->history.max_age_s * 1000,
                              c->history.max_events,
                              c->history.max_bytes,
                              c->history.hard_max_bytes};
    const char *argv[3 + 2 + 13] = {[3] = t->keys->log,
                                    t->keys->meta,
                                    t->ctx->process,
                                    numbers[0],
                                    state->connected ? "1" : "0",
                                    epoch,
                                    tick ? t->keys->tick : "",
                                    state->gen,
                                    state->acked,
                                    numbers[1],
                                    numbers[2],
                                    numbers[3],
                                    numbers[4],
                                    numbers[5],
                                    "notifier"};
    size_t lens[ARRAY_LEN(argv)];
    int r;

    ingest_epoch_new(epoch);
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        snprintf(numbers[i], sizeof(numbers[i]), "%" PRId64, values[i]);
    for (size_t i = 3; i < ARRAY_LEN(argv); i++)
        lens[i] = strlen(argv[i]);
    r = ingest_script_call(t->ctx, SCRIPT_TICK, 2, cb, t, ARRAY_LEN(argv), argv, lens);
    if (r < 0)
        return r;
    t->calls++;
    if (tick && t->held)
        metric_add(t->ticks, 1);
    return 0;
}

void ticker_tick(struct ticker *t, const struct tick_state *state)
{
    if (t->calls || !redis_link_is_up(t->ctx->redis))
        return;
    /* For trimming that goes on: by then another may own the partition, so nothing of the claim is kept. */
    t->state = (struct tick_state){.connected = state->connected, .gen = "", .acked = "", .above = -1};
    (void)call(t, state, true, on_ticked); /* it is due again in a second */
}

void ticker_release(struct ticker *t, const struct tick_state *state, void (*done)(void *user), void *user)
{
    t->done = done;
    t->user = user;
    if (call(t, state, true, on_released) < 0) {
        t->done = NULL;
        done(user);
    }
}
