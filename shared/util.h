/* util.h - the few macros that every module uses. */
#ifndef EF_UTIL_H
#define EF_UTIL_H

#include <stddef.h>
#include <stdint.h>

/* The caller must look at the result; where ignoring is right, it writes (void) and the reason. */
#define MUST_CHECK        __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
/* Run `fn(&variable)` when the variable leaves its scope. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))
/* Give the pointer away and forget it: TAKE(p) yields p and leaves p NULL. */
#define TAKE(p)                      \
    __extension__({                  \
        __typeof__(p) take_p_ = (p); \
        (p) = NULL;                  \
        take_p_;                     \
    })
#define BIT(n)                          (1u << (n))
#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* char * that is freed with free() when it leaves its scope: CLEANUP(freep) char *s = ...; */
void freep(void *pointer_to_pointer);

#endif
