/* config_check.c - what the texts of the configuration must look like.
 *
 * Each check answers true, or false with what is wrong appended, worded to be read after the value:
 * `"x" has no port`. They judge form only; whether a host exists, or a key loads, is found out by who uses
 * it. */
#include "shared/config_impl.h"

#include "shared/redis_link.h"
#include "shared/template.h"
#include "shared/topic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool fault(struct buf *why, const char *text)
{
    buf_add_str(why, text);
    return false;
}

static bool is_one_of(char c, const char *set)
{
    return c && strchr(set, c);
}

static bool is_alnum(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool config_check_filled(const char *text, struct buf *why)
{
    return *text ? true : fault(why, "is empty");
}

bool config_check_prefix(const char *text, struct buf *why)
{
    size_t len = strlen(text);

    if (len < 1 || len > 64)
        return fault(why, len ? "is too long" : "is empty");
    for (size_t i = 0; i < len; i++) {
        /* A brace would be a Redis Cluster hash tag of its own and tear a partition's keys apart. */
        if (!is_alnum(text[i]) && !is_one_of(text[i], "._:-"))
            return fault(why, "has a character that is not allowed");
    }
    return true;
}

bool config_check_topic(const char *text, struct buf *why)
{
    size_t len = strlen(text);

    if (len <= TOPIC_MAX)
        return true;
    buf_printf(why, "is %zu bytes long", len);
    return false;
}

bool config_check_routing_key(const char *text, struct buf *why)
{
    return config_check_topic(text, why);
}

bool config_check_name(const char *text, struct buf *why)
{
    return config_check_filled(text, why) && config_check_topic(text, why);
}

bool config_check_pointer(const char *text, struct buf *why)
{
    /* RFC 6901, 3. The empty pointer, the whole document, is never what is meant here. */
    if (*text != '/')
        return fault(why, "does not begin with \"/\"");
    for (const char *s = text; (s = strchr(s, '~')); s++) {
        if (!is_one_of(s[1], "01"))
            return fault(why, "has a \"~\" that is neither \"~0\" nor \"~1\"");
    }
    return true;
}

/* A port, "0".."65535" (min 0 or 1), up to the end of the text. */
static bool check_port(const char *text, size_t len, int min, struct buf *why)
{
    long port = 0;

    if (len == 0)
        return fault(why, "has no port after its \":\"");
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return fault(why, "has a port that is not a number");
        port = port * 10 + (text[i] - '0');
        if (port > 65535)
            break;
    }
    if (port < min || port > 65535)
        return fault(why, "has a port that is out of range");
    return true;
}

bool config_check_listen(const char *text, struct buf *why)
{
    const char *colon = strrchr(text, ':');
    bool bracket = *text == '[';
    unsigned char address[16];
    char host[64];
    size_t len;

    if (!colon || (bracket && colon > text && colon[-1] != ']'))
        return fault(why, "has no port");
    len = (size_t)(colon - text);
    if (bracket && len >= 2) {
        text++;
        len -= 2;
    }
    if (len >= sizeof(host))
        return fault(why, "has no numeric address before its port");
    memcpy(host, text, len);
    host[len] = '\0';
    if (inet_pton(bracket ? AF_INET6 : AF_INET, host, address) != 1)
        return fault(why, "has no numeric address before its port");
    return check_port(colon + 1, strlen(colon + 1), 0, why);
}

bool config_check_host(const char *text, struct buf *why)
{
    size_t len = strlen(text);

    if (len < 1 || len > 253)
        return fault(why, "is not a domain name");
    for (size_t i = 0; i < len; i++) {
        bool edge = i == 0 || i + 1 == len || text[i - 1] == '.' || text[i + 1] == '.';

        if (!is_alnum(text[i]) && text[i] != '_' && (edge || !is_one_of(text[i], "-.")))
            return fault(why, "is not a domain name");
    }
    return true;
}

bool config_check_address(const char *text, struct buf *why)
{
    const char *at = strchr(text, '@');

    if (!at || at == text || strchr(at + 1, '@') || strlen(text) > 254)
        return fault(why, "is not local-part@domain");
    for (const char *s = text; *s; s++) {
        /* No quoted local parts and no comments: what stands here goes into headers and the envelope. */
        if (is_one_of(*s, " \t\"(),:;<>[\\]") || (unsigned char)*s >= 0x80)
            return fault(why, "has a character that is not allowed");
    }
    return config_check_host(at + 1, why);
}

