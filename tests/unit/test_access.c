#include "gateway/access.h"

#include "gateway/gateway_metrics.h"
#include "shared/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <jwt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/http_stub.h"
#include "tests/support/link_probe.h"
#include "tests/support/private_redis.h"

/* Real Redis, real sockets; the API is a stub on the same loop. */

#define SECRET       "0123456789abcdef0123456789abcdef"
#define OTHER_SECRET "fedcba9876543210fedcba9876543210"
#define OK_BODY      "{\"status\":\"ok\"}"

static struct private_redis redis;
static int64_t clock_ahead_ms; /* of the clock that the module sees */

static int64_t test_mono_ms(void)
{
    return clock_mono_ms() + clock_ahead_ms;
}

struct settings {
    int timeout_ms, grant_ttl_s, refuse_ttl_s, pending_max;
    const char *path; /* of exchange "ex"; NULL: "/check/{key}" */
    const char *host; /* NULL: 127.0.0.1 */
    int port;         /* 0: the stub's */
};

struct fixture {
    struct link_probe p;
    struct http_stub api, other; /* other: of exchange "second", and where redirects lead */
    struct metrics *metrics;
    struct config *config;
    struct token_keys *keys;
    struct access *access;
    int access_closed;
};

/* ---- configuration and tokens ---- */

static struct config *config_make(struct fixture *f, const struct settings *set)
{
    struct config *config = NULL;
    char *errors = NULL;
    struct buf text = {0};
    int r;

    buf_printf(&text,
               "{\"jwt\":{\"keys\":[]},\"access\":{\"timeout_ms\":%d,\"grant_ttl_s\":%d,\"refuse_ttl_s\":%d,"
               "\"pending_max\":%d},\"exchanges\":{",
               set->timeout_ms ? set->timeout_ms : 5000, set->grant_ttl_s ? set->grant_ttl_s : 300,
               set->refuse_ttl_s ? set->refuse_ttl_s : 5, set->pending_max ? set->pending_max : 10000);
    buf_printf(&text, "\"ex\":{\"access\":[{\"http\":\"http://%s:%d%s\"}]},",
               set->host ? set->host : "127.0.0.1", set->port ? set->port : f->api.port,
               set->path ? set->path : "/check/{key}");
    buf_printf(&text, "\"same\":{\"access\":[{\"http\":\"http://127.0.0.1:%d/check/{key}\"}]},", f->api.port);
    buf_printf(&text, "\"second\":{\"access\":[{\"http\":\"http://127.0.0.1:%d/check/{key}\"}]},",
               f->other.port);
    buf_add_str(&text, "\"open\":{\"access\":\"public\"},\"all\":{\"access\":[{\"allow\":true}]},"
                       "\"gids\":{\"access\":[{\"claim\":\"/gids\",\"has\":\"{key.0}\"}]}}}");
    r = config_parse(text.data, text.len, &config, &errors);
    if (r < 0)
        fail_msg("%s", errors ? errors : "no memory");
    buf_done(&text);
    return config;
}

static struct token_keys *keys_make(void)
{
    static char *algs[] = {"HS256"};
    struct config_jwt_key keys[] = {
        {.algs = algs, .alg_count = 1, .kid = "a", .file = "a", .text = SECRET, .text_len = strlen(SECRET)},
        {.algs = algs,
         .alg_count = 1,
         .kid = "b",
         .file = "b",
         .text = OTHER_SECRET,
         .text_len = strlen(SECRET)},
    };
    struct config_jwt jwt = {.keys = keys, .key_count = 2};
    struct token_keys *made;
    char *error = NULL;

    if (token_keys_new(&jwt, &made, &error) < 0)
        fail_msg("%s", error ? error : "no memory");
    return made;
}

static struct token *token_signed(struct fixture *f, const char *secret, const char *claims)
{
    struct token *token = NULL;
    jwt_t *jwt;
    char *raw;

    assert_int_equal(jwt_new(&jwt), 0);
    assert_int_equal(jwt_add_grants_json(jwt, claims), 0);
    assert_int_equal(jwt_set_alg(jwt, JWT_ALG_HS256, (const unsigned char *)secret, (int)strlen(secret)), 0);
    raw = jwt_encode_str(jwt);
    assert_non_null(raw);
    assert_int_equal(token_verify(f->keys, raw, strlen(raw), clock_wall_s(), &token), 0);
    free(raw);
    jwt_free(jwt);
    return token;
}

static struct token *token_of(struct fixture *f, const char *claims)
{
    return token_signed(f, SECRET, claims);
}

/* ---- fixture ---- */

static void fixture_begin(struct fixture *f, const struct settings *set, bool with_redis)
{
    memset(f, 0, sizeof(*f));
    clock_ahead_ms = 0;
    if (with_redis) {
        probe_start_and_wait_up(&f->p, redis.port);
        assert_int_equal(ASK(&f->p, "FLUSHALL").err, 0);
    } else {
        probe_open(&f->p, &(struct redis_link_conf){.url = "redis://127.0.0.1:1", .name = "never started"});
    }
    stub_start(&f->api, &f->p.loop);
    stub_start(&f->other, &f->p.loop);
    f->metrics = metrics_new(gateway_metric_rows, GATEWAY_METRIC_COUNT);
    f->config = config_make(f, set);
    f->keys = keys_make();
    f->access = access_new(&f->p.loop, f->config, f->p.link, f->metrics);
    assert_non_null(f->access);
    access_set_clock(f->access, test_mono_ms);
}

static void access_is_closed(void *user)
{
    struct fixture *f = user;

    f->access = NULL;
    f->access_closed++;
}

static void fixture_close_access(struct fixture *f)
{
    access_close(f->access, access_is_closed, f);
    WAIT_FOR(&f->p, f->access_closed == 1);
}

