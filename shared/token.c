/* token.c - tokens are read strictly, and nothing of them counts before the signature does.
 *
 *   raw --> three parts, canonical base64url --> header: alg, kid --> keys that fit --> the signature is good
 *                                                                                            |
 *              token: raw, sub, end  <-- exp, nbf, iss, aud  <-- claims  <-------------------'
 *
 * A key is tried only for the algorithms that it is configured for, whatever the token says. There is one
 * text for one token: what is not canonical, or over TOKEN_MAX, is no token.
 *
 * Failures: each way a token can be wrong is one ERR_TOKEN_*; the caller answers all of them alike. A key
 * that could verify nothing, or that would make forging easy (a short secret, a public key used as secret),
 * is refused when it is loaded.
 *
 * Why not libjwt: it reads the PEM at every verification, which makes RS256 cost some twenty times as much,
 * believes the token's own algorithm, and takes texts that are not canonical. */
#include "shared/token.h"

#include "shared/buf.h"
#include "shared/digest.h"
#include "shared/err.h"
#include "shared/signature.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct token_key {
    char *kid; /* or NULL: for tokens of any kid */
    struct signature_key *key;
    unsigned algs; /* bits, by signature_alg */
    char id[DIGEST_HEX + 1];
};

struct token_keys {
    struct token_key *keys;
    size_t count;
    char *issuer;
    char **audience;
    size_t audience_count;
    int64_t leeway_s;
    bool require_exp;
};

/* One allocation: a gateway holds one of these for each session. `text` is the raw token and, if it has one,
 * `sub`, each with a NUL behind it. The claims are parsed again when somebody asks. */
struct token {
    int refs;
    bool has_sub;
    uint16_t len;
    int64_t end_s;
    char key_id[DIGEST_HEX + 1];
    char text[];
};

static_assert(TOKEN_MAX <= UINT16_MAX, "struct token holds the length in 16 bits");

/* ---- keys ---- */

/* Load one key. Returns 0, -ENOMEM, or ERR_CONFIG with a sentence in `error`. */
static int key_load(struct token_key *key, const struct config_jwt_key *conf, size_t index, struct buf *error)
{
    const char *fault = NULL;
    int r = -EINVAL;

    for (size_t i = 0; i < conf->alg_count; i++) {
        int alg = signature_alg(conf->algs[i]);

        if (alg < 0) {
            buf_printf(error, "jwt.keys[%zu]: the algorithm \"%s\" is not known", index, conf->algs[i]);
            return ERR_CONFIG;
        }
        key->algs |= BIT(alg);
    }
    if (!key->algs)
        fault = "has no algorithm";
    else
        r = signature_key_new(conf->text, conf->text_len, key->algs, &key->key, &fault);
    if (r == -EINVAL) {
        buf_printf(error, "jwt.keys[%zu]: %s %s", index, conf->file ? conf->file : "the key", fault);
        return ERR_CONFIG;
    }
    digest_hex(&(struct digest_part){conf->text, conf->text_len}, 1, key->id);
    if (r == 0 && conf->kid) {
        key->kid = strdup(conf->kid);
        if (!key->kid)
            return -ENOMEM;
    }
    return r;
}

static int demands_copy(struct token_keys *keys, const struct config_jwt *conf)
{
    keys->leeway_s = conf->leeway_s;
    keys->require_exp = conf->require_exp;
    if (conf->issuer) {
        keys->issuer = strdup(conf->issuer);
        if (!keys->issuer)
            return -ENOMEM;
    }
    keys->audience = calloc(conf->audience_count + 1, sizeof(*keys->audience));
    if (!keys->audience)
        return -ENOMEM;
    for (; keys->audience_count < conf->audience_count; keys->audience_count++) {
        char *copy = strdup(conf->audience[keys->audience_count]);

        if (!copy)
            return -ENOMEM;
        keys->audience[keys->audience_count] = copy;
    }
    return 0;
}

static void keys_freep(struct token_keys **keys)
{
    token_keys_free(*keys);
}

