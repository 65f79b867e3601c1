#include "shared/token.h"

#include "shared/buf.h"
#include "shared/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The clock of all tests. */
enum { NOW = 1700000000 };

#define SECRET "0123456789abcdef0123456789abcdef"

static EVP_PKEY *rsa_a, *rsa_b, *rsa_small, *rsa_pss, *ec256, *ec384, *ed25519;

/* ---- making tokens, without libjwt ---- */

static void add64(struct buf *out, const void *bytes, size_t len)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *in = bytes;
    unsigned bits = 0;
    int have = 0;

    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | in[i];
        for (have += 8; have >= 6; have -= 6)
            buf_add_char(out, letters[bits >> (have - 6) & 63]);
        bits &= BIT(have) - 1;
    }
    if (have)
        buf_add_char(out, letters[bits << (6 - have) & 63]);
}

static const EVP_MD *hash_of(const char *alg)
{
    return strcmp(alg + 2, "256") == 0   ? EVP_sha256()
           : strcmp(alg + 2, "384") == 0 ? EVP_sha384()
                                         : EVP_sha512();
}

/* JOSE wants r and s in a row, OpenSSL makes DER of them. */
static void add_ec_signature(struct buf *out, const unsigned char *der, size_t len, int half)
{
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);
    unsigned char flat[132];

    assert_non_null(sig);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_r(sig), flat, half), half);
    assert_int_equal(BN_bn2binpad(ECDSA_SIG_get0_s(sig), flat + half, half), half);
    add64(out, flat, (size_t)(2 * half));
    ECDSA_SIG_free(sig);
}

static void add_signature(struct buf *out, const char *alg, EVP_PKEY *pkey, const char *secret)
{
    unsigned char sig[1024];
    size_t len = sizeof(sig);
    unsigned hmac_len;
    EVP_MD_CTX *ctx;
    EVP_PKEY_CTX *params;

    if (secret) {
        assert_non_null(HMAC(hash_of(alg), secret, (int)strlen(secret), (unsigned char *)out->data, out->len,
                             sig, &hmac_len));
        buf_add_char(out, '.');
        add64(out, sig, hmac_len);
        return;
    }
    ctx = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(ctx, &params, hash_of(alg), NULL, pkey), 1);
    if (alg[0] == 'P') {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(params, RSA_PKCS1_PSS_PADDING), 1);
        assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(params, RSA_PSS_SALTLEN_DIGEST), 1);
    }
    assert_int_equal(EVP_DigestSign(ctx, sig, &len, (unsigned char *)out->data, out->len), 1);
    EVP_MD_CTX_free(ctx);
    buf_add_char(out, '.');
    if (alg[0] == 'E')
        add_ec_signature(out, sig, len, (EVP_PKEY_get_bits(pkey) + 7) / 8);
    else
        add64(out, sig, len);
}

/* A token of these JSON texts. Exactly one of pkey and secret signs it. To free(). */
static char *make(const char *alg, const char *header, const char *claims, EVP_PKEY *pkey, const char *secret)
{
    struct buf out = {0};
    char *raw;

    add64(&out, header, strlen(header));
    buf_add_char(&out, '.');
    add64(&out, claims, strlen(claims));
    add_signature(&out, alg, pkey, secret);
    raw = buf_take(&out);
    assert_non_null(raw);
    return raw;
}

static char *make_rs256(const char *claims)
{
    return make("RS256", "{\"alg\":\"RS256\",\"typ\":\"JWT\"}", claims, rsa_a, NULL);
}

static char *public_pem(EVP_PKEY *pkey)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data, *copy;
    long len;

    assert_int_equal(PEM_write_bio_PUBKEY(bio, pkey), 1);
    len = BIO_get_mem_data(bio, &data);
    copy = strndup(data, (size_t)len);
    BIO_free(bio);
    return copy;
}

static char *private_pem(EVP_PKEY *pkey)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data, *copy;
    long len;

    assert_int_equal(PEM_write_bio_PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL), 1);
    len = BIO_get_mem_data(bio, &data);
    copy = strndup(data, (size_t)len);
    BIO_free(bio);
    return copy;
}

static EVP_PKEY *make_rsa_pss(void)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA_PSS, NULL);
    EVP_PKEY *pkey = NULL;

    assert_int_equal(EVP_PKEY_keygen_init(ctx), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, 2048), 1);
    assert_int_equal(EVP_PKEY_keygen(ctx, &pkey), 1);
    EVP_PKEY_CTX_free(ctx);
    return pkey;
}