static void fixture_end(struct fixture *f)
{
    if (f->access)
        fixture_close_access(f);
    stub_stop(&f->api);
    stub_stop(&f->other);
    probe_done(&f->p); /* asserts that the loop runs dry */
    metrics_free(f->metrics);
    config_unref(f->config);
    token_keys_free(f->keys);
}

static double metric(struct fixture *f, size_t row, const char *label)
{
    return metric_value(metrics_get(f->metrics, row, label));
}

#define CHECKS(f, source)   ((int)metric((f), GM_ACCESS_CHECKS, (source)))
#define UNCACHED(f, reason) ((int)metric((f), GM_ACCESS_UNCACHED, (reason)))
#define BREAKER_GAUGE(f)    ((int)metric((f), GM_ACCESS_BREAKER, breaker_label(f)))

static const char *breaker_label(struct fixture *f)
{
    static char label[64];

    snprintf(label, sizeof(label), "http://127.0.0.1:%d", f->api.port);
    return label;
}

/* ---- asking ---- */

struct asked {
    struct fixture *f;
    int calls;
    enum access_verdict verdict;
    const char *text;
    struct access_check *check;    /* while it is pending */
    void (*then)(struct asked *a); /* in the callback */
    void *extra;
};

static void asked_cb(void *user, enum access_verdict verdict, const char *text)
{
    struct asked *a = user;

    assert_non_null(a->check);
    a->check = NULL;
    a->calls++;
    a->verdict = verdict;
    a->text = text;
    assert_non_null(text);
    assert_int_not_equal(verdict, ACCESS_PENDING);
    if (a->then)
        a->then(a);
}

/* Ask; a->calls is 1 if the verdict came at once. */
static void ask(struct fixture *f, struct asked *a, struct token *token, const char *exchange,
                const char *pattern)
{
    const struct config_exchange *x = config_exchange_find(f->config, exchange, strlen(exchange));

    assert_non_null(x);
    a->f = f;
    a->verdict =
        access_check(f->access, token, x, pattern, strlen(pattern), asked_cb, a, &a->check, &a->text);
    assert_int_equal(a->calls, 0); /* never before access_check has returned */
    if (a->verdict == ACCESS_PENDING) {
        assert_non_null(a->check);
        return;
    }
    a->calls = 1;
    assert_non_null(a->text);
}

static enum access_verdict verdict_of(struct fixture *f, struct token *token, const char *exchange,
                                      const char *pattern)
{
    struct asked a = {0};

    ask(f, &a, token, exchange, pattern);
    WAIT_FOR(&f->p, a.calls);
    assert_int_equal(a.calls, 1);
    return a.verdict;
}

/* One answer is in Redis and in memory. */
static void wait_stored(struct fixture *f, int entries)
{
    WAIT_FOR(&f->p, (int)metric(f, GM_ACCESS_CACHE, NULL) == entries);
}

/* The single key of an answer in Redis; the generation's key is made from it. */
static void answer_key(struct fixture *f, char key[128], char gen_key[128])
{
    struct answer a = ASK(&f->p, "EVAL",
                          "local k = redis.call('KEYS', 'event:access:*') "
                          "for _, v in ipairs(k) do if not v:find(':gen$') then return v end end return ''",
                          "0");
    char *brace;

    assert_int_equal(a.err, 0);
    snprintf(key, 128, "%.127s", a.text);
    brace = strstr(key, "}:");
    assert_non_null(brace);
    snprintf(gen_key, 128, "%.*s}:gen", (int)(brace - key), key);
}

static bool holds(struct fixture *f, const char *key, const char *value)
{
    return strcmp(ASK(&f->p, "GET", key).text, value) == 0;
}

static bool has_ended(struct fixture *f, const char *key)
{
    return ASK(&f->p, "EXISTS", key).integer == 0;
}

static int group_setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_ERROR);
    private_redis_start(&redis, NULL);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    private_redis_stop(&redis);
    return 0;
}

/* ---- what is sent ---- */

static void the_api_is_asked_with_the_clients_token_and_nothing_is_normalised(void **state)
{
    struct fixture f;
    struct token *t;
    char expected[4096];
    size_t len;

    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("ALL_PROXY", "http://127.0.0.1:1", 1);
    fixture_begin(&f, &(struct settings){.path = "/a/../b/{key}?x={ex}"}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "ok/../x?y.#"), ACCESS_GRANTED);
    snprintf(expected, sizeof(expected),
             "GET /a/../b/ok%%2F..%%2Fx%%3Fy.%%23?x=ex HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
             "User-Agent: event-fleet/" EF_VERSION
             "\r\nAuthorization: Bearer %s\r\nAccept: application/json\r\n\r\n",
             f.api.port, token_raw(t, &len));
    assert_string_equal(f.api.last_request, expected);
    token_unref(t);
    fixture_end(&f);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
}

static void local_rules_and_public_exchanges_ask_nobody(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\",\"gids\":[59]}");
    assert_int_equal(verdict_of(&f, NULL, "open", "#"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "open", "#"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "all", "#"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "gids", "59.x"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "gids", "59abc.x"), ACCESS_DENIED);
    assert_int_equal(verdict_of(&f, t, "ex", ".."), ACCESS_DENIED);
    assert_int_equal(verdict_of(&f, NULL, "all", "#"), ACCESS_DENIED);
    ask(&f, &a, NULL, "ex", "x");
    assert_int_equal(a.verdict, ACCESS_DENIED);
    assert_string_equal(a.text, "a token is needed");
    assert_int_equal(f.api.requests, 0);
    assert_int_equal(CHECKS(&f, "local"), 8);
    assert_int_equal((int)metric(&f, GM_ACCESS_VERDICTS, "granted"), 4);
    assert_int_equal((int)metric(&f, GM_ACCESS_VERDICTS, "denied"), 4);
    token_unref(t);
    fixture_end(&f);
}

