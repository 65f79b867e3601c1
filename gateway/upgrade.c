#include "gateway/upgrade.h"

#include "shared/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* `path` in any case of letters, with or without a slash behind it: what the reference's router took. */
static bool path_is(struct http_text path, const char *name)
{
    if (path.len > 1 && path.at[path.len - 1] == '/')
        path.len--;
    return http_text_is_fold(path, name);
}

bool upgrade_path_is_subscribe(struct http_text path)
{
    return path_is(path, "/subscribe");
}

bool upgrade_path_is_health(struct http_text path)
{
    return path_is(path, "/health");
}

enum upgrade_kind upgrade_kind(const struct http_head *h)
{
    return http_head_list_has(h, "upgrade", "websocket") ? UPGRADE_WEBSOCKET : UPGRADE_NONE;
}

/* RFC 6455, 4.1: 16 bytes in base64, so 22 digits and "==". */
static bool key_is_valid(struct http_text key)
{
    if (key.len != 24 || key.at[22] != '=' || key.at[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++) {
        char c = key.at[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
              c == '/'))
            return false;
    }
    return true;
}

int upgrade_check(const struct http_head *h, const char **ret_why)
{
    struct http_text text;

    *ret_why = NULL;
    if (!http_text_is(h->method, "GET"))
        *ret_why = "a WebSocket handshake is a GET request";
    else if (h->minor < 1)
        *ret_why = "a WebSocket handshake needs HTTP/1.1";
    else if (http_head_field(h, "host", &text) != 1)
        *ret_why = "exactly one Host is needed";
    else if (!http_head_list_has(h, "connection", "upgrade"))
        *ret_why = "Connection: Upgrade is missing";
    else if (http_head_field(h, "sec-websocket-version", &text) != 1 || !http_text_is(text, "13"))
        *ret_why = "Sec-WebSocket-Version must be 13";
    else if (http_head_field(h, "sec-websocket-key", &text) != 1 || !key_is_valid(text))
        *ret_why = "Sec-WebSocket-Key must be 16 bytes in base64";
    else if (http_head_field(h, "origin", &text) > 1)
        *ret_why = "more than one Origin";
    else if (http_head_field(h, "authorization", &text) > 1)
        *ret_why = "more than one Authorization";
    return *ret_why ? 400 : 0;
}

static bool origin_listed(const struct config *c, struct http_text origin)
{
    for (size_t i = 0; i < c->gateway.origin_count; i++)
        if (strcmp(c->gateway.origins[i], "*") == 0 || http_text_is_fold(origin, c->gateway.origins[i]))
            return true;
    return false;
}

bool upgrade_origin_allowed(const struct config *c, const struct http_head *h)
{
    struct http_text origin;

    return http_head_field(h, "origin", &origin) == 0 || origin_listed(c, origin);
}

/* --- tokens --- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Percent-decode a query value; a broken escape stays as it is, and no token contains one. */
static void decode(struct buf *out, struct http_text value)
{
    for (size_t i = 0; i < value.len; i++) {
        int high = i + 2 < value.len && value.at[i] == '%' ? hex_digit(value.at[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(value.at[i + 2]) : -1;

        if (low >= 0) {
            buf_add_char(out, (char)(high << 4 | low));
            i += 2;
        } else {
            buf_add_char(out, value.at[i]);
        }
    }
}

enum find { FIND_NONE, FIND_TOKEN, FIND_BROKEN };

static enum find find_token(const struct http_head *h, struct buf *out)
{
    static const char bearer[] = "bearer";
    struct http_list at = {0};
    struct http_text text;
    size_t n;

    /* RFC 9110, 11.1: the scheme's case does not matter. Another scheme is none of ours. */
    if (http_head_field(h, "authorization", &text) && text.len >= 6 && strncasecmp(text.at, bearer, 6) == 0 &&
        (text.len == 6 || text.at[6] == ' ')) {
        size_t skip = 6;

        while (skip < text.len && text.at[skip] == ' ')
            skip++;
        buf_add(out, text.at + skip, text.len - skip);
        return FIND_TOKEN;
    }
    n = http_query(h->query, "jwt", &text);
    if (n > 1)
        return FIND_BROKEN;
    if (n == 1) {
        decode(out, text);
        return FIND_TOKEN;
    }
    while (http_head_list(h, "sec-websocket-protocol", &at, &text)) {
        if (text.len >= 7 && memcmp(text.at, "bearer.", 7) == 0) {
            buf_add(out, text.at + 7, text.len - 7);
            return FIND_TOKEN;
        }
    }
    return FIND_NONE;
}

static bool some_exchange_is_public(const struct config *c)
{
    for (size_t i = 0; i < c->exchange_count; i++)
        if (c->exchanges[i].is_public)
            return true;
    return false;
}

int upgrade_token(const struct config *c, const struct token_keys *keys, const struct http_head *h,
                  int64_t now_s, struct token **ret_token)
{
    CLEANUP(buf_done) struct buf raw = {0};
    int r;

    switch (find_token(h, &raw)) {
    case FIND_NONE:
        *ret_token = NULL;
        return some_exchange_is_public(c) ? 0 : CODE_BAD_TOKEN;
    case FIND_BROKEN:
        return CODE_BAD_TOKEN;
    case FIND_TOKEN:
        break;
    }
    if (buf_status(&raw) < 0)
        return -ENOMEM;
    r = token_verify(keys, raw.len ? raw.data : "", raw.len, now_s, ret_token);
    if (r == 0 || r == -ENOMEM)
        return r;
    return r == ERR_TOKEN_EXPIRED ? CODE_EXPIRED : CODE_BAD_TOKEN;
}

bool upgrade_subprotocol(const struct http_head *h, struct http_text *ret_name)
{
    struct http_list at = {0};
    struct http_text text;
    bool found = false;

    while (http_head_list(h, "sec-websocket-protocol", &at, &text)) {
        bool bearer = text.len >= 7 && memcmp(text.at, "bearer.", 7) == 0;

        if (!found || !bearer)
            *ret_name = text;
        found = true;
        if (!bearer)
            break;
    }
    return found;
}

/* --- answers --- */

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 429:
        return "Too Many Requests";
    default:
        return "Service Unavailable";
    }
}

/* The Fetch standard's CORS check: "*", or the page's own origin where it is listed. */
static void add_cors(struct buf *out, const struct config *c, const struct http_head *h)
{
    struct http_text origin;
    bool any = false;

    for (size_t i = 0; i < c->gateway.origin_count; i++)
        any |= strcmp(c->gateway.origins[i], "*") == 0;
    if (any)
        buf_add_str(out, "Access-Control-Allow-Origin: *\r\n");
    else if (http_head_field(h, "origin", &origin) && origin_listed(c, origin))
        buf_printf(out, "Access-Control-Allow-Origin: %.*s\r\nVary: Origin\r\n", (int)origin.len, origin.at);
}

void http_answer(struct buf *out, const struct config *c, const struct http_head *h, int status,
                 const char *extra, const char *type, const char *body)
{
    buf_printf(out, "HTTP/1.1 %d %s\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n", status,
               status_text(status));
    add_cors(out, c, h);
    if (extra)
        buf_add_str(out, extra);
    if (type)
        buf_printf(out, "Content-Type: %s\r\n", type);
    if (status != 204)
        buf_printf(out, "Content-Length: %zu\r\n", body ? strlen(body) : 0);
    buf_add_str(out, "\r\n");
    if (body && !http_text_is(h->method, "HEAD"))
        buf_add_str(out, body);
}
