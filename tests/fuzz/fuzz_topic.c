#include "shared/topic.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* First byte: where the rest is cut in two. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    uint8_t lens[TOPIC_WORDS_MAX + 1];
    struct topic_word word;
    size_t a, b;

    if (size < 1 || data[0] > size - 1)
        return 0;
    a = data[0];
    b = size - 1 - a < TOPIC_MAX ? size - 1 - a : TOPIC_MAX;
    assert(topic_key_prefixes(text + a, b, lens) >= 1);
    for (size_t n = 0; n < 4; n++)
        (void)topic_fixed_word(text, a, n, &word);
    /* A key is a pattern too; what holds for the language must hold for its one word. */
    if (topic_literal_prefix(text + a, b) == b && topic_cover(text, a, text + a, b) != TOPIC_SOME)
        assert(topic_match(text, a, text + a, b) == (topic_cover(text, a, text + a, b) == TOPIC_ALL));
    return 0;
}
