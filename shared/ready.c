/* ready.c - the checks of a process and their verdict.
 *
 *   check:  (added) BAD --set good--> GOOD --set bad--> BAD, still counted as good for grace_ms
 *                    '-- no grace --'    '<--set good-- BAD
 *
 * Nothing here waits: the verdict is computed from times when it is asked for. The only failure is a lack
 * of memory for the report; the verdict stands without it. */
#include "shared/ready.h"

#include "shared/buf.h"
#include "shared/clock.h"
#include "shared/json_text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct check {
    const char *name;
    int64_t grace_ms;
    int64_t since_ms; /* when it became what it is */
    bool good;
    bool was_good; /* ever */
    char detail[READY_DETAIL_MAX + 1];
};

struct ready {
    bool draining;
    int count;
    struct check checks[READY_CHECKS_MAX];
};

struct ready *ready_new(void)
{
    return calloc(1, sizeof(struct ready));
}

void ready_free(struct ready *r)
{
    free(r);
}

int ready_add_at(struct ready *r, const char *name, int grace_ms, int64_t now_ms)
{
    assert(name && grace_ms >= READY_NEVER_FAILS && r->count < READY_CHECKS_MAX);
    r->checks[r->count] = (struct check){.name = name, .grace_ms = grace_ms, .since_ms = now_ms};
    return r->count++;
}

int ready_add(struct ready *r, const char *name, int grace_ms)
{
    return ready_add_at(r, name, grace_ms, clock_mono_ms());
}

/* Copy as valid UTF-8, cut at READY_DETAIL_MAX bytes but not inside a character. */
static void copy_detail(char out[READY_DETAIL_MAX + 1], const char *detail)
{
    CLEANUP(buf_done) struct buf clean = {0};
    size_t n;

    json_text_add_utf8(&clean, detail, strnlen(detail, 4 * READY_DETAIL_MAX));
    n = clean.len;
    if (n > READY_DETAIL_MAX) {
        n = READY_DETAIL_MAX;
        while (n > 0 && ((unsigned char)clean.data[n] & 0xC0) == 0x80)
            n--;
    }
    if (n)
        memcpy(out, clean.data, n);
    out[n] = '\0';
}

void ready_set_at(struct ready *r, int check, bool good, const char *detail, int64_t now_ms)
{
    struct check *c;

    assert(check >= 0 && check < r->count);
    c = &r->checks[check];
    if (c->good != good)
        c->since_ms = now_ms;
    c->good = good;
    c->was_good |= good;
    copy_detail(c->detail, detail ? detail : "");
}

void ready_set(struct ready *r, int check, bool good, const char *detail)
{
    ready_set_at(r, check, good, detail, clock_mono_ms());
}

void ready_drain(struct ready *r)
{
    r->draining = true;
}

static bool check_passes(const struct check *c, int64_t now_ms)
{
    return c->good || c->grace_ms == READY_NEVER_FAILS || (c->was_good && now_ms - c->since_ms < c->grace_ms);
}

static json_t *check_report(const struct check *c, int64_t now_ms)
{
    int64_t for_s = now_ms > c->since_ms ? (now_ms - c->since_ms) / 1000 : 0;
    json_t *report = json_pack("{s:b, s:I}", "ok", c->good, "for_s", (json_int_t)for_s);

    if (report && c->detail[0] && json_object_set_new(report, "detail", json_string(c->detail)) != 0) {
        json_decref(report);
        return NULL;
    }
    return report;
}

static json_t *ready_report(const struct ready *r, bool verdict, int64_t now_ms)
{
    json_t *checks = json_object();
    json_t *report;

    for (int i = 0; i < r->count; i++) {
        /* The setter fails for a NULL value, and takes the value also then. */
        if (json_object_set_new(checks, r->checks[i].name, check_report(&r->checks[i], now_ms)) != 0) {
            json_decref(checks);
            return NULL;
        }
    }
    report = json_pack("{s:b, s:b, s:o}", "ready", verdict, "draining", r->draining, "checks", checks);
    return report;
}

bool ready_eval_at(const struct ready *r, int64_t now_ms, json_t **ret_report)
{
    bool verdict = !r->draining;

    for (int i = 0; i < r->count; i++)
        verdict = verdict && check_passes(&r->checks[i], now_ms);
    if (ret_report)
        *ret_report = ready_report(r, verdict, now_ms);
    return verdict;
}

bool ready_eval(const struct ready *r, json_t **ret_report)
{
    return ready_eval_at(r, clock_mono_ms(), ret_report);
}
