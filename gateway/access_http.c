/* access_http.c - asks access-check APIs: HTTP on the program's loop, through curl_multi.
 *
 *   access_http_get -> breaker? -> easy handle into the multi handle
 *   uv_poll / uv_timer -> curl_multi_socket_action -> curl_multi_info_read -> judge -> breaker -> callback
 *
 * Failures:
 * - No answer in time: our own deadline, not libcurl's, because libcurl does not count the time in which a
 *   request waits for one of the host's connections (7.88: such a request never times out).
 * - The answer is too long: cut off there; the status says what it is worth.
 * - The name does not resolve in time: libcurl resolves in a thread and would wait for it, with our loop,
 * when the handle goes; CURLOPT_QUICK_EXIT lets the thread end by itself.
 * - The API keeps failing: its breaker opens, which is logged, and access_http_get says -EAGAIN.
 *
 * Callbacks run outside of libcurl, so they may put and cancel questions. */
#include "gateway/access_http.h"

#include "gateway/gateway_metrics.h"
#include "shared/clock.h"
#include "shared/log.h"

#include <assert.h>
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A connection is not used for longer than this, so that an API that moved (DNS) is found again. */
enum { CONNECTION_LIFE_S = 300 };

static const struct {
    const char *label;
    enum breaker_outcome outcome;
} result_rows[] = {
#define X(name, label, breaker) [ACCESS_HTTP_##name] = {label, breaker},
    ACCESS_HTTP_RESULTS(X)
#undef X
};

struct origin {
    char *name;
    struct access_breaker breaker;
    size_t asking; /* requests that hold this */
    struct origin *next;
};

struct access_http_request {
    struct access_http *http;
    struct origin *origin;
    bool trying; /* its outcome decides about the open breaker */
    bool cut;    /* we stopped reading */
    CURL *easy;
    struct curl_slist *headers;
    struct buf body;
    size_t body_bytes, header_bytes; /* received */
    access_http_cb *cb;
    void *user;
    int64_t start_us, deadline_ms;
    struct access_http_request *prev, *next;
};

struct access_http {
    uv_loop_t *loop;
    struct metrics *metrics;
    int64_t (*mono_ms)(void);
    CURLM *multi;
    struct origin *origins;
    struct access_http_request *first, *last; /* by deadline */
    uv_timer_t curl_timer, deadline_timer;
    struct socket_poll *polls;
    size_t handles; /* timers and sockets that are not closed yet */
    void (*closed)(void *user);
    void *closed_user;
};

/* One of libcurl's sockets on our loop. */
struct socket_poll {
    uv_poll_t handle;
    curl_socket_t fd;
    struct access_http *http;
    struct socket_poll *prev, *next;
};

/* ---- judging ---- */

static enum access_http_result judge_body(const char *body, size_t len)
{
    enum access_http_result result = ACCESS_HTTP_NONSENSE;
    const char *status;
    json_t *json;

    if (!len)
        return ACCESS_HTTP_EMPTY;
    json = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    if (json_is_object(json)) {
        status = json_string_value(json_object_get(json, "status"));
        result = status && strcmp(status, "ok") == 0 ? ACCESS_HTTP_OK : ACCESS_HTTP_REFUSED;
    } else if (json_is_null(json)) {
        result = ACCESS_HTTP_EMPTY;
    }
    json_decref(json);
    return result;
}

enum access_http_result access_http_judge(long status, const char *body, size_t len)
{
    if (status >= 200 && status <= 299)
        return judge_body(body, len);
    if (status >= 500 && status <= 599)
        return ACCESS_HTTP_BROKEN;
    if (status == 429)
        return ACCESS_HTTP_BUSY;
    if (status == 401 || status == 403 || status == 404)
        return ACCESS_HTTP_REFUSED;
    return ACCESS_HTTP_NONSENSE;
}

void access_http_origin(struct buf *out, const char *url)
{
    const char *host = strstr(url, "://");
    size_t len;

    host = host ? host + 3 : url;
    for (const char *p = url; p < host; p++)
        buf_add_char(out, (char)tolower((unsigned char)*p));
    len = strcspn(host, "/?#");
    for (size_t i = len; i > 0; i--) {
        if (host[i - 1] == '@') {
            host += i;
            len -= i;
            break;
        }
    }
    for (size_t i = 0; i < len; i++)
        buf_add_char(out, (char)tolower((unsigned char)host[i]));
}