static int make_keys(void **state)
{
    (void)state;
    rsa_a = EVP_RSA_gen(2048);
    rsa_b = EVP_RSA_gen(2048);
    rsa_small = EVP_RSA_gen(1024);
    rsa_pss = make_rsa_pss();
    ec256 = EVP_EC_gen("P-256");
    ec384 = EVP_EC_gen("P-384");
    ed25519 = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    return rsa_a && rsa_b && rsa_small && rsa_pss && ec256 && ec384 && ed25519 ? 0 : -1;
}

static int free_keys(void **state)
{
    EVP_PKEY *all[] = {rsa_a, rsa_b, rsa_small, rsa_pss, ec256, ec384, ed25519};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        EVP_PKEY_free(all[i]);
    return 0;
}

/* ---- key sets ---- */

enum { KEYS_MAX = 4 };

/* A configuration in the making: add keys to it, then ring_load. */
struct ring {
    struct config_jwt conf;
    struct config_jwt_key keys[KEYS_MAX];
    char *algs[KEYS_MAX][4];
};

static void ring_add(struct ring *r, const char *alg, const char *kid, char *text)
{
    size_t n = r->conf.key_count++;

    assert_true(n < KEYS_MAX);
    r->algs[n][0] = (char *)(uintptr_t)alg;
    r->keys[n] = (struct config_jwt_key){.algs = r->algs[n],
                                         .alg_count = 1,
                                         .kid = (char *)(uintptr_t)kid,
                                         .file = (char *)(uintptr_t) "auth.pub",
                                         .text = text,
                                         .text_len = strlen(text)};
    r->conf.keys = r->keys;
}

static void ring_add_secret(struct ring *r, const char *alg, const char *kid, const char *secret)
{
    ring_add(r, alg, kid, strdup(secret));
}

static void ring_add_public(struct ring *r, const char *alg, const char *kid, EVP_PKEY *pkey)
{
    ring_add(r, alg, kid, public_pem(pkey));
}

/* The keys, which must load; the configuration is gone afterwards, so they cannot depend on it. */
static struct token_keys *ring_load(struct ring *r)
{
    struct token_keys *keys = NULL;
    char *error = NULL;

    if (token_keys_new(&r->conf, &keys, &error) != 0)
        fail_msg("%s", error);
    for (size_t i = 0; i < r->conf.key_count; i++) {
        memset(r->keys[i].text, 0, r->keys[i].text_len);
        free(r->keys[i].text);
    }
    return keys;
}

static struct token_keys *load_rs256(void)
{
    struct ring r = {0};

    ring_add_public(&r, "RS256", NULL, rsa_a);
    return ring_load(&r);
}

static void check_refused_key(const char *alg, char *text, const char *word)
{
    struct ring r = {0};
    struct token_keys *keys = NULL;
    char *error = NULL;

    ring_add(&r, alg, NULL, text);
    assert_int_equal(token_keys_new(&r.conf, &keys, &error), ERR_CONFIG);
    assert_null(keys);
    assert_non_null(strstr(error, "jwt.keys[0]"));
    if (!strstr(error, word))
        fail_msg("\"%s\" does not say \"%s\"", error, word);
    assert_null(strstr(error, SECRET));
    free(error);
    free(text);
}

/* ---- checks; each frees the token's text ---- */

static int verify_at(const struct token_keys *keys, char *raw, int64_t now_s)
{
    struct token *t = NULL;
    int r = token_verify(keys, raw, strlen(raw), now_s, &t);

    assert_int_equal(r == 0, t != NULL);
    token_unref(t);
    free(raw);
    return r;
}

static int verify(const struct token_keys *keys, char *raw)
{
    return verify_at(keys, raw, NOW);
}

/* ---- tests ---- */

static void good_token_tells_who_it_is(void **state)
{
    struct token_keys *keys = load_rs256();
    char *raw = make_rs256("{\"sub\":\"user 1\",\"exp\":1700000100,\"gids\":[1,59]}");
    struct token *t = NULL;
    json_t *claims;
    size_t len;

    (void)state;
    assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t), 0);
    token_keys_free(keys); /* a reload may take the keys away from a living token */
    assert_string_equal(token_raw(t, &len), raw);
    assert_int_equal(len, strlen(raw));
    assert_string_equal(token_sub(t), "user 1");
    assert_int_equal(token_end_s(t), 1700000100);
    claims = token_claims(t);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(claims, "gids"), 1)), 59);
    json_decref(claims);
    assert_ptr_equal(token_ref(t), t);
    token_unref(t);
    assert_string_equal(token_sub(t), "user 1");
    token_unref(t);
    token_unref(NULL);
    free(raw);
}

