/* loop_lag.h - how long does a turn of the loop take?
 *
 * Measured is the work of a turn: all of it but the time spent waiting in the kernel. Every turn is observed
 * in a histogram, and the longest turn of the last 10 to 20 seconds in a gauge. A timer keeps an idle loop
 * turning 10 times a second. Nothing here keeps a loop alive. */
#ifndef EF_LOOP_LAG_H
#define EF_LOOP_LAG_H

#include "shared/metrics.h"

#include <uv.h>

struct loop_lag;

/* The longest of two slots of 10 s; open so that a test can step the clock. */
enum { LOOP_LAG_SLOT_US = 10 * 1000 * 1000 };
struct loop_lag_window {
    int64_t slot_since_us;
    double current;
    double previous;
};
/* Add a turn that ended at now_us. Returns the longest turn of this slot and the one before. */
double loop_lag_window_add(struct loop_lag_window *w, int64_t now_us, double seconds);

/* histogram, max: series of metrics.h, borrowed until loop_lag_close. Switches the loop's
 * UV_METRICS_IDLE_TIME on. NULL on lack of memory. */
struct loop_lag *loop_lag_start(uv_loop_t *loop, struct metric *histogram, struct metric *max);
void loop_lag_close(struct loop_lag *l); /* measures no more; freed in a later turn; NULL is fine */

#endif
