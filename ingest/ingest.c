/* ingest.c - composition: one connection to RabbitMQ, one to Redis, a partition for each exchange.
 *
 *   amqp_link --frames--> consumer --deliveries--> partition/owner --scripts--> redis_link
 *        '--channel 1-- topology                   partition/ticker --tick.lua--^
 *
 * Start: both links begin to connect; a partition consumes when its queue is declared and Redis is up (who
 * cannot publish should not hold the queue from a healthy ingest). Redis away: deliveries are held; after
 * REDIS_AWAY_MS they go back to their queues, until Redis is up again. SIGHUP: exchanges that are new are
 * added, removed ones stop in order, changed ones are bound anew; limits apply. SIGTERM: every partition
 * stops in order (STOP_MS at most for all), then RabbitMQ, then Redis, then the rest. */
#include "ingest/ingest.h"

#include "shared/admin.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/log.h"
#include "shared/loop_lag.h"
#include "shared/ready.h"

#include "ingest/ingest_ctx.h"
#include "ingest/partition.h"
#include "ingest/topology.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
    TICK_MS = 1000,
    WATCH_MS = 200,        /* readiness is looked at so often */
    REDIS_AWAY_MS = 60000, /* DESIGN 10 */
    STOP_MS = 5000,
    READY_GRACE_MS = 5000,
};

/* One exchange that is served. */
struct slot {
    LIST_ENTRY(slot) link;
    struct ingest *ingest;
    char *exchange;
    struct partition *partition;
    struct topology_entry *entry; /* NULL once it is stopping */
    bool stopping;
};

struct ingest {
    struct ingest_ctx ctx;
    struct program *program;
    struct ready *ready;
    int check_amqp, check_redis, check_exchanges;
    struct admin *admin;
    struct loop_lag *lag;
    struct topology *topology;
    LIST_HEAD(, slot) slots;
    uv_timer_t tick, watch, deadline;
    unsigned timers;
    int64_t redis_down_ms; /* since when, 0: it is up */
    bool redis_away;       /* for longer than REDIS_AWAY_MS */
    bool stopping, links_closing;
    bool policy_asked;
    char amqp_detail[200], redis_detail[200];
};

/* --- exchanges --- */

static void exchanges_sync(struct ingest *in);
static void stop_if_done(struct ingest *in);

static void slot_free(struct slot *s)
{
    LIST_REMOVE(s, link);
    topology_remove(s->entry);
    partition_free(s->partition);
    free(s->exchange);
    free(s);
}

static void slot_queue_gone(void *user)
{
    struct slot *s = user;

    if (s->entry)
        topology_poke(s->entry);
}

static void slot_queue_there(void *user, bool there)
{
    struct slot *s = user;

    partition_queue_there(s->partition, there);
}

static int slot_add(struct ingest *in, const struct config_exchange *x)
{
    struct slot *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->ingest = in;
    LIST_INSERT_HEAD(&in->slots, s, link);
    s->exchange = strdup(x->name);
    if (s->exchange)
        s->partition = partition_new(&in->ctx, x->name, 0, slot_queue_gone, s);
    if (s->partition)
        s->entry = topology_add(in->topology, x, partition_queue(s->partition), slot_queue_there, s);
    if (!s->entry) {
        slot_free(s);
        return -ENOMEM;
    }
    return 0;
}

static void slot_stopped(void *user)
{
    struct slot *s = user;
    struct ingest *in = s->ingest;

    slot_free(s);
    if (in->stopping)
        stop_if_done(in);
    else
        exchanges_sync(in); /* it may have been configured again meanwhile */
}

static void slot_stop(struct slot *s)
{
    if (s->stopping)
        return;
    s->stopping = true;
    topology_remove(TAKE(s->entry));
    partition_stop(s->partition, slot_stopped, s);
}

static struct slot *slot_find(struct ingest *in, const char *exchange)
{
    struct slot *s;

    LIST_FOREACH(s, &in->slots, link)
    if (strcmp(s->exchange, exchange) == 0)
        return s;
    return NULL;
}

/* Make the slots what the configuration says. */
static void exchanges_sync(struct ingest *in)
{
    const struct config *c = in->ctx.config;
    struct slot *s, *next;

    for (size_t i = 0; i < c->exchange_count; i++) {
        const struct config_exchange *x = &c->exchanges[i];
        int r;

        s = slot_find(in, x->name);
        if (s && s->stopping)
            continue; /* slot_stopped comes here again */
        r = s ? topology_update(s->entry, x) : slot_add(in, x);
        if (r < 0)
            log_error("EXCHANGE-FAILED", "an exchange cannot be served until the next reload",
                      LF_STR("exchange", x->name), LF_STR("error", err_text(r)));
    }
    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        if (s->stopping || config_exchange_find(c, s->exchange, strlen(s->exchange)))
            continue;
        log_warn("EXCHANGE-REMOVED",
                 "no longer served; its queue stays bound and fills up at the broker until it is deleted",
                 LF_STR("exchange", s->exchange), LF_STR("queue", partition_queue(s->partition)));
        slot_stop(s);
    }
}

