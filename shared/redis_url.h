/* redis_url.h - the address of a Redis taken apart. Inside redis_link only; programs check an address with
 * redis_url_check (shared/redis_link.h).
 *
 *   redis://[[user]:password@]host[:port][/db]
 *   redis+sentinel://[[user]:password@]host[:port][,host[:port]..]/primary-name[/db][?sentinel_password=..]
 *
 * In the second form the hosts are sentinels, and user and password are Redis's; sentinels that want a
 * password get the one behind '?' (with `sentinel_user`, if they have users). */
#ifndef EF_REDIS_URL_H
#define EF_REDIS_URL_H

#include "shared/util.h"

#include <stddef.h>

/* Sentinels in one URL; three or five are usual. */
enum { REDIS_PLACES_MAX = 16 };

/* Longest host name, bytes (RFC 1035, 2.3.4). */
enum { REDIS_HOST_MAX = 253 };

struct redis_place {
    char *host; /* name or address; an IPv6 address without its brackets */
    int port;   /* where the URL has none: 6379, a sentinel's 26379 */
};

/* NULL as password: no AUTH. NULL as user: AUTH with the password only, that is as Redis's user `default`. */
struct redis_url {
    struct redis_place places[REDIS_PLACES_MAX]; /* the Redis; or the sentinels */
    size_t place_count;                          /* at least 1 */
    char *primary; /* the name by which the sentinels know it; NULL: no sentinels */
    char *user, *password;
    char *sentinel_user, *sentinel_password;
    int db; /* 0 where the URL has none */
};

/* NULL when `text` is well-formed (then the caller owns *ret_url), else a sentence that says what is wrong
 * (static; it never quotes the URL, which may hold a password). Out of memory is such a sentence, too. */
MUST_CHECK
const char *redis_url_parse(const char *text, struct redis_url *ret_url);
/* Frees the parts and wipes the passwords; accepts all zeros. CLEANUP(redis_url_done) works. */
void redis_url_done(struct redis_url *u);

#endif
