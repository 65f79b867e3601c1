"""REFERENCE.md, *Frames*: what a browser receives for an event, byte for byte.

The right column of the cases is what the original was seen to send, without the three members of `dinfo` that named its
per-browser queue (queue, deliveryTag, consumerTag). Ours begins with "id"; what follows must be the same text.
"""
import asyncio
import json
import re
import struct
from collections import namedtuple
from decimal import Decimal

import pika
import pytest

from support.bystander import Bystander

OURS = re.compile(r'\{"id":"([^":]+):0:([A-Za-z0-9]+):(\d+-\d+)",(.*)', re.S)

# The original's recordings were published by a client that always sends a header table: "headers":{} in dinfo.
TAIL = '"redelivered":false,"exchange":"public","routingKey":"d.x"}'


@pytest.fixture(scope="module")
def f(module_fleet):
    return module_fleet(gateway={"session_requests_per_s": 0, "session_queue_max_bytes": 64 << 20})


@pytest.fixture(scope="module")
def bystander(f, token):
    with Bystander(f, token("bystander")) as b:
        yield b


def receive(f, token, publish, count=1, bindings=(("public", "d.#"),), timeout=20):
    """What a client with these bindings receives for publish(): exactly `count` texts, then nothing more."""
    async def go():
        async with f.client(token) as c:
            for exchange, key in bindings:
                await c.bind_ok(exchange, key)
            await c.bind_ok("public", "fence.#")
            publish()
            texts = [await c.next_text(timeout) for _ in range(count)]
            f.publish("public", "fence.1", {})
            assert (await c.next(timeout))["dinfo"]["routingKey"] == "fence.1", "more came than was expected"
            return texts
    return asyncio.run(go())


def without_id(text):
    """The frame without its id, which must stand in front and name exchange, partition, epoch and stream id."""
    m = OURS.fullmatch(text)
    assert m, text[:200]
    return "{" + m[4]


Case = namedtuple("Case", "name exchange key properties body frame", defaults=[None])


def case(name, body, frame, key="d.x", exchange="public", **properties):
    return Case(name, exchange, key, properties, body, frame)


JSON = {"content_type": "application/json", "headers": {}}
DINFO = '{"headers":{},"dinfo":{"contentType":"application/json","headers":{},' + TAIL

