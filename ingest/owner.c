/* owner.c - deliveries into the log.
 *
 *   delivery -> event (frame, digest) -> queue: [confirmed | in flight | waiting] -> settled up to tag ->
 * freed ^head                ^next
 *
 * Redis answers in the order of the calls, so what is confirmed is always a prefix of the queue. After a
 * failure the calls behind it are refused as HOLE; nothing is sent again before all of them are answered
 * (`stall`).
 *
 * An event that was sent belongs to Redis's answer: if the session ends before it comes, the event is
 * orphaned and freed by it. What an old session has in flight is harmless: a new claim travels behind it on
 * the same link, or is protected by the fence on a new one; either way the digests read after the claim
 * include it. */
#include "ingest/owner.h"

#include "shared/clock.h"
#include "shared/err.h"
#include "shared/frame.h"
#include "shared/log.h"
#include "shared/topic.h"

#include "ingest/digest_set.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH_EVENTS = 128,    /* LIBRARIES: 64 to 256 */
    BATCH_BYTES = 1 << 20, /* and no more than this, so that the link's output buffer stays small */
    BATCHES_IN_FLIGHT = 4,
    LEASE_MS = 3000, /* a claim also takes the tick lease (ticker.c renews it) */
    DIGEST_PAGE_ENTRIES = 1000,
    DIGEST_PAGE_BYTES = 1 << 20,
    RETRY_MIN_MS = 100,
    RETRY_MAX_MS = 5000,
    SCRATCH_KEEP = 1 << 20, /* a bigger frame's memory is given back */
};

struct event {
    struct event *next;
    struct ingest_ctx *ctx;
    struct owner *owner; /* NULL: orphaned */
    uint64_t tag, seq;   /* seq: 0 until first sent */
    int64_t sent_us;     /* of a batch's last event */
    bool redelivered, duplicate, outstanding, confirmed, batch_end;
    char digest[DIGEST_HEX + 1];
    size_t key_len, frame_len;
    char bytes[]; /* key, frame */
};

enum owner_state { OWNER_IDLE, OWNER_CLAIMING, OWNER_READING, OWNER_OWNING };

struct owner {
    struct ingest_ctx *ctx;
    const char *exchange;
    const struct partition_keys *keys;
    const struct owner_events *events;
    void *user;
    char *head; /* {"id":"<exchange>:<partition>: */
    size_t head_len;
    uv_timer_t timer; /* the backoff */
    bool dead, timer_closed;

    enum owner_state state;
    uint64_t session; /* counts resets */
    bool calling;     /* claim.lua or digests.lua is under way, */
    uint64_t call_session;
    char epoch_wanted[EPOCH_NEW_LEN + 1];

    char gen[24], epoch[EPOCH_MAX + 1];
    uint64_t seq;    /* of the last event that was sent in this claim */
    uint64_t in_log; /* entries above acked when we claimed */
    struct digest_set digests;
    char read_from[48];
    /* The newest event that Redis confirmed to us: its id, and its seq if it is of this claim. Survives the
     * claim: the next one tells by it whether a failover lost the log's tail. */
    char known_epoch[EPOCH_MAX + 1], known_id[48];
    uint64_t known_seq;

    struct event *first, *last, *next; /* next: first that is not sent */
    size_t held, outstanding, batches;
    int stall; /* why nothing is sent, or 0 */
    int fault; /* what owner_fault says */
    int retry_ms;
    bool draining;

    struct buf scratch; /* a frame being built; then channel names */
    struct metric *deliveries, *redelivered, *published, *duplicates, *batch_count, *in_flight, *claims,
        *epochs, *owning, *latency;
};

static void claim(struct owner *o);
static void read_digests(struct owner *o);

/* --- events
 * ----------------------------------------------------------------------------------------------------- */

static size_t event_size(const struct event *e)
{
    return sizeof(*e) + e->key_len + e->frame_len;
}

static void event_free(struct event *e)
{
    inflight_sub(e->ctx, event_size(e));
    free(e);
}

static const char *event_frame(const struct event *e)
{
    return e->bytes + e->key_len;
}

