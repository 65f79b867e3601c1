/* ingest_ctx.h - what the parts of ingest share: the loop, the two links, the configuration, the scripts.
 *
 * Open: ingest.c makes it and outlives everything that points to it. Loop thread only. */
#ifndef EF_INGEST_CTX_H
#define EF_INGEST_CTX_H

#include "ingest/amqp_link.h"
#include "ingest/ingest_metrics.h"

#include "shared/config.h"
#include "shared/redis_link.h"

enum ingest_script { SCRIPT_PUBLISH, SCRIPT_CLAIM, SCRIPT_DIGESTS, SCRIPT_TICK, SCRIPT_COUNT };

/* Bytes of deliveries that are held. Over the limit nothing is read from RabbitMQ. */
struct inflight {
    size_t bytes, limit;
    bool paused;
};

struct ingest_ctx {
    uv_loop_t *loop;
    struct config *config; /* replaced on reload */
    struct metrics *metrics;
    struct amqp_link *amqp; /* NULL once closed */
    struct redis_link *redis;
    char process[96]; /* names this process in leases and claims; no other has it */
    struct redis_script scripts[SCRIPT_COUNT];
    struct inflight inflight;
};

/* Fill in scripts and the process's name. */
void ingest_ctx_init(struct ingest_ctx *ctx);
/* Hand all scripts to Redis (they go in front of what is sent next). Redis may answer with an error; then so
 * does the first call of the script. */
void ingest_scripts_load(struct ingest_ctx *ctx);
/* EVALSHA: argv holds keys, then arguments, from argv[3] on; the first three places are filled in here. */
MUST_CHECK
int ingest_script_call(struct ingest_ctx *ctx, enum ingest_script script, int keys, redis_reply_cb *cb,
                       void *user, size_t argc, const char **argv, size_t *lens);
/* A fresh name for an epoch: 6 of [a-z0-9] and a NUL. */
enum { EPOCH_NEW_LEN = 6, EPOCH_MAX = 32 };
void ingest_epoch_new(char out[EPOCH_NEW_LEN + 1]);
/* Count held bytes; stops and restarts reading from RabbitMQ. */
void inflight_add(struct ingest_ctx *ctx, size_t bytes);
void inflight_sub(struct ingest_ctx *ctx, size_t bytes);

#endif
