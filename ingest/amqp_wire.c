#include "ingest/amqp_wire.h"

#include <errno.h>
#include <string.h>

enum { FRAME_END = 0xCE, HEAD = 7 };

static uint32_t read_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void write_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

ssize_t wire_next(const void *bytes, size_t len, size_t frame_max, struct wire_frame *ret_frame)
{
    const uint8_t *p = bytes;
    size_t payload;

    if (len < HEAD)
        return 0;
    /* A broker that refuses our protocol version answers "AMQP" and its own. */
    if (p[0] != WIRE_METHOD && p[0] != WIRE_HEADER && p[0] != WIRE_BODY && p[0] != WIRE_HEARTBEAT)
        return -EPROTO;
    payload = read_be32(p + 3);
    if (payload + WIRE_OVERHEAD > frame_max)
        return -EMSGSIZE;
    if (len < payload + WIRE_OVERHEAD)
        return 0;
    if (p[HEAD + payload] != FRAME_END)
        return -EPROTO;
    *ret_frame = (struct wire_frame){
        .type = p[0],
        .channel = (uint16_t)(p[1] << 8 | p[2]),
        .payload = p + HEAD,
        .len = payload,
    };
    return (ssize_t)(payload + WIRE_OVERHEAD);
}

int wire_method_decode(const struct wire_frame *frame, amqp_pool_t *pool, amqp_method_t *ret_method)
{
    amqp_bytes_t encoded;

    if (frame->len < 4)
        return -EPROTO;
    encoded.bytes = (void *)(uintptr_t)(frame->payload + 4);
    encoded.len = frame->len - 4;
    ret_method->id = read_be32(frame->payload);
    if (amqp_decode_method(ret_method->id, pool, encoded, &ret_method->decoded) < 0)
        return -EPROTO;
    return 0;
}

int wire_method_encode(struct buf *out, uint16_t channel, amqp_method_number_t id, void *decoded)
{
    amqp_bytes_t room;
    uint8_t *p;
    int n;

    buf_reserve(out, WIRE_METHOD_MAX);
    if (buf_status(out) < 0)
        return -ENOMEM;
    p = (uint8_t *)out->data + out->len;
    room.bytes = p + HEAD + 4;
    room.len = WIRE_METHOD_MAX - HEAD - 4 - 1;
    n = amqp_encode_method(id, decoded, room);
    if (n < 0)
        return -EMSGSIZE;
    p[0] = WIRE_METHOD;
    p[1] = (uint8_t)(channel >> 8);
    p[2] = (uint8_t)channel;
    write_be32(p + 3, (uint32_t)n + 4);
    write_be32(p + HEAD, id);
    p[HEAD + 4 + n] = FRAME_END;
    out->len += (size_t)n + HEAD + 4 + 1;
    return 0;
}

void wire_heartbeat_encode(struct buf *out)
{
    static const uint8_t frame[WIRE_OVERHEAD] = {WIRE_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END};

    buf_add(out, frame, sizeof(frame));
}

int wire_header_decode(const void *payload, size_t len, uint64_t *ret_body_size, amqp_bytes_t *ret_raw)
{
    const uint8_t *p = payload;

    /* class, weight, body size, then flags and properties (AMQP 0-9-1, 4.2.6.1). */
    if (len < 14 || (p[0] << 8 | p[1]) != AMQP_BASIC_CLASS)
        return -EPROTO;
    *ret_body_size = (uint64_t)read_be32(p + 4) << 32 | read_be32(p + 8);
    ret_raw->bytes = (void *)(uintptr_t)(p + 12);
    ret_raw->len = len - 12;
    return 0;
}

/* Length of a field's value in a table or array (RabbitMQ's types), or -1. Tables and arrays: handled by the
 * caller. */
static int64_t value_length(uint8_t kind, const uint8_t *p, size_t len)
{
    switch (kind) {
    case 't':
    case 'b':
    case 'B':
        return 1;
    case 's':
    case 'u':
        return 2;
    case 'I':
    case 'i':
    case 'f':
        return 4;
    case 'D':
        return 5;
    case 'l':
    case 'L':
    case 'd':
    case 'T':
        return 8;
    case 'V':
        return 0;
    case 'S':
    case 'x':
    case 'A':
    case 'F':
        return len < 4 ? -1 : 4 + (int64_t)read_be32(p);
    default:
        return -1;
    }
}

/* Is the content of a table (or array) well-formed and not too deep? */
static bool fields_fine(const uint8_t *p, size_t len, bool table, int depth)
{
    if (depth > WIRE_DEPTH_MAX)
        return false;
    while (len > 0) {
        int64_t n;
        uint8_t kind;

        if (table) {
            size_t name = 1u + p[0];

            if (len < name)
                return false;
            p += name;
            len -= name;
        }
        if (len < 1)
            return false;
        kind = p[0];
        n = value_length(kind, p + 1, len - 1);
        if (n < 0 || (size_t)n > len - 1)
            return false;
        if ((kind == 'F' || kind == 'A') && !fields_fine(p + 5, (size_t)n - 4, kind == 'F', depth + 1))
            return false;
        p += 1 + n;
        len -= 1 + (size_t)n;
    }
    return true;
}

