/* feed.c - the subscribing connection and what its messages mean; the story is in the header. */
#include "gateway/feed.h"

#include "gateway/gateway_metrics.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/topic.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    WORK_INTERVAL_MS = 100,
    PROBE_INTERVAL_MS = 1000,
    PROBE_LOST_MS = 3000,
    TICK_FRESH_MS = 3500, /* the owner ticks once a second; a lease ends after three */
    READY_GRACE_MS = 5000,
};

struct feed {
    uv_loop_t *loop;
    struct redis_link *link;
    struct redis_link *command;
    struct metrics *metrics;
    struct ready *ready;
    int ready_check, tick_check;
    struct feed_handlers handlers;
    void *user;
    char *prefix;
    char name[80]; /* of this gateway, in its probe channel */
    struct partition *partitions;
    uv_timer_t timer;
    uv_timer_t work_timer; /* replays that wait for something */
    uv_idle_t work;        /* replays that have work in every turn */
    int handles;
    uint64_t serial;
    uint64_t probe_sent;
    int64_t probe_back_ms; /* monotonic: the last probe that came back, or the link's beginning */
    struct metric *redis_up, *disconnects, *kind_event, *kind_tick, *kind_probe;
    void (*closed)(void *user);
    void *closed_user;
};

/* --- text of messages --- */

struct cursor {
    const char *at, *end;
};

static bool take_number(struct cursor *c, uint64_t *ret)
{
    uint64_t n = 0;
    const char *from = c->at;

    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(*c->at - '0'), &n))
            return false;
    *ret = n;
    return c->at > from;
}

static bool take_char(struct cursor *c, char expected)
{
    if (c->at == c->end || *c->at != expected)
        return false;
    c->at++;
    return true;
}

static bool take_epoch(struct cursor *c, char end, char epoch[EPOCH_MAX + 1])
{
    const char *stop = memchr(c->at, end, (size_t)(c->end - c->at));
    size_t len = stop ? (size_t)(stop - c->at) : 0;

    if (len == 0 || len > EPOCH_MAX)
        return false;
    memcpy(epoch, c->at, len);
    epoch[len] = '\0';
    c->at = stop + 1;
    return true;
}

static bool take_id(struct cursor *c, struct position *pos)
{
    size_t n = position_parse_id(c->at, (size_t)(c->end - c->at), pos);

    c->at += n;
    return n > 0;
}

/* --- partitions --- */

static void send_channel(struct partition *p, const char *prefix, size_t len, bool subscribe)
{
    CLEANUP(buf_done) struct buf name = {0};
    int r;

    buf_add_str(&name, p->keys.channel);
    buf_add(&name, prefix, len);
    if (buf_status(&name) < 0)
        r = -ENOMEM;
    else if (subscribe)
        r = redis_link_subscribe(p->feed->link, name.data, name.len);
    else
        r = redis_link_unsubscribe(p->feed->link, name.data, name.len);
    if (r == -ENOMEM)
        redis_link_cut(p->feed->link, "no memory for a subscription");
    /* ERR_REDIS_DOWN: the link is breaking, and interest_link_down follows. */
}

static void on_interest_subscribe(void *user, const char *prefix, size_t len)
{
    send_channel(user, prefix, len, true);
}

static void on_interest_unsubscribe(void *user, const char *prefix, size_t len)
{
    send_channel(user, prefix, len, false);
}

static void on_interest_live(void *user, struct interest_ref *ref)
{
    struct partition *p = user;

    p->feed->handlers.live(p->feed->user, ref);
}

static void partition_free(struct partition *p)
{
    if (!p)
        return;
    replay_free(p->replay);
    if (p->router)
        router_free(p->router);
    if (p->interest)
        interest_free(p->interest);
    partition_keys_done(&p->keys);
    free(p->exchange);
    free(p->base);
    free(p);
}

/* --- replay --- */

static void on_replay_route(void *user, const struct feed_event *event)
{
    struct partition *p = user;

    metric_add(p->events, 1);
    p->feed->handlers.event(p->feed->user, event);
}

static bool on_replay_deliver(void *user, struct replay_entry *e, const struct feed_event *event)
{
    struct partition *p = user;

    return p->feed->handlers.deliver(p->feed->user, e, event);
}

