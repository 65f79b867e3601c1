#include "shared/worker_pipe.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES = 6, ANSWER_MAX = 64 * 1024 * 1024 };

struct worker_pipe {
    uv_pipe_t pipe;
    worker_answer_cb *answer;
    void *user;
    char questions[64];
};

struct write {
    uv_write_t request;
    char *bytes;
};

static void on_written(uv_write_t *request, int status)
{
    struct write *w = request->data;

    (void)status; /* a supervisor that is gone is noticed by reading */
    free(w->bytes);
    free(w);
}

static void answer(struct worker_pipe *p, char question)
{
    CLEANUP(buf_done) struct buf text = {0}, all = {0};
    bool verdict = p->answer(p->user, question, &text);
    const char head[HEAD_BYTES] = {question,
                                   verdict ? '1' : '0',
                                   (char)text.len,
                                   (char)(text.len >> 8),
                                   (char)(text.len >> 16),
                                   (char)(text.len >> 24)};
    struct write *w = malloc(sizeof(*w));
    uv_buf_t out;

    buf_add(&all, head, sizeof(head));
    buf_add(&all, text.data, text.len);
    out = uv_buf_init(NULL, (unsigned)all.len);
    if (w)
        w->bytes = out.base = buf_take(&all);
    if (!w || !w->bytes || buf_status(&text) < 0) { /* no memory: it will ask again after a restart */
        if (w)
            free(w->bytes);
        free(w);
        return;
    }
    w->request.data = w;
    if (uv_write(&w->request, (uv_stream_t *)&p->pipe, &out, 1, on_written) < 0) {
        free(w->bytes);
        free(w);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct worker_pipe *p = handle->data;

    (void)suggested;
    *buf = uv_buf_init(p->questions, sizeof(p->questions));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct worker_pipe *p = stream->data;

    if (n < 0) {
        uv_read_stop(stream);
        raise(SIGTERM);
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        answer(p, buf->base[i]);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

int worker_pipe_start(uv_loop_t *loop, int fd, worker_answer_cb *answer_cb, void *user,
                      struct worker_pipe **ret_pipe)
{
    struct worker_pipe *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    p->answer = answer_cb;
    p->user = user;
    r = uv_pipe_init(loop, &p->pipe, 0);
    if (r < 0) {
        free(p);
        return r;
    }
    p->pipe.data = p;
    r = uv_pipe_open(&p->pipe, fd);
    if (r == 0)
        r = uv_read_start((uv_stream_t *)&p->pipe, on_alloc, on_read);
    if (r < 0) {
        uv_close((uv_handle_t *)&p->pipe, on_closed);
        return r;
    }
    *ret_pipe = p;
    return 0;
}

void worker_pipe_close(struct worker_pipe *p)
{
    if (p)
        uv_close((uv_handle_t *)&p->pipe, on_closed);
}

bool worker_answer_feed(struct worker_answer *a, const char *bytes, size_t len, worker_answered_cb *done,
                        void *user)
{
    size_t used = 0;

    buf_add(&a->bytes, bytes, len);
    if (buf_status(&a->bytes) < 0)
        return false;
    while (a->bytes.len - used >= HEAD_BYTES) {
        const unsigned char *h = (const unsigned char *)a->bytes.data + used;
        size_t text_len = (size_t)h[2] | (size_t)h[3] << 8 | (size_t)h[4] << 16 | (size_t)h[5] << 24;

        if (text_len > ANSWER_MAX || (h[0] != 'm' && h[0] != 'r'))
            return false;
        if (a->bytes.len - used < HEAD_BYTES + text_len)
            break;
        done(user, (char)h[0], h[1] == '1', a->bytes.data + used + HEAD_BYTES, text_len);
        used += HEAD_BYTES + text_len;
    }
    if (used > 0) {
        memmove(a->bytes.data, a->bytes.data + used, a->bytes.len - used);
        a->bytes.len -= used;
    }
    return true;
}