/* --- the two links
 * ----------------------------------------------------------------------------------------------------- */

static void on_amqp_up(void *user)
{
    struct ingest *in = user;

    metrics_set(in->ctx.metrics, IM_AMQP_CONNECTED, 1);
    log_info("AMQP-UP", "connected to RabbitMQ");
    topology_up(in->topology);
}

static void on_amqp_down(void *user, const char *detail, int retry_ms)
{
    struct ingest *in = user;

    metrics_set(in->ctx.metrics, IM_AMQP_CONNECTED, 0);
    metrics_add(in->ctx.metrics, IM_AMQP_DISCONNECTS, 1);
    snprintf(in->amqp_detail, sizeof(in->amqp_detail), "%s", detail);
    log_warn("AMQP-DOWN", "no connection to RabbitMQ, connecting again after a wait",
             LF_STR("detail", detail), LF_INT("retry_ms", retry_ms));
}

static void on_amqp_read_done(void *user)
{
    struct ingest *in = user;
    struct slot *s, *next;

    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        partition_pump(s->partition);
    }
}

static void on_policy(void *user, int error, const struct redisReply *reply)
{
    size_t len = 0;
    const char *policy = redis_reply_str(redis_reply_at(reply, 1), &len);

    (void)user;
    if (error || !policy)
        return; /* not allowed to ask */
    if (strcmp(policy, "volatile-ttl") != 0)
        log_warn(
            "REDIS-POLICY",
            "maxmemory-policy should be volatile-ttl: under pressure caches must go before logs and rules",
            LF_BYTES("policy", policy, len));
}

static void on_redis_up(void *user)
{
    struct ingest *in = user;
    struct slot *s, *next;

    metrics_set(in->ctx.metrics, IM_REDIS_UP, 1);
    in->redis_down_ms = 0;
    in->redis_away = false;
    log_info("REDIS-UP", "connected to Redis");
    ingest_scripts_load(&in->ctx);
    if (!in->policy_asked)
        in->policy_asked =
            redis_link_send(in->ctx.redis, on_policy, in, "CONFIG", "GET", "maxmemory-policy", NULL) == 0;
    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        partition_redis_up(s->partition);
    }
}

static void on_redis_down(void *user, int error, const char *detail, int retry_ms)
{
    struct ingest *in = user;

    metrics_set(in->ctx.metrics, IM_REDIS_UP, 0);
    metrics_add(in->ctx.metrics, IM_REDIS_DISCONNECTS, 1);
    snprintf(in->redis_detail, sizeof(in->redis_detail), "%s", detail);
    if (!in->redis_down_ms)
        in->redis_down_ms = clock_mono_ms();
    log_warn("REDIS-DOWN", "no connection to Redis, deliveries are held, connecting again after a wait",
             LF_STR("error", err_text(error)), LF_STR("detail", detail), LF_INT("retry_ms", retry_ms));
}

/* --- time --- */

static void judge_exchanges(struct ingest *in)
{
    const char *detail;
    char text[200] = "";
    unsigned missing = 0;
    bool good = true;
    struct slot *s;

    if (topology_dead_state(in->topology, &detail) != TOPOLOGY_BOUND) {
        good = false;
        snprintf(text, sizeof(text), "event.dead: %s", detail[0] ? detail : "not declared yet");
    }
    LIST_FOREACH(s, &in->slots, link)
    {
        enum topology_state state = s->entry ? topology_entry_state(s->entry) : TOPOLOGY_BOUND;

        missing += state == TOPOLOGY_WAITING;
        if (s->stopping || state == TOPOLOGY_WAITING ||
            (state == TOPOLOGY_BOUND && partition_is_consuming(s->partition)))
            continue;
        good = false;
        detail = s->entry ? topology_entry_detail(s->entry) : "";
        snprintf(text, sizeof(text), "%s: %s", s->exchange, detail[0] ? detail : "not consumed");
    }
    if (good && missing)
        snprintf(text, sizeof(text), "%u waited for: no such exchange in RabbitMQ", missing);
    ready_set(in->ready, in->check_exchanges, good, text[0] ? text : NULL);
}

