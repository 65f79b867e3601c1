/* The configuration: defaults, every kind of fault, secrets, the environment, what is made of the rules. */
#include "shared/config.h"

#include "shared/buf.h"
#include "shared/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The directory that files of the tests are in; "@" in a test's JSON stands for it. */
static char directory[64];

static void file_write(const char *name, const void *bytes, size_t len)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(directory, sizeof(directory), "/tmp/test_config.XXXXXX");
    assert_non_null(mkdtemp(directory));
    file_write("key.pem", "-----BEGIN PUBLIC KEY-----\n", 27);
    file_write("secret", "s3cret\n", 7);
    file_write("amqp", "amqp://me:h%40sh@rabbit:5673/ef\r\n", 33);
    file_write("empty", "", 0);
    file_write("newline", "\n", 1);
    file_write("binary", "a\0b", 3);
    file_write("two", "a\nb\n", 4);
    unsetenv("EF_TEST_UNSET");
    setenv("EF_TEST_SET", "value", 1);
    setenv("EF_TEST_EMPTY", "", 1);
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"key.pem", "secret", "amqp", "empty",
                                        "newline", "binary", "two",  "file.json"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        unlink(path);
    }
    return rmdir(directory);
}

static char *with_directory(const char *json)
{
    struct buf out = {0};

    for (; *json; json++) {
        if (*json == '@' && json[1] == '/')
            buf_add_str(&out, directory);
        else
            buf_add_char(&out, *json);
    }
    return buf_take(&out);
}

static struct config *good(const char *json)
{
    CLEANUP(freep) char *text = with_directory(json);
    struct config *c = NULL;
    char *errors = NULL;
    int r = config_parse(text, strlen(text), &c, &errors);

    if (r != 0)
        print_message("%s\n%s\n", text, errors ? errors : "no errors");
    assert_int_equal(r, 0);
    assert_null(errors);
    assert_non_null(c);
    return c;
}

/* To free(): the lines. */
static char *bad(const char *json)
{
    CLEANUP(freep) char *text = with_directory(json);
    struct config *c = NULL;
    char *errors = NULL;
    int r = config_parse(text, strlen(text), &c, &errors);

    if (r != ERR_CONFIG)
        print_message("accepted: %s\n", text);
    assert_int_equal(r, ERR_CONFIG);
    assert_null(c);
    assert_non_null(errors);
    assert_int_equal(errors[strlen(errors) - 1], '\n');
    return errors;
}

