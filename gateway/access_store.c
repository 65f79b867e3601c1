/* access_store.c - answers of access checks in Redis, shared by all gateways.
 *
 * Happy path: lookup -> EVAL (answer, its TTL, generation) -> callback; put -> EVAL that compares the
 * generation and stores. Scripts are sent as text: they are short, and there is no NOSCRIPT to recover from.
 *
 * Failures:
 * - Redis is slow: the lookup's owner hears STORE_SLOW after 500 ms; the late reply is read and forgotten.
 * The wait is the same for all, so lookups stand in a queue ordered by deadline, and one timer serves it.
 * - The link breaks, Redis refuses: STORE_FAILED.
 * - What is read is none of ours (another value, no TTL): a miss. A grant without an end is never taken over.
 *
 * A command sent cannot be taken back: each has an `op` of its own, which lives until the reply comes and
 * knows whether anybody still wants it. Ops hold nothing else, so they may outlive the store. */
#include "gateway/access_store.h"

#include "shared/clock.h"
#include "shared/err.h"
#include "shared/keyspace.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char LOOKUP_SCRIPT[] = "return {redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]),"
                                    " redis.call('GET', KEYS[2]) or ''}";
static const char PUT_SCRIPT[] = "if (redis.call('GET', KEYS[2]) or '') ~= ARGV[1] then return 0 end\n"
                                 "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n"
                                 "return 1";

/* A lookup in the queue. It ends with its callback or a cancel; its op may live on. */
struct access_lookup {
    struct access_store *store;
    struct lookup_op *op;
    access_lookup_cb *cb;
    void *user;
    int64_t sent_ms; /* before the command left: an answer's end counted from here is never too late */
    int64_t deadline_ms;
    struct access_lookup *prev, *next;
};

/* One command on its way, owned by its reply callback. */
struct lookup_op {
    struct access_lookup *lookup; /* NULL: nobody waits any more */
};

struct put_op {
    struct access_store *store; /* NULL: the store has closed */
    char digest[DIGEST_HEX + 1];
    bool granted;
    int64_t sent_ms, end_ms;
    struct put_op *prev, *next;
};

struct access_store {
    struct redis_link *link;
    char *prefix;
    access_put_cb *put_done;
    void *user;
    int64_t (*mono_ms)(void);
    struct access_lookup *first, *last; /* by deadline */
    struct put_op *puts;
    uv_timer_t timer; /* due at the first lookup's deadline, idle without one */
    void (*closed)(void *user);
    void *closed_user;
};

struct access_store *access_store_new(uv_loop_t *loop, struct redis_link *link, const char *prefix,
                                      access_put_cb *put_done, void *user)
{
    struct access_store *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->prefix = strdup(prefix);
    if (!s->prefix) {
        free(s);
        return NULL;
    }
    s->link = link;
    s->put_done = put_done;
    s->user = user;
    s->mono_ms = clock_mono_ms;
    uv_timer_init(loop, &s->timer); /* cannot fail */
    s->timer.data = s;
    return s;
}

void access_store_set_clock(struct access_store *s, int64_t (*mono_ms)(void))
{
    s->mono_ms = mono_ms;
}

static void lookup_remove(struct access_lookup *l)
{
    struct access_store *s = l->store;

    *(l->prev ? &l->prev->next : &s->first) = l->next;
    *(l->next ? &l->next->prev : &s->last) = l->prev;
    l->op->lookup = NULL;
    free(l);
    if (!s->first)
        uv_timer_stop(&s->timer);
}

void access_store_cancel(struct access_lookup *l)
{
    lookup_remove(l);
}

static void timer_closed(uv_handle_t *handle)
{
    struct access_store *s = handle->data;

    s->closed(s->closed_user);
    free(s->prefix);
    free(s);
}

void access_store_close(struct access_store *s, void (*closed)(void *user), void *user)
{
    while (s->first)
        lookup_remove(s->first);
    for (struct put_op *op = s->puts; op; op = op->next)
        op->store = NULL;
    s->puts = NULL;
    s->closed = closed;
    s->closed_user = user;
    uv_close((uv_handle_t *)&s->timer, timer_closed);
}

static void lookup_end(struct access_lookup *l, enum access_store_result result, int64_t end_ms,
                       const struct access_generation *gen)
{
    access_lookup_cb *cb = l->cb;
    void *user = l->user;

    lookup_remove(l);
    cb(user, result, end_ms, gen);
}

static void on_timer(uv_timer_t *timer)
{
    static const struct access_generation unknown = {0};
    struct access_store *s = timer->data;
    int64_t now = clock_mono_ms();

    while (s->first && s->first->deadline_ms <= now)
        lookup_end(s->first, STORE_SLOW, 0, &unknown);
    if (s->first)
        uv_timer_start(timer, on_timer, (uint64_t)(s->first->deadline_ms - now), 0);
}

static enum access_store_result answer_of(const struct redisReply *reply, int64_t *ret_ttl_ms)
{
    size_t len;
    const char *value = redis_reply_str(redis_reply_at(reply, 0), &len);
    int64_t ttl = redis_reply_int(redis_reply_at(reply, 1));

    if (!value || len != 1 || (*value != '0' && *value != '1') || ttl <= 0)
        return STORE_MISS;
    *ret_ttl_ms = ttl;
    return *value == '1' ? STORE_GRANTED : STORE_REFUSED;
}

