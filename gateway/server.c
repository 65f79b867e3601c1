/* server.c - decides about requests and drives libwebsockets; the picture is in the header.
 *
 * libwebsockets gets each connection with a request that we wrote ourselves (`decision`), while we wait
 * inside lws_adopt_socket_vhost_readbuf: its callbacks take the decision from there. From then on a session's
 * wsi writes whole pre-framed messages raw, as docs/performance.md will show the measurements for, and the
 * library does the rest of RFC 6455: parsing, pongs, UTF-8, the closing handshake.
 *
 * Failures: the handshake fails in the library: the session is freed, never attached. A write fails: the
 * session is closed without a close frame and the connection killed in the library's own time. */
#include "gateway/server.h"

#include "gateway/gateway_metrics.h"
#include "gateway/upgrade.h"
#include "shared/clock.h"
#include "shared/err.h"

#include <assert.h>
#include <errno.h>
#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    /* Bytes of a client message that come at once: with 256 an idle session costs a third of the default. */
    RX_BYTES = 256,
    /* The library sizes tables by the descriptor limit, which containers set to a billion; and Debian's build
     * looks through one of them for every connection that closes (41 us at 20,000). For more sessions:
     * gateway.workers. */
    DESCRIPTORS_MAX = 65536,
    /* A close frame must be out, and answered, within this time. */
    CLOSE_TIMEOUT_S = 5,
    /* Fits a subprotocol that carries the longest token. */
    SERVICE_BYTES = 65536,
};

/* What the next adopted connection gets. */
struct decision {
    struct session *session;      /* to be attached; NULL: an answer */
    struct buf answer;            /* a whole HTTP response */
    struct http_text subprotocol; /* to be echoed; len 0: none */
};

/* libwebsockets' user space of a wsi. */
struct slot {
    struct session *session;
    bool peer_closed; /* its close frame has come */
};

struct server {
    uv_loop_t *loop;
    void *loops[1];
    struct config *config;
    struct metrics *metrics;
    struct feed *feed;
    struct sessions *sessions;
    struct token_keys *keys;
    struct listener *listener;
    struct lws_context *context;
    struct lws_vhost *vhost;
    struct lws_protocols protocols[2];
    struct decision *deciding;
    bool draining;
};

static struct server *server_of(struct lws *wsi)
{
    return lws_context_user(lws_get_context(wsi));
}

/* --- the transport of a session --- */

static bool on_blocked(void *transport)
{
    return lws_partial_buffered(transport) != 0;
}

static int on_write(void *transport, const char *bytes, size_t len)
{
    int n;

    /* The library found a fault and has its own close frame ready or sent: nothing may follow that (RFC 6455,
     * 5.5.1). It does not tell us, and the session lives on until the peer answers or some seconds are over.
     */
    if (lws_get_close_length(transport) > 0)
        return 0;
    /* LWS_WRITE_RAW does not write in front of the buffer, nor into it. */
    n = lws_write(transport, (unsigned char *)(uintptr_t)bytes, len, LWS_WRITE_RAW);
    return n < 0 ? -EPIPE : 0;
}

static void on_want_writable(void *transport)
{
    lws_callback_on_writable(transport);
}

/* A wsi must not be freed from here: the library does it from its own callbacks. */
static void set_timeout(struct lws *wsi, int seconds)
{
    lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, seconds);
    /* The library arms its timer on the loop only after it has served a descriptor of its own: without this a
     * connection in which nothing moves would outlive its end. */
    lws_cancel_service(lws_get_context(wsi));
}

static void on_linger(void *transport)
{
    set_timeout(transport, CLOSE_TIMEOUT_S);
}

static void on_kill(void *transport)
{
    set_timeout(transport, LWS_TO_KILL_ASYNC);
}

struct session_transport server_transport(void)
{
    return (struct session_transport){
        .out = {on_blocked, on_write, on_want_writable, NULL}, .linger = on_linger, .kill = on_kill};
}

/* --- callbacks of the library --- */

static void receive(struct lws *wsi, struct session *s, const char *bytes, size_t len)
{
    bool first = lws_is_first_fragment(wsi) != 0;
    size_t remaining = lws_remaining_packet_payload(wsi);

    session_receive(s, bytes, len, first, lws_is_final_fragment(wsi) && remaining == 0, remaining);
}

/* 0: the library answers the close frame, with the same bytes. */
static int peer_closes(struct lws *wsi, struct session *s, size_t len)
{
    static unsigned char reason[] = "bad close";

    /* The answer to our close frame: all is said, so the connection ends. */
    if (s && session_is_closing(s))
        return -1;
    /* Not all bytes may be in a close frame: a code has two (RFC 6455, 5.5.1). */
    if (len == 1) {
        lws_close_reason(wsi, LWS_CLOSE_STATUS_PROTOCOL_ERR, reason, sizeof(reason) - 1);
        return -1;
    }
    return 0;
}

