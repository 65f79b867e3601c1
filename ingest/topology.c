/* topology.c - declarations, one at a time.
 *
 * Happy path, for each entry that is due: queue.declare -> declare-ok (depth, the queue is there) ->
 * queue.bind for each key -> bind-ok -> due again in 5 s. The dead-letter entry has an exchange.declare in
 * front.
 *
 * Failures: the broker answers a wrong declaration by closing the channel. Then the reason goes to the entry
 * that was being worked on, the channel is opened again, and the next entry has its turn:
 * - 404 at a bind: the exchange is missing; waiting, again after 1 .. 5 s.
 * - anything else (406: the queue exists with other arguments; 403; 405): refused, again after 1 .. 30 s.
 * The connection breaks: every entry is unknown until the link is up again. */
#include "ingest/topology.h"

#include "shared/clock.h"
#include "shared/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#define DEAD_NAME "event.dead"

enum {
    LOOK_MS = 5000, /* between two declarations of what is fine */
    BIND_EVERY = 3, /* looks between two bindings of what is fine */
    RETRY_MIN_MS = 1000,
    WAITING_MAX_MS = 5000,
    REFUSED_MAX_MS = 30000,
};

enum step { STEP_EXCHANGE, STEP_QUEUE, STEP_BIND, STEP_UNBIND };

struct topology_entry {
    LIST_ENTRY(topology_entry) link;
    struct topology *topology;
    bool dead; /* the dead-letter entry */
    char *exchange, *queue;
    char **keys; /* routing keys to bind */
    size_t key_count;
    char **stale; /* routing keys to unbind */
    size_t stale_count;
    topology_queue_cb *cb;
    void *user;
    enum topology_state state;
    char detail[200];
    int64_t due_ms;
    int retry_ms;
    unsigned looks; /* since it was bound last */
    bool again;     /* changed while it was worked on: begin anew */
    struct metric *waiting, *refused, *depth;
};

struct topology {
    struct ingest_ctx *ctx;
    struct link_channel *ch;
    uv_timer_t timer;
    LIST_HEAD(, topology_entry) entries;
    struct topology_entry *dead;
    struct topology_entry *busy; /* NULL: nothing is asked. May have been removed: then `orphan` */
    bool orphan;
    enum step step;
    size_t index; /* of the key */
};

static void work(struct topology *t);

/* --- entries
 * --------------------------------------------------------------------------------------------------- */

static void keys_free(char **keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(keys[i]);
    free(keys);
}

static int keys_copy(char *const *from, size_t count, char ***ret_keys)
{
    char **keys = calloc(count ? count : 1, sizeof(*keys));

    if (!keys)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        keys[i] = strdup(from[i]);
        if (!keys[i]) {
            keys_free(keys, i);
            return -ENOMEM;
        }
    }
    *ret_keys = keys;
    return 0;
}

static int exchange_keys(const struct config_exchange *x, char ***ret_keys, size_t *ret_count)
{
    static char everything[] = "#", nothing[] = "";
    char *one[] = {x->type == CONFIG_EXCHANGE_TOPIC ? everything : nothing};
    bool direct = x->type == CONFIG_EXCHANGE_DIRECT;
    size_t count = direct ? x->key_count : 1;
    int r = keys_copy(direct ? x->keys : one, count, ret_keys);

    if (r < 0)
        return r;
    *ret_count = count;
    return 0;
}

static void entry_free(struct topology_entry *e)
{
    keys_free(e->keys, e->key_count);
    keys_free(e->stale, e->stale_count);
    free(e->exchange);
    free(e->queue);
    free(e);
}

/* keys: taken. */
static struct topology_entry *entry_new(struct topology *t, const char *exchange, const char *queue,
                                        char **keys, size_t key_count)
{
    struct topology_entry *e = calloc(1, sizeof(*e));

    if (!e) {
        keys_free(keys, key_count);
        return NULL;
    }
    e->topology = t;
    e->keys = keys;
    e->key_count = key_count;
    e->retry_ms = RETRY_MIN_MS;
    e->exchange = strdup(exchange);
    e->queue = strdup(queue);
    e->waiting = metrics_get(t->ctx->metrics, IM_WAITING, exchange);
    e->refused = metrics_get(t->ctx->metrics, IM_REFUSED, exchange);
    e->depth = metrics_get(t->ctx->metrics, IM_QUEUE_MESSAGES, exchange);
    if (!e->exchange || !e->queue) {
        entry_free(e);
        return NULL;
    }
    LIST_INSERT_HEAD(&t->entries, e, link);
    return e;
}

