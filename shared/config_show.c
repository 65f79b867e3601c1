/* config_show.c - the effective configuration for people, and what of a new one needs a restart.
 *
 * Parsing has already built the effective JSON, with defaults put in and secrets masked: showing it is
 * printing it. Secrets are compared by their fields, since the masks are all the same. */
#include "shared/config_impl.h"

#include <string.h>

char *config_show(const struct config *c)
{
    return json_dumps(c->effective, JSON_INDENT(2));
}

static bool row_is_equal(const struct config_row *row, const void *a, const void *b, const json_t *a_shown,
                         const json_t *b_shown)
{
    const char *x, *y;

    if (row->type != CONFIG_STRING)
        return json_equal(json_object_get(a_shown, row->key), json_object_get(b_shown, row->key));
    x = *(char *const *)(const void *)((const char *)a + row->offset);
    y = *(char *const *)(const void *)((const char *)b + row->offset);
    return x && y ? strcmp(x, y) == 0 : x == y;
}

static void add_restart_keys(const struct config_table *table, const char *prefix, const struct config *a,
                             const struct config *b, const json_t *a_shown, const json_t *b_shown,
                             struct buf *out)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct config_row *row = &table->rows[i];
        CLEANUP(buf_done) struct buf path = {0};

        buf_printf(&path, "%s%s%s", prefix, *prefix ? "." : "", row->key);
        if (row->type == CONFIG_SECTION)
            add_restart_keys(row->table, path.data ? path.data : "", a, b, json_object_get(a_shown, row->key),
                             json_object_get(b_shown, row->key), out);
        else if (!(row->flags & ROW_RELOAD) && !row_is_equal(row, a, b, a_shown, b_shown))
            buf_printf(out, "%s%s", out->len ? ", " : "", path.data ? path.data : "?");
    }
}

char *config_restart_keys(const struct config *old, const struct config *c)
{
    CLEANUP(buf_done) struct buf out = {0};

    add_restart_keys(&config_root_table, "", old, c, old->effective, c->effective, &out);
    return out.len ? buf_take(&out) : NULL;
}
