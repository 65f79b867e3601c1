/* access_breaker.c - one API's circuit breaker.
 *
 * Questions that were under way when the breaker opened fail one after the other, often all of them; only the
 * one that tries the API counts then, or the time would double for each. An answer to any of them closes the
 * breaker: the API works. If the trying question is dropped (its clients left), the next one tries. */
#include "gateway/access_breaker.h"

bool breaker_ask(struct access_breaker *b, int64_t now_ms, bool *ret_trying)
{
    *ret_trying = false;
    if (b->state == BREAKER_CLOSED)
        return true;
    if (b->state == BREAKER_TRYING || now_ms < b->open_until)
        return false;
    b->state = BREAKER_TRYING;
    *ret_trying = true;
    return true;
}

static void breaker_open(struct access_breaker *b, int64_t now_ms)
{
    b->state = BREAKER_OPEN;
    b->failures = 0;
    b->open_ms = b->open_ms ? b->open_ms * 2 : BREAKER_OPEN_MS;
    if (b->open_ms > BREAKER_OPEN_MAX_MS)
        b->open_ms = BREAKER_OPEN_MAX_MS;
    b->open_until = now_ms + b->open_ms;
}

void breaker_report(struct access_breaker *b, int64_t now_ms, bool trying, enum breaker_outcome outcome)
{
    /* An answer to an older question may have closed the breaker meanwhile: then this one counts as others
     * do. */
    bool tries = trying && b->state == BREAKER_TRYING;

    if (outcome == BREAKER_ANSWERED) {
        *b = (struct access_breaker){0};
    } else if (outcome == BREAKER_FAILED) {
        if (tries || (b->state == BREAKER_CLOSED && ++b->failures >= BREAKER_FAILURES))
            breaker_open(b, now_ms);
    } else if (tries) {
        b->state = BREAKER_OPEN; /* its time is over: the next question tries */
    }
}