static size_t count_lines(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static const char design_json[] =
    "{ \"prefix\": \"event\","
    " \"log\": { \"level\": \"info\", \"format\": \"json\" },"
    " \"amqp\": { \"url\": \"amqp://guest:***@127.0.0.1:5672/%2f\", \"url_file\": null, \"queue_type\": "
    "\"classic\","
    "   \"heartbeat_s\": 10 },"
    " \"redis\": { \"url\": \"redis://127.0.0.1:6379/0\", \"url_file\": null },"
    " \"jwt\": { \"keys\": [], \"issuer\": null, \"audience\": null, \"leeway_s\": 30, \"require_exp\": "
    "false },"
    " \"exchanges\": {},"
    " \"access\": { \"timeout_ms\": 5000, \"grant_ttl_s\": 300, \"refuse_ttl_s\": 5, \"pending_max\": 10000 "
    "},"
    " \"history\": { \"max_age_s\": 600, \"max_events\": 1000000, \"max_bytes\": 268435456,"
    "   \"hard_max_bytes\": 1073741824 },"
    " \"gateway\": { \"listen\": \"0.0.0.0:8080\", \"admin\": \"127.0.0.1:9101\", \"workers\": 1, "
    "\"origins\": [\"*\"],"
    "   \"trusted_proxies\": [], \"message_max_bytes\": 65536, \"session_bindings_max\": 256,"
    "   \"session_queue_max_bytes\": 1048576, \"bind_timeout_ms\": 30000, \"ping_interval_s\": 25,"
    "   \"pong_timeout_s\": 10, \"drain_timeout_s\": 20, \"sessions_max\": 0, \"address_sessions_max\": 0,"
    "   \"session_requests_per_s\": 50 },"
    " \"ingest\": { \"admin\": \"127.0.0.1:9102\", \"prefetch\": 1000, \"inflight_max_bytes\": 67108864,"
    "   \"message_max_bytes\": 16777216 },"
    " \"notifier\": { \"listen\": \"0.0.0.0:8081\", \"admin\": \"127.0.0.1:9103\", \"public_url\": null, "
    "\"link_secret\": null, \"link_secret_file\": null, \"origins\": [\"*\"], \"shards\": 16,"
    "   \"rule_ttl_s\": 15552000, \"done_ttl_s\": 2592000, \"user_rules_max\": 10000,"
    "   \"user_requests_per_min\": 600, \"body_max_bytes\": 102400,"
    "   \"events\": { \"wf.task.finished\": { \"exchange\": \"wf\", \"key\": \"task.#\","
    "     \"when\": { \"/status\": \"finished\" }, \"owner\": \"/user_id\","
    "     \"match\": { \"task_id\": \"/_id\", \"instance_id\": \"/instance_id\" } } },"
    "   \"users\": { \"url\": null, \"method\": \"GET\", \"body\": { \"where\": "
    "\"{\\\"_id\\\":\\\"{user}\\\"}\" },"
    "     \"token\": null, \"token_file\": null, \"email\": \"/0/email\", \"timeout_ms\": 10000,"
    "     \"cache_s\": 300 },"
    "   \"email\": { \"from\": \"noreply@example.org\", \"url\": \"smtp://127.0.0.1:25\", \"user\": null,"
    "     \"password\": null, \"password_file\": null, \"starttls\": \"if-offered\", \"ca_file\": null,"
    "     \"timeout_ms\": 30000, \"connections\": 4, \"rate_per_s\": 20, \"retry_initial_ms\": 5000,"
    "     \"retry_max_ms\": 900000, \"retry_max_age_s\": 172800, \"dkim\": null },"
    "   \"webhook\": { \"allow\": [], \"timeout_ms\": 10000, \"connections\": 8 } } }";

static json_t *shown(const struct config *c)
{
    CLEANUP(freep) char *text = config_show(c);
    json_t *value;

    assert_non_null(text);
    value = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(value);
    return value;
}

static void an_empty_file_shows_the_defaults_of_the_design(void **state)
{
    CLEANUP(json_decrefp) json_t *expected = json_loads(design_json, JSON_REJECT_DUPLICATES, NULL);
    struct config *c = good("{}");
    CLEANUP(json_decrefp) json_t *effective = shown(c);

    (void)state;
    assert_non_null(expected);
    assert_true(json_equal(effective, expected));
    config_unref(c);
}

static void the_defaults_are_in_the_fields(void **state)
{
    struct config *c = good("{}");

    (void)state;
    assert_string_equal(c->prefix, "event");
    assert_int_equal(c->log.level, LOG_INFO);
    assert_int_equal(c->log.format, LOG_FORMAT_JSON);
    assert_string_equal(c->amqp.url, "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert_int_equal(c->amqp.queue_type, CONFIG_QUEUE_CLASSIC);
    assert_int_equal(c->amqp.heartbeat_s, 10);
    assert_string_equal(c->redis.url, "redis://127.0.0.1:6379/0");
    assert_int_equal(c->jwt.key_count, 0);
    assert_null(c->jwt.issuer);
    assert_int_equal(c->jwt.audience_count, 0);
    assert_int_equal(c->jwt.leeway_s, 30);
    assert_false(c->jwt.require_exp);
    assert_int_equal(c->exchange_count, 0);
    assert_int_equal(c->access.timeout_ms, 5000);
    assert_int_equal(c->access.grant_ttl_s, 300);
    assert_int_equal(c->access.refuse_ttl_s, 5);
    assert_int_equal(c->access.pending_max, 10000);
    assert_int_equal(c->history.max_age_s, 600);
    assert_int_equal(c->history.max_events, 1000000);
    assert_int_equal(c->history.max_bytes, 268435456);
    assert_int_equal(c->history.hard_max_bytes, 1073741824);
    assert_string_equal(c->gateway.listen, "0.0.0.0:8080");
    assert_string_equal(c->gateway.admin, "127.0.0.1:9101");
    assert_int_equal(c->gateway.workers, 1);
    assert_int_equal(c->gateway.origin_count, 1);
    assert_string_equal(c->gateway.origins[0], "*");
    assert_int_equal(c->gateway.trusted_proxy_count, 0);
    assert_int_equal(c->gateway.message_max_bytes, 65536);
    assert_int_equal(c->gateway.session_bindings_max, 256);
    assert_int_equal(c->gateway.session_queue_max_bytes, 1048576);
    assert_int_equal(c->gateway.bind_timeout_ms, 30000);
    assert_int_equal(c->gateway.ping_interval_s, 25);
    assert_int_equal(c->gateway.pong_timeout_s, 10);
    assert_int_equal(c->gateway.drain_timeout_s, 20);
    assert_int_equal(c->gateway.sessions_max, 0);
    assert_int_equal(c->gateway.address_sessions_max, 0);
    assert_int_equal(c->gateway.session_requests_per_s, 50);
    assert_string_equal(c->ingest.admin, "127.0.0.1:9102");
    assert_int_equal(c->ingest.prefetch, 1000);
    assert_int_equal(c->ingest.inflight_max_bytes, 67108864);
    assert_int_equal(c->ingest.message_max_bytes, 16777216);
    assert_string_equal(c->notifier.admin, "127.0.0.1:9103");
    assert_int_equal(c->notifier.shards, 16);
    assert_int_equal(json_object_size(c->notifier.events), 1);
    assert_null(c->notifier.users.url);
    assert_string_equal(c->notifier.users.method, "GET");
    assert_string_equal(c->notifier.email.starttls, "if-offered");
    assert_null(c->notifier.email.dkim);
    assert_int_equal(json_array_size(c->notifier.webhook.allow), 0);
    config_unref(c);
}

#define EX(rest)   "{\"exchanges\":{\"wf.task\":" rest "}}"
#define RULE(rest) EX("{\"access\":[{\"allow\":true}," rest "]}")
#define RULE_AT    "exchanges[\"wf.task\"].access[1]"
#define KEY(rest)  "{\"jwt\":{\"keys\":[" rest "]}}"
#define A64        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define A256       A64 A64 A64 A64

/* One fault each; what its line begins with and what it must hold besides. */
static const struct {
    const char *json, *path, *part;
} faults[] = {
    /* keys */
    {"{\"gatway\":{}}", "gatway", "did you mean \"gateway\""},
    {"{\"gateway\":{\"ping_intervall_s\":1}}", "gateway.ping_intervall_s",
     "did you mean \"ping_interval_s\""},
    {"{\"gateway\":{\"prefetch\":1}}", "gateway.prefetch", "not a known key"},
    {"{\"log\":{\"file\":\"x\"}}", "log.file", "known here: level, format"},
    {"{\"a b\":1}", "[\"a b\"]", "not a known key"},
    {"{\"\":1}", "[\"\"]", "not a known key"},
    {EX("{\"acces\":[]}"), "exchanges[\"wf.task\"].acces", "did you mean \"access\""},
    {RULE("{\"alow\":true,\"allow\":true}"), RULE_AT ".alow", "did you mean \"allow\""},
    {KEY("{\"alg\":\"RS256\",\"file\":\"@/key.pem\",\"id\":\"x\"}"), "jwt.keys[0].id",
     "did you mean \"kid\""},
    /* types */
    {"{\"gateway\":[]}", "gateway", "is an array (an object)"},
    {"{\"gateway\":null}", "gateway", "null is not allowed here"},
    {"{\"prefix\":1}", "prefix", "1 is a number"},
    {"{\"prefix\":null}", "prefix", "null is not allowed here"},
    {"{\"amqp\":{\"heartbeat_s\":\"10\"}}", "amqp.heartbeat_s", "\"10\" is a string, not a number (1..600)"},
    {"{\"amqp\":{\"heartbeat_s\":10.0}}", "amqp.heartbeat_s", "10.0 is not a whole number (1..600)"},
    {"{\"jwt\":{\"require_exp\":0}}", "jwt.require_exp", "0 is a number (true or false)"},
    {"{\"jwt\":{\"keys\":{}}}", "jwt.keys", "is an object (an array of keys)"},
    {"{\"exchanges\":[]}", "exchanges", "is an array"},
    {EX("[]"), "exchanges[\"wf.task\"]", "is an array (an object)"},
    {RULE("1"), RULE_AT, "1 is a number (an object)"},
    {"{\"gateway\":{\"origins\":\"*\"}}", "gateway.origins", "\"*\" is a string"},
    {"{\"gateway\":{\"origins\":[\"*\",1]}}", "gateway.origins[1]", "1 is a number"},
    /* ranges and words */
    {"{\"gateway\":{\"ping_interval_s\":-1}}", "gateway.ping_interval_s", "-1 is out of range (0..3600)"},
    {"{\"gateway\":{\"workers\":0}}", "gateway.workers", "0 is out of range (1..64)"},
    {"{\"gateway\":{\"workers\":65}}", "gateway.workers", "65 is out of range (1..64)"},
    {"{\"gateway\":{\"sessions_max\":-1}}", "gateway.sessions_max", "0: none"},
    {"{\"ingest\":{\"prefetch\":65536}}", "ingest.prefetch", "65536 is out of range (1..65535)"},
    {"{\"access\":{\"timeout_ms\":0}}", "access.timeout_ms", "0 is out of range"},
    {"{\"log\":{\"level\":\"loud\"}}", "log.level",
     "\"loud\" is not one of the words (\"debug\", \"info\", \"warn\" or"},
    {"{\"log\":{\"format\":\"JSON\"}}", "log.format", "(\"json\" or \"text\")"},
    {"{\"amqp\":{\"queue_type\":\"lazy\"}}", "amqp.queue_type", "(\"classic\" or \"quorum\")"},
    {EX("{\"type\":\"headers\"}"), "exchanges[\"wf.task\"].type", "(\"topic\", \"fanout\" or \"direct\")"},
    {"{\"notifier\":{\"email\":{\"starttls\":\"always\"}}}", "notifier.email.starttls", "\"if-offered\""},
    {"{\"notifier\":{\"users\":{\"method\":\"get\"}}}", "notifier.users.method", "(\"GET\" or \"POST\")"},
    /* texts */
    {"{\"prefix\":\"\"}", "prefix", "is empty"},
    {"{\"prefix\":\"a{b\"}", "prefix", "character"},
    {"{\"prefix\":\"" A64 "a\"}", "prefix", "too long"},
    {"{\"jwt\":{\"issuer\":\"\"}}", "jwt.issuer", "is empty"},
    {"{\"jwt\":{\"issuer\":\"a\\nb\"}}", "jwt.issuer", "line break"},
    {"{\"jwt\":{\"audience\":[]}}", "jwt.audience", "is empty"},
    {"{\"amqp\":{\"url\":\"http://x\"}}", "amqp.url", "does not begin with amqp://"},
    {"{\"amqp\":{\"url\":\"amqp://\"}}", "amqp.url", "no host"},
    {"{\"amqp\":{\"url\":\"amqp://h:0/\"}}", "amqp.url", "port"},
    {"{\"amqp\":{\"url\":\"amqp://h:70000/\"}}", "amqp.url", "port"},
    {"{\"amqp\":{\"url\":\"amqp://h:abc/\"}}", "amqp.url", "port"},
    {"{\"amqp\":{\"url\":\"amqp://h/a/b\"}}", "amqp.url", "virtual host"},
    {"{\"amqp\":{\"url\":\"amqp://h?x=1\"}}", "amqp.url", "query"},
    {"{\"amqp\":{\"url\":\"amqp://u:p%zz@h\"}}", "amqp.url", "hexadecimal"},
    {"{\"amqp\":{\"url\":\"amqp://u:p@q@h\"}}", "amqp.url", "more than one"},
    {"{\"amqp\":{\"url\":\"amqp://[::1/\"}}", "amqp.url", "IPv6"},
    {"{\"amqp\":{\"url\":\"amqp://h /\"}}", "amqp.url", "percent-encoded"},
    {"{\"redis\":{\"url\":\"rediss://h\"}}", "redis.url", "not a Redis URL"},
    {"{\"redis\":{\"url\":\"redis://h/abc\"}}", "redis.url", "not a Redis URL"},
    {"{\"gateway\":{\"listen\":\"8080\"}}", "gateway.listen", "\"8080\" has no port (address:port"},
    {"{\"gateway\":{\"listen\":\":8080\"}}", "gateway.listen", "no numeric address"},
    {"{\"gateway\":{\"listen\":\"example.org:80\"}}", "gateway.listen", "no numeric address"},
    {"{\"gateway\":{\"listen\":\"::1:80\"}}", "gateway.listen", "no numeric address"},
    {"{\"gateway\":{\"listen\":\"[::1]\"}}", "gateway.listen", "no port"},
    {"{\"gateway\":{\"listen\":\"[::1\"}}", "gateway.listen", "no port"},
    {"{\"gateway\":{\"listen\":\"127.0.0.1:\"}}", "gateway.listen", "no port"},
    {"{\"ingest\":{\"admin\":\"127.0.0.1:65536\"}}", "ingest.admin", "out of range"},
    {"{\"gateway\":{\"origins\":[\"example.org\"]}}", "gateway.origins[0]", "scheme"},
    {"{\"gateway\":{\"origins\":[\"https://example.org/\"]}}", "gateway.origins[0]", "more than scheme"},
    {"{\"gateway\":{\"trusted_proxies\":[\"10.0.0.0/33\"]}}", "gateway.trusted_proxies[0]",
     "\"10.0.0.0/33\" is not"},
    {"{\"gateway\":{\"trusted_proxies\":[\"::1\",\"::/129\"]}}", "gateway.trusted_proxies[1]",
     "\"::/129\" is not"},
    {"{\"gateway\":{\"trusted_proxies\":[\"10.0.0/8\"]}}", "gateway.trusted_proxies[0]", "not an address"},
    {"{\"gateway\":{\"trusted_proxies\":[\"10.0.0.0/\"]}}", "gateway.trusted_proxies[0]", "not an address"},
    {"{\"gateway\":{\"trusted_proxies\":[4]}}", "gateway.trusted_proxies[0]", "4 is not an address"},
    {"{\"notifier\":{\"public_url\":\"ftp://x\"}}", "notifier.public_url", "http:// or https://"},
    {"{\"notifier\":{\"email\":{\"url\":\"mail.example.org\"}}}", "notifier.email.url",
     "smtp:// or smtps://"},
    {"{\"notifier\":{\"email\":{\"url\":\"smtp://u:p@h\"}}}", "notifier.email.url", "credentials"},
    {"{\"notifier\":{\"email\":{\"from\":\"nobody\"}}}", "notifier.email.from", "local-part@domain"},
    {"{\"notifier\":{\"email\":{\"from\":\"a b@c.d\"}}}", "notifier.email.from", "character"},
    {"{\"notifier\":{\"users\":{\"email\":\"email\"}}}", "notifier.users.email", "does not begin with \"/\""},
    {"{\"notifier\":{\"users\":{\"url\":\"http://a/{key}\"}}}", "notifier.users.url", "unknown name {key}"},
    {"{\"notifier\":{\"users\":{\"body\":\"x\"}}}", "notifier.users.body", "is a string"},
    /* exchanges and rules */
    {"{\"exchanges\":{\"\":{}}}", "exchanges[\"\"]", "name is empty"},
    {"{\"exchanges\":{\"" A256 "\":{}}}", "exchanges[\"aaa", "256 bytes long"},
    {EX("{\"type\":\"direct\"}"), "exchanges[\"wf.task\"].keys", "is missing"},
    {EX("{\"type\":\"direct\",\"keys\":[]}"), "exchanges[\"wf.task\"].keys", "is empty"},
    {EX("{\"keys\":[\"a\"]}"), "exchanges[\"wf.task\"].keys", "not direct"},
    {EX("{\"type\":\"direct\",\"keys\":[\"" A256 "\"]}"), "exchanges[\"wf.task\"].keys[0]", "256 bytes long"},
    {EX("{\"access\":\"private\"}"), "exchanges[\"wf.task\"].access", "\"private\" is not"},
    {EX("{\"access\":{\"allow\":true}}"), "exchanges[\"wf.task\"].access", "is not a way of access"},
    {RULE("{}"), RULE_AT, "says neither"},
    {RULE("{\"when\":\"a\"}"), RULE_AT, "says neither"},
    {RULE("{\"http\":\"http://h/\",\"allow\":true}"), RULE_AT, "says \"http\" and \"allow\" (only one"},
    {RULE("{\"claim\":\"/a\"}"), RULE_AT, "with neither \"has\" nor \"is\""},
    {RULE("{\"claim\":\"/a\",\"has\":1,\"is\":2}"), RULE_AT, "with both \"has\" and \"is\""},
    {RULE("{\"allow\":true,\"has\":1}"), RULE_AT, "says \"has\" without a \"claim\""},
    {RULE("{\"allow\":\"yes\"}"), RULE_AT ".allow", "\"yes\" is a string (true or false)"},
    {RULE("{\"allow\":true,\"when\":null}"), RULE_AT ".when", "null is not allowed"},
    {RULE("{\"allow\":true,\"when\":\"" A256 "\"}"), RULE_AT ".when", "256 bytes long"},
    {RULE("{\"claim\":\"gids\",\"has\":1}"), RULE_AT ".claim", "does not begin with \"/\""},
    {RULE("{\"claim\":\"/a~2\",\"has\":1}"), RULE_AT ".claim", "\"~\""},
    {RULE("{\"claim\":\"/a\",\"has\":[1]}"), RULE_AT ".has", "is an array (a string or a number)"},
    {RULE("{\"claim\":\"/a\",\"is\":\"{keys}\"}"), RULE_AT ".is", "unknown name {keys}"},
    {RULE("{\"http\":\"ftp://h/\"}"), RULE_AT ".http", "\"ftp://h/\" does not begin with http://"},
    {RULE("{\"http\":\"/check/{key}\"}"), RULE_AT ".http", "does not begin with http://"},
    {RULE("{\"http\":\"http:///x\"}"), RULE_AT ".http", "no host"},
    {RULE("{\"http\":\"http://{ex}/x\"}"), RULE_AT ".http", "before its path"},
    {RULE("{\"http\":\"http://h:{key}/x\"}"), RULE_AT ".http", "before its path"},
    {RULE("{\"http\":\"http://u:p@h/x\"}"), RULE_AT ".http", "credentials"},
    {RULE("{\"http\":\"http://h/{key\"}"), RULE_AT ".http", "not closed"},
    {RULE("{\"http\":\"http://h/key}\"}"), RULE_AT ".http", "without its"},
    {RULE("{\"http\":\"http://h/{key.x}\"}"), RULE_AT ".http", "unknown name {key.x}"},
    {RULE("{\"http\":\"http://h/{key.}\"}"), RULE_AT ".http", "unknown name {key.}"},
    {RULE("{\"http\":\"http://h/{key.256}\"}"), RULE_AT ".http", "unknown name {key.256}"},
    {RULE("{\"http\":\"http://h/{key.00}\"}"), RULE_AT ".http", "unknown name {key.00}"},
    {RULE("{\"http\":\"http://h/#{key}\"}"), RULE_AT ".http", "fragment"},
    {RULE("{\"http\":\"http://h/a b\"}"), RULE_AT ".http", "percent-encoded"},
    /* token keys and files */
    {KEY("{\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg", "is missing"},
    {KEY("{\"alg\":\"RS256\"}"), "jwt.keys[0].file", "is missing"},
    {KEY("{\"alg\":[],\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg", "is empty"},
    {KEY("{\"alg\":\"none\",\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg", "\"none\" is not one of the words"},
    {KEY("{\"alg\":[\"RS256\",\"rs384\"],\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg[1]", "\"rs384\" is not"},
    {KEY("{\"alg\":[\"RS256\",\"HS256\"],\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg", "cannot share a key"},
    {KEY("{\"alg\":[\"PS256\",\"ES256\"],\"file\":\"@/key.pem\"}"), "jwt.keys[0].alg", "cannot share a key"},
    {KEY("{\"alg\":\"RS256\",\"file\":\"@/none\"}"), "jwt.keys[0].file", "No such file"},
    {KEY("{\"alg\":\"RS256\",\"file\":\"@/\"}"), "jwt.keys[0].file", "Is a directory"},
    {KEY("{\"alg\":\"RS256\",\"file\":\"@/empty\"}"), "jwt.keys[0].file", "is empty"},
    {KEY("{\"alg\":\"HS256\",\"file\":\"@/newline\"}"), "jwt.keys[0].file", "is empty"},
    {"{\"amqp\":{\"url_file\":\"@/none\"}}", "amqp.url_file", "No such file"},
    {"{\"amqp\":{\"url_file\":\"@/secret\"}}", "amqp.url", "does not begin with amqp://"},
    {"{\"amqp\":{\"url_file\":1}}", "amqp.url_file", "is a number"},
    {"{\"redis\":{\"url\":\"redis://h\",\"url_file\":\"@/secret\"}}", "redis.url_file", "beside \"url\""},
    {"{\"notifier\":{\"users\":{\"token_file\":\"@/empty\"}}}", "notifier.users.token_file", "is empty"},
    {"{\"notifier\":{\"users\":{\"token_file\":\"@/binary\"}}}", "notifier.users.token_file", "no text"},
    {"{\"notifier\":{\"users\":{\"token_file\":\"@/two\"}}}", "notifier.users.token", "line break"},
    {"{\"notifier\":{\"users\":{\"token\":\"a\\nb\"}}}", "notifier.users.token", "line break"},
    {"{\"notifier\":{\"email\":{\"ca_file\":\"@/none\"}}}", "notifier.email.ca_file", "No such file"},
    {"{\"notifier\":{\"email\":{\"dkim\":{\"domain\":\"a.b\",\"selector\":\"s\",\"key_file\":\"@/none\"}}}}",
     "notifier.email.dkim.key_file", "No such file"},
    {"{\"notifier\":{\"webhook\":{\"allow\":[{\"prefix\":\"http://h\",\"secret_file\":\"@/none\"}]}}}",
     "notifier.webhook.allow[0].secret_file", "No such file"},
    {"{\"notifier\":{\"webhook\":{\"allow\":[{}]}}}", "notifier.webhook.allow[0].prefix", "is missing"},
    /* the notifier's events */
    {"{\"notifier\":{\"events\":{\"x\":{\"key\":\"#\",\"owner\":\"/u\",\"match\":{\"a\":\"/b\"}}}}}",
     "notifier.events.x.exchange", "is missing"},
    {"{\"notifier\":{\"events\":{\"x\":{\"exchange\":\"e\",\"key\":\"#\",\"owner\":\"u\",\"match\":{\"a\":\"/"
     "b\"}}}}}",
     "notifier.events.x.owner", "does not begin"},
    {"{\"notifier\":{\"events\":{\"x\":{\"exchange\":\"e\",\"key\":\"#\",\"owner\":\"/u\",\"match\":{}}}}}",
     "notifier.events.x.match", "is empty"},
    {"{\"notifier\":{\"events\":{\"x\":{\"exchange\":\"e\",\"key\":\"#\",\"owner\":\"/"
     "u\",\"match\":{\"a\":\"b\"}}}}}",
     "notifier.events.x.match.a", "\"b\" does not begin"},
    {"{\"notifier\":{\"events\":{\"x\":{\"exchange\":\"e\",\"key\":\"#\",\"owner\":\"/"
     "u\",\"match\":{\"a\":\"/b\"},"
     "\"when\":{\"s\":1}}}}}",
     "notifier.events.x.when.s", "the key does not begin"},
    {"{\"notifier\":{\"events\":{\"x\":{\"exchange\":\"e\",\"key\":\"#\",\"owner\":\"/"
     "u\",\"match\":{\"a\":\"/b\"},"
     "\"when\":{\"/s\":[]}}}}}",
     "notifier.events.x.when[\"/s\"]", "is an array"},
    /* the environment */
    {"{\"prefix\":\"${EF_TEST_UNSET}\"}", "prefix", "EF_TEST_UNSET is not set"},
    {"{\"gateway\":{\"admin\":\"${EF_TEST_UNSET}\"}}", "gateway.admin", "EF_TEST_UNSET is not set"},
    {"{\"gateway\":{\"origins\":[\"*\",\"${EF_TEST_UNSET}\"]}}", "gateway.origins[1]",
     "EF_TEST_UNSET is not set"},
    {"{\"prefix\":\"a${EF_TEST_SET\"}", "prefix", "not closed"},
    {"{\"prefix\":\"${}\"}", "prefix", "${} is not a variable"},
    {"{\"prefix\":\"${1A}\"}", "prefix", "${1A} is not a variable"},
    {"{\"prefix\":\"${A B}\"}", "prefix", "${A B} is not a variable"},
    {"{\"prefix\":\"${EF_TEST_EMPTY}\"}", "prefix", "\"\" is empty"},
    {RULE("{\"http\":\"http://${EF_TEST_UNSET}/x\"}"), RULE_AT ".http", "EF_TEST_UNSET is not set"},
    /* contradictions */
    {"{\"history\":{\"max_bytes\":100,\"hard_max_bytes\":99}}", "history.hard_max_bytes",
     "99 is less than history.max_bytes, 100"},
    {"{\"history\":{\"max_bytes\":2000000000}}", "history.hard_max_bytes", "1073741824 is less than"},
    {"{\"ingest\":{\"inflight_max_bytes\":10,\"message_max_bytes\":11}}", "ingest.inflight_max_bytes",
     "10 is less than"},
    {"{\"gateway\":{\"listen\":\"127.0.0.1:80\",\"admin\":\"127.0.0.1:80\"}}", "gateway.admin",
     "gateway.listen too"},
    {"{\"notifier\":{\"email\":{\"retry_initial_ms\":10,\"retry_max_ms\":9}}}", "notifier.email.retry_max_ms",
     "9 is less than"},
    {"{\"notifier\":{\"email\":{\"user\":\"me\"}}}", "notifier.email.user", "without a password"},
};

static void each_fault_is_told_in_one_line_that_names_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        CLEANUP(freep) char *errors = bad(faults[i].json);
        size_t len = strlen(faults[i].path);
        bool named = strncmp(errors, faults[i].path, len) == 0;

        /* A path that the table cuts short ends within a key; any other is followed by ": ". */
        named = named && (strncmp(errors + len, ": ", 2) == 0 || faults[i].path[len - 1] == 'a');
        if (!named || !strstr(errors, faults[i].part) || count_lines(errors) != 1)
            fail_msg("%s\nexpected: %s: ..%s..\ngot: %s", faults[i].json, faults[i].path, faults[i].part,
                     errors);
    }
}

static void ten_faults_in_one_file_are_all_named(void **state)
{
    static const char *const paths[] = {
        "\nprefix: ",
        "\nlog.level: ",
        "\namqp.url: ",
        "\nredis.url: ",
        "\njwt.keys[0].file: ",
        "\nexchanges[\"wf.task\"].access[0].when: ",
        "\nexchanges[\"wf.task\"].acess: ",
        "\ngateway.ping_interval_s: ",
        "\ngateway.admin: ",
        "\ningest.prefetch: ",
        "\nnotifier.email.from: ",
        "\nhistory.hard_max_bytes: ",
    };
    CLEANUP(freep)
    char *errors =
        bad("{\"prefix\":7,\"log\":{\"level\":\"x\"},\"amqp\":{\"url\":\"x\"},\"redis\":{\"url\":\"x\"},"
            "\"jwt\":{\"keys\":[{\"alg\":\"RS256\",\"file\":\"@/none\"}]},"
            "\"exchanges\":{\"wf.task\":{\"acess\":[],\"access\":[{\"allow\":true,\"when\":1}]}},"
            "\"gateway\":{\"ping_interval_s\":-1,\"admin\":\"${EF_TEST_UNSET}\"},\"ingest\":{\"prefetch\":0},"
            "\"notifier\":{\"email\":{\"from\":\"x\"}},\"history\":{\"max_bytes\":2,\"hard_max_bytes\":1}}");
    CLEANUP(buf_done) struct buf lines = {0};

    (void)state;
    buf_printf(&lines, "\n%s", errors);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (!strstr(lines.data, paths[i]))
            fail_msg("no line for%s in:%s", paths[i], lines.data);
    }
    assert_int_equal(count_lines(errors), ARRAY_LEN(paths));
}

static void a_flood_of_faults_is_cut_and_counted(void **state)
{
    CLEANUP(buf_done) struct buf json = {0};

    (void)state;
    for (int i = 0; i < 600; i++)
        buf_printf(&json, "%s\"unknown%d\":0", i ? "," : "{", i);
    buf_add_char(&json, '}');
    CLEANUP(freep) char *errors = bad(json.data);
    assert_int_equal(count_lines(errors), 501);
    assert_non_null(strstr(errors, "\nand 100 more\n"));
}

static void what_is_not_a_json_object_is_told_with_line_and_column(void **state)
{
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"", "'[' or '{' expected"},
        {"[]", "holds an array (a JSON object)"},
        {"7", "'[' or '{' expected"},
        {"{\n \"prefix\" 1}", "line 2, column 11"},
        {"{\"prefix\":\"a\",\n\"prefix\":\"b\"}", "line 2, column 8: duplicate object key near '\"prefix\"'"},
        {"{\"exchanges\":{\"a\":{},\"a\":{}}}", "duplicate object key"},
        {"{} x", "line 1"},
        {"{\"prefix\":\"\\u0000\"}", "\\u0000"},
        {"{\"prefix\":\"\xff\"}", "unable to decode byte 0xff"},
        {"{\"gateway\":{\"workers\":99999999999999999999}}", "too big integer"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(freep) char *errors = bad(cases[i].json);

        if (!strstr(errors, cases[i].part) || count_lines(errors) != 1)
            fail_msg("%s\nexpected: ..%s..\ngot: %s", cases[i].json, cases[i].part, errors);
    }
}

static void no_secret_is_in_an_error_line(void **state)
{
    static const char *const cases[] = {
        "{\"amqp\":{\"url\":\"amqp://u:hunter2@h/a/b\"}}",
        "{\"amqp\":{\"url\":\"amqp://u:hunter2\"}}",
        "{\"amqp\":{\"url\":\"hunter2\"}}",
        "{\"amqp\":{\"url\":[\"hunter2\"]}}",
        "{\"redis\":{\"url\":\"http://:hunter2@h\"}}",
        "{\"redis\":{\"url\":\"redis://:hunter2\"}}",
        "{\"redis\":{\"url\":\"redis://u:hunter2@@h/x y\"}}",
        "{\"redis\":{\"url\":\"redis+sentinel://:hunter2@a,b/\"}}",
        "{\"redis\":{\"url\":\"redis+sentinel://a,b/x/y?sentinel_password=hunter2@\"}}",
        "{\"notifier\":{\"users\":{\"token\":\"hunter2\\n\"}}}",
        "{\"notifier\":{\"users\":{\"token\":{\"a\":\"hunter2\"}}}}",
        "{\"notifier\":{\"email\":{\"user\":\"a\",\"password\":\"hunter2\\r\"}}}",
        "{\"notifier\":{\"email\":{\"password\":\"hunter2\"}}}",
        "{\"notifier\":{\"email\":{\"password\" \"hunter2\"}}}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        CLEANUP(freep) char *errors = bad(cases[i]);

        if (strstr(errors, "hunter2"))
            fail_msg("the secret is told: %s", errors);
    }
}

/* Values that must be taken, however unusual. */
static void unusual_but_right_values_are_taken(void **state)
{
    static const char *const cases[] = {
        "{\"gateway\":{\"listen\":\"[::]:0\",\"admin\":\"[::1]:65535\"}}",
        "{\"gateway\":{\"origins\":[\"https://a.example:8443\",\"http://[::1]:3000\",\"moz-extension://"
        "abc\"]}}",
        "{\"gateway\":{\"origins\":[]}}",
        "{\"amqp\":{\"url\":\"amqp://h\"}}",
        "{\"amqp\":{\"url\":\"AMQP://u@[::1]:5672/a%2fb\"}}",
        "{\"amqp\":{\"url\":\"amqp://u:p%40%3a%2f@h.example:1/\"}}",
        "{\"amqp\":{\"url\":\"amqp://h:5672/v\",\"url_file\":null}}",
        "{\"redis\":{\"url\":\"redis://user:pass@h:1/15\"}}",
        "{\"redis\":{\"url\":\"redis+sentinel://:pass@h:1,i:2/main/15?sentinel_password=x\"}}",
        "{\"jwt\":{\"audience\":\"x\"}}",
        "{\"jwt\":{\"keys\":[{\"alg\":[\"RS256\",\"PS512\"],\"file\":\"@/key.pem\",\"kid\":null}]}}",
        "{\"history\":{\"max_bytes\":0,\"hard_max_bytes\":0,\"max_events\":0,\"max_age_s\":0}}",
        "{\"history\":{\"max_bytes\":2000000000,\"hard_max_bytes\":0}}",
        "{\"ingest\":{\"inflight_max_bytes\":1}}",
        EX("{}"),
        EX("{\"access\":[]}"),
        EX("{\"type\":\"fanout\",\"access\":\"public\"}"),
        EX("{\"type\":\"direct\",\"keys\":[\"\",\"a\\u0001b\"]}"),
        RULE("{\"http\":\"https://h:1/{key}/{key.0}/{key.255}?u={user}&e={ex}&b={{}}\"}"),
        RULE("{\"http\":\"http://h?{key}\"}"),
        RULE("{\"claim\":\"/a~0~1/0\",\"is\":\"\"}"),
        RULE("{\"allow\":false,\"when\":\"\"}"),
        "{\"notifier\":{\"users\":{\"url\":\"http://auth/users/{user}\",\"body\":null}}}",
        "{\"notifier\":{\"email\":{\"dkim\":{\"domain\":\"example.org\",\"selector\":\"s1\",\"key_file\":\"@/"
        "secret\"}}}}",
        "{\"notifier\":{\"webhook\":{\"allow\":[{\"prefix\":\"https://h/x\"},{\"prefix\":\"http://"
        "h\",\"private\":true}]}}}",
        "{\"notifier\":{\"events\":{}}}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        config_unref(good(cases[i]));
}

static void secrets_come_from_files_and_are_not_shown(void **state)
{
    struct config *c =
        good("{\"amqp\":{\"url_file\":\"@/amqp\"},\"redis\":{\"url\":\"redis://u:hunter2@h:1/2\"},"
             "\"jwt\":{\"keys\":[{\"alg\":\"HS256\",\"file\":\"@/secret\"}]},"
             "\"notifier\":{\"users\":{\"token_file\":\"@/secret\"},"
             "\"email\":{\"user\":\"me\",\"password\":\"hunter2\"}}}");
    CLEANUP(freep) char *text = config_show(c);

    (void)state;
    assert_string_equal(c->amqp.url, "amqp://me:h%40sh@rabbit:5673/ef");
    assert_string_equal(c->notifier.users.token, "s3cret");
    assert_string_equal(c->notifier.email.password, "hunter2");
    assert_string_equal(c->jwt.keys[0].text, "s3cret");
    assert_int_equal(c->jwt.keys[0].text_len, 6);
    assert_null(strstr(text, "hunter2"));
    assert_null(strstr(text, "s3cret"));
    assert_null(strstr(text, "h%40sh"));
    assert_non_null(strstr(text, "\"url\": \"amqp://me:***@rabbit:5673/ef\""));
    assert_non_null(strstr(text, "\"url\": \"redis://u:***@h:1/2\""));
    assert_non_null(strstr(text, "\"token\": \"***\""));
    assert_non_null(strstr(text, "\"password\": \"***\""));
    assert_non_null(strstr(text, "\"user\": \"me\""));
    config_unref(c);
}

static void strings_are_completed_from_the_environment(void **state)
{
    struct config *c =
        good("{\"prefix\":\"a-${EF_TEST_SET}-${EF_TEST_UNSET:-d}${EF_TEST_EMPTY:-e}\","
             "\"jwt\":{\"issuer\":\"$${EF_TEST_SET} $ {x} ${EF_TEST_UNSET:-a:-b}\","
             "\"audience\":[\"x${EF_TEST_EMPTY}\"]},"
             "\"exchanges\":{\"e\":{\"access\":[{\"claim\":\"/a\",\"is\":\"${EF_TEST_SET}\"}]}}}");

    (void)state;
    assert_string_equal(c->prefix, "a-value-de");
    assert_string_equal(c->jwt.issuer, "${EF_TEST_SET} $ {x} a:-b");
    assert_string_equal(c->jwt.audience[0], "x");
    assert_string_equal(c->exchanges[0].rules[0].value, "value");
    assert_string_equal(c->exchanges[0].rules[0].text, "{\"claim\":\"/a\",\"is\":\"value\"}");
    config_unref(c);
}

static void rules_are_read_in_order_with_their_canonical_text(void **state)
{
    struct config *c =
        good("{\"exchanges\":{\"wf\":{\"access\":["
             "{\"when\":\"na.#\",\"allow\":true},{\"allow\":false},{\"http\":\"http://h/{key.0}\"},"
             "{\"has\":\"{key.0}\",\"claim\":\"/gids\"},{\"claim\":\"/n\",\"is\":59},{\"claim\":\"/"
             "n\",\"is\":-1.5},"
             "{\"claim\":\"/n\",\"is\":0.1}]}}}");
    const struct config_rule *rules = c->exchanges[0].rules;

    (void)state;
    assert_int_equal(c->exchanges[0].rule_count, 7);
    assert_false(c->exchanges[0].is_public);
    assert_int_equal(rules[0].kind, CONFIG_RULE_ALLOW);
    assert_true(rules[0].allow);
    assert_string_equal(rules[0].when, "na.#");
    assert_string_equal(rules[0].text, "{\"allow\":true,\"when\":\"na.#\"}");
    assert_int_equal(rules[1].kind, CONFIG_RULE_ALLOW);
    assert_false(rules[1].allow);
    assert_null(rules[1].when);
    assert_int_equal(rules[2].kind, CONFIG_RULE_HTTP);
    assert_string_equal(rules[2].http, "http://h/{key.0}");
    assert_int_equal(rules[3].kind, CONFIG_RULE_CLAIM_HAS);
    assert_string_equal(rules[3].claim, "/gids");
    assert_string_equal(rules[3].value, "{key.0}");
    assert_string_equal(rules[3].text, "{\"claim\":\"/gids\",\"has\":\"{key.0}\"}");
    assert_int_equal(rules[4].kind, CONFIG_RULE_CLAIM_IS);
    assert_string_equal(rules[4].value, "59");
    assert_string_equal(rules[5].value, "-1.5");
    assert_string_equal(rules[6].value, "0.1");
    config_unref(c);
}

static void equal_access_has_equal_text_and_other_keys_do_not_matter(void **state)
{
    struct config *c = good("{\"exchanges\":{"
                            "\"a\":{\"access\":[{\"claim\":\"/x\",\"has\":1}]},"
                            "\"b\":{\"type\":\"fanout\",\"access\":[ {\"has\":1, \"claim\":\"/x\"} ]},"
                            "\"c\":{\"access\":[{\"claim\":\"/x\",\"has\":\"1\"}]},"
                            "\"d\":{},\"e\":{\"access\":[]},\"f\":{\"access\":\"public\"}}}");

    (void)state;
    assert_string_equal(c->exchanges[0].text, "[{\"claim\":\"/x\",\"has\":1}]");
    assert_string_equal(c->exchanges[0].text, c->exchanges[1].text);
    assert_string_not_equal(c->exchanges[0].text, c->exchanges[2].text);
    assert_string_equal(c->exchanges[3].text, c->exchanges[4].text);
    assert_int_equal(c->exchanges[3].rule_count, 0);
    assert_true(c->exchanges[5].is_public);
    assert_int_equal(c->exchanges[5].rule_count, 0);
    assert_string_equal(c->exchanges[5].text, "\"public\"");
    config_unref(c);
}

static void exchanges_are_sorted_and_found_by_name(void **state)
{
    struct config *c =
        good("{\"exchanges\":{\"wf.task\":{},\"a\":{\"type\":\"direct\",\"keys\":[\"k1\",\"k2\"]},"
             "\"wf\":{\"type\":\"fanout\"},\"wf.\xc3\xa9\":{}}}");
    const struct config_exchange *a = config_exchange_find(c, "a", 1);

    (void)state;
    assert_int_equal(c->exchange_count, 4);
    for (size_t i = 1; i < c->exchange_count; i++)
        assert_true(strcmp(c->exchanges[i - 1].name, c->exchanges[i].name) < 0);
    for (size_t i = 0; i < c->exchange_count; i++)
        assert_ptr_equal(config_exchange_find(c, c->exchanges[i].name, strlen(c->exchanges[i].name)),
                         &c->exchanges[i]);
    assert_non_null(a);
    assert_int_equal(a->type, CONFIG_EXCHANGE_DIRECT);
    assert_int_equal(a->key_count, 2);
    assert_string_equal(a->keys[1], "k2");
    assert_string_equal(config_exchange_find(c, "wf.task", 2)->name, "wf");
    assert_int_equal(config_exchange_find(c, "wf", 2)->type, CONFIG_EXCHANGE_FANOUT);
    assert_null(config_exchange_find(c, "w", 1));
    assert_null(config_exchange_find(c, "", 0));
    assert_null(config_exchange_find(c, "wf\0x", 4));
    assert_null(config_exchange_find(c, "zz", 2));
    config_unref(c);
}

static void token_keys_are_read_with_their_files(void **state)
{
    struct config *c =
        good("{\"jwt\":{\"keys\":[{\"alg\":[\"RS256\",\"PS256\"],\"file\":\"@/key.pem\",\"kid\":\"k\"},"
             "{\"alg\":\"HS512\",\"file\":\"@/binary\"}],\"audience\":[\"a\",\"b\"],\"issuer\":\"i\"}}");

    (void)state;
    assert_int_equal(c->jwt.key_count, 2);
    assert_int_equal(c->jwt.keys[0].alg_count, 2);
    assert_string_equal(c->jwt.keys[0].algs[1], "PS256");
    assert_string_equal(c->jwt.keys[0].kid, "k");
    assert_int_equal(c->jwt.keys[0].text_len, 27);
    assert_memory_equal(c->jwt.keys[0].text, "-----BEGIN PUBLIC KEY-----\n", 28);
    assert_null(c->jwt.keys[1].kid);
    assert_int_equal(c->jwt.keys[1].text_len, 3);
    assert_memory_equal(c->jwt.keys[1].text, "a\0b", 3);
    assert_int_equal(c->jwt.audience_count, 2);
    assert_string_equal(c->jwt.issuer, "i");
    config_unref(c);
}

static void trusted_proxies_are_networks_in_one_form(void **state)
{
    static const uint8_t four[16] = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1}, six[16] = {0xfd};
    struct config *c =
        good("{\"gateway\":{\"trusted_proxies\":[\"10.0.0.1/8\",\"10.0.0.1\",\"fd00::/8\",\"::/0\"]}}");
    const struct config_cidr *p = c->gateway.trusted_proxies;

    (void)state;
    assert_int_equal(c->gateway.trusted_proxy_count, 4);
    assert_memory_equal(p[0].address, four, 16);
    assert_int_equal(p[0].bits, 104);
    assert_memory_equal(p[1].address, four, 16);
    assert_int_equal(p[1].bits, 128);
    assert_memory_equal(p[2].address, six, 16);
    assert_int_equal(p[2].bits, 8);
    assert_int_equal(p[3].bits, 0);
    config_unref(c);
}

static void what_the_file_says_is_shown_with_the_defaults_beside_it(void **state)
{
    struct config *c =
        good("{\"exchanges\":{\"wf\":{\"access\":[{\"http\":\"http://h/{key}\"}]}},"
             "\"notifier\":{\"events\":{},\"users\":{\"url\":\"http://h/\",\"body\":null}},"
             "\"jwt\":{\"keys\":[{\"alg\":\"RS256\",\"file\":\"@/key.pem\"}],\"audience\":\"a\"}}");
    CLEANUP(json_decrefp) json_t *effective = shown(c);
    json_t *wf = json_object_get(json_object_get(effective, "exchanges"), "wf");
    json_t *notifier = json_object_get(effective, "notifier");
    json_t *key = json_array_get(json_object_get(json_object_get(effective, "jwt"), "keys"), 0);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(wf, "type")), "topic");
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(wf, "access"), 0), "http")),
        "http://h/{key}");
    assert_int_equal(json_object_size(json_object_get(notifier, "events")), 0);
    assert_int_equal(json_object_size(c->notifier.events), 0);
    assert_null(c->notifier.users.body);
    assert_string_equal(json_string_value(json_object_get(key, "alg")), "RS256");
    assert_true(json_is_null(json_object_get(key, "kid")));
    config_unref(c);
}

