/* binding.c - bindings and their way to being live; the states are drawn in the header.
 *
 * Failures: access denied, slow, or not to be had: the client is told and the binding is gone. Redis away: it
 * waits until bind_timeout_ms. No memory: the client is told `unavailable`. The session ends: everything in
 * flight is cancelled. */
#include "gateway/binding.h"

#include "gateway/gateway_metrics.h"
#include "gateway/protocol.h"
#include "shared/clock.h"
#include "shared/topic.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Rechecks after a reload that are under way at once, how often the rest is looked at, and how long one waits
 * that could not be made. */
enum { RECHECKS_MAX = 200, TIMER_MS = 100, RECHECK_RETRY_MS = 2000 };

/* What a binding carries until it is live, and during a recheck. */
struct bind_request {
    struct binding *binding;
    struct bind_request *prev, *next; /* in the list of its kind, oldest first */
    struct access_check *check;       /* in flight, or NULL */
    struct config *config;            /* under which the check was begun */
    struct token *token;              /* with which; NULL if without */
    json_t *req;                      /* to be answered, or NULL */
    struct replay_entry replay;
    int64_t deadline_ms; /* of a recheck: not before */
    bool granted;
    bool recheck;
    bool queued; /* a recheck that has not begun */
    bool since;  /* the client said where it was: tell it whether that could be served */
    bool behind; /* there is something to replay from replay.from */
    bool recovered;
};

struct binding {
    struct router_entry entry;
    struct interest_ref ref;
    struct session *session;
    struct partition *partition;
    struct binding *next, **pprev; /* of the session */
    struct bind_request *request;  /* NULL when live and at rest */
    uint8_t len;
    char pattern[];
};

struct request_list {
    struct bind_request *oldest, *newest;
    size_t count;
};

struct bindings {
    struct sessions *all;
    struct metrics *metrics;
    uv_timer_t timer;
    struct request_list pending;  /* of new bindings; all have the same timeout, so oldest first */
    struct request_list rechecks; /* of live ones */
    size_t rechecking;
    bool busy; /* a recheck found no place among the checks in flight */
    size_t live;
    void (*closed)(void *user);
    void *closed_user;
};

static void on_verdict(void *user, enum access_verdict verdict, const char *text);
static void pump_rechecks(struct bindings *b);
static bool same_rules(const struct config *a, const struct config *b, const char *exchange);

/* --- lists --- */

static struct request_list *list_of(struct bindings *b, const struct bind_request *r)
{
    return r->recheck ? &b->rechecks : &b->pending;
}

static void list_add(struct bindings *b, struct bind_request *r)
{
    struct request_list *l = list_of(b, r);

    r->prev = l->newest;
    r->next = NULL;
    *(l->newest ? &l->newest->next : &l->oldest) = r;
    l->newest = r;
    l->count++;
}

static void list_remove(struct bindings *b, struct bind_request *r)
{
    struct request_list *l = list_of(b, r);

    *(r->prev ? &r->prev->next : &l->oldest) = r->next;
    *(r->next ? &r->next->prev : &l->newest) = r->prev;
    l->count--;
}

static struct bindings *bindings_of(const struct binding *binding)
{
    return sessions_bindings(binding->session->all);
}

/* --- one binding's life --- */

static void request_free(struct bind_request *r)
{
    struct bindings *b = bindings_of(r->binding);

    replay_remove(r->binding->partition->replay, &r->replay);
    if (r->check) {
        access_cancel(r->check);
        if (r->recheck)
            b->rechecking--;
    }
    list_remove(b, r);
    r->binding->request = NULL;
    config_unref(r->config);
    token_unref(r->token);
    json_decref(r->req);
    free(r);
}

static struct bind_request *request_new(struct binding *binding, json_t *req, bool recheck)
{
    struct bindings *b = bindings_of(binding);
    const struct config *c = sessions_config(b->all);
    struct bind_request *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->binding = binding;
    r->req = json_incref(req);
    r->recheck = recheck;
    r->queued = recheck;
    r->deadline_ms = recheck ? 0 : clock_mono_ms() + c->gateway.bind_timeout_ms;
    binding->request = r;
    list_add(b, r);
    return r;
}

