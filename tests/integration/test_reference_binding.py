"""REFERENCE.md, *Binding*: what a bind is answered, what harms nobody, and what ends a session.

Clients here are old ones (no `req`) unless a test says otherwise: they may receive events and {"error": ..} only.
"""
import asyncio
import json

import pytest

from support.bad_input import CUT, FRAMES, MESSAGES, SERVED
from support.bystander import Bystander
from support.fleet import default_exchanges
from support.raw_ws import BINARY, CLOSE, CONTINUATION, PING, PONG, Gone, RawWs, close_of, frame
from support.wait import wait_for

BINDINGS_MAX = 2200


@pytest.fixture(scope="module")
def f(module_fleet, _access_api):
    exchanges = default_exchanges(_access_api.url)
    exchanges["ghost"] = {"access": "public"}
    fleet = module_fleet(exchanges=exchanges, declare=False, start=False,
                         gateway={"session_requests_per_s": 0, "session_bindings_max": BINDINGS_MAX})
    for name in exchanges:
        if name != "ghost":
            fleet.channel().exchange_declare(name, "topic", durable=True)
    for program in fleet.programs:
        program.start(ready=False)
    fleet.gateway.await_ready()
    wait_for(lambda: fleet.ingest.metric('event_ingest_consuming{exchange="public"}') == 1, 30, "ingest to consume")
    return fleet


@pytest.fixture(scope="module")
def bystander(f, token):
    with Bystander(f, token("bystander")) as b:
        yield b


def run(coroutine):
    return asyncio.run(coroutine)


async def heard_of(f, client, exchange, key, body=None):
    """An old client's binding has no answer: publish until it hears, and return what it heard so far."""
    async def hear():
        while client.messages.empty():
            f.publish(exchange, key, {"a": 1} if body is None else body)
            await asyncio.sleep(0.02)  # what came meanwhile is read
        return await client.next()
    return await asyncio.wait_for(hear(), 15)


def test_success_has_no_answer(f, token):
    """Row: success."""
    async def go():
        async with f.client(token()) as c:
            await c.bind("wf", "task.5f.#")
            await heard_of(f, c, "wf", "task.5f.6a")
            assert all(json.loads(m)["dinfo"]["routingKey"] == "task.5f.6a" for m in c.all)
    run(go())


def test_success_is_answered_when_the_request_carries_req(f, token):
    """Row: success."""
    async def go():
        async with f.client(token()) as c:
            for req in (7, "seven"):
                answer = await c.ask(bind={"ex": "wf", "key": "task.5f.#"}, req=req)
                assert answer["req"] == req and answer["ok"] is True and "error" not in answer
    run(go())


def test_denied_is_said_and_the_session_stays_open(f, token):
    """Row: denied. The original's text had a mistake: "denided"."""
    async def go():
        async with f.client(token()) as c:
            await c.bind("wf.task", "deny1.#")
            assert await c.next_text() == '{"error":"Access denied wf.task"}'
            await c.bind("public", "z")
            assert (await heard_of(f, c, "public", "z", {}))["msg"] == {}
    run(go())


def test_denied_has_a_code_for_those_who_send_req(f, token):
    """Row: denied."""
    async def go():
        async with f.client(token()) as c:
            answer = await c.ask(bind={"ex": "wf.task", "key": "deny1.#"}, req=3)
            assert answer == {"req": 3, "error": "Access denied wf.task", "code": "denied"}
    run(go())


@pytest.mark.parametrize("m", [m for m in MESSAGES if m.code is None],
                         ids=[m.what.replace(" ", "_") for m in MESSAGES if m.code is None])
def test_bad_request_is_answered_with_an_error_and_nothing_else_happens(f, token, bystander, m):
    """Rows: unknown exchange; {}; []; number; string; bind not an object; JSON null; key missing, null, number, object,
    array; ex array, number, __proto__, hasOwnProperty; key over 255 bytes; key missing on a public exchange."""
    async def go():
        async with f.client(token()) as c:
            await c.send(m.send)
            answer = await c.next()
            assert list(answer) == ["error"] and len(answer["error"]) > 8
            # The code is told to those who send req only, where the message has room for one.
            value = None if m.what == "a doubled name" else json.loads(m.send)
            if isinstance(value, dict) and "req" not in value:
                answer = await c.ask(**value, req=1)
                assert answer["code"] == m.error and answer["error"] == json.loads(c.all[0])["error"]
            assert (await c.ping())["ok"] is True
            await c.bind_ok("public", "after")
            f.publish("public", "after", {"still": "open"})
            assert (await c.next())["msg"] == {"still": "open"}
    run(go())
    bystander.check()


@pytest.mark.parametrize("m", [m for m in MESSAGES if m.code is not None],
                         ids=[m.what.replace(" ", "_") for m in MESSAGES if m.code is not None])
