/* redis_link.c - the state machine of one Redis link, its queue of commands and its subscriptions.
 *
 *   user --command--> out buffer --(idle handle: once a turn)--> redis_conn --> Redis
 *   user <--callback-- oldest pending <--redisReader <-- bytes --'
 *
 * Replies come in the order of the commands (RESP2), so what waits for an answer is a ring of callbacks. On a
 * link that has subscribed, what comes after the last awaited answer is a push: a message or the
 * confirmation of a SUBSCRIBE. We keep no list of channels: 100,000 of them cost nothing here, and a
 * message costs no look-up.
 *
 * Failures. All of them end in link_break, which closes the connection at once, and does the rest in the next
 * turn, so that it is safe inside every callback: each pending command is answered with ERR_REDIS_DOWN,
 * then `down` is called, then the next attempt waits for its backoff.
 * - The connection cannot be made, ends, or the greeting takes too long: redis_conn, and our timer.
 * - Redis refuses the greeting: LOADING, BUSY and a full house are retried as any trouble; AUTH and SELECT
 * are for people to mend, so these attempts come only every 5 to 10 s.
 * - Sentinels: none knows the primary, or what they name is none (ROLE): the next attempt begins with the
 * next sentinel, so that one which is behind the others cannot hold us.
 * - READONLY on a link with sentinels, or another primary named by them when asked again: the primary was
 * demoted under us.
 * - Silence: see link_watch.
 * - What is not RESP, or a reply that nobody asked for: -EPROTO.
 * - SUBSCRIBE is refused (ACL): the link breaks with that error. Redis does not say which channel it was, and
 * a link that is deaf on one channel is worse than none. */
#include "shared/redis_link.h"

#include "shared/buf.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/redis_conn.h"
#include "shared/redis_pending.h"
#include "shared/redis_resp.h"
#include "shared/redis_sentinel.h"
#include "shared/redis_url.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT_TIMEOUT_MS = 5000, SILENCE_MS = 10000 };

/* Full jitter: each wait is random between 1 ms and a ceiling that doubles from the first to the last. */
enum { BACKOFF_FIRST_MS = 100, BACKOFF_LAST_MS = 10000 };

/* The last ceiling where sentinels are asked, ms: they are not what is in trouble, and the primary that they
 * will name is there at once. */
enum { BACKOFF_SENTINEL_MS = 2000 };

/* A refusal that only a person can mend is not asked for again before half of BACKOFF_LAST_MS. */
enum { BACKOFF_REFUSED_MS = BACKOFF_LAST_MS / 2 };

/* The ceiling falls back to the first one when the link was UP that long, ms. A Redis that accepts and breaks
 * again at once is not hammered. */
enum { STABLE_MS = 10000 };

/* An overdue link gets this long to prove that it is answering, ms; see link_watch. */
enum { WATCH_GRACE_MS = 100 };

/* redisReader moves what it has not parsed to its buffer's front after every kilobyte, so large pieces cost
 * their square. */
enum { FEED_BYTES = 16384 };

/* A command that would make more unsent bytes than this is refused with -ENOMEM. Users keep far below it
 * (redis_link_unsent_bytes); it is there for the one that forgot. */
#define UNSENT_MAX_BYTES ((size_t)512 * 1024 * 1024)

/* Arguments of redis_link_send. */
enum { SEND_ARGS_MAX = 64 };

enum link_state {
    LINK_NEW,
    LINK_ASKING, /* the sentinels, if there are any */
    LINK_CONNECTING,
    LINK_GREETING,
    LINK_UP,
    LINK_BROKEN,
    LINK_WAITING,
    LINK_CLOSING
};

/* NEW --start--> [ASKING] --> CONNECTING --> GREETING --> UP
 *                  ^  '-----------'-----------'----------'--> BROKEN --pending answered--> WAITING
 * --backoff--.
 *                  '------------------------------------------------------------------------------------------'
 * CLOSING can follow each of them, and nothing follows it. */
