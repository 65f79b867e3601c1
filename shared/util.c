#include "shared/util.h"

#include <stdlib.h>

void freep(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}
