/* config_parse.c - one JSON object against one table.
 *
 *   object --+-- every key: is there a row of it?            -> "is not a known key", with the nearest one
 *            '-- every row: value, or `<key>_file`, or default -> type, range, check -> field, effective
 * value
 *
 * A fault is noted and the work goes on, so that all of them are told at once. What is faulty leaves its
 * field zero: a configuration with faults is thrown away as a whole by config.c. Defaults go the same way as
 * values from the file, so a wrong default fails the unit tests. */
#include "shared/config_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void add_path(struct buf *out, const struct config_path *path)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    CLEANUP(json_decrefp) json_t *key = NULL;

    if (path->up)
        add_path(out, path->up);
    if (!path->key) {
        buf_printf(out, "[%zu]", path->index);
        return;
    }
    if (*path->key && path->key[strspn(path->key, plain)] == '\0' && strlen(path->key) < 64) {
        buf_printf(out, "%s%s", path->up ? "." : "", path->key);
        return;
    }
    buf_add_char(out, '[');
    key = json_string(path->key);
    config_add_value(out, key);
    buf_add_char(out, ']');
}

void config_error(struct config_ctx *ctx, const struct config_path *path, const char *format, ...)
{
    CLEANUP(freep) char *text = NULL;
    va_list args;
    int n;

    if (++ctx->error_count > CONFIG_ERRORS_MAX)
        return;
    va_start(args, format);
    n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        text = NULL;
        ctx->nomem = true;
        return;
    }
    if (path)
        add_path(&ctx->errors, path);
    else
        buf_add_str(&ctx->errors, ctx->file ? ctx->file : "the configuration");
    buf_add_str(&ctx->errors, ": ");
    buf_add(&ctx->errors, text, (size_t)n);
    buf_add_char(&ctx->errors, '\n');
}

void config_add_value(struct buf *out, const json_t *value)
{
    enum { SHOWN_MAX = 80 };
    CLEANUP(freep) char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    size_t len = text ? strlen(text) : 0;

    if (len <= SHOWN_MAX) {
        buf_add_str(out, text ? text : "?");
        return;
    }
    len = SHOWN_MAX - 3;
    while (len && ((unsigned char)text[len] & 0xc0) == 0x80) /* not inside a UTF-8 sequence */
        len--;
    buf_add(out, text, len);
    buf_add_str(out, "...");
}

const char *config_kind(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

void config_set(struct config_ctx *ctx, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new_nocheck(object, key, value) < 0)
        ctx->nomem = true;
}

void config_append(struct config_ctx *ctx, json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) < 0)
        ctx->nomem = true;
}

char *config_strdup(struct config_ctx *ctx, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        ctx->nomem = true;
    return copy;
}

bool config_is_unresolved(const struct config_ctx *ctx, const json_t *value)
{
    for (size_t i = 0; i < ctx->unresolved_count; i++) {
        if (ctx->unresolved[i] == value)
            return true;
    }
    return false;
}

static void add_words(const struct config_row *row, struct buf *out)
{
    for (size_t i = 0; row->words[i]; i++)
        buf_printf(out, "%s\"%s\"", i == 0 ? "" : row->words[i + 1] ? ", " : " or ", row->words[i]);
}

void config_row_allowed(const struct config_row *row, struct buf *out)
{
    switch (row->type) {
    case CONFIG_SECTION:
        buf_add_str(out, "an object");
        break;
    case CONFIG_BOOL:
        buf_add_str(out, "true or false");
        break;
    case CONFIG_INT:
        buf_printf(out, "%" PRId64 "..%" PRId64 "%s", row->min, row->max,
                   row->flags & ROW_ZERO ? ", 0: none" : "");
        break;
    case CONFIG_STRINGS:
        buf_printf(out, "%s of: ", row->flags & ROW_ONE ? "one or an array" : "an array");
        /* fall through */
    case CONFIG_WORD:
    case CONFIG_STRING:
        if (row->words)
            add_words(row, out);
        else
            buf_add_str(out, row->allowed ? row->allowed : "a string");
        break;
    case CONFIG_CUSTOM:
        buf_add_str(out, row->allowed);
        return;
    }
    if (row->flags & ROW_NULL)
        buf_add_str(out, ", or null");
}

/* `path: <value> <why> (<allowed>)`; of a secret only what is none of it. */
static void value_error(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                        const json_t *value, const char *why)
{
    CLEANUP(buf_done) struct buf allowed = {0};
    CLEANUP(buf_done) struct buf shown = {0};

    config_row_allowed(row, &allowed);
    if (!(row->flags & ROW_SECRET)) {
        config_add_value(&shown, value);
    } else if ((row->flags & ROW_URL) && json_is_string(value)) {
        buf_add_char(&shown, '"');
        config_mask_url(json_string_value(value), true, &shown);
        buf_add_char(&shown, '"');
    } else {
        buf_add_str(&shown, json_is_string(value) ? "***" : "the value");
    }
    config_error(ctx, path, "%s %s (%s)", shown.data ? shown.data : "", why,
                 allowed.data ? allowed.data : "");
}

