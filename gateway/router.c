/* router.c - the trie of topic patterns. See the header for how an event walks it. */
#include "gateway/router.h"

#include "gateway/keyed_hash.h"
#include "shared/topic.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct router_node {
    struct router_node *parent;
    struct router_node *star, *hash; /* the wildcard children */
    struct router_entry **entries;
    uint32_t count, cap;
    uint32_t children; /* literal and wildcard */
    uint32_t hashed;   /* of (parent, word), for the table */
    uint64_t stamp;    /* the step that met this node last */
    uint8_t kind;      /* enum node_kind */
    uint8_t len;
    char word[];
};

enum node_kind { NODE_ROOT, NODE_WORD, NODE_STAR, NODE_HASH };

struct node_set {
    struct router_node **at;
    size_t count, cap;
};

struct router {
    struct router_node *root;
    struct router_node **table; /* literal children, open addressing, no tombstones */
    size_t table_mask, table_count;
    size_t entries;
    uint64_t met; /* nodes, by all matches */
    uint64_t step;
    uint64_t seed; /* patterns come from clients: they must not choose our collisions */
    struct node_set now, next;
};

struct router *router_new(void)
{
    struct router *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->root = calloc(1, sizeof(*r->root) + 1);
    r->table_mask = 63;
    r->table = calloc(r->table_mask + 1, sizeof(struct router_node *));
    r->seed = keyed_hash_key();
    if (!r->root || !r->table) {
        free(r->root);
        free(r->table);
        free(r);
        return NULL;
    }
    return r;
}

void router_free(struct router *r)
{
    if (!r)
        return;
    assert(r->entries == 0 && r->table_count == 0);
    free(r->root->entries);
    free(r->root);
    free(r->table);
    free(r->now.at);
    free(r->next.at);
    free(r);
}

size_t router_size(const struct router *r)
{
    return r->entries;
}

uint64_t router_met(const struct router *r)
{
    return r->met;
}

static uint32_t word_hash(const struct router *r, const struct router_node *parent, const char *word,
                          size_t len)
{
    return keyed_hash((uintptr_t)parent ^ r->seed, word, len);
}

static struct router_node *find_word(const struct router *r, const struct router_node *parent,
                                     const char *word, size_t len)
{
    uint32_t h = word_hash(r, parent, word, len);

    for (size_t i = h & r->table_mask;; i = (i + 1) & r->table_mask) {
        struct router_node *n = r->table[i];

        if (!n)
            return NULL;
        if (n->hashed == h && n->parent == parent && n->len == len && memcmp(n->word, word, len) == 0)
            return n;
    }
}

static void table_put(struct router_node **table, size_t mask, struct router_node *n)
{
    size_t i = n->hashed & mask;

    while (table[i])
        i = (i + 1) & mask;
    table[i] = n;
}

static bool table_room(struct router *r)
{
    size_t mask = r->table_mask * 2 + 1;
    struct router_node **table;

    if ((r->table_count + 1) * 2 <= r->table_mask + 1)
        return true;
    table = calloc(mask + 1, sizeof(struct router_node *));
    if (!table)
        return false;
    for (size_t i = 0; i <= r->table_mask; i++)
        if (r->table[i])
            table_put(table, mask, r->table[i]);
    free(r->table);
    r->table = table;
    r->table_mask = mask;
    return true;
}

/* Close the hole at `hole`: later members of the same run move up (Knuth 6.4, algorithm R). */
static void table_take(struct router *r, struct router_node *n)
{
    size_t mask = r->table_mask, hole = n->hashed & mask;

    while (r->table[hole] != n)
        hole = (hole + 1) & mask;
    for (size_t i = (hole + 1) & mask; r->table[i]; i = (i + 1) & mask) {
        size_t home = r->table[i]->hashed & mask;

        if (((i - home) & mask) >= ((i - hole) & mask)) {
            r->table[hole] = r->table[i];
            hole = i;
        }
    }
    r->table[hole] = NULL;
    r->table_count--;
}

static struct router_node *node_new(struct router_node *parent, enum node_kind kind, const char *word,
                                    size_t len)
{
    struct router_node *n = calloc(1, sizeof(*n) + len);

    if (!n)
        return NULL;
    n->parent = parent;
    n->kind = (uint8_t)kind;
    n->len = (uint8_t)len;
    if (len)
        memcpy(n->word, word, len);
    parent->children++;
    return n;
}

static struct router_node *child_get(struct router *r, struct router_node *parent, struct topic_word w)
{
    struct router_node *n;

    if (topic_is_star(w))
        return parent->star ? parent->star : (parent->star = node_new(parent, NODE_STAR, NULL, 0));
    if (topic_is_hash(w))
        return parent->hash ? parent->hash : (parent->hash = node_new(parent, NODE_HASH, NULL, 0));
    n = find_word(r, parent, w.text, w.len);
    if (n || !table_room(r))
        return n;
    n = node_new(parent, NODE_WORD, w.text, w.len);
    if (!n)
        return NULL;
    n->hashed = word_hash(r, parent, w.text, w.len);
    table_put(r->table, r->table_mask, n);
    r->table_count++;
    return n;
}

