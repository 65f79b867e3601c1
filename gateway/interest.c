/* interest.c - the tree of channels and the two-step changes between them; see the header.
 *
 * A channel is *wanted* while it is to be subscribed. It is wanted for itself (it has refs, and no
 * channel above it has), or because it *lingers*: it lost its last ref, and channels below it, which it
 * covered, are not yet confirmed. A link that breaks ends all lingering: nothing is subscribed any more. */
#include "gateway/interest.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/keyed_hash.h" /* prefixes come from clients: they must not choose our collisions */

enum channel_state { CHANNEL_OFF, CHANNEL_SUBSCRIBING, CHANNEL_ON, CHANNEL_UNSUBSCRIBING };

struct interest_channel {
    UT_hash_handle hh;
    struct interest_channel *parent, *child, *prev, *next; /* next and prev: siblings */
    struct interest_channel *relieves;                     /* the lingering channel above that waits for us */
    struct interest_ref *waiters;
    uint32_t refs;
    uint32_t reliefs; /* channels below that must be ON before we may go */
    uint32_t pins;    /* walks that stand here: must not be freed */
    uint8_t state;    /* enum channel_state */
    bool wanted;
    uint8_t len;
    char prefix[];
};

struct interest {
    struct interest_ops ops;
    void *user;
    struct interest_channel *all, *root;
    size_t on;
    size_t subscribing;
    bool link_up;
};

static struct interest_channel *channel_find(struct interest *i, const char *prefix, size_t len)
{
    struct interest_channel *c;

    HASH_FIND(hh, i->all, prefix, len, c);
    return c;
}

static struct interest_channel *channel_new(struct interest *i, const char *prefix, size_t len,
                                            struct interest_channel *parent)
{
    struct interest_channel *c = calloc(1, sizeof(*c) + len);

    if (!c)
        return NULL;
    c->len = (uint8_t)len;
    if (len)
        memcpy(c->prefix, prefix, len);
    c->parent = parent;
    if (parent) {
        c->next = parent->child;
        if (c->next)
            c->next->prev = c;
        parent->child = c;
    }
    HASH_ADD_KEYPTR(hh, i->all, c->prefix, len, c);
    return c;
}

/* Free the channel, and those above it, as long as they stand for nothing. */
static void channel_prune(struct interest *i, struct interest_channel *c)
{
    while (c->parent && !c->refs && !c->pins && !c->child && !c->reliefs && c->state == CHANNEL_OFF) {
        struct interest_channel *parent = c->parent;

        assert(!c->relieves && !c->waiters && !c->wanted);
        if (c->prev)
            c->prev->next = c->next;
        else
            parent->child = c->next;
        if (c->next)
            c->next->prev = c->prev;
        HASH_DELETE(hh, i->all, c);
        free(c);
        c = parent;
    }
}

/* The channel of the prefix, with all those above it. */
static struct interest_channel *channel_get(struct interest *i, const char *prefix, size_t len)
{
    struct interest_channel *c = channel_find(i, prefix, len), *parent;
    size_t cut = len;

    if (c || len == 0)
        return c ? c : i->root;
    while (cut > 0 && prefix[cut - 1] != '.')
        cut--;
    parent = channel_get(i, prefix, cut ? cut - 1 : 0);
    if (!parent)
        return NULL;
    c = channel_new(i, prefix, len, parent);
    if (!c)
        channel_prune(i, parent);
    return c;
}

struct interest *interest_new(const struct interest_ops *ops, void *user)
{
    struct interest *i = calloc(1, sizeof(*i));

    if (!i)
        return NULL;
    i->ops = *ops;
    i->user = user;
    i->root = channel_new(i, "", 0, NULL);
    if (!i->root) {
        free(i);
        return NULL;
    }
    return i;
}

void interest_free(struct interest *i)
{
    if (!i)
        return;
    interest_link_down(i);
    assert(!i->root->child && !i->root->refs);
    HASH_DELETE(hh, i->all, i->root);
    free(i->root);
    free(i);
}

size_t interest_channels(const struct interest *i)
{
    return i->on;
}

bool interest_is_settled(const struct interest *i)
{
    return i->link_up && i->subscribing == 0;
}

