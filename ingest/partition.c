/* partition.c - sessions.
 *
 * Happy path: open the consumer -> deliveries to the owner -> `settled`: ack up to the tag -> once a second
 * flush (has the broker taken the acks?) -> the tick writes `acked`.
 *
 * `acked` moves only behind that flush: it tells the next owner from which id on a redelivery may be in the
 * log already, so an ack that is lost with the connection must not have moved it. After a basic.cancel it
 * stays: acks to a queue that is failing over are answered, but may be in vain.
 *
 * Failures:
 * - The channel or the link closes: what is held is dropped (the broker has it back), what is in flight is
 * recognised by its digest when it returns. Again when the queue is declared, after a backoff.
 * - basic.cancel: the queue is deleted, and what we hold exists nowhere else: it is published before the
 * channel goes.
 * - Fenced: another ingest has claimed. The channel closes, and the new one stands last in the broker's
 * order.
 * - Redis away for a minute (ingest.c counts): the channel closes and opens when Redis is back.
 * - SIGTERM: the channel is closed rather than cancelled. A cancel would let the standby go on with later
 * messages while ours are still in flight; a closed channel returns them first. */
#include "ingest/partition.h"

#include "shared/clock.h"
#include "shared/err.h"
#include "shared/keyspace.h"
#include "shared/log.h"

#include "ingest/consumer.h"
#include "ingest/owner.h"
#include "ingest/ticker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MIN_MS = 1000, RETRY_MAX_MS = 30000 };

enum partition_state {
    PARTITION_IDLE,
    PARTITION_OPENING,
    PARTITION_CONSUMING,
    PARTITION_CANCELLED,
    PARTITION_STOPPING
};

struct partition {
    struct ingest_ctx *ctx;
    char *exchange, *queue;
    struct partition_keys keys;
    struct owner *owner;
    struct ticker *ticker;
    struct consumer *consumer;
    enum partition_state state;
    partition_queue_gone_cb *queue_gone;
    void *user;
    bool queue_is_there, received, releasing;
    int64_t retry_at_ms;
    int retry_ms;
    struct owner_mark ack_sent, ack_flushing, ack_sure;
    void (*stopped)(void *user);
    void *stopped_user;
    struct metric *acked, *dead_lettered, *headers_dropped, *fenced, *consuming, *cancels, *held;
};

static void open_if_due(struct partition *p);

/* --- sessions
 * -------------------------------------------------------------------------------------------------------- */

static void session_end(struct partition *p, int wait_ms)
{
    consumer_close(TAKE(p->consumer));
    owner_reset(p->owner);
    p->ack_sent = p->ack_flushing = p->ack_sure = (struct owner_mark){0};
    p->received = false;
    metric_set(p->consuming, 0);
    p->retry_at_ms = clock_mono_ms() + wait_ms;
    if (p->state != PARTITION_STOPPING)
        p->state = PARTITION_IDLE;
}

static int backoff_next(struct partition *p)
{
    int wait_ms = p->retry_ms / 2 + (int)(clock_mono_us() % (p->retry_ms / 2 + 1));

    p->retry_ms = p->retry_ms * 2 < RETRY_MAX_MS ? p->retry_ms * 2 : RETRY_MAX_MS;
    return wait_ms;
}

static void on_delivery(void *user, const struct delivery *d)
{
    struct partition *p = user;

    if (p->state == PARTITION_STOPPING)
        return;
    if (d->headers_dropped) {
        metric_add(p->headers_dropped, 1);
        log_warn("HEADERS-DROPPED",
                 "an event's headers are nested too deep or malformed; it is served without them",
                 LF_STR("exchange", p->exchange), LF_BYTES("key", d->key, d->key_len));
    }
    if (owner_add(p->owner, d) < 0) {
        int wait_ms = backoff_next(p);

        log_error("NO-MEMORY",
                  "no memory for a delivery; all that is held goes back to the queue, consuming again later",
                  LF_STR("exchange", p->exchange), LF_INT("bytes", d->body_len), LF_INT("retry_ms", wait_ms));
        session_end(p, wait_ms);
        return;
    }
    p->received = true;
}

static void on_oversize(void *user, const char *key, size_t key_len, uint64_t body_len)
{
    struct partition *p = user;

    metric_add(p->dead_lettered, 1);
    log_warn("EVENT-OVERSIZE", "an event over ingest.message_max_bytes is dead-lettered to event.dead",
             LF_STR("exchange", p->exchange), LF_BYTES("key", key, key_len), LF_INT("bytes", body_len),
             LF_INT("limit", p->ctx->config->ingest.message_max_bytes));
}

static void on_consuming(void *user)
{
    struct partition *p = user;

    if (p->state != PARTITION_OPENING)
        return;
    p->state = PARTITION_CONSUMING;
    metric_set(p->consuming, 1);
    log_info("CONSUMING", "registered as consumer, active or standby", LF_STR("exchange", p->exchange),
             LF_STR("queue", p->queue));
}

/* Who held deliveries of the deleted queue has published them before anybody claims for the new one: the
 * others wait. */
