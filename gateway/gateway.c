/* gateway.c - composition, reload and the way down; the picture is in the header.
 *
 *   RUNNING --SIGTERM--> DRAINING --no session left, or time is up--> CLOSING --> loop runs dry, exit 0
 *
 * CLOSING goes backwards along the dependences: connections (sessions leave their bindings), access,
 * sessions, feed, command link, then what has no dependents. */
#include "gateway/gateway.h"

#include "gateway/access.h"
#include "gateway/binding.h"
#include "gateway/feed.h"
#include "gateway/gateway_metrics.h"
#include "gateway/server.h"
#include "gateway/session.h"
#include "shared/admin.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/loop_lag.h"

#include <errno.h>
#include <stdlib.h>

enum { READY_GRACE_MS = 5000, DRAIN_STEP_MS = 100 };

struct gateway {
    uv_loop_t *loop;
    struct program *program;
    struct config *config;
    struct metrics *metrics;
    struct ready *ready;
    int ready_command;
    struct admin *admin;
    struct loop_lag *lag;
    struct redis_link *command;
    struct access *access;
    struct feed *feed;
    struct sessions *sessions;
    struct server *server;
    uv_timer_t drain;
    bool has_drain_timer;
    int64_t drain_end_ms;
    struct metric *command_up, *command_down;
};

/* --- the command link --- */

/* The policy decides what Redis forgets when it is full: only caches have TTLs, so only they may go. */
static void on_policy(void *user, int err, const struct redisReply *reply)
{
    const char *policy;
    size_t len = 0;

    (void)user;
    if (err || redis_reply_count(reply) < 2)
        return; /* a managed Redis may forbid CONFIG; ingest depends on the policy more, and says so too */
    policy = redis_reply_str(redis_reply_at(reply, 1), &len);
    if (policy && !(len == strlen("volatile-ttl") && memcmp(policy, "volatile-ttl", len) == 0))
        log_warn("REDIS-POLICY",
                 "Redis should run with maxmemory-policy volatile-ttl; with this one it may forget events",
                 LF_BYTES("policy", policy, len));
}

static void on_command_up(void *user)
{
    struct gateway *g = user;

    log_info("REDIS-UP", "the Redis command connection is up");
    metric_set(g->command_up, 1);
    ready_set(g->ready, g->ready_command, true, NULL);
    feed_command_is_up(g->feed);
    (void)!redis_link_send(g->command, on_policy, g, "CONFIG", "GET", "maxmemory-policy", NULL);
}

static void on_command_down(void *user, int error, const char *detail, int retry_ms)
{
    struct gateway *g = user;

    log_warn("REDIS-DOWN", "the Redis command connection is down; retrying", LF_STR("error", err_text(error)),
             LF_STR("detail", detail), LF_INT("retry_ms", retry_ms));
    metric_set(g->command_up, 0);
    metric_add(g->command_down, 1);
    ready_set(g->ready, g->ready_command, false, detail);
}

/* --- events --- */

static void on_event(void *user, const struct feed_event *event)
{
    struct gateway *g = user;

    sessions_event(g->sessions, event);
}

static void on_live(void *user, struct interest_ref *ref)
{
    (void)user;
    binding_channel_live(ref);
}

static bool on_deliver(void *user, struct replay_entry *e, const struct feed_event *event)
{
    (void)user;
    return binding_replay(e, event);
}

static bool on_may_continue(void *user, const struct replay_entry *e)
{
    (void)user;
    return binding_may_continue(e);
}

static void on_joined(void *user, struct replay_entry *e, bool recovered)
{
    (void)user;
    binding_joined(e, recovered);
}

static void on_gap(void *user, struct partition *p, const struct position *from, const struct position *to)
{
    struct gateway *g = user;

    sessions_gap(g->sessions, p, from, to);
}

static void on_refresh(void *user)
{
    struct gateway *g = user;

    if (g->feed)
        feed_refresh_metrics(g->feed);
    if (g->sessions)
        sessions_refresh_metrics(g->sessions);
    if (g->server)
        server_refresh_metrics(g->server);
    metrics_set(g->metrics, GM_LOG_DROPPED, (double)log_dropped());
}

/* --- down --- */

