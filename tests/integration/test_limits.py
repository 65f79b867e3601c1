"""Every limit of the client side: its number, its clear error, its metric, and that it harms nobody else."""
import asyncio
import os
import resource
import socket
import struct
import time

import pytest

from support.raw_ws import CONTINUATION, PING, PONG, TEXT, Gone, RawWs, frame
from support.swarm import Swarm, need_files
from support.wait import wait_for
from support.ws_client import HandshakeRefused, connect


def closed_metric(f, reason):
    return f.gateway.metric(f'event_gateway_sessions_closed_total{{reason="{reason}"}}')


def refused_metric(f, reason):
    return f.gateway.metric(f'event_gateway_upgrades_refused_total{{reason="{reason}"}}')


def error_metric(f, code):
    return f.gateway.metric(f'event_gateway_errors_total{{code="{code}"}}')


def expect_close(ws, code, timeout=10):
    got, reason = ws.recv_close(timeout)
    assert got == code and reason, (got, reason)
    return reason


def ws_url(f, token, **claims):
    return f.ws + "?jwt=" + token(**claims)


# --- messages -------------------------------------------------------------------------------------------------------


def padded(size):
    """A ping command of exactly so many bytes."""
    text = '{"ping":1,"req":1,"pad":""}'
    return text[:-2] + "x" * (size - len(text)) + text[-2:]


@pytest.mark.parametrize("limit", [1000, 70000])
def test_message_max_bytes(fleet, token, limit):
    f = fleet(ingests=0, gateway={"message_max_bytes": limit})
    with RawWs(ws_url(f, token)) as ws:
        ws.send(padded(limit))
        assert '"ok":true' in ws.recv_text()
        # In pieces, with a ping among them.
        whole = padded(limit).encode()
        ws.send(whole[:300], fin=False)
        ws.send(b"?", opcode=PING)
        ws.send(whole[300:], opcode=CONTINUATION)
        assert ws.recv_frame() == (PONG, b"?")
        assert '"ok":true' in ws.recv_text()
        ws.send(padded(limit + 1))
        expect_close(ws, 1009)
    with RawWs(ws_url(f, token)) as ws:
        ws.send(whole[:300], fin=False)
        ws.send(whole[300:] + b"x", opcode=CONTINUATION)
        expect_close(ws, 1009)
    # By what the header announces, before the bytes come.
    for announced in (limit + 1, 1 << 40, (1 << 63) - 1):
        with RawWs(ws_url(f, token)) as ws:
            ws.send(b"{", length=announced)
            assert ws.recv_close()[0] in (1002, 1009)
    assert closed_metric(f, "too_big") >= 4


def test_fragments_without_end_are_not_gathered(fleet, token):
    f = fleet(ingests=0, gateway={"message_max_bytes": 1000})
    with RawWs(ws_url(f, token)) as ws:
        ws.send(b"{", fin=False)
        with pytest.raises((Gone, TimeoutError)):
            for _ in range(100):
                ws.send_bytes(frame(b"", opcode=CONTINUATION, fin=False) * 100)
            expect_close(ws, 1008)
            raise Gone()
    f.gateway.await_metric("event_gateway_sessions", lambda v: v == 0)
    assert closed_metric(f, "fragments") == 1


# --- bindings and requests --------------------------------------------------------------------------------------------


def test_session_bindings_max(fleet, token):
    f = fleet(gateway={"session_bindings_max": 3})

    async def go():
        async with f.client(token()) as c, f.client(token()) as other:
            for key in ("a", "b", "b"):
                await c.bind_ok("public", key)
            answer = await c.ask(bind={"ex": "public", "key": "c"})
            assert answer["code"] == "too_many_bindings" and "3" in answer["error"]
            await c.bind("public", "c")
            assert set(await c.next()) == {"error"}
            assert error_metric(f, "too_many_bindings") == 2
            # Taken back ones make room; others have limits of their own.
            assert (await c.ask(unbind={"ex": "public", "key": "b"}))["ok"] is True
            await c.bind_ok("public", "c")
            await other.bind_ok("public", "c")
            f.publish("public", "c", {"n": 1})
            assert (await c.next())["msg"] == (await other.next())["msg"] == {"n": 1}
            # A larger limit is in force after a reload, for living sessions too.
            f.gateway.reload({"gateway": {"session_bindings_max": 4}})
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_reloads_total", lambda v: v == 1)
            await c.bind_ok("public", "d")
            assert (await c.ask(bind={"ex": "public", "key": "e"}))["code"] == "too_many_bindings"

    asyncio.run(go())