static void cancelled_done(struct partition *p, int wait_ms)
{
    if (p->state == PARTITION_CANCELLED && owner_held(p->owner) == 0) {
        session_end(p, wait_ms);
        open_if_due(p);
    }
}

static void on_cancelled(void *user)
{
    struct partition *p = user;

    metric_add(p->cancels, 1);
    log_warn("CONSUMER-CANCELLED",
             "RabbitMQ cancelled the consumer (queue deleted or its node lost); what is held is published, "
             "then the queue "
             "is declared and consumed again",
             LF_STR("exchange", p->exchange), LF_STR("queue", p->queue),
             LF_INT("held", owner_held(p->owner)));
    if (p->state != PARTITION_STOPPING)
        p->state = PARTITION_CANCELLED;
    metric_set(p->consuming, 0);
    p->queue_is_there = false;
    p->queue_gone(p->user);
    cancelled_done(p, RETRY_MIN_MS);
}

static void on_closed(void *user, int code, const char *text)
{
    struct partition *p = user;
    bool stopping = p->state == PARTITION_STOPPING;
    int wait_ms = code ? backoff_next(p) : 0;
    char label[16];

    if (p->state == PARTITION_CANCELLED && owner_held(p->owner) > 0) {
        consumer_close(TAKE(p->consumer)); /* the owner goes on without it */
        return;
    }
    if (code) {
        snprintf(label, sizeof(label), "%d", code);
        metric_add(metrics_get(p->ctx->metrics, IM_CHANNELS_CLOSED, label), 1);
        log_warn("CHANNEL-CLOSED", "RabbitMQ closed the consuming channel, consuming again after a wait",
                 LF_STR("exchange", p->exchange), LF_INT("code", code),
                 LF_BYTES("detail", text, strlen(text)), LF_INT("retry_ms", wait_ms));
    }
    session_end(p, wait_ms);
    if (code == AMQP_NOT_FOUND) {
        p->queue_is_there = false;
        p->queue_gone(p->user);
    }
    if (stopping)
        owner_drain(p->owner); /* nothing is held any more: goes on to its end */
}

/* --- what the owner tells
 * ---------------------------------------------------------------------------------------- */

static void on_settled(void *user, uint64_t tag, size_t count, const struct owner_mark *mark)
{
    struct partition *p = user;

    if (p->consumer)
        consumer_ack(p->consumer, tag);
    metric_add(p->acked, (double)count);
    if (mark->seq)
        p->ack_sent = *mark;
    p->retry_ms = RETRY_MIN_MS;
    cancelled_done(p, 0);
}

static void on_fenced(void *user, int error, const char *detail)
{
    struct partition *p = user;
    int wait_ms = backoff_next(p);

    metric_add(p->fenced, 1);
    log_warn("FENCED",
             "this claim is over; what is not acked goes back to the queue, consuming again after a wait",
             LF_STR("exchange", p->exchange), LF_STR("error", err_text(error)), LF_STR("detail", detail),
             LF_INT("retry_ms", wait_ms));
    bool stopping = p->state == PARTITION_STOPPING;
    session_end(p, wait_ms);
    if (stopping)
        owner_drain(p->owner);
}

/* --- stopping
 * ------------------------------------------------------------------------------------------------------- */

static void on_released(void *user)
{
    struct partition *p = user;
    void (*stopped)(void *user) = TAKE(p->stopped);

    consumer_close(TAKE(p->consumer));
    if (stopped)
        stopped(p->stopped_user); /* frees p */
}

static void release(struct partition *p)
{
    struct tick_state state = {.connected = amqp_link_is_up(p->ctx->amqp),
                               .gen = owner_gen(p->owner),
                               .acked = p->ack_sure.id,
                               .above = -1};

    if (p->releasing)
        return;
    p->releasing = true;
    ticker_release(p->ticker, &state, on_released, p);
}

static void on_flushed(void *user)
{
    struct partition *p = user;

    p->ack_sure = p->ack_flushing;
    if (p->state != PARTITION_STOPPING || !p->stopped)
        return;
    if (p->ack_sure.seq < p->ack_sent.seq) {
        p->ack_flushing = p->ack_sent;
        if (consumer_flush(p->consumer))
            return;
    }
    release(p);
}

static void on_drained(void *user)
{
    struct partition *p = user;

    if (!p->stopped)
        return;
    if (!p->consumer || !p->ack_sent.seq)
        release(p);
    else if (consumer_flush(p->consumer))
        p->ack_flushing = p->ack_sent;
    /* Else one is under way; on_flushed asks again. */
}

void partition_stop(struct partition *p, void (*stopped)(void *user), void *user)
{
    p->state = PARTITION_STOPPING;
    p->stopped = stopped;
    p->stopped_user = user;
    owner_drain(p->owner);
}

/* --- life --- */

static const struct owner_events owner_events = {
    .settled = on_settled, .fenced = on_fenced, .drained = on_drained};

static char *queue_name(const char *exchange, int number)
{
    CLEANUP(buf_done) struct buf b = {0};

    buf_printf(&b, "event.ingest.%s.%d", exchange, number);
    return buf_take(&b);
}

