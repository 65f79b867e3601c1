/* consumer.h - one queue, consumed on a channel of its own.
 *
 * Puts deliveries together from method, header and body frames. A body over the limit is not kept: its bytes
 * are dropped as they come and the delivery is rejected without requeue, so the broker dead-letters it.
 * Everything else is acked by the user, never rejected. Acks are not confirmed by AMQP; consumer_flush tells
 * when the broker has taken them. */
#ifndef EF_CONSUMER_H
#define EF_CONSUMER_H

#include "ingest/amqp_link.h"

struct consumer;

/* All borrowed for the callback. */
struct delivery {
    uint64_t tag;
    bool redelivered;
    bool headers_dropped; /* the header table was too deep or malformed; props is without it */
    const char *key;
    size_t key_len;
    const amqp_basic_properties_t *props;
    amqp_bytes_t
        canonical; /* properties as bytes that are the same at every delivery (wire_props_canonical) */
    const char *body;
    size_t body_len;
};

struct consumer_ops {
    void (*delivery)(void *user, const struct delivery *d);
    /* This one was rejected: its body has so many bytes. */
    void (*oversize)(void *user, const char *key, size_t key_len, uint64_t body_len);
    /* Registered with the broker: active, or a standby of the single active consumer. */
    void (*consuming)(void *user);
    /* The broker cancelled it (queue deleted, its node lost). No delivery comes any more; what came may be
     * acked. */
    void (*cancelled)(void *user);
    /* All acks before the last consumer_flush have been taken. */
    void (*flushed)(void *user);
    /* The channel is gone, and the consumer must be closed (consumer_close). code: AMQP's reply code, 0 if
     * the connection broke. */
    void (*closed)(void *user, int code, const char *text);
};

struct consumer_conf {
    const char *queue; /* copied */
    int prefetch;
    size_t body_max;
};

/* NULL if the link is not up or on lack of memory. */
struct consumer *consumer_open(struct amqp_link *link, const struct consumer_conf *conf,
                               const struct consumer_ops *ops, void *user);
/* Closes the channel; deliveries that are not acked return to the queue in order. No callback comes any more.
 * May be called from within a callback. NULL is fine. */
void consumer_close(struct consumer *c);
/* Ack this delivery and all before it. */
void consumer_ack(struct consumer *c, uint64_t tag);
/* Ask for `flushed`. One at a time: false if one is under way. */
bool consumer_flush(struct consumer *c);

#endif