static void kind_error(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                       const json_t *value)
{
    CLEANUP(buf_done) struct buf why = {0};

    if (json_is_null(value))
        buf_add_str(&why, "is not allowed here");
    else if (row->type == CONFIG_INT)
        buf_printf(&why, "is %s", json_is_real(value) ? "not a whole number" : config_kind(value));
    else
        buf_printf(&why, "is %s", config_kind(value));
    if (row->type == CONFIG_INT && !json_is_number(value))
        buf_add_str(&why, ", not a number");
    value_error(ctx, path, row, value, why.data ? why.data : "");
}

static void parse_int(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                      json_t *value, void *base)
{
    json_int_t n = json_integer_value(value);
    CLEANUP(buf_done) struct buf allowed = {0};

    if (!json_is_integer(value)) {
        kind_error(ctx, path, row, value);
    } else if (n < row->min || n > row->max) {
        config_row_allowed(row, &allowed);
        config_error(ctx, path, "%" JSON_INTEGER_FORMAT " is out of range (%s)", n,
                     allowed.data ? allowed.data : "");
    } else if (base) {
        *(int64_t *)(void *)((char *)base + row->offset) = n;
    }
}

static void parse_bool(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                       json_t *value, void *base)
{
    if (!json_is_boolean(value))
        kind_error(ctx, path, row, value);
    else if (base)
        *(bool *)((char *)base + row->offset) = json_is_true(value);
}

/* Index of the text in the row's words, or -1. */
static int word_index(const struct config_row *row, const char *text)
{
    for (int i = 0; row->words[i]; i++) {
        if (strcmp(row->words[i], text) == 0)
            return i;
    }
    return -1;
}

static void parse_word(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                       json_t *value, void *base)
{
    int i;

    if (!json_is_string(value)) {
        kind_error(ctx, path, row, value);
        return;
    }
    i = word_index(row, json_string_value(value));
    if (i < 0)
        value_error(ctx, path, row, value, "is not one of the words");
    else if (base)
        *(unsigned *)(void *)((char *)base + row->offset) = (unsigned)i;
}

/* Is the string fine by its row? Notes what is not. */
static bool string_is_fine(struct config_ctx *ctx, const struct config_path *path,
                           const struct config_row *row, json_t *value)
{
    const char *text = json_string_value(value);
    CLEANUP(buf_done) struct buf why = {0};
    bool fine = true;

    if (config_is_unresolved(ctx, value))
        return false;
    if (!text) {
        kind_error(ctx, path, row, value);
        return false;
    }
    for (const char *s = text; *s && !(row->flags & ROW_BYTES) && fine; s++) {
        /* Such a byte ends up in a header, a command or a log line, where it starts another one. */
        fine = (unsigned char)*s >= 0x20 && *s != 0x7f;
    }
    if (!fine)
        buf_add_str(&why, "has a line break or another control character");
    else if (row->words && word_index(row, text) < 0)
        buf_add_str(&why, "is not one of the words");
    else if (!row->check || row->check(text, &why))
        return true;
    value_error(ctx, path, row, value, why.data ? why.data : "");
    return false;
}

static void parse_string(struct config_ctx *ctx, const struct config_path *path, const struct config_row *row,
                         json_t *value, void *base)
{
    if (string_is_fine(ctx, path, row, value) && base)
        *(char **)(void *)((char *)base + row->offset) = config_strdup(ctx, json_string_value(value));
}

static void parse_strings(struct config_ctx *ctx, const struct config_path *path,
                          const struct config_row *row, json_t *value, void *base)
{
    bool one = (row->flags & ROW_ONE) && json_is_string(value);
    size_t n = one ? 1 : json_array_size(value);
    char **list = NULL;

    if (!one && !json_is_array(value)) {
        kind_error(ctx, path, row, value);
        return;
    }
    if (n == 0 && (row->flags & (ROW_NULL | ROW_REQUIRED))) {
        value_error(ctx, path, row, value, "is empty");
        return;
    }
    if (n && !(list = calloc(n, sizeof(*list)))) {
        ctx->nomem = true;
        return;
    }
    *(char ***)(void *)((char *)base + row->offset) = list;
    *(size_t *)(void *)((char *)base + row->count_offset) = n;
    for (size_t i = 0; i < n; i++) {
        struct config_path here = {path, NULL, i};
        json_t *element = one ? value : json_array_get(value, i);

        if (string_is_fine(ctx, one ? path : &here, row, element))
            list[i] = config_strdup(ctx, json_string_value(element));
    }
}

