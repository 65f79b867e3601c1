#include "gateway/http_head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static struct http_head head;

/* The bytes in memory of exactly their size, so that the sanitizer sees a step too far. */
static char *copy;

static int parse_bytes(const char *bytes, size_t len)
{
    free(copy);
    copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    return http_head_parse(copy, len, &head);
}

static int parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

/* A GET request with these field lines. */
static int parse_fields(const char *lines)
{
    char text[4096];
    int n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n%s\r\n", lines);

    assert_true(n > 0 && (size_t)n < sizeof(text));
    return parse(text);
}

static void assert_text(struct http_text t, const char *expected)
{
    if (!http_text_is(t, expected))
        fail_msg("\"%.*s\" is not \"%s\"", (int)t.len, t.at, expected);
}

static int forget(void **state)
{
    (void)state;
    free(copy);
    copy = NULL;
    return 0;
}

static void the_end_of_a_head_is_found_in_every_prefix(void **state)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\nbehind\r\n\r\n";
    size_t whole = strlen("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    (void)state;
    for (size_t len = 0; len < sizeof(text); len++)
        assert_int_equal(http_head_len(text, len), len < whole ? 0 : whole);
}

static void a_browsers_request_is_taken_apart(void **state)
{
    struct http_text value;

    (void)state;
    assert_int_equal(parse("GET /subscribe?jwt=a.b.c&x=%20 HTTP/1.1\r\nHost: example.org:8080\r\n"
                           "Origin:https://example.org\r\nX-Empty:\r\nCookie: \t a=b; c  \t\r\n\r\n"),
                     0);
    assert_text(head.method, "GET");
    assert_text(head.path, "/subscribe");
    assert_text(head.query, "jwt=a.b.c&x=%20");
    assert_int_equal(head.minor, 1);
    assert_int_equal(head.field_count, 4);
    assert_int_equal(http_head_field(&head, "hOST", &value), 1);
    assert_text(value, "example.org:8080");
    assert_int_equal(http_head_field(&head, "Origin", &value), 1);
    assert_text(value, "https://example.org");
    assert_int_equal(http_head_field(&head, "x-empty", &value), 1);
    assert_text(value, "");
    assert_int_equal(http_head_field(&head, "cookie", &value), 1);
    assert_text(value, "a=b; c");
    assert_int_equal(http_head_field(&head, "Hos", &value), 0);
    assert_int_equal(http_head_field(&head, "Host2", &value), 0);
}

static void a_target_without_query_has_an_empty_one(void **state)
{
    (void)state;
    assert_int_equal(parse("GET /health HTTP/1.0\r\n\r\n"), 0);
    assert_text(head.path, "/health");
    assert_text(head.query, "");
    assert_int_equal(head.minor, 0);
    assert_int_equal(parse("GET /? HTTP/1.1\r\n\r\n"), 0);
    assert_text(head.path, "/");
    assert_text(head.query, "");
    assert_int_equal(parse("GET /a?b?c HTTP/1.1\r\n\r\n"), 0);
    assert_text(head.query, "b?c");
}

static void a_wrong_request_line_is_refused(void **state)
{
    static const char *const lines[] = {
        "",
        "GET",
        "GET /",
        "GET /  HTTP/1.1",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET http://other/ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET subscribe HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / HTTX/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\t HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET / HTTP/1.1\nHost: a",
        "\r\nGET / HTTP/1.1",
        "\x16\x03\x01\x02",
    };
    char text[128];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        snprintf(text, sizeof(text), "%s\r\n\r\n", lines[i]);
        if (parse(text) != 400)
            fail_msg("not refused: %s", lines[i]);
    }
}

static void another_version_of_http_is_said_to_be_one(void **state)
{
    (void)state;
    assert_int_equal(parse("GET / HTTP/2.0\r\n\r\n"), 505);
    assert_int_equal(parse("GET / HTTP/0.9\r\n\r\n"), 505);
    assert_int_equal(parse("PRI * HTTP/2.0\r\n\r\n"), 400);
    assert_int_equal(parse("GET / HTTP/1.x\r\n\r\n"), 505);
    assert_int_equal(parse("GET / HTTP/1.9\r\n\r\n"), 0);
}

