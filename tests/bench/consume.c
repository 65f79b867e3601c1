/* consume.c - the least that a consumer can do: take deliveries from a RabbitMQ queue and acknowledge them.
 *
 *   consume URL QUEUE EVENTS [BROKER=PID,..]
 *
 * Prefetch 1000, one multiple ack for every 250 deliveries. Prints one line of JSON with the seconds from the
 * first delivery to the last ack, its own CPU time and the broker's. The queue must exist and hold EVENTS
 * messages. */
#include "tests/bench/message.h"
#include "tests/bench/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

enum { PREFETCH = 1000, ACK_EVERY = 250 };

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "consume: cannot %s\n", what);
    exit(1);
}

static amqp_connection_state_t open_connection(char *url)
{
    amqp_connection_state_t c = amqp_new_connection();
    struct amqp_connection_info info;
    amqp_socket_t *socket = amqp_tcp_socket_new(c);

    if (amqp_parse_url(url, &info) != AMQP_STATUS_OK)
        die("read the URL");
    if (!socket || amqp_socket_open(socket, info.host, info.port) != 0)
        die("connect");
    if (amqp_login(c, info.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password)
            .reply_type != AMQP_RESPONSE_NORMAL)
        die("log in");
    if (!amqp_channel_open(c, 1) || !amqp_basic_qos(c, 1, 0, PREFETCH, 0))
        die("open a channel");
    return c;
}

static double own_cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct usage_server broker = {0};
    struct usage before = {0}, now = {0};
    amqp_connection_state_t c;
    uint64_t events, started = 0;
    double cpu;

    if (argc < 4 || (argc > 4 && usage_parse(argv[4], &broker) < 0)) {
        fputs("usage: consume URL QUEUE EVENTS [BROKER=PID,..]\n", stderr);
        return 2;
    }
    events = strtoull(argv[3], NULL, 10);
    c = open_connection(argv[1]);
    if (usage_read(&broker, &before) < 0)
        return 1;
    cpu = own_cpu_s();
    if (!amqp_basic_consume(c, 1, amqp_cstring_bytes(argv[2]), amqp_empty_bytes, 0, 0, 0, amqp_empty_table))
        die("consume");
    for (uint64_t n = 1; n <= events; n++) {
        amqp_envelope_t delivery;

        amqp_maybe_release_buffers(c);
        if (amqp_consume_message(c, &delivery, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL)
            die("get a delivery");
        if (n == 1)
            started = now_ns();
        if ((n % ACK_EVERY == 0 || n == events) && amqp_basic_ack(c, 1, delivery.delivery_tag, 1) != 0)
            die("acknowledge");
        amqp_destroy_envelope(&delivery);
    }
    printf("{\"events\":%llu,\"seconds\":%.6f,\"own_cpu_s\":%.6f,\"servers\":{", (unsigned long long)events,
           (double)(now_ns() - started) / 1e9, own_cpu_s() - cpu);
    if (usage_read(&broker, &now) < 0)
        return 1;
    if (broker.count)
        usage_print(stdout, &broker, &before, &now);
    puts("}}");
    (void)amqp_connection_close(c, AMQP_REPLY_SUCCESS); /* We are leaving, whatever it answers. */
    (void)amqp_destroy_connection(c);
    return 0;
}
