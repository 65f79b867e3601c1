/* frame.c - one delivery becomes the text that its clients receive.
 *
 *   body, properties --> content type says JSON? --yes--> the grammar agrees? --yes--> the body as it is
 *                                  |                            |
 *                                  no                           no
 *                                  v                            v
 *                        {"data":Buffer,"contentType"}    parseError, rawData, msg null
 *
 * The shapes are JSON.stringify's of what node-amqp hands out, so that clients of the reference service see
 * nothing new: a Buffer is {"type":"Buffer","data":[..]}, numbers look as JavaScript prints them, a property
 * that is absent, "" or 0 is left out.
 *
 * Failures: none but lack of memory. Whatever the publisher sent, the result is valid JSON and UTF-8: broken
 * UTF-8 is replaced by U+FFFD, NaN and infinities are null, and tables inside tables are null from
 * TABLE_DEPTH_MAX on (rabbitmq-c 0.11 decodes any depth, and we recurse as it does). */
#include "shared/frame.h"

#include "shared/json_text.h"

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Tables and arrays inside each other. Publishers nest a few; what is deeper becomes null. */
enum { TABLE_DEPTH_MAX = 64 };

static void add_bytes_string(struct buf *out, amqp_bytes_t bytes)
{
    json_text_add_string(out, bytes.bytes, bytes.len);
}

/* ---- Buffer ---- */

/* "0,", "1,", .. "255,": what one byte adds to a Buffer's data. Eight bytes each, so that one is copied
 * whole. */
#define ONES(p) p "0,", p "1,", p "2,", p "3,", p "4,", p "5,", p "6,", p "7,", p "8,", p "9,"
#define TENS(p)                                                                                             \
    ONES(p "0"), ONES(p "1"), ONES(p "2"), ONES(p "3"), ONES(p "4"), ONES(p "5"), ONES(p "6"), ONES(p "7"), \
        ONES(p "8"), ONES(p "9")
static const char byte_texts[256][8] = {
    ONES(""),  ONES("1"), ONES("2"), ONES("3"),  ONES("4"),  ONES("5"),  ONES("6"),  ONES("7"),
    ONES("8"), ONES("9"), TENS("1"), ONES("20"), ONES("21"), ONES("22"), ONES("23"), ONES("24"),
    "250,",    "251,",    "252,",    "253,",     "254,",     "255,",
};

static size_t byte_text_len(uint8_t b)
{
    return (size_t)2 + (b > 9) + (b > 99);
}

static void add_buffer(struct buf *out, const void *bytes, size_t len)
{
    const uint8_t *from = bytes;
    size_t size = 0;
    char *to;

    buf_add_str(out, "{\"type\":\"Buffer\",\"data\":[");
    for (size_t i = 0; i < len; i++)
        size += byte_text_len(from[i]);
    buf_reserve(out, size + sizeof(byte_texts[0]));
    if (out->failed)
        return;
    to = out->data + out->len;
    for (size_t i = 0; i < len; i++) {
        memcpy(to, byte_texts[from[i]], sizeof(byte_texts[0]));
        to += byte_text_len(from[i]);
    }
    out->len += len ? size - 1 : 0; /* no comma behind the last one */
    buf_add_str(out, "]}");
}

/* ---- numbers ---- */

/* The shortest digits that read back as `v` (finite, not 0), without trailing zeros. Returns their number.
 * The text of printf depends on the locale only in its decimal point, which is skipped. */
