/* keyspace.h - the names of everything in Redis (the public contract of the fleet).
 *
 *   <prefix>:{<exchange>:<partition>}:log | :meta | :tick | :ch:<prefix words> | :probe:<gateway>
 *   <prefix>:access:{<user digest>}:<digest>, ..:gen ; <prefix>:access:drop
 *
 * The braces are Redis Cluster hash tags. An exchange name is percent-encoded where it holds anything
 * outside [A-Za-z0-9._-] (upper-case hex). Channel prefixes are the raw bytes of the routing key. */
#ifndef EF_KEYSPACE_H
#define EF_KEYSPACE_H

#include "shared/buf.h"

/* The names of one partition of one exchange; all strings owned. */
struct partition_keys {
    char *log;
    char *meta;
    char *tick;
    char *channel; /* ends in ":ch:"; append the words of a prefix */
    char *probe;   /* ends in ":probe:"; append the gateway's name */
};

MUST_CHECK int partition_keys_init(struct partition_keys *k, const char *prefix, const char *exchange,
                                   int partition);
void partition_keys_done(struct partition_keys *k);

/* Append "<prefix>:access:{<user>}:<digest>" (or ":gen"); user and digest are hex texts. */
void keyspace_access(struct buf *out, const char *prefix, const char *user, const char *digest);
/* Append `name` percent-encoded as above. */
void keyspace_encode(struct buf *out, const char *name, size_t len);

#endif
