/* Counters, gauges, histograms and their text. */
#include "shared/metrics.h"

#include <ctype.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { EVENTS, SESSIONS, CLOSED, TURN, CHECK };
static const struct metric_row rows[] = {
    [EVENTS] = {"event_test_events_total", METRIC_COUNTER, NULL, "Events. Still: look at ingest."},
    [SESSIONS] = {"event_test_sessions", METRIC_GAUGE, NULL, "Back\\slash and\nline \"feed\"."},
    [CLOSED] = {"event_test_closed_total", METRIC_COUNTER, "reason", "Closed sessions."},
    [TURN] = {"event_test_turn_seconds", METRIC_HISTOGRAM, NULL, "Turns."},
    [CHECK] = {"event_test_check_seconds", METRIC_HISTOGRAM, "result", "Checks."},
};

static int setup(void **state)
{
    *state = metrics_new(rows, ARRAY_LEN(rows));
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    metrics_free(*state);
    return 0;
}

static char *text_of(const struct metrics *m)
{
    struct buf out = {0};
    char *text;

    metrics_render(m, &out);
    text = buf_take(&out);
    assert_non_null(text);
    return text;
}

/* Exactly this line, whole. */
static void assert_line(const char *text, const char *line)
{
    size_t len = strlen(line);

    for (const char *at = text; (at = strstr(at, line)); at += len) {
        if ((at == text || at[-1] == '\n') && at[len] == '\n')
            return;
    }
    fail_msg("no line '%s' in:\n%s", line, text);
}

static void families_without_label_start_at_zero(void **state)
{
    CLEANUP(freep) char *text = text_of(*state);

    assert_line(text, "event_test_events_total 0");
    assert_line(text, "event_test_sessions 0");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"+Inf\"} 0");
    assert_line(text, "event_test_turn_seconds_sum 0");
    assert_line(text, "event_test_turn_seconds_count 0");
    assert_line(text, "# TYPE event_test_closed_total counter");
    assert_null(strstr(text, "event_test_closed_total{"));
}

static void help_and_labels_are_escaped(void **state)
{
    struct metrics *m = *state;
    CLEANUP(freep) char *text = NULL;

    metric_add(metrics_get(m, CLOSED, "a\"b\\c\nd"), 1);
    metric_add(metrics_get(m, CLOSED, "bad\xFF"), 2);
    text = text_of(m);
    assert_line(text, "# HELP event_test_sessions Back\\\\slash and\\nline \"feed\".");
    assert_line(text, "event_test_closed_total{reason=\"a\\\"b\\\\c\\nd\"} 1");
    assert_line(text, "event_test_closed_total{reason=\"bad\xEF\xBF\xBD\"} 2");
}

static void values_are_added_set_and_printed_short(void **state)
{
    struct metrics *m = *state;
    CLEANUP(freep) char *text = NULL;

    metrics_add(m, EVENTS, 1);
    metrics_add(m, EVENTS, 2e9);
    metrics_set(m, SESSIONS, 0.5);
    metric_add(metrics_get(m, SESSIONS, NULL), -0.125);
    text = text_of(m);
    assert_line(text, "event_test_events_total 2000000001");
    assert_line(text, "event_test_sessions 0.375");
    assert_true(metric_value(metrics_get(m, EVENTS, NULL)) == 2000000001.0);
}

