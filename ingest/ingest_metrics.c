#include "ingest/ingest_metrics.h"

const struct metric_row ingest_metric_rows[INGEST_METRIC_COUNT] = {
#define X(id, name, type, label, help) [id] = {name, type, label, help},
    INGEST_METRICS(X)
#undef X
};
