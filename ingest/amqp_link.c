/* amqp_link.c - bytes to and from RabbitMQ.
 *
 * Happy path: uv_getaddrinfo -> uv_tcp_connect (each address in turn) -> protocol header -> start/start-ok ->
 * tune/tune-ok, open/open-ok -> frames are parsed where the read put them and handed to their channels.
 *
 * Failures:
 * - Resolving, connecting or greeting fails, or takes longer than CONNECT_TIMEOUT_MS: `down`, then again
 *   after the backoff. A refused login comes as connection.close 403 (we announce that we understand it).
 * - Bytes that are not AMQP, a frame over frame_max, a method that does not decode: cut.
 * - EOF, reset, two heartbeat intervals of silence, unsent bytes over OUT_MAX: cut.
 * - connection.close from the broker: answered, then cut with its reason.
 *
 * Cutting is always deferred to the prepare handle, where no channel callback is on the stack. What belongs
 * to one TCP connection is in struct conn, which dies in its own close callback; the link forgets it at once.
 */
#include "ingest/amqp_link.h"

#include "shared/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    CONNECT_TIMEOUT_MS = 5000, /* resolving, each address, greeting: together */
    LEAVE_TIMEOUT_MS = 1000,   /* waiting for connection.close-ok */
    BACKOFF_MIN_MS = 1000,
    BACKOFF_MAX_MS = 30000,
    CHANNEL_MAX = 2047,      /* RabbitMQ's own default */
    FRAME_MAX = 131072,      /* RabbitMQ's own default; we ask for no more, so frames stay bounded */
    IN_SIZE = 2 * FRAME_MAX, /* holds one whole frame and the beginning of the next */
    OUT_MAX = 4 << 20,       /* unsent acks: the broker does not read; cut */
    STABLE_MS = 10000,       /* UP for so long: the backoff starts from its minimum again */
};

enum link_state { LINK_DOWN, LINK_RESOLVING, LINK_CONNECTING, LINK_GREETING, LINK_UP, LINK_LEAVING };

struct link_channel {
    struct amqp_link *link;
    uint16_t number;
    bool closing; /* the user is gone; wait for close-ok */
    const struct link_channel_ops *ops;
    void *user;
};

/* One TCP connection. */
struct conn {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct amqp_link *link; /* NULL once forgotten */
    bool writing;
    struct buf out, flying; /* being filled; being written */
    size_t in_len;
    uint8_t in[IN_SIZE];
};

struct resolve {
    uv_getaddrinfo_t req;
    struct amqp_link *link; /* NULL once forgotten */
};

struct amqp_link {
    uv_loop_t *loop;
    const struct amqp_link_events *events;
    void *user;
    char *name, *url; /* url: cut into info by amqp_parse_url */
    struct amqp_connection_info info;
    int heartbeat_wanted_s;

    enum link_state state;
    uv_timer_t timer;     /* backoff, then the time-out of connecting, then heartbeats, then leaving */
    uv_prepare_t prepare; /* flushes and cuts */
    unsigned handles;     /* of the two above, open */
    struct resolve *resolve;
    struct addrinfo *addresses, *address;
    struct conn *conn;
    char why[200]; /* not empty: cut in the next prepare */

    bool paused;
    int heartbeat_s; /* negotiated */
    size_t frame_max, channel_max;
    int64_t up_ms, heard_ms, sent_ms;
    int backoff_ms;
    amqp_pool_t pool; /* one method's decoding at a time */
    struct link_channel *channels[CHANNEL_MAX + 1];

    void (*closed)(void *user);
    void *closed_user;
};

static void link_attempt(struct amqp_link *l);
static void link_greet(struct amqp_link *l, const amqp_method_t *m);
static void connect_next(struct amqp_link *l);
static void on_timer(uv_timer_t *timer);

/* --- making and unmaking --- */

static bool url_parse(const char *url, char **ret_copy, struct amqp_connection_info *ret_info)
{
    char *copy = strdup(url);

    if (!copy)
        return false;
    amqp_default_connection_info(ret_info);
    if (amqp_parse_url(copy, ret_info) != AMQP_STATUS_OK || ret_info->ssl) {
        free(copy);
        return false;
    }
    *ret_copy = copy;
    return true;
}

const char *amqp_url_check(const char *url)
{
    struct amqp_connection_info info;
    char *copy;

    if (!url_parse(url, &copy, &info))
        return "is not amqp://[user[:password]@]host[:port][/vhost]";
    free(copy);
    return NULL;
}

