/* access_rules.c - the rules of one exchange, judged without asking anybody.
 *
 * For each rule, in order:
 *
 *   when --none of the binding's keys--> next rule
 *     |  '-some of them--> denied: no single rule speaks for the whole binding
 *     v all of them
 *   needs {user}, the token has no `sub` --> next rule
 *     v
 *   allow: decided | claim: decided | http: the URL is expanded and the API decides
 *
 * Failures are all refusals: a word that the pattern does not fix, a value that would name another path, a
 * claim that is missing or of another type. A rule never falls through to the next one because its data
 * was bad, or a client could choose its rule by sending nonsense. */
#include "gateway/access_rules.h"

#include "shared/err.h"
#include "shared/template.h"
#include "shared/topic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char TEXT_GRANTED[] = "a rule grants it";
static const char TEXT_NO_RULE[] = "no rule applies to this pattern";
static const char TEXT_SOME[] = "the pattern covers keys that need different rules";
static const char TEXT_REFUSED[] = "a rule refuses it";
static const char TEXT_CLAIM[] = "the token's claims do not grant it";
static const char TEXT_NOT_FIXED[] = "the pattern leaves open a word that decides about access";
static const char TEXT_VALUE[] = "the pattern holds a word that cannot be checked";
static const char TEXT_ASK[] = "the access check decides";

/* What a template may name. */
struct values {
    const struct config_exchange *exchange;
    const struct access_subject *subject;
    const char *pattern;
    size_t pattern_len;
    bool not_fixed;  /* out: a {key.N} named a word that the pattern leaves open */
    bool needs_user; /* out, of name_only */
};

/* "key.12" -> 12. False for anything but 1 to 3 digits: no pattern has more words. */
static bool word_number(const char *name, size_t *ret_n)
{
    size_t n = 0;
    size_t digits = 0;

    if (strncmp(name, "key.", 4) != 0)
        return false;
    for (const char *p = name + 4; *p; p++, digits++) {
        if (*p < '0' || *p > '9' || digits == 3)
            return false;
        n = n * 10 + (size_t)(*p - '0');
    }
    if (!digits)
        return false;
    *ret_n = n;
    return true;
}

/* template_value_cb */
static int value_of(void *user, const char *name, const char **ret_text, size_t *ret_len)
{
    struct values *v = user;
    struct topic_word word;
    size_t n;

    if (strcmp(name, "key") == 0) {
        *ret_text = v->pattern;
        *ret_len = v->pattern_len;
    } else if (strcmp(name, "ex") == 0) {
        *ret_text = v->exchange->name;
        *ret_len = strlen(v->exchange->name);
    } else if (strcmp(name, "user") == 0 && v->subject->sub) {
        *ret_text = v->subject->sub;
        *ret_len = strlen(v->subject->sub);
    } else if (word_number(name, &n)) {
        if (!topic_fixed_word(v->pattern, v->pattern_len, n, &word)) {
            v->not_fixed = true;
            return ERR_TEMPLATE_VALUE;
        }
        *ret_text = word.text;
        *ret_len = word.len;
    } else {
        return ERR_TEMPLATE_VALUE;
    }
    return 0;
}

/* template_value_cb that gives nothing and remembers whether {user} was named. */
static int name_only(void *user, const char *name, const char **ret_text, size_t *ret_len)
{
    struct values *v = user;

    if (strcmp(name, "user") == 0)
        v->needs_user = true;
    *ret_text = "";
    *ret_len = 0;
    return 0;
}

static int needs_user(const char *tmpl, struct values *v, bool *ret_needs)
{
    CLEANUP(buf_done) struct buf scratch = {0};
    int r;

    v->needs_user = false;
    r = template_text(&scratch, tmpl, name_only, v);
    *ret_needs = v->needs_user;
    /* A template that cannot be read needs nobody; it fails where it is expanded, and denies. */
    return r == -ENOMEM ? r : 0;
}

/* The digits of an array index (RFC 6901, 4: no leading zeros). */
static bool array_index(const char *token, size_t *ret_index)
{
    char *end;
    unsigned long n;

    if (token[0] < '0' || token[0] > '9' || (token[0] == '0' && token[1]) || strlen(token) > 9)
        return false;
    n = strtoul(token, &end, 10);
    if (*end)
        return false;
    *ret_index = n;
    return true;
}

/* One reference token: from `p` to the next '/' or the end, unescaped into `out`. Returns where it ends, or
 * NULL if it does not fit or holds a wrong escape. */
static const char *pointer_token(const char *p, char *out, size_t size)
{
    size_t n = 0;

    for (; *p && *p != '/'; p++) {
        char c = *p;

        if (c == '~') {
            p++;
            if (*p != '0' && *p != '1')
                return NULL;
            c = *p == '0' ? '~' : '/';
        }
        if (n + 1 >= size)
            return NULL;
        out[n++] = c;
    }
    out[n] = '\0';
    return p;
}