static int number_digits(double v, bool single, char digits[20], int *ret_point)
{
    char text[48];
    const char *at = text;
    int n = 0;

    for (int precision = single ? 6 : 15; precision <= (single ? 9 : 17); precision++) {
        snprintf(text, sizeof(text), "%.*e", precision - 1, fabs(v));
        if ((single ? (double)strtof(text, NULL) : strtod(text, NULL)) == fabs(v))
            break;
    }
    for (; *at != 'e'; at++) {
        if (*at >= '0' && *at <= '9')
            digits[n++] = *at;
    }
    *ret_point = (int)strtol(at + 1, NULL, 10) + 1;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

static void add_zeros(struct buf *out, int n)
{
    while (n-- > 0)
        buf_add_char(out, '0');
}

/* As JavaScript prints a number (ECMA-262, Number::toString); a float with the digits that a float needs. */
static void add_number(struct buf *out, double v, bool single)
{
    char digits[20];
    int n, point;

    if (!isfinite(v)) {
        buf_add_str(out, "null");
        return;
    }
    if (v == 0) {
        buf_add_char(out, '0');
        return;
    }
    n = number_digits(v, single, digits, &point);
    if (v < 0)
        buf_add_char(out, '-');
    if (point > 21 || point <= -6) {
        buf_add(out, digits, 1);
        if (n > 1)
            buf_printf(out, ".%.*s", n - 1, digits + 1);
        buf_printf(out, "e%+d", point - 1);
    } else if (point <= 0) {
        buf_add_str(out, "0.");
        add_zeros(out, -point);
        buf_add(out, digits, (size_t)n);
    } else if (point >= n) {
        buf_add(out, digits, (size_t)n);
        add_zeros(out, point - n);
    } else {
        buf_printf(out, "%.*s.%.*s", point, digits, n - point, digits + point);
    }
}

/* The digits of the value with the point moved left; all of them are kept, 1.50 stays 1.50. */
static void add_decimal(struct buf *out, amqp_decimal_t decimal)
{
    char digits[16];
    int n = snprintf(digits, sizeof(digits), "%" PRIu32, decimal.value);
    int whole = n - decimal.decimals;

    if (whole > 0) {
        buf_add(out, digits, (size_t)whole);
    } else {
        buf_add_char(out, '0');
    }
    if (decimal.decimals > 0) {
        buf_add_char(out, '.');
        add_zeros(out, -whole);
        buf_add_str(out, digits + (whole > 0 ? whole : 0));
    }
}

/* ---- tables ---- */

static void add_table(struct buf *out, const amqp_table_t *table, int depth);
static void add_array(struct buf *out, const amqp_array_t *array, int depth);

static void add_field(struct buf *out, const amqp_field_value_t *field, int depth)
{
    switch (field->kind) {
    case AMQP_FIELD_KIND_BOOLEAN:
        buf_add_str(out, field->value.boolean ? "true" : "false");
        return;
    case AMQP_FIELD_KIND_I8:
        buf_printf(out, "%d", field->value.i8);
        return;
    case AMQP_FIELD_KIND_U8:
        buf_printf(out, "%d", field->value.u8);
        return;
    case AMQP_FIELD_KIND_I16:
        buf_printf(out, "%d", field->value.i16);
        return;
    case AMQP_FIELD_KIND_U16:
        buf_printf(out, "%d", field->value.u16);
        return;
    case AMQP_FIELD_KIND_I32:
        buf_printf(out, "%" PRId32, field->value.i32);
        return;
    case AMQP_FIELD_KIND_U32:
        buf_printf(out, "%" PRIu32, field->value.u32);
        return;
    case AMQP_FIELD_KIND_I64:
        buf_printf(out, "%" PRId64, field->value.i64);
        return;
    case AMQP_FIELD_KIND_U64:
    case AMQP_FIELD_KIND_TIMESTAMP:
        buf_printf(out, "%" PRIu64, field->value.u64);
        return;
    case AMQP_FIELD_KIND_F32:
        add_number(out, (double)field->value.f32, true);
        return;
    case AMQP_FIELD_KIND_F64:
        add_number(out, field->value.f64, false);
        return;
    case AMQP_FIELD_KIND_DECIMAL:
        add_decimal(out, field->value.decimal);
        return;
    case AMQP_FIELD_KIND_UTF8:
        add_bytes_string(out, field->value.bytes);
        return;
    case AMQP_FIELD_KIND_BYTES:
        add_buffer(out, field->value.bytes.bytes, field->value.bytes.len);
        return;
    case AMQP_FIELD_KIND_ARRAY:
        add_array(out, &field->value.array, depth + 1);
        return;
    case AMQP_FIELD_KIND_TABLE:
        add_table(out, &field->value.table, depth + 1);
        return;
    default: /* void, and kinds that rabbitmq-c may learn */
        buf_add_str(out, "null");
    }
}

static void add_array(struct buf *out, const amqp_array_t *array, int depth)
{
    if (depth >= TABLE_DEPTH_MAX) {
        buf_add_str(out, "null");
        return;
    }
    buf_add_char(out, '[');
    for (int i = 0; i < array->num_entries; i++) {
        if (i)
            buf_add_char(out, ',');
        add_field(out, &array->entries[i], depth);
    }
    buf_add_char(out, ']');
}

static int compare_entries(const void *a, const void *b)
{
    const amqp_table_entry_t *x = *(const amqp_table_entry_t *const *)a,
                             *y = *(const amqp_table_entry_t *const *)b;
    size_t len = x->key.len < y->key.len ? x->key.len : y->key.len;
    int order = len ? memcmp(x->key.bytes, y->key.bytes, len) : 0;

    if (order)
        return order;
    if (x->key.len != y->key.len)
        return x->key.len < y->key.len ? -1 : 1;
    return x < y ? -1 : x > y;
}

static bool same_key(const amqp_table_entry_t *x, const amqp_table_entry_t *y)
{
    return x->key.len == y->key.len &&
           (x->key.len == 0 || memcmp(x->key.bytes, y->key.bytes, x->key.len) == 0);
}

/* For each entry the one whose value stands for its key: of several with one key, the first has the place and
 * the last has the value, as in a JavaScript object. NULL where the key had its place before. Sorted, because
 * a table of one frame can hold tens of thousands of entries. To free(); NULL without memory. */
static const amqp_table_entry_t **table_values(const amqp_table_t *table)
{
    size_t n = (size_t)table->num_entries;
    const amqp_table_entry_t **values = calloc(2 * n + 1, sizeof(*values)), **sorted = values + n;

    if (!values)
        return NULL;
    for (size_t i = 0; i < n; i++)
        sorted[i] = &table->entries[i];
    qsort(sorted, n, sizeof(*sorted), compare_entries);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && same_key(sorted[i], sorted[next]);)
            next++;
        values[sorted[i] - table->entries] = sorted[next - 1];
    }
    return values;
}

