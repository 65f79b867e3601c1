/* Frames on their way to fake transports. A fake takes every write, as libwebsockets does, and says that it
 * is blocked once it was given more than its budget. */
#include "gateway/outbox.h"

#include "shared/buf.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct peer {
    struct outbox out;
    struct buf got, expected;
    size_t budget; /* bytes until it is blocked */
    size_t longest;
    unsigned writes, overflows;
    int error; /* what write returns */
    int overflow_error;
    size_t overflow_queued;
    bool blocked, wants, drop;
    const char *last; /* payload of the close frame that it sends on overflow, or NULL: outbox_close */
};

static struct outbox_hub *hub;

/* --- frames, built by the test itself ---------------------------------------------------------------------
 */

static void expect_frame(struct buf *out, int opcode, const char *payload, size_t len)
{
    unsigned char h[10] = {(unsigned char)(0x80 | opcode)};
    size_t n = 2;

    if (len <= 125) {
        h[1] = (unsigned char)len;
    } else if (len <= 0xffff) {
        h[1] = 126;
        h[2] = (unsigned char)(len / 256);
        h[3] = (unsigned char)(len % 256);
        n = 4;
    } else {
        h[1] = 127;
        for (int i = 9; i >= 2; i--, n++) {
            h[i] = (unsigned char)(len >> (8 * (9 - i)));
        }
    }
    buf_add(out, h, n);
    buf_add(out, payload, len);
}

/* Length of the frame at `p`, of which `len` bytes are there. */
static size_t frame_at(const unsigned char *p, size_t len)
{
    size_t n = 0;

    assert_true(len >= 2);
    if (p[1] < 126)
        return 2 + (size_t)p[1];
    if (p[1] == 126) {
        assert_true(len >= 4);
        return 4 + (size_t)p[2] * 256 + p[3];
    }
    assert_true(len >= 10);
    for (int i = 2; i < 10; i++)
        n = n * 256 + p[i];
    return 10 + n;
}

static size_t count_frames(const char *bytes, size_t len)
{
    size_t frames = 0;

    while (len > 0) {
        size_t n = frame_at((const unsigned char *)bytes, len);

        assert_true(n <= len);
        bytes += n;
        len -= n;
        frames++;
    }
    return frames;
}

/* --- the fake transport -----------------------------------------------------------------------------------
 */

static bool on_blocked(void *transport)
{
    return ((struct peer *)transport)->blocked;
}

static int on_write(void *transport, const char *bytes, size_t len)
{
    struct peer *p = transport;

    assert_false(p->blocked);
    assert_true(len > 0);
    p->writes++;
    if (p->error)
        return p->error;
    /* Whole frames, and never more than the limit unless it is one frame. */
    if (count_frames(bytes, len) > 1)
        assert_true(len <= OUTBOX_WRITE_MAX);
    if (len > p->longest)
        p->longest = len;
    buf_add(&p->got, bytes, len);
    p->blocked = len > p->budget;
    p->budget -= p->blocked ? p->budget : len;
    return 0;
}

static void on_want_writable(void *transport)
{
    ((struct peer *)transport)->wants = true;
}

static void on_overflow(void *transport, int error, size_t queued)
{
    struct peer *p = transport;
    struct outbox_run frame;

    assert_true(outbox_is_empty(&p->out));
    p->overflows++;
    p->overflow_error = error;
    p->overflow_queued = queued;
    if (!p->last) {
        outbox_close(&p->out);
        return;
    }
    assert_true(outbox_hub_frame(hub, FRAME_CLOSE, NULL, 0, p->last, strlen(p->last), &frame));
    assert_true(outbox_last(&p->out, frame, p->drop));
}

static void hub_make(size_t limit)
{
    static const struct outbox_transport transport = {on_blocked, on_write, on_want_writable, on_overflow};

    hub = outbox_hub_new(&transport, limit);
    assert_non_null(hub);
}

static void peer_init(struct peer *p)
{
    *p = (struct peer){.budget = SIZE_MAX};
    outbox_init(&p->out, hub, p);
}