/* ---- origins ---- */

static struct origin *origin_get(struct access_http *h, const char *name)
{
    struct origin *o;

    for (o = h->origins; o; o = o->next)
        if (strcmp(o->name, name) == 0)
            return o;
    o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->name = strdup(name);
    if (!o->name) {
        free(o);
        return NULL;
    }
    o->next = h->origins;
    h->origins = o;
    return o;
}

static void origin_report(struct access_http *h, struct origin *o, bool trying, enum breaker_outcome outcome)
{
    enum breaker_state before = o->breaker.state;

    breaker_report(&o->breaker, h->mono_ms(), trying, outcome);
    if (o->breaker.state == before)
        return;
    metric_set(metrics_get(h->metrics, GM_ACCESS_BREAKER, o->name), o->breaker.state != BREAKER_CLOSED);
    if (o->breaker.state == BREAKER_CLOSED)
        log_info("ACCESS-API-BACK", "the access-check API answers again", LF_STR("origin", o->name));
    else if (outcome == BREAKER_FAILED)
        log_warn("ACCESS-API-FAILS",
                 "the access-check API keeps failing, its checks are refused until the next try",
                 LF_STR("origin", o->name), LF_INT("retry_ms", o->breaker.open_ms));
}

void access_http_prune(struct access_http *h, bool (*keep)(void *user, const char *origin), void *user)
{
    struct origin **at = &h->origins;

    while (*at) {
        struct origin *o = *at;

        if (o->asking || keep(user, o->name)) {
            at = &o->next;
            continue;
        }
        if (o->breaker.state != BREAKER_CLOSED)
            metric_set(metrics_get(h->metrics, GM_ACCESS_BREAKER, o->name), 0);
        *at = o->next;
        free(o->name);
        free(o);
    }
}

/* ---- requests ---- */

static void request_link(struct access_http_request *r)
{
    struct access_http *h = r->http;
    struct access_http_request *after = h->last;

    /* All have the same timeout but for a reload in between: the place is at, or near, the end. */
    while (after && after->deadline_ms > r->deadline_ms)
        after = after->prev;
    r->prev = after;
    r->next = after ? after->next : h->first;
    *(r->prev ? &r->prev->next : &h->first) = r;
    *(r->next ? &r->next->prev : &h->last) = r;
}

static void request_unlink(struct access_http_request *r)
{
    struct access_http *h = r->http;

    *(r->prev ? &r->prev->next : &h->first) = r->next;
    *(r->next ? &r->next->prev : &h->last) = r->prev;
}

/* Takes it out of libcurl and of our list, half-built ones too. */
static void request_free(struct access_http_request *r)
{
    if (r->easy) {
        curl_multi_remove_handle(r->http->multi, r->easy); /* nothing, if it is not in there */
        curl_easy_cleanup(r->easy);
    }
    curl_slist_free_all(r->headers);
    buf_done(&r->body);
    free(r);
}

static void request_end(struct access_http_request *r, enum access_http_result result)
{
    struct access_http *h = r->http;
    access_http_cb *cb = r->cb;
    void *user = r->user;

    metric_add(metrics_get(h->metrics, GM_ACCESS_HTTP, result_rows[result].label), 1);
    metric_observe(metrics_get(h->metrics, GM_ACCESS_HTTP_SECONDS, NULL),
                   (double)(clock_mono_us() - r->start_us) / 1e6);
    r->origin->asking--;
    origin_report(h, r->origin, r->trying, result_rows[result].outcome);
    request_unlink(r);
    request_free(r);
    cb(user, result);
}

void access_http_cancel(struct access_http_request *r)
{
    r->origin->asking--;
    origin_report(r->http, r->origin, r->trying, BREAKER_UNCERTAIN);
    request_unlink(r);
    request_free(r);
}

static void deadline_arm(struct access_http *h);

static void on_deadline(uv_timer_t *timer)
{
    struct access_http *h = timer->data;
    int64_t now = clock_mono_ms();

    while (h->first && h->first->deadline_ms <= now)
        request_end(h->first, ACCESS_HTTP_TIMEOUT);
    deadline_arm(h);
}

