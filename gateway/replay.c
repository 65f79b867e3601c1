/* replay.c - passes over a partition's log; the story is in the header.
 *
 * The window is a list of pages, contiguous from `window_start` to `window_end`. A pass walks it with `at`
 * and `index`, and reads on where it ends. The oldest pages go when the window is over its size and the pass
 * is beyond them; all go when nobody needed them for WINDOW_IDLE_MS. */
#include "gateway/replay.h"

#include "gateway/feed.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/frame.h"
#include "shared/topic.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lua_scripts.h"

enum {
    WINDOW_MAX_BYTES = 32 * 1024 * 1024,
    WINDOW_IDLE_MS = 10000,
    /* A page ends with the entries in which it reaches this size (see replay.lua), or with so many. */
    PAGE_BYTES = 1024 * 1024,
    PAGE_ENTRIES = 1000,
    /* Work of one turn: live sessions must not feel a pass. */
    TURN_ENTRIES = 256,
    TURN_BYTES = 1024 * 1024,
    /* Those who come within this time share a pass. */
    PASS_INTERVAL_MS = 50,
    RETRY_MS = 250,
    /* <epoch>:<ms>-<seq>", */
    ID_ROOM = EPOCH_MAX + 48,
};

struct page_entry {
    struct position pos;                     /* without its epoch: the window's */
    uint32_t key, key_len, frame, frame_len; /* offsets into the page's text */
};

struct page {
    struct page *next;
    size_t count, bytes;
    struct page_entry *entries;
    char *text;
};

struct entry_list {
    struct replay_entry *first, *last;
};

/* A read on its way; it outlives a replay that is freed meanwhile. */
struct page_read {
    struct replay *replay; /* NULL: nobody waits any more */
};

struct replay {
    struct partition *partition;
    struct redis_link *link;
    struct replay_ops ops;
    void *user;
    struct router *router; /* of the bindings that pass */
    struct entry_list waiting, passing, parked;
    struct page *first, *last;
    size_t window_bytes;
    struct position window_start, window_end;
    struct page *at; /* where the pass is; NULL: at the window's end */
    size_t index;
    bool pass;                 /* one is going on */
    bool fresh;                /* it has read the log since it began */
    struct page_read *reading; /* a page is on its way */
    struct position seen;      /* the pass has dealt with everything up to here */
    bool catching, settled;
    struct position heard;
    int64_t not_before_ms; /* the next pass or read */
    int64_t used_ms;
    size_t head_len;
    char *head;                     /* {"id":"<exchange>:<partition>: and ID_ROOM bytes for the rest */
    const struct feed_event *event; /* being delivered */
    const struct position *event_pos;
    struct replay_counts counts;
};

const struct redis_script *replay_script(void)
{
    static struct redis_script script;

    if (!script.text)
        redis_script_init(&script, lua_replay);
    return &script;
}

const struct replay_counts *replay_counts(const struct replay *r)
{
    return &r->counts;
}

/* --- lists --- */

static struct entry_list *list_of(struct replay *r, enum replay_state state)
{
    return state == REPLAY_WAITING ? &r->waiting : state == REPLAY_PASSING ? &r->passing : &r->parked;
}

static void entry_move(struct replay *r, struct replay_entry *e, enum replay_state state)
{
    struct entry_list *l;

    if (e->state != REPLAY_NONE) {
        l = list_of(r, (enum replay_state)e->state);
        *(e->prev ? &e->prev->next : &l->first) = e->next;
        *(e->next ? &e->next->prev : &l->last) = e->prev;
    }
    e->state = (uint8_t)state;
    if (state == REPLAY_NONE)
        return;
    l = list_of(r, state);
    e->prev = l->last;
    e->next = NULL;
    *(l->last ? &l->last->next : &l->first) = e;
    l->last = e;
}

void replay_add(struct replay *r, struct replay_entry *e)
{
    assert(e->state == REPLAY_NONE);
    e->refused = false;
    entry_move(r, e, REPLAY_WAITING);
}

void replay_remove(struct replay *r, struct replay_entry *e)
{
    if (e->state == REPLAY_NONE)
        return;
    router_remove(r->router, &e->entry);
    entry_move(r, e, REPLAY_NONE);
}

