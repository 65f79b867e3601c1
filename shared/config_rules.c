/* config_rules.c - who may do what: exchanges with their access rules, token keys, trusted proxies.
 *
 * The tables check key by key; here is what they cannot say: that a rule is of exactly one kind, that a
 * direct exchange needs routing keys, that the algorithms of one key fit together. Faults are noted and leave
 * the object half filled; config.c throws the whole configuration away. */
#include "shared/config_impl.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Canonical: the same value gives the same text, however it is written in the file. */
static char *canonical(struct config_ctx *ctx, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_COMPACT);

    if (!text)
        ctx->nomem = true;
    return text;
}

static void *list_new(struct config_ctx *ctx, size_t n, size_t size)
{
    void *list = n ? calloc(n, size) : NULL;

    if (n && !list)
        ctx->nomem = true;
    return list;
}

/* The shortest decimal text that reads back as this number: 0.1, not 0.10000000000000001. */
static void add_real(struct buf *out, double number)
{
    char text[40];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, number);
        if (strtod(text, NULL) >= number && strtod(text, NULL) <= number)
            break;
    }
    buf_add_str(out, text);
}

json_t *config_parse_value(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config_rule *rule = base;
    CLEANUP(buf_done) struct buf text = {0};
    CLEANUP(buf_done) struct buf why = {0};

    if (json_is_string(value)) {
        buf_add_str(&text, json_string_value(value));
        if (!config_check_template(text.data, &why)) {
            CLEANUP(buf_done) struct buf shown = {0};

            config_add_value(&shown, value);
            config_error(ctx, path, "%s %s ({key}, {key.N}, {user} or {ex})", shown.data ? shown.data : "",
                         why.data ? why.data : "");
        }
    } else if (json_is_integer(value)) {
        buf_printf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        add_real(&text, json_real_value(value));
    } else {
        config_error(ctx, path, "is %s (a string or a number)", config_kind(value));
        return NULL;
    }
    free(rule->value); /* both `has` and `is` are given: a fault, told by rule_finish */
    rule->value = buf_take(&text);
    if (!rule->value)
        ctx->nomem = true;
    return NULL;
}

/* A rule has one kind; `has` and `is` go with `claim`. */
static void rule_finish(struct config_ctx *ctx, const struct config_path *path, const json_t *value,
                        struct config_rule *rule)
{
    bool http = json_object_get(value, "http"), claim = json_object_get(value, "claim");
    bool allow = json_object_get(value, "allow"), has = json_object_get(value, "has");
    bool is = json_object_get(value, "is");
    int kinds = http + claim + allow;

    if (kinds == 0)
        config_error(ctx, path, "says neither \"http\" nor \"claim\" nor \"allow\" (one of them)");
    else if (kinds > 1)
        config_error(ctx, path, "says %s%s%s (only one of \"http\", \"claim\" and \"allow\")",
                     http ? "\"http\" and " : "", claim ? (allow ? "\"claim\" and " : "\"claim\"") : "",
                     allow ? "\"allow\"" : "");
    if (claim && has == is)
        config_error(ctx, path, "has a \"claim\" with %s \"has\" %s \"is\" (one of them)",
                     has ? "both" : "neither", has ? "and" : "nor");
    if (!claim && kinds && (has || is))
        config_error(ctx, path, "says \"%s\" without a \"claim\" (only with it)", has ? "has" : "is");
    rule->kind = http    ? CONFIG_RULE_HTTP
                 : allow ? CONFIG_RULE_ALLOW
                 : has   ? CONFIG_RULE_CLAIM_HAS
                         : CONFIG_RULE_CLAIM_IS;
    rule->text = canonical(ctx, value);
}