static void deadline_arm(struct access_http *h)
{
    int64_t wait;

    if (!h->first)
        return;
    wait = h->first->deadline_ms - clock_mono_ms();
    uv_timer_start(&h->deadline_timer, on_deadline, wait > 0 ? (uint64_t)wait : 0, 0);
}

static enum access_http_result request_result(struct access_http_request *r, CURLcode code)
{
    long status = 0;

    if (code == CURLE_OPERATION_TIMEDOUT)
        return ACCESS_HTTP_TIMEOUT;
    if (code != CURLE_OK && !r->cut)
        return ACCESS_HTTP_NETWORK;
    if (curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK || buf_status(&r->body) < 0)
        return ACCESS_HTTP_NETWORK;
    if (r->cut && status >= 200 && status <= 299)
        return ACCESS_HTTP_NONSENSE;
    return access_http_judge(status, r->body.data, r->body.len);
}

static void collect(struct access_http *h)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(h->multi, &left))) {
        struct access_http_request *r = NULL;
        CURLcode code = msg->data.result; /* msg dies with the handle */

        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &r);
        assert(r);
        request_end(r, request_result(r, code));
    }
}

/* ---- libcurl's callbacks ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct access_http_request *r = user;
    size_t len = size * count;

    r->body_bytes += len;
    if (r->body_bytes > ACCESS_HTTP_BODY_MAX) {
        r->cut = true;
        return 0;
    }
    buf_add(&r->body, bytes, len);
    return len;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *user)
{
    struct access_http_request *r = user;
    size_t len = size * count;

    (void)bytes;
    r->header_bytes += len;
    if (r->header_bytes > ACCESS_HTTP_HEADERS_MAX) {
        r->cut = true;
        return 0;
    }
    return len;
}

static void handle_closed(struct access_http *h)
{
    struct origin *o;

    if (--h->handles > 0)
        return;
    while ((o = h->origins)) {
        h->origins = o->next;
        free(o->name);
        free(o);
    }
    curl_global_cleanup();
    h->closed(h->closed_user);
    free(h);
}

static void poll_closed(uv_handle_t *handle)
{
    struct socket_poll *p = handle->data;
    struct access_http *h = p->http;

    free(p);
    handle_closed(h);
}

static void timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct socket_poll *p = handle->data;
    struct access_http *h = p->http;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    int running;

    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    /* A failure of one transfer is in its message; of all of them, ours to notice at the deadline. */
    (void)curl_multi_socket_action(h->multi, p->fd, flags, &running);
    collect(h);
}

static struct socket_poll *poll_new(struct access_http *h, curl_socket_t fd)
{
    struct socket_poll *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->fd = fd;
    p->http = h;
    if (uv_poll_init_socket(h->loop, &p->handle, fd) < 0) {
        free(p);
        return NULL;
    }
    p->handle.data = p;
    h->handles++;
    p->next = h->polls;
    if (p->next)
        p->next->prev = p;
    h->polls = p;
    curl_multi_assign(h->multi, fd, p);
    return p;
}

static void poll_close(struct socket_poll *p)
{
    *(p->prev ? &p->prev->next : &p->http->polls) = p->next;
    if (p->next)
        p->next->prev = p->prev;
    uv_close((uv_handle_t *)&p->handle, poll_closed);
}

/* Answers 0 also where memory is lacking: -1 would make libcurl give up the multi handle for good, while a
 * transfer that nobody drives ends at its deadline. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *assigned)
{
    struct access_http *h = user;
    struct socket_poll *p = assigned;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (p) {
            curl_multi_assign(h->multi, fd, NULL);
            poll_close(p);
        }
        return 0;
    }
    if (!p)
        p = poll_new(h, fd);
    if (!p)
        return 0;
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    (void)uv_poll_start(&p->handle, events, on_poll); /* as above */
    return 0;
}

static void on_curl_timer(uv_timer_t *timer)
{
    struct access_http *h = timer->data;
    int running;

    (void)curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(h);
}

