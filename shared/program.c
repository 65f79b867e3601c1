/* program.c - the frame of every main(): options, configuration, log, loop, signals.
 *
 *   hold signals -> options -> config_load + ops->check -> log_open -> loop, signal handles -> ops->start
 *     -> release signals -> uv_run ... program_stopped -> loop runs dry -> ops->finish -> loop closed ->
 * log_close
 *
 * SIGTERM, SIGINT and SIGHUP are blocked from the first line and released when the loop has handlers for
 * them: what came in between is delivered then, so a SIGTERM during start-up also ends in a clean stop.
 * Threads that start() makes inherit the blocked mask, so signals always come to the loop's thread.
 *
 * Failures:
 * - A wrong configuration at start: every fault on standard error, exit 1. On reload: every fault in the
 *   log, and the old one stays.
 * - start() fails: it has logged why and undone what it did; exit 1.
 * - A handle is still open when the loop should have run dry after program_stopped: that is a bug; it is
 *   logged by type, and the process ends with 1 without touching the context again, rather than hang or
 *   free what the loop still knows. */
#include "shared/program.h"

#include "shared/admin.h"
#include "shared/buf.h"
#include "shared/err.h"
#include "shared/supervisor.h"
#include "shared/worker_pipe.h"

#include <assert.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char config_default[] = "/etc/event-fleet/fleet.json";

/* How long the loop may take to run dry after program_stopped. Close callbacks need a few turns, not
 * seconds; whoever waits for something real does so before it says that it has stopped. */
enum { DRY_TIMEOUT_MS = 5000 };

enum state { STATE_STARTING, STATE_RUNNING, STATE_STOPPING, STATE_STOPPED };

struct program {
    const struct program_ops *ops;
    const struct program_ops *supervised; /* by this supervisor; NULL: none is */
    int worker;                           /* its number; -1: no worker */
    const char *config_path;
    struct config *config; /* ours; start and reload take references of their own */
    void *ctx;
    enum state state;
    int status; /* exit status */
    bool stuck; /* the loop did not run dry */
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_async_t failed; /* program_fail was called */
    uv_timer_t dry;
};

enum action {
    ACTION_RUN,
    ACTION_CHECK,
    ACTION_SHOW,
    ACTION_HEALTH,
    ACTION_VERSION,
    ACTION_HELP,
    ACTION_DOCS
};

static void signals_mask(int how)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(how, &set, NULL);
}

static void print_usage(FILE *to, const char *name)
{
    fprintf(
        to,
        "Usage: %s [--config FILE] [ACTION]\n"
        "\n"
        "  -c, --config FILE  the configuration (default %s)\n"
        "\n"
        "Without an action the program runs, until SIGTERM; SIGHUP reads the configuration again. Actions:\n"
        "  --check-config     check the configuration: exit 0, or 1 with every error named\n"
        "  --show-config      print the effective configuration, secrets as ***\n"
        "  --health           ask the running program's admin port whether it is ready: exit 0 or 1\n"
        "  --config-docs      print the page about the configuration (docs/configuration.md)\n"
        "  --version          print the versions of the program and its libraries\n"
        "  --help             print this\n",
        name, config_default);
}

/* Returns 0 with an action, or 2 after printing what is wrong. --worker is the supervisor's, and not for
 * people. */
