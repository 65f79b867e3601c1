"""What badly written, or hostile, clients send: each with what the gateway must do about it.

MESSAGES are whole messages of a session that has bound nothing; FRAMES are bytes behind a good handshake.
The original crashed, stopped serving everybody, or said nothing on most of them.

libwebsockets hides some frames from the gateway: there the connection is cut without a close frame (CUT is allowed then), and
a frame without a mask, which harms nobody but who sent it, is served (SERVED).
"""
import json
from collections import namedtuple

from .raw_ws import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

# send: text, or bytes for a binary message. code: None: an error is answered, whose wire code is `error`, and the session
# stays open; else the close code.
Message = namedtuple("Message", "what send error code")
# codes: the close codes that are right.
Frames = namedtuple("Frames", "what bytes codes")
CUT, SERVED = "cut", "served"


def _bind(ex, key, **more):
    return json.dumps({"bind": {"ex": ex, "key": key, **more}})


_ANSWERED = [
    ("an empty object", "{}", "bad_request"),
    ("an object without a command", '{"foo":1}', "bad_request"),
    ("an array", "[]", "bad_request"),
    ("an array around a bind", '[{"bind":{"ex":"public","key":"a"}}]', "bad_request"),
    ("a number", "5", "bad_request"),
    ("a string", '"bind"', "bad_request"),
    ("true", "true", "bad_request"),
    ("JSON null", "null", "bad_request"),
    ("bind is an empty object", '{"bind":{}}', "bad_request"),
    ("bind is null", '{"bind":null}', "bad_request"),
    ("bind is a string", '{"bind":"public"}', "bad_request"),
    ("bind is true", '{"bind":true}', "bad_request"),
    ("bind is an array", '{"bind":["public","a"]}', "bad_request"),
    ("bind is a number", '{"bind":0}', "bad_request"),
    ("ex is missing", '{"bind":{"key":"a"}}', "bad_request"),
    ("ex is null", '{"bind":{"ex":null,"key":"a"}}', "bad_request"),
    ("ex is an array", '{"bind":{"ex":["public"],"key":"a"}}', "bad_request"),
    ("ex is a number", '{"bind":{"ex":5,"key":"a"}}', "bad_request"),
    ("ex is an object", '{"bind":{"ex":{},"key":"a"}}', "bad_request"),
    ("an unknown exchange", _bind("nope", "a.#"), "unknown_exchange"),
    ("an empty exchange", _bind("", "a.#"), "unknown_exchange"),
    ("ex is __proto__", _bind("__proto__", "a"), "unknown_exchange"),
    ("ex is hasOwnProperty", _bind("hasOwnProperty", "a"), "unknown_exchange"),
    ("ex is constructor", _bind("constructor", "a"), "unknown_exchange"),
    ("ex is toString", _bind("toString", "a"), "unknown_exchange"),
    ("ex with NUL behind a known one", _bind("public\0", "a"), "unknown_exchange"),
    ("ex of 300 bytes", _bind("e" * 300, "a"), "unknown_exchange"),
    ("key is missing on a public exchange", '{"bind":{"ex":"public"}}', "bad_key"),
    ("key is missing on wf.task", '{"bind":{"ex":"wf.task"}}', "bad_key"),
    ("key is missing on wf.instance", '{"bind":{"ex":"wf.instance"}}', "bad_key"),
    ("key is missing on warehouse", '{"bind":{"ex":"warehouse"}}', "bad_key"),
    ("key is null on a public exchange", _bind("public", None), "bad_key"),
    ("key is null on wf.task", _bind("wf.task", None), "bad_key"),
    ("key is a number on a public exchange", _bind("public", 5), "bad_key"),
    ("key is a number on wf.task", _bind("wf.task", 5), "bad_key"),
    ("key is an object", _bind("wf.task", {"a": 1}), "bad_key"),
    ("key is an array", _bind("wf.task", ["a"]), "bad_key"),
    ("key is true", _bind("public", True), "bad_key"),
    ("key of 256 bytes", _bind("public", "k" * 256), "bad_key"),
    ("key of 256 bytes on wf.task", _bind("wf.task", "ok." + "k" * 253), "bad_key"),
    ("key of 128 characters that are 256 bytes", _bind("public", "\u00e9" * 128), "bad_key"),
    ("a doubled name", '{"bind":{"ex":"public","ex":"wf","key":"a"}}', "bad_request"),
    ("arrays inside each other", "[" * 500 + "]" * 500, "bad_request"),
    ("req is an object", '{"ping":1,"req":{}}', "bad_request"),
    ("unbind of nothing", '{"unbind":{"ex":"public","key":"a"}}', "not_bound"),
]

_CLOSED = [
    ("half a bind", '{"bind":'),
    ("a word", "hello"),
    ("two values", "{}{}"),
    ("an empty text message", ""),
    ("an empty binary message", b""),
    ("binary garbage", b"\x00\x01\x02\xff"),
    ("a binary message that is not UTF-8", b'{"bind":{"ex":"public","key":"\xff"}}'),
    ("30000 open brackets", "[" * 30000),
    ("JavaScript", "{bind:{ex:'public',key:'a'}}"),
]

MESSAGES = ([Message(what, send, error, None) for what, send, error in _ANSWERED] +
            [Message(what, send, None, 1007) for what, send in _CLOSED])

FRAMES = [
    Frames("a reserved opcode", frame(b"x", opcode=3), {1002}),
    Frames("a reserved control opcode", frame(b"x", opcode=11), {1002}),
    Frames("the RSV1 bit", frame(b"x", rsv=4), {1002}),
    Frames("the RSV2 bit", frame(b"x", rsv=2), {1002}),
    Frames("the RSV3 bit on a ping", frame(b"x", opcode=PING, rsv=1), {1002}),
    Frames("an orphan continuation", frame(b"x", opcode=CONTINUATION), {1002}),
    Frames("a new message inside a fragmented one", frame(b"[", fin=False) + frame(b"[]"), {1002}),
    Frames("a ping over 125 bytes", frame(b"p" * 126, opcode=PING), {1002}),
    Frames("a fragmented ping", frame(b"p", opcode=PING, fin=False), {1002}),
    Frames("close code 1006", frame(b"\x03\xee", opcode=CLOSE), {1002}),
    Frames("close code 999", frame(b"\x03\xe7", opcode=CLOSE), {1002}),
    Frames("close code 1005", frame(b"\x03\xed", opcode=CLOSE), {1002}),
    Frames("a close payload of one byte", frame(b"\x03", opcode=CLOSE), {1002}),
    Frames("a frame without a mask", frame(b'{"ping":1}', mask=False), {1002, SERVED}),
    Frames("text that is not UTF-8", frame(b"\xff\xfe"), {1007}),
    Frames("a message of 101 MiB", frame(b" " * 1000, length=101 << 20), {1009}),
    Frames("a binary message of 101 MiB", frame(b" " * 1000, opcode=BINARY, length=101 << 20), {1009}),
    Frames("a message of 2^62 bytes", frame(b" " * 1000, length=1 << 62), {1009}),
    Frames("a message of 2^63 bytes", frame(b" " * 1000, length=1 << 63), {1002, 1009}),
    Frames("a fragmented message over the limit",
           frame(b"[", fin=False) + 65 * frame(b" " * 1024, opcode=CONTINUATION, fin=False), {1009}),
    Frames("a message in a million pieces", frame(b"[", fin=False) + 20000 * frame(b"", opcode=CONTINUATION, fin=False),
           {1008}),
]
assert TEXT == 1
