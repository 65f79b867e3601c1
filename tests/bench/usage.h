/* usage.h - what other processes use: CPU time and memory, as the kernel counts them. */
#ifndef EF_BENCH_USAGE_H
#define EF_BENCH_USAGE_H

#include <stdint.h>
#include <stdio.h>

enum { USAGE_SERVERS_MAX = 16, USAGE_PIDS_MAX = 64 };

/* A named group of processes whose figures are added up. */
struct usage_server {
    char name[32];
    int pids[USAGE_PIDS_MAX];
    int count;
};

struct usage {
    uint64_t cpu_ns;     /* user and system time of all threads, also of those that have ended */
    uint64_t wait_ns;    /* runnable, but something else had the core */
    uint64_t anon_bytes; /* resident memory that is the process's own: RssAnon */
    uint64_t rss_bytes;  /* with the shared part: libraries, files */
};

/* Parse "name=pid,pid". Returns 0, or -1. */
int usage_parse(const char *text, struct usage_server *ret_server);
/* Returns 0, or -1 with a message on stderr when a process is gone. */
int usage_read(const struct usage_server *s, struct usage *ret_usage);
/* Memory that the kernel's small objects take (sockets among them), of the whole machine. */
uint64_t usage_slab_bytes(void);
/* "name":{"cpu_s":..,"wait_s":..,"anon_bytes":..,"anon_grown_bytes":..,"rss_bytes":..}: `now` against
 * `before`. */
void usage_print(FILE *out, const struct usage_server *s, const struct usage *before,
                 const struct usage *now);

#endif
