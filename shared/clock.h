/* clock.h - the two clocks. Durations and deadlines use the monotonic one; wall time is for people,
 * for wire formats and for the times inside tokens. Tests put their own times in. */
#ifndef EF_CLOCK_H
#define EF_CLOCK_H

#include <stdint.h>

int64_t clock_mono_ms(void);
int64_t clock_mono_us(void);
int64_t clock_wall_s(void);
int64_t clock_wall_ms(void);

#endif