static const char *state_text(enum topology_state state)
{
    switch (state) {
    case TOPOLOGY_UNKNOWN:
        return "unknown";
    case TOPOLOGY_BOUND:
        return "bound";
    case TOPOLOGY_WAITING:
        return "waiting";
    case TOPOLOGY_REFUSED:
        return "refused";
    }
    return "?";
}

static void entry_move(struct topology_entry *e, enum topology_state state, const char *detail)
{
    enum topology_state before = e->state;

    e->state = state;
    snprintf(e->detail, sizeof(e->detail), "%s", detail);
    metric_set(e->waiting, state == TOPOLOGY_WAITING);
    metric_set(e->refused, state == TOPOLOGY_REFUSED);
    if (state == before)
        return;
    if (state == TOPOLOGY_BOUND)
        log_info("QUEUE-BOUND", "the queue is declared and bound", LF_STR("exchange", e->exchange),
                 LF_STR("queue", e->queue));
    else if (state == TOPOLOGY_WAITING)
        log_warn("EXCHANGE-MISSING",
                 "RabbitMQ has no such exchange, looking again every few seconds until it appears",
                 LF_STR("exchange", e->exchange), LF_STR("detail", detail));
    else if (state == TOPOLOGY_REFUSED)
        log_error("QUEUE-REFUSED", "RabbitMQ refuses our queue, trying again every 30 s at the latest",
                  LF_STR("exchange", e->exchange), LF_STR("queue", e->queue), LF_STR("detail", detail));
    else
        log_debug("QUEUE-STATE", state_text(state), LF_STR("exchange", e->exchange));
}

/* --- one step after the other
 * ------------------------------------------------------------------------------------ */

static void send_exchange(struct topology *t, const struct topology_entry *e)
{
    amqp_exchange_declare_t m = {
        .exchange = amqp_cstring_bytes(e->exchange), .type = amqp_cstring_bytes("fanout"), .durable = 1};

    link_channel_send(t->ch, AMQP_EXCHANGE_DECLARE_METHOD, &m);
}

static void send_queue(struct topology *t, const struct topology_entry *e)
{
    bool quorum = t->ctx->config->amqp.queue_type == CONFIG_QUEUE_QUORUM;
    amqp_table_entry_t args[] = {
        {.key = amqp_cstring_bytes("x-queue-type"), .value = {.kind = AMQP_FIELD_KIND_UTF8}},
        {.key = amqp_cstring_bytes("x-single-active-consumer"), .value = {.kind = AMQP_FIELD_KIND_BOOLEAN}},
        {.key = amqp_cstring_bytes("x-dead-letter-exchange"), .value = {.kind = AMQP_FIELD_KIND_UTF8}},
    };
    amqp_queue_declare_t m = {.queue = amqp_cstring_bytes(e->queue), .durable = 1};

    args[0].value.value.bytes = amqp_cstring_bytes(quorum ? "quorum" : "classic");
    args[1].value.value.boolean = 1;
    args[2].value.value.bytes = amqp_cstring_bytes(DEAD_NAME);
    if (!e->dead)
        m.arguments = (amqp_table_t){.num_entries = ARRAY_LEN(args), .entries = args};
    link_channel_send(t->ch, AMQP_QUEUE_DECLARE_METHOD, &m);
}

static void send_bind(struct topology *t, const struct topology_entry *e, const char *key)
{
    amqp_queue_bind_t m = {.queue = amqp_cstring_bytes(e->queue),
                           .exchange = amqp_cstring_bytes(e->exchange),
                           .routing_key = amqp_cstring_bytes(key)};

    link_channel_send(t->ch, AMQP_QUEUE_BIND_METHOD, &m);
}

static void send_unbind(struct topology *t, const struct topology_entry *e, const char *key)
{
    amqp_queue_unbind_t m = {.queue = amqp_cstring_bytes(e->queue),
                             .exchange = amqp_cstring_bytes(e->exchange),
                             .routing_key = amqp_cstring_bytes(key)};

    link_channel_send(t->ch, AMQP_QUEUE_UNBIND_METHOD, &m);
}

