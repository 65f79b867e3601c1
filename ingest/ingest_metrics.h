/* ingest_metrics.h - every metric of ingest, one row each: enum, name, type, label, help. */
#ifndef EF_INGEST_METRICS_H
#define EF_INGEST_METRICS_H

#include "shared/metrics.h"

#define INGEST_METRICS(X)                                                                                    \
    X(IM_DELIVERIES, "event_ingest_deliveries_total", METRIC_COUNTER, "exchange",                            \
      "Deliveries received from RabbitMQ, redelivered ones included.")                                       \
    X(IM_REDELIVERED, "event_ingest_redelivered_total", METRIC_COUNTER, "exchange",                          \
      "Deliveries that RabbitMQ had handed out before. Rises when an ingest died or lost its connection.")   \
    X(IM_PUBLISHED, "event_ingest_published_total", METRIC_COUNTER, "exchange",                              \
      "Events that Redis has confirmed: in the log, and published.")                                         \
    X(IM_DUPLICATES, "event_ingest_duplicates_total", METRIC_COUNTER, "exchange",                            \
      "Redelivered events that were in the log already: acked, not published again.")                        \
    X(IM_ACKED, "event_ingest_acked_total", METRIC_COUNTER, "exchange", "Deliveries acked to RabbitMQ.")     \
    X(IM_DEAD_LETTERED, "event_ingest_dead_lettered_total", METRIC_COUNTER, "exchange",                      \
      "Events over ingest.message_max_bytes, rejected to the queue event.dead. Look there; tell the "        \
      "publisher.")                                                                                          \
    X(IM_HEADERS_DROPPED, "event_ingest_headers_dropped_total", METRIC_COUNTER, "exchange",                  \
      "Events served without their header table because it is nested too deep or malformed.")                \
    X(IM_BATCHES, "event_ingest_batches_total", METRIC_COUNTER, "exchange",                                  \
      "Batches handed to Redis. Published by batches is the mean batch size; 128 is the largest.")           \
    X(IM_BATCHES_IN_FLIGHT, "event_ingest_batches_in_flight", METRIC_GAUGE, "exchange",                      \
      "Batches without Redis's answer. Stays at 4: Redis is the bottleneck.")                                \
    X(IM_INFLIGHT_BYTES, "event_ingest_inflight_bytes", METRIC_GAUGE, NULL,                                  \
      "Bytes of deliveries that are not acked. At ingest.inflight_max_bytes reading from RabbitMQ stops.")   \
    X(IM_INFLIGHT_EVENTS, "event_ingest_inflight_events", METRIC_GAUGE, "exchange",                          \
      "Deliveries that are not acked.")                                                                      \
    X(IM_READ_PAUSED, "event_ingest_read_paused", METRIC_GAUGE, NULL,                                        \
      "1 while nothing is read from RabbitMQ because of ingest.inflight_max_bytes.")                         \
    X(IM_READ_PAUSES, "event_ingest_read_pauses_total", METRIC_COUNTER, NULL,                                \
      "Times that reading from RabbitMQ was stopped. Rising: Redis cannot follow.")                          \
    X(IM_CLAIMS, "event_ingest_claims_total", METRIC_COUNTER, "exchange",                                    \
      "Times this process became the owner of the exchange's partition.")                                    \
    X(IM_FENCED, "event_ingest_fenced_total", METRIC_COUNTER, "exchange",                                    \
      "Times another owner, or a lost log, ended this one's claim. Often: two ingests fight; look at both "  \
      "logs.")                                                                                               \
    X(IM_OWNER, "event_ingest_owner", METRIC_GAUGE, "exchange",                                              \
      "1 if this process publishes the exchange's events. Sum over all ingests below 1 for long: nobody "    \
      "does.")                                                                                               \
    X(IM_LEASE, "event_ingest_lease_held", METRIC_GAUGE, "exchange",                                         \
      "1 if this process ticks for the exchange. Exactly one ingest should.")                                \
    X(IM_EPOCHS, "event_ingest_epochs_total", METRIC_COUNTER, "exchange",                                    \
      "Epochs that began under this process: the log was born, deleted, or its tail was lost. Clients saw "  \
      "a gap.")                                                                                              \
    X(IM_REDIS_ERRORS, "event_ingest_redis_errors_total", METRIC_COUNTER, "code",                            \
      "Publishing was held because Redis answered with an error, by code. Events wait in RabbitMQ "          \
      "meanwhile.")                                                                                          \
    X(IM_CONSUMERS, "event_ingest_consuming", METRIC_GAUGE, "exchange",                                      \
      "1 while this process is registered as a consumer of the exchange's queue (active or standby).")       \
    X(IM_WAITING, "event_ingest_exchange_waiting", METRIC_GAUGE, "exchange",                                 \
      "1 while RabbitMQ has no such exchange: it is waited for. Stays: a wrong name, or no publisher yet.")  \
    X(IM_REFUSED, "event_ingest_queue_refused", METRIC_GAUGE, "exchange",                                    \
      "1 while RabbitMQ refuses our queue (other arguments, permissions). Delete the queue or mend the "     \
      "rights.")                                                                                             \
    X(IM_QUEUE_MESSAGES, "event_ingest_queue_messages", METRIC_GAUGE, "exchange",                            \
      "Messages in the exchange's queue that wait for delivery. Rising: ingest or Redis cannot follow.")     \
    X(IM_CHANNELS_CLOSED, "event_ingest_channels_closed_total", METRIC_COUNTER, "code",                      \
      "Channels that RabbitMQ closed on us, by AMQP reply code. 406: an ack took longer than "               \
      "consumer_timeout.")                                                                                   \
    X(IM_CANCELS, "event_ingest_consumer_cancels_total", METRIC_COUNTER, "exchange",                         \
      "Consumers cancelled by RabbitMQ (queue deleted, its node lost); they come back by themselves.")       \
    X(IM_LOG_ENTRIES, "event_ingest_log_entries", METRIC_GAUGE, "exchange",                                  \
      "Events in the exchange's log, as the holder of the tick lease sees it.")                              \
    X(IM_LOG_BYTES, "event_ingest_log_bytes", METRIC_GAUGE, "exchange",                                      \
      "Memory of the exchange's log in Redis, estimated by Redis.")                                          \
    X(IM_TRIMMED, "event_ingest_trimmed_total", METRIC_COUNTER, "exchange",                                  \
      "Events removed from the log by history.max_age_s, max_events and max_bytes.")                         \
    X(IM_TRIM_LOST, "event_ingest_trim_lost_total", METRIC_COUNTER, "exchange",                              \
      "Events removed by history.hard_max_bytes before they were acked or the notifier read them. Above 0: " \
      "loss.")                                                                                               \
    X(IM_TICKS, "event_ingest_ticks_total", METRIC_COUNTER, "exchange", "Ticks published.")                  \
    X(IM_AMQP_CONNECTED, "event_ingest_amqp_connected", METRIC_GAUGE, NULL,                                  \
      "1 while the connection to RabbitMQ is up.")                                                           \
    X(IM_AMQP_DISCONNECTS, "event_ingest_amqp_disconnects_total", METRIC_COUNTER, NULL,                      \
      "Times the connection to RabbitMQ broke or could not be made.")                                        \
    X(IM_REDIS_UP, "event_ingest_redis_up", METRIC_GAUGE, NULL, "1 while the Redis connection is up.")       \
    X(IM_REDIS_DISCONNECTS, "event_ingest_redis_disconnects_total", METRIC_COUNTER, NULL,                    \
      "Times the Redis connection broke or could not be made.")                                              \
    X(IM_LATENCY, "event_ingest_publish_seconds", METRIC_HISTOGRAM, NULL,                                    \
      "From a batch's hand-over to Redis to its last answer.")                                               \
    X(IM_RELOADS, "event_ingest_reloads_total", METRIC_COUNTER, NULL,                                        \
      "Configurations taken over on SIGHUP (a wrong one is refused, logged and not counted).")               \
    X(IM_LOG_DROPPED, "event_ingest_log_lines_dropped_total", METRIC_COUNTER, NULL,                          \
      "Log lines lost because the reader of the log is too slow.")                                           \
    X(IM_LOOP_LAG, "event_ingest_loop_lag_seconds", METRIC_HISTOGRAM, NULL,                                  \
      "Time that a turn of the event loop took. High values: something blocks.")                             \
    X(IM_LOOP_LAG_MAX, "event_ingest_loop_lag_max_seconds", METRIC_GAUGE, NULL,                              \
      "Longest turn of the event loop in the last 10 to 20 seconds.")

enum ingest_metric {
#define X(id, name, type, label, help) id,
    INGEST_METRICS(X)
#undef X
        INGEST_METRIC_COUNT
};

extern const struct metric_row ingest_metric_rows[INGEST_METRIC_COUNT];

#endif