def test_pending_bindings_count_too(fleet, token, access_api):
    f = fleet(gateway={"session_bindings_max": 2})

    async def go():
        async with f.client(token()) as c:
            first = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "gate.1"}))
            second = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "gate.2"}))
            await asyncio.to_thread(wait_for, lambda: access_api.count == 2)
            assert (await c.ask(bind={"ex": "wf", "key": "gate.3"}))["code"] == "too_many_bindings"
            access_api.open_gate()
            assert (await first)["ok"] and (await second)["ok"]

    asyncio.run(go())


def test_session_requests_per_s(fleet, token):
    """A session may send its bindings at once, and then so many requests a second."""
    f = fleet(ingests=0, gateway={"session_bindings_max": 5, "session_requests_per_s": 10})

    async def go():
        async with f.client(token()) as c, f.client(token()) as other:
            begun = time.monotonic()
            answers = await asyncio.gather(*(c.ask(ping=1) for _ in range(60)))
            took = time.monotonic() - begun
            good = sum("ok" in a for a in answers)
            assert 15 <= good <= 15 + 10 * took + 1
            assert [a.get("ok") for a in answers[:15]] == [True] * 15
            refused = [a for a in answers if "ok" not in a]
            assert all(set(a) == {"req", "error", "code"} and a["code"] == "rate_limited" for a in refused)
            assert error_metric(f, "rate_limited") == len(refused)
            assert (await other.ping())["ok"] is True
            # The rate comes back with time; refused requests count, so ask seldom.
            while "ok" not in await c.ask(ping=1):
                assert time.monotonic() - begun < 15
                await asyncio.sleep(0.5)
            assert time.monotonic() - begun > 2

    asyncio.run(go())


def test_who_never_stops_asking_is_closed(fleet, token):
    f = fleet(ingests=0, gateway={"session_bindings_max": 5, "session_requests_per_s": 5})
    with RawWs(ws_url(f, token)) as ws:
        try:
            for _ in range(40):
                ws.send_bytes(frame('{"ping":1}') * 100)
        except Gone:
            pass
        expect_close(ws, 1008)
    assert closed_metric(f, "rate") == 1


