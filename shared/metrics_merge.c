#include "shared/metrics_merge.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct family {
    UT_hash_handle hh;
    struct buf comments, samples;
    const struct metrics_text *from; /* whose comments stand here: the first one's that has the family */
    char name[];
};

struct line {
    const char *at;
    size_t len;
};

static bool next_line(const char **at, const char *end, struct line *ret)
{
    const char *stop;

    if (*at >= end)
        return false;
    stop = memchr(*at, '\n', (size_t)(end - *at));
    if (!stop)
        stop = end;
    *ret = (struct line){*at, (size_t)(stop - *at)};
    *at = stop + 1;
    return true;
}

/* The family of a "# HELP name .." or "# TYPE name .." line; made if it is new. */
static struct family *family_get(struct family **all, struct line line)
{
    const char *name = line.at + strlen("# HELP ");
    const char *end = line.len > 7 ? memchr(name, ' ', line.len - 7) : NULL;
    struct family *f;

    if (!end)
        return NULL;
    HASH_FIND(hh, *all, name, (size_t)(end - name), f);
    if (f)
        return f;
    f = calloc(1, sizeof(*f) + (size_t)(end - name) + 1);
    if (!f)
        return NULL;
    memcpy(f->name, name, (size_t)(end - name));
    HASH_ADD_KEYPTR(hh, *all, f->name, strlen(f->name), f);
    return f;
}

/* name value -> name{label="x"} value; name{a="b"} value -> name{label="x",a="b"} value. */
static void add_sample(struct buf *out, struct line line, const char *label, const char *value)
{
    size_t name_len = 0;
    bool labels;

    while (name_len < line.len && line.at[name_len] != '{' && line.at[name_len] != ' ')
        name_len++;
    labels = name_len < line.len && line.at[name_len] == '{';
    buf_add(out, line.at, name_len);
    buf_printf(out, "{%s=\"%s\"%s", label, value, labels ? "," : "}");
    buf_add(out, line.at + name_len + labels, line.len - name_len - labels);
    buf_add_char(out, '\n');
}

static void take_text(struct family **all, const struct metrics_text *t, const char *label)
{
    const char *at = t->text, *end = t->text + t->len;
    struct family *f = NULL;
    struct line line;

    while (next_line(&at, end, &line)) {
        if (line.len == 0)
            continue;
        if (line.at[0] != '#') {
            if (f)
                add_sample(&f->samples, line, label, t->value);
            continue;
        }
        f = family_get(all, line);
        if (f && !f->from)
            f->from = t;
        if (f && f->from == t) {
            buf_add(&f->comments, line.at, line.len);
            buf_add_char(&f->comments, '\n');
        }
    }
}

void metrics_merge(struct buf *out, const char *label, const struct metrics_text *texts, size_t count)
{
    struct family *all = NULL, *f, *tmp;

    for (size_t i = 0; i < count; i++)
        take_text(&all, &texts[i], label);
    HASH_ITER (hh, all, f, tmp) {
        buf_add(out, f->comments.data, f->comments.len);
        buf_add(out, f->samples.data, f->samples.len);
        HASH_DELETE(hh, all, f);
        buf_done(&f->comments);
        buf_done(&f->samples);
        free(f);
    }
}
