/* supervisor.h - several processes of one program that share its port.
 *
 *   supervisor --uv_spawn--> worker 0: the program itself, with --worker 0
 *      |   '---------------> worker 1: ..
 *      '-- admin port: /metrics of all workers, each sample with its worker; /readyz: all of them are ready
 *
 * SIGTERM and SIGHUP are handed on. A worker that dies is started again after a second; one that dies before
 * it ever answered (its port is taken, say) ends the whole with exit status 1. The figures shown are at most
 * a second old. */
#ifndef EF_SUPERVISOR_H
#define EF_SUPERVISOR_H

#include "shared/program.h"

/* What program.c runs instead of the program's own ops. name, check and admin_listen are the program's. */
extern const struct program_ops supervisor_ops;

#endif
