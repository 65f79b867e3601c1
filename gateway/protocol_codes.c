#include "gateway/protocol_codes.h"

const char *error_code_wire(enum error_code code)
{
    static const char *const wire[] = {
#define X(name, text, meaning) [name] = (text),
        ERROR_CODES(X)
#undef X
    };

    return wire[code];
}

static const struct {
    int code;
    const char *label, *text;
} reasons[] = {
#define X(name, code, label, text, advice) [name] = {(code), (label), (text)},
    CLOSE_REASONS(X)
#undef X
};

int close_reason_code(enum close_reason r)
{
    return reasons[r].code;
}

const char *close_reason_label(enum close_reason r)
{
    return reasons[r].label;
}

const char *close_reason_text(enum close_reason r)
{
    return reasons[r].text;
}
