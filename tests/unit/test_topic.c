#include "shared/topic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static bool match(const char *pattern, const char *key)
{
    return topic_match(pattern, strlen(pattern), key, strlen(key));
}

/* The definition, word for word; exponential, for short texts only. */
static bool naive(const struct topic_word *p, size_t pn, const struct topic_word *k, size_t kn)
{
    if (pn == 0)
        return kn == 0;
    if (topic_is_hash(p[0]))
        return naive(p + 1, pn - 1, k, kn) || (kn > 0 && naive(p, pn, k + 1, kn - 1));
    if (kn == 0)
        return false;
    if (!topic_is_star(p[0]) && (p[0].len != k[0].len || memcmp(p[0].text, k[0].text, p[0].len) != 0))
        return false;
    return naive(p + 1, pn - 1, k + 1, kn - 1);
}

static bool naive_match(const char *pattern, const char *key)
{
    struct topic_word p[TOPIC_WORDS_MAX], k[TOPIC_WORDS_MAX];
    size_t pn = topic_split(pattern, strlen(pattern), p), kn = topic_split(key, strlen(key), k);

    return naive(p, pn, k, kn);
}

/* All texts of at most `words` words over the alphabet: a list of NUL-terminated texts to free. */
struct texts {
    char (*text)[16];
    size_t count;
};

static struct texts texts_of(const char *const *alphabet, size_t letters, size_t words)
{
    struct texts t = {0};
    size_t all = 1, power = 1;

    for (size_t n = 1; n <= words; n++)
        all += power *= letters;
    t.text = calloc(all, sizeof(*t.text));
    assert_non_null(t.text);
    t.count = 1; /* the empty text */
    power = 1;
    for (size_t n = 1; n <= words; n++) {
        power *= letters;
        for (size_t code = 0; code < power; code++) {
            char *out = t.text[t.count];
            size_t rest = code;

            for (size_t i = 0; i < n; i++, rest /= letters) {
                if (i)
                    strcat(out, ".");
                strcat(out, alphabet[rest % letters]);
            }
            t.count++;
        }
    }
    return t;
}

static void split_knows_empty_texts_and_empty_words(void **state)
{
    struct topic_word w[TOPIC_WORDS_MAX];
    char dots[TOPIC_MAX];

    (void)state;
    assert_int_equal(topic_split("", 0, w), 0);
    assert_int_equal(topic_split(NULL, 0, w), 0);
    assert_int_equal(topic_split(".", 1, w), 2);
    assert_int_equal(w[0].len, 0);
    assert_int_equal(w[1].len, 0);
    assert_int_equal(topic_split("a..bc", 5, w), 3);
    assert_int_equal(w[1].len, 0);
    assert_memory_equal(w[2].text, "bc", 2);
    memset(dots, '.', sizeof(dots));
    assert_int_equal(topic_split(dots, sizeof(dots), w), TOPIC_WORDS_MAX);
}

static void patterns_match_as_the_reference_was_seen_to(void **state)
{
    (void)state;
    /* The recorded case pattern_star_hash of the original. */
    assert_true(match("a.*.c", "a.b.c"));
    assert_false(match("a.*.c", "a.c"));
    assert_false(match("a.*.c", "a.b.b.c"));
    assert_true(match("h.#", "h"));
    assert_true(match("h.#", "h.x.y"));
    assert_false(match("h.#", "hh"));
    assert_true(match("#.tail", "tail"));
    assert_true(match("#.tail", "x.y.tail"));
    assert_true(match("p*", "p*"));
    assert_false(match("p*", "pq"));
}

