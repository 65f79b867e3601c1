/* protocol.c - parsing and answering client messages.
 *
 * What is not JSON ends the session (1007). What is JSON but no command, or a command with wrong parts, is
 * answered with an error and harms nothing. jansson refuses some valid JSON (integers beyond 64 bits, doubled
 * names): that is answered too, not closed. */
#include "gateway/protocol.h"

#include "gateway/binding.h"
#include "gateway/gateway_metrics.h"
#include "shared/clock.h"
#include "shared/err.h"
#include "shared/json_text.h"
#include "shared/topic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Longest exchange name, bytes: a short string (AMQP 0-9-1, 4.2.5.3). */
enum { EXCHANGE_MAX = 255 };

static void send_json(struct session *s, json_t *message)
{
    CLEANUP(freep) char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

    json_decref(message);
    if (text)
        session_send(s, text, strlen(text));
    else
        session_doom(s);
}

void protocol_error(struct session *s, const json_t *req, enum error_code code, const char *format, ...)
{
    CLEANUP(buf_done) struct buf clean = {0};
    char *printed = NULL;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&printed, format, args);
    va_end(args);
    if (n >= 0)
        json_text_add_utf8(&clean, printed, (size_t)n);
    free(n >= 0 ? printed : NULL);
    sessions_count_error(s->all, code);
    if (buf_status(&clean) < 0 || n < 0)
        session_doom(s);
    else if (req)
        send_json(s, json_pack("{s:O, s:s%, s:s}", "req", req, "error", clean.data, clean.len, "code",
                               error_code_wire(code)));
    else
        send_json(s, json_pack("{s:s%}", "error", clean.data, clean.len));
}

void protocol_ok(struct session *s, const json_t *req, json_t *more)
{
    json_t *answer;

    if (!req) {
        json_decref(more);
        return;
    }
    answer = json_pack("{s:O, s:b}", "req", req, "ok", 1);
    if (answer && more && json_object_update(answer, more) < 0) {
        json_decref(answer);
        answer = NULL;
    }
    json_decref(more);
    send_json(s, answer);
}

void protocol_unbound(struct session *s, const char *exchange, const char *key, size_t key_len,
                      enum error_code code, const char *text)
{
    if (!s->used_req) {
        protocol_error(s, NULL, code, "%s", text);
        return;
    }
    sessions_count_error(s->all, code);
    send_json(s, json_pack("{s:{s:s, s:s%}, s:s}", "unbound", "ex", exchange, "key", key, key_len, "code",
                           error_code_wire(code)));
}

void protocol_expires(struct session *s, int64_t seconds)
{
    send_json(s, json_pack("{s:I}", "expires_in_s", (json_int_t)seconds));
}

/* --- commands --- */

void protocol_gap(struct session *s, const struct partition *p, const struct position *from,
                  const struct position *to)
{
    CLEANUP(buf_done) struct buf a = {0}, b = {0};

    position_print(from, p->exchange, p->number, &a);
    position_print(to, p->exchange, p->number, &b);
    if (buf_status(&a) < 0 || buf_status(&b) < 0)
        session_doom(s);
    else
        send_json(s,
                  json_pack("{s:{s:s, s:s, s:s}}", "gap", "ex", p->exchange, "from", a.data, "to", b.data));
}

/* The exchange and the key of a bind or unbind; tells the client what is wrong with them. */
static bool get_target(struct session *s, const json_t *what, const char *command, const json_t *req,
                       const json_t **ret_ex, const json_t **ret_key)
{
    const json_t *ex = json_object_get(what, "ex"), *key = json_object_get(what, "key");

    if (!json_is_object(what)) {
        protocol_error(s, req, CODE_BAD_REQUEST, "%s must be an object", command);
    } else if (!json_is_string(ex) || json_string_length(ex) == 0 || json_string_length(ex) > EXCHANGE_MAX) {
        protocol_error(s, req, json_is_string(ex) ? CODE_UNKNOWN_EXCHANGE : CODE_BAD_REQUEST,
                       "%s.ex must be the name of an exchange", command);
    } else if (!json_is_string(key)) {
        protocol_error(s, req, CODE_BAD_KEY, "%s.key must be a string", command);
    } else if (json_string_length(key) > TOPIC_MAX) {
        protocol_error(s, req, CODE_BAD_KEY, "%s.key is longer than %d bytes", command, TOPIC_MAX);
    } else {
        *ret_ex = ex;
        *ret_key = key;
        return true;
    }
    return false;
}

/* Where the client was on partition 0 of this exchange: `since` is an id, or an array with one for every
 * partition. false: it is neither, or names another exchange. */
static bool get_since(const json_t *since, const json_t *ex, struct position *ret)
{
    const json_t *element = json_is_array(since) ? json_array_get(since, 0) : since;
    const char *text = json_string_value(element);
    size_t exchange_len;
    unsigned partition;

    if (!text || (json_is_array(since) && json_array_size(since) != 1))
        return false;
    return position_parse(text, json_string_length(element), &exchange_len, &partition, ret) &&
           partition == 0 && exchange_len == json_string_length(ex) &&
           memcmp(text, json_string_value(ex), exchange_len) == 0;
}

