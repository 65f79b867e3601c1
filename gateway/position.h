/* position.h - a place in a partition's log, and its texts.
 *
 *   <exchange>:<partition>:<epoch>:<ms>-<seq>    an event's id, or a `pos`; exchange names may hold colons
 *
 * Within an epoch, positions grow; positions of different epochs cannot be compared. */
#ifndef EF_POSITION_H
#define EF_POSITION_H

#include "shared/buf.h"

enum { EPOCH_MAX = 15 };

struct position {
    char epoch[EPOCH_MAX + 1]; /* "" while unknown */
    uint64_t ms, seq;          /* Redis stream id <ms>-<seq> */
};

/* Is a behind b, within one epoch? */
static inline bool position_is_above(const struct position *a, const struct position *b)
{
    return a->ms != b->ms ? a->ms > b->ms : a->seq > b->seq;
}

/* Parse "<ms>-<seq>" at the start of the text. Returns the bytes taken, 0 if it is none. Leaves the epoch
 * alone. */
size_t position_parse_id(const char *text, size_t len, struct position *ret);
/* Take a whole id apart, from the right. The exchange is the text's first *ret_exchange_len bytes. */
bool position_parse(const char *text, size_t len, size_t *ret_exchange_len, unsigned *ret_partition,
                    struct position *ret);

/* Append "<epoch>:<ms>-<seq>", or with an exchange "<exchange>:<partition>:<epoch>:<ms>-<seq>". */
void position_print(const struct position *pos, const char *exchange, int partition, struct buf *out);

#endif