/* Returns the effective value (owned), or NULL for the value as it is. */
static json_t *parse_value(struct config_ctx *ctx, const struct config_path *path,
                           const struct config_row *row, json_t *value, void *base)
{
    json_t *section;

    if (config_is_unresolved(ctx, value) || (json_is_null(value) && (row->flags & ROW_NULL)))
        return NULL;
    switch (row->type) {
    case CONFIG_SECTION:
        if (!json_is_object(value)) {
            kind_error(ctx, path, row, value);
            return NULL;
        }
        section = json_object();
        config_table_parse(ctx, path, value, row->table, base, section);
        return section;
    case CONFIG_BOOL:
        parse_bool(ctx, path, row, value, base);
        break;
    case CONFIG_INT:
        parse_int(ctx, path, row, value, base);
        break;
    case CONFIG_WORD:
        parse_word(ctx, path, row, value, base);
        break;
    case CONFIG_STRING:
        parse_string(ctx, path, row, value, base);
        break;
    case CONFIG_STRINGS:
        parse_strings(ctx, path, row, value, base);
        break;
    case CONFIG_CUSTOM:
        return row->parse(ctx, path, value, base);
    }
    return NULL;
}

static json_t *secret_shown(const struct config_row *row, const void *base)
{
    const char *text = *(char *const *)(const void *)((const char *)base + row->offset);
    CLEANUP(buf_done) struct buf shown = {0};
    json_t *value;

    if (!text)
        return json_null();
    if (!(row->flags & ROW_URL))
        return json_string("***");
    config_mask_url(text, false, &shown);
    value = json_string(shown.data ? shown.data : "***");
    return value ? value : json_string("***"); /* bytes that are not UTF-8 */
}

/* Read `<key>_file`. Returns the secret as a JSON string (owned), or NULL after an error. */
static json_t *secret_read(struct config_ctx *ctx, const struct config_path *path, const json_t *file)
{
    CLEANUP(buf_done) struct buf bytes = {0};
    json_t *secret;
    int r;

    if (config_is_unresolved(ctx, file))
        return NULL;
    if (!json_is_string(file)) {
        config_error(ctx, path, "is %s (a file that can be read, or null)", config_kind(file));
        return NULL;
    }
    r = config_file_read(json_string_value(file), CONFIG_SECRET_MAX, &bytes);
    if (r < 0) {
        config_error(ctx, path, "\"%s\" cannot be read: %s (a file that can be read, or null)",
                     json_string_value(file), strerror(-r));
        return NULL;
    }
    if (bytes.len && bytes.data[bytes.len - 1] == '\n')
        bytes.len--;
    if (bytes.len && bytes.data[bytes.len - 1] == '\r')
        bytes.len--;
    secret = bytes.len && !memchr(bytes.data, '\0', bytes.len) ? json_stringn(bytes.data, bytes.len) : NULL;
    if (!secret)
        config_error(ctx, path, "\"%s\" %s (a file with one line of UTF-8 text)", json_string_value(file),
                     bytes.len ? "holds bytes that are no text" : "is empty");
    return secret;
}

/* A secret stands in its key or in the file that `<key>_file` names. Returns false when that is settled: both
 * are given, or the file is no good. *ret_secret: what the file holds (owned), or NULL. */
static bool secret_file(struct config_ctx *ctx, const struct config_path *up, const struct config_row *row,
                        json_t *object, json_t **ret_secret)
{
    CLEANUP(buf_done) struct buf key = {0};
    struct config_path path = {up, NULL, 0};
    json_t *file;

    buf_printf(&key, "%s_file", row->key);
    if (buf_status(&key) < 0) {
        ctx->nomem = true;
        return false;
    }
    path.key = key.data;
    file = json_object_get(object, key.data);
    if (file && json_is_null(file))
        file = NULL;
    if (!file)
        return true;
    if (json_object_get(object, row->key) && !json_is_null(json_object_get(object, row->key))) {
        config_error(ctx, &path, "is given beside \"%s\" (one of the two)", row->key);
        return false;
    }
    *ret_secret = secret_read(ctx, &path, file);
    return *ret_secret != NULL;
}

/* Which file the secret came from is no secret. */
static void show_file(struct config_ctx *ctx, const struct config_row *row, json_t *object, json_t *effective)
{
    CLEANUP(buf_done) struct buf key = {0};
    json_t *file;

    buf_printf(&key, "%s_file", row->key);
    if (buf_status(&key) < 0) {
        ctx->nomem = true;
        return;
    }
    file = json_object_get(object, key.data);
    config_set(ctx, effective, key.data, file ? json_incref(file) : json_null());
}

