/* digest.h - a 128-bit digest (SHA-256, cut) over parts, each with its length in front, so that
 * ("ab","c") and ("a","bc") differ. As 32 hex digits. Used for cached access answers and for
 * recognising an event that is already in the log. */
#ifndef EF_DIGEST_H
#define EF_DIGEST_H

#include "shared/util.h"

enum { DIGEST_HEX = 32 };

struct digest_part {
    const void *bytes;
    size_t len;
};

/* out: DIGEST_HEX digits and a NUL. Cost: about 1 us for 1 kB. */
void digest_hex(const struct digest_part *parts, size_t count, char out[DIGEST_HEX + 1]);

#endif
