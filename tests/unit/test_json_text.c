#include "shared/json_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define REPLACED "\xef\xbf\xbd"

/* Judged at every alignment, and from memory that ends where the text ends. */
static bool check(const char *text, size_t len)
{
    bool first = false;

    for (size_t shift = 0; shift < 8; shift++) {
        char *copy = malloc(len + shift + 1);
        bool ok;

        assert_non_null(copy);
        copy = realloc(copy, len + shift ? len + shift : 1);
        assert_non_null(copy);
        memcpy(copy + shift, text, len);
        ok = json_text_check(copy + shift, len);
        free(copy);
        if (shift > 0)
            assert_int_equal(ok, first);
        first = ok;
    }
    return first;
}

static void valid_texts_are_json(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        "10",
        "1.5",
        "1.50",
        "1e5",
        "1E+5",
        "1e-05",
        "0.0e0",
        "123456789012345678901234567890",
        "1e999",
        "\"\"",
        "\"a\"",
        " \t\r\n{ \"a\" : [ 1 , 2 ] } \t\r\n",
        "{\"a\":1,\"a\":2}",
        "[[[[]]]]",
        "[{},[],{\"x\":{}}]",
        "\"\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u00e9 \\uABCD\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\u0000\"",
        "\"\x7f\"",
        "\"\xe2\x98\x83\xf0\x9f\x98\x80\"",
        "\"\xe2\x80\xa8\"",
        "\"12345678\"",
        "\"1234567\\n1234567\"",
        "{\"\":\"\"}",
        "[\"a\",\"b\"]",
        "{\"a\":{\"b\":[{\"c\":null}]},\"d\":false}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (!check(texts[i], strlen(texts[i])))
            fail_msg("refused: %s", texts[i]);
    }
}

static void invalid_texts_are_not_json(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "{]",
        "[}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":}",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1}}",
        "[]]",
        "{}{}",
        "1 2",
        "nul",
        "nulll",
        "True",
        "tru",
        "fals",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "1.",
        ".5",
        "-.5",
        "1e",
        "1e+",
        "1.e5",
        "0x10",
        "1_0",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u123g\"",
        "\"\\u 123\"",
        "\"\\U0041\"",
        "\"\\\n\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"1234567\x1f\"",
        "\"12345678\x01\"",
        "\xef\xbb\xbf{}",
        "\xef\xbb\xbf",
        "{}\xff",
        "\xff",
        "[\xc3\xa9]",
        "\xc2\xa0{}",
        "\f{}",
        "\v1",
        "// c\n1",
        "/* */1",
        "[1]x",
        "\"a\"\"b\"",
        "{\"a\":1,\"b\"}",
        "[\"a\":1]",
        "{\"a\",\"b\"}",
        "undefined",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (check(texts[i], strlen(texts[i])))
            fail_msg("accepted: %s", texts[i]);
    }
    assert_false(check("\"a\0b\"", 5));
    assert_false(check("{}\0", 3));
    assert_false(check("\0", 1));
    assert_false(json_text_check(NULL, 0));
}

static void every_cut_of_a_text_is_not_json(void **state)
{
    const char *text = "{\"a\":[1.5e+10,\"x\\u00e9y\",{\"b\":null}],\"long name of some bytes\":true}";

    (void)state;
    assert_true(check(text, strlen(text)));
    for (size_t n = 0; n < strlen(text); n++)
        assert_false(check(text, n));
}

static void invalid_utf8_inside_strings_is_json_and_ends_no_string(void **state)
{
    (void)state;
    assert_true(check("\"\xff\"", 3));
    assert_true(check("{\"\xc3\":\"\xe2\x98\"}", 10));
    /* The quote behind a broken sequence is still the quote. */
    assert_true(check("[\"\xe2\",1]", 7));
    assert_false(check("[\"\xe2\"1\"]", 7));
}

static void nesting_is_limited_without_recursion(void **state)
{
    size_t big = 1 << 20;
    char *text = malloc(2 * big);

    (void)state;
    assert_non_null(text);
    memset(text, '[', big);
    memset(text + big, ']', big);
    assert_true(json_text_check(text + big - JSON_TEXT_DEPTH_MAX, 2 * JSON_TEXT_DEPTH_MAX));
    assert_false(json_text_check(text + big - JSON_TEXT_DEPTH_MAX - 1, 2 * JSON_TEXT_DEPTH_MAX + 2));
    assert_false(json_text_check(text, 2 * big));
    /* Which bracket was opened is remembered at every level. */
    for (size_t i = 0; i < JSON_TEXT_DEPTH_MAX; i++) {
        text[big - JSON_TEXT_DEPTH_MAX + i] = '[';
        text[big + i] = i == 300 ? '}' : ']';
    }
    assert_false(json_text_check(text + big - JSON_TEXT_DEPTH_MAX, 2 * JSON_TEXT_DEPTH_MAX));
    free(text);
}