/* host[:port] or [v6][:port]. */
static bool check_authority(const char *text, size_t len, struct buf *why)
{
    const char *end = text + len, *colon;
    char host[256];
    unsigned char address[16];

    if (len == 0 || *text == ':')
        return fault(why, "has no host");
    if (*text == '[') {
        const char *close = memchr(text, ']', len);

        if (!close || (size_t)(close - text) > sizeof(host) || (close + 1 < end && close[1] != ':'))
            return fault(why, "has a host that is not [IPv6 address]");
        memcpy(host, text + 1, (size_t)(close - text) - 1);
        host[close - text - 1] = '\0';
        if (inet_pton(AF_INET6, host, address) != 1)
            return fault(why, "has a host that is not [IPv6 address]");
        return close + 1 == end || check_port(close + 2, (size_t)(end - close) - 2, 1, why);
    }
    colon = memchr(text, ':', len);
    len = colon ? (size_t)(colon - text) : len;
    if (len >= sizeof(host))
        return fault(why, "has a host that is too long");
    for (size_t i = 0; i < len; i++) {
        if (!is_alnum(text[i]) && !is_one_of(text[i], "-._"))
            return fault(why, "has a host with a character that is not allowed");
    }
    return !colon || check_port(colon + 1, (size_t)(end - colon) - 1, 1, why);
}

static bool check_percent(const char *text, struct buf *why)
{
    for (const char *s = text; (s = strchr(s, '%')); s++) {
        if (strspn(s + 1, "0123456789abcdefABCDEF") < 2)
            return fault(why, "has a \"%\" that is not followed by two hexadecimal digits");
    }
    return true;
}

static bool check_characters(const char *text, struct buf *why)
{
    for (const char *s = text; *s; s++) {
        if (*s == ' ' || *s == '"' || *s == '<' || *s == '>' || *s == '\\' || (unsigned char)*s >= 0x7f)
            return fault(why, "has a character that must be percent-encoded");
    }
    return true;
}

/* Does the text begin with one of the schemes ("http://", ..)? Returns what stands behind, or NULL. */
static const char *after_scheme(const char *text, const char *const *schemes)
{
    for (; *schemes; schemes++) {
        if (strncasecmp(text, *schemes, strlen(*schemes)) == 0)
            return text + strlen(*schemes);
    }
    return NULL;
}

bool config_check_amqp_url(const char *text, struct buf *why)
{
    static const char *const schemes[] = {"amqp://", NULL};
    const char *s = after_scheme(text, schemes), *at, *path;
    size_t len;

    if (!s)
        return fault(why, "does not begin with amqp://");
    if (!check_characters(text, why) || !check_percent(s, why))
        return false;
    len = strcspn(s, "/?#");
    at = memrchr(s, '@', len);
    if (at) {
        if (memchr(s, '@', (size_t)(at - s)))
            return fault(why, "has more than one \"@\" (one in a password is written %40)");
        len -= (size_t)(at - s) + 1;
        s = at + 1;
    }
    path = s + len;
    if (!check_authority(s, len, why))
        return false;
    if (*path && strpbrk(path + 1, "/?#"))
        return fault(why,
                     "has more than a virtual host after its server (a \"/\" in its name is written %2f)");
    return *path == '\0' || *path == '/' ? true : fault(why, "has a query");
}

bool config_check_redis_url(const char *text, struct buf *why)
{
    const char *sentence = redis_url_check(text);

    if (!sentence)
        return true;
    buf_printf(why, "is not a Redis URL: %s", sentence);
    return false;
}

static bool check_url(const char *text, const char *const *schemes, bool bare, struct buf *why)
{
    const char *s = after_scheme(text, schemes);
    size_t len;

    if (!s) {
        buf_add_str(why, "does not begin with ");
        for (; *schemes; schemes++)
            buf_printf(why, "%s%s", *schemes, schemes[1] ? " or " : "");
        return false;
    }
    if (!check_characters(text, why) || !check_percent(s, why))
        return false;
    if (strchr(s, '#'))
        return fault(why, "has a fragment (\"#\"), which is never sent");
    len = strcspn(s, "/?");
    if (memchr(s, '@', len))
        return fault(why, "has credentials before its host");
    if (memchr(s, '{', len) || memchr(s, '}', len))
        return fault(why, "has a name in braces before its path");
    if (bare && s[len] && strcmp(s + len, "/") != 0)
        return fault(why, "has more than host and port");
    return check_authority(s, len, why);
}