def test_access_pending_max(fleet, token, access_api):
    f = fleet(ingests=0, access={"pending_max": 5})

    async def go():
        async with f.client(token(sub="1")) as c, f.client(token(sub="2")) as other:
            waiting = [asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": f"gate.{n}"})) for n in range(5)]
            await asyncio.to_thread(wait_for, lambda: access_api.count == 5)
            assert (await other.ask(bind={"ex": "wf", "key": "gate.1"}))["code"] == "unavailable"
            assert (await c.ask(bind={"ex": "wf", "key": "gate.6"}))["code"] == "unavailable"
            # What asks nobody is not concerned.
            await other.bind_ok("public", "#")
            assert f.gateway.metric("event_gateway_access_pending") == 5
            assert f.gateway.metric('event_gateway_access_verdicts_total{verdict="busy"}') == 2
            access_api.open_gate()
            assert all(a["ok"] for a in await asyncio.gather(*waiting))
            await other.bind_ok("wf", "gate.1")

    asyncio.run(go())


# --- the outbound queue -----------------------------------------------------------------------------------------------


def test_session_queue_max_bytes(fleet, token):
    """Who does not read is closed with 1013 once its queue is full; a neighbour with the same binding gets all."""
    f = fleet(gateway={"session_queue_max_bytes": 200_000})
    events, size = 400, 20_000
    with RawWs(ws_url(f, token), receive_buffer=4096) as deaf, Swarm(f.ws, token(), 1) as swarm:
        deaf.send('{"bind":{"ex":"public","key":"big.#"},"req":1}')
        assert '"ok":true' in deaf.recv_text()
        swarm.bind_all("public", "big.#")
        before = f.gateway.rss_bytes()
        for n in range(events):
            f.publish("public", "big.x", {"n": n, "pad": "x" * size})
            swarm.pump(lambda: swarm.received >= n + 1)
            assert f.gateway.metric("event_gateway_queued_bytes") <= 200_000 + 2 * size if n % 50 == 0 else True
        assert [e["msg"]["n"] for e in swarm.sessions[0].events] == list(range(events))
        f.gateway.await_metric('event_gateway_sessions_closed_total{reason="slow"}', lambda v: v == 1)
        assert f.gateway.metric("event_gateway_queued_bytes") < 200  # the close frame may wait
        # Generous: the sanitizer keeps freed memory for a while.
        assert f.gateway.rss_bytes() - before < 100 << 20
        # What it reads at last are whole frames, in order from the first, and nothing after them but the close.
        got = []
        try:
            while True:
                opcode, payload = deaf.recv_frame(10)
                if opcode != TEXT:
                    break
                got.append(payload)
        except Gone:
            opcode = None
        assert len(got) < events
        assert all(f'"n":{n},'.encode() in payload[:400] for n, payload in enumerate(got))


def test_a_slow_reader_that_comes_back_in_time_sees_1013(fleet, token):
    f = fleet(gateway={"session_queue_max_bytes": 100_000})
    with RawWs(ws_url(f, token), receive_buffer=4096) as deaf:
        deaf.send('{"bind":{"ex":"public","key":"big.#"},"req":1}')
        assert '"ok":true' in deaf.recv_text()
        for n in range(400):
            f.publish("public", "big.x", {"n": n, "pad": "x" * 20_000})
            if n % 20 == 19 and closed_metric(f, "slow") == 1:
                break
        f.gateway.await_metric('event_gateway_sessions_closed_total{reason="slow"}', lambda v: v == 1)
        expect_close(deaf, 1013)


def test_an_empty_queue_takes_a_frame_of_any_size(fleet, token):
    f = fleet(gateway={"session_queue_max_bytes": 10_000})

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "#")
            for n in range(3):
                f.publish("public", "big", {"n": n, "pad": "x" * 3_000_000})
                message = await c.next(30)
                assert message["msg"]["n"] == n and len(message["msg"]["pad"]) == 3_000_000
            assert closed_metric(f, "slow") == 0

    asyncio.run(go())


# --- sessions ----------------------------------------------------------------------------------------------------------------


def status_of(f, token, headers=(), source=None, prefix=b""):
    """The status that an upgrade gets, and the open client if it is 101."""
    ws = RawWs(ws_url(f, token), upgrade=False, source=source)
    if prefix:
        ws.send_bytes(prefix)
    try:
        ws.send_upgrade(headers)
    except Gone:
        return None, ws
    return ws.status, ws


def test_sessions_max(fleet, token):
    f = fleet(ingests=0, gateway={"sessions_max": 3})

    async def go():
        clients = [await f.client(token()) for _ in range(3)]
        with pytest.raises(HandshakeRefused) as refused:
            await connect(f.ws, token())
        assert refused.value.status == 503
        assert refused_metric(f, "unavailable") == 1
        for c in clients:
            await c.ping()
        await clients.pop().close()
        await asyncio.to_thread(f.gateway.await_metric, "event_gateway_sessions", lambda v: v == 2)
        clients.append(await f.client(token()))
        await clients[-1].ping()
        for c in clients:
            await c.close()

    asyncio.run(go())


