"""SIGTERM at any moment ends every program with exit status 0 within its time, and nothing leaks.

The programs are those with the sanitizers: a leak or a fault at the end shows in the log and in the exit status."""
import asyncio
import random
import signal
import time

import pytest

from support import http
from support.flood import Flood
from support.raw_ws import RawWs
from support.swarm import Swarm
from support.wait import wait_for

# What a sanitized program may need beside its drain time: leak detection on a busy machine takes a second or two.
MARGIN_S = 8


def terminate(program, times=1, number=signal.SIGTERM):
    for _ in range(times):
        program.process.signal_quietly(number)


def ends_well(program, within_s):
    """Wait for the end; exit status 0, no report of a sanitizer. Returns the seconds that it took."""
    begun = time.monotonic()
    code = program.process.wait(within_s)
    program.process.popen = None
    program.check_log()
    assert code == 0, f"ended with {code}:\n{program.process.log_tail(40)}"
    return time.monotonic() - begun


def has_its_own_signals(program):
    """Has main() begun? Before its first line (the loader, the sanitizer) no program can do anything about SIGTERM."""
    with open(f"/proc/{program.pid}/status") as f:
        masks = {line.split(":")[0]: int(line.split()[1], 16) for line in f if line.startswith(("SigBlk", "SigCgt"))}
    return (masks["SigBlk"] | masks["SigCgt"]) & (1 << (signal.SIGTERM - 1))


# --- during start-up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gateway", "ingest"])
@pytest.mark.parametrize("weather", ["fair", "redis-away", "redis-silent"])
def test_at_random_moments_of_the_start(fleet, redis, proxy, kind, weather):
    if weather == "fair":
        f = fleet(start=False)
    else:
        way = proxy(redis.port)
        way.set("refuse" if weather == "redis-away" else "blackhole")
        f = fleet(start=False, redis_url=f"redis://127.0.0.1:{way.port}/0")
    program = f.gateway if kind == "gateway" else f.ingest
    tries = 16 if weather == "fair" else 5
    rnd = random.Random(kind + weather)
    for n in range(tries):
        program.process.start()
        wait_for(lambda: has_its_own_signals(program), 10, "main() to begin", interval=0.001)
        # This is what the test is about: a moment, not a condition.
        time.sleep(rnd.uniform(0, 0.3) if n else 0)
        terminate(program, times=1 + n % 3, number=signal.SIGINT if n % 5 == 4 else signal.SIGTERM)
        assert ends_well(program, 20) < MARGIN_S


def test_while_the_broker_is_away_or_silent(fleet, rabbit, proxy):
    way = proxy(rabbit.port)
    f = fleet(start=False, declare=False, amqp_url=f"amqp://guest:guest@127.0.0.1:{way.port}/%2f")
    for mode in ("refuse", "blackhole", "rst"):
        way.set(mode)
        f.ingest.process.start()
        wait_for(lambda: f.ingest.readyz().json()["ready"] is False, 10, "ingest to run")
        terminate(f.ingest)
        assert ends_well(f.ingest, 20) < MARGIN_S
        way.set("pass")


# --- while serving --------------------------------------------------------------------------------------------------


