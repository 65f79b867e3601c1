/* buf.h - a growable byte buffer, owned by whoever embeds it.
 *
 * An allocation that fails is remembered in `failed` and later calls do nothing, so a builder makes
 * its calls and looks once at the end (buf_status). The bytes are always followed by a NUL that `len`
 * does not count. */
#ifndef EF_BUF_H
#define EF_BUF_H

#include "shared/util.h"

#include <stdarg.h>
#include <stdbool.h>

struct buf {
    char *data; /* NULL until the first byte */
    size_t len; /* bytes in use */
    size_t cap; /* bytes allocated */
    bool failed;
};

/* All zeros is a valid empty buffer: struct buf b = {0}; */
void buf_done(struct buf *b);  /* frees the bytes; `b` is empty again. CLEANUP(buf_done) works. */
void buf_reset(struct buf *b); /* empties it, keeps the memory, forgets `failed` */
void buf_add(struct buf *b, const void *bytes, size_t len);
void buf_add_str(struct buf *b, const char *text);
void buf_add_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *format, ...) PRINTF_LIKE(2, 3);
void buf_add_num(struct buf *b, double n);    /* as short as it can be and still be read back as `n` */
void buf_reserve(struct buf *b, size_t more); /* room for `more` bytes beyond len */
MUST_CHECK
int buf_status(const struct buf *b); /* 0 or -ENOMEM */
/* The bytes as a NUL-terminated string that the caller frees with free(); `b` is empty afterwards.
 * NULL if an allocation failed. */
MUST_CHECK
char *buf_take(struct buf *b);

#endif
