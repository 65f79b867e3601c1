#include "gateway/access_rules.h"

#include "gateway/access_breaker.h"
#include "gateway/access_cache.h"
#include "gateway/access_http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The example of the design: the reference service's rules. */
static const char CONFIG[] =
    "{\"jwt\":{\"keys\":[]},\"exchanges\":{"
    "\"wf\":{\"access\":[{\"http\":\"http://amaretti/event/checkaccess/{key}\"}]},"
    "\"wf.task\":{\"access\":[{\"http\":\"http://amaretti/event/checkaccess/instance/{key.0}\"}]},"
    "\"wf.instance\":{\"access\":[{\"when\":\"na.#\",\"allow\":true},{\"claim\":\"/"
    "gids\",\"has\":\"{key.0}\"}]},"
    "\"warehouse\":{\"access\":[{\"when\":\"dataset.*.*.*.#\","
    "\"http\":\"http://warehouse/event/checkaccess/project/{key.3}\"}]},"
    "\"query\":{\"access\":[{\"http\":\"http://api/check?k={key}&u={user}&x={ex}\"}]},"
    "\"mine\":{\"access\":[{\"when\":\"user.*.#\",\"claim\":\"/sub\",\"is\":\"{key.1}\"}]},"
    "\"users\":{\"access\":[{\"http\":\"http://api/u/{user}\"},{\"when\":\"open.#\",\"allow\":true}]},"
    "\"order\":{\"access\":[{\"when\":\"a.secret.#\",\"allow\":false},{\"when\":\"a.#\",\"allow\":true}]},"
    "\"deep\":{\"access\":[{\"claim\":\"/scopes/0/a~1b\",\"is\":\"{ex}:{key}\"}]},"
    "\"none\":{\"access\":[]}}}";

static struct config *config;

static int group_setup(void **state)
{
    char *errors = NULL;

    (void)state;
    if (config_parse(CONFIG, strlen(CONFIG), &config, &errors) < 0)
        fail_msg("%s", errors);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    config_unref(config);
    return 0;
}

struct outcome {
    enum access_ruling ruling;
    char url[4096];
    const char *text;
    bool has_rule;
};

static struct outcome judge_len(const char *exchange, const char *claims_text, const char *pattern,
                                size_t len)
{
    const struct config_exchange *x = config_exchange_find(config, exchange, strlen(exchange));
    json_t *claims = json_loads(claims_text, 0, NULL);
    struct access_subject subject = {claims, json_string_value(json_object_get(claims, "sub"))};
    const struct config_rule *rule;
    struct outcome o = {0};
    struct buf url = {0};

    assert_non_null(x);
    assert_non_null(claims);
    assert_int_equal(access_rules_judge(x, &subject, pattern, len, &url, &rule, &o.ruling, &o.text), 0);
    snprintf(o.url, sizeof(o.url), "%s", url.data ? url.data : "");
    o.has_rule = rule != NULL;
    assert_non_null(o.text);
    assert_int_equal(o.ruling == RULING_ASK, url.len > 0);
    buf_done(&url);
    json_decref(claims);
    return o;
}

static struct outcome judge(const char *exchange, const char *claims, const char *pattern)
{
    return judge_len(exchange, claims, pattern, strlen(pattern));
}

#define USER "{\"sub\":\"1\",\"gids\":[59,\"7\"]}"

static void assert_asks(const char *exchange, const char *pattern, const char *url)
{
    struct outcome o = judge(exchange, USER, pattern);

    assert_int_equal(o.ruling, RULING_ASK);
    assert_string_equal(o.url, url);
}

static void assert_denied(const char *exchange, const char *pattern)
{
    struct outcome o = judge(exchange, USER, pattern);

    if (o.ruling != RULING_DENIED)
        fail_msg("%s on %s is not denied (%s %s)", pattern, exchange, o.text, o.url);
}

static void assert_granted(const char *exchange, const char *pattern)
{
    struct outcome o = judge(exchange, USER, pattern);

    if (o.ruling != RULING_GRANTED)
        fail_msg("%s on %s is not granted (%s %s)", pattern, exchange, o.text, o.url);
}

