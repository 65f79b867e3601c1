/* topic.c - AMQP topic patterns.
 *
 * topic_match runs for every event and every binding that may want it, so it walks both texts in place:
 * no splitting, no memory. It is the classic walk for globs, on words: at a mismatch go back to the
 * latest "#" and let it take one word more. Only the latest one needs a second try, because whatever the
 * earlier ones could take, the latest can take as well; so the cost is words * words, never exponential
 * (RabbitMQ's own trie is exponential here, its answers are the same).
 *
 * topic_cover asks about all keys at once. It walks two automata side by side: the pattern's, one position
 * at a time, and that of `when` as the set of all its positions that the same words lead to. Wherever the
 * pattern is at its end, some key ends, and `when` accepts it or does not. The only words worth trying
 * are the literal words of `when` and one that it does not hold. It counts one key too many: the key whose
 * only word is empty, which cannot be written (the empty text has no words). Where that alone makes a
 * difference ("*" against "#.") the answer is TOPIC_SOME, which is the safe one.
 *
 * Failures: topic_cover gives up after COVER_STEPS_MAX steps or COVER_STATES_MAX states, and without memory,
 * and says TOPIC_SOME; its caller takes that as a refusal. */
#include "shared/topic.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- words ---- */

/* A place in a text that is read word by word. Past the last word, `at` is len + 1. */
struct walk {
    const char *text;
    size_t len;
    size_t at;
    struct topic_word word; /* the word that begins at `at`, unless walk_is_over */
};

static bool walk_is_over(const struct walk *w)
{
    return w->at > w->len;
}

static void walk_load(struct walk *w)
{
    const char *dot;

    if (walk_is_over(w))
        return;
    dot = memchr(w->text + w->at, '.', w->len - w->at);
    w->word.text = w->text + w->at;
    w->word.len = (uint8_t)((dot ? dot : w->text + w->len) - w->word.text);
}

static void walk_begin(struct walk *w, const char *text, size_t len)
{
    assert(len <= TOPIC_MAX); /* a longer word would not fit into topic_word.len */
    /* The empty text has no words, which is the place behind its end. */
    *w = (struct walk){.text = len ? text : "", .len = len, .at = len ? 0 : 1};
    walk_load(w);
}

static void walk_next(struct walk *w)
{
    w->at += (size_t)w->word.len + 1;
    walk_load(w);
}

static bool word_equal(struct topic_word a, struct topic_word b)
{
    return a.len == b.len && memcmp(a.text, b.text, a.len) == 0;
}

static bool word_is_wild(struct topic_word w)
{
    return topic_is_star(w) || topic_is_hash(w);
}

size_t topic_split(const char *text, size_t len, struct topic_word words[TOPIC_WORDS_MAX])
{
    struct walk w;
    size_t n = 0;

    for (walk_begin(&w, text, len); !walk_is_over(&w); walk_next(&w))
        words[n++] = w.word;
    return n;
}

bool topic_match(const char *pattern, size_t pattern_len, const char *key, size_t key_len)
{
    struct walk p, k, hash_p, hash_k; /* hash_*: behind the latest "#", and where its next try begins */
    bool hash = false;

    walk_begin(&p, pattern, pattern_len);
    walk_begin(&k, key, key_len);
    for (;;) {
        if (!walk_is_over(&p) && topic_is_hash(p.word)) {
            walk_next(&p);
            if (walk_is_over(&p))
                return true;
            hash = true;
            hash_p = p;
            hash_k = k;
        } else if (walk_is_over(&k)) {
            /* More words for a "#" cannot help: the key has already ended too early. */
            return walk_is_over(&p);
        } else if (!walk_is_over(&p) && (topic_is_star(p.word) || word_equal(p.word, k.word))) {
            walk_next(&p);
            walk_next(&k);
        } else if (hash) {
            walk_next(&hash_k);
            p = hash_p;
            k = hash_k;
        } else {
            return false;
        }
    }
}

size_t topic_literal_prefix(const char *pattern, size_t len)
{
    struct walk w;
    size_t prefix = 0;

    for (walk_begin(&w, pattern, len); !walk_is_over(&w) && !word_is_wild(w.word); walk_next(&w))
        prefix = w.at + w.word.len;
    return prefix;
}

