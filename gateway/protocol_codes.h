/* protocol_codes.h - every error code and close code of the client protocol, one row each. The rows become
 * the wire texts, the metric labels and docs/protocol.md. */
#ifndef EF_PROTOCOL_CODES_H
#define EF_PROTOCOL_CODES_H

/* Codes of {"req":..,"error":..,"code":..}. */
#define ERROR_CODES(X)                                                                                      \
    /* name, wire code, what it means */                                                                    \
    X(CODE_BAD_REQUEST, "bad_request", "The message is JSON, but not a command that can be served.")        \
    X(CODE_UNKNOWN_EXCHANGE, "unknown_exchange", "No such exchange is configured.")                         \
    X(CODE_BAD_KEY, "bad_key", "The key is not a string of at most 255 bytes.")                             \
    X(CODE_DENIED, "denied", "The access rules do not give this binding to this token.")                    \
    X(CODE_ACCESS_TIMEOUT, "access_timeout", "The access check did not answer in time; try again.")         \
    X(CODE_ACCESS_ERROR, "access_error", "The access check could not be made; try again later.")            \
    X(CODE_TOO_MANY_BINDINGS, "too_many_bindings", "The session is at gateway.session_bindings_max.")       \
    X(CODE_TOO_LARGE, "too_large", "A part of the request is larger than allowed.")                         \
    X(CODE_RATE_LIMITED, "rate_limited", "More requests than gateway.session_requests_per_s.")              \
    X(CODE_UNAVAILABLE, "unavailable", "The fleet cannot do this now; try again later.")                    \
    X(CODE_NOT_BOUND, "not_bound", "There is no such binding to take back.")                                \
    X(CODE_BAD_TOKEN, "bad_token", "The token is missing, malformed, or signed by a key that is not ours.") \
    X(CODE_EXPIRED, "expired", "The token has expired.")                                                    \
    X(CODE_REVOKED, "revoked", "In `unbound`: new access rules no longer give this binding.")

enum error_code {
#define X(name, wire, text) name,
    ERROR_CODES(X)
#undef X
        ERROR_CODE_COUNT
};

/* RFC 6455, 7.4.1, and the IANA registry of close codes; 4000 and above are ours. The name is the label of
 * event_gateway_sessions_closed_total. */
#define CLOSE_REASONS(X)                                                                                    \
    /* name, code, label, reason sent, what the client should do */                                         \
    X(CLOSE_NONE, 0, "none", "", "Nothing: the session is open.")                                           \
    X(CLOSE_PEER, 0, "peer", "", "Nothing: the client ended the session.")                                  \
    X(CLOSE_DRAIN, 1001, "drain", "server is going away", "Reconnect at once: another gateway takes over.") \
    X(CLOSE_NOT_JSON, 1007, "not_json", "message is not JSON", "Mend the client.")                          \
    X(CLOSE_RATE, 1008, "rate", "far too many requests", "Slow down; reconnect later.")                     \
    X(CLOSE_ABUSE, 1008, "fragments", "too many fragments", "Mend the client.")                             \
    X(CLOSE_TOO_BIG, 1009, "too_big", "message over message_max_bytes", "Send smaller messages.")           \
    X(CLOSE_INTERNAL, 1011, "internal", "out of memory", "Reconnect later.")                                \
    X(CLOSE_SLOW, 1013, "slow", "reader too slow", "Reconnect after a while, and read faster.")             \
    X(CLOSE_EXPIRED, 4401, "expired", "token expired", "Reconnect with a new token.")                       \
    X(CLOSE_BAD_TOKEN, 4401, "key_removed", "token no longer valid", "Reconnect with a new token.")         \
    X(CLOSE_GAP, 4410, "gap", "events were lost", "Reconnect and bind again.")                              \
    X(CLOSE_PONG, 0, "pong_timeout", "", "Nothing: the connection was dead.")                               \
    X(CLOSE_DEAD, 0, "write_failed", "", "Nothing: the connection was dead.")

enum close_reason {
#define X(name, code, label, reason, advice) name,
    CLOSE_REASONS(X)
#undef X
        CLOSE_REASON_COUNT
};

const char *error_code_wire(enum error_code code);
int close_reason_code(enum close_reason r); /* 0: no close frame is sent */
const char *close_reason_label(enum close_reason r);
const char *close_reason_text(enum close_reason r);

#endif