static int options_parse(int argc, char **argv, const char *name, enum action *ret_action,
                         const char **ret_config, int *ret_worker)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"check-config", no_argument, NULL, ACTION_CHECK},
        {"show-config", no_argument, NULL, ACTION_SHOW},
        {"health", no_argument, NULL, ACTION_HEALTH},
        {"version", no_argument, NULL, ACTION_VERSION},
        {"help", no_argument, NULL, ACTION_HELP},
        {"config-docs", no_argument, NULL, ACTION_DOCS},
        {"worker", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    enum action action = ACTION_RUN;
    const char *config = config_default;
    int c;

    while ((c = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
        if (c == 'c') {
            config = optarg;
        } else if (c == 'w') {
            *ret_worker = atoi(optarg);
        } else if (c == '?') {
            print_usage(stderr, name); /* getopt has said what is wrong */
            return 2;
        } else if (action != ACTION_RUN && action != (enum action)c) {
            fprintf(stderr, "%s: only one action at a time\n", name);
            print_usage(stderr, name);
            return 2;
        } else {
            action = (enum action)c;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument \"%s\"\n", name, argv[optind]);
        print_usage(stderr, name);
        return 2;
    }
    *ret_action = action;
    *ret_config = config;
    return 0;
}

/* The configuration with all checks, the program's own included. As config_load. */
static int load_checked(const struct program_ops *ops, const char *path, struct config **ret_config,
                        char **ret_errors)
{
    struct config *c = NULL;
    char *errors;
    int r = config_load(path, &c, ret_errors);

    if (r < 0)
        return r;
    errors = ops->check ? ops->check(c) : NULL;
    if (errors) {
        config_unref(c);
        *ret_errors = errors;
        return ERR_CONFIG;
    }
    *ret_config = c;
    return 0;
}

/* For the command line: faults go to standard error. NULL after them. */
static struct config *load_or_print(const struct program_ops *ops, const char *path)
{
    CLEANUP(freep) char *errors = NULL;
    struct config *c = NULL;
    int r = load_checked(ops, path, &c, &errors);

    if (r < 0) {
        fputs(errors ? errors : err_text(r), stderr);
        if (!errors || (*errors && errors[strlen(errors) - 1] != '\n'))
            fputc('\n', stderr);
    }
    return c;
}

static int print_text(char *text)
{
    int status = text && puts(text) >= 0 && fflush(stdout) == 0 ? 0 : 1;

    free(text);
    return status;
}

static int print_version(const char *name)
{
    printf("%s %s\n", name, EF_VERSION);
    printf("libuv %s\n", uv_version_string());
    printf("jansson %s\n", jansson_version_str());
    return fflush(stdout) == 0 ? 0 : 1;
}

static int print_docs(void)
{
    CLEANUP(freep) char *text = config_docs();

    return text && fputs(text, stdout) >= 0 && fflush(stdout) == 0 ? 0 : 1;
}

static int act_on_config(const struct program_ops *ops, enum action action, const char *path)
{
    struct config *c = load_or_print(ops, path);
    int status = 1;

    if (!c)
        return 1;
    if (action == ACTION_CHECK) {
        printf("%s: ok\n", path);
        status = fflush(stdout) == 0 ? 0 : 1;
    } else if (action == ACTION_SHOW) {
        status = print_text(config_show(c));
    } else if (action == ACTION_HEALTH) {
        status = admin_health(ops->admin_listen(c));
    }
    config_unref(c);
    return status;
}

static void stop_begin(struct program *p)
{
    /* A second SIGTERM, or a failure while stopping, changes nothing: the stop is under way. */
    if (p->state != STATE_RUNNING)
        return;
    p->state = STATE_STOPPING;
    p->ops->stop(p->ctx);
}

static void on_term(uv_signal_t *handle, int number)
{
    struct program *p = handle->data;

    if (p->state == STATE_RUNNING)
        log_info("STOPPING", "stopping on a signal",
                 LF_STR("signal", number == SIGINT ? "SIGINT" : "SIGTERM"));
    stop_begin(p);
}

static void on_failed(uv_async_t *handle)
{
    stop_begin(handle->data);
}

static void log_faults(char *errors)
{
    char *rest = errors;

    for (char *line = strtok_r(errors, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        log_error("RELOAD-FAULT", "fault in the configuration", LF_STR("fault", line));
}

/* Reads files on the loop's thread: small local ones, on an operator's request. A thread of its own would
 * only add an order in which a reload can meet a stop. */
static void on_hangup(uv_signal_t *handle, int number)
{
    struct program *p = handle->data;
    CLEANUP(freep) char *errors = NULL;
    CLEANUP(freep) char *restart = NULL;
    struct config *c = NULL;
    int r;

    (void)number;
    if (p->state != STATE_RUNNING)
        return;
    r = load_checked(p->ops, p->config_path, &c, &errors);
    if (r < 0) {
        if (errors)
            log_faults(errors);
        log_error("RELOAD-REFUSED", "the new configuration is wrong, the old one stays in force",
                  LF_STR("config", p->config_path), LF_STR("error", err_text(r)));
        return;
    }
    restart = config_restart_keys(p->config, c);
    if (restart)
        log_warn("RELOAD-RESTART", "some changed keys take effect only at the next start",
                 LF_STR("keys", restart));
    log_set_level(c->log.level);
    if (p->ops->reload)
        p->ops->reload(p->ctx, c);
    config_unref(p->config);
    p->config = c;
    log_info("RELOADED", "the new configuration is in force", LF_STR("config", p->config_path));
}

/* Counts and names the handles that are not ours and that nobody has closed. */
static void on_handle(uv_handle_t *handle, void *user)
{
    struct program *p = user;

    if (uv_is_closing(handle) || handle == (uv_handle_t *)&p->dry || handle == (uv_handle_t *)&p->failed)
        return;
    p->stuck = true;
    log_error("HANDLE-LEFT", "a handle is still open after the stop",
              LF_STR("type", uv_handle_type_name(handle->type)));
}

static void on_dry_timeout(uv_timer_t *handle)
{
    struct program *p = handle->data;

    p->stuck = true;
    log_error("LOOP-STUCK", "the event loop does not run dry after the stop",
              LF_INT("waited_ms", DRY_TIMEOUT_MS));
    uv_walk(&p->loop, on_handle, p);
    uv_stop(&p->loop);
}

void program_stopped(struct program *p)
{
    assert(p->state == STATE_STOPPING);
    p->state = STATE_STOPPED;
    /* Closing the handles restores the default action: a second SIGTERM would kill what is about to end with
     * its own status. Held back for the moment in between, ignored from then on. */
    signals_mask(SIG_BLOCK);
    uv_close((uv_handle_t *)&p->term, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
    uv_close((uv_handle_t *)&p->hangup, NULL);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    /* Unreferenced: it watches the loop, it does not keep it alive. */
    uv_timer_start(&p->dry, on_dry_timeout, DRY_TIMEOUT_MS, 0);
    uv_unref((uv_handle_t *)&p->dry);
}

void program_fail(struct program *p)
{
    p->status = 1;
    /* Not from inside the caller's stack: stop() may free what the caller still uses. */
    uv_async_send(&p->failed);
}

const char *program_admin_listen(const struct program *p, const char *configured)
{
    return p->worker < 0 ? configured : WORKER_ADMIN;
}

const struct program_ops *program_supervised(const struct program *p)
{
    return p->supervised;
}

const char *program_config_path(const struct program *p)
{
    return p->config_path;
}

static void loop_open(struct program *p)
{
    uv_signal_t *const signals[] = {&p->term, &p->interrupt, &p->hangup};

    /* These fail only for lack of descriptors or memory, at a moment when nothing else runs yet. */
    if (uv_loop_init(&p->loop) < 0 || uv_timer_init(&p->loop, &p->dry) < 0 ||
        uv_async_init(&p->loop, &p->failed, on_failed) < 0) {
        fprintf(stderr, "%s: the event loop cannot be made\n", p->ops->name);
        exit(1);
    }
    uv_unref((uv_handle_t *)&p->failed);
    p->dry.data = p->failed.data = p;
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        if (uv_signal_init(&p->loop, signals[i]) < 0) {
            fprintf(stderr, "%s: the event loop cannot be made\n", p->ops->name);
            exit(1);
        }
        signals[i]->data = p;
    }
}

static void signals_start(struct program *p)
{
    if (uv_signal_start(&p->term, on_term, SIGTERM) < 0 ||
        uv_signal_start(&p->interrupt, on_term, SIGINT) < 0 ||
        uv_signal_start(&p->hangup, on_hangup, SIGHUP) < 0) {
        log_error("SIGNALS", "signal handlers cannot be set");
        log_close();
        exit(1);
    }
    signals_mask(SIG_UNBLOCK);
}

static void run_loop(struct program *p)
{
    p->state = STATE_RUNNING;
    signals_start(p);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    /* One that is idle or unreferenced does not keep the loop alive, but may live in the context. */
    if (!p->stuck)
        uv_walk(&p->loop, on_handle, p);
    if (p->stuck)
        return;
    /* The signal handles keep the loop alive until program_stopped closes them. */
    assert(p->state == STATE_STOPPED);
    p->ops->finish(p->ctx);
}

/* start() made handles and closed them again: let their close callbacks come. */
static void run_dry(struct program *p)
{
    p->status = 1;
    p->state = STATE_STOPPING;
    program_stopped(p);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    if (!p->stuck)
        uv_walk(&p->loop, on_handle, p);
    if (!p->stuck && p->ctx)
        p->ops->finish(p->ctx);
}

static void loop_close(struct program *p)
{
    int r;

    uv_close((uv_handle_t *)&p->dry, NULL);
    uv_close((uv_handle_t *)&p->failed, NULL);
    uv_run(&p->loop, UV_RUN_DEFAULT);
    r = uv_loop_close(&p->loop);
    if (r < 0) {
        log_error("LOOP-CLOSE", "the event loop cannot be closed", LF_STR("error", uv_strerror(r)));
        p->status = 1;
    }
}

static int run(const struct program_ops *ops, const char *path, int worker)
{
    struct program p = {.ops = ops, .config_path = path, .worker = worker};
    struct program_ops supervisor = supervisor_ops;
    int r;

    p.config = load_or_print(ops, path);
    if (!p.config)
        return 1;
    r = log_open(ops->name, p.config->log.level, p.config->log.format);
    if (r < 0) {
        fprintf(stderr, "%s: the log cannot be opened: %s\n", ops->name, err_text(r));
        config_unref(p.config);
        return 1;
    }
    if (worker < 0 && ops->workers && ops->workers(p.config) > 1) {
        supervisor.name = ops->name;
        supervisor.check = ops->check;
        supervisor.admin_listen = ops->admin_listen;
        p.ops = &supervisor;
        p.supervised = ops;
    }
    log_info("STARTING", "starting", LF_STR("version", EF_VERSION), LF_INT("pid", getpid()),
             LF_STR("config", path), LF_INT("worker", worker));
    loop_open(&p);
    r = p.ops->start(&p, &p.loop, p.config, &p.ctx);
    if (r < 0) {
        log_error("START-FAILED", "the start failed", LF_STR("error", err_text(r)));
        run_dry(&p);
    } else {
        run_loop(&p);
    }
    if (p.stuck)
        p.status = 1;
    else
        loop_close(&p);
    log_info("STOPPED", "stopped", LF_INT("status", p.status));
    config_unref(p.config);
    log_close();
    return p.status;
}

int program_main(int argc, char **argv, const struct program_ops *ops)
{
    const char *path = NULL;
    enum action action = ACTION_RUN;
    int status, worker = -1;

    signals_mask(SIG_BLOCK);
    signal(SIGPIPE, SIG_IGN);
    status = options_parse(argc, argv, ops->name, &action, &path, &worker);
    if (status != 0)
        return status;
    if (action == ACTION_RUN)
        return run(ops, path, worker);
    /* Nothing to wind down: a signal may end these where they stand. */
    signals_mask(SIG_UNBLOCK);
    switch (action) {
    case ACTION_VERSION:
        return print_version(ops->name);
    case ACTION_HELP:
        print_usage(stdout, ops->name);
        return fflush(stdout) == 0 ? 0 : 1;
    case ACTION_DOCS:
        return print_docs();
    default:
        return act_on_config(ops, action, path);
    }
}
