/* session.c - sessions, their limits and their ends. The states are drawn in the header.
 *
 * Each open session is looked at once within its ping interval: sessions hang in a wheel of one-second slots,
 * and a timer visits one slot a second. Frames of one turn of the loop are flushed in a check handle (after
 * polling) and a prepare handle (what timers produced). */
#include "gateway/session.h"

#include "gateway/binding.h"
#include "gateway/gateway_metrics.h"
#include "gateway/protocol.h"
#include "shared/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/keyed_hash.h" /* a network of addresses is cheap to come by */

enum {
    WHEEL_SLOTS = 64,
    /* Pieces that one message may come in: libwebsockets hands over 256 bytes at a time, so this leaves
     * room for as many fragments again. */
    PIECE_BYTES = 128,
    PIECES_SPARE = 1024,
    /* Of a client, where the configuration sets no limit. */
    MESSAGE_MAX = 1 << 30,
    WARN_BEFORE_END_S = 60,
    /* Requests at once where bindings are not limited. */
    ALLOWANCE_SPARE = 1024,
    /* A client that goes on so far beyond its rate is closed, not answered. */
    OVERDRAFT = 1000,
};

struct address_count {
    UT_hash_handle hh;
    struct address address;
    uint32_t count;
};

struct sessions {
    struct sessions_shared shared;
    struct session_transport transport;
    struct outbox_hub *hub;
    struct bindings *bindings;
    struct session *newest, *oldest;
    size_t count, closing;
    struct address_count *addresses;
    struct session *slots[WHEEL_SLOTS];
    size_t hand; /* the slot that was visited last */
    uv_timer_t timer;
    uv_check_t check;
    uv_prepare_t prepare;
    int handles;
    struct session *doomed;
    uint64_t framed; /* serial of the event that `frame` holds */
    struct outbox_run frame;
    double deliveries, bytes;
    struct metric *m_deliveries, *m_bytes;
    void (*closed)(void *user);
    void *closed_user;
};

/* --- closing --- */

static void wheel_remove(struct session *s)
{
    if (!s->slot_pprev)
        return;
    *s->slot_pprev = s->slot_next;
    if (s->slot_next)
        s->slot_next->slot_pprev = s->slot_pprev;
    s->slot_pprev = NULL;
    s->slot_next = NULL;
}

static void wheel_add(struct session *s, int64_t in_s)
{
    struct sessions *all = s->all;
    size_t ahead = in_s < 1 ? 1 : in_s >= WHEEL_SLOTS ? WHEEL_SLOTS - 1 : (size_t)in_s;
    struct session **slot = &all->slots[(all->hand + ahead) % WHEEL_SLOTS];

    s->slot_next = *slot;
    if (s->slot_next)
        s->slot_next->slot_pprev = &s->slot_next;
    s->slot_pprev = slot;
    *slot = s;
}

bool session_is_closing(const struct session *s)
{
    return s->closing != CLOSE_NONE;
}

/* RFC 6455, 5.5.1: the payload is the code, in network order, and a reason of at most 123 bytes. */
static bool queue_close_frame(struct session *s, enum close_reason reason)
{
    int code = close_reason_code(reason);
    const char head[2] = {(char)(code >> 8), (char)code};
    const char *text = close_reason_text(reason);
    struct outbox_run frame;

    return outbox_hub_frame(s->all->hub, FRAME_CLOSE, head, sizeof(head), text, strlen(text), &frame) &&
           outbox_last(&s->out, frame, reason == CLOSE_SLOW);
}

void session_close(struct session *s, enum close_reason reason)
{
    if (s->closing != CLOSE_NONE)
        return;
    s->closing = (uint8_t)reason;
    s->all->closing += s->transport != NULL;
    metric_add(metrics_get(s->all->shared.metrics, GM_SESSIONS_CLOSED, close_reason_label(reason)), 1);
    if (reason != CLOSE_DRAIN)
        log_debug("SESSION-CLOSE", "closing a session", LF_STR("reason", close_reason_label(reason)));
    wheel_remove(s);
    bindings_drop_all(s);
    if (!s->transport)
        return;
    if (close_reason_code(reason) != 0 && queue_close_frame(s, reason)) {
        s->all->transport.linger(s->transport);
        return;
    }
    outbox_close(&s->out);
    s->all->transport.kill(s->transport);
}

void session_doom(struct session *s)
{
    if (s->doomed)
        return;
    s->doomed = true;
    s->doomed_next = s->all->doomed;
    s->all->doomed = s;
}

