#include "gateway/position.h"

#include <inttypes.h>
#include <string.h>

static size_t parse_number(const char *text, size_t len, uint64_t *ret)
{
    uint64_t n = 0;
    size_t i;

    for (i = 0; i < len && text[i] >= '0' && text[i] <= '9'; i++)
        if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(text[i] - '0'), &n))
            return 0;
    *ret = n;
    return i;
}

size_t position_parse_id(const char *text, size_t len, struct position *ret)
{
    uint64_t ms, seq;
    size_t a = parse_number(text, len, &ms), b;

    if (a == 0 || a >= len || text[a] != '-')
        return 0;
    b = parse_number(text + a + 1, len - a - 1, &seq);
    if (b == 0)
        return 0;
    ret->ms = ms;
    ret->seq = seq;
    return a + 1 + b;
}

bool position_parse(const char *text, size_t len, size_t *ret_exchange_len, unsigned *ret_partition,
                    struct position *ret)
{
    const char *id = memrchr(text, ':', len), *epoch, *partition;
    size_t id_len, epoch_len, digits;
    uint64_t number;

    if (!id)
        return false;
    id_len = len - (size_t)(id + 1 - text);
    epoch = memrchr(text, ':', (size_t)(id - text));
    if (!epoch || position_parse_id(id + 1, id_len, ret) != id_len || id_len == 0)
        return false;
    epoch_len = (size_t)(id - epoch - 1);
    partition = memrchr(text, ':', (size_t)(epoch - text));
    if (!partition || partition == text || epoch_len == 0 || epoch_len > EPOCH_MAX)
        return false;
    digits = (size_t)(epoch - partition - 1);
    if (digits == 0 || parse_number(partition + 1, digits, &number) != digits || number > INT32_MAX)
        return false;
    memcpy(ret->epoch, epoch + 1, epoch_len);
    ret->epoch[epoch_len] = '\0';
    *ret_exchange_len = (size_t)(partition - text);
    *ret_partition = (unsigned)number;
    return true;
}

void position_print(const struct position *pos, const char *exchange, int partition, struct buf *out)
{
    if (exchange)
        buf_printf(out, "%s:%d:", exchange, partition);
    buf_printf(out, "%s:%" PRIu64 "-%" PRIu64, pos->epoch, pos->ms, pos->seq);
}
