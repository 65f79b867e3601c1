/* config_table.c - the keys of the configuration file, in the order in which they are shown.
 *
 * A row is the only place that knows a key: see config_impl.h for what is made of it. Adding a key is adding
 * a field in config.h and a row here; then docs/configuration.md is made anew (--config-docs). */
#include "shared/config_impl.h"

#include <stddef.h>

#define AT(field)      .offset = offsetof(struct config, field)
#define MANY(field, n) .offset = offsetof(struct config, field), .count_offset = offsetof(struct config, n)
#define INT(key_, flags_, field, dflt_, min_, max_, help_)                                               \
    {                                                                                                    \
        .key = (key_), .type = CONFIG_INT, .flags = (flags_), AT(field), .dflt = (dflt_), .min = (min_), \
        .max = (max_), .help = (help_)                                                                   \
    }
#define SECTION(key_, table_)                                                   \
    {                                                                           \
        .key = (key_), .type = CONFIG_SECTION, .table = &(table_), .dflt = "{}" \
    }
#define TABLE(rows_, title_, intro_)                                                     \
    {                                                                                    \
        .rows = (rows_), .count = ARRAY_LEN(rows_), .title = (title_), .intro = (intro_) \
    }
#define KIB 1024LL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* The order of the words is the order of the enums (log.h, config.h). */
static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};
static const char *const format_words[] = {"json", "text", NULL};
static const char *const queue_words[] = {"classic", "quorum", NULL};
static const char *const exchange_words[] = {"topic", "fanout", "direct", NULL};
static const char *const method_words[] = {"GET", "POST", NULL};
static const char *const starttls_words[] = {"required", "if-offered", "never", NULL};
static const char *const alg_words[] = {"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256",
                                        "ES384", "ES512", "PS256", "PS384", "PS512", NULL};

static const struct config_row log_rows[] = {
    {.key = "level",
     .type = CONFIG_WORD,
     .flags = ROW_RELOAD,
     AT(log.level),
     .dflt = "\"info\"",
     .words = level_words,
     .help = "the least severe lines that are written"},
    {.key = "format",
     .type = CONFIG_WORD,
     AT(log.format),
     .dflt = "\"json\"",
     .words = format_words,
     .help = "one JSON object a line, or text for a terminal"},
};
static const struct config_table log_table = TABLE(log_rows, "log", "Log lines go to standard error.");

static const struct config_row amqp_rows[] = {
    {.key = "url",
     .type = CONFIG_STRING,
     .flags = ROW_SECRET | ROW_URL,
     AT(amqp.url),
     .dflt = "\"amqp://guest:guest@127.0.0.1:5672/%2f\"",
     .check = config_check_amqp_url,
     .allowed = "amqp://[user[:password]@]host[:port][/vhost], percent-encoded",
     .help = "the RabbitMQ broker; only ingest connects to it"},
    {.key = "queue_type",
     .type = CONFIG_WORD,
     AT(amqp.queue_type),
     .dflt = "\"classic\"",
     .words = queue_words,
     .help = "type of the durable queues that ingest declares; RabbitMQ cannot change it for a queue that "
             "exists"},
    INT("heartbeat_s", 0, amqp.heartbeat_s, "10", 1, 600,
        "a broker that is silent for twice as long is given up and connected to anew"),
};
static const struct config_table amqp_table = TABLE(amqp_rows, "amqp", "RabbitMQ.");

static const struct config_row redis_rows[] = {
    {.key = "url",
     .type = CONFIG_STRING,
     .flags = ROW_SECRET | ROW_URL,
     AT(redis.url),
     .dflt = "\"redis://127.0.0.1:6379/0\"",
     .check = config_check_redis_url,
     .allowed =
         "redis://[[user]:password@]host[:port][/db], or "
         "redis+sentinel://[[user]:password@]host[:port],.../primary-name[/db][?sentinel_password=...]; "
         "percent-encoded",
     .help = "the Redis server; or the sentinels that know which one is the primary now (their own user and "
             "password, if they want one: sentinel_user, sentinel_password)"},
};
static const struct config_table redis_table = TABLE(redis_rows, "redis", "Redis, where the programs meet.");

