/* metrics.h - counters, gauges and histograms, printed as Prometheus text (exposition format 0.0.4).
 *
 * A program keeps its families in one table of rows (an X macro makes the enum, so the row number is
 * the name in the code). A family has no label or one; series of a labelled family come into being at
 * first use. Loop thread only. */
#ifndef EF_METRICS_H
#define EF_METRICS_H

#include "shared/buf.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_row {
    const char *name; /* whole, e.g. "event_gateway_sessions" */
    enum metric_type type;
    const char *label; /* name of the one label, or NULL */
    const char *help;  /* says what the reader should do about it */
};

/* Series of one family. Labels are chosen by us, so more is our bug, not a load: the rest goes uncounted. */
enum { METRICS_SERIES_MAX = 1000 };

struct metrics;
struct metric; /* one series */

/* rows: borrowed for the life of the object. Histograms hold seconds; their buckets are
 * 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10. NULL on lack of memory. */
struct metrics *metrics_new(const struct metric_row *rows, size_t count);
void metrics_free(struct metrics *m);

/* The series of family `row`; label: its label's value (copied), NULL exactly if the family has none.
 * Never NULL: where memory is lacking (or METRICS_SERIES_MAX is reached), a scratch series. Keep the pointer
 * for hot paths; it is valid until metrics_free. A family without label shows up as 0 from the start. */
struct metric *metrics_get(struct metrics *m, size_t row, const char *label);
void metric_add(struct metric *s, double n);
void metric_set(struct metric *s, double value);       /* gauges; also counters kept elsewhere */
void metric_observe(struct metric *s, double seconds); /* histograms */
double metric_value(const struct metric *s);           /* of a histogram: how many were observed */

/* metrics_add(m, ROW, n): the unlabelled series. */
void metrics_add(struct metrics *m, size_t row, double n);
void metrics_set(struct metrics *m, size_t row, double value);

/* Append the text of all families to `out`, with # HELP and # TYPE. */
void metrics_render(const struct metrics *m, struct buf *out);

#endif
