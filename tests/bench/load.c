/* load.c - the load generator: connects sessions, publishes events, counts what comes, prints one line of
 * JSON.
 *
 *   connect all --> settle --> warm-up events --> [ publish and receive ] --> wait for the rest --> report
 *                                                   measured: CPU, latency
 *
 * One thread does all of it, so a publication and its receptions have one clock, and "one event at a time"
 * means that the next is published when the last session has the one before (--closed). Otherwise events are
 * due at fixed times (--rate) and carry the time at which they were due: a generator or server that falls
 * behind shows in the latency instead of hiding in it.
 *
 * CPU time is that of the named server processes between the first publication and the last reception.
 * `delivered` counts what came until --grace-s after the last publication.
 *
 * Exit status: 0 with a report; 1 if sessions cannot be connected or the publisher fails, or with --check if
 * anything was missed, repeated, foreign or damaged; 2 for wrong usage. */
#include "tests/bench/histogram.h"
#include "tests/bench/load_options.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u

enum { EVENTS_PER_TURN = 256, CONNECT_TIMEOUT_S = 60, SERVER_BACKLOG_BYTES = 8 << 20 };
static const uint32_t publisher_tag = UINT32_MAX;

struct load {
    struct load_options plan;
    int epoll;
    struct sessions *sessions;
    struct publisher *publisher;
    struct message message;
    uint64_t published; /* also the next event's number */
    uint64_t first;     /* number of the first measured event */
    uint64_t expected, delivered;
    uint32_t *remaining; /* by event number: sessions that do not have it yet */
    uint64_t remaining_cap;
    uint64_t open_events; /* those with remaining > 0 */
    uint64_t last_received_ns;
    struct histogram latency, last;
    struct text steps; /* JSON of the report per step */
};

static _Noreturn void die(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s%s\n", what, detail);
    exit(1);
}

/* --- receiving ------------------------------------------------------------------------------------------ */

static void on_message(void *user, const struct mark *m, uint64_t now)
{
    struct load *l = user;
    uint64_t took = now > m->due_ns ? now - m->due_ns : 0;

    l->last_received_ns = now;
    if (m->number >= l->published || l->remaining[m->number] == 0)
        return; /* A session that came late: nobody expects that it gets this one. */
    if (--l->remaining[m->number] == 0)
        l->open_events--;
    if (m->number < l->first)
        return;
    l->delivered++;
    histogram_add(&l->latency, took);
    if (l->remaining[m->number] == 0)
        histogram_add(&l->last, took);
}

/* Handles what is ready; waits for it at most until `until`. */
static void turn(struct load *l, uint64_t until)
{
    struct epoll_event events[EVENTS_PER_TURN];
    uint64_t now = now_ns();
    uint64_t wait = until > now ? until - now : 0;
    struct timespec t = {.tv_sec = (time_t)(wait / NS_PER_S), .tv_nsec = (long)(wait % NS_PER_S)};
    int n = epoll_pwait2(l->epoll, events, EVENTS_PER_TURN, &t, NULL);

    if (n < 0 && errno != EINTR)
        die("epoll: ", strerror(errno));
    for (int i = 0; i < n; i++) {
        if (events[i].data.u32 != publisher_tag)
            sessions_ready(l->sessions, events[i].data.u32, events[i].events);
        else if (publisher_ready(l->publisher) < 0)
            exit(1);
    }
    if (l->publisher && publisher_waiting(l->publisher) && publisher_flush(l->publisher) < 0)
        exit(1);
}

static void turn_for(struct load *l, double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * NS_PER_S);

    while (now_ns() < until)
        turn(l, until);
}

/* --- connecting ----------------------------------------------------------------------------------------- */

static void read_usage(const struct load *l, struct usage usages[USAGE_SERVERS_MAX])
{
    for (int i = 0; i < l->plan.server_count; i++)
        if (usage_read(&l->plan.servers[i], &usages[i]) < 0)
            exit(1);
}

static void add_step(struct load *l, uint32_t live, const struct usage *before, const struct usage *now)
{
    char number[96];
    int n = snprintf(number, sizeof(number), "%s{\"sessions\":%u,\"cpu_us_per_session\":{",
                     l->steps.len ? "," : "", live);

    text_add(&l->steps, number, (size_t)n);
    for (int i = 0; i < l->plan.server_count; i++) {
        n = snprintf(number, sizeof(number), "%s\"%s\":%.1f", i ? "," : "", l->plan.servers[i].name,
                     (double)(now[i].cpu_ns - before[i].cpu_ns) / 1e3 / l->plan.step);
        text_add(&l->steps, number, (size_t)n);
    }
    text_add(&l->steps, "}}", 2);
}

