/* frame.h - what a client receives for one event.
 *
 *   {"id":"<exchange>:<partition>:<epoch>:<stream id>",  "headers":{..},"dinfo":{..},"msg":<body>}
 *   '------------ frame_add_head, once Redis knows the id ---'-------- frame_build, by ingest ------'
 *
 * Order and names are the reference service's (see docs/protocol.md); queue, deliveryTag and consumerTag
 * are left out. A frame is always valid UTF-8 and valid JSON, whatever the publisher sent. */
#ifndef EF_FRAME_H
#define EF_FRAME_H

#include "shared/buf.h"

struct amqp_basic_properties_t_; /* rabbitmq-c's amqp_basic_properties_t */

struct frame_event {
    const char *exchange; /* NUL-terminated; any bytes */
    const char *key;      /* routing key, any bytes */
    size_t key_len;
    bool redelivered;
    const struct amqp_basic_properties_t_ *props;
    const char *body;
    size_t body_len;
};

/* Append the second part of the frame, from "headers" to the last brace. -ENOMEM, or 0. */
MUST_CHECK
int frame_build(struct buf *out, const struct frame_event *event);

/* Append {"id":"<exchange>:<partition>: - what comes before the epoch, with the exchange escaped. */
void frame_add_head(struct buf *out, const char *exchange, int partition);

#endif
