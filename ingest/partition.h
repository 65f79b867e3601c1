/* partition.h - one partition of an exchange: its queue's consumer, its owner, its ticks.
 *
 *            queue is there, Redis is up              consume-ok
 *   IDLE ---------------------------------> OPENING -------------> CONSUMING --basic.cancel--> CANCELLED
 *    ^                                         |                       |                           |
 *    '--- backoff 1 s .. 30 s <--- channel or link closed, fenced, Redis away for long <--- all it held is
 * settled
 *
 *   any --partition_stop--> STOPPING (in flight -> acked -> taken by the broker -> lease given back) -->
 * stopped
 *
 * A session is one consuming channel. Ending it returns what is not acked to the queue, in order; the next
 * session's first delivery claims the partition anew and recognises what is in the log already. */
#ifndef EF_PARTITION_H
#define EF_PARTITION_H

#include "ingest/ingest_ctx.h"

struct partition;

/* The queue has vanished: declare it again. */
typedef void partition_queue_gone_cb(void *user);

/* exchange: copied. number: the partition's, 0. NULL on lack of memory. */
struct partition *partition_new(struct ingest_ctx *ctx, const char *exchange, int number,
                                partition_queue_gone_cb *queue_gone, void *user);
/* At once: what is not acked returns to the queue. NULL is fine. */
void partition_free(struct partition *p);
/* In order; then `stopped` is called, once, maybe in this call. The caller then frees it, and bounds the
 * time. */
void partition_stop(struct partition *p, void (*stopped)(void *user), void *user);

const char *partition_queue(const struct partition *p);
void partition_queue_there(struct partition *p, bool there);
void partition_redis_up(struct partition *p);
/* Redis is away for too long to hold deliveries: give them back and wait. */
void partition_redis_away(struct partition *p);
/* Deliveries of one read are in. */
void partition_pump(struct partition *p);
/* Once a second. waiting: the exchange does not exist, so that nothing is to be consumed. */
void partition_tick(struct partition *p, bool waiting);

bool partition_is_consuming(const struct partition *p);
/* Why Redis refuses this partition's events or ticks, or 0. */
int partition_fault(const struct partition *p);
/* Deliveries that are not settled. */
size_t partition_held(const struct partition *p);

#endif