bool interest_is_idle(const struct interest *i)
{
    return !i->root->refs && !i->root->child && i->root->state == CHANNEL_OFF;
}

/* Send what brings the channel's state nearer to what is wanted. */
static void channel_drive(struct interest *i, struct interest_channel *c)
{
    if (!i->link_up)
        return;
    if (c->wanted && c->state == CHANNEL_OFF) {
        c->state = CHANNEL_SUBSCRIBING;
        i->subscribing++;
        i->ops.subscribe(i->user, c->prefix, c->len);
    } else if (!c->wanted && c->state == CHANNEL_ON) {
        c->state = CHANNEL_UNSUBSCRIBING;
        i->on--;
        i->ops.unsubscribe(i->user, c->prefix, c->len);
    }
}

/* The channel that listens, or will listen, for `c`: the topmost above it with refs, else itself. */
static struct interest_channel *channel_cover(struct interest_channel *c)
{
    struct interest_channel *top = c;

    for (struct interest_channel *a = c->parent; a; a = a->parent)
        if (a->refs)
            top = a;
    return top;
}

static struct interest_channel *channel_on_above(struct interest_channel *c)
{
    for (; c; c = c->parent)
        if (c->state == CHANNEL_ON)
            return c;
    return NULL;
}

/* `c` no longer holds up the lingering channel above it. */
static void channel_relieve(struct interest *i, struct interest_channel *c)
{
    struct interest_channel *above = c->relieves;

    if (!above)
        return;
    c->relieves = NULL;
    assert(above->reliefs > 0);
    if (--above->reliefs == 0 && above->refs == 0 && above->wanted) {
        above->wanted = false;
        channel_drive(i, above);
        channel_prune(i, above);
    }
}

static void waiter_remove(struct interest_ref *ref)
{
    if (!ref->waiting)
        return;
    *ref->pprev = ref->next;
    if (ref->next)
        ref->next->pprev = ref->pprev;
    ref->waiting = false;
    ref->next = NULL;
}

static void waiter_add(struct interest_channel *c, struct interest_ref *ref)
{
    ref->waiting = true;
    ref->next = c->waiters;
    if (ref->next)
        ref->next->pprev = &ref->next;
    ref->pprev = &c->waiters;
    c->waiters = ref;
}

/* Next of the subtree below `top` in pre-order; NULL at its end. */
static struct interest_channel *below_next(struct interest_channel *top, struct interest_channel *c)
{
    if (c->child)
        return c->child;
    while (c != top && !c->next)
        c = c->parent;
    return c == top ? NULL : c->next;
}

/* `c` listens now and has refs: what is below need not. */
static void channel_silence_below(struct interest *i, struct interest_channel *c)
{
    struct interest_channel *below, *next;

    for (below = c->child; below; below = next) {
        next = below_next(c, below);
        if (!below->wanted)
            continue;
        below->wanted = false;
        channel_relieve(i, below);
        channel_drive(i, below);
    }
}

/* Tell everybody who waits in the list of `c`. A callback may release refs, so the list is taken one by one.
 */
static void channel_tell(struct interest *i, struct interest_channel *c)
{
    while (c->waiters) {
        struct interest_ref *ref = c->waiters;

        waiter_remove(ref);
        i->ops.live(i->user, ref);
    }
}

/* The same for `c` and everything below it. Pins keep the place of the walk while callbacks release refs. */
static void channel_tell_below(struct interest *i, struct interest_channel *c)
{
    struct interest_channel *below = c, *next;

    c->pins++;
    below->pins++;
    while (below) {
        channel_tell(i, below);
        next = below_next(c, below);
        if (next)
            next->pins++;
        below->pins--;
        channel_prune(i, below);
        below = next;
    }
    c->pins--;
}

static void channel_now_on(struct interest *i, struct interest_channel *c)
{
    c->state = CHANNEL_ON;
    i->subscribing--;
    i->on++;
    if (!c->wanted) {
        channel_drive(i, c);
        return;
    }
    channel_relieve(i, c);
    if (c->refs)
        channel_silence_below(i, c);
    channel_tell_below(i, c);
    channel_prune(i, c);
}