#define KEY_AT(field) .offset = offsetof(struct config_jwt_key, field)
static const struct config_row key_rows[] = {
    {.key = "alg",
     .type = CONFIG_STRINGS,
     .flags = ROW_REQUIRED | ROW_ONE,
     KEY_AT(algs),
     .count_offset = offsetof(struct config_jwt_key, alg_count),
     .words = alg_words,
     .help = "the algorithms that this key verifies; all of one family (HS, ES, or RS and PS)"},
    {.key = "file",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     KEY_AT(file),
     .check = config_check_filled,
     .allowed = "a file that can be read",
     .help = "the public key as PEM, or the shared secret for HS (a line break at its end is dropped)"},
    {.key = "kid",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     KEY_AT(kid),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "only for tokens that name this `kid`, or none"},
};
const struct config_table config_key_table = TABLE(key_rows, "jwt.keys[]", "A key that verifies tokens.");

static const struct config_row jwt_rows[] = {
    {.key = "keys",
     .type = CONFIG_CUSTOM,
     .flags = ROW_RELOAD,
     .dflt = "[]",
     .parse = config_parse_keys,
     .free = config_free_keys,
     .table = &config_key_table,
     .allowed = "an array of keys, see below",
     .help = "keys that verify tokens; without one, no token is accepted"},
    {.key = "issuer",
     .type = CONFIG_STRING,
     .flags = ROW_NULL | ROW_RELOAD,
     AT(jwt.issuer),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "what `iss` must be; null: not checked"},
    {.key = "audience",
     .type = CONFIG_STRINGS,
     .flags = ROW_NULL | ROW_ONE | ROW_RELOAD,
     MANY(jwt.audience, jwt.audience_count),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "one of these must be in `aud`; null: not checked"},
    INT("leeway_s", ROW_RELOAD, jwt.leeway_s, "30", 0, 3600, "how far the issuer's clock may be off"),
    {.key = "require_exp",
     .type = CONFIG_BOOL,
     .flags = ROW_RELOAD,
     AT(jwt.require_exp),
     .dflt = "false",
     .help = "refuse tokens that never expire"},
};
static const struct config_table jwt_table = TABLE(jwt_rows, "jwt", "Which tokens are accepted.");

#define RULE_AT(field) .offset = offsetof(struct config_rule, field)
static const struct config_row rule_rows[] = {
    {.key = "when",
     .type = CONFIG_STRING,
     .flags = ROW_BYTES,
     RULE_AT(when),
     .check = config_check_topic,
     .allowed = "a topic pattern of at most 255 bytes",
     .help = "the rule is for bindings within this pattern; one that is partly within it is denied. Absent: "
             "for all"},
    {.key = "http",
     .type = CONFIG_STRING,
     RULE_AT(http),
     .check = config_check_access_url,
     .allowed = "http:// or https://, {key}, {key.N}, {user}, {ex} in path and query",
     .help = "ask this URL with the client's token; only a 2xx answer with `\"status\":\"ok\"` grants"},
    {.key = "claim",
     .type = CONFIG_STRING,
     RULE_AT(claim),
     .check = config_check_pointer,
     .allowed = "a JSON pointer (RFC 6901) such as \"/gids\"",
     .help = "compare this claim of the token, with `has` or `is`"},
    {.key = "has",
     .type = CONFIG_CUSTOM,
     .parse = config_parse_value,
     .allowed = "a string, with {key}, {key.N}, {user}, {ex}, or a number",
     .help = "the claim must be an array that contains this"},
    {.key = "is",
     .type = CONFIG_CUSTOM,
     .parse = config_parse_value,
     .allowed = "a string, with {key}, {key.N}, {user}, {ex}, or a number",
     .help = "the claim must be this"},
    {.key = "allow", .type = CONFIG_BOOL, RULE_AT(allow), .help = "grant or deny to everybody with a token"},
};
const struct config_table config_rule_table = TABLE(
    rule_rows, "exchanges.<name>.access[]",
    "A rule has one of `http`, `claim` (with `has` or `is`) and `allow`. The first rule that applies to the "
    "binding decides; if none does, the binding is denied. In a URL, `{key}` is the binding's pattern, "
    "`{key.N}` its N-th word from 0 (denied if the pattern does not fix that word), `{user}` the token's "
    "`sub` and `{ex}` the exchange, each percent-encoded; a brace itself is written twice.");

