/* redis_link.h - one connection to Redis on the program's loop, that comes back by itself, if need be to
 * another primary.
 *
 *   DOWN --start--> RESOLVING --> CONNECTING --> GREETING (AUTH, SELECT, CLIENT SETNAME, ROLE) --> UP
 *    ^                                                                                               |
 *    '---------------- backoff with full jitter, 100 ms .. 10 s <--- error, silence, EOF ------------'
 *
 * Only this module knows hiredis; replies are read through the functions below. A silent peer is noticed
 * by a watchdog: a command without an answer for `silence_ms` cuts the link, unless other answers are just
 * coming in. (A link that only subscribes has no outstanding commands: its user watches ticks and probes, and
 * calls redis_link_cut.)
 *
 * The waits of the backoff are random between 0 and a ceiling that doubles from 100 ms to 10 s and falls back
 * once the link was UP for 10 s. A refusal that only a person can mend (AUTH, ACL, SELECT) is retried after
 * 5 to 10 s; `down` says the error and the wait.
 *
 * With redis+sentinel:// every attempt first asks the sentinels, one after the other, for the primary's
 * address, and is good only if that one says of itself (ROLE) that it is one; the backoff's last ceiling is
 * then 2 s. A READONLY reply breaks such a link (after the command's callback). With redis:// a replica is
 * accepted: it can be read and subscribed to, a proxy or a name may lead to the right one the next time, and
 * READONLY is for the user to act on (redis_link_cut).
 *
 * A command is accepted only while the link is UP, and is answered by exactly one callback, never before
 * redis_link_command has returned. When the link breaks, all outstanding ones are answered with
 * ERR_REDIS_DOWN before `down` is called; whether Redis executed them is not known then.
 *
 * Every function may be called inside every callback of the link. What answers a break, a cut or a close
 * comes in a later turn of the loop, never inside the call. */
#ifndef EF_REDIS_LINK_H
#define EF_REDIS_LINK_H

#include "shared/util.h"

#include <stdbool.h>
#include <uv.h>

struct redis_link;
struct redisReply; /* hiredis; opaque outside redis_link.c */

struct redis_link_events {
    /* The link is UP: subscribe, load scripts, resume. */
    void (*up)(void *user);
    /* It was UP and broke, or an attempt failed; retry_ms says when the next attempt comes. `error` is an
     * ERR_REDIS_* or errno code, `detail` one line for the log (borrowed). Not called by redis_link_close. */
    void (*down)(void *user, int error, const char *detail, int retry_ms);
    /* A message on a subscribed channel (borrowed bytes). May be NULL. A burst comes as calls within one
     * turn, at most some 256 kB of it. */
    void (*message)(void *user, const char *channel, size_t channel_len, const char *payload, size_t len);
    /* SUBSCRIBE (subscribed) or UNSUBSCRIBE of this channel is confirmed. May be NULL. */
    void (*subscribed)(void *user, const char *channel, size_t channel_len, bool subscribed);
};

struct redis_link_conf {
    const char *url;        /* see redis_url.h; checked by redis_url_check. Copied. */
    const char *name;       /* for CLIENT SETNAME, e.g. "event-gateway:feed". Copied. */
    int connect_timeout_ms; /* 0: 5000; covers sentinels, resolving, connecting and greeting */
    int silence_ms;         /* 0: 10000 */
};

/* err: 0 with a reply; or ERR_REDIS_* / -ECANCELED: then reply is the error reply where Redis sent one, else
 * NULL. The reply is borrowed for the call. */
typedef void redis_reply_cb(void *user, int err, const struct redisReply *reply);

/* NULL if the URL is well-formed, else a sentence that says what is wrong (static). */
const char *redis_url_check(const char *url);

/* conf and events are copied; `up` and `down` must be set. NULL: the URL is malformed (check it first), or
 * out of memory. */
struct redis_link *redis_link_new(uv_loop_t *loop, const struct redis_link_conf *conf,
                                  const struct redis_link_events *events, void *user);
/* Begin to connect; once. */
void redis_link_start(struct redis_link *link);
/* End and free it. What was commanded and not yet written is tried once more; then, in a later turn,
 * outstanding commands are answered with -ECANCELED and `closed` is called once, with the user of
 * redis_link_new. The link is gone then. No other callback comes. closed may be NULL. A look-up of the host
 * that hangs may keep the loop alive longer. */