static const struct {
    unsigned next;
} link_states[] = {
    [LINK_NEW] = {BIT(LINK_ASKING) | BIT(LINK_CONNECTING) | BIT(LINK_CLOSING)},
    [LINK_ASKING] = {BIT(LINK_CONNECTING) | BIT(LINK_BROKEN) | BIT(LINK_CLOSING)},
    [LINK_CONNECTING] = {BIT(LINK_GREETING) | BIT(LINK_BROKEN) | BIT(LINK_CLOSING)},
    [LINK_GREETING] = {BIT(LINK_UP) | BIT(LINK_BROKEN) | BIT(LINK_CLOSING)},
    [LINK_UP] = {BIT(LINK_BROKEN) | BIT(LINK_CLOSING)},
    [LINK_BROKEN] = {BIT(LINK_WAITING) | BIT(LINK_CLOSING)},
    [LINK_WAITING] = {BIT(LINK_ASKING) | BIT(LINK_CONNECTING) | BIT(LINK_CLOSING)},
    [LINK_CLOSING] = {0},
};

struct redis_link {
    uv_loop_t *loop;
    struct redis_url url;
    char *name;
    int connect_timeout_ms, silence_ms;
    struct redis_link_events events;
    void *user;

    enum link_state state;
    struct redis_sentinel *sentinel; /* ASKING; UP: redis_link_check_primary is under way */
    size_t sentinel_first;           /* who is asked first the next time */
    char host[REDIS_HOST_MAX + 1];   /* where we are or will be connected, */
    int port;
    struct redis_conn *conn; /* CONNECTING, GREETING, UP */
    redisReader *reader;
    struct pending_ring pending;
    bool subscriber;     /* SUBSCRIBE was sent on this connection */
    int64_t deadline_ms; /* of this attempt */
    int64_t up_since_ms;
    int failures; /* attempts since the link was stable */
    bool overdue; /* the watchdog has expired and waits for WATCH_GRACE_MS */
    uint64_t answered, answered_when_overdue;
    uint64_t received_bytes;

    int error; /* BROKEN: what `down` will be told */
    bool refused;
    char detail[512];

    uv_timer_t timer; /* GREETING: deadline; UP: watchdog; WAITING: backoff */
    uv_idle_t turn;   /* active while there is something to flush, to settle or to close */
    unsigned open_handles;
    void (*closed)(void *user);
};

static void on_timer(uv_timer_t *timer);
static void on_turn(uv_idle_t *turn);

static void link_move(struct redis_link *l, enum link_state to)
{
    assert(link_states[l->state].next & BIT(to));
    l->state = to;
}

static bool link_has_peer(const struct redis_link *l)
{
    return l->state == LINK_GREETING || l->state == LINK_UP;
}

/* ---- breaking and coming back ---- */

/* The connection is gone: nobody else will answer. The callbacks may close the link. */
static void link_answer_pending(struct redis_link *l)
{
    while (l->pending.count) {
        struct pending p = pending_pop(&l->pending);

        if (p.cb)
            p.cb(p.user, l->state == LINK_CLOSING ? -ECANCELED : ERR_REDIS_DOWN, NULL);
    }
}

static void link_set_timer(struct redis_link *l, int64_t ms)
{
    /* The turn may have begun long ago; timers count from its beginning. */
    uv_update_time(l->loop);
    uv_timer_start(&l->timer, on_timer, ms > 0 ? (uint64_t)ms : 0, 0);
}

static void link_wake(struct redis_link *l)
{
    if (!uv_is_active((uv_handle_t *)&l->turn))
        uv_idle_start(&l->turn, on_turn);
}

/* Text from the network becomes part of a log line. */
static void make_one_line(char *text)
{
    for (; *text; text++) {
        if (iscntrl((unsigned char)*text))
            *text = ' ';
    }
}

/* The end of this connection or attempt; without effect where there is none. */
PRINTF_LIKE(3, 4) static void link_break(struct redis_link *l, int error, const char *format, ...)
{
    va_list args;

    if (l->state != LINK_ASKING && l->state != LINK_CONNECTING && !link_has_peer(l))
        return;
    va_start(args, format);
    vsnprintf(l->detail, sizeof(l->detail), format, args);
    va_end(args);
    make_one_line(l->detail);
    l->error = error;
    l->refused = error == ERR_REDIS_AUTH;
    if (l->state == LINK_UP && clock_mono_ms() - l->up_since_ms >= STABLE_MS)
        l->failures = 0;
    link_move(l, LINK_BROKEN);
    redis_sentinel_close(TAKE(l->sentinel));
    l->sentinel_first++;
    redis_conn_close(TAKE(l->conn));
    uv_timer_stop(&l->timer);
    link_wake(l);
}

