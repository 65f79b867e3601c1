/* gateway.h - the program event-gateway, put together.
 *
 *   Redis --> feed --> sessions (router -> outboxes) --> server --> browsers
 *                         |                                 |
 *                       access <---- bind requests <--------'
 *
 * SIGTERM: not ready at once, upgrades refused, sessions closed 1001 spread over gateway.drain_timeout_s,
 * then everything is taken down in the order of dependence. SIGHUP: exchanges, keys and limits. */
#ifndef EF_GATEWAY_H
#define EF_GATEWAY_H

#include "shared/program.h"

extern const struct program_ops gateway_program;

#endif
