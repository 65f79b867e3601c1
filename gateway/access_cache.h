/* access_cache.h - answers of access checks in this process's memory.
 *
 * A bounded table from digest to answer. An entry is never returned at or after its end. When the table is
 * full, the entry that was used longest ago goes. Time is an argument: tests bring their own. */
#ifndef EF_ACCESS_CACHE_H
#define EF_ACCESS_CACHE_H

#include "shared/digest.h"

#include <stdbool.h>

/* About 150 bytes an entry: 10 MB when full. Beyond it the cache forgets, and Redis answers. */
enum { ACCESS_CACHE_MAX = 65536 };

struct access_cache;

/* max: entries, above 0. NULL on lack of memory. */
struct access_cache *access_cache_new(size_t max);
void access_cache_free(struct access_cache *c); /* NULL is fine */

/* Is there an answer at now_ms? Then *ret_granted is it. */
bool access_cache_get(struct access_cache *c, const char digest[DIGEST_HEX + 1], int64_t now_ms,
                      bool *ret_granted);
/* Remember, or replace. An entry that ends at or before now_ms removes what was there. Where memory is
 * lacking, nothing is remembered: it is a cache. */
void access_cache_put(struct access_cache *c, const char digest[DIGEST_HEX + 1], bool granted, int64_t now_ms,
                      int64_t end_ms);
size_t access_cache_count(const struct access_cache *c);

#endif
