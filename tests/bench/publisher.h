/* publisher.h - hands events to a server in the server's own way.
 *
 *   amqp   publishes to an exchange of RabbitMQ (no confirms, not persistent), content type JSON
 *   tcp    writes a text per event to a connection and reads the answers away: HTTP on a connection that
 * stays, NATS, Redis and our floor all work like this
 */
#ifndef EF_BENCH_PUBLISHER_H
#define EF_BENCH_PUBLISHER_H

#include "tests/bench/message.h"

struct publisher_plan {
    const char *amqp_url; /* or NULL */
    const char *exchange;
    struct text key;      /* template */
    uint16_t tcp_port;    /* on 127.0.0.1; or 0 */
    struct text greeting; /* sent once */
    struct text message;  /* template: what an event is on the connection */
    struct text refusal;  /* an answer that holds this text ends the run; empty: none does */
};

struct publisher;

/* plan: borrowed. epoll: a tcp publisher registers with it, with `tag` as data.u32. Returns NULL with a
 * message on stderr. */
struct publisher *publisher_new(const struct publisher_plan *plan, int epoll, uint32_t tag);
void publisher_free(struct publisher *p);
/* Take one event; it may wait until publisher_flush. 0, or -1 with a message on stderr. */
int publisher_add(struct publisher *p, const struct message *m, uint64_t number, uint32_t group);
/* Write what waits, as far as the connection takes it; the rest goes with later calls. 0, or -1. */
int publisher_flush(struct publisher *p);
/* The epoll event. 0, or -1. */
int publisher_ready(struct publisher *p);
/* Bytes that the connection has not taken yet. */
size_t publisher_waiting(const struct publisher *p);

#endif