def test_address_sessions_max(fleet, token):
    f = fleet(ingests=0, gateway={"address_sessions_max": 2})
    opened = [status_of(f, token) for _ in range(4)]
    assert [status for status, _ in opened] == [101, 101, 429, 429]
    assert b"rate_limited" in opened[2][1].body and "retry-after" in opened[2][1].headers
    assert refused_metric(f, "rate_limited") == 2
    # Another address is another matter; who names an address without being trusted is counted by its own.
    assert status_of(f, token, source="127.0.0.2")[0] == 101
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert status_of(f, token, [(header, "203.0.113.9")])[0] == 429
    # A handshake that is refused uses nothing up.
    for _ in range(5):
        assert RawWs(f.ws + "?jwt=bad", source="127.0.0.3").status == 401
    third = [status_of(f, token, source="127.0.0.3") for _ in range(3)]
    assert [status for status, _ in third] == [101, 101, 429]
    # Who leaves makes room.
    opened[0][1].close()
    again = []
    wait_for(lambda: again.append(status_of(f, token)) or again[-1][0] == 101, 10, "a place after one has left")
    assert status_of(f, token)[0] == 429


def test_address_by_x_forwarded_for_of_a_trusted_proxy(fleet, token):
    f = fleet(ingests=0, gateway={"address_sessions_max": 2, "trusted_proxies": ["127.0.0.1/32", "10.0.0.0/8"]})
    kept = []

    def status(value, source=None):
        result, ws = status_of(f, token, [("X-Forwarded-For", value)] if value else [], source)
        kept.append(ws)
        return result

    assert [status("203.0.113.1") for _ in range(3)] == [101, 101, 429]
    assert [status("203.0.113.2") for _ in range(3)] == [101, 101, 429]
    # The last that is no trusted proxy counts; what a client writes in front of it does not.
    assert status("198.51.100.7, 203.0.113.1") == 429
    assert status("198.51.100.8, 203.0.113.1, 10.1.2.3") == 429
    assert [status("203.0.113.1, 198.51.100.9") for _ in range(3)] == [101, 101, 429]
    assert [status("2001:db8::1") for _ in range(3)] == [101, 101, 429]
    # Not believed from a peer that is not trusted: that peer's own address counts.
    assert [status(f"203.0.113.{n}", source="127.0.0.2") for n in (11, 12, 13)] == [101, 101, 429]


def proxy_v2(source, command=1):
    """A PROXY protocol version 2 header (proxy-protocol.txt, 2.2)."""
    v6 = ":" in source
    family = socket.AF_INET6 if v6 else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, "::1" if v6 else "127.0.0.1")
    body = addresses + struct.pack("!HH", 1234, 8080)
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, 0x21 if v6 else 0x11]) + struct.pack("!H", len(body)) + body


def test_address_by_proxy_protocol_of_a_trusted_proxy(fleet, token):
    f = fleet(ingests=0, gateway={"address_sessions_max": 2, "trusted_proxies": ["127.0.0.1"]})
    kept = []

    def status(prefix, source=None):
        result, ws = status_of(f, token, prefix=prefix, source=source)
        kept.append(ws)
        return result

    assert [status(proxy_v2("203.0.113.1")) for _ in range(3)] == [101, 101, 429]
    assert [status(proxy_v2("2001:db8::5")) for _ in range(3)] == [101, 101, 429]
    # A health check of the proxy (LOCAL), and a connection without the header: the proxy's own address.
    assert [status(proxy_v2("0.0.0.0", command=0)), status(b""), status(b"")] == [101, 101, 429]
    # In two pieces.
    ws = RawWs(ws_url(f, token), upgrade=False)
    kept.append(ws)
    header = proxy_v2("203.0.113.77")
    ws.send_bytes(header[:7])
    f.gateway.await_metric("event_gateway_connections_total", lambda v: v >= 10)
    ws.send_bytes(header[7:])
    ws.send_upgrade()
    assert ws.status == 101
    # From a peer that is not trusted the header is no HTTP, and is refused.
    assert status(proxy_v2("203.0.113.200"), source="127.0.0.2") in (400, None)
    assert f.gateway.metric('event_gateway_connections_refused_total{reason="malformed"}') == 1


