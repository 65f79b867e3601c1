/* redis_url.c - takes the address of a Redis apart.
 *
 * The userinfo ends at the last '@' before the first '/', so that a password with a raw '@' still works;
 * other reserved characters in user, password and the primary's name are percent-encoded (RFC 3986, 2.1).
 * What we cannot serve (TLS, sockets, unknown options behind '?') is refused here, with a sentence for the
 * configuration's error list, and not found out at the first connect. */
#include "shared/redis_url.h"

#include "shared/redis_link.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Redis's registered port (IANA service names), and the one that sentinels have by default. */
enum { REDIS_PORT = 6379, SENTINEL_PORT = 26379 };

static const char *const no_memory = "out of memory";

static const char plain_scheme[] = "redis://", sentinel_scheme[] = "redis+sentinel://";

static bool begins(const char *text, const char *prefix)
{
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

static const char *check_scheme(const char *text, bool *ret_sentinels)
{
    static const struct {
        const char *prefix, *sentence;
    } refused[] = {
        {"rediss://", "TLS to Redis (rediss://) is not supported"},
        {"rediss+sentinel://", "TLS to Redis (rediss+sentinel://) is not supported"},
        {"redis-sentinel://", "addresses of Redis Sentinel begin with redis+sentinel://"},
        {"unix:", "a Unix socket is not supported: give an address as redis://host:port"},
    };

    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (begins(text, refused[i].prefix))
            return refused[i].sentence;
    }
    *ret_sentinels = begins(text, sentinel_scheme);
    if (!*ret_sentinels && !begins(text, plain_scheme))
        return "the URL does not begin with redis:// or redis+sentinel://";
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return "the URL holds a space or a control character";
    }
    if (strchr(text, '#') || (!*ret_sentinels && strchr(text, '?')))
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
            return "a '%' is not followed by two hexadecimal digits";
        if (high == 0 && low == 0)
            return "the URL holds %00";
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

/* host[:port]; p->port is set to the default already. */
static const char *parse_place(const char *bytes, size_t len, struct redis_place *p)
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
    if (host_len > REDIS_HOST_MAX)
        return "the host name is longer than 253 bytes";
    p->host = strndup(bytes, host_len);
    if (!p->host)
        return no_memory;
    rest = len - host_len - (in_brackets ? 1 : 0);
    if (rest) {
        const char *port = bytes + len - rest;

        p->port = *port == ':' ? parse_number(port + 1, rest - 1, 65535) : -1;
        if (p->port <= 0)
            return "the port is not a number from 1 to 65535";
    }
    return check_host(p->host, in_brackets);
}

/* One host, or with sentinels several, between commas. */
static const char *parse_places(const char *bytes, size_t len, bool sentinels, struct redis_url *u)
{
    for (;;) {
        const char *comma = sentinels ? memchr(bytes, ',', len) : NULL;
        size_t place_len = comma ? (size_t)(comma - bytes) : len;
        const char *wrong;

        if (u->place_count == REDIS_PLACES_MAX)
            return "the URL names more than 16 sentinels";
        u->places[u->place_count].port = sentinels ? SENTINEL_PORT : REDIS_PORT;
        wrong = parse_place(bytes, place_len, &u->places[u->place_count++]);
        if (wrong || !comma)
            return wrong;
        bytes = comma + 1;
        len -= place_len + 1;
    }
}

static const char *parse_db(const char *bytes, size_t len, struct redis_url *u)
{
    u->db = len ? parse_number(bytes, len, 999999999) : 0;
    return u->db >= 0 ? NULL
                      : "what follows the '/' is not the number of a database (in a password write %2F)";
}

/* primary-name[/db] */
static const char *parse_primary(const char *bytes, size_t len, struct redis_url *u)
{
    const char *slash = memchr(bytes, '/', len);
    size_t name_len = slash ? (size_t)(slash - bytes) : len;
    const char *wrong;

    if (name_len == 0)
        return "a redis+sentinel:// URL names the primary behind the sentinels: .../mymaster/0";
    wrong = percent_decode(bytes, name_len, &u->primary);
    if (wrong || !slash)
        return wrong;
    return parse_db(slash + 1, len - name_len - 1, u);
}

/* sentinel_password=..[&sentinel_user=..] */
static const char *parse_options(const char *text, struct redis_url *u)
{
    static const char password[] = "sentinel_password=", user[] = "sentinel_user=";
    const char *wrong;

    while (*text) {
        size_t len = strcspn(text, "&");
        bool is_password = strncmp(text, password, strlen(password)) == 0;
        size_t name_len = is_password ? strlen(password) : strlen(user);
        char **field = is_password ? &u->sentinel_password : &u->sentinel_user;

        if (!is_password && strncmp(text, user, strlen(user)) != 0)
            return "behind '?' only sentinel_password and sentinel_user are known (in a password write %3F)";
        if (*field)
            return "an option behind '?' comes twice";
        if (len > name_len) {
            wrong = percent_decode(text + name_len, len - name_len, field);
            if (wrong)
                return wrong;
        }
        text += len + (text[len] == '&');
    }
    if (u->sentinel_user && !u->sentinel_password)
        return "sentinel_user stands without sentinel_password";
    return NULL;
}

const char *redis_url_parse(const char *text, struct redis_url *ret_url)
{
    CLEANUP(redis_url_done) struct redis_url u = {0};
    const char *authority, *slash, *at, *options, *wrong;
    bool sentinels = false;
    size_t len;

    wrong = check_scheme(text, &sentinels);
    if (wrong)
        return wrong;
    authority = text + strlen(sentinels ? sentinel_scheme : plain_scheme);
    options = authority + strcspn(authority, "?");
    slash = memchr(authority, '/', (size_t)(options - authority));
    len = (size_t)((slash ? slash : options) - authority);
    at = memrchr(authority, '@', len);
    if (at) {
        size_t userinfo_len = (size_t)(at - authority);

        wrong = parse_userinfo(authority, userinfo_len, &u);
        if (wrong)
            return wrong;
        authority = at + 1;
        len -= userinfo_len + 1;
    }
    wrong = parse_places(authority, len, sentinels, &u);
    if (!wrong && sentinels)
        wrong =
            slash ? parse_primary(slash + 1, (size_t)(options - slash) - 1, &u) : parse_primary("", 0, &u);
    else if (!wrong && slash)
        wrong = parse_db(slash + 1, (size_t)(options - slash) - 1, &u);
    if (!wrong && *options)
        wrong = parse_options(options + 1, &u);
    if (wrong)
        return wrong;
    *ret_url = u;
    u = (struct redis_url){0};
    return NULL;
}

static void wipe(char *password)
{
    if (password)
        explicit_bzero(password, strlen(password));
    free(password);
}

void redis_url_done(struct redis_url *u)
{
    for (size_t i = 0; i < u->place_count; i++)
        free(u->places[i].host);
    free(u->primary);
    free(u->user);
    free(u->sentinel_user);
    wipe(u->password);
    wipe(u->sentinel_password);
    *u = (struct redis_url){0};
}

const char *redis_url_check(const char *url)
{
    CLEANUP(redis_url_done) struct redis_url u = {0};

    return redis_url_parse(url, &u);
}