int owner_add(struct owner *o, const struct delivery *d)
{
    struct frame_event frame = {
        .exchange = o->exchange,
        .key = d->key,
        .key_len = d->key_len,
        .redelivered = d->redelivered,
        .props = d->props,
        .body = d->body,
        .body_len = d->body_len,
    };
    struct digest_part parts[] = {
        {d->key, d->key_len}, {d->canonical.bytes, d->canonical.len}, {d->body, d->body_len}};
    struct event *e;
    int r;

    buf_reset(&o->scratch);
    r = frame_build(&o->scratch, &frame);
    if (r < 0)
        return r;
    e = malloc(sizeof(*e) + d->key_len + o->scratch.len);
    if (!e)
        return -ENOMEM;
    *e = (struct event){.ctx = o->ctx,
                        .owner = o,
                        .tag = d->tag,
                        .redelivered = d->redelivered,
                        .key_len = d->key_len,
                        .frame_len = o->scratch.len};
    memcpy(e->bytes, d->key, d->key_len);
    memcpy(e->bytes + d->key_len, o->scratch.data, o->scratch.len);
    digest_hex(parts, ARRAY_LEN(parts), e->digest);
    if (o->scratch.cap > SCRATCH_KEEP)
        buf_done(&o->scratch);

    if (o->last)
        o->last->next = e;
    else
        o->first = e;
    o->last = e;
    if (!o->next)
        o->next = e;
    o->held++;
    metric_add(o->deliveries, 1);
    if (e->redelivered)
        metric_add(o->redelivered, 1);
    inflight_add(o->ctx, event_size(e));
    return 0;
}

/* --- what is confirmed leaves
 * -------------------------------------------------------------------------------- */

static void settle(struct owner *o)
{
    struct owner_mark mark = {0};
    uint64_t tag = 0;
    size_t n = 0;

    while (o->first && !o->first->outstanding && (o->first->confirmed || o->first->duplicate)) {
        struct event *e = o->first;

        assert(e != o->next);
        o->first = e->next;
        if (!o->first)
            o->last = NULL;
        tag = e->tag;
        o->held--;
        n++;
        event_free(e);
    }
    if (!n)
        return;
    if (o->known_seq) {
        mark.seq = o->known_seq;
        memcpy(mark.id, o->known_id, sizeof(mark.id));
    }
    o->events->settled(o->user, tag, n, &mark);
}

/* --- failures
 * --------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    struct owner *o = timer->data;

    o->stall = 0;
    owner_pump(o);
}

static void fault_set(struct owner *o, int error, const struct redisReply *reply)
{
    const char *text = reply ? redis_reply_str(reply, NULL) : NULL;

    if (o->fault == error)
        return;
    o->fault = error;
    if (!error) {
        log_info("PUBLISH-RESUMED", "Redis takes events again", LF_STR("exchange", o->exchange));
        return;
    }
    metric_add(metrics_get(o->ctx->metrics, IM_REDIS_ERRORS, err_text(error)), 1);
    log_error("PUBLISH-HELD", "Redis refuses events; they are held, trying again until it takes them",
              LF_STR("exchange", o->exchange), LF_STR("error", err_text(error)), LF_STR("detail", text),
              LF_INT("retry_ms", o->retry_ms));
}

/* Everything that was in flight is answered, and not all of it well: begin again at the first unconfirmed. */
static void rewind_queue(struct owner *o)
{
    int stall = o->stall;

    settle(o);
    o->next = o->first;
    o->batches = 0;
    for (struct event *e = o->first; e; e = e->next)
        e->batch_end = false;
    if (stall == ERR_REDIS_DOWN || stall == ERR_REDIS_READONLY || stall == -ECANCELED)
        return; /* until the link comes up */
    if (stall == ERR_REDIS_NOSCRIPT)
        ingest_scripts_load(o->ctx);
    uv_timer_start(&o->timer, on_timer, (uint64_t)o->retry_ms, 0);
    o->retry_ms = o->retry_ms ? o->retry_ms * 2 : RETRY_MIN_MS;
    if (o->retry_ms > RETRY_MAX_MS)
        o->retry_ms = RETRY_MAX_MS;
}