static void entry_done(struct topology *t)
{
    struct topology_entry *e = TAKE(t->busy);

    if (e->again) {
        e->again = false;
        e->looks = 0;
        e->due_ms = 0;
        work(t);
        return;
    }
    if (e->looks == 0) /* this time it was bound */
        entry_move(e, TOPOLOGY_BOUND, "");
    e->looks = (e->looks + 1) % BIND_EVERY;
    keys_free(e->stale, e->stale_count);
    e->stale = NULL;
    e->stale_count = 0;
    e->retry_ms = RETRY_MIN_MS;
    e->due_ms = clock_mono_ms() + LOOK_MS;
    work(t);
}

/* Send what the current step asks for, or go to the next one if there is nothing to send. */
static void step(struct topology *t)
{
    struct topology_entry *e = t->busy;

    switch (t->step) {
    case STEP_EXCHANGE:
        if (e->dead) {
            send_exchange(t, e);
            return;
        }
        t->step = STEP_QUEUE;
        /* fall through */
    case STEP_QUEUE:
        send_queue(t, e);
        return;
    case STEP_BIND:
        if (e->looks == 0 && t->index < e->key_count) {
            send_bind(t, e, e->keys[t->index]);
            return;
        }
        t->step = STEP_UNBIND;
        t->index = 0;
        /* fall through */
    case STEP_UNBIND:
        if (t->index < e->stale_count) {
            send_unbind(t, e, e->stale[t->index]);
            return;
        }
        entry_done(t);
    }
}

static void on_method(void *user, const amqp_method_t *m)
{
    struct topology *t = user;
    struct topology_entry *e = t->busy;

    if (!e)
        return;
    if (t->orphan) { /* it was removed while it was asked for */
        t->orphan = false;
        entry_free(TAKE(t->busy));
        work(t);
        return;
    }
    switch (m->id) {
    case AMQP_EXCHANGE_DECLARE_OK_METHOD:
        t->step = STEP_QUEUE;
        break;
    case AMQP_QUEUE_DECLARE_OK_METHOD: {
        const amqp_queue_declare_ok_t *ok = m->decoded;

        metric_set(e->depth, ok->message_count);
        t->step = STEP_BIND;
        t->index = 0;
        if (e->cb)
            e->cb(e->user, true);
        break;
    }
    case AMQP_QUEUE_BIND_OK_METHOD:
    case AMQP_QUEUE_UNBIND_OK_METHOD:
        t->index++;
        break;
    default:
        return;
    }
    step(t);
}

static void entry_failed(struct topology *t, int code, const char *text)
{
    struct topology_entry *e = TAKE(t->busy);
    bool missing = code == AMQP_NOT_FOUND && t->step == STEP_BIND;
    int limit = missing ? WAITING_MAX_MS : REFUSED_MAX_MS;
    char detail[200];

    if (t->orphan) {
        t->orphan = false;
        entry_free(e);
        return;
    }
    if (t->step == STEP_UNBIND && code == AMQP_NOT_FOUND) {
        /* Nothing there to take away. */
        keys_free(e->stale, e->stale_count);
        e->stale = NULL;
        e->stale_count = 0;
        e->due_ms = 0;
        return;
    }
    e->again = false;
    snprintf(detail, sizeof(detail), "%d %s", code, text);
    entry_move(e, missing ? TOPOLOGY_WAITING : TOPOLOGY_REFUSED, detail);
    e->looks = 0;
    e->due_ms = clock_mono_ms() + e->retry_ms;
    e->retry_ms = e->retry_ms * 2 < limit ? e->retry_ms * 2 : limit;
    if (t->step == STEP_QUEUE && e->cb)
        e->cb(e->user, false);
}

static void on_closed(void *user, int code, const char *text)
{
    struct topology *t = user;
    struct topology_entry *e, *next;

    t->ch = NULL;
    if (code != 0) {
        if (t->busy)
            entry_failed(t, code, text);
        work(t);
        return;
    }
    if (t->orphan)
        entry_free(t->busy);
    t->busy = NULL;
    t->orphan = false;
    for (e = LIST_FIRST(&t->entries); e; e = next) {
        next = LIST_NEXT(e, link);
        e->looks = 0;
        e->again = false;
        e->due_ms = 0;
        e->retry_ms = RETRY_MIN_MS;
        /* What was waiting or refused is said once, not at every reconnect. */
        if (e->state == TOPOLOGY_BOUND)
            entry_move(e, TOPOLOGY_UNKNOWN, "");
        if (e->cb)
            e->cb(e->user, false);
    }
}

static void on_timer(uv_timer_t *timer)
{
    work(timer->data);
}

