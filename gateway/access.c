/* access.c - may this token bind this pattern on this exchange?
 *
 *   access_check -> rules ---------------------------------------------------> verdict at once
 *                     | ask the API
 *                     v
 *                   memory --hit--------------------------------------------> verdict at once
 *                     | miss
 *                     v
 *                   equal flight? --yes--> join it --.
 *                     | no: a new flight             |
 *                     v                              v
 *                   Redis --hit-------------------> all that wait hear the verdict
 *                     | miss; slow or down: uncached ^
 *                     v                              |
 *                   API ------------- answer --------' and, if Redis knows the generation: stored there,
 *                                                      and once it is stored: kept in memory
 *
 * A flight asks with the token of the check that began it; those that join have equal claims, verified by the
 * same key. What differs is when their tokens end: a grant that arrives after that is none.
 *
 * Failures:
 * - Redis slow or down: the API is asked, and the answer goes to those that wait and nowhere else. (It may
 * not even be kept in memory: nobody could take it back.)
 * - The API fails, or its breaker is open: the client hears an error. Nothing is retried here.
 * - Too many checks wait: ACCESS_BUSY, at once.
 * - No memory: ACCESS_ERROR. Whatever happens, no path leads to a grant but a rule's or the API's. */
#include "gateway/access.h"

#include "gateway/access_cache.h"
#include "gateway/access_http.h"
#include "gateway/access_rules.h"
#include "gateway/access_store.h"
#include "gateway/gateway_metrics.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/topic.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Lack of memory refuses the check instead of ending the program. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* How long memory keeps an answer: a revocation in Redis is seen after at most this time. */
enum { MEMORY_MAX_MS = 30000 };

static const char TEXT_PUBLIC[] = "the exchange is public";
static const char TEXT_NO_TOKEN[] = "a token is needed";
static const char TEXT_EXPIRED[] = "the token has expired";
static const char TEXT_BUSY[] = "too many access checks are under way";
static const char TEXT_NO_MEMORY[] = "the access check could not be made";
static const char TEXT_BREAKER[] = "the access check keeps failing and is not asked for a while";

static const char *const verdict_labels[] = {
    [ACCESS_PENDING] = "pending", [ACCESS_GRANTED] = "granted", [ACCESS_DENIED] = "denied",
    [ACCESS_TIMEOUT] = "timeout", [ACCESS_ERROR] = "error",     [ACCESS_BUSY] = "busy",
};

/* What an API's answer means. Only a complete and well-formed one is cached. */
static const struct {
    enum access_verdict verdict;
    bool cached;
    const char *text;
} answers[] = {
    [ACCESS_HTTP_OK] = {ACCESS_GRANTED, true, "the access check grants it"},
    [ACCESS_HTTP_REFUSED] = {ACCESS_DENIED, true, "the access check refuses it"},
    [ACCESS_HTTP_NONSENSE] = {ACCESS_DENIED, false, "the access check gave an answer that grants nothing"},
    [ACCESS_HTTP_EMPTY] = {ACCESS_ERROR, false, "the access check gave an empty answer"},
    [ACCESS_HTTP_BUSY] = {ACCESS_ERROR, false, "the access check is too busy"},
    [ACCESS_HTTP_BROKEN] = {ACCESS_DENIED, false, "the access check failed"},
    [ACCESS_HTTP_NETWORK] = {ACCESS_ERROR, false, "the access check could not be reached"},
    [ACCESS_HTTP_TIMEOUT] = {ACCESS_TIMEOUT, false, "the access check did not answer in time"},
};

/* A token, opened up. The last one is kept: a session binds many patterns with one token. */
struct subject {
    struct token *token;
    json_t *claims;
    char *canonical; /* the claims without iat, nbf and exp: sorted, compact */
    char user_digest[DIGEST_HEX + 1];
};

/* One who waits. */
struct access_check {
    struct access *access;
    struct flight *flight;
    int64_t token_end_s;
    access_cb *cb;
    void *user;
    struct access_check *prev, *next;
};

