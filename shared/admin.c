/* admin.c - probes and metrics over HTTP, on the program's own loop (http_listener.c says how).
 *
 * Failures:
 * - Too many connections (ADMIN_CONNECTIONS_MAX) or silent ones (ADMIN_IDLE_S): the kernel's backlog keeps
 *   new ones until old ones have gone. Probes fail then, as they should.
 * - A request with a body: answered at its headers, and the connection is closed, so that nobody has to agree
 *   where the body ends. */
#include "shared/admin.h"

#include "shared/http_listener.h"
#include "shared/worker_pipe.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Connections at once: a handful of probes and scrapers; more is a fault of theirs. */
enum { ADMIN_CONNECTIONS_MAX = 64 };
/* A connection that says nothing for so long is closed. */
enum { ADMIN_IDLE_S = 10 };
/* How long --health waits; orchestrators give up at about the same time. */
enum { HEALTH_TIMEOUT_MS = 3000 };
/* What --health prints at most. */
enum { HEALTH_BODY_MAX = 64 * 1024 };

struct admin {
    struct http_listener *listener; /* NULL in a worker, */
    struct worker_pipe *pipe;       /* which has this instead */
    const struct admin_source *source;
    void *source_user;
    /* For own_source. */
    struct metrics *metrics;
    struct ready *ready;
    admin_refresh_cb *refresh;
    void *user;
};

/* ---- Answers ---- */

static const struct http_header no_store[] = {{"Cache-Control", "no-store"}, {"Allow", "GET, HEAD"}};

/* body: taken. */
static void answer(struct http_request *request, unsigned status, const char *type, struct buf *body)
{
    http_request_answer(request, status, type, body, no_store, status == 405 ? 2 : 1);
}

static void answer_text(struct http_request *request, unsigned status, const char *text)
{
    struct buf body = {0};

    buf_add_str(&body, text);
    answer(request, status, "text/plain; charset=utf-8", &body);
}

static bool own_ready(void *user, struct buf *out)
{
    struct admin *a = user;
    json_t *report = NULL;
    bool ready = ready_eval(a->ready, &report);
    CLEANUP(freep) char *text = report ? json_dumps(report, JSON_COMPACT) : NULL;

    json_decref(report);
    /* The verdict matters more than its reasons. */
    buf_add_str(out, text ? text : ready ? "{\"ready\":true}" : "{\"ready\":false}");
    return ready;
}

static void own_metrics(void *user, struct buf *out)
{
    struct admin *a = user;

    if (a->refresh)
        a->refresh(a->user);
    metrics_render(a->metrics, out);
}

static const struct admin_source own_source = {own_metrics, own_ready};

static void answer_ready(struct admin *a, struct http_request *request)
{
    struct buf body = {0};
    bool ready = a->source->ready(a->source_user, &body);

    buf_add_char(&body, '\n');
    answer(request, ready ? 200 : 503, "application/json", &body);
}

static void answer_metrics(struct admin *a, struct http_request *request)
{
    struct buf body = {0};

    a->source->metrics(a->source_user, &body);
    answer(request, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

/* In a worker: the supervisor asks. */
static bool on_question(void *user, char question, struct buf *text)
{
    struct admin *a = user;

    if (question == 'r')
        return a->source->ready(a->source_user, text);
    a->source->metrics(a->source_user, text);
    return true;
}

static void on_request(void *user, struct http_request *request)
{
    const char *method = http_request_method(request), *path = http_request_path(request);
    struct admin *a = user;

    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        answer_text(request, 405, "only GET and HEAD\n");
    else if (strcmp(path, "/livez") == 0)
        answer_text(request, 200, "ok\n");
    else if (strcmp(path, "/readyz") == 0)
        answer_ready(a, request);
    else if (strcmp(path, "/metrics") == 0)
        answer_metrics(a, request);
    else
        answer_text(request, 404, "try /livez, /readyz or /metrics\n");
}

static int admin_open(uv_loop_t *loop, const char *listen, struct admin *a)
{
    static const char pipe_prefix[] = "pipe:";
    struct http_listener_conf conf = {
        .listen = listen, .connections_max = ADMIN_CONNECTIONS_MAX, .idle_s = ADMIN_IDLE_S};

    if (strncmp(listen, pipe_prefix, strlen(pipe_prefix)) == 0)
        return worker_pipe_start(loop, atoi(listen + strlen(pipe_prefix)), on_question, a, &a->pipe);
    return http_listener_start(loop, &conf, on_request, a, &a->listener);
}

int admin_start_source(uv_loop_t *loop, const char *listen, const struct admin_source *source, void *user,
                       struct admin **ret_admin)
{
    struct admin *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return -ENOMEM;
    a->source = source;
    a->source_user = user;
    r = admin_open(loop, listen, a);
    if (r < 0) {
        free(a);
        return r;
    }
    *ret_admin = a;
    return 0;
}

int admin_start(uv_loop_t *loop, const char *listen, struct metrics *metrics, struct ready *ready,
                admin_refresh_cb *refresh, void *user, struct admin **ret_admin)
{
    struct admin *a;
    int r = admin_start_source(loop, listen, &own_source, NULL, &a);

    if (r < 0)
        return r;
    a->source_user = a;
    a->metrics = metrics;
    a->ready = ready;
    a->refresh = refresh;
    a->user = user;
    *ret_admin = a;
    return 0;
}

uint16_t admin_port(const struct admin *a)
{
    return a->listener ? http_listener_port(a->listener) : 0;
}

void admin_close(struct admin *a)
{
    if (!a)
        return;
    worker_pipe_close(a->pipe);
    http_listener_close(a->listener); /* answers are given at once, so nothing comes after this */
    free(a);
}

/* ---- --health ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *user)
{
    struct buf *body = user;
    size_t room = HEALTH_BODY_MAX - body->len;
    size_t n = size * count;

    buf_add(body, bytes, n < room ? n : room);
    return n;
}

static void curl_cleanup(CURL **curl)
{
    curl_easy_cleanup(*curl);
}

int admin_health(const char *listen)
{
    CLEANUP(curl_cleanup) CURL *curl = curl_easy_init();
    CLEANUP(buf_done) struct buf body = {0};
    char url[128];
    long status = 0;
    CURLcode code;

    if (!curl || http_listen_url(listen, url, sizeof(url) - sizeof("/readyz")) < 0) {
        fprintf(stderr, "cannot ask '%s': %s\n", listen, curl ? "not an address and a port" : "no memory");
        return 1;
    }
    strcat(url, "/readyz"); /* room was left for it */
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)HEALTH_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    code = curl_easy_perform(curl);
    if (code != CURLE_OK) {
        fprintf(stderr, "%s: %s\n", url, curl_easy_strerror(code));
        return 1;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (body.len)
        fwrite(body.data, 1, body.len, stdout);
    fflush(stdout);
    return status == 200 ? 0 : 1;
}