static struct binding *binding_new(struct session *s, struct partition *p, const char *key, size_t len)
{
    struct binding *binding = calloc(1, sizeof(*binding) + len);

    if (!binding)
        return NULL;
    binding->session = s;
    binding->partition = p;
    p->bindings++;
    binding->len = (uint8_t)len;
    if (len)
        memcpy(binding->pattern, key, len);
    binding->next = s->bindings;
    if (binding->next)
        binding->next->pprev = &binding->next;
    binding->pprev = &s->bindings;
    s->bindings = binding;
    s->binding_count++;
    return binding;
}

static void binding_free(struct binding *binding)
{
    struct bindings *b = bindings_of(binding);
    struct partition *p = binding->partition;

    if (binding->request)
        request_free(binding->request);
    if (binding->entry.node)
        b->live--;
    router_remove(p->router, &binding->entry);
    interest_release(p->interest, &binding->ref);
    *binding->pprev = binding->next;
    if (binding->next)
        binding->next->pprev = binding->pprev;
    binding->session->binding_count--;
    free(binding);
    p->bindings--;
    feed_release(p);
}

struct session *binding_session(struct router_entry *e)
{
    return container_of(e, struct binding, entry)->session;
}

void bindings_drop_all(struct session *s)
{
    while (s->bindings)
        binding_free(s->bindings);
}

/* --- answers --- */

/* Refuse a new binding, or take back a live one. */
static void binding_fail(struct binding *binding, enum error_code code, const char *text)
{
    struct session *s = binding->session;

    if (binding->entry.node)
        protocol_unbound(s, binding->partition->exchange, binding->pattern, binding->len, code, text);
    else
        protocol_error(s, binding->request ? binding->request->req : NULL, code, "%s", text);
    binding_free(binding);
}

static void answer_live(struct binding *binding)
{
    struct bind_request *r = binding->request;
    const struct partition *p = binding->partition;
    CLEANUP(buf_done) struct buf pos = {0};
    json_t *more = json_object();

    /* A lack of memory leaves a member out; the client sees that it has no position to resume from. */
    if (r->req && r->since)
        (void)json_object_set_new(more, "recovered", json_boolean(r->recovered));
    if (r->req && p->last.epoch[0]) {
        position_print(&p->last, p->exchange, p->number, &pos);
        (void)json_object_set_new(more, "pos", json_string(pos.data));
    }
    protocol_ok(binding->session, r->req, more);
}

static void binding_live(struct binding *binding)
{
    struct bind_request *r = binding->request;
    struct partition *p = binding->partition;

    if (r->replay.state != REPLAY_NONE)
        return;
    if (r->behind && !binding->entry.node) {
        r->behind = false;
        r->replay.pattern = binding->pattern;
        r->replay.pattern_len = binding->len;
        feed_resume(p, &r->replay);
        return;
    }
    if (!binding->entry.node) {
        if (router_add(p->router, binding->pattern, binding->len, &binding->entry) < 0) {
            /* We may be called from inside the lists of interest or replay, while another binding leaves
             * them: nothing must go now. */
            session_doom(binding->session);
            return;
        }
        bindings_of(binding)->live++;
        answer_live(binding);
    }
    request_free(binding->request);
}

static struct binding *binding_of_replay(const struct replay_entry *e)
{
    return container_of(e, struct bind_request, replay)->binding;
}

bool binding_replay(struct replay_entry *e, const struct feed_event *event)
{
    struct session *s = binding_of_replay(e)->session;

    if (!session_may_replay(s, 2))
        return false;
    session_replay(s, event);
    return true;
}

bool binding_may_continue(const struct replay_entry *e)
{
    return session_may_replay(binding_of_replay(e)->session, 4);
}

