/* outbox.h - the bytes on their way to the sessions.
 *
 * A frame is built once and shared by all sessions that get it. The hub collects what one turn of the loop
 * brings, frames behind each other in blocks; each outbox remembers which runs of bytes are its own. At
 * the end of the turn every touched outbox is written: usually one run, so one write straight from the block,
 * without a copy.
 *
 *   event --> hub_frame() --> [frame|frame|frame|...]  block, counted
 *                                ^------^     ^          runs of outbox 1
 *                                ^-----------------^     run of outbox 2
 *
 * What the transport does not take waits in the outbox (the block lives on; a run that is a small part
 * of its block is copied out of it). More than `limit` bytes waiting: the session is too slow
 * (the `overflow` callback); an outbox that is empty takes one frame of any size.
 *
 * Frames are RFC 6455 server frames: FIN set, unmasked (5.1, 5.2). Loop thread only. */
#ifndef EF_OUTBOX_H
#define EF_OUTBOX_H

#include "shared/util.h"

#include <stdbool.h>

/* A write longer than this is made only for a single frame. */
enum { OUTBOX_WRITE_MAX = 65536 };

/* RFC 6455, 5.2. */
enum frame_opcode { FRAME_TEXT = 1, FRAME_CLOSE = 8, FRAME_PING = 9 };

struct outbox_hub;
struct outbox;

struct outbox_transport {
    /* Is something handed over before still unsent? Then nothing is written now. */
    bool (*blocked)(void *transport);
    /* Take all bytes (sent or kept). 0, or a negative code: the connection is dead. */
    int (*write)(void *transport, const char *bytes, size_t len);
    /* Call outbox_writable once the transport is no longer blocked. */
    void (*want_writable)(void *transport);
    /* The outbox is over its limit, or its connection died (`error`). Called from outbox_hub_flush and
     * outbox_writable, with the outbox emptied. It must end the outbox: outbox_last or outbox_close. */
    void (*overflow)(void *transport, int error, size_t queued);
};

struct outbox_block;

/* Bytes of one or several whole frames in a block. */
struct outbox_run {
    struct outbox_block *block;
    uint32_t offset;
    uint32_t len;
};

/* Embedded in a session; all zeros plus outbox_init. */
struct outbox {
    void *transport;
    struct outbox_hub *hub;
    struct outbox *dirty_next; /* in the hub's list of this turn */
    struct outbox_run *more;   /* runs after the first, owned */
    struct outbox_run first;
    uint32_t count, more_cap; /* runs in all; room in `more` */
    uint32_t settled;         /* the first of them, which wait since an earlier turn */
    bool dirty, closed;
    size_t queued; /* bytes in the runs; many copies of a large frame may be more than 4 GiB */
};

/* limit: bytes that may wait in one outbox. transport: borrowed. NULL on lack of memory. */
struct outbox_hub *outbox_hub_new(const struct outbox_transport *transport, size_t limit);
void outbox_hub_free(struct outbox_hub *hub); /* after all its outboxes are done */
void outbox_hub_set_limit(struct outbox_hub *hub, size_t limit);
/* Bytes that wait in all outboxes. */
size_t outbox_hub_queued(const struct outbox_hub *hub);

/* Build a frame; the span is valid until the hub is flushed. A payload in two parts saves a copy. At most
 * 2 GiB. Returns false on lack of memory. */
MUST_CHECK
bool outbox_hub_frame(struct outbox_hub *hub, enum frame_opcode opcode, const char *head, size_t head_len,
                      const char *payload, size_t len, struct outbox_run *ret_frame);
/* Write every outbox that got frames in this turn. */
void outbox_hub_flush(struct outbox_hub *hub);

void outbox_init(struct outbox *o, struct outbox_hub *hub, void *transport);
/* Drop what waits and take no more. */
void outbox_close(struct outbox *o);
/* Queue a last frame (of this turn), behind what waits or, with `drop`, instead of it; take no more. false on
 * lack of memory: then only the latter is done. */
MUST_CHECK bool outbox_last(struct outbox *o, struct outbox_run frame, bool drop);
void outbox_done(struct outbox *o);
/* Queue the frame (of this turn). Never calls back. false on lack of memory: the frame is lost, so
 * the caller must end the session. */
MUST_CHECK
bool outbox_add(struct outbox *o, struct outbox_run frame);
/* The transport may take more. */
void outbox_writable(struct outbox *o);
bool outbox_is_empty(const struct outbox *o);

#endif
