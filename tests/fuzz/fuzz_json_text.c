#include "shared/json_text.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* jansson refuses more than the grammar does, so it may not accept what we refuse; and what we add is
 * always valid. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    bool ok = json_text_check(text, size);
    struct buf b = {0};
    json_t *value = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

    /* It reads a NUL byte behind the value as the end of the text. */
    assert(ok || !value || memchr(text, 0, size));
    json_decref(value);
    json_text_add_utf8(&b, text, size);
    assert(json_text_utf8(b.data, b.len) && json_text_check(b.data, b.len) == ok);
    buf_reset(&b);
    json_text_add_string(&b, text, size);
    assert(json_text_utf8(b.data, b.len) && json_text_check(b.data, b.len));
    value = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    assert(value);
    json_decref(value);
    buf_done(&b);
    return 0;
}
