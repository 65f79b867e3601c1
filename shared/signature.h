/* signature.h - the signatures of JSON Web Tokens (RFC 7518, 3), verified by OpenSSL.
 *
 * A key is read once and kept ready: reading a PEM costs some twenty times the RSA operation. */
#ifndef EF_SIGNATURE_H
#define EF_SIGNATURE_H

#include "shared/util.h"

#include <stdbool.h>

/* HS256..512, RS256..512, PS256..512, ES256..512; -1 for a name that is none of them. */
int signature_alg(const char *name);

struct signature_key;

/* text: the shared secret for HS*, a public key in PEM for the others; copied. algs: bits by signature_alg,
 * at least one. Returns 0; -ENOMEM; or -EINVAL with *ret_fault, which says what is wrong ("is not a public
 * key in PEM", static): not a key, of another kind or curve than an algorithm needs, RSA under 2048 bits, a
 * secret under 32 bytes or one that everybody may know (PEM). */
MUST_CHECK int signature_key_new(const char *text, size_t len, unsigned algs, struct signature_key **ret_key,
                                 const char **ret_fault);
void signature_key_free(struct signature_key *key); /* NULL is fine */

/* Is `sig` the key's signature of the data under this algorithm (one of those that the key was made for)?
 * Cost: about 35 us for RS256, 70 us for ES256, 2 us for HS256. */
bool signature_verify(const struct signature_key *key, int alg, const char *data, size_t data_len,
                      const unsigned char *sig, size_t sig_len);

#endif
