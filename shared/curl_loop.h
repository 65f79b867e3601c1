/* curl_loop.h - libcurl's multi interface on the program's own libuv loop.
 *
 * The owner of a transfer makes and keeps its easy handle (every option but CURLOPT_PRIVATE is his), and
 * hands it in; the end of the transfer is one callback, outside of libcurl, so that it may add, remove and
 * free handles. Set CURLOPT_NOSIGNAL, and CURLOPT_QUICK_EXIT: libcurl resolves names in a thread, and would
 * wait for it with our loop when the handle goes. */
#ifndef EF_CURL_LOOP_H
#define EF_CURL_LOOP_H

#include "shared/util.h"

#include <curl/curl.h>
#include <uv.h>

struct curl_loop;

typedef void curl_loop_cb(void *user, CURLcode code);

/* connections: at once, and kept open for the next transfer. NULL on lack of memory. */
struct curl_loop *curl_loop_new(uv_loop_t *loop, unsigned connections);
/* Begin. Returns 0 (then `cb` comes once, in a later turn, unless the transfer is removed) or -ENOMEM. */
MUST_CHECK
int curl_loop_add(struct curl_loop *l, CURL *easy, curl_loop_cb *cb, void *user);
/* End it without a callback: its connection is cut. Nothing happens if it is not in there. */
void curl_loop_remove(struct curl_loop *l, CURL *easy);
/* No transfer may be left. Its handles die in later turns, then `closed` is called (may be NULL). NULL is
 * fine. */
void curl_loop_close(struct curl_loop *l, void (*closed)(void *user), void *user);

#endif