/* The recorded cases of the original, jwt_*; there each of them was a cut connection. */
static void what_the_reference_refused_is_refused(void **state)
{
    struct token_keys *keys = load_rs256();
    char *pem = public_pem(rsa_a);
    const char *good = "{\"sub\":\"1\",\"exp\":1700000100}";

    (void)state;
    assert_int_equal(verify(keys, strdup("")), ERR_TOKEN_MALFORMED);
    assert_int_equal(verify(keys, strdup("abc")), ERR_TOKEN_MALFORMED);
    assert_int_equal(verify(keys, strdup("undefined")), ERR_TOKEN_MALFORMED);
    assert_int_equal(verify(keys, make_rs256("{\"sub\":\"1\",\"exp\":1699999000}")), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify(keys, make_rs256("{\"sub\":\"1\",\"nbf\":1700000900}")), ERR_TOKEN_NOT_YET);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\"}", good, rsa_b, NULL)),
                     ERR_TOKEN_SIGNATURE);
    assert_int_equal(verify(keys, make("HS256", "{\"alg\":\"none\"}", good, NULL, SECRET)), ERR_TOKEN_KEY);
    assert_int_equal(verify(keys, make("HS256", "{\"alg\":\"None\"}", good, NULL, SECRET)), ERR_TOKEN_KEY);
    assert_int_equal(verify(keys, make("HS256", "{\"alg\":\"HS256\"}", good, NULL, pem)), ERR_TOKEN_KEY);
    free(pem);
    token_keys_free(keys);
}

static void token_of_alg_none_is_refused_in_every_form(void **state)
{
    struct token_keys *keys = load_rs256();
    const char *claims = "eyJzdWIiOiIxIn0";     /* {"sub":"1"} */
    const char *header = "eyJhbGciOiJub25lIn0"; /* {"alg":"none"} */
    struct buf raw = {0};

    (void)state;
    buf_printf(&raw, "%s.%s.", header, claims);
    assert_int_equal(verify(keys, buf_take(&raw)), ERR_TOKEN_MALFORMED);
    buf_printf(&raw, "%s.%s", header, claims);
    assert_int_equal(verify(keys, buf_take(&raw)), ERR_TOKEN_MALFORMED);
    buf_printf(&raw, "%s.%s.AAAA", header, claims);
    assert_int_equal(verify(keys, buf_take(&raw)), ERR_TOKEN_KEY);
    token_keys_free(keys);
}

/* What the reference accepted: no exp, no sub. */
static void exp_and_sub_may_be_absent(void **state)
{
    struct token_keys *keys = load_rs256();
    char *raw = make_rs256("{\"scopes\":{}}");
    struct token *t = NULL;
    struct ring r = {.conf.require_exp = true};

    (void)state;
    assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t), 0);
    assert_null(token_sub(t));
    assert_true(token_end_s(t) == INT64_MAX);
    token_unref(t);
    token_keys_free(keys);
    ring_add_public(&r, "RS256", NULL, rsa_a);
    keys = ring_load(&r);
    assert_int_equal(verify(keys, raw), ERR_TOKEN_CLAIMS);
    token_keys_free(keys);
}

static void each_algorithm_is_verified_with_its_own_key_only(void **state)
{
    static const struct {
        const char *alg, *header;
        EVP_PKEY **pkey;
        const char *secret;
    } rows[] = {
        {"RS256", "{\"alg\":\"RS256\"}", &rsa_a, NULL}, {"RS384", "{\"alg\":\"RS384\"}", &rsa_a, NULL},
        {"RS512", "{\"alg\":\"RS512\"}", &rsa_a, NULL}, {"ES256", "{\"alg\":\"ES256\"}", &ec256, NULL},
        {"ES384", "{\"alg\":\"ES384\"}", &ec384, NULL}, {"HS256", "{\"alg\":\"HS256\"}", NULL, SECRET},
        {"HS384", "{\"alg\":\"HS384\"}", NULL, SECRET}, {"HS512", "{\"alg\":\"HS512\"}", NULL, SECRET},
        {"PS256", "{\"alg\":\"PS256\"}", &rsa_a, NULL}, {"PS384", "{\"alg\":\"PS384\"}", &rsa_a, NULL},
        {"PS512", "{\"alg\":\"PS512\"}", &rsa_a, NULL},
    };

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        struct ring r = {0};
        struct token_keys *keys;

        if (rows[k].secret)
            ring_add_secret(&r, rows[k].alg, NULL, rows[k].secret);
        else
            ring_add_public(&r, rows[k].alg, NULL, *rows[k].pkey);
        keys = ring_load(&r);
        for (size_t t = 0; t < ARRAY_LEN(rows); t++) {
            char *raw = make(rows[t].alg, rows[t].header, "{\"sub\":\"1\"}",
                             rows[t].pkey ? *rows[t].pkey : NULL, rows[t].secret);

            assert_int_equal(verify(keys, raw), t == k ? 0 : ERR_TOKEN_KEY);
        }
        token_keys_free(keys);
    }
}