static void a_reload_tells_which_changed_keys_need_a_restart(void **state)
{
    struct config *a = good("{\"redis\":{\"url\":\"redis://:one@h\"}}");
    struct config *b =
        good("{\"redis\":{\"url\":\"redis://:two@h\"},\"gateway\":{\"listen\":\"0.0.0.0:1\",\"workers\":2,"
             "\"drain_timeout_s\":1},\"log\":{\"level\":\"debug\"},\"exchanges\":{\"x\":{}},"
             "\"notifier\":{\"events\":{}}}");
    struct config *same =
        good("{\"redis\":{\"url\":\"redis://:one@h\"},\"gateway\":{\"drain_timeout_s\":1}}");
    CLEANUP(freep) char *keys = config_restart_keys(a, b);

    (void)state;
    assert_string_equal(keys, "redis.url, gateway.listen, gateway.workers, notifier.events");
    assert_null(config_restart_keys(a, same));
    config_unref(a);
    config_unref(b);
    config_unref(same);
}

static void assert_load_error(const char *path, const char *part)
{
    struct config *c = NULL;
    CLEANUP(freep) char *errors = NULL;

    assert_int_equal(config_load(path, &c, &errors), ERR_CONFIG);
    assert_null(c);
    assert_int_equal(count_lines(errors), 1);
    assert_int_equal(strncmp(errors, path, strlen(path)), 0);
    if (!strstr(errors, part))
        fail_msg("expected ..%s.., got %s", part, errors);
}

