/* histogram.h - durations in nanoseconds, log-linear: 64 steps to each doubling, so a quantile is at most 1.6
 * % too high. A plain value; all zeros is empty. */
#ifndef EF_BENCH_HISTOGRAM_H
#define EF_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEP_BITS = 6, HISTOGRAM_STEPS = 1 << HISTOGRAM_STEP_BITS };

struct histogram {
    uint64_t count;
    uint64_t max;
    uint64_t bins[(64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS];
};

static inline unsigned histogram_bin(uint64_t v)
{
    unsigned shift;

    if (v < HISTOGRAM_STEPS)
        return (unsigned)v;
    shift = 63u - (unsigned)__builtin_clzll(v) - HISTOGRAM_STEP_BITS;
    return (shift + 1) * HISTOGRAM_STEPS + (unsigned)(v >> shift & (HISTOGRAM_STEPS - 1));
}

static inline void histogram_add(struct histogram *h, uint64_t v)
{
    h->count++;
    if (v > h->max)
        h->max = v;
    h->bins[histogram_bin(v)]++;
}

/* The value that a share `q` (0 to 1) of the values does not exceed: the upper end of its bin. 0 if empty. */
static inline uint64_t histogram_quantile(const struct histogram *h, double q)
{
    uint64_t wanted = (uint64_t)((double)h->count * q);
    uint64_t seen = 0;

    if (h->count == 0)
        return 0;
    for (unsigned i = 0; i < sizeof(h->bins) / sizeof(h->bins[0]); i++) {
        seen += h->bins[i];
        if (seen > wanted || seen == h->count) {
            unsigned shift = i < HISTOGRAM_STEPS ? 0 : i / HISTOGRAM_STEPS - 1;
            uint64_t low =
                i < HISTOGRAM_STEPS ? i : (uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS) << shift;
            uint64_t high = low + ((uint64_t)1 << shift) - 1;

            return high < h->max ? high : h->max;
        }
    }
    return h->max;
}

#endif