static void on_command_closed(void *user)
{
    struct gateway *g = user;

    g->command = NULL;
    admin_close(TAKE(g->admin));
    loop_lag_close(TAKE(g->lag));
    if (g->has_drain_timer)
        uv_close((uv_handle_t *)&g->drain, NULL);
    log_info("STOPPED", "everything is closed");
    program_stopped(g->program);
}

static void on_feed_closed(void *user)
{
    struct gateway *g = user;

    g->feed = NULL;
    redis_link_close(g->command, on_command_closed);
}

static void on_sessions_closed(void *user)
{
    struct gateway *g = user;

    g->sessions = NULL;
    feed_close(g->feed, on_feed_closed, g);
}

static void on_access_closed(void *user)
{
    struct gateway *g = user;

    g->access = NULL;
    sessions_close(g->sessions, on_sessions_closed, g);
}

static void take_down(struct gateway *g)
{
    uv_timer_stop(&g->drain);
    server_close(g->server);
    access_close(g->access, on_access_closed, g);
}

/* Close so many sessions that they are all closed when the time is up. */
static void on_drain(uv_timer_t *timer)
{
    struct gateway *g = timer->data;
    int64_t left_ms = g->drain_end_ms - clock_mono_ms();
    size_t open = sessions_open(g->sessions);
    size_t steps = left_ms > DRAIN_STEP_MS ? (size_t)(left_ms / DRAIN_STEP_MS) : 1;

    if (sessions_count(g->sessions) == 0 || left_ms <= -DRAIN_STEP_MS) {
        take_down(g);
        return;
    }
    sessions_close_some(g->sessions, (open + steps - 1) / steps, CLOSE_DRAIN);
}

static void gateway_stop(void *ctx)
{
    struct gateway *g = ctx;
    /* The last tenth of the drain time is for closing handshakes. */
    int64_t drain_ms = g->config->gateway.drain_timeout_s * 900;

    log_info("DRAIN", "closing all sessions", LF_INT("sessions", sessions_count(g->sessions)),
             LF_INT("within_ms", drain_ms));
    ready_drain(g->ready);
    server_drain(g->server);
    g->drain_end_ms = clock_mono_ms() + drain_ms;
    uv_timer_start(&g->drain, on_drain, 0, DRAIN_STEP_MS);
}

static void gateway_finish(void *ctx)
{
    struct gateway *g = ctx;

    server_free(g->server);
    ready_free(g->ready);
    metrics_free(g->metrics);
    config_unref(g->config);
    free(g);
}

/* --- up --- */

static int start_basics(struct gateway *g)
{
    int r;

    g->metrics = metrics_new(gateway_metric_rows, GATEWAY_METRIC_COUNT);
    g->ready = ready_new();
    if (!g->metrics || !g->ready)
        return -ENOMEM;
    g->ready_command = ready_add(g->ready, "redis-command", READY_GRACE_MS);
    g->command_up = metrics_get(g->metrics, GM_REDIS_UP, "command");
    g->command_down = metrics_get(g->metrics, GM_REDIS_RECONNECTS, "command");
    g->lag = loop_lag_start(g->loop, metrics_get(g->metrics, GM_LOOP_LAG, NULL),
                            metrics_get(g->metrics, GM_LOOP_LAG_MAX, NULL));
    if (!g->lag)
        return -ENOMEM;
    uv_timer_init(g->loop, &g->drain);
    g->drain.data = g;
    g->has_drain_timer = true;
    r = admin_start(g->loop, program_admin_listen(g->program, g->config->gateway.admin), g->metrics, g->ready,
                    on_refresh, g, &g->admin);
    if (r < 0)
        log_error("ADMIN-LISTEN", "cannot listen for probes and metrics",
                  LF_STR("address", g->config->gateway.admin), LF_STR("error", err_text(r)));
    return r;
}

static int start_redis(struct gateway *g)
{
    static const struct redis_link_events events = {.up = on_command_up, .down = on_command_down};
    static const struct feed_handlers handlers = {on_event,        on_live,   on_deliver,
                                                  on_may_continue, on_joined, on_gap};
    struct redis_link_conf conf = {.url = g->config->redis.url, .name = "event-gateway:command"};

    g->command = redis_link_new(g->loop, &conf, &events, g);
    if (!g->command)
        return -ENOMEM;
    g->feed = feed_new(g->loop, g->config, g->command, g->metrics, g->ready, &handlers, g);
    if (!g->feed)
        return -ENOMEM;
    g->access = access_new(g->loop, g->config, g->command, g->metrics);
    return g->access ? 0 : -ENOMEM;
}

