#include "ingest/digest_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct digest_slot {
    uint64_t half[2];
    uint32_t count;
    bool taken;
};

void digest_set_done(struct digest_set *s)
{
    free(s->slots);
    *s = (struct digest_set){0};
}

static bool hex_half(const char *hex, uint64_t *ret_half)
{
    uint64_t v = 0;

    for (size_t i = 0; i < DIGEST_HEX / 2; i++) {
        char c = hex[i];
        unsigned digit;

        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else
            return false;
        v = v << 4 | digit;
    }
    *ret_half = v;
    return true;
}

/* The slot of this digest, or the free one where it belongs. */
static struct digest_slot *slot_find(const struct digest_set *s, const uint64_t half[2])
{
    size_t i = half[0] & (s->size - 1);

    while (s->slots[i].taken && (s->slots[i].half[0] != half[0] || s->slots[i].half[1] != half[1]))
        i = (i + 1) & (s->size - 1);
    return &s->slots[i];
}

static int grow(struct digest_set *s)
{
    struct digest_set bigger = {.size = s->size ? s->size * 2 : 64, .used = s->used, .count = s->count};

    bigger.slots = calloc(bigger.size, sizeof(*bigger.slots));
    if (!bigger.slots)
        return -ENOMEM;
    for (size_t i = 0; i < s->size; i++)
        if (s->slots[i].taken)
            *slot_find(&bigger, s->slots[i].half) = s->slots[i];
    free(s->slots);
    *s = bigger;
    return 0;
}

int digest_set_add(struct digest_set *s, const char *hex, size_t len)
{
    struct digest_slot *slot;
    uint64_t half[2];

    if (len != DIGEST_HEX || !hex_half(hex, &half[0]) || !hex_half(hex + DIGEST_HEX / 2, &half[1]))
        return 0;
    if (s->used * 2 >= s->size) {
        int r = grow(s);
        if (r < 0)
            return r;
    }
    slot = slot_find(s, half);
    if (!slot->taken) {
        *slot = (struct digest_slot){.half = {half[0], half[1]}, .taken = true};
        s->used++;
    }
    slot->count++;
    s->count++;
    return 0;
}

bool digest_set_take(struct digest_set *s, const char *hex)
{
    struct digest_slot *slot;
    uint64_t half[2];

    if (!s->count || !hex_half(hex, &half[0]) || !hex_half(hex + DIGEST_HEX / 2, &half[1]))
        return false;
    slot = slot_find(s, half);
    if (!slot->taken || !slot->count)
        return false;
    slot->count--;
    s->count--;
    return true;
}
