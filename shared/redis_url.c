/* redis_url.c - takes the address of a Redis apart.
 *
 * The userinfo ends at the last '@' before the first '/', so that a password with a raw '@' still works;
 * other reserved characters in user and password are percent-encoded (RFC 3986, 2.1). What we cannot serve
 * (TLS, Sentinel, sockets, options behind '?') is refused here, with a sentence for the configuration's
 * error list, and not found out at the first connect. */
#include "shared/redis_url.h"

#include "shared/redis_link.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Redis's registered port (IANA service names). */
enum { REDIS_PORT = 6379 };

/* Longest host name, bytes (RFC 1035, 2.3.4). */
enum { HOST_MAX = 253 };

static const char *const no_memory = "out of memory";

static const char *check_scheme(const char *text)
{
    static const struct {
        const char *prefix, *sentence;
    } refused[] = {
        {"rediss://", "TLS to Redis (rediss://) is not supported"},
        {"redis+sentinel://", "Redis Sentinel (redis+sentinel://) is not supported yet: give the primary's "
                              "address as redis://host:port"},
        {"redis-sentinel://", "Redis Sentinel (redis-sentinel://) is not supported yet: give the primary's "
                              "address as redis://host:port"},
        {"unix:", "a Unix socket is not supported: give an address as redis://host:port"},
    };

    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (strncasecmp(text, refused[i].prefix, strlen(refused[i].prefix)) == 0)
            return refused[i].sentence;
    }
    if (strncasecmp(text, "redis://", 8) != 0)
        return "the URL does not begin with redis://";
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return "the URL holds a space or a control character";
    }
    if (strpbrk(text, "?#"))
        return "the URL has options behind '?' or '#', which are not supported (in a password write %3F and "
               "%23)";
    return NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* %41 becomes A. *ret_text: owned by the caller, NUL-terminated. */
static const char *percent_decode(const char *bytes, size_t len, char **ret_text)
{
    CLEANUP(freep) char *out = malloc(len + 1);
    size_t n = 0;

    if (!out)
        return no_memory;
    for (size_t i = 0; i < len; i++) {
        int high, low;

        if (bytes[i] != '%') {
            out[n++] = bytes[i];
            continue;
        }
        high = len - i > 2 ? hex_digit(bytes[i + 1]) : -1;
        low = len - i > 2 ? hex_digit(bytes[i + 2]) : -1;
        if (high < 0 || low < 0)
            return "a '%' in user or password is not followed by two hexadecimal digits";
        if (high == 0 && low == 0)
            return "user or password holds %00";
        out[n++] = (char)(high * 16 + low);
        i += 2;
    }
    out[n] = '\0';
    *ret_text = TAKE(out);
    return NULL;
}

static const char *parse_userinfo(const char *bytes, size_t len, struct redis_url *u)
{
    const char *colon = memchr(bytes, ':', len);
    size_t user_len, password_len;
    const char *wrong;

    if (!colon)
        return "a user stands without a password: write redis://user:password@host or redis://:password@host";
    user_len = (size_t)(colon - bytes);
    password_len = len - user_len - 1;
    /* redis://:@host comes from a template whose password is empty: there is none. */
    if (user_len == 0 && password_len == 0)
        return NULL;
    if (user_len) {
        wrong = percent_decode(bytes, user_len, &u->user);
        if (wrong)
            return wrong;
    }
    return percent_decode(colon + 1, password_len, &u->password);
}

/* Digits only, at most `max`; -1 for anything else, an empty text too. */
static int parse_number(const char *bytes, size_t len, int max)
{
    int n = 0;

    if (len == 0 || len > 9)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] < '0' || bytes[i] > '9')
            return -1;
        n = n * 10 + (bytes[i] - '0');
    }
    return n <= max ? n : -1;
}

static const char *check_host(const char *host, bool in_brackets)
{
    struct sockaddr_in6 in6;

    if (in_brackets)
        return uv_ip6_addr(host, 0, &in6) == 0 ? NULL : "what stands in [] is not an IPv6 address";
    for (const char *p = host; *p; p++) {
        bool fine = (*p >= '0' && *p <= '9') || ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z') || *p == '.' ||
                    *p == '-' || *p == '_';
        if (!fine)
            return "the host holds a character that no host name has (an IPv6 address stands in [])";
    }
    return NULL;
}

static const char *parse_host_and_port(const char *bytes, size_t len, struct redis_url *u)
{
    bool in_brackets = len && bytes[0] == '[';
    const char *end = memchr(bytes, in_brackets ? ']' : ':', len);
    size_t host_len, rest;

    if (in_brackets) {
        if (!end)
            return "the '[' of the IPv6 address has no ']'";
        bytes++;
        len--;
    }
    host_len = end ? (size_t)(end - bytes) : len;
    if (host_len == 0)
        return "the URL has no host";
    if (host_len > HOST_MAX)
        return "the host name is longer than 253 bytes";
    u->host = strndup(bytes, host_len);
    if (!u->host)
        return no_memory;
    rest = len - host_len - (in_brackets ? 1 : 0);
    if (rest) {
        const char *port = bytes + len - rest;

        u->port = *port == ':' ? parse_number(port + 1, rest - 1, 65535) : -1;
        if (u->port <= 0)
            return "the port is not a number from 1 to 65535";
    }
    return check_host(u->host, in_brackets);
}

const char *redis_url_parse(const char *text, struct redis_url *ret_url)
{
    CLEANUP(redis_url_done) struct redis_url u = {.port = REDIS_PORT};
    const char *authority, *slash, *at, *wrong;
    size_t len;

    wrong = check_scheme(text);
    if (wrong)
        return wrong;
    authority = text + strlen("redis://");
    slash = strchr(authority, '/');
    len = slash ? (size_t)(slash - authority) : strlen(authority);
    at = memrchr(authority, '@', len);
    if (at) {
        size_t userinfo_len = (size_t)(at - authority);

        wrong = parse_userinfo(authority, userinfo_len, &u);
        if (wrong)
            return wrong;
        authority = at + 1;
        len -= userinfo_len + 1;
    }
    wrong = parse_host_and_port(authority, len, &u);
    if (wrong)
        return wrong;
    if (slash && slash[1]) {
        u.db = parse_number(slash + 1, strlen(slash + 1), 999999999);
        if (u.db < 0)
            return "what follows the '/' is not the number of a database (in a password write %2F)";
    }
    *ret_url = u;
    u = (struct redis_url){0};
    return NULL;
}

void redis_url_done(struct redis_url *u)
{
    if (u->password)
        explicit_bzero(u->password, strlen(u->password));
    free(u->host);
    free(u->user);
    free(u->password);
    *u = (struct redis_url){0};
}

const char *redis_url_check(const char *url)
{
    CLEANUP(redis_url_done) struct redis_url u = {0};

    return redis_url_parse(url, &u);
}