static const struct config_row exchange_rows[] = {
    {.key = "type",
     .type = CONFIG_WORD,
     .offset = offsetof(struct config_exchange, type),
     .dflt = "\"topic\"",
     .words = exchange_words,
     .help = "the exchange's type; a browser's binding is a topic pattern in every case"},
    {.key = "keys",
     .type = CONFIG_STRINGS,
     .flags = ROW_BYTES,
     .offset = offsetof(struct config_exchange, keys),
     .count_offset = offsetof(struct config_exchange, key_count),
     .check = config_check_routing_key,
     .allowed = "a routing key of at most 255 bytes",
     .help = "the routing keys to bind; needed for `direct`, not allowed otherwise"},
    {.key = "access",
     .type = CONFIG_CUSTOM,
     .dflt = "[]",
     .parse = config_parse_access,
     .free = config_free_access,
     .table = &config_rule_table,
     .allowed = "\"public\", or an array of rules, see below",
     .help = "who may bind: everybody, even without a token, or whom the rules grant it; no rules: nobody"},
};
const struct config_table config_exchange_table =
    TABLE(exchange_rows, "exchanges.<name>", "An exchange whose events are served; the name is the key.");

static const struct config_row access_rows[] = {
    INT("timeout_ms", ROW_RELOAD, access.timeout_ms, "5000", 1, 600000,
        "an access API that has not answered by then gives an error for that binding"),
    INT("grant_ttl_s", ROW_RELOAD, access.grant_ttl_s, "300", 0, 86400,
        "how long a grant is cached (never longer than the token lives); 0: not at all"),
    INT("refuse_ttl_s", ROW_RELOAD, access.refuse_ttl_s, "5", 0, 86400,
        "how long a refusal is cached; 0: not at all"),
    INT("pending_max", ROW_RELOAD | ROW_ZERO, access.pending_max, "10000", 0, 10000000,
        "checks that may wait for an answer in one gateway; more are answered with an error"),
};
static const struct config_table access_table = TABLE(access_rows, "access", "How access checks are made.");

static const struct config_row history_rows[] = {
    INT("max_age_s", ROW_RELOAD | ROW_ZERO, history.max_age_s, "600", 0, 31536000,
        "age of the oldest event in a log"),
    INT("max_events", ROW_RELOAD | ROW_ZERO, history.max_events, "1000000", 0, 1000000000000,
        "events in a log"),
    INT("max_bytes", ROW_RELOAD | ROW_ZERO, history.max_bytes, "268435456", 0, 1024 * 1024 * GIB,
        "bytes of a log"),
    INT("hard_max_bytes", ROW_RELOAD | ROW_ZERO, history.hard_max_bytes, "1073741824", 0, 1024 * 1024 * GIB,
        "bytes of a log that the notifier has not read yet; beyond, events are dropped and counted as loss. "
        "Not less than max_bytes"),
};
static const struct config_table history_table =
    TABLE(history_rows, "history", "How much of each exchange's log is kept in Redis.");

