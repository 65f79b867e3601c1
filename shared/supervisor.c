/* supervisor.c - workers of one program; see the header.
 *
 *   IDLE --spawn--> RUNNING --exit--> closing its handles --> IDLE --after RESTART_MS, unless stopping-->
 * spawn
 *
 * Failures: a worker cannot be spawned, or dies before it answered once: everything ends with status 1. A
 * worker that answers nonsense is killed, and started again like one that died. */
#include "shared/supervisor.h"

#include "shared/admin.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/metrics_merge.h"
#include "shared/worker_pipe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_MS = 500, RESTART_MS = 1000 };

struct worker {
    struct supervisor *supervisor;
    int number;
    char name[12];
    uv_process_t process;
    uv_pipe_t pipe;
    int open_handles; /* 0: idle */
    bool running;
    bool ever_answered;
    bool asked;
    int64_t restart_ms;
    struct worker_answer answer;
    struct buf metrics, report;
    bool ready;
    char chunk[65536];
};

struct supervisor {
    struct program *program;
    uv_loop_t *loop;
    struct config *config;
    struct admin *admin;
    uv_timer_t timer;
    struct worker *workers;
    int count;
    uint64_t restarts;
    bool stopping;
};

/* --- one worker --- */

static void worker_idle(struct worker *w);

static void on_worker_handle_closed(uv_handle_t *handle)
{
    struct worker *w = handle->data;

    if (--w->open_handles == 0)
        worker_idle(w);
}

static void on_worker_exit(uv_process_t *process, int64_t status, int signal_number)
{
    struct worker *w = process->data;
    struct supervisor *s = w->supervisor;

    w->running = false;
    w->ready = false;
    uv_close((uv_handle_t *)&w->process, on_worker_handle_closed);
    uv_close((uv_handle_t *)&w->pipe, on_worker_handle_closed);
    /* Our own SIGTERM, before it had its handler, is as good an end as any. */
    if (s->stopping && status == 0 && (signal_number == 0 || signal_number == SIGTERM))
        return;
    log_error("WORKER-DIED",
              w->ever_answered && !s->stopping ? "a worker died; starting it again" : "a worker died",
              LF_INT("worker", w->number), LF_INT("status", status), LF_INT("signal", signal_number),
              LF_INT("retry_ms", RESTART_MS));
    if (!w->ever_answered || s->stopping)
        program_fail(s->program);
}

static void on_answer(void *user, char question, bool verdict, const char *text, size_t len)
{
    struct worker *w = user;
    struct buf *to = question == 'm' ? &w->metrics : &w->report;

    buf_reset(to);
    buf_add(to, text, len);
    if (question == 'r')
        w->ready = verdict;
    w->ever_answered = true;
    w->asked = question == 'r' ? false : w->asked; /* the report is the second answer */
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct worker *w = handle->data;

    (void)suggested;
    *buf = uv_buf_init(w->chunk, sizeof(w->chunk));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct worker *w = stream->data;

    if (n < 0 || !worker_answer_feed(&w->answer, buf->base, (size_t)n, on_answer, w)) {
        uv_read_stop(stream); /* at its end the process is gone, or going */
        if (n > 0)
            uv_process_kill(&w->process, SIGKILL);
    }
}

static int worker_spawn(struct worker *w)
{
    struct supervisor *s = w->supervisor;
    char *arguments[] = {(char *)(uintptr_t)program_supervised(s->program)->name,
                         (char *)(uintptr_t) "--config",
                         (char *)(uintptr_t)program_config_path(s->program),
                         (char *)(uintptr_t) "--worker",
                         w->name,
                         NULL};
    uv_stdio_container_t stdio[WORKER_PIPE_FD + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = 1},
        {.flags = UV_INHERIT_FD, .data.fd = 2},
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE,
         .data.stream = (uv_stream_t *)&w->pipe},
    };
    uv_process_options_t options = {.exit_cb = on_worker_exit,
                                    .file = "/proc/self/exe",
                                    .args = arguments,
                                    .stdio_count = ARRAY_LEN(stdio),
                                    .stdio = stdio};
    int r;

    buf_done(&w->answer.bytes);
    w->asked = false;
    uv_pipe_init(s->loop, &w->pipe, 0);
    w->pipe.data = w->process.data = w;
    r = uv_spawn(s->loop, &w->process, &options);
    w->open_handles = 2;
    if (r < 0) {
        uv_close((uv_handle_t *)&w->process, on_worker_handle_closed);
        uv_close((uv_handle_t *)&w->pipe, on_worker_handle_closed);
        return r;
    }
    w->running = true;
    return uv_read_start((uv_stream_t *)&w->pipe, on_alloc, on_read);
}

/* --- all of them --- */

static void supervisor_down(struct supervisor *s)
{
    for (int i = 0; i < s->count; i++)
        if (s->workers[i].open_handles > 0)
            return;
    admin_close(TAKE(s->admin));
    uv_close((uv_handle_t *)&s->timer, NULL);
    program_stopped(s->program);
}

static void worker_idle(struct worker *w)
{
    if (w->supervisor->stopping)
        supervisor_down(w->supervisor);
    else
        w->restart_ms = clock_mono_ms() + RESTART_MS;
}