static void add_table(struct buf *out, const amqp_table_t *table, int depth)
{
    const amqp_table_entry_t **values;
    bool first = true;

    if (depth >= TABLE_DEPTH_MAX) {
        buf_add_str(out, "null");
        return;
    }
    values = table_values(table);
    if (!values) {
        out->failed = true;
        return;
    }
    buf_add_char(out, '{');
    for (int i = 0; i < table->num_entries; i++) {
        if (!values[i])
            continue;
        if (!first)
            buf_add_char(out, ',');
        first = false;
        add_bytes_string(out, table->entries[i].key);
        buf_add_char(out, ':');
        add_field(out, &values[i]->value, depth);
    }
    buf_add_char(out, '}');
    free(values);
}

/* ---- dinfo ---- */

static bool has(const amqp_basic_properties_t *props, amqp_flags_t flag)
{
    return (props->_flags & flag) != 0;
}

/* "name":"text", - or nothing, if the property is absent or empty. */
static void add_text_member(struct buf *out, const char *name, const amqp_basic_properties_t *props,
                            amqp_flags_t flag, amqp_bytes_t text)
{
    if (!has(props, flag) || text.len == 0)
        return;
    buf_printf(out, "\"%s\":", name);
    add_bytes_string(out, text);
    buf_add_char(out, ',');
}

static void add_number_member(struct buf *out, const char *name, const amqp_basic_properties_t *props,
                              amqp_flags_t flag, uint64_t number)
{
    if (has(props, flag) && number != 0)
        buf_printf(out, "\"%s\":%" PRIu64 ",", name, number);
}

/* The header table again, from where it was written before. */
static void add_headers_member(struct buf *out, size_t at, size_t len)
{
    buf_add_str(out, "\"headers\":");
    buf_reserve(out, len + 1);
    if (out->failed)
        return;
    buf_add(out, out->data + at, len);
    buf_add_char(out, ',');
}

