/* The router against topic_match, which is tested against RabbitMQ itself. */
#include "gateway/router.h"

#include "shared/topic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ENTRIES = 400 };

struct listener {
    struct router_entry entry;
    char pattern[TOPIC_MAX + 1];
    size_t len;
    unsigned got;
};

static void on_deliver(void *user, struct router_entry *e)
{
    ++*(unsigned *)user;
    container_of(e, struct listener, entry)->got++;
}

static void listen_to(struct router *r, struct listener *l, const char *pattern)
{
    *l = (struct listener){.len = strlen(pattern)};
    assert_true(l->len <= TOPIC_MAX);
    memcpy(l->pattern, pattern, l->len + 1);
    assert_int_equal(router_add(r, pattern, l->len, &l->entry), 0);
}

static unsigned route(struct router *r, const char *key)
{
    unsigned delivered = 0;

    assert_int_equal(router_match(r, key, strlen(key), on_deliver, &delivered), 0);
    return delivered;
}

/* --- against brute force -----------------------------------------------------------------------------------
 */

static size_t random_topic(char *out, bool pattern)
{
    static const char *const words[] = {"a", "b", "", "ab", "p*", "*", "#", "*", "#"};
    size_t count = (size_t)rand() % 7, len = 0;

    for (size_t i = 0; i < count; i++) {
        const char *word = words[(size_t)rand() % (pattern ? ARRAY_LEN(words) : 5)];

        if (i > 0)
            out[len++] = '.';
        memcpy(out + len, word, strlen(word));
        len += strlen(word);
    }
    out[len] = '\0';
    return len;
}

static void check_against_topic_match(struct router *r, struct listener *all, const char *key, size_t key_len)
{
    unsigned delivered = 0, expected = 0;

    assert_int_equal(router_match(r, key, key_len, on_deliver, &delivered), 0);
    for (size_t i = 0; i < ENTRIES; i++) {
        struct listener *l = &all[i];
        unsigned wanted = l->entry.node && topic_match(l->pattern, l->len, key, key_len) ? 1 : 0;

        if (l->got != wanted)
            fail_msg("pattern \"%s\" got key \"%s\" %u times instead of %u", l->pattern, key, l->got, wanted);
        expected += wanted;
        l->got = 0;
    }
    assert_int_equal(delivered, expected);
}

static void it_agrees_with_topic_match_while_entries_come_and_go(void **state)
{
    struct router *r = router_new();
    struct listener *all = calloc(ENTRIES, sizeof(*all));
    size_t in = 0;
    char key[64];

    (void)state;
    assert_non_null(r);
    assert_non_null(all);
    srand(1);
    for (int round = 0; round < 20000; round++) {
        struct listener *l = &all[rand() % ENTRIES];

        if (l->entry.node) {
            router_remove(r, &l->entry);
            assert_null(l->entry.node);
            in--;
        } else {
            l->len = random_topic(l->pattern, true);
            assert_int_equal(router_add(r, l->pattern, l->len, &l->entry), 0);
            in++;
        }
        assert_int_equal(router_size(r), in);
        if (round % 10 == 0)
            check_against_topic_match(r, all, key, random_topic(key, false));
    }
    for (size_t i = 0; i < ENTRIES; i++)
        router_remove(r, &all[i].entry);
    assert_int_equal(router_size(r), 0);
    router_free(r); /* asserts that no node is left */
    free(all);
}

static void many_words_are_found_again_after_the_table_has_grown(void **state)
{
    enum { WORDS = 5000 };
    struct router *r = router_new();
    struct listener *all = calloc(WORDS, sizeof(*all));
    char text[32];

    (void)state;
    assert_non_null(all);
    for (int i = 0; i < WORDS; i++) {
        snprintf(text, sizeof(text), "task.%d.#", i);
        listen_to(r, &all[i], text);
    }
    /* Every second goes, and leaves no hole in which another is lost. */
    for (int i = 0; i < WORDS; i += 2)
        router_remove(r, &all[i].entry);
    for (int i = 0; i < WORDS; i++) {
        snprintf(text, sizeof(text), "task.%d.x", i);
        assert_int_equal(route(r, text), i % 2);
        assert_int_equal(all[i].got, i % 2);
        router_remove(r, &all[i].entry);
    }
    assert_int_equal(router_size(r), 0);
    router_free(r);
    free(all);
}

/* --- single cases
 * -------------------------------------------------------------------------------------------- */

static void each_entry_gets_one_copy_however_many_ways_match(void **state)
{
    struct router *r = router_new();
    struct listener l[6];

    (void)state;
    listen_to(r, &l[0], "#");
    listen_to(r, &l[1], "#.#");
    listen_to(r, &l[2], "a.#.#.b");
    listen_to(r, &l[3], "#.a.#");
    listen_to(r, &l[4], "a.a.b");
    listen_to(r, &l[5], "a.a.b");
    assert_int_equal(route(r, "a.a.b"), 6);
    for (size_t i = 0; i < ARRAY_LEN(l); i++) {
        assert_int_equal(l[i].got, 1);
        router_remove(r, &l[i].entry);
    }
    router_free(r);
}

static void the_empty_key_and_empty_words_are_keys_like_others(void **state)
{
    struct router *r = router_new();
    struct listener empty, hash, star, two;

    (void)state;
    listen_to(r, &empty, "");
    listen_to(r, &hash, "#");
    listen_to(r, &star, "*");
    listen_to(r, &two, ".");
    assert_int_equal(route(r, ""), 2);
    assert_int_equal(empty.got + hash.got, 2);
    assert_int_equal(route(r, "."), 2);
    assert_int_equal(two.got, 1);
    assert_int_equal(route(r, "a"), 2);
    assert_int_equal(star.got, 1);
    router_remove(r, &empty.entry);
    router_remove(r, &hash.entry);
    router_remove(r, &star.entry);
    router_remove(r, &two.entry);
    router_free(r);
}