/* ---- what answers mean ---- */

struct answer_row {
    const char *raw; /* NULL: the mode */
    enum stub_mode mode;
    enum access_verdict verdict;
    bool cached;
};

#define HEAD(status)  "HTTP/1.1 " status " X\r\nContent-Type: application/json\r\n"
#define BODY(n, body) "Content-Length: " n "\r\n\r\n" body

static const struct answer_row answer_rows[] = {
    {HEAD("200") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_GRANTED, true},
    {HEAD("200") "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"status\r\n7\r\n\":\"ok\"}\r\n0\r\n\r\n",
     STUB_ANSWER, ACCESS_GRANTED, true},
    {HEAD("200") BODY("15", "{\"status\":\"OK\"}"), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("200") BODY("19", "{\"status\":\"denied\"}"), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("200") BODY("15", "{\"status\":true}"), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("200") BODY("2", "{}"), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("401") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("403") BODY("0", ""), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("404") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_DENIED, true},
    {HEAD("400") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("500") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("13", "<html></html>"), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("17", "[{\"status\":\"ok\"}]"), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("4", "\"ok\""), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("4", "true"), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("31", "{\"status\":\"no\",\"status\":\"ok\"}  "), STUB_ANSWER, ACCESS_DENIED, false},
    {HEAD("200") BODY("0", ""), STUB_ANSWER, ACCESS_ERROR, false},
    {HEAD("200") BODY("4", "null"), STUB_ANSWER, ACCESS_ERROR, false},
    {"HTTP/1.1 204 X\r\n\r\n", STUB_ANSWER, ACCESS_ERROR, false},
    {HEAD("429") BODY("15", OK_BODY), STUB_ANSWER, ACCESS_ERROR, false},
    {"{\"status\":\"ok\"}", STUB_ANSWER, ACCESS_ERROR, false}, /* HTTP/0.9 */
    {NULL, STUB_RESET, ACCESS_ERROR, false},
    {NULL, STUB_EOF, ACCESS_ERROR, false},
};

static void every_answer_means_what_the_reference_table_says(void **state)
{
    struct fixture f;
    struct token *t;
    int stored = 0;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    for (size_t i = 0; i < ARRAY_LEN(answer_rows); i++) {
        const struct answer_row *row = &answer_rows[i];
        char pattern[32];
        int before;

        snprintf(pattern, sizeof(pattern), "row.%zu", i);
        if (row->raw)
            stub_say_raw(&f.api, row->raw, strlen(row->raw));
        f.api.mode = row->mode;
        if (verdict_of(&f, t, "ex", pattern) != row->verdict)
            fail_msg("row %zu, %s", i, row->raw ? row->raw : "(no answer)");
        stored += row->cached;
        wait_stored(&f, stored);
        before = f.api.requests;
        stub_say(&f.api, 200, OK_BODY);
        if (verdict_of(&f, t, "ex", pattern) != (row->cached ? row->verdict : ACCESS_GRANTED))
            fail_msg("row %zu the second time, %s", i, row->raw ? row->raw : "(no answer)");
        assert_int_equal(f.api.requests - before, row->cached ? 0 : 1);
        stored += !row->cached;
        wait_stored(&f, stored);
    }
    assert_int_equal(BREAKER_GAUGE(&f), 0);
    token_unref(t);
    fixture_end(&f);
}

static void a_refused_connection_is_an_error(void **state)
{
    struct fixture f;
    struct token *t;
    int port;

    (void)state;
    close(private_bound_socket(&port));
    fixture_begin(&f, &(struct settings){.port = port}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_ERROR);
    assert_int_equal((int)metric(&f, GM_ACCESS_HTTP, "network"), 1);
    token_unref(t);
    fixture_end(&f);
}

static void a_host_name_is_resolved_beside_the_loop(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){.host = "localhost"}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    ask(&f, &a, t, "ex", "b");
    token_unref(t);
    fixture_end(&f); /* while it resolves, or soon after */
    assert_int_equal(a.calls, 0);
}

static void a_redirect_is_not_followed(void **state)
{
    struct fixture f;
    struct token *t;
    char raw[256];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    snprintf(raw, sizeof(raw),
             "HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:%d/x\r\nContent-Length: 15\r\n\r\n%s",
             f.other.port, OK_BODY);
    stub_say_raw(&f.api, raw, strlen(raw));
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.other.requests, 0);
    assert_int_equal(f.api.requests, 1);
    token_unref(t);
    fixture_end(&f);
}

/* An answer of `size` bytes that begins like a grant. */
static char *long_answer(const char *head, size_t size)
{
    char *raw = malloc(size + 1);
    size_t len = strlen(head);

    assert_non_null(raw);
    memset(raw, ' ', size);
    memcpy(raw, head, len);
    raw[size] = '\0';
    return raw;
}

static void an_answer_that_is_too_long_is_cut_off(void **state)
{
    enum { SIZE = 4 * 1024 * 1024 };
    struct fixture f;
    struct token *t;
    char *ok = long_answer(HEAD("200") "Connection: close\r\n\r\n" OK_BODY, SIZE);
    char *refused = long_answer(HEAD("403") "Connection: close\r\n\r\n" OK_BODY, SIZE);
    char *header = long_answer(HEAD("200") "X-Long:", SIZE);

    (void)state;
    for (size_t i = strlen(HEAD("200")) + 7; i + 80 < SIZE; i += 80)
        memcpy(header + i + 70, "\r\nX: ", 5);
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    stub_say_raw(&f.api, ok, SIZE);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    stub_say_raw(&f.api, refused, SIZE);
    assert_int_equal(verdict_of(&f, t, "ex", "b"), ACCESS_DENIED);
    stub_say_raw(&f.api, header, SIZE);
    assert_int_equal(verdict_of(&f, t, "ex", "c"), ACCESS_DENIED);
    assert_int_equal((int)metric(&f, GM_ACCESS_HTTP, "nonsense"), 2);
    assert_int_equal((int)metric(&f, GM_ACCESS_HTTP, "refused"), 1);
    WAIT_FOR(&f.p, f.api.connections == 0);
    token_unref(t);
    fixture_end(&f);
    free(ok);
    free(refused);
    free(header);
}

