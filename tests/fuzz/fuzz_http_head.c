/* What a stranger can send before a session: the PROXY header, the head, the addresses in it, and what is
 * decided about it. */
#include "gateway/address.h"
#include "gateway/upgrade.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct config *config;
static struct token_keys *keys;

static void load(void)
{
    static const char text[] =
        "{\"jwt\":{\"keys\":[]},\"exchanges\":{\"wf\":{\"access\":\"public\"}},"
        "\"gateway\":{\"origins\":[\"https://a\"],\"trusted_proxies\":[\"10.0.0.0/8\",\"fd00::/8\"]}}";
    char *error = NULL;

    if (config_parse(text, sizeof(text) - 1, &config, &error) != 0 ||
        token_keys_new(&config->jwt, &keys, &error) != 0)
        abort();
}

static bool inside(struct http_text t, const char *bytes, size_t len)
{
    return t.at >= bytes && t.at + t.len <= bytes + len;
}

static void check_list(const struct http_head *h, const char *name, const char *bytes, size_t len)
{
    struct http_list at = {0};
    struct http_text element;
    size_t total = 0;

    while (http_head_list(h, name, &at, &element)) {
        assert(element.len > 0 && inside(element, bytes, len));
        assert(!memchr(element.at, ',', element.len));
        total += element.len;
    }
    assert(total <= len);
}

/* Of an answer, nothing but its own end may be an empty line: what came in must not make fields or a body. */
static void check_answer(const struct http_head *h)
{
    struct buf out = {0};
    char *end;

    http_answer(&out, config, h, 404, NULL, "text/plain", NULL);
    assert(buf_status(&out) == 0);
    end = strstr(out.data, "\r\n\r\n");
    assert(end && end + 4 == out.data + out.len);
    buf_done(&out);
}

static void check_head(const char *bytes, size_t len, const struct address *peer)
{
    static struct http_head head;
    struct http_text text;
    struct token *token = NULL;
    struct address from;
    char printed[ADDRESS_TEXT_MAX];
    const char *why;

    if (http_head_parse(bytes, len, &head) != 0)
        return;
    assert(head.field_count <= HTTP_FIELDS_MAX && head.path.len > 0 && head.path.at[0] == '/');
    assert(inside(head.method, bytes, len) && inside(head.path, bytes, len) &&
           inside(head.query, bytes, len));
    for (size_t i = 0; i < head.field_count; i++) {
        assert(inside(head.fields[i].name, bytes, len) && inside(head.fields[i].value, bytes, len));
        assert(!memchr(head.fields[i].value.at, '\n', head.fields[i].value.len));
    }
    check_list(&head, "sec-websocket-protocol", bytes, len);
    check_list(&head, "x-forwarded-for", bytes, len);
    from =
        address_forwarded(peer, &head, config->gateway.trusted_proxies, config->gateway.trusted_proxy_count);
    address_print(&from, printed);
    assert(address_parse(printed, strlen(printed), &from));
    assert((upgrade_check(&head, &why) == 0) == (why == NULL));
    if (why == NULL)
        assert(http_head_field(&head, "sec-websocket-key", &text) == 1 && text.len == 24);
    (void)upgrade_kind(&head);
    (void)upgrade_origin_allowed(config, &head);
    if (upgrade_subprotocol(&head, &text))
        assert(text.len > 0 && inside(text, bytes, len));
    /* No key verifies anything, so a token is refused, and only its absence is let through. */
    (void)!upgrade_token(config, keys, &head, 1700000000, &token);
    assert(!token);
    check_answer(&head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    struct address peer = {.bytes = {[10] = 0xff, [11] = 0xff, [12] = 10}};
    bool broken = false;
    size_t head_len;
    long skip = 0;

    if (!config)
        load();
    if (size > 0) {
        skip = address_proxy_header(bytes, size, &peer, &broken);
        assert(skip <= (long)size && (!broken || skip < 0));
        if (skip == 0 || broken)
            return 0;
        skip = skip < 0 ? 0 : skip;
    }
    head_len = http_head_len(bytes + skip, size - (size_t)skip);
    assert(head_len <= size - (size_t)skip);
    if (head_len)
        check_head(bytes + skip, head_len, &peer);
    return 0;
}
