/* load_options.c - the load generator's command line; every fault ends the program with status 2. */
#include "tests/bench/load_options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: load --port PORT --sessions N [options]\n"
    "Templates know {i} session, {g} group (six digits), {token}, {body}, {quoted}, {n}, {ms}; and \\r \\n "
    "\\0.\n"
    "sessions:\n"
    "  --groups G          session i is in group i mod G; event n goes to group n mod G (1)\n"
    "  --request TEMPLATE  path and query of the upgrade (/)\n"
    "  --header TEMPLATE   further header lines, each with \\r\\n\n"
    "  --say TEMPLATE      sent once upgraded; may be repeated, with --hear after each\n"
    "  --hear TEXT         what the answer must hold before the session goes on\n"
    "  --binary            say it in binary messages\n"
    "  --batched           the server may put several messages into one frame\n"
    "  --tokens FILE       one token a line, for {token}\n"
    "  --window N          sessions that connect at the same time (64)\n"
    "  --step N            report the servers' CPU for every N sessions connected\n"
    "  --settle-s S        wait before publishing, and before memory is read (0.5)\n"
    "publisher:\n"
    "  --amqp URL --exchange NAME --key TEMPLATE\n"
    "  --tcp PORT --message TEMPLATE [--greeting TEXT] [--refusal TEXT]\n"
    "  --body BYTES        size of a body (300)\n"
    "  --rate R | --closed | --flat-out   events per second | one (burst) at a time | as fast as it goes\n"
    "  --burst K           events that are published together (1)\n"
    "  --seconds S | --events N           how long (3 s)\n"
    "  --warmup N          events before the measurement (10)\n"
    "  --grace-s S         what comes later than so long after the last event does not count (1)\n"
    "--server NAME=PID,PID whose CPU and memory to report; may be repeated\n"
    "--check               compare every message; exit 1 if any is missing, twice, foreign or damaged\n";

static _Noreturn void usage(void)
{
    fputs(usage_text, stderr);
    exit(2);
}

static _Noreturn void fail(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s%s\n", what, detail);
    exit(2);
}

static double number(const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= min && value <= max)) {
        fprintf(stderr, "load: not a number from %g to %g: %s\n", min, max, text);
        exit(2);
    }
    return value;
}

static void read_tokens(struct session_plan *plan, const char *path)
{
    FILE *f = fopen(path, "re");
    char **tokens = NULL;
    uint32_t count = 0;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    if (!f)
        fail("cannot read ", path);
    while ((n = getline(&line, &cap, f)) > 0) {
        if (line[n - 1] == '\n')
            line[n - 1] = '\0';
        tokens = realloc(tokens, (count + 1) * sizeof(*tokens));
        if (!tokens || !(tokens[count++] = strdup(line)))
            fail("out of memory", "");
    }
    free(line);
    fclose(f);
    if (count == 0)
        fail("no token in ", path);
    plan->tokens = tokens;
    plan->token_count = count;
}

enum option_code {
    PORT = 256,
    SESSIONS,
    GROUPS,
    REQUEST,
    HEADER,
    SAY,
    HEAR,
    BINARY,
    BATCHED,
    TOKENS,
    WINDOW,
    STEP,
    SETTLE,
    AMQP,
    EXCHANGE,
    KEY,
    TCP,
    GREETING,
    MESSAGE,
    REFUSAL,
    BODY,
    RATE,
    CLOSED_LOOP,
    FLAT_OUT,
    BURST,
    SECONDS,
    EVENTS,
    WARMUP,
    GRACE,
    SERVER,
    CHECK,
};

static const struct option options[] = {
    {"port", 1, NULL, PORT},
    {"sessions", 1, NULL, SESSIONS},
    {"groups", 1, NULL, GROUPS},
    {"request", 1, NULL, REQUEST},
    {"header", 1, NULL, HEADER},
    {"say", 1, NULL, SAY},
    {"hear", 1, NULL, HEAR},
    {"binary", 0, NULL, BINARY},
    {"batched", 0, NULL, BATCHED},
    {"tokens", 1, NULL, TOKENS},
    {"window", 1, NULL, WINDOW},
    {"step", 1, NULL, STEP},
    {"settle-s", 1, NULL, SETTLE},
    {"amqp", 1, NULL, AMQP},
    {"exchange", 1, NULL, EXCHANGE},
    {"key", 1, NULL, KEY},
    {"tcp", 1, NULL, TCP},
    {"greeting", 1, NULL, GREETING},
    {"message", 1, NULL, MESSAGE},
    {"refusal", 1, NULL, REFUSAL},
    {"body", 1, NULL, BODY},
    {"rate", 1, NULL, RATE},
    {"closed", 0, NULL, CLOSED_LOOP},
    {"flat-out", 0, NULL, FLAT_OUT},
    {"burst", 1, NULL, BURST},
    {"seconds", 1, NULL, SECONDS},
    {"events", 1, NULL, EVENTS},
    {"warmup", 1, NULL, WARMUP},
    {"grace-s", 1, NULL, GRACE},
    {"server", 1, NULL, SERVER},
    {"check", 0, NULL, CHECK},
    {0},
};