void redis_link_close(struct redis_link *link, void (*closed)(void *user));
bool redis_link_is_up(const struct redis_link *link);
bool redis_link_has_sentinels(const struct redis_link *link);
/* Is it still the primary? Asks ROLE, unless the link subscribes, and the next sentinel, if there are any.
 * When one says no, the link breaks with ERR_REDIS_READONLY; otherwise nobody notices. It costs little, but
 * not nothing: call it when there is a reason, or every few seconds. Without effect while the link is not UP,
 * or already asking. */
void redis_link_check_primary(struct redis_link *link);
/* Break the connection (or the attempt) now and reconnect after the usual backoff. `down` gets ERR_REDIS_DOWN
 * and `why` (copied). Without effect while the link waits for its next attempt. */
void redis_link_cut(struct redis_link *link, const char *why);

/* Send a command. argv/lens: borrowed for the call; lens NULL: NUL-terminated strings. cb may be NULL (the
 * answer is thrown away). Returns 0, ERR_REDIS_DOWN or -ENOMEM (or more than 512 MiB unsent); then cb is not
 * called. Commands of one loop turn leave in one write. */
MUST_CHECK
int redis_link_command(struct redis_link *link, redis_reply_cb *cb, void *user, size_t argc,
                       const char *const *argv, const size_t *lens);
/* The same with at most 64 NUL-terminated arguments, closed by NULL: redis_link_send(l, cb, u, "GET", key,
 * NULL). */
MUST_CHECK
int redis_link_send(struct redis_link *link, redis_reply_cb *cb, void *user, ...) __attribute__((sentinel));
/* Bytes handed over but not yet written to the socket, and commands without an answer. */
size_t redis_link_unsent_bytes(const struct redis_link *link);
size_t redis_link_outstanding(const struct redis_link *link);
/* Bytes received since the link was made, exactly. */
uint64_t redis_link_received_bytes(const struct redis_link *link);

/* Subscribe or unsubscribe one channel; each call is confirmed by one `subscribed`. What is subscribed is
 * forgotten when the link breaks: the user subscribes again in `up`. Returns 0, ERR_REDIS_DOWN or -ENOMEM. A
 * connection that subscribed sends no commands any more (asserted); those sent before are still answered. A
 * SUBSCRIBE that Redis refuses (ACL) breaks the link. */
MUST_CHECK
int redis_link_subscribe(struct redis_link *link, const char *channel, size_t len);
MUST_CHECK
int redis_link_unsubscribe(struct redis_link *link, const char *channel, size_t len);

/* A Lua script, called by its SHA1 (EVALSHA); loaded at first use and again after NOSCRIPT. */
struct redis_script {
    const char *text; /* set by the owner, static */
    char sha1[41];    /* filled by redis_script_init */
};
void redis_script_init(struct redis_script *s, const char *text);
/* SCRIPT LOAD; call it in `up` before the first use. */
MUST_CHECK
int redis_link_script_load(struct redis_link *link, const struct redis_script *s, redis_reply_cb *cb,
                           void *user);

/* Reading replies. All answer false, 0 or NULL for a reply of another shape; none asserts. */
enum redis_reply_kind { REPLY_NIL, REPLY_STRING, REPLY_STATUS, REPLY_INTEGER, REPLY_ARRAY, REPLY_ERROR };
enum redis_reply_kind redis_reply_kind(const struct redisReply *r);       /* of NULL: REPLY_NIL */
const char *redis_reply_str(const struct redisReply *r, size_t *ret_len); /* string, status or error text */
int64_t redis_reply_int(const struct redisReply *r);                      /* integer, or a string of digits */
size_t redis_reply_count(const struct redisReply *r);                     /* elements of an array */
const struct redisReply *redis_reply_at(const struct redisReply *r, size_t i);
/* The ERR_REDIS_* code of an error text such as "LOADING Redis is ..."; ERR_REDIS_REPLY for all that have no
 * code of their own. */
int redis_error_code(const char *text, size_t len);

#endif