static void entry_join(struct replay *r, struct replay_entry *e, bool recovered)
{
    replay_remove(r, e);
    if (recovered)
        r->counts.recovered++;
    else
        r->counts.refused++;
    r->ops.joined(r->user, e, recovered);
}

static void refuse_all(struct replay *r, struct entry_list *l)
{
    while (l->first)
        entry_join(r, l->first, false);
}

/* --- the window --- */

static void page_free(struct page *page)
{
    free(page->entries);
    free(page->text);
    free(page);
}

/* The window begins behind the page's last entry then. */
static void window_drop_first(struct replay *r)
{
    struct page *page = r->first;

    r->first = page->next;
    if (!r->first)
        r->last = NULL;
    r->window_bytes -= page->bytes;
    if (page->count > 0)
        r->window_start = page->entries[page->count - 1].pos;
    page_free(page);
}

static void window_clear(struct replay *r, const struct position *at)
{
    while (r->first)
        window_drop_first(r);
    r->window_start = r->window_end = *at;
    r->at = NULL;
    r->index = 0;
}

/* Let the oldest pages go, but none that the pass still needs. */
static void window_trim(struct replay *r)
{
    while (r->window_bytes > WINDOW_MAX_BYTES && r->first && r->first != r->last && r->first != r->at)
        window_drop_first(r);
}

/* Place the pass behind `from`, which lies in the window. */
static void window_seek(struct replay *r, const struct position *from)
{
    for (r->at = r->first; r->at; r->at = r->at->next) {
        const struct page_entry *entries = r->at->entries;
        size_t low = 0, high = r->at->count;

        if (high == 0 || !position_is_above(&entries[high - 1].pos, from))
            continue;
        while (low < high) {
            size_t middle = (low + high) / 2;

            if (position_is_above(&entries[middle].pos, from))
                high = middle;
            else
                low = middle + 1;
        }
        r->index = low;
        return;
    }
    r->index = 0;
}

/* The fields `k` and `f` of a stream entry. */
static bool read_fields(const struct redisReply *fields, const char **key, size_t *key_len,
                        const char **frame, size_t *frame_len)
{
    bool has_key = false, has_frame = false;

    for (size_t i = 0; i + 1 < redis_reply_count(fields); i += 2) {
        size_t name_len = 0, len = 0;
        const char *name = redis_reply_str(redis_reply_at(fields, i), &name_len);
        const char *value = redis_reply_str(redis_reply_at(fields, i + 1), &len);

        if (!name || !value || name_len != 1)
            continue;
        if (name[0] == 'k' && len <= TOPIC_MAX) {
            has_key = true;
            *key = value;
            *key_len = len;
        } else if (name[0] == 'f' && len <= INT32_MAX) {
            has_frame = true;
            *frame = value;
            *frame_len = len;
        }
    }
    return has_key && has_frame;
}

static size_t page_text_bytes(const struct redisReply *rows)
{
    size_t bytes = 0;

    for (size_t i = 0; i < redis_reply_count(rows); i++) {
        const char *key, *frame;
        size_t key_len = 0, frame_len = 0;

        if (read_fields(redis_reply_at(redis_reply_at(rows, i), 1), &key, &key_len, &frame, &frame_len))
            bytes += key_len + frame_len;
    }
    return bytes;
}