KEPT = [
    case("an_object_is_embedded",
         '{"_id":"57c4a6fafe948ddd0372e20e","status":"finished","user_id":"1","n":1.5,"u":"\u00e9\u2603\U0001f600",'
         '"nested":{"b":1,"a":[1,2,{}]}}',
         '{"headers":{},"dinfo":{"contentType":"application/json","headers":{},"redelivered":false,"exchange":"wf.task",'
         '"routingKey":"inst1.57c4"},"msg":{"_id":"57c4a6fafe948ddd0372e20e","status":"finished","user_id":"1","n":1.5,'
         '"u":"\u00e9\u2603\U0001f600","nested":{"b":1,"a":[1,2,{}]}}}',
         exchange="wf.task", key="inst1.57c4", **JSON),
    case("text_json_is_json_too", '{"a":1}',
         '{"headers":{},"dinfo":{"contentType":"text/json","headers":{},' + TAIL + ',"msg":{"a":1}}',
         content_type="text/json", headers={}),
    case("a_scalar_is_msg", "42", DINFO + ',"msg":42}', **JSON),
    case("a_string_is_msg", '"hi"', DINFO + ',"msg":"hi"}', **JSON),
    case("null_is_msg", "null", DINFO + ',"msg":null}', **JSON),
    case("an_array_is_msg", '[1,"x"]', DINFO + ',"msg":[1,"x"]}', **JSON),
    case("json_that_is_not_json_is_a_parse_error", '{"a":',
         '{"headers":{},"dinfo":{"parseError":{},"rawData":"{\\"a\\":","contentType":"application/json","headers":{},' +
         TAIL + ',"msg":null}', **JSON),
    case("an_empty_json_body_is_a_parse_error", "",
         '{"headers":{},"dinfo":{"parseError":{},"rawData":"","contentType":"application/json","headers":{},' +
         TAIL + ',"msg":null}', **JSON),
    case("a_byte_order_mark_is_a_parse_error", '\ufeff{"a":1}',
         '{"headers":{},"dinfo":{"parseError":{},"rawData":"\ufeff{\\"a\\":1}","contentType":"application/json",'
         '"headers":{},' + TAIL + ',"msg":null}', **JSON),
    case("invalid_utf8_in_json_is_replaced", b'"\xff\xfe"', DINFO + ',"msg":"\ufffd\ufffd"}', **JSON),
    case("text_is_a_buffer", "hello world",
         '{"headers":{},"dinfo":{"contentType":"text/plain","headers":{},' + TAIL + ',"msg":{"data":{"type":"Buffer",'
         '"data":[104,101,108,108,111,32,119,111,114,108,100]},"contentType":"text/plain"}}',
         content_type="text/plain", headers={}),
    case("an_empty_text_is_an_empty_buffer", "",
         '{"headers":{},"dinfo":{"contentType":"text/plain","headers":{},' + TAIL +
         ',"msg":{"data":{"type":"Buffer","data":[]},"contentType":"text/plain"}}', content_type="text/plain", headers={}),
    case("binary_is_a_buffer", b"\x00\x01\x02\xff\xfe",
         '{"headers":{},"dinfo":{"contentType":"application/octet-stream","headers":{},' + TAIL +
         ',"msg":{"data":{"type":"Buffer","data":[0,1,2,255,254]},"contentType":"application/octet-stream"}}',
         content_type="application/octet-stream", headers={}),
    case("json_without_content_type_is_a_buffer", '{"a":1}',
         '{"headers":{},"dinfo":{"headers":{},' + TAIL + ',"msg":{"data":{"type":"Buffer","data":[123,34,97,34,58,49,125]}}}',
         headers={}),
    case("nothing_at_all_is_an_empty_buffer", "",
         '{"headers":{},"dinfo":{"headers":{},' + TAIL + ',"msg":{"data":{"type":"Buffer","data":[]}}}', headers={}),
    case("what_node_amqp_publishes", '{"_id":"t","status":"finished"}',
         '{"headers":{},"dinfo":{"contentType":"application/json","redelivered":false,"exchange":"wf.task",'
         '"routingKey":"inst9.t"},"msg":{"_id":"t","status":"finished"}}',
         exchange="wf.task", key="inst9.t", content_type="application/json"),
    case("a_string_that_node_amqp_publishes", "plain string",
         '{"headers":{},"dinfo":{"contentType":"application/octet-stream","redelivered":false,"exchange":"wf.task",'
         '"routingKey":"inst9.str"},"msg":{"data":{"type":"Buffer","data":[112,108,97,105,110,32,115,116,114,105,110,103]},'
         '"contentType":"application/octet-stream"}}',
         exchange="wf.task", key="inst9.str", content_type="application/octet-stream"),
    case("all_properties_in_their_order", '{"a":1}',
         '{"headers":{"h":"1"},"dinfo":{"contentType":"application/json","contentEncoding":"utf-8","headers":{"h":"1"},'
         '"deliveryMode":2,"priority":5,"correlationId":"corr-1","replyTo":"rq","expiration":"60000","messageId":"m-1",'
         '"timestamp":1472586766,"type":"ttype","userId":"guest","appId":"app",' + TAIL + ',"msg":{"a":1}}',
         content_type="application/json", content_encoding="utf-8", headers={"h": "1"}, delivery_mode=2, priority=5,
         correlation_id="corr-1", reply_to="rq", expiration="60000", message_id="m-1", timestamp=1472586766, type="ttype",
         user_id="guest", app_id="app"),
    case("zero_and_empty_properties_are_left_out", '{"a":1}',
         '{"headers":{},"dinfo":{"contentType":"application/json","headers":{},"deliveryMode":1,' + TAIL + ',"msg":{"a":1}}',
         priority=0, timestamp=0, delivery_mode=1, message_id="", **JSON),
]