static void judge_redis(struct ingest *in)
{
    bool up = redis_link_is_up(in->ctx.redis);
    const char *detail = up ? NULL : in->redis_detail;
    struct slot *s;
    bool good = up;

    LIST_FOREACH(s, &in->slots, link)
    {
        int fault = partition_fault(s->partition);

        if (up && fault) {
            good = false;
            detail = err_text(fault);
        }
    }
    ready_set(in->ready, in->check_redis, good, detail);
}

static void on_watch(uv_timer_t *timer)
{
    struct ingest *in = timer->data;
    bool amqp_up = in->ctx.amqp && amqp_link_is_up(in->ctx.amqp);
    struct slot *s, *next;

    if (in->stopping)
        return;
    ready_set(in->ready, in->check_amqp, amqp_up, amqp_up ? NULL : in->amqp_detail);
    judge_redis(in);
    judge_exchanges(in);
    if (!in->redis_down_ms || in->redis_away || clock_mono_ms() - in->redis_down_ms < REDIS_AWAY_MS)
        return;
    in->redis_away = true;
    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        partition_redis_away(s->partition);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct ingest *in = timer->data;
    struct slot *s, *next;

    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        if (s->entry)
            partition_tick(s->partition, topology_entry_state(s->entry) == TOPOLOGY_WAITING);
    }
}

static void on_metrics(void *user)
{
    struct ingest *in = user;

    metrics_set(in->ctx.metrics, IM_INFLIGHT_BYTES, (double)in->ctx.inflight.bytes);
    metric_set(metrics_get(in->ctx.metrics, IM_LOG_DROPPED, NULL), (double)log_dropped());
}

/* --- stopping --- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct ingest *in = handle->data;

    in->timers--;
}

static void on_redis_closed(void *user)
{
    struct ingest *in = user;

    in->ctx.redis = NULL;
    admin_close(TAKE(in->admin));
    loop_lag_close(TAKE(in->lag));
    uv_close((uv_handle_t *)&in->tick, on_timer_closed);
    uv_close((uv_handle_t *)&in->watch, on_timer_closed);
    uv_close((uv_handle_t *)&in->deadline, on_timer_closed);
    program_stopped(in->program);
}

static void on_amqp_closed(void *user)
{
    struct ingest *in = user;

    in->ctx.amqp = NULL;
    redis_link_close(in->ctx.redis, on_redis_closed);
}

static void stop_if_done(struct ingest *in)
{
    if (!LIST_EMPTY(&in->slots) || in->links_closing)
        return;
    in->links_closing = true;
    topology_free(TAKE(in->topology));
    amqp_link_close(in->ctx.amqp, on_amqp_closed, in);
}

static void on_deadline(uv_timer_t *timer)
{
    struct ingest *in = timer->data;
    struct slot *s;

    if (in->links_closing)
        return;
    log_warn("STOP-LATE", "not everything in flight was answered in time; it goes back to the queues",
             LF_INT("after_ms", STOP_MS));
    while ((s = LIST_FIRST(&in->slots)))
        slot_free(s);
    stop_if_done(in);
}

static void ingest_stop(void *ctx)
{
    struct ingest *in = ctx;
    struct slot *s, *next;

    in->stopping = true;
    ready_drain(in->ready);
    uv_timer_stop(&in->tick);
    uv_timer_start(&in->deadline, on_deadline, STOP_MS, 0);
    for (s = LIST_FIRST(&in->slots); s; s = next) {
        next = LIST_NEXT(s, link);
        slot_stop(s);
    }
    stop_if_done(in);
}

/* --- life --- */

static void ingest_free(struct ingest *in)
{
    metrics_free(in->ctx.metrics);
    ready_free(in->ready);
    config_unref(in->ctx.config);
    free(in);
}

static int links_new(struct ingest *in)
{
    static const struct amqp_link_events amqp_events = {
        .up = on_amqp_up, .down = on_amqp_down, .read_done = on_amqp_read_done};
    static const struct redis_link_events redis_events = {.up = on_redis_up, .down = on_redis_down};
    const struct config *c = in->ctx.config;
    char name[128];
    struct amqp_link_conf amqp = {.url = c->amqp.url, .name = name, .heartbeat_s = (int)c->amqp.heartbeat_s};
    struct redis_link_conf redis = {.url = c->redis.url, .name = "event-ingest:log"};

    snprintf(name, sizeof(name), "event-ingest %s", in->ctx.process);
    in->ctx.redis = redis_link_new(in->ctx.loop, &redis, &redis_events, in);
    if (!in->ctx.redis)
        return -ENOMEM;
    in->ctx.amqp = amqp_link_new(in->ctx.loop, &amqp, &amqp_events, in);
    if (!in->ctx.amqp) {
        redis_link_close(TAKE(in->ctx.redis), NULL);
        return -ENOMEM;
    }
    return 0;
}

