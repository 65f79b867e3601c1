#include "gateway/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

static struct address from_ipv4(const void *four)
{
    struct address a = {.bytes = {[10] = 0xff, [11] = 0xff}};

    memcpy(a.bytes + 12, four, 4);
    return a;
}

bool address_from_sockaddr(const struct sockaddr *sa, struct address *ret_address)
{
    if (sa->sa_family == AF_INET)
        *ret_address = from_ipv4(&((const struct sockaddr_in *)(const void *)sa)->sin_addr);
    else if (sa->sa_family == AF_INET6)
        memcpy(ret_address->bytes, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    else
        return false;
    return true;
}

bool address_parse(const char *text, size_t len, struct address *ret_address)
{
    char host[ADDRESS_TEXT_MAX + 1] = "";
    const char *colon = memchr(text, ':', len);
    const char *close = memchr(text, ']', len);
    uint8_t four[4];

    if (len && text[0] == '[' && close) {
        text++;
        len = (size_t)(close - text);
    } else if (colon && !memchr(colon + 1, ':', len - (size_t)(colon + 1 - text))) {
        len = (size_t)(colon - text); /* one colon: IPv4 and a port */
    }
    if (len == 0 || len > ADDRESS_TEXT_MAX)
        return false;
    memcpy(host, text, len);
    if (inet_pton(AF_INET, host, four) == 1) {
        *ret_address = from_ipv4(four);
        return true;
    }
    return inet_pton(AF_INET6, host, ret_address->bytes) == 1;
}

void address_print(const struct address *a, char out[ADDRESS_TEXT_MAX])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    out[0] = '\0';
    if (memcmp(a->bytes, mapped, sizeof(mapped)) == 0)
        inet_ntop(AF_INET, a->bytes + 12, out, ADDRESS_TEXT_MAX);
    else
        inet_ntop(AF_INET6, a->bytes, out, ADDRESS_TEXT_MAX);
}

bool address_in(const struct address *a, const struct config_cidr *cidrs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int whole = cidrs[i].bits / 8, rest = cidrs[i].bits % 8;

        if (memcmp(a->bytes, cidrs[i].address, (size_t)whole) != 0)
            continue;
        if (rest == 0 || (a->bytes[whole] ^ cidrs[i].address[whole]) >> (8 - rest) == 0)
            return true;
    }
    return false;
}

struct address address_forwarded(const struct address *peer, const struct http_head *head,
                                 const struct config_cidr *trusted, size_t count)
{
    struct address hops[32], found = *peer;
    struct http_list at = {0};
    struct http_text element;
    size_t n = 0;

    if (!address_in(peer, trusted, count))
        return found;
    while (http_head_list(head, "x-forwarded-for", &at, &element)) {
        /* Only the end of the list is of interest: a long one is shifted. */
        if (n == sizeof(hops) / sizeof(hops[0])) {
            memmove(hops, hops + 1, sizeof(hops) - sizeof(hops[0]));
            n--;
        }
        if (!address_parse(element.at, element.len, &hops[n]))
            n = 0; /* nothing before a hop that cannot be read is worth anything */
        else
            n++;
    }
    while (n > 0) {
        found = hops[--n];
        if (!address_in(&found, trusted, count))
            break;
    }
    return found;
}

long address_proxy_header(const char *bytes, size_t len, struct address *address, bool *ret_broken)
{
    static const char signature[12] = "\r\n\r\n\0\r\nQUIT\n";
    const uint8_t *u = (const uint8_t *)bytes;
    size_t n = len < sizeof(signature) ? len : sizeof(signature);
    size_t total;

    *ret_broken = false;
    if (memcmp(bytes, signature, n) != 0)
        return -1;
    if (len < 16)
        return 0;
    total = 16u + ((size_t)u[14] << 8 | u[15]);
    if (u[12] >> 4 != 2 || (u[12] & 15) > 1 || total > 536) {
        *ret_broken = true;
        return -1;
    }
    if (len < total)
        return 0;
    if ((u[12] & 15) == 0) /* LOCAL: the proxy speaks for itself */
        return (long)total;
    if (u[13] >> 4 == 1 && total >= 16 + 12)
        *address = from_ipv4(u + 16);
    else if (u[13] >> 4 == 2 && total >= 16 + 36)
        memcpy(address->bytes, u + 16, 16);
    return (long)total;
}
