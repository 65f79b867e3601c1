/* replay.h - reading a partition's log: what a client missed, and what the gateway itself missed.
 *
 * One reader per partition. Its passes go over the log from the oldest place that anybody asks for to where
 * the live events are; everybody who waits when a pass begins shares it. What was read is kept for some
 * seconds in a window of pages, so the passes of a reconnect storm cost Redis little more than one read of
 * the log.
 *
 *   entry (a binding with a place)         catch-up (the partition itself, after its link broke)
 *      | replay_add                            | replay_catch_up: live messages are dropped from now on
 *      v                                       v
 *   WAITING --pass begins--> PASSING --the pass has reached the live place--> `joined`: live from here, no
 * seam ^                        |
 *      '------- PARKED <--------'   its session cannot take more now
 *
 * Up to the partition's last id, a log entry goes to the pass's bindings only. Above it, to everybody, as if
 * it had been heard: the last id moves, and its live copy is dropped when it comes. So no event is missed or
 * repeated where replay ends and live begins, whatever the order in which the two connections deliver.
 *
 * A place is refused (`joined` with recovered false) if its epoch is another, if the log's floor is above it,
 * or if it lies behind the tip. Failures: Redis away or busy: the pass waits and goes on. Loop thread only.
 */
#ifndef EF_REPLAY_H
#define EF_REPLAY_H

#include "gateway/position.h"
#include "gateway/router.h"
#include "shared/redis_link.h"

struct partition;
struct replay;
struct feed_event;

enum replay_state { REPLAY_NONE, REPLAY_WAITING, REPLAY_PASSING, REPLAY_PARKED };

/* Embedded in a binding; all zeros while it replays nothing. */
struct replay_entry {
    struct router_entry entry; /* in the pass's router */
    struct replay_entry *prev, *next;
    struct position from; /* everything up to here was delivered, or is not wanted */
    const char *pattern;  /* borrowed from the binding */
    uint8_t pattern_len;
    uint8_t state; /* enum replay_state */
    bool refused;
};

struct replay_ops {
    /* An entry of the log above the partition's last id: for all live bindings, like a heard event. */
    void (*route)(void *user, const struct feed_event *event);
    /* For this binding. false: it cannot take it now (nothing was delivered). Must not remove entries. */
    bool (*deliver)(void *user, struct replay_entry *e, const struct feed_event *event);
    /* May a parked one go on? */
    bool (*may_continue)(void *user, const struct replay_entry *e);
    /* It is no longer in the replay; every event above the partition's last id must reach it from now on. */
    void (*joined)(void *user, struct replay_entry *e, bool recovered);
    /* The partition's events between the two are lost to us: from.epoch may differ from to.epoch. */
    void (*gap)(void *user, const struct position *from, const struct position *to);
};

/* link: for reading, borrowed. */
struct replay *replay_new(struct partition *p, struct redis_link *link, const struct replay_ops *ops,
                          void *user);
/* All entries must have been removed. */
void replay_free(struct replay *r);

/* Bring `e` up to date from e->from. pattern and from are set by the caller. */
void replay_add(struct replay *r, struct replay_entry *e);
/* Does nothing for an entry that is not in the replay. */
void replay_remove(struct replay *r, struct replay_entry *e);

/* From now on live messages must be dropped (replay_is_catching_up); reading begins with replay_settled. */
void replay_catch_up(struct replay *r);
bool replay_is_catching_up(const struct replay *r);
/* Every wanted channel is subscribed: what is published from now on is heard. */
void replay_settled(struct replay *r);
/* While catching up: the log reaches at least to here. */
void replay_heard(struct replay *r, const struct position *pos);
/* The partition's log began anew: nothing of the old one can be read. */
void replay_new_epoch(struct replay *r);

/* Do a bounded piece of work; true: there is more to do at once. now_ms: monotonic. Call it in every turn
 * while it says so, and every 100 ms. */
bool replay_work(struct replay *r, int64_t now_ms);

struct replay_counts {
    uint64_t reads, entries, passes, recovered, refused, gaps;
};
const struct replay_counts *replay_counts(const struct replay *r);

/* The script that the link needs; load it when the link is up. */
const struct redis_script *replay_script(void);

#endif