/* A call was refused. Nothing more is sent until what is in flight is answered. */
static void stall(struct owner *o, int error, const struct redisReply *reply)
{
    if (o->stall)
        return; /* refused because an earlier one was */
    o->stall = error;
    switch (error) {
    case ERR_REDIS_DOWN:
    case -ECANCELED:
        break;
    case ERR_REDIS_READONLY:
        redis_link_cut(o->ctx->redis, "this Redis is read-only");
        break;
    case ERR_REDIS_NOSCRIPT:
        log_info("SCRIPTS-GONE", "Redis has lost our scripts, loading them again",
                 LF_STR("exchange", o->exchange));
        break;
    default:
        if (!o->retry_ms)
            o->retry_ms = RETRY_MIN_MS;
        fault_set(o, error, reply);
    }
}

static void succeeded(struct owner *o)
{
    o->retry_ms = 0;
    if (o->fault)
        fault_set(o, 0, NULL);
}

/* --- publishing
 * -------------------------------------------------------------------------------------------------- */

static void confirmed(struct owner *o, struct event *e, const struct redisReply *reply)
{
    size_t len = 0;
    const char *id = redis_reply_str(reply, &len);

    e->confirmed = true;
    if (id && len && len < sizeof(o->known_id)) {
        memcpy(o->known_id, id, len);
        o->known_id[len] = '\0';
        if (!o->known_seq)
            memcpy(o->known_epoch, o->epoch, sizeof(o->known_epoch));
        o->known_seq = e->seq;
    }
    metric_add(o->published, 1);
    succeeded(o);
}

static void batch_done(struct owner *o, struct event *e)
{
    o->batches--;
    metric_set(o->in_flight, (double)o->batches);
    metric_observe(o->latency, (double)(clock_mono_us() - e->sent_us) / 1e6);
}

static void on_published(void *user, int error, const struct redisReply *reply)
{
    struct event *e = user;
    struct owner *o = e->owner;
    bool batch_end = e->batch_end;

    e->outstanding = false;
    if (!o) {
        event_free(e);
        return;
    }
    o->outstanding--;
    if (error == 0)
        confirmed(o, e, reply);
    else if ((error == ERR_REDIS_FENCED || error == ERR_REDIS_HOLE) && !o->stall) {
        const char *text = reply ? redis_reply_str(reply, NULL) : NULL;

        o->events->fenced(o->user, error, text ? text : err_text(error));
        return;
    } else
        stall(o, error, reply);
    if (batch_end)
        batch_done(o, e);
    if (o->outstanding == 0 && o->stall)
        rewind_queue(o);
    else if (batch_end || o->outstanding == 0)
        settle(o);
    if (o->draining) {
        if (o->outstanding == 0)
            o->events->drained(o->user);
        return;
    }
    if (batch_end)
        owner_pump(o);
}

static const char *u64_text(uint64_t v, char out[24], size_t *ret_len)
{
    char *p = out + 23;

    *p = '\0';
    do
        *--p = (char)('0' + v % 10);
    while (v /= 10);
    *ret_len = (size_t)(out + 23 - p);
    return p;
}

/* The channels of the event, into the scratch buffer and argv. */
static int add_channels(struct owner *o, const struct event *e, const char **argv, size_t *lens,
                        size_t *ret_argc)
{
    uint8_t prefixes[TOPIC_WORDS_MAX + 1];
    size_t count = topic_key_prefixes(e->bytes, e->key_len, prefixes);
    size_t base_len = strlen(o->keys->channel);

    buf_reset(&o->scratch);
    buf_reserve(&o->scratch,
                count * (base_len + e->key_len)); /* so that it does not move while argv points to it */
    for (size_t i = 0; i < count; i++) {
        size_t at = o->scratch.len;

        buf_add(&o->scratch, o->keys->channel, base_len);
        buf_add(&o->scratch, e->bytes, prefixes[i]);
        if (buf_status(&o->scratch) < 0)
            return -ENOMEM;
        argv[*ret_argc] = o->scratch.data + at;
        lens[(*ret_argc)++] = o->scratch.len - at;
    }
    return 0;
}

#define ARG(text, n) (argv[argc] = (text), lens[argc++] = (n))

