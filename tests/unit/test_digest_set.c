#include "ingest/digest_set.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void digest_of(unsigned n, char out[DIGEST_HEX + 1])
{
    digest_hex(&(struct digest_part){&n, sizeof(n)}, 1, out);
}

static void a_digest_is_used_up_as_often_as_it_was_added(void **state)
{
    CLEANUP(digest_set_done) struct digest_set s = {0};
    char a[DIGEST_HEX + 1], b[DIGEST_HEX + 1];

    (void)state;
    digest_of(1, a);
    digest_of(2, b);
    assert_false(digest_set_take(&s, a));
    assert_int_equal(digest_set_add(&s, a, DIGEST_HEX), 0);
    assert_int_equal(digest_set_add(&s, a, DIGEST_HEX), 0);
    assert_int_equal(digest_set_add(&s, b, DIGEST_HEX), 0);
    assert_true(digest_set_take(&s, a));
    assert_true(digest_set_take(&s, a));
    assert_false(digest_set_take(&s, a));
    assert_true(digest_set_take(&s, b));
    assert_int_equal(s.count, 0);
}

static void many_digests_are_all_found_and_no_others(void **state)
{
    CLEANUP(digest_set_done) struct digest_set s = {0};
    char hex[DIGEST_HEX + 1];

    (void)state;
    for (unsigned n = 0; n < 20000; n += 2) {
        digest_of(n, hex);
        assert_int_equal(digest_set_add(&s, hex, DIGEST_HEX), 0);
    }
    assert_int_equal(s.count, 10000);
    for (unsigned n = 0; n < 20000; n++) {
        digest_of(n, hex);
        assert_int_equal(digest_set_take(&s, hex), n % 2 == 0);
    }
    assert_int_equal(s.count, 0);
}

static void what_is_no_digest_is_ignored(void **state)
{
    CLEANUP(digest_set_done) struct digest_set s = {0};
    char hex[DIGEST_HEX + 1];

    (void)state;
    digest_of(1, hex);
    assert_int_equal(digest_set_add(&s, hex, DIGEST_HEX - 1), 0);
    assert_int_equal(digest_set_add(&s, "", 0), 0);
    hex[31] = 'G';
    assert_int_equal(digest_set_add(&s, hex, DIGEST_HEX), 0);
    assert_int_equal(s.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_digest_is_used_up_as_often_as_it_was_added),
        cmocka_unit_test(many_digests_are_all_found_and_no_others),
        cmocka_unit_test(what_is_no_digest_is_ignored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