static int random_up_to(int max)
{
    uint32_t n;

    /* Without randomness the wait is the ceiling: correct, only less polite to Redis. */
    if (uv_random(NULL, NULL, &n, sizeof(n), 0, NULL) < 0)
        return max;
    return 1 + (int)(n % (uint32_t)max);
}

static int link_backoff_ms(struct redis_link *l)
{
    int last = l->url.primary ? BACKOFF_SENTINEL_MS : BACKOFF_LAST_MS;
    int ceiling = BACKOFF_FIRST_MS;

    for (int i = 0; i < l->failures && ceiling < last; i++)
        ceiling *= 2;
    if (ceiling >= last)
        ceiling = last;
    else
        l->failures++;
    if (l->refused)
        return BACKOFF_REFUSED_MS + random_up_to(BACKOFF_LAST_MS - BACKOFF_REFUSED_MS);
    return random_up_to(ceiling);
}

/* Not while it is being read from: only in a turn of our own. */
static void link_drop_reader(struct redis_link *l)
{
    if (l->reader)
        redisReaderFree(TAKE(l->reader));
}

/* BROKEN, in a turn of its own: tell everybody, then wait. */
static void link_settle(struct redis_link *l)
{
    int retry_ms;

    link_answer_pending(l);
    if (l->state != LINK_BROKEN)
        return;
    link_drop_reader(l);
    l->subscriber = false;
    l->overdue = false;
    link_move(l, LINK_WAITING);
    retry_ms = link_backoff_ms(l);
    link_set_timer(l, retry_ms);
    l->events.down(l->user, l->error, l->detail, retry_ms);
}

/* ---- writing ---- */

/* Append one command to the output. All or nothing. */
static int link_write(struct redis_link *l, size_t argc, const char *const *argv, const size_t *lens)
{
    int r = resp_add_command(redis_conn_out(l->conn), UNSENT_MAX_BYTES - redis_conn_unsent(l->conn), argc,
                             argv, lens);

    if (r < 0)
        return r;
    link_wake(l);
    return 0;
}

static int link_ask(struct redis_link *l, redis_reply_cb *cb, void *user, size_t argc,
                    const char *const *argv, const size_t *lens)
{
    int r = pending_make_room(&l->pending);

    if (r == 0)
        r = link_write(l, argc, argv, lens);
    if (r < 0)
        return r;
    pending_push(&l->pending, cb, user);
    return 0;
}

int redis_link_command(struct redis_link *l, redis_reply_cb *cb, void *user, size_t argc,
                       const char *const *argv, const size_t *lens)
{
    int r;

    if (l->state != LINK_UP)
        return ERR_REDIS_DOWN;
    assert(!l->subscriber);
    r = link_ask(l, cb, user, argc, argv, lens);
    if (r == 0 && !uv_is_active((uv_handle_t *)&l->timer))
        link_set_timer(l, l->silence_ms);
    return r;
}

int redis_link_send(struct redis_link *l, redis_reply_cb *cb, void *user, ...)
{
    const char *argv[SEND_ARGS_MAX];
    size_t argc = 0;
    const char *arg;
    va_list args;

    va_start(args, user);
    while ((arg = va_arg(args, const char *))) {
        assert(argc < SEND_ARGS_MAX);
        argv[argc++] = arg;
    }
    va_end(args);
    return redis_link_command(l, cb, user, argc, argv, NULL);
}

static int link_subscribe(struct redis_link *l, const char *verb, const char *channel, size_t len)
{
    const char *argv[] = {verb, channel};
    const size_t lens[] = {strlen(verb), len};
    int r;

    if (l->state != LINK_UP)
        return ERR_REDIS_DOWN;
    r = link_write(l, 2, argv, lens);
    if (r == 0)
        l->subscriber = true;
    return r;
}

