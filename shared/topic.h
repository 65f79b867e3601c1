/* topic.h - AMQP topic patterns, with RabbitMQ's semantics in every case.
 *
 * A routing key is words split by '.'; the empty key has no words at all, "." has two empty ones. In a
 * pattern a word "*" stands for one word, "#" for zero or more; "p*" is a literal word
 * (AMQP 0-9-1, 3.1.3.3; RabbitMQ's rabbit_exchange_type_topic for the corners). Keys and patterns are
 * bytes of any value. No text given here is longer than TOPIC_MAX: that is asserted, so texts from outside
 * are measured before. */
#ifndef EF_TOPIC_H
#define EF_TOPIC_H

#include "shared/util.h"

#include <stdbool.h>

/* Longest pattern or routing key, bytes: AMQP carries it as a short string (AMQP 0-9-1, 4.2.5.3). */
enum { TOPIC_MAX = 255, TOPIC_WORDS_MAX = TOPIC_MAX + 1 };

struct topic_word {
    const char *text; /* into the key or pattern; not NUL-terminated */
    uint8_t len;
};

/* Split into words. Returns the number of words (0 for the empty text). */
size_t topic_split(const char *text, size_t len, struct topic_word words[TOPIC_WORDS_MAX]);

static inline bool topic_is_star(struct topic_word w)
{
    return w.len == 1 && w.text[0] == '*';
}
static inline bool topic_is_hash(struct topic_word w)
{
    return w.len == 1 && w.text[0] == '#';
}

/* Does the pattern match the key? Cost: at most words(pattern) * words(key). */
bool topic_match(const char *pattern, size_t pattern_len, const char *key, size_t key_len);

/* Length in bytes of the pattern's literal prefix: its words before the first "*" or "#", joined
 * ("task.5f.#" -> 7, "task.*.x" -> 4, "#" -> 0, "a.b" -> 3). It names the channel to listen on. */
size_t topic_literal_prefix(const char *pattern, size_t len);

/* Lengths of the distinct prefixes of a routing key, shortest first, always beginning with 0:
 * "a.b" -> 0, 1, 3. Returns their number. The event goes to the channel of each. */
size_t topic_key_prefixes(const char *key, size_t len, uint8_t lens[TOPIC_WORDS_MAX + 1]);

/* How do the keys that `pattern` can match lie in those that `when` can match? */
enum topic_cover {
    TOPIC_NONE, /* no key matches both */
    TOPIC_ALL,  /* every key of the pattern is one of `when` */
    TOPIC_SOME, /* some are; also the answer where deciding would cost too much */
};
enum topic_cover topic_cover(const char *when, size_t when_len, const char *pattern, size_t pattern_len);

/* The n-th word (from 0) of the pattern, if the pattern fixes it: it is literal, and no "#" stands
 * before it. Returns false otherwise. */
bool topic_fixed_word(const char *pattern, size_t len, size_t n, struct topic_word *ret_word);

#endif