static bool on_replay_may_continue(void *user, const struct replay_entry *e)
{
    struct partition *p = user;

    return p->feed->handlers.may_continue(p->feed->user, e);
}

static void on_replay_joined(void *user, struct replay_entry *e, bool recovered)
{
    struct partition *p = user;

    metric_add(metrics_get(p->feed->metrics, GM_RESUMES, recovered ? "recovered" : "refused"), 1);
    p->feed->handlers.joined(p->feed->user, e, recovered);
}

static void on_replay_gap(void *user, const struct position *from, const struct position *to)
{
    struct partition *p = user;
    CLEANUP(buf_done) struct buf a = {0}, b = {0};

    position_print(from, p->exchange, p->number, &a);
    position_print(to, p->exchange, p->number, &b);
    log_warn("GAP", "events are lost to this gateway; its clients are told", LF_STR("exchange", p->exchange),
             LF_STR("from", a.data), LF_STR("to", b.data));
    metric_add(metrics_get(p->feed->metrics, GM_GAPS, p->exchange), 1);
    p->feed->handlers.gap(p->feed->user, p, from, to);
}

static void do_work(struct feed *f);

static void on_work(uv_idle_t *idle)
{
    do_work(idle->data);
}

static void do_work(struct feed *f)
{
    int64_t now = clock_mono_ms();
    bool more = false;
    struct partition *p, *tmp;

    HASH_ITER (hh, f->partitions, p, tmp)
        more |= replay_work(p->replay, now);
    if (more)
        uv_idle_start(&f->work, on_work);
    else
        uv_idle_stop(&f->work);
}

static void on_work_timer(uv_timer_t *timer)
{
    do_work(timer->data);
}

void feed_kick(struct partition *p)
{
    if (!uv_is_closing((uv_handle_t *)&p->feed->work))
        uv_idle_start(&p->feed->work, on_work);
}

uint64_t feed_next_serial(struct partition *p)
{
    return ++p->feed->serial;
}

void feed_resume(struct partition *p, struct replay_entry *e)
{
    replay_add(p->replay, e);
    feed_kick(p);
}

bool feed_is_live(const struct partition *p)
{
    return redis_link_is_up(p->feed->link) && !replay_is_catching_up(p->replay);
}

void feed_command_is_up(struct feed *f)
{
    /* If it fails, the link is breaking; and an unknown script is loaded when a read meets it. */
    (void)!redis_link_script_load(f->command, replay_script(), NULL, NULL);
    for (struct partition *p = f->partitions; p; p = p->hh.next)
        feed_kick(p);
}

/* The reading may begin once everything wanted is subscribed. */
static void partition_check_settled(struct partition *p)
{
    if (!replay_is_catching_up(p->replay) || !interest_is_settled(p->interest))
        return;
    replay_settled(p->replay);
    feed_kick(p);
}

static struct partition *partition_new(struct feed *f, const char *exchange)
{
    static const struct interest_ops ops = {on_interest_subscribe, on_interest_unsubscribe, on_interest_live};
    static const struct replay_ops replay_ops = {on_replay_route, on_replay_deliver, on_replay_may_continue,
                                                 on_replay_joined, on_replay_gap};
    struct partition *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->feed = f;
    p->exchange = strdup(exchange);
    p->router = router_new();
    p->interest = interest_new(&ops, p);
    if (p->exchange)
        p->replay = replay_new(p, f->command, &replay_ops, p);
    if (!p->exchange || !p->router || !p->interest || !p->replay ||
        partition_keys_init(&p->keys, f->prefix, exchange, 0) < 0) {
        partition_free(p);
        return NULL;
    }
    p->base_len = strlen(p->keys.tick) - strlen("tick");
    p->base = strndup(p->keys.tick, p->base_len);
    if (!p->base) {
        partition_free(p);
        return NULL;
    }
    p->events = metrics_get(f->metrics, GM_EVENTS, exchange);
    p->repeated = metrics_get(f->metrics, GM_EVENTS_REPEATED, exchange);
    p->tick_age = metrics_get(f->metrics, GM_TICK_AGE, exchange);
    HASH_ADD_KEYPTR(hh, f->partitions, p->base, p->base_len, p);
    return p;
}