int redis_link_subscribe(struct redis_link *l, const char *channel, size_t len)
{
    return link_subscribe(l, "SUBSCRIBE", channel, len);
}

int redis_link_unsubscribe(struct redis_link *l, const char *channel, size_t len)
{
    return link_subscribe(l, "UNSUBSCRIBE", channel, len);
}

int redis_link_script_load(struct redis_link *l, const struct redis_script *s, redis_reply_cb *cb, void *user)
{
    return redis_link_send(l, cb, user, "SCRIPT", "LOAD", s->text, NULL);
}

/* ---- reading ---- */

static bool reply_is_word(const struct redisReply *r, const char *word)
{
    return r && r->type == REDIS_REPLY_STRING && (size_t)r->len == strlen(word) &&
           memcmp(r->str, word, (size_t)r->len) == 0;
}

static void link_break_by_reply(struct redis_link *l, const char *what, const struct redisReply *r)
{
    size_t len;
    const char *text = redis_reply_str(r, &len);

    if (redis_reply_kind(r) == REPLY_ERROR)
        link_break(l, redis_error_code(text, len), "%s: %s", what, text);
    else
        link_break(l, -EPROTO, "%s: a reply that does not belong there", what);
}

static void link_take_push(struct redis_link *l, const struct redisReply *r)
{
    const struct redisReply *kind = redis_reply_at(r, 0);
    size_t channel_len, payload_len;
    const char *channel = redis_reply_str(redis_reply_at(r, 1), &channel_len);
    const char *payload = redis_reply_str(redis_reply_at(r, 2), &payload_len);

    if (channel && payload && reply_is_word(kind, "message")) {
        if (l->events.message)
            l->events.message(l->user, channel, channel_len, payload, payload_len);
    } else if (channel && reply_is_word(kind, "subscribe")) {
        if (l->events.subscribed)
            l->events.subscribed(l->user, channel, channel_len, true);
    } else if (channel && reply_is_word(kind, "unsubscribe")) {
        if (l->events.subscribed)
            l->events.subscribed(l->user, channel, channel_len, false);
    } else {
        link_break_by_reply(l, "Redis on a subscribed connection", r);
    }
}

static void link_take_reply(struct redis_link *l, const struct redisReply *r)
{
    if (l->pending.count) {
        struct pending p = pending_pop(&l->pending);
        int err = 0;

        l->answered++;
        if (r->type == REDIS_REPLY_ERROR)
            err = redis_error_code(r->str, (size_t)r->len);
        if (p.cb)
            p.cb(p.user, err, r);
        if (err == ERR_REDIS_READONLY && l->url.primary)
            link_break(l, err, "%s:%d is not the primary any more: %s", l->host, l->port, r->str);
    } else if (l->subscriber) {
        link_take_push(l, r);
    } else {
        link_break_by_reply(l, "Redis, unasked", r);
    }
}

static void on_bytes(void *user, const char *data, size_t len)
{
    struct redis_link *l = user;

    l->received_bytes += len;
    while (len && link_has_peer(l)) {
        size_t piece = len < FEED_BYTES ? len : FEED_BYTES;
        void *reply = NULL;
        int r = redisReaderFeed(l->reader, data, piece);

        data += piece;
        len -= piece;
        /* Each callback may have cut or closed the link: then the rest is not for anybody. */
        while (r == REDIS_OK && link_has_peer(l)) {
            r = redisReaderGetReply(l->reader, &reply);
            if (r != REDIS_OK || !reply)
                break;
            link_take_reply(l, reply);
            freeReplyObject(reply);
        }
        if (r != REDIS_OK)
            link_break(l, l->reader->err == REDIS_ERR_OOM ? -ENOMEM : -EPROTO, "not a Redis: %s",
                       l->reader->errstr);
    }
}

/* ---- the greeting ---- */

static bool link_is_greeting(const struct redis_link *l, int err)
{
    return l->state == LINK_GREETING && err != ERR_REDIS_DOWN && err != -ECANCELED;
}