static void close_doomed(struct sessions *all)
{
    while (all->doomed) {
        struct session *s = all->doomed;

        all->doomed = s->doomed_next;
        s->doomed = false;
        session_close(s, CLOSE_INTERNAL);
    }
}

static void on_overflow(void *transport, int error, size_t queued)
{
    struct session *s = transport;

    if (error < 0) {
        session_close(s, CLOSE_DEAD);
        return;
    }
    log_info("SESSION-SLOW", "closing a session that does not read fast enough",
             LF_INT("queued_bytes", queued));
    session_close(s, CLOSE_SLOW);
}

/* --- the transport, seen from an outbox --- */

static bool on_blocked(void *transport)
{
    struct session *s = transport;

    return s->all->transport.out.blocked(s->transport);
}

static int on_write(void *transport, const char *bytes, size_t len)
{
    struct session *s = transport;

    return s->all->transport.out.write(s->transport, bytes, len);
}

static void on_want_writable(void *transport)
{
    struct session *s = transport;

    s->all->transport.out.want_writable(s->transport);
}

/* --- looking at sessions once in a while --- */

static void send_ping(struct session *s, int64_t now)
{
    struct outbox_run frame;

    /* A ping behind bytes that the peer has not read yet says nothing: a large event may take it longer than
     * the timeout. The queue's limit and TCP_USER_TIMEOUT watch over that session. */
    if (!outbox_is_empty(&s->out) || on_blocked(s))
        return;
    /* With a payload: libwebsockets does not tell of an empty pong. */
    if (!outbox_hub_frame(s->all->hub, FRAME_PING, NULL, 0, "ping", 4, &frame) ||
        !outbox_add(&s->out, frame)) {
        session_doom(s);
        return;
    }
    s->ping_ms = now;
}

/* Returns the seconds until it wants to be looked at again, or -1 if it was closed. */
static int64_t session_look(struct session *s, int64_t now)
{
    const struct config *c = s->all->shared.config;
    int64_t ping_after_ms = c->gateway.ping_interval_s * 1000, next_ms = INT64_MAX;

    if (now >= s->end_ms) {
        session_close(s, CLOSE_EXPIRED);
        return -1;
    }
    if (s->ping_ms && now - s->ping_ms >= c->gateway.pong_timeout_s * 1000) {
        session_close(s, CLOSE_PONG);
        return -1;
    }
    if (s->end_ms != INT64_MAX) {
        int64_t left_ms = s->end_ms - now;

        /* Look again when it is time to warn, and at the end. */
        next_ms = left_ms > WARN_BEFORE_END_S * 1000 ? left_ms - WARN_BEFORE_END_S * 1000 : left_ms;
        if (left_ms <= WARN_BEFORE_END_S * 1000 && !s->warned && s->used_req) {
            s->warned = true;
            protocol_expires(s, (left_ms + 999) / 1000);
        }
    }
    if (ping_after_ms > 0) {
        int64_t due;

        if (!s->ping_ms && now - s->heard_ms >= ping_after_ms)
            send_ping(s, now);
        due = s->heard_ms + ping_after_ms;
        /* A ping that is answered at once must not delay the next one by the whole timeout. */
        if (due <= now)
            due = now + ping_after_ms;
        if (s->ping_ms && s->ping_ms + c->gateway.pong_timeout_s * 1000 < due)
            due = s->ping_ms + c->gateway.pong_timeout_s * 1000;
        if (due - now < next_ms)
            next_ms = due - now;
    }
    return next_ms == INT64_MAX ? WHEEL_SLOTS : (next_ms + 999) / 1000;
}

static void on_timer(uv_timer_t *timer)
{
    struct sessions *all = timer->data;
    int64_t now = clock_mono_ms();
    struct session *s, *slot;

    all->hand = (all->hand + 1) % WHEEL_SLOTS;
    slot = all->slots[all->hand];
    all->slots[all->hand] = NULL;
    if (slot)
        slot->slot_pprev = &slot;
    while ((s = slot)) {
        int64_t in_s;

        wheel_remove(s);
        in_s = session_look(s, now);
        if (in_s >= 0)
            wheel_add(s, in_s);
    }
}

static void flush(struct sessions *all)
{
    if (all->deliveries > 0) {
        metric_add(all->m_deliveries, all->deliveries);
        metric_add(all->m_bytes, all->bytes);
        all->deliveries = 0;
        all->bytes = 0;
    }
    close_doomed(all);
    all->framed = 0; /* the frame's block is done with */
    outbox_hub_flush(all->hub);
}

static void on_check(uv_check_t *check)
{
    flush(check->data);
}

static void on_prepare(uv_prepare_t *prepare)
{
    flush(prepare->data);
}