struct partition *feed_partition(struct feed *f, const char *exchange)
{
    for (struct partition *p = f->partitions; p; p = p->hh.next)
        if (!p->removed && strcmp(p->exchange, exchange) == 0)
            return p;
    return NULL;
}

static void partition_subscribe(struct partition *p)
{
    struct feed *f = p->feed;
    CLEANUP(buf_done) struct buf probe = {0};

    buf_add_str(&probe, p->keys.probe);
    buf_add_str(&probe, f->name);
    if (buf_status(&probe) < 0 ||
        redis_link_subscribe(f->link, p->keys.tick, strlen(p->keys.tick)) == -ENOMEM ||
        redis_link_subscribe(f->link, probe.data, probe.len) == -ENOMEM) {
        redis_link_cut(f->link, "no memory for a subscription");
        return;
    }
    replay_catch_up(p->replay);
    interest_link_up(p->interest);
    partition_check_settled(p);
}

static void partition_remove(struct partition *p)
{
    struct feed *f = p->feed;
    CLEANUP(buf_done) struct buf probe = {0};

    p->removed = true;
    buf_add_str(&probe, p->keys.probe);
    buf_add_str(&probe, f->name);
    if (redis_link_is_up(f->link) && buf_status(&probe) == 0) {
        /* A failure means that the link breaks, and takes the subscriptions with it. */
        (void)!redis_link_unsubscribe(f->link, p->keys.tick, strlen(p->keys.tick));
        (void)!redis_link_unsubscribe(f->link, probe.data, probe.len);
    }
    metric_set(p->tick_age, 0);
    feed_release(p);
}

void feed_release(struct partition *p)
{
    if (!p->removed || p->bindings > 0 || router_size(p->router) > 0 || interest_channels(p->interest) > 0)
        return;
    if (!interest_is_idle(p->interest))
        return;
    HASH_DELETE(hh, p->feed->partitions, p);
    partition_free(p);
}

int feed_reload(struct feed *f, struct config *config)
{
    struct partition *p, *tmp;

    for (size_t i = 0; i < config->exchange_count; i++) {
        const char *name = config->exchanges[i].name;
        struct partition *same = NULL;

        for (p = f->partitions; p && !same; p = p->hh.next)
            if (strcmp(p->exchange, name) == 0)
                same = p;
        if (same && !same->removed)
            continue;
        if (same)
            same->removed = false; /* it came back before its last binding had gone */
        else
            same = partition_new(f, name);
        if (!same)
            return -ENOMEM;
        if (redis_link_is_up(f->link))
            partition_subscribe(same);
    }
    HASH_ITER (hh, f->partitions, p, tmp)
        if (!p->removed && !config_exchange_find(config, p->exchange, strlen(p->exchange)))
            partition_remove(p);
    return 0;
}

/* --- messages --- */

/* The log began anew: what came between is lost, and the new log is read from its beginning. */
static void partition_begin_epoch(struct partition *p, const char *epoch)
{
    struct position old = p->last;

    if (strcmp(old.epoch, epoch) == 0)
        return;
    p->last = (struct position){0};
    snprintf(p->last.epoch, sizeof(p->last.epoch), "%s", epoch);
    if (!old.epoch[0])
        return;
    on_replay_gap(p, &old, &p->last);
    replay_new_epoch(p->replay);
    replay_catch_up(p->replay);
    partition_check_settled(p);
}

void feed_new_epoch(struct partition *p, const char *epoch, size_t len)
{
    char text[EPOCH_MAX + 1] = "";

    memcpy(text, epoch, len < EPOCH_MAX ? len : EPOCH_MAX);
    partition_begin_epoch(p, text);
}