json_t *config_parse_access(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config_exchange *exchange = base;
    size_t n = json_array_size(value);

    exchange->text = canonical(ctx, value);
    if (json_is_string(value) && strcmp(json_string_value(value), "public") == 0) {
        exchange->is_public = true;
        return NULL;
    }
    if (!json_is_array(value)) {
        CLEANUP(buf_done) struct buf shown = {0};

        config_add_value(&shown, value);
        config_error(ctx, path, "%s is not a way of access (\"public\" or an array of rules)",
                     shown.data ? shown.data : "");
        return NULL;
    }
    exchange->rules = list_new(ctx, n, sizeof(*exchange->rules));
    if (!exchange->rules)
        return NULL;
    exchange->rule_count = n;
    for (size_t i = 0; i < n; i++) {
        struct config_path here = {path, NULL, i};
        json_t *element = json_array_get(value, i);
        json_t *effective = config_object_parse(ctx, &here, element, &config_rule_table, &exchange->rules[i]);

        if (effective)
            rule_finish(ctx, &here, element, &exchange->rules[i]);
        json_decref(effective); /* a rule has no defaults: it is shown as configured */
    }
    return NULL;
}

void config_free_access(void *base)
{
    struct config_exchange *exchange = base;

    for (size_t i = 0; i < exchange->rule_count; i++) {
        config_table_free(&config_rule_table, &exchange->rules[i]);
        free(exchange->rules[i].value);
        free(exchange->rules[i].text);
    }
    free(exchange->rules);
    free(exchange->text);
}

static void exchange_finish(struct config_ctx *ctx, const struct config_path *path, const json_t *value,
                            struct config_exchange *exchange)
{
    struct config_path keys = {path, "keys", 0};
    CLEANUP(buf_done) struct buf why = {0};

    if (!config_check_name(path->key, &why))
        config_error(ctx, path, "the exchange's name %s (1..255 bytes)", why.data ? why.data : "");
    exchange->name = config_strdup(ctx, path->key);
    if (exchange->type == CONFIG_EXCHANGE_DIRECT) {
        if (!json_object_get(value, "keys"))
            config_error(ctx, &keys, "is missing (an array of routing keys, for a direct exchange)");
        else if (json_is_array(json_object_get(value, "keys")) && exchange->key_count == 0)
            config_error(ctx, &keys, "[] is empty (an array of routing keys, for a direct exchange)");
    } else if (json_object_get(value, "keys")) {
        config_error(ctx, &keys,
                     "is given for an exchange that is not direct (only with \"type\": \"direct\")");
    }
}

static int exchange_compare(const void *a, const void *b)
{
    const struct config_exchange *x = a, *y = b;

    return strcmp(x->name ? x->name : "", y->name ? y->name : "");
}

json_t *config_parse_exchanges(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                               void *base)
{
    struct config *c = base;
    struct config_path here = {path, NULL, 0};
    size_t n = json_object_size(value);
    json_t *effective, *element;

    if (!json_is_object(value)) {
        config_error(ctx, path, "is %s (an object of name -> exchange)", config_kind(value));
        return NULL;
    }
    c->exchanges = list_new(ctx, n, sizeof(*c->exchanges));
    effective = json_object();
    if (!c->exchanges || !effective)
        return effective;
    json_object_foreach (value, here.key, element) {
        struct config_exchange *exchange = &c->exchanges[c->exchange_count++];
        json_t *shown = config_object_parse(ctx, &here, element, &config_exchange_table, exchange);

        if (!shown)
            continue;
        exchange_finish(ctx, &here, element, exchange);
        config_set(ctx, effective, here.key, shown);
    }
    qsort(c->exchanges, c->exchange_count, sizeof(*c->exchanges), exchange_compare);
    return effective;
}

void config_free_exchanges(void *base)
{
    struct config *c = base;

    for (size_t i = 0; i < c->exchange_count; i++) {
        config_table_free(&config_exchange_table, &c->exchanges[i]);
        free(c->exchanges[i].name);
    }
    free(c->exchanges);
}

/* HS is one family, ES another; RS and PS are two ways to use one RSA key. */
static char family(const char *alg)
{
    return alg[0] == 'P' ? 'R' : alg[0];
}

