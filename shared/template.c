/* template.c - "{name}" in URLs and texts.
 *
 * One scanner cuts a template into pieces: a run of literal bytes, a doubled brace, or a name. Expanding
 * appends piece by piece; checking looks at the names only.
 *
 * Failures: a value that the caller does not have, or that would name another path than the template's
 * author meant, ends the expansion with ERR_TEMPLATE_VALUE and leaves the output as it was. A template
 * with faulty braces is refused by template_check when the configuration is read; one that comes here all
 * the same gives ERR_TEMPLATE_VALUE, never half a URL. */
#include "shared/template.h"

#include "shared/err.h"

#include <errno.h>
#include <string.h>

enum piece_kind { PIECE_END, PIECE_LITERAL, PIECE_NAME, PIECE_OPEN, PIECE_STRAY, PIECE_LONG };

struct piece {
    enum piece_kind kind;
    const char *text; /* of PIECE_LITERAL, into the template */
    size_t len;
    char name[TEMPLATE_NAME_MAX + 1]; /* of PIECE_NAME */
};

/* Cut the next piece off *at. PIECE_OPEN: a "{" that nothing closes; PIECE_STRAY: a "}" that nothing
 * opened; PIECE_LONG: a name over TEMPLATE_NAME_MAX. */
static void piece_next(const char **at, struct piece *piece)
{
    const char *s = *at, *end;

    piece->text = s;
    if (*s == '\0') {
        piece->kind = PIECE_END;
        return;
    }
    piece->kind = PIECE_LITERAL;
    if (*s != '{' && *s != '}') {
        piece->len = strcspn(s, "{}");
        *at = s + piece->len;
        return;
    }
    piece->len = 1;
    if (s[1] == *s) {
        *at = s + 2;
        return;
    }
    end = *s == '{' ? strpbrk(s + 1, "{}") : NULL;
    if (!end || *end == '{') {
        piece->kind = *s == '{' ? PIECE_OPEN : PIECE_STRAY;
        return;
    }
    piece->len = (size_t)(end - s) - 1;
    piece->kind = PIECE_LONG;
    if (piece->len > TEMPLATE_NAME_MAX)
        return;
    piece->kind = PIECE_NAME;
    memcpy(piece->name, s + 1, piece->len);
    piece->name[piece->len] = '\0';
    *at = end + 1;
}

static bool is_unreserved(unsigned char c)
{
    /* RFC 3986, 2.3. */
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static void add_escaped(struct buf *out, const char *text, size_t len)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (is_unreserved(c)) {
            buf_add_char(out, (char)c);
        } else {
            buf_add_char(out, '%');
            buf_add_char(out, hex[c >> 4]);
            buf_add_char(out, hex[c & 15]);
        }
    }
}

/* Would this value, alone in a segment, name another path? */
static bool value_is_path(const char *text, size_t len, bool in_query)
{
    if (len == 0)
        return !in_query;
    return text[0] == '.' && (len == 1 || (len == 2 && text[1] == '.'));
}

static int expand(struct buf *out, const char *tmpl, bool url, template_value_cb *value, void *user)
{
    bool in_query = false;
    struct piece piece;
    const char *text;
    size_t len;
    int r;

    for (;;) {
        piece_next(&tmpl, &piece);
        switch (piece.kind) {
        case PIECE_END:
            return buf_status(out);
        case PIECE_LITERAL:
            in_query = in_query || memchr(piece.text, '?', piece.len);
            buf_add(out, piece.text, piece.len);
            break;
        case PIECE_NAME:
            text = "";
            len = 0;
            r = value(user, piece.name, &text, &len);
            if (r < 0)
                return r;
            if (!url) {
                buf_add(out, text, len);
                break;
            }
            if (value_is_path(text, len, in_query))
                return ERR_TEMPLATE_VALUE;
            add_escaped(out, text, len);
            break;
        default:
            return ERR_TEMPLATE_VALUE;
        }
    }
}

static int expand_or_restore(struct buf *out, const char *tmpl, bool url, template_value_cb *value,
                             void *user)
{
    size_t before = out->len;
    int r = expand(out, tmpl, url, value, user);

    if (r < 0 && out->len > before) {
        out->len = before;
        out->data[before] = '\0';
    }
    return r;
}

int template_url(struct buf *out, const char *tmpl, template_value_cb *value, void *user)
{
    return expand_or_restore(out, tmpl, true, value, user);
}

int template_text(struct buf *out, const char *tmpl, template_value_cb *value, void *user)
{
    return expand_or_restore(out, tmpl, false, value, user);
}

char *template_check(const char *tmpl, bool (*known)(void *user, const char *name), void *user)
{
    struct buf why = {0};
    struct piece piece;

    for (;;) {
        piece_next(&tmpl, &piece);
        switch (piece.kind) {
        case PIECE_END:
            return NULL;
        case PIECE_LITERAL:
            continue;
        case PIECE_NAME:
            if (known(user, piece.name))
                continue;
            buf_printf(&why, "has the unknown name {%s}", piece.name);
            break;
        case PIECE_OPEN:
            buf_add_str(&why, "has a \"{\" that is not closed (a brace itself is written \"{{\")");
            break;
        case PIECE_STRAY:
            buf_add_str(&why, "has a \"}\" without its \"{\" (a brace itself is written \"}}\")");
            break;
        case PIECE_LONG:
            buf_printf(&why, "has a name of %zu bytes between braces, more than %d", piece.len,
                       TEMPLATE_NAME_MAX);
            break;
        }
        return buf_take(&why);
    }
}
