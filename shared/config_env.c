/* config_env.c - ${NAME} and ${NAME:-default} inside the file's strings (values, not keys).
 *
 * The default is taken when the variable is unset or empty, as in a shell. "$${" stands for "${". What was
 * put in is not looked at again.
 *
 * Failures: a variable that is not set and has no default, a brace that is not closed, or a name that is
 * none, is a fault of that string; the string is then remembered as unresolved, so that its check does not
 * add a second, misleading line. */
#include "shared/config_impl.h"

#include <stdlib.h>
#include <string.h>

static bool is_name(const char *s, size_t len)
{
    if (len == 0 || (s[0] >= '0' && s[0] <= '9'))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!((s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') ||
              s[i] == '_'))
            return false;
    }
    return true;
}

/* `s` is what stands between "${" and "}". */
static bool add_variable(struct config_ctx *ctx, const struct config_path *path, const char *s, size_t len,
                         struct buf *out)
{
    const char *dflt = memmem(s, len, ":-", 2);
    size_t name_len = dflt ? (size_t)(dflt - s) : len;
    char name[256];
    const char *value;

    if (!is_name(s, name_len) || name_len >= sizeof(name)) {
        config_error(ctx, path,
                     "${%.*s} is not a variable (${NAME} or ${NAME:-default}; $${ for \"${\" itself)",
                     (int)(len < 64 ? len : 64), s);
        return false;
    }
    memcpy(name, s, name_len);
    name[name_len] = '\0';
    value = getenv(name);
    if (dflt && (!value || !*value)) {
        buf_add(out, dflt + 2, len - name_len - 2);
        return true;
    }
    if (!value) {
        config_error(ctx, path, "the environment variable %s is not set (set it, or write ${%s:-default})",
                     name, name);
        return false;
    }
    buf_add_str(out, value);
    return true;
}

static bool expand(struct config_ctx *ctx, const struct config_path *path, const char *s, struct buf *out)
{
    const char *dollar, *end;
    bool fine = true;

    while ((dollar = strstr(s, "${"))) {
        if (dollar > s && dollar[-1] == '$') {
            buf_add(out, s, (size_t)(dollar - s) - 1);
            buf_add_str(out, "${");
            s = dollar + 2;
            continue;
        }
        buf_add(out, s, (size_t)(dollar - s));
        end = strchr(dollar, '}');
        if (!end) {
            config_error(
                ctx, path,
                "has a \"${\" that is not closed (${NAME} or ${NAME:-default}; $${ for \"${\" itself)");
            return false;
        }
        fine = add_variable(ctx, path, dollar + 2, (size_t)(end - dollar) - 2, out) && fine;
        s = end + 1;
    }
    buf_add_str(out, s);
    return fine;
}

static void note_unresolved(struct config_ctx *ctx, const json_t *value)
{
    const json_t **list = reallocarray(ctx->unresolved, ctx->unresolved_count + 1, sizeof(*ctx->unresolved));

    if (!list) {
        ctx->nomem = true;
        return;
    }
    ctx->unresolved = list;
    ctx->unresolved[ctx->unresolved_count++] = value;
}

static void resolve_string(struct config_ctx *ctx, const struct config_path *path, json_t *value)
{
    CLEANUP(buf_done) struct buf out = {0};

    if (!strstr(json_string_value(value), "${"))
        return;
    if (!expand(ctx, path, json_string_value(value), &out)) {
        note_unresolved(ctx, value);
        return;
    }
    if (buf_status(&out) < 0) {
        ctx->nomem = true;
    } else if (json_string_setn(value, out.data ? out.data : "", out.len) < 0) {
        /* The other cause, lack of memory, is too unlikely to be told apart here. */
        config_error(ctx, path, "holds bytes from the environment that are not UTF-8 (UTF-8)");
        note_unresolved(ctx, value);
    }
}

void config_env_resolve(struct config_ctx *ctx, const struct config_path *path, json_t *value)
{
    struct config_path here = {path, NULL, 0};
    json_t *child;

    if (json_is_string(value)) {
        resolve_string(ctx, path, value);
    } else if (json_is_object(value)) {
        json_object_foreach (value, here.key, child) {
            config_env_resolve(ctx, &here, child);
        }
    } else if (json_is_array(value)) {
        json_array_foreach (value, here.index, child) {
            config_env_resolve(ctx, &here, child);
        }
    }
}
