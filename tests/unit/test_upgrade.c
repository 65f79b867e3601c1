#include "gateway/upgrade.h"

#include <setjmp.h>
#include <stdarg.h>
#include <jwt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECRET "0123456789abcdef0123456789abcdef"

enum { NOW_S = 1700000000 };

/* --- requests
 * ------------------------------------------------------------------------------------------------ */

static char text_of_head[8192];

static const struct http_head *head_of(const char *request_line, const char *fields)
{
    static struct http_head head;
    int n = snprintf(text_of_head, sizeof(text_of_head), "%s\r\n%s\r\n", request_line, fields);

    assert_true(n > 0 && (size_t)n < sizeof(text_of_head));
    if (http_head_parse(text_of_head, (size_t)n, &head) != 0)
        fail_msg("not a head: %s", text_of_head);
    return &head;
}

#define HOST       "Host: example.org\r\n"
#define UPGRADE    "Upgrade: websocket\r\n"
#define CONNECTION "Connection: Upgrade\r\n"
#define VERSION    "Sec-WebSocket-Version: 13\r\n"
#define KEY        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define WHOLE      HOST UPGRADE CONNECTION VERSION KEY

static const struct http_head *get(const char *target, const char *fields)
{
    char line[2048];

    assert_true(snprintf(line, sizeof(line), "GET %s HTTP/1.1", target) < (int)sizeof(line));
    return head_of(line, fields);
}

static struct config *config_of(const char *exchanges, const char *origins)
{
    struct config *c = NULL;
    char *errors = NULL;
    char text[1024];
    int n =
        snprintf(text, sizeof(text), "{\"jwt\":{\"keys\":[]},\"exchanges\":%s,\"gateway\":{\"origins\":%s}}",
                 exchanges, origins);

    if (config_parse(text, (size_t)n, &c, &errors) != 0)
        fail_msg("%s", errors);
    return c;
}

static const char private_only[] = "{\"wf\":{\"access\":[]}}";
static const char one_public[] = "{\"wf\":{\"access\":[]},\"open\":{\"access\":\"public\"}}";

/* --- paths and kinds
 * ------------------------------------------------------------------------------------------ */

