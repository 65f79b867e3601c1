/* load_options.h - the load generator's command line. */
#ifndef EF_BENCH_LOAD_OPTIONS_H
#define EF_BENCH_LOAD_OPTIONS_H

#include "tests/bench/publisher.h"
#include "tests/bench/sessions.h"
#include "tests/bench/usage.h"

struct load_options {
    struct session_plan sessions;
    struct publisher_plan publisher;
    struct usage_server servers[USAGE_SERVERS_MAX];
    int server_count;
    uint32_t window; /* sessions that connect at the same time */
    uint32_t step;   /* report CPU per so many sessions; 0: don't */
    double rate;     /* events per second */
    bool closed, flat_out, check;
    uint32_t burst;
    uint64_t events_max; /* to publish; 0: for so many seconds */
    double seconds, settle_s, grace_s;
    uint64_t warmup;
    size_t body;
};

/* Ends the program when the command line is wrong. What is read lives as long as the program, and borrows
 * argv. */
void load_options_parse(struct load_options *o, int argc, char **argv);

#endif