void binding_joined(struct replay_entry *e, bool recovered)
{
    struct binding *binding = binding_of_replay(e);

    binding->request->recovered = recovered;
    if (binding->request->granted)
        binding_live(binding);
}

bool bindings_live_on(const struct session *s, const struct partition *p)
{
    for (const struct binding *binding = s->bindings; binding; binding = binding->next)
        if (binding->partition == p && binding->entry.node)
            return true;
    return false;
}

/* It is granted: go on to the channel, or to being live. */
static void binding_proceed(struct binding *binding)
{
    struct partition *p = binding->partition;
    int r = 1;

    if (!binding->ref.channel)
        r = interest_acquire(p->interest, binding->pattern,
                             topic_literal_prefix(binding->pattern, binding->len), &binding->ref);
    else if (binding->ref.waiting)
        r = 0;
    if (r < 0)
        binding_fail(binding, CODE_UNAVAILABLE, "Out of memory");
    else if (r > 0)
        binding_live(binding);
}

void binding_channel_live(struct interest_ref *ref)
{
    struct binding *binding = container_of(ref, struct binding, ref);

    if (binding->request && binding->request->granted)
        binding_live(binding);
}

/* --- the check --- */

static void apply_verdict(struct binding *binding, enum access_verdict verdict, const char *text);

static void binding_check(struct binding *binding)
{
    struct bind_request *r = binding->request;
    const struct sessions_shared *shared = session_shared(binding->session);
    const struct config_exchange *exchange;
    enum access_verdict verdict;
    const char *text = NULL, *name = binding->partition->exchange;

    config_unref(r->config);
    r->config = config_ref(shared->config);
    token_unref(r->token);
    r->token = binding->session->token ? token_ref(binding->session->token) : NULL;
    r->granted = false;
    exchange = config_exchange_find(r->config, name, strlen(name));
    if (!exchange) {
        binding_fail(binding, binding->entry.node ? CODE_REVOKED : CODE_UNKNOWN_EXCHANGE,
                     "The exchange is gone");
        return;
    }
    verdict = access_check(shared->access, binding->session->token, exchange, binding->pattern, binding->len,
                           on_verdict, binding, &r->check, &text);
    if (verdict != ACCESS_PENDING)
        apply_verdict(binding, verdict, text);
    else if (r->recheck)
        bindings_of(binding)->rechecking++;
}

/* The check of a live binding could not be made: it keeps its grant, and is checked again. */
static void recheck_later(struct binding *binding)
{
    binding->request->queued = true;
    binding->request->deadline_ms = clock_mono_ms() + RECHECK_RETRY_MS;
}

static void apply_verdict(struct binding *binding, enum access_verdict verdict, const char *text)
{
    const char *exchange = binding->partition->exchange;
    CLEANUP(buf_done) struct buf message = {0};
    enum error_code code = CODE_ACCESS_ERROR;

    if (binding->request->recheck && verdict != ACCESS_GRANTED && verdict != ACCESS_DENIED) {
        bindings_of(binding)->busy |= verdict == ACCESS_BUSY;
        recheck_later(binding);
        return;
    }
    switch (verdict) {
    case ACCESS_GRANTED:
        binding->request->granted = true;
        binding_proceed(binding);
        return;
    case ACCESS_DENIED:
        code = binding->entry.node ? CODE_REVOKED : CODE_DENIED;
        buf_printf(&message, "Access denied %s", exchange);
        log_debug("BIND-DENIED", "a binding is denied", LF_STR("exchange", exchange),
                  LF_BYTES("key", binding->pattern, binding->len), LF_STR("why", text));
        break;
    case ACCESS_TIMEOUT:
        code = CODE_ACCESS_TIMEOUT;
        buf_printf(&message, "The access check for %s did not answer in time", exchange);
        break;
    case ACCESS_BUSY:
        code = CODE_UNAVAILABLE;
        buf_printf(&message, "Too many access checks are pending");
        break;
    case ACCESS_ERROR:
    case ACCESS_PENDING:
        buf_printf(&message, "The access check for %s failed", exchange);
        break;
    }
    binding_fail(binding, code, buf_status(&message) == 0 ? message.data : "Access check failed");
}

