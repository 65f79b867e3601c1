/* curl_loop.c - libcurl on libuv.
 *
 *   curl_loop_add -> multi handle -> uv_poll / uv_timer -> curl_multi_socket_action -> curl_multi_info_read
 * -> callback
 *
 * Failures:
 * - No memory for a socket's handle: that transfer is driven by nobody, and ends at its CURLOPT_TIMEOUT_MS.
 */
#include "shared/curl_loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct transfer {
    curl_loop_cb *cb;
    void *user;
};

/* One of libcurl's sockets on our loop. */
struct socket_poll {
    uv_poll_t handle;
    curl_socket_t fd;
    struct curl_loop *loop;
    struct socket_poll *prev, *next;
};

struct curl_loop {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    struct socket_poll *polls;
    size_t handles; /* timer and sockets that are not closed yet */
    size_t transfers;
    void (*closed)(void *user);
    void *closed_user;
};

static struct transfer *transfer_of(CURL *easy)
{
    struct transfer *t = NULL;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
    return t;
}

void curl_loop_remove(struct curl_loop *l, CURL *easy)
{
    struct transfer *t = transfer_of(easy);

    if (!t)
        return;
    curl_multi_remove_handle(l->multi, easy);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
    free(t);
    l->transfers--;
}

static void collect(struct curl_loop *l)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(l->multi, &left))) {
        CURL *easy = msg->easy_handle;
        CURLcode code = msg->data.result; /* msg dies with the handle */
        struct transfer *t;
        struct transfer done;

        if (msg->msg != CURLMSG_DONE)
            continue;
        t = transfer_of(easy);
        assert(t);
        done = *t;
        curl_loop_remove(l, easy);
        done.cb(done.user, code);
    }
}

/* ---- libcurl's callbacks ---- */

static void handle_closed(struct curl_loop *l)
{
    if (--l->handles > 0)
        return;
    curl_global_cleanup();
    if (l->closed)
        l->closed(l->closed_user);
    free(l);
}

static void poll_closed(uv_handle_t *handle)
{
    struct socket_poll *p = handle->data;
    struct curl_loop *l = p->loop;

    free(p);
    handle_closed(l);
}

static void timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct socket_poll *p = handle->data;
    struct curl_loop *l = p->loop;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    int running;

    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    (void)curl_multi_socket_action(l->multi, p->fd, flags, &running); /* failures come as messages */
    collect(l);
}

static struct socket_poll *poll_new(struct curl_loop *l, curl_socket_t fd)
{
    struct socket_poll *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->fd = fd;
    p->loop = l;
    if (uv_poll_init_socket(l->loop, &p->handle, fd) < 0) {
        free(p);
        return NULL;
    }
    p->handle.data = p;
    l->handles++;
    p->next = l->polls;
    if (p->next)
        p->next->prev = p;
    l->polls = p;
    curl_multi_assign(l->multi, fd, p);
    return p;
}

static void poll_close(struct socket_poll *p)
{
    *(p->prev ? &p->prev->next : &p->loop->polls) = p->next;
    if (p->next)
        p->next->prev = p->prev;
    uv_close((uv_handle_t *)&p->handle, poll_closed);
}

/* Answers 0 also where memory is lacking: -1 would make libcurl give up the multi handle for good. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *assigned)
{
    struct curl_loop *l = user;
    struct socket_poll *p = assigned;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (p) {
            curl_multi_assign(l->multi, fd, NULL);
            poll_close(p);
        }
        return 0;
    }
    if (!p)
        p = poll_new(l, fd);
    if (!p)
        return 0;
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    (void)uv_poll_start(&p->handle, events, on_poll); /* as above */
    return 0;
}

static void on_timer(uv_timer_t *timer)
{
    struct curl_loop *l = timer->data;
    int running;

    (void)curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(l);
}

static int on_timer_wish(CURLM *multi, long timeout_ms, void *user)
{
    struct curl_loop *l = user;

    (void)multi;
    if (timeout_ms < 0)
        uv_timer_stop(&l->timer);
    else
        uv_timer_start(&l->timer, on_timer, (uint64_t)timeout_ms, 0);
    return 0;
}

/* ---- the module ---- */

struct curl_loop *curl_loop_new(uv_loop_t *loop, unsigned connections)
{
    struct curl_loop *l = calloc(1, sizeof(*l));

    if (!l || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(l);
        return NULL;
    }
    l->multi = curl_multi_init();
    if (!l->multi) {
        curl_global_cleanup();
        free(l);
        return NULL;
    }
    l->loop = loop;
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    l->handles = 1;
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, on_timer_wish);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)connections);
    curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, (long)connections);
    return l;
}

int curl_loop_add(struct curl_loop *l, CURL *easy, curl_loop_cb *cb, void *user)
{
    struct transfer *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    *t = (struct transfer){cb, user};
    curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
    if (curl_multi_add_handle(l->multi, easy) != CURLM_OK) {
        curl_easy_setopt(easy, CURLOPT_PRIVATE, NULL);
        free(t);
        return -ENOMEM;
    }
    l->transfers++;
    return 0;
}

void curl_loop_close(struct curl_loop *l, void (*closed)(void *user), void *user)
{
    if (!l)
        return;
    assert(l->transfers == 0);
    l->closed = closed;
    l->closed_user = user;
    curl_multi_cleanup(l->multi); /* closes its connections, and says so to on_socket */
    while (l->polls)
        poll_close(l->polls);
    uv_close((uv_handle_t *)&l->timer, timer_closed);
}