static int send_event(struct owner *o, struct event *e)
{
    const char *argv[3 + 2 + 8 + TOPIC_WORDS_MAX + 1];
    size_t lens[ARRAY_LEN(argv)], argc = 3, len;
    char number[24];
    const char *text;
    int r;

    if (!e->seq)
        e->seq = o->seq + 1;
    text = u64_text(e->seq, number, &len);
    ARG(o->keys->log, strlen(o->keys->log));
    ARG(o->keys->meta, strlen(o->keys->meta));
    ARG(o->gen, strlen(o->gen));
    ARG(o->ctx->process, strlen(o->ctx->process));
    ARG(o->epoch, strlen(o->epoch));
    ARG(text, len);
    ARG(o->head, o->head_len);
    ARG(e->bytes, e->key_len);
    ARG(event_frame(e), e->frame_len);
    ARG(e->digest, DIGEST_HEX);
    r = add_channels(o, e, argv, lens, &argc);
    if (r == 0)
        r = ingest_script_call(o->ctx, SCRIPT_PUBLISH, 2, on_published, e, argc, argv, lens);
    if (r < 0) {
        if (e->seq > o->seq)
            e->seq = 0;
        return r;
    }
    if (e->seq > o->seq)
        o->seq = e->seq;
    e->outstanding = true;
    o->outstanding++;
    return 0;
}

/* Is it in the log since an earlier life? Asked once for each, in order. */
static bool is_duplicate(struct owner *o, struct event *e)
{
    if (e->duplicate)
        return true;
    if (e->seq || !o->digests.size)
        return false;
    if (!e->redelivered) {
        /* Redelivered ones come first: from here on nothing can be a duplicate. */
        digest_set_done(&o->digests);
        return false;
    }
    e->duplicate = digest_set_take(&o->digests, e->digest);
    if (e->duplicate)
        metric_add(o->duplicates, 1);
    return e->duplicate;
}

static int send_batch(struct owner *o)
{
    struct event *last = NULL;
    size_t events = 0, bytes = 0;
    int r = 0;

    while (o->next && events < BATCH_EVENTS && bytes < BATCH_BYTES) {
        struct event *e = o->next;

        if (!is_duplicate(o, e)) {
            r = send_event(o, e);
            if (r < 0)
                break;
            last = e;
            events++;
            bytes += e->frame_len;
        }
        o->next = e->next;
    }
    if (last) {
        last->batch_end = true;
        last->sent_us = clock_mono_us();
        o->batches++;
        metric_add(o->batch_count, 1);
        metric_set(o->in_flight, (double)o->batches);
    }
    return r;
}

void owner_pump(struct owner *o)
{
    if (o->dead || o->draining || !redis_link_is_up(o->ctx->redis))
        return;
    if ((o->stall == ERR_REDIS_DOWN || o->stall == ERR_REDIS_READONLY) && !o->outstanding)
        o->stall = 0; /* the link is back */
    if (o->stall)
        return;
    switch (o->state) {
    case OWNER_IDLE:
        if (o->first && !o->calling)
            claim(o);
        return;
    case OWNER_CLAIMING:
        return;
    case OWNER_READING:
        if (!o->calling)
            read_digests(o);
        return;
    case OWNER_OWNING:
        break;
    }
    while (o->next && o->batches < BATCHES_IN_FLIGHT) {
        int r = send_batch(o);

        if (r < 0) {
            stall(o, r, NULL);
            if (!o->outstanding)
                rewind_queue(o);
            return;
        }
    }
    if (!o->outstanding)
        settle(o);
}

/* --- claiming
 * ----------------------------------------------------------------------------------------------------- */

/* An answer to claim.lua or digests.lua: is it for this session, and good? Else it has been dealt with. */
static bool call_answered(struct owner *o, int error, const struct redisReply *reply)
{
    o->calling = false;
    if (o->dead) {
        owner_free(o);
        return false;
    }
    if (o->call_session != o->session) {
        owner_pump(o);
        return false;
    }
    if (error == 0)
        return true;
    if (error == ERR_REDIS_FENCED || error == ERR_REDIS_HOLE)
        error = ERR_REDIS_REPLY;
    stall(o, error, reply);
    rewind_queue(o);
    return false;
}