/* Copy the rows of a reply behind the window; whole: they reach to the tip. false on lack of memory. */
static bool window_append(struct replay *r, const struct redisReply *rows, bool whole,
                          const struct position *tip)
{
    struct position end = r->window_end;
    size_t count = redis_reply_count(rows), text_bytes = page_text_bytes(rows), at = 0;
    struct page *page;

    if (count == 0) {
        if (whole && position_is_above(tip, &r->window_end))
            r->window_end = *tip;
        return true;
    }
    page = calloc(1, sizeof(*page));
    if (page) {
        page->entries = calloc(count + 1, sizeof(*page->entries));
        page->text = malloc(text_bytes + 1);
    }
    if (!page || !page->entries || !page->text || text_bytes > UINT32_MAX) {
        if (page)
            page_free(page);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const struct redisReply *row = redis_reply_at(rows, i);
        struct page_entry *e = &page->entries[page->count];
        size_t id_len = 0, key_len = 0, frame_len = 0;
        const char *id = redis_reply_str(redis_reply_at(row, 0), &id_len), *key, *frame;

        /* An entry that is none of ours is passed over, as live ones are. */
        if (!id || position_parse_id(id, id_len, &e->pos) != id_len)
            continue;
        end = e->pos;
        if (!read_fields(redis_reply_at(row, 1), &key, &key_len, &frame, &frame_len))
            continue;
        e->key = (uint32_t)at;
        e->key_len = (uint32_t)key_len;
        memcpy(page->text + at, key, key_len);
        e->frame = (uint32_t)(at + key_len);
        e->frame_len = (uint32_t)frame_len;
        memcpy(page->text + at + key_len, frame, frame_len);
        at += key_len + frame_len;
        page->count++;
    }
    page->bytes = sizeof(*page) + text_bytes + (count + 1) * sizeof(*page->entries);
    r->window_bytes += page->bytes;
    *(r->last ? &r->last->next : &r->first) = page;
    r->last = page;
    if (!r->at) {
        r->at = page;
        r->index = 0;
    }
    if (whole && position_is_above(tip, &end))
        end = *tip;
    r->window_end = end;
    return true;
}

/* --- a pass --- */

static void pass_end(struct replay *r)
{
    r->pass = false;
    r->used_ms = clock_mono_ms();
    r->not_before_ms = r->used_ms + PASS_INTERVAL_MS;
    if (r->catching) {
        r->catching = false;
        r->heard = (struct position){0};
    }
    while (r->passing.first)
        entry_join(r, r->passing.first, true);
}

static void pass_begin(struct replay *r)
{
    const struct partition *p = r->partition;
    const struct position *from = r->catching ? &p->last : NULL;
    struct replay_entry *e, *next;

    for (e = r->parked.first; e; e = next) {
        next = e->next;
        if (r->ops.may_continue(r->user, e))
            entry_move(r, e, REPLAY_WAITING);
    }
    for (e = r->waiting.first; e; e = next) {
        next = e->next;
        if (strcmp(e->from.epoch, p->last.epoch) != 0) {
            entry_join(r, e, false);
            continue;
        }
        if (router_add(r->router, e->pattern, e->pattern_len, &e->entry) < 0) {
            entry_join(r, e, false); /* no memory: it learns that it may have missed something */
            continue;
        }
        entry_move(r, e, REPLAY_PASSING);
        if (!from || position_is_above(from, &e->from))
            from = &e->from;
    }
    if (!from)
        return;
    if (position_is_above(&r->window_start, from) || position_is_above(from, &r->window_end) || !r->first)
        window_clear(r, from);
    else
        window_seek(r, from);
    r->pass = true;
    r->fresh = false;
    r->seen = *from;
    r->counts.passes++;
}

static void on_pass_match(void *user, struct router_entry *entry)
{
    struct replay *r = user;
    struct replay_entry *e = container_of(entry, struct replay_entry, entry);

    if (e->refused || !position_is_above(r->event_pos, &e->from))
        return;
    if (r->ops.deliver(r->user, e, r->event))
        e->from = *r->event_pos;
    else
        e->refused = true; /* parked after this event: the router must not change now */
}

static void park_refused(struct replay *r)
{
    struct replay_entry *e, *next;

    for (e = r->passing.first; e; e = next) {
        next = e->next;
        if (!e->refused)
            continue;
        e->refused = false;
        if (position_is_above(&r->seen, &e->from))
            e->from = r->seen; /* the event that it could not take is the next one */
        router_remove(r->router, &e->entry);
        entry_move(r, e, REPLAY_PARKED);
    }
    if (!r->passing.first && !r->catching)
        r->pass = false; /* nobody needs the rest now */
}