static void an_api_that_does_not_answer_is_a_timeout_also_for_those_without_a_connection(void **state)
{
    enum { MANY = 150 };
    struct fixture f;
    struct token *t;
    struct asked a[MANY];
    int done = 0;
    int64_t start;

    (void)state;
    memset(a, 0, sizeof(a));
    fixture_begin(&f, &(struct settings){.timeout_ms = 300}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    start = clock_mono_ms();
    for (int i = 0; i < MANY; i++) {
        char pattern[16];

        snprintf(pattern, sizeof(pattern), "k.%d", i);
        ask(&f, &a[i], t, "ex", pattern);
        assert_int_equal(a[i].verdict, ACCESS_PENDING);
    }
    for (int i = 0; i < MANY; i++) {
        WAIT_FOR(&f.p, a[i].calls);
        done += a[i].verdict == ACCESS_TIMEOUT;
    }
    assert_int_equal(done, MANY);
    assert_true(clock_mono_ms() - start >= 300);
    assert_in_range(f.api.requests, 1, MANY - 1); /* some never had a connection */
    WAIT_FOR(&f.p, f.api.connections == 0);       /* the requests are dropped, not left behind */
    assert_int_equal((int)metric(&f, GM_ACCESS_PENDING, NULL), 0);
    assert_int_equal((int)metric(&f, GM_ACCESS_VERDICTS, "timeout"), MANY);
    token_unref(t);
    fixture_end(&f);
}

static void many_checks_share_few_connections_and_all_are_answered(void **state)
{
    enum { MANY = 1000 };
    struct fixture f;
    struct token *t;
    struct asked *a = calloc(MANY, sizeof(*a));

    (void)state;
    assert_non_null(a);
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    for (int i = 0; i < MANY; i++) {
        char pattern[16];

        snprintf(pattern, sizeof(pattern), "k.%d", i);
        ask(&f, &a[i], t, "ex", pattern);
    }
    for (int i = 0; i < MANY; i++) {
        WAIT_FOR(&f.p, a[i].calls);
        assert_int_equal(a[i].verdict, ACCESS_GRANTED);
    }
    assert_int_equal(f.api.requests, MANY);
    assert_in_range(f.api.connections_max, 1, 64);
    token_unref(t);
    fixture_end(&f);
    free(a);
}

/* ---- sharing ---- */

static void a_thousand_equal_checks_at_once_are_one_request(void **state)
{
    enum { MANY = 1000 };
    struct fixture f;
    struct token *t[2];
    struct asked *a = calloc(MANY, sizeof(*a));

    (void)state;
    assert_non_null(a);
    fixture_begin(&f, &(struct settings){0}, true);
    t[0] = token_of(&f, "{\"sub\":\"1\",\"iat\":1,\"exp\":9999999999}");
    t[1] = token_of(
        &f, "{\"iat\":2,\"exp\":9999999998,\"nbf\":5,\"sub\":\"1\"}"); /* the same but for its times */
    for (int i = 0; i < MANY; i++)
        ask(&f, &a[i], t[i % 2], "ex", "task.5f.#");
    assert_int_equal((int)metric(&f, GM_ACCESS_PENDING, NULL), MANY);
    for (int i = 0; i < MANY; i++) {
        WAIT_FOR(&f.p, a[i].calls);
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].verdict, ACCESS_GRANTED);
    }
    assert_int_equal(f.api.requests, 1);
    assert_int_equal(CHECKS(&f, "http"), 1);
    assert_int_equal(CHECKS(&f, "joined"), MANY - 1);
    assert_int_equal((int)metric(&f, GM_ACCESS_PENDING, NULL), 0);
    token_unref(t[0]);
    token_unref(t[1]);
    fixture_end(&f);
    free(a);
}

static void an_answer_is_shared_by_memory_and_by_redis(void **state)
{
    struct fixture f;
    struct token *t;
    char key[128], gen_key[128];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "memory"), 1);
    answer_key(&f, key, gen_key);
    assert_string_equal(ASK(&f.p, "GET", key).text, "1");
    assert_in_range(ASK(&f.p, "PTTL", key).integer, 290000, 300000);
    /* Another gateway. */
    fixture_close_access(&f);
    f.access = access_new(&f.p.loop, f.config, f.p.link, f.metrics);
    f.access_closed = 0;
    access_set_clock(f.access, test_mono_ms);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "redis"), 1);
    assert_int_equal(f.api.requests, 1);
    /* Memory keeps it for 30 s, then Redis is asked again. */
    clock_ahead_ms = 29000;
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "memory"), 2);
    clock_ahead_ms = 31000;
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "redis"), 2);
    assert_int_equal(f.api.requests, 1);
    token_unref(t);
    fixture_end(&f);
}