def test_what_is_not_json_closes_the_session_with_a_reason(f, token, bystander, m):
    """Row: not JSON, empty message, binary garbage."""
    async def go():
        async with f.client(token()) as c:
            await c.send(m.send)
            code, reason = await c.closed()
            assert code == m.code and reason
            assert c.all == []
    run(go())
    bystander.check()


def test_valid_json_in_a_binary_message_is_accepted(f, token):
    """Row: valid JSON in a binary or fragmented message."""
    async def go():
        async with f.client(token()) as c:
            await c.send(b'{"bind":{"ex":"public","key":"bin.#"}}')
            assert (await heard_of(f, c, "public", "bin.1"))["msg"] == {"a": 1}
    run(go())


@pytest.mark.parametrize("opcode", [1, BINARY], ids=["text", "binary"])
def test_valid_json_in_a_fragmented_message_is_accepted(f, token, opcode):
    """Row: valid JSON in a binary or fragmented message. A ping may come between its fragments (RFC 6455, 5.4)."""
    text = '{"bind":{"ex":"public","key":"frag.\u00e9.#"},"req":1}'.encode()
    pieces = [text[i:i + 1] for i in range(len(text))]
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        c.send(pieces[0], opcode=opcode, fin=False)
        c.send(b"hello", opcode=PING)
        assert c.recv_frame() == (PONG, b"hello")
        for piece in pieces[1:-1]:
            c.send(piece, opcode=CONTINUATION, fin=False)
        c.send(pieces[-1], opcode=CONTINUATION)
        assert json.loads(c.recv_text())["ok"] is True
        f.publish("public", "frag.\u00e9.1", {"a": 1})
        assert json.loads(c.recv_text())["msg"] == {"a": 1}


@pytest.mark.parametrize("key", ["k" * 255, "", "\u00e9" * 127, "a\0b", ".", "a..b"],
                         ids=["255_bytes", "empty", "254_bytes_of_two_each", "with_NUL", "two_empty_words", "empty_word"])
def test_an_unusual_key_works(f, token, bystander, key):
    """Row: key of 255 bytes, empty key."""
    async def go():
        async with f.client(token()) as c:
            await c.bind("public", key)
            event = await heard_of(f, c, "public", key)
            assert event["dinfo"]["routingKey"] == key
    run(go())
    bystander.check()


def test_bindings_have_no_limit_but_the_session_s_configured_one(f, token, bystander):
    """Row: 2048th binding. It was one AMQP channel each, and 2047 are all that a connection has."""
    async def go():
        async with f.client(token()) as c:
            for n in range(BINDINGS_MAX - 1):
                await c.bind("public", f"many.{n}")
            await c.bind_ok("public", f"many.{BINDINGS_MAX - 1}", timeout=30)
            assert f.gateway.metric("event_gateway_bindings") >= BINDINGS_MAX
            answer = await c.ask(bind={"ex": "public", "key": "one.more"})
            assert answer["code"] == "too_many_bindings" and str(BINDINGS_MAX) in answer["error"]
            for n in (0, 2046, 2047, 2048, BINDINGS_MAX - 1):
                f.publish("public", f"many.{n}", {"n": n})
                assert (await c.next())["msg"] == {"n": n}
            async with f.client(token()) as other:
                await other.bind_ok("public", "another.session.has.room")
    run(go())
    bystander.check()


def test_an_exchange_that_the_broker_lacks_is_waited_for_and_others_go_on(f, token, bystander):
    """Row: exchange that the broker lacks."""
    wait_for(lambda: f.ingest.metric('event_ingest_exchange_waiting{exchange="ghost"}') == 1, 10, "ingest to miss it")
    assert "EXCHANGE-MISSING" in f.ingest.process.log_text()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("ghost", "a.#")
            bystander.check()
            f.channel().exchange_declare("ghost", "topic", durable=True)
            wait_for(lambda: f.ingest.metric('event_ingest_exchange_waiting{exchange="ghost"}') == 0, 45,
                     "ingest to find the exchange")
            f.publish("ghost", "a.1", {"late": True})
            assert (await c.next())["msg"] == {"late": True}
    run(go())
    bystander.check()


def test_hash_and_star_are_amqp_s(f, token):
    """Row: # and *. Many more patterns are in test_topic_equals_rabbitmq.py."""
    patterns = ["a.*.c", "h.#", "#.tail", "p*"]
    keys = ["a.b.c", "a.c", "a.b.b.c", "h", "h.x", "h.x.y", "hh", "tail", "x.tail", "x.y.tail", "pq", "p*", "p.q"]

    async def go():
        async with f.client(token()) as c:
            for pattern in patterns:
                await c.bind_ok("public", pattern)
            await c.bind_ok("public", "fence")
            for key in keys + ["fence"]:
                f.publish("public", key, {"k": key})
            return [m["msg"]["k"] for m in await c.until(lambda m: m["msg"]["k"] == "fence")]
    assert run(go()) == ["a.b.c", "h", "h.x", "h.x.y", "tail", "x.tail", "x.y.tail", "p*", "fence"]


