/* ticker.h - the once-a-second call of tick.lua for one partition: lease, tick, trimming, `acked`. */
#ifndef EF_TICKER_H
#define EF_TICKER_H

#include "ingest/ingest_ctx.h"

#include "shared/keyspace.h"

struct ticker;

struct tick_state {
    bool connected;    /* what the tick says of the broker */
    const char *gen;   /* of our claim, "" without one */
    const char *acked; /* newest id whose delivery is acked for certain, "" for none */
    int64_t above;     /* entries above acked at most, -1 if unknown */
};

/* exchange, keys: borrowed for the ticker's life. NULL on lack of memory. */
struct ticker *ticker_new(struct ingest_ctx *ctx, const char *exchange, const struct partition_keys *keys);
/* Memory goes when Redis has answered. NULL is fine. */
void ticker_free(struct ticker *t);
/* Call tick.lua, if Redis is there and has answered the last call. Texts are borrowed for the call. */
void ticker_tick(struct ticker *t, const struct tick_state *state);
/* The last call: a tick that gives the lease back. `done` is called once when it is answered, or in this call
 * if Redis is not there. */
void ticker_release(struct ticker *t, const struct tick_state *state, void (*done)(void *user), void *user);
/* Why ticks fail: 0, or the error with which Redis refuses them. */
int ticker_fault(const struct ticker *t);

#endif