static void what_differs_in_anything_is_not_shared(void **state)
{
    static const char *const claims[] = {
        "{\"sub\":\"1\"}",
        "{\"sub\":\"2\"}",
        "{\"sub\":\"1\",\"gids\":[1]}",
        "{\"sub\":\"1\",\"gids\":[2]}",
        "{\"sub\":1}",
        "{\"jti\":\"x\"}",
        "{\"jti\":\"y\"}",
        "{}",
    };
    struct fixture f;
    struct token *t;
    int n = 0;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < ARRAY_LEN(claims); i++) {
            t = token_of(&f, claims[i]);
            assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
            token_unref(t);
        }
        if (round == 0) {
            n = ARRAY_LEN(claims);
            assert_int_equal(f.api.requests, n);
            wait_stored(&f, n);
        }
    }
    assert_int_equal(f.api.requests, n); /* all of the second round was known */
    t = token_signed(&f, OTHER_SECRET, claims[0]);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, ++n);
    token_unref(t);
    t = token_of(&f, claims[0]);
    assert_int_equal(verdict_of(&f, t, "same", "a"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, ++n);
    assert_int_equal(verdict_of(&f, t, "ex", "a.#"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, ++n);
    token_unref(t);
    fixture_end(&f);
}

static void users_refusals_are_their_own(void **state)
{
    struct fixture f;
    struct token *one, *two;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    one = token_of(&f, "{\"sub\":\"1\"}");
    two = token_of(&f, "{\"sub\":\"2\"}");
    assert_int_equal(verdict_of(&f, one, "ex", "a"), ACCESS_GRANTED);
    stub_say(&f.api, 403, "{}");
    assert_int_equal(verdict_of(&f, two, "ex", "a"), ACCESS_DENIED);
    wait_stored(&f, 2);
    assert_int_equal(verdict_of(&f, one, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, two, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.api.requests, 2);
    token_unref(one);
    token_unref(two);
    fixture_end(&f);
}

/* ---- ends ---- */

static void an_answer_ends_with_its_ttl(void **state)
{
    struct fixture f;
    struct token *t;
    char key[128], gen_key[128];

    (void)state;
    fixture_begin(&f, &(struct settings){.refuse_ttl_s = 1}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    stub_say(&f.api, 200, "{\"status\":\"no\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    wait_stored(&f, 1);
    answer_key(&f, key, gen_key);
    assert_string_equal(ASK(&f.p, "GET", key).text, "0");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.api.requests, 1);
    WAIT_FOR(&f.p, has_ended(&f, key));
    stub_say(&f.api, 200, OK_BODY);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, 2);
    token_unref(t);
    fixture_end(&f);
}

static void a_copy_in_memory_ends_with_the_entry_in_redis(void **state)
{
    struct fixture f;
    struct token *t;
    char key[128], gen_key[128];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    answer_key(&f, key, gen_key);
    clock_ahead_ms = 31000; /* memory has forgotten */
    assert_int_equal(ASK(&f.p, "PEXPIRE", key, "1000").integer, 1);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "redis"), 1);
    WAIT_FOR(&f.p, has_ended(&f, key));
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "memory"), 0);
    assert_int_equal(f.api.requests, 2);
    token_unref(t);
    fixture_end(&f);
}

static void an_answer_ends_with_the_token_and_so_does_the_token(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};
    char claims[64], key[128], gen_key[128];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    snprintf(claims, sizeof(claims), "{\"sub\":\"1\",\"exp\":%lld}", (long long)clock_wall_s() + 2);
    t = token_of(&f, claims);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    answer_key(&f, key, gen_key);
    assert_in_range(ASK(&f.p, "PTTL", key).integer, 1, 2000);
    WAIT_FOR(&f.p, clock_wall_s() >= token_end_s(t));
    ask(&f, &a, t, "ex", "a");
    assert_int_equal(a.verdict, ACCESS_DENIED);
    assert_string_equal(a.text, "the token has expired");
    ask(&f, &(struct asked){0}, t, "all", "a");
    assert_int_equal((int)metric(&f, GM_ACCESS_VERDICTS, "denied"), 2);
    token_unref(t);
    fixture_end(&f);
}

static void a_grant_that_comes_after_the_waiters_token_has_ended_is_none(void **state)
{
    struct fixture f;
    struct token *lasting, *ending;
    struct asked a = {0}, b = {0};
    char claims[64];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    snprintf(claims, sizeof(claims), "{\"sub\":\"1\",\"exp\":%lld}", (long long)clock_wall_s() + 1);
    lasting = token_of(&f, "{\"sub\":\"1\"}");
    ending = token_of(&f, claims);
    f.api.mode = STUB_HOLD;
    ask(&f, &a, lasting, "ex", "a");
    ask(&f, &b, ending, "ex", "a");
    assert_int_equal(b.verdict, ACCESS_PENDING);
    WAIT_FOR(&f.p, f.api.requests == 1 && clock_wall_s() >= token_end_s(ending));
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, a.calls && b.calls);
    assert_int_equal(a.verdict, ACCESS_GRANTED);
    assert_int_equal(b.verdict, ACCESS_DENIED);
    assert_int_equal(f.api.requests, 1);
    token_unref(lasting);
    token_unref(ending);
    fixture_end(&f);
}

/* ---- Redis ---- */

static void an_answer_is_not_kept_if_the_generation_changed_meanwhile(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};
    char key[128], gen_key[128];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "first"), ACCESS_GRANTED); /* tells us the user's digest */
    wait_stored(&f, 1);
    answer_key(&f, key, gen_key);
    assert_int_equal(ASK(&f.p, "DEL", key).integer, 1);
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 2);
    assert_int_equal(ASK(&f.p, "INCR", gen_key).integer, 1);
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, a.calls && UNCACHED(&f, "generation") == 1);
    assert_int_equal(ASK(&f.p, "DBSIZE").integer, 1); /* the generation */
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, 3);
    wait_stored(&f, 2); /* now under the new generation */
    assert_int_equal(ASK(&f.p, "DBSIZE").integer, 2);
    token_unref(t);
    fixture_end(&f);
}