static void greeting_refused(struct redis_link *l, int error, const char *step, const struct redisReply *r)
{
    const char *text = redis_reply_str(r, NULL);

    link_break(l, error, "Redis refuses %s: %s", step, text ? text : "an answer of another kind");
    /* What is neither passing nor a proxy's nonsense is for a person to mend. */
    l->refused = error != ERR_REDIS_RETRY && error != -EPROTO;
}

static void on_auth(void *user, int err, const struct redisReply *r)
{
    struct redis_link *l = user;

    if (!link_is_greeting(l, err))
        return;
    /* "ERR AUTH <password> called without any password configured", "ERR invalid password" of old ones. */
    if (err == ERR_REDIS_REPLY)
        err = ERR_REDIS_AUTH;
    if (err == 0 && redis_reply_kind(r) != REPLY_STATUS)
        err = -EPROTO;
    if (err)
        greeting_refused(l, err, "AUTH", r);
}

static void on_select(void *user, int err, const struct redisReply *r)
{
    struct redis_link *l = user;

    if (link_is_greeting(l, err) && err)
        greeting_refused(l, err, "SELECT", r);
}

static bool role_is_master(const struct redisReply *r)
{
    return reply_is_word(redis_reply_at(r, 0), "master");
}

/* What the sentinels named may be the old primary, come back as a replica, or not yet promoted. */
static void on_role(void *user, int err, const struct redisReply *r)
{
    struct redis_link *l = user;
    const char *role = redis_reply_str(redis_reply_at(r, 0), NULL);

    if (!link_is_greeting(l, err))
        return;
    if (err)
        greeting_refused(l, err, "ROLE", r);
    else if (!role_is_master(r))
        link_break(l, ERR_REDIS_READONLY, "%s:%d, which a sentinel named, is not a primary but: %s", l->host,
                   l->port, role ? role : "unknown");
}

/* The last one. CLIENT SETNAME and AUTH are answered by a Redis that is loading its data; PING is not. */
static void on_ping(void *user, int err, const struct redisReply *r)
{
    struct redis_link *l = user;
    size_t len;
    const char *text = redis_reply_str(r, &len);
    bool forbidden;

    if (!link_is_greeting(l, err))
        return;
    /* An ACL user without +ping: Redis is there, it knows us, and it answers. */
    forbidden = err && text && len > 7 && memcmp(text, "NOPERM ", 7) == 0;
    if (err && !forbidden) {
        greeting_refused(l, err, "us", r);
        return;
    }
    if (!forbidden && redis_reply_kind(r) != REPLY_STATUS) {
        greeting_refused(l, -EPROTO, "PING", r);
        return;
    }
    link_move(l, LINK_UP);
    l->up_since_ms = clock_mono_ms();
    uv_timer_stop(&l->timer);
    l->events.up(l->user);
}

static int link_greet(struct redis_link *l)
{
    const struct redis_url *u = &l->url;
    const char *auth[] = {"AUTH", u->user ? u->user : u->password, u->password};
    const char *name[] = {"CLIENT", "SETNAME", l->name};
    const char *ping[] = {"PING"}, *role[] = {"ROLE"};
    char db[16];
    const char *select[] = {"SELECT", db};
    int r = 0;

    snprintf(db, sizeof(db), "%d", u->db);
    if (u->password)
        r = link_ask(l, on_auth, l, u->user ? 3 : 2, auth, NULL);
    if (r == 0 && u->db)
        r = link_ask(l, on_select, l, 2, select, NULL);
    /* The name is for people; a Redis that refuses it serves us all the same. */
    if (r == 0 && l->name)
        r = link_ask(l, NULL, NULL, 3, name, NULL);
    if (r == 0 && u->primary)
        r = link_ask(l, on_role, l, 1, role, NULL);
    if (r == 0)
        r = link_ask(l, on_ping, l, 1, ping, NULL);
    return r;
}

static void on_connected(void *user)
{
    struct redis_link *l = user;
    int r;

    link_move(l, LINK_GREETING);
    link_set_timer(l, l->deadline_ms - clock_mono_ms());
    r = link_greet(l);
    if (r < 0)
        link_break(l, r, "greeting: %s", err_text(r));
}

static void on_broken(void *user, int error, const char *detail)
{
    struct redis_link *l = user;

    link_break(l, error, "%s", detail);
}