static void on_written(uv_write_t *request, int status)
{
    (void)status; /* reading notices the end */
    free(request);
}

static void worker_ask(struct worker *w)
{
    static char questions[] = {'m', 'r'};
    uv_buf_t buf = uv_buf_init(questions, sizeof(questions));
    uv_write_t *request = malloc(sizeof(*request));

    if (request && uv_write(request, (uv_stream_t *)&w->pipe, &buf, 1, on_written) == 0)
        w->asked = true;
    else
        free(request);
}

static void on_timer(uv_timer_t *timer)
{
    struct supervisor *s = timer->data;
    int64_t now = clock_mono_ms();

    for (int i = 0; i < s->count && !s->stopping; i++) {
        struct worker *w = &s->workers[i];

        if (w->running && !w->asked)
            worker_ask(w);
        if (w->open_handles == 0 && now >= w->restart_ms) {
            s->restarts++;
            if (worker_spawn(w) < 0)
                program_fail(s->program);
        }
    }
}

static void on_metrics(void *user, struct buf *out)
{
    struct supervisor *s = user;
    struct metrics_text *texts = calloc((size_t)s->count, sizeof(*texts));
    char name[64];

    if (!texts) {
        out->failed = true;
        return;
    }
    for (int i = 0; i < s->count; i++)
        texts[i] = (struct metrics_text){s->workers[i].metrics.data ? s->workers[i].metrics.data : "",
                                         s->workers[i].metrics.len, s->workers[i].name};
    metrics_merge(out, "worker", texts, (size_t)s->count);
    free(texts);
    snprintf(name, sizeof(name), "%s_worker_restarts_total", program_supervised(s->program)->name);
    for (char *c = name; *c; c++)
        if (*c == '-')
            *c = '_';
    buf_printf(out, "# HELP %s Workers started again after they died.\n# TYPE %s counter\n%s %llu\n", name,
               name, name, (unsigned long long)s->restarts);
}

static bool on_ready(void *user, struct buf *report)
{
    struct supervisor *s = user;
    bool all = !s->stopping;

    for (int i = 0; i < s->count; i++)
        all = all && s->workers[i].ready;
    buf_printf(report, "{\"ready\":%s,\"draining\":%s,\"workers\":[", all ? "true" : "false",
               s->stopping ? "true" : "false");
    for (int i = 0; i < s->count; i++) {
        const struct buf *r = &s->workers[i].report;

        buf_printf(report, "%s%s", i ? "," : "",
                   s->workers[i].running && r->len ? r->data : "{\"ready\":false}");
    }
    buf_add_str(report, "]}");
    return all;
}

static int supervisor_start(struct program *p, uv_loop_t *loop, struct config *c, void **ret_ctx)
{
    static const struct admin_source source = {on_metrics, on_ready};
    const struct program_ops *ops = program_supervised(p);
    struct supervisor *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    *s = (struct supervisor){.program = p, .loop = loop, .config = config_ref(c), .count = ops->workers(c)};
    s->workers = calloc((size_t)s->count, sizeof(*s->workers));
    r = s->workers ? admin_start_source(loop, ops->admin_listen(c), &source, s, &s->admin) : -ENOMEM;
    if (r < 0) {
        log_error("ADMIN-LISTEN", "cannot listen for probes and metrics",
                  LF_STR("address", ops->admin_listen(c)), LF_STR("error", err_text(r)));
        free(s->workers);
        config_unref(s->config);
        free(s);
        return r;
    }
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    uv_timer_start(&s->timer, on_timer, ASK_MS / 10, ASK_MS);
    *ret_ctx = s;
    for (int i = 0; i < s->count; i++) {
        struct worker *w = &s->workers[i];

        w->supervisor = s;
        w->number = i;
        snprintf(w->name, sizeof(w->name), "%d", i);
        r = worker_spawn(w);
        if (r < 0) {
            log_error("WORKER-SPAWN", "a worker cannot be started", LF_STR("error", err_text(r)));
            program_fail(p);
            break;
        }
    }
    return 0;
}

static void signal_all(struct supervisor *s, int number)
{
    for (int i = 0; i < s->count; i++)
        if (s->workers[i].running)
            uv_process_kill(&s->workers[i].process, number);
}

static void supervisor_reload(void *ctx, struct config *c)
{
    (void)c; /* each worker reads and checks it again */
    signal_all(ctx, SIGHUP);
}

static void supervisor_stop(void *ctx)
{
    struct supervisor *s = ctx;

    s->stopping = true;
    signal_all(s, SIGTERM);
    supervisor_down(s);
}

static void supervisor_finish(void *ctx)
{
    struct supervisor *s = ctx;

    for (int i = 0; i < s->count; i++) {
        buf_done(&s->workers[i].answer.bytes);
        buf_done(&s->workers[i].metrics);
        buf_done(&s->workers[i].report);
    }
    free(s->workers);
    config_unref(s->config);
    free(s);
}

const struct program_ops supervisor_ops = {
    .start = supervisor_start,
    .reload = supervisor_reload,
    .stop = supervisor_stop,
    .finish = supervisor_finish,
};
