/* http_stub.h - an HTTP server on a test's own loop that says exactly what the test wants, byte for byte, or
 * nothing, or cuts the connection. Include it after cmocka.h; static functions, so that a unit test stays
 * one file. */
#ifndef EF_TESTS_HTTP_STUB_H
#define EF_TESTS_HTTP_STUB_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum stub_mode {
    STUB_ANSWER, /* `answer`, at once */
    STUB_HOLD,   /* nothing, until stub_release */
    STUB_RESET,  /* RST instead of an answer */
    STUB_EOF,    /* FIN instead of an answer */
};

struct http_stub {
    uv_loop_t *loop;
    uv_tcp_t listener;
    int port;
    enum stub_mode mode;
    const char *answer; /* raw: status line, headers, body; borrowed */
    size_t answer_len;
    char answer_text[512]; /* where stub_say puts one together */
    int requests;
    int connections, connections_max, disconnects; /* open now, most at once, ended by either side */
    char last_request[32768];                      /* head of the last request */
    struct stub_conn *conns;
};

struct stub_conn {
    uv_tcp_t tcp;
    struct http_stub *stub;
    bool holding, closing;
    size_t len;
    char in[32768];
    struct stub_conn *prev, *next;
};

static inline void stub_conn_closed(uv_handle_t *handle)
{
    struct stub_conn *c = handle->data;

    *(c->prev ? &c->prev->next : &c->stub->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->stub->connections--;
    c->stub->disconnects++;
    free(c);
}

static inline void stub_conn_close(struct stub_conn *c, bool reset)
{
    if (c->closing)
        return;
    c->closing = true;
    if (!reset || uv_tcp_close_reset(&c->tcp, stub_conn_closed) < 0)
        uv_close((uv_handle_t *)&c->tcp, stub_conn_closed);
}

static inline void stub_written(uv_write_t *req, int status)
{
    (void)status; /* the client may have left: that is its test's business */
    free(req);
}

static inline void stub_reply(struct stub_conn *c)
{
    struct http_stub *s = c->stub;
    uv_buf_t bytes = uv_buf_init((char *)(uintptr_t)s->answer, (unsigned)s->answer_len);
    uv_write_t *req;

    c->holding = false;
    switch (s->mode) {
    case STUB_ANSWER:
        req = malloc(sizeof(*req));
        assert_non_null(req);
        if (uv_write(req, (uv_stream_t *)&c->tcp, &bytes, 1, stub_written) < 0)
            free(req);
        break;
    case STUB_HOLD:
        c->holding = true;
        break;
    case STUB_RESET:
    case STUB_EOF:
        stub_conn_close(c, s->mode == STUB_RESET);
        break;
    }
}

static inline void stub_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    struct stub_conn *c = handle->data;

    (void)size;
    *buf = uv_buf_init(c->in + c->len, (unsigned)(sizeof(c->in) - 1 - c->len));
}

static inline void stub_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct stub_conn *c = stream->data;
    char *end;

    (void)buf;
    if (n < 0) {
        stub_conn_close(c, false);
        return;
    }
    c->len += (size_t)n;
    c->in[c->len] = '\0';
    while (!c->closing && (end = strstr(c->in, "\r\n\r\n"))) {
        end += 4;
        c->stub->requests++;
        snprintf(c->stub->last_request, sizeof(c->stub->last_request), "%.*s", (int)(end - c->in), c->in);
        c->len -= (size_t)(end - c->in);
        memmove(c->in, end, c->len + 1);
        stub_reply(c);
    }
}

static inline void stub_connection(uv_stream_t *listener, int status)
{
    struct http_stub *s = listener->data;
    struct stub_conn *c = calloc(1, sizeof(*c));

    assert_int_equal(status, 0);
    assert_non_null(c);
    c->stub = s;
    c->next = s->conns;
    if (c->next)
        c->next->prev = c;
    s->conns = c;
    assert_int_equal(uv_tcp_init(s->loop, &c->tcp), 0);
    c->tcp.data = c;
    assert_int_equal(uv_accept(listener, (uv_stream_t *)&c->tcp), 0);
    assert_int_equal(uv_read_start((uv_stream_t *)&c->tcp, stub_alloc, stub_read), 0);
    if (++s->connections > s->connections_max)
        s->connections_max = s->connections;
}

/* Answer from now on with these bytes (borrowed). */
static inline void stub_say_raw(struct http_stub *s, const char *bytes, size_t len)
{
    s->mode = STUB_ANSWER;
    s->answer = bytes;
    s->answer_len = len;
}

/* Answer from now on with this status and body. */
static inline void stub_say(struct http_stub *s, int status, const char *body)
{
    int n = snprintf(s->answer_text, sizeof(s->answer_text),
                     "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     status, strlen(body), body);

    assert_in_range(n, 1, sizeof(s->answer_text) - 1);
    stub_say_raw(s, s->answer_text, (size_t)n);
}

/* Answer all requests that are held, and later ones, as stub_say. */
static inline void stub_release(struct http_stub *s, int status, const char *body)
{
    stub_say(s, status, body);
    for (struct stub_conn *c = s->conns; c; c = c->next)
        if (c->holding && !c->closing)
            stub_reply(c);
}

static inline void stub_start(struct http_stub *s, uv_loop_t *loop)
{
    struct sockaddr_in in;
    int len = sizeof(in);

    memset(s, 0, sizeof(*s));
    s->loop = loop;
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &in), 0);
    assert_int_equal(uv_tcp_init(loop, &s->listener), 0);
    s->listener.data = s;
    assert_int_equal(uv_tcp_bind(&s->listener, (struct sockaddr *)&in, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&s->listener, 512, stub_connection), 0);
    assert_int_equal(uv_tcp_getsockname(&s->listener, (struct sockaddr *)&in, &len), 0);
    s->port = ntohs(in.sin_port);
    stub_say(s, 200, "{\"status\":\"ok\"}");
}

/* Ends in later turns of the loop. */
static inline void stub_stop(struct http_stub *s)
{
    for (struct stub_conn *c = s->conns; c; c = c->next)
        stub_conn_close(c, false);
    uv_close((uv_handle_t *)&s->listener, NULL);
}

#endif
