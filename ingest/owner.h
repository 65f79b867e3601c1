/* owner.h - the owner of a partition: claims it, and moves its deliveries into the log, in order and once.
 *
 *   IDLE --first delivery--> CLAIMING --claim.lua--> READING --digests.lua, page by page--> OWNING
 *    ^                                                                                        |
 *    '---------------------- owner_reset (the consume session ended) -------------------------'
 *
 * Deliveries are held in a queue until Redis has confirmed them. What is there is sent as a batch of at most
 * 128, one script call each, pipelined; at most 4 batches are in flight. `settled` tells up to which delivery
 * all is confirmed.
 *
 * When Redis does not take an event, the queue is sent again from the first unconfirmed one, with the same
 * numbers, so that nothing is doubled and no hole appears: at once after NOSCRIPT, when the link is back
 * after a break, after a backoff for LOADING, OOM and the like. READONLY cuts the link. FENCED, or a hole in
 * front of the first unconfirmed (Redis lost what it had confirmed), ends the claim: `fenced`, and the user
 * ends the consume session. */
#ifndef EF_OWNER_H
#define EF_OWNER_H

#include "ingest/consumer.h"
#include "ingest/ingest_ctx.h"

#include "shared/keyspace.h"

struct owner;

/* How far a claim has come: an event of it, its place among the events of the claim (from 1), its id. */
struct owner_mark {
    uint64_t seq;
    char id[48];
};

struct owner_events {
    /* All deliveries up to this tag are in Redis: ack them. count: how many. mark: the newest of them that
     * was published in this claim, seq 0 if none. */
    void (*settled)(void *user, uint64_t tag, size_t count, const struct owner_mark *mark);
    /* The claim is lost; call owner_reset. error: ERR_REDIS_FENCED or ERR_REDIS_HOLE. */
    void (*fenced)(void *user, int error, const char *detail);
    /* Nothing is in flight any more (asked for with owner_drain). */
    void (*drained)(void *user);
};

/* exchange, keys: borrowed for the owner's life. NULL on lack of memory. */
struct owner *owner_new(struct ingest_ctx *ctx, const char *exchange, int partition,
                        const struct partition_keys *keys, const struct owner_events *events, void *user);
/* No callback comes any more; memory goes when Redis has answered what is in flight. NULL is fine. */
void owner_free(struct owner *o);

/* Hold one more delivery (copied). 0 or -ENOMEM. Then call owner_pump, once for many. */
MUST_CHECK
int owner_add(struct owner *o, const struct delivery *d);
/* Send what can be sent. Also when the Redis link has come up. */
void owner_pump(struct owner *o);
/* The session ended: drop all that is held; the next delivery claims anew. */
void owner_reset(struct owner *o);
/* Send nothing new, and tell (soon, or in this call) when nothing is in flight. */
void owner_drain(struct owner *o);

size_t owner_held(const struct owner *o); /* deliveries that are not settled */
/* Why nothing moves: 0, or the error with which Redis refuses us (not a broken link). */
int owner_fault(const struct owner *o);
/* The claim's generation as text, "" without one. */
const char *owner_gen(const struct owner *o);
/* How many entries lie in the log above `acked` at most, if acked is the event of `mark` (NULL: nothing was
 * acked in this claim yet). -1: not the owner, nobody knows. */
int64_t owner_above(const struct owner *o, const struct owner_mark *mark);

#endif
