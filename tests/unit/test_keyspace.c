/* The names in Redis: other processes, and other versions of this one, rely on every byte. */
#include "shared/keyspace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void assert_keys(const char *exchange, int partition, const char *const expected[5])
{
    CLEANUP(partition_keys_done) struct partition_keys k;

    assert_int_equal(partition_keys_init(&k, "event", exchange, partition), 0);
    assert_string_equal(k.log, expected[0]);
    assert_string_equal(k.meta, expected[1]);
    assert_string_equal(k.tick, expected[2]);
    assert_string_equal(k.channel, expected[3]);
    assert_string_equal(k.probe, expected[4]);
}

static void a_plain_exchange_stands_as_it_is(void **state)
{
    static const char *const names[] = {"event:{wf:0}:log", "event:{wf:0}:meta", "event:{wf:0}:tick",
                                        "event:{wf:0}:ch:", "event:{wf:0}:probe:"};

    (void)state;
    assert_keys("wf", 0, names);
}

static void dots_underscores_and_dashes_need_no_encoding(void **state)
{
    static const char *const names[] = {"event:{wf.task:0}:log", "event:{wf.task:0}:meta",
                                        "event:{wf.task:0}:tick",
                                        "event:{wf.task:0}:ch:", "event:{wf.task:0}:probe:"};
    static const char *const more[] = {"event:{a_B-9:12}:log", "event:{a_B-9:12}:meta",
                                       "event:{a_B-9:12}:tick",
                                       "event:{a_B-9:12}:ch:", "event:{a_B-9:12}:probe:"};

    (void)state;
    assert_keys("wf.task", 0, names);
    assert_keys("a_B-9", 12, more);
}

static void anything_else_is_percent_encoded_byte_by_byte(void **state)
{
    static const char *const names[] = {"event:{a%20b%2F%C3%BC%7B:0}:log", "event:{a%20b%2F%C3%BC%7B:0}:meta",
                                        "event:{a%20b%2F%C3%BC%7B:0}:tick", "event:{a%20b%2F%C3%BC%7B:0}:ch:",
                                        "event:{a%20b%2F%C3%BC%7B:0}:probe:"};

    (void)state;
    assert_keys("a b/\xC3\xBC{", 0, names);
}

static void names_that_look_alike_stay_apart(void **state)
{
    CLEANUP(partition_keys_done) struct partition_keys colon, percent;

    (void)state;
    assert_int_equal(partition_keys_init(&colon, "event", "wf:0}:log", 0), 0);
    assert_int_equal(partition_keys_init(&percent, "event", "wf%3A0}:log", 0), 0);
    assert_string_equal(colon.log, "event:{wf%3A0%7D%3Alog:0}:log");
    assert_string_equal(percent.log, "event:{wf%253A0%7D%3Alog:0}:log");
}

static void the_prefix_is_the_configured_one(void **state)
{
    CLEANUP(partition_keys_done) struct partition_keys k;

    (void)state;
    assert_int_equal(partition_keys_init(&k, "staging.event", "wf", 0), 0);
    assert_string_equal(k.log, "staging.event:{wf:0}:log");
}

static void the_encoding_takes_a_nul_byte(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};

    (void)state;
    keyspace_encode(&b, "a\0~b", 4);
    assert_int_equal(buf_status(&b), 0);
    assert_string_equal(b.data, "a%00%7Eb");
}

static void access_keys_share_the_slot_of_their_user(void **state)
{
    CLEANUP(buf_done) struct buf answer = {0}, generation = {0};

    (void)state;
    keyspace_access(&answer, "event", "00ff", "abcd");
    keyspace_access(&generation, "event", "00ff", "gen");
    assert_string_equal(answer.data, "event:access:{00ff}:abcd");
    assert_string_equal(generation.data, "event:access:{00ff}:gen");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_exchange_stands_as_it_is),
        cmocka_unit_test(dots_underscores_and_dashes_need_no_encoding),
        cmocka_unit_test(anything_else_is_percent_encoded_byte_by_byte),
        cmocka_unit_test(names_that_look_alike_stay_apart),
        cmocka_unit_test(the_prefix_is_the_configured_one),
        cmocka_unit_test(the_encoding_takes_a_nul_byte),
        cmocka_unit_test(access_keys_share_the_slot_of_their_user),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