/* One question on its way, and all who wait for its answer. */
struct flight {
    struct access *access;
    char digest[DIGEST_HEX + 1];
    char user_digest[DIGEST_HEX + 1];
    struct token *token;
    struct buf url, origin;
    int64_t timeout_ms, grant_ttl_ms, refuse_ttl_ms; /* of the configuration at its beginning */
    struct access_lookup *lookup;                    /* one of the two is set while it flies */
    struct access_http_request *request;
    struct access_generation generation;
    struct access_check *first, *last;
    bool listed; /* in the table, open for others to join */
    UT_hash_handle hh;
};

struct access {
    struct config *config;
    struct metrics *metrics;
    struct access_cache *cache;
    struct access_store *store;
    struct access_http *http;
    int64_t (*mono_ms)(void);
    struct subject subject;
    struct flight *flights;
    size_t waiting; /* checks */
    size_t closing; /* parts that are not closed yet */
    void (*closed)(void *user);
    void *closed_user;
};

static void count_uncached(struct access *a, const char *reason)
{
    metric_add(metrics_get(a->metrics, GM_ACCESS_UNCACHED, reason), 1);
}

/* Count a check that is decided. source: NULL if nothing answered it. */
static enum access_verdict decided(struct access *a, enum access_verdict verdict, const char *source)
{
    if (source)
        metric_add(metrics_get(a->metrics, GM_ACCESS_CHECKS, source), 1);
    metric_add(metrics_get(a->metrics, GM_ACCESS_VERDICTS, verdict_labels[verdict]), 1);
    return verdict;
}

/* ---- who asks ---- */

static void subject_done(struct subject *s)
{
    token_unref(s->token);
    json_decref(s->claims);
    free(s->canonical);
    *s = (struct subject){0};
}

static char *claims_canonical(const json_t *claims)
{
    static const char *const moving[] = {"iat", "nbf", "exp"};
    json_t *copy = json_copy((json_t *)claims);
    char *text = NULL;

    if (copy) {
        for (size_t i = 0; i < ARRAY_LEN(moving); i++)
            (void)json_object_del(copy, moving[i]); /* it may not be there */
        text = json_dumps(copy, JSON_SORT_KEYS | JSON_COMPACT);
    }
    json_decref(copy);
    return text;
}

/* Make a->subject the one of this token. */
static int subject_set(struct access *a, struct token *token)
{
    struct subject *s = &a->subject;
    const char *key_id = token_key_id(token);
    const char *sub = token_sub(token);
    const char *who;

    if (s->token == token)
        return 0;
    subject_done(s);
    s->claims = token_claims(token);
    s->canonical = s->claims ? claims_canonical(s->claims) : NULL;
    if (!s->canonical) {
        subject_done(s);
        return -ENOMEM;
    }
    /* Tokens without a user are each a user of their own; the first part keeps them apart from users. */
    who = sub ? sub : s->canonical;
    digest_hex((struct digest_part[]){{sub ? "sub" : "claims", sub ? 3 : 6},
                                      {key_id, strlen(key_id)},
                                      {who, strlen(who)}},
               3, s->user_digest);
    s->token = token_ref(token);
    return 0;
}

static void check_digest(const struct subject *s, const struct config_exchange *exchange,
                         const struct config_rule *rule, const char *pattern, size_t pattern_len,
                         char out[DIGEST_HEX + 1])
{
    const char *key_id = token_key_id(s->token);
    struct digest_part parts[] = {
        {key_id, strlen(key_id)},
        {rule->text, strlen(rule->text)},
        {s->canonical, strlen(s->canonical)},
        {exchange->name, strlen(exchange->name)},
        {pattern, pattern_len},
    };

    digest_hex(parts, ARRAY_LEN(parts), out);
}

/* ---- memory ---- */

static void remember(struct access *a, const char *digest, bool granted, int64_t since_ms, int64_t end_ms)
{
    int64_t limit = since_ms + MEMORY_MAX_MS;

    access_cache_put(a->cache, digest, granted, a->mono_ms(), end_ms < limit ? end_ms : limit);
    metrics_set(a->metrics, GM_ACCESS_CACHE, (double)access_cache_count(a->cache));
}

