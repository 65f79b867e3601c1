#include "gateway/gateway_metrics.h"

const struct metric_row gateway_metric_rows[GATEWAY_METRIC_COUNT] = {
#define X(id, name, type, label, help) [id] = {name, type, label, help},
    GATEWAY_METRICS(X)
#undef X
};
