#include "shared/frame.h"

#include "shared/json_text.h"

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

#include <setjmp.h>
#include <stdarg.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static amqp_bytes_t bytes(const char *text)
{
    return (amqp_bytes_t){.len = strlen(text), .bytes = (void *)(uintptr_t)text};
}

static amqp_basic_properties_t typed(const char *content_type)
{
    return (amqp_basic_properties_t){._flags = AMQP_BASIC_CONTENT_TYPE_FLAG,
                                     .content_type = bytes(content_type)};
}

static void build(struct buf *out, const amqp_basic_properties_t *props, const char *body, size_t len)
{
    struct frame_event e = {
        .exchange = "public", .key = "d.x", .key_len = 3, .props = props, .body = body, .body_len = len};

    assert_int_equal(frame_build(out, &e), 0);
    assert_true(json_text_utf8(out->data, out->len));
}

/* Frames are compared from the first member to the last brace, as the log holds them. */
static void check_frame(const amqp_basic_properties_t *props, const char *body, size_t len,
                        const char *expect)
{
    CLEANUP(buf_done) struct buf out = {0};
    CLEANUP(buf_done) struct buf whole = {0};

    build(&out, props, body, len);
    assert_string_equal(out.data, expect);
    frame_add_head(&whole, "public", 0);
    buf_add_str(&whole, "e:1-0\",");
    buf_add(&whole, out.data, out.len);
    assert_true(json_text_check(whole.data, whole.len));
}

static void check_json_body(const char *type, const char *body)
{
    amqp_basic_properties_t props = typed(type);
    CLEANUP(buf_done) struct buf expect = {0};

    buf_printf(
        &expect,
        "\"headers\":{},\"dinfo\":{\"contentType\":\"%s\",\"redelivered\":false,\"exchange\":\"public\","
        "\"routingKey\":\"d.x\"},\"msg\":%s}",
        type, body);
    check_frame(&props, body, strlen(body), expect.data);
}

#define TAIL "\"redelivered\":false,\"exchange\":\"public\",\"routingKey\":\"d.x\"}"

static void all_properties_stand_in_the_reference_s_order(void **state)
{
    amqp_table_entry_t h = {.key = bytes("h"),
                            .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = bytes("1")}};
    amqp_basic_properties_t props = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG | AMQP_BASIC_HEADERS_FLAG |
                  AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_PRIORITY_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
                  AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                  AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_USER_ID_FLAG |
                  AMQP_BASIC_APP_ID_FLAG,
        .content_type = bytes("application/json"),
        .content_encoding = bytes("utf-8"),
        .headers = {.num_entries = 1, .entries = &h},
        .delivery_mode = 2,
        .priority = 5,
        .correlation_id = bytes("corr-1"),
        .reply_to = bytes("rq"),
        .expiration = bytes("60000"),
        .message_id = bytes("m-1"),
        .timestamp = 1472586766,
        .type = bytes("ttype"),
        .user_id = bytes("guest"),
        .app_id = bytes("app"),
    };

    (void)state;
    check_frame(
        &props, "{\"a\":1}", 7,
        "\"headers\":{\"h\":\"1\"},\"dinfo\":{\"contentType\":\"application/"
        "json\",\"contentEncoding\":\"utf-8\","
        "\"headers\":{\"h\":\"1\"},\"deliveryMode\":2,\"priority\":5,\"correlationId\":\"corr-1\","
        "\"replyTo\":\"rq\","
        "\"expiration\":\"60000\",\"messageId\":\"m-1\",\"timestamp\":1472586766,\"type\":\"ttype\","
        "\"userId\":"
        "\"guest\",\"appId\":\"app\",\"redelivered\":false,\"exchange\":\"public\",\"routingKey\":\"d.x\"},"
        "\"msg\":{\"a\":1}}");
}