static const struct config_row gateway_rows[] = {
    {.key = "listen",
     .type = CONFIG_STRING,
     AT(gateway.listen),
     .dflt = "\"0.0.0.0:8080\"",
     .check = config_check_listen,
     .allowed = "address:port or [IPv6 address]:port",
     .help = "where browsers connect"},
    {.key = "admin",
     .type = CONFIG_STRING,
     AT(gateway.admin),
     .dflt = "\"127.0.0.1:9101\"",
     .check = config_check_listen,
     .allowed = "address:port or [IPv6 address]:port",
     .help = "/livez, /readyz and /metrics"},
    INT("workers", 0, gateway.workers, "1", 1, 64, "processes that share the port"),
    {.key = "origins",
     .type = CONFIG_STRINGS,
     .flags = ROW_RELOAD,
     MANY(gateway.origins, gateway.origin_count),
     .dflt = "[\"*\"]",
     .check = config_check_origin,
     .allowed = "\"*\" for any, or scheme://host[:port]",
     .help =
         "pages of these origins may connect; clients that are no browsers (without `Origin`) always may"},
    {.key = "trusted_proxies",
     .type = CONFIG_CUSTOM,
     .flags = ROW_RELOAD,
     .dflt = "[]",
     .parse = config_parse_proxies,
     .free = config_free_proxies,
     .allowed = "an array of addresses or networks, \"10.0.0.0/8\", \"fd00::/8\"",
     .help = "peers whose X-Forwarded-For or PROXY header tells the client's address"},
    INT("message_max_bytes", ROW_RELOAD | ROW_ZERO, gateway.message_max_bytes, "65536", 0, 64 * MIB,
        "a client's message; a longer one closes the session (1009)"),
    INT("session_bindings_max", ROW_RELOAD | ROW_ZERO, gateway.session_bindings_max, "256", 0, 1000000,
        "bindings of one session; more are answered with an error"),
    INT("session_queue_max_bytes", ROW_RELOAD | ROW_ZERO, gateway.session_queue_max_bytes, "1048576", 0,
        4 * GIB, "unsent bytes of one session; over it, the session is closed (1013)"),
    INT("bind_timeout_ms", ROW_RELOAD, gateway.bind_timeout_ms, "30000", 1, 600000,
        "how long a binding may stay pending while Redis is away"),
    INT("ping_interval_s", ROW_RELOAD, gateway.ping_interval_s, "25", 0, 3600,
        "time between pings; 0: no pings"),
    INT("pong_timeout_s", ROW_RELOAD, gateway.pong_timeout_s, "10", 1, 3600,
        "a session that has not answered a ping by then is closed"),
    INT("drain_timeout_s", ROW_RELOAD, gateway.drain_timeout_s, "20", 0, 3600,
        "after SIGTERM, sessions are closed spread over this time"),
    INT("sessions_max", ROW_RELOAD | ROW_ZERO, gateway.sessions_max, "0", 0, 10000000,
        "sessions of one gateway process; more are answered 503"),
    INT("address_sessions_max", ROW_RELOAD | ROW_ZERO, gateway.address_sessions_max, "0", 0, 10000000,
        "sessions from one address; more are answered 429"),
    INT("session_requests_per_s", ROW_RELOAD | ROW_ZERO, gateway.session_requests_per_s, "50", 0, 1000000,
        "messages that one session may send in a second; more are answered with an error"),
};
static const struct config_table gateway_table = TABLE(gateway_rows, "gateway", "event-gateway.");

static const struct config_row ingest_rows[] = {
    {.key = "admin",
     .type = CONFIG_STRING,
     AT(ingest.admin),
     .dflt = "\"127.0.0.1:9102\"",
     .check = config_check_listen,
     .allowed = "address:port or [IPv6 address]:port",
     .help = "/livez, /readyz and /metrics"},
    INT("prefetch", 0, ingest.prefetch, "1000", 1, 65535,
        "deliveries that RabbitMQ hands over before an ack, per queue"),
    INT("inflight_max_bytes", ROW_RELOAD | ROW_ZERO, ingest.inflight_max_bytes, "67108864", 0, 64 * GIB,
        "bytes of deliveries that Redis has not confirmed yet; over it, ingest stops reading"),
    INT("message_max_bytes", ROW_RELOAD | ROW_ZERO, ingest.message_max_bytes, "16777216", 0, 512 * MIB,
        "a larger body is dead-lettered to the exchange event.dead"),
};
static const struct config_table ingest_table = TABLE(ingest_rows, "ingest", "event-ingest.");

