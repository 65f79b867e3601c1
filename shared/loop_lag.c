/* loop_lag.c - measures the turns of a libuv loop.
 *
 *   prepare -> [poll: waits in the kernel, then runs the I/O callbacks] -> check, closing, timers -> prepare
 *              '------- idle -------''---------------------- busy -------------------------------'
 *
 * libuv runs I/O callbacks inside its poll phase, so a prepare and a check handle cannot tell waiting from
 * work. libuv itself can: with UV_METRICS_IDLE_TIME it adds up the time spent in epoll_wait. A turn is
 * what lies between two prepares, less the idle time in it. The price is one clock reading a turn here, two
 * around epoll_wait, and (libuv 1.44) one epoll_wait more in a turn that really waits.
 *
 * Both handles are unreferenced: they never keep a loop alive that has nothing else to do. */
#include "shared/loop_lag.h"

#include "shared/clock.h"

#include <assert.h>
#include <stdlib.h>

enum { KEEP_TURNING_MS = 100 };

struct loop_lag {
    uv_prepare_t prepare;
    uv_timer_t timer;
    int open_handles;
    struct metric *histogram;
    struct metric *max;
    struct loop_lag_window window;
    bool started;
    int64_t last_us;
    uint64_t last_idle_ns;
};

double loop_lag_window_add(struct loop_lag_window *w, int64_t now_us, double seconds)
{
    int64_t age_us = now_us - w->slot_since_us;

    if (age_us >= LOOP_LAG_SLOT_US) {
        w->previous = age_us < 2 * LOOP_LAG_SLOT_US ? w->current : 0;
        w->current = 0;
        w->slot_since_us = now_us;
    }
    if (seconds > w->current)
        w->current = seconds;
    return w->current > w->previous ? w->current : w->previous;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop_lag *l = prepare->data;
    int64_t now_us = clock_mono_us();
    uint64_t idle_ns = uv_metrics_idle_time(prepare->loop);
    double busy;

    if (l->started) {
        busy = (double)(now_us - l->last_us) / 1e6 - (double)(idle_ns - l->last_idle_ns) / 1e9;
        if (busy < 0) /* the clocks are read one after the other */
            busy = 0;
        metric_observe(l->histogram, busy);
        metric_set(l->max, loop_lag_window_add(&l->window, now_us, busy));
    }
    l->started = true;
    l->last_us = now_us;
    l->last_idle_ns = idle_ns;
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer; /* the turn that it makes is all that we want */
}

struct loop_lag *loop_lag_start(uv_loop_t *loop, struct metric *histogram, struct metric *max)
{
    struct loop_lag *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->histogram = histogram;
    l->max = max;
    l->window.slot_since_us = clock_mono_us();
    uv_loop_configure(loop, UV_METRICS_IDLE_TIME);

    /* None of these can fail with a callback given. */
    uv_prepare_init(loop, &l->prepare);
    uv_timer_init(loop, &l->timer);
    l->prepare.data = l->timer.data = l;
    l->open_handles = 2;
    uv_prepare_start(&l->prepare, on_prepare);
    uv_timer_start(&l->timer, on_timer, KEEP_TURNING_MS, KEEP_TURNING_MS);
    uv_unref((uv_handle_t *)&l->prepare);
    uv_unref((uv_handle_t *)&l->timer);
    return l;
}

static void on_closed(uv_handle_t *handle)
{
    struct loop_lag *l = handle->data;

    assert(l->open_handles > 0);
    if (--l->open_handles == 0)
        free(l);
}

void loop_lag_close(struct loop_lag *l)
{
    if (!l)
        return;
    uv_close((uv_handle_t *)&l->prepare, on_closed);
    uv_close((uv_handle_t *)&l->timer, on_closed);
}