static int add_headers(const struct decision *d, struct lws_process_html_args *args)
{
    int n;

    if (!d || d->subprotocol.len == 0)
        return 0;
    n = snprintf(args->p, (size_t)args->max_len, "Sec-WebSocket-Protocol: %.*s\r\n", (int)d->subprotocol.len,
                 d->subprotocol.at);
    if (n < 0 || n >= args->max_len)
        return -1;
    args->p += n;
    return 0;
}

static int answer_http(struct lws *wsi, struct decision *d)
{
    if (!d || d->session)
        return -1;
    (void)lws_write(wsi, (unsigned char *)d->answer.data, d->answer.len, LWS_WRITE_RAW);
    return lws_http_transaction_completed(wsi) ? -1 : 0;
}

/* The library is about to drop the connection. For some faults (a control frame over 125 bytes, an absurd
 * length) it does so without a close frame: then this is the last moment to say 1002. Straight to the socket,
 * as it writes nothing any more; nothing may be half written, and a peer that is gone does not mind. */
static void part(struct lws *wsi, const struct slot *slot)
{
    static const char protocol_error[] = {(char)0x88, 16,  0x03, (char)0xEA, 'p', 'r', 'o', 't', 'o',
                                          'c',        'o', 'l',  ' ',        'e', 'r', 'r', 'o', 'r'};

    if (session_is_closing(slot->session) || slot->peer_closed || lws_get_close_length(wsi) > 0 ||
        lws_partial_buffered(wsi))
        return;
    (void)!send(lws_get_socket_fd(wsi), protocol_error, sizeof(protocol_error), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct slot *slot = user;
    struct session *s = slot ? slot->session : NULL;
    struct server *server;

    switch (reason) {
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        server = server_of(wsi);
        return server->deciding && server->deciding->session ? 0 : -1;
    case LWS_CALLBACK_HTTP:
        return answer_http(wsi, server_of(wsi)->deciding);
    case LWS_CALLBACK_ADD_HEADERS:
        return add_headers(server_of(wsi)->deciding, in);
    case LWS_CALLBACK_ESTABLISHED:
        server = server_of(wsi);
        if (!server->deciding || !server->deciding->session)
            return -1;
        slot->session = TAKE(server->deciding->session);
        session_attach(slot->session, wsi);
        return 0;
    case LWS_CALLBACK_RECEIVE:
        if (s)
            receive(wsi, s, in, len);
        return 0;
    case LWS_CALLBACK_RECEIVE_PONG:
        if (s)
            session_pong(s);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        if (s)
            outbox_writable(&s->out);
        return 0;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        if (slot)
            slot->peer_closed = true;
        return peer_closes(wsi, s, len);
    case LWS_CALLBACK_WS_SERVER_DROP_PROTOCOL:
        if (s)
            part(wsi, slot);
        return 0;
    case LWS_CALLBACK_CLOSED:
        if (s) {
            slot->session = NULL;
            session_detach(s);
        }
        return 0;
    default:
        return 0;
    }
}

static void on_lws_log(int level, const char *line)
{
    log_debug("LWS", "libwebsockets says", LF_INT("level", level),
              LF_BYTES("line", line, strcspn(line, "\n")));
}

/* --- decisions --- */

static void refuse(struct server *s, struct decision *d, const struct http_head *h, int status,
                   const char *extra, enum error_code code, const char *text)
{
    CLEANUP(buf_done) struct buf body = {0};

    buf_printf(&body, "{\"error\":\"%s\",\"code\":\"%s\"}", text, error_code_wire(code));
    if (buf_status(&body) == 0)
        http_answer(&d->answer, s->config, h, status, extra, "application/json; charset=utf-8", body.data);
    metric_add(metrics_get(s->metrics, GM_UPGRADES_REFUSED, error_code_wire(code)), 1);
}

static void decide_token(struct server *s, struct decision *d, const struct greeting *g)
{
    static const char challenge[] = "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n";
    struct token *token = NULL;
    int r = upgrade_token(s->config, s->keys, &g->head, clock_wall_s(), &token);

    if (r == CODE_EXPIRED) {
        refuse(s, d, &g->head, 401, challenge, CODE_EXPIRED, "the token has expired");
        return;
    }
    if (r > 0) {
        refuse(s, d, &g->head, 401, challenge, CODE_BAD_TOKEN, "a valid token is needed");
        return;
    }
    if (r == 0)
        d->session = session_new(s->sessions, token, &g->address);
    if (!d->session)
        refuse(s, d, &g->head, 503, "Retry-After: 5\r\n", CODE_UNAVAILABLE, "out of memory");
}

static void decide_upgrade(struct server *s, struct decision *d, const struct greeting *g)
{
    const struct http_head *h = &g->head;
    enum error_code admitted;
    const char *why;

    if (!upgrade_path_is_subscribe(h->path)) {
        refuse(s, d, h, 404, NULL, CODE_BAD_REQUEST, "no WebSocket here; try /subscribe");
        return;
    }
    if (upgrade_check(h, &why) != 0) {
        refuse(s, d, h, 400, "Sec-WebSocket-Version: 13\r\n", CODE_BAD_REQUEST, why);
        return;
    }
    if (!upgrade_origin_allowed(s->config, h)) {
        refuse(s, d, h, 403, NULL, CODE_DENIED, "pages of this origin may not connect");
        return;
    }
    if (s->draining) {
        refuse(s, d, h, 503, "Retry-After: 1\r\n", CODE_UNAVAILABLE, "the server is going away");
        return;
    }
    admitted = sessions_admit(s->sessions, &g->address);
    if (admitted == CODE_RATE_LIMITED) {
        refuse(s, d, h, 429, "Retry-After: 10\r\n", CODE_RATE_LIMITED, "too many sessions from this address");
        return;
    }
    if (admitted == CODE_UNAVAILABLE) {
        refuse(s, d, h, 503, "Retry-After: 10\r\n", CODE_UNAVAILABLE, "the server is full");
        return;
    }
    if (upgrade_subprotocol(h, &d->subprotocol) == false)
        d->subprotocol.len = 0;
    decide_token(s, d, g);
}

static void decide_health(struct server *s, struct decision *d, const struct http_head *h)
{
    bool redis = feed_redis_is_up(s->feed), broker = redis && feed_broker_is_connected(s->feed);
    const char *message = !redis ? "redis disconnected" : !broker ? "amqp disconnected" : "all good";
    CLEANUP(buf_done) struct buf body = {0};

    if (s->draining)
        message = "the server is going away";
    buf_printf(&body, "{\"status\":\"%s\",\"amqp_connected\":%s,\"message\":\"%s\"}",
               broker && !s->draining ? "ok" : "failed", broker ? "true" : "false", message);
    if (buf_status(&body) == 0)
        http_answer(&d->answer, s->config, h, 200, "Cache-Control: no-store\r\n",
                    "application/json; charset=utf-8", body.data);
}

static void decide_preflight(struct server *s, struct decision *d, const struct http_head *h)
{
    CLEANUP(buf_done) struct buf extra = {0};
    struct http_text wanted;

    buf_add_str(&extra, "Access-Control-Allow-Methods: GET,HEAD,PUT,PATCH,POST,DELETE\r\n");
    if (http_head_field(h, "access-control-request-headers", &wanted))
        buf_printf(&extra, "Access-Control-Allow-Headers: %.*s\r\n", (int)wanted.len, wanted.at);
    if (buf_status(&extra) == 0)
        http_answer(&d->answer, s->config, h, 204, extra.data, NULL, NULL);
}

static void decide(struct server *s, struct decision *d, const struct greeting *g)
{
    const struct http_head *h = &g->head;
    bool get = http_text_is(h->method, "GET") || http_text_is(h->method, "HEAD");
    struct http_text host;

    if (h->minor >= 1 && http_head_field(h, "host", &host) != 1)
        http_answer(&d->answer, s->config, h, 400, NULL, "text/plain; charset=utf-8",
                    "exactly one Host is needed\n");
    else if (upgrade_kind(h) == UPGRADE_WEBSOCKET)
        decide_upgrade(s, d, g);
    else if (http_text_is(h->method, "OPTIONS"))
        decide_preflight(s, d, h);
    else if (get && upgrade_path_is_health(h->path))
        decide_health(s, d, h);
    else
        http_answer(&d->answer, s->config, h, 404, NULL, "text/plain; charset=utf-8", "not found\n");
}

/* The request that libwebsockets sees: nothing in it comes from the client but its key, which is checked. */
static void rewrite(struct buf *out, const struct decision *d, const struct greeting *g)
{
    struct http_text key;

    if (!d->session) {
        buf_add_str(out, "GET / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
        return;
    }
    (void)http_head_field(&g->head, "sec-websocket-key", &key);
    buf_printf(out,
               "GET /subscribe HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %.*s\r\n\r\n",
               (int)key.len, key.at);
    buf_add(out, g->rest, g->rest_len);
}

static void on_greeted(void *user, const struct greeting *g)
{
    struct server *s = user;
    struct decision d = {0};
    CLEANUP(buf_done) struct buf request = {0};

    decide(s, &d, g);
    rewrite(&request, &d, g);
    if (buf_status(&request) < 0 || buf_status(&d.answer) < 0 || (!d.session && d.answer.len == 0)) {
        close(g->fd);
    } else {
        s->deciding = &d;
        (void)lws_adopt_socket_vhost_readbuf(s->vhost, g->fd, request.data, request.len);
        s->deciding = NULL;
    }
    if (d.session)
        session_detach(d.session); /* the library did not come so far as to establish it */
    buf_done(&d.answer);
}

/* --- life --- */

/* Up to what is allowed, but not beyond what the library's tables can bear. */
static void set_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max > DESCRIPTORS_MAX ? DESCRIPTORS_MAX : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_warn("DESCRIPTORS", "cannot set the descriptor limit", LF_INT("limit", limit.rlim_cur));
}

int server_new(const struct server_deps *deps, struct server **ret_server)
{
    struct lws_context_creation_info info = {0};
    struct server *s = calloc(1, sizeof(*s));
    static const lws_retry_bo_t no_validity_timers = {0};

    if (!s)
        return -ENOMEM;
    *s = (struct server){
        .loop = deps->loop, .config = config_ref(deps->config), .metrics = deps->metrics, .feed = deps->feed};
    s->protocols[0] = (struct lws_protocols){.name = "event",
                                             .callback = on_lws,
                                             .per_session_data_size = sizeof(struct slot),
                                             .rx_buffer_size = RX_BYTES,
                                             .tx_packet_size = INT32_MAX / 2};
    s->loops[0] = deps->loop;
    set_descriptor_limit();
    lws_set_log_level(LLL_ERR | LLL_WARN, on_lws_log);
    info.port = CONTEXT_PORT_NO_LISTEN_SERVER;
    info.protocols = s->protocols;
    info.foreign_loops = s->loops;
    info.user = s;
    info.gid = info.uid = (__typeof__(info.gid))-1;
    info.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_VALIDATE_UTF8 |
                   LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_DISABLE_OS_CA_CERTS;
    info.pt_serv_buf_size = SERVICE_BYTES;
    info.max_http_header_data = 2048;
    info.retry_and_idle_policy = &no_validity_timers;
    info.pcontext = &s->context;
    s->context = lws_create_context(&info);
    if (s->context)
        s->vhost = lws_create_vhost(s->context, &info);
    if (!s->context || !s->vhost) {
        server_close(s);
        server_free(s);
        return -ENOSYS;
    }
    *ret_server = s;
    return 0;
}

int server_start(struct server *s, struct sessions *sessions, struct token_keys *keys)
{
    s->sessions = sessions;
    s->keys = keys;
    sessions_set_keys(sessions, keys);
    return listener_start(s->loop, s->config->gateway.listen, s->config, on_greeted, s, &s->listener);
}

void server_reload(struct server *s, struct config *config, struct token_keys *keys)
{
    config_ref(config);
    config_unref(s->config);
    s->config = config;
    sessions_set_keys(s->sessions, keys);
    token_keys_free(s->keys);
    s->keys = keys;
    if (s->listener)
        listener_reload(s->listener, config);
}

void server_drain(struct server *s)
{
    s->draining = true;
}

void server_refresh_metrics(struct server *s)
{
    struct listener_counts c;

    if (!s->listener)
        return;
    c = listener_counts(s->listener);
    metrics_set(s->metrics, GM_CONNECTIONS, (double)c.accepted);
    metric_set(metrics_get(s->metrics, GM_CONNECTIONS_REFUSED, "malformed"), (double)c.malformed);
    metric_set(metrics_get(s->metrics, GM_CONNECTIONS_REFUSED, "head_timeout"), (double)c.timeouts);
    metric_set(metrics_get(s->metrics, GM_CONNECTIONS_REFUSED, "too_many_heads"), (double)c.evicted);
    metric_set(metrics_get(s->metrics, GM_CONNECTIONS_REFUSED, "no_descriptors"), (double)c.exhausted);
}

void server_close(struct server *s)
{
    listener_close(TAKE(s->listener));
    /* Closes every connection; their handles, and the library's own, die in later turns of the loop. */
    lws_context_destroy(s->context);
}

void server_free(struct server *s)
{
    if (!s)
        return;
    /* On a foreign loop the library frees itself in up to three steps, the last ones when its handles are
     * gone; it clears our pointer with the last. */
    for (int step = 0; s->context && step < 3; step++)
        lws_context_destroy(s->context);
    token_keys_free(s->keys);
    config_unref(s->config);
    free(s);
}