static void peer_done(struct peer *p)
{
    outbox_done(&p->out);
    buf_done(&p->got);
    buf_done(&p->expected);
}

static void peer_unblock(struct peer *p, size_t budget)
{
    p->blocked = false;
    p->budget = budget;
    if (!p->wants)
        return;
    p->wants = false;
    outbox_writable(&p->out);
}

static struct outbox_run text(const char *payload, size_t len)
{
    struct outbox_run frame;

    assert_true(outbox_hub_frame(hub, FRAME_TEXT, NULL, 0, payload, len, &frame));
    return frame;
}

/* A frame for one peer only. */
static void say(struct peer *p, const char *payload, size_t len)
{
    assert_true(outbox_add(&p->out, text(payload, len)));
    expect_frame(&p->expected, FRAME_TEXT, payload, len);
}

static char *filled(size_t len, int c)
{
    char *bytes = malloc(len + 1);

    assert_non_null(bytes);
    memset(bytes, c, len);
    bytes[len] = '\0';
    return bytes;
}

static void assert_got_all(const struct peer *p)
{
    assert_int_equal(p->got.len, p->expected.len);
    if (p->got.len)
        assert_memory_equal(p->got.data, p->expected.data, p->got.len);
}

/* --- tests -------------------------------------------------------------------------------------------------
 */

