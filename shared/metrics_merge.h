/* metrics_merge.h - several processes' metrics under one /metrics: families once, samples with a label that
 * says whose they are. */
#ifndef EF_METRICS_MERGE_H
#define EF_METRICS_MERGE_H

#include "shared/buf.h"

struct metrics_text {
    const char *text; /* Prometheus text as metrics_render makes it */
    size_t len;
    const char *value; /* of the label */
};

/* Append the merged text. Families come in the order of the first text that has them. */
void metrics_merge(struct buf *out, const char *label, const struct metrics_text *texts, size_t count);

#endif