static void connect_all(struct load *l)
{
    const struct session_counts *counts = sessions_counts(l->sessions);
    uint64_t deadline = now_ns() + (uint64_t)CONNECT_TIMEOUT_S * NS_PER_S;
    struct usage before[USAGE_SERVERS_MAX], now[USAGE_SERVERS_MAX];
    uint64_t live = 0;
    uint32_t stop = l->plan.step;

    read_usage(l, before);
    while (counts->live < l->plan.sessions.count) {
        while (sessions_pending(l->sessions) < l->plan.window &&
               (!l->plan.step || sessions_started(l->sessions) < stop))
            if (!sessions_connect_next(l->sessions))
                break;
        turn(l, now_ns() + NS_PER_S);
        if (sessions_failure(l->sessions))
            die("", sessions_failure(l->sessions));
        if (counts->live > live) {
            live = counts->live;
            deadline = now_ns() + (uint64_t)CONNECT_TIMEOUT_S * NS_PER_S;
        } else if (now_ns() > deadline) {
            die("", "sessions do not become live");
        }
        if (l->plan.step && live == stop) {
            read_usage(l, now);
            add_step(l, stop, before, now);
            memcpy(before, now, sizeof(now));
            stop += l->plan.step;
        }
    }
}

/* --- publishing ----------------------------------------------------------------------------------------- */

static void publish(struct load *l, uint64_t due)
{
    uint32_t group = (uint32_t)(l->published % l->plan.sessions.groups);
    struct mark m = {.due_ns = due, .number = l->published, .group = group};
    uint32_t receivers = sessions_in_group(l->sessions, group);

    if (l->published == l->remaining_cap) {
        uint64_t cap = l->remaining_cap ? l->remaining_cap * 2 : 4096;
        uint32_t *more = realloc(l->remaining, cap * sizeof(*more));

        if (!more)
            die("", "out of memory");
        l->remaining = more;
        l->remaining_cap = cap;
    }
    l->remaining[l->published] = receivers;
    l->open_events += receivers > 0;
    if (l->published >= l->first)
        l->expected += receivers;
    message_stamp(&l->message, &m);
    if (publisher_add(l->publisher, &l->message, l->published, group) < 0)
        exit(1);
    l->published++;
}

static void publish_burst(struct load *l, uint32_t count, uint64_t due)
{
    for (uint32_t i = 0; i < count; i++)
        publish(l, due);
    if (publisher_waiting(l->publisher) && publisher_flush(l->publisher) < 0)
        exit(1);
}

/* Until every event has reached everybody, or for `seconds`. */
static void await_rest(struct load *l, double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * NS_PER_S);

    while ((l->open_events > 0 || publisher_waiting(l->publisher)) && now_ns() < until)
        turn(l, until);
}

static bool enough(const struct load *l, uint64_t started)
{
    if (l->plan.events_max)
        return l->published - l->first >= l->plan.events_max;
    return now_ns() - started >= (uint64_t)(l->plan.seconds * NS_PER_S);
}

static void publish_closed(struct load *l, uint64_t started)
{
    while (!enough(l, started)) {
        publish_burst(l, l->plan.burst, now_ns());
        await_rest(l, l->plan.grace_s);
        if (l->open_events > 0)
            return; /* An event got lost: reported as not delivered. */
    }
}

static void publish_flat_out(struct load *l, uint64_t started)
{
    while (!enough(l, started)) {
        uint64_t now = now_ns();

        if (publisher_waiting(l->publisher) < SERVER_BACKLOG_BYTES)
            publish_burst(l, l->plan.burst, now);
        turn(l, now);
    }
}

static void publish_at_rate(struct load *l, uint64_t started)
{
    double interval = (double)NS_PER_S * l->plan.burst / l->plan.rate;

    for (uint64_t k = 0; !enough(l, started); k++) {
        uint64_t due = started + (uint64_t)((double)k * interval);

        while (now_ns() < due)
            turn(l, due);
        publish_burst(l, l->plan.burst, due);
    }
}

static void warm_up(struct load *l)
{
    l->first = UINT64_MAX;
    while (l->published < l->plan.warmup) {
        publish_burst(l, 1, now_ns());
        await_rest(l, 5);
        if (l->open_events > 0)
            die("", "an event of the warm-up did not reach every session within 5 s");
    }
    l->first = l->published;
}

/* --- the report ----------------------------------------------------------------------------------------- */