# --- silence -------------------------------------------------------------------------------------------------------------------


def test_a_client_that_answers_no_ping_is_dropped(fleet, token, proxy):
    f = fleet(gateway={"ping_interval_s": 1, "pong_timeout_s": 1})
    way = proxy(int(f.gateway.listen.rsplit(":", 1)[1]))

    async def go():
        async with f.client(token()) as lives:
            await lives.bind_ok("public", "#")
            behind = await connect(f"ws://127.0.0.1:{way.port}/subscribe", token())
            await behind.bind_ok("public", "#")
            begun = time.monotonic()
            await asyncio.to_thread(way.set, "blackhole")
            with RawWs(ws_url(f, token)) as never_pongs:
                await asyncio.to_thread(f.gateway.await_metric,
                                        'event_gateway_sessions_closed_total{reason="pong_timeout"}', lambda v: v == 2)
                assert 1.5 < time.monotonic() - begun < 8
                opcode, _ = never_pongs.recv_frame()
                assert opcode == PING
                with pytest.raises(Gone):
                    never_pongs.recv_frame()
            assert f.gateway.metric("event_gateway_sessions") == 1
            assert f.gateway.metric("event_gateway_bindings") == 1
            f.publish("public", "a", {"n": 1})
            assert (await lives.next())["msg"] == {"n": 1}
            behind.socket.transport.abort()
            await behind.close()

    asyncio.run(go())


def test_connections_without_a_request_are_given_up(fleet, token):
    """Nothing at all, a head that never ends, one that drips, one that is too long; a bystander is served meanwhile."""
    f = fleet(ingests=0)
    silent = RawWs(f.ws, upgrade=False)
    unfinished = RawWs(f.ws, upgrade=False)
    unfinished.send_bytes(b"GET /subscribe HTTP/1.1\r\nHost: x\r\n")
    dripping = RawWs(f.ws, upgrade=False)
    dripping.send_bytes(b"GET /subscribe?")
    too_long = RawWs(f.ws, upgrade=False)
    try:
        too_long.send_bytes(b"GET /subscribe HTTP/1.1\r\nX: " + b"x" * 200_000)
        too_long.read_response()
        assert too_long.status == 431
    except Gone:  # reset, because it was still sending
        pass
    assert f.gateway.metric('event_gateway_connections_refused_total{reason="malformed"}') == 1

    begun = time.monotonic()
    ended = {}
    while len(ended) < 3 and time.monotonic() - begun < 25:
        for name, ws in (("silent", silent), ("unfinished", unfinished), ("dripping", dripping)):
            if name in ended or not ws.is_readable(0.1):
                continue
            try:
                ws.read_response()
                ended[name] = ws.status
            except Gone:
                ended[name] = None
        if "dripping" not in ended:
            try:
                dripping.send_bytes(b"x")
            except Gone:
                ended["dripping"] = None
    assert ended["unfinished"] == 408 and ended["dripping"] in (408, None)
    assert ended["silent"] in (408, None)  # the kernel may have kept it back from us
    assert 8 < time.monotonic() - begun < 25
    assert f.gateway.metric('event_gateway_connections_refused_total{reason="head_timeout"}') >= 2
    with RawWs(ws_url(f, token)) as ws:
        assert ws.status == 101