static void a_key_may_serve_several_algorithms(void **state)
{
    struct ring r = {0};
    struct token_keys *keys;
    const char *claims = "{}";

    (void)state;
    ring_add_public(&r, "RS256", NULL, rsa_a);
    r.algs[0][1] = (char *)(uintptr_t) "RS512";
    r.keys[0].alg_count = 2;
    keys = ring_load(&r);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\"}", claims, rsa_a, NULL)), 0);
    assert_int_equal(verify(keys, make("RS512", "{\"alg\":\"RS512\"}", claims, rsa_a, NULL)), 0);
    assert_int_equal(verify(keys, make("RS384", "{\"alg\":\"RS384\"}", claims, rsa_a, NULL)), ERR_TOKEN_KEY);
    /* The header's word must also be true. */
    assert_int_equal(verify(keys, make("RS512", "{\"alg\":\"RS256\"}", claims, rsa_a, NULL)),
                     ERR_TOKEN_SIGNATURE);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"rs256\"}", claims, rsa_a, NULL)), ERR_TOKEN_KEY);
    token_keys_free(keys);
}

static void kid_chooses_among_the_keys(void **state)
{
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_public(&r, "RS256", "a", rsa_a);
    ring_add_public(&r, "RS256", "b", rsa_b);
    keys = ring_load(&r);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"a\"}", "{}", rsa_a, NULL)), 0);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"b\"}", "{}", rsa_b, NULL)), 0);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"a\"}", "{}", rsa_b, NULL)),
                     ERR_TOKEN_SIGNATURE);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"c\"}", "{}", rsa_a, NULL)),
                     ERR_TOKEN_KEY);
    /* Without kid all of them are tried. */
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\"}", "{}", rsa_b, NULL)), 0);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":7}", "{}", rsa_a, NULL)),
                     ERR_TOKEN_MALFORMED);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":null}", "{}", rsa_a, NULL)),
                     ERR_TOKEN_MALFORMED);
    token_keys_free(keys);
}

static void keys_without_kid_are_tried_for_every_kid(void **state)
{
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_public(&r, "RS256", "b", rsa_b);
    ring_add_public(&r, "RS256", NULL, rsa_a);
    keys = ring_load(&r);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"x\"}", "{}", rsa_a, NULL)), 0);
    assert_int_equal(verify(keys, make("RS256", "{\"alg\":\"RS256\",\"kid\":\"b\"}", "{}", rsa_a, NULL)), 0);
    token_keys_free(keys);
}

static void rotated_keys_end_the_old_ones_tokens(void **state)
{
    struct ring both = {0}, next = {0};
    struct token_keys *keys;
    const char *header = "{\"alg\":\"RS256\"}";

    (void)state;
    ring_add_public(&both, "RS256", NULL, rsa_a);
    ring_add_public(&both, "RS256", NULL, rsa_b);
    keys = ring_load(&both);
    assert_int_equal(verify(keys, make("RS256", header, "{}", rsa_a, NULL)), 0);
    assert_int_equal(verify(keys, make("RS256", header, "{}", rsa_b, NULL)), 0);
    token_keys_free(keys);
    ring_add_public(&next, "RS256", NULL, rsa_b);
    keys = ring_load(&next);
    assert_int_equal(verify(keys, make("RS256", header, "{}", rsa_a, NULL)), ERR_TOKEN_SIGNATURE);
    assert_int_equal(verify(keys, make("RS256", header, "{}", rsa_b, NULL)), 0);
    token_keys_free(keys);
}

static void key_ids_are_stable_and_differ_between_keys(void **state)
{
    char id[3][64];
    EVP_PKEY *signer[3] = {rsa_a, rsa_b, rsa_a};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct ring r = {0};
        struct token_keys *keys;
        struct token *t = NULL;
        char *raw = make("RS256", "{\"alg\":\"RS256\"}", "{}", signer[i], NULL);

        /* The same kid on another key is another key. */
        if (i == 0)
            ring_add_public(&r, "RS256", "k", rsa_a);
        ring_add_public(&r, "RS256", "k", rsa_b);
        if (i == 2)
            ring_add_public(&r, "RS256", "k", rsa_a);
        keys = ring_load(&r);
        assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t), 0);
        assert_true(strlen(token_key_id(t)) > 0 && strlen(token_key_id(t)) < sizeof(id[i]));
        strcpy(id[i], token_key_id(t));
        token_unref(t);
        token_keys_free(keys);
        free(raw);
    }
    assert_string_equal(id[0], id[2]);
    assert_string_not_equal(id[0], id[1]);
}