def test_sessions_are_closed_1001_spread_over_the_drain_time(fleet, token):
    f = fleet(gateways=2, gateway={"drain_timeout_s": 4})
    count = 60
    with Swarm(f.ws, token(), count) as swarm:
        swarm.bind_all("public", "#")
        spectator = swarm.add(f.gateways[1].ws, token())[0]
        swarm.bind_all("public", "#", [spectator])
        drained = swarm.sessions[:count]
        begun = time.monotonic()
        terminate(f.gateway)
        # Not ready at once, but alive, while sessions are still being served.
        swarm.pump(lambda: f.gateway.readyz().status == 503, 2, "/readyz to say so")
        assert time.monotonic() - begun < 1
        assert f.gateway.readyz().json()["draining"] is True
        assert http.get(f"http://{f.gateway.admin}/livez").status == 200
        assert http.get(f.gateway.http + "/health").json()["status"] == "failed"
        late = RawWs(f.ws + "?jwt=" + token())
        assert late.status == 503 and "retry-after" in late.headers
        # Half-way: some have gone, and those that are there still get events.
        swarm.pump(lambda: time.monotonic() - begun > 1.8)
        assert count * 0.25 < sum(s.closed is not None for s in drained) < count * 0.75
        there = [s for s in drained if s.closed is None]
        seen = [len(s.messages) for s in there]
        f.publish("public", "a", {"n": 1})
        swarm.pump(lambda: all(len(s.messages) > n or s.closed for s, n in zip(there, seen)))
        assert sum(len(s.messages) > n for s, n in zip(there, seen)) > len(there) / 2
        swarm.pump(lambda: all(s.closed for s in drained), 10)
        assert {s.closed[0] for s in drained} == {1001}
        assert all(s.closed[1] for s in drained)
        times = sorted(s.closed[2] - begun for s in drained)
        assert times[-1] <= 4.5
        # Spread: in no half second more than a third of them.
        most = max(sum(t <= x < t + 0.5 for x in times) for t in times)
        assert most < count / 3, times
        ends_well(f.gateway, MARGIN_S)
        assert time.monotonic() - begun < 4 + MARGIN_S
        assert spectator.closed is None and f.gateways[1].is_ready()


def test_clients_that_do_not_answer_the_close_cannot_hold_it_up(fleet, token):
    f = fleet(ingests=0, gateway={"drain_timeout_s": 2})
    silent = [RawWs(f.ws + "?jwt=" + token()) for _ in range(5)]
    unfinished = RawWs(f.ws, upgrade=False)
    unfinished.send_bytes(b"GET /subscribe HTTP/1.1\r\n")
    f.gateway.await_metric("event_gateway_sessions", lambda v: v == 5)
    begun = time.monotonic()
    terminate(f.gateway)
    ends_well(f.gateway, 2 + MARGIN_S)
    assert time.monotonic() - begun < 2 + MARGIN_S
    assert {ws.recv_close()[0] for ws in silent} == {1001}


def test_without_a_drain_time_it_is_over_at_once(fleet, token):
    f = fleet(ingests=0, gateway={"drain_timeout_s": 0})
    with Swarm(f.ws, token(), 20) as swarm:
        terminate(f.gateway)
        swarm.pump(lambda: all(s.closed for s in swarm.sessions), 5)
        assert {s.closed[0] for s in swarm.sessions} == {1001}
        ends_well(f.gateway, MARGIN_S)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda s: s.name)
def test_a_second_signal_changes_nothing(fleet, token, second):
    f = fleet(gateway={"drain_timeout_s": 2})
    with Swarm(f.ws, token(), 10) as swarm:
        swarm.bind_all("public", "#")
        for program in f.programs:
            terminate(program)
        for _ in range(10):
            for program in f.programs:
                terminate(program, number=second)
            swarm.settle(0.03)
        swarm.pump(lambda: all(s.closed for s in swarm.sessions), 5)
        assert {s.closed[0] for s in swarm.sessions} == {1001}
        for program in f.programs:
            ends_well(program, 2 + MARGIN_S)


def test_during_a_pending_access_check(fleet, token, access_api):
    f = fleet(gateway={"drain_timeout_s": 2}, access={"timeout_ms": 60000})

    async def go():
        async with f.client(token()) as c, f.client(token(sub="2")) as d:
            waiting = [asyncio.ensure_future(x.ask(60, bind={"ex": "wf", "key": f"hang.{n}"}))
                       for n, x in enumerate((c, c, d))]
            await asyncio.to_thread(wait_for, lambda: access_api.count == 3)
            terminate(f.gateway)
            assert (await c.closed())[0] == 1001 and (await d.closed())[0] == 1001
            await asyncio.gather(*waiting, return_exceptions=True)
            await asyncio.to_thread(ends_well, f.gateway, 2 + MARGIN_S)

    asyncio.run(go())