static void a_frame_has_the_header_of_its_length(void **state)
{
    static const size_t lens[] = {0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, 300000};
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
        char *payload = filled(lens[i], 'a' + (int)i);

        say(&p, payload, lens[i]);
        outbox_hub_flush(hub);
        assert_got_all(&p);
        free(payload);
    }
    assert_int_equal(p.overflows, 0);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void a_payload_in_two_parts_is_one_frame(void **state)
{
    static const char ping[] = {(char)0x89, 0}, closing[] = {(char)0x88, 4, 3, (char)0xe9, 'n', 'o'};
    struct outbox_run frame;
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    assert_true(outbox_hub_frame(hub, FRAME_PING, NULL, 0, NULL, 0, &frame));
    assert_true(outbox_add(&p.out, frame));
    assert_true(outbox_hub_frame(hub, FRAME_CLOSE, "\x03\xe9", 2, "no", 2, &frame));
    assert_true(outbox_add(&p.out, frame));
    outbox_hub_flush(hub);
    buf_add(&p.expected, ping, sizeof(ping));
    buf_add(&p.expected, closing, sizeof(closing));
    assert_got_all(&p);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void frames_of_one_turn_leave_in_one_write(void **state)
{
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    for (int i = 0; i < 100; i++)
        say(&p, "event", 5);
    assert_int_equal(p.writes, 0);
    outbox_hub_flush(hub);
    assert_int_equal(p.writes, 1);
    assert_got_all(&p);
    outbox_hub_flush(hub);
    assert_int_equal(p.writes, 1);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void runs_that_are_apart_are_gathered_into_one_write(void **state)
{
    struct peer all, odd;

    (void)state;
    hub_make(0);
    peer_init(&all);
    peer_init(&odd);
    for (int i = 0; i < 20; i++) {
        struct outbox_run frame = text(i % 2 ? "odd" : "even", i % 2 ? 3 : 4);

        assert_true(outbox_add(&all.out, frame));
        expect_frame(&all.expected, FRAME_TEXT, i % 2 ? "odd" : "even", i % 2 ? 3 : 4);
        if (i % 2) {
            assert_true(outbox_add(&odd.out, frame));
            expect_frame(&odd.expected, FRAME_TEXT, "odd", 3);
        }
    }
    outbox_hub_flush(hub);
    assert_int_equal(all.writes, 1);
    assert_int_equal(odd.writes, 1);
    assert_got_all(&all);
    assert_got_all(&odd);
    peer_done(&all);
    peer_done(&odd);
    outbox_hub_free(hub);
}

static void a_frame_added_twice_arrives_twice(void **state)
{
    struct outbox_run frame;
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    frame = text("x", 1);
    for (int i = 0; i < 3; i++) {
        assert_true(outbox_add(&p.out, frame));
        expect_frame(&p.expected, FRAME_TEXT, "x", 1);
    }
    outbox_hub_flush(hub);
    assert_int_equal(p.writes, 1);
    assert_got_all(&p);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void only_a_single_frame_is_written_beyond_64_kib(void **state)
{
    char *small = filled(1000, 's'), *large = filled(200000, 'l'), *edge = filled(OUTBOX_WRITE_MAX - 4, 'e');
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    for (int i = 0; i < 200; i++)
        say(&p, small, 1000);
    outbox_hub_flush(hub);
    assert_got_all(&p);
    assert_in_range(p.writes, 4, 5);
    assert_in_range(p.longest, 60000, OUTBOX_WRITE_MAX);
    say(&p, small, 1000);
    say(&p, large, 200000);
    say(&p, small, 1000);
    p.writes = 0;
    outbox_hub_flush(hub);
    assert_got_all(&p);
    assert_int_equal(p.writes, 3);
    assert_int_equal(p.longest, 200010);
    /* A frame of exactly the limit, with header, leaves by itself. */
    say(&p, edge, OUTBOX_WRITE_MAX - 4);
    say(&p, "x", 1);
    p.writes = 0;
    outbox_hub_flush(hub);
    assert_got_all(&p);
    assert_int_equal(p.writes, 2);
    peer_done(&p);
    outbox_hub_free(hub);
    free(small);
    free(large);
    free(edge);
}

static void a_blocked_transport_is_not_written_to(void **state)
{
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    p.budget = 3; /* the first write is more */
    say(&p, "first", 5);
    outbox_hub_flush(hub);
    assert_true(p.blocked);
    assert_true(outbox_is_empty(&p.out));
    assert_false(p.wants);
    say(&p, "second", 6);
    outbox_hub_flush(hub);
    assert_true(p.wants);
    assert_int_equal(p.writes, 1);
    assert_int_equal(outbox_hub_queued(hub), 8);
    say(&p, "third", 5);
    /* What was added in this turn waits for its end, also when the transport is ready before. */
    peer_unblock(&p, SIZE_MAX);
    assert_int_equal(p.writes, 1);
    outbox_hub_flush(hub);
    assert_int_equal(p.writes, 2);
    assert_int_equal(outbox_hub_queued(hub), 0);
    assert_got_all(&p);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void a_queue_over_its_limit_overflows_once(void **state)
{
    struct peer slow, other;

    (void)state;
    hub_make(100);
    peer_init(&slow);
    peer_init(&other);
    slow.blocked = true;
    for (int i = 0; i < 10; i++) {
        say(&slow, "12345678", 8); /* 10 bytes each: exactly the limit */
        outbox_hub_flush(hub);
    }
    assert_int_equal(slow.overflows, 0);
    for (int i = 0; i < 5; i++) {
        struct outbox_run frame = text("x", 1);

        assert_true(outbox_add(&slow.out, frame));
        assert_true(outbox_add(&other.out, frame));
        expect_frame(&other.expected, FRAME_TEXT, "x", 1);
        outbox_hub_flush(hub);
    }
    assert_int_equal(slow.overflows, 1);
    assert_int_equal(slow.overflow_error, 0);
    assert_int_equal(slow.overflow_queued, 103);
    assert_int_equal(slow.writes, 0);
    assert_got_all(&other);
    assert_int_equal(outbox_hub_queued(hub), 0);
    peer_done(&slow);
    peer_done(&other);
    outbox_hub_free(hub);
}

static void an_overflow_may_leave_a_last_frame(void **state)
{
    struct peer slow;

    (void)state;
    hub_make(100);
    peer_init(&slow);
    slow.blocked = true;
    slow.last = "bye";
    slow.drop = true;
    for (int i = 0; i < 12; i++)
        say(&slow, "12345678", 8);
    outbox_hub_flush(hub);
    assert_int_equal(slow.overflows, 1);
    assert_int_equal(outbox_hub_queued(hub), 5);
    assert_true(outbox_add(&slow.out, text("late", 4))); /* is ignored */
    outbox_hub_flush(hub);
    buf_reset(&slow.expected);
    expect_frame(&slow.expected, FRAME_CLOSE, "bye", 3);
    assert_true(slow.wants);
    peer_unblock(&slow, SIZE_MAX);
    assert_got_all(&slow);
    peer_done(&slow);
    outbox_hub_free(hub);
}

static void a_last_frame_comes_behind_what_waits(void **state)
{
    struct outbox_run frame;
    struct peer p;

    (void)state;
    hub_make(10);
    peer_init(&p);
    p.blocked = true;
    say(&p, "waits", 5);
    outbox_hub_flush(hub);
    assert_true(outbox_hub_frame(hub, FRAME_CLOSE, NULL, 0, "a long farewell", 15, &frame));
    assert_true(outbox_last(&p.out, frame, false)); /* the limit is not for the last one */
    expect_frame(&p.expected, FRAME_CLOSE, "a long farewell", 15);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 0);
    peer_unblock(&p, SIZE_MAX);
    assert_got_all(&p);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void an_empty_queue_takes_one_frame_of_any_size(void **state)
{
    char *large = filled(1000000, 'x');
    struct peer p;

    (void)state;
    hub_make(100);
    peer_init(&p);
    p.blocked = true;
    say(&p, large, 1000000);
    outbox_hub_flush(hub);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 0);
    peer_unblock(&p, 0);
    assert_int_equal(p.overflows, 0);
    assert_got_all(&p);
    /* It is empty again, although the transport is still busy. */
    say(&p, large, 1000000);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 0);
    say(&p, "y", 1);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 1);
    peer_done(&p);
    outbox_hub_free(hub);
    free(large);
}

static void a_new_limit_holds_for_what_waits_already(void **state)
{
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    p.blocked = true;
    for (int i = 0; i < 1000; i++)
        say(&p, "12345678", 8);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 0);
    outbox_hub_set_limit(hub, 5000);
    say(&p, "12345678", 8);
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 1);
    peer_done(&p);
    outbox_hub_free(hub);
}

