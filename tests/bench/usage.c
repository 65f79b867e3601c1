/* usage.c - CPU time from the processes' CPU clocks, memory from /proc.
 *
 * The CPU clock of another process (clock_getcpuclockid) is utime + stime of /proc/PID/stat in nanoseconds
 * instead of hundredths of a second: a measurement of a second needs that. */
#include "tests/bench/usage.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int usage_parse(const char *text, struct usage_server *ret_server)
{
    const char *equals = strchr(text, '=');
    struct usage_server s = {0};
    const char *at;

    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(s.name))
        return -1;
    memcpy(s.name, text, (size_t)(equals - text));
    for (at = equals; *at; s.count++) {
        char *end;
        long pid = strtol(at + 1, &end, 10);

        if (end == at + 1 || pid <= 0 || pid > INT32_MAX || s.count == USAGE_PIDS_MAX ||
            (*end && *end != ','))
            return -1;
        s.pids[s.count] = (int)pid;
        at = end;
    }
    *ret_server = s;
    return 0;
}

/* Adds the field's kilobytes to *bytes. */
static void add_field(const char *line, const char *field, uint64_t *bytes)
{
    size_t len = strlen(field);

    if (strncmp(line, field, len) == 0)
        *bytes += strtoull(line + len, NULL, 10) * 1024;
}

/* Adds the time that the threads waited for a core: the second number of their schedstat. */
static void add_wait(int pid, struct usage *u)
{
    char path[64];
    struct dirent *entry;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks))) {
        char file[sizeof(path) + sizeof(entry->d_name) + 16];
        uint64_t wait;
        FILE *f;

        snprintf(file, sizeof(file), "%s/%s/schedstat", path, entry->d_name);
        f = fopen(file, "re");
        if (!f)
            continue;
        if (fscanf(f, "%*u %" SCNu64, &wait) == 1)
            u->wait_ns += wait;
        fclose(f);
    }
    if (tasks)
        closedir(tasks);
}

static int read_process(int pid, struct usage *u)
{
    char path[64];
    char line[256];
    struct timespec t;
    clockid_t clock;
    FILE *f;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        return -1;
    u->cpu_ns += (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (fgets(line, sizeof(line), f)) {
        add_field(line, "RssAnon:", &u->anon_bytes);
        add_field(line, "VmRSS:", &u->rss_bytes);
    }
    fclose(f);
    add_wait(pid, u);
    return 0;
}

int usage_read(const struct usage_server *s, struct usage *ret_usage)
{
    struct usage u = {0};

    for (int i = 0; i < s->count; i++) {
        if (read_process(s->pids[i], &u) < 0) {
            fprintf(stderr, "load: process %d of %s is gone\n", s->pids[i], s->name);
            return -1;
        }
    }
    *ret_usage = u;
    return 0;
}

uint64_t usage_slab_bytes(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    uint64_t bytes = 0;
    char line[128];

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f))
        add_field(line, "Slab:", &bytes);
    fclose(f);
    return bytes;
}

void usage_print(FILE *out, const struct usage_server *s, const struct usage *before, const struct usage *now)
{
    fprintf(out,
            "\"%s\":{\"cpu_s\":%.6f,\"wait_s\":%.6f,\"anon_bytes\":%" PRIu64 ",\"anon_grown_bytes\":%" PRId64
            ",\"rss_bytes\":%" PRIu64 "}",
            s->name, (double)(now->cpu_ns - before->cpu_ns) / 1e9,
            (double)(now->wait_ns - before->wait_ns) / 1e9, now->anon_bytes,
            (int64_t)(now->anon_bytes - before->anon_bytes), now->rss_bytes);
}
