#include "ingest/amqp_wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FRAME_MAX = 4096 };

static void put(struct buf *b, const char *bytes, size_t len)
{
    buf_add(b, bytes, len);
}
#define PUT(b, literal) put(b, literal, sizeof(literal) - 1)

static void put_be32(struct buf *b, uint32_t v)
{
    const char bytes[] = {(char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v};

    buf_add(b, bytes, sizeof(bytes));
}

static amqp_bytes_t raw_of(const struct buf *b)
{
    return (amqp_bytes_t){.len = b->len, .bytes = b->data};
}

/* Properties with content type "t/p", the given header table (content without its length) and message id "m".
 */
static void put_props(struct buf *b, const char *table, size_t len)
{
    unsigned flags =
        AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | (table ? AMQP_BASIC_HEADERS_FLAG : 0);
    const char bytes[] = {(char)(flags >> 8), (char)flags};

    buf_add(b, bytes, 2);
    PUT(b, "\3t/p");
    if (table) {
        put_be32(b, (uint32_t)len);
        buf_add(b, table, len);
    }
    PUT(b, "\1m");
}

/* A table whose one entry is a table, and so on, `depth` of them. */
static void put_nested(struct buf *b, int depth)
{
    for (int i = 0; i < depth; i++) {
        PUT(b, "\1aF");
        put_be32(b, (uint32_t)(depth - i - 1) * 7);
    }
}

static void a_frame_is_taken_only_when_it_is_whole(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};
    struct wire_frame f;
    amqp_pool_t pool;
    amqp_method_t m;
    amqp_basic_ack_t ack = {.delivery_tag = 0x0102030405060708u, .multiple = 1};

    (void)state;
    assert_int_equal(wire_method_encode(&b, 513, AMQP_BASIC_ACK_METHOD, &ack), 0);
    wire_heartbeat_encode(&b);
    for (size_t n = 0; n < b.len - WIRE_OVERHEAD; n++)
        assert_int_equal(wire_next(b.data, n, FRAME_MAX, &f), 0);
    assert_int_equal(wire_next(b.data, b.len, FRAME_MAX, &f), b.len - WIRE_OVERHEAD);
    assert_int_equal(f.type, WIRE_METHOD);
    assert_int_equal(f.channel, 513);
    init_amqp_pool(&pool, 512);
    assert_int_equal(wire_method_decode(&f, &pool, &m), 0);
    assert_int_equal(m.id, AMQP_BASIC_ACK_METHOD);
    assert_int_equal(((amqp_basic_ack_t *)m.decoded)->delivery_tag, 0x0102030405060708u);
    assert_int_equal(wire_next(b.data + b.len - WIRE_OVERHEAD, WIRE_OVERHEAD, FRAME_MAX, &f), WIRE_OVERHEAD);
    assert_int_equal(f.type, WIRE_HEARTBEAT);
    empty_amqp_pool(&pool);
}

static void what_is_no_frame_is_refused(void **state)
{
    struct wire_frame f;
    char bytes[] = {1, 0, 0, 0, 0, 0, 1, 'x', (char)0xCE};

    (void)state;
    assert_int_equal(wire_next(bytes, sizeof(bytes), FRAME_MAX, &f), sizeof(bytes));
    bytes[8] = 'x';
    assert_int_equal(wire_next(bytes, sizeof(bytes), FRAME_MAX, &f), -EPROTO);
    assert_int_equal(wire_next("AMQP\0\0\11\1", 8, FRAME_MAX, &f), -EPROTO);
    assert_int_equal(wire_next("\3\0\1\377\377\377\377", 7, FRAME_MAX, &f), -EMSGSIZE);
    assert_int_equal(wire_next("\3\0\1\0\0\17\371", 7, FRAME_MAX, &f), -EMSGSIZE);
    assert_int_equal(wire_next("\3\0\1\0\0\17\370", 7, FRAME_MAX, &f), 0);
}

static void a_method_that_is_cut_short_or_unknown_is_refused(void **state)
{
    struct wire_frame f = {.type = WIRE_METHOD, .channel = 1};
    amqp_pool_t pool;
    amqp_method_t m;

    (void)state;
    init_amqp_pool(&pool, 512);
    for (size_t n = 0; n < 4 + 8; n++) {
        f.payload = (const uint8_t *)"\0\74\0\120\0\0\0\0\0\0\0\0\0"; /* basic.ack */
        f.len = n;
        assert_int_equal(wire_method_decode(&f, &pool, &m), -EPROTO);
    }
    f.payload = (const uint8_t *)"\7\7\7\7\0\0\0\0";
    f.len = 8;
    assert_int_equal(wire_method_decode(&f, &pool, &m), -EPROTO);
    empty_amqp_pool(&pool);
}

static void a_method_that_does_not_fit_leaves_the_buffer_as_it_was(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};
    static char name[300];
    amqp_queue_declare_t declare = {.queue = {.len = sizeof(name), .bytes = name}};

    (void)state;
    assert_int_equal(wire_method_encode(&b, 1, AMQP_QUEUE_DECLARE_METHOD, &declare), -EMSGSIZE);
    assert_int_equal(b.len, 0);
}

