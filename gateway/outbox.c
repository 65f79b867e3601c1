/* outbox.c - shared frames, coalesced per turn of the loop. The story is in the header.
 *
 * Failures: the transport refuses (dead connection) or more than the limit waits: the outbox is emptied,
 * `overflow` is told and ends it; later frames for it are ignored until the session is gone. */
#include "gateway/outbox.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A turn's block grows to about this size; a larger frame gets a block of its own. */
enum { BLOCK_BYTES = 256 * 1024, FRAME_HEADER_MAX = 10 };

struct outbox_block {
    struct outbox_block *full_next; /* in the hub's list of this turn */
    uint32_t refs;
    uint32_t len;
    uint32_t cap;
    char bytes[];
};

struct outbox_hub {
    struct outbox_transport transport;
    size_t limit;
    size_t queued;
    struct outbox_block *block; /* that frames are appended to; NULL before the first */
    struct outbox_block *full;  /* those before it in this turn: their frames stay valid until the flush */
    struct outbox *dirty;
    char *gather; /* OUTBOX_WRITE_MAX bytes, for outboxes with several small runs */
};

static struct outbox_block *block_new(size_t cap)
{
    struct outbox_block *b = malloc(sizeof(*b) + cap);

    if (b)
        *b = (struct outbox_block){.refs = 1, .cap = (uint32_t)cap};
    return b;
}

static void block_unref(struct outbox_block *b)
{
    if (b && --b->refs == 0)
        free(b);
}

/* The turn is over: nobody will add its frames any more. */
static void hub_let_go(struct outbox_hub *hub)
{
    while (hub->full) {
        struct outbox_block *b = hub->full;

        hub->full = b->full_next;
        block_unref(b);
    }
    if (hub->block && hub->block->refs == 1 && hub->block->cap == BLOCK_BYTES) {
        hub->block->len = 0;
    } else {
        block_unref(hub->block);
        hub->block = NULL;
    }
}

struct outbox_hub *outbox_hub_new(const struct outbox_transport *transport, size_t limit)
{
    struct outbox_hub *hub = calloc(1, sizeof(*hub));

    if (!hub)
        return NULL;
    hub->gather = malloc(OUTBOX_WRITE_MAX);
    if (!hub->gather) {
        free(hub);
        return NULL;
    }
    hub->transport = *transport;
    hub->limit = limit;
    return hub;
}

void outbox_hub_free(struct outbox_hub *hub)
{
    if (!hub)
        return;
    assert(!hub->dirty);
    hub_let_go(hub);
    block_unref(hub->block);
    free(hub->gather);
    free(hub);
}

void outbox_hub_set_limit(struct outbox_hub *hub, size_t limit)
{
    hub->limit = limit;
}

size_t outbox_hub_queued(const struct outbox_hub *hub)
{
    return hub->queued;
}

/* Make sure that `need` bytes fit behind the block's frames, in place or in a new block. */
static bool hub_room(struct outbox_hub *hub, size_t need)
{
    struct outbox_block *b = hub->block;
    size_t cap;

    if (b && b->cap - b->len >= need)
        return true;
    cap = need > BLOCK_BYTES ? need : BLOCK_BYTES;
    b = block_new(cap);
    if (!b)
        return false;
    if (hub->block) {
        hub->block->full_next = hub->full;
        hub->full = hub->block;
    }
    hub->block = b;
    return true;
}

/* RFC 6455, 5.2: FIN and opcode, then the length in 7, 7+16 or 7+64 bits, no mask. */
static size_t frame_header(char out[FRAME_HEADER_MAX], enum frame_opcode opcode, size_t len)
{
    out[0] = (char)(0x80 | opcode);
    if (len < 126) {
        out[1] = (char)len;
        return 2;
    }
    if (len < 65536) {
        out[1] = 126;
        out[2] = (char)(len >> 8);
        out[3] = (char)len;
        return 4;
    }
    out[1] = 127;
    for (int i = 0; i < 8; i++)
        out[2 + i] = (char)((uint64_t)len >> (56 - 8 * i));
    return 10;
}

