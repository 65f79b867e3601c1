/* binding.h - a session's bindings, from the request to the live binding.
 *
 *   bind --> CHECKING --granted--> SUBSCRIBING --channel confirmed--> [REPLAYING] --> LIVE (in the router)
 *               |                       |                               |                |
 *               '-- refused, bind_timeout_ms over, session gone, rules changed and no longer give it --> gone
 *
 * It replays the log if the client says where it was (`since`), or if Redis was away when it asked: then it
 * is in effect from its receipt. "Live" is said to the client (if it asked by `req`) when every later event
 * will arrive, and every missed one was sent. A verdict counts only under the rules that are in force when it
 * comes, and for the token that the session has then: after a reload that changed the exchange's rules, or a
 * new token, the check is made again. Rechecks of live bindings run a few at a time; meanwhile they keep
 * their grant (see docs/access.md). Loop thread only. */
#ifndef EF_BINDING_H
#define EF_BINDING_H

#include "gateway/session.h"

struct bindings; /* what all bindings of the gateway share */

struct bindings *bindings_new(struct sessions *all, uv_loop_t *loop, struct metrics *metrics);
/* All bindings must be gone. `closed` comes in a later turn. */
void bindings_close(struct bindings *b, void (*closed)(void *user), void *user);
void bindings_refresh_metrics(struct bindings *b);

/* Bind. key: a pattern of at most TOPIC_MAX bytes. since: where the client was; NULL: from now. req:
 * borrowed, may be NULL; answered when the binding is live or refused. Errors are told to the client. */
void binding_request(struct session *s, const char *exchange, size_t exchange_len, const char *key,
                     size_t key_len, const struct position *since, json_t *req);
/* Take one binding back. false: there is none. */
bool binding_take_back(struct session *s, const char *exchange, size_t exchange_len, const char *key,
                       size_t key_len);
void bindings_drop_all(struct session *s);
/* The session's binding of a router entry, and its session. */
struct session *binding_session(struct router_entry *e);
/* For the feed: the channel of this binding is confirmed. */
void binding_channel_live(struct interest_ref *ref);
/* For the feed (see replay.h). */
bool binding_replay(struct replay_entry *e, const struct feed_event *event);
bool binding_may_continue(const struct replay_entry *e);
void binding_joined(struct replay_entry *e, bool recovered);
/* Has the session a live binding there? */
bool bindings_live_on(const struct session *s, const struct partition *p);
/* The rules of the session's exchanges may have changed from `old`: check its bindings again where they did.
 */
void bindings_recheck(struct session *s, const struct config *old);
/* {"wf:0":"k3x9:1700000000009-0",..} of the partitions that the session is bound to, without those where a
 * binding of it still replays: a client may take a position for all its bindings. A new reference. */
json_t *bindings_positions(const struct session *s);

#endif