static void on_put_done(void *user, enum access_put_result result, const char *digest, bool granted,
                        int64_t sent_ms, int64_t end_ms)
{
    struct access *a = user;

    if (result == PUT_STORED)
        remember(a, digest, granted, sent_ms, end_ms);
    else
        count_uncached(a, result == PUT_OUTDATED ? "generation" : "redis_error");
}

/* ---- those who wait ---- */

static void waiting_change(struct access *a, bool more)
{
    a->waiting = more ? a->waiting + 1 : a->waiting - 1;
    metrics_set(a->metrics, GM_ACCESS_PENDING, (double)a->waiting);
}

static struct access_check *check_add(struct flight *f, struct token *token, access_cb *cb, void *user)
{
    struct access_check *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    *c = (struct access_check){.access = f->access,
                               .flight = f,
                               .token_end_s = token_end_s(token),
                               .cb = cb,
                               .user = user,
                               .prev = f->last};
    *(f->last ? &f->last->next : &f->first) = c;
    f->last = c;
    waiting_change(f->access, true);
    return c;
}

static void check_remove(struct access_check *c)
{
    struct flight *f = c->flight;

    *(c->prev ? &c->prev->next : &f->first) = c->next;
    *(c->next ? &c->next->prev : &f->last) = c->prev;
    waiting_change(c->access, false);
    free(c);
}

/* ---- flights ---- */

static void flight_unlist(struct flight *f)
{
    if (f->listed)
        HASH_DEL(f->access->flights, f);
    f->listed = false;
}

static void flight_free(struct flight *f)
{
    flight_unlist(f);
    while (f->first)
        check_remove(f->first);
    if (f->lookup)
        access_store_cancel(f->lookup);
    if (f->request)
        access_http_cancel(f->request);
    token_unref(f->token);
    buf_done(&f->url);
    buf_done(&f->origin);
    free(f);
}

/* Tell all who wait. Callbacks may begin equal checks (a new flight: this one is not listed any more) and
 * cancel others that wait here (then they are not in the list when their turn comes). */
static void flight_end(struct flight *f, enum access_verdict verdict, const char *text, const char *source)
{
    struct access *a = f->access;

    flight_unlist(f);
    while (f->first) {
        struct access_check *c = f->first;
        access_cb *cb = c->cb;
        void *user = c->user;
        bool expired = verdict == ACCESS_GRANTED && c->token_end_s <= clock_wall_s();

        check_remove(c);
        if (expired)
            cb(user, decided(a, ACCESS_DENIED, source), TEXT_EXPIRED);
        else
            cb(user, decided(a, verdict, source), text);
        source = "joined";
    }
    flight_free(f);
}

/* The answer's time to live: its own, and no longer than the token that it was asked with. */
static int64_t answer_ttl_ms(const struct flight *f, bool granted)
{
    int64_t ttl = granted ? f->grant_ttl_ms : f->refuse_ttl_ms;
    int64_t left_s = token_end_s(f->token) - clock_wall_s();

    return left_s < ttl / 1000 ? left_s * 1000 : ttl;
}

static void flight_store(struct flight *f, bool granted)
{
    int64_t ttl_ms = answer_ttl_ms(f, granted);

    if (!f->generation.known || ttl_ms <= 0)
        return;
    if (access_store_put(f->access->store, f->user_digest, f->digest, &f->generation, granted, ttl_ms) < 0)
        count_uncached(f->access, "redis_down");
}

static void on_http(void *user, enum access_http_result result)
{
    struct flight *f = user;

    f->request = NULL;
    if (answers[result].cached)
        flight_store(f, answers[result].verdict == ACCESS_GRANTED);
    flight_end(f, answers[result].verdict, answers[result].text, "http");
}

static int flight_ask_api(struct flight *f)
{
    size_t len;
    const char *raw = token_raw(f->token, &len);

    return access_http_get(f->access->http, f->url.data, f->origin.data, raw, len, f->timeout_ms, on_http, f,
                           &f->request);
}