static void on_event(struct feed *f, struct partition *p, const char *payload, size_t len)
{
    struct cursor c = {payload, payload + len};
    struct position pos = {0};
    struct feed_event event = {.partition = p};
    uint64_t key_len;

    metric_add(f->kind_event, 1);
    if (!take_epoch(&c, ':', pos.epoch) || !take_id(&c, &pos) || !take_char(&c, ' ') ||
        !take_number(&c, &key_len) || !take_char(&c, ' ') || key_len > TOPIC_MAX ||
        key_len > (uint64_t)(c.end - c.at)) {
        metrics_add(f->metrics, GM_EVENTS_MALFORMED, 1);
        return;
    }
    partition_begin_epoch(p, pos.epoch);
    if (replay_is_catching_up(p->replay)) {
        replay_heard(p->replay, &pos);
        return;
    }
    if (!position_is_above(&pos, &p->last)) {
        metric_add(p->repeated, 1);
        return;
    }
    p->last = pos;
    metric_add(p->events, 1);
    event.key = c.at;
    event.key_len = (size_t)key_len;
    event.frame = c.at + key_len;
    event.frame_len = (size_t)(c.end - event.frame);
    event.serial = ++f->serial;
    f->handlers.event(f->user, &event);
}

/* <counter> <epoch> <tip> <floor> <0|1>; later versions may append fields. */
static void on_tick(struct feed *f, struct partition *p, const char *payload, size_t len)
{
    struct cursor c = {payload, payload + len};
    struct position tip = {0}, bottom = {0};
    uint64_t counter, connected;
    bool first;

    metric_add(f->kind_tick, 1);
    if (!take_number(&c, &counter) || !take_char(&c, ' ') || !take_epoch(&c, ' ', tip.epoch) ||
        !take_id(&c, &tip) || !take_char(&c, ' ') || !take_id(&c, &bottom) || !take_char(&c, ' ') ||
        !take_number(&c, &connected)) {
        metrics_add(f->metrics, GM_EVENTS_MALFORMED, 1);
        return;
    }
    p->tick_ms = clock_mono_ms();
    p->broker_connected = connected != 0;
    first = p->last.epoch[0] == '\0';
    partition_begin_epoch(p, tip.epoch);
    if (first)
        p->last = tip; /* what was before we came is nobody's */
    /* Redis never skips a message on a connection that lives; if it looks so, the log knows better. */
    if (p->tick_counter && counter != p->tick_counter + 1 && !replay_is_catching_up(p->replay)) {
        replay_catch_up(p->replay);
        partition_check_settled(p);
    }
    p->tick_counter = counter;
    if (replay_is_catching_up(p->replay))
        replay_heard(p->replay, &tip);
    else if (position_is_above(&tip, &p->last))
        p->last = tip;
}

/* The channel's partition, and what comes behind its base. */
static struct partition *channel_partition(struct feed *f, const char *channel, size_t len,
                                           struct cursor *ret_rest)
{
    const char *brace = memchr(channel, '}', len);
    struct partition *p = NULL;
    size_t base_len;

    if (!brace || brace + 1 == channel + len)
        return NULL;
    base_len = (size_t)(brace - channel) + 2;
    HASH_FIND(hh, f->partitions, channel, base_len, p);
    *ret_rest = (struct cursor){channel + base_len, channel + len};
    return p;
}

static bool rest_is(struct cursor c, const char *text)
{
    return (size_t)(c.end - c.at) == strlen(text) && memcmp(c.at, text, strlen(text)) == 0;
}

static bool rest_begins(struct cursor *c, const char *text)
{
    size_t n = strlen(text);

    if ((size_t)(c->end - c->at) < n || memcmp(c->at, text, n) != 0)
        return false;
    c->at += n;
    return true;
}

static void on_message(void *user, const char *channel, size_t channel_len, const char *payload, size_t len)
{
    struct feed *f = user;
    struct cursor rest;
    struct partition *p = channel_partition(f, channel, channel_len, &rest);

    if (!p)
        return;
    if (rest_begins(&rest, "ch:")) {
        on_event(f, p, payload, len);
    } else if (rest_is(rest, "tick")) {
        on_tick(f, p, payload, len);
    } else if (rest_begins(&rest, "probe:")) {
        metric_add(f->kind_probe, 1);
        f->probe_back_ms = clock_mono_ms();
    }
}

