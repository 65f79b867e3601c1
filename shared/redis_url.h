/* redis_url.h - redis://[[user]:password@]host[:port][/db] taken apart. Inside redis_link only; programs
 * check an address with redis_url_check (shared/redis_link.h). */
#ifndef EF_REDIS_URL_H
#define EF_REDIS_URL_H

#include "shared/util.h"

struct redis_url {
    char *host;     /* name or address; an IPv6 address without its brackets */
    int port;       /* 6379 where the URL has none */
    char *user;     /* NULL: AUTH with the password only, that is as Redis's user `default` */
    char *password; /* NULL: no AUTH */
    int db;         /* 0 where the URL has none */
};

/* NULL when `text` is well-formed (then the caller owns *ret_url), else a sentence that says what is wrong
 * (static; it never quotes the URL, which may hold a password). Out of memory is such a sentence, too. */
MUST_CHECK
const char *redis_url_parse(const char *text, struct redis_url *ret_url);
/* Frees the parts and wipes the password; accepts all zeros. CLEANUP(redis_url_done) works. */
void redis_url_done(struct redis_url *u);

#endif