/* Length of the frame that begins at `p`: what frame_header wrote, read back. */
static size_t frame_len(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    uint64_t len = 0;

    if (u[1] < 126)
        return 2u + u[1];
    if (u[1] == 126)
        return 4u + ((size_t)u[2] << 8 | u[3]);
    for (int i = 0; i < 8; i++)
        len = len << 8 | u[2 + i];
    return 10u + (size_t)len;
}

bool outbox_hub_frame(struct outbox_hub *hub, enum frame_opcode opcode, const char *head, size_t head_len,
                      const char *payload, size_t len, struct outbox_run *ret_frame)
{
    char header[FRAME_HEADER_MAX];
    size_t header_len = frame_header(header, opcode, head_len + len);
    size_t total = header_len + head_len + len;
    struct outbox_block *b;
    char *to;

    if (total > INT32_MAX || !hub_room(hub, total))
        return false;
    b = hub->block;
    to = b->bytes + b->len;
    memcpy(to, header, header_len);
    if (head_len)
        memcpy(to + header_len, head, head_len);
    if (len)
        memcpy(to + header_len + head_len, payload, len);
    *ret_frame = (struct outbox_run){.block = b, .offset = b->len, .len = (uint32_t)total};
    b->len += (uint32_t)total;
    return true;
}

void outbox_init(struct outbox *o, struct outbox_hub *hub, void *transport)
{
    *o = (struct outbox){.hub = hub, .transport = transport};
}

static struct outbox_run *run_at(struct outbox *o, uint32_t i)
{
    return i == 0 ? &o->first : &o->more[i - 1];
}

static void outbox_clear(struct outbox *o)
{
    for (uint32_t i = 0; i < o->count; i++)
        block_unref(run_at(o, i)->block);
    o->hub->queued -= o->queued;
    o->count = 0;
    o->settled = 0;
    o->queued = 0;
    free(o->more);
    o->more = NULL;
    o->more_cap = 0;
}

void outbox_close(struct outbox *o)
{
    outbox_clear(o);
    o->closed = true;
}

void outbox_done(struct outbox *o)
{
    if (!o->hub)
        return;
    outbox_close(o);
    if (o->dirty) {
        struct outbox **at = &o->hub->dirty;

        while (*at != o)
            at = &(*at)->dirty_next;
        *at = o->dirty_next;
        o->dirty = false;
    }
}

static void mark_dirty(struct outbox *o)
{
    if (o->dirty)
        return;
    o->dirty = true;
    o->dirty_next = o->hub->dirty;
    o->hub->dirty = o;
}

/* Room for one more run after the first. */
static bool more_room(struct outbox *o)
{
    uint32_t cap = o->more_cap ? o->more_cap * 2 : 4;
    struct outbox_run *more;

    if (o->count - 1 < o->more_cap)
        return true;
    more = realloc(o->more, cap * sizeof(*more));
    if (!more)
        return false;
    o->more = more;
    o->more_cap = cap;
    return true;
}

bool outbox_add(struct outbox *o, struct outbox_run frame)
{
    struct outbox_run *last = o->count ? run_at(o, o->count - 1) : NULL;

    if (o->closed)
        return true;
    if (last && last->block == frame.block && last->offset + last->len == frame.offset) {
        last->len += frame.len;
    } else {
        if (o->count > 0 && !more_room(o))
            return false;
        *run_at(o, o->count) = frame;
        o->count++;
        frame.block->refs++;
    }
    o->queued += frame.len;
    o->hub->queued += frame.len;
    mark_dirty(o);
    return true;
}

bool outbox_last(struct outbox *o, struct outbox_run frame, bool drop)
{
    bool added;

    if (drop)
        outbox_clear(o);
    added = outbox_add(o, frame);
    o->closed = true;
    return added;
}

bool outbox_is_empty(const struct outbox *o)
{
    return o->count == 0;
}

static void overflow(struct outbox *o, int error)
{
    size_t queued = o->queued;

    outbox_clear(o);
    o->hub->transport.overflow(o->transport, error, queued);
    assert(o->closed);
}