static void no_keys_verify_nothing(void **state)
{
    struct config_jwt conf = {0};
    struct token_keys *keys = NULL;
    char *error = NULL;

    (void)state;
    assert_int_equal(token_keys_new(&conf, &keys, &error), 0);
    assert_int_equal(verify(keys, make_rs256("{}")), ERR_TOKEN_KEY);
    assert_int_equal(verify(keys, make("HS256", "{\"alg\":\"HS256\"}", "{}", NULL, "")), ERR_TOKEN_KEY);
    token_keys_free(keys);
    token_keys_free(NULL);
}

static void keys_that_verify_nothing_are_refused(void **state)
{
    (void)state;
    check_refused_key("RS256", strdup(""), "empty");
    check_refused_key("RS256", strdup("not a key"), "not a public key");
    check_refused_key("RS256", private_pem(rsa_a), "not a public key");
    check_refused_key("RS256", public_pem(rsa_small), "2048");
    check_refused_key("RS256", public_pem(ec256), "not an RSA key");
    check_refused_key("ES256", public_pem(rsa_a), "not an elliptic curve key");
    check_refused_key("ES256", public_pem(ec384), "curve");
    check_refused_key("ES256", public_pem(ed25519), "not an elliptic curve key");
    check_refused_key("HS256", public_pem(rsa_a), "PEM");
    check_refused_key("HS256", strdup("31 bytes are one less than need"), "32 bytes");
    check_refused_key("none", strdup(SECRET), "\"none\"");
    check_refused_key("rs256", public_pem(rsa_a), "\"rs256\"");
    check_refused_key("EdDSA", public_pem(ed25519), "\"EdDSA\"");
    check_refused_key("RS256", public_pem(rsa_pss), "not an RSA key");
    check_refused_key("PS256", public_pem(ec256), "not an RSA key");
    check_refused_key("PS256", public_pem(rsa_small), "2048");
}

static void a_key_that_is_marked_for_pss_verifies_pss(void **state)
{
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_public(&r, "PS256", NULL, rsa_pss);
    keys = ring_load(&r);
    assert_int_equal(verify(keys, make("PS256", "{\"alg\":\"PS256\"}", "{}", rsa_pss, NULL)), 0);
    assert_int_equal(verify(keys, make("PS256", "{\"alg\":\"PS256\"}", "{}", rsa_a, NULL)),
                     ERR_TOKEN_SIGNATURE);
    token_keys_free(keys);
}

static void the_second_wrong_key_is_named(void **state)
{
    struct ring r = {0};
    struct token_keys *keys = NULL;
    char *error = NULL;

    (void)state;
    ring_add_public(&r, "RS256", NULL, rsa_a);
    ring_add_secret(&r, "RS256", NULL, SECRET);
    assert_int_equal(token_keys_new(&r.conf, &keys, &error), ERR_CONFIG);
    assert_string_equal(error, "jwt.keys[1]: auth.pub is not a public key in PEM");
    free(error);
    error = NULL;
    r.keys[1].alg_count = 0;
    assert_int_equal(token_keys_new(&r.conf, &keys, &error), ERR_CONFIG);
    assert_non_null(strstr(error, "no algorithm"));
    free(error);
    for (size_t i = 0; i < r.conf.key_count; i++)
        free(r.keys[i].text);
}

static int verify_claims(const char *format, const char *value, int64_t now_s, int64_t leeway_s)
{
    struct ring r = {.conf.leeway_s = leeway_s};
    struct token_keys *keys;
    struct buf claims = {0};
    char *text;
    int code;

    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    buf_add_str(&claims, format);
    buf_add_str(&claims, value);
    buf_add_char(&claims, '}');
    text = buf_take(&claims);
    code = verify_at(keys, make("HS256", "{\"alg\":\"HS256\"}", text, NULL, SECRET), now_s);
    token_keys_free(keys);
    free(text);
    return code;
}

