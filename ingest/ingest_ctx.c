#include "ingest/ingest_ctx.h"

#include "lua_scripts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static uint64_t random_u64(void)
{
    uint64_t v = 0;

    /* At most 256 bytes are never cut short; it may block only in the first moments of a machine's life. */
    if (getrandom(&v, sizeof(v), 0) != sizeof(v))
        abort();
    return v;
}

void ingest_epoch_new(char out[EPOCH_NEW_LEN + 1])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    uint64_t v = random_u64();

    for (size_t i = 0; i < EPOCH_NEW_LEN; i++, v /= 36)
        out[i] = letters[v % 36];
    out[EPOCH_NEW_LEN] = '\0';
}

void ingest_ctx_init(struct ingest_ctx *ctx)
{
    char host[48] = "";

    if (gethostname(host, sizeof(host) - 1) < 0)
        snprintf(host, sizeof(host), "unknown");
    snprintf(ctx->process, sizeof(ctx->process), "%s:%d:%08llx", host, (int)getpid(),
             (unsigned long long)(random_u64() & 0xffffffffu));
    redis_script_init(&ctx->scripts[SCRIPT_PUBLISH], lua_publish);
    redis_script_init(&ctx->scripts[SCRIPT_CLAIM], lua_claim);
    redis_script_init(&ctx->scripts[SCRIPT_DIGESTS], lua_digests);
    redis_script_init(&ctx->scripts[SCRIPT_TICK], lua_tick);
}

void ingest_scripts_load(struct ingest_ctx *ctx)
{
    for (size_t i = 0; i < SCRIPT_COUNT; i++)
        if (redis_link_script_load(ctx->redis, &ctx->scripts[i], NULL, NULL) < 0)
            return; /* the link broke: it is done again when it is up */
}

int ingest_script_call(struct ingest_ctx *ctx, enum ingest_script script, int keys, redis_reply_cb *cb,
                       void *user, size_t argc, const char **argv, size_t *lens)
{
    static const char *const digits[] = {"0", "1", "2", "3"};

    assert(keys >= 0 && keys <= 3);
    argv[0] = "EVALSHA";
    lens[0] = 7;
    argv[1] = ctx->scripts[script].sha1;
    lens[1] = 40;
    argv[2] = digits[keys];
    lens[2] = 1;
    return redis_link_command(ctx->redis, cb, user, argc, argv, lens);
}

/* Below the limit, or with nothing held at all, reading goes on: one event over the limit must not stop us
 * for ever. */
static void inflight_judge(struct ingest_ctx *ctx)
{
    struct inflight *f = &ctx->inflight;
    bool pause = f->limit && f->bytes >= f->limit;

    if (pause == f->paused)
        return;
    f->paused = pause;
    if (ctx->amqp)
        amqp_link_pause(ctx->amqp, pause);
    metrics_set(ctx->metrics, IM_READ_PAUSED, pause);
    if (pause)
        metrics_add(ctx->metrics, IM_READ_PAUSES, 1);
}

void inflight_add(struct ingest_ctx *ctx, size_t bytes)
{
    ctx->inflight.bytes += bytes;
    inflight_judge(ctx);
}

void inflight_sub(struct ingest_ctx *ctx, size_t bytes)
{
    assert(bytes <= ctx->inflight.bytes);
    ctx->inflight.bytes -= bytes;
    inflight_judge(ctx);
}