static void corners_match_as_in_rabbitmq(void **state)
{
    (void)state;
    assert_true(match("", ""));
    assert_false(match("", "."));
    assert_false(match("*", ""));
    assert_true(match("#", ""));
    assert_true(match("#.#", ""));
    assert_true(match("*", "*"));
    assert_true(match("#", "#"));
    assert_true(match("*.", "a."));
    assert_false(match("*.", "a"));
    assert_true(match(".", "."));
    assert_true(match("*.*", "."));
    assert_true(match("#.", "."));
    assert_true(match("#.*.#", "a"));
    assert_false(match("#.*.#", ""));
    assert_true(match("a.#.b.#.c", "a.x.b.y.b.c"));
    assert_false(match("a.#.b.#.c", "a.x.c"));
    assert_true(topic_match("a\0b.*", 5, "a\0b.\xff", 5));
    assert_false(topic_match("a\0b.*", 5, "a\0c.\xff", 5));
}

static void every_short_pattern_matches_as_defined(void **state)
{
    static const char *const pattern_words[] = {"a", "b", "", "*", "#"};
    static const char *const key_words[] = {"a", "b", "", "*"};
    struct texts patterns = texts_of(pattern_words, 5, 4), keys = texts_of(key_words, 4, 4);

    (void)state;
    for (size_t p = 0; p < patterns.count; p++) {
        for (size_t k = 0; k < keys.count; k++) {
            if (match(patterns.text[p], keys.text[k]) != naive_match(patterns.text[p], keys.text[k]))
                fail_msg("pattern \"%s\", key \"%s\"", patterns.text[p], keys.text[k]);
        }
    }
    free(patterns.text);
    free(keys.text);
}

static void hostile_pattern_of_255_bytes_is_cheap(void **state)
{
    char pattern[TOPIC_MAX], key[TOPIC_MAX];

    (void)state;
    /* #.a.#.a ... .b against a.a.a ... : RabbitMQ's own trie needs exponential time for this. */
    for (size_t i = 0; i < TOPIC_MAX; i++) {
        pattern[i] = i % 2 ? '.' : i % 4 ? 'a' : '#';
        key[i] = i % 2 ? '.' : 'a';
    }
    pattern[TOPIC_MAX - 1] = 'b';
    for (int i = 0; i < 1000; i++)
        assert_false(topic_match(pattern, TOPIC_MAX, key, TOPIC_MAX));
    key[TOPIC_MAX - 1] = 'b';
    assert_true(topic_match(pattern, TOPIC_MAX, key, TOPIC_MAX));
}

