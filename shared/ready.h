/* ready.h - is this process ready to serve?
 *
 * A process depends on named things (redis, amqp, ...). Each has a grace: when it turns bad, the
 * process stays ready for that long, so that a blip does not empty a load balancer. It turns good
 * again at once. Before it was good for the first time there is no grace. */
#ifndef EF_READY_H
#define EF_READY_H

#include "shared/util.h"

#include <jansson.h>
#include <stdbool.h>

/* More checks, or a longer detail in bytes, than any program has. */
enum { READY_CHECKS_MAX = 16, READY_DETAIL_MAX = 200 };
/* The grace of a check that only informs: it stands in the report and never makes the process unready. */
enum { READY_NEVER_FAILS = -1 };

struct ready;

struct ready *ready_new(void); /* NULL on lack of memory */
void ready_free(struct ready *r);
/* name: borrowed for the life of `r` (a literal). Returns the number to use with ready_set. */
int ready_add(struct ready *r, const char *name, int grace_ms);
/* detail: one line for people, copied (cut at READY_DETAIL_MAX); NULL for none. */
void ready_set(struct ready *r, int check, bool good, const char *detail);
/* From now on not ready, whatever the checks say. */
void ready_drain(struct ready *r);
/* The verdict, and if ret_report is not NULL a new JSON object for the caller to decref:
 * (NULL on lack of memory; "ok" is the check's own state, also within its grace; "for_s" how long it is so):
 * {"ready":false,"draining":false,"checks":{"redis":{"ok":false,"for_s":3,"detail":".."}}} */
bool ready_eval(const struct ready *r, json_t **ret_report);

/* The same with the time put in (milliseconds of one monotonic clock), for tests. */
int ready_add_at(struct ready *r, const char *name, int grace_ms, int64_t now_ms);
void ready_set_at(struct ready *r, int check, bool good, const char *detail, int64_t now_ms);
bool ready_eval_at(const struct ready *r, int64_t now_ms, json_t **ret_report);

#endif
