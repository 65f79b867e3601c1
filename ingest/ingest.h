/* ingest.h - the program: RabbitMQ's exchanges into Redis. See program.h for what these are called for. */
#ifndef EF_INGEST_H
#define EF_INGEST_H

#include "shared/program.h"

extern const struct program_ops ingest_ops;

#endif
