/* Log lines, as they arrive on standard error: a memory file or a pipe takes its place. */
#include "shared/log.h"

#include "shared/buf.h"
#include "shared/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

static int real_stderr = -1;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_INFO);
    if (real_stderr < 0)
        real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
    return real_stderr < 0 ? -1 : 0;
}

/* Also after an assertion that failed, so that its message is seen. */
static int teardown(void **state)
{
    (void)state;
    dup2(real_stderr, STDERR_FILENO);
    log_close();
    return 0;
}

static int capture_start(void)
{
    int fd = memfd_create("stderr", MFD_CLOEXEC);

    assert_true(fd >= 0);
    dup2(fd, STDERR_FILENO);
    return fd;
}

static char *capture_end(int fd)
{
    struct buf b = {0};
    char piece[4096];
    char *text;
    ssize_t n;

    dup2(real_stderr, STDERR_FILENO);
    lseek(fd, 0, SEEK_SET);
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        buf_add(&b, piece, (size_t)n);
    close(fd);
    text = buf_take(&b);
    assert_non_null(text);
    return text;
}

static void assert_matches(const char *text, const char *pattern)
{
    regex_t re;
    int r;

    assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    r = regexec(&re, text, 0, NULL, 0);
    regfree(&re);
    if (r)
        fail_msg("'%s' does not match '%s'", text, pattern);
}

static void before_open_a_line_is_written_at_once_as_text(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;

    (void)state;
    log_warn("CLOSE-SLOW", "closing a session that does not read", LF_INT("queued_bytes", 12),
             LF_STR("exchange", "wf"));
    text = capture_end(fd);
    assert_matches(
        text, "^[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} WARN  CLOSE-SLOW closing a session that does not read "
              "queued_bytes=12 exchange=\"wf\"\n$");
}

static void a_json_line_holds_every_field_with_its_type(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;
    json_t *line, *expected;

    (void)state;
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    log_error("SOME-ID", "a \"quoted\" sentence\n", LF_STR("str", "tab\there"),
              LF_BYTES("bytes", "a\0\xFF z", 5), LF_STR("none", NULL), LF_INT("min", INT64_MIN),
              LF_NUM("num", 0.1), LF_NUM("inf", 1e308 * 10));
    log_close();
    text = capture_end(fd);
    assert_matches(text,
                   "^\\{\"ts\":\"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{3}Z\",\"level\":\"error\",");
    assert_matches(text, "\"num\":0\\.1,\"inf\":null\\}\n$");
    line = json_loads(text, JSON_ALLOW_NUL, NULL);
    assert_non_null(line);
    json_object_del(line, "ts");
    expected =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s#, s:n, s:I, s:f, s:n}", "level", "error", "program",
                  "event-test", "id", "SOME-ID", "text", "a \"quoted\" sentence\n", "str", "tab\there",
                  "bytes", "a\0\xEF\xBF\xBD z", 7, "none", "min", (json_int_t)INT64_MIN, "num", 0.1, "inf");
    assert_non_null(expected);
    assert_true(json_equal(line, expected));
    json_decref(line);
    json_decref(expected);
}

static void text_from_outside_cannot_steer_a_terminal(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;

    (void)state;
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_TEXT), 0);
    log_info("ID", "say\nthis", LF_STR("evil", "\x1B[2J\"\\\r\n\xC2\x9B\x7F\xFF\xC3\xBC"));
    log_close();
    text = capture_end(fd);
    assert_matches(
        text, " INFO  ID say\\\\nthis evil=\"\\\\u001b\\[2J\\\\\"\\\\\\\\\\\\u000d\\\\n\\\\u009b\\\\u007f"
              "\xEF\xBF\xBD\xC3\xBC\"\n$");
}

static int evaluated;
static int evaluate(void)
{
    return ++evaluated;
}

static void lines_below_the_level_cost_nothing_and_the_level_can_change(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;

    (void)state;
    evaluated = 0;
    assert_int_equal(log_open("event-test", LOG_WARN, LOG_FORMAT_TEXT), 0);
    log_info("HIDDEN", "x", LF_INT("n", evaluate()));
    log_set_level(LOG_DEBUG);
    log_debug("SHOWN", "x", LF_INT("n", evaluate()));
    log_close();
    text = capture_end(fd);
    assert_matches(text, "^[0-9:.]{12} DEBUG SHOWN x n=1\n$");
    assert_int_equal(evaluated, 1);
}