/* Remove the node and its ancestors while they carry nothing. */
static void node_prune(struct router *r, struct router_node *n)
{
    while (n->kind != NODE_ROOT && n->count == 0 && n->children == 0) {
        struct router_node *parent = n->parent;

        if (n->kind == NODE_WORD)
            table_take(r, n);
        else if (n->kind == NODE_STAR)
            parent->star = NULL;
        else
            parent->hash = NULL;
        parent->children--;
        free(n->entries);
        free(n);
        n = parent;
    }
}

static bool node_add(struct router_node *n, struct router_entry *e)
{
    if (n->count == n->cap) {
        uint32_t cap = n->cap ? n->cap * 2 : 1;
        struct router_entry **entries = realloc(n->entries, cap * sizeof(struct router_entry *));

        if (!entries)
            return false;
        n->entries = entries;
        n->cap = cap;
    }
    e->node = n;
    e->index = n->count;
    n->entries[n->count++] = e;
    return true;
}

/* A row of wildcards matches as many words as it has "*", or more if there is a "#" in it: write it as the
 * "*" and then one "#". So "#.*.#.*" and all its kin are one path of the trie, and no more than one node for
 * each word of the key (and its "#") can be reached on any path. */
static size_t canonical(struct topic_word *words, size_t n)
{
    size_t out = 0;

    for (size_t i = 0; i < n;) {
        bool hash = false;

        for (; i < n && (topic_is_star(words[i]) || topic_is_hash(words[i])); i++) {
            if (topic_is_hash(words[i]))
                hash = true;
            else
                words[out++] = words[i];
        }
        if (hash)
            words[out++] = (struct topic_word){"#", 1};
        if (i < n)
            words[out++] = words[i++];
    }
    return out;
}

int router_add(struct router *r, const char *pattern, size_t len, struct router_entry *e)
{
    struct topic_word words[TOPIC_WORDS_MAX];
    size_t n = canonical(words, topic_split(pattern, len, words));
    struct router_node *node = r->root;

    assert(!e->node);
    for (size_t i = 0; i < n; i++) {
        struct router_node *child = child_get(r, node, words[i]);

        if (!child) {
            node_prune(r, node);
            return -ENOMEM;
        }
        node = child;
    }
    if (!node_add(node, e)) {
        node_prune(r, node);
        return -ENOMEM;
    }
    r->entries++;
    return 0;
}

void router_remove(struct router *r, struct router_entry *e)
{
    struct router_node *n = e->node;

    if (!n)
        return;
    assert(n->entries[e->index] == e);
    n->entries[e->index] = n->entries[--n->count];
    n->entries[e->index]->index = e->index;
    e->node = NULL;
    r->entries--;
    node_prune(r, n);
}

static bool set_add(struct node_set *set, struct router_node *n)
{
    if (set->count == set->cap) {
        size_t cap = set->cap ? set->cap * 2 : 32;
        struct router_node **at = realloc(set->at, cap * sizeof(struct router_node *));

        if (!at)
            return false;
        set->at = at;
        set->cap = cap;
    }
    set->at[set->count++] = n;
    return true;
}

/* Put the node into the set, and with it what "#" children match with no word at all. */
static bool meet(struct router *r, struct node_set *set, struct router_node *n)
{
    for (; n && n->stamp != r->step; n = n->hash) {
        n->stamp = r->step;
        if (!set_add(set, n))
            return false;
    }
    return true;
}

/* From the nodes in `now`, over one word, to those in `next`. */
static bool step(struct router *r, struct topic_word w)
{
    r->step++;
    r->next.count = 0;
    for (size_t i = 0; i < r->now.count; i++) {
        struct router_node *n = r->now.at[i];

        if (n->kind == NODE_HASH && !meet(r, &r->next, n))
            return false;
        if (n->children == 0)
            continue;
        if (n->star && !meet(r, &r->next, n->star))
            return false;
        if (!meet(r, &r->next, find_word(r, n, w.text, w.len)))
            return false;
    }
    return true;
}

int router_match(struct router *r, const char *key, size_t len, router_deliver_cb *deliver, void *user)
{
    struct topic_word words[TOPIC_WORDS_MAX];
    size_t n = topic_split(key, len, words);

    r->step++;
    r->now.count = 0;
    if (!meet(r, &r->now, r->root))
        return -ENOMEM;
    for (size_t i = 0; i < n && r->now.count > 0; i++) {
        struct node_set swap;

        r->met += r->now.count;
        if (!step(r, words[i]))
            return -ENOMEM;
        swap = r->now;
        r->now = r->next;
        r->next = swap;
    }
    r->met += r->now.count;
    for (size_t i = 0; i < r->now.count; i++) {
        const struct router_node *node = r->now.at[i];

        for (uint32_t k = 0; k < node->count; k++)
            deliver(user, node->entries[k]);
    }
    return 0;
}
