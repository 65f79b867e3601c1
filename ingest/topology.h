/* topology.h - our queues in RabbitMQ: declared, bound, watched, on one channel of their own.
 *
 *   exchange event.dead (fanout) --> queue event.dead                        what cannot be served
 *   <exchange> --bindings--> queue event.ingest.<exchange>.<partition>       durable, single active consumer
 *
 * Users' exchanges are never declared: one that does not exist is waited for, while the others go on. What is
 * there is declared again every 5 s (which tells the queue's depth and heals a deleted queue) and bound again
 * every 15 s (which heals an exchange that was deleted and made again). */
#ifndef EF_TOPOLOGY_H
#define EF_TOPOLOGY_H

#include "ingest/ingest_ctx.h"

struct topology;
struct topology_entry;

enum topology_state {
    TOPOLOGY_UNKNOWN, /* not asked yet since the connection came up */
    TOPOLOGY_BOUND,
    TOPOLOGY_WAITING, /* RabbitMQ has no such exchange */
    TOPOLOGY_REFUSED, /* RabbitMQ refuses: other arguments, permissions, .. */
};

/* The queue exists now (called at every declaration), or it is not known any more to exist. */
typedef void topology_queue_cb(void *user, bool there);

struct topology *topology_new(struct ingest_ctx *ctx);
void topology_free(struct topology *t); /* with its entries; memory goes in a later turn of the loop */
void topology_up(struct topology *t);   /* the link came up */

/* queue: copied. NULL on lack of memory. */
struct topology_entry *topology_add(struct topology *t, const struct config_exchange *exchange,
                                    const char *queue, topology_queue_cb *cb, void *user);
/* New bindings: those that are not wanted any more are taken away. 0 or -ENOMEM (then nothing has changed).
 */
MUST_CHECK
int topology_update(struct topology_entry *e, const struct config_exchange *exchange);
/* Forget it. The queue stays at the broker, with its bindings: what it holds is not ours to throw away. */
void topology_remove(struct topology_entry *e);
/* Declare it now: its consumer has been cancelled. */
void topology_poke(struct topology_entry *e);

enum topology_state topology_entry_state(const struct topology_entry *e);
/* Why it is refused, "" if it is not. */
const char *topology_entry_detail(const struct topology_entry *e);
/* The same for the dead-letter exchange and queue. */
enum topology_state topology_dead_state(const struct topology *t, const char **ret_detail);

#endif