size_t topic_key_prefixes(const char *key, size_t len, uint8_t lens[TOPIC_WORDS_MAX + 1])
{
    struct walk w;
    size_t n = 0;

    lens[n++] = 0;
    for (walk_begin(&w, key, len); !walk_is_over(&w); walk_next(&w)) {
        size_t end = w.at + w.word.len;

        /* An empty first word adds no letter: its prefix is the one of no words. */
        if (end > 0)
            lens[n++] = (uint8_t)end;
    }
    return n;
}

bool topic_fixed_word(const char *pattern, size_t len, size_t n, struct topic_word *ret_word)
{
    struct walk w;

    for (walk_begin(&w, pattern, len); !walk_is_over(&w); walk_next(&w)) {
        if (topic_is_hash(w.word))
            return false;
        if (n-- > 0)
            continue;
        if (topic_is_star(w.word))
            return false;
        *ret_word = w.word;
        return true;
    }
    return false;
}

/* ---- topic_cover ---- */

enum {
    /* Of the walk: one step is one word tried from one state. A few microseconds for the patterns that
     * people write; some milliseconds at most. */
    COVER_STEPS_MAX = 20000,
    COVER_STATES_MAX = 4096,
    COVER_SLOTS = 2 * COVER_STATES_MAX, /* a power of two */
    POSITIONS = TOPIC_WORDS_MAX + 1,
    SET_WORDS = (POSITIONS + 63) / 64,
};

/* What a word of a pattern asks of a key's word: a wildcard, or the literal of that number. */
enum { SYMBOL_STAR = -1, SYMBOL_HASH = -2, SYMBOL_FRESH = TOPIC_WORDS_MAX };

struct position_set {
    uint64_t bits[SET_WORDS];
};

struct cover_state {
    struct position_set set; /* of `when`, closed over "#" */
    int at;                  /* of the pattern */
};

struct cover {
    int when[TOPIC_WORDS_MAX], pattern[TOPIC_WORDS_MAX]; /* symbols */
    int when_count, pattern_count;
    int literals[TOPIC_WORDS_MAX]; /* the distinct literal symbols of `when` */
    int literal_count;
    bool inside, outside; /* a key of the pattern was found in (outside of) `when` */
    bool gave_up;
    int steps, state_count;
    uint16_t slots[COVER_SLOTS]; /* hash table of states: index + 1 */
    struct cover_state states[COVER_STATES_MAX];
};

