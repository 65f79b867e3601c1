/* worker_pipe.h - what a worker process and its supervisor say to each other over a socket pair.
 *
 *   supervisor: 'm' or 'r'  -->  worker: the same letter, '1' or '0', length (4 bytes, little endian), text
 *
 * 'm' asks for the metrics (Prometheus text), 'r' whether it is ready ('1' or '0', and the report as JSON).
 * The supervisor asks again only when it has the answer. A pipe that ends tells each that the other is gone.
 */
#ifndef EF_WORKER_PIPE_H
#define EF_WORKER_PIPE_H

#include "shared/buf.h"

#include <uv.h>

/* The worker's descriptor of the pair. */
enum { WORKER_PIPE_FD = 3 };
#define WORKER_ADMIN "pipe:3" /* for admin_start */

/* Answers one question into `text`; returns the verdict of 'r', true for 'm'. */
typedef bool worker_answer_cb(void *user, char question, struct buf *text);

struct worker_pipe;

/* The worker's side. When the supervisor is gone, the process gets a SIGTERM from itself. Returns 0 or a
 * negative errno. */
MUST_CHECK int worker_pipe_start(uv_loop_t *loop, int fd, worker_answer_cb *answer, void *user,
                                 struct worker_pipe **ret_pipe);
void worker_pipe_close(struct worker_pipe *w); /* freed in a later turn; NULL is fine */

/* The supervisor's side: an answer in the making. */
struct worker_answer {
    struct buf bytes;
};
/* Feed what came; calls `done` for each whole answer. false: nonsense came. */
typedef void worker_answered_cb(void *user, char question, bool verdict, const char *text, size_t len);
MUST_CHECK bool worker_answer_feed(struct worker_answer *a, const char *bytes, size_t len,
                                   worker_answered_cb *done, void *user);

#endif