static void on_verdict(void *user, enum access_verdict verdict, const char *text)
{
    struct binding *binding = user;
    struct bindings *b = bindings_of(binding);

    binding->request->check = NULL;
    if (binding->request->recheck)
        b->rechecking--;
    if (binding->request->token != binding->session->token ||
        !same_rules(binding->request->config, sessions_config(b->all), binding->partition->exchange))
        binding_check(binding);
    else
        apply_verdict(binding, verdict, text);
    pump_rechecks(b);
}

/* --- requests --- */

void binding_request(struct session *s, const char *exchange, size_t exchange_len, const char *key,
                     size_t key_len, const struct position *since, json_t *req)
{
    const struct sessions_shared *shared = session_shared(s);
    int64_t max = shared->config->gateway.session_bindings_max;
    const struct config_exchange *conf = config_exchange_find(shared->config, exchange, exchange_len);
    struct partition *p = conf ? feed_partition(shared->feed, conf->name) : NULL;
    struct binding *binding;

    if (!p) {
        protocol_error(s, req, CODE_UNKNOWN_EXCHANGE, "Unknown exchange %.*s", (int)exchange_len, exchange);
        return;
    }
    if (max && s->binding_count >= max) {
        protocol_error(s, req, CODE_TOO_MANY_BINDINGS, "A session may have %lld bindings", (long long)max);
        return;
    }
    binding = binding_new(s, p, key, key_len);
    if (!binding) {
        protocol_error(s, req, CODE_UNAVAILABLE, "Out of memory");
        return;
    }
    if (!request_new(binding, req, false)) {
        protocol_error(s, req, CODE_UNAVAILABLE, "Out of memory");
        binding_free(binding);
        return;
    }
    binding->request->since = since != NULL;
    binding->request->behind = since || !feed_is_live(p);
    binding->request->replay.from = since ? *since : p->last;
    if (!since && !p->last.epoch[0])
        binding->request->behind = false; /* nothing was heard yet: it begins with the first event */
    binding_check(binding);
}

bool binding_take_back(struct session *s, const char *exchange, size_t exchange_len, const char *key,
                       size_t key_len)
{
    for (struct binding *binding = s->bindings; binding; binding = binding->next) {
        const char *name = binding->partition->exchange;

        if (binding->len != key_len || memcmp(binding->pattern, key, key_len) != 0)
            continue;
        if (strlen(name) != exchange_len || memcmp(name, exchange, exchange_len) != 0)
            continue;
        /* Its own request would never be answered otherwise. */
        if (binding->request && binding->request->req)
            protocol_error(s, binding->request->req, CODE_NOT_BOUND, "Taken back before it was live");
        binding_free(binding);
        return true;
    }
    return false;
}

static bool replays_on(const struct session *s, const struct partition *p)
{
    for (const struct binding *binding = s->bindings; binding; binding = binding->next)
        if (binding->partition == p && binding->request && binding->request->replay.state != REPLAY_NONE)
            return true;
    return false;
}

json_t *bindings_positions(const struct session *s)
{
    json_t *all = json_object();

    for (const struct binding *binding = s->bindings; binding && all; binding = binding->next) {
        const struct partition *p = binding->partition;
        CLEANUP(buf_done) struct buf name = {0}, pos = {0};

        buf_printf(&name, "%s:%d", p->exchange, p->number);
        if (buf_status(&name) < 0 || !p->last.epoch[0] || json_object_get(all, name.data) || replays_on(s, p))
            continue;
        position_print(&p->last, NULL, 0, &pos);
        /* A lack of memory leaves one position out; the client keeps its older one. */
        if (buf_status(&pos) == 0)
            (void)json_object_set_new(all, name.data, json_string(pos.data));
    }
    return all;
}

/* --- rechecks --- */