/* The notifier's lists are kept as JSON (config.h): these three tables only check, and fill no struct. */
static const struct config_row event_rows[] = {
    {.key = "exchange",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED | ROW_BYTES,
     .check = config_check_name,
     .allowed = "an exchange's name, 1..255 bytes",
     .help = "where the event comes from"},
    {.key = "key",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED | ROW_BYTES,
     .check = config_check_topic,
     .allowed = "a topic pattern of at most 255 bytes",
     .help = "which routing keys"},
    {.key = "when",
     .type = CONFIG_CUSTOM,
     .dflt = "{}",
     .parse = config_parse_event_when,
     .allowed = "an object of JSON pointer -> string, number, true, false or null",
     .help = "what the message must hold"},
    {.key = "owner",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     .check = config_check_pointer,
     .allowed = "a JSON pointer (RFC 6901) such as \"/user_id\"",
     .help = "the field of the message that names the user"},
    {.key = "match",
     .type = CONFIG_CUSTOM,
     .flags = ROW_REQUIRED,
     .parse = config_parse_event_match,
     .allowed = "an object of name -> JSON pointer, not empty",
     .help = "what a notification may wait for: the name in its `config`, and the field of the message"},
};
const struct config_table config_event_table =
    TABLE(event_rows, "notifier.events.<name>", "An event that a notification can wait for.");

static const struct config_row dkim_rows[] = {
    {.key = "domain",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     .check = config_check_host,
     .allowed = "a domain name",
     .help = "the signing domain (d=)"},
    {.key = "selector",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     .check = config_check_host,
     .allowed = "a domain name",
     .help = "the key's selector (s=)"},
    {.key = "key_file",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     .check = config_check_file,
     .allowed = "a file that can be read",
     .help = "the private key as PEM"},
};
const struct config_table config_dkim_table = TABLE(dkim_rows, "notifier.email.dkim", "DKIM signatures.");

static const struct config_row allow_rows[] = {
    {.key = "prefix",
     .type = CONFIG_STRING,
     .flags = ROW_REQUIRED,
     .check = config_check_http_url,
     .allowed = "http:// or https:// URL",
     .help = "webhook URLs that begin with this are allowed"},
    {.key = "secret_file",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     .dflt = "null",
     .check = config_check_file,
     .allowed = "a file that can be read",
     .help = "the secret that signs the calls; null: not signed"},
    {.key = "private",
     .type = CONFIG_BOOL,
     .dflt = "false",
     .help = "allow it to resolve to a private address"},
};
const struct config_table config_allow_table =
    TABLE(allow_rows, "notifier.webhook.allow[]", "Where webhooks may go.");

static const struct config_row users_rows[] = {
    {.key = "url",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     AT(notifier.users.url),
     .dflt = "null",
     .check = config_check_users_url,
     .allowed = "http:// or https://, {user} in path and query",
     .help = "asked for a user's address; null: no look-up"},
    {.key = "method",
     .type = CONFIG_STRING,
     AT(notifier.users.method),
     .dflt = "\"GET\"",
     .words = method_words,
     .help = "the request's method"},
    {.key = "body",
     .type = CONFIG_CUSTOM,
     .flags = ROW_NULL,
     .dflt = "{ \"where\": \"{\\\"_id\\\":\\\"{user}\\\"}\" }",
     .parse = config_parse_body,
     .free = config_free_body,
     .allowed = "a JSON object, or null",
     .help = "the request's body; {user} in its strings is the user, escaped as in JSON"},
    {.key = "token",
     .type = CONFIG_STRING,
     .flags = ROW_NULL | ROW_SECRET,
     AT(notifier.users.token),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "sent as Authorization: Bearer"},
    {.key = "email",
     .type = CONFIG_STRING,
     AT(notifier.users.email),
     .dflt = "\"/0/email\"",
     .check = config_check_pointer,
     .allowed = "a JSON pointer (RFC 6901) such as \"/0/email\"",
     .help = "where the address is in the answer; of an answer that is an array, only one with one element "
             "counts"},
    INT("timeout_ms", 0, notifier.users.timeout_ms, "10000", 1, 600000,
        "for one look-up; not more than email.timeout_ms counts"),
    INT("cache_s", ROW_ZERO, notifier.users.cache_s, "300", 0, 86400, "how long an address is remembered"),
};
static const struct config_table users_table =
    TABLE(users_rows, "notifier.users", "Where e-mail addresses come from.");