static void on_prepare(uv_prepare_t *prepare);

struct amqp_link *amqp_link_new(uv_loop_t *loop, const struct amqp_link_conf *conf,
                                const struct amqp_link_events *events, void *user)
{
    struct amqp_link *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->name = strdup(conf->name);
    if (!l->name || !url_parse(conf->url, &l->url, &l->info)) {
        free(l->name);
        free(l);
        return NULL;
    }
    l->loop = loop;
    l->events = events;
    l->user = user;
    l->heartbeat_wanted_s = conf->heartbeat_s;
    l->backoff_ms = BACKOFF_MIN_MS;
    init_amqp_pool(&l->pool, 16384);
    uv_timer_init(loop, &l->timer);
    uv_prepare_init(loop, &l->prepare);
    l->timer.data = l->prepare.data = l;
    l->handles = 2;
    uv_prepare_start(&l->prepare, on_prepare);
    return l;
}

static void conn_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;

    buf_done(&c->out);
    buf_done(&c->flying);
    free(c);
}

/* Forget what belongs to the current attempt or connection. */
static void conn_drop(struct amqp_link *l)
{
    if (l->resolve) {
        l->resolve->link = NULL;
        uv_cancel((uv_req_t *)&l->resolve->req);
        l->resolve = NULL;
    }
    uv_freeaddrinfo(l->addresses);
    l->addresses = l->address = NULL;
    if (l->conn) {
        l->conn->link = NULL;
        uv_close((uv_handle_t *)&l->conn->tcp, conn_closed);
        l->conn = NULL;
    }
}

/* tell: hand `closed` to the channels' users. */
static void channels_drop(struct amqp_link *l, bool tell, const char *why)
{
    for (size_t i = 1; i <= CHANNEL_MAX; i++) {
        struct link_channel *ch = TAKE(l->channels[i]);

        if (!ch)
            continue;
        if (tell && !ch->closing)
            ch->ops->closed(ch->user, 0, why);
        free(ch);
    }
}

static void handle_closed(uv_handle_t *handle)
{
    struct amqp_link *l = handle->data;

    if (--l->handles > 0)
        return;
    if (l->closed)
        l->closed(l->closed_user);
    empty_amqp_pool(&l->pool);
    free(l->name);
    if (l->url)
        explicit_bzero(l->url, strlen(l->url));
    free(l->url);
    free(l);
}

static void link_end(struct amqp_link *l)
{
    l->state = LINK_DOWN;
    conn_drop(l);
    channels_drop(l, false, NULL);
    uv_close((uv_handle_t *)&l->timer, handle_closed);
    uv_close((uv_handle_t *)&l->prepare, handle_closed);
}

/* --- going down and coming back --- */

static int backoff_next(struct amqp_link *l)
{
    unsigned random = 0;
    int limit = l->backoff_ms;

    if (l->up_ms && clock_mono_ms() - l->up_ms >= STABLE_MS)
        limit = BACKOFF_MIN_MS;
    l->backoff_ms = limit * 2 < BACKOFF_MAX_MS ? limit * 2 : BACKOFF_MAX_MS;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random = (unsigned)clock_mono_us();
    return (int)(random % (unsigned)limit) + 1; /* full jitter: a fleet does not come back as one */
}

static void link_down(struct amqp_link *l, const char *why)
{
    char detail[sizeof(l->why)];
    int retry_ms = backoff_next(l);

    snprintf(detail, sizeof(detail), "%s", why);
    l->why[0] = '\0';
    l->state = LINK_DOWN;
    l->up_ms = 0;
    conn_drop(l);
    uv_timer_start(&l->timer, on_timer, (uint64_t)retry_ms, 0);
    channels_drop(l, true, detail);
    l->events->down(l->user, detail, retry_ms);
}

void amqp_link_cut(struct amqp_link *l, const char *why)
{
    if (l->state == LINK_DOWN || l->why[0])
        return;
    snprintf(l->why, sizeof(l->why), "%s", why && why[0] ? why : "cut");
}

static void cut_uv(struct amqp_link *l, const char *what, int error)
{
    char why[160];

    snprintf(why, sizeof(why), "%s: %s", what, uv_strerror(error));
    amqp_link_cut(l, why);
}

/* --- sending
 * ------------------------------------------------------------------------------------------------- */

