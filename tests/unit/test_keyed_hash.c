#include "gateway/keyed_hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { KEYS = 20000, BUCKETS = 4096 };

static void the_key_of_the_process_stays(void **state)
{
    (void)state;
    assert_true(keyed_hash_key() != 0);
    assert_true(keyed_hash_key() == keyed_hash_key());
}

static void every_byte_and_the_length_count(void **state)
{
    unsigned char bytes[64] = {0};

    (void)state;
    for (size_t len = 0; len < sizeof(bytes); len++) {
        uint32_t plain = keyed_hash(7, bytes, len);

        assert_true(plain == keyed_hash(7, bytes, len));
        assert_true(plain != keyed_hash(7, bytes, len + 1));
        assert_true(plain != keyed_hash(8, bytes, len));
        for (size_t i = 0; i < len; i++) {
            bytes[i] = 1;
            assert_true(plain != keyed_hash(7, bytes, len));
            bytes[i] = 0;
        }
    }
}

/* Keys that share a bucket under one key of the hash are spread under another. */
static void what_collides_under_one_key_is_spread_under_another(void **state)
{
    static uint16_t full[BUCKETS];
    unsigned colliding = 0, most = 0;

    (void)state;
    for (unsigned i = 0; colliding < KEYS / 10; i++) {
        uint32_t bucket;

        if (keyed_hash(7, &i, sizeof(i)) % 64 != 0)
            continue;
        colliding++;
        bucket = keyed_hash(8, &i, sizeof(i)) % BUCKETS;
        full[bucket]++;
        if (full[bucket] > most)
            most = full[bucket];
    }
    assert_in_range(most, 1, 8);
}

static void counted_names_fall_evenly_into_buckets(void **state)
{
    static uint16_t full[BUCKETS];
    unsigned most = 0;

    (void)state;
    for (int i = 0; i < KEYS; i++) {
        char text[32];
        int n = snprintf(text, sizeof(text), "instance.%d", i);
        uint32_t bucket = keyed_hash(0x123456789abcdef, text, (size_t)n) % BUCKETS;

        full[bucket]++;
        if (full[bucket] > most)
            most = full[bucket];
    }
    assert_in_range(most, 5, 25); /* five on average */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_of_the_process_stays),
        cmocka_unit_test(every_byte_and_the_length_count),
        cmocka_unit_test(what_collides_under_one_key_is_spread_under_another),
        cmocka_unit_test(counted_names_fall_evenly_into_buckets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
