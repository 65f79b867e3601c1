/* address.h - who is really at the other end?
 *
 * The peer of a connection is its socket's address, unless that peer is one of gateway.trusted_proxies: then
 * a PROXY protocol v2 header (haproxy's proxy-protocol.txt, 2.2) and X-Forwarded-For are believed. Of
 * X-Forwarded-For the last address that is no trusted proxy counts: what stands before it is the client's own
 * claim. */
#ifndef EF_ADDRESS_H
#define EF_ADDRESS_H

#include "gateway/http_head.h"
#include "shared/config.h"

#include <sys/socket.h>

/* IPv6, or IPv4 as ::ffff:a.b.c.d. */
struct address {
    uint8_t bytes[16];
};

enum { ADDRESS_TEXT_MAX = 46 };

bool address_from_sockaddr(const struct sockaddr *sa, struct address *ret_address);
/* "1.2.3.4", "::1", also "1.2.3.4:567" and "[::1]:567" as some proxies write. */
bool address_parse(const char *text, size_t len, struct address *ret_address);
void address_print(const struct address *a, char out[ADDRESS_TEXT_MAX]);
bool address_in(const struct address *a, const struct config_cidr *cidrs, size_t count);

/* The client behind `peer`, by the X-Forwarded-For fields. */
struct address address_forwarded(const struct address *peer, const struct http_head *head,
                                 const struct config_cidr *trusted, size_t count);

/* Does `bytes` begin with a PROXY v2 header? Returns its length and sets *ret_address where it names one
 * (LOCAL and unknown families leave it); 0: not complete yet; -1: this is none, or a broken one
 * (*ret_broken). */
long address_proxy_header(const char *bytes, size_t len, struct address *address, bool *ret_broken);

#endif