/* Where does the header table lie in the encoded properties? *ret_at is its offset, *ret_len its length with
 * the length field; 0 and 0 if there is none. Before it come only content type and encoding. */
static int headers_find(amqp_bytes_t raw, size_t *ret_at, size_t *ret_len)
{
    const uint8_t *p = raw.bytes;
    size_t at = 2;
    unsigned flags;

    if (raw.len < 2)
        return -EPROTO;
    flags = (unsigned)(p[0] << 8 | p[1]);
    *ret_at = *ret_len = 0;
    if (flags & 1u) /* a second word of flags: basic has no such properties */
        return -EPROTO;
    if (!(flags & AMQP_BASIC_HEADERS_FLAG))
        return 0;
    for (unsigned flag = AMQP_BASIC_CONTENT_TYPE_FLAG; flag >= AMQP_BASIC_CONTENT_ENCODING_FLAG; flag >>= 1) {
        if (!(flags & flag))
            continue;
        if (at >= raw.len)
            return -EPROTO;
        at += 1u + p[at];
    }
    if (at + 4 > raw.len || read_be32(p + at) > raw.len - at - 4)
        return -EPROTO;
    *ret_at = at;
    *ret_len = 4 + (size_t)read_be32(p + at);
    return 0;
}

static int props_decode(amqp_bytes_t raw, amqp_pool_t *pool, amqp_basic_properties_t *ret_props)
{
    void *decoded = NULL;
    int r = amqp_decode_properties(AMQP_BASIC_CLASS, pool, raw, &decoded);

    if (r < 0 || !decoded)
        return r == AMQP_STATUS_NO_MEMORY ? -ENOMEM : -EPROTO;
    *ret_props = *(amqp_basic_properties_t *)decoded;
    return 0;
}

int wire_props_decode(amqp_bytes_t raw, amqp_pool_t *pool, amqp_basic_properties_t *ret_props,
                      bool *ret_dropped)
{
    const uint8_t *p = raw.bytes;
    amqp_bytes_t cut;
    size_t at, len;
    uint8_t *copy;
    int r;

    *ret_dropped = false;
    r = headers_find(raw, &at, &len);
    if (r < 0)
        return r;
    if (!len || fields_fine(p + at + 4, len - 4, true, 1)) {
        r = props_decode(raw, pool, ret_props);
        if (r == 0 || r == -ENOMEM || !len)
            return r;
    }
    cut.len = raw.len - len;
    amqp_pool_alloc_bytes(pool, cut.len, &cut);
    if (!cut.bytes)
        return -ENOMEM;
    copy = cut.bytes;
    memcpy(copy, p, at);
    memcpy(copy + at, p + at + len, raw.len - at - len);
    copy[0] = (uint8_t)(copy[0] & ~(AMQP_BASIC_HEADERS_FLAG >> 8));
    *ret_dropped = true;
    return props_decode(cut, pool, ret_props);
}

static bool is_brokers_own(amqp_bytes_t name)
{
    static const char *const names[] = {"x-delivery-count", "x-acquired-count"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (name.len == strlen(names[i]) && memcmp(name.bytes, names[i], name.len) == 0)
            return true;
    return false;
}

int wire_props_canonical(const amqp_basic_properties_t *props, amqp_bytes_t raw, struct buf *scratch,
                         amqp_bytes_t *ret_bytes)
{
    amqp_basic_properties_t copy = *props;
    amqp_bytes_t room;
    int n, kept = 0;

    *ret_bytes = raw;
    if (!(props->_flags & AMQP_BASIC_HEADERS_FLAG))
        return 0;
    for (int i = 0; i < props->headers.num_entries; i++)
        kept += !is_brokers_own(props->headers.entries[i].key);
    if (kept > 0 && kept == props->headers.num_entries)
        return 0;

    buf_reset(scratch);
    buf_reserve(scratch, (size_t)kept * sizeof(amqp_table_entry_t) + raw.len + 16);
    if (buf_status(scratch) < 0)
        return -ENOMEM;
    copy.headers.entries = (void *)scratch->data;
    copy.headers.num_entries = 0;
    for (int i = 0; i < props->headers.num_entries; i++)
        if (!is_brokers_own(props->headers.entries[i].key))
            copy.headers.entries[copy.headers.num_entries++] = props->headers.entries[i];
    if (!kept)
        copy._flags &= (amqp_flags_t)~AMQP_BASIC_HEADERS_FLAG;
    room.bytes = scratch->data + (size_t)kept * sizeof(amqp_table_entry_t);
    room.len = raw.len + 16;
    n = amqp_encode_properties(AMQP_BASIC_CLASS, &copy, room);
    if (n < 0)
        return -ENOMEM;
    ret_bytes->bytes = room.bytes;
    ret_bytes->len = (size_t)n;
    return 0;
}

const char *wire_text(amqp_bytes_t b, char *out, size_t size)
{
    size_t n = b.len < size - 1 ? b.len : size - 1;

    if (n)
        memcpy(out, b.bytes, n);
    out[n] = '\0';
    return out;
}