static bool session_option(struct load_options *o, const char **path, struct text *headers, int option,
                           const char *value)
{
    struct session_plan *plan = &o->sessions;
    struct text t;

    switch (option) {
    case PORT:
        plan->port = (uint16_t)number(value, 1, 65535);
        return true;
    case SESSIONS:
        plan->count = (uint32_t)number(value, 0, 1e6);
        return true;
    case GROUPS:
        plan->groups = (uint32_t)number(value, 1, 1e6 - 1);
        return true;
    case REQUEST:
        *path = value;
        return true;
    case HEADER:
        t = unescape(value);
        text_add(headers, t.data, t.len);
        return true;
    case SAY:
        if (plan->step_count == SESSIONS_STEPS_MAX)
            usage();
        plan->steps[plan->step_count++].say = unescape(value);
        return true;
    case HEAR:
        if (plan->step_count == 0)
            usage();
        plan->steps[plan->step_count - 1].hear = unescape(value);
        return true;
    case BINARY:
        plan->binary = true;
        return true;
    case BATCHED:
        plan->batched = true;
        return true;
    case TOKENS:
        read_tokens(plan, value);
        return true;
    default:
        return false;
    }
}

static bool publisher_option(struct publisher_plan *plan, int option, const char *value)
{
    switch (option) {
    case AMQP:
        plan->amqp_url = value;
        return true;
    case EXCHANGE:
        plan->exchange = value;
        return true;
    case KEY:
        plan->key = unescape(value);
        return true;
    case TCP:
        plan->tcp_port = (uint16_t)number(value, 1, 65535);
        return true;
    case GREETING:
        plan->greeting = unescape(value);
        return true;
    case MESSAGE:
        plan->message = unescape(value);
        return true;
    case REFUSAL:
        plan->refusal = unescape(value);
        return true;
    default:
        return false;
    }
}

static void pace_option(struct load_options *o, int option, const char *value)
{
    switch (option) {
    case WINDOW:
        o->window = (uint32_t)number(value, 1, 1e6);
        break;
    case STEP:
        o->step = (uint32_t)number(value, 1, 1e6);
        break;
    case SETTLE:
        o->settle_s = number(value, 0, 3600);
        break;
    case BODY:
        o->body = (size_t)number(value, MESSAGE_BODY_MIN, MESSAGE_BODY_MAX);
        break;
    case RATE:
        o->rate = number(value, 0.01, 1e7);
        break;
    case CLOSED_LOOP:
        o->closed = true;
        break;
    case FLAT_OUT:
        o->flat_out = true;
        break;
    case BURST:
        o->burst = (uint32_t)number(value, 1, 1e5);
        break;
    case SECONDS:
        o->seconds = number(value, 0, 1e6);
        break;
    case EVENTS:
        o->events_max = (uint64_t)number(value, 1, 1e9);
        break;
    case WARMUP:
        o->warmup = (uint64_t)number(value, 0, 1e6);
        break;
    case GRACE:
        o->grace_s = number(value, 0, 3600);
        break;
    case CHECK:
        o->check = true;
        break;
    case SERVER:
        if (o->server_count == USAGE_SERVERS_MAX || usage_parse(value, &o->servers[o->server_count++]) < 0)
            usage();
        break;
    default:
        usage();
    }
}

void load_options_parse(struct load_options *o, int argc, char **argv)
{
    struct text headers = {0}, request = {0};
    const char *path = "/";
    struct text path_text;
    int option;

    *o = (struct load_options){
        .sessions.groups = 1,
        .window = 64,
        .burst = 1,
        .rate = 10,
        .seconds = 3,
        .settle_s = 0.5,
        .grace_s = 1,
        .warmup = 10,
        .body = 300,
    };
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (!session_option(o, &path, &headers, option, optarg) &&
            !publisher_option(&o->publisher, option, optarg))
            pace_option(o, option, optarg);
    if (optind != argc || (o->sessions.count && !o->sessions.port) ||
        (o->publisher.amqp_url && (!o->publisher.exchange || !o->publisher.key.data)) ||
        (o->publisher.tcp_port && !o->publisher.message.data))
        usage();
    path_text = unescape(path);
    text_add(&request, "GET ", 4);
    text_add(&request, path_text.data, path_text.len);
    free(path_text.data);
    path_text =
        unescape(" HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
                 "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n");
    text_add(&request, path_text.data, path_text.len);
    free(path_text.data);
    if (headers.len)
        text_add(&request, headers.data, headers.len);
    text_add(&request, "\r\n", 2);
    free(headers.data);
    o->sessions.request = request;
}