static void on_lookup(void *user, enum access_store_result result, int64_t end_ms,
                      const struct access_generation *gen)
{
    struct flight *f = user;
    struct access *a = f->access;
    bool granted = result == STORE_GRANTED;
    int r;

    f->lookup = NULL;
    f->generation = *gen;
    if (granted || result == STORE_REFUSED) {
        remember(a, f->digest, granted, a->mono_ms(), end_ms);
        flight_end(f, granted ? ACCESS_GRANTED : ACCESS_DENIED,
                   answers[granted ? ACCESS_HTTP_OK : ACCESS_HTTP_REFUSED].text, "redis");
        return;
    }
    if (!gen->known)
        count_uncached(a, result == STORE_SLOW ? "redis_slow" : "redis_error");
    r = flight_ask_api(f);
    if (r < 0)
        flight_end(f, ACCESS_ERROR, r == -EAGAIN ? TEXT_BREAKER : TEXT_NO_MEMORY,
                   r == -EAGAIN ? "breaker" : NULL);
}

static struct flight *flight_new(struct access *a, const struct config_rule *rule, struct buf *url,
                                 const char *digest)
{
    struct flight *f = calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    f->access = a;
    memcpy(f->digest, digest, sizeof(f->digest));
    memcpy(f->user_digest, a->subject.user_digest, sizeof(f->user_digest));
    f->token = token_ref(a->subject.token);
    f->url = *url;
    *url = (struct buf){0};
    f->timeout_ms = a->config->access.timeout_ms;
    f->grant_ttl_ms = a->config->access.grant_ttl_s * 1000;
    f->refuse_ttl_ms = a->config->access.refuse_ttl_s * 1000;
    /* Of the template, not of the URL: breakers are as many as the rules, whatever clients send. */
    access_http_origin(&f->origin, rule->http);
    HASH_ADD(hh, a->flights, digest, DIGEST_HEX, f);
    f->listed = f->hh.tbl != NULL;
    if (!f->listed || buf_status(&f->origin) < 0) {
        flight_free(f);
        return NULL;
    }
    return f;
}

static int flight_start(struct flight *f)
{
    struct access *a = f->access;

    if (access_store_lookup(a->store, f->user_digest, f->digest, on_lookup, f, &f->lookup) == 0)
        return 0;
    count_uncached(a, "redis_down");
    return flight_ask_api(f);
}

/* ---- a check ---- */

/* The rules leave it to the API. */
static enum access_verdict check_remote(struct access *a, const struct config_rule *rule, struct buf *url,
                                        const char *digest, access_cb *cb, void *user,
                                        struct access_check **ret_check, const char **ret_text)
{
    int64_t max = a->config->access.pending_max;
    struct access_check *c;
    struct flight *f;
    bool granted;
    int r;

    if (access_cache_get(a->cache, digest, a->mono_ms(), &granted)) {
        *ret_text = answers[granted ? ACCESS_HTTP_OK : ACCESS_HTTP_REFUSED].text;
        return decided(a, granted ? ACCESS_GRANTED : ACCESS_DENIED, "memory");
    }
    if (max > 0 && a->waiting >= (size_t)max) {
        *ret_text = TEXT_BUSY;
        return decided(a, ACCESS_BUSY, NULL);
    }
    *ret_text = TEXT_NO_MEMORY;
    HASH_FIND(hh, a->flights, digest, DIGEST_HEX, f);
    if (f) {
        c = check_add(f, a->subject.token, cb, user);
        if (!c)
            return decided(a, ACCESS_ERROR, NULL);
        *ret_check = c;
        return ACCESS_PENDING;
    }
    f = flight_new(a, rule, url, digest);
    c = f ? check_add(f, a->subject.token, cb, user) : NULL;
    r = c ? flight_start(f) : -ENOMEM;
    if (r == 0) {
        *ret_check = c;
        return ACCESS_PENDING;
    }
    if (f)
        flight_free(f);
    if (r == -EAGAIN)
        *ret_text = TEXT_BREAKER;
    return decided(a, ACCESS_ERROR, r == -EAGAIN ? "breaker" : NULL);
}

enum access_verdict access_check(struct access *a, struct token *token,
                                 const struct config_exchange *exchange, const char *pattern,
                                 size_t pattern_len, access_cb *cb, void *user,
                                 struct access_check **ret_check, const char **ret_text)
{
    CLEANUP(buf_done) struct buf url = {0};
    const struct config_rule *rule;
    struct access_subject subject;
    enum access_ruling ruling;
    char digest[DIGEST_HEX + 1];