static void a_wrong_field_line_is_refused(void **state)
{
    static const char *const lines[] = {
        "no colon\r\n",    ": no name\r\n",       "Name : space before the colon\r\n",
        " Folded: x\r\n",  "A: b\r\n folded\r\n", "A: b\r\n\tfolded\r\n",
        "A: bare\rCR\r\n", "A: bare\nB: LF\r\n",  "A: \x01\r\n",
        "A: \x7f\r\n",     "N\xc3\xa4me: x\r\n",  "Na(me: x\r\n",
        "\"Name\": x\r\n", "Name\t: x\r\n",       "A: b\r\n\n",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        if (parse_fields(lines[i]) != 400)
            fail_msg("not refused: %s", lines[i]);
    assert_int_equal(parse_fields("A: \xc3\xa4 is opaque data, as is \xff\r\n"), 0);
}

static void a_nul_is_refused_wherever_it_stands(void **state)
{
    static const char text[] = "GET /a HTTP/1.1\r\nHost: b\r\n\r\n";
    char with[sizeof(text)];

    (void)state;
    for (size_t i = 0; i < sizeof(text) - 1 - 4; i++) {
        memcpy(with, text, sizeof(text));
        with[i] = '\0';
        assert_int_equal(parse_bytes(with, sizeof(text) - 1), 400);
    }
}

static void too_many_fields_are_said_to_be_so(void **state)
{
    char text[4096];
    size_t len = 0;

    (void)state;
    for (int i = 0; i < HTTP_FIELDS_MAX; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "F%d: x\r\n", i);
    assert_int_equal(parse_fields(text), 0);
    assert_int_equal(head.field_count, HTTP_FIELDS_MAX);
    snprintf(text + len, sizeof(text) - len, "One-more: x\r\n");
    assert_int_equal(parse_fields(text), 431);
}

static void fields_of_one_name_are_counted_and_the_first_is_given(void **state)
{
    struct http_text value;

    (void)state;
    assert_int_equal(parse_fields("A: 1\r\nB: x\r\na: 2\r\n"), 0);
    assert_int_equal(http_head_field(&head, "A", &value), 2);
    assert_text(value, "1");
}

static void a_list_is_read_over_all_its_fields(void **state)
{
    static const char *const expected[] = {"a", "b c", "D", "e", "f"};
    struct http_list at = {0};
    struct http_text element;
    size_t n = 0;

    (void)state;
    assert_int_equal(parse_fields("L: a,b c ,\t, D\r\nOther: x, y\r\nL:\r\nL: ,,\r\nl: e\r\nL:\t,f,\r\n"), 0);
    while (http_head_list(&head, "l", &at, &element)) {
        assert_true(n < ARRAY_LEN(expected));
        assert_text(element, expected[n++]);
    }
    assert_int_equal(n, ARRAY_LEN(expected));
    assert_false(http_head_list(&head, "l", &at, &element)); /* stays at the end */
    assert_true(http_head_list_has(&head, "L", "d"));
    assert_true(http_head_list_has(&head, "L", "B C"));
    assert_false(http_head_list_has(&head, "L", "b"));
    assert_false(http_head_list_has(&head, "L", ""));
    assert_false(http_head_list_has(&head, "None", "a"));
}

/* The length of a list is the stranger's to choose. Looked up once for each element from the beginning, this
 * one would take seconds. */
static void the_longest_list_is_read_in_one_pass(void **state)
{
    static const char begin[] = "GET / HTTP/1.1\r\nL: ";
    char *text = malloc(HTTP_HEAD_MAX);
    size_t len = sizeof(begin) - 1;
    clock_t before;

    (void)state;
    assert_non_null(text);
    memcpy(text, begin, len);
    while (len < HTTP_HEAD_MAX - 4) {
        text[len++] = 'a';
        text[len++] = ',';
    }
    memcpy(text + HTTP_HEAD_MAX - 4, "\r\n\r\n", 4);
    assert_int_equal(parse_bytes(text, HTTP_HEAD_MAX), 0);
    before = clock();
    for (int i = 0; i < 10; i++)
        assert_false(http_head_list_has(&head, "L", "b"));
    assert_true(clock() - before < CLOCKS_PER_SEC);
    free(text);
}

static void the_last_query_parameter_of_a_name_is_given_with_their_number(void **state)
{
    static const struct {
        const char *query;
        size_t count;
        const char *value;
    } cases[] = {
        {"", 0, NULL},
        {"jwt", 1, ""},
        {"jwt=", 1, ""},
        {"jwt=a", 1, "a"},
        {"jwt=a=b", 1, "a=b"},
        {"x=1&jwt=a&y", 1, "a"},
        {"jwt=a&jwt=b", 2, "b"},
        {"&&jwt=a&&", 1, "a"},
        {"jwt[]=a", 0, NULL},
        {"JWT=a", 0, NULL},
        {"xjwt=a&jwtx=b", 0, NULL},
        {"=jwt", 0, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_text query = {cases[i].query, strlen(cases[i].query)}, value = {0};

        assert_int_equal(http_query(query, "jwt", &value), cases[i].count);
        if (cases[i].value)
            assert_text(value, cases[i].value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_end_of_a_head_is_found_in_every_prefix),
        cmocka_unit_test(a_browsers_request_is_taken_apart),
        cmocka_unit_test(a_target_without_query_has_an_empty_one),
        cmocka_unit_test(a_wrong_request_line_is_refused),
        cmocka_unit_test(another_version_of_http_is_said_to_be_one),
        cmocka_unit_test(a_wrong_field_line_is_refused),
        cmocka_unit_test(a_nul_is_refused_wherever_it_stands),
        cmocka_unit_test(too_many_fields_are_said_to_be_so),
        cmocka_unit_test(fields_of_one_name_are_counted_and_the_first_is_given),
        cmocka_unit_test(a_list_is_read_over_all_its_fields),
        cmocka_unit_test(the_longest_list_is_read_in_one_pass),
        cmocka_unit_test(the_last_query_parameter_of_a_name_is_given_with_their_number),
    };

    return cmocka_run_group_tests(tests, NULL, forget);
}
