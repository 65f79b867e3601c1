/* The tree of channels against a model Redis: whatever the order of acquires, releases and confirmations,
 * every live ref is always covered by a subscribed channel, and at rest exactly the shortest prefixes are
 * subscribed. */
#include "gateway/interest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { REFS = 40, QUEUE = 4096 };

struct command {
    char prefix[64];
    bool subscribe;
};

struct model {
    struct interest *interest;
    struct command queue[QUEUE];
    size_t head, tail;
    char on[REFS * 4][64]; /* what Redis has */
    size_t on_count;
    struct interest_ref refs[REFS];
    char prefix[REFS][64];
    bool live[REFS], held[REFS];
    unsigned repeated; /* SUBSCRIBE of a channel that is on or asked for */
};

static void enqueue(struct model *m, const char *prefix, size_t len, bool subscribe)
{
    struct command *c = &m->queue[m->tail++ % QUEUE];

    assert_true(m->tail - m->head < QUEUE);
    snprintf(c->prefix, sizeof(c->prefix), "%.*s", (int)len, prefix);
    c->subscribe = subscribe;
}

static void on_subscribe(void *user, const char *prefix, size_t len)
{
    enqueue(user, prefix, len, true);
}

static void on_unsubscribe(void *user, const char *prefix, size_t len)
{
    enqueue(user, prefix, len, false);
}

static void on_live(void *user, struct interest_ref *ref)
{
    struct model *m = user;
    size_t i = (size_t)(ref - m->refs);

    assert_true(m->held[i]);
    assert_false(m->live[i]);
    m->live[i] = true;
}

static const struct interest_ops ops = {on_subscribe, on_unsubscribe, on_live};

static bool covers(const char *above, const char *prefix)
{
    size_t n = strlen(above);

    return n == 0 || (strncmp(above, prefix, n) == 0 && (prefix[n] == '\0' || prefix[n] == '.'));
}

static size_t redis_find(const struct model *m, const char *prefix)
{
    for (size_t i = 0; i < m->on_count; i++)
        if (strcmp(m->on[i], prefix) == 0)
            return i;
    return SIZE_MAX;
}

/* Redis executes the oldest command, and its confirmation arrives. */
static void redis_turn(struct model *m)
{
    struct command c = m->queue[m->head++ % QUEUE];
    size_t at = redis_find(m, c.prefix);

    if (c.subscribe) {
        assert_true(at == SIZE_MAX);
        strcpy(m->on[m->on_count++], c.prefix);
    } else {
        assert_true(at != SIZE_MAX);
        m->on_count--;
        memmove(m->on[at], m->on[m->on_count], sizeof(m->on[at]));
    }
    interest_confirmed(m->interest, c.prefix, strlen(c.prefix), c.subscribe);
}

static void check_live_are_covered(const struct model *m)
{
    for (size_t i = 0; i < REFS; i++) {
        bool covered = false;

        if (!m->held[i] || !m->live[i])
            continue;
        for (size_t k = 0; k < m->on_count; k++)
            covered |= covers(m->on[k], m->prefix[i]);
        if (!covered)
            fail_msg("ref on '%s' is live, but no channel brings its events", m->prefix[i]);
    }
}

/* With nothing on its way, the channels are the shortest held prefixes, and everybody is live. */
static void check_at_rest(const struct model *m)
{
    size_t expected = 0;

    for (size_t i = 0; i < REFS; i++) {
        bool top = m->held[i];

        if (m->held[i])
            assert_true(m->live[i]);
        for (size_t k = 0; k < REFS && top; k++) {
            if (k == i || !m->held[k] || !covers(m->prefix[k], m->prefix[i]))
                continue;
            top = strcmp(m->prefix[k], m->prefix[i]) == 0 && k > i;
        }
        if (!top)
            continue;
        expected++;
        assert_true(redis_find(m, m->prefix[i]) != SIZE_MAX);
    }
    assert_int_equal(m->on_count, expected);
    assert_int_equal(interest_channels(m->interest), expected);
}

static void drain(struct model *m)
{
    while (m->head < m->tail) {
        redis_turn(m);
        check_live_are_covered(m);
    }
    check_at_rest(m);
}

static void acquire(struct model *m, size_t i, const char *prefix)
{
    int r;

    snprintf(m->prefix[i], sizeof(m->prefix[i]), "%s", prefix);
    m->held[i] = true;
    m->live[i] = false;
    r = interest_acquire(m->interest, m->prefix[i], strlen(prefix), &m->refs[i]);
    assert_true(r >= 0);
    if (r == 1)
        m->live[i] = true;
}

static void release(struct model *m, size_t i)
{
    m->held[i] = false;
    interest_release(m->interest, &m->refs[i]);
}

static struct model *model_new(void)
{
    struct model *m = calloc(1, sizeof(*m));

    m->interest = interest_new(&ops, m);
    interest_link_up(m->interest);
    return m;
}

static void model_free(struct model *m)
{
    for (size_t i = 0; i < REFS; i++)
        if (m->held[i])
            release(m, i);
    drain(m);
    interest_free(m->interest);
    free(m);
}

static void a_broader_channel_replaces_the_ones_below_it_only_once_it_is_confirmed(void **state)
{
    struct model *m = model_new();

    (void)state;
    acquire(m, 0, "task.5f");
    drain(m);
    acquire(m, 1, "task");
    assert_true(redis_find(m, "task.5f") != SIZE_MAX);
    redis_turn(m); /* task is confirmed */
    assert_int_equal(m->tail - m->head, 1);
    assert_false(m->queue[m->head % QUEUE].subscribe);
    drain(m);
    assert_int_equal(m->on_count, 1);
    acquire(m, 2, "task.5f.6a");
    assert_true(m->live[2]);
    assert_int_equal(m->head, m->tail); /* covered: nothing to ask for */
    release(m, 1);
    assert_true(m->queue[m->head % QUEUE].subscribe);
    drain(m);
    assert_true(redis_find(m, "task.5f") != SIZE_MAX);
    model_free(m);
}

static void random_orders_never_leave_a_live_ref_uncovered(void **state)
{
    static const char *const prefixes[] = {"",     "a",      "a.b",    "a.b.c", "a.b.c.d", "a.x",
                                           "b",    "b.c",    "b.c.d",  ".",     "..",      ".a",
                                           "task", "task.1", "task.2", "tas"};

    (void)state;
    for (unsigned seed = 1; seed <= 300; seed++) {
        struct model *m = model_new();

        srand(seed);
        for (int n = 0; n < 400; n++) {
            size_t i = (size_t)rand() % REFS;
            int what = rand() % 10;

            if (what < 4 && !m->held[i])
                acquire(m, i, prefixes[(size_t)rand() % (sizeof(prefixes) / sizeof(prefixes[0]))]);
            else if (what < 6 && m->held[i])
                release(m, i);
            else if (what < 9 && m->head < m->tail)
                redis_turn(m);
            else if (what == 9 && rand() % 20 == 0) {
                interest_link_down(m->interest);
                m->on_count = 0;
                m->head = m->tail;
                interest_link_up(m->interest);
                while (m->head < m->tail) /* a broken link covers nobody until all is subscribed again */
                    redis_turn(m);
                check_at_rest(m);
            }
            if (what < 9)
                check_live_are_covered(m);
        }
        drain(m);
        model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broader_channel_replaces_the_ones_below_it_only_once_it_is_confirmed),
        cmocka_unit_test(random_orders_never_leave_a_live_ref_uncovered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