static void on_subscribed(void *user, const char *channel, size_t len, bool subscribed)
{
    struct feed *f = user;
    struct cursor rest;
    struct partition *p = channel_partition(f, channel, len, &rest);

    if (!p || !rest_begins(&rest, "ch:"))
        return;
    interest_confirmed(p->interest, rest.at, (size_t)(rest.end - rest.at), subscribed);
    partition_check_settled(p);
    feed_release(p);
}

static void on_up(void *user)
{
    struct feed *f = user;

    log_info("FEED-UP", "subscribing to Redis", LF_INT("partitions", HASH_COUNT(f->partitions)));
    metric_set(f->redis_up, 1);
    ready_set(f->ready, f->ready_check, true, NULL);
    f->probe_back_ms = clock_mono_ms();
    for (struct partition *p = f->partitions; p; p = p->hh.next)
        if (!p->removed)
            partition_subscribe(p);
}

static void on_down(void *user, int error, const char *detail, int retry_ms)
{
    struct feed *f = user;
    struct partition *p, *tmp;

    log_warn("FEED-DOWN", "the subscribing Redis connection is down; retrying",
             LF_STR("error", err_text(error)), LF_STR("detail", detail), LF_INT("retry_ms", retry_ms));
    metric_set(f->redis_up, 0);
    metric_add(f->disconnects, 1);
    ready_set(f->ready, f->ready_check, false, detail);
    HASH_ITER (hh, f->partitions, p, tmp) {
        interest_link_down(p->interest);
        feed_release(p);
    }
}

/* --- probes and ticks --- */

/* The partition whose probe channel is used: any, but not one that leaves and has unsubscribed it. */
static const struct partition *probed(const struct feed *f)
{
    const struct partition *p = f->partitions;

    while (p && p->removed)
        p = p->hh.next;
    return p;
}

static void send_probe(struct feed *f)
{
    CLEANUP(buf_done) struct buf channel = {0};
    const struct partition *p = probed(f);
    char text[24];

    if (!p || !redis_link_is_up(f->command))
        return;
    buf_add_str(&channel, p->keys.probe);
    buf_add_str(&channel, f->name);
    snprintf(text, sizeof(text), "%" PRIu64, ++f->probe_sent);
    /* Not accepted: the command link broke just now, and no probe is expected then. */
    if (buf_status(&channel) == 0)
        (void)!redis_link_send(f->command, NULL, NULL, "PUBLISH", channel.data, text, NULL);
}

static void on_timer(uv_timer_t *timer)
{
    struct feed *f = timer->data;
    int64_t now = clock_mono_ms();
    char detail[128] = "";

    if (redis_link_is_up(f->link)) {
        if (!redis_link_is_up(f->command) || !probed(f))
            f->probe_back_ms = now;
        else if (now - f->probe_back_ms > PROBE_LOST_MS)
            redis_link_cut(f->link, "no probe came back");
    }
    send_probe(f);
    for (struct partition *p = f->partitions; p; p = p->hh.next)
        if (!detail[0] && !p->removed && (!p->tick_ms || now - p->tick_ms > TICK_FRESH_MS))
            snprintf(detail, sizeof(detail), "no tick from an ingest for exchange %.60s", p->exchange);
    ready_set(f->ready, f->tick_check, !detail[0], detail[0] ? detail : NULL);
}

bool feed_redis_is_up(const struct feed *f)
{
    return redis_link_is_up(f->link);
}

bool feed_broker_is_connected(const struct feed *f)
{
    int64_t now = clock_mono_ms();
    bool fresh = false;

    for (struct partition *p = f->partitions; p; p = p->hh.next) {
        if (p->removed || !p->tick_ms || now - p->tick_ms > TICK_FRESH_MS)
            continue;
        if (!p->broker_connected)
            return false;
        fresh = true;
    }
    return fresh;
}

void feed_refresh_metrics(struct feed *f)
{
    int64_t now = clock_mono_ms();
    size_t channels = 0;
    double reads = 0, entries = 0;

    for (struct partition *p = f->partitions; p; p = p->hh.next) {
        channels += interest_channels(p->interest);
        reads += (double)replay_counts(p->replay)->reads;
        entries += (double)replay_counts(p->replay)->entries;
        if (!p->removed)
            metric_set(p->tick_age, p->tick_ms ? (double)(now - p->tick_ms) / 1000 : -1);
    }
    metrics_set(f->metrics, GM_REPLAY_READS, reads);
    metrics_set(f->metrics, GM_REPLAY_ENTRIES, entries);
    metrics_set(f->metrics, GM_CHANNELS, (double)channels);
    metrics_set(f->metrics, GM_REDIS_BYTES, (double)redis_link_received_bytes(f->link));
}

