/* config.h - the one configuration file of the fleet (docs/configuration.md is made from its table).
 *
 * JSON; "${NAME}" and "${NAME:-default}" inside strings come from the environment; wherever a key is marked
 * as a secret, `<key>_file` may name a file that holds it (one trailing line break is dropped). Everything
 * that is wrong is found in one pass: unknown and doubled keys, wrong types, values out of range, files that
 * cannot be read, templates, patterns, URLs. A struct config is immutable and counted (loop thread only).
 *
 * In a number that is a limit, 0 means "none". */
#ifndef EF_CONFIG_H
#define EF_CONFIG_H

#include "shared/log.h"

#include <jansson.h>

enum config_queue_type { CONFIG_QUEUE_CLASSIC, CONFIG_QUEUE_QUORUM };
enum config_exchange_type { CONFIG_EXCHANGE_TOPIC, CONFIG_EXCHANGE_FANOUT, CONFIG_EXCHANGE_DIRECT };
enum config_rule_kind { CONFIG_RULE_HTTP, CONFIG_RULE_CLAIM_HAS, CONFIG_RULE_CLAIM_IS, CONFIG_RULE_ALLOW };

struct config_jwt_key {
    char **algs; /* "RS256", ..; the algorithms that this key verifies */
    size_t alg_count;
    char *kid;  /* or NULL */
    char *file; /* where it came from */
    char
        *text; /* the file's content: PEM, or the shared secret for HS* (without one line break at its end) */
    size_t text_len;
};

struct config_jwt {
    struct config_jwt_key *keys;
    size_t key_count;
    char *issuer;    /* or NULL: not checked */
    char **audience; /* a string or an array in the file; any of them must be in the token's aud */
    size_t audience_count;
    int64_t leeway_s;
    bool require_exp;
};

struct config_rule {
    enum config_rule_kind kind;
    char *when;  /* topic pattern, or NULL: always */
    char *http;  /* URL template */
    char *claim; /* JSON pointer (RFC 6901) into the claims */
    char *value; /* template for `has` and `is` ({key}, {key.N}, {user}, {ex}), for template_text */
    bool allow;
    char *text; /* the rule as configured, canonical JSON (sorted keys): part of cache digests */
};

struct config_exchange {
    char *name;
    enum config_exchange_type type;
    char **keys; /* CONFIG_EXCHANGE_DIRECT: the routing keys to bind */
    size_t key_count;
    bool is_public; /* "access": "public" */
    struct config_rule *rules;
    size_t rule_count;
    char *text; /* the access part as configured, canonical JSON; equal text means equal rules */
};

struct config_cidr {
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    int bits;            /* 0..128 */
};

struct config {
    char *prefix;
    struct {
        enum log_level level;
        enum log_format format;
    } log;
    struct {
        char *url; /* secret */
        enum config_queue_type queue_type;
        int64_t heartbeat_s;
    } amqp;
    struct {
        char *url; /* secret */
    } redis;
    struct config_jwt jwt;
    struct config_exchange *exchanges; /* sorted by name */
    size_t exchange_count;
    struct {
        int64_t timeout_ms, grant_ttl_s, refuse_ttl_s, pending_max;
    } access;
    struct {
        int64_t max_age_s, max_events, max_bytes, hard_max_bytes;
    } history;
    struct {
        char *listen, *admin;
        int64_t workers;
        char **origins; /* "*" for any */
        size_t origin_count;
        struct config_cidr *trusted_proxies;
        size_t trusted_proxy_count;
        int64_t message_max_bytes, session_bindings_max, session_queue_max_bytes;
        int64_t bind_timeout_ms, ping_interval_s, pong_timeout_s, drain_timeout_s;
        int64_t sessions_max, address_sessions_max, session_requests_per_s;
    } gateway;
    struct {
        char *admin;
        int64_t prefetch, inflight_max_bytes, message_max_bytes;
    } ingest;
    struct {
        char *listen, *admin, *public_url;
        char *link_secret; /* secret; signs the links in mails */
        char **origins;    /* "*" for any */
        size_t origin_count;
        int64_t shards, rule_ttl_s, done_ttl_s, user_rules_max, user_requests_per_min, body_max_bytes;
        json_t *events; /* checked for shape; read by the notifier */
        struct {
            char *url, *method, *email, *token; /* token: secret, from token_file */
            json_t *body;
            int64_t timeout_ms, cache_s;
        } users;
        struct {
            char *from, *url, *user, *password, *starttls, *ca_file;
            int64_t timeout_ms, connections, rate_per_s, retry_initial_ms, retry_max_ms, retry_max_age_s;
            json_t *dkim; /* object or NULL */
        } email;
        struct {
            json_t *allow; /* array */
            int64_t timeout_ms, connections;
        } webhook;
    } notifier;
    json_t *effective; /* the file with all defaults and without secrets, for config_show */
    int refs;
};

/* Read, check and complete the file. Returns 0 with a config (one reference), or ERR_CONFIG; then *ret_errors
 * holds one line per fault ("gateway.ping_interval_s: -1 is out of range (0..3600)"), each ended by a line
 * break, to free(). Also -ENOMEM; then *ret_errors is not written. Blocks: it reads the file and those that
 * it names. */
MUST_CHECK
int config_load(const char *path, struct config **ret_config, char **ret_errors);
/* The same from text, for tests; relative file names are taken from the working directory. */
MUST_CHECK
int config_parse(const char *text, size_t len, struct config **ret_config, char **ret_errors);
struct config *config_ref(struct config *c);
void config_unref(struct config *c); /* NULL is fine */

/* The exchange of that name, or NULL. Borrowed from the config. */
const struct config_exchange *config_exchange_find(const struct config *c, const char *name, size_t len);

/* The keys that differ and that a reload cannot change, "gateway.listen, redis.url", to free(); NULL if there
 * are none (or no memory). */
char *config_restart_keys(const struct config *old, const struct config *c);

/* The effective configuration as indented JSON, secrets as "***". To free(). */
MUST_CHECK
char *config_show(const struct config *c);
/* docs/configuration.md, made from the table. To free(). */
MUST_CHECK
char *config_docs(void);

#endif
