/* The verdict over a process's dependencies; the clock is stepped by hand. */
#include "shared/ready.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static int setup(void **state)
{
    *state = ready_new();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    ready_free(*state);
    return 0;
}

static void without_checks_it_is_ready_until_it_drains(void **state)
{
    struct ready *r = *state;

    assert_true(ready_eval(r, NULL));
    ready_drain(r);
    assert_false(ready_eval(r, NULL));
}

static void before_the_first_good_there_is_no_grace(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 5000, 0);

    assert_false(ready_eval_at(r, 0, NULL));
    ready_set_at(r, redis, false, "connecting", 10);
    assert_false(ready_eval_at(r, 11, NULL));
    ready_set_at(r, redis, true, NULL, 20);
    assert_true(ready_eval_at(r, 20, NULL));
}

static void a_blip_shorter_than_the_grace_goes_unnoticed(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 5000, 0);

    ready_set_at(r, redis, true, NULL, 0);
    ready_set_at(r, redis, false, "link lost", 1000);
    assert_true(ready_eval_at(r, 5999, NULL));
    ready_set_at(r, redis, true, NULL, 5999);
    assert_true(ready_eval_at(r, 100000, NULL));
}

static void after_the_grace_it_is_not_ready_and_good_counts_at_once(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 5000, 0);

    ready_set_at(r, redis, true, NULL, 0);
    ready_set_at(r, redis, false, "link lost", 1000);
    ready_set_at(r, redis, false, "refused", 4000); /* bad again does not start the grace again */
    assert_true(ready_eval_at(r, 5999, NULL));
    assert_false(ready_eval_at(r, 6000, NULL));
    ready_set_at(r, redis, true, NULL, 7000);
    assert_true(ready_eval_at(r, 7000, NULL));
}

static void every_check_counts(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 0, 0);
    int amqp = ready_add_at(r, "amqp", 0, 0);

    ready_set_at(r, redis, true, NULL, 1);
    assert_false(ready_eval_at(r, 1, NULL));
    ready_set_at(r, amqp, true, NULL, 2);
    assert_true(ready_eval_at(r, 2, NULL));
    ready_set_at(r, redis, false, NULL, 3); /* grace 0: none */
    assert_false(ready_eval_at(r, 3, NULL));
}

static void the_report_has_the_documented_shape(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 1000, 0);
    int amqp = ready_add_at(r, "amqp", 1000, 0);
    json_t *report = NULL, *expected;

    ready_set_at(r, redis, true, NULL, 0);
    ready_set_at(r, redis, false, "link lost", 2000);
    ready_set_at(r, amqp, true, NULL, 1500);
    assert_false(ready_eval_at(r, 5999, &report));
    expected = json_loads("{\"ready\":false,\"draining\":false,\"checks\":{"
                          "\"redis\":{\"ok\":false,\"for_s\":3,\"detail\":\"link lost\"},"
                          "\"amqp\":{\"ok\":true,\"for_s\":4}}}",
                          0, NULL);
    assert_non_null(report);
    assert_true(json_equal(report, expected));
    json_decref(report);
    json_decref(expected);

    ready_drain(r);
    ready_set_at(r, redis, true, NULL, 6000);
    assert_false(ready_eval_at(r, 6000, &report));
    assert_true(json_is_true(json_object_get(report, "draining")));
    assert_true(json_is_false(json_object_get(report, "ready")));
    json_decref(report);
}

static void a_long_or_broken_detail_is_cut_to_valid_text(void **state)
{
    struct ready *r = *state;
    int redis = ready_add_at(r, "redis", 0, 0);
    char text[READY_DETAIL_MAX + 50];
    json_t *report = NULL;
    const char *detail;

    memset(text, 'x', sizeof(text));
    memcpy(text + READY_DETAIL_MAX - 1, "\xC3\xBC", 2); /* the cut would fall inside this letter */
    text[sizeof(text) - 1] = '\0';
    ready_set_at(r, redis, false, text, 0);
    ready_eval_at(r, 0, &report);
    detail = json_string_value(
        json_object_get(json_object_get(json_object_get(report, "checks"), "redis"), "detail"));
    assert_non_null(detail);
    assert_int_equal(strlen(detail), READY_DETAIL_MAX - 1);
    json_decref(report);

    ready_set_at(r, redis, false, "bad \xFF byte", 0);
    ready_eval_at(r, 0, &report);
    detail = json_string_value(
        json_object_get(json_object_get(json_object_get(report, "checks"), "redis"), "detail"));
    assert_string_equal(detail, "bad \xEF\xBF\xBD byte");
    json_decref(report);
}

static void a_check_that_only_informs_never_makes_it_unready(void **state)
{
    struct ready *r = *state;
    int ticks = ready_add_at(r, "ticks", READY_NEVER_FAILS, 0);
    json_t *report = NULL;

    ready_set_at(r, ticks, false, "no tick", 0);
    assert_true(ready_eval_at(r, 100000, &report));
    assert_true(
        json_is_false(json_object_get(json_object_get(json_object_get(report, "checks"), "ticks"), "ok")));
    json_decref(report);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(without_checks_it_is_ready_until_it_drains),
        TEST(before_the_first_good_there_is_no_grace),
        TEST(a_blip_shorter_than_the_grace_goes_unnoticed),
        TEST(after_the_grace_it_is_not_ready_and_good_counts_at_once),
        TEST(every_check_counts),
        TEST(a_check_that_only_informs_never_makes_it_unready),
        TEST(the_report_has_the_documented_shape),
        TEST(a_long_or_broken_detail_is_cut_to_valid_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