static const char *const http_schemes[] = {"http://", "https://", NULL};

bool config_check_http_url(const char *text, struct buf *why)
{
    if (strpbrk(text, "{}"))
        return fault(why, "has a brace");
    return check_url(text, http_schemes, false, why);
}

bool config_check_smtp_url(const char *text, struct buf *why)
{
    static const char *const schemes[] = {"smtp://", "smtps://", NULL};

    return check_url(text, schemes, true, why);
}

bool config_check_origin(const char *text, struct buf *why)
{
    const char *s = strstr(text, "://");

    if (strcmp(text, "*") == 0)
        return true;
    if (!s || s == text)
        return fault(why, "does not begin with a scheme");
    for (const char *c = text; c < s; c++) {
        if (!is_alnum(*c) && !is_one_of(*c, "+-."))
            return fault(why, "does not begin with a scheme");
    }
    /* A browser never sends a path, so an origin with one would never match. */
    if (strpbrk(s + 3, "/?#@"))
        return fault(why, "has more than scheme, host and port");
    return check_authority(s + 3, strlen(s + 3), why);
}

static bool is_access_name(void *user, const char *name)
{
    (void)user;
    if (strcmp(name, "key") == 0 || strcmp(name, "user") == 0 || strcmp(name, "ex") == 0)
        return true;
    if (strncmp(name, "key.", 4) != 0 || strspn(name + 4, "0123456789") != strlen(name + 4))
        return false;
    /* A pattern has at most TOPIC_WORDS_MAX words; "key.007" would be a second spelling. */
    return name[4] && strlen(name + 4) <= 3 && (name[4] != '0' || !name[5]) &&
           atoi(name + 4) < TOPIC_WORDS_MAX;
}

static bool is_user_name(void *user, const char *name)
{
    (void)user;
    return strcmp(name, "user") == 0;
}

static bool check_names(const char *text, bool (*known)(void *, const char *), struct buf *why)
{
    CLEANUP(freep) char *sentence = template_check(text, known, NULL);

    return sentence ? fault(why, sentence) : true;
}

bool config_check_template(const char *text, struct buf *why)
{
    return check_names(text, is_access_name, why);
}

bool config_check_access_url(const char *text, struct buf *why)
{
    return config_check_template(text, why) && check_url(text, http_schemes, false, why);
}

bool config_check_users_url(const char *text, struct buf *why)
{
    return check_names(text, is_user_name, why) && check_url(text, http_schemes, false, why);
}

bool config_check_file(const char *text, struct buf *why)
{
    CLEANUP(buf_done) struct buf bytes = {0};
    int r = config_file_read(text, CONFIG_SECRET_MAX, &bytes);

    if (r < 0)
        buf_printf(why, "cannot be read: %s", strerror(-r));
    return r == 0;
}

static void mask_userinfo(const char *url, bool wrong, struct buf *out)
{
    const char *s = strstr(url, "://"), *at, *colon;

    if (!s) {
        buf_add_str(out, "***");
        return;
    }
    s += 3;
    at = strrchr(s, '@');
    colon = strchr(s, ':');
    if (colon && at && colon < at) {
        buf_add(out, url, (size_t)(colon - url) + 1);
        buf_add_str(out, "***");
        buf_add_str(out, at);
    } else if (colon && !at && wrong) {
        /* "redis://:secret", its "@host" forgotten. */
        buf_add(out, url, (size_t)(colon - url) + 1);
        buf_add_str(out, "***");
    } else {
        buf_add_str(out, url);
    }
}

void config_mask_url(const char *url, bool wrong, struct buf *out)
{
    size_t len = strcspn(url, "?");
    CLEANUP(freep) char *front = strndup(url, len);

    if (!front) {
        out->failed = true;
        return;
    }
    /* What stands behind '?' are options, and one of them is a password; or it is a password's rest. */
    mask_userinfo(front, wrong, out);
    if (url[len])
        buf_add_str(out, "?***");
}