/* --- all of them --- */

static void on_handle_closed(uv_handle_t *handle)
{
    struct sessions *all = handle->data;
    void (*closed)(void *) = all->closed;
    void *user = all->closed_user;

    if (--all->handles > 0)
        return;
    outbox_hub_free(all->hub);
    config_unref(all->shared.config);
    free(all);
    if (closed)
        closed(user);
}

static void on_bindings_closed(void *user)
{
    struct sessions *all = user;

    uv_close((uv_handle_t *)&all->timer, on_handle_closed);
    uv_close((uv_handle_t *)&all->check, on_handle_closed);
    uv_close((uv_handle_t *)&all->prepare, on_handle_closed);
}

struct sessions *sessions_new(const struct sessions_deps *deps)
{
    struct outbox_transport out = {on_blocked, on_write, on_want_writable, on_overflow};
    struct sessions *all = calloc(1, sizeof(*all));

    if (!all)
        return NULL;
    all->hub = outbox_hub_new(&out, (size_t)deps->config->gateway.session_queue_max_bytes);
    all->bindings = bindings_new(all, deps->loop, deps->metrics);
    if (!all->hub || !all->bindings) {
        outbox_hub_free(all->hub);
        if (all->bindings)
            bindings_close(all->bindings, NULL, NULL);
        free(all);
        return NULL;
    }
    all->shared =
        (struct sessions_shared){config_ref(deps->config), NULL, deps->metrics, deps->access, deps->feed};
    all->transport = deps->transport;
    all->m_deliveries = metrics_get(deps->metrics, GM_DELIVERIES, NULL);
    all->m_bytes = metrics_get(deps->metrics, GM_DELIVERED_BYTES, NULL);
    uv_timer_init(deps->loop, &all->timer);
    uv_check_init(deps->loop, &all->check);
    uv_prepare_init(deps->loop, &all->prepare);
    all->timer.data = all->check.data = all->prepare.data = all;
    all->handles = 3;
    uv_timer_start(&all->timer, on_timer, 1000, 1000);
    uv_check_start(&all->check, on_check);
    uv_prepare_start(&all->prepare, on_prepare);
    return all;
}

void sessions_close(struct sessions *all, void (*closed)(void *user), void *user)
{
    assert(all->count == 0);
    all->closed = closed;
    all->closed_user = user;
    flush(all);
    bindings_close(all->bindings, on_bindings_closed, all);
}

size_t sessions_count(const struct sessions *all)
{
    return all->count;
}

size_t sessions_open(const struct sessions *all)
{
    return all->count - all->closing;
}

struct config *sessions_config(struct sessions *all)
{
    return all->shared.config;
}

struct bindings *sessions_bindings(struct sessions *all)
{
    return all->bindings;
}

const struct sessions_shared *session_shared(const struct session *s)
{
    return &s->all->shared;
}

void sessions_count_error(struct sessions *all, enum error_code code)
{
    metric_add(metrics_get(all->shared.metrics, GM_ERRORS, error_code_wire(code)), 1);
}

void sessions_refresh_metrics(struct sessions *all)
{
    metrics_set(all->shared.metrics, GM_SESSIONS, (double)all->count);
    metrics_set(all->shared.metrics, GM_QUEUED_BYTES, (double)outbox_hub_queued(all->hub));
    bindings_refresh_metrics(all->bindings);
}

void sessions_close_some(struct sessions *all, size_t count, enum close_reason reason)
{
    for (struct session *s = all->oldest; s && count > 0; s = s->prev) {
        if (session_is_closing(s))
            continue;
        session_close(s, reason);
        count--;
    }
}

void sessions_set_keys(struct sessions *all, const struct token_keys *keys)
{
    all->shared.keys = keys;
    for (struct session *s = all->newest; s; s = s->next)
        if (s->token && !token_keys_have(keys, s->token))
            session_close(s, CLOSE_BAD_TOKEN);
}

void sessions_reload(struct sessions *all, struct config *config)
{
    struct config *old = all->shared.config;

    all->shared.config = config_ref(config);
    outbox_hub_set_limit(all->hub, (size_t)config->gateway.session_queue_max_bytes);
    for (struct session *s = all->newest; s; s = s->next)
        if (!session_is_closing(s))
            bindings_recheck(s, old);
    config_unref(old);
}

/* --- one session --- */

static struct address_count *address_find(struct sessions *all, const struct address *address)
{
    struct address_count *a;

    HASH_FIND(hh, all->addresses, address, sizeof(*address), a);
    return a;
}

enum error_code sessions_admit(struct sessions *all, const struct address *address)
{
    const struct config *c = all->shared.config;
    struct address_count *a = address_find(all, address);

