/* topic_pairs.c - topic_match for another program: lines "<pattern> <key>", both in hex ("-" for the empty
 * text), are answered by lines "1" or "0". The comparison with a real RabbitMQ exchange uses it. */
#include "shared/topic.h"

#include <stdio.h>
#include <string.h>

static int digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* Returns the number of bytes, or -1 if this is not hex of at most TOPIC_MAX bytes. */
static int unhex(const char *hex, char out[TOPIC_MAX])
{
    int n = 0;

    if (strcmp(hex, "-") == 0)
        return 0;
    for (; hex[0]; hex += 2) {
        int high = digit(hex[0]), low = digit(hex[1]);

        if (high < 0 || low < 0 || n == TOPIC_MAX)
            return -1;
        out[n++] = (char)(high << 4 | low);
    }
    return n;
}

int main(void)
{
    char pattern_hex[2 * TOPIC_MAX + 2], key_hex[2 * TOPIC_MAX + 2];
    char pattern[TOPIC_MAX], key[TOPIC_MAX];

    while (scanf("%511s %511s", pattern_hex, key_hex) == 2) {
        int pattern_len = unhex(pattern_hex, pattern), key_len = unhex(key_hex, key);

        if (pattern_len < 0 || key_len < 0) {
            fputs("topic_pairs: expected two texts in hex\n", stderr);
            return 1;
        }
        puts(topic_match(pattern, (size_t)pattern_len, key, (size_t)key_len) ? "1" : "0");
    }
    return 0;
}
