#include "shared/metrics_merge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void families_stand_once_and_samples_say_whose_they_are(void **state)
{
    static const char a[] = "# HELP x_total Help of x.\n# TYPE x_total counter\nx_total 3\n"
                            "# HELP y Help.\n# TYPE y gauge\ny{link=\"a b,c\"} 1\ny{link=\"d\"} 2\n";
    static const char b[] = "# HELP x_total Help of x.\n# TYPE x_total counter\nx_total 4\n"
                            "# HELP y Help.\n# TYPE y gauge\n"
                            "# HELP z_seconds Help.\n# TYPE z_seconds "
                            "histogram\nz_seconds_bucket{le=\"+Inf\"} 5\nz_seconds_count 5\n";
    const struct metrics_text texts[] = {{a, strlen(a), "0"}, {b, strlen(b), "1"}};
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    metrics_merge(&out, "worker", texts, 2);
    assert_string_equal(out.data,
                        "# HELP x_total Help of x.\n# TYPE x_total counter\n"
                        "x_total{worker=\"0\"} 3\nx_total{worker=\"1\"} 4\n"
                        "# HELP y Help.\n# TYPE y gauge\n"
                        "y{worker=\"0\",link=\"a b,c\"} 1\ny{worker=\"0\",link=\"d\"} 2\n"
                        "# HELP z_seconds Help.\n# TYPE z_seconds histogram\n"
                        "z_seconds_bucket{worker=\"1\",le=\"+Inf\"} 5\nz_seconds_count{worker=\"1\"} 5\n");
}

static void a_worker_that_has_not_answered_yet_adds_nothing(void **state)
{
    const struct metrics_text texts[] = {{"", 0, "0"}, {"", 0, "1"}};
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    metrics_merge(&out, "worker", texts, 2);
    assert_int_equal(out.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_stand_once_and_samples_say_whose_they_are),
        cmocka_unit_test(a_worker_that_has_not_answered_yet_adds_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
