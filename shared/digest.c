#include "shared/digest.h"

#include <openssl/evp.h>
#include <stdlib.h>

/* One context and one fetched algorithm for the thread's life: fetching costs more than hashing a
 * small event. OpenSSL 3 fails here only when it cannot allocate at start; nothing works then. */
static EVP_MD_CTX *context(void)
{
    static _Thread_local EVP_MD_CTX *ctx;
    static _Thread_local EVP_MD *sha256;

    if (!ctx) {
        ctx = EVP_MD_CTX_new();
        sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
        if (!ctx || !sha256 || EVP_DigestInit_ex2(ctx, sha256, NULL) != 1)
            abort();
        return ctx;
    }
    if (EVP_DigestInit_ex2(ctx, NULL, NULL) != 1)
        abort();
    return ctx;
}

void digest_hex(const struct digest_part *parts, size_t count, char out[DIGEST_HEX + 1])
{
    static const char hex[] = "0123456789abcdef";
    EVP_MD_CTX *ctx = context();
    unsigned char md[EVP_MAX_MD_SIZE];

    for (size_t i = 0; i < count; i++) {
        uint64_t len = parts[i].len;

        EVP_DigestUpdate(ctx, &len, sizeof(len));
        if (len)
            EVP_DigestUpdate(ctx, parts[i].bytes, parts[i].len);
    }
    if (EVP_DigestFinal_ex(ctx, md, NULL) != 1)
        abort();
    for (size_t i = 0; i < DIGEST_HEX / 2; i++) {
        out[2 * i] = hex[md[i] >> 4];
        out[2 * i + 1] = hex[md[i] & 15];
    }
    out[DIGEST_HEX] = '\0';
}
