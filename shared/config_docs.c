/* config_docs.c - docs/configuration.md, made from the tables.
 *
 * A unit test compares the page that is checked in with what comes out here, so neither can be changed alone.
 */
#include "shared/config_impl.h"

#include <string.h>

static const char head[] =
    "# Configuration\n"
    "\n"
    "<!-- Made from the tables in shared/config_table.c: build/bin/event-gateway --config-docs -->\n"
    "\n"
    "One JSON file for all programs of the fleet (`--config FILE`, by default "
    "`/etc/event-fleet/fleet.json`).\n"
    "Every key has a default, so `{}` is a valid file.\n"
    "\n"
    "- `--check-config` says `ok`, or names everything that is wrong: the path of the key, the value, and "
    "what is\n"
    "  allowed. A program does not start with a wrong file, and a reload keeps the old configuration.\n"
    "- `--show-config` prints the effective configuration, with defaults; secrets are shown as `***`.\n"
    "- `\"${NAME}\"` inside a string is replaced by the environment variable; one that is not set is an "
    "error.\n"
    "  `\"${NAME:-default}\"` has a default for a variable that is not set or empty. `$${` stands for `${`.\n"
    "- A key marked *secret* may be given as `<key>_file` instead: the name of a file that holds it (one "
    "line break\n"
    "  at its end is dropped).\n"
    "- `kill -HUP` makes a program read the file again. Keys marked *reload* then take effect; the others "
    "need a\n"
    "  restart, and the log names those that differ.\n"
    "- A limit of 0 is no limit, where the table says so. Sizes are in bytes; the unit of a time is in its "
    "name.\n";

static void add_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            buf_add_char(out, '\\');
        buf_add_char(out, *text);
    }
}

static void add_row(struct buf *out, const struct config_row *row)
{
    CLEANUP(buf_done) struct buf allowed = {0};

    config_row_allowed(row, &allowed);
    buf_printf(out, "| `%s`%s%s | ", row->key, row->flags & ROW_SECRET ? " (secret)" : "",
               row->flags & ROW_RELOAD ? " (reload)" : "");
    add_cell(out, allowed.data ? allowed.data : "");
    if (row->flags & ROW_REQUIRED)
        buf_add_str(out, " | required | ");
    else if (row->dflt)
        buf_printf(out, " | `%s` | ", row->dflt);
    else
        buf_add_str(out, " | | ");
    add_cell(out, row->help);
    buf_add_str(out, " |\n");
}

static void add_table(struct buf *out, const struct config_table *table, bool top)
{
    if (top)
        buf_add_str(out, "\n## Top level\n");
    else
        buf_printf(out, "\n## `%s`\n", table->title);
    if (table->intro)
        buf_printf(out, "\n%s\n", table->intro);
    buf_add_str(out, "\n| key | allowed | default | what it does |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < table->count; i++) {
        if (table->rows[i].type != CONFIG_SECTION)
            add_row(out, &table->rows[i]);
    }
}

static bool has_rows(const struct config_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        if (table->rows[i].type != CONFIG_SECTION)
            return true;
    }
    return false;
}

static void add_tree(struct buf *out, const struct config_table *table, bool top)
{
    if (has_rows(table))
        add_table(out, table, top);
    for (size_t i = 0; i < table->count; i++) {
        if (table->rows[i].table)
            add_tree(out, table->rows[i].table, false);
    }
}

char *config_docs(void)
{
    CLEANUP(buf_done) struct buf out = {0};

    buf_add_str(&out, head);
    add_tree(&out, &config_root_table, true);
    return buf_take(&out);
}