static void a_write_that_fails_ends_the_outbox(void **state)
{
    struct peer dead, other;

    (void)state;
    hub_make(0);
    peer_init(&dead);
    peer_init(&other);
    dead.error = -32;
    for (int i = 0; i < 3; i++) {
        struct outbox_run frame = text("x", 1);

        assert_true(outbox_add(&dead.out, frame));
        assert_true(outbox_add(&other.out, frame));
        expect_frame(&other.expected, FRAME_TEXT, "x", 1);
    }
    outbox_hub_flush(hub);
    assert_int_equal(dead.overflows, 1);
    assert_int_equal(dead.overflow_error, -32);
    assert_got_all(&other);
    assert_true(outbox_add(&dead.out, text("late", 4)));
    outbox_hub_flush(hub);
    assert_int_equal(dead.writes, 1);
    peer_done(&dead);
    peer_done(&other);
    outbox_hub_free(hub);
}

static void an_outbox_may_go_in_the_turn_in_which_it_got_frames(void **state)
{
    struct peer p[5];

    (void)state;
    hub_make(0);
    for (size_t i = 0; i < ARRAY_LEN(p); i++) {
        peer_init(&p[i]);
        say(&p[i], "x", 1);
    }
    peer_done(&p[0]); /* the last, one between, and the first of the list */
    peer_done(&p[2]);
    peer_done(&p[4]);
    outbox_hub_flush(hub);
    assert_got_all(&p[1]);
    assert_got_all(&p[3]);
    peer_done(&p[1]);
    peer_done(&p[3]);
    outbox_hub_free(hub);
}

