/* access_cache.c - answers of access checks in this process's memory.
 *
 * uthash keeps its entries in the order in which they were added; taking an entry out and adding it again at
 * each use makes that the order of use, oldest first. Entries that have ended are dropped when they are met:
 * at a lookup, and a few from the old end at each put, so that a table in use does not fill up with them. */
#include "gateway/access_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Lack of memory drops the entry instead of ending the program. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

enum { SWEEP_PER_PUT = 2 };

struct entry {
    char digest[DIGEST_HEX];
    bool granted;
    int64_t end_ms;
    UT_hash_handle hh;
};

struct access_cache {
    struct entry *entries;
    size_t max;
};

struct access_cache *access_cache_new(size_t max)
{
    struct access_cache *c = calloc(1, sizeof(*c));

    assert(max > 0);
    if (c)
        c->max = max;
    return c;
}

static void entry_drop(struct access_cache *c, struct entry *e)
{
    HASH_DEL(c->entries, e);
    free(e);
}

void access_cache_free(struct access_cache *c)
{
    struct entry *e;
    struct entry *next;

    if (!c)
        return;
    HASH_ITER (hh, c->entries, e, next)
        entry_drop(c, e);
    free(c);
}

static struct entry *entry_find(struct access_cache *c, const char *digest)
{
    struct entry *e;

    HASH_FIND(hh, c->entries, digest, DIGEST_HEX, e);
    return e;
}

/* Adds at the young end. Frees the entry where memory is lacking. */
static void entry_add(struct access_cache *c, struct entry *e)
{
    e->hh.tbl = NULL;
    HASH_ADD(hh, c->entries, digest, DIGEST_HEX, e);
    if (!e->hh.tbl)
        free(e);
}

bool access_cache_get(struct access_cache *c, const char digest[DIGEST_HEX + 1], int64_t now_ms,
                      bool *ret_granted)
{
    struct entry *e = entry_find(c, digest);

    if (!e)
        return false;
    if (e->end_ms <= now_ms) {
        entry_drop(c, e);
        return false;
    }
    *ret_granted = e->granted;
    HASH_DEL(c->entries, e);
    entry_add(c, e);
    return true;
}

static void sweep(struct access_cache *c, int64_t now_ms)
{
    for (int i = 0; i < SWEEP_PER_PUT && c->entries && c->entries->end_ms <= now_ms; i++)
        entry_drop(c, c->entries);
    if (access_cache_count(c) >= c->max)
        entry_drop(c, c->entries);
}

void access_cache_put(struct access_cache *c, const char digest[DIGEST_HEX + 1], bool granted, int64_t now_ms,
                      int64_t end_ms)
{
    struct entry *e = entry_find(c, digest);

    if (e)
        entry_drop(c, e);
    if (end_ms <= now_ms)
        return;
    sweep(c, now_ms);
    e = calloc(1, sizeof(*e));
    if (!e)
        return;
    memcpy(e->digest, digest, DIGEST_HEX);
    e->granted = granted;
    e->end_ms = end_ms;
    entry_add(c, e);
}

size_t access_cache_count(const struct access_cache *c)
{
    return HASH_COUNT(c->entries);
}
