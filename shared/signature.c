#include "shared/signature.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>

enum {
    SECRET_MIN = 32,     /* bytes: the size of the smallest hash (RFC 7518, 3.2) */
    RSA_BITS_MIN = 2048, /* RFC 7518, 3.3 */
};

enum key_kind { KEY_SECRET, KEY_RSA, KEY_RSA_PSS, KEY_EC };

/* RFC 7518, 3.1. group: OpenSSL's name of the curve; half: bytes of each of the two numbers in a signature.
 */
static const struct alg {
    const char *name;
    enum key_kind kind;
    const char *hash;
    const char *group;
    size_t half;
} algs[] = {
    {"HS256", KEY_SECRET, "SHA256", NULL, 0},     {"HS384", KEY_SECRET, "SHA384", NULL, 0},
    {"HS512", KEY_SECRET, "SHA512", NULL, 0},     {"RS256", KEY_RSA, "SHA256", NULL, 0},
    {"RS384", KEY_RSA, "SHA384", NULL, 0},        {"RS512", KEY_RSA, "SHA512", NULL, 0},
    {"PS256", KEY_RSA_PSS, "SHA256", NULL, 0},    {"PS384", KEY_RSA_PSS, "SHA384", NULL, 0},
    {"PS512", KEY_RSA_PSS, "SHA512", NULL, 0},    {"ES256", KEY_EC, "SHA256", "prime256v1", 32},
    {"ES384", KEY_EC, "SHA384", "secp384r1", 48}, {"ES512", KEY_EC, "SHA512", "secp521r1", 66},
};

struct signature_key {
    EVP_PKEY *pkey;                  /* NULL for a secret */
    EVP_MD *hashes[ARRAY_LEN(algs)]; /* of its algorithms */
    size_t len;
    char secret[];
};

int signature_alg(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        if (strcmp(algs[i].name, name) == 0)
            return (int)i;
    return -1;
}

static const char *secret_fault(const char *text, size_t len)
{
    if (memmem(text, len, "-----BEGIN ", 11))
        return "holds PEM, which anybody may know; HS256, HS384 and HS512 need a shared secret";
    if (len < SECRET_MIN)
        return "is shorter than 32 bytes, too short for HS256, HS384 and HS512";
    return NULL;
}

static const char *rsa_fault(EVP_PKEY *pkey, enum key_kind kind)
{
    int id = EVP_PKEY_get_base_id(pkey);

    /* A key that is marked for PSS (RFC 4055, 1.2) does nothing else; a plain one does both. */
    if (id != EVP_PKEY_RSA && !(kind == KEY_RSA_PSS && id == EVP_PKEY_RSA_PSS))
        return "is not an RSA key, which its algorithm needs";
    return EVP_PKEY_get_bits(pkey) < RSA_BITS_MIN ? "is an RSA key of less than 2048 bits" : NULL;
}

static const char *ec_fault(EVP_PKEY *pkey, const char *group)
{
    char name[64] = "";

    if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_EC)
        return "is not an elliptic curve key, which its algorithm needs";
    if (EVP_PKEY_get_group_name(pkey, name, sizeof(name), NULL) != 1 || strcmp(name, group) != 0)
        return "is not on the curve that its algorithm needs";
    return NULL;
}

static const char *key_fault(const struct signature_key *key, const struct alg *alg)
{
    if (alg->kind == KEY_SECRET)
        return secret_fault(key->secret, key->len);
    if (!key->pkey)
        return "is not a public key in PEM";
    return alg->kind == KEY_EC ? ec_fault(key->pkey, alg->group) : rsa_fault(key->pkey, alg->kind);
}

static EVP_PKEY *read_public(const char *text, size_t len)
{
    BIO *bio = len <= INT_MAX ? BIO_new_mem_buf(text, (int)len) : NULL;
    EVP_PKEY *pkey = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;

    BIO_free(bio);
    return pkey;
}

static void key_freep(struct signature_key **key)
{
    signature_key_free(*key);
}