static void on_written(uv_write_t *req, int status)
{
    struct conn *c = req->data;

    c->writing = false;
    buf_reset(&c->flying);
    if (c->link && status < 0)
        cut_uv(c->link, "write", status);
}

static void conn_flush(struct amqp_link *l, struct conn *c)
{
    uv_buf_t b;
    int r;

    if (c->writing || !c->out.len || uv_is_closing((uv_handle_t *)&c->tcp))
        return;
    b = uv_buf_init(c->out.data, (unsigned)c->out.len);
    r = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    if (r < 0 && r != UV_EAGAIN) {
        cut_uv(l, "write", r);
        buf_reset(&c->out);
        return;
    }
    l->sent_ms = clock_mono_ms();
    if (r == (int)c->out.len) {
        buf_reset(&c->out);
        return;
    }
    if (r > 0) {
        memmove(c->out.data, c->out.data + r, c->out.len - (size_t)r);
        c->out.len -= (size_t)r;
    }
    struct buf empty = c->flying;
    c->flying = c->out;
    c->out = empty;
    b = uv_buf_init(c->flying.data, (unsigned)c->flying.len);
    c->write.data = c;
    r = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written);
    if (r < 0)
        cut_uv(l, "write", r);
    else
        c->writing = true;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct amqp_link *l = prepare->data;

    if (l->conn && (l->state == LINK_GREETING || l->state == LINK_UP || l->state == LINK_LEAVING))
        conn_flush(l, l->conn);
    if (!l->why[0])
        return;
    if (l->state == LINK_LEAVING)
        link_end(l);
    else
        link_down(l, l->why);
}

static void link_send(struct amqp_link *l, uint16_t channel, amqp_method_number_t id, void *decoded)
{
    int r;

    if (!l->conn || l->why[0])
        return;
    if (l->conn->out.len > OUT_MAX) {
        amqp_link_cut(l, "the broker does not read");
        return;
    }
    r = wire_method_encode(&l->conn->out, channel, id, decoded);
    if (r < 0)
        amqp_link_cut(l, r == -ENOMEM ? "no memory" : "a method does not fit");
}

void link_channel_send(struct link_channel *ch, amqp_method_number_t id, void *decoded)
{
    assert(!ch->closing);
    if (ch->link->state == LINK_UP)
        link_send(ch->link, ch->number, id, decoded);
}

/* --- channels
 * ------------------------------------------------------------------------------------------------ */

struct link_channel *link_channel_open(struct amqp_link *l, const struct link_channel_ops *ops, void *user)
{
    struct link_channel *ch;
    amqp_channel_open_t open = {.out_of_band = amqp_empty_bytes};
    size_t n = 1;

    if (l->state != LINK_UP || l->why[0])
        return NULL;
    while (n <= l->channel_max && l->channels[n])
        n++;
    ch = n <= l->channel_max ? calloc(1, sizeof(*ch)) : NULL;
    if (!ch)
        return NULL;
    *ch = (struct link_channel){.link = l, .number = (uint16_t)n, .ops = ops, .user = user};
    l->channels[n] = ch;
    link_send(l, ch->number, AMQP_CHANNEL_OPEN_METHOD, &open);
    return ch;
}

void link_channel_close(struct link_channel *ch)
{
    amqp_channel_close_t close = {.reply_code = AMQP_REPLY_SUCCESS, .reply_text = amqp_empty_bytes};

    if (!ch)
        return;
    assert(!ch->closing);
    link_channel_send(ch, AMQP_CHANNEL_CLOSE_METHOD, &close);
    ch->closing = true;
}

static void channel_gone(struct amqp_link *l, struct link_channel *ch, int code, const char *text)
{
    bool tell = !ch->closing;

    l->channels[ch->number] = NULL;
    if (tell)
        ch->ops->closed(ch->user, code, text);
    free(ch);
}