static void zero_and_empty_properties_are_left_out(void **state)
{
    amqp_basic_properties_t props = typed("application/json");

    (void)state;
    props._flags |= AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_PRIORITY_FLAG | AMQP_BASIC_TIMESTAMP_FLAG |
                    AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG;
    props.delivery_mode = 1;
    props.message_id = bytes("");
    check_frame(&props, "{\"a\":1}", 7,
                "\"headers\":{},\"dinfo\":{\"contentType\":\"application/"
                "json\",\"headers\":{},\"deliveryMode\":1," TAIL ",\"msg\":{\"a\":1}}");
}

static void fields_without_their_flag_are_not_read(void **state)
{
    amqp_basic_properties_t props;

    (void)state;
    memset(&props, 0xa5, sizeof(props)); /* rabbitmq-c sets only what is flagged */
    props._flags = 0;
    check_frame(&props, "x", 1,
                "\"headers\":{},\"dinfo\":{" TAIL
                ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[120]}}}");
}

static void event_of_node_amqp_looks_as_recorded(void **state)
{
    amqp_basic_properties_t props = typed("application/json");
    const char *body = "{\"_id\":\"t\",\"status\":\"finished\"}";
    struct frame_event e = {.exchange = "wf.task",
                            .key = "inst9.t",
                            .key_len = 7,
                            .props = &props,
                            .body = body,
                            .body_len = strlen(body)};
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    frame_add_head(&out, e.exchange, 0);
    buf_add_str(&out, "k3x9:1700000000000-0\",");
    assert_int_equal(frame_build(&out, &e), 0);
    assert_string_equal(
        out.data,
        "{\"id\":\"wf.task:0:k3x9:1700000000000-0\",\"headers\":{},\"dinfo\":{\"contentType\":"
        "\"application/json\",\"redelivered\":false,\"exchange\":\"wf.task\",\"routingKey\":\"inst9.t\"},"
        "\"msg\":{\"_id\":\"t\",\"status\":\"finished\"}}");
}

static void json_bodies_are_embedded_byte_for_byte(void **state)
{
    (void)state;
    check_json_body("application/json", "[1,\"x\"]");
    check_json_body("application/json", "42");
    check_json_body("application/json", "\"hi\"");
    check_json_body("application/json", "null");
    check_json_body("text/json", "{\"a\":1}");
    check_json_body("application/json; charset=utf-8", "{\"a\":1}");
    check_json_body("application/json ;charset=utf-8", "{\"a\":1}");
    check_json_body("Application/JSON", "{\"a\":1}");
    check_json_body("TEXT/json;x", "1.50");
    check_json_body("application/json",
                    "{ \"b\" : 1,\n \"a\":1, \"a\":2, \"big\":12345678901234567890, \"f\":1.0, "
                    "\"e\":1e3, \"2\":1, \"1\":2, \"esc\":\"\\u00e9\\/\" }");
    check_json_body("application/json", " \r\n{\"u\":\"\xc3\xa9\xe2\x98\x83\xf0\x9f\x98\x80\"}\n");
}

static void broken_utf8_in_json_is_replaced(void **state)
{
    amqp_basic_properties_t props = typed("application/json");

    (void)state;
    check_frame(&props, "\"\xff\xfe\"", 4,
                "\"headers\":{},\"dinfo\":{\"contentType\":\"application/json\"," TAIL
                ",\"msg\":\"\xef\xbf\xbd\xef\xbf\xbd\"}");
}

static void check_parse_error(const char *body, size_t len, const char *raw)
{
    amqp_basic_properties_t props = typed("application/json");
    CLEANUP(buf_done) struct buf expect = {0};

    buf_printf(&expect,
               "\"headers\":{},\"dinfo\":{\"parseError\":{},\"rawData\":\"%s\",\"contentType\":\"application/"
               "json\"," TAIL ",\"msg\":null}",
               raw);
    check_frame(&props, body, len, expect.data);
}