static void print_servers(const struct load *l, const struct usage *before, const struct usage *now)
{
    printf("\"servers\":{");
    for (int i = 0; i < l->plan.server_count; i++) {
        fputs(i ? "," : "", stdout);
        usage_print(stdout, &l->plan.servers[i], &before[i], &now[i]);
    }
    putchar('}');
}

static void print_quantiles(const char *name, const struct histogram *h)
{
    printf(",\"%s\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
           (double)histogram_quantile(h, 0.5) / 1e3, (double)histogram_quantile(h, 0.9) / 1e3,
           (double)histogram_quantile(h, 0.99) / 1e3, (double)histogram_quantile(h, 0.999) / 1e3,
           (double)h->max / 1e3);
}

static double own_cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run_publishing(struct load *l)
{
    struct usage before[USAGE_SERVERS_MAX], now[USAGE_SERVERS_MAX];
    const struct session_counts *counts = sessions_counts(l->sessions);
    double own = own_cpu_s();
    uint64_t started, ended, watched;
    struct session_counts start;

    warm_up(l);
    start = *counts;
    read_usage(l, before);
    started = now_ns();
    if (l->plan.closed)
        publish_closed(l, started);
    else if (l->plan.flat_out)
        publish_flat_out(l, started);
    else
        publish_at_rate(l, started);
    ended = now_ns();
    await_rest(l, l->plan.grace_s);
    read_usage(l, now);
    watched = now_ns();
    if (l->last_received_ns > ended)
        ended = l->last_received_ns;
    printf(",\"publish\":{\"events\":%" PRIu64 ",\"expected\":%" PRIu64 ",\"delivered\":%" PRIu64
           ",\"seconds\":%.6f,\"watched_s\":%.6f,\"frame_bytes\":%.1f,\"frames\":%" PRIu64
           ",\"own_cpu_s\":%.6f,",
           l->published - l->first, l->expected, l->delivered, (double)(ended - started) / 1e9,
           (double)(watched - started) / 1e9,
           counts->messages > start.messages ? (double)(counts->message_bytes - start.message_bytes) /
                                                   (double)(counts->messages - start.messages)
                                             : 0.0,
           counts->frames - start.frames, own_cpu_s() - own);
    print_servers(l, before, now);
    print_quantiles("latency_us", &l->latency);
    print_quantiles("last_us", &l->last);
    putchar('}');
}

static int run(struct load *l)
{
    struct usage before[USAGE_SERVERS_MAX], now[USAGE_SERVERS_MAX];
    uint64_t slab = usage_slab_bytes();
    uint64_t started = now_ns();
    const struct session_counts *c;
    double connect_s;
    bool clean;

    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->sessions = sessions_new(&l->plan.sessions, l->epoll, on_message, l);
    c = sessions_counts(l->sessions);
    read_usage(l, before);
    connect_all(l);
    connect_s = (double)(now_ns() - started) / 1e9;
    turn_for(l, l->plan.settle_s);
    read_usage(l, now);
    printf("{\"sessions\":%" PRIu64 ",\"connect\":{\"seconds\":%.6f,\"slab_grown_bytes\":%" PRId64
           ",\"steps\":[%.*s],",
           c->live, connect_s, (int64_t)(usage_slab_bytes() - slab), (int)l->steps.len,
           l->steps.data ? l->steps.data : "");
    print_servers(l, before, now);
    putchar('}');
    if (l->plan.publisher.amqp_url || l->plan.publisher.tcp_port) {
        l->publisher = publisher_new(&l->plan.publisher, l->epoll, publisher_tag);
        if (!l->publisher)
            return 1;
        run_publishing(l);
    }
    printf(",\"counts\":{\"frames\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"messages\":%" PRIu64
           ",\"other\":%" PRIu64 ",\"missed\":%" PRIu64 ",\"repeated\":%" PRIu64 ",\"foreign\":%" PRIu64
           ",\"damaged\":%" PRIu64 ",\"closed\":%" PRIu64 "}}\n",
           c->frames, c->bytes, c->messages, c->other, c->missed, c->repeated, c->foreign, c->damaged,
           c->closed);
    clean = c->missed + c->repeated + c->foreign + c->damaged + c->closed == 0 && l->open_events == 0;
    publisher_free(l->publisher);
    sessions_free(l->sessions);
    return l->plan.check && !clean ? 1 : 0;
}

int main(int argc, char **argv)
{
    static struct load l;
    struct rlimit files;

    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files); /* If it fails, connecting says so. */
    }
    load_options_parse(&l.plan, argc, argv);
    message_init(&l.message, l.plan.body);
    if (l.plan.check)
        l.plan.sessions.check = &l.message;
    return run(&l);
}
