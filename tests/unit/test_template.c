/* Templates: what is put in, how it is escaped, and what is refused. */
#include "shared/template.h"

#include "shared/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct value {
    const char *name, *text;
    size_t len;
};

static int value_get(void *user, const char *name, const char **ret_text, size_t *ret_len)
{
    const struct value *v = user;

    if (strcmp(v->name, name) != 0)
        return ERR_TEMPLATE_VALUE;
    *ret_text = v->text;
    *ret_len = v->len;
    return 0;
}

static int expand(struct buf *out, const char *tmpl, const char *text, size_t len)
{
    struct value v = {"key", text, len};

    return template_url(out, tmpl, value_get, &v);
}

static void assert_url(const char *tmpl, const char *text, size_t len, const char *expected)
{
    CLEANUP(buf_done) struct buf out = {0};

    buf_add_str(&out, ">");
    assert_int_equal(expand(&out, tmpl, text, len), 0);
    assert_int_equal(out.data[0], '>');
    assert_string_equal(out.data + 1, expected);
}

static void assert_refused(const char *tmpl, const char *text, size_t len)
{
    CLEANUP(buf_done) struct buf out = {0};

    buf_add_str(&out, "kept");
    assert_int_equal(expand(&out, tmpl, text, len), ERR_TEMPLATE_VALUE);
    assert_string_equal(out.data, "kept");
    assert_int_equal(out.len, 4);
}

static void values_are_percent_encoded_into_one_segment(void **state)
{
    (void)state;
    assert_url("http://h/a/{key}/b", "x", 1, "http://h/a/x/b");
    assert_url("http://h/{key}", "AZaz09-._~", 10, "http://h/AZaz09-._~");
    assert_url("http://h/{key}", "a/b?c#d&e=f g%2f", 16, "http://h/a%2Fb%3Fc%23d%26e%3Df%20g%252f");
    assert_url("http://h/{key}", "\xc3\xa9\r\n", 4, "http://h/%C3%A9%0D%0A");
    assert_url("http://h/{key}", "a\0b", 3, "http://h/a%00b");
    assert_url("http://h/{key}", "{key}", 5, "http://h/%7Bkey%7D");
    assert_url("http://h/{key}/{key}?q={key}", "x", 1, "http://h/x/x?q=x");
    assert_url("http://h/plain", "x", 1, "http://h/plain");
}

static void doubled_braces_are_braces(void **state)
{
    (void)state;
    assert_url("{{{key}}}", "x", 1, "{x}");
    assert_url("a{{key}}b", "x", 1, "a{key}b");
}

static void dots_are_refused_everywhere_and_an_empty_value_in_a_path(void **state)
{
    (void)state;
    assert_refused("http://h/{key}", ".", 1);
    assert_refused("http://h/{key}", "..", 2);
    assert_refused("http://h/?q={key}", "..", 2);
    assert_refused("http://h/a/{key}/b", "", 0);
    assert_url("http://h/{key}", "...", 3, "http://h/...");
    assert_url("http://h/{key}", ".a", 2, "http://h/.a");
    assert_url("http://h/?q={key}", "", 0, "http://h/?q=");
}

static void a_value_that_does_not_exist_ends_the_expansion(void **state)
{
    (void)state;
    assert_refused("http://h/{other}", "x", 1);
}

static void faulty_braces_give_no_half_url(void **state)
{
    (void)state;
    assert_refused("http://h/{key", "x", 1);
    assert_refused("http://h/{key}/}", "x", 1);
    assert_refused("http://h/{a{key}}", "x", 1);
}

static void texts_take_values_as_they_are(void **state)
{
    CLEANUP(buf_done) struct buf out = {0};
    struct value v = {"key", "../a b", 6}, dot = {"key", ".", 1}, empty = {"key", "", 0};

    (void)state;
    assert_int_equal(template_text(&out, "<{key}>", value_get, &v), 0);
    assert_int_equal(template_text(&out, "{key}", value_get, &dot), 0);
    assert_int_equal(template_text(&out, "{key}|", value_get, &empty), 0);
    assert_string_equal(out.data, "<../a b>.|");
    assert_int_equal(template_text(&out, "{nokey}", value_get, &v), ERR_TEMPLATE_VALUE);
}

static bool known_key(void *user, const char *name)
{
    (void)user;
    return strcmp(name, "key") == 0;
}

static void the_check_names_what_is_wrong(void **state)
{
    static const struct {
        const char *tmpl, *part; /* part of the sentence; NULL: nothing is wrong */
    } cases[] = {
        {"", NULL},
        {"http://h/{key}?{{}}", NULL},
        {"http://h/{keys}", "unknown name {keys}"},
        {"http://h/{}", "unknown name {}"},
        {"http://h/{ key}", "unknown name { key}"},
        {"http://h/{key}/{key", "not closed"},
        {"http://h/{", "not closed"},
        {"http://h/{a{key}", "not closed"},
        {"http://h/}", "without its"},
        {"{aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}",
         "bytes between braces"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *why = template_check(cases[i].tmpl, known_key, NULL);

        if (!cases[i].part) {
            assert_null(why);
        } else {
            assert_non_null(why);
            assert_non_null(strstr(why, cases[i].part));
        }
        free(why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_percent_encoded_into_one_segment),
        cmocka_unit_test(doubled_braces_are_braces),
        cmocka_unit_test(dots_are_refused_everywhere_and_an_empty_value_in_a_path),
        cmocka_unit_test(a_value_that_does_not_exist_ends_the_expansion),
        cmocka_unit_test(faulty_braces_give_no_half_url),
        cmocka_unit_test(texts_take_values_as_they_are),
        cmocka_unit_test(the_check_names_what_is_wrong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