static void what_is_not_json_arrives_as_parse_error(void **state)
{
    (void)state;
    check_parse_error("", 0, "");
    check_parse_error(NULL, 0, "");
    check_parse_error("{\"a\":", 5, "{\\\"a\\\":");
    check_parse_error("\xef\xbb\xbf{}", 5, "\xef\xbb\xbf{}");
    check_parse_error("{}\0", 3, "{}\\u0000");
    check_parse_error("{}\xff", 3, "{}\xef\xbf\xbd");
    check_parse_error("{},\"x\":{}", 9, "{},\\\"x\\\":{}");
}

static void other_bodies_are_buffers(void **state)
{
    amqp_basic_properties_t text = typed("text/plain"), binary = typed("application/octet-stream");
    amqp_basic_properties_t none = {0}, empty = typed(""), jsonp = typed("application/jsonp");
    amqp_basic_properties_t later = typed("x, application/json");

    (void)state;
    check_frame(&text, "hello world", 11,
                "\"headers\":{},\"dinfo\":{\"contentType\":\"text/plain\"," TAIL
                ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":"
                "[104,101,108,108,111,32,119,111,114,108,100]},\"contentType\":\"text/plain\"}}");
    check_frame(&binary, "\0\1\2\xff\xfe", 5,
                "\"headers\":{},\"dinfo\":{\"contentType\":\"application/octet-stream\"," TAIL
                ",\"msg\":{\"data\":{\"type\":"
                "\"Buffer\",\"data\":[0,1,2,255,254]},\"contentType\":\"application/octet-stream\"}}");
    check_frame(&text, "", 0,
                "\"headers\":{},\"dinfo\":{\"contentType\":\"text/plain\"," TAIL
                ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[]},\"contentType\":\"text/plain\"}}");
    check_frame(&none, "{\"a\":1}", 7,
                "\"headers\":{},\"dinfo\":{" TAIL
                ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[123,34,97,34,58,49,125]}}}");
    check_frame(&empty, "1", 1,
                "\"headers\":{},\"dinfo\":{" TAIL ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[49]}}}");
    check_frame(
        &jsonp, "1", 1,
        "\"headers\":{},\"dinfo\":{\"contentType\":\"application/jsonp\"," TAIL
        ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[49]},\"contentType\":\"application/jsonp\"}}");
    check_frame(
        &later, "1", 1,
        "\"headers\":{},\"dinfo\":{\"contentType\":\"x, application/json\"," TAIL
        ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[49]},\"contentType\":\"x, application/json\"}}");
}

static void every_byte_value_has_its_number_in_a_buffer(void **state)
{
    amqp_basic_properties_t none = {0};
    CLEANUP(buf_done) struct buf out = {0};
    CLEANUP(buf_done) struct buf expect = {0};
    char body[256];

    (void)state;
    buf_add_str(&expect,
                "\"headers\":{},\"dinfo\":{" TAIL ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[");
    for (int i = 0; i < 256; i++) {
        body[i] = (char)i;
        buf_printf(&expect, i ? ",%d" : "%d", i);
    }
    buf_add_str(&expect, "]}}}");
    build(&out, &none, body, sizeof(body));
    assert_string_equal(out.data, expect.data);
}

static void large_bodies_are_one_frame(void **state)
{
    size_t len = 1 << 20;
    char *body = malloc(len);
    amqp_basic_properties_t none = {0}, json = typed("application/json");
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    assert_non_null(body);
    memset(body, 7, len);
    build(&out, &none, body, len);
    assert_int_equal(out.len, strlen("\"headers\":{},\"dinfo\":{" TAIL
                                     ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[]}}}") +
                                  2 * len - 1);
    buf_reset(&out);
    memset(body, 'x', len);
    body[0] = body[len - 1] = '"';
    build(&out, &json, body, len);
    assert_memory_equal(out.data + out.len - 1 - len, body, len);
    free(body);
}

