/* config_notify.c - the notifier's lists: their shape is checked by every program, since all share one file;
 * what they mean is the notifier's business, which reads the JSON that is kept here. */
#include "shared/config_impl.h"

static void kind_fault(struct config_ctx *ctx, const struct config_path *path, const json_t *value,
                       const char *allowed)
{
    config_error(ctx, path, "is %s (%s)", config_kind(value), allowed);
}

static void value_fault(struct config_ctx *ctx, const struct config_path *path, const json_t *value,
                        const char *why, const char *allowed)
{
    CLEANUP(buf_done) struct buf shown = {0};

    config_add_value(&shown, value);
    config_error(ctx, path, "%s %s (%s)", shown.data ? shown.data : "", why, allowed);
}

/* path is a member whose key must be a JSON pointer. */
static void check_pointer_key(struct config_ctx *ctx, const struct config_path *path)
{
    CLEANUP(buf_done) struct buf why = {0};

    if (!config_check_pointer(path->key, &why))
        config_error(ctx, path, "the key %s (a JSON pointer such as \"/status\")", why.data ? why.data : "");
}

json_t *config_parse_event_when(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                                void *base)
{
    struct config_path here = {path, NULL, 0};
    json_t *member;

    (void)base;
    if (!json_is_object(value)) {
        kind_fault(ctx, path, value, "an object of JSON pointer -> value");
        return NULL;
    }
    json_object_foreach (value, here.key, member) {
        check_pointer_key(ctx, &here);
        if (json_is_object(member) || json_is_array(member))
            kind_fault(ctx, &here, member, "a string, a number, true, false or null");
    }
    return NULL;
}

json_t *config_parse_event_match(struct config_ctx *ctx, const struct config_path *path, json_t *value,
                                 void *base)
{
    struct config_path here = {path, NULL, 0};
    json_t *member;

    (void)base;
    if (!json_is_object(value)) {
        kind_fault(ctx, path, value, "an object of name -> JSON pointer");
        return NULL;
    }
    if (json_object_size(value) == 0)
        config_error(ctx, path, "{} is empty (an object of name -> JSON pointer)");
    json_object_foreach (value, here.key, member) {
        CLEANUP(buf_done) struct buf why = {0};

        if (config_is_unresolved(ctx, member))
            continue;
        if (!json_is_string(member))
            kind_fault(ctx, &here, member, "a JSON pointer such as \"/_id\"");
        else if (!config_check_pointer(json_string_value(member), &why))
            value_fault(ctx, &here, member, why.data ? why.data : "", "a JSON pointer such as \"/_id\"");
    }
    return NULL;
}

json_t *config_parse_events(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config *c = base;
    struct config_path here = {path, NULL, 0};
    json_t *member, *effective;

    if (!json_is_object(value)) {
        kind_fault(ctx, path, value, "an object of name -> event");
        return NULL;
    }
    effective = json_object();
    json_object_foreach (value, here.key, member) {
        json_t *shown = config_object_parse(ctx, &here, member, &config_event_table, NULL);

        if (!*here.key)
            config_error(ctx, &here, "the event's name is empty (a name)");
        if (shown)
            config_set(ctx, effective, here.key, shown);
    }
    c->notifier.events = json_incref(effective);
    return effective;
}

void config_free_events(void *base)
{
    struct config *c = base;

    json_decref(c->notifier.events);
}

json_t *config_parse_body(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config *c = base;

    if (!json_is_object(value))
        kind_fault(ctx, path, value, "an object, or null");
    c->notifier.users.body = json_incref(value);
    return NULL;
}

void config_free_body(void *base)
{
    struct config *c = base;

    json_decref(c->notifier.users.body);
}

json_t *config_parse_dkim(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config *c = base;
    json_t *effective = config_object_parse(ctx, path, value, &config_dkim_table, NULL);

    c->notifier.email.dkim = json_incref(effective);
    return effective;
}

void config_free_dkim(void *base)
{
    struct config *c = base;

    json_decref(c->notifier.email.dkim);
}

json_t *config_parse_allow(struct config_ctx *ctx, const struct config_path *path, json_t *value, void *base)
{
    struct config *c = base;
    json_t *effective;

    if (!json_is_array(value)) {
        kind_fault(ctx, path, value, "an array of objects");
        return NULL;
    }
    effective = json_array();
    for (size_t i = 0; i < json_array_size(value); i++) {
        struct config_path here = {path, NULL, i};
        json_t *shown = config_object_parse(ctx, &here, json_array_get(value, i), &config_allow_table, NULL);

        if (shown)
            config_append(ctx, effective, shown);
    }
    c->notifier.webhook.allow = json_incref(effective);
    return effective;
}

void config_free_allow(void *base)
{
    struct config *c = base;

    json_decref(c->notifier.webhook.allow);
}
