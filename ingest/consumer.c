/* consumer.c - a consuming channel.
 *
 *   us:     channel.open, basic.qos, basic.consume       broker: qos-ok, consume-ok, then deliveries:
 *   broker: basic.deliver | header | body | body ...     us: basic.ack (multiple)
 *   us:     basic.qos again, behind the acks             broker: qos-ok: the channel has taken the acks
 *
 * A body that came in one frame is handed on where it lies in the read buffer; longer ones are collected.
 * Frames that do not follow each other as they must close the channel (they are the broker's bug, and ours to
 * survive). */
#include "ingest/consumer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum content { CONTENT_NONE, CONTENT_HEADER, CONTENT_BODY };

struct consumer {
    struct link_channel *ch; /* NULL once gone */
    const struct consumer_ops *ops;
    void *user;
    char *queue;
    int prefetch;
    size_t body_max;
    unsigned flushes; /* qos-ok to come; the first is that of opening */
    bool flushing;
    bool in_callback, dead; /* closed from within a callback: freed behind it */

    enum content content; /* what must come next */
    uint64_t tag, body_size, body_seen;
    bool redelivered, headers_dropped, refused;
    size_t key_len;
    char key[256];
    struct buf raw, body, scratch; /* properties as they came; a collected body; canonical properties */
    amqp_pool_t pool;              /* what props points to */
    amqp_basic_properties_t props;
};

static void consumer_free(struct consumer *c)
{
    buf_done(&c->raw);
    buf_done(&c->body);
    buf_done(&c->scratch);
    empty_amqp_pool(&c->pool);
    free(c->queue);
    free(c);
}

void consumer_close(struct consumer *c)
{
    if (!c)
        return;
    link_channel_close(TAKE(c->ch));
    c->dead = true;
    if (!c->in_callback)
        consumer_free(c);
}

/* Run `call` so that a consumer_close inside it is survived. */
#define CALL(c, call)                   \
    do {                                \
        bool outer_ = (c)->in_callback; \
        (c)->in_callback = true;        \
        call;                           \
        (c)->in_callback = outer_;      \
        if ((c)->dead && !outer_)       \
            consumer_free(c);           \
    } while (0)

static void send_qos(struct consumer *c)
{
    amqp_basic_qos_t qos = {.prefetch_count = (uint16_t)c->prefetch};

    c->flushes++;
    link_channel_send(c->ch, AMQP_BASIC_QOS_METHOD, &qos);
}

void consumer_ack(struct consumer *c, uint64_t tag)
{
    amqp_basic_ack_t ack = {.delivery_tag = tag, .multiple = 1};

    if (c->ch)
        link_channel_send(c->ch, AMQP_BASIC_ACK_METHOD, &ack);
}

bool consumer_flush(struct consumer *c)
{
    if (c->flushing || !c->ch)
        return false;
    c->flushing = true;
    send_qos(c);
    return true;
}

/* The broker sent what it may not. */
static void violation(struct consumer *c, const char *text)
{
    link_channel_close(TAKE(c->ch));
    CALL(c, c->ops->closed(c->user, AMQP_UNEXPECTED_FRAME, text));
}

static void content_done(struct consumer *c, const char *body, size_t len)
{
    c->content = CONTENT_NONE;
    if (c->refused) {
        amqp_basic_reject_t reject = {.delivery_tag = c->tag, .requeue = 0};

        link_channel_send(c->ch, AMQP_BASIC_REJECT_METHOD, &reject);
        CALL(c, c->ops->oversize(c->user, c->key, c->key_len, c->body_size));
        return;
    }
    struct delivery d = {
        .tag = c->tag,
        .redelivered = c->redelivered,
        .headers_dropped = c->headers_dropped,
        .key = c->key,
        .key_len = c->key_len,
        .props = &c->props,
        .body = body,
        .body_len = len,
    };
    if (wire_props_canonical(&c->props, (amqp_bytes_t){.len = c->raw.len, .bytes = c->raw.data}, &c->scratch,
                             &d.canonical) < 0) {
        violation(c, "no memory");
        return;
    }
    CALL(c, c->ops->delivery(c->user, &d));
}

static void on_deliver(struct consumer *c, const amqp_basic_deliver_t *m)
{
    if (c->content != CONTENT_NONE) {
        violation(c, "a delivery within another");
        return;
    }
    c->content = CONTENT_HEADER;
    c->tag = m->delivery_tag;
    c->redelivered = m->redelivered;
    c->key_len = m->routing_key.len; /* a short string: at most 255 */
    if (c->key_len)
        memcpy(c->key, m->routing_key.bytes, c->key_len);
    c->key[c->key_len] = '\0';
}

