/* amqp_wire.h - AMQP 0-9-1 as bytes: frames, methods, content properties.
 *
 * rabbitmq-c's tables of methods and properties do the coding; its connections are not used, because they
 * block: a full socket stops amqp_send_method, and heartbeats run only inside its waits. Here bytes go in and
 * bytes come out, and amqp_link.c moves them on the loop. */
#ifndef EF_AMQP_WIRE_H
#define EF_AMQP_WIRE_H

#include "shared/buf.h"

#include <stdbool.h>
#include <sys/types.h>

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#endif

/* Frame types and layout (AMQP 0-9-1, 4.2.3): type, channel, length, payload, end octet. */
enum { WIRE_METHOD = 1, WIRE_HEADER = 2, WIRE_BODY = 3, WIRE_HEARTBEAT = 8 };
enum { WIRE_OVERHEAD = 8 };

/* Deepest nesting of tables and arrays in a message's headers that we decode (rabbitmq-c 0.11 recurses
 * without limit, 0.15 refuses more than 100). A message with deeper ones is served without its headers. */
enum { WIRE_DEPTH_MAX = 64 };

/* Longest method that we send, bytes: all of ours are far shorter. */
enum { WIRE_METHOD_MAX = 8192 };

struct wire_frame {
    uint8_t type;
    uint16_t channel;
    const uint8_t *payload; /* borrowed from the input */
    size_t len;
};

/* The first frame in `bytes`. frame_max: as negotiated, with the overhead. Returns its length, 0 if it is not
 * yet complete, -EPROTO if it is none, -EMSGSIZE if it is longer than frame_max. */
MUST_CHECK
ssize_t wire_next(const void *bytes, size_t len, size_t frame_max, struct wire_frame *ret_frame);

/* Decode a WIRE_METHOD frame; what it points to lives in the frame's bytes and in `pool`. 0 or -EPROTO. */
MUST_CHECK
int wire_method_decode(const struct wire_frame *frame, amqp_pool_t *pool, amqp_method_t *ret_method);
/* Append a method frame. `decoded` is rabbitmq-c's struct of that method. 0, -ENOMEM or -EMSGSIZE. */
MUST_CHECK
int wire_method_encode(struct buf *out, uint16_t channel, amqp_method_number_t id, void *decoded);
void wire_heartbeat_encode(struct buf *out);

/* Read a WIRE_HEADER payload: the size of the body and the encoded properties (borrowed). 0 or -EPROTO. */
MUST_CHECK
int wire_header_decode(const void *payload, size_t len, uint64_t *ret_body_size, amqp_bytes_t *ret_raw);
/* Decode basic properties. The result points into `raw` and `pool`. If the header table cannot be decoded
 * (too deep, malformed) the rest is decoded without it, and *ret_dropped is set. 0, -ENOMEM or -EPROTO. */
MUST_CHECK
int wire_props_decode(amqp_bytes_t raw, amqp_pool_t *pool, amqp_basic_properties_t *ret_props,
                      bool *ret_dropped);
/* The same bytes for every delivery of one message: the encoded properties without what the broker itself
 * changes from one delivery to the next (x-delivery-count of quorum queues), and with an empty header table
 * counted as none. Where nothing is to be taken out, the result is `raw` itself, else it lies in `scratch`. 0
 * or -ENOMEM. */
MUST_CHECK
int wire_props_canonical(const amqp_basic_properties_t *props, amqp_bytes_t raw, struct buf *scratch,
                         amqp_bytes_t *ret_bytes);

/* Text of an amqp_bytes_t method field, cut and NUL-terminated, for logs and comparisons. */
const char *wire_text(amqp_bytes_t b, char *out, size_t size);

#endif
