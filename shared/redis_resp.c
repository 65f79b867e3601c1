#include "shared/redis_resp.h"

#include <errno.h>
#include <string.h>

static void add_header(struct buf *out, char kind, size_t n)
{
    char text[24];
    char *p = text + sizeof(text);

    *--p = '\n';
    *--p = '\r';
    do {
        *--p = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    *--p = kind;
    buf_add(out, p, (size_t)(text + sizeof(text) - p));
}

int resp_add_command(struct buf *out, size_t room, size_t argc, const char *const *argv, const size_t *lens)
{
    size_t need = 32;

    for (size_t i = 0; i < argc; i++)
        need += 32 + (lens ? lens[i] : strlen(argv[i]));
    if (need > room)
        return -ENOMEM;
    buf_reserve(out, need);
    if (buf_status(out) < 0) {
        out->failed = false;
        return -ENOMEM;
    }
    add_header(out, '*', argc);
    for (size_t i = 0; i < argc; i++) {
        size_t len = lens ? lens[i] : strlen(argv[i]);

        add_header(out, '$', len);
        buf_add(out, argv[i], len);
        buf_add(out, "\r\n", 2);
    }
    return 0;
}
