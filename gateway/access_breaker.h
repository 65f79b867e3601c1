/* access_breaker.h - one API's circuit breaker: do not ask who keeps failing.
 *
 *   CLOSED --5 failures in a row--> OPEN --time is over, next question--> TRYING
 *     ^                              ^ '--answer to an older question--.    |  |
 *     |                              '---- failure: twice the time ----|----'  |
 *     '-------------------------------------- answer ------------------'-------'
 *
 * OPEN lasts 2 s, doubling up to 30 s. TRYING lets one question through; others are refused as in OPEN.
 * Time is an argument. A plain value; all zeros is a closed breaker. */
#ifndef EF_ACCESS_BREAKER_H
#define EF_ACCESS_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum { BREAKER_FAILURES = 5, BREAKER_OPEN_MS = 2000, BREAKER_OPEN_MAX_MS = 30000 };

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_TRYING };

struct access_breaker {
    enum breaker_state state;
    int failures;       /* in a row, while CLOSED */
    int64_t open_ms;    /* how long OPEN lasts this time */
    int64_t open_until; /* monotonic, ms */
};

enum breaker_outcome {
    BREAKER_ANSWERED,  /* the API works, whatever it said */
    BREAKER_FAILED,    /* it does not */
    BREAKER_UNCERTAIN, /* says nothing about it (the question was dropped, or put off) */
};

/* May a question be put? If yes, *ret_trying says whether it is the one that tries the API; the caller hands
 * that back to breaker_report, which must follow exactly once. */
bool breaker_ask(struct access_breaker *b, int64_t now_ms, bool *ret_trying);
void breaker_report(struct access_breaker *b, int64_t now_ms, bool trying, enum breaker_outcome outcome);

#endif