int signature_key_new(const char *text, size_t len, unsigned bits, struct signature_key **ret_key,
                      const char **ret_fault)
{
    CLEANUP(key_freep) struct signature_key *key = calloc(1, sizeof(*key) + len + 1);

    assert(bits);
    if (!key)
        return -ENOMEM;
    memcpy(key->secret, text, len);
    key->len = len;
    key->pkey = read_public(text, len);
    *ret_fault = len == 0 ? "is empty" : NULL;
    for (size_t i = 0; i < ARRAY_LEN(algs) && !*ret_fault; i++) {
        if (!(bits & BIT(i)))
            continue;
        *ret_fault = key_fault(key, &algs[i]);
        key->hashes[i] = EVP_MD_fetch(NULL, algs[i].hash, NULL);
        if (!key->hashes[i])
            return -ENOMEM;
    }
    ERR_clear_error(); /* what stays there confuses the next user of OpenSSL in this thread */
    if (*ret_fault)
        return -EINVAL;
    *ret_key = TAKE(key);
    return 0;
}

void signature_key_free(struct signature_key *key)
{
    if (!key)
        return;
    EVP_PKEY_free(key->pkey);
    for (size_t i = 0; i < ARRAY_LEN(algs); i++)
        EVP_MD_free(key->hashes[i]);
    OPENSSL_cleanse(key->secret, key->len);
    free(key);
}

static bool verify_secret(const struct signature_key *key, int alg, const char *data, size_t data_len,
                          const unsigned char *sig, size_t sig_len)
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned mac_len = 0;

    return key->len <= INT_MAX &&
           HMAC(key->hashes[alg], key->secret, (int)key->len, (const unsigned char *)data, data_len, mac,
                &mac_len) &&
           mac_len == sig_len && CRYPTO_memcmp(mac, sig, sig_len) == 0;
}

/* A JWS carries an ECDSA signature as two numbers of fixed size (RFC 7518, 3.4); OpenSSL wants it in DER.
 * Returns the bytes, to OPENSSL_free, or NULL. */
static unsigned char *ecdsa_to_der(const unsigned char *sig, size_t half, size_t *ret_len)
{
    ECDSA_SIG *pair = ECDSA_SIG_new();
    BIGNUM *r = BN_bin2bn(sig, (int)half, NULL), *s = BN_bin2bn(sig + half, (int)half, NULL);
    unsigned char *der = NULL;
    int len;

    if (!pair || !r || !s || ECDSA_SIG_set0(pair, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(pair);
        return NULL;
    }
    len = i2d_ECDSA_SIG(pair, &der);
    ECDSA_SIG_free(pair);
    *ret_len = len > 0 ? (size_t)len : 0;
    return len > 0 ? der : NULL;
}

static bool verify_public(const struct signature_key *key, int alg, const char *data, size_t data_len,
                          const unsigned char *sig, size_t sig_len)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *pctx = NULL; /* belongs to ctx */
    bool good = ctx && EVP_DigestVerifyInit(ctx, &pctx, key->hashes[alg], NULL, key->pkey) == 1;

    if (good && algs[alg].kind == KEY_RSA_PSS) /* RFC 7518, 3.5: the salt is as long as the hash */
        good = EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1 &&
               EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST) == 1;
    good = good && EVP_DigestVerify(ctx, sig, sig_len, (const unsigned char *)data, data_len) == 1;
    EVP_MD_CTX_free(ctx);
    return good;
}

bool signature_verify(const struct signature_key *key, int alg, const char *data, size_t data_len,
                      const unsigned char *sig, size_t sig_len)
{
    unsigned char *der = NULL;
    bool good;

    assert(alg >= 0 && (size_t)alg < ARRAY_LEN(algs) && key->hashes[alg]);
    if (algs[alg].kind == KEY_SECRET)
        return verify_secret(key, alg, data, data_len, sig, sig_len);
    if (algs[alg].kind == KEY_EC) {
        if (sig_len != 2 * algs[alg].half)
            return false;
        der = ecdsa_to_der(sig, algs[alg].half, &sig_len);
        if (!der)
            return false;
        sig = der;
    }
    good = verify_public(key, alg, data, data_len, sig, sig_len);
    OPENSSL_free(der);
    ERR_clear_error();
    return good;
}