struct partition *partition_new(struct ingest_ctx *ctx, const char *exchange, int number,
                                partition_queue_gone_cb *queue_gone, void *user)
{
    struct partition *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->ctx = ctx;
    p->queue_gone = queue_gone;
    p->user = user;
    p->retry_ms = RETRY_MIN_MS;
    p->exchange = strdup(exchange);
    p->queue = queue_name(exchange, number);
    if (!p->exchange || !p->queue || partition_keys_init(&p->keys, ctx->config->prefix, exchange, number) < 0)
        goto fail;
    p->owner = owner_new(ctx, p->exchange, number, &p->keys, &owner_events, p);
    p->ticker = ticker_new(ctx, p->exchange, &p->keys);
    if (!p->owner || !p->ticker)
        goto fail;
    p->acked = metrics_get(ctx->metrics, IM_ACKED, exchange);
    p->dead_lettered = metrics_get(ctx->metrics, IM_DEAD_LETTERED, exchange);
    p->headers_dropped = metrics_get(ctx->metrics, IM_HEADERS_DROPPED, exchange);
    p->fenced = metrics_get(ctx->metrics, IM_FENCED, exchange);
    p->consuming = metrics_get(ctx->metrics, IM_CONSUMERS, exchange);
    p->cancels = metrics_get(ctx->metrics, IM_CANCELS, exchange);
    p->held = metrics_get(ctx->metrics, IM_INFLIGHT_EVENTS, exchange);
    return p;
fail:
    partition_free(p);
    return NULL;
}

void partition_free(struct partition *p)
{
    if (!p)
        return;
    consumer_close(TAKE(p->consumer));
    owner_free(p->owner);
    ticker_free(p->ticker);
    if (p->consuming) {
        metric_set(p->consuming, 0);
        metric_set(p->held, 0);
    }
    partition_keys_done(&p->keys);
    free(p->exchange);
    free(p->queue);
    free(p);
}

/* --- what comes from outside
 * --------------------------------------------------------------------------------- */

static void open_if_due(struct partition *p)
{
    static const struct consumer_ops ops = {.delivery = on_delivery,
                                            .oversize = on_oversize,
                                            .consuming = on_consuming,
                                            .cancelled = on_cancelled,
                                            .flushed = on_flushed,
                                            .closed = on_closed};
    const struct config *c = p->ctx->config;
    struct consumer_conf conf = {.queue = p->queue,
                                 .prefetch = (int)c->ingest.prefetch,
                                 .body_max = c->ingest.message_max_bytes ? (size_t)c->ingest.message_max_bytes
                                                                         : SIZE_MAX};

    if (p->state != PARTITION_IDLE || !p->queue_is_there || !redis_link_is_up(p->ctx->redis) ||
        clock_mono_ms() < p->retry_at_ms)
        return;
    p->consumer = consumer_open(p->ctx->amqp, &conf, &ops, p);
    if (p->consumer)
        p->state = PARTITION_OPENING;
}

const char *partition_queue(const struct partition *p)
{
    return p->queue;
}

void partition_queue_there(struct partition *p, bool there)
{
    p->queue_is_there = there;
    open_if_due(p);
}

void partition_redis_up(struct partition *p)
{
    open_if_due(p);
    owner_pump(p->owner);
}

void partition_redis_away(struct partition *p)
{
    /* What a cancelled consumer holds exists nowhere else: hold on to it. */
    if (p->state != PARTITION_OPENING && p->state != PARTITION_CONSUMING)
        return;
    log_warn("REDIS-AWAY-LONG",
             "Redis is away for long; what is held goes back to the queue, consuming again when it is back",
             LF_STR("exchange", p->exchange), LF_INT("held", owner_held(p->owner)));
    session_end(p, 0);
}

void partition_pump(struct partition *p)
{
    if (!p->received)
        return;
    p->received = false;
    owner_pump(p->owner);
}

void partition_tick(struct partition *p, bool waiting)
{
    bool consuming = partition_is_consuming(p);
    struct tick_state state = {.connected = amqp_link_is_up(p->ctx->amqp) && (consuming || waiting),
                               .gen = owner_gen(p->owner),
                               .acked = p->ack_sure.id,
                               .above = owner_above(p->owner, &p->ack_sure)};

    metric_set(p->held, (double)owner_held(p->owner));
    if (p->state == PARTITION_STOPPING)
        return;
    open_if_due(p);
    ticker_tick(p->ticker, &state);
    if (p->state == PARTITION_CONSUMING && p->ack_flushing.seq < p->ack_sent.seq) {
        struct owner_mark mark = p->ack_sent;

        if (consumer_flush(p->consumer))
            p->ack_flushing = mark;
    }
}

bool partition_is_consuming(const struct partition *p)
{
    return p->state == PARTITION_CONSUMING;
}

int partition_fault(const struct partition *p)
{
    int fault = owner_fault(p->owner);

    return fault ? fault : ticker_fault(p->ticker);
}

size_t partition_held(const struct partition *p)
{
    return owner_held(p->owner);
}