static void parse_row(struct config_ctx *ctx, const struct config_path *up, const struct config_row *row,
                      json_t *object, void *base, json_t *effective)
{
    struct config_path path = {up, row->key, 0};
    json_t *value = json_object_get(object, row->key), *shown;
    CLEANUP(json_decrefp) json_t *owned = NULL;

    if ((row->flags & ROW_SECRET) && !secret_file(ctx, up, row, object, &owned))
        return;
    if (owned)
        value = owned;
    if (!value && (row->flags & ROW_REQUIRED)) {
        CLEANUP(buf_done) struct buf allowed = {0};

        config_row_allowed(row, &allowed);
        config_error(ctx, &path, "is missing (%s)", allowed.data ? allowed.data : "");
        return;
    }
    if (!value && !row->dflt)
        return;
    if (!value)
        value = owned = json_loads(row->dflt, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value) {
        ctx->nomem = true;
        return;
    }
    shown = parse_value(ctx, &path, row, value, base);
    if (row->flags & ROW_SECRET)
        shown = secret_shown(row, base);
    config_set(ctx, effective, row->key, shown ? shown : json_incref(value));
    if (row->flags & ROW_SECRET)
        show_file(ctx, row, object, effective);
}

/* Levenshtein's distance, without regard to case; texts over 63 bytes are far from everything. */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], a_len = strlen(a), b_len = strlen(b);

    if (a_len >= ARRAY_LEN(row) || b_len >= ARRAY_LEN(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= b_len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            size_t same = diagonal + (strncasecmp(a + i - 1, b + j - 1, 1) != 0);
            size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;

            diagonal = row[j];
            row[j] = same < best ? same : best;
        }
    }
    return row[b_len];
}

static bool key_is_known(const struct config_table *table, const char *key)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct config_row *row = &table->rows[i];
        size_t len = strlen(row->key);

        if (strcmp(row->key, key) == 0)
            return true;
        if ((row->flags & ROW_SECRET) && strncmp(row->key, key, len) == 0 && strcmp(key + len, "_file") == 0)
            return true;
    }
    return false;
}

static void unknown_key(struct config_ctx *ctx, const struct config_path *path,
                        const struct config_table *table)
{
    CLEANUP(buf_done) struct buf known = {0};
    size_t limit = strlen(path->key) < 6 ? 1 : strlen(path->key) / 3, best = SIZE_MAX;
    const char *nearest = NULL;

    for (size_t i = 0; i < table->count; i++) {
        size_t d = distance(path->key, table->rows[i].key);

        if (d <= limit && d < best) {
            best = d;
            nearest = table->rows[i].key;
        }
        buf_printf(&known, "%s%s", i ? ", " : "known here: ", table->rows[i].key);
    }
    if (nearest)
        config_error(ctx, path, "is not a known key (did you mean \"%s\"?)", nearest);
    else
        config_error(ctx, path, "is not a known key (%s)", known.data ? known.data : "");
}

void config_table_parse(struct config_ctx *ctx, const struct config_path *path, json_t *object,
                        const struct config_table *table, void *base, json_t *effective)
{
    struct config_path here = {path, NULL, 0};
    json_t *value;

    json_object_foreach (object, here.key, value) {
        if (!key_is_known(table, here.key))
            unknown_key(ctx, &here, table);
    }
    for (size_t i = 0; i < table->count; i++)
        parse_row(ctx, path, &table->rows[i], object, base, effective);
}

json_t *config_object_parse(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                            const struct config_table *table, void *base)
{
    json_t *effective;

    if (config_is_unresolved(ctx, value))
        return NULL;
    if (!json_is_object(value)) {
        CLEANUP(buf_done) struct buf shown = {0};

        config_add_value(&shown, value);
        config_error(ctx, path, "%s is %s (an object)", shown.data ? shown.data : "", config_kind(value));
        return NULL;
    }
    effective = json_object();
    config_table_parse(ctx, path, value, table, base, effective);
    return effective;
}

void config_table_free(const struct config_table *table, void *base)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct config_row *row = &table->rows[i];
        char *field = (char *)base + row->offset;

        if (row->free)
            row->free(base);
        else if (row->type == CONFIG_SECTION)
            config_table_free(row->table, base);
        else if (row->type == CONFIG_STRING)
            free(*(char **)(void *)field);
        else if (row->type == CONFIG_STRINGS) {
            char **list = *(char ***)(void *)field;
            size_t n = *(size_t *)(void *)((char *)base + row->count_offset);

            for (size_t j = 0; j < n; j++)
                free(list[j]);
            free(list);
        }
    }
}