static void what_is_none_of_ours_in_redis_is_not_believed(void **state)
{
    static const char *const values[] = {"2", "", "true", "11", "1 "};
    struct fixture f;
    struct token *t;
    char key[128], gen_key[128];
    int requests;

    (void)state;
    fixture_begin(&f, &(struct settings){.refuse_ttl_s = 60}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    stub_say(&f.api, 403, "{}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    wait_stored(&f, 1);
    answer_key(&f, key, gen_key);
    requests = f.api.requests;
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        assert_int_equal(ASK(&f.p, "SET", key, values[i], "PX", "60000").err, 0);
        clock_ahead_ms += 61000; /* memory has forgotten */
        assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
        assert_int_equal(f.api.requests, ++requests);
        WAIT_FOR(&f.p, holds(&f, key, "0"));
    }
    /* A grant without an end. */
    assert_int_equal(ASK(&f.p, "SET", key, "1").err, 0);
    clock_ahead_ms += 61000;
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.api.requests, ++requests);
    WAIT_FOR(&f.p, holds(&f, key, "0"));
    /* Another type: Redis answers with an error. */
    clock_ahead_ms += 61000;
    assert_int_equal(ASK(&f.p, "DEL", key).err, 0);
    assert_int_equal(ASK(&f.p, "LPUSH", key, "1").err, 0);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.api.requests, ++requests);
    assert_int_equal(UNCACHED(&f, "redis_error"), 1);
    token_unref(t);
    fixture_end(&f);
}

static void without_redis_the_api_is_asked_each_time(void **state)
{
    struct fixture f;
    struct token *t;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, false);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    stub_say(&f.api, 403, "{}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_DENIED);
    assert_int_equal(f.api.requests, 2);
    assert_int_equal(UNCACHED(&f, "redis_down"), 2);
    assert_int_equal((int)metric(&f, GM_ACCESS_CACHE, NULL), 0);
    token_unref(t);
    fixture_end(&f);
}

static void a_slow_redis_is_waited_for_half_a_second(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};
    int64_t start;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    private_redis_signal(&redis, SIGSTOP);
    start = clock_mono_ms();
    ask(&f, &a, t, "ex", "b");
    WAIT_FOR(&f.p, a.calls);
    assert_int_equal(a.verdict, ACCESS_GRANTED);
    assert_in_range(clock_mono_ms() - start, 500, 5000);
    assert_int_equal(UNCACHED(&f, "redis_slow"), 1);
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED); /* memory helps */
    assert_int_equal(CHECKS(&f, "memory"), 1);
    private_redis_signal(&redis, SIGCONT);
    WAIT_FOR(&f.p, redis_link_outstanding(f.p.link) == 0);
    /* The late reply harmed nobody, and nothing was stored under a generation that nobody knew. */
    assert_int_equal(ASK(&f.p, "DBSIZE").integer, 1);
    assert_int_equal(verdict_of(&f, t, "ex", "b"), ACCESS_GRANTED);
    wait_stored(&f, 2);
    assert_int_equal(f.api.requests, 3);
    token_unref(t);
    fixture_end(&f);
}

static void redis_that_breaks_under_a_lookup_leads_to_the_api(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    private_redis_signal(&redis, SIGSTOP);
    ask(&f, &a, t, "ex", "a");
    uv_run(&f.p.loop, UV_RUN_NOWAIT);
    private_redis_kill(&redis);
    WAIT_FOR(&f.p, a.calls);
    assert_int_equal(a.verdict, ACCESS_GRANTED);
    assert_int_equal(UNCACHED(&f, "redis_error"), 1);
    assert_true(private_redis_launch(&redis));
    WAIT_FOR(&f.p, redis_link_is_up(f.p.link));
    assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    token_unref(t);
    fixture_end(&f);
}

/* ---- breaker ---- */

static void a_failing_api_is_left_alone_and_found_again(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};
    char pattern[16];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "known"), ACCESS_GRANTED);
    wait_stored(&f, 1);
    stub_say(&f.api, 500, OK_BODY);
    for (int i = 0; i < 5; i++) {
        snprintf(pattern, sizeof(pattern), "k.%d", i);
        assert_int_equal(verdict_of(&f, t, "ex", pattern), ACCESS_DENIED);
    }
    assert_int_equal(BREAKER_GAUGE(&f), 1);
    stub_say(&f.api, 200, OK_BODY);
    assert_int_equal(f.api.requests, 6);
    assert_int_equal(verdict_of(&f, t, "ex", "k.0"), ACCESS_ERROR);
    assert_int_equal(f.api.requests, 6);
    assert_int_equal(CHECKS(&f, "breaker"), 1);
    assert_int_equal(verdict_of(&f, t, "ex", "known"), ACCESS_GRANTED); /* what is known still is */
    assert_int_equal(verdict_of(&f, t, "second", "x"), ACCESS_GRANTED); /* another origin */
    /* The time is over: one tries, and fails. */
    clock_ahead_ms = 2100;
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "k.0");
    WAIT_FOR(&f.p, f.api.requests == 7);
    assert_int_equal(verdict_of(&f, t, "ex", "k.1"), ACCESS_ERROR);
    stub_release(&f.api, 503, "");
    WAIT_FOR(&f.p, a.calls);
    clock_ahead_ms += 2100; /* twice the time now */
    stub_say(&f.api, 200, OK_BODY);
    assert_int_equal(verdict_of(&f, t, "ex", "k.2"), ACCESS_ERROR);
    clock_ahead_ms += 2100;
    assert_int_equal(verdict_of(&f, t, "ex", "k.2"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "ex", "k.3"), ACCESS_GRANTED);
    assert_int_equal(f.api.requests, 9);
    assert_int_equal(BREAKER_GAUGE(&f), 0);
    token_unref(t);
    fixture_end(&f);
}

