#include "shared/keyspace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_plain(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

void keyspace_encode(struct buf *out, const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];

        if (is_plain(c))
            buf_add_char(out, (char)c);
        else
            buf_printf(out, "%%%02X", c);
    }
}

static char *partition_key(const char *prefix, const char *exchange, int partition, const char *rest)
{
    CLEANUP(buf_done) struct buf b = {0};

    buf_printf(&b, "%s:{", prefix);
    keyspace_encode(&b, exchange, strlen(exchange));
    buf_printf(&b, ":%d}:%s", partition, rest);
    return buf_take(&b);
}

int partition_keys_init(struct partition_keys *k, const char *prefix, const char *exchange, int partition)
{
    *k = (struct partition_keys){
        .log = partition_key(prefix, exchange, partition, "log"),
        .meta = partition_key(prefix, exchange, partition, "meta"),
        .tick = partition_key(prefix, exchange, partition, "tick"),
        .channel = partition_key(prefix, exchange, partition, "ch:"),
        .probe = partition_key(prefix, exchange, partition, "probe:"),
    };
    if (!k->log || !k->meta || !k->tick || !k->channel || !k->probe) {
        partition_keys_done(k);
        return -ENOMEM;
    }
    return 0;
}

void partition_keys_done(struct partition_keys *k)
{
    free(k->log);
    free(k->meta);
    free(k->tick);
    free(k->channel);
    free(k->probe);
    *k = (struct partition_keys){0};
}

void keyspace_access(struct buf *out, const char *prefix, const char *user, const char *digest)
{
    buf_printf(out, "%s:access:{%s}:%s", prefix, user, digest);
}
