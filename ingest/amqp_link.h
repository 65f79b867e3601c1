/* amqp_link.h - one connection to RabbitMQ on the program's loop, that comes back by itself.
 *
 *   DOWN --start--> RESOLVING --> CONNECTING --> GREETING (start, tune, open) --> UP --close--> LEAVING
 *    ^                                                                             |
 *    '---------- backoff with full jitter, 1 s .. 30 s <--- error, silence, EOF ---'
 *
 * Nothing blocks: names are resolved by libuv, bytes leave when the socket takes them, heartbeats are a timer
 * of ours. The broker is taken for dead when it was silent for two heartbeat intervals (AMQP 0-9-1, 4.2.7).
 *
 * Channels: opened and closed by the user, one set of callbacks each. Everything that is sent in one turn of
 * the loop leaves in one write. */
#ifndef EF_AMQP_LINK_H
#define EF_AMQP_LINK_H

#include "ingest/amqp_wire.h"

#include <uv.h>

struct amqp_link;
struct link_channel;

struct amqp_link_events {
    void (*up)(void *user);
    /* It was UP and broke, or an attempt failed; the channels have been told before. detail: one line for the
     * log (borrowed). The next attempt comes in retry_ms. Not called by amqp_link_close. */
    void (*down)(void *user, const char *detail, int retry_ms);
    /* The bytes of one read have been handed out. */
    void (*read_done)(void *user);
};

struct amqp_link_conf {
    const char *url;  /* amqp://[user[:password]@]host[:port][/vhost]; copied */
    const char *name; /* shown by the broker as connection_name; copied */
    int heartbeat_s;  /* what we propose; the broker may lower it; 0: none */
};

struct link_channel_ops {
    /* A method of the server on this channel, but channel.open-ok and channel.close. Borrowed. */
    void (*method)(void *user, const amqp_method_t *method);
    /* Content: a header frame's payload, then body fragments. May be NULL. */
    void (*header)(void *user, const void *payload, size_t len);
    void (*body)(void *user, const void *bytes, size_t len);
    /* The channel is gone and its pointer with it: the server closed it (code and text as it says), or the
     * connection broke (code 0). Not called after link_channel_close. */
    void (*closed)(void *user, int code, const char *text);
};

/* NULL if the URL is one that amqp_link_new takes, else a sentence that says what is wrong (static). */
const char *amqp_url_check(const char *url);

/* NULL on lack of memory or for a URL that amqp_url_check refuses. */
struct amqp_link *amqp_link_new(uv_loop_t *loop, const struct amqp_link_conf *conf,
                                const struct amqp_link_events *events, void *user);
/* Begin to connect. */
void amqp_link_start(struct amqp_link *link);
/* End it in order (connection.close, at most 1 s for the answer) and free it; then `closed` is called once.
 * No other callback comes any more, and channels are gone. */
void amqp_link_close(struct amqp_link *link, void (*closed)(void *user), void *user);
bool amqp_link_is_up(const struct amqp_link *link);
/* Break the connection soon (not within this call) and reconnect after the usual backoff. */
void amqp_link_cut(struct amqp_link *link, const char *why);
/* Stop reading, or go on. While it is stopped the broker's silence cannot be told from ours, so it is not
 * judged: the clock starts anew with reading. Our own heartbeats go on, so the broker waits. */
void amqp_link_pause(struct amqp_link *link, bool pause);

/* Open a channel; it may be used at once (the broker takes methods in order). NULL if the link is not up, all
 * numbers are taken, or on lack of memory. */
struct link_channel *link_channel_open(struct amqp_link *link, const struct link_channel_ops *ops,
                                       void *user);
/* Close it: no callback comes any more, and what arrives for it is dropped. Deliveries that are not acked go
 * back to their queues in order. NULL is fine. */
void link_channel_close(struct link_channel *ch);
/* Send a method; `decoded` is rabbitmq-c's struct. A failure cuts the link, so there is nothing to check. */
void link_channel_send(struct link_channel *ch, amqp_method_number_t id, void *decoded);

#endif
