#include "gateway/position.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a client says where it was: read, and written back as the same place. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct position pos = {0}, again = {0};
    size_t exchange_len = 0, again_len = 0;
    unsigned partition = 0, again_partition = 0;
    struct buf out = {0};

    if (!position_parse(text, size, &exchange_len, &partition, &pos))
        return 0;
    assert(exchange_len > 0 && exchange_len < size && strlen(pos.epoch) <= EPOCH_MAX);
    position_print(&pos, "x", (int)partition, &out);
    assert(buf_status(&out) == 0);
    /* An epoch with a NUL in it is cut there, and equals none of ours. */
    if (pos.epoch[0]) {
        assert(position_parse(out.data, out.len, &again_len, &again_partition, &again));
        assert(again_len == 1 && again_partition == partition && strcmp(again.epoch, pos.epoch) == 0);
        assert(!position_is_above(&pos, &again) && !position_is_above(&again, &pos));
    }
    buf_done(&out);
    return 0;
}
