/* config_impl.h - what the config_*.c files share; nobody else includes it.
 *
 * The file is described by tables of rows, one table per kind of object. A row drives everything that is
 * done with its key: parsing, the check of type and range, the default, --show-config, what a reload may
 * change, and docs/configuration.md.
 *
 *   config.c        reading the file, life and death of a struct config
 *   config_table.c  the tables
 *   config_parse.c  the engine: one JSON object against one table
 *   config_rules.c  exchanges, access rules, token keys
 *   config_notify.c the notifier's lists, checked for shape only
 *   config_check.c  is this text a URL, an address, a pattern, ..?
 *   config_env.c    ${NAME} in strings
 *   config_show.c   --show-config, what a reload cannot change
 *   config_docs.c   docs/configuration.md
 */
#ifndef EF_CONFIG_IMPL_H
#define EF_CONFIG_IMPL_H

#include "shared/buf.h"
#include "shared/config.h"

/* The configuration file, bytes. A larger one is not ours. */
enum { CONFIG_FILE_MAX = 16 * 1024 * 1024 };
/* A key or secret file, bytes. */
enum { CONFIG_SECRET_MAX = 1024 * 1024 };
/* Faults that are named; of more only the number is told. */
enum { CONFIG_ERRORS_MAX = 500 };

/* Where we are in the file; lives on the stack, innermost first. */
struct config_path {
    const struct config_path *up; /* NULL: the whole file */
    const char *key;              /* NULL: an array's element */
    size_t index;
};

struct config_ctx {
    const char *file; /* or NULL */
    struct buf errors;
    size_t error_count;
    bool nomem;
    /* Strings whose ${NAME} could not be resolved: said once, then not checked further. Borrowed. */
    const json_t **unresolved;
    size_t unresolved_count;
};

/* Note a fault, "path: <format>": what is wrong, with the value, then in parentheses what is allowed. A path
 * of NULL is the whole file. */
void config_error(struct config_ctx *ctx, const struct config_path *path, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* Append a JSON value for an error line: compact, cut when long. */
void config_add_value(struct buf *out, const json_t *value);
/* "a string", "an array", .. */
const char *config_kind(const json_t *value);

enum config_type {
    CONFIG_SECTION, /* an object with its own table, into the same struct */
    CONFIG_BOOL,    /* bool */
    CONFIG_INT,     /* int64_t, min..max */
    CONFIG_WORD,    /* an enum: the index into words */
    CONFIG_STRING,  /* char *, or NULL for null; with words: one of them */
    CONFIG_STRINGS, /* char ** at offset, size_t at count_offset; each as CONFIG_STRING */
    CONFIG_CUSTOM,  /* what `parse` makes of it */
};

enum {
    ROW_NULL = BIT(0),     /* null is allowed */
    ROW_REQUIRED = BIT(1), /* must be there; otherwise dflt, or without dflt just absent */
    ROW_SECRET = BIT(2),   /* never shown; "<key>_file" may name a file that holds it */
    ROW_URL = BIT(3),      /* a secret of which only the password is one */
    ROW_RELOAD = BIT(4),   /* taken over by a reload (SIGHUP) */
    ROW_ONE = BIT(5),      /* CONFIG_STRINGS: a lone string stands for an array of it */
    ROW_BYTES = BIT(6),    /* control characters are allowed */
    ROW_ZERO = BIT(7),     /* CONFIG_INT: 0 is "none" */
};

struct config_row;
struct config_table;

/* Is the text fine? If not, append what is wrong, read after the value: "is not host:port". */
typedef bool config_check_fn(const char *text, struct buf *why);
/* Fill `base` from a value of any type; faults go to ctx. Returns a new reference to the effective value,
 * or NULL for the value as it is. */
typedef json_t *config_parse_fn(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                                void *base);
typedef void config_free_fn(void *base);

struct config_row {
    const char *key;
    enum config_type type;
    unsigned flags;
    size_t offset, count_offset; /* into the struct that the table fills */
    const char *dflt;            /* JSON text */
    int64_t min, max;
    const char *const *words; /* closed by NULL */
    config_check_fn *check;
    config_parse_fn *parse;
    config_free_fn *free;
    const struct config_table *table; /* of a section; of a custom value's objects (for the docs) */
    const char *allowed;              /* in words */
    const char *help;
};

struct config_table {
    const struct config_row *rows;
    size_t count;
    const char *title, *intro; /* docs */
};

extern const struct config_table config_root_table;
extern const struct config_table config_key_table, config_exchange_table, config_rule_table;
extern const struct config_table config_event_table, config_dkim_table, config_allow_table;

/* Check `object` against the table: every key known, every value right. Fills `base` (zeroed before; NULL:
 * only check) and the effective values (an empty object). After faults base is half filled; config_table_free
 * copes. */
void config_table_parse(struct config_ctx *ctx, const struct config_path *path, json_t *object,
                        const struct config_table *table, void *base, json_t *effective);
void config_table_free(const struct config_table *table, void *base);
/* What the row allows, in words, "1..64", `"a" or "b"`. */
void config_row_allowed(const struct config_row *row, struct buf *out);
/* An element of a custom array, or a member of a custom object, that must itself be an object. Returns the
 * effective object (owned), or NULL after an error. */
json_t *config_object_parse(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                            const struct config_table *table, void *base);
/* Put into an object or array; lack of memory is noted in ctx. `value` is taken. */
void config_set(struct config_ctx *ctx, json_t *object, const char *key, json_t *value);
void config_append(struct config_ctx *ctx, json_t *array, json_t *value);
/* A copy, or NULL and noted in ctx. */
char *config_strdup(struct config_ctx *ctx, const char *text);
bool config_is_unresolved(const struct config_ctx *ctx, const json_t *value);
/* What only the whole file shows: values that contradict each other. config_rules.c */
void config_check_pairs(struct config_ctx *ctx, const struct config *c, const json_t *root);

/* Resolve ${NAME} in every string of the tree, in place. */
void config_env_resolve(struct config_ctx *ctx, const struct config_path *path, json_t *value);
/* The whole of a regular file, at most max bytes. 0, or a negative errno (-EFBIG, -EISDIR, ..). */
MUST_CHECK
int config_file_read(const char *file, size_t max, struct buf *ret_bytes);
/* A URL with its password as "***". wrong: it did not pass its check, so more of it might be a secret. */
void config_mask_url(const char *url, bool wrong, struct buf *out);

config_parse_fn config_parse_exchanges, config_parse_access, config_parse_value, config_parse_keys,
    config_parse_proxies, config_parse_events, config_parse_event_when, config_parse_event_match,
    config_parse_body, config_parse_dkim, config_parse_allow;
config_free_fn config_free_exchanges, config_free_access, config_free_keys, config_free_proxies,
    config_free_events, config_free_body, config_free_dkim, config_free_allow;

config_check_fn config_check_prefix, config_check_amqp_url, config_check_redis_url, config_check_listen,
    config_check_origin, config_check_topic, config_check_routing_key, config_check_name,
    config_check_access_url, config_check_users_url, config_check_http_url, config_check_smtp_url,
    config_check_address, config_check_pointer, config_check_file, config_check_filled, config_check_template,
    config_check_host;

#endif