    if (c->gateway.sessions_max && all->count >= (size_t)c->gateway.sessions_max)
        return CODE_UNAVAILABLE;
    if (c->gateway.address_sessions_max && a && a->count >= c->gateway.address_sessions_max)
        return CODE_RATE_LIMITED;
    return ERROR_CODE_COUNT;
}

static struct address_count *address_take(struct sessions *all, const struct address *address)
{
    struct address_count *a = address_find(all, address);

    if (!a) {
        a = calloc(1, sizeof(*a));
        if (!a)
            return NULL;
        a->address = *address;
        HASH_ADD(hh, all->addresses, address, sizeof(a->address), a);
    }
    a->count++;
    return a;
}

static void address_release(struct sessions *all, struct address_count *a)
{
    if (--a->count > 0)
        return;
    HASH_DELETE(hh, all->addresses, a);
    free(a);
}

static double allowance_max(const struct config *c)
{
    int64_t bindings = c->gateway.session_bindings_max ? c->gateway.session_bindings_max : ALLOWANCE_SPARE;

    return (double)(bindings + c->gateway.session_requests_per_s);
}

/* The monotonic time at which the token ends: afterwards the wall clock may jump as it likes. */
static int64_t end_of(const struct token *token, int64_t now_ms)
{
    int64_t left_s;

    if (!token || token_end_s(token) == INT64_MAX)
        return INT64_MAX;
    left_s = token_end_s(token) - clock_wall_s();
    /* The end of a token of a million years would overflow. */
    return left_s < INT32_MAX ? now_ms + left_s * 1000 : INT64_MAX;
}

struct session *session_new(struct sessions *all, struct token *token, const struct address *address)
{
    struct session *s = calloc(1, sizeof(*s));

    if (s)
        s->address = address_take(all, address);
    if (!s || !s->address) {
        token_unref(token);
        free(s);
        return NULL;
    }
    s->all = all;
    s->token = token;
    s->heard_ms = clock_mono_ms();
    s->end_ms = end_of(token, s->heard_ms);
    s->allowance = allowance_max(all->shared.config);
    s->allowance_ms = s->heard_ms;
    return s;
}

void session_attach(struct session *s, void *transport)
{
    struct sessions *all = s->all;
    int64_t in_s;

    outbox_init(&s->out, all->hub, s);
    s->transport = transport;
    s->next = all->newest;
    *(s->next ? &s->next->prev : &all->oldest) = s;
    all->newest = s;
    all->count++;
    metrics_add(all->shared.metrics, GM_SESSIONS_OPENED, 1);
    in_s = session_look(s, clock_mono_ms());
    if (in_s >= 0)
        wheel_add(s, in_s);
}

void session_renew(struct session *s, struct token *token)
{
    int64_t in_s;

    token_unref(s->token);
    s->token = token;
    s->end_ms = end_of(token, clock_mono_ms());
    s->warned = false;
    bindings_recheck(s, NULL);
    wheel_remove(s);
    in_s = session_look(s, clock_mono_ms());
    if (in_s >= 0)
        wheel_add(s, in_s);
}

void session_detach(struct session *s)
{
    struct sessions *all = s->all;

    if (s->transport) {
        all->closing -= session_is_closing(s);
        s->transport = NULL;
        session_close(s, CLOSE_PEER);
        *(s->prev ? &s->prev->next : &all->newest) = s->next;
        *(s->next ? &s->next->prev : &all->oldest) = s->prev;
        all->count--;
        outbox_done(&s->out);
    }
    if (s->doomed) {
        struct session **at = &all->doomed;

        while (*at != s)
            at = &(*at)->doomed_next;
        *at = s->doomed_next;
    }
    address_release(all, s->address);
    token_unref(s->token);
    free(s->rx);
    free(s);
}

/* --- what the peer sends --- */

void session_pong(struct session *s)
{
    s->heard_ms = clock_mono_ms();
    s->ping_ms = 0;
}

/* One request more: within the rate? Sessions begin with room for all their bindings at once, as clients bind
 * right after they connect. */
static bool allow_request(struct session *s, int64_t now)
{
    const struct config *c = s->all->shared.config;
    double max = allowance_max(c);

    if (c->gateway.session_requests_per_s == 0)
        return true;
    s->allowance += (double)(now - s->allowance_ms) * (double)c->gateway.session_requests_per_s / 1000;
    s->allowance_ms = now;
    if (s->allowance > max)
        s->allowance = max;
    s->allowance -= 1;
    return s->allowance >= 0;
}