static void reply_copy(const struct redisReply *reply, size_t i, char *out, size_t size)
{
    size_t len = 0;
    const char *text = redis_reply_str(redis_reply_at(reply, i), &len);

    len = text ? (len < size - 1 ? len : size - 1) : 0;
    if (len)
        memcpy(out, text, len);
    out[len] = '\0';
}

static void on_claimed(void *user, int error, const struct redisReply *reply)
{
    struct owner *o = user;
    bool born;

    if (error == 0 && redis_reply_count(reply) != 6)
        error = ERR_REDIS_REPLY;
    if (o->call_session == o->session && error != 0)
        o->state = OWNER_IDLE;
    if (!call_answered(o, error, reply))
        return;
    snprintf(o->gen, sizeof(o->gen), "%lld", (long long)redis_reply_int(redis_reply_at(reply, 0)));
    reply_copy(reply, 1, o->epoch, sizeof(o->epoch));
    reply_copy(reply, 4, o->read_from, sizeof(o->read_from));
    born = redis_reply_int(redis_reply_at(reply, 5)) == 1;
    o->seq = o->known_seq = o->in_log = 0;
    succeeded(o);
    metric_add(o->claims, 1);
    if (born) {
        metric_add(o->epochs, 1);
        if (o->known_id[0])
            log_warn("EPOCH-NEW",
                     "the log is gone or has lost its tail: a new epoch begins, clients are told of a gap",
                     LF_STR("exchange", o->exchange), LF_STR("epoch", o->epoch),
                     LF_STR("known_id", o->known_id));
    }
    o->state = OWNER_READING;
    read_digests(o);
}

static void claim(struct owner *o)
{
    const char *argv[3 + 2 + 5];
    size_t lens[ARRAY_LEN(argv)], argc = 3, len;
    char lease[24];
    const char *text = u64_text(LEASE_MS, lease, &len);
    int r;

    ingest_epoch_new(o->epoch_wanted);
    ARG(o->keys->log, strlen(o->keys->log));
    ARG(o->keys->meta, strlen(o->keys->meta));
    ARG(o->ctx->process, strlen(o->ctx->process));
    ARG(o->epoch_wanted, EPOCH_NEW_LEN);
    ARG(o->known_epoch, strlen(o->known_epoch));
    ARG(o->known_id, strlen(o->known_id));
    ARG(text, len);
    r = ingest_script_call(o->ctx, SCRIPT_CLAIM, 2, on_claimed, o, argc, argv, lens);
    if (r < 0) {
        stall(o, r, NULL);
        rewind_queue(o);
        return;
    }
    o->state = OWNER_CLAIMING;
    o->calling = true;
    o->call_session = o->session;
}

static void on_digests(void *user, int error, const struct redisReply *reply)
{
    struct owner *o = user;
    size_t count = redis_reply_count(reply);

    if (error == 0 && count == 0)
        error = ERR_REDIS_REPLY;
    if (!call_answered(o, error, reply))
        return;
    for (size_t i = 1; i < count; i++) {
        size_t len = 0;
        const char *hex = redis_reply_str(redis_reply_at(reply, i), &len);

        /* Without memory for the set an event may come twice; that is the lesser evil. */
        if (hex && digest_set_add(&o->digests, hex, len) < 0)
            log_error("DIGESTS-LOST", "no memory for the digests of the log; duplicates are possible",
                      LF_STR("exchange", o->exchange));
    }
    o->in_log += count - 1;
    if (count > 1) {
        reply_copy(reply, 0, o->read_from, sizeof(o->read_from));
        read_digests(o);
        return;
    }
    o->state = OWNER_OWNING;
    metric_set(o->owning, 1);
    log_info("PARTITION-CLAIMED", "this process now publishes the exchange's events",
             LF_STR("exchange", o->exchange), LF_STR("gen", o->gen), LF_STR("epoch", o->epoch),
             LF_INT("maybe_redelivered", o->in_log));
    owner_pump(o);
}