static void channel_method(struct amqp_link *l, struct link_channel *ch, const amqp_method_t *m)
{
    char text[160];

    if (m->id == AMQP_CHANNEL_CLOSE_METHOD) {
        const amqp_channel_close_t *close = m->decoded;
        amqp_channel_close_ok_t ok = {0};

        link_send(l, ch->number, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
        channel_gone(l, ch, close->reply_code, wire_text(close->reply_text, text, sizeof(text)));
        return;
    }
    if (m->id == AMQP_CHANNEL_CLOSE_OK_METHOD && ch->closing) {
        channel_gone(l, ch, 0, "");
        return;
    }
    if (m->id != AMQP_CHANNEL_OPEN_OK_METHOD && !ch->closing)
        ch->ops->method(ch->user, m);
}

/* --- receiving
 * ------------------------------------------------------------------------------------------------ */

static void link_method(struct amqp_link *l, const amqp_method_t *m)
{
    char text[160], why[200];

    if (m->id == AMQP_CONNECTION_CLOSE_METHOD) {
        const amqp_connection_close_t *close = m->decoded;
        amqp_connection_close_ok_t ok = {0};

        snprintf(why, sizeof(why), "closed by the broker: %d %s", close->reply_code,
                 wire_text(close->reply_text, text, sizeof(text)));
        link_send(l, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
        amqp_link_cut(l, why);
    } else if (m->id == AMQP_CONNECTION_CLOSE_OK_METHOD && l->state == LINK_LEAVING) {
        amqp_link_cut(l, "left");
    } else if (l->state == LINK_GREETING) {
        link_greet(l, m);
    }
}

static void link_frame(struct amqp_link *l, const struct wire_frame *f)
{
    struct link_channel *ch = NULL;
    amqp_method_t method;

    if (f->type == WIRE_HEARTBEAT)
        return;
    if (f->channel != 0) {
        ch = f->channel <= CHANNEL_MAX ? l->channels[f->channel] : NULL;
        if (!ch) {
            amqp_link_cut(l, "a frame on a channel that is not open");
            return;
        }
    }
    if (f->type == WIRE_METHOD) {
        if (wire_method_decode(f, &l->pool, &method) < 0)
            amqp_link_cut(l, "a method that does not decode");
        else if (ch)
            channel_method(l, ch, &method);
        else
            link_method(l, &method);
        recycle_amqp_pool(&l->pool);
    } else if (ch && !ch->closing) {
        if (f->type == WIRE_HEADER && ch->ops->header)
            ch->ops->header(ch->user, f->payload, f->len);
        else if (f->type == WIRE_BODY && ch->ops->body)
            ch->ops->body(ch->user, f->payload, f->len);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct conn *c = handle->data;

    (void)suggested;
    *ret_buf = uv_buf_init((char *)c->in + c->in_len, (unsigned)(IN_SIZE - c->in_len));
}

static void conn_parse(struct amqp_link *l, struct conn *c)
{
    size_t at = 0;

    while (!l->why[0]) {
        struct wire_frame f;
        ssize_t n = wire_next(c->in + at, c->in_len - at, l->frame_max, &f);

        if (n == 0)
            break;
        if (n < 0) {
            amqp_link_cut(l,
                          n == -EMSGSIZE ? "a frame over frame_max" : "the peer does not speak AMQP 0-9-1");
            break;
        }
        link_frame(l, &f);
        at += (size_t)n;
    }
    if (at && at < c->in_len)
        memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = stream->data;
    struct amqp_link *l = c->link;

    (void)buf;
    if (!l || n == 0)
        return;
    if (n < 0) {
        if (n == UV_EOF)
            amqp_link_cut(l, l->state == LINK_GREETING ? "the broker hung up during login"
                                                       : "the broker hung up");
        else
            cut_uv(l, "read", (int)n);
        uv_read_stop(stream);
        return;
    }
    l->heard_ms = clock_mono_ms();
    c->in_len += (size_t)n;
    conn_parse(l, c);
    if (l->state == LINK_UP)
        l->events->read_done(l->user);
}

void amqp_link_pause(struct amqp_link *l, bool pause)
{
    if (l->paused == pause)
        return;
    l->paused = pause;
    if (l->state != LINK_UP || !l->conn)
        return;
    if (pause) {
        uv_read_stop((uv_stream_t *)&l->conn->tcp);
    } else {
        l->heard_ms = clock_mono_ms();
        uv_read_start((uv_stream_t *)&l->conn->tcp, on_alloc, on_read);
    }
}

/* --- greeting
 * -------------------------------------------------------------------------------------------------- */

static void send_start_ok(struct amqp_link *l)
{
    CLEANUP(buf_done) struct buf response = {0};
    static const char *const capabilities[] = {"consumer_cancel_notify", "authentication_failure_close",
                                               "basic.nack"};
    amqp_table_entry_t caps[ARRAY_LEN(capabilities)];
    amqp_table_entry_t props[] = {
        {.key = amqp_cstring_bytes("product"), .value = {.kind = AMQP_FIELD_KIND_UTF8}},
        {.key = amqp_cstring_bytes("version"), .value = {.kind = AMQP_FIELD_KIND_UTF8}},
        {.key = amqp_cstring_bytes("connection_name"), .value = {.kind = AMQP_FIELD_KIND_UTF8}},
        {.key = amqp_cstring_bytes("capabilities"), .value = {.kind = AMQP_FIELD_KIND_TABLE}},
    };
    amqp_connection_start_ok_t ok;

    for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
        caps[i] = (amqp_table_entry_t){.key = amqp_cstring_bytes(capabilities[i])};
        caps[i].value.kind = AMQP_FIELD_KIND_BOOLEAN;
        caps[i].value.value.boolean = 1;
    }
    props[0].value.value.bytes = amqp_cstring_bytes("event-ingest");
    props[1].value.value.bytes = amqp_cstring_bytes(EF_VERSION);
    props[2].value.value.bytes = amqp_cstring_bytes(l->name);
    props[3].value.value.table = (amqp_table_t){.num_entries = ARRAY_LEN(caps), .entries = caps};
    /* SASL PLAIN (RFC 4616): NUL user NUL password. */
    buf_add_char(&response, '\0');
    buf_add_str(&response, l->info.user);
    buf_add_char(&response, '\0');
    buf_add_str(&response, l->info.password);
    if (buf_status(&response) < 0) {
        amqp_link_cut(l, "no memory");
        return;
    }
    ok = (amqp_connection_start_ok_t){
        .client_properties = {.num_entries = ARRAY_LEN(props), .entries = props},
        .mechanism = amqp_cstring_bytes("PLAIN"),
        .response = {.len = response.len, .bytes = response.data},
        .locale = amqp_cstring_bytes("en_US"),
    };
    link_send(l, 0, AMQP_CONNECTION_START_OK_METHOD, &ok);
    explicit_bzero(response.data, response.len);
}

/* 0 is "no limit" on either side; else the smaller one. */
static uint32_t negotiate(uint32_t theirs, uint32_t ours)
{
    return theirs == 0 || (ours && ours < theirs) ? ours : theirs;
}

static void send_tune_ok(struct amqp_link *l, const amqp_connection_tune_t *tune)
{
    amqp_connection_tune_ok_t ok;
    amqp_connection_open_t open = {.virtual_host = amqp_cstring_bytes(l->info.vhost),
                                   .capabilities = amqp_empty_bytes};

    l->channel_max = negotiate(tune->channel_max, CHANNEL_MAX);
    l->frame_max = negotiate(tune->frame_max, FRAME_MAX);
    l->heartbeat_s =
        l->heartbeat_wanted_s ? (int)negotiate(tune->heartbeat, (uint32_t)l->heartbeat_wanted_s) : 0;
    ok = (amqp_connection_tune_ok_t){.channel_max = (uint16_t)l->channel_max,
                                     .frame_max = (uint32_t)l->frame_max,
                                     .heartbeat = (uint16_t)l->heartbeat_s};
    link_send(l, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok);
    link_send(l, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
}

static void link_greet(struct amqp_link *l, const amqp_method_t *m)
{
    switch (m->id) {
    case AMQP_CONNECTION_START_METHOD:
        send_start_ok(l);
        break;
    case AMQP_CONNECTION_TUNE_METHOD:
        send_tune_ok(l, m->decoded);
        break;
    case AMQP_CONNECTION_OPEN_OK_METHOD:
        l->state = LINK_UP;
        l->up_ms = l->heard_ms = clock_mono_ms();
        /* Four looks in a heartbeat interval, so that its half is never missed. */
        if (l->heartbeat_s)
            uv_timer_start(&l->timer, on_timer, (uint64_t)l->heartbeat_s * 250,
                           (uint64_t)l->heartbeat_s * 250);
        else
            uv_timer_stop(&l->timer);
        if (l->paused)
            uv_read_stop((uv_stream_t *)&l->conn->tcp);
        l->events->up(l->user);
        break;
    default:
        amqp_link_cut(l, "an unexpected method during login");
    }
}

/* --- connecting
 * ------------------------------------------------------------------------------------------------- */

static void on_connected(uv_connect_t *req, int status)
{
    static const char header[] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};
    struct conn *c = req->data;
    struct amqp_link *l = c->link;

    if (!l)
        return;
    if (status < 0) {
        if (l->address->ai_next) {
            c->link = NULL;
            uv_close((uv_handle_t *)&c->tcp, conn_closed);
            l->conn = NULL;
            l->address = l->address->ai_next;
            connect_next(l);
        } else {
            cut_uv(l, "connect", status);
        }
        return;
    }
    l->state = LINK_GREETING;
    l->frame_max = FRAME_MAX;
    uv_tcp_nodelay(&c->tcp, 1);
    buf_add(&c->out, header, sizeof(header));
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

static void connect_next(struct amqp_link *l)
{
    struct conn *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        amqp_link_cut(l, "no memory");
        return;
    }
    r = uv_tcp_init(l->loop, &c->tcp);
    if (r < 0) {
        free(c);
        cut_uv(l, "socket", r);
        return;
    }
    c->tcp.data = c->connect.data = c;
    c->link = l;
    l->conn = c;
    r = uv_tcp_connect(&c->connect, &c->tcp, l->address->ai_addr, on_connected);
    if (r < 0)
        cut_uv(l, "connect", r);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *addresses)
{
    struct resolve *resolve = req->data;
    struct amqp_link *l = resolve->link;

    if (l) {
        l->resolve = NULL;
        if (status < 0) {
            cut_uv(l, "resolve", status);
        } else {
            l->addresses = l->address = addresses;
            addresses = NULL;
            l->state = LINK_CONNECTING;
            connect_next(l);
        }
    }
    uv_freeaddrinfo(addresses);
    free(resolve);
}

static void link_attempt(struct amqp_link *l)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char port[16];
    int r;

    l->state = LINK_RESOLVING;
    uv_timer_start(&l->timer, on_timer, CONNECT_TIMEOUT_MS, 0);
    l->resolve = calloc(1, sizeof(*l->resolve));
    if (!l->resolve) {
        amqp_link_cut(l, "no memory");
        return;
    }
    l->resolve->req.data = l->resolve;
    l->resolve->link = l;
    snprintf(port, sizeof(port), "%d", l->info.port);
    r = uv_getaddrinfo(l->loop, &l->resolve->req, on_resolved, l->info.host, port, &hints);
    if (r < 0) {
        free(TAKE(l->resolve));
        cut_uv(l, "resolve", r);
    }
}

/* --- time --- */

static void heartbeat(struct amqp_link *l)
{
    int64_t now = clock_mono_ms();

    if (!l->paused && now - l->heard_ms > (int64_t)l->heartbeat_s * 2000) {
        amqp_link_cut(l, "no heartbeat from the broker");
        return;
    }
    if (now - l->sent_ms >= (int64_t)l->heartbeat_s * 500)
        wire_heartbeat_encode(&l->conn->out);
}

static void on_timer(uv_timer_t *timer)
{
    struct amqp_link *l = timer->data;

    switch (l->state) {
    case LINK_DOWN:
        link_attempt(l);
        break;
    case LINK_RESOLVING:
    case LINK_CONNECTING:
    case LINK_GREETING:
        amqp_link_cut(l, l->state == LINK_RESOLVING    ? "resolving timed out"
                         : l->state == LINK_CONNECTING ? "connecting timed out"
                                                       : "the broker does not answer the login");
        break;
    case LINK_UP:
        heartbeat(l);
        break;
    case LINK_LEAVING:
        amqp_link_cut(l, "no answer to connection.close");
        break;
    }
}

void amqp_link_start(struct amqp_link *l)
{
    link_attempt(l);
}

bool amqp_link_is_up(const struct amqp_link *l)
{
    return l->state == LINK_UP && !l->why[0];
}

void amqp_link_close(struct amqp_link *l, void (*closed)(void *user), void *user)
{
    amqp_connection_close_t close = {.reply_code = AMQP_REPLY_SUCCESS, .reply_text = amqp_empty_bytes};

    l->closed = closed;
    l->closed_user = user;
    if (!amqp_link_is_up(l)) {
        link_end(l);
        return;
    }
    for (size_t i = 1; i <= CHANNEL_MAX; i++)
        if (l->channels[i])
            l->channels[i]->closing = true;
    link_send(l, 0, AMQP_CONNECTION_CLOSE_METHOD, &close);
    l->state = LINK_LEAVING;
    if (l->paused)
        uv_read_start((uv_stream_t *)&l->conn->tcp, on_alloc, on_read);
    uv_timer_start(&l->timer, on_timer, LEAVE_TIMEOUT_MS, 0);
}