static void literal_prefix_ends_before_the_first_wildcard(void **state)
{
    static const struct {
        const char *pattern;
        size_t prefix;
    } cases[] = {{"task.5f.#", 7}, {"task.*.x", 4}, {"#", 0},    {"a.b", 3}, {"", 0},   {"*", 0},
                 {".#", 0},        {"a..#", 2},     {"a*.#", 2}, {".", 1},   {"..*", 1}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(topic_literal_prefix(cases[i].pattern, strlen(cases[i].pattern)), cases[i].prefix);
}

static void key_prefixes_are_distinct_and_grow(void **state)
{
    uint8_t lens[TOPIC_WORDS_MAX + 1];
    char dots[TOPIC_MAX];

    (void)state;
    assert_int_equal(topic_key_prefixes("a.b", 3, lens), 3);
    assert_memory_equal(lens, ((uint8_t[]){0, 1, 3}), 3);
    assert_int_equal(topic_key_prefixes("", 0, lens), 1);
    assert_int_equal(lens[0], 0);
    assert_int_equal(topic_key_prefixes(".", 1, lens), 2);
    assert_int_equal(lens[1], 1);
    assert_int_equal(topic_key_prefixes(".a", 2, lens), 2);
    assert_int_equal(lens[1], 2);
    assert_int_equal(topic_key_prefixes("a..b", 4, lens), 4);
    assert_memory_equal(lens, ((uint8_t[]){0, 1, 2, 4}), 4);
    memset(dots, '.', sizeof(dots));
    assert_int_equal(topic_key_prefixes(dots, sizeof(dots), lens), TOPIC_WORDS_MAX);
    assert_int_equal(lens[TOPIC_WORDS_MAX - 1], TOPIC_MAX);
}

/* What routing stands on: whoever listens on the literal prefix of a pattern hears every key that it matches.
 */
static void every_matching_key_is_published_to_the_pattern_s_prefix(void **state)
{
    static const char *const pattern_words[] = {"a", "", "*", "#"};
    static const char *const key_words[] = {"a", "", "b"};
    struct texts patterns = texts_of(pattern_words, 4, 4), keys = texts_of(key_words, 3, 5);
    size_t matches = 0;

    (void)state;
    for (size_t p = 0; p < patterns.count; p++) {
        size_t prefix = topic_literal_prefix(patterns.text[p], strlen(patterns.text[p]));

        for (size_t k = 0; k < keys.count; k++) {
            uint8_t lens[TOPIC_WORDS_MAX + 1];
            size_t n;

            if (!match(patterns.text[p], keys.text[k]))
                continue;
            matches++;
            assert_memory_equal(keys.text[k], patterns.text[p], prefix);
            n = topic_key_prefixes(keys.text[k], strlen(keys.text[k]), lens);
            assert_non_null(memchr(lens, (int)prefix, n));
        }
    }
    assert_true(matches > 1000);
    free(patterns.text);
    free(keys.text);
}

static void words_are_fixed_until_a_hash(void **state)
{
    struct topic_word w;
    const char *p = "task.*.x.#.y";

    (void)state;
    assert_true(topic_fixed_word(p, strlen(p), 0, &w));
    assert_int_equal(w.len, 4);
    assert_memory_equal(w.text, "task", 4);
    assert_false(topic_fixed_word(p, strlen(p), 1, &w));
    assert_true(topic_fixed_word(p, strlen(p), 2, &w));
    assert_memory_equal(w.text, "x", 1);
    assert_false(topic_fixed_word(p, strlen(p), 3, &w));
    assert_false(topic_fixed_word(p, strlen(p), 4, &w));
    assert_false(topic_fixed_word(p, strlen(p), 5, &w));
    assert_false(topic_fixed_word("", 0, 0, &w));
    assert_true(topic_fixed_word(".", 1, 1, &w));
    assert_int_equal(w.len, 0);
    assert_true(topic_fixed_word("p*", 2, 0, &w));
}

static enum topic_cover cover(const char *when, const char *pattern)
{
    return topic_cover(when, strlen(when), pattern, strlen(pattern));
}

static void cover_answers_the_rules_that_people_write(void **state)
{
    (void)state;
    assert_int_equal(cover("na.#", "na.5"), TOPIC_ALL);
    assert_int_equal(cover("na.#", "na.#"), TOPIC_ALL);
    assert_int_equal(cover("na.#", "na"), TOPIC_ALL);
    assert_int_equal(cover("na.#", "59.#"), TOPIC_NONE);
    assert_int_equal(cover("na.#", "#"), TOPIC_SOME);
    assert_int_equal(cover("na.#", "*.5"), TOPIC_SOME);
    assert_int_equal(cover("dataset.*.*.*.#", "dataset.a.b.c"), TOPIC_ALL);
    assert_int_equal(cover("dataset.*.*.*.#", "dataset.a.b"), TOPIC_NONE);
    assert_int_equal(cover("dataset.*.*.*.#", "dataset.a.#"), TOPIC_SOME);
    assert_int_equal(cover("dataset.*.*.*.#", "dataset.#.a.b.c"), TOPIC_ALL);
    assert_int_equal(cover("#", ""), TOPIC_ALL);
    assert_int_equal(cover("", "#"), TOPIC_SOME);
    assert_int_equal(cover("#.a.#", "*.a"), TOPIC_ALL);
    assert_int_equal(cover("*.#", "#"), TOPIC_SOME); /* the empty key */
    assert_int_equal(cover("#.*", "*.#"), TOPIC_ALL);
}

/* Every pair of patterns of up to three words, against all keys of up to six words: a difference, if
 * there is one, shows in a key of that length. The last column is the key whose only word is empty: no text
 * says it, and topic_cover counts it. */
static void cover_equals_brute_force(void **state)
{
    static const char *const pattern_words[] = {"a", "b", "", "*", "#"};
    static const char *const key_words[] = {"a", "b", "", "z"};
    static const struct topic_word empty = {.text = ""};
    struct texts patterns = texts_of(pattern_words, 5, 3), keys = texts_of(key_words, 4, 6);
    size_t columns = keys.count + 1, seen[3] = {0};
    uint8_t *table = calloc(patterns.count, columns);

    (void)state;
    assert_non_null(table);
    for (size_t p = 0; p < patterns.count; p++) {
        struct topic_word words[TOPIC_WORDS_MAX];
        size_t n = topic_split(patterns.text[p], strlen(patterns.text[p]), words);

        for (size_t k = 0; k < keys.count; k++)
            table[p * columns + k] = match(patterns.text[p], keys.text[k]);
        table[p * columns + keys.count] = naive(words, n, &empty, 1);
    }
    for (size_t w = 0; w < patterns.count; w++) {
        for (size_t p = 0; p < patterns.count; p++) {
            const uint8_t *in_when = table + w * columns, *in_pattern = table + p * columns;
            unsigned both = 0, only = 0;
            enum topic_cover expect, got = cover(patterns.text[w], patterns.text[p]);

            for (size_t k = 0; k < columns; k++) {
                both |= (unsigned)(in_pattern[k] & in_when[k]);
                only |= (unsigned)(in_pattern[k] & ~in_when[k]);
            }
            expect = !both ? TOPIC_NONE : !only ? TOPIC_ALL : TOPIC_SOME;
            if (got != expect)
                fail_msg("when \"%s\", pattern \"%s\": %d, not %d", patterns.text[w], patterns.text[p],
                         (int)got, (int)expect);
            seen[got]++;
        }
    }
    assert_true(seen[TOPIC_NONE] > 100 && seen[TOPIC_ALL] > 100 && seen[TOPIC_SOME] > 100);
    free(table);
    free(patterns.text);
    free(keys.text);
}

static void cover_gives_up_in_bounded_time(void **state)
{
    char when[TOPIC_MAX], pattern[TOPIC_MAX];

    (void)state;
    /* "#.a.*.*.*...": the set of its positions has one value per subset of the last hundred words. */
    for (size_t i = 0; i < TOPIC_MAX; i++) {
        when[i] = i % 2 ? '.' : '*';
        pattern[i] = i % 2 ? '.' : '#';
    }
    when[0] = '#';
    when[2] = 'a';
    assert_int_equal(topic_cover(when, TOPIC_MAX, pattern, TOPIC_MAX), TOPIC_SOME);
    assert_int_equal(topic_cover(when, TOPIC_MAX, "#.a.#", 5), TOPIC_SOME);
    /* Long is not hard: equal patterns of the largest size are decided. */
    assert_int_equal(topic_cover(pattern, TOPIC_MAX, pattern, TOPIC_MAX), TOPIC_ALL);
    when[0] = '*';
    assert_int_equal(topic_cover(when, TOPIC_MAX, when, TOPIC_MAX), TOPIC_ALL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_knows_empty_texts_and_empty_words),
        cmocka_unit_test(patterns_match_as_the_reference_was_seen_to),
        cmocka_unit_test(corners_match_as_in_rabbitmq),
        cmocka_unit_test(every_short_pattern_matches_as_defined),
        cmocka_unit_test(hostile_pattern_of_255_bytes_is_cheap),
        cmocka_unit_test(literal_prefix_ends_before_the_first_wildcard),
        cmocka_unit_test(key_prefixes_are_distinct_and_grow),
        cmocka_unit_test(every_matching_key_is_published_to_the_pattern_s_prefix),
        cmocka_unit_test(words_are_fixed_until_a_hash),
        cmocka_unit_test(cover_answers_the_rules_that_people_write),
        cmocka_unit_test(cover_equals_brute_force),
        cmocka_unit_test(cover_gives_up_in_bounded_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
