#include "shared/token.h"

#include "shared/buf.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char secret[] = "0123456789abcdef0123456789abcdef";

static struct token_keys *load(void)
{
    static char *algs[] = {"HS256"};
    static struct config_jwt_key key = {
        .algs = algs, .alg_count = 1, .text = secret, .text_len = sizeof(secret) - 1};
    static const struct config_jwt conf = {.keys = &key, .key_count = 1, .leeway_s = 30};
    struct token_keys *keys = NULL;
    char *error = NULL;

    if (token_keys_new(&conf, &keys, &error) != 0)
        abort();
    return keys;
}

static void add64(struct buf *out, const uint8_t *bytes, size_t len)
{
    char text[8192];
    int n = EVP_EncodeBlock((unsigned char *)text, bytes, (int)len);

    for (int i = 0; i < n && text[i] != '='; i++)
        buf_add_char(out, text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i]);
}

static void check(const struct token_keys *keys, const char *raw, size_t len)
{
    struct token *t = NULL;
    json_t *claims;

    if (token_verify(keys, raw, len, 1700000000, &t) != 0)
        return;
    claims = token_claims(t);
    assert(json_is_object(claims) && token_end_s(t) > 1700000000);
    assert(!token_sub(t) || strlen(token_sub(t)) > 0);
    json_decref(claims);
    token_unref(t);
}

/* The input as a token; and, cut at its first line break, as header and claims of a well-signed one. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct token_keys *keys;
    const uint8_t *cut = size ? memchr(data, '\n', size) : NULL;
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned mac_len = 0;
    struct buf raw = {0};

    if (!keys)
        keys = load();
    check(keys, (const char *)data, size);
    if (!cut || size > 4096)
        return 0;
    add64(&raw, data, (size_t)(cut - data));
    buf_add_char(&raw, '.');
    add64(&raw, cut + 1, size - (size_t)(cut + 1 - data));
    HMAC(EVP_sha256(), secret, sizeof(secret) - 1, (unsigned char *)raw.data, raw.len, mac, &mac_len);
    buf_add_char(&raw, '.');
    add64(&raw, mac, mac_len);
    check(keys, raw.data, raw.len);
    buf_done(&raw);
    return 0;
}