int token_keys_new(const struct config_jwt *conf, struct token_keys **ret_keys, char **ret_error)
{
    CLEANUP(keys_freep) struct token_keys *keys = calloc(1, sizeof(*keys));
    struct buf error = {0};

    if (!keys || demands_copy(keys, conf) < 0)
        return -ENOMEM;
    keys->keys = calloc(conf->key_count + 1, sizeof(*keys->keys));
    if (!keys->keys)
        return -ENOMEM;
    while (keys->count < conf->key_count) {
        size_t n = keys->count++; /* half of it may be there to free */
        int r = key_load(&keys->keys[n], &conf->keys[n], n, &error);

        if (r == ERR_CONFIG) {
            char *sentence = buf_take(&error);

            if (!sentence)
                return -ENOMEM;
            *ret_error = sentence;
        }
        if (r < 0)
            return r;
    }
    *ret_keys = TAKE(keys);
    return 0;
}

void token_keys_free(struct token_keys *keys)
{
    if (!keys)
        return;
    for (size_t i = 0; i < keys->count; i++) {
        free(keys->keys[i].kid);
        signature_key_free(keys->keys[i].key);
    }
    free(keys->keys);
    for (size_t i = 0; i < keys->audience_count; i++)
        free(keys->audience[i]);
    free(keys->audience);
    free(keys->issuer);
    free(keys);
}

bool token_keys_have(const struct token_keys *keys, const struct token *t)
{
    for (size_t i = 0; i < keys->count; i++)
        if (strcmp(keys->keys[i].id, t->key_id) == 0)
            return true;
    return false;
}

/* ---- base64url ---- */

