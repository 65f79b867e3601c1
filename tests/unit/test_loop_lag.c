/* What counts as the work of a turn of the loop. */
#include "shared/loop_lag.h"

#include "shared/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static const struct metric_row rows[] = {
    {"event_test_loop_turn_seconds", METRIC_HISTOGRAM, NULL, "Turns."},
    {"event_test_loop_lag_seconds", METRIC_GAUGE, NULL, "Longest turn."},
};

struct fixture {
    uv_loop_t loop;
    struct metrics *metrics;
    struct metric *histogram, *max;
    struct loop_lag *lag;
};

static int setup(void **state)
{
    static struct fixture f;

    if (uv_loop_init(&f.loop) != 0)
        return -1;
    f.metrics = metrics_new(rows, ARRAY_LEN(rows));
    f.histogram = metrics_get(f.metrics, 0, NULL);
    f.max = metrics_get(f.metrics, 1, NULL);
    f.lag = loop_lag_start(&f.loop, f.histogram, f.max);
    *state = &f;
    return f.lag ? 0 : -1;
}

/* Also a test: the loop runs dry, and the sanitizer sees no leak. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    int r;

    loop_lag_close(f->lag);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    r = uv_loop_close(&f->loop);
    metrics_free(f->metrics);
    return r;
}

static void spin(int ms)
{
    int64_t end = clock_mono_us() + ms * 1000;

    while (clock_mono_us() < end)
        ;
}

static void spin_in_timer(uv_timer_t *timer)
{
    spin(60);
    uv_close((uv_handle_t *)timer, NULL);
}

static void spin_in_async(uv_async_t *async)
{
    spin(60);
    uv_close((uv_handle_t *)async, NULL);
}

static void just_close(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, NULL);
}

static void alone_it_does_not_keep_the_loop_alive(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
}

static void run_timer(struct fixture *f, uv_timer_cb cb, uint64_t ms)
{
    uv_timer_t timer;

    uv_timer_init(&f->loop, &timer);
    uv_timer_start(&timer, cb, ms, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
}

static void work_in_a_timer_is_measured(void **state)
{
    struct fixture *f = *state;

    run_timer(f, spin_in_timer, 10);
    run_timer(f, just_close, 1); /* the turn ends with the next prepare */
    assert_true(metric_value(f->max) >= 0.055);
    assert_true(metric_value(f->histogram) >= 1);
}

static void work_in_an_io_callback_is_measured(void **state)
{
    struct fixture *f = *state;
    uv_async_t async;

    uv_async_init(&f->loop, &async, spin_in_async);
    uv_async_send(&async);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    run_timer(f, just_close, 1);
    assert_true(metric_value(f->max) >= 0.055);
}

static void waiting_is_not_work_and_an_idle_loop_keeps_turning(void **state)
{
    struct fixture *f = *state;

    run_timer(f, just_close, 450);
    /* At least three of its own timer, one of ours; the wait itself would show as 0.1 s or more. */
    assert_true(metric_value(f->histogram) >= 4);
    assert_true(metric_value(f->max) < 0.09);
}

static void the_longest_turn_is_forgotten_after_two_slots(void **state)
{
    struct loop_lag_window w = {.slot_since_us = 1000};
    const int64_t slot = LOOP_LAG_SLOT_US;

    (void)state;
    assert_true(loop_lag_window_add(&w, 2000, 0.5) == 0.5);
    assert_true(loop_lag_window_add(&w, 1000 + slot - 1, 0.1) == 0.5);
    assert_true(loop_lag_window_add(&w, 1000 + slot, 0.2) == 0.5);
    assert_true(loop_lag_window_add(&w, 1000 + 2 * slot - 1, 0.1) == 0.5);
    assert_true(loop_lag_window_add(&w, 1000 + 2 * slot, 0.1) == 0.2);
    assert_true(loop_lag_window_add(&w, 1000 + 3 * slot, 0.05) == 0.1);
    /* A loop that stood still for long: both slots are old. */
    assert_true(loop_lag_window_add(&w, 1000 + 9 * slot, 0.01) == 0.01);
}

static void closing_nothing_is_fine(void **state)
{
    struct fixture *f = *state;
    double before = metric_value(f->histogram);

    loop_lag_close(NULL);
    assert_true(metric_value(f->histogram) == before);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(alone_it_does_not_keep_the_loop_alive),
        TEST(work_in_a_timer_is_measured),
        TEST(work_in_an_io_callback_is_measured),
        TEST(waiting_is_not_work_and_an_idle_loop_keeps_turning),
        TEST(the_longest_turn_is_forgotten_after_two_slots),
        TEST(closing_nothing_is_fine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
