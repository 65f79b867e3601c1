/* loop_lag.h - how long does a turn of the loop take?
 *
 * A prepare and a check handle time what lies between two polls; every turn is observed in a histogram, and
 * the longest turn of the last 10 to 20 seconds in a gauge. A timer keeps an idle loop turning 10 times a second. */
#ifndef EF_LOOP_LAG_H
#define EF_LOOP_LAG_H

#include "shared/metrics.h"

#include <uv.h>

struct loop_lag;

/* histogram, max: series of metrics.h, borrowed. NULL on lack of memory. */
struct loop_lag *loop_lag_start(uv_loop_t *loop, struct metric *histogram, struct metric *max);
void loop_lag_close(struct loop_lag *l); /* freed in a later turn; NULL is fine */

#endif