static void wf_asks_with_the_whole_pattern_as_one_segment(void **state)
{
    (void)state;
    assert_asks("wf", "task.5f.#", "http://amaretti/event/checkaccess/task.5f.%23");
    assert_asks("wf", "#", "http://amaretti/event/checkaccess/%23");
    assert_asks("wf", "*", "http://amaretti/event/checkaccess/%2A");
}

static void a_pattern_never_names_another_path(void **state)
{
    (void)state;
    assert_asks("wf", "ok/../x?y", "http://amaretti/event/checkaccess/ok%2F..%2Fx%3Fy");
    assert_asks("wf", "../../admin", "http://amaretti/event/checkaccess/..%2F..%2Fadmin");
    assert_asks("wf", "a b", "http://amaretti/event/checkaccess/a%20b");
    assert_asks("wf", "50%2f", "http://amaretti/event/checkaccess/50%252f");
    assert_asks("wf", "a#b&c=d;e\r\nX: y",
                "http://amaretti/event/checkaccess/a%23b%26c%3Dd%3Be%0D%0AX%3A%20y");
    assert_asks("wf", "h\xc3\xa4user", "http://amaretti/event/checkaccess/h%C3%A4user");
    assert_asks("wf", "...", "http://amaretti/event/checkaccess/...");
    assert_asks("query", "a&u=2", "http://api/check?k=a%26u%3D2&u=1&x=query");
    assert_asks("query", "", "http://api/check?k=&u=1&x=query");
    assert_denied("wf", ".");
    assert_denied("wf", "..");
    assert_denied("wf", "");
    assert_denied("query", "..");
}

static void a_nul_byte_is_part_of_the_value(void **state)
{
    struct outcome o = judge_len("wf", USER, "a\0b", 3);

    (void)state;
    assert_int_equal(o.ruling, RULING_ASK);
    assert_string_equal(o.url, "http://amaretti/event/checkaccess/a%00b");
    assert_int_equal(judge_len("wf.instance", USER, "59\0x", 4).ruling, RULING_DENIED);
}

static void wf_task_asks_for_the_first_word_only_if_it_is_fixed(void **state)
{
    (void)state;
    assert_asks("wf.task", "inst9.t", "http://amaretti/event/checkaccess/instance/inst9");
    assert_asks("wf.task", "inst9.#", "http://amaretti/event/checkaccess/instance/inst9");
    assert_asks("wf.task", "inst9", "http://amaretti/event/checkaccess/instance/inst9");
    assert_asks("wf.task", "p*.x", "http://amaretti/event/checkaccess/instance/p%2A");
    assert_asks("wf.task", "ok/../x?y", "http://amaretti/event/checkaccess/instance/ok%2F");
    assert_denied("wf.task", "#");
    assert_denied("wf.task", "*.t");
    assert_denied("wf.task", "#.inst9");
    assert_denied("wf.task", "");
    assert_denied("wf.task", ".t");
    assert_string_equal(judge("wf.task", USER, "#").text,
                        "the pattern leaves open a word that decides about access");
    assert_string_equal(judge("wf.task", USER, ".t").text, "the pattern holds a word that cannot be checked");
}

static void wf_instance_is_open_for_na_and_else_needs_the_group(void **state)
{
    (void)state;
    assert_granted("wf.instance", "na.x");
    assert_granted("wf.instance", "na");
    assert_granted("wf.instance", "na.#");
    assert_granted("wf.instance", "59.abc");
    assert_granted("wf.instance", "59.#");
    assert_granted("wf.instance", "7.x");
    assert_denied("wf.instance", "59abc.x");
    assert_denied("wf.instance", "059.x");
    assert_denied("wf.instance", "+59.x");
    assert_denied("wf.instance", "59 .x");
    assert_denied("wf.instance", "5.x");
    assert_denied("wf.instance", "*.x");
    assert_denied("wf.instance", "nan.x");
    /* "#" covers na.x too: no single rule speaks for it. */
    assert_denied("wf.instance", "#");
    assert_string_equal(judge("wf.instance", USER, "*.x").text,
                        "the pattern covers keys that need different rules");
}