static int on_timer_wish(CURLM *multi, long timeout_ms, void *user)
{
    struct access_http *h = user;

    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&h->curl_timer);
    else
        uv_timer_start(&h->curl_timer, on_curl_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

/* ---- the module ---- */

struct access_http *access_http_new(uv_loop_t *loop, struct metrics *metrics)
{
    struct access_http *h = calloc(1, sizeof(*h));

    if (!h || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(h);
        return NULL;
    }
    h->multi = curl_multi_init();
    if (!h->multi) {
        curl_global_cleanup();
        free(h);
        return NULL;
    }
    h->loop = loop;
    h->metrics = metrics;
    h->mono_ms = clock_mono_ms;
    uv_timer_init(loop, &h->curl_timer);
    uv_timer_init(loop, &h->deadline_timer);
    h->curl_timer.data = h->deadline_timer.data = h;
    h->handles = 2;
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timer_wish);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)ACCESS_HTTP_HOST_MAX);
    curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)ACCESS_HTTP_TOTAL_MAX);
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)ACCESS_HTTP_HOST_MAX);
    return h;
}

void access_http_set_clock(struct access_http *h, int64_t (*mono_ms)(void))
{
    h->mono_ms = mono_ms;
}

void access_http_close(struct access_http *h, void (*closed)(void *user), void *user)
{
    h->closed = closed;
    h->closed_user = user;
    while (h->first)
        access_http_cancel(h->first);
    curl_multi_cleanup(h->multi); /* closes its connections, and says so to on_socket */
    while (h->polls)
        poll_close(h->polls);
    uv_close((uv_handle_t *)&h->curl_timer, timer_closed);
    uv_close((uv_handle_t *)&h->deadline_timer, timer_closed);
}

static bool header_add(struct access_http_request *r, const char *line)
{
    struct curl_slist *list = curl_slist_append(r->headers, line);

    if (!list)
        return false;
    r->headers = list;
    return true;
}

static bool headers_set(struct access_http_request *r, const char *token, size_t token_len)
{
    CLEANUP(buf_done) struct buf line = {0};

    buf_add_str(&line, "Authorization: Bearer ");
    buf_add(&line, token, token_len);
    return buf_status(&line) == 0 && header_add(r, line.data) && header_add(r, "Accept: application/json");
}

static bool options_set(struct access_http_request *r, const char *url)
{
    CURLcode code = CURLE_OK;

#define SET(option, value) \
    if (code == CURLE_OK)  \
    code = curl_easy_setopt(r->easy, option, value)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_HTTPHEADER, r->headers);
    SET(CURLOPT_USERAGENT, "event-fleet/" EF_VERSION);
    SET(CURLOPT_PRIVATE, r);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, r);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, r);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, ""); /* whatever the environment says: the token goes to the configured host only */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L);
    SET(CURLOPT_MAXLIFETIME_CONN, (long)CONNECTION_LIFE_S);
#undef SET
    return code == CURLE_OK;
}

/* The token module lets nothing else pass; a header is no place to rely on that. */
static bool is_header_text(const char *token, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (token[i] <= ' ' || token[i] > '~')
            return false;
    return len > 0;
}

int access_http_get(struct access_http *h, const char *url, const char *origin, const char *token,
                    size_t token_len, int64_t timeout_ms, access_http_cb *cb, void *user,
                    struct access_http_request **ret_request)
{
    struct access_http_request *r;
    struct origin *o;
    bool trying;

    if (!is_header_text(token, token_len))
        return -EINVAL;
    o = origin_get(h, origin);
    if (!o)
        return -ENOMEM;
    if (!breaker_ask(&o->breaker, h->mono_ms(), &trying))
        return -EAGAIN;
    r = calloc(1, sizeof(*r));
    if (r) {
        *r = (struct access_http_request){.http = h, .origin = o, .trying = trying, .cb = cb, .user = user};
        r->easy = curl_easy_init();
    }
    if (!r || !r->easy || !headers_set(r, token, token_len) || !options_set(r, url) ||
        curl_multi_add_handle(h->multi, r->easy) != CURLM_OK) {
        breaker_report(&o->breaker, h->mono_ms(), trying, BREAKER_UNCERTAIN);
        if (r)
            request_free(r);
        return -ENOMEM;
    }
    o->asking++;
    r->start_us = clock_mono_us();
    r->deadline_ms = clock_mono_ms() + timeout_ms;
    request_link(r);
    if (h->first == r)
        deadline_arm(h);
    *ret_request = r;
    return 0;
}