static void a_long_value_is_cut_between_characters(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;
    char value[8000];
    json_t *line;
    const char *cut;

    (void)state;
    for (size_t i = 0; i + 1 < sizeof(value); i += 2)
        memcpy(value + i, "\xC3\xBC", 2);
    value[0] = 'x'; /* the limit now falls inside a letter */
    memmove(value + 1, value + 2, sizeof(value) - 2);
    value[sizeof(value) - 1] = '\0';
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    log_info("LONG", "x", LF_STR("value", value));
    log_close();
    text = capture_end(fd);
    line = json_loads(text, 0, NULL);
    assert_non_null(line);
    cut = json_string_value(json_object_get(line, "value"));
    assert_int_equal(strlen(cut), 4095 + 3);
    assert_string_equal(cut + 4095, "...");
    assert_null(strstr(cut, "\xEF\xBF\xBD"));
    json_decref(line);
}

static void errno_survives_a_log_line(void **state)
{
    int fd = capture_start();
    CLEANUP(freep) char *text = NULL;
    int after;

    (void)state;
    close(STDERR_FILENO);
    errno = ENOENT;
    log_error("ID", "x");
    after = errno;
    dup2(fd, STDERR_FILENO);
    text = capture_end(fd);
    assert_int_equal(after, ENOENT);
}

/* ---- Standard error that does not take everything ---- */

struct reader {
    pthread_t thread;
    int fd;
    struct buf text;
};

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    char piece[1000];
    ssize_t n;

    while ((n = read(r->fd, piece, sizeof(piece))) > 0)
        buf_add(&r->text, piece, (size_t)n);
    return NULL;
}

static void reader_start(struct reader *r, int fd)
{
    *r = (struct reader){.fd = fd};
    assert_int_equal(pthread_create(&r->thread, NULL, reader_main, r), 0);
}

static void pipe_as_stderr(int *ret_read, int flags)
{
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, O_WRONLY | flags), 0);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    *ret_read = fds[0];
}

struct tally {
    uint64_t lines;   /* of the test */
    uint64_t missing; /* according to LOG-DROPPED */
    int64_t last_n;
};

/* Every line must be whole, and the numbers must grow. */
static struct tally tally_lines(char *text)
{
    struct tally t = {.last_n = -1};
    char *save = NULL;

    for (char *at = strtok_r(text, "\n", &save); at; at = strtok_r(NULL, "\n", &save)) {
        json_t *line = json_loads(at, 0, NULL);
        const char *id;

        if (!line)
            fail_msg("not a whole line: '%s'", at);
        id = json_string_value(json_object_get(line, "id"));
        if (strcmp(id, "LOG-DROPPED") == 0) {
            t.missing += (uint64_t)json_integer_value(json_object_get(line, "lines"));
        } else {
            int64_t n = json_integer_value(json_object_get(line, "n"));

            assert_true(n > t.last_n);
            t.last_n = n;
            t.lines++;
        }
        json_decref(line);
    }
    return t;
}

static void full_ring(int flags)
{
    uint64_t dropped_before = log_dropped();
    struct reader reader;
    struct tally t;
    int64_t n = 0;
    int fd;

    pipe_as_stderr(&fd, flags);
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    while (log_dropped() < dropped_before + 100)
        log_info("FILL", "a line of some length, so that the ring is full soon", LF_INT("n", n++));
    reader_start(&reader, fd);
    log_close();
    dup2(real_stderr, STDERR_FILENO);
    pthread_join(reader.thread, NULL);
    close(fd);
    t = tally_lines(reader.text.data);
    buf_done(&reader.text);
    assert_true(t.missing >= 100);
    assert_int_equal(t.missing, log_dropped() - dropped_before);
    assert_int_equal(t.lines + t.missing, n);
}

static void a_full_ring_drops_lines_counts_them_and_says_so(void **state)
{
    (void)state;
    full_ring(0);
}

static void a_nonblocking_stderr_is_written_completely(void **state)
{
    (void)state;
    full_ring(O_NONBLOCK);
}

