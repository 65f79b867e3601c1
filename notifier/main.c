/* main.c - event-notifier.
 *
 * What stands so far is the frame of the program: options, configuration, probes and metrics. Notifications
 * are not served yet: the program says so at start and is never ready, so that nothing sends work to it. */
#include "shared/admin.h"
#include "shared/err.h"
#include "shared/program.h"

#include <errno.h>
#include <stdlib.h>

struct notifier {
    struct program *program;
    struct config *config;
    struct metrics *metrics;
    struct ready *ready;
    struct admin *admin;
};

enum notifier_metric { NM_UP, NOTIFIER_METRIC_COUNT };

static const struct metric_row rows[NOTIFIER_METRIC_COUNT] = {
    [NM_UP] = {"event_notifier_up", METRIC_GAUGE, NULL, "1 while the process runs."},
};

static void notifier_finish(void *ctx)
{
    struct notifier *n = ctx;

    metrics_free(n->metrics);
    ready_free(n->ready);
    config_unref(n->config);
    free(n);
}

static int notifier_start(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx)
{
    struct notifier *n = calloc(1, sizeof(*n));
    int r = -ENOMEM;

    if (!n)
        return -ENOMEM;
    *n = (struct notifier){.program = p, .config = config_ref(c)};
    n->metrics = metrics_new(rows, NOTIFIER_METRIC_COUNT);
    n->ready = ready_new();
    if (n->metrics && n->ready) {
        metrics_set(n->metrics, NM_UP, 1);
        ready_set(n->ready, ready_add(n->ready, "notifications", 0), false,
                  "this version does not serve notifications yet");
        r = admin_start(loop, c->notifier.admin, n->metrics, n->ready, NULL, NULL, &n->admin);
    }
    if (r < 0) {
        log_error("ADMIN-LISTEN", "cannot listen for probes and metrics",
                  LF_STR("address", c->notifier.admin), LF_STR("error", err_text(r)));
        notifier_finish(n);
        return r;
    }
    log_warn("NOT-YET",
             "this version does not serve notifications yet; only probes and metrics are answered");
    *ret_ctx = n;
    return 0;
}

static void notifier_stop(void *ctx)
{
    struct notifier *n = ctx;

    admin_close(TAKE(n->admin));
    program_stopped(n->program);
}

static const char *notifier_admin_listen(const struct config *c)
{
    return c->notifier.admin;
}

int main(int argc, char **argv)
{
    static const struct program_ops ops = {
        .name = "event-notifier",
        .admin_listen = notifier_admin_listen,
        .start = notifier_start,
        .stop = notifier_stop,
        .finish = notifier_finish,
    };

    return program_main(argc, argv, &ops);
}