@pytest.mark.parametrize("mode", ["refuse", "blackhole"])
def test_while_redis_is_away_or_silent(fleet, token, redis, proxy, mode):
    way = proxy(redis.port)
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0", gateway={"drain_timeout_s": 1})

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "a.#")
            way.set(mode)
            f.publish("public", "a.1", {"n": 1})
            waiting = asyncio.ensure_future(c.ask(60, bind={"ex": "wf", "key": "task.#"}))
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 1)
            for program in f.programs:
                terminate(program)
            assert (await c.closed())[0] == 1001
            await asyncio.gather(waiting, return_exceptions=True)
            for program in f.programs:
                await asyncio.to_thread(ends_well, program, 1 + MARGIN_S)

    asyncio.run(go())


def test_a_gateway_that_ends_while_events_pour_in(fleet, token):
    """Sessions with full queues, readers that never read, events in every stage."""
    f = fleet(gateway={"drain_timeout_s": 1, "session_queue_max_bytes": 10 << 20}, log={"level": "info"})
    deaf = RawWs(f.ws + "?jwt=" + token(), receive_buffer=4096)
    deaf.send('{"bind":{"ex":"public","key":"#"},"req":1}')
    assert '"ok":true' in deaf.recv_text()
    with Swarm(f.ws, token(), 20) as swarm:
        swarm.bind_all("public", "#")
        with Flood(f.amqp_url, "public", ["a", "b.c"], 200_000, padding=500):
            swarm.pump(lambda: swarm.received > 20_000)
            terminate(f.gateway)
            swarm.pump(lambda: all(s.closed for s in swarm.sessions), 1 + MARGIN_S)
            assert {s.closed[0] for s in swarm.sessions} == {1001}
            ends_well(f.gateway, MARGIN_S)
        for s in swarm.sessions:
            numbers = [e["msg"] for e in s.events]
            assert numbers == list(range(len(numbers))), "what came before the end came in order"
    deaf.close()


# --- ingest -------------------------------------------------------------------------------------------------------


def log_numbers(f, redis, exchange="public"):
    """The bodies of all entries of the exchange's log, in order."""
    with redis.client() as r:
        entries = r.xrange(f"{f.prefix}:{{{exchange}:0}}:log")
    return [int(fields[b"f"].rsplit(b":", 1)[1][:-1]) for _, fields in entries]


def test_ingest_restarted_at_random_moments_of_a_flood_loses_and_doubles_nothing(fleet, token, redis):
    f = fleet(log={"level": "info"}, gateway={"session_queue_max_bytes": 64 << 20})
    count = 12_000
    rnd = random.Random(11)
    with Swarm(f.ws, token(), 1) as swarm:
        swarm.bind_all("public", "#")
        client, = swarm.sessions
        with Flood(f.amqp_url, "public", ["a", "b.c"], count, rate=4000, confirm=False) as flood:
            stops = 0
            while len(client.messages) < count:
                if flood.running or stops < 3:
                    until = len(client.messages) + rnd.randrange(500, 3000)
                    swarm.pump(lambda: len(client.messages) >= min(until, count), 60)
                    terminate(f.ingest, times=1 + stops % 2)
                    ends_well(f.ingest, MARGIN_S)
                    f.ingest.start(ready=False)
                    stops += 1
                else:
                    swarm.pump(lambda: len(client.messages) >= count, 60)
            flood.wait()
        assert stops >= 3
        assert [e["msg"] for e in client.events] == list(range(count))
    assert log_numbers(f, redis) == list(range(count))
    f.ingest.await_ready()
    wait_for(lambda: f.queue_depth("public") == 0, 10, "everything to be acked")


def test_a_standby_takes_over_when_the_owner_is_told_to_end(fleet, redis):
    f = fleet(ingests=2, gateways=0, log={"level": "info"})
    count = 6000
    with Flood(f.amqp_url, "public", ["a", "b.c"], count, rate=2000) as flood:
        owner = wait_for(lambda: next((i for i in f.ingests if i.metric("event_ingest_published_total") > 500), None),
                         20, "one of them to publish")
        terminate(owner)
        ends_well(owner, MARGIN_S)
        flood.wait()
    wait_for(lambda: len(log_numbers(f, redis)) >= count, 30, "all events in the log")
    assert log_numbers(f, redis) == list(range(count))
