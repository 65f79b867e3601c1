/* The digest: stored in Redis and compared by other processes, so its values may never change. */
#include "shared/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

/* The expected values come from Python: sha256 over (little-endian 64-bit length + bytes) of each part,
 * the first 32 hex digits. */
static void known_answers_stay_what_they_are(void **state)
{
    static unsigned char large[100000];
    static const struct {
        size_t count;
        struct digest_part parts[2];
        const char *hex;
    } cases[] = {
        {0, {{NULL, 0}}, "e3b0c44298fc1c149afbf4c8996fb924"},
        {1, {{NULL, 0}}, "af5570f5a1810b7af78caf4bc70a660f"},
        {1, {{"abc", 3}}, "ce91dc5eec0139adf091900d225971d6"},
        {2, {{"ab", 2}, {"c", 1}}, "43ee655579de01ca739b3f95c1c2d3f4"},
        {2, {{"a", 1}, {"bc", 2}}, "9a8acca1b6c6c0befd3fbc756aed625d"},
        {1, {{"a\0b", 3}}, "517ad782d13c0ce2844db20f13b21870"},
        {1, {{large, sizeof(large)}}, "35ad68a7b9d386a036d20004ecb65b14"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(large); i++)
        large[i] = (unsigned char)(i % 251);
    /* Twice: the second round uses the context again. */
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            char hex[DIGEST_HEX + 1];

            memset(hex, 'x', sizeof(hex));
            digest_hex(cases[i].parts, cases[i].count, hex);
            assert_string_equal(hex, cases[i].hex);
        }
    }
}

static void the_same_bytes_in_other_parts_differ(void **state)
{
    const struct digest_part one[] = {{"ab", 2}, {"c", 1}}, other[] = {{"a", 1}, {"bc", 2}};
    const struct digest_part whole[] = {{"abc", 3}}, with_empty[] = {{"abc", 3}, {"", 0}};
    const struct {
        const struct digest_part *parts;
        size_t count;
    } sets[] = {{one, 2}, {other, 2}, {whole, 1}, {with_empty, 2}};
    char hex[ARRAY_LEN(sets)][DIGEST_HEX + 1];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        digest_hex(sets[i].parts, sets[i].count, hex[i]);
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        for (size_t j = i + 1; j < ARRAY_LEN(sets); j++)
            assert_string_not_equal(hex[i], hex[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers_stay_what_they_are),
        cmocka_unit_test(the_same_bytes_in_other_parts_differ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
