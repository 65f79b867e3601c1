/* sessions.h - the load generator's WebSocket sessions: connecting, binding, counting.
 *
 *   IDLE --connect--> CONNECTING --> UPGRADING --101--> BINDING --last answer--> LIVE
 *
 * Binding is a dialogue: what a session says, and a text that must be in the answer before it goes on (empty:
 * nothing is awaited). Once live, every message with a mark is counted, and must be the group's next.
 *
 * Frames are parsed where they were received, in one large buffer that all sessions share; a session keeps
 * only the rest of a frame that was cut. */
#ifndef EF_BENCH_SESSIONS_H
#define EF_BENCH_SESSIONS_H

#include "tests/bench/message.h"

enum { SESSIONS_STEPS_MAX = 4 };

struct session_step {
    struct text say;  /* template */
    struct text hear; /* plain text */
};

/* All borrowed for the life of the sessions. */
struct session_plan {
    uint16_t port;       /* on 127.0.0.1 */
    uint32_t count;      /* sessions */
    uint32_t groups;     /* session i is in group i mod groups */
    struct text request; /* template of the whole HTTP request */
    struct session_step steps[SESSIONS_STEPS_MAX];
    uint32_t step_count;
    bool binary;                 /* say it in binary messages */
    bool batched;                /* the server may put several messages into one frame */
    const struct message *check; /* compare what follows the mark with this; NULL: don't */
    char *const *tokens;         /* session i has token i mod token_count */
    uint32_t token_count;
};

struct session_counts {
    uint64_t frames, bytes;                      /* data frames and their payload */
    uint64_t messages;                           /* with a mark, in order, of the session's group */
    uint64_t message_bytes;                      /* payload of frames with a mark */
    uint64_t other;                              /* frames without a mark */
    uint64_t missed, repeated, foreign, damaged; /* what must not be */
    uint64_t live, closed;
};

struct sessions;
/* One good message. */
typedef void sessions_on_message(void *user, const struct mark *mark, uint64_t now);

/* epoll: descriptor that the sessions register with, with their index as data.u32. Ends the program when
 * there is no memory. */
struct sessions *sessions_new(const struct session_plan *plan, int epoll, sessions_on_message *on_message,
                              void *user);
void sessions_free(struct sessions *s);
/* Connect the next one. Returns false when all have been, or when connecting failed (then `failure` says so).
 */
bool sessions_connect_next(struct sessions *s);
/* Those that have begun to connect and are not live yet. */
uint32_t sessions_pending(const struct sessions *s);
uint32_t sessions_started(const struct sessions *s);
/* The epoll event of session `index`. */
void sessions_ready(struct sessions *s, uint32_t index, uint32_t events);
const struct session_counts *sessions_counts(const struct sessions *s);
/* Live sessions in a group: how many will receive its next event. */
uint32_t sessions_in_group(const struct sessions *s, uint32_t group);
/* NULL, or what went wrong first. */
const char *sessions_failure(const struct sessions *s);

#endif