static int start_server(struct gateway *g)
{
    struct server_deps server = {g->loop, g->config, g->metrics, g->feed};
    struct sessions_deps sessions = {g->loop, g->config, g->metrics, g->access, g->feed, server_transport()};
    struct token_keys *keys = NULL;
    CLEANUP(freep) char *why = NULL;
    int r = server_new(&server, &g->server);

    if (r < 0) {
        log_error("LWS",
                  "libwebsockets cannot start; is its plugin for libuv (libwebsockets-evlib-uv) installed?");
        return r;
    }
    g->sessions = sessions_new(&sessions);
    if (!g->sessions)
        return -ENOMEM;
    r = token_keys_new(&g->config->jwt, &keys, &why);
    if (r < 0) {
        log_error("KEYS", "cannot load the token keys", LF_STR("why", why ? why : err_text(r)));
        return r;
    }
    r = server_start(g->server, g->sessions, keys);
    if (r < 0)
        log_error("LISTEN", "cannot listen", LF_STR("address", g->config->gateway.listen),
                  LF_STR("error", err_text(r)));
    return r;
}

/* A start that failed half-way: close what there is; gateway_finish frees it when the loop has run dry. */
static void abandon(struct gateway *g)
{
    if (g->server)
        server_close(g->server);
    if (g->access)
        access_close(g->access, NULL, NULL);
    if (g->sessions)
        sessions_close(g->sessions, NULL, NULL);
    if (g->feed)
        feed_close(g->feed, NULL, NULL);
    if (g->command)
        redis_link_close(g->command, NULL);
    admin_close(g->admin);
    loop_lag_close(g->lag);
    if (g->has_drain_timer)
        uv_close((uv_handle_t *)&g->drain, NULL);
}

static int gateway_start(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx)
{
    struct gateway *g = calloc(1, sizeof(*g));
    int r;

    if (!g)
        return -ENOMEM;
    g->program = p;
    g->loop = loop;
    g->config = config_ref(c);
    r = start_basics(g);
    if (r == 0)
        r = start_redis(g);
    if (r == 0)
        r = start_server(g);
    *ret_ctx = g;
    if (r < 0) {
        abandon(g);
        return r;
    }
    redis_link_start(g->command);
    feed_start(g->feed);
    log_info("LISTENING", "serving", LF_STR("address", c->gateway.listen), LF_STR("admin", c->gateway.admin),
             LF_INT("exchanges", c->exchange_count));
    return 0;
}

static char *gateway_check(const struct config *c)
{
    struct token_keys *keys = NULL;
    char *why = NULL;

    if (token_keys_new(&c->jwt, &keys, &why) == 0) {
        token_keys_free(keys);
        return NULL;
    }
    return why ? why : strdup("jwt.keys: out of memory");
}

static void gateway_reload(void *ctx, struct config *c)
{
    struct gateway *g = ctx;
    struct token_keys *keys = NULL;
    CLEANUP(freep) char *why = NULL;

    /* Checked before; a failure now is a lack of memory. The old configuration stays then. */
    if (token_keys_new(&c->jwt, &keys, &why) < 0 || feed_reload(g->feed, c) < 0) {
        token_keys_free(keys);
        log_error("RELOAD", "cannot take over the new configuration; the old one stays",
                  LF_STR("why", why ? why : "out of memory"));
        return;
    }
    config_ref(c);
    config_unref(g->config);
    g->config = c;
    access_reload(g->access, c);
    server_reload(g->server, c, keys);
    sessions_reload(g->sessions, c);
    metrics_add(g->metrics, GM_RELOADS, 1);
    log_info("RELOADED", "the new configuration is in force", LF_INT("exchanges", c->exchange_count));
}

static int gateway_workers(const struct config *c)
{
    return (int)c->gateway.workers;
}

static const char *gateway_admin_listen(const struct config *c)
{
    return c->gateway.admin;
}

const struct program_ops gateway_program = {
    .name = "event-gateway",
    .workers = gateway_workers,
    .admin_listen = gateway_admin_listen,
    .check = gateway_check,
    .start = gateway_start,
    .reload = gateway_reload,
    .stop = gateway_stop,
    .finish = gateway_finish,
};