#define MS_MAX 86400000
static const struct config_row email_rows[] = {
    {.key = "from",
     .type = CONFIG_STRING,
     AT(notifier.email.from),
     .dflt = "\"noreply@example.org\"",
     .check = config_check_address,
     .allowed = "a mail address",
     .help = "the sender"},
    {.key = "url",
     .type = CONFIG_STRING,
     AT(notifier.email.url),
     .dflt = "\"smtp://127.0.0.1:25\"",
     .check = config_check_smtp_url,
     .allowed = "smtp:// or smtps://host[:port]",
     .help = "the mail server"},
    {.key = "user",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     AT(notifier.email.user),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "who we are to the mail server; null: no login"},
    {.key = "password",
     .type = CONFIG_STRING,
     .flags = ROW_NULL | ROW_SECRET,
     AT(notifier.email.password),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "the user's password"},
    {.key = "starttls",
     .type = CONFIG_STRING,
     AT(notifier.email.starttls),
     .dflt = "\"if-offered\"",
     .words = starttls_words,
     .help = "encryption with smtp://"},
    {.key = "ca_file",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     AT(notifier.email.ca_file),
     .dflt = "null",
     .check = config_check_file,
     .allowed = "a file that can be read",
     .help = "certificates to trust; null: the system's"},
    INT("timeout_ms", 0, notifier.email.timeout_ms, "30000", 1, 600000, "for one mail"),
    INT("connections", 0, notifier.email.connections, "4", 1, 1000, "mails sent at the same time"),
    INT("rate_per_s", ROW_ZERO, notifier.email.rate_per_s, "20", 0, 100000, "mails a second"),
    INT("retry_initial_ms", 0, notifier.email.retry_initial_ms, "5000", 1, MS_MAX,
        "the first wait after a failure"),
    INT("retry_max_ms", 0, notifier.email.retry_max_ms, "900000", 1, MS_MAX,
        "the longest wait; not less than retry_initial_ms"),
    INT("retry_max_age_s", 0, notifier.email.retry_max_age_s, "172800", 1, 31536000,
        "a mail older than this is given up"),
    {.key = "dkim",
     .type = CONFIG_CUSTOM,
     .flags = ROW_NULL,
     .dflt = "null",
     .parse = config_parse_dkim,
     .free = config_free_dkim,
     .table = &config_dkim_table,
     .allowed = "an object, see below, or null",
     .help = "signs what is sent; null: no signature"},
};
static const struct config_table email_table = TABLE(email_rows, "notifier.email", "How mail is sent.");

static const struct config_row webhook_rows[] = {
    {.key = "allow",
     .type = CONFIG_CUSTOM,
     .dflt = "[]",
     .parse = config_parse_allow,
     .free = config_free_allow,
     .table = &config_allow_table,
     .allowed = "an array of objects, see below",
     .help = "where webhooks may go; empty: nowhere"},
    INT("timeout_ms", 0, notifier.webhook.timeout_ms, "10000", 1, 600000, "for one call"),
    INT("connections", 0, notifier.webhook.connections, "8", 1, 1000, "calls at the same time"),
};
static const struct config_table webhook_table = TABLE(webhook_rows, "notifier.webhook", "Webhooks.");