static void close_gives_up_after_two_seconds_and_counts_the_rest(void **state)
{
    uint64_t dropped_before = log_dropped();
    struct reader reader;
    struct tally t;
    int64_t began, took, n;
    int fd;

    (void)state;
    pipe_as_stderr(&fd, 0);
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    for (n = 0; n < 5000; n++)
        log_info("FILL", "more than a pipe holds", LF_INT("n", n));
    began = clock_mono_ms();
    log_close();
    took = clock_mono_ms() - began;
    dup2(real_stderr, STDERR_FILENO);
    reader_start(&reader, fd);
    pthread_join(reader.thread, NULL);
    close(fd);
    assert_in_range(took, 1900, 3500);
    t = tally_lines(reader.text.data);
    buf_done(&reader.text);
    assert_true(t.lines > 0);
    assert_int_equal(t.lines + (log_dropped() - dropped_before), n);
}

static void a_closed_or_broken_stderr_loses_lines_but_nothing_else(void **state)
{
    uint64_t before;
    int fd;

    (void)state;
    for (int broken = 0; broken < 2; broken++) {
        before = log_dropped();
        if (broken) {
            pipe_as_stderr(&fd, 0);
            close(fd); /* writing gives EPIPE; SIGPIPE has its default action in this test */
        } else {
            close(STDERR_FILENO);
        }
        assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
        for (int i = 0; i < 200; i++)
            log_info("LOST", "nobody reads this", LF_INT("n", i));
        log_close();
        dup2(real_stderr, STDERR_FILENO);
        assert_int_equal(log_dropped() - before, 200);
    }
}

static void after_an_outage_the_log_goes_on_and_says_what_is_missing(void **state)
{
    uint64_t before = log_dropped();
    CLEANUP(freep) char *text = NULL;
    struct tally t;
    int fd;

    (void)state;
    pipe_as_stderr(&fd, 0);
    close(fd);
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    log_info("LOST", "into the broken pipe", LF_INT("n", 0));
    while (log_dropped() == before)
        (void)poll(NULL, 0, 1); /* until the writer has tried */
    fd = capture_start();
    log_info("BACK", "standard error is a file now", LF_INT("n", 1));
    log_close();
    text = capture_end(fd);
    t = tally_lines(text);
    assert_int_equal(t.lines, 1);
    assert_int_equal(t.missing, 1);
}

/* ---- Threads ---- */

enum { THREADS = 4, LINES = 1000 };

static void *chatter(void *arg)
{
    for (int i = 0; i < LINES; i++)
        log_info("CHAT", "several threads at once", LF_INT("thread", (intptr_t)arg), LF_INT("n", i));
    return NULL;
}

static void lines_of_several_threads_stay_whole_and_in_their_order(void **state)
{
    CLEANUP(freep) char *text = NULL;
    pthread_t threads[THREADS];
    json_int_t next[THREADS] = {0};
    char *save = NULL;
    int fd = capture_start();

    (void)state;
    assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, chatter, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    log_close();
    text = capture_end(fd);
    for (char *at = strtok_r(text, "\n", &save); at; at = strtok_r(NULL, "\n", &save)) {
        json_t *line = json_loads(at, 0, NULL);
        json_int_t thread = json_integer_value(json_object_get(line, "thread"));

        assert_non_null(line);
        assert_in_range(thread, 0, THREADS - 1);
        assert_int_equal(json_integer_value(json_object_get(line, "n")), next[thread]++);
        json_decref(line);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(next[i], LINES);
}

static void it_can_be_opened_again_after_close(void **state)
{
    CLEANUP(freep) char *text = NULL;
    int fd = capture_start();

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(log_open("event-test", LOG_INFO, LOG_FORMAT_JSON), 0);
        log_info("ROUND", "x", LF_INT("n", i));
        log_close();
    }
    log_close(); /* twice is fine */
    text = capture_end(fd);
    assert_int_equal(tally_lines(text).lines, 3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(before_open_a_line_is_written_at_once_as_text),
        TEST(a_json_line_holds_every_field_with_its_type),
        TEST(text_from_outside_cannot_steer_a_terminal),
        TEST(lines_below_the_level_cost_nothing_and_the_level_can_change),
        TEST(a_long_value_is_cut_between_characters),
        TEST(errno_survives_a_log_line),
        TEST(a_full_ring_drops_lines_counts_them_and_says_so),
        TEST(a_nonblocking_stderr_is_written_completely),
        TEST(close_gives_up_after_two_seconds_and_counts_the_rest),
        TEST(a_closed_or_broken_stderr_loses_lines_but_nothing_else),
        TEST(after_an_outage_the_log_goes_on_and_says_what_is_missing),
        TEST(lines_of_several_threads_stay_whole_and_in_their_order),
        TEST(it_can_be_opened_again_after_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