static int parts_new(struct ingest *in)
{
    in->topology = topology_new(&in->ctx);
    in->lag = loop_lag_start(in->ctx.loop, metrics_get(in->ctx.metrics, IM_LOOP_LAG, NULL),
                             metrics_get(in->ctx.metrics, IM_LOOP_LAG_MAX, NULL));
    if (!in->topology || !in->lag)
        return -ENOMEM;
    return admin_start(in->ctx.loop, in->ctx.config->ingest.admin, in->ctx.metrics, in->ready, on_metrics, in,
                       &in->admin);
}

static void parts_close(struct ingest *in)
{
    topology_free(in->topology);
    loop_lag_close(in->lag);
    admin_close(in->admin);
    amqp_link_close(in->ctx.amqp, NULL, NULL);
    redis_link_close(in->ctx.redis, NULL);
}

static int timer_new(struct ingest *in, uv_timer_t *timer, uv_timer_cb cb, uint64_t every_ms)
{
    int r = uv_timer_init(in->ctx.loop, timer);

    timer->data = in;
    in->timers++;
    if (r == 0 && cb)
        r = uv_timer_start(timer, cb, every_ms, every_ms);
    return r;
}

static int ingest_start(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx)
{
    struct ingest *in = calloc(1, sizeof(*in));
    int r = -ENOMEM;

    if (!in)
        return r;
    in->program = p;
    in->ctx.loop = loop;
    in->ctx.config = config_ref(c);
    in->ctx.inflight.limit = (size_t)c->ingest.inflight_max_bytes;
    in->redis_down_ms = clock_mono_ms();
    snprintf(in->amqp_detail, sizeof(in->amqp_detail), "connecting");
    snprintf(in->redis_detail, sizeof(in->redis_detail), "connecting");
    LIST_INIT(&in->slots);
    ingest_ctx_init(&in->ctx);
    in->ctx.metrics = metrics_new(ingest_metric_rows, INGEST_METRIC_COUNT);
    in->ready = ready_new();
    if (!in->ctx.metrics || !in->ready)
        goto fail;
    in->check_amqp = ready_add(in->ready, "amqp", READY_GRACE_MS);
    in->check_redis = ready_add(in->ready, "redis", READY_GRACE_MS);
    in->check_exchanges = ready_add(in->ready, "exchanges", READY_GRACE_MS);
    r = links_new(in);
    if (r < 0)
        goto fail;
    r = parts_new(in);
    if (r < 0) {
        log_error("START-FAILED", "cannot start", LF_STR("admin", c->ingest.admin),
                  LF_STR("error", err_text(r)));
        parts_close(in);
        ingest_free(in); /* nothing that closes points into it */
        return r;
    }
    /* Timers of the loop itself do not fail. */
    (void)timer_new(in, &in->tick, on_tick, TICK_MS);
    (void)timer_new(in, &in->watch, on_watch, WATCH_MS);
    (void)timer_new(in, &in->deadline, NULL, 0);
    exchanges_sync(in);
    redis_link_start(in->ctx.redis);
    amqp_link_start(in->ctx.amqp);
    *ret_ctx = in;
    return 0;
fail:
    log_error("START-FAILED", "cannot start", LF_STR("error", err_text(r)));
    ingest_free(in);
    return r;
}

static void ingest_reload(void *ctx, struct config *c)
{
    struct ingest *in = ctx;

    config_unref(in->ctx.config);
    in->ctx.config = config_ref(c);
    in->ctx.inflight.limit = (size_t)c->ingest.inflight_max_bytes;
    metrics_add(in->ctx.metrics, IM_RELOADS, 1);
    if (!in->stopping)
        exchanges_sync(in);
}

static void ingest_finish(void *ctx)
{
    struct ingest *in = ctx;

    assert(in->timers == 0);
    ingest_free(in);
}

static const char *ingest_admin(const struct config *c)
{
    return c->ingest.admin;
}

static char *ingest_check(const struct config *c)
{
    const char *fault = amqp_url_check(c->amqp.url);
    CLEANUP(buf_done) struct buf b = {0};

    if (!fault)
        return NULL;
    buf_printf(&b, "amqp.url: %s\n", fault);
    return buf_take(&b);
}

const struct program_ops ingest_ops = {
    .name = "event-ingest",
    .admin_listen = ingest_admin,
    .check = ingest_check,
    .start = ingest_start,
    .reload = ingest_reload,
    .stop = ingest_stop,
    .finish = ingest_finish,
};
