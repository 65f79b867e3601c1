"""Bad neighbours: whatever a client sends, or does not read, the others keep receiving and memory stays bounded."""
import asyncio
import json
import time

import pytest

from support.bad_input import CUT, FRAMES, MESSAGES, SERVED
from support.bystander import Bystander
from support.fleet import program_env
from support.raw_ws import BINARY, CLOSE, PING, PONG, TEXT, Gone, RawWs, close_of, frame
from support.wait import wait_for

MIB = 1 << 20
QUEUE_MAX = 16 * MIB


@pytest.fixture(scope="module")
def f(module_fleet):
    # AddressSanitizer keeps freed memory back, 256 MiB by default; here it must not count as ours.
    asan = program_env()["ASAN_OPTIONS"] + ":quarantine_size_mb=8"
    return module_fleet(gateway={"session_requests_per_s": 0, "session_queue_max_bytes": QUEUE_MAX},
                        history={"max_bytes": 8 * MIB}, env={"ASAN_OPTIONS": asan})


@pytest.fixture(scope="module", autouse=True)
def half_open(f):
    """Beside all tests of this module: connections that say nothing, or not all that they should."""
    sockets = [RawWs(f.ws, upgrade=False) for _ in range(50)]
    for c in sockets[::2]:
        c.send_bytes(b"GET /subscribe HTTP/1.1\r\nHost: x\r\n")
    yield sockets, time.monotonic() + 25
    for c in sockets:
        c.close()


@pytest.fixture
def bystander(f, token):
    with Bystander(f, token("bystander")) as b:
        yield b
        b.check()


def send_all(f, token, count):
    """Every bad input, each in a session of its own, `count` times. Returns how many sessions that were."""
    sessions = 0
    for _ in range(count):
        for message in MESSAGES:
            with RawWs(f"{f.ws}?jwt={token}") as c:
                binary = isinstance(message.send, bytes)
                c.send(message.send, opcode=BINARY if binary else TEXT)
                opcode, payload = c.recv_frame()
                if message.code is None:
                    assert opcode == TEXT and "error" in json.loads(payload), message.what
                else:
                    assert opcode == CLOSE and close_of(payload)[0] == message.code, message.what
            sessions += 1
        for broken in FRAMES:
            with RawWs(f"{f.ws}?jwt={token}") as c:
                try:
                    c.send_bytes(broken.bytes + (frame('{"ping":1,"req":1}') if SERVED in broken.codes else b""))
                    opcode, payload = c.recv_frame()
                    happened = close_of(payload)[0] if opcode == CLOSE else SERVED
                except Gone:
                    happened = CUT
                assert happened in broken.codes, broken.what
            sessions += 1
    return sessions


def test_every_bad_input_again_and_again_disturbs_nobody_and_leaves_nothing_behind(f, token, bystander):
    user = token()
    send_all(f, user, 1)  # what is allocated once
    wait_for(lambda: f.gateway.metric("event_gateway_sessions") == 1, 20, "the sessions to end")
    files, memory = f.gateway.open_files(), f.gateway.rss_bytes()
    opened = f.gateway.metric("event_gateway_sessions_opened_total")
    sessions = send_all(f, user, 5)
    bystander.check()
    wait_for(lambda: f.gateway.metric("event_gateway_sessions") == 1, 20, "the sessions to end")
    assert f.gateway.metric("event_gateway_sessions_opened_total") == opened + sessions
    assert f.gateway.metric("event_gateway_bindings_pending") == 0
    assert f.gateway.open_files() <= files + 2
    assert f.gateway.rss_bytes() < memory + 32 * MIB


def test_every_bad_input_at_once_disturbs_nobody(f, token, bystander):
    """All of them are there at the same time, and none of them reads or goes by itself."""
    user = token()
    sockets = []
    try:
        for message in MESSAGES:
            c = RawWs(f"{f.ws}?jwt={user}")
            sockets.append(c)
            c.send(message.send, opcode=BINARY if isinstance(message.send, bytes) else TEXT)
        for broken in FRAMES:
            c = RawWs(f"{f.ws}?jwt={user}")
            sockets.append(c)
            try:
                c.send_bytes(broken.bytes)
            except Gone:
                pass
        bystander.check()
    finally:
        for c in sockets:
            c.reset()
    wait_for(lambda: f.gateway.metric("event_gateway_sessions") == 1, 20, "the sessions to end")