/* The longest row of whole frames at `p` within OUTBOX_WRITE_MAX, at least one frame. */
static size_t whole_frames(const char *p, size_t len)
{
    size_t n = 0;

    if (len <= OUTBOX_WRITE_MAX)
        return len;
    do {
        size_t next = frame_len(p + n);

        if (n > 0 && n + next > OUTBOX_WRITE_MAX)
            break;
        n += next;
    } while (n < len);
    return n;
}

/* Take `n` bytes of runs off the front; they have been written. */
static void outbox_consume(struct outbox *o, size_t n)
{
    uint32_t gone = 0;

    o->queued -= n;
    o->hub->queued -= n;
    while (n > 0) {
        struct outbox_run *r = run_at(o, gone);
        size_t part = r->len < n ? r->len : n;

        r->offset += (uint32_t)part;
        r->len -= (uint32_t)part;
        n -= part;
        if (r->len == 0) {
            block_unref(r->block);
            gone++;
        }
    }
    if (gone == 0)
        return;
    for (uint32_t i = gone; i < o->count; i++)
        *run_at(o, i - gone) = *run_at(o, i);
    o->count -= gone;
    o->settled = o->settled > gone ? o->settled - gone : 0;
    if (o->count == 0) {
        free(o->more);
        o->more = NULL;
        o->more_cap = 0;
    }
}

/* The next bytes to write: straight from the first run, or, where several short runs follow each other,
 * gathered. */
static size_t next_bytes(struct outbox *o, const char **ret_bytes)
{
    size_t n = 0;

    if (o->count == 1 || o->first.len >= OUTBOX_WRITE_MAX / 2) {
        *ret_bytes = o->first.block->bytes + o->first.offset;
        return whole_frames(*ret_bytes, o->first.len);
    }
    for (uint32_t i = 0; i < o->count; i++) {
        const struct outbox_run *r = run_at(o, i);

        if (n + r->len > OUTBOX_WRITE_MAX)
            break;
        memcpy(o->hub->gather + n, r->block->bytes + r->offset, r->len);
        n += r->len;
    }
    *ret_bytes = o->hub->gather;
    return n;
}

/* Keep what waits without keeping other sessions' bytes alive: a run that is less than half of its block
 * moves to a block of its own. */
static void outbox_detach(struct outbox *o)
{
    for (; o->settled < o->count; o->settled++) {
        struct outbox_run *r = run_at(o, o->settled);
        struct outbox_block *own;

        if (r->len >= r->block->cap / 2)
            continue;
        own = block_new(r->len);
        if (!own)
            continue; /* The large block stays alive instead: costs memory, loses nothing. */
        memcpy(own->bytes, r->block->bytes + r->offset, r->len);
        own->len = r->len;
        block_unref(r->block);
        *r = (struct outbox_run){.block = own, .offset = 0, .len = r->len};
    }
}

static void outbox_flush(struct outbox *o)
{
    struct outbox_hub *hub = o->hub;

    while (o->count > 0 && !hub->transport.blocked(o->transport)) {
        const char *bytes;
        size_t n = next_bytes(o, &bytes);
        int r = hub->transport.write(o->transport, bytes, n);

        if (r < 0) {
            overflow(o, r);
            return;
        }
        outbox_consume(o, n);
    }
    if (o->count == 0)
        return;
    if (!o->closed && hub->limit && o->queued > hub->limit &&
        frame_len(o->first.block->bytes + o->first.offset) < o->queued) {
        overflow(o, 0);
        return;
    }
    outbox_detach(o);
    hub->transport.want_writable(o->transport);
}

void outbox_writable(struct outbox *o)
{
    if (o->count > 0 && !o->dirty)
        outbox_flush(o);
}

void outbox_hub_flush(struct outbox_hub *hub)
{
    while (hub->dirty) {
        struct outbox *o = hub->dirty;

        hub->dirty = o->dirty_next;
        o->dirty = false;
        outbox_flush(o);
    }
    hub_let_go(hub);
}
