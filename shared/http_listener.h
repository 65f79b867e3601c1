/* http_listener.h - an HTTP/1.1 server on the program's own libuv loop: the admin port, and the notifier's
 * API.
 *
 *   NEW --head--> (body) --> on_request --answered at once or in a later turn--> ANSWERED
 *
 * libmicrohttpd without threads: its epoll descriptor is polled. A request is handed over once, with all of
 * its body. What is wrong with a request before anybody may look at its meaning (two lengths, a body that is
 * too long) is a refusal: it is handed over as well, without a body, so that the program can word the answer.
 */
#ifndef EF_HTTP_LISTENER_H
#define EF_HTTP_LISTENER_H

#include "shared/buf.h"

#include <uv.h>

struct http_listener;
struct http_request;

struct http_listener_conf {
    const char *listen; /* "address:port", IPv6 in brackets, no host names; port 0: the kernel chooses */
    unsigned connections_max; /* at once; more wait in the kernel's backlog */
    unsigned idle_s;          /* a connection that says nothing for so long is closed */
    size_t body_max;          /* longest body, bytes. 0: bodies are not read, and end their connection */
};

struct http_header {
    const char *name, *value;
};

/* r: the program's until it calls http_request_answer, which it must, once. */
typedef void http_request_cb(void *user, struct http_request *r);

/* conf is borrowed for the call. Returns 0, -EINVAL for an address that is none, a negative errno of bind
 * (-EADDRINUSE, ...), or -ENOMEM. */
MUST_CHECK
int http_listener_start(uv_loop_t *loop, const struct http_listener_conf *conf, http_request_cb *on_request,
                        void *user, struct http_listener **ret_listener);
uint16_t http_listener_port(const struct http_listener *l);
/* Stops listening, cuts connections; handles die in later turns of the loop. Requests that are not answered
 * yet must still be, to nobody. Not from within on_request. NULL is fine. */
void http_listener_close(struct http_listener *l);

const char *http_request_method(const struct http_request *r);
/* As the client sent them, not decoded; query: what follows the first "?", or NULL. */
const char *http_request_path(const struct http_request *r);
const char *http_request_query(const struct http_request *r);
/* The first header of that name (any case), or NULL. */
const char *http_request_header(const struct http_request *r, const char *name);
/* Is there exactly one header of that name? */
bool http_request_has_one(const struct http_request *r, const char *name);
const char *http_request_body(const struct http_request *r, size_t *ret_len);
/* 0, or the status to refuse it with: 400 (its length is doubtful), 413 (the body is too long). */
unsigned http_request_refusal(const struct http_request *r);
/* The answer. type NULL: no Content-Type. body: taken; NULL: empty. headers: copied. Without memory the
 * connection is closed without an answer. `r` is gone. */
void http_request_answer(struct http_request *r, unsigned status, const char *type, struct buf *body,
                         const struct http_header *headers, size_t header_count);

/* "http://address:port" that a listen address is reached at from this machine (a wildcard: loopback).
 * -EINVAL. */
MUST_CHECK
int http_listen_url(const char *listen, char *url, size_t size);

#endif