static void a_frame_is_valid_until_the_flush_whatever_comes_behind_it(void **state)
{
    char *large = filled(300000, 'x');
    struct outbox_run early, middle;
    struct peer p;

    (void)state;
    hub_make(0);
    peer_init(&p);
    early = text("early", 5);
    middle = text(large, 300000); /* needs a new block, while nobody holds the first one */
    (void)text(large, 300000);
    assert_true(outbox_add(&p.out, middle));
    assert_true(outbox_add(&p.out, early));
    expect_frame(&p.expected, FRAME_TEXT, large, 300000);
    expect_frame(&p.expected, FRAME_TEXT, "early", 5);
    outbox_hub_flush(hub);
    assert_got_all(&p);
    peer_done(&p);
    outbox_hub_free(hub);
    free(large);
}

/* Many bindings of one session each get their copy of a large event. */
static void four_gigabytes_in_one_queue_are_counted_right(void **state)
{
    enum { LEN = 16 * 1024 * 1024 - 10, COPIES = 257 };
    char *large = filled(LEN, 'x');
    struct outbox_run frame;
    struct peer p;

    (void)state;
    hub_make(1000000);
    peer_init(&p);
    p.blocked = true;
    frame = text(large, LEN);
    for (int i = 0; i < COPIES; i++)
        assert_true(outbox_add(&p.out, frame));
    assert_true(outbox_hub_queued(hub) == (size_t)COPIES * (LEN + 10));
    outbox_hub_flush(hub);
    assert_int_equal(p.overflows, 1);
    assert_true(p.overflow_queued == (size_t)COPIES * (LEN + 10));
    assert_int_equal(outbox_hub_queued(hub), 0);
    peer_done(&p);
    outbox_hub_free(hub);
    free(large);
}

/* Under a sanitizer malloc is its own, and mallinfo knows nothing. */
size_t __attribute__((weak)) __sanitizer_get_current_allocated_bytes(void);