static void exp_is_a_number_and_ends_the_token(void **state)
{
    static const char *const wrong[] = {"\"1700000100\"", "null", "true", "[]", "{}", "\"\""};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(verify_claims("{\"exp\":", wrong[i], NOW, 30), ERR_TOKEN_CLAIMS);
        assert_int_equal(verify_claims("{\"nbf\":", wrong[i], NOW, 30), ERR_TOKEN_CLAIMS);
    }
    assert_int_equal(verify_claims("{\"exp\":", "1700000000", NOW - 1, 0), 0);
    assert_int_equal(verify_claims("{\"exp\":", "1700000000", NOW, 0), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "1700000000", NOW + 29, 30), 0);
    assert_int_equal(verify_claims("{\"exp\":", "1700000000", NOW + 30, 30), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "1700000000.5", NOW, 0), 0);
    assert_int_equal(verify_claims("{\"exp\":", "1700000000.5", NOW + 1, 0), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "1.7e9", NOW, 0), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "0", NOW, 30), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "-1", NOW, 30), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "9223372036854775807", NOW, 30), 0);
    assert_int_equal(verify_claims("{\"exp\":", "-9223372036854775808", NOW, 30), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "1e300", NOW, 30), 0);
    assert_int_equal(verify_claims("{\"exp\":", "-1e300", NOW, 30), ERR_TOKEN_EXPIRED);
    assert_int_equal(verify_claims("{\"exp\":", "1e999", NOW, 30), ERR_TOKEN_MALFORMED);
    assert_int_equal(verify_claims("{\"exp\":", "NaN", NOW, 30), ERR_TOKEN_MALFORMED);
}

static void nbf_begins_the_token(void **state)
{
    (void)state;
    assert_int_equal(verify_claims("{\"nbf\":", "1700000000", NOW, 0), 0);
    assert_int_equal(verify_claims("{\"nbf\":", "1700000001", NOW, 0), ERR_TOKEN_NOT_YET);
    assert_int_equal(verify_claims("{\"nbf\":", "1700000030", NOW, 30), 0);
    assert_int_equal(verify_claims("{\"nbf\":", "1700000031", NOW, 30), ERR_TOKEN_NOT_YET);
    assert_int_equal(verify_claims("{\"nbf\":", "1700000000.5", NOW, 0), ERR_TOKEN_NOT_YET);
    assert_int_equal(verify_claims("{\"nbf\":", "1e300", NOW, 30), ERR_TOKEN_NOT_YET);
    assert_int_equal(verify_claims("{\"nbf\":", "-1e300", NOW, 30), 0);
}

static void end_includes_the_leeway_and_does_not_overflow(void **state)
{
    static const struct {
        const char *exp;
        int64_t end_s;
    } rows[] = {{"1700000100", 1700000130},
                {"1700000100.25", 1700000131},
                {"9223372036854775800", INT64_MAX},
                {"1e18", 1000000000000000030}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ring r = {.conf.leeway_s = 30};
        struct token_keys *keys;
        struct buf claims = {0};
        struct token *t = NULL;
        char *raw;

        ring_add_secret(&r, "HS256", NULL, SECRET);
        keys = ring_load(&r);
        buf_printf(&claims, "{\"exp\":%s}", rows[i].exp);
        raw = make("HS256", "{\"alg\":\"HS256\"}", claims.data, NULL, SECRET);
        assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t), 0);
        assert_true(token_end_s(t) == rows[i].end_s);
        token_unref(t);
        token_keys_free(keys);
        buf_done(&claims);
        free(raw);
    }
}

static void issuer_and_audience_are_demanded_if_configured(void **state)
{
    char *audience[] = {(char *)(uintptr_t) "event", (char *)(uintptr_t) "fleet"};
    struct ring r = {
        .conf = {.issuer = (char *)(uintptr_t) "auth", .audience = audience, .audience_count = 2}};
    struct token_keys *keys;
    static const struct {
        const char *claims;
        int code;
    } rows[] = {
        {"{\"iss\":\"auth\",\"aud\":\"event\"}", 0},
        {"{\"iss\":\"auth\",\"aud\":\"fleet\"}", 0},
        {"{\"iss\":\"auth\",\"aud\":[\"x\",\"fleet\"]}", 0},
        {"{\"iss\":\"auth\",\"aud\":[]}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"auth\",\"aud\":[\"x\",7,null]}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"auth\",\"aud\":\"Event\"}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"auth\",\"aud\":\"event \"}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"auth\",\"aud\":{\"event\":\"event\"}}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"auth\"}", ERR_TOKEN_CLAIMS},
        {"{\"aud\":\"event\"}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":\"other\",\"aud\":\"event\"}", ERR_TOKEN_CLAIMS},
        {"{\"iss\":[\"auth\"],\"aud\":\"event\"}", ERR_TOKEN_CLAIMS},
    };

    (void)state;
    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (verify(keys, make("HS256", "{\"alg\":\"HS256\"}", rows[i].claims, NULL, SECRET)) != rows[i].code)
            fail_msg("%s", rows[i].claims);
    }
    token_keys_free(keys);
}