/* One entry of the log: to those that pass, and to everybody if it is news. Returns its size. */
static size_t replay_one(struct replay *r, const struct page *page, const struct page_entry *entry)
{
    struct partition *p = r->partition;
    struct position pos = entry->pos;
    struct feed_event event = {.partition = p,
                               .head = r->head,
                               .key = page->text + entry->key,
                               .key_len = entry->key_len,
                               .frame = page->text + entry->frame,
                               .frame_len = entry->frame_len};
    int n;

    memcpy(pos.epoch, p->last.epoch, sizeof(pos.epoch));
    n = snprintf(r->head + r->head_len, ID_ROOM, "%s:%" PRIu64 "-%" PRIu64 "\",", pos.epoch, pos.ms, pos.seq);
    event.head_len = r->head_len + (size_t)n;
    r->event = &event;
    r->event_pos = &pos;
    event.serial = feed_next_serial(p);
    r->counts.entries++;
    if (position_is_above(&pos, &p->last)) {
        p->last = pos;
        r->ops.route(r->user, &event);
    }
    if (router_match(r->router, event.key, event.key_len, on_pass_match, r) == 0)
        park_refused(r);
    else
        refuse_all(r, &r->passing); /* no memory: they learn that they may have missed something */
    r->event = NULL;
    r->seen = pos;
    return entry->frame_len + entry->key_len;
}

/* --- reading --- */

/* The first reply of a pass: whose place can be served? Later the log may be trimmed faster than we read;
 * what lies between is lost for all that pass. */
static void judge(struct replay *r, const struct position *floor, const struct position *tip)
{
    bool overtaken = r->fresh && position_is_above(floor, &r->window_end);
    struct partition *p = r->partition;
    struct position from = p->last;
    struct replay_entry *e, *next;

    for (e = r->passing.first; e && (overtaken || !r->fresh); e = next) {
        next = e->next;
        if (overtaken || position_is_above(floor, &e->from) || position_is_above(&e->from, tip))
            entry_join(r, e, false);
    }
    if (!r->catching || !position_is_above(floor, &p->last) || (r->fresh && !overtaken))
        return;
    p->last.ms = floor->ms;
    p->last.seq = floor->seq;
    r->counts.gaps++;
    r->ops.gap(r->user, &from, &p->last);
}

static bool parse_bound(const struct redisReply *reply, struct position *ret)
{
    size_t len = 0;
    const char *text = redis_reply_str(reply, &len);

    return text && position_parse_id(text, len, ret) == len;
}

/* The reply names another epoch, or none: the log began anew, or is gone. A new one begins here at once; none
 * is waited for. */
static void page_of_other_epoch(struct replay *r, const char *epoch, size_t len)
{
    r->not_before_ms = clock_mono_ms() + RETRY_MS;
    refuse_all(r, &r->passing);
    if (epoch && len > 0 && len <= EPOCH_MAX)
        feed_new_epoch(r->partition, epoch, len);
}

static void take_page(struct replay *r, const struct redisReply *reply)
{
    const char *ours = r->partition->last.epoch, *epoch;
    struct position floor = {0}, tip = {0};
    size_t epoch_len = 0;

    epoch = redis_reply_str(redis_reply_at(reply, 0), &epoch_len);
    if (!epoch || epoch_len != strlen(ours) || memcmp(epoch, ours, epoch_len) != 0) {
        page_of_other_epoch(r, epoch, epoch_len);
        return;
    }
    r->not_before_ms = clock_mono_ms() + RETRY_MS;
    if (!parse_bound(redis_reply_at(reply, 1), &floor) || !parse_bound(redis_reply_at(reply, 2), &tip))
        return;
    r->counts.reads++;
    judge(r, &floor, &tip);
    r->fresh = true;
    if (!window_append(r, redis_reply_at(reply, 3), redis_reply_int(redis_reply_at(reply, 4)) == 1, &tip))
        return;
    r->not_before_ms = 0;
    window_trim(r);
}

static void on_page(void *user, int err, const struct redisReply *reply)
{
    struct page_read *read = user;
    struct replay *r = read->replay;

    free(read);
    if (!r)
        return;
    r->reading = NULL;
    if (err == ERR_REDIS_NOSCRIPT)
        (void)!redis_link_script_load(r->link, replay_script(), NULL,
                                      NULL); /* failed: the next read finds out */
    if (err)
        r->not_before_ms = clock_mono_ms() + RETRY_MS;
    else if (r->pass)
        take_page(r, reply);
    feed_kick(r->partition);
}

