#include "shared/frame.h"

#include "shared/json_text.h"

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of the input; takes beyond the end are short. */
struct input {
    const uint8_t *at;
    size_t left;
};

static amqp_bytes_t take(struct input *in, size_t n)
{
    amqp_bytes_t b = {.len = n < in->left ? n : in->left, .bytes = (void *)(uintptr_t)in->at};

    in->at += b.len;
    in->left -= b.len;
    return b;
}

static uint8_t take_byte(struct input *in)
{
    amqp_bytes_t b = take(in, 1);

    return b.len ? *(const uint8_t *)b.bytes : 0;
}

static amqp_bytes_t take_text(struct input *in)
{
    return take(in, take_byte(in) % 32);
}

static amqp_field_value_t take_field(struct input *in)
{
    static const char kinds[] = "tbBsuIilLfdDSxTV";
    amqp_field_value_t v = {.kind = (uint8_t)kinds[take_byte(in) % (sizeof(kinds) - 1)]};
    amqp_bytes_t raw = take(in, 8);

    if (v.kind == AMQP_FIELD_KIND_UTF8 || v.kind == AMQP_FIELD_KIND_BYTES)
        v.value.bytes = raw;
    else if (raw.len)
        memcpy(&v.value, raw.bytes, raw.len);
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const types[] = {"application/json", "text/json;x", "text/plain", ""};
    struct input in = {data, size};
    const char *type = types[take_byte(&in) % 4];
    amqp_field_value_t items[3] = {take_field(&in), take_field(&in), take_field(&in)};
    amqp_table_entry_t entries[4];
    amqp_basic_properties_t props = {.content_type = {.len = strlen(type), .bytes = (void *)(uintptr_t)type}};
    amqp_bytes_t key, body;
    struct frame_event e;
    struct buf out = {0};

    for (int i = 0; i < 4; i++)
        entries[i] = (amqp_table_entry_t){.key = take_text(&in), .value = take_field(&in)};
    entries[3].value = (amqp_field_value_t){.kind = AMQP_FIELD_KIND_ARRAY};
    entries[3].value.value.array = (amqp_array_t){.num_entries = 3, .entries = items};
    props._flags = (amqp_flags_t)(take_byte(&in) << 8 | take_byte(&in));
    props.headers = (amqp_table_t){.num_entries = 4, .entries = entries};
    props.correlation_id = take_text(&in);
    key = take_text(&in);
    body = take(&in, in.left);
    e = (struct frame_event){.exchange = "x",
                             .key = key.bytes,
                             .key_len = key.len,
                             .redelivered = size & 1,
                             .props = &props,
                             .body = body.bytes,
                             .body_len = body.len};
    frame_add_head(&out, e.exchange, 0);
    buf_add_str(&out, "e:1-0\",");
    assert(frame_build(&out, &e) == 0);
    assert(json_text_check(out.data, out.len) && json_text_utf8(out.data, out.len));
    buf_done(&out);
    return 0;
}