MENDED = [
    # parsed and printed anew by the original: numbers rounded, names sorted and dropped
    case("json_is_embedded_byte_for_byte",
         '{ "b" : 1,\n "a":1, "a":2, "big":12345678901234567890, "f":1.0, "e":1e3, "2":1, "1":2, "esc":"\\u00e9\\/" }',
         DINFO + ',"msg":{ "b" : 1,\n "a":1, "a":2, "big":12345678901234567890, "f":1.0, "e":1e3, "2":1, "1":2, '
         '"esc":"\\u00e9\\/" }}', **JSON),
    # a Buffer in the original
    case("a_charset_parameter_counts_as_json", '{"a":1}',
         '{"headers":{},"dinfo":{"contentType":"application/json; charset=utf-8","headers":{},' + TAIL + ',"msg":{"a":1}}',
         content_type="application/json; charset=utf-8", headers={}),
    case("upper_case_counts_as_json", "1.50",
         '{"headers":{},"dinfo":{"contentType":"Application/JSON","headers":{},' + TAIL + ',"msg":1.50}',
         content_type="Application/JSON", headers={}),
]


def check_frame(f, token, c):
    pattern = c.key.split(".")[0] + ".#"
    text, = receive(f, token, lambda: f.publish(c.exchange, c.key, c.body, **c.properties),
                    bindings=[(c.exchange, pattern)])
    assert without_id(text) == c.frame
    json.loads(text)


@pytest.mark.parametrize("c", KEPT, ids=[c.name for c in KEPT])
def test_a_frame_is_the_original_s_byte_for_byte(f, token, c):
    check_frame(f, token(), c)


@pytest.mark.parametrize("c", MENDED, ids=[c.name for c in MENDED])
def test_a_frame_is_mended_where_the_original_lost_something(f, token, c):
    check_frame(f, token(), c)


def test_the_id_stands_in_front_and_only_grows(f, token):
    """Row: top-level order."""
    texts = receive(f, token(), lambda: [f.publish("public", "d.x", {"n": n}) for n in range(3)], count=3)
    assert [list(json.loads(t)) for t in texts] == [["id", "headers", "dinfo", "msg"]] * 3
    ids = [OURS.fullmatch(t).groups()[:3] for t in texts]
    assert {(exchange, epoch) for exchange, epoch, _ in ids} == {("public", ids[0][1])}
    positions = [tuple(map(int, stream_id.split("-"))) for _, _, stream_id in ids]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize("content_type, body, msg", [
    ("application/json", b'{"pad":"' + b"x" * ((1 << 20) - 10) + b'"}', None),
    (None, b"\x07" * (1 << 20), '{"data":{"type":"Buffer","data":[' + ",".join(["7"] * (1 << 20)) + "]}}"),
], ids=["json", "binary"])
def test_a_body_of_1_MiB_is_one_message(f, token, content_type, body, msg):
    """Row: 1 MB body."""
    assert len(body) == 1 << 20
    properties = {"content_type": content_type} if content_type else {}
    text, = receive(f, token(), lambda: f.publish("public", "d.x", body, **properties))
    assert text.endswith('"msg":' + (msg or body.decode()) + "}")


def test_two_bindings_that_match_give_two_copies(f, token):
    """Row: two bindings that both match."""
    texts = receive(f, token(), lambda: f.publish("public", "o.1", {"i": 1}), count=2,
                    bindings=[("public", "o.#"), ("public", "o.*")])
    assert texts[0] == texts[1] and json.loads(texts[0])["msg"] == {"i": 1}


def test_the_same_binding_twice_gives_two_copies(f, token):
    """Row: the same one twice."""
    texts = receive(f, token(), lambda: f.publish("public", "o.1", {"i": 1}), count=2,
                    bindings=[("public", "o.1"), ("public", "o.1")])
    assert texts[0] == texts[1] and json.loads(texts[0])["msg"] == {"i": 1}


def test_order_is_preserved(f, token):
    """Row: order."""
    def publish():
        for n in range(500):
            f.publish("public", f"d.{n % 7}", {"n": n})
    texts = receive(f, token(), publish, count=500)
    assert [json.loads(t)["msg"]["n"] for t in texts] == list(range(500))