static void read_digests(struct owner *o)
{
    const char *argv[3 + 1 + 3];
    size_t lens[ARRAY_LEN(argv)], argc = 3, len, bytes_len;
    char number[24], bytes[24];
    const char *text = u64_text(DIGEST_PAGE_ENTRIES, number, &len);
    const char *bytes_text = u64_text(DIGEST_PAGE_BYTES, bytes, &bytes_len);
    int r;

    ARG(o->keys->log, strlen(o->keys->log));
    ARG(o->read_from, strlen(o->read_from));
    ARG(text, len);
    ARG(bytes_text, bytes_len);
    r = ingest_script_call(o->ctx, SCRIPT_DIGESTS, 1, on_digests, o, argc, argv, lens);
    if (r < 0) {
        stall(o, r, NULL);
        rewind_queue(o);
        return;
    }
    o->calling = true;
    o->call_session = o->session;
}

/* --- life --- */

struct owner *owner_new(struct ingest_ctx *ctx, const char *exchange, int partition,
                        const struct partition_keys *keys, const struct owner_events *events, void *user)
{
    CLEANUP(buf_done) struct buf head = {0};
    struct owner *o = calloc(1, sizeof(*o));

    if (!o)
        return NULL;
    frame_add_head(&head, exchange, partition);
    o->head_len = head.len;
    o->head = buf_take(&head);
    if (!o->head) {
        free(o);
        return NULL;
    }
    o->ctx = ctx;
    o->exchange = exchange;
    o->keys = keys;
    o->events = events;
    o->user = user;
    uv_timer_init(ctx->loop, &o->timer);
    o->timer.data = o;
    o->deliveries = metrics_get(ctx->metrics, IM_DELIVERIES, exchange);
    o->redelivered = metrics_get(ctx->metrics, IM_REDELIVERED, exchange);
    o->published = metrics_get(ctx->metrics, IM_PUBLISHED, exchange);
    o->duplicates = metrics_get(ctx->metrics, IM_DUPLICATES, exchange);
    o->batch_count = metrics_get(ctx->metrics, IM_BATCHES, exchange);
    o->in_flight = metrics_get(ctx->metrics, IM_BATCHES_IN_FLIGHT, exchange);
    o->claims = metrics_get(ctx->metrics, IM_CLAIMS, exchange);
    o->epochs = metrics_get(ctx->metrics, IM_EPOCHS, exchange);
    o->owning = metrics_get(ctx->metrics, IM_OWNER, exchange);
    o->latency = metrics_get(ctx->metrics, IM_LATENCY, NULL);
    return o;
}

void owner_reset(struct owner *o)
{
    struct event *e = o->first;

    o->session++;
    o->state = OWNER_IDLE;
    o->gen[0] = '\0';
    o->first = o->last = o->next = NULL;
    o->held = o->outstanding = o->batches = 0;
    o->stall = o->fault = o->retry_ms = 0;
    o->seq = o->known_seq = 0;
    uv_timer_stop(&o->timer);
    digest_set_done(&o->digests);
    metric_set(o->owning, 0);
    metric_set(o->in_flight, 0);
    while (e) {
        struct event *next = e->next;

        if (e->outstanding)
            e->owner = NULL;
        else
            event_free(e);
        e = next;
    }
}

static void owner_timer_closed(uv_handle_t *handle)
{
    struct owner *o = handle->data;

    o->timer_closed = true;
    owner_free(o);
}

void owner_free(struct owner *o)
{
    if (!o)
        return;
    if (!o->dead) {
        o->dead = true;
        owner_reset(o);
        uv_close((uv_handle_t *)&o->timer, owner_timer_closed);
        return;
    }
    if (!o->timer_closed || o->calling)
        return;
    buf_done(&o->scratch);
    free(o->head);
    free(o);
}

void owner_drain(struct owner *o)
{
    o->draining = true;
    if (o->outstanding == 0)
        o->events->drained(o->user);
}

size_t owner_held(const struct owner *o)
{
    return o->held;
}

int owner_fault(const struct owner *o)
{
    return o->fault;
}

const char *owner_gen(const struct owner *o)
{
    return o->gen;
}

int64_t owner_above(const struct owner *o, const struct owner_mark *mark)
{
    if (o->state != OWNER_OWNING)
        return -1;
    if (mark && mark->seq)
        return (int64_t)(o->seq - mark->seq);
    return (int64_t)(o->in_log + o->seq);
}