static void paths_are_known_in_any_case_and_with_a_slash_behind(void **state)
{
    static const struct {
        const char *path;
        bool subscribe, health;
    } cases[] = {
        {"/subscribe", true, false},
        {"/subscribe/", true, false},
        {"/SubScribe", true, false},
        {"/subscribe//", false, false},
        {"/subscribe/x", false, false},
        {"/subscrib", false, false},
        {"/", false, false},
        {"/%73ubscribe", false, false},
        {"//subscribe", false, false},
        {"/health", false, true},
        {"/Health/", false, true},
        {"/healthz", false, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_text path = {cases[i].path, strlen(cases[i].path)};

        assert_int_equal(upgrade_path_is_subscribe(path), cases[i].subscribe);
        assert_int_equal(upgrade_path_is_health(path), cases[i].health);
    }
}

static void an_upgrade_to_websocket_is_seen_among_others(void **state)
{
    (void)state;
    assert_int_equal(upgrade_kind(get("/", HOST)), UPGRADE_NONE);
    assert_int_equal(upgrade_kind(get("/", "Upgrade: h2c\r\n")), UPGRADE_NONE);
    assert_int_equal(upgrade_kind(get("/", "Upgrade: websockets\r\n")), UPGRADE_NONE);
    assert_int_equal(upgrade_kind(get("/", "Upgrade: WebSocket\r\n")), UPGRADE_WEBSOCKET);
    assert_int_equal(upgrade_kind(get("/", "Upgrade: h2c, websocket\r\n")), UPGRADE_WEBSOCKET);
}

/* --- the handshake
 * --------------------------------------------------------------------------------------------- */

static void a_whole_handshake_is_accepted(void **state)
{
    const char *why = "";

    (void)state;
    assert_int_equal(upgrade_check(get("/subscribe", WHOLE), &why), 0);
    assert_null(why);
    assert_int_equal(
        upgrade_check(get("/subscribe", WHOLE "Origin: https://a\r\nAuthorization: x\r\n"), &why), 0);
    assert_int_equal(upgrade_check(get("/subscribe", HOST UPGRADE VERSION KEY
                                       "Connection: keep-alive\r\nconnection: foo, UPGRADE\r\n"),
                                   &why),
                     0);
}

static void a_handshake_that_lacks_something_is_refused_and_told_why(void **state)
{
    static const struct {
        const char *line, *fields, *why;
    } cases[] = {
        {"POST /subscribe HTTP/1.1", WHOLE, "GET"},
        {"get /subscribe HTTP/1.1", WHOLE, "GET"},
        {"HEAD /subscribe HTTP/1.1", WHOLE, "GET"},
        {"GET /subscribe HTTP/1.0", WHOLE, "HTTP/1.1"},
        {"GET /subscribe HTTP/1.1", UPGRADE CONNECTION VERSION KEY, "Host"},
        {"GET /subscribe HTTP/1.1", WHOLE "Host: other\r\n", "Host"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE VERSION KEY, "Connection"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE VERSION KEY "Connection: close\r\n", "Connection"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE VERSION KEY "Connection: upgraded\r\n", "Connection"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION KEY, "Version"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION KEY "Sec-WebSocket-Version: 8\r\n", "Version"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION KEY "Sec-WebSocket-Version: 013\r\n", "Version"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION KEY "Sec-WebSocket-Version: 13, 8\r\n",
         "Version"},
        {"GET /subscribe HTTP/1.1", WHOLE VERSION, "Version"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION VERSION, "Key"},
        {"GET /subscribe HTTP/1.1", WHOLE KEY, "Key"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION VERSION "Sec-WebSocket-Key:\r\n", "Key"},
        {"GET /subscribe HTTP/1.1", HOST UPGRADE CONNECTION VERSION "Sec-WebSocket-Key: dGhl\r\n", "Key"},
        {"GET /subscribe HTTP/1.1",
         HOST UPGRADE CONNECTION VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==A\r\n", "Key"},
        {"GET /subscribe HTTP/1.1",
         HOST UPGRADE CONNECTION VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=A\r\n", "Key"},
        {"GET /subscribe HTTP/1.1",
         HOST UPGRADE CONNECTION VERSION "Sec-WebSocket-Key: dGhlIHNhbXBs:SBub25jZQ==\r\n", "Key"},
        {"GET /subscribe HTTP/1.1", WHOLE "Origin: https://a\r\nOrigin: https://a\r\n", "Origin"},
        {"GET /subscribe HTTP/1.1", WHOLE "Authorization: a\r\nAuthorization: a\r\n", "Authorization"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *why = NULL;
        int status = upgrade_check(head_of(cases[i].line, cases[i].fields), &why);

        if (status != 400 || !why || !strstr(why, cases[i].why))
            fail_msg("case %zu: status %d, \"%s\" instead of something about %s", i, status, why ? why : "",
                     cases[i].why);
    }
}

/* --- origins
 * --------------------------------------------------------------------------------------------------- */

static void pages_of_foreign_origins_are_refused(void **state)
{
    struct config *any = config_of(private_only, "[\"*\"]");
    struct config *some = config_of(private_only, "[\"https://brainlife.io\",\"http://localhost:3000\"]");
    struct config *none = config_of(private_only, "[]");

    (void)state;
    assert_true(upgrade_origin_allowed(any, get("/", HOST "Origin: https://evil\r\n")));
    assert_true(upgrade_origin_allowed(any, get("/", HOST "Origin: null\r\n")));
    assert_true(upgrade_origin_allowed(some, get("/", HOST "Origin: https://brainlife.io\r\n")));
    assert_true(upgrade_origin_allowed(some, get("/", HOST "Origin: HTTPS://Brainlife.io\r\n")));
    assert_true(upgrade_origin_allowed(some, get("/", HOST "Origin: http://localhost:3000\r\n")));
    assert_true(upgrade_origin_allowed(some, get("/", HOST)));
    assert_true(upgrade_origin_allowed(none, get("/", HOST)));
    assert_false(upgrade_origin_allowed(none, get("/", HOST "Origin: https://brainlife.io\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: http://brainlife.io\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: https://brainlife.io.evil\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: https://brainlife.io:444\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: https://brainlife.i\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: null\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin:\r\n")));
    assert_false(upgrade_origin_allowed(some, get("/", HOST "Origin: *\r\n")));
    config_unref(any);
    config_unref(some);
    config_unref(none);
}

/* --- tokens
 * ------------------------------------------------------------------------------------------------------ */

static struct token_keys *keys;
static struct config *closed, *open_too;
static char *alice, *bob, *carol, *ended; /* tokens */

static char *token_text(const char *claims)
{
    jwt_t *jwt;
    char *raw;

    assert_int_equal(jwt_new(&jwt), 0);
    assert_int_equal(jwt_add_grants_json(jwt, claims), 0);
    assert_int_equal(jwt_set_alg(jwt, JWT_ALG_HS256, (const unsigned char *)SECRET, (int)strlen(SECRET)), 0);
    raw = jwt_encode_str(jwt);
    assert_non_null(raw);
    jwt_free(jwt);
    return raw;
}

static int make_tokens(void **state)
{
    static char *algs[] = {"HS256"};
    struct config_jwt_key key = {
        .algs = algs, .alg_count = 1, .file = "k", .text = SECRET, .text_len = strlen(SECRET)};
    struct config_jwt jwt = {.keys = &key, .key_count = 1};
    char *error = NULL;

    (void)state;
    assert_int_equal(token_keys_new(&jwt, &keys, &error), 0);
    closed = config_of(private_only, "[\"*\"]");
    open_too = config_of(one_public, "[\"*\"]");
    alice = token_text("{\"sub\":\"alice\"}");
    bob = token_text("{\"sub\":\"bob\"}");
    carol = token_text("{\"sub\":\"carol\"}");
    ended = token_text("{\"sub\":\"alice\",\"exp\":1699999999}");
    return 0;
}

static int drop_tokens(void **state)
{
    (void)state;
    free(alice);
    free(bob);
    free(carol);
    free(ended);
    config_unref(closed);
    config_unref(open_too);
    token_keys_free(keys);
    return 0;
}

/* Copy `text`; $A, $B, $C and $E become tokens. */
static void fill(char *out, size_t size, const char *text)
{
    size_t len = 0;

    for (; *text; text++) {
        const char *token = NULL;

        if (text[0] == '$') {
            token = text[1] == 'A' ? alice : text[1] == 'B' ? bob : text[1] == 'C' ? carol : ended;
            text++;
        }
        assert_true(len + (token ? strlen(token) : 1) < size);
        if (token) {
            memcpy(out + len, token, strlen(token));
            len += strlen(token);
        } else {
            out[len++] = *text;
        }
    }
    out[len] = '\0';
}

/* The request "GET <target>" with these field lines. Whose token was it ("" for none), or what was wrong? */
static const char *whose(const struct config *c, const char *target, const char *fields)
{
    static char sub[16];
    char filled_target[1800], filled_fields[4096];
    struct token *token = NULL;
    int r;

    fill(filled_target, sizeof(filled_target), target);
    fill(filled_fields, sizeof(filled_fields), fields);
    r = upgrade_token(c, keys, get(filled_target, filled_fields), NOW_S, &token);
    if (r != 0)
        return r < 0 ? "no memory" : error_code_wire((enum error_code)r);
    snprintf(sub, sizeof(sub), "%s", token ? token_sub(token) : "");
    token_unref(token);
    return sub;
}

static void the_token_is_found_in_each_of_its_places(void **state)
{
    (void)state;
    assert_string_equal(whose(closed, "/subscribe", HOST "Authorization: Bearer $A\r\n"), "alice");
    assert_string_equal(whose(closed, "/subscribe", HOST "Authorization: bEARER   $A\r\n"), "alice");
    assert_string_equal(whose(closed, "/subscribe?x=1&jwt=$A&y", HOST), "alice");
    assert_string_equal(whose(closed, "/subscribe", HOST "Sec-WebSocket-Protocol: chat, bearer.$A\r\n"),
                        "alice");
    assert_string_equal(whose(closed, "/subscribe",
                              HOST "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: bearer.$A\r\n"),
                        "alice");
}

static void the_first_place_with_a_token_wins(void **state)
{
    static const char protocol[] = HOST "Sec-WebSocket-Protocol: bearer.$C\r\n";

    (void)state;
    assert_string_equal(
        whose(closed, "/?jwt=$B", HOST "Sec-WebSocket-Protocol: bearer.$C\r\nAuthorization: Bearer $A\r\n"),
        "alice");
    assert_string_equal(whose(closed, "/?jwt=$B", protocol), "bob");
    assert_string_equal(whose(closed, "/", protocol), "carol");
    assert_string_equal(whose(closed, "/", HOST "Sec-WebSocket-Protocol: bearer.$C, bearer.$A\r\n"), "carol");
    /* Another scheme is none of ours, and hides nothing. */
    assert_string_equal(whose(closed, "/?jwt=$B", HOST "Authorization: Basic YTpi\r\n"), "bob");
    assert_string_equal(whose(closed, "/?jwt=$B", HOST "Authorization: Bearers $A\r\n"), "bob");
}

static void a_bad_token_is_not_made_good_by_a_later_one(void **state)
{
    (void)state;
    assert_string_equal(whose(closed, "/?jwt=$B", HOST "Authorization: Bearer x.y.z\r\n"), "bad_token");
    assert_string_equal(whose(closed, "/?jwt=$B", HOST "Authorization: Bearer\r\n"), "bad_token");
    assert_string_equal(whose(closed, "/?jwt=", HOST "Sec-WebSocket-Protocol: bearer.$A\r\n"), "bad_token");
    assert_string_equal(whose(closed, "/", HOST "Sec-WebSocket-Protocol: bearer., bearer.$A\r\n"),
                        "bad_token");
}

static void bad_tokens_are_bad_also_where_none_is_needed(void **state)
{
    static const char *const bad[] = {
        "/?jwt=",       "/?jwt",     "/?jwt=x",    "/?jwt=a.b.c",     "/?jwt=..",
        "/?jwt=%00",    "/?jwt=%2e", "/?jwt=null", "/?jwt=undefined", "/?jwt=$A%00",
        "/?jwt=$A!!!!", "/?jwt=$A=", "/?jwt=+$A",  "/?jwt=$A&jwt=$A", "/?jwt=$A%20"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (strcmp(whose(open_too, bad[i], HOST), "bad_token") != 0)
            fail_msg("taken: %s", bad[i]);
    assert_string_equal(whose(open_too, "/", HOST "Sec-WebSocket-Protocol: bearer.\r\n"), "bad_token");
    assert_string_equal(whose(open_too, "/", HOST "Authorization: Bearer $A $A\r\n"), "bad_token");
}

static void an_ended_token_is_said_to_be_one(void **state)
{
    (void)state;
    assert_string_equal(whose(open_too, "/?jwt=$E", HOST), "expired");
    assert_string_equal(whose(closed, "/?jwt=$A", HOST "Authorization: Bearer $E\r\n"), "expired");
}

static void no_token_is_enough_where_something_is_public(void **state)
{
    static const char other[] = HOST "Authorization: Basic YTpi\r\nSec-WebSocket-Protocol: chat\r\n";

    (void)state;
    assert_string_equal(whose(open_too, "/", HOST), "");
    assert_string_equal(whose(open_too, "/?jwt[]=x&JWT=y", HOST), "");
    assert_string_equal(whose(open_too, "/", other), "");
    assert_string_equal(whose(closed, "/", HOST), "bad_token");
    assert_string_equal(whose(closed, "/", other), "bad_token");
}

static void a_token_in_the_query_may_be_percent_encoded(void **state)
{
    char text[1024] = "/?jwt=";
    size_t len = strlen(text);

    (void)state;
    for (size_t i = 0; alice[i]; i++) {
        assert_true(len + 4 < sizeof(text));
        if (i % 2)
            len +=
                (size_t)snprintf(text + len, sizeof(text) - len, "%%%02x", (unsigned)(unsigned char)alice[i]);
        else
            len +=
                (size_t)snprintf(text + len, sizeof(text) - len, "%%%02X", (unsigned)(unsigned char)alice[i]);
    }
    assert_string_equal(whose(closed, text, HOST), "alice");
    /* A broken escape, also at the end, stays as it is. */
    assert_string_equal(whose(closed, "/?jwt=$A%4", HOST), "bad_token");
    assert_string_equal(whose(closed, "/?jwt=$A%", HOST), "bad_token");
    assert_string_equal(whose(closed, "/?jwt=$A%zz", HOST), "bad_token");
}

/* --- subprotocols
 * ---------------------------------------------------------------------------------------------- */

static void the_first_subprotocol_that_is_no_token_is_echoed(void **state)
{
    static const struct {
        const char *fields, *echoed;
    } cases[] = {
        {HOST, NULL},
        {"Sec-WebSocket-Protocol:\r\n", NULL},
        {"Sec-WebSocket-Protocol: ,\r\n", NULL},
        {"Sec-WebSocket-Protocol: chat\r\n", "chat"},
        {"Sec-WebSocket-Protocol: chat, superchat\r\n", "chat"},
        {"Sec-WebSocket-Protocol: bearer.x, chat, super\r\n", "chat"},
        {"Sec-WebSocket-Protocol: bearer.x\r\nSec-WebSocket-Protocol: bearer.y,chat\r\n", "chat"},
        {"Sec-WebSocket-Protocol: bearer.x\r\n", "bearer.x"},
        {"Sec-WebSocket-Protocol: bearer.x, bearer.y\r\n", "bearer.x"},
        {"Sec-WebSocket-Protocol: bearer\r\n", "bearer"},
        {"Sec-WebSocket-Protocol: Bearer.x, bearer.y\r\n", "Bearer.x"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_text name = {0};
        bool found = upgrade_subprotocol(get("/", cases[i].fields), &name);

        assert_int_equal(found, cases[i].echoed != NULL);
        if (found && !http_text_is(name, cases[i].echoed))
            fail_msg("case %zu: %.*s", i, (int)name.len, name.at);
    }
}

/* --- answers
 * ----------------------------------------------------------------------------------------------------- */

static void an_answer_is_whole_and_ends_the_connection(void **state)
{
    struct config *c = config_of(private_only, "[\"*\"]");
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    http_answer(&out, c, get("/health", HOST), 200, "Cache-Control: no-store\r\n", "application/json", "{}");
    assert_string_equal(out.data,
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n"
                        "Access-Control-Allow-Origin: *\r\nCache-Control: no-store\r\n"
                        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    buf_reset(&out);
    http_answer(&out, c, head_of("HEAD /health HTTP/1.1", HOST), 200, NULL, "application/json", "{}");
    assert_non_null(strstr(out.data, "\r\nContent-Length: 2\r\n\r\n"));
    assert_null(strstr(out.data, "{}"));
    buf_reset(&out);
    http_answer(&out, c, head_of("OPTIONS / HTTP/1.1", HOST), 204, NULL, NULL, NULL);
    assert_non_null(strstr(out.data, "HTTP/1.1 204 No Content\r\n"));
    assert_null(strstr(out.data, "\r\nContent-"));
    config_unref(c);
}

static void statuses_have_their_texts(void **state)
{
    static const char *const lines[] = {
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "HTTP/1.1 401 Unauthorized\r\n",
        "HTTP/1.1 403 Forbidden\r\n",
        "HTTP/1.1 404 Not Found\r\n",
        "HTTP/1.1 429 Too Many Requests\r\n",
        "HTTP/1.1 503 Service Unavailable\r\n",
    };
    struct config *c = config_of(private_only, "[\"*\"]");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        CLEANUP(buf_done) struct buf out = {0};

        http_answer(&out, c, get("/", HOST), atoi(lines[i] + 9), NULL, NULL, NULL);
        assert_memory_equal(out.data, lines[i], strlen(lines[i]));
    }
    config_unref(c);
}

static void cors_names_the_pages_own_origin_if_it_is_listed(void **state)
{
    struct config *c = config_of(private_only, "[\"https://brainlife.io\"]");
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    http_answer(&out, c, get("/", HOST "Origin: https://Brainlife.io\r\n"), 404, NULL, NULL, NULL);
    assert_non_null(
        strstr(out.data, "\r\nAccess-Control-Allow-Origin: https://Brainlife.io\r\nVary: Origin\r\n"));
    buf_reset(&out);
    http_answer(&out, c, get("/", HOST "Origin: https://evil\r\n"), 404, NULL, NULL, NULL);
    assert_null(strstr(out.data, "Access-Control"));
    buf_reset(&out);
    http_answer(&out, c, get("/", HOST), 404, NULL, NULL, NULL);
    assert_null(strstr(out.data, "Access-Control"));
    config_unref(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_are_known_in_any_case_and_with_a_slash_behind),
        cmocka_unit_test(an_upgrade_to_websocket_is_seen_among_others),
        cmocka_unit_test(a_whole_handshake_is_accepted),
        cmocka_unit_test(a_handshake_that_lacks_something_is_refused_and_told_why),
        cmocka_unit_test(pages_of_foreign_origins_are_refused),
        cmocka_unit_test(the_token_is_found_in_each_of_its_places),
        cmocka_unit_test(the_first_place_with_a_token_wins),
        cmocka_unit_test(a_bad_token_is_not_made_good_by_a_later_one),
        cmocka_unit_test(bad_tokens_are_bad_also_where_none_is_needed),
        cmocka_unit_test(an_ended_token_is_said_to_be_one),
        cmocka_unit_test(no_token_is_enough_where_something_is_public),
        cmocka_unit_test(a_token_in_the_query_may_be_percent_encoded),
        cmocka_unit_test(the_first_subprotocol_that_is_no_token_is_echoed),
        cmocka_unit_test(an_answer_is_whole_and_ends_the_connection),
        cmocka_unit_test(statuses_have_their_texts),
        cmocka_unit_test(cors_names_the_pages_own_origin_if_it_is_listed),
    };

    return cmocka_run_group_tests(tests, make_tokens, drop_tokens);
}