def test_a_reader_that_never_reads_is_closed_and_memory_stays_bounded(f, token, bystander):
    """The original grew by every byte that was not read: 300 events of 1 MiB were 300 MiB."""
    body = b'{"p":"' + b"y" * (MIB - 8) + b'"}'
    reading = RawWs(f"{f.ws}?jwt={token('reading')}", timeout=60)
    deaf = RawWs(f"{f.ws}?jwt={token('deaf')}", receive_buffer=4096)
    with reading, deaf:
        for c in (reading, deaf):
            c.send('{"bind":{"ex":"wf.instance","key":"na.big"},"req":1}')
            assert json.loads(c.recv_text())["ok"] is True
        f.publish("wf.instance", "na.big", body, content_type="application/json")
        reading.recv_text()
        before = f.gateway.rss_bytes()
        most = 0
        for n in range(299):
            f.publish("wf.instance", "na.big", body, content_type="application/json")
            assert len(reading.recv_text()) > MIB  # nobody else is slowed down
            most = max(most, f.gateway.rss_bytes())
        assert most - before < QUEUE_MAX + 32 * MIB, f"memory grew from {before} to {most}"
        wait_for(lambda: f.gateway.metric('event_gateway_sessions_closed_total{reason="slow"}') == 1, 10, "the close")
        deaf.socket.settimeout(10)
        code = None
        try:
            while code is None:
                opcode, payload = deaf.recv_frame()
                code = close_of(payload)[0] if opcode == CLOSE else None
        except Gone:
            code = CUT
        assert code in (1013, CUT)
    bystander.check()


def test_a_slow_reader_is_served_within_its_queue(f, token, bystander):
    """Slower than the events, but not by more than session_queue_max_bytes: nothing is lost."""
    with RawWs(f"{f.ws}?jwt={token()}", receive_buffer=4096) as slow:
        slow.send('{"bind":{"ex":"wf.instance","key":"na.slow.#"},"req":1}')
        assert json.loads(slow.recv_text())["ok"] is True
        for n in range(300):  # 12 MB: more than the kernel buffers, less than the queue's limit
            f.publish("wf.instance", f"na.slow.{n}", {"n": n, "pad": "x" * 40000})
        f.gateway.await_metric("event_gateway_queued_bytes", lambda queued: queued > 0)
        assert [json.loads(slow.recv_text())["msg"]["n"] for n in range(300)] == list(range(300))
        f.gateway.await_metric("event_gateway_queued_bytes", lambda queued: queued == 0)


def test_pings_that_nobody_reads_the_answers_of_disturb_nobody(f, token, bystander):
    with RawWs(f"{f.ws}?jwt={token()}", receive_buffer=4096) as c:
        pings = frame(b"p" * 125, opcode=PING) * 500
        before = f.gateway.rss_bytes()
        c.socket.settimeout(5)
        try:
            for _ in range(100):
                c.send_bytes(pings)
        except (Gone, TimeoutError):
            pass
        bystander.check()
        assert f.gateway.rss_bytes() < before + 32 * MIB


def test_requests_over_the_rate_are_answered_and_a_flood_ends_the_session(fleet, token):
    f = fleet(gateway={"session_requests_per_s": 5, "session_bindings_max": 10})
    with Bystander(f, token("bystander")) as bystander:
        async def go():
            async with f.client(token()) as c:
                codes = {}
                for _ in range(40):
                    answer = await c.ask(ping=1)
                    codes[answer.get("code", "ok")] = codes.get(answer.get("code", "ok"), 0) + 1
                assert codes["ok"] >= 5 and codes["rate_limited"] >= 1
                try:
                    while c.is_open:
                        await c.send('{"ping":1}')
                        await asyncio.sleep(0)
                except Exception:
                    pass
                code, reason = await c.closed()
                assert code == 1008 and reason
        asyncio.run(asyncio.wait_for(go(), 60))
        bystander.check()


def test_connections_that_send_no_whole_request_were_let_go(half_open):
    """They had HEAD_TIMEOUT_MS, ten seconds; those that said nothing at all were held by the kernel before that."""
    sockets, deadline = half_open
    for c in sockets:
        c.socket.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            while c.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_an_idle_session_beside_all_that_still_lives(f, token, bystander):
    with RawWs(f"{f.ws}?jwt={token()}") as c:
        c.send(b"x", opcode=PING)
        assert c.recv_frame() == (PONG, b"x")
