/* session.h - one WebSocket session: its token, its bindings, its outbox, its limits.
 *
 *   session_new --attach--> OPEN --session_close--> CLOSING (bindings gone, outbox drains, close frame) -->
 * detached, freed
 *                            '------------- the peer is gone ------------------------------------------^
 *
 * The sessions object holds what all of them share. It knows how to deliver an event and when a session must
 * end: token expired, no pong, too slow. Transport (libwebsockets) is in server.c, messages in protocol.c,
 * bindings in binding.c. Loop thread only. */
#ifndef EF_SESSION_H
#define EF_SESSION_H

#include "gateway/access.h"
#include "gateway/address.h"
#include "gateway/feed.h"
#include "gateway/outbox.h"
#include "gateway/protocol_codes.h"

struct sessions;
struct session;
struct binding;
struct address_count;

/* What the transport does for a session; `transport` is what session_attach was given. */
struct session_transport {
    struct outbox_transport out; /* its `overflow` is not used: the sessions put in their own */
    /* The last frame, a close frame, is on its way: wait a little for the peer's, then cut. session_detach
     * follows. */
    void (*linger)(void *transport);
    /* Cut the connection. Never calls back from inside; session_detach follows. */
    void (*kill)(void *transport);
};

struct session {
    struct session *prev, *next;             /* all sessions */
    struct session *slot_next, **slot_pprev; /* those looked at in the same second */
    struct sessions *all;
    void *transport;     /* while attached */
    struct token *token; /* NULL: public bindings only */
    struct address_count *address;
    struct outbox out;
    struct binding *bindings;
    uint32_t binding_count;
    uint32_t rx_len, rx_cap, rx_pieces;
    char *rx;             /* a message of which only a part has come */
    int64_t end_ms;       /* monotonic: the token ends; INT64_MAX if never */
    int64_t heard_ms;     /* monotonic: something came from the peer */
    int64_t ping_ms;      /* monotonic: a ping waits for its pong since; 0: none does */
    double allowance;     /* requests it may make at once */
    int64_t allowance_ms; /* when that was computed */
    struct session *doomed_next;
    uint8_t closing; /* enum close_reason, CLOSE_NONE while open */
    bool used_req;   /* has ever sent a `req`: understands the additions of the protocol */
    bool warned;     /* of the token's end */
    bool doomed;     /* to be closed at the end of this turn */
};

struct sessions_deps {
    uv_loop_t *loop;
    struct config *config; /* a reference is taken */
    struct metrics *metrics;
    struct access *access; /* borrowed, like the next */
    struct feed *feed;
    struct session_transport transport;
};

struct sessions *sessions_new(const struct sessions_deps *deps);
/* The keys that tokens are verified with, borrowed. Sessions whose key has gone are closed. */
void sessions_set_keys(struct sessions *all, const struct token_keys *keys);
/* New limits and rules: bindings whose rules changed are checked again. */
void sessions_reload(struct sessions *all, struct config *config);
size_t sessions_count(const struct sessions *all); /* attached, also those that are closing */
size_t sessions_open(const struct sessions *all);  /* those that are not closing */
/* Close this many sessions with `reason`, oldest first. */
void sessions_close_some(struct sessions *all, size_t count, enum close_reason reason);
/* All sessions must be gone. Handles die in later turns, then `closed`. */
void sessions_close(struct sessions *all, void (*closed)(void *user), void *user);
void sessions_refresh_metrics(struct sessions *all);
struct config *sessions_config(struct sessions *all);

/* May one more session come from this address? CODE_RATE_LIMITED: too many from there; CODE_UNAVAILABLE: too
 * many at all; ERROR_CODE_COUNT: yes. */
enum error_code sessions_admit(struct sessions *all, const struct address *address);
/* token: taken, may be NULL. NULL on lack of memory (the token is released). */
struct session *session_new(struct sessions *all, struct token *token, const struct address *address);
/* The upgrade is done; from now on bytes may be written. */
void session_attach(struct session *s, void *transport);
/* The connection is gone, or never came to be: free everything. */
void session_detach(struct session *s);

void session_close(struct session *s, enum close_reason reason);
/* Close it at the end of this turn of the loop, for lack of memory: for places where its bindings are in use.
 */
void session_doom(struct session *s);
bool session_is_closing(const struct session *s);
/* A new token (taken) for the same user; all bindings are checked again with it. */
void session_renew(struct session *s, struct token *token);
/* A piece of a message has come. first, last: it begins or ends the message; remaining: bytes that its frame
 * still announces. */
void session_receive(struct session *s, const char *bytes, size_t len, bool first, bool last,
                     size_t remaining);
void session_pong(struct session *s);
/* Queue a text message for this session. */
void session_send(struct session *s, const char *text, size_t len);

/* Every binding that matches gets the event's frame. */
void sessions_event(struct sessions *all, const struct feed_event *event);
/* Is the queue at most this share (2: half) of its limit? */
bool session_may_replay(const struct session *s, unsigned share);
/* One binding of `s` gets an event from the log. */
void session_replay(struct session *s, const struct feed_event *event);
/* Tell every session that is bound to `p`: {"gap":..}, or close 4410. */
void sessions_gap(struct sessions *all, struct partition *p, const struct position *from,
                  const struct position *to);
/* Count an error that a client is told. */
void sessions_count_error(struct sessions *all, enum error_code code);

/* --- for binding.c and protocol.c --- */
struct sessions_shared {
    struct config *config;
    const struct token_keys *keys; /* borrowed; changed by sessions_set_keys */
    struct metrics *metrics;
    struct access *access;
    struct feed *feed;
};
const struct sessions_shared *session_shared(const struct session *s);
struct bindings *sessions_bindings(struct sessions *all);

#endif