static void check_utf8(const char *bytes, size_t len, const char *expect)
{
    CLEANUP(buf_done) struct buf out = {0};
    CLEANUP(buf_done) struct buf quoted = {0};

    json_text_add_utf8(&out, bytes, len);
    assert_int_equal(buf_status(&out), 0);
    assert_int_equal(out.len, strlen(expect));
    assert_memory_equal(out.data, expect, out.len);
    assert_int_equal(json_text_utf8(bytes, len), out.len == len && memcmp(out.data, bytes, len) == 0);
    assert_true(json_text_utf8(out.data, out.len));
    json_text_add_string(&quoted, bytes, len);
    assert_int_equal(quoted.len, out.len + 2);
    assert_memory_equal(quoted.data + 1, out.data, out.len);
}

static void utf8_is_replaced_as_the_whatwg_decoder_does(void **state)
{
    static const struct {
        const char *bytes, *expect;
    } cases[] = {
        {"plain ascii of many bytes", "plain ascii of many bytes"},
        {"\xc3\xa9\xe2\x98\x83\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x98\x83\xf0\x9f\x98\x80"},
        {"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"},
        {"a\xff"
         "b",
         "a" REPLACED "b"},
        {"\x80\xbf", REPLACED REPLACED},
        {"\xc0\xaf", REPLACED REPLACED},
        {"\xc1\xbf", REPLACED REPLACED},
        {"\xe0\x80\xaf", REPLACED REPLACED REPLACED},
        {"\xed\xa0\x80", REPLACED REPLACED REPLACED},
        {"\xf0\x80\x80\xaf", REPLACED REPLACED REPLACED REPLACED},
        {"\xf4\x90\x80\x80", REPLACED REPLACED REPLACED REPLACED},
        {"\xf5\x80", REPLACED REPLACED},
        /* A cut sequence is one replacement, and what ends it is read again. */
        {"\xe2\x98", REPLACED},
        {"\xe2\x98x", REPLACED "x"},
        {"\xf0\x9f\x98", REPLACED},
        {"\xf0\x9f\xe2\x98\x83", REPLACED "\xe2\x98\x83"},
        {"\xe2\xe2\x98\x83", REPLACED "\xe2\x98\x83"},
        {"12345678\xff"
         "12345678",
         "12345678" REPLACED "12345678"},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check_utf8(cases[i].bytes, strlen(cases[i].bytes), cases[i].expect);
}

static void strings_are_escaped_as_json_stringify_does(void **state)
{
    CLEANUP(buf_done) struct buf out = {0};
    const char text[] = "a\"b\\c/\b\t\n\f\r\x01\x1f\x7f\0 \xe2\x80\xa8 12345678\"";
    const char *expect = "\"a\\\"b\\\\c/\\b\\t\\n\\f\\r\\u0001\\u001f\x7f\\u0000 \xe2\x80\xa8 12345678\\\"\"";

    (void)state;
    json_text_add_string(&out, text, sizeof(text) - 1);
    assert_int_equal(buf_status(&out), 0);
    assert_string_equal(out.data, expect);
    buf_reset(&out);
    json_text_add_string(&out, NULL, 0);
    json_text_add_escaped(&out, "x\n", 2);
    assert_string_equal(out.data, "\"\"x\\n");
}

static void every_byte_in_every_place_makes_a_valid_string(void **state)
{
    CLEANUP(buf_done) struct buf out = {0};

    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        for (size_t at = 0; at < 18; at++) {
            char text[18];

            memset(text, 'x', sizeof(text));
            text[at] = (char)b;
            buf_reset(&out);
            json_text_add_string(&out, text, sizeof(text));
            assert_true(json_text_check(out.data, out.len));
            assert_true(json_text_utf8(out.data, out.len));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_texts_are_json),
        cmocka_unit_test(invalid_texts_are_not_json),
        cmocka_unit_test(every_cut_of_a_text_is_not_json),
        cmocka_unit_test(invalid_utf8_inside_strings_is_json_and_ends_no_string),
        cmocka_unit_test(nesting_is_limited_without_recursion),
        cmocka_unit_test(utf8_is_replaced_as_the_whatwg_decoder_does),
        cmocka_unit_test(strings_are_escaped_as_json_stringify_does),
        cmocka_unit_test(every_byte_in_every_place_makes_a_valid_string),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
