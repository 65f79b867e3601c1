/* router.h - which bindings does an event go to? One router per partition.
 *
 * A trie of the bindings' patterns, word by word; a node's children are found in one hash table of
 * the whole router. An event walks all its paths at once (a set of nodes per word), so the cost is at most
 * words times nodes that can be reached, whatever patterns clients invent, and each node is met once a word:
 * a binding gets one copy. On one path at most two nodes for each word of the key can be reached. Loop thread
 * only. */
#ifndef EF_ROUTER_H
#define EF_ROUTER_H

#include "shared/util.h"

#include <stdbool.h>

struct router;
struct router_node;

/* Embedded in whatever wants events. */
struct router_entry {
    struct router_node *node; /* NULL while not in a router */
    uint32_t index;           /* in the node's list */
};

struct router *router_new(void);
/* All entries must have been removed. */
void router_free(struct router *r);

/* Add `e` under a pattern of at most TOPIC_MAX bytes. -ENOMEM leaves the router as it was. */
MUST_CHECK
int router_add(struct router *r, const char *pattern, size_t len, struct router_entry *e);
/* Does nothing for an entry that is in no router. */
void router_remove(struct router *r, struct router_entry *e);

/* Call `deliver` for every entry whose pattern matches the key (at most TOPIC_MAX bytes). `deliver` must not
 * add to or remove from this router. -ENOMEM: nothing was delivered. */
typedef void router_deliver_cb(void *user, struct router_entry *e);
MUST_CHECK
int router_match(struct router *r, const char *key, size_t len, router_deliver_cb *deliver, void *user);

size_t router_size(const struct router *r); /* entries */
/* Nodes met by all matches so far: what routing costs, independent of the machine. */
uint64_t router_met(const struct router *r);

#endif
