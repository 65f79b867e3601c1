/* The byte buffer. */
#include "shared/buf.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void bytes_are_appended_and_always_nul_terminated(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};

    (void)state;
    buf_add_str(&b, "a");
    buf_add_char(&b, 'b');
    buf_add(&b, "c\0d", 3);
    buf_printf(&b, "%d-%s", 42, "x");
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(b.len, 9);
    assert_memory_equal(b.data, "abc\0d42-x", 10);
}

static void an_empty_append_to_an_empty_buffer_is_fine(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};

    (void)state;
    buf_add(&b, NULL, 0);
    buf_add_str(&b, "");
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
}

static void it_grows_far_beyond_its_first_allocation(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};

    (void)state;
    for (int i = 0; i < 100000; i++)
        buf_printf(&b, "%d", i % 10);
    assert_int_equal(b.len, 100000);
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(b.data[i], '0' + (int)(i % 10));
    assert_int_equal(strlen(b.data), b.len);
}

static void reset_keeps_the_memory_and_forgets_the_bytes(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};
    char *before;

    (void)state;
    buf_add_str(&b, "something");
    before = b.data;
    buf_reset(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    buf_add_str(&b, "x");
    assert_ptr_equal(b.data, before);
    assert_string_equal(b.data, "x");
}

static void a_failed_allocation_is_remembered_until_reset(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};

    (void)state;
    buf_add_str(&b, "kept");
    buf_reserve(&b, SIZE_MAX - 2); /* overflows */
    assert_int_equal(buf_status(&b), -ENOMEM);
    buf_add_str(&b, "ignored");
    buf_printf(&b, "%s", "ignored");
    assert_string_equal(b.data, "kept");
    buf_reset(&b);
    buf_add_str(&b, "again");
    assert_int_equal(buf_status(&b), 0);
    assert_string_equal(b.data, "again");
}

static void take_gives_the_string_away_and_leaves_an_empty_buffer(void **state)
{
    struct buf b = {0};
    char *text;

    (void)state;
    buf_add_str(&b, "mine");
    text = buf_take(&b);
    assert_string_equal(text, "mine");
    assert_null(b.data);
    assert_int_equal(b.len, 0);
    free(text);

    text = buf_take(&b); /* of an empty one: an empty string */
    assert_string_equal(text, "");
    free(text);

    buf_reserve(&b, SIZE_MAX);
    assert_null(buf_take(&b));
    assert_null(b.data);
}

static void numbers_are_as_short_as_they_can_be(void **state)
{
    static const struct {
        double n;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1, "1"},
        {-3, "-3"},
        {0.1, "0.1"},
        {0.0005, "0.0005"},
        {2.5, "2.5"},
        {1700000000.123, "1700000000.123"},
        {1e21, "1e+21"},
        {123456789012345, "123456789012345"},
        {9007199254740993.0, "9007199254740992"},
        {0.1 + 0.2, "0.30000000000000004"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(buf_done) struct buf b = {0};

        buf_add_num(&b, cases[i].n);
        assert_string_equal(b.data, cases[i].text);
        assert_true(strtod(b.data, NULL) == cases[i].n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_appended_and_always_nul_terminated),
        cmocka_unit_test(an_empty_append_to_an_empty_buffer_is_fine),
        cmocka_unit_test(it_grows_far_beyond_its_first_allocation),
        cmocka_unit_test(reset_keeps_the_memory_and_forgets_the_bytes),
        cmocka_unit_test(a_failed_allocation_is_remembered_until_reset),
        cmocka_unit_test(take_gives_the_string_away_and_leaves_an_empty_buffer),
        cmocka_unit_test(numbers_are_as_short_as_they_can_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