static void set_add(struct position_set *s, int i)
{
    s->bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool set_has(const struct position_set *s, int i)
{
    return s->bits[i / 64] >> (i % 64) & 1;
}

static bool set_is_empty(const struct position_set *s)
{
    uint64_t any = 0;

    for (int i = 0; i < SET_WORDS; i++)
        any |= s->bits[i];
    return any == 0;
}

/* Add position i of `when`, and those that a "#" there reaches with no word at all. */
static void cover_enter(const struct cover *c, struct position_set *s, int i)
{
    set_add(s, i);
    while (i < c->when_count && c->when[i] == SYMBOL_HASH)
        set_add(s, ++i);
}

static struct position_set cover_step(const struct cover *c, const struct position_set *from, int symbol)
{
    struct position_set to = {0};

    for (int w = 0; w < SET_WORDS; w++) {
        for (uint64_t bits = from->bits[w]; bits; bits &= bits - 1) {
            int i = w * 64 + __builtin_ctzll(bits);

            if (i == c->when_count)
                continue;
            if (c->when[i] == SYMBOL_HASH)
                cover_enter(c, &to, i);
            else if (c->when[i] == SYMBOL_STAR || c->when[i] == symbol)
                cover_enter(c, &to, i + 1);
        }
    }
    return to;
}

static bool state_equal(const struct cover_state *a, int at, const struct position_set *set)
{
    return a->at == at && memcmp(&a->set, set, sizeof(*set)) == 0;
}

/* Remember that the pair can be reached; what is behind it is looked at later, once. */
static void cover_visit(struct cover *c, int at, const struct position_set *set)
{
    uint64_t hash = (uint64_t)at * UINT64_C(0x9e3779b97f4a7c15);
    size_t slot;

    if (set_is_empty(set)) {
        /* `when` is lost, and the pattern has some key from every position. */
        c->outside = true;
        return;
    }
    for (int i = 0; i < SET_WORDS; i++) {
        hash = (hash ^ set->bits[i]) * UINT64_C(0xff51afd7ed558ccd);
        hash ^= hash >> 32;
    }
    for (slot = hash % COVER_SLOTS; c->slots[slot]; slot = (slot + 1) % COVER_SLOTS) {
        if (state_equal(&c->states[c->slots[slot] - 1], at, set))
            return;
    }
    if (c->state_count == COVER_STATES_MAX) {
        c->gave_up = true;
        return;
    }
    c->states[c->state_count] = (struct cover_state){.set = *set, .at = at};
    c->slots[slot] = (uint16_t)++c->state_count;
}

static void cover_try(struct cover *c, const struct cover_state *s, int symbol, int to)
{
    struct position_set set;

    if (c->steps++ == COVER_STEPS_MAX)
        c->gave_up = true;
    set = cover_step(c, &s->set, symbol);
    cover_visit(c, to, &set);
}

/* Everything that one more word of a key can do to this state. */
static void cover_look(struct cover *c, struct cover_state s)
{
    int symbol, to;

    if (s.at == c->pattern_count) {
        if (set_has(&s.set, c->when_count))
            c->inside = true;
        else
            c->outside = true;
        return;
    }
    symbol = c->pattern[s.at];
    if (symbol >= 0) {
        cover_try(c, &s, symbol, s.at + 1);
        return;
    }
    if (symbol == SYMBOL_HASH)
        cover_visit(c, s.at + 1, &s.set);
    to = symbol == SYMBOL_HASH ? s.at : s.at + 1;
    cover_try(c, &s, SYMBOL_FRESH, to);
    for (int i = 0; i < c->literal_count && !c->gave_up; i++)
        cover_try(c, &s, c->literals[i], to);
}

/* The symbol of a word: literals are numbered by their first place in `when`. */
static int cover_symbol(struct topic_word w, const struct topic_word *when, int count)
{
    if (topic_is_star(w))
        return SYMBOL_STAR;
    if (topic_is_hash(w))
        return SYMBOL_HASH;
    for (int i = 0; i < count; i++) {
        if (word_equal(w, when[i]))
            return i;
    }
    return SYMBOL_FRESH;
}

static void cover_read(struct cover *c, const char *when, size_t when_len, const char *pattern, size_t len)
{
    struct topic_word when_words[TOPIC_WORDS_MAX], pattern_words[TOPIC_WORDS_MAX];

    c->when_count = (int)topic_split(when, when_len, when_words);
    c->pattern_count = (int)topic_split(pattern, len, pattern_words);
    for (int i = 0; i < c->when_count; i++) {
        c->when[i] = cover_symbol(when_words[i], when_words, c->when_count);
        if (c->when[i] == i)
            c->literals[c->literal_count++] = i;
    }
    for (int i = 0; i < c->pattern_count; i++)
        c->pattern[i] = cover_symbol(pattern_words[i], when_words, c->when_count);
}

enum topic_cover topic_cover(const char *when, size_t when_len, const char *pattern, size_t pattern_len)
{
    struct cover *c = malloc(sizeof(*c));
    struct position_set start = {0};
    enum topic_cover answer = TOPIC_SOME;

    if (!c)
        return TOPIC_SOME;
    memset(c, 0, offsetof(struct cover, states)); /* the states are many, and written before they are read */
    cover_read(c, when, when_len, pattern, pattern_len);
    cover_enter(c, &start, 0);
    cover_visit(c, 0, &start);
    for (int i = 0; i < c->state_count && !c->gave_up && !(c->inside && c->outside); i++)
        cover_look(c, c->states[i]);
    if (!c->gave_up && c->inside != c->outside)
        answer = c->inside ? TOPIC_ALL : TOPIC_NONE;
    free(c);
    return answer;
}