static void link_dial(struct redis_link *l)
{
    static const struct redis_conn_events events = {
        .connected = on_connected, .bytes = on_bytes, .broken = on_broken};
    int64_t left_ms = l->deadline_ms - clock_mono_ms();

    link_move(l, LINK_CONNECTING);
    l->reader = redisReaderCreate();
    if (l->reader)
        l->conn = redis_conn_open(l->loop, l->host, l->port, left_ms > 0 ? (int)left_ms : 0, &events, l);
    if (!l->conn)
        link_break(l, -ENOMEM, "connect: out of memory");
}

/* ---- sentinels ---- */

static void on_found(void *user, const char *host, int port)
{
    struct redis_link *l = user;

    redis_sentinel_close(TAKE(l->sentinel));
    snprintf(l->host, sizeof(l->host), "%s", host);
    l->port = port;
    link_dial(l);
}

static void on_none_found(void *user, int error, const char *detail)
{
    struct redis_link *l = user;

    link_break(l, error, "%s", detail);
}

static void link_connect(struct redis_link *l)
{
    static const struct redis_sentinel_events events = {.found = on_found, .failed = on_none_found};

    l->deadline_ms = clock_mono_ms() + l->connect_timeout_ms;
    if (!l->url.primary) {
        link_dial(l);
        return;
    }
    link_move(l, LINK_ASKING);
    l->sentinel = redis_sentinel_ask(l->loop, &l->url, l->sentinel_first, l->connect_timeout_ms, &events, l);
    if (!l->sentinel)
        link_break(l, -ENOMEM, "ask the sentinels: out of memory");
}

static void on_found_again(void *user, const char *host, int port)
{
    struct redis_link *l = user;

    redis_sentinel_close(TAKE(l->sentinel));
    if (strcmp(host, l->host) != 0 || port != l->port)
        link_break(l, ERR_REDIS_READONLY, "the primary is now %s:%d, no longer %s:%d", host, port, l->host,
                   l->port);
}

/* Sentinels that are away are no reason to leave a Redis that is there. */
static void on_none_found_again(void *user, int error, const char *detail)
{
    struct redis_link *l = user;

    (void)error;
    (void)detail;
    redis_sentinel_close(TAKE(l->sentinel));
}

static void on_role_again(void *user, int err, const struct redisReply *r)
{
    struct redis_link *l = user;

    if (err == 0 && redis_reply_count(r) && !role_is_master(r))
        link_break(l, ERR_REDIS_READONLY, "%s:%d is not a primary", l->host, l->port);
}

void redis_link_check_primary(struct redis_link *l)
{
    static const struct redis_sentinel_events events = {.found = on_found_again,
                                                        .failed = on_none_found_again};

    if (l->state != LINK_UP)
        return;
    /* Without memory nothing is asked: the next check comes soon. */
    if (!l->subscriber)
        (void)!redis_link_send(l, on_role_again, l, "ROLE", NULL);
    if (l->url.primary && !l->sentinel)
        l->sentinel =
            redis_sentinel_ask(l->loop, &l->url, ++l->sentinel_first, l->connect_timeout_ms, &events, l);
}

/* ---- timers and turns ---- */

/* UP: is the oldest command without an answer too old? An overdue one gets WATCH_GRACE_MS more, and as long
 * as any answers come: after a pause of our own process, or behind a long queue, the answers are just being
 * read. */