/* Take the entry that is due, or wait for the first that will be. */
static void work(struct topology *t)
{
    static const struct link_channel_ops ops = {.method = on_method, .closed = on_closed};
    struct topology_entry *e, *first = t->dead;
    int64_t now = clock_mono_ms();

    if (t->busy || !amqp_link_is_up(t->ctx->amqp))
        return;
    LIST_FOREACH(e, &t->entries, link)
    if (!first || e->due_ms < first->due_ms)
        first = e;
    if (!first)
        return;
    if (first->due_ms > now) {
        uv_timer_start(&t->timer, on_timer, (uint64_t)(first->due_ms - now), 0);
        return;
    }
    if (!t->ch)
        t->ch = link_channel_open(t->ctx->amqp, &ops, t);
    if (!t->ch) {
        uv_timer_start(&t->timer, on_timer, RETRY_MIN_MS, 0);
        return;
    }
    t->busy = first;
    t->step = STEP_EXCHANGE;
    t->index = 0;
    step(t);
}

void topology_up(struct topology *t)
{
    work(t);
}

/* --- life --- */

struct topology *topology_new(struct ingest_ctx *ctx)
{
    static char nothing[] = "";
    char *one[] = {nothing}, **keys = NULL;
    struct topology *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->ctx = ctx;
    LIST_INIT(&t->entries);
    if (keys_copy(one, 1, &keys) == 0)
        t->dead = entry_new(t, DEAD_NAME, DEAD_NAME, keys, 1);
    if (!t->dead) {
        free(t);
        return NULL;
    }
    t->dead->dead = true;
    uv_timer_init(ctx->loop, &t->timer);
    t->timer.data = t;
    return t;
}

static void topology_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void topology_free(struct topology *t)
{
    struct topology_entry *e;

    if (!t)
        return;
    link_channel_close(TAKE(t->ch));
    if (t->orphan)
        entry_free(t->busy);
    while ((e = LIST_FIRST(&t->entries))) {
        LIST_REMOVE(e, link);
        entry_free(e);
    }
    uv_close((uv_handle_t *)&t->timer, topology_closed);
}

struct topology_entry *topology_add(struct topology *t, const struct config_exchange *exchange,
                                    const char *queue, topology_queue_cb *cb, void *user)
{
    struct topology_entry *e;
    char **keys;
    size_t count;

    if (exchange_keys(exchange, &keys, &count) < 0)
        return NULL;
    e = entry_new(t, exchange->name, queue, keys, count);
    if (!e)
        return NULL;
    e->cb = cb;
    e->user = user;
    work(t);
    return e;
}

static bool keys_have(char *const *keys, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

int topology_update(struct topology_entry *e, const struct config_exchange *exchange)
{
    char **keys, **stale;
    size_t count, kept = 0;

    if (exchange_keys(exchange, &keys, &count) < 0)
        return -ENOMEM;
    stale = calloc(e->key_count + e->stale_count + 1, sizeof(*stale));
    if (!stale) {
        keys_free(keys, count);
        return -ENOMEM;
    }
    for (size_t i = 0; i < e->stale_count + e->key_count; i++) {
        char **from = i < e->stale_count ? &e->stale[i] : &e->keys[i - e->stale_count];

        if (!keys_have(keys, count, *from) && !keys_have(stale, kept, *from))
            stale[kept++] = TAKE(*from);
    }
    keys_free(e->keys, e->key_count);
    keys_free(e->stale, e->stale_count);
    e->keys = keys;
    e->key_count = count;
    e->stale = stale;
    e->stale_count = kept;
    topology_poke(e);
    return 0;
}

void topology_remove(struct topology_entry *e)
{
    struct topology *t;

    if (!e)
        return;
    t = e->topology;
    LIST_REMOVE(e, link);
    metric_set(e->waiting, 0);
    metric_set(e->refused, 0);
    metric_set(e->depth, 0);
    e->cb = NULL;
    if (t->busy == e)
        t->orphan = true;
    else
        entry_free(e);
}

void topology_poke(struct topology_entry *e)
{
    e->looks = 0;
    e->due_ms = 0;
    e->retry_ms = RETRY_MIN_MS;
    e->again = e->topology->busy == e;
    work(e->topology);
}

enum topology_state topology_entry_state(const struct topology_entry *e)
{
    return e->state;
}

const char *topology_entry_detail(const struct topology_entry *e)
{
    return e->detail;
}

enum topology_state topology_dead_state(const struct topology *t, const char **ret_detail)
{
    *ret_detail = t->dead->detail;
    return t->dead->state;
}
