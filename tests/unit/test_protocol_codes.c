#include "gateway/protocol_codes.h"

#include "shared/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_error_code_has_a_word_of_its_own(void **state)
{
    (void)state;
    for (int i = 0; i < ERROR_CODE_COUNT; i++) {
        const char *word = error_code_wire((enum error_code)i);

        assert_true(word && word[0]);
        assert_int_equal(strspn(word, "abcdefghijklmnopqrstuvwxyz_"), strlen(word));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(word, error_code_wire((enum error_code)k));
    }
}

/* RFC 6455: 5.5, a control frame holds 125 bytes, 2 of them the code; 7.4.1 and 7.4.2, which codes may be
 * sent. */
static void every_close_reason_can_be_sent(void **state)
{
    (void)state;
    for (int i = 0; i < CLOSE_REASON_COUNT; i++) {
        enum close_reason r = (enum close_reason)i;
        int code = close_reason_code(r);
        const char *text = close_reason_text(r);

        assert_in_range(strlen(text), code ? 1 : 0, code ? 123 : 0);
        if (code < 3000)
            assert_true(code == 0 || code == 1001 || (code >= 1007 && code <= 1014));
        else
            assert_in_range(code, 4000, 4999);
        for (const char *p = text; *p; p++)
            assert_in_range(*p, ' ', '~');
    }
}

static void every_close_reason_has_a_label_of_its_own(void **state)
{
    (void)state;
    for (int i = 0; i < CLOSE_REASON_COUNT; i++) {
        const char *label = close_reason_label((enum close_reason)i);

        assert_true(label && label[0]);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(label, close_reason_label((enum close_reason)k));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_code_has_a_word_of_its_own),
        cmocka_unit_test(every_close_reason_can_be_sent),
        cmocka_unit_test(every_close_reason_has_a_label_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
