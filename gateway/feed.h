/* feed.h - events from Redis to the router: partitions, their channels, ticks and probes.
 *
 * One connection subscribes to all channels of all partitions, so Redis sends its messages in the
 * order of publishing. A message of a channel is
 *
 *   <epoch>:<stream id> <length of key> <key><frame>
 *
 * An event is handed on once, when its id is above the partition's last id, whichever channel brought it
 * first. Ticks of the partition's owner come once a second and move the last id to the log's tip. The gateway
 * publishes a probe to itself every second through its command connection; when none comes back for
 * PROBE_LOST_MS although that connection works, the subscribing connection is cut and made anew: a silent
 * peer is not noticed otherwise.
 *
 * Failures: Redis away: sessions and bindings stay, nothing is subscribed; once it is back, everything is
 * subscribed again (what was published meanwhile is not read back yet). A message that is none of ours is
 * counted and dropped. Loop thread only. */
#ifndef EF_FEED_H
#define EF_FEED_H

#include "gateway/interest.h"
#include "gateway/router.h"
#include "shared/config.h"
#include "shared/keyspace.h"
#include "shared/metrics.h"
#include "shared/ready.h"
#include "shared/redis_link.h"

#include <uthash.h>

enum { EPOCH_MAX = 15, POSITION_MAX = 64 };

/* A place in a partition's log. */
struct position {
    char epoch[EPOCH_MAX + 1]; /* "" while unknown */
    uint64_t ms, seq;          /* Redis stream id <ms>-<seq> */
};

struct partition {
    UT_hash_handle hh;
    char *exchange;
    int number;
    struct partition_keys keys;
    char *base; /* what all its channels begin with */
    size_t base_len;
    struct feed *feed;
    struct router *router;
    struct interest *interest;
    size_t bindings;       /* that point here, live or not: counted by binding.c */
    struct position last;  /* every event up to here was routed, or is of no interest */
    int64_t tick_ms;       /* monotonic, of the last tick; 0 before the first */
    bool broker_connected; /* as the last tick said */
    bool removed;          /* no longer configured; goes when its last binding has gone */
    struct metric *events, *repeated, *tick_age;
};

struct feed_event {
    struct partition *partition;
    const char *key, *frame; /* borrowed for the call */
    size_t key_len, frame_len;
};

struct feed_handlers {
    void (*event)(void *user, const struct feed_event *event);
    void (*live)(void *user, struct interest_ref *ref); /* see interest.h */
};

struct feed;

/* command: the link that publishes probes, borrowed. metrics, ready: borrowed. */
struct feed *feed_new(uv_loop_t *loop, struct config *config, struct redis_link *command,
                      struct metrics *metrics, struct ready *ready, const struct feed_handlers *handlers,
                      void *user);
void feed_start(struct feed *f);
/* Take over the exchanges of `config`: new ones get partitions, others are marked as removed. */
MUST_CHECK
int feed_reload(struct feed *f, struct config *config);
/* All bindings must have left the routers. `closed` comes in a later turn. */
void feed_close(struct feed *f, void (*closed)(void *user), void *user);

/* The partition of a configured exchange, or NULL. */
struct partition *feed_partition(struct feed *f, const char *exchange);
/* Called when a binding has left a partition: frees a removed one that is empty. */
void feed_release(struct partition *p);
bool feed_redis_is_up(const struct feed *f);
/* Does a living owner's tick say that the broker is connected? */
bool feed_broker_is_connected(const struct feed *f);
/* Bring gauges up to date. */
void feed_refresh_metrics(struct feed *f);

/* Write "<exchange>:<number>:<epoch>:<stream id>" or, without the exchange, "<epoch>:<stream id>". false
 * while nothing is known of the partition. */
bool partition_position(const struct partition *p, bool with_exchange, struct buf *out);

#endif
