/* program.h - what the main() of every program does.
 *
 * Options (--config FILE, --check-config, --show-config, --health, --config-docs, --version, --help), the
 * configuration, the log, the loop, the signals. SIGTERM and SIGINT are held back from the first line of
 * main() until the loop can take them, so that one at start-up also ends in exit 0. SIGPIPE is ignored.
 *
 *   main -> program_main -> start(ctx) -> loop runs -> SIGTERM: stop(ctx) -> ... program_stopped(p) -> exit 0
 *                                            SIGHUP: reload(ctx, new config)
 */
#ifndef EF_PROGRAM_H
#define EF_PROGRAM_H

#include "shared/config.h"

#include <uv.h>

struct program;

struct program_ops {
    const char *name; /* "event-gateway" */
    /* How many processes share the work (and the port); NULL: one. With more, a supervisor runs them; see
     * supervisor.h. */
    int (*workers)(const struct config *c);
    /* Which admin address --health asks. */
    const char *(*admin_listen)(const struct config *c);
    /* More checks of the configuration than the table can make (keys that do not load, ..). NULL if it is
     * fine, else lines to free(). May be NULL. Also used by --check-config and before a reload. */
    char *(*check)(const struct config *c);
    /* Build everything on the loop. `c` is borrowed until finish, or the next reload: take a reference.
     * Returns 0 with *ret_ctx, or a negative code after logging why; then all handles that it made are being
     * closed, and what they need until then is either freed by their close callbacks, or belongs to a
     * *ret_ctx that is set nevertheless: finish frees it. Signals are held back meanwhile. */
    int (*start)(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx);
    /* A new configuration that passed all checks: take a reference, use what may change. May be NULL. The log
     * level is already changed, and keys that need a restart are already warned about. */
    void (*reload)(void *ctx, struct config *c);
    /* Begin to end; called once. When all is closed, call program_stopped. */
    void (*stop)(void *ctx);
    /* Free the ctx; the loop has run dry. */
    void (*finish)(void *ctx);
};

/* Returns the exit status: 0, 1 for a wrong configuration or a failed start, 2 for wrong options. */
int program_main(int argc, char **argv, const struct program_ops *ops);
/* Where this process answers probes: the configured address, or in a worker the pipe to its supervisor. */
const char *program_admin_listen(const struct program *p, const char *configured);
/* For the supervisor: the program that it runs workers of, and the file that they read. */
const struct program_ops *program_supervised(const struct program *p);
const char *program_config_path(const struct program *p);
/* From inside the program, once, after stop(): everything is closed (uv_close called; callbacks may still
 * come). The loop must then run dry within 5 s: a handle that is still open is our bug, and ends in exit 1.
 */
void program_stopped(struct program *p);
/* A failure that cannot be survived: log it first; stops like SIGTERM, exit status 1. stop() comes in a later
 * turn of the loop. From any thread, also from within start(). */
void program_fail(struct program *p);

#endif