# --- descriptors -----------------------------------------------------------------------------------------------------------------


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_descriptors_new_ones_wait_and_old_ones_are_served(fleet, token):
    f = fleet()
    need_files(1000)
    with Swarm(f.ws, token(), 10) as swarm:
        swarm.bind_all("public", "a.#")
        limit = f.gateway.open_files() + 5
        _, most = resource.prlimit(f.gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(f.gateway.pid, resource.RLIMIT_NOFILE, (limit, most))
        # Far more than that; they connect (the kernel does that), but get no answer.
        waiting = []
        for _ in range(40):
            s = socket.create_connection(f.gateway.listen.split(":"), timeout=10)
            s.sendall(f"GET /subscribe?jwt={token()} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
            waiting.append(s)
        wait_for(lambda: "ACCEPT-EXHAUSTED" in f.gateway.log(), 10, "the log to say so")
        # No spinning: accepting is tried again ten times a second.
        begun, cpu = time.monotonic(), cpu_seconds(f.gateway.pid)
        for n in range(20):
            f.publish("public", "a.1", {"n": n})
            swarm.pump(lambda: swarm.received >= 10 * (n + 1))
            swarm.pump(lambda: time.monotonic() - begun > n * 0.1, 10)
        assert cpu_seconds(f.gateway.pid) - cpu < 0.5 * (time.monotonic() - begun)
        # Whoever leaves makes room for one that waits.
        def upgraded():
            got = 0
            for s in waiting:
                s.setblocking(False)
                try:
                    got += s.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 101")
                except OSError:
                    pass
            return got
        before = wait_for(lambda: upgraded(), 10, "those that fit to be served")
        assert before < 10
        for session in swarm.sessions[:5]:
            session.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: upgraded() >= before + 4, 15, "those that waited to be served")
        for s in waiting:
            s.close()
        resource.prlimit(f.gateway.pid, resource.RLIMIT_NOFILE, (most, most))
        f.gateway.await_metric("event_gateway_sessions", lambda v: v == 5, 15)
        assert f.gateway.metric('event_gateway_connections_refused_total{reason="no_descriptors"}') >= 1
        swarm.add(f.ws, token(), 20)


# --- time for a binding ----------------------------------------------------------------------------------------------------------


def test_bind_timeout_ms_with_redis_away(fleet, token, redis, proxy):
    way = proxy(redis.port)
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0", gateway={"bind_timeout_ms": 1500})

    async def go():
        async with f.client(token()) as c, f.client(token()) as old:
            await asyncio.to_thread(way.set, "refuse")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_redis_up", lambda v: v == 0)
            begun = time.monotonic()
            await old.bind("public", "#")
            asked = asyncio.ensure_future(c.ask(bind={"ex": "public", "key": "#"}))
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 2)
            # Everything else goes on meanwhile.
            assert (await c.ping())["ok"] is True
            assert not asked.done()
            answer = await asked
            assert answer["code"] == "unavailable" and 1.4 < time.monotonic() - begun < 5
            assert set(await old.next()) == {"error"}
            assert f.gateway.metric("event_gateway_bindings_pending") == 0
            await asyncio.to_thread(way.set, "pass")

    asyncio.run(go())


def test_a_bind_without_redis_is_live_when_redis_comes_back(fleet, token, redis, proxy):
    way = proxy(redis.port)
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0")

    async def go():
        async with f.client(token()) as c, f.client(token()) as old:
            await asyncio.to_thread(way.set, "refuse")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_redis_up", lambda v: v == 0)
            await old.bind("public", "a.#")
            waiting = [asyncio.ensure_future(c.ask(30, bind={"ex": ex, "key": "a.#"})) for ex in ("public", "wf")]
            gone = asyncio.ensure_future(c.ask(30, bind={"ex": "public", "key": "gone.#"}))
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 4)
            assert (await c.ask(unbind={"ex": "public", "key": "gone.#"}))["ok"] is True
            await asyncio.to_thread(way.set, "pass")
            for answer in await asyncio.gather(*waiting):
                assert answer["ok"] is True
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings", lambda v: v == 3)
            f.publish("public", "gone.1", {"n": 0})
            f.publish("public", "a.1", {"n": 1})
            assert (await c.next(30))["msg"] == {"n": 1}
            assert (await old.next(30))["msg"] == {"n": 1}
            gone.cancel()

    asyncio.run(go())