static void without_redis_an_open_breaker_answers_at_once(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, false);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_EOF;
    for (int i = 0; i < 5; i++)
        assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_ERROR);
    ask(&f, &a, t, "ex", "a");
    assert_int_equal(a.calls, 1);
    assert_int_equal(a.verdict, ACCESS_ERROR);
    assert_int_equal((int)metric(&f, GM_ACCESS_PENDING, NULL), 0);
    token_unref(t);
    fixture_end(&f);
}

static void one_clients_429_does_not_stop_the_others(void **state)
{
    struct fixture f;
    struct token *t;

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    stub_say(&f.api, 429, "{}");
    for (int i = 0; i < 10; i++)
        assert_int_equal(verdict_of(&f, t, "ex", "a"), ACCESS_ERROR);
    assert_int_equal(f.api.requests, 10);
    assert_int_equal(BREAKER_GAUGE(&f), 0);
    token_unref(t);
    fixture_end(&f);
}

/* ---- cancel, limits, re-entrancy ---- */

static void one_of_two_leaves_and_the_other_is_answered(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0}, b = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "a");
    ask(&f, &b, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 1);
    access_cancel(a.check); /* the one that began it */
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, b.calls);
    assert_int_equal(b.verdict, ACCESS_GRANTED);
    assert_int_equal(a.calls, 0);
    assert_int_equal((int)metric(&f, GM_ACCESS_PENDING, NULL), 0);
    token_unref(t);
    fixture_end(&f);
}

static void the_last_that_leaves_drops_the_request(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0}, b = {0}, c = {0}, d = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "a");
    ask(&f, &b, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 1);
    access_cancel(b.check);
    access_cancel(a.check);
    WAIT_FOR(&f.p, f.api.disconnects == 1);
    /* While Redis is asked. */
    ask(&f, &c, t, "ex", "a");
    access_cancel(c.check);
    ask(&f, &d, t, "ex", "a");
    stub_say(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, d.calls);
    assert_int_equal(d.verdict, ACCESS_GRANTED);
    assert_int_equal(f.api.requests, 2);
    assert_int_equal(a.calls + b.calls + c.calls, 0);
    token_unref(t);
    fixture_end(&f);
}

/* The first to hear cancels the second, asks the same again, and something else. */
static void cancel_and_ask_again(struct asked *a)
{
    struct asked *others = a->extra;
    struct token *t = token_of(a->f, "{\"sub\":\"1\"}");

    access_cancel(others[0].check);
    ask(a->f, &others[1], t, "ex", "a");
    ask(a->f, &others[2], t, "ex", "b");
    token_unref(t);
}

static void a_callback_may_check_and_cancel(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0}, last = {0}, others[3] = {{0}};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    a.then = cancel_and_ask_again;
    a.extra = others;
    ask(&f, &a, t, "ex", "a");
    ask(&f, &others[0], t, "ex", "a");
    ask(&f, &last, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 1);
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, a.calls && last.calls && others[1].calls && others[2].calls);
    assert_int_equal(others[0].calls, 0);
    assert_int_equal(others[1].verdict, ACCESS_GRANTED);
    assert_int_equal(others[2].verdict, ACCESS_GRANTED);
    assert_int_equal(CHECKS(&f, "redis"), 1); /* the second round found it there */
    assert_int_equal(f.api.requests, 2);
    token_unref(t);
    fixture_end(&f);
}

/* The only other one that waits leaves while the answer is told. */
static void cancel_extra(struct asked *a)
{
    access_cancel(((struct asked *)a->extra)->check);
}

static void the_last_waiter_may_be_cancelled_by_the_one_before(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0}, b = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    a.then = cancel_extra;
    a.extra = &b;
    ask(&f, &a, t, "ex", "a");
    ask(&f, &b, t, "ex", "a");
    WAIT_FOR(&f.p, a.calls);
    wait_stored(&f, 1);
    assert_int_equal(b.calls, 0);
    token_unref(t);
    fixture_end(&f);
}

static void too_many_that_wait_are_refused_at_once(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a[3] = {{0}}, b = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){.pending_max = 3}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    ask(&f, &a[0], t, "ex", "a");
    ask(&f, &a[1], t, "ex", "b");
    ask(&f, &a[2], t, "ex", "a");
    ask(&f, &b, t, "ex", "a");
    assert_int_equal(b.calls, 1);
    assert_int_equal(b.verdict, ACCESS_BUSY);
    access_cancel(a[1].check);
    memset(&b, 0, sizeof(b));
    ask(&f, &b, t, "ex", "a");
    assert_int_equal(b.verdict, ACCESS_PENDING);
    WAIT_FOR(&f.p, f.api.requests == 1);
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, a[0].calls && a[2].calls && b.calls);
    assert_int_equal(b.verdict, ACCESS_GRANTED);
    token_unref(t);
    fixture_end(&f);
}

/* ---- reload and close ---- */

