/* redis_pending.h - the commands of one connection that wait for an answer, oldest first. Redis answers in
 * order, so a ring of callbacks is all that is needed. Inside redis_link only. */
#ifndef EF_REDIS_PENDING_H
#define EF_REDIS_PENDING_H

#include "shared/redis_link.h"

struct pending {
    redis_reply_cb *cb; /* NULL: nobody wants to know */
    void *user;
    int64_t sent_ms; /* monotonic */
};

/* All zeros is a valid empty ring. Embedded by value; it grows and does not shrink. */
struct pending_ring {
    struct pending *slots;
    size_t size; /* a power of two, or 0 */
    size_t first, count;
};

/* 0 or -ENOMEM; after 0 the next pending_push cannot fail. */
MUST_CHECK
int pending_make_room(struct pending_ring *p);
void pending_push(struct pending_ring *p, redis_reply_cb *cb, void *user);
/* The oldest one; there must be one. */
const struct pending *pending_oldest(const struct pending_ring *p);
struct pending pending_pop(struct pending_ring *p);
void pending_done(struct pending_ring *p);

#endif