# Row: header types. The bytes of a table's fields are written here, because a library sends only those kinds that it
# likes (AMQP 0-9-1, 4.2.5.5, with the letters that RabbitMQ uses).

class RawTable(bytes):
    """The encoded fields of a header table, without the length in front."""


def field(name, kind, value):
    return struct.pack("!B", len(name)) + name.encode() + kind.encode() + value


def long_string(value):
    return struct.pack("!I", len(value)) + value


HEADER_KINDS = [
    # name, kind, bytes, JSON text
    ("int8", "b", struct.pack("!b", -7), "-7"),
    ("uint8", "B", struct.pack("!B", 200), "200"),
    ("int16", "s", struct.pack("!h", -30000), "-30000"),
    ("uint16", "u", struct.pack("!H", 65535), "65535"),
    ("int32", "I", struct.pack("!i", -5), "-5"),
    ("uint32", "i", struct.pack("!I", 4000000000), "4000000000"),
    ("int64", "l", struct.pack("!q", 5000000000), "5000000000"),
    ("int64 above 2^53", "l", struct.pack("!q", 9007199254740993), "9007199254740993"),
    ("negative int64", "l", struct.pack("!q", -(1 << 63)), "-9223372036854775808"),
    ("bool", "t", b"\x01", "true"),
    ("false", "t", b"\x00", "false"),
    ("float", "f", struct.pack("!f", 1.5), "1.5"),
    ("float that is no binary fraction", "f", struct.pack("!f", 0.1), "0.1"),
    ("double", "d", struct.pack("!d", 0.1), "0.1"),
    ("decimal", "D", struct.pack("!BI", 2, 314), "3.14"),
    ("string", "S", long_string("str\u00e9".encode()), '"str\u00e9"'),
    ("bytes", "x", long_string(b"\x00\xff"), '{"type":"Buffer","data":[0,255]}'),
    ("timestamp", "T", struct.pack("!Q", 1472586766), "1472586766"),
    ("void", "V", b"", "null"),
    ("array", "A", long_string(b"b\x01" + b"S" + long_string(b"two") + b"F" + long_string(field("x", "b", b"\x01"))),
     '[1,"two",{"x":1}]'),
    ("table", "F", long_string(field("k", "S", long_string(b"v"))), '{"k":"v"}'),
]


@pytest.fixture
def raw_tables(monkeypatch):
    """Lets pika send a RawTable as it is."""
    encode_table = pika.data.encode_table

    def encode(pieces, table):
        if not isinstance(table, RawTable):
            return encode_table(pieces, table)
        pieces.append(struct.pack("!I", len(table)) + table)
        return 4 + len(table)
    monkeypatch.setattr(pika.data, "encode_table", encode)


def publish_headers(f, table):
    f.publish("public", "d.x", {"a": 1}, headers=table)


@pytest.mark.parametrize("name, kind, value, text", HEADER_KINDS, ids=[k[0].replace(" ", "_") for k in HEADER_KINDS])
def test_a_header_of_this_kind_has_its_json_value_and_disturbs_nobody(f, token, bystander, raw_tables, name, kind, value,
                                                                        text):
    table = RawTable(field("h", kind, value))
    got, = receive(f, token(), lambda: publish_headers(f, table))
    headers = '{"h":' + text + "}"
    assert without_id(got) == ('{"headers":' + headers + ',"dinfo":{"contentType":"application/json","headers":' + headers +
                               "," + TAIL + ',"msg":{"a":1}}')
    bystander.check()


def test_all_header_kinds_together_disturb_nobody(f, token, bystander, raw_tables):
    table = RawTable(b"".join(field(name, kind, value) for name, kind, value, _ in HEADER_KINDS))
    got, = receive(f, token(), lambda: publish_headers(f, table))
    headers = json.loads(got, parse_float=Decimal)["headers"]
    assert headers == {name: json.loads(text, parse_float=Decimal) for name, _, _, text in HEADER_KINDS}
    bystander.check()
