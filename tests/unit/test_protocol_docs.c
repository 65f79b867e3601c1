/* docs/protocol.md names every error code and every close code of the tables, with their texts. */
#include "gateway/protocol_codes.h"
#include "shared/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *page;

static int read_page(void **state)
{
    FILE *file = fopen(EF_SOURCE_DIR "/docs/protocol.md", "r");
    CLEANUP(buf_done) struct buf text = {0};
    char part[4096];
    size_t n;

    (void)state;
    if (!file)
        return -1;
    while ((n = fread(part, 1, sizeof(part), file)) > 0)
        buf_add(&text, part, n);
    fclose(file);
    page = buf_take(&text);
    return page ? 0 : -1;
}

static int free_page(void **state)
{
    (void)state;
    free(page);
    return 0;
}

static void expect_line(const char *line)
{
    if (!strstr(page, line))
        fail_msg("docs/protocol.md lacks the row: %s", line);
}

static void every_error_code_has_its_row(void **state)
{
    (void)state;
#define X(name, wire, text) expect_line("| `" wire "` | " text " |\n");
    ERROR_CODES(X)
#undef X
}

static void every_close_code_has_its_row(void **state)
{
    char line[300];

    (void)state;
#define X(name, code, label, reason, advice)                                            \
    if ((code) != 0) {                                                                  \
        snprintf(line, sizeof(line), "| %d | %s | %s |\n", (code), (reason), (advice)); \
        expect_line(line);                                                              \
    }
    CLOSE_REASONS(X)
#undef X
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_code_has_its_row),
        cmocka_unit_test(every_close_code_has_its_row),
    };

    return cmocka_run_group_tests(tests, read_page, free_page);
}