static void serve_bind(struct session *s, const json_t *what, json_t *req)
{
    const json_t *ex, *key, *since = json_object_get(what, "since");
    struct position from;

    if (!get_target(s, what, "bind", req, &ex, &key))
        return;
    if (since && !get_since(since, ex, &from)) {
        protocol_error(s, req, CODE_BAD_REQUEST, "bind.since must be an event id or a pos of this exchange");
        return;
    }
    binding_request(s, json_string_value(ex), json_string_length(ex), json_string_value(key),
                    json_string_length(key), since ? &from : NULL, req);
}

static void serve_unbind(struct session *s, const json_t *what, json_t *req)
{
    const json_t *ex, *key;

    if (!get_target(s, what, "unbind", req, &ex, &key))
        return;
    if (binding_take_back(s, json_string_value(ex), json_string_length(ex), json_string_value(key),
                          json_string_length(key)))
        protocol_ok(s, req, NULL);
    else
        protocol_error(s, req, CODE_NOT_BOUND, "Not bound to %s with that key", json_string_value(ex));
}

/* Both tokens speak for the same user: their subs are equal, and there is one. */
static bool same_user(const struct token *a, const struct token *b)
{
    return a && token_sub(a) && token_sub(b) && strcmp(token_sub(a), token_sub(b)) == 0;
}

static void serve_auth(struct session *s, const json_t *what, json_t *req)
{
    const json_t *jwt = json_object_get(what, "jwt");
    struct token *token = NULL;
    int r;

    if (!json_is_string(jwt)) {
        protocol_error(s, req, CODE_BAD_REQUEST, "auth.jwt must be a token");
        return;
    }
    r = token_verify(session_shared(s)->keys, json_string_value(jwt), json_string_length(jwt), clock_wall_s(),
                     &token);
    if (r == -ENOMEM) {
        protocol_error(s, req, CODE_UNAVAILABLE, "Out of memory");
    } else if (r < 0) {
        protocol_error(s, req, r == ERR_TOKEN_EXPIRED ? CODE_EXPIRED : CODE_BAD_TOKEN,
                       "The token is not valid: %s", err_text(r));
    } else if (!same_user(s->token, token)) {
        token_unref(token);
        protocol_error(s, req, CODE_BAD_TOKEN, "The token is not one of the same user");
    } else {
        protocol_ok(s, req, NULL);
        session_renew(s, token);
    }
}

static void serve_ping(struct session *s, const json_t *what, json_t *req)
{
    json_t *positions = bindings_positions(s);

    (void)what;
    protocol_ok(s, req, positions ? json_pack("{s:o}", "pos", positions) : NULL);
}

static const struct command {
    const char *name;
    void (*serve)(struct session *s, const json_t *what, json_t *req);
} commands[] = {
    {"bind", serve_bind},
    {"unbind", serve_unbind},
    {"auth", serve_auth},
    {"ping", serve_ping},
};

static void count_request(struct session *s, const char *command)
{
    metric_add(metrics_get(session_shared(s)->metrics, GM_REQUESTS, command), 1);
}

static bool req_is_valid(const json_t *req)
{
    return json_is_integer(req) || (json_is_string(req) && json_string_length(req) <= REQ_MAX);
}

static void serve_object(struct session *s, const json_t *message)
{
    json_t *req = json_object_get(message, "req");

    if (req && !req_is_valid(req)) {
        protocol_error(s, NULL, CODE_BAD_REQUEST, "req must be an integer or a string of at most %d bytes",
                       REQ_MAX);
        return;
    }
    s->used_req |= req != NULL;
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const json_t *what = json_object_get(message, commands[i].name);

        if (!what)
            continue;
        count_request(s, commands[i].name);
        commands[i].serve(s, what, req);
        return;
    }
    count_request(s, "unknown");
    protocol_error(s, req, CODE_BAD_REQUEST, "The message has none of bind, unbind, auth, ping");
}

static json_t *parse(const char *text, size_t len, json_error_t *error)
{
    return len ? json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, error)
               : NULL;
}

void protocol_refuse_rate(struct session *s, const char *text, size_t len)
{
    json_error_t error;
    json_t *message = parse(text, len, &error);
    const json_t *req = json_object_get(message, "req");

    if (req && !req_is_valid(req))
        req = NULL;
    s->used_req |= req != NULL;
    protocol_error(s, req, CODE_RATE_LIMITED, "Too many requests");
    json_decref(message);
}

void protocol_message(struct session *s, const char *text, size_t len)
{
    json_error_t error;
    json_t *message = parse(text, len, &error);

    if (json_is_object(message)) {
        serve_object(s, message);
    } else if (message) {
        count_request(s, "unknown");
        protocol_error(s, NULL, CODE_BAD_REQUEST, "The message must be a JSON object");
    } else if (json_text_utf8(text, len) && json_text_check(text, len)) {
        count_request(s, "unknown");
        protocol_error(s, NULL, CODE_BAD_REQUEST, "The message cannot be read: %s", error.text);
    } else {
        session_close(s, CLOSE_NOT_JSON);
    }
    json_decref(message);
}