static void the_longest_pattern_is_routed(void **state)
{
    struct router *r = router_new();
    char word[TOPIC_MAX + 1], dots[TOPIC_MAX + 1];
    struct listener a, b;

    (void)state;
    memset(word, 'w', TOPIC_MAX);
    memset(dots, '.', TOPIC_MAX);
    word[TOPIC_MAX] = dots[TOPIC_MAX] = '\0';
    listen_to(r, &a, word);
    listen_to(r, &b, dots);
    assert_int_equal(route(r, word), 1);
    assert_int_equal(route(r, dots), 1);
    assert_int_equal(a.got + b.got, 2);
    router_remove(r, &a.entry);
    router_remove(r, &b.entry);
    router_free(r);
}

static void removing_what_is_in_no_router_does_nothing(void **state)
{
    struct router *r = router_new();
    struct router_entry e = {0};

    (void)state;
    router_remove(r, &e);
    assert_int_equal(router_size(r), 0);
    router_free(r);
    router_free(NULL);
}

/* --- cost
 * ---------------------------------------------------------------------------------------------------- */

static uint64_t cost(struct router *r, const char *key)
{
    uint64_t before = router_met(r);

    (void)route(r, key);
    return router_met(r) - before;
}

/* "x" repeated, split by dots: what fits into TOPIC_MAX. */
static void repeat(char *out, const char *unit)
{
    size_t len = 0, n = strlen(unit);

    while (len + n <= TOPIC_MAX) {
        memcpy(out + len, unit, n);
        len += n;
    }
    out[out[len - 1] == '.' ? len - 1 : len] = '\0';
}

static void patterns_of_many_wildcards_cost_no_more_than_the_words_of_the_key(void **state)
{
    static const char *const units[] = {"#.", "*.#.", "#.*.", "#.#.*."};
    struct router *r = router_new();
    struct listener l[ARRAY_LEN(units)];
    char text[TOPIC_MAX + 1];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        repeat(text, units[i]);
        listen_to(r, &l[i], text);
    }
    /* At most two nodes per word of the key on the one path that all of them are. */
    assert_in_range(cost(r, "a.b.c.d"), 1, 5 * 10);
    repeat(text, "a.");
    assert_in_range(cost(r, text), 1, 129 * 258);
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        router_remove(r, &l[i].entry);
    router_free(r);
}

/* Each of these has its stars at other places between its hashes: as written, 127 nodes of its own. */
static void a_session_full_of_wildcard_patterns_costs_no_more_than_one(void **state)
{
    enum { COUNT = 256 };
    struct router *r = router_new();
    struct listener *l = calloc(COUNT, sizeof(*l));
    char text[TOPIC_MAX + 1];

    (void)state;
    assert_non_null(l);
    srand(7);
    for (int i = 0; i < COUNT; i++) {
        repeat(text, "#.");
        for (int stars = 0; stars < 3; stars++)
            text[rand() % 127 * 2] = '*';
        listen_to(r, &l[i], text);
    }
    assert_in_range(cost(r, "a.b.c.d"), 1, 60);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(l[i].got, 1);
        router_remove(r, &l[i].entry);
    }
    router_free(r);
    free(l);
}

static void words_between_hashes_cost_what_the_key_holds_of_them(void **state)
{
    struct router *r = router_new();
    struct listener l;
    char text[TOPIC_MAX + 1];

    (void)state;
    repeat(text, "#.a.");
    listen_to(r, &l, text);
    assert_in_range(cost(r, "a.a.a.a"), 1, 5 * 10);
    assert_in_range(cost(r, "b.b.b.b"), 1, 5 * 2);
    repeat(text, "a.");
    assert_in_range(cost(r, text), 1, 129 * 258);
    assert_int_equal(l.got, 1);
    router_remove(r, &l.entry);
    router_free(r);
}

/* Bindings that do not match cost nothing, however many there are. */
static void the_cost_does_not_grow_with_other_sessions_bindings(void **state)
{
    enum { COUNT = 10000 };
    struct router *r = router_new();
    struct listener *l = calloc(COUNT, sizeof(*l));
    char text[32];

    (void)state;
    assert_non_null(l);
    for (int i = 0; i < COUNT; i++) {
        snprintf(text, sizeof(text), "instance.%d.#", i);
        listen_to(r, &l[i], text);
    }
    assert_in_range(cost(r, "instance.77.task.finished"), 1, 12);
    assert_int_equal(l[77].got, 1);
    for (int i = 0; i < COUNT; i++)
        router_remove(r, &l[i].entry);
    router_free(r);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_agrees_with_topic_match_while_entries_come_and_go),
        cmocka_unit_test(many_words_are_found_again_after_the_table_has_grown),
        cmocka_unit_test(each_entry_gets_one_copy_however_many_ways_match),
        cmocka_unit_test(the_empty_key_and_empty_words_are_keys_like_others),
        cmocka_unit_test(the_longest_pattern_is_routed),
        cmocka_unit_test(removing_what_is_in_no_router_does_nothing),
        cmocka_unit_test(patterns_of_many_wildcards_cost_no_more_than_the_words_of_the_key),
        cmocka_unit_test(a_session_full_of_wildcard_patterns_costs_no_more_than_one),
        cmocka_unit_test(words_between_hashes_cost_what_the_key_holds_of_them),
        cmocka_unit_test(the_cost_does_not_grow_with_other_sessions_bindings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