static void rx_reset(struct session *s)
{
    free(s->rx);
    s->rx = NULL;
    s->rx_len = s->rx_cap = s->rx_pieces = 0;
}

static void serve(struct session *s, const char *text, size_t len)
{
    if (!allow_request(s, s->heard_ms)) {
        if (s->allowance < -OVERDRAFT) {
            session_close(s, CLOSE_RATE);
            return;
        }
        protocol_refuse_rate(s, text, len);
        return;
    }
    protocol_message(s, text, len);
}

static bool rx_keep(struct session *s, const char *bytes, size_t len)
{
    if (s->rx_len + len > s->rx_cap) {
        size_t cap = (s->rx_len + len) * 2;
        char *rx = realloc(s->rx, cap);

        if (!rx)
            return false;
        s->rx = rx;
        s->rx_cap = (uint32_t)cap;
    }
    if (len)
        memcpy(s->rx + s->rx_len, bytes, len);
    s->rx_len += (uint32_t)len;
    return true;
}

void session_receive(struct session *s, const char *bytes, size_t len, bool first, bool last,
                     size_t remaining)
{
    int64_t limit = s->all->shared.config->gateway.message_max_bytes;
    size_t max = limit ? (size_t)limit : MESSAGE_MAX;

    if (session_is_closing(s))
        return;
    session_pong(s); /* whatever comes proves that the peer lives */
    if (first)
        rx_reset(s);
    if (remaining > max || s->rx_len + len + remaining > max) {
        rx_reset(s);
        session_close(s, CLOSE_TOO_BIG);
        return;
    }
    if (first && last) {
        serve(s, bytes, len);
        return;
    }
    if (++s->rx_pieces > max / PIECE_BYTES + PIECES_SPARE) {
        rx_reset(s);
        session_close(s, CLOSE_ABUSE);
        return;
    }
    if (!rx_keep(s, bytes, len)) {
        rx_reset(s);
        session_close(s, CLOSE_INTERNAL);
        return;
    }
    if (last) {
        CLEANUP(freep) char *text = TAKE(s->rx);
        size_t text_len = s->rx_len;

        rx_reset(s);
        serve(s, text, text_len);
    }
}

/* --- what the peer gets --- */

void session_send(struct session *s, const char *text, size_t len)
{
    struct outbox_run frame;

    if (session_is_closing(s))
        return;
    if (!outbox_hub_frame(s->all->hub, FRAME_TEXT, NULL, 0, text, len, &frame) || !outbox_add(&s->out, frame))
        session_doom(s);
}

/* The event's frame in this turn's block, built when the first session needs it. */
static bool frame_event(struct sessions *all, const struct feed_event *e)
{
    if (all->framed == e->serial)
        return true;
    if (!outbox_hub_frame(all->hub, FRAME_TEXT, e->head, e->head_len, e->frame, e->frame_len, &all->frame))
        return false;
    all->framed = e->serial;
    return true;
}

static void deliver(struct sessions *all, struct session *s, const struct feed_event *event)
{
    /* Without memory it must not lose the event in silence: the session ends, and resumes elsewhere. */
    if (!frame_event(all, event) || !outbox_add(&s->out, all->frame)) {
        session_doom(s);
        return;
    }
    all->deliveries += 1;
    all->bytes += all->frame.len;
}

struct delivery {
    struct sessions *all;
    const struct feed_event *event;
};

static void on_match(void *user, struct router_entry *entry)
{
    const struct delivery *d = user;

    deliver(d->all, binding_session(entry), d->event);
}

void sessions_event(struct sessions *all, const struct feed_event *event)
{
    struct delivery d = {all, event};

    if (router_match(event->partition->router, event->key, event->key_len, on_match, &d) < 0) {
        log_error("ROUTE-MEMORY", "no memory to route an event; all sessions reconnect",
                  LF_STR("exchange", event->partition->exchange));
        sessions_close_some(all, all->count, CLOSE_INTERNAL);
    }
}

bool session_may_replay(const struct session *s, unsigned share)
{
    size_t limit = (size_t)s->all->shared.config->gateway.session_queue_max_bytes;

    return limit == 0 || s->out.queued <= limit / share;
}

void session_replay(struct session *s, const struct feed_event *event)
{
    deliver(s->all, s, event);
}

void sessions_gap(struct sessions *all, struct partition *p, const struct position *from,
                  const struct position *to)
{
    for (struct session *s = all->newest; s; s = s->next) {
        if (session_is_closing(s) || !bindings_live_on(s, p))
            continue;
        if (s->used_req)
            protocol_gap(s, p, from, to);
        else
            session_close(s, CLOSE_GAP);
    }
}