static void a_file_that_cannot_be_used_is_one_line_with_its_name(void **state)
{
    char path[128];
    struct config *c = NULL;
    char *errors = NULL;

    (void)state;
    snprintf(path, sizeof(path), "%s/file.json", directory);
    assert_load_error(path, ": cannot be read: No such file or directory\n");
    assert_load_error(directory, ": cannot be read: Is a directory\n");
    file_write("file.json", "{\n\"a\"", 5);
    assert_load_error(path, ": line 2, column 3: ':' expected\n");
    assert_int_equal(truncate(path, 16 * 1024 * 1024 + 1), 0);
    assert_load_error(path, ": is larger than 16777216 bytes\n");
    file_write("file.json", "{\"prefix\":\"p\"}", 14);
    assert_int_equal(config_load(path, &c, &errors), 0);
    assert_string_equal(c->prefix, "p");
    config_unref(config_ref(c));
    assert_string_equal(c->prefix, "p");
    config_unref(c);
    config_unref(NULL);
}

static void the_page_in_docs_is_made_from_the_table(void **state)
{
    CLEANUP(freep) char *made = config_docs();
    CLEANUP(buf_done) struct buf page = {0};
    FILE *f = fopen(EF_SOURCE_DIR "/docs/configuration.md", "r");
    size_t n;

    (void)state;
    assert_non_null(made);
    assert_non_null(f);
    do {
        buf_reserve(&page, 4096);
        n = fread(page.data + page.len, 1, 4096, f);
        page.len += n;
    } while (n);
    fclose(f);
    buf_add_char(&page, '\0');
    if (strcmp(page.data, made) != 0)
        fail_msg("docs/configuration.md differs; make it anew: build/bin/event-gateway --config-docs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_shows_the_defaults_of_the_design),
        cmocka_unit_test(the_defaults_are_in_the_fields),
        cmocka_unit_test(each_fault_is_told_in_one_line_that_names_it),
        cmocka_unit_test(ten_faults_in_one_file_are_all_named),
        cmocka_unit_test(a_flood_of_faults_is_cut_and_counted),
        cmocka_unit_test(what_is_not_a_json_object_is_told_with_line_and_column),
        cmocka_unit_test(no_secret_is_in_an_error_line),
        cmocka_unit_test(unusual_but_right_values_are_taken),
        cmocka_unit_test(secrets_come_from_files_and_are_not_shown),
        cmocka_unit_test(strings_are_completed_from_the_environment),
        cmocka_unit_test(rules_are_read_in_order_with_their_canonical_text),
        cmocka_unit_test(equal_access_has_equal_text_and_other_keys_do_not_matter),
        cmocka_unit_test(exchanges_are_sorted_and_found_by_name),
        cmocka_unit_test(token_keys_are_read_with_their_files),
        cmocka_unit_test(trusted_proxies_are_networks_in_one_form),
        cmocka_unit_test(what_the_file_says_is_shown_with_the_defaults_beside_it),
        cmocka_unit_test(a_reload_tells_which_changed_keys_need_a_restart),
        cmocka_unit_test(a_file_that_cannot_be_used_is_one_line_with_its_name),
        cmocka_unit_test(the_page_in_docs_is_made_from_the_table),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
