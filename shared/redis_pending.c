#include "shared/redis_pending.h"

#include "shared/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int pending_make_room(struct pending_ring *p)
{
    size_t size = p->size ? p->size * 2 : 64;
    struct pending *slots;

    if (p->count < p->size)
        return 0;
    slots = calloc(size, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < p->count; i++)
        slots[i] = p->slots[(p->first + i) & (p->size - 1)];
    free(p->slots);
    p->slots = slots;
    p->size = size;
    p->first = 0;
    return 0;
}

void pending_push(struct pending_ring *p, redis_reply_cb *cb, void *user)
{
    assert(p->count < p->size);
    p->slots[(p->first + p->count++) & (p->size - 1)] =
        (struct pending){.cb = cb, .user = user, .sent_ms = clock_mono_ms()};
}

const struct pending *pending_oldest(const struct pending_ring *p)
{
    assert(p->count);
    return &p->slots[p->first];
}

struct pending pending_pop(struct pending_ring *p)
{
    struct pending oldest = *pending_oldest(p);

    p->first = (p->first + 1) & (p->size - 1);
    p->count--;
    return oldest;
}

void pending_done(struct pending_ring *p)
{
    free(p->slots);
    *p = (struct pending_ring){0};
}
