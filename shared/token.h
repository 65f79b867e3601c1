/* token.h - JSON Web Tokens: verified against the configured keys.
 *
 * The algorithm is the key's, never the token's: a key names the algorithms it verifies, and the token's
 * header must name one of them (RFC 8725, 3.1). With `kid` in the token only keys of that kid (and
 * keys configured without one) are tried. exp and nbf are NumericDates (RFC 7519, 4.1.4, 4.1.5) with
 * `jwt.leeway_s`; a number that is no finite number, or another type, is refused. The text must be the one
 * canonical base64url text of its bytes. `crit`, and a `typ` other than "JWT", are refused.
 *
 * Cost of a verification: see token.c; it is CPU only, done at once. */
#ifndef EF_TOKEN_H
#define EF_TOKEN_H

#include "shared/config.h"

#include <jansson.h>

/* Longest token, bytes. Longer ones are malformed. */
enum { TOKEN_MAX = 16384 };

struct token_keys;
struct token;

/* Load the keys that the configuration names (already read by config). Returns 0, -ENOMEM, or
 * ERR_CONFIG when a key cannot verify anything (not a key, or of another kind than its algorithms); then
 * *ret_error is a sentence to free(). No keys at all is fine: then no token verifies. */
MUST_CHECK
int token_keys_new(const struct config_jwt *conf, struct token_keys **ret_keys, char **ret_error);
void token_keys_free(struct token_keys *keys);
/* Is the key that verified `t` still among these keys? After a reload: no means that the token is void. */
bool token_keys_have(const struct token_keys *keys, const struct token *t);

/* Verify `raw`. now_s: wall clock, seconds. Returns 0 with an owned token, or ERR_TOKEN_*, -ENOMEM. */
MUST_CHECK
int token_verify(const struct token_keys *keys, const char *raw, size_t len, int64_t now_s,
                 struct token **ret_token);
/* Tokens are shared: immutable and counted (loop thread only). */
struct token *token_ref(struct token *t);
void token_unref(struct token *t); /* NULL is fine */

const char *token_raw(const struct token *t, size_t *ret_len);
/* `sub` as text (an integer is taken as its decimal digits), or NULL if it has none: the claim is absent,
 * empty, or of another type. */
const char *token_sub(const struct token *t);
/* Wall-clock second at which the token ends for us: exp + leeway, INT64_MAX if it has no exp. */
int64_t token_end_s(const struct token *t);
/* Names the key that verified it, stable across restarts and different for different keys. */
const char *token_key_id(const struct token *t);
/* The claims, parsed anew: a new reference for the caller to decref. NULL on lack of memory. */
json_t *token_claims(const struct token *t);

#endif
