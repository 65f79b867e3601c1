/* The life of a process: options, signals at every moment, reloads, failures.
 *
 * Each test runs this same executable as the program (with EF_TEST_PROGRAM naming how it behaves), reads its
 * log from a pipe, and waits for the lines that it needs: nothing sleeps. */
#include "shared/program.h"

#include "shared/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the program under test ---- */

struct app {
    struct program *program;
    struct config *config;
    uv_timer_t timer;
    uv_idle_t leftover;
};

static bool behaves(const char *how)
{
    const char *word = getenv("EF_TEST_PROGRAM");

    return word && strcmp(word, how) == 0;
}

static const char *app_admin(const struct config *c)
{
    return c->ingest.admin;
}

static char *app_check(const struct config *c)
{
    return strcmp(c->prefix, "refused") == 0 ? strdup("prefix: refused by the program\n") : NULL;
}

static void free_app(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_ready(uv_timer_t *timer)
{
    struct app *app = timer->data;

    log_info("READY", "ready");
    if (behaves("fails-later"))
        program_fail(app->program);
}

static int app_start(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx)
{
    struct app *app = calloc(1, sizeof(*app));

    if (!app)
        return -ENOMEM;
    app->program = p;
    app->timer.data = app;
    uv_timer_init(loop, &app->timer);
    if (behaves("start-fails")) {
        uv_close((uv_handle_t *)&app->timer, free_app);
        return -EADDRINUSE;
    }
    app->config = config_ref(c);
    uv_timer_start(&app->timer, on_ready, 0, 0);
    if (behaves("leaves-a-handle"))
        uv_idle_init(loop, &app->leftover);
    if (behaves("signalled-in-start")) {
        raise(SIGTERM);
        raise(SIGINT);
        log_info("SURVIVED", "the signals are held back");
    }
    if (behaves("fails-in-start"))
        program_fail(p);
    *ret_ctx = app;
    return 0;
}

static void app_reload(void *ctx, struct config *c)
{
    struct app *app = ctx;

    config_unref(app->config);
    app->config = config_ref(c);
    log_info("TOOK", "took the new configuration", LF_STR("prefix", c->prefix),
             LF_INT("ttl", c->access.grant_ttl_s));
}

static void on_drained(uv_timer_t *timer)
{
    struct app *app = timer->data;

    uv_close((uv_handle_t *)timer, NULL);
    program_stopped(app->program);
}

static void app_stop(void *ctx)
{
    struct app *app = ctx;

    log_info("STOP-CALLED", "stop was called", LF_STR("prefix", app->config->prefix));
    /* Long enough that the parent's second signal comes while stopping, when it wants that. */
    uv_timer_start(&app->timer, on_drained, behaves("drains-slowly") ? 300 : 0, 0);
}

static void app_finish(void *ctx)
{
    struct app *app = ctx;

    log_info("FINISH-CALLED", "finish was called");
    if (behaves("signalled-at-the-end")) {
        raise(SIGTERM);
        raise(SIGINT);
        raise(SIGHUP);
        log_info("SURVIVED", "the signals are ignored");
    }
    config_unref(app->config);
    free(app);
}

static const struct program_ops app_ops = {
    .name = "event-test",
    .admin_listen = app_admin,
    .check = app_check,
    .start = app_start,
    .reload = app_reload,
    .stop = app_stop,
    .finish = app_finish,
};

/* ---- the parent ---- */

struct child {
    pid_t pid;
    int out; /* its stdout and stderr */
    struct buf text;
    size_t seen; /* of text, by wait_for */
};

static char config_path[] = "/tmp/test_program.XXXXXX";

static void config_write(const char *json)
{
    FILE *f = fopen(config_path, "w");

    assert_non_null(f);
    assert_true(fputs(json, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    int fd = mkstemp(config_path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(config_path);
}

/* args: after "--config FILE", closed by NULL; NULL: none. */
static struct child child_start(const char *behaviour, const char *const *args)
{
    const char *argv[8] = {"event-test", "--config", config_path};
    struct child c = {0};
    int ends[2];

    for (size_t i = 0; args && args[i]; i++)
        argv[3 + i] = args[i];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        setenv("EF_TEST_PROGRAM", behaviour, 1);
        if (strcmp(behaviour, "leaves-a-handle") == 0)
            setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* it may not free what the loop still knows */
        execv("/proc/self/exe", (char *const *)argv);
        _exit(127);
    }
    close(ends[1]);
    c.out = ends[0];
    return c;
}

/* One more piece of output; false at its end. */
static bool child_read(struct child *c)
{
    struct pollfd p = {c->out, POLLIN, 0};
    ssize_t n;

    if (poll(&p, 1, 20000) <= 0)
        fail_msg("the program is silent; so far:\n%s", c->text.data ? c->text.data : "");
    buf_reserve(&c->text, 4096);
    n = read(c->out, c->text.data + c->text.len, 4096);
    assert_true(n >= 0);
    c->text.len += (size_t)n;
    c->text.data[c->text.len] = '\0';
    return n > 0;
}

/* Wait for a log line behind those that were waited for before. */
static void child_wait_for(struct child *c, const char *part)
{
    const char *at;

    while (!c->text.data || !(at = strstr(c->text.data + c->seen, part))) {
        if (!child_read(c))
            fail_msg("the program ended without \"%s\":\n%s", part, c->text.data);
    }
    c->seen = (size_t)(at - c->text.data) + strlen(part);
}

/* Wait for its end. Returns the exit status. */
static int child_end(struct child *c)
{
    int status;

    while (child_read(c))
        ;
    close(c->out);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    if (!WIFEXITED(status))
        fail_msg("ended by signal %d:\n%s", WTERMSIG(status), c->text.data);
    return WEXITSTATUS(status);
}

static bool child_said(const struct child *c, const char *part)
{
    return strstr(c->text.data, part) != NULL;
}

static void child_done(struct child *c)
{
    buf_done(&c->text);
}

static void a_signal_stops_it_with_exit_0(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT};

    (void)state;
    config_write("{}");
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        CLEANUP(child_done) struct child c = child_start("plain", NULL);

        child_wait_for(&c, "READY");
        assert_int_equal(kill(c.pid, signals[i]), 0);
        assert_int_equal(child_end(&c), 0);
        child_wait_for(&c, "STOP-CALLED");
        child_wait_for(&c, "FINISH-CALLED");
        child_wait_for(&c, "STOPPED");
        assert_true(child_said(&c, "STARTING"));
        assert_true(child_said(&c, config_path));
        assert_true(child_said(&c, EF_VERSION));
    }
}

static void signals_during_the_start_are_held_back_and_then_stop_it(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{}");
    c = child_start("signalled-in-start", NULL);
    assert_int_equal(child_end(&c), 0);
    child_wait_for(&c, "SURVIVED");
    child_wait_for(&c, "STOP-CALLED");
    child_wait_for(&c, "FINISH-CALLED");
}

static void further_signals_while_stopping_change_nothing(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{}");
    c = child_start("drains-slowly", NULL);
    child_wait_for(&c, "READY");
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    child_wait_for(&c, "STOP-CALLED");
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(kill(c.pid, SIGINT), 0);
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    assert_int_equal(child_end(&c), 0);
    assert_false(child_said(&c, "RELOADED"));
    assert_null(strstr(c.text.data + c.seen, "STOP-CALLED"));
}

static void signals_after_the_stop_change_nothing(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{}");
    c = child_start("signalled-at-the-end", NULL);
    child_wait_for(&c, "READY");
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(child_end(&c), 0);
    child_wait_for(&c, "SURVIVED");
    child_wait_for(&c, "STOPPED");
}

static void a_reload_takes_what_is_right_and_refuses_what_is_wrong(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{\"access\":{\"grant_ttl_s\":1}}");
    c = child_start("plain", NULL);
    child_wait_for(&c, "READY");

    config_write("{\"access\":{\"grant_ttl_s\":2}}");
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    child_wait_for(&c, "TOOK");
    child_wait_for(&c, "\"ttl\":2");
    child_wait_for(&c, "RELOADED");
    assert_false(child_said(&c, "RELOAD-RESTART"));

    config_write("{\"access\":{\"grant_ttl_s\":-1},\"gateway\":{\"workers\":0}}");
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    child_wait_for(&c, "access.grant_ttl_s: -1 is out of range");
    child_wait_for(&c, "gateway.workers: 0 is out of range");
    child_wait_for(&c, "RELOAD-REFUSED");

    config_write("{\"prefix\":\"refused\"}");
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    child_wait_for(&c, "refused by the program");
    child_wait_for(&c, "RELOAD-REFUSED");

    config_write("{\"prefix\":\"other\",\"access\":{\"grant_ttl_s\":3}}");
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    child_wait_for(&c, "RELOAD-RESTART");
    child_wait_for(&c, "\"keys\":\"prefix\"");
    child_wait_for(&c, "\"ttl\":3");

    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(child_end(&c), 0);
}

static void a_reload_changes_the_log_level(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{\"log\":{\"level\":\"info\"}}");
    c = child_start("plain", NULL);
    child_wait_for(&c, "READY");
    config_write("{\"log\":{\"level\":\"error\"},\"prefix\":\"quiet\"}");
    assert_int_equal(kill(c.pid, SIGHUP), 0);
    child_wait_for(&c, "RELOAD-RESTART"); /* a warning, still under the old level */
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(child_end(&c), 0);
    assert_false(child_said(&c, "STOP-CALLED"));
    assert_false(child_said(&c, "STOPPED"));
}

static void failures_end_with_exit_1_and_an_orderly_stop(void **state)
{
    static const char *const behaviours[] = {"fails-later", "fails-in-start"};

    (void)state;
    config_write("{}");
    for (size_t i = 0; i < ARRAY_LEN(behaviours); i++) {
        CLEANUP(child_done) struct child c = child_start(behaviours[i], NULL);

        assert_int_equal(child_end(&c), 1);
        assert_true(child_said(&c, "STOP-CALLED"));
        assert_true(child_said(&c, "FINISH-CALLED"));
    }
}

static void a_start_that_fails_ends_with_exit_1(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{}");
    c = child_start("start-fails", NULL);
    assert_int_equal(child_end(&c), 1);
    assert_true(child_said(&c, "START-FAILED"));
    assert_true(child_said(&c, "Address already in use"));
    assert_false(child_said(&c, "STOP-CALLED"));
    assert_false(child_said(&c, "FINISH-CALLED"));
    assert_false(child_said(&c, "HANDLE-LEFT"));
}

static void a_handle_that_is_left_open_is_named(void **state)
{
    CLEANUP(child_done) struct child c = {0};

    (void)state;
    config_write("{}");
    c = child_start("leaves-a-handle", NULL);
    child_wait_for(&c, "READY");
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(child_end(&c), 1);
    child_wait_for(&c, "HANDLE-LEFT");
    child_wait_for(&c, "\"type\":\"idle\"");
}

static void assert_action(const char *const *args, int status, const char *part)
{
    CLEANUP(child_done) struct child c = child_start("plain", args);
    int r = child_end(&c);

    if (r != status || !child_said(&c, part))
        fail_msg("exit %d, expected %d and \"%s\":\n%s", r, status, part, c.text.data);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void options_answer_and_end(void **state)
{
    char ok[128];

    (void)state;
    snprintf(ok, sizeof(ok), "%s: ok\n", config_path);
    config_write("{\"amqp\":{\"url\":\"amqp://u:hunter2@h\"}}");
    assert_action(ARGS("--check-config"), 0, ok);
    assert_action(ARGS("--show-config"), 0, "\"url\": \"amqp://u:***@h\"");
    assert_action(ARGS("--version"), 0, "event-test " EF_VERSION "\n");
    assert_action(ARGS("--help"), 0, "Usage: event-test [--config FILE]");
    assert_action(ARGS("--config-docs"), 0, "# Configuration\n");
    /* Nothing listens on port 1. */
    config_write("{\"ingest\":{\"admin\":\"127.0.0.1:1\"}}");
    assert_action(ARGS("--health"), 1, "");
}

static void a_wrong_configuration_is_told_and_ends_with_exit_1(void **state)
{
    static const char *const actions[] = {"--check-config", "--show-config", "--health", NULL};

    (void)state;
    config_write("{\"prefix\":7,\"gateway\":{\"workers\":0}}");
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        const char *args[] = {actions[i], NULL};

        assert_action(args, 1, "prefix: 7 is a number");
        assert_action(args, 1, "gateway.workers: 0 is out of range (1..64)\n");
    }
    config_write("{\"prefix\":\"refused\"}");
    assert_action(ARGS("--check-config"), 1, "prefix: refused by the program\n");
    config_write("{");
    assert_action(ARGS("--check-config"), 1, "line 1, column 1: ");
    assert_action(ARGS("--config", "/nonexistent/file.json"), 1,
                  "/nonexistent/file.json: cannot be read: No such file or directory\n");
}

static void wrong_options_end_with_exit_2_and_the_usage(void **state)
{
    (void)state;
    config_write("{}");
    assert_action(ARGS("--nonsense"), 2, "Usage: ");
    assert_action(ARGS("stray"), 2, "unexpected argument \"stray\"");
    assert_action(ARGS("--config"), 2, "Usage: ");
    assert_action(ARGS("--check-config", "--show-config"), 2, "only one action");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_stops_it_with_exit_0),
        cmocka_unit_test(signals_during_the_start_are_held_back_and_then_stop_it),
        cmocka_unit_test(further_signals_while_stopping_change_nothing),
        cmocka_unit_test(signals_after_the_stop_change_nothing),
        cmocka_unit_test(a_reload_takes_what_is_right_and_refuses_what_is_wrong),
        cmocka_unit_test(a_reload_changes_the_log_level),
        cmocka_unit_test(failures_end_with_exit_1_and_an_orderly_stop),
        cmocka_unit_test(a_start_that_fails_ends_with_exit_1),
        cmocka_unit_test(a_handle_that_is_left_open_is_named),
        cmocka_unit_test(options_answer_and_end),
        cmocka_unit_test(a_wrong_configuration_is_told_and_ends_with_exit_1),
        cmocka_unit_test(wrong_options_end_with_exit_2_and_the_usage),
    };

    if (getenv("EF_TEST_PROGRAM"))
        return program_main(argc, argv, &app_ops);
    return cmocka_run_group_tests(tests, setup, teardown);
}
