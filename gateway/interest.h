/* interest.h - which Redis channels must this gateway listen on? One object per partition.
 *
 * A binding is interested in the channel of its literal prefix ("task.5f.#" -> "task.5f"). An event is
 * published to the channels of all prefixes of its key, so a channel also brings what the channels below it
 * bring: below a channel that is subscribed for somebody, none is. Channels form a tree by words, "" at the
 * root:
 *
 *   acquire "task.5f"   ->  SUBSCRIBE task.5f
 *   acquire "task"      ->  SUBSCRIBE task, and when that is confirmed UNSUBSCRIBE task.5f
 *   release "task"      ->  SUBSCRIBE task.5f, and when that is confirmed UNSUBSCRIBE task
 *
 * so there is no moment without the one or the other; what comes twice meanwhile is dropped by id.
 * A SUBSCRIBE is never sent while an UNSUBSCRIBE of the same channel is on its way. Loop thread only. */
#ifndef EF_INTEREST_H
#define EF_INTEREST_H

#include "shared/util.h"

#include <stdbool.h>

struct interest;
struct interest_channel;

/* Embedded in a binding; all zeros while it has no interest. */
struct interest_ref {
    struct interest_channel *channel;
    struct interest_ref **pprev, *next; /* in the list of those that wait for the channel */
    bool waiting;
};

struct interest_ops {
    /* Send the command; the answer comes as interest_confirmed. A failure means that the link is breaking:
     * interest_link_down will follow. */
    void (*subscribe)(void *user, const char *prefix, size_t len);
    void (*unsubscribe)(void *user, const char *prefix, size_t len);
    /* From now on every event for `ref` arrives. Not called from inside interest_acquire; it may come from
     * inside interest_release of another ref. It may release refs. */
    void (*live)(void *user, struct interest_ref *ref);
};

struct interest *interest_new(const struct interest_ops *ops, void *user);
/* All refs must have been released. */
void interest_free(struct interest *i);

/* prefix: the literal prefix of a pattern. Returns 1: live already; 0: `live` will be called; -ENOMEM. */
MUST_CHECK
int interest_acquire(struct interest *i, const char *prefix, size_t len, struct interest_ref *ref);
/* Does nothing for a ref that holds no interest. */
void interest_release(struct interest *i, struct interest_ref *ref);

/* The link is up and knows no subscription: ask for all that is wanted. */
void interest_link_up(struct interest *i);
void interest_link_down(struct interest *i);
/* Redis confirmed a SUBSCRIBE (subscribed) or UNSUBSCRIBE of this prefix. */
void interest_confirmed(struct interest *i, const char *prefix, size_t len, bool subscribed);

size_t interest_channels(const struct interest *i); /* subscribed now */
/* Is every channel that is wanted subscribed? false while the link is down. */
bool interest_is_settled(const struct interest *i);
/* No refs, and nothing subscribed or on its way. */
bool interest_is_idle(const struct interest *i);

#endif