    assert(pattern_len <= TOPIC_MAX);
    if (exchange->is_public) {
        *ret_text = TEXT_PUBLIC;
        return decided(a, ACCESS_GRANTED, "local");
    }
    if (!token || token_end_s(token) <= clock_wall_s()) {
        *ret_text = token ? TEXT_EXPIRED : TEXT_NO_TOKEN;
        return decided(a, ACCESS_DENIED, "local");
    }
    *ret_text = TEXT_NO_MEMORY;
    if (subject_set(a, token) < 0)
        return decided(a, ACCESS_ERROR, NULL);
    subject = (struct access_subject){a->subject.claims, token_sub(token)};
    if (access_rules_judge(exchange, &subject, pattern, pattern_len, &url, &rule, &ruling, ret_text) < 0) {
        *ret_text = TEXT_NO_MEMORY;
        return decided(a, ACCESS_ERROR, NULL);
    }
    if (ruling != RULING_ASK)
        return decided(a, ruling == RULING_GRANTED ? ACCESS_GRANTED : ACCESS_DENIED, "local");
    check_digest(&a->subject, exchange, rule, pattern, pattern_len, digest);
    return check_remote(a, rule, &url, digest, cb, user, ret_check, ret_text);
}

void access_cancel(struct access_check *check)
{
    struct flight *f = check->flight;

    check_remove(check);
    /* A flight that is telling its answer frees itself. */
    if (!f->first && f->listed)
        flight_free(f);
}

/* ---- the module ---- */

static void nothing(void *user)
{
    (void)user;
}

struct access *access_new(uv_loop_t *loop, struct config *config, struct redis_link *redis,
                          struct metrics *metrics)
{
    struct access *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->metrics = metrics;
    a->mono_ms = clock_mono_ms;
    a->cache = access_cache_new(ACCESS_CACHE_MAX);
    if (a->cache)
        a->http = access_http_new(loop, metrics);
    if (a->http)
        a->store = access_store_new(loop, redis, config->prefix, on_put_done, a);
    if (!a->store) {
        if (a->http)
            access_http_close(a->http, nothing, NULL);
        access_cache_free(a->cache);
        free(a);
        return NULL;
    }
    a->config = config_ref(config);
    return a;
}

void access_set_clock(struct access *a, int64_t (*mono_ms)(void))
{
    a->mono_ms = mono_ms;
    access_store_set_clock(a->store, mono_ms);
    access_http_set_clock(a->http, mono_ms);
}

/* access_http_prune's question: does any rule still ask this origin? */
static bool config_asks(void *user, const char *origin)
{
    const struct config *c = user;

    for (size_t i = 0; i < c->exchange_count; i++) {
        for (size_t j = 0; j < c->exchanges[i].rule_count; j++) {
            CLEANUP(buf_done) struct buf mine = {0};

            if (c->exchanges[i].rules[j].kind != CONFIG_RULE_HTTP)
                continue;
            access_http_origin(&mine, c->exchanges[i].rules[j].http);
            if (buf_status(&mine) < 0 || strcmp(mine.data, origin) == 0)
                return true;
        }
    }
    return false;
}

void access_reload(struct access *a, struct config *config)
{
    struct config *old = a->config;

    a->config = config_ref(config);
    config_unref(old);
    access_http_prune(a->http, config_asks, config);
}

static void part_closed(void *user)
{
    struct access *a = user;

    if (--a->closing > 0)
        return;
    access_cache_free(a->cache);
    subject_done(&a->subject);
    config_unref(a->config);
    if (a->closed)
        a->closed(a->closed_user);
    free(a);
}

void access_close(struct access *a, void (*closed)(void *user), void *user)
{
    struct flight *f;
    struct flight *next;

    a->closed = closed;
    a->closed_user = user;
    a->closing = 2;
    HASH_ITER (hh, a->flights, f, next)
        flight_free(f);
    access_store_close(a->store, part_closed, a);
    access_http_close(a->http, part_closed, a);
}
