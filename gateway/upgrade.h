/* upgrade.h - what does this request get? Pure decisions over a parsed head; no socket, no libwebsockets.
 *
 * The WebSocket opening handshake is judged by RFC 6455, 4.2.1; tokens come from, in this order,
 * `Authorization: Bearer` (RFC 6750, 2.1), `?jwt=`, and the subprotocol `bearer.<token>`. */
#ifndef EF_UPGRADE_H
#define EF_UPGRADE_H

#include "gateway/http_head.h"
#include "gateway/protocol_codes.h"
#include "shared/buf.h"
#include "shared/config.h"
#include "shared/token.h"

/* Is it a WebSocket handshake on a path of ours? */
enum upgrade_kind { UPGRADE_NONE, UPGRADE_WEBSOCKET };

enum upgrade_kind upgrade_kind(const struct http_head *h);
bool upgrade_path_is_subscribe(struct http_text path);
bool upgrade_path_is_health(struct http_text path);

/* Is the handshake whole? 0, or the HTTP status to refuse it with; *ret_why is a static sentence. */
int upgrade_check(const struct http_head *h, const char **ret_why);
/* May a page of this origin connect? Requests without Origin do not come from a page. */
bool upgrade_origin_allowed(const struct config *c, const struct http_head *h);

/* Find and verify the token. Returns 0 with *ret_token, which is NULL if there is none and some exchange is
 * public; else CODE_BAD_TOKEN or CODE_EXPIRED as a positive number; -ENOMEM. */
int upgrade_token(const struct config *c, const struct token_keys *keys, const struct http_head *h,
                  int64_t now_s, struct token **ret_token);
/* The subprotocol to echo: the first that is no `bearer.` one, else the first. false if none was offered. */
bool upgrade_subprotocol(const struct http_head *h, struct http_text *ret_name);

/* A whole HTTP/1.1 answer that ends the connection, with the CORS fields for this request. type, body: may be
 * NULL. extra: further field lines, each with its CRLF, or NULL. */
void http_answer(struct buf *out, const struct config *c, const struct http_head *h, int status,
                 const char *extra, const char *type, const char *body);

#endif
