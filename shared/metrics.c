/* metrics.c - families of series, and their text for Prometheus.
 *
 * A series is allocated on its own and never moves, because callers keep pointers to it. Histogram
 * counts are kept per bucket and summed up when they are printed.
 *
 * Failures: where memory is lacking, or a family has METRICS_SERIES_MAX series, metrics_get hands out a
 * scratch series that takes every call and is never printed. Text format:
 * https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4). */
#include "shared/metrics.h"

#include "shared/json_text.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    double le;
    const char *text;
} buckets[] = {
    {0.0005, "0.0005"}, {0.001, "0.001"}, {0.0025, "0.0025"}, {0.005, "0.005"}, {0.01, "0.01"},
    {0.025, "0.025"},   {0.05, "0.05"},   {0.1, "0.1"},       {0.25, "0.25"},   {0.5, "0.5"},
    {1, "1"},           {2.5, "2.5"},     {5, "5"},           {10, "10"},
};

struct metric {
    struct metric *next; /* in order of creation */
    enum metric_type type;
    double value;                          /* of a histogram: the sum */
    char *label;                           /* NULL in a family without label */
    uint64_t hits[ARRAY_LEN(buckets) + 1]; /* histograms: one per bucket, the last one is +Inf */
};

struct family {
    struct metric *first;
    struct metric *last;
    size_t count;
};

struct metrics {
    const struct metric_row *rows;
    size_t count;
    struct metric scratch[METRIC_HISTOGRAM + 1]; /* one per type */
    struct family families[];
};

static void metric_free(struct metric *s)
{
    free(s->label);
    free(s);
}

static struct metric *family_add(struct family *f, enum metric_type type, const char *label)
{
    struct metric *s;

    if (f->count == METRICS_SERIES_MAX)
        return NULL;
    s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->type = type;
    if (label) {
        s->label = strdup(label);
        if (!s->label) {
            metric_free(s);
            return NULL;
        }
    }
    if (f->last)
        f->last->next = s;
    else
        f->first = s;
    f->last = s;
    f->count++;
    return s;
}

struct metrics *metrics_new(const struct metric_row *rows, size_t count)
{
    struct metrics *m = calloc(1, sizeof(*m) + count * sizeof(m->families[0]));

    if (!m)
        return NULL;
    m->rows = rows;
    m->count = count;
    for (size_t type = 0; type < ARRAY_LEN(m->scratch); type++)
        m->scratch[type].type = (enum metric_type)type;
    for (size_t row = 0; row < count; row++) {
        if (!rows[row].label && !family_add(&m->families[row], rows[row].type, NULL)) {
            metrics_free(m);
            return NULL;
        }
    }
    return m;
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (size_t row = 0; row < m->count; row++) {
        struct metric *s = m->families[row].first;

        while (s) {
            struct metric *next = s->next;

            metric_free(s);
            s = next;
        }
    }
    free(m);
}

struct metric *metrics_get(struct metrics *m, size_t row, const char *label)
{
    struct metric *s;

    assert(row < m->count);
    assert(!label == !m->rows[row].label);
    if (!label)
        return m->families[row].first;
    for (s = m->families[row].first; s; s = s->next) {
        if (strcmp(s->label, label) == 0)
            return s;
    }
    s = family_add(&m->families[row], m->rows[row].type, label);
    return s ? s : &m->scratch[m->rows[row].type];
}

void metric_add(struct metric *s, double n)
{
    assert(s->type == METRIC_GAUGE || (s->type == METRIC_COUNTER && n >= 0));
    s->value += n;
}

void metric_set(struct metric *s, double value)
{
    assert(s->type != METRIC_HISTOGRAM);
    s->value = value;
}

void metric_observe(struct metric *s, double seconds)
{
    size_t i = 0;

    assert(s->type == METRIC_HISTOGRAM);
    while (i < ARRAY_LEN(buckets) && seconds > buckets[i].le)
        i++;
    s->hits[i]++;
    s->value += seconds;
}

static uint64_t histogram_count(const struct metric *s)
{
    uint64_t count = 0;

    for (size_t i = 0; i < ARRAY_LEN(s->hits); i++)
        count += s->hits[i];
    return count;
}

double metric_value(const struct metric *s)
{
    return s->type == METRIC_HISTOGRAM ? (double)histogram_count(s) : s->value;
}

void metrics_add(struct metrics *m, size_t row, double n)
{
    metric_add(metrics_get(m, row, NULL), n);
}

void metrics_set(struct metrics *m, size_t row, double value)
{
    metric_set(metrics_get(m, row, NULL), value);
}

/* A backslash and a line feed are escaped everywhere, a quote only within label values. */
static void add_escaped(struct buf *out, const char *text, bool quote)
{
    CLEANUP(buf_done) struct buf clean = {0};

    /* One byte that is not UTF-8 would make Prometheus refuse the whole page. */
    json_text_add_utf8(&clean, text, strlen(text));
    out->failed |= clean.failed;
    for (size_t i = 0; i < clean.len; i++) {
        char c = clean.data[i];

        if (c == '\\')
            buf_add_str(out, "\\\\");
        else if (c == '\n')
            buf_add_str(out, "\\n");
        else if (c == '"' && quote)
            buf_add_str(out, "\\\"");
        else
            buf_add_char(out, c);
    }
}

/* name_suffix{label="value",le="bound"}, without what is NULL, and a blank. */
static void add_name(struct buf *out, const struct metric_row *row, const struct metric *s,
                     const char *suffix, const char *le)
{
    buf_printf(out, "%s%s", row->name, suffix);
    if (s->label || le) {
        buf_add_char(out, '{');
        if (s->label) {
            buf_printf(out, "%s=\"", row->label);
            add_escaped(out, s->label, true);
            buf_add_str(out, le ? "\"," : "\"");
        }
        if (le)
            buf_printf(out, "le=\"%s\"", le);
        buf_add_char(out, '}');
    }
    buf_add_char(out, ' ');
}

static void add_value(struct buf *out, double value)
{
    if (isnan(value))
        buf_add_str(out, "NaN");
    else if (isinf(value))
        buf_add_str(out, value > 0 ? "+Inf" : "-Inf");
    else
        buf_add_num(out, value);
    buf_add_char(out, '\n');
}

static void add_histogram(struct buf *out, const struct metric_row *row, const struct metric *s)
{
    uint64_t count = 0;

    for (size_t i = 0; i < ARRAY_LEN(s->hits); i++) {
        count += s->hits[i];
        add_name(out, row, s, "_bucket", i < ARRAY_LEN(buckets) ? buckets[i].text : "+Inf");
        buf_printf(out, "%" PRIu64 "\n", count);
    }
    add_name(out, row, s, "_sum", NULL);
    add_value(out, s->value);
    add_name(out, row, s, "_count", NULL);
    buf_printf(out, "%" PRIu64 "\n", count);
}

void metrics_render(const struct metrics *m, struct buf *out)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"};

    for (size_t i = 0; i < m->count; i++) {
        const struct metric_row *row = &m->rows[i];

        buf_printf(out, "# HELP %s ", row->name);
        add_escaped(out, row->help, false);
        buf_printf(out, "\n# TYPE %s %s\n", row->name, types[row->type]);
        for (const struct metric *s = m->families[i].first; s; s = s->next) {
            if (row->type == METRIC_HISTOGRAM) {
                add_histogram(out, row, s);
            } else {
                add_name(out, row, s, "", NULL);
                add_value(out, s->value);
            }
        }
    }
}