void interest_confirmed(struct interest *i, const char *prefix, size_t len, bool subscribed)
{
    struct interest_channel *c = channel_find(i, prefix, len);

    if (!c)
        return;
    if (subscribed && c->state == CHANNEL_SUBSCRIBING) {
        channel_now_on(i, c);
    } else if (!subscribed && c->state == CHANNEL_UNSUBSCRIBING) {
        c->state = CHANNEL_OFF;
        channel_drive(i, c);
        channel_prune(i, c);
    }
}

int interest_acquire(struct interest *i, const char *prefix, size_t len, struct interest_ref *ref)
{
    struct interest_channel *c = channel_get(i, prefix, len);
    struct interest_channel *cover, *lingering;

    assert(!ref->channel);
    if (!c)
        return -ENOMEM;
    ref->channel = c;
    c->refs++;
    cover = channel_cover(c);
    if (c->refs == 1 && cover == c && !c->wanted) {
        c->wanted = true;
        lingering = channel_on_above(c->parent);
        if (lingering && lingering->wanted && c->state != CHANNEL_ON) {
            c->relieves = lingering;
            lingering->reliefs++;
        }
        channel_drive(i, c);
    }
    if (c->refs == 1 && c->state == CHANNEL_ON && c->wanted)
        channel_silence_below(i, c); /* it lingered for those below; now it listens for itself */
    lingering = channel_on_above(c);
    if (lingering && lingering->wanted)
        return 1;
    waiter_add(cover, ref);
    return 0;
}

/* Those that waited for `c`, which will not listen for them: they wait for another, or need not wait. */
static void channel_hand_over_waiters(struct interest *i, struct interest_channel *c)
{
    c->pins++;
    while (c->waiters) {
        struct interest_ref *ref = c->waiters;
        struct interest_channel *on = channel_on_above(ref->channel);

        waiter_remove(ref);
        if (on && on->wanted)
            i->ops.live(i->user, ref);
        else
            waiter_add(channel_cover(ref->channel), ref);
    }
    c->pins--;
}

/* `c` lost its last ref while it was the one that listened: those that it covered listen themselves. */
static void channel_hand_over(struct interest *i, struct interest_channel *c)
{
    struct interest_channel *below = c->child;

    while (below) {
        if (below->refs) {
            if (!below->wanted) {
                below->wanted = true;
                if (below->state != CHANNEL_ON && c->state == CHANNEL_ON && !below->relieves) {
                    below->relieves = c;
                    c->reliefs++;
                }
                channel_drive(i, below);
            }
            /* Skip what this one covers. */
            while (below != c && !below->next)
                below = below->parent;
            below = below == c ? NULL : below->next;
        } else {
            below = below_next(c, below);
        }
    }
    c->wanted = c->reliefs > 0;
    channel_drive(i, c);
    channel_hand_over_waiters(i, c);
}

void interest_release(struct interest *i, struct interest_ref *ref)
{
    struct interest_channel *c = ref->channel;

    if (!c)
        return;
    waiter_remove(ref);
    ref->channel = NULL;
    if (--c->refs > 0)
        return;
    channel_relieve(i, c);
    if (c->wanted)
        channel_hand_over(i, c);
    channel_prune(i, c);
}

static bool channel_is_above(const struct interest_channel *above, const struct interest_channel *c)
{
    for (c = c->parent; c; c = c->parent)
        if (c == above)
            return true;
    return false;
}

void interest_link_down(struct interest *i)
{
    struct interest_channel *c, *tmp;

    i->link_up = false;
    i->subscribing = 0;
    i->on = 0;
    HASH_ITER (hh, i->all, c, tmp) {
        c->state = CHANNEL_OFF;
        c->relieves = NULL;
        c->reliefs = 0;
        c->wanted = c->refs > 0 && channel_cover(c) == c;
    }
    HASH_ITER (hh, i->all, c, tmp) {
        if (c->child || c->refs || !c->parent)
            continue;
        /* Pruning climbs, and must not free the iteration's next place. */
        while (tmp && channel_is_above(tmp, c))
            tmp = tmp->hh.next;
        channel_prune(i, c);
    }
}

void interest_link_up(struct interest *i)
{
    struct interest_channel *c, *tmp;

    i->link_up = true;
    HASH_ITER (hh, i->all, c, tmp)
        channel_drive(i, c);
}
