/* gateway_metrics.h - every metric of the gateway, one row each: enum, name, type, label, help. */
#ifndef EF_GATEWAY_METRICS_H
#define EF_GATEWAY_METRICS_H

#include "shared/metrics.h"

#define GATEWAY_METRICS(X)                                                                                  \
    X(GM_SESSIONS, "event_gateway_sessions", METRIC_GAUGE, NULL, "WebSocket sessions that are open.")       \
    X(GM_SESSIONS_OPENED, "event_gateway_sessions_opened_total", METRIC_COUNTER, NULL,                      \
      "Sessions opened. A jump is a reconnect storm.")                                                      \
    X(GM_SESSIONS_CLOSED, "event_gateway_sessions_closed_total", METRIC_COUNTER, "reason",                  \
      "Sessions that ended, by reason (docs/protocol.md lists the close codes).")                           \
    X(GM_CONNECTIONS, "event_gateway_connections_total", METRIC_COUNTER, NULL, "TCP connections accepted.") \
    X(GM_CONNECTIONS_REFUSED, "event_gateway_connections_refused_total", METRIC_COUNTER, "reason",          \
      "Connections without a proper request head, by reason. no_descriptors: raise the nofile limit.")      \
    X(GM_UPGRADES_REFUSED, "event_gateway_upgrades_refused_total", METRIC_COUNTER, "reason",                \
      "WebSocket upgrades answered with an HTTP error. Rising bad_token: clients with old or forged "       \
      "tokens.")                                                                                            \
    X(GM_BINDINGS, "event_gateway_bindings", METRIC_GAUGE, NULL, "Live bindings.")                          \
    X(GM_BINDINGS_PENDING, "event_gateway_bindings_pending", METRIC_GAUGE, NULL,                            \
      "Bindings that wait for their access check or for Redis. Stays high: look at both.")                  \
    X(GM_REQUESTS, "event_gateway_requests_total", METRIC_COUNTER, "command",                               \
      "Client messages, by command.")                                                                       \
    X(GM_ERRORS, "event_gateway_errors_total", METRIC_COUNTER, "code",                                      \
      "Errors answered to clients, by code (docs/protocol.md).")                                            \
    X(GM_EVENTS, "event_gateway_events_total", METRIC_COUNTER, "exchange",                                  \
      "Events received from Redis and routed (each once, however many channels it came by).")               \
    X(GM_EVENTS_REPEATED, "event_gateway_events_repeated_total", METRIC_COUNTER, "exchange",                \
      "Messages for an event that was routed already (overlapping channels while interest changes).")       \
    X(GM_EVENTS_MALFORMED, "event_gateway_events_malformed_total", METRIC_COUNTER, NULL,                    \
      "Messages on our channels that are none of ours. Above 0: somebody else publishes there.")            \
    X(GM_DELIVERIES, "event_gateway_deliveries_total", METRIC_COUNTER, NULL,                                \
      "Frames handed to sessions (one per matching binding).")                                              \
    X(GM_DELIVERED_BYTES, "event_gateway_delivered_bytes_total", METRIC_COUNTER, NULL,                      \
      "Bytes of WebSocket frames handed to sessions.")                                                      \
    X(GM_QUEUED_BYTES, "event_gateway_queued_bytes", METRIC_GAUGE, NULL,                                    \
      "Bytes that wait for sessions to read. Rising: slow clients or a full network.")                      \
    X(GM_RESUMES, "event_gateway_resumes_total", METRIC_COUNTER, "result",                                  \
      "Bindings brought up to date from the log: recovered, or refused. Refused rising: history is too "    \
      "short.")                                                                                             \
    X(GM_GAPS, "event_gateway_gaps_total", METRIC_COUNTER, "exchange",                                      \
      "Times that events were lost to this gateway, and its clients told so.")                              \
    X(GM_REPLAY_READS, "event_gateway_replay_reads_total", METRIC_COUNTER, NULL,                            \
      "Pages of logs read from Redis.")                                                                     \
    X(GM_REPLAY_ENTRIES, "event_gateway_replay_entries_total", METRIC_COUNTER, NULL,                        \
      "Log entries passed over for resuming sessions or for this gateway itself.")                          \
    X(GM_REDIS_MESSAGES, "event_gateway_redis_messages_total", METRIC_COUNTER, "kind",                      \
      "Messages from Redis by kind: event, tick, probe.")                                                   \
    X(GM_REDIS_BYTES, "event_gateway_redis_received_bytes_total", METRIC_COUNTER, NULL,                     \
      "Bytes received on the subscribing Redis connection.")                                                \
    X(GM_CHANNELS, "event_gateway_channels", METRIC_GAUGE, NULL,                                            \
      "Redis channels subscribed for bindings (ticks and probes not counted).")                             \
    X(GM_REDIS_UP, "event_gateway_redis_up", METRIC_GAUGE, "link",                                          \
      "1 while the Redis connection (feed, command) is up.")                                                \
    X(GM_REDIS_RECONNECTS, "event_gateway_redis_disconnects_total", METRIC_COUNTER, "link",                 \
      "Times a Redis connection broke or could not be made.")                                               \
    X(GM_TICK_AGE, "event_gateway_tick_age_seconds", METRIC_GAUGE, "exchange",                              \
      "Seconds since the partition's owner ticked. Above 3: no ingest owns it, or this Redis is stale.")    \
    X(GM_ACCESS_CHECKS, "event_gateway_access_checks_total", METRIC_COUNTER, "source",                      \
      "Access checks by what answered: local (rules), memory, redis, http, breaker, joined (an equal "      \
      "check).")                                                                                            \
    X(GM_ACCESS_VERDICTS, "event_gateway_access_verdicts_total", METRIC_COUNTER, "verdict",                 \
      "Access checks by verdict: granted, denied, timeout, error, busy.")                                   \
    X(GM_ACCESS_UNCACHED, "event_gateway_access_uncached_total", METRIC_COUNTER, "reason",                  \
      "Answers that could not be shared through Redis: redis_down, redis_slow, redis_error, generation.")   \
    X(GM_ACCESS_HTTP, "event_gateway_access_http_total", METRIC_COUNTER, "result",                          \
      "Answers of the access-check APIs: ok, refused, nonsense, empty, busy, broken, network, timeout.")    \
    X(GM_ACCESS_HTTP_SECONDS, "event_gateway_access_http_seconds", METRIC_HISTOGRAM, NULL,                  \
      "How long the access-check APIs take to answer.")                                                     \
    X(GM_ACCESS_PENDING, "event_gateway_access_pending", METRIC_GAUGE, NULL,                                \
      "Access checks in flight. Near access.pending_max: the APIs are too slow.")                           \
    X(GM_ACCESS_BREAKER, "event_gateway_access_breaker_open", METRIC_GAUGE, "origin",                       \
      "1 while checks at this origin are refused at once because it kept failing.")                         \
    X(GM_ACCESS_CACHE, "event_gateway_access_cache_entries", METRIC_GAUGE, NULL,                            \
      "Answers in this process's memory.")                                                                  \
    X(GM_RELOADS, "event_gateway_reloads_total", METRIC_COUNTER, NULL,                                      \
      "Configurations taken over on SIGHUP (a wrong one is refused, logged and not counted).")              \
    X(GM_LOG_DROPPED, "event_gateway_log_lines_dropped_total", METRIC_COUNTER, NULL,                        \
      "Log lines lost because the reader of the log is too slow.")                                          \
    X(GM_LOOP_LAG, "event_gateway_loop_lag_seconds", METRIC_HISTOGRAM, NULL,                                \
      "Time that a turn of the event loop took. High values: something blocks.")                            \
    X(GM_LOOP_LAG_MAX, "event_gateway_loop_lag_max_seconds", METRIC_GAUGE, NULL,                            \
      "Longest turn of the event loop in the last 10 to 20 seconds.")

enum gateway_metric {
#define X(id, name, type, label, help) id,
    GATEWAY_METRICS(X)
#undef X
        GATEWAY_METRIC_COUNT
};

extern const struct metric_row gateway_metric_rows[GATEWAY_METRIC_COUNT];

#endif