static void key_finish(struct config_ctx *ctx, const struct config_path *path, struct config_jwt_key *key)
{
    struct config_path alg = {path, "alg", 0}, file = {path, "file", 0};
    CLEANUP(buf_done) struct buf text = {0};
    int r;

    for (size_t i = 1; i < key->alg_count; i++) {
        if (key->algs[0] && key->algs[i] && family(key->algs[i]) != family(key->algs[0])) {
            /* A public key that also served as a shared secret would let everybody sign tokens. */
            config_error(ctx, &alg, "\"%s\" and \"%s\" cannot share a key (one family: HS, ES, or RS and PS)",
                         key->algs[0], key->algs[i]);
            break;
        }
    }
    if (!key->file)
        return;
    r = config_file_read(key->file, CONFIG_SECRET_MAX, &text);
    if (r < 0) {
        config_error(ctx, &file, "\"%s\" cannot be read: %s (a file that can be read)", key->file,
                     strerror(-r));
        return;
    }
    if (key->alg_count && key->algs[0] && family(key->algs[0]) == 'H') {
        if (text.len && text.data[text.len - 1] == '\n')
            text.data[--text.len] = '\0';
        if (text.len && text.data[text.len - 1] == '\r')
            text.data[--text.len] = '\0';
    }
    if (text.len == 0)
        config_error(ctx, &file, "\"%s\" is empty (a key)", key->file);
    key->text_len = text.len;
    key->text = buf_take(&text);
    if (!key->text)
        ctx->nomem = true;
}

json_t *config_parse_keys(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config *c = base;
    size_t n = json_array_size(value);
    json_t *effective;

    if (!json_is_array(value)) {
        config_error(ctx, path, "is %s (an array of keys)", config_kind(value));
        return NULL;
    }
    c->jwt.keys = list_new(ctx, n, sizeof(*c->jwt.keys));
    effective = json_array();
    if (!c->jwt.keys || !effective)
        return effective;
    c->jwt.key_count = n;
    for (size_t i = 0; i < n; i++) {
        struct config_path here = {path, NULL, i};
        json_t *shown =
            config_object_parse(ctx, &here, json_array_get(value, i), &config_key_table, &c->jwt.keys[i]);

        if (!shown)
            continue;
        key_finish(ctx, &here, &c->jwt.keys[i]);
        config_append(ctx, effective, shown);
    }
    return effective;
}

void config_free_keys(void *base)
{
    struct config *c = base;

    for (size_t i = 0; i < c->jwt.key_count; i++) {
        config_table_free(&config_key_table, &c->jwt.keys[i]);
        if (c->jwt.keys[i].text)
            explicit_bzero(c->jwt.keys[i].text, c->jwt.keys[i].text_len);
        free(c->jwt.keys[i].text);
    }
    free(c->jwt.keys);
}

/* "10.0.0.0/8", "fd00::/8", or an address alone. */
static bool parse_cidr(const char *text, struct config_cidr *cidr)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    int width = memchr(text, ':', len) ? 128 : 32;
    char host[64];
    long bits = width;

    if (len >= sizeof(host))
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    if (width == 32)
        memcpy(cidr->address, mapped, sizeof(mapped));
    if (inet_pton(width == 32 ? AF_INET : AF_INET6, host, cidr->address + (width == 32 ? 12 : 0)) != 1)
        return false;
    if (slash) {
        len = strlen(slash + 1);
        if (len < 1 || len > 3 || strspn(slash + 1, "0123456789") != len)
            return false;
        bits = strtol(slash + 1, NULL, 10);
    }
    cidr->bits = (int)bits + (128 - width);
    return bits <= width;
}

