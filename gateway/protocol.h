/* protocol.h - the messages between a client and the gateway (docs/protocol.md).
 *
 *   {"bind":{"ex":..,"key":..[,"since":..]}[,"req":..]}   {"unbind":{..}}   {"auth":{"jwt":..}}   {"ping":1}
 *
 * A message carries one command, the first present of bind, unbind, auth, ping. A client that sends no `req`
 * gets only what the reference service sends: events, and {"error":".."}. */
#ifndef EF_PROTOCOL_H
#define EF_PROTOCOL_H

#include "gateway/session.h"

#include <jansson.h>

/* Longest `req` that is a string, bytes. */
enum { REQ_MAX = 128 };

/* Serve one whole message. It may close the session. */
void protocol_message(struct session *s, const char *text, size_t len);
/* Answer a message that comes too soon: its `req` waits for an answer, whatever that is. */
void protocol_refuse_rate(struct session *s, const char *text, size_t len);

/* {"error":text} or {"req":..,"error":text,"code":..}. req: borrowed, may be NULL. */
void protocol_error(struct session *s, const json_t *req, enum error_code code, const char *format, ...)
    PRINTF_LIKE(4, 5);
/* {"req":..,"ok":true,..}; nothing without req. more: members to add, taken, may be NULL. */
void protocol_ok(struct session *s, const json_t *req, json_t *more);
/* A live binding ended: {"unbound":{..},"code":..} or, for old clients, {"error":text}. */
void protocol_unbound(struct session *s, const char *exchange, const char *key, size_t key_len,
                      enum error_code code, const char *text);
void protocol_gap(struct session *s, const struct partition *p, const struct position *from,
                  const struct position *to);
void protocol_expires(struct session *s, int64_t seconds);

#endif