static void sub_is_text_or_digits(void **state)
{
    static const struct {
        const char *claims, *sub;
    } rows[] = {{"{\"sub\":\"a\xc3\xa9\"}", "a\xc3\xa9"},
                {"{\"sub\":1}", "1"},
                {"{\"sub\":-7}", "-7"},
                {"{\"sub\":9007199254740993}", "9007199254740993"},
                {"{\"sub\":1.0}", NULL},
                {"{\"sub\":null}", NULL},
                {"{\"sub\":true}", NULL},
                {"{\"sub\":[\"1\"]}", NULL},
                {"{\"sub\":\"\"}", NULL},
                {"{}", NULL}};
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *raw = make("HS256", "{\"alg\":\"HS256\"}", rows[i].claims, NULL, SECRET);
        struct token *t = NULL;

        assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t), 0);
        if (rows[i].sub)
            assert_string_equal(token_sub(t), rows[i].sub);
        else
            assert_null(token_sub(t));
        token_unref(t);
        free(raw);
    }
    token_keys_free(keys);
}

/* Whatever one does to the text of a good token, it is no longer good: base64 decoders let many of these
 * pass.
 */
static void the_text_of_a_token_is_not_malleable(void **state)
{
    static const char *const tails[] = {"=",  "==",  "!!!!", "\n",  " ", ".", "A",
                                        "AA", "AAA", "AAAA", "%00", "+", "/"};
    struct token_keys *keys = load_rs256();
    char *raw = make_rs256("{\"sub\":\"1\"}");
    size_t len = strlen(raw);
    struct token *t = NULL;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
        struct buf b = {0};

        buf_printf(&b, "%s%s", raw, tails[i]);
        assert_int_not_equal(verify(keys, buf_take(&b)), 0);
        buf_printf(&b, "%s%s", tails[i], raw);
        assert_int_not_equal(verify(keys, buf_take(&b)), 0);
    }
    assert_int_not_equal(token_verify(keys, raw, len + 1, NOW, &t), 0); /* with its NUL */
    /* Each letter replaced, also by one that differs only in bits that decode to nothing. */
    for (size_t i = 0; i < len; i++) {
        char kept = raw[i];

        if (kept == '.')
            continue;
        raw[i] = kept == 'A' ? 'B'
                             : (char)(kept == 'Z' || kept == 'z' || kept == '9' || kept == '-' || kept == '_'
                                          ? 'A'
                                          : kept + 1);
        assert_int_not_equal(token_verify(keys, raw, len, NOW, &t), 0);
        raw[i] = '\0';
        assert_int_equal(token_verify(keys, raw, len, NOW, &t), ERR_TOKEN_MALFORMED);
        raw[i] = kept;
    }
    for (size_t n = 0; n < len; n++)
        assert_int_not_equal(token_verify(keys, raw, n, NOW, &t), 0);
    assert_null(t);
    assert_int_equal(verify(keys, raw), 0);
    token_keys_free(keys);
}

static void empty_parts_and_foreign_shapes_are_malformed(void **state)
{
    static const char *const raws[] = {".",
                                       "..",
                                       "...",
                                       "a.b",
                                       "aa..aa",
                                       ".aa.aa",
                                       "aa.aa.",
                                       "aa.aa.aa.aa",
                                       "a.aa.aa",
                                       "aa aa.aa.aa",
                                       "eyJhbGciOiJIUzI1NiJ9=.e30.AAAA",
                                       "eyJhbGciOiJIUzI1NiJ+.e30.AAAA"};
    static const char *const headers[] = {"",
                                          "[]",
                                          "\"alg\"",
                                          "{}",
                                          "{\"alg\":null}",
                                          "{\"alg\":256}",
                                          "{\"alg\":[\"HS256\"]}",
                                          "{\"alg\":\"HS256\",\"alg\":\"HS256\"}",
                                          "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}",
                                          "{\"alg\":\"HS256\",\"crit\":[]}",
                                          "{\"alg\":\"HS256\"}x",
                                          "{\"alg\":\"HS256\"",
                                          "{\"alg\":\"HS256\\u0000\"}",
                                          "{\"alg\":\"HS256\",\"x\":\"\xff\"}"};
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    for (size_t i = 0; i < ARRAY_LEN(raws); i++)
        assert_int_equal(verify(keys, strdup(raws[i])), ERR_TOKEN_MALFORMED);
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        if (verify(keys, make("HS256", headers[i], "{}", NULL, SECRET)) != ERR_TOKEN_MALFORMED)
            fail_msg("%s", headers[i]);
    }
    /* The reference asks for no type. */
    assert_int_equal(
        verify(keys, make("HS256", "{\"typ\":\"at+jwt\",\"alg\":\"HS256\"}", "{}", NULL, SECRET)), 0);
    token_keys_free(keys);
}