static void add_properties(struct buf *out, const amqp_basic_properties_t *p, size_t headers_at,
                           size_t headers_len)
{
    add_text_member(out, "contentType", p, AMQP_BASIC_CONTENT_TYPE_FLAG, p->content_type);
    add_text_member(out, "contentEncoding", p, AMQP_BASIC_CONTENT_ENCODING_FLAG, p->content_encoding);
    if (has(p, AMQP_BASIC_HEADERS_FLAG))
        add_headers_member(out, headers_at, headers_len);
    add_number_member(out, "deliveryMode", p, AMQP_BASIC_DELIVERY_MODE_FLAG, p->delivery_mode);
    add_number_member(out, "priority", p, AMQP_BASIC_PRIORITY_FLAG, p->priority);
    add_text_member(out, "correlationId", p, AMQP_BASIC_CORRELATION_ID_FLAG, p->correlation_id);
    add_text_member(out, "replyTo", p, AMQP_BASIC_REPLY_TO_FLAG, p->reply_to);
    add_text_member(out, "expiration", p, AMQP_BASIC_EXPIRATION_FLAG, p->expiration);
    add_text_member(out, "messageId", p, AMQP_BASIC_MESSAGE_ID_FLAG, p->message_id);
    add_number_member(out, "timestamp", p, AMQP_BASIC_TIMESTAMP_FLAG, p->timestamp);
    add_text_member(out, "type", p, AMQP_BASIC_TYPE_FLAG, p->type);
    add_text_member(out, "userId", p, AMQP_BASIC_USER_ID_FLAG, p->user_id);
    add_text_member(out, "appId", p, AMQP_BASIC_APP_ID_FLAG, p->app_id);
}

/* ---- msg ---- */

/* Is the content type `name`, in any case, with or without parameters? */
static bool type_is(amqp_bytes_t type, const char *name)
{
    const char *text = type.bytes;
    size_t len = strlen(name);

    if (type.len < len || strncasecmp(text, name, len) != 0)
        return false;
    while (len < type.len && (text[len] == ' ' || text[len] == '\t'))
        len++;
    return len == type.len || text[len] == ';';
}

static bool is_json(const amqp_basic_properties_t *props)
{
    return has(props, AMQP_BASIC_CONTENT_TYPE_FLAG) &&
           (type_is(props->content_type, "application/json") || type_is(props->content_type, "text/json"));
}

static void add_opaque(struct buf *out, const struct frame_event *e)
{
    buf_add_str(out, "{\"data\":");
    add_buffer(out, e->body, e->body_len);
    if (has(e->props, AMQP_BASIC_CONTENT_TYPE_FLAG) && e->props->content_type.len > 0) {
        buf_add_str(out, ",\"contentType\":");
        add_bytes_string(out, e->props->content_type);
    }
    buf_add_char(out, '}');
}

int frame_build(struct buf *out, const struct frame_event *e)
{
    bool json = is_json(e->props);
    bool valid = json && json_text_check(e->body, e->body_len);
    size_t headers_at, headers_len;

    buf_reserve(out, (valid ? e->body_len : 0) + 512);
    buf_add_str(out, "\"headers\":");
    headers_at = out->len;
    if (has(e->props, AMQP_BASIC_HEADERS_FLAG))
        add_table(out, &e->props->headers, 0);
    else
        buf_add_str(out, "{}");
    headers_len = out->len - headers_at;
    buf_add_str(out, ",\"dinfo\":{");
    if (json && !valid) {
        buf_add_str(out, "\"parseError\":{},\"rawData\":");
        json_text_add_string(out, e->body, e->body_len);
        buf_add_char(out, ',');
    }
    add_properties(out, e->props, headers_at, headers_len);
    buf_add_str(out, e->redelivered ? "\"redelivered\":true,\"exchange\":"
                                    : "\"redelivered\":false,\"exchange\":");
    json_text_add_string(out, e->exchange, strlen(e->exchange));
    buf_add_str(out, ",\"routingKey\":");
    json_text_add_string(out, e->key, e->key_len);
    buf_add_str(out, "},\"msg\":");
    if (!json)
        add_opaque(out, e);
    else if (valid)
        json_text_add_utf8(out, e->body, e->body_len);
    else
        buf_add_str(out, "null");
    buf_add_char(out, '}');
    return buf_status(out);
}

void frame_add_head(struct buf *out, const char *exchange, int partition)
{
    buf_add_str(out, "{\"id\":\"");
    json_text_add_escaped(out, exchange, strlen(exchange));
    buf_printf(out, ":%d:", partition);
}