static void redelivered_and_hostile_names_are_told_truly(void **state)
{
    amqp_basic_properties_t props = {0};
    struct frame_event e = {.exchange = "a\"b\xff",
                            .key = "k\\\n\0\xe2\x98",
                            .key_len = 6,
                            .redelivered = true,
                            .props = &props,
                            .body = "",
                            .body_len = 0};
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    frame_add_head(&out, e.exchange, 12);
    assert_string_equal(out.data, "{\"id\":\"a\\\"b\xef\xbf\xbd:12:");
    buf_reset(&out);
    assert_int_equal(frame_build(&out, &e), 0);
    assert_string_equal(
        out.data,
        "\"headers\":{},\"dinfo\":{\"redelivered\":true,\"exchange\":\"a\\\"b\xef\xbf\xbd\",\"routingKey\":"
        "\"k\\\\\\n\\u0000\xef\xbf\xbd\"},\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[]}}}");
}

/* ---- header tables ---- */

/* The header table {"v": value} makes {"v":expect}, at the top and in dinfo. */
static void check_field(amqp_field_value_t value, const char *expect)
{
    amqp_table_entry_t entry = {.key = bytes("v"), .value = value};
    amqp_basic_properties_t props = {._flags = AMQP_BASIC_HEADERS_FLAG,
                                     .headers = {.num_entries = 1, .entries = &entry}};
    CLEANUP(buf_done) struct buf text = {0};

    buf_printf(&text,
               "\"headers\":{\"v\":%s},\"dinfo\":{\"headers\":{\"v\":%s}," TAIL
               ",\"msg\":{\"data\":{\"type\":\"Buffer\",\"data\":[]}}}",
               expect, expect);
    check_frame(&props, "", 0, text.data);
}

#define FIELD(k, member, v) ((amqp_field_value_t){.kind = AMQP_FIELD_KIND_##k, .value.member = (v)})

static void every_kind_of_field_has_its_json_value(void **state)
{
    (void)state;
    check_field(FIELD(BOOLEAN, boolean, 1), "true");
    check_field(FIELD(BOOLEAN, boolean, 0), "false");
    check_field(FIELD(I8, i8, -128), "-128");
    check_field(FIELD(U8, u8, 255), "255");
    check_field(FIELD(I16, i16, -32768), "-32768");
    check_field(FIELD(U16, u16, 65535), "65535");
    check_field(FIELD(I32, i32, INT32_MIN), "-2147483648");
    check_field(FIELD(U32, u32, UINT32_MAX), "4294967295");
    check_field(FIELD(I64, i64, INT64_MIN), "-9223372036854775808");
    check_field(FIELD(I64, i64, 5000000000), "5000000000");
    check_field(FIELD(I64, i64, 9007199254740993), "9007199254740993");
    check_field(FIELD(U64, u64, UINT64_MAX), "18446744073709551615");
    check_field(FIELD(TIMESTAMP, u64, 1472586766), "1472586766");
    check_field(FIELD(UTF8, bytes, bytes("a\"\n\xff")), "\"a\\\"\\n\xef\xbf\xbd\"");
    check_field(FIELD(UTF8, bytes, bytes("")), "\"\"");
    check_field(FIELD(BYTES, bytes, bytes("\x01\xff")), "{\"type\":\"Buffer\",\"data\":[1,255]}");
    check_field(FIELD(VOID, u64, 0), "null");
    check_field((amqp_field_value_t){.kind = '?'}, "null");
}