static const struct config_row notifier_rows[] = {
    {.key = "listen",
     .type = CONFIG_STRING,
     AT(notifier.listen),
     .dflt = "\"0.0.0.0:8081\"",
     .check = config_check_listen,
     .allowed = "address:port or [IPv6 address]:port",
     .help = "the notification API"},
    {.key = "admin",
     .type = CONFIG_STRING,
     AT(notifier.admin),
     .dflt = "\"127.0.0.1:9103\"",
     .check = config_check_listen,
     .allowed = "address:port or [IPv6 address]:port",
     .help = "/livez, /readyz and /metrics"},
    {.key = "public_url",
     .type = CONFIG_STRING,
     .flags = ROW_NULL,
     AT(notifier.public_url),
     .dflt = "null",
     .check = config_check_http_url,
     .allowed = "http:// or https:// URL",
     .help = "how the API is reached from outside, for the links in mails that stop them; null: no links"},
    {.key = "link_secret",
     .type = CONFIG_STRING,
     .flags = ROW_NULL | ROW_SECRET,
     AT(notifier.link_secret),
     .dflt = "null",
     .check = config_check_filled,
     .allowed = "a string that is not empty",
     .help = "signs those links; wanted with public_url"},
    {.key = "origins",
     .type = CONFIG_STRINGS,
     .flags = ROW_ONE,
     MANY(notifier.origins, notifier.origin_count),
     .dflt = "[\"*\"]",
     .check = config_check_origin,
     .allowed = "\"*\" or scheme://host[:port]",
     .help = "pages that may use the API from a browser (CORS)"},
    INT("shards", 0, notifier.shards, "16", 1, 4096,
        "notification shards; must not change while Redis holds rules"),
    INT("rule_ttl_s", ROW_RELOAD, notifier.rule_ttl_s, "15552000", 60, 315360000,
        "a notification that still waits after this is removed"),
    INT("done_ttl_s", ROW_RELOAD, notifier.done_ttl_s, "2592000", 60, 315360000,
        "a notification that was sent or has failed is removed after this"),
    INT("user_rules_max", ROW_RELOAD | ROW_ZERO, notifier.user_rules_max, "10000", 0, 10000000,
        "notifications that one user may have, in any state"),
    INT("user_requests_per_min", ROW_RELOAD | ROW_ZERO, notifier.user_requests_per_min, "600", 0, 1000000,
        "requests of one user in a minute"),
    INT("body_max_bytes", 0, notifier.body_max_bytes, "102400", 1024, 16 * MIB, "longest body of a request"),
    {.key = "events",
     .type = CONFIG_CUSTOM,
     .dflt = "{ \"wf.task.finished\": { \"exchange\": \"wf\", \"key\": \"task.#\", \"when\": { \"/status\": "
             "\"finished\" }, \"owner\": \"/user_id\", \"match\": { \"task_id\": \"/_id\", \"instance_id\": "
             "\"/instance_id\" } } }",
     .parse = config_parse_events,
     .free = config_free_events,
     .table = &config_event_table,
     .allowed = "an object of name -> event, see below",
     .help = "events that a notification can wait for; what the file says replaces the default as a whole"},
    SECTION("users", users_table),
    SECTION("email", email_table),
    SECTION("webhook", webhook_table),
};
static const struct config_table notifier_table = TABLE(notifier_rows, "notifier", "event-notifier.");

static const struct config_row root_rows[] = {
    {.key = "prefix",
     .type = CONFIG_STRING,
     AT(prefix),
     .dflt = "\"event\"",
     .check = config_check_prefix,
     .allowed = "1..64 of A-Z a-z 0-9 . _ : -",
     .help = "begins every key and channel in Redis; fleets with different prefixes can share a server"},
    SECTION("log", log_table),
    SECTION("amqp", amqp_table),
    SECTION("redis", redis_table),
    SECTION("jwt", jwt_table),
    {.key = "exchanges",
     .type = CONFIG_CUSTOM,
     .flags = ROW_RELOAD,
     .dflt = "{}",
     .parse = config_parse_exchanges,
     .free = config_free_exchanges,
     .table = &config_exchange_table,
     .allowed = "an object of name -> exchange, see below",
     .help = "the exchanges that are served"},
    SECTION("access", access_table),
    SECTION("history", history_table),
    SECTION("gateway", gateway_table),
    SECTION("ingest", ingest_table),
    SECTION("notifier", notifier_table),
};
const struct config_table config_root_table = TABLE(root_rows, "", NULL);
