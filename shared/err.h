/* err.h - the error codes of the house.
 *
 * Functions return 0 or a negative code: an errno name where one fits (-ENOMEM, -EINVAL, ...), ours
 * from the table below (all under -1000) where none does. Library codes (CURLcode, REDIS_ERR,
 * amqp_status_enum) are translated by the module that wraps the library. */
#ifndef EF_ERR_H
#define EF_ERR_H

#define ERR_TABLE(X)                                                                    \
    X(ERR_REDIS_DOWN, -1001, "the Redis link is down")                                  \
    X(ERR_REDIS_RETRY, -1002, "Redis cannot answer now (loading, busy, out of memory)") \
    X(ERR_REDIS_READONLY, -1003, "this Redis is not the primary")                       \
    X(ERR_REDIS_NOSCRIPT, -1004, "Redis does not know the script")                      \
    X(ERR_REDIS_AUTH, -1005, "Redis refuses our credentials or permissions")            \
    X(ERR_REDIS_WRONGTYPE, -1006, "a Redis key holds another type than ours")           \
    X(ERR_REDIS_NOGROUP, -1007, "the Redis consumer group does not exist")              \
    X(ERR_REDIS_REPLY, -1008, "Redis answered with an error")                           \
    X(ERR_REDIS_FENCED, -1009, "another owner has claimed the partition")               \
    X(ERR_REDIS_HOLE, -1010, "the owner's sequence has a hole")                         \
    X(ERR_TOKEN_MALFORMED, -1020, "the token is not a well-formed JWT")                 \
    X(ERR_TOKEN_KEY, -1021, "no configured key verifies the token")                     \
    X(ERR_TOKEN_SIGNATURE, -1022, "the token's signature is wrong")                     \
    X(ERR_TOKEN_EXPIRED, -1023, "the token has expired")                                \
    X(ERR_TOKEN_NOT_YET, -1024, "the token is not valid yet")                           \
    X(ERR_TOKEN_CLAIMS, -1025, "a claim of the token is missing or wrong")              \
    X(ERR_TEMPLATE_VALUE, -1030, "a value has no place in the URL template")            \
    X(ERR_CONFIG, -1040, "the configuration is wrong")

enum err_code {
#define X(name, code, text) name = (code),
    ERR_TABLE(X)
#undef X
};

/* The text for a code that one of our functions returned (0 and positive: "ok"). Static storage. */
const char *err_text(int code);

#endif
