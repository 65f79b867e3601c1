/* config.c - reading the configuration file, and the life of a struct config.
 *
 *   file -> bytes -> JSON -> ${NAME} resolved -> checked against the tables -> pairs compared -> struct
 * config
 *
 * Failures: a file that cannot be read, or is not JSON, is one line and the end. From there on faults are
 * collected, and a configuration with any of them is thrown away as a whole: there is no half-right one.
 * A secret never gets into a line: the JSON parser's "near ..." is cut off for that reason. */
#include "shared/config_impl.h"

#include "shared/err.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, size_t max, struct buf *out)
{
    ssize_t n;

    do {
        buf_reserve(out, 65536);
        if (out->failed)
            return -ENOMEM;
        n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            out->len += (size_t)n;
        if (out->len > max)
            return -EFBIG;
    } while (n != 0);
    out->data[out->len] = '\0';
    return 0;
}

int config_file_read(const char *file, size_t max, struct buf *ret_bytes)
{
    /* Not to hang on a FIFO that nobody writes. */
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    int r;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (S_ISDIR(st.st_mode))
        r = -EISDIR;
    else if (!S_ISREG(st.st_mode))
        r = -ENOTSUP;
    else
        r = read_all(fd, max, ret_bytes);
    close(fd);
    return r;
}

static json_t *parse_json(struct config_ctx *ctx, const char *text, size_t len)
{
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    char *near;

    if (!root) {
        near = strstr(error.text, " near ");
        if (near && json_error_code(&error) != json_error_duplicate_key)
            *near = '\0';
        if (error.line > 0)
            config_error(ctx, NULL, "line %d, column %d: %s", error.line, error.column, error.text);
        else
            config_error(ctx, NULL, "%s", error.text);
    } else if (!json_is_object(root)) {
        config_error(ctx, NULL, "holds %s (a JSON object)", config_kind(root));
        json_decref(root);
        return NULL;
    }
    return root;
}

static void config_free(struct config *c)
{
    config_table_free(&config_root_table, c);
    json_decref(c->effective);
    free(c);
}

static void config_freep(struct config **c)
{
    if (*c)
        config_free(*c);
}

static int parse(struct config_ctx *ctx, const char *text, size_t len, struct config **ret_config)
{
    CLEANUP(config_freep) struct config *c = calloc(1, sizeof(*c));
    CLEANUP(json_decrefp) json_t *root = NULL;

    if (!c)
        return -ENOMEM;
    c->refs = 1;
    c->effective = json_object();
    root = parse_json(ctx, text, len);
    if (!root)
        return ERR_CONFIG;
    config_env_resolve(ctx, NULL, root);
    config_table_parse(ctx, NULL, root, &config_root_table, c, c->effective);
    config_check_pairs(ctx, c, root);
    if (ctx->nomem)
        return -ENOMEM;
    if (ctx->error_count)
        return ERR_CONFIG;
    *ret_config = TAKE(c);
    return 0;
}

/* Hand the faults over, or drop them. */
static int finish(struct config_ctx *ctx, int r, char **ret_errors)
{
    char *errors = NULL;

    if (r == ERR_CONFIG) {
        if (ctx->error_count > CONFIG_ERRORS_MAX)
            buf_printf(&ctx->errors, "and %zu more\n", ctx->error_count - CONFIG_ERRORS_MAX);
        errors = buf_take(&ctx->errors);
        if (errors)
            *ret_errors = errors;
        else
            r = -ENOMEM;
    }
    buf_done(&ctx->errors);
    free(ctx->unresolved);
    return r;
}

int config_parse(const char *text, size_t len, struct config **ret_config, char **ret_errors)
{
    struct config_ctx ctx = {0};

    return finish(&ctx, parse(&ctx, text, len, ret_config), ret_errors);
}

int config_load(const char *path, struct config **ret_config, char **ret_errors)
{
    struct config_ctx ctx = {.file = path};
    CLEANUP(buf_done) struct buf bytes = {0};
    int r = config_file_read(path, CONFIG_FILE_MAX, &bytes);

    if (r == -EFBIG)
        config_error(&ctx, NULL, "is larger than %d bytes", CONFIG_FILE_MAX);
    else if (r < 0)
        config_error(&ctx, NULL, "cannot be read: %s", strerror(-r));
    if (r < 0)
        return finish(&ctx, r == -ENOMEM ? r : ERR_CONFIG, ret_errors);
    return finish(&ctx, parse(&ctx, bytes.data, bytes.len, ret_config), ret_errors);
}

struct config *config_ref(struct config *c)
{
    assert(c->refs > 0);
    c->refs++;
    return c;
}

void config_unref(struct config *c)
{
    if (!c)
        return;
    assert(c->refs > 0);
    if (--c->refs == 0)
        config_free(c);
}

const struct config_exchange *config_exchange_find(const struct config *c, const char *name, size_t len)
{
    size_t low = 0, high = c->exchange_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *other = c->exchanges[middle].name;
        size_t other_len = strlen(other);
        int order = memcmp(name, other, len < other_len ? len : other_len);

        if (order == 0 && len == other_len)
            return &c->exchanges[middle];
        if (order < 0 || (order == 0 && len < other_len))
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