static size_t allocated(void)
{
    struct mallinfo2 info;

    if (__sanitizer_get_current_allocated_bytes)
        return __sanitizer_get_current_allocated_bytes();
    info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static void a_slow_reader_keeps_its_own_bytes_only(void **state)
{
    char *bulk = filled(10000, 'b');
    struct peer slow, fast;
    size_t before, turns = 200;

    (void)state;
    hub_make(0);
    peer_init(&slow);
    peer_init(&fast);
    slow.blocked = true;
    before = allocated();
    for (size_t turn = 0; turn < turns; turn++) {
        /* First, so that it is flushed last: then its small frame is the block's only one that waits. */
        say(&slow, "small", 5);
        for (int i = 0; i < 60; i++)
            assert_true(outbox_add(&fast.out, text(bulk, 10000)));
        outbox_hub_flush(hub);
        buf_reset(&fast.got);
    }
    assert_int_equal(outbox_hub_queued(hub), turns * 7);
    /* Its runs, a block for each, the hub's block, the fast one's collected bytes. */
    assert_true(allocated() < before + 4 * 1024 * 1024);
    peer_unblock(&slow, SIZE_MAX);
    assert_got_all(&slow);
    peer_done(&slow);
    peer_done(&fast);
    outbox_hub_free(hub);
    free(bulk);
}

/* --- the model ---------------------------------------------------------------------------------------------
 */

enum { PEERS = 12, TURNS = 400 };

static size_t random_len(void)
{
    static const size_t lens[] = {0, 5, 125, 126, 300, 300, 300, 2000, 65535, 65536, 270000};
    size_t i = (size_t)rand() % (sizeof(lens) / sizeof(lens[0]) * 4);

    return i < ARRAY_LEN(lens) ? lens[i] : (size_t)rand() % 400;
}

static void random_frame(struct peer *peers, const char *bulk)
{
    size_t len = random_len();
    const char *payload = bulk + rand() % 1000;
    struct outbox_run frame = text(payload, len);
    int share = rand() % 4;

    for (size_t i = 0; i < PEERS; i++) {
        if (rand() % 4 < share)
            continue;
        for (int copies = rand() % 8 ? 1 : 3; copies > 0; copies--) {
            assert_true(outbox_add(&peers[i].out, frame));
            expect_frame(&peers[i].expected, FRAME_TEXT, payload, len);
        }
    }
}

/* What has come of it is right so far, and what has not is what the hub says that waits. */
static void model_check(struct peer *peers)
{
    size_t waiting = 0;

    for (size_t i = 0; i < PEERS; i++) {
        struct peer *p = &peers[i];

        assert_true(p->got.len <= p->expected.len);
        if (p->got.len)
            assert_memory_equal(p->got.data, p->expected.data, p->got.len);
        waiting += p->expected.len - p->got.len;
        assert_int_equal(outbox_is_empty(&p->out), p->got.len == p->expected.len);
        assert_true(outbox_is_empty(&p->out) || (p->blocked && p->wants));
        /* Keep the texts short. */
        memmove(p->expected.data, p->expected.data + p->got.len, p->expected.len - p->got.len);
        p->expected.len -= p->got.len;
        buf_reset(&p->got);
    }
    assert_int_equal(outbox_hub_queued(hub), waiting);
}

static void every_reader_gets_its_frames_in_order_at_its_own_pace(void **state)
{
    struct peer peers[PEERS];
    char *bulk = malloc(300000);

    (void)state;
    assert_non_null(bulk);
    for (unsigned seed = 1; seed <= 6; seed++) {
        srand(seed);
        for (size_t i = 0; i < 300000; i++)
            bulk[i] = (char)rand();
        hub_make(0);
        for (size_t i = 0; i < PEERS; i++) {
            peer_init(&peers[i]);
            buf_reserve(&peers[i].expected, 1);
        }
        for (int turn = 0; turn < TURNS; turn++) {
            for (int n = rand() % 12; n > 0; n--)
                random_frame(peers, bulk);
            /* Transports become writable before, or after, the frames of the turn. */
            for (int n = rand() % PEERS; n > 0; n--)
                peer_unblock(&peers[rand() % PEERS], (size_t)(rand() % 3 ? rand() % 20000 : 1000000));
            outbox_hub_flush(hub);
            model_check(peers);
        }
        for (size_t i = 0; i < PEERS; i++)
            peer_unblock(&peers[i], SIZE_MAX);
        model_check(peers);
        assert_int_equal(outbox_hub_queued(hub), 0);
        for (size_t i = 0; i < PEERS; i++)
            peer_done(&peers[i]);
        outbox_hub_free(hub);
    }
    free(bulk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_has_the_header_of_its_length),
        cmocka_unit_test(a_payload_in_two_parts_is_one_frame),
        cmocka_unit_test(frames_of_one_turn_leave_in_one_write),
        cmocka_unit_test(runs_that_are_apart_are_gathered_into_one_write),
        cmocka_unit_test(a_frame_added_twice_arrives_twice),
        cmocka_unit_test(only_a_single_frame_is_written_beyond_64_kib),
        cmocka_unit_test(a_blocked_transport_is_not_written_to),
        cmocka_unit_test(a_queue_over_its_limit_overflows_once),
        cmocka_unit_test(an_overflow_may_leave_a_last_frame),
        cmocka_unit_test(a_last_frame_comes_behind_what_waits),
        cmocka_unit_test(an_empty_queue_takes_one_frame_of_any_size),
        cmocka_unit_test(a_new_limit_holds_for_what_waits_already),
        cmocka_unit_test(a_write_that_fails_ends_the_outbox),
        cmocka_unit_test(an_outbox_may_go_in_the_turn_in_which_it_got_frames),
        cmocka_unit_test(a_frame_is_valid_until_the_flush_whatever_comes_behind_it),
        cmocka_unit_test(four_gigabytes_in_one_queue_are_counted_right),
        cmocka_unit_test(a_slow_reader_keeps_its_own_bytes_only),
        cmocka_unit_test(every_reader_gets_its_frames_in_order_at_its_own_pace),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
