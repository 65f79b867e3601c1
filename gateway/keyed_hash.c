#include "gateway/keyed_hash.h"

#include <string.h>
#include <sys/random.h>

uint64_t keyed_hash_key(void)
{
    static uint64_t key;

    /* Without random bytes it is a hash like others. */
    if (!key && (getrandom(&key, sizeof(key), 0) != sizeof(key) || !key))
        key = 1;
    return key;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 m = (unsigned __int128)a * b;

    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Multiply and fold, 8 bytes a step: the construction of wyhash. */
uint32_t keyed_hash(uint64_t key, const void *bytes, size_t len)
{
    const char *at = bytes;
    uint64_t h = mix(key, 0x9E3779B97F4A7C15u ^ len), part;

    for (; len >= 8; len -= 8, at += 8) {
        memcpy(&part, at, 8);
        h = mix(h ^ part, 0xD6E8FEB86659FD93u ^ key);
    }
    part = 0;
    if (len)
        memcpy(&part, at, len);
    h = mix(h ^ part, 0xA0761D6478BD642Fu ^ key);
    return (uint32_t)(h ^ (h >> 32));
}