static void a_claim_that_is_missing_or_of_another_type_denies(void **state)
{
    static const char *const claims[] = {
        "{}",
        "{\"gids\":null}",
        "{\"gids\":59}",
        "{\"gids\":\"59\"}",
        "{\"gids\":{\"59\":59}}",
        "{\"gids\":[]}",
        "{\"gids\":[59.0]}",
        "{\"gids\":[[59]]}",
        "{\"gids\":[true,null,{}]}",
        "{\"gids\":[\"59 \"]}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(claims); i++)
        if (judge("wf.instance", claims[i], "59.x").ruling != RULING_DENIED)
            fail_msg("granted with %s", claims[i]);
    assert_int_equal(judge("wf.instance", "{\"gids\":[1,\"59\"]}", "59.x").ruling, RULING_GRANTED);
}

static void warehouse_asks_only_for_keys_with_four_words(void **state)
{
    (void)state;
    assert_asks("warehouse", "dataset.a.b.77", "http://warehouse/event/checkaccess/project/77");
    assert_asks("warehouse", "dataset.a.*.77.#", "http://warehouse/event/checkaccess/project/77");
    assert_denied("warehouse", "dataset.a.b");
    assert_denied("warehouse", "other.a.b.77");
    assert_denied("warehouse", "dataset.#.77");
    assert_denied("warehouse", "dataset.a.b.*");
    assert_denied("warehouse", "#");
    assert_string_equal(judge("warehouse", USER, "dataset.a.b").text, "no rule applies to this pattern");
}

static void the_first_rule_that_applies_decides(void **state)
{
    (void)state;
    assert_granted("order", "a.x");
    assert_denied("order", "a.secret.x");
    assert_denied("order", "a.secret");
    assert_denied("order", "a.#");
    assert_denied("order", "a.*.x");
    assert_denied("order", "b");
    assert_denied("none", "x");
    assert_false(judge("none", USER, "x").has_rule);
    assert_true(judge("order", USER, "a.x").has_rule);
}

static void a_rule_that_needs_the_user_does_not_apply_without_sub(void **state)
{
    struct outcome o = judge("users", "{}", "open.x");

    (void)state;
    assert_int_equal(o.ruling, RULING_GRANTED);
    assert_int_equal(judge("users", "{}", "other").ruling, RULING_DENIED);
    assert_int_equal(judge("query", "{}", "a").ruling, RULING_DENIED);
    assert_asks("users", "open.x", "http://api/u/1");
    o = judge("users", "{\"sub\":\"a/b?c\"}", "x");
    assert_string_equal(o.url, "http://api/u/a%2Fb%3Fc");
    assert_int_equal(judge("users", "{\"sub\":\"..\"}", "x").ruling, RULING_DENIED);
}

static void claims_are_compared_with_templates(void **state)
{
    (void)state;
    assert_granted("mine", "user.1.x");
    assert_denied("mine", "user.2.x");
    assert_denied("mine", "user.*.x");
    assert_int_equal(judge("mine", "{\"sub\":\"*\"}", "user.*.x").ruling, RULING_DENIED);
    assert_int_equal(judge("deep", "{\"scopes\":[{\"a/b\":\"deep:k.l\"}]}", "k.l").ruling, RULING_GRANTED);
    assert_int_equal(judge("deep", "{\"scopes\":[{\"a/b\":\"deep:k\"}]}", "k.l").ruling, RULING_DENIED);
    assert_int_equal(judge("deep", "{\"scopes\":{\"0\":{\"a/b\":\"deep:k\"}}}", "k").ruling, RULING_GRANTED);
}

static void pointers_follow_rfc_6901(void **state)
{
    /* The examples of RFC 6901, 5. */
    json_t *doc =
        json_loads("{\"foo\":[\"bar\",\"baz\"],\"\":0,\"a/b\":1,\"c%d\":2,\"e^f\":3,\"g|h\":4,\"i\\\\j\":5,"
                   "\"k\\\"l\":6,\" \":7,\"m~n\":8}",
                   0, NULL);
    static const struct {
        const char *pointer;
        int value;
    } rows[] = {{"/", 0},     {"/a~1b", 1}, {"/c%d", 2}, {"/e^f", 3}, {"/g|h", 4},
                {"/i\\j", 5}, {"/k\"l", 6}, {"/ ", 7},   {"/m~0n", 8}};

    (void)state;
    assert_non_null(doc);
    assert_ptr_equal(access_rules_pointer(doc, ""), doc);
    assert_string_equal(json_string_value(access_rules_pointer(doc, "/foo/1")), "baz");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(json_integer_value(access_rules_pointer(doc, rows[i].pointer)), rows[i].value);
    assert_null(access_rules_pointer(doc, "/foo/2"));
    assert_null(access_rules_pointer(doc, "/foo/01"));
    assert_null(access_rules_pointer(doc, "/foo/-"));
    assert_null(access_rules_pointer(doc, "/foo/1x"));
    assert_null(access_rules_pointer(doc, "/foo/99999999999999999999"));
    assert_null(access_rules_pointer(doc, "/foo/bar/x"));
    assert_null(access_rules_pointer(doc, "/m~2n"));
    assert_null(access_rules_pointer(doc, "/m~"));
    assert_null(access_rules_pointer(doc, "foo"));
    json_decref(doc);
}

static void whole_numbers_equal_their_digits_and_nothing_else(void **state)
{
    static const struct {
        const char *json, *text;
        bool equal;
    } rows[] = {
        {"59", "59", true},      {"\"59\"", "59", true},
        {"-5", "-5", true},      {"0", "0", true},
        {"-0", "-0", false},     {"9223372036854775807", "9223372036854775807", true},
        {"59", "59abc", false},  {"59", "059", false},
        {"59", "", false},       {"59.0", "59", false},
        {"59.0", "59.0", false}, {"true", "true", false},
        {"null", "null", false}, {"\"\"", "", true},
        {"[59]", "59", false},   {"\"59\"", "59.", false},
        {"5.9e1", "59", false},  {"\"a\"", "A", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *claim = json_loads(rows[i].json, JSON_DECODE_ANY, NULL);

        assert_non_null(claim);
        if (access_rules_equal(claim, rows[i].text, strlen(rows[i].text)) != rows[i].equal)
            fail_msg("%s and %s", rows[i].json, rows[i].text);
        json_decref(claim);
    }
    assert_false(access_rules_equal(NULL, "", 0));
}

/* ---- what an API's answer means ---- */

static void only_status_ok_in_an_object_with_2xx_grants(void **state)
{
    static const struct {
        long status;
        const char *body;
        enum access_http_result result;
    } rows[] = {
        {200, "{\"status\":\"ok\"}", ACCESS_HTTP_OK},
        {200, " {\"x\":[1,{}],\"status\":\"ok\"} \n", ACCESS_HTTP_OK},
        {201, "{\"status\":\"ok\"}", ACCESS_HTTP_OK},
        {200, "{\"status\":\"OK\"}", ACCESS_HTTP_REFUSED},
        {200, "{\"status\":\"ok \"}", ACCESS_HTTP_REFUSED},
        {200, "{\"status\":\"denied\"}", ACCESS_HTTP_REFUSED},
        {200, "{\"status\":true}", ACCESS_HTTP_REFUSED},
        {200, "{\"status\":[\"ok\"]}", ACCESS_HTTP_REFUSED},
        {200, "{\"Status\":\"ok\"}", ACCESS_HTTP_REFUSED},
        {200, "{}", ACCESS_HTTP_REFUSED},
        {200, "{\"status\":\"no\",\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
        {200, "{\"status\":\"ok\\u0000\"}", ACCESS_HTTP_NONSENSE},
        {200, "{\"status\":\"ok\"}{}", ACCESS_HTTP_NONSENSE},
        {200, "{\"status\":\"ok\"", ACCESS_HTTP_NONSENSE},
        {200, "[{\"status\":\"ok\"}]", ACCESS_HTTP_NONSENSE},
        {200, "\"ok\"", ACCESS_HTTP_NONSENSE},
        {200, "true", ACCESS_HTTP_NONSENSE},
        {200, "ok", ACCESS_HTTP_NONSENSE},
        {200, "<html>{\"status\":\"ok\"}</html>", ACCESS_HTTP_NONSENSE},
        {200, "\xef\xbb\xbf{\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
        {200, "null", ACCESS_HTTP_EMPTY},
        {200, "", ACCESS_HTTP_EMPTY},
        {204, "", ACCESS_HTTP_EMPTY},
        {301, "{\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
        {400, "{\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
        {401, "{\"status\":\"ok\"}", ACCESS_HTTP_REFUSED},
        {403, "", ACCESS_HTTP_REFUSED},
        {404, "<html>", ACCESS_HTTP_REFUSED},
        {429, "{\"status\":\"ok\"}", ACCESS_HTTP_BUSY},
        {500, "{\"status\":\"ok\"}", ACCESS_HTTP_BROKEN},
        {503, "", ACCESS_HTTP_BROKEN},
        {600, "{\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
        {0, "{\"status\":\"ok\"}", ACCESS_HTTP_NONSENSE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (access_http_judge(rows[i].status, rows[i].body, strlen(rows[i].body)) != rows[i].result)
            fail_msg("%ld %s", rows[i].status, rows[i].body);
}

static void an_origin_is_scheme_and_host_without_secrets(void **state)
{
    static const char *const rows[][2] = {
        {"http://Amaretti/event/{key}", "http://amaretti"},
        {"HTTPS://user:p@ss@host:8443?x=1@2", "https://host:8443"},
        {"http://host#x", "http://host"},
        {"http://[::1]:80/x", "http://[::1]:80"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf origin = {0};

        access_http_origin(&origin, rows[i][0]);
        assert_string_equal(origin.data, rows[i][1]);
        buf_done(&origin);
    }
}

/* ---- breaker ---- */

static void fail_once(struct access_breaker *b, int64_t now)
{
    bool trying;

    assert_true(breaker_ask(b, now, &trying));
    breaker_report(b, now, trying, BREAKER_FAILED);
}

static void five_failures_in_a_row_open_the_breaker_and_one_try_closes_it(void **state)
{
    struct access_breaker b = {0};
    bool trying;

    (void)state;
    for (int i = 0; i < 4; i++)
        fail_once(&b, 0);
    assert_true(breaker_ask(&b, 0, &trying));
    breaker_report(&b, 0, trying, BREAKER_ANSWERED); /* not in a row any more */
    for (int i = 0; i < 5; i++)
        fail_once(&b, 1000);
    assert_false(breaker_ask(&b, 1000, &trying));
    assert_false(breaker_ask(&b, 2999, &trying));
    assert_true(breaker_ask(&b, 3000, &trying));
    assert_true(trying);
    assert_false(breaker_ask(&b, 3000, &trying)); /* one only */
    breaker_report(&b, 3100, true, BREAKER_ANSWERED);
    assert_true(breaker_ask(&b, 3100, &trying));
    assert_false(trying);
}

static void the_open_time_doubles_up_to_thirty_seconds(void **state)
{
    static const int64_t opens[] = {2000, 4000, 8000, 16000, 30000, 30000};
    struct access_breaker b = {0};
    int64_t now = 0;
    bool trying;

    (void)state;
    for (int i = 0; i < 5; i++)
        fail_once(&b, now);
    for (size_t i = 0; i < ARRAY_LEN(opens); i++) {
        assert_false(breaker_ask(&b, now + opens[i] - 1, &trying));
        now += opens[i];
        fail_once(&b, now);
    }
}

static void late_failures_do_not_double_and_a_late_answer_closes(void **state)
{
    struct access_breaker b = {0};
    bool trying;

    (void)state;
    for (int i = 0; i < 5; i++)
        fail_once(&b, 0);
    for (int i = 0; i < 100; i++)
        breaker_report(&b, 1, false, BREAKER_FAILED);
    assert_true(breaker_ask(&b, 2000, &trying));
    breaker_report(&b, 2000, false, BREAKER_FAILED); /* an older one, while one tries */
    assert_int_equal(b.state, BREAKER_TRYING);
    breaker_report(&b, 2000, false, BREAKER_ANSWERED);
    assert_int_equal(b.state, BREAKER_CLOSED);
    breaker_report(&b, 2000, true, BREAKER_FAILED); /* the try counts as one of many now */
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void a_try_that_is_dropped_is_followed_by_another(void **state)
{
    struct access_breaker b = {0};
    bool trying;

    (void)state;
    for (int i = 0; i < 5; i++)
        fail_once(&b, 0);
    assert_true(breaker_ask(&b, 2000, &trying));
    breaker_report(&b, 2000, true, BREAKER_UNCERTAIN);
    assert_true(breaker_ask(&b, 2000, &trying));
    assert_true(trying);
}

/* ---- memory ---- */

static const char *digest_of(unsigned n)
{
    static char out[DIGEST_HEX + 1];

    digest_hex(&(struct digest_part){&n, sizeof(n)}, 1, out);
    return out;
}

static void an_answer_ends_at_its_end(void **state)
{
    struct access_cache *c = access_cache_new(10);
    bool granted;

    (void)state;
    access_cache_put(c, digest_of(1), true, 100, 200);
    access_cache_put(c, digest_of(2), false, 100, 200);
    assert_true(access_cache_get(c, digest_of(1), 199, &granted));
    assert_true(granted);
    assert_true(access_cache_get(c, digest_of(2), 199, &granted));
    assert_false(granted);
    assert_false(access_cache_get(c, digest_of(3), 199, &granted));
    assert_false(access_cache_get(c, digest_of(1), 200, &granted));
    assert_int_equal(access_cache_count(c), 1);
    access_cache_put(c, digest_of(2), true, 150, 300);
    assert_true(access_cache_get(c, digest_of(2), 299, &granted));
    assert_true(granted);
    access_cache_put(c, digest_of(2), true, 150, 150); /* nothing to keep: what was there goes */
    assert_int_equal(access_cache_count(c), 0);
    access_cache_free(c);
}

static void a_full_cache_forgets_what_was_used_longest_ago(void **state)
{
    struct access_cache *c = access_cache_new(100);
    bool granted;

    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        access_cache_put(c, digest_of(i), i % 2, 0, 1000);
        assert_true(access_cache_get(c, digest_of(0), 1, &granted));
        assert_true(access_cache_count(c) <= 100);
    }
    assert_int_equal(access_cache_count(c), 100);
    for (unsigned i = 1; i < 901; i++)
        assert_false(access_cache_get(c, digest_of(i), 1, &granted));
    for (unsigned i = 901; i < 1000; i++) {
        assert_true(access_cache_get(c, digest_of(i), 1, &granted));
        assert_int_equal(granted, i % 2);
    }
    /* New answers push ended ones out before those that are good. */
    access_cache_put(c, digest_of(5000), true, 2000, 3000);
    access_cache_put(c, digest_of(5001), true, 2000, 3000);
    assert_true(access_cache_get(c, digest_of(5000), 2001, &granted));
    assert_true(access_cache_count(c) < 100);
    access_cache_free(c);
    access_cache_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wf_asks_with_the_whole_pattern_as_one_segment),
        cmocka_unit_test(a_pattern_never_names_another_path),
        cmocka_unit_test(a_nul_byte_is_part_of_the_value),
        cmocka_unit_test(wf_task_asks_for_the_first_word_only_if_it_is_fixed),
        cmocka_unit_test(wf_instance_is_open_for_na_and_else_needs_the_group),
        cmocka_unit_test(a_claim_that_is_missing_or_of_another_type_denies),
        cmocka_unit_test(warehouse_asks_only_for_keys_with_four_words),
        cmocka_unit_test(the_first_rule_that_applies_decides),
        cmocka_unit_test(a_rule_that_needs_the_user_does_not_apply_without_sub),
        cmocka_unit_test(claims_are_compared_with_templates),
        cmocka_unit_test(pointers_follow_rfc_6901),
        cmocka_unit_test(whole_numbers_equal_their_digits_and_nothing_else),
        cmocka_unit_test(only_status_ok_in_an_object_with_2xx_grants),
        cmocka_unit_test(an_origin_is_scheme_and_host_without_secrets),
        cmocka_unit_test(five_failures_in_a_row_open_the_breaker_and_one_try_closes_it),
        cmocka_unit_test(the_open_time_doubles_up_to_thirty_seconds),
        cmocka_unit_test(late_failures_do_not_double_and_a_late_answer_closes),
        cmocka_unit_test(a_try_that_is_dropped_is_followed_by_another),
        cmocka_unit_test(an_answer_ends_at_its_end),
        cmocka_unit_test(a_full_cache_forgets_what_was_used_longest_ago),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