static void read_on(struct replay *r, int64_t now_ms)
{
    const struct partition_keys *keys = &r->partition->keys;
    struct page_read *read;
    char from[48], count[16], bytes[16];

    if (r->reading || now_ms < r->not_before_ms || !redis_link_is_up(r->link))
        return;
    snprintf(from, sizeof(from), "%" PRIu64 "-%" PRIu64, r->window_end.ms, r->window_end.seq);
    snprintf(count, sizeof(count), "%d", PAGE_ENTRIES);
    snprintf(bytes, sizeof(bytes), "%d", PAGE_BYTES);
    read = calloc(1, sizeof(*read));
    if (read)
        *read = (struct page_read){r};
    if (read && redis_link_send(r->link, on_page, read, "EVALSHA", replay_script()->sha1, "2", keys->log,
                                keys->meta, from, count, bytes, NULL) == 0) {
        r->reading = read;
        return;
    }
    free(read);
    r->not_before_ms = now_ms + RETRY_MS;
}

/* Has the pass come to where the live events are? */
static bool at_live(const struct replay *r)
{
    return r->fresh && !position_is_above(&r->partition->last, &r->window_end) &&
           !position_is_above(&r->heard, &r->window_end);
}

bool replay_work(struct replay *r, int64_t now_ms)
{
    size_t entries = 0, bytes = 0;

    if (!r->pass) {
        bool wanted = r->waiting.first || r->parked.first || (r->catching && r->settled);

        if (!wanted || now_ms < r->not_before_ms) {
            if (!wanted && r->first && !r->reading && now_ms - r->used_ms > WINDOW_IDLE_MS)
                window_clear(r, &r->window_end);
            return false;
        }
        if (r->reading || !r->partition->last.epoch[0] || (r->catching && !r->settled))
            return false;
        pass_begin(r);
    }
    while (r->pass && r->at && entries < TURN_ENTRIES && bytes < TURN_BYTES) {
        struct page *page = r->at;

        if (r->index < page->count) {
            bytes += replay_one(r, page, &page->entries[r->index++]);
            entries++;
            continue;
        }
        r->at = page->next;
        r->index = 0;
    }
    if (!r->pass || r->at)
        return r->pass;
    if (at_live(r))
        pass_end(r);
    else
        read_on(r, now_ms);
    return false;
}

/* --- catching up --- */

void replay_catch_up(struct replay *r)
{
    r->settled = false;
    r->not_before_ms = 0;
    if (!r->partition->last.epoch[0])
        return; /* nothing was heard yet, so nothing was missed */
    r->catching = true;
    if (r->pass) {
        /* The pass that is going on began before: begin again, from everybody's own place. */
        while (r->passing.first) {
            router_remove(r->router, &r->passing.first->entry);
            entry_move(r, r->passing.first, REPLAY_WAITING);
        }
        r->pass = false;
    }
}

bool replay_is_catching_up(const struct replay *r)
{
    return r->catching;
}

void replay_settled(struct replay *r)
{
    r->settled = true;
}

void replay_heard(struct replay *r, const struct position *pos)
{
    if (position_is_above(pos, &r->heard))
        r->heard = *pos;
}

void replay_new_epoch(struct replay *r)
{
    const struct position zero = {0};

    r->pass = false;
    r->heard = zero;
    window_clear(r, &zero);
    refuse_all(r, &r->passing);
    refuse_all(r, &r->waiting);
    refuse_all(r, &r->parked);
}

/* --- life --- */

struct replay *replay_new(struct partition *p, struct redis_link *link, const struct replay_ops *ops,
                          void *user)
{
    struct replay *r = calloc(1, sizeof(*r));
    CLEANUP(buf_done) struct buf head = {0};

    if (!r)
        return NULL;
    *r = (struct replay){.partition = p, .link = link, .ops = *ops, .user = user};
    frame_add_head(&head, p->exchange, p->number);
    r->head_len = head.len;
    buf_reserve(&head, ID_ROOM);
    r->head = buf_take(&head);
    r->router = router_new();
    if (!r->head || !r->router) {
        free(r->head);
        router_free(r->router);
        free(r);
        return NULL;
    }
    return r;
}

void replay_free(struct replay *r)
{
    const struct position zero = {0};

    if (!r)
        return;
    assert(!r->waiting.first && !r->passing.first && !r->parked.first);
    if (r->reading)
        r->reading->replay = NULL;
    window_clear(r, &zero);
    router_free(r->router);
    free(r->head);
    free(r);
}