static void new_rules_and_limits_hold_for_new_checks(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};
    static const char empty[] = "{\"jwt\":{\"keys\":[]},\"exchanges\":{}}";
    char *errors = NULL;
    char label[64];

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "known"), ACCESS_GRANTED);
    assert_int_equal(verdict_of(&f, t, "same", "known"), ACCESS_GRANTED);
    wait_stored(&f, 2);
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 3);
    config_unref(f.config);
    f.config =
        config_make(&f, &(struct settings){.port = f.other.port, .path = "/new/{key}", .timeout_ms = 200});
    access_reload(f.access, f.config);
    assert_int_equal(verdict_of(&f, t, "ex", "known"), ACCESS_GRANTED); /* another rule: asked anew */
    assert_int_equal(f.other.requests, 1);
    assert_non_null(strstr(f.other.last_request, "GET /new/known "));
    assert_int_equal(verdict_of(&f, t, "same", "known"), ACCESS_GRANTED); /* the same rule: still known */
    assert_int_equal(CHECKS(&f, "memory"), 1);
    stub_release(&f.api, 200, OK_BODY); /* the old flight goes on */
    WAIT_FOR(&f.p, a.calls);
    assert_int_equal(a.verdict, ACCESS_GRANTED);
    f.other.mode = STUB_HOLD;
    assert_int_equal(verdict_of(&f, t, "ex", "slow"), ACCESS_TIMEOUT);
    /* An origin that no rule asks any more is forgotten, with its breaker. */
    f.other.mode = STUB_EOF;
    for (int i = 0; i < 4; i++)
        assert_int_equal(verdict_of(&f, t, "ex", "x"), ACCESS_ERROR);
    snprintf(label, sizeof(label), "http://127.0.0.1:%d", f.other.port);
    assert_int_equal((int)metric(&f, GM_ACCESS_BREAKER, label), 1);
    access_reload(f.access, f.config); /* it is still asked */
    assert_int_equal((int)metric(&f, GM_ACCESS_BREAKER, label), 1);
    config_unref(f.config);
    assert_int_equal(config_parse(empty, strlen(empty), &f.config, &errors), 0);
    access_reload(f.access, f.config);
    assert_int_equal((int)metric(&f, GM_ACCESS_BREAKER, label), 0);
    token_unref(t);
    fixture_end(&f);
}

static void closing_with_checks_under_way_is_silent_and_leaves_nothing(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked in_http = {0}, joined = {0}, in_redis = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    assert_int_equal(verdict_of(&f, t, "ex", "idle connection"), ACCESS_GRANTED);
    f.api.mode = STUB_HOLD;
    ask(&f, &in_http, t, "ex", "a");
    ask(&f, &joined, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 2);
    ask(&f, &in_redis, t, "ex", "b");
    token_unref(t);
    fixture_close_access(&f);
    WAIT_FOR(&f.p, redis_link_outstanding(f.p.link) == 0 && f.api.connections == 0);
    assert_int_equal(in_http.calls + joined.calls + in_redis.calls, 0);
    fixture_end(&f);
}

static void closing_before_redis_confirms_a_store_is_fine(void **state)
{
    struct fixture f;
    struct token *t;
    struct asked a = {0};

    (void)state;
    fixture_begin(&f, &(struct settings){0}, true);
    t = token_of(&f, "{\"sub\":\"1\"}");
    f.api.mode = STUB_HOLD;
    ask(&f, &a, t, "ex", "a");
    WAIT_FOR(&f.p, f.api.requests == 1);
    private_redis_signal(&redis, SIGSTOP);
    stub_release(&f.api, 200, OK_BODY);
    WAIT_FOR(&f.p, a.calls);
    token_unref(t);
    assert_int_equal(redis_link_outstanding(f.p.link), 1);
    fixture_close_access(&f);
    private_redis_signal(&redis, SIGCONT);
    WAIT_FOR(&f.p, redis_link_outstanding(f.p.link) == 0);
    fixture_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_api_is_asked_with_the_clients_token_and_nothing_is_normalised),
        cmocka_unit_test(local_rules_and_public_exchanges_ask_nobody),
        cmocka_unit_test(every_answer_means_what_the_reference_table_says),
        cmocka_unit_test(a_refused_connection_is_an_error),
        cmocka_unit_test(a_host_name_is_resolved_beside_the_loop),
        cmocka_unit_test(a_redirect_is_not_followed),
        cmocka_unit_test(an_answer_that_is_too_long_is_cut_off),
        cmocka_unit_test(an_api_that_does_not_answer_is_a_timeout_also_for_those_without_a_connection),
        cmocka_unit_test(many_checks_share_few_connections_and_all_are_answered),
        cmocka_unit_test(a_thousand_equal_checks_at_once_are_one_request),
        cmocka_unit_test(an_answer_is_shared_by_memory_and_by_redis),
        cmocka_unit_test(what_differs_in_anything_is_not_shared),
        cmocka_unit_test(users_refusals_are_their_own),
        cmocka_unit_test(an_answer_ends_with_its_ttl),
        cmocka_unit_test(a_copy_in_memory_ends_with_the_entry_in_redis),
        cmocka_unit_test(an_answer_ends_with_the_token_and_so_does_the_token),
        cmocka_unit_test(a_grant_that_comes_after_the_waiters_token_has_ended_is_none),
        cmocka_unit_test(an_answer_is_not_kept_if_the_generation_changed_meanwhile),
        cmocka_unit_test(what_is_none_of_ours_in_redis_is_not_believed),
        cmocka_unit_test(without_redis_the_api_is_asked_each_time),
        cmocka_unit_test(a_slow_redis_is_waited_for_half_a_second),
        cmocka_unit_test(redis_that_breaks_under_a_lookup_leads_to_the_api),
        cmocka_unit_test(a_failing_api_is_left_alone_and_found_again),
        cmocka_unit_test(without_redis_an_open_breaker_answers_at_once),
        cmocka_unit_test(one_clients_429_does_not_stop_the_others),
        cmocka_unit_test(one_of_two_leaves_and_the_other_is_answered),
        cmocka_unit_test(the_last_that_leaves_drops_the_request),
        cmocka_unit_test(a_callback_may_check_and_cancel),
        cmocka_unit_test(the_last_waiter_may_be_cancelled_by_the_one_before),
        cmocka_unit_test(too_many_that_wait_are_refused_at_once),
        cmocka_unit_test(new_rules_and_limits_hold_for_new_checks),
        cmocka_unit_test(closing_with_checks_under_way_is_silent_and_leaves_nothing),
        cmocka_unit_test(closing_before_redis_confirms_a_store_is_fine),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