static void link_watch(struct redis_link *l)
{
    int64_t age_ms;

    if (!l->pending.count) {
        l->overdue = false;
        return;
    }
    age_ms = clock_mono_ms() - pending_oldest(&l->pending)->sent_ms;
    if (age_ms < l->silence_ms) {
        l->overdue = false;
        link_set_timer(l, l->silence_ms - age_ms);
    } else if (!l->overdue || l->answered != l->answered_when_overdue) {
        l->overdue = true;
        l->answered_when_overdue = l->answered;
        link_set_timer(l, WATCH_GRACE_MS);
    } else {
        link_break(l, -ETIMEDOUT, "Redis has not answered for %lld ms", (long long)age_ms);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct redis_link *l = container_of(timer, struct redis_link, timer);

    switch (l->state) {
    case LINK_GREETING:
        link_break(l, -ETIMEDOUT, "Redis has accepted the connection, but not answered within %d ms",
                   l->connect_timeout_ms);
        break;
    case LINK_UP:
        link_watch(l);
        break;
    case LINK_WAITING:
        link_connect(l);
        break;
    default:
        break;
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct redis_link *l = handle->data;
    void (*closed)(void *user) = l->closed;
    void *user = l->user;

    if (--l->open_handles)
        return;
    redis_url_done(&l->url);
    free(l->name);
    pending_done(&l->pending);
    free(l);
    if (closed)
        closed(user);
}

static void link_end(struct redis_link *l)
{
    link_answer_pending(l);
    link_drop_reader(l);
    uv_close((uv_handle_t *)&l->timer, on_handle_closed);
    uv_close((uv_handle_t *)&l->turn, on_handle_closed);
}

static void on_turn(uv_idle_t *turn)
{
    struct redis_link *l = container_of(turn, struct redis_link, turn);

    uv_idle_stop(turn);
    switch (l->state) {
    case LINK_GREETING:
    case LINK_UP:
        redis_conn_flush(l->conn);
        break;
    case LINK_BROKEN:
        link_settle(l);
        break;
    case LINK_CLOSING:
        link_end(l);
        break;
    default:
        break;
    }
}

/* ---- the rest of the interface ---- */

/* Redis wants printable characters without spaces (CLIENT SETNAME). */
static char *copy_client_name(const char *name)
{
    char *copy = strdup(name);

    for (char *p = copy; p && *p; p++) {
        if (*p <= ' ' || *p > '~')
            *p = '_';
    }
    return copy;
}

struct redis_link *redis_link_new(uv_loop_t *loop, const struct redis_link_conf *conf,
                                  const struct redis_link_events *events, void *user)
{
    struct redis_link *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    assert(events->up && events->down);
    if (redis_url_parse(conf->url, &l->url))
        goto fail;
    if (conf->name && *conf->name) {
        l->name = copy_client_name(conf->name);
        if (!l->name)
            goto fail;
    }
    if (!l->url.primary) {
        snprintf(l->host, sizeof(l->host), "%s", l->url.places[0].host);
        l->port = l->url.places[0].port;
    }
    l->loop = loop;
    l->connect_timeout_ms = conf->connect_timeout_ms > 0 ? conf->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    l->silence_ms = conf->silence_ms > 0 ? conf->silence_ms : SILENCE_MS;
    l->events = *events;
    l->user = user;
    uv_timer_init(loop, &l->timer);
    uv_idle_init(loop, &l->turn);
    l->timer.data = l->turn.data = l;
    l->open_handles = 2;
    return l;

fail:
    redis_url_done(&l->url);
    free(l);
    return NULL;
}

void redis_link_start(struct redis_link *l)
{
    assert(l->state == LINK_NEW);
    link_connect(l);
}

void redis_link_close(struct redis_link *l, void (*closed)(void *user))
{
    assert(l->state != LINK_CLOSING);
    if (l->state == LINK_UP)
        redis_conn_flush(l->conn); /* A last word, such as giving a lease back: tried once. */
    link_move(l, LINK_CLOSING);
    l->closed = closed;
    redis_sentinel_close(TAKE(l->sentinel));
    redis_conn_close(TAKE(l->conn));
    uv_timer_stop(&l->timer);
    link_wake(l);
}

bool redis_link_has_sentinels(const struct redis_link *l)
{
    return l->url.primary != NULL;
}

bool redis_link_is_up(const struct redis_link *l)
{
    return l->state == LINK_UP;
}

void redis_link_cut(struct redis_link *l, const char *why)
{
    link_break(l, ERR_REDIS_DOWN, "cut: %s", why);
}

size_t redis_link_unsent_bytes(const struct redis_link *l)
{
    return l->conn ? redis_conn_unsent(l->conn) : 0;
}

size_t redis_link_outstanding(const struct redis_link *l)
{
    return l->pending.count;
}

uint64_t redis_link_received_bytes(const struct redis_link *l)
{
    return l->received_bytes;
}