static void on_lookup_reply(void *user, int err, const struct redisReply *reply)
{
    struct lookup_op *op = user;
    struct access_lookup *l = op->lookup;
    struct access_generation gen = {0};
    enum access_store_result result;
    int64_t ttl_ms = 0;
    const char *text;
    size_t len;

    if (!l) {
        free(op);
        return;
    }
    if (err || redis_reply_count(reply) != 3) {
        lookup_end(l, STORE_FAILED, 0, &gen);
        free(op);
        return;
    }
    text = redis_reply_str(redis_reply_at(reply, 2), &len);
    if (text && len <= sizeof(gen.text)) {
        gen.known = true;
        gen.len = (uint8_t)len;
        memcpy(gen.text, text, len);
    }
    result = answer_of(reply, &ttl_ms);
    lookup_end(l, result, result == STORE_MISS ? 0 : l->sent_ms + ttl_ms, &gen);
    free(op);
}

/* EVAL script 2 <answer key> <generation key> extra.. */
static int eval(struct access_store *s, const char *script, const char *user_digest, const char *digest,
                const struct digest_part *extra, size_t extra_count, redis_reply_cb *cb, void *user)
{
    CLEANUP(buf_done) struct buf answer_key = {0};
    CLEANUP(buf_done) struct buf gen_key = {0};
    const char *argv[8] = {"EVAL", script, "2"};
    size_t lens[8] = {4, strlen(script), 1};
    size_t argc = 3;

    assert(extra_count <= ARRAY_LEN(argv) - 5);
    keyspace_access(&answer_key, s->prefix, user_digest, digest);
    keyspace_access(&gen_key, s->prefix, user_digest, "gen");
    if (buf_status(&answer_key) < 0 || buf_status(&gen_key) < 0)
        return -ENOMEM;
    argv[argc] = answer_key.data;
    lens[argc++] = answer_key.len;
    argv[argc] = gen_key.data;
    lens[argc++] = gen_key.len;
    for (size_t i = 0; i < extra_count; i++) {
        argv[argc] = extra[i].bytes;
        lens[argc++] = extra[i].len;
    }
    return redis_link_command(s->link, cb, user, argc, argv, lens);
}

int access_store_lookup(struct access_store *s, const char user_digest[DIGEST_HEX + 1],
                        const char digest[DIGEST_HEX + 1], access_lookup_cb *cb, void *user,
                        struct access_lookup **ret_lookup)
{
    struct access_lookup *l = calloc(1, sizeof(*l));
    struct lookup_op *op = calloc(1, sizeof(*op));
    int r = l && op ? 0 : -ENOMEM;

    if (r == 0)
        r = eval(s, LOOKUP_SCRIPT, user_digest, digest, NULL, 0, on_lookup_reply, op);
    if (r < 0) {
        free(l);
        free(op);
        return r;
    }
    *l = (struct access_lookup){.store = s, .op = op, .cb = cb, .user = user, .prev = s->last};
    l->sent_ms = s->mono_ms();
    l->deadline_ms = clock_mono_ms() + ACCESS_STORE_WAIT_MS;
    op->lookup = l;
    *(s->last ? &s->last->next : &s->first) = l;
    s->last = l;
    if (l == s->first)
        uv_timer_start(&s->timer, on_timer, ACCESS_STORE_WAIT_MS, 0);
    *ret_lookup = l;
    return 0;
}

static void on_put_reply(void *user, int err, const struct redisReply *reply)
{
    struct put_op *op = user;
    struct access_store *s = op->store;
    enum access_put_result result = PUT_FAILED;

    if (!err)
        result = redis_reply_int(reply) == 1 ? PUT_STORED : PUT_OUTDATED;
    if (s) {
        *(op->prev ? &op->prev->next : &s->puts) = op->next;
        if (op->next)
            op->next->prev = op->prev;
        s->put_done(s->user, result, op->digest, op->granted, op->sent_ms, op->end_ms);
    }
    free(op);
}

int access_store_put(struct access_store *s, const char user_digest[DIGEST_HEX + 1],
                     const char digest[DIGEST_HEX + 1], const struct access_generation *gen, bool granted,
                     int64_t ttl_ms)
{
    struct put_op *op;
    char ttl[24];
    int ttl_len = snprintf(ttl, sizeof(ttl), "%" PRId64, ttl_ms);
    struct digest_part extra[] = {{gen->text, gen->len}, {granted ? "1" : "0", 1}, {ttl, (size_t)ttl_len}};
    int r;

    assert(gen->known && ttl_ms > 0);
    op = calloc(1, sizeof(*op));
    if (!op)
        return -ENOMEM;
    *op = (struct put_op){.store = s, .granted = granted, .sent_ms = s->mono_ms(), .next = s->puts};
    op->end_ms = op->sent_ms + ttl_ms;
    memcpy(op->digest, digest, sizeof(op->digest));
    r = eval(s, PUT_SCRIPT, user_digest, digest, extra, ARRAY_LEN(extra), on_put_reply, op);
    if (r < 0) {
        free(op);
        return r;
    }
    if (s->puts)
        s->puts->prev = op;
    s->puts = op;
    return 0;
}