static void on_header(void *user, const void *payload, size_t len)
{
    struct consumer *c = user;
    amqp_bytes_t raw;
    int r;

    if (!c->ch)
        return;
    if (c->content != CONTENT_HEADER || wire_header_decode(payload, len, &c->body_size, &raw) < 0) {
        violation(c, "a content header out of place");
        return;
    }
    c->body_seen = 0;
    c->refused = c->body_size > c->body_max;
    buf_reset(&c->raw);
    buf_reset(&c->body);
    recycle_amqp_pool(&c->pool);
    if (!c->refused) {
        buf_add(&c->raw, raw.bytes, raw.len);
        if (buf_status(&c->raw) < 0) {
            violation(c, "no memory");
            return;
        }
        raw.bytes = c->raw.data;
        r = wire_props_decode(raw, &c->pool, &c->props, &c->headers_dropped);
        if (r < 0) {
            violation(c, r == -ENOMEM ? "no memory" : "properties that do not decode");
            return;
        }
    }
    c->content = CONTENT_BODY;
    if (c->body_size == 0)
        content_done(c, "", 0);
}

static void on_body(void *user, const void *bytes, size_t len)
{
    struct consumer *c = user;

    if (!c->ch)
        return;
    if (c->content != CONTENT_BODY || len > c->body_size - c->body_seen) {
        violation(c, "a content body out of place");
        return;
    }
    c->body_seen += len;
    if (!c->refused && len == c->body_size) {
        content_done(c, bytes, len);
        return;
    }
    if (!c->refused) {
        if (!c->body.len)
            buf_reserve(&c->body, (size_t)c->body_size);
        buf_add(&c->body, bytes, len);
        if (buf_status(&c->body) < 0) {
            violation(c, "no memory");
            return;
        }
    }
    if (c->body_seen < c->body_size)
        return;
    /* One huge body must not be remembered for ever. */
    struct buf body = c->body;
    c->body = (struct buf){0};
    content_done(c, body.data, body.len);
    buf_done(&body);
}

static void on_method(void *user, const amqp_method_t *m)
{
    struct consumer *c = user;

    if (!c->ch)
        return;
    switch (m->id) {
    case AMQP_BASIC_DELIVER_METHOD:
        on_deliver(c, m->decoded);
        break;
    case AMQP_BASIC_QOS_OK_METHOD:
        if (c->flushes > 0 && --c->flushes == 0 && c->flushing) {
            c->flushing = false;
            CALL(c, c->ops->flushed(c->user));
        }
        break;
    case AMQP_BASIC_CONSUME_OK_METHOD:
        CALL(c, c->ops->consuming(c->user));
        break;
    case AMQP_BASIC_CANCEL_METHOD: {
        const amqp_basic_cancel_t *cancel = m->decoded;
        amqp_basic_cancel_ok_t ok = {.consumer_tag = cancel->consumer_tag};

        if (!cancel->nowait)
            link_channel_send(c->ch, AMQP_BASIC_CANCEL_OK_METHOD, &ok);
        CALL(c, c->ops->cancelled(c->user));
        break;
    }
    default:
        break;
    }
}

static void on_closed(void *user, int code, const char *text)
{
    struct consumer *c = user;

    c->ch = NULL;
    CALL(c, c->ops->closed(c->user, code, text));
}

struct consumer *consumer_open(struct amqp_link *link, const struct consumer_conf *conf,
                               const struct consumer_ops *ops, void *user)
{
    static const struct link_channel_ops channel_ops = {
        .method = on_method, .header = on_header, .body = on_body, .closed = on_closed};
    struct consumer *c = calloc(1, sizeof(*c));
    amqp_basic_consume_t consume = {.consumer_tag = amqp_empty_bytes};

    if (!c)
        return NULL;
    init_amqp_pool(&c->pool, 4096);
    c->ops = ops;
    c->user = user;
    c->prefetch = conf->prefetch;
    c->body_max = conf->body_max;
    c->queue = strdup(conf->queue);
    if (c->queue)
        c->ch = link_channel_open(link, &channel_ops, c);
    if (!c->ch) {
        consumer_free(c);
        return NULL;
    }
    send_qos(c);
    consume.queue = amqp_cstring_bytes(c->queue);
    link_channel_send(c->ch, AMQP_BASIC_CONSUME_METHOD, &consume);
    return c;
}
