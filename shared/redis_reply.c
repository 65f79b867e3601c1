/* redis_reply.c - what Redis answers, read without hiredis outside this module; and the names of scripts.
 *
 * Every reader accepts every reply (NULL, too): a wrong shape is Redis's or a proxy's doing, and its reader
 * sees nil, 0 or an empty array, never a crash.
 *
 * Error replies begin with a code word. A script does not hide it on Redis 7: an error of redis.call arrives
 * as "OOM command not allowed ... script: <sha>, on @user_script:1.", redis.error_reply("FENCED gen 4") as it
 * is; only error() and our own Lua mistakes arrive as "ERR user_script:1: ...". Redis 6 wraps what redis.call
 * raised: "ERR Error running script (call to f_<sha>): @user_script:1: OOM command not allowed ...". */
#include "shared/redis_link.h"

#include "shared/err.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum redis_reply_kind redis_reply_kind(const struct redisReply *r)
{
    if (!r)
        return REPLY_NIL;
    switch (r->type) {
    case REDIS_REPLY_STRING:
        return REPLY_STRING;
    case REDIS_REPLY_STATUS:
        return REPLY_STATUS;
    case REDIS_REPLY_INTEGER:
        return REPLY_INTEGER;
    case REDIS_REPLY_ARRAY:
        return REPLY_ARRAY;
    case REDIS_REPLY_ERROR:
        return REPLY_ERROR;
    default:
        return REPLY_NIL;
    }
}

const char *redis_reply_str(const struct redisReply *r, size_t *ret_len)
{
    enum redis_reply_kind kind = redis_reply_kind(r);

    if (kind != REPLY_STRING && kind != REPLY_STATUS && kind != REPLY_ERROR) {
        if (ret_len)
            *ret_len = 0;
        return NULL;
    }
    /* hiredis 0.14 has an int here, 1.x a size_t. */
    if (ret_len)
        *ret_len = (size_t)r->len;
    return r->str;
}

int64_t redis_reply_int(const struct redisReply *r)
{
    size_t len;
    const char *text;
    char *end;
    long long n;

    if (redis_reply_kind(r) == REPLY_INTEGER)
        return r->integer;
    text = redis_reply_str(r, &len);
    if (!text || len == 0 || (*text != '-' && !isdigit((unsigned char)*text)))
        return 0;
    errno = 0;
    n = strtoll(text, &end, 10);
    return errno == 0 && end == text + len ? n : 0;
}

size_t redis_reply_count(const struct redisReply *r)
{
    return redis_reply_kind(r) == REPLY_ARRAY ? (size_t)r->elements : 0;
}

const struct redisReply *redis_reply_at(const struct redisReply *r, size_t i)
{
    return i < redis_reply_count(r) ? r->element[i] : NULL;
}

/* Step over Redis 6's wrapping of an error inside a script; see the top of this file. */
static size_t skip_script_prefix(const char *text, size_t len)
{
    static const char wrapped[] = "ERR Error running script";
    static const char place[] = "@user_script:";
    const char *p, *end = text + len;

    if (len < sizeof(wrapped) || memcmp(text, wrapped, sizeof(wrapped) - 1) != 0)
        return 0;
    p = memmem(text, len, place, sizeof(place) - 1);
    while (p && (size_t)(end - p) > sizeof(place) && memcmp(p, place, sizeof(place) - 1) == 0) {
        p += sizeof(place) - 1;
        while (p < end && (*p == ' ' || isdigit((unsigned char)*p)))
            p++;
        while (p < end && (*p == ':' || *p == ' '))
            p++;
    }
    return p ? (size_t)(p - text) : 0;
}

int redis_error_code(const char *text, size_t len)
{
    static const struct {
        const char *word;
        int code;
    } words[] = {
        {"LOADING", ERR_REDIS_RETRY},
        {"BUSY", ERR_REDIS_RETRY},
        {"OOM", ERR_REDIS_RETRY},
        {"MASTERDOWN", ERR_REDIS_RETRY},
        {"TRYAGAIN", ERR_REDIS_RETRY},
        {"CLUSTERDOWN", ERR_REDIS_RETRY},
        /* It cannot write to its disk, or has too few replicas: an operator's matter, and it passes. */
        {"MISCONF", ERR_REDIS_RETRY},
        {"NOREPLICAS", ERR_REDIS_RETRY},
        {"READONLY", ERR_REDIS_READONLY},
        {"NOSCRIPT", ERR_REDIS_NOSCRIPT},
        {"NOAUTH", ERR_REDIS_AUTH},
        {"WRONGPASS", ERR_REDIS_AUTH},
        {"NOPERM", ERR_REDIS_AUTH},
        {"WRONGTYPE", ERR_REDIS_WRONGTYPE},
        {"NOGROUP", ERR_REDIS_NOGROUP},
        {"FENCED", ERR_REDIS_FENCED},
        {"HOLE", ERR_REDIS_HOLE},
    };
    static const char clients[] = "ERR max number of clients reached";
    size_t word_len, skipped;

    if (len >= sizeof(clients) - 1 && memcmp(text, clients, sizeof(clients) - 1) == 0)
        return ERR_REDIS_RETRY;
    skipped = skip_script_prefix(text, len);
    text += skipped;
    len -= skipped;
    for (word_len = 0; word_len < len && text[word_len] != ' '; word_len++)
        ;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strlen(words[i].word) == word_len && memcmp(words[i].word, text, word_len) == 0)
            return words[i].code;
    }
    return ERR_REDIS_REPLY;
}

void redis_script_init(struct redis_script *s, const char *text)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    int done = EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL);

    /* SHA-1 is part of every OpenSSL build that we meet; without it no script can be named. */
    assert(done == 1 && len == 20);
    s->text = text;
    for (size_t i = 0; i < 20; i++)
        snprintf(s->sha1 + 2 * i, 3, "%02x", digest[i]);
}