static void properties_are_decoded(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};
    amqp_basic_properties_t props;
    amqp_pool_t pool;
    bool dropped;

    (void)state;
    init_amqp_pool(&pool, 512);
    put_props(&b, "\1at\1", 4);
    assert_int_equal(wire_props_decode(raw_of(&b), &pool, &props, &dropped), 0);
    assert_false(dropped);
    assert_int_equal(props.headers.num_entries, 1);
    assert_memory_equal(props.content_type.bytes, "t/p", 3);
    assert_memory_equal(props.message_id.bytes, "m", 1);
    empty_amqp_pool(&pool);
}

static void headers_are_dropped_when_they_are_too_deep_or_malformed_and_the_rest_stays(void **state)
{
    amqp_pool_t pool;

    (void)state;
    init_amqp_pool(&pool, 512);
    for (int depth = 1; depth < 20000; depth = depth < 100 ? depth + 1 : depth * 2) {
        CLEANUP(buf_done) struct buf table = {0};
        CLEANUP(buf_done) struct buf b = {0};
        amqp_basic_properties_t props;
        bool dropped;

        put_nested(&table, depth);
        put_props(&b, table.data, table.len);
        assert_int_equal(wire_props_decode(raw_of(&b), &pool, &props, &dropped), 0);
        /* The outermost table is the first level. */
        assert_int_equal(dropped, depth >= WIRE_DEPTH_MAX);
        assert_int_equal(!!(props._flags & AMQP_BASIC_HEADERS_FLAG), !dropped);
        assert_memory_equal(props.message_id.bytes, "m", 1);
        recycle_amqp_pool(&pool);
    }
    static const struct {
        const char *table;
        size_t len;
    } bad[] = {{"\1aF\0\0\0\11", 7}, {"\1a?", 3},     {"\5a", 2},
               {"\1a", 2},           {"\1aI\0\0", 5}, {"\1aS\377\377\377\377", 7}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CLEANUP(buf_done) struct buf b = {0};
        amqp_basic_properties_t props;
        bool dropped;

        put_props(&b, bad[i].table, bad[i].len);
        assert_int_equal(wire_props_decode(raw_of(&b), &pool, &props, &dropped), 0);
        assert_true(dropped);
        assert_memory_equal(props.content_type.bytes, "t/p", 3);
        assert_memory_equal(props.message_id.bytes, "m", 1);
    }
    empty_amqp_pool(&pool);
}

static void properties_that_are_cut_short_are_refused(void **state)
{
    CLEANUP(buf_done) struct buf b = {0};
    amqp_basic_properties_t props;
    amqp_pool_t pool;
    bool dropped;

    (void)state;
    init_amqp_pool(&pool, 512);
    put_props(&b, "\1at\1", 4);
    for (size_t n = 0; n < b.len; n++) {
        amqp_bytes_t cut = {.len = n, .bytes = malloc(n ? n : 1)};

        memcpy(cut.bytes, b.data, n);
        assert_int_equal(wire_props_decode(cut, &pool, &props, &dropped), -EPROTO);
        free(cut.bytes);
    }
    empty_amqp_pool(&pool);
}

static void canonical(const char *table, size_t len, struct buf *out)
{
    CLEANUP(buf_done) struct buf b = {0};
    CLEANUP(buf_done) struct buf scratch = {0};
    amqp_basic_properties_t props;
    amqp_bytes_t bytes;
    amqp_pool_t pool;
    bool dropped;

    init_amqp_pool(&pool, 512);
    put_props(&b, table, len);
    assert_int_equal(wire_props_decode(raw_of(&b), &pool, &props, &dropped), 0);
    assert_int_equal(wire_props_canonical(&props, raw_of(&b), &scratch, &bytes), 0);
    buf_reset(out);
    buf_add(out, bytes.bytes, bytes.len);
    empty_amqp_pool(&pool);
}

static void a_redelivery_counted_by_the_broker_has_the_same_canonical_properties(void **state)
{
    CLEANUP(buf_done) struct buf first = {0};
    CLEANUP(buf_done) struct buf again = {0};
#define COUNT "\20x-delivery-countl\0\0\0\0\0\0\0\2"
#define OWN   "\1at\1\1sS\0\0\0\2hi"

    (void)state;
    canonical(OWN, sizeof(OWN) - 1, &first);
    canonical(COUNT OWN, sizeof(COUNT OWN) - 1, &again);
    assert_int_equal(first.len, again.len);
    assert_memory_equal(first.data, again.data, first.len);
    canonical(OWN COUNT, sizeof(OWN COUNT) - 1, &again);
    assert_memory_equal(first.data, again.data, first.len);
    canonical(NULL, 0, &first);
    canonical(COUNT, sizeof(COUNT) - 1, &again);
    assert_int_equal(first.len, again.len);
    assert_memory_equal(first.data, again.data, first.len);
    canonical("\1bt\1", 4, &first);
    assert_true(first.len != again.len || memcmp(first.data, again.data, first.len) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_is_taken_only_when_it_is_whole),
        cmocka_unit_test(what_is_no_frame_is_refused),
        cmocka_unit_test(a_method_that_is_cut_short_or_unknown_is_refused),
        cmocka_unit_test(a_method_that_does_not_fit_leaves_the_buffer_as_it_was),
        cmocka_unit_test(properties_are_decoded),
        cmocka_unit_test(headers_are_dropped_when_they_are_too_deep_or_malformed_and_the_rest_stays),
        cmocka_unit_test(properties_that_are_cut_short_are_refused),
        cmocka_unit_test(a_redelivery_counted_by_the_broker_has_the_same_canonical_properties),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