static void decimals_are_plain_numbers(void **state)
{
    static const struct {
        uint32_t value;
        uint8_t decimals;
        const char *expect;
    } cases[] = {
        {12345, 2, "123.45"}, {12345, 0, "12345"}, {12345, 5, "0.12345"}, {12345, 7, "0.0012345"},
        {0, 0, "0"},          {0, 2, "0.00"},      {150, 2, "1.50"},      {UINT32_MAX, 9, "4.294967295"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        amqp_decimal_t d = {.decimals = cases[i].decimals, .value = cases[i].value};

        check_field(FIELD(DECIMAL, decimal, d), cases[i].expect);
    }
}

static void floats_look_as_javascript_prints_them(void **state)
{
    static const struct {
        double value;
        const char *expect;
    } cases[] = {
        {5, "5"},
        {1.5, "1.5"},
        {-7.25, "-7.25"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {0.0, "0"},
        {-0.0, "0"},
        {1e20, "100000000000000000000"},
        {1e21, "1e+21"},
        {1.5e300, "1.5e+300"},
        {1e-6, "0.000001"},
        {1e-7, "1e-7"},
        {1.25e-10, "1.25e-10"},
        {123456789.125, "123456789.125"},
        {9007199254740993.0, "9007199254740992"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {1.0 / 3, "0.3333333333333333"},
        {100, "100"},
        {(double)NAN, "null"},
        {(double)INFINITY, "null"},
        {-(double)INFINITY, "null"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check_field(FIELD(F64, f64, cases[i].value), cases[i].expect);
    check_field(FIELD(F32, f32, 0.1f), "0.1");
    check_field(FIELD(F32, f32, 1.5f), "1.5");
    check_field(FIELD(F32, f32, 16777216.0f), "16777216");
    check_field(FIELD(F32, f32, 3.4028235e38f), "3.4028235e+38");
    check_field(FIELD(F32, f32, NAN), "null");
}

static void doubles_read_back_as_what_they_were(void **state)
{
    uint64_t seed = 88172645463325252u;

    (void)state;
    for (int i = 0; i < 3000; i++) {
        amqp_table_entry_t entry = {.key = bytes("v"), .value = {.kind = AMQP_FIELD_KIND_F64}};
        amqp_basic_properties_t props = {._flags = AMQP_BASIC_HEADERS_FLAG,
                                         .headers = {.num_entries = 1, .entries = &entry}};
        CLEANUP(buf_done) struct buf out = {0};
        double back;

        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        memcpy(&entry.value.value.f64, &seed, sizeof(seed));
        if (!isfinite(entry.value.value.f64))
            continue;
        build(&out, &props, "", 0);
        back = strtod(out.data + strlen("\"headers\":{\"v\":"), NULL);
        assert_true(back == entry.value.value.f64);
    }
}

static void numbers_do_not_depend_on_the_locale(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "ps_AF.UTF-8"};
    size_t i = 0;

    (void)state;
    while (i < ARRAY_LEN(locales) && !setlocale(LC_ALL, locales[i]))
        i++;
    if (i == ARRAY_LEN(locales))
        skip(); /* no locale with a decimal comma is installed */
    check_field(FIELD(F64, f64, 1234.5), "1234.5");
    check_field(FIELD(I32, i32, 1234567), "1234567");
    setlocale(LC_ALL, "C");
}

static void tables_and_arrays_nest(void **state)
{
    amqp_table_entry_t x = {.key = bytes("x"), .value = FIELD(I32, i32, 1)};
    amqp_field_value_t items[3] = {
        FIELD(I32, i32, 1), FIELD(UTF8, bytes, bytes("two")), {.kind = AMQP_FIELD_KIND_TABLE}};
    amqp_field_value_t array = {.kind = AMQP_FIELD_KIND_ARRAY}, empty = {.kind = AMQP_FIELD_KIND_ARRAY};

    (void)state;
    items[2].value.table = (amqp_table_t){.num_entries = 1, .entries = &x};
    array.value.array = (amqp_array_t){.num_entries = 3, .entries = items};
    check_field(array, "[1,\"two\",{\"x\":1}]");
    check_field(empty, "[]");
    empty.kind = AMQP_FIELD_KIND_TABLE;
    check_field(empty, "{}");
}

static void a_doubled_key_has_its_last_value_in_its_first_place(void **state)
{
    amqp_table_entry_t entries[] = {
        {.key = bytes("b"), .value = FIELD(I32, i32, 1)},  {.key = bytes("a"), .value = FIELD(I32, i32, 2)},
        {.key = bytes("b"), .value = FIELD(I32, i32, 3)},  {.key = bytes(""), .value = FIELD(I32, i32, 4)},
        {.key = bytes("bb"), .value = FIELD(I32, i32, 5)}, {.key = bytes("b"), .value = FIELD(I32, i32, 6)},
        {.key = bytes(""), .value = FIELD(I32, i32, 7)},
    };
    amqp_field_value_t table = {.kind = AMQP_FIELD_KIND_TABLE};

    (void)state;
    table.value.table = (amqp_table_t){.num_entries = ARRAY_LEN(entries), .entries = entries};
    check_field(table, "{\"b\":6,\"a\":2,\"\":7,\"bb\":5}");
}

static void a_table_of_65000_equal_keys_is_cheap(void **state)
{
    enum { N = 65000 };
    amqp_table_entry_t *entries = calloc(N, sizeof(*entries));
    amqp_field_value_t table = {.kind = AMQP_FIELD_KIND_TABLE};

    (void)state;
    assert_non_null(entries);
    for (int i = 0; i < N; i++)
        entries[i] = (amqp_table_entry_t){.key = bytes(""), .value = FIELD(I32, i32, i)};
    table.value.table = (amqp_table_t){.num_entries = N, .entries = entries};
    check_field(table, "{\"\":64999}");
    free(entries);
}

static void nesting_beyond_64_is_null(void **state)
{
    enum { DEEP = 5000 };
    amqp_field_value_t *levels = calloc(DEEP, sizeof(*levels));
    CLEANUP(buf_done) struct buf expect = {0};

    (void)state;
    assert_non_null(levels);
    for (int i = 0; i < DEEP; i++) {
        levels[i].kind = AMQP_FIELD_KIND_ARRAY;
        if (i + 1 < DEEP)
            levels[i].value.array = (amqp_array_t){.num_entries = 1, .entries = &levels[i + 1]};
    }
    /* The header table is the first level. */
    for (int i = 1; i < 64; i++)
        buf_add_char(&expect, '[');
    buf_add_str(&expect, "null");
    for (int i = 1; i < 64; i++)
        buf_add_char(&expect, ']');
    check_field(levels[0], expect.data);
    free(levels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_properties_stand_in_the_reference_s_order),
        cmocka_unit_test(zero_and_empty_properties_are_left_out),
        cmocka_unit_test(fields_without_their_flag_are_not_read),
        cmocka_unit_test(event_of_node_amqp_looks_as_recorded),
        cmocka_unit_test(json_bodies_are_embedded_byte_for_byte),
        cmocka_unit_test(broken_utf8_in_json_is_replaced),
        cmocka_unit_test(what_is_not_json_arrives_as_parse_error),
        cmocka_unit_test(other_bodies_are_buffers),
        cmocka_unit_test(every_byte_value_has_its_number_in_a_buffer),
        cmocka_unit_test(large_bodies_are_one_frame),
        cmocka_unit_test(redelivered_and_hostile_names_are_told_truly),
        cmocka_unit_test(every_kind_of_field_has_its_json_value),
        cmocka_unit_test(decimals_are_plain_numbers),
        cmocka_unit_test(floats_look_as_javascript_prints_them),
        cmocka_unit_test(doubles_read_back_as_what_they_were),
        cmocka_unit_test(numbers_do_not_depend_on_the_locale),
        cmocka_unit_test(tables_and_arrays_nest),
        cmocka_unit_test(a_doubled_key_has_its_last_value_in_its_first_place),
        cmocka_unit_test(a_table_of_65000_equal_keys_is_cheap),
        cmocka_unit_test(nesting_beyond_64_is_null),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