static void infinities_and_nan_are_spelled_as_prometheus_does(void **state)
{
    struct metrics *m = *state;
    static const struct {
        double value;
        const char *line;
    } cases[] = {{INFINITY, "event_test_sessions +Inf"},
                 {-INFINITY, "event_test_sessions -Inf"},
                 {(double)NAN, "event_test_sessions NaN"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(freep) char *text = NULL;

        metrics_set(m, SESSIONS, cases[i].value);
        text = text_of(m);
        assert_line(text, cases[i].line);
    }
}

static void a_series_is_one_object_for_each_label_and_never_moves(void **state)
{
    struct metrics *m = *state;
    struct metric *slow = metrics_get(m, CLOSED, "slow");
    char label[24];

    for (int i = 0; i < 100; i++) {
        snprintf(label, sizeof(label), "label%d", i);
        assert_ptr_not_equal(metrics_get(m, CLOSED, label), slow);
    }
    metric_add(slow, 3);
    assert_ptr_equal(metrics_get(m, CLOSED, "slow"), slow);
    assert_true(metric_value(metrics_get(m, CLOSED, "slow")) == 3);
    assert_true(metric_value(metrics_get(m, CLOSED, "label7")) == 0);
}

static void series_are_printed_in_the_order_of_their_creation(void **state)
{
    struct metrics *m = *state;
    CLEANUP(freep) char *text = NULL;
    const char *z, *a;

    metrics_get(m, CLOSED, "z");
    metrics_get(m, CLOSED, "a");
    metric_add(metrics_get(m, CLOSED, "z"), 1);
    text = text_of(m);
    z = strstr(text, "{reason=\"z\"} 1");
    a = strstr(text, "{reason=\"a\"} 0");
    assert_non_null(z);
    assert_non_null(a);
    assert_true(z < a);
}

static void too_many_labels_fall_into_a_scratch_series_that_is_not_printed(void **state)
{
    struct metrics *m = *state;
    CLEANUP(freep) char *text = NULL;
    char label[24];

    for (int i = 0; i < METRICS_SERIES_MAX + 10; i++) {
        snprintf(label, sizeof(label), "n%d", i);
        metric_add(metrics_get(m, CLOSED, label), 1);
    }
    text = text_of(m);
    assert_line(text, "event_test_closed_total{reason=\"n999\"} 1");
    assert_null(strstr(text, "n1000"));
}

static void histogram_buckets_are_cumulative_and_bounds_are_inclusive(void **state)
{
    struct metrics *m = *state;
    struct metric *turn = metrics_get(m, TURN, NULL);
    CLEANUP(freep) char *text = NULL;

    metric_observe(turn, 0.0005);
    metric_observe(turn, 0.0006);
    metric_observe(turn, 0.25);
    metric_observe(turn, 10);
    metric_observe(turn, 11);
    metric_observe(metrics_get(m, CHECK, "ok"), 0.5);
    assert_true(metric_value(turn) == 5);
    text = text_of(m);
    assert_line(text, "# TYPE event_test_turn_seconds histogram");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"0.0005\"} 1");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"0.001\"} 2");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"0.1\"} 2");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"0.25\"} 3");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"5\"} 3");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"10\"} 4");
    assert_line(text, "event_test_turn_seconds_bucket{le=\"+Inf\"} 5");
    assert_line(text, "event_test_turn_seconds_sum 21.2511");
    assert_line(text, "event_test_turn_seconds_count 5");
    assert_line(text, "event_test_check_seconds_bucket{result=\"ok\",le=\"0.25\"} 0");
    assert_line(text, "event_test_check_seconds_bucket{result=\"ok\",le=\"0.5\"} 1");
    assert_line(text, "event_test_check_seconds_sum{result=\"ok\"} 0.5");
    assert_line(text, "event_test_check_seconds_count{result=\"ok\"} 1");
}

/* ---- A strict reader of the exposition format ---- */

static const char *read_name(const char *at)
{
    assert_true(isalpha((unsigned char)*at) || *at == '_' || *at == ':');
    while (isalnum((unsigned char)*at) || *at == '_' || *at == ':')
        at++;
    return at;
}

static const char *read_labels(const char *at)
{
    assert_int_equal(*at++, '{');
    for (;;) {
        at = read_name(at);
        assert_int_equal(*at++, '=');
        assert_int_equal(*at++, '"');
        while (*at != '"') {
            assert_true(*at && *at != '\n');
            if (*at == '\\') {
                at++;
                assert_true(*at == '\\' || *at == '"' || *at == 'n');
            }
            at++;
        }
        at++;
        if (*at == '}')
            return at + 1;
        assert_int_equal(*at++, ',');
    }
}

static void assert_sample(const char *line, const char *family, size_t family_len)
{
    const char *end = read_name(line);
    char *rest;

    assert_true((size_t)(end - line) >= family_len && memcmp(line, family, family_len) == 0);
    if (*end == '{')
        end = read_labels(end);
    assert_int_equal(*end++, ' ');
    assert_false(isspace((unsigned char)*end));
    strtod(end, &rest);
    assert_ptr_not_equal(rest, end);
    assert_int_equal(*rest, '\0');
}

static void the_whole_page_follows_the_grammar(void **state)
{
    struct metrics *m = *state;
    CLEANUP(freep) char *text = NULL;
    char *save = NULL;
    const char *family = NULL;
    size_t family_len = 0, helps = 0, types = 0;

    metric_add(metrics_get(m, CLOSED, "\"}\n,{\\"), 1);
    metric_observe(metrics_get(m, CHECK, "x"), 1e-9);
    metrics_set(m, SESSIONS, 1e300);
    text = text_of(m);
    assert_int_equal(text[strlen(text) - 1], '\n');
    assert_null(strstr(text, "\n\n"));
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            family = line + 7;
            family_len = (size_t)(read_name(family) - family);
            assert_int_equal(family[family_len], ' ');
            helps++;
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            assert_non_null(family);
            assert_memory_equal(line + 7, family, family_len);
            types++;
        } else {
            assert_int_equal(helps, types);
            assert_sample(line, family, family_len);
        }
    }
    assert_int_equal(helps, ARRAY_LEN(rows));
    assert_int_equal(types, ARRAY_LEN(rows));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(families_without_label_start_at_zero),
        TEST(help_and_labels_are_escaped),
        TEST(values_are_added_set_and_printed_short),
        TEST(infinities_and_nan_are_spelled_as_prometheus_does),
        TEST(a_series_is_one_object_for_each_label_and_never_moves),
        TEST(series_are_printed_in_the_order_of_their_creation),
        TEST(too_many_labels_fall_into_a_scratch_series_that_is_not_printed),
        TEST(histogram_buckets_are_cumulative_and_bounds_are_inclusive),
        TEST(the_whole_page_follows_the_grammar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
