/* keyed_hash.h - hashing what clients choose.
 *
 * Whoever knows the hash of a table can fill one of its buckets. This one has a key of the process's own. To
 * use it for uthash's tables of a file, include this header last: it takes the place of uthash's function. */
#ifndef EF_KEYED_HASH_H
#define EF_KEYED_HASH_H

#include "shared/util.h"

#include <uthash.h>

uint32_t keyed_hash(uint64_t key, const void *bytes, size_t len);
/* The process's key, made at the first call. */
uint64_t keyed_hash_key(void);

#undef HASH_FUNCTION
#define HASH_FUNCTION(bytes, len, hashv) ((hashv) = keyed_hash(keyed_hash_key(), (bytes), (len)))

#endif
