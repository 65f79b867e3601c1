#include "shared/err.h"

#include <string.h>

const char *err_text(int code)
{
    if (code >= 0)
        return "ok";
    switch (code) {
#define X(name, value, text) \
    case name:               \
        return text;
        ERR_TABLE(X)
#undef X
    default: {
        const char *text = strerrordesc_np(-code);
        return text ? text : "unknown error";
    }
    }
}