def outcome(c, x):
    """The close code, or what happened instead of a close."""
    try:
        c.send_bytes(x.bytes)
        if SERVED in x.codes:
            c.send('{"ping":1,"req":"still served"}')
        opcode, payload = c.recv_frame()
    except Gone:
        return CUT
    return close_of(payload)[0] if opcode == CLOSE else SERVED


@pytest.mark.parametrize("x", FRAMES, ids=[x.what.replace(" ", "_") for x in FRAMES])
def test_a_broken_frame_closes_that_session_and_nothing_else(f, token, bystander, x):
    """Row: message over 100 MiB, reserved opcode, RSV bit, orphan continuation, ping over 125 bytes, bad close code."""
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        assert c.status == 101
        assert outcome(c, x) in x.codes
    bystander.check()
    assert f.gateway.running


def test_nothing_follows_the_close_frame(f, token, bystander):
    """RFC 6455, 5.5.1, also where libwebsockets closes by itself."""
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        c.send(json.dumps({"bind": {"ex": "public", "key": bystander.prefix + ".#"}, "req": 1}))
        assert json.loads(c.recv_text())["ok"] is True
        c.recv_text()
        c.send(b"x", opcode=3)
        assert c.recv_close()[0] == 1002
        bystander.check()  # events passed, which this session would have got
        c.send(b"\x03\xea", opcode=CLOSE)
        with pytest.raises(Gone):
            c.recv_frame()


def test_a_message_over_the_configured_size_closes_the_session(f, token, bystander):
    """The original took 100 MiB. Ours are small: gateway.message_max_bytes."""
    limit = 65536
    bind = '{"bind":{"ex":"public","key":"big.#"},"req":1,"pad":"%s"}'

    async def go():
        async with f.client(token()) as c:
            await c.send(bind % ("x" * (limit - len(bind) + 2)))
            assert (await c.next())["ok"] is True
            await c.send(bind % ("x" * (limit - len(bind) + 3)))
            code, reason = await c.closed()
            assert code == 1009 and "message_max_bytes" in reason
    run(go())
    bystander.check()


@pytest.mark.parametrize("payload, answer", [
    (b"\x03\xe8bye", (1000, "bye")), (b"\x03\xe8", (1000, "")), (b"", (1000, "")), (b"\x0f\xa0", (4000, ""))],
    ids=["1000_with_reason", "1000", "empty", "4000"])
def test_a_proper_close_is_answered(f, token, payload, answer):
    """The original answered with the same code and reason; an empty close with 1000. RFC 6455, 5.5.1, lets an empty one be
    answered by an empty one."""
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        c.send(payload, opcode=8)
        got = c.recv_close()
        assert got == answer or (payload == b"" and got == (None, ""))


def test_a_ping_is_answered_and_an_unasked_pong_is_ignored(f, token):
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        c.send(b"x", opcode=PONG)
        c.send(b"hello", opcode=PING)
        assert c.recv_frame() == (PONG, b"hello")
        c.send(b"p" * 125, opcode=PING)
        assert c.recv_frame() == (PONG, b"p" * 125)
        c.send('{"ping":1,"req":1}')
        assert json.loads(c.recv_text())["ok"] is True


def test_a_message_sent_together_with_the_upgrade_is_served(f, token):
    """The original served it; some clients do not wait for the answer to the upgrade."""
    with RawWs(f"{f.ws}?jwt={token()}", upgrade=False) as c:
        request = (f"GET {c.target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n").encode()
        c.send_bytes(request + frame('{"bind":{"ex":"public","key":"burst.#"},"req":1}') + frame('{"ping":1,"req":2}'))
        c.read_response()
        assert c.status == 101 and c.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert sorted(json.loads(c.recv_text())["req"] for _ in range(2)) == [1, 2]
        f.publish("public", "burst.1", {"a": 1})
        assert json.loads(c.recv_text())["msg"] == {"a": 1}


def test_events_stop_when_the_client_closes(f, token, bystander):
    """The original's closing clients, and those that just went, raced with events and broke AMQP for all."""
    for leave in ("close", "reset"):
        with RawWs(f"{f.ws}?jwt={token()}") as c:
            c.send('{"bind":{"ex":"public","key":"race.#"},"req":1}')
            assert json.loads(c.recv_text())["ok"] is True
            for n in range(50):
                f.publish("public", f"race.{n}", {"n": n})
                if n == 25 and leave == "close":
                    c.send(b"\x03\xe8", opcode=8)
                elif n == 25:
                    c.reset()
            if leave == "close":
                assert c.recv_close()[0] == 1000
    bystander.check()