json_t *config_parse_proxies(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                             void *base)
{
    struct config *c = base;
    size_t n = json_array_size(value);

    if (!json_is_array(value)) {
        config_error(ctx, path, "is %s (an array of addresses or networks)", config_kind(value));
        return NULL;
    }
    c->gateway.trusted_proxies = list_new(ctx, n, sizeof(*c->gateway.trusted_proxies));
    if (!c->gateway.trusted_proxies)
        return NULL;
    c->gateway.trusted_proxy_count = n;
    for (size_t i = 0; i < n; i++) {
        struct config_path here = {path, NULL, i};
        json_t *element = json_array_get(value, i);
        CLEANUP(buf_done) struct buf shown = {0};

        if (config_is_unresolved(ctx, element) ||
            (json_is_string(element) &&
             parse_cidr(json_string_value(element), &c->gateway.trusted_proxies[i])))
            continue;
        config_add_value(&shown, element);
        config_error(ctx, &here,
                     "%s is not an address or network (\"10.0.0.0/8\", \"fd00::/8\", \"127.0.0.1\")",
                     shown.data ? shown.data : "");
    }
    return NULL;
}

void config_free_proxies(void *base)
{
    struct config *c = base;

    free(c->gateway.trusted_proxies);
}

static bool is_given(const json_t *root, const char *section, const char *key)
{
    return json_object_get(json_object_get(root, section), key);
}

/* A field that had a fault is 0 or NULL here, and then not compared. */
void config_check_pairs(struct config_ctx *ctx, const struct config *c, const json_t *root)
{
    struct config_path history = {NULL, "history", 0}, hard = {&history, "hard_max_bytes", 0};
    struct config_path ingest = {NULL, "ingest", 0}, inflight = {&ingest, "inflight_max_bytes", 0};
    struct config_path gateway = {NULL, "gateway", 0}, gateway_admin = {&gateway, "admin", 0};
    struct config_path notifier = {NULL, "notifier", 0}, notifier_admin = {&notifier, "admin", 0};
    struct config_path email = {&notifier, "email", 0}, retry = {&email, "retry_max_ms", 0};
    struct config_path user = {&email, "user", 0};

    if (c->history.hard_max_bytes && c->history.hard_max_bytes < c->history.max_bytes)
        config_error(ctx, &hard,
                     "%" PRId64 " is less than history.max_bytes, %" PRId64 " (at least as much, or 0: none)",
                     c->history.hard_max_bytes, c->history.max_bytes);
    /* One message of any size always finds room, so this is a contradiction only where both were meant. */
    if (is_given(root, "ingest", "inflight_max_bytes") && is_given(root, "ingest", "message_max_bytes") &&
        c->ingest.inflight_max_bytes && c->ingest.inflight_max_bytes < c->ingest.message_max_bytes)
        config_error(ctx, &inflight,
                     "%" PRId64 " is less than ingest.message_max_bytes, %" PRId64
                     " (at least as much, or 0: none)",
                     c->ingest.inflight_max_bytes, c->ingest.message_max_bytes);
    if (c->gateway.listen && c->gateway.admin && strcmp(c->gateway.listen, c->gateway.admin) == 0)
        config_error(ctx, &gateway_admin, "\"%s\" is gateway.listen too (another port)", c->gateway.admin);
    if (c->notifier.listen && c->notifier.admin && strcmp(c->notifier.listen, c->notifier.admin) == 0)
        config_error(ctx, &notifier_admin, "\"%s\" is notifier.listen too (another port)", c->notifier.admin);
    if (c->notifier.email.retry_max_ms && c->notifier.email.retry_max_ms < c->notifier.email.retry_initial_ms)
        config_error(ctx, &retry,
                     "%" PRId64 " is less than notifier.email.retry_initial_ms, %" PRId64
                     " (at least as much)",
                     c->notifier.email.retry_max_ms, c->notifier.email.retry_initial_ms);
    if (ctx->error_count == 0 && !c->notifier.email.user != !c->notifier.email.password)
        config_error(ctx, &user, "%s (both or neither)",
                     c->notifier.email.user ? "is given without a password"
                                            : "is not given, but a password is");
}
