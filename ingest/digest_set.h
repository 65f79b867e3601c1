/* digest_set.h - a multiset of event digests: what the log holds above `acked` when a partition is claimed.
 */
#ifndef EF_DIGEST_SET_H
#define EF_DIGEST_SET_H

#include "shared/digest.h"

#include <stdbool.h>

/* Open on purpose: embedded by value. All zeros is the empty set. */
struct digest_set {
    struct digest_slot *slots; /* a power of two of them, open addressing */
    size_t size, used, count;  /* slots; slots that were ever taken; digests in it */
};

void digest_set_done(struct digest_set *s);
/* hex: DIGEST_HEX digits. Anything else is ignored (no delivery of ours can match it). 0 or -ENOMEM. */
MUST_CHECK
int digest_set_add(struct digest_set *s, const char *hex, size_t len);
/* Use one up. Was there one? */
bool digest_set_take(struct digest_set *s, const char *hex);

#endif