static void claims_are_one_json_object(void **state)
{
    static const char *const claims[] = {
        "[]", "1", "\"x\"", "null", "{\"sub\":\"1\",\"sub\":\"2\"}", "{}x", "{", "{\"a\":\"\\u0000\"}"};
    struct ring r = {0};
    struct token_keys *keys;

    (void)state;
    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    for (size_t i = 0; i < ARRAY_LEN(claims); i++)
        assert_int_equal(verify(keys, make("HS256", "{\"alg\":\"HS256\"}", claims[i], NULL, SECRET)),
                         ERR_TOKEN_MALFORMED);
    token_keys_free(keys);
}

static void a_nul_behind_the_claims_hides_nothing(void **state)
{
    struct ring r = {0};
    struct token_keys *keys;
    struct buf raw = {0};

    (void)state;
    ring_add_secret(&r, "HS256", NULL, SECRET);
    keys = ring_load(&r);
    add64(&raw, "{\"alg\":\"HS256\"}", 15);
    buf_add_char(&raw, '.');
    add64(&raw, "{}\0{\"sub\":\"1\"}", 14);
    add_signature(&raw, "HS256", NULL, SECRET);
    assert_int_equal(verify(keys, buf_take(&raw)), ERR_TOKEN_MALFORMED);
    token_keys_free(keys);
}

static void tokens_up_to_the_limit_work_and_longer_ones_are_malformed(void **state)
{
    struct token_keys *keys = load_rs256();
    struct token *t = NULL;
    size_t huge = 12u << 20;
    char *raw, *text;

    (void)state;
    for (size_t pad = 11000; pad < 13000; pad += 997) {
        struct buf claims = {0};

        buf_printf(&claims, "{\"pad\":\"%0*d\"}", (int)pad, 0);
        raw = make_rs256(claims.data);
        assert_int_equal(token_verify(keys, raw, strlen(raw), NOW, &t),
                         strlen(raw) <= TOKEN_MAX ? 0 : ERR_TOKEN_MALFORMED);
        token_unref(TAKE(t));
        buf_done(&claims);
        free(raw);
    }
    text = malloc(huge);
    assert_non_null(text);
    memset(text, 'A', huge);
    text[100] = text[huge - 300] = '.';
    assert_int_equal(token_verify(keys, text, huge, NOW, &t), ERR_TOKEN_MALFORMED);
    free(text);
    token_keys_free(keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_token_tells_who_it_is),
        cmocka_unit_test(what_the_reference_refused_is_refused),
        cmocka_unit_test(token_of_alg_none_is_refused_in_every_form),
        cmocka_unit_test(exp_and_sub_may_be_absent),
        cmocka_unit_test(each_algorithm_is_verified_with_its_own_key_only),
        cmocka_unit_test(a_key_may_serve_several_algorithms),
        cmocka_unit_test(kid_chooses_among_the_keys),
        cmocka_unit_test(keys_without_kid_are_tried_for_every_kid),
        cmocka_unit_test(rotated_keys_end_the_old_ones_tokens),
        cmocka_unit_test(key_ids_are_stable_and_differ_between_keys),
        cmocka_unit_test(no_keys_verify_nothing),
        cmocka_unit_test(keys_that_verify_nothing_are_refused),
        cmocka_unit_test(a_key_that_is_marked_for_pss_verifies_pss),
        cmocka_unit_test(the_second_wrong_key_is_named),
        cmocka_unit_test(exp_is_a_number_and_ends_the_token),
        cmocka_unit_test(nbf_begins_the_token),
        cmocka_unit_test(end_includes_the_leeway_and_does_not_overflow),
        cmocka_unit_test(issuer_and_audience_are_demanded_if_configured),
        cmocka_unit_test(sub_is_text_or_digits),
        cmocka_unit_test(the_text_of_a_token_is_not_malleable),
        cmocka_unit_test(empty_parts_and_foreign_shapes_are_malformed),
        cmocka_unit_test(claims_are_one_json_object),
        cmocka_unit_test(a_nul_behind_the_claims_hides_nothing),
        cmocka_unit_test(tokens_up_to_the_limit_work_and_longer_ones_are_malformed),
    };

    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
