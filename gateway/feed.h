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
 * subscribed again, and what was published meanwhile is read from the log (replay.h). What the log no longer
 * holds is announced as a gap; so is a log that began anew. A message that is none of ours is counted and
 * dropped. Loop thread only. */
#ifndef EF_FEED_H
#define EF_FEED_H

#include "gateway/interest.h"
#include "gateway/replay.h"
#include "gateway/router.h"
#include "shared/config.h"
#include "shared/keyspace.h"
#include "shared/metrics.h"
#include "shared/ready.h"
#include "shared/redis_link.h"

#include <uthash.h>

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
    size_t bindings; /* that point here, live or not: counted by binding.c */
    struct replay *replay;
    uint64_t tick_counter; /* of the last tick; 0 before the first */
    struct position last;  /* every event up to here was routed, or is of no interest */
    int64_t tick_ms;       /* monotonic, of the last tick; 0 before the first */
    bool broker_connected; /* as the last tick said */
    bool removed;          /* no longer configured; goes when its last binding has gone */
    struct metric *events, *repeated, *tick_age;
};

struct feed_event {
    struct partition *partition;
    const char *key, *head, *frame; /* borrowed for the call; the client's frame is head and frame */
    size_t key_len, head_len, frame_len;
    uint64_t serial; /* of the event, in this process */
};

struct feed_handlers {
    void (*event)(void *user, const struct feed_event *event);
    void (*live)(void *user, struct interest_ref *ref); /* see interest.h */
    /* See replay.h. */
    bool (*deliver)(void *user, struct replay_entry *e, const struct feed_event *event);
    bool (*may_continue)(void *user, const struct replay_entry *e);
    void (*joined)(void *user, struct replay_entry *e, bool recovered);
    /* The events of the partition between the two are lost for all its bindings. */
    void (*gap)(void *user, struct partition *p, const struct position *from, const struct position *to);
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
/* Is everything that is published on `p` heard now? false while Redis is away, and while the log is read
 * after it. */
bool feed_is_live(const struct partition *p);
/* Replay for this binding; `joined` will tell. */
void feed_resume(struct partition *p, struct replay_entry *e);
/* The command link is up: scripts can be loaded, logs read. */
void feed_command_is_up(struct feed *f);
/* For replay.c: there may be work; the number of the next event; the log was seen to be of another epoch. */
void feed_kick(struct partition *p);
uint64_t feed_next_serial(struct partition *p);
void feed_new_epoch(struct partition *p, const char *epoch, size_t len);

bool feed_redis_is_up(const struct feed *f);
/* Does a living owner's tick say that the broker is connected? */
bool feed_broker_is_connected(const struct feed *f);
/* Bring gauges up to date. */
void feed_refresh_metrics(struct feed *f);

#endif