/* --- life --- */

static void name_gateway(struct feed *f)
{
    uint32_t random = 0;
    char host[48] = "gateway";

    (void)!gethostname(host, sizeof(host) - 1); /* a long name is cut, which is fine for a label */
    (void)!getrandom(&random, sizeof(random), 0);
    snprintf(f->name, sizeof(f->name), "%s-%d-%08x", host, (int)getpid(), random);
}

static void feed_free(struct feed *f)
{
    struct partition *p, *tmp;

    HASH_ITER (hh, f->partitions, p, tmp) {
        HASH_DELETE(hh, f->partitions, p);
        partition_free(p);
    }
    free(f->prefix);
    free(f);
}

struct feed *feed_new(uv_loop_t *loop, struct config *config, struct redis_link *command,
                      struct metrics *metrics, struct ready *ready, const struct feed_handlers *handlers,
                      void *user)
{
    static const struct redis_link_events events = {on_up, on_down, on_message, on_subscribed};
    struct redis_link_conf conf = {.url = config->redis.url, .name = "event-gateway:feed"};
    struct feed *f = calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    *f = (struct feed){.loop = loop,
                       .command = command,
                       .metrics = metrics,
                       .ready = ready,
                       .handlers = *handlers,
                       .user = user};
    f->prefix = strdup(config->prefix);
    f->link = redis_link_new(loop, &conf, &events, f);
    if (!f->prefix || !f->link) {
        redis_link_close(f->link, NULL);
        feed_free(f);
        return NULL;
    }
    name_gateway(f);
    f->ready_check = ready_add(ready, "redis-feed", READY_GRACE_MS);
    f->tick_check = ready_add(ready, "ticks", READY_NEVER_FAILS);
    f->redis_up = metrics_get(metrics, GM_REDIS_UP, "feed");
    f->disconnects = metrics_get(metrics, GM_REDIS_RECONNECTS, "feed");
    f->kind_event = metrics_get(metrics, GM_REDIS_MESSAGES, "event");
    f->kind_tick = metrics_get(metrics, GM_REDIS_MESSAGES, "tick");
    f->kind_probe = metrics_get(metrics, GM_REDIS_MESSAGES, "probe");
    uv_timer_init(loop, &f->timer);
    uv_timer_init(loop, &f->work_timer);
    uv_idle_init(loop, &f->work);
    f->timer.data = f->work_timer.data = f->work.data = f;
    f->handles = 3;
    if (feed_reload(f, config) < 0) {
        /* The timer's memory must outlive its closing. */
        feed_close(f, NULL, NULL);
        return NULL;
    }
    return f;
}

void feed_start(struct feed *f)
{
    redis_link_start(f->link);
    uv_timer_start(&f->timer, on_timer, 0, PROBE_INTERVAL_MS);
    uv_timer_start(&f->work_timer, on_work_timer, WORK_INTERVAL_MS, WORK_INTERVAL_MS);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct feed *f = handle->data;
    void (*closed)(void *) = f->closed;
    void *user = f->closed_user;

    if (--f->handles > 0)
        return;
    feed_free(f);
    if (closed)
        closed(user);
}

static void on_link_closed(void *user)
{
    struct feed *f = user;

    uv_close((uv_handle_t *)&f->timer, on_handle_closed);
    uv_close((uv_handle_t *)&f->work_timer, on_handle_closed);
    uv_close((uv_handle_t *)&f->work, on_handle_closed);
}

void feed_close(struct feed *f, void (*closed)(void *user), void *user)
{
    f->closed = closed;
    f->closed_user = user;
    uv_timer_stop(&f->timer);
    uv_timer_stop(&f->work_timer);
    uv_idle_stop(&f->work);
    redis_link_close(f->link, on_link_closed);
}