/* Do these configurations give the exchange the same rules? */
static bool same_rules(const struct config *a, const struct config *b, const char *exchange)
{
    const struct config_exchange *x = config_exchange_find(a, exchange, strlen(exchange));
    const struct config_exchange *y = config_exchange_find(b, exchange, strlen(exchange));

    return a == b || (x && y && strcmp(x->text, y->text) == 0);
}

static void binding_recheck(struct binding *binding)
{
    if (!binding->request) {
        if (!request_new(binding, NULL, true))
            binding_fail(binding, CODE_UNAVAILABLE, "Out of memory");
        return;
    }
    /* A check in flight is judged under the new rules, and with the new token, when it comes; one that waits
     * for its turn is made under them. Else it was granted under the old ones, and waits for its channel or
     * replays. */
    if (!binding->request->check && !binding->request->queued)
        binding_check(binding);
}

void bindings_recheck(struct session *s, const struct config *old)
{
    const struct config *now = sessions_config(s->all);
    struct binding *binding, *next;

    for (binding = s->bindings; binding; binding = next) {
        const char *name = binding->partition->exchange;

        next = binding->next;
        if (!config_exchange_find(now, name, strlen(name)))
            binding_fail(binding, binding->entry.node ? CODE_REVOKED : CODE_UNKNOWN_EXCHANGE,
                         "The exchange is gone");
        else if (!old || !same_rules(old, now, name))
            binding_recheck(binding);
    }
    pump_rechecks(sessions_bindings(s->all));
}

static void pump_rechecks(struct bindings *b)
{
    struct bind_request *r = b->rechecks.oldest, *next;
    int64_t now = clock_mono_ms();

    /* When there is no place for one, there is none for the thousands behind it. */
    b->busy = false;
    for (; r && b->rechecking < RECHECKS_MAX && !b->busy; r = next) {
        next = r->next;
        if (!r->queued || now < r->deadline_ms)
            continue;
        r->queued = false;
        binding_check(r->binding);
        /* An answer at once may have ended this binding only. */
    }
}

/* --- time --- */

static void on_timer(uv_timer_t *timer)
{
    struct bindings *b = timer->data;
    int64_t now = clock_mono_ms();

    while (b->pending.oldest && now >= b->pending.oldest->deadline_ms) {
        struct bind_request *r = b->pending.oldest;
        struct binding *binding = r->binding;

        if (r->replay.state == REPLAY_PASSING || r->replay.state == REPLAY_PARKED) {
            /* It is being served, at the speed at which the client reads. */
            list_remove(b, r);
            r->deadline_ms = now + sessions_config(b->all)->gateway.bind_timeout_ms;
            list_add(b, r);
        } else if (r->granted)
            binding_fail(binding, CODE_UNAVAILABLE, "The event log cannot be reached");
        else
            binding_fail(binding, CODE_ACCESS_TIMEOUT, "The access check did not answer in time");
    }
    pump_rechecks(b);
}

struct bindings *bindings_new(struct sessions *all, uv_loop_t *loop, struct metrics *metrics)
{
    struct bindings *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->all = all;
    b->metrics = metrics;
    uv_timer_init(loop, &b->timer);
    b->timer.data = b;
    uv_timer_start(&b->timer, on_timer, TIMER_MS, TIMER_MS);
    return b;
}

static void on_closed(uv_handle_t *handle)
{
    struct bindings *b = handle->data;
    void (*closed)(void *) = b->closed;
    void *user = b->closed_user;

    free(b);
    if (closed)
        closed(user);
}

void bindings_close(struct bindings *b, void (*closed)(void *user), void *user)
{
    assert(!b->pending.oldest && !b->rechecks.oldest);
    b->closed = closed;
    b->closed_user = user;
    uv_close((uv_handle_t *)&b->timer, on_closed);
}

void bindings_refresh_metrics(struct bindings *b)
{
    metrics_set(b->metrics, GM_BINDINGS, (double)b->live);
    metrics_set(b->metrics, GM_BINDINGS_PENDING, (double)b->pending.count);
}