static int digit64(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Decode without padding (RFC 7515, 2). out: room for len bytes, or NULL to check only. Returns the number of
 * bytes; -1 for anything but the one canonical text of some bytes: so no two tokens differ only in letters
 * that mean nothing. */
static int decode64(const char *text, size_t len, char *out)
{
    uint32_t bits = 0;
    int have = 0, n = 0;

    for (size_t i = 0; i < len; i++) {
        int digit = digit64(text[i]);

        if (digit < 0)
            return -1;
        bits = bits << 6 | (uint32_t)digit;
        have += 6;
        if (have >= 8) {
            have -= 8;
            if (out)
                out[n] = (char)(bits >> have & 0xff);
            n++;
        }
    }
    return have == 6 || (bits & (BIT(have) - 1)) != 0 ? -1 : n;
}

struct part {
    const char *text;
    size_t len;
};

/* header.payload.signature: three parts, none empty, each of them canonical. */
static bool split_parts(const char *raw, size_t len, struct part parts[3])
{
    const char *at = raw, *end = raw + len;

    for (int i = 0; i < 3; i++) {
        const char *dot = i < 2 ? memchr(at, '.', (size_t)(end - at)) : end;

        if (!dot || dot == at || decode64(at, (size_t)(dot - at), NULL) < 0)
            return false;
        parts[i] = (struct part){at, (size_t)(dot - at)};
        at = dot + 1;
    }
    return true;
}

/* The part as a JSON object. Returns 0, -ENOMEM, or ERR_TOKEN_MALFORMED. */
static int parse_part(struct part part, json_t **ret_object)
{
    CLEANUP(freep) char *text = malloc(part.len);
    json_error_t error;
    json_t *value;
    int n;

    if (!text)
        return -ENOMEM;
    n = decode64(part.text, part.len, text);
    if (n <= 0 || memchr(text, '\0', (size_t)n)) /* jansson takes a NUL for the end */
        return ERR_TOKEN_MALFORMED;
    value = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : ERR_TOKEN_MALFORMED;
    if (!json_is_object(value)) {
        json_decref(value);
        return ERR_TOKEN_MALFORMED;
    }
    *ret_object = value;
    return 0;
}

/* ---- verification ---- */

/* The header of a token that is not verified yet: only what chooses the key. */
struct header {
    int alg;         /* signature_alg; -1: none that we know */
    const char *kid; /* borrowed from the object, or NULL */
};

static int read_header(const json_t *object, struct header *ret)
{
    const json_t *kid = json_object_get(object, "kid");
    const char *alg = json_string_value(json_object_get(object, "alg"));

    /* We understand no extension, so no token may insist on one (RFC 7515, 4.1.11). */
    if (!alg || json_object_get(object, "crit") || (kid && !json_is_string(kid)))
        return ERR_TOKEN_MALFORMED;
    ret->alg = signature_alg(alg);
    ret->kid = json_string_value(kid);
    return ret->alg < 0 ? ERR_TOKEN_KEY : 0;
}

static bool key_fits(const struct token_key *key, const struct header *header)
{
    if (!(key->algs & BIT(header->alg)))
        return false;
    return !header->kid || !key->kid || strcmp(header->kid, key->kid) == 0;
}

/* The key that signed `parts`. Returns 0 or ERR_TOKEN_*, -ENOMEM. */
static int find_key(const struct token_keys *keys, const struct part parts[3],
                    const struct token_key **ret_key)
{
    CLEANUP(freep) unsigned char *sig = malloc(parts[2].len);
    json_auto_t *object = NULL;
    struct header header = {0};
    size_t signed_len = (size_t)(parts[2].text - 1 - parts[0].text);
    int r = parse_part(parts[0], &object), sig_len;

    if (r == 0)
        r = read_header(object, &header);
    if (r == 0 && !sig)
        r = -ENOMEM;
    if (r < 0)
        return r;
    sig_len = decode64(parts[2].text, parts[2].len, (char *)sig);
    r = ERR_TOKEN_KEY;
    for (size_t i = 0; i < keys->count && sig_len > 0; i++) {
        if (!key_fits(&keys->keys[i], &header))
            continue;
        r = ERR_TOKEN_SIGNATURE;
        if (signature_verify(keys->keys[i].key, header.alg, parts[0].text, signed_len, sig,
                             (size_t)sig_len)) {
            *ret_key = &keys->keys[i];
            return 0;
        }
    }
    return r;
}

/* ---- claims ---- */

/* A NumericDate as the first whole second that is not before it; what does not fit is the nearest that does.
 */
static int read_date(const json_t *v, int64_t *ret_s)
{
    double d;

    if (json_is_integer(v)) {
        *ret_s = json_integer_value(v);
        return 0;
    }
    if (!json_is_real(v) || !isfinite(json_real_value(v)))
        return ERR_TOKEN_CLAIMS;
    d = ceil(json_real_value(v));
    if (d >= 0x1p63)
        *ret_s = INT64_MAX;
    else if (d <= -0x1p63)
        *ret_s = INT64_MIN;
    else
        *ret_s = (int64_t)d;
    return 0;
}

static int64_t add_saturating(int64_t a, int64_t b)
{
    int64_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return a < 0 ? INT64_MIN : INT64_MAX;
    return sum;
}

static int check_times(const struct token_keys *keys, const json_t *claims, int64_t now_s, int64_t *ret_end_s)
{
    const json_t *exp = json_object_get(claims, "exp"), *nbf = json_object_get(claims, "nbf");
    int64_t end_s = INT64_MAX, start_s;

    if (!exp && keys->require_exp)
        return ERR_TOKEN_CLAIMS;
    if (exp) {
        if (read_date(exp, &end_s) < 0)
            return ERR_TOKEN_CLAIMS;
        end_s = add_saturating(end_s, keys->leeway_s);
    }
    if (nbf) {
        if (read_date(nbf, &start_s) < 0)
            return ERR_TOKEN_CLAIMS;
        if (add_saturating(now_s, keys->leeway_s) < start_s)
            return ERR_TOKEN_NOT_YET;
    }
    if (now_s >= end_s)
        return ERR_TOKEN_EXPIRED;
    *ret_end_s = end_s;
    return 0;
}

static bool is_audience(const struct token_keys *keys, const json_t *v)
{
    const char *text = json_string_value(v);

    for (size_t i = 0; text && i < keys->audience_count; i++) {
        if (strcmp(text, keys->audience[i]) == 0)
            return true;
    }
    return false;
}

static bool audience_is_met(const struct token_keys *keys, const json_t *aud)
{
    if (keys->audience_count == 0 || is_audience(keys, aud))
        return true;
    for (size_t i = 0; i < json_array_size(aud); i++) {
        if (is_audience(keys, json_array_get(aud, i)))
            return true;
    }
    return false;
}

static int check_claims(const struct token_keys *keys, const json_t *claims, int64_t now_s,
                        int64_t *ret_end_s)
{
    const char *iss = json_string_value(json_object_get(claims, "iss"));

    if (keys->issuer && (!iss || strcmp(iss, keys->issuer) != 0))
        return ERR_TOKEN_CLAIMS;
    if (!audience_is_met(keys, json_object_get(claims, "aud")))
        return ERR_TOKEN_CLAIMS;
    return check_times(keys, claims, now_s, ret_end_s);
}

/* `sub` as text, "" for none. */
static void read_sub(const json_t *claims, struct buf *sub)
{
    const json_t *v = json_object_get(claims, "sub");

    if (json_is_string(v))
        buf_add_str(sub, json_string_value(v));
    else if (json_is_integer(v))
        buf_printf(sub, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
}

/* ---- token ---- */

/* Put `sub` behind the raw token; *t may move. */
static int add_sub(struct token **t, const json_t *claims)
{
    CLEANUP(buf_done) struct buf sub = {0};
    struct token *grown;

    read_sub(claims, &sub);
    if (buf_status(&sub) < 0)
        return -ENOMEM;
    if (sub.len == 0)
        return 0;
    grown = realloc(*t, sizeof(**t) + (*t)->len + 1u + sub.len + 1);
    if (!grown)
        return -ENOMEM;
    memcpy(grown->text + grown->len + 1, sub.data, sub.len + 1);
    grown->has_sub = true;
    *t = grown;
    return 0;
}

int token_verify(const struct token_keys *keys, const char *raw, size_t len, int64_t now_s,
                 struct token **ret_token)
{
    CLEANUP(freep) struct token *t = NULL;
    json_auto_t *claims = NULL;
    const struct token_key *key = NULL;
    struct part parts[3];
    int r;

    if (len == 0 || len > TOKEN_MAX || !split_parts(raw, len, parts))
        return ERR_TOKEN_MALFORMED;
    t = malloc(sizeof(*t) + len + 1);
    if (!t)
        return -ENOMEM;
    *t = (struct token){.refs = 1, .len = (uint16_t)len, .end_s = INT64_MAX};
    memcpy(t->text, raw, len);
    t->text[len] = '\0';
    /* Parsed first, so that a token that is no JSON says so. Nothing is read from it until the signature has
     * been found good. */
    r = parse_part(parts[1], &claims);
    if (r == 0)
        r = find_key(keys, parts, &key);
    if (r < 0)
        return r;
    memcpy(t->key_id, key->id, sizeof(t->key_id));
    r = check_claims(keys, claims, now_s, &t->end_s);
    if (r == 0)
        r = add_sub(&t, claims);
    if (r < 0)
        return r;
    *ret_token = TAKE(t);
    return 0;
}

struct token *token_ref(struct token *t)
{
    assert(t->refs > 0);
    t->refs++;
    return t;
}

void token_unref(struct token *t)
{
    if (!t)
        return;
    assert(t->refs > 0);
    if (--t->refs == 0)
        free(t);
}

const char *token_raw(const struct token *t, size_t *ret_len)
{
    if (ret_len)
        *ret_len = t->len;
    return t->text;
}

const char *token_sub(const struct token *t)
{
    return t->has_sub ? t->text + t->len + 1 : NULL;
}

int64_t token_end_s(const struct token *t)
{
    return t->end_s;
}

const char *token_key_id(const struct token *t)
{
    return t->key_id;
}

json_t *token_claims(const struct token *t)
{
    struct part parts[3];
    json_t *claims = NULL;
    bool ok = split_parts(t->text, t->len, parts);

    assert(ok); /* it was, when the token was verified */
    return parse_part(parts[1], &claims) == 0 ? claims : NULL;
}
