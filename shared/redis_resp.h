/* redis_resp.h - commands as Redis reads them (RESP, "array of bulk strings"). Inside redis_link only. */
#ifndef EF_REDIS_RESP_H
#define EF_REDIS_RESP_H

#include "shared/buf.h"
#include "shared/util.h"

/* Append one command to `out`, all of it or nothing. lens NULL: NUL-terminated strings. Returns 0, or -ENOMEM
 * also when it would take more than `room` bytes. */
MUST_CHECK
int resp_add_command(struct buf *out, size_t room, size_t argc, const char *const *argv, const size_t *lens);

#endif