const json_t *access_rules_pointer(const json_t *root, const char *pointer)
{
    const json_t *at = root;
    const char *p = pointer;
    char token[256];
    size_t index;

    while (at && *p) {
        if (*p != '/')
            return NULL;
        p = pointer_token(p + 1, token, sizeof(token));
        if (!p)
            return NULL;
        if (json_is_object(at))
            at = json_object_get(at, token);
        else if (json_is_array(at) && array_index(token, &index))
            at = json_array_get(at, index);
        else
            return NULL;
    }
    return at;
}

bool access_rules_equal(const json_t *claim, const char *text, size_t len)
{
    char digits[32];

    if (json_is_string(claim))
        return json_string_length(claim) == len && memcmp(json_string_value(claim), text, len) == 0;
    if (!json_is_integer(claim))
        return false;
    return (size_t)snprintf(digits, sizeof(digits), "%" JSON_INTEGER_FORMAT, json_integer_value(claim)) ==
               len &&
           memcmp(digits, text, len) == 0;
}

static bool claim_grants(const struct config_rule *rule, const json_t *claims, const struct buf *value)
{
    const json_t *claim = access_rules_pointer(claims, rule->claim);
    const char *text = value->data ? value->data : "";

    if (rule->kind == CONFIG_RULE_CLAIM_IS)
        return claim && access_rules_equal(claim, text, value->len);
    for (size_t i = 0; i < json_array_size(claim); i++)
        if (access_rules_equal(json_array_get(claim, i), text, value->len))
            return true;
    return false;
}

/* The rule applies: what does it say? */
static int rule_decide(const struct config_rule *rule, struct values *v, struct buf *ret_url,
                       enum access_ruling *ret_ruling, const char **ret_text)
{
    CLEANUP(buf_done) struct buf value = {0};
    bool grants;
    int r;

    switch (rule->kind) {
    case CONFIG_RULE_ALLOW:
        *ret_ruling = rule->allow ? RULING_GRANTED : RULING_DENIED;
        *ret_text = rule->allow ? TEXT_GRANTED : TEXT_REFUSED;
        return 0;
    case CONFIG_RULE_HTTP:
        r = template_url(ret_url, rule->http, value_of, v);
        *ret_ruling = r < 0 ? RULING_DENIED : RULING_ASK;
        *ret_text = TEXT_ASK;
        break;
    case CONFIG_RULE_CLAIM_HAS:
    case CONFIG_RULE_CLAIM_IS:
    default:
        r = template_text(&value, rule->value, value_of, v);
        grants = r == 0 && claim_grants(rule, v->subject->claims, &value);
        *ret_ruling = grants ? RULING_GRANTED : RULING_DENIED;
        *ret_text = grants ? TEXT_GRANTED : TEXT_CLAIM;
        break;
    }
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        *ret_text = v->not_fixed ? TEXT_NOT_FIXED : TEXT_VALUE;
    return 0;
}

/* Does the rule apply? TOPIC_SOME: it speaks for a part of the binding only. */
static int rule_applies(const struct config_rule *rule, struct values *v, enum topic_cover *ret_cover)
{
    const char *tmpl = rule->kind == CONFIG_RULE_HTTP ? rule->http : rule->value;
    enum topic_cover cover = TOPIC_ALL;
    bool needs = false;
    int r;

    if (rule->when)
        cover = topic_cover(rule->when, strlen(rule->when), v->pattern, v->pattern_len);
    if (cover == TOPIC_ALL && !v->subject->sub && tmpl) {
        r = needs_user(tmpl, v, &needs);
        if (r < 0)
            return r;
        if (needs)
            cover = TOPIC_NONE;
    }
    *ret_cover = cover;
    return 0;
}

int access_rules_judge(const struct config_exchange *exchange, const struct access_subject *subject,
                       const char *pattern, size_t pattern_len, struct buf *ret_url,
                       const struct config_rule **ret_rule, enum access_ruling *ret_ruling,
                       const char **ret_text)
{
    struct values v = {
        .exchange = exchange, .subject = subject, .pattern = pattern, .pattern_len = pattern_len};

    *ret_rule = NULL;
    for (size_t i = 0; i < exchange->rule_count; i++) {
        const struct config_rule *rule = &exchange->rules[i];
        enum topic_cover cover;
        int r = rule_applies(rule, &v, &cover);

        if (r < 0)
            return r;
        if (cover == TOPIC_NONE)
            continue;
        *ret_rule = rule;
        if (cover == TOPIC_ALL)
            return rule_decide(rule, &v, ret_url, ret_ruling, ret_text);
        *ret_ruling = RULING_DENIED;
        *ret_text = TEXT_SOME;
        return 0;
    }
    *ret_ruling = RULING_DENIED;
    *ret_text = TEXT_NO_RULE;
    return 0;
}
