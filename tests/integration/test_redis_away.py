"""Redis dies, sleeps, forgets scripts, cuts connections: sessions stay, nothing that was published is lost from the
log, and what is published afterwards is delivered. (What ingest does in detail is in test_ingest_faults.py.)"""
import threading
import time

import pytest

from support.flood import Flood
from support.redis_server import RedisServer
from support.swarm import Swarm
from support.wait import wait_for


@pytest.fixture
def own_redis(tmp_path):
    """It forgets nothing when it is killed."""
    server = RedisServer(tmp_path / "redis", options=["--appendonly", "yes", "--appendfsync", "always"]).start()
    yield server
    server.kill()


def log_numbers(f, redis, exchange="public"):
    with redis.client() as r:
        entries = r.xrange(f"{f.prefix}:{{{exchange}:0}}:log")
    return [int(fields[b"f"].rsplit(b":", 1)[1][:-1]) for _, fields in entries]


def number(message):
    """The body is the event's number, and the last member of the frame."""
    return int(message[message.rindex(b":") + 1:-1])


def heard(session):
    return [number(m) for m in session.messages]


def assert_in_order_and_once(session):
    numbers = heard(session)
    assert numbers == sorted(set(numbers))


def delivered_after(f, swarm, sessions, first, timeout=40):
    """Publish single events, numbered from `first`, until all sessions get one. The link is up again then, and
    what follows must arrive without a hole."""
    n, last = first, 0

    def arrived():
        nonlocal n, last
        if all(s.messages and number(s.messages[-1]) >= first for s in sessions):
            return True
        if time.monotonic() - last > 0.25:
            f.publish("public", "a", str(n), content_type="application/json", delivery_mode=2)
            n, last = n + 1, time.monotonic()
        return False
    swarm.pump(arrived, timeout, "delivery after the trouble")
    for _ in range(20):
        f.publish("public", "a", str(n), content_type="application/json", delivery_mode=2)
        n += 1
    swarm.pump(lambda: all(number(s.messages[-1]) == n - 1 for s in sessions), 30, "the last event")
    for s in sessions:
        tail = [m for m in heard(s) if m >= n - 20]
        assert tail == list(range(n - 20, n))
        assert_in_order_and_once(s)
    return n


def test_killed_and_back_under_load(fleet, token, own_redis):
    f = fleet(gateways=2, redis_url=own_redis.url(), log={"level": "info"},
              gateway={"session_queue_max_bytes": 64 << 20})
    count = 8000
    with Swarm(f.ws, token(), 2) as swarm:
        swarm.add(f.gateways[1].ws, token(), 2)
        sessions = swarm.sessions
        swarm.bind_all("public", "#", sessions)
        with Flood(f.amqp_url, "public", ["a", "b.c"], count, rate=3000) as flood:
            for at in (1500, 4000):
                swarm.pump(lambda: all(len(s.messages) > at / 4 for s in sessions) and
                           len(log_numbers(f, own_redis)) > at, 40, "some events")
                own_redis.kill()
                f.gateway.await_metric("event_gateway_redis_up", lambda v: v == 0)
                own_redis.start()
                for gateway in f.gateways:
                    gateway.await_metric("event_gateway_redis_up", lambda v: v == 2, 30)
            flood.wait()
        wait_for(lambda: len(log_numbers(f, own_redis)) >= count, 60, "the log to be complete", interval=0.2)
        assert log_numbers(f, own_redis) == list(range(count))
        end = delivered_after(f, swarm, sessions, count)
        assert log_numbers(f, own_redis) == list(range(end))
        assert not [s.closed for s in sessions if s.closed]
        wait_for(lambda: f.queue_depth("public") == 0, 10, "everything acked")


def test_ready_until_the_grace_is_over_and_again_when_redis_is_back(fleet, token, own_redis):
    f = fleet(redis_url=own_redis.url())
    with Swarm(f.ws, token(), 2) as swarm:
        swarm.bind_all("public", "a")
        own_redis.kill()
        killed = time.monotonic()
        bad = {}
        while len(bad) < len(f.programs):
            assert time.monotonic() - killed < 20
            for program in f.programs:
                report = program.readyz()
                if report.status == 503 and program not in bad:
                    bad[program] = time.monotonic() - killed
                    failing = [name for name, check in report.json()["checks"].items() if not check["ok"]]
                    assert any("redis" in name for name in failing), report.text
            swarm.settle(0.05)
        for program, after in bad.items():
            assert 4 <= after <= 12, (program.name, after)
        # Alive and serving what needs no Redis all the while.
        assert all(a["ok"] for a in swarm.answers([(s, s.ask(ping=1)) for s in swarm.sessions]))
        own_redis.start()
        for program in f.programs:
            program.await_ready()
        delivered_after(f, swarm, swarm.sessions, 0)
        assert not [s.closed for s in swarm.sessions if s.closed]


def test_subscribing_connections_killed(fleet, token, own_redis):
    """CLIENT KILL TYPE pubsub, three times: the gateway subscribes again, with the bindings that it has by then."""
    f = fleet(redis_url=own_redis.url())
    with Swarm(f.ws, token(), 3) as swarm, own_redis.client() as r:
        swarm.bind_all("public", "a.#")
        swarm.bind_all("public", "#", swarm.sessions[:1])
        n = 0
        for round_ in range(1, 4):
            assert r.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
            late = swarm.add(f.ws, token())
            swarm.bind_all("public", "a", late)  # bound while the link is down, or just before or after
            f.gateway.await_metric('event_gateway_redis_disconnects_total{link="feed"}', lambda v: v >= round_)
            n = delivered_after(f, swarm, swarm.sessions[1:], n)
        numbers = heard(swarm.sessions[0])
        # The first session has two bindings that match: each event twice in a row.
        assert numbers[0::2] == numbers[1::2] == sorted(set(numbers))
        assert not [s.closed for s in swarm.sessions if s.closed]
        # The command connection was never touched.
        assert f.gateway.metric('event_gateway_redis_disconnects_total{link="command"}') == 0


def test_paused_for_five_seconds(fleet, token, own_redis):
    f = fleet(redis_url=own_redis.url(), log={"level": "info"}, gateway={"session_queue_max_bytes": 64 << 20})
    count = 10_000
    with Swarm(f.ws, token(), 3) as swarm, own_redis.client(socket_timeout=20) as r:
        swarm.bind_all("public", "#")
        with Flood(f.amqp_url, "public", ["a", "b.c"], count, rate=2000) as flood:
            swarm.pump(lambda: swarm.received > 3 * 1000)
            r.execute_command("CLIENT", "PAUSE", "5000", "ALL")
            paused = time.monotonic()
            # Meanwhile everything that needs no Redis is answered at once.
            while time.monotonic() - paused < 4:
                begun = time.monotonic()
                swarm.answers([(s, s.ask(ping=1)) for s in swarm.sessions], 5)
                assert time.monotonic() - begun < 1
                swarm.settle(0.2)
            flood.wait()
        wait_for(lambda: len(log_numbers(f, own_redis)) >= count, 60, "the log to be complete", interval=0.2)
        assert log_numbers(f, own_redis) == list(range(count))
        end = delivered_after(f, swarm, swarm.sessions, count)
        assert log_numbers(f, own_redis) == list(range(end))
        assert not [s.closed for s in swarm.sessions if s.closed]


def test_frozen_and_thawed(fleet, token, own_redis):
    """A server that hangs longer than probes are waited for: the gateway gives the connection up, and is well again."""
    f = fleet(redis_url=own_redis.url())
    with Swarm(f.ws, token(), 2) as swarm:
        swarm.bind_all("public", "#")
        n = delivered_after(f, swarm, swarm.sessions, 0)
        own_redis.process.freeze()
        try:
            wait_for(lambda: f.gateway.readyz().status == 503, 25, "the gateway to notice")
        finally:
            own_redis.process.thaw()
        delivered_after(f, swarm, swarm.sessions, n)
        for program in f.programs:
            program.await_ready()
        assert not [s.closed for s in swarm.sessions if s.closed]


def test_scripts_forgotten_under_load(fleet, token, own_redis):
    """SCRIPT FLUSH again and again: no link breaks, so everything arrives, in order, once."""
    f = fleet(redis_url=own_redis.url(), log={"level": "info"}, gateway={"session_queue_max_bytes": 64 << 20})
    count = 8000
    stop = threading.Event()
    flushes = []

    def flush():
        with own_redis.client() as r:
            while not stop.wait(0.05):
                r.script_flush()
                flushes.append(1)

    thread = threading.Thread(target=flush)
    with Swarm(f.ws, token(), 3) as swarm:
        swarm.bind_all("public", "#")
        thread.start()
        try:
            with Flood(f.amqp_url, "public", ["a", "b.c"], count, rate=4000) as flood:
                swarm.pump(lambda: swarm.received >= 3 * count, 60)
                flood.wait()
        finally:
            stop.set()
            thread.join()
        assert len(flushes) > 10
        for s in swarm.sessions:
            assert heard(s) == list(range(count))
    assert log_numbers(f, own_redis) == list(range(count))


def test_away_at_the_start(fleet, token, redis, proxy):
    """Programs start without Redis, say so, serve what they can, and are whole once it is there."""
    way = proxy(redis.port)
    way.set("refuse")
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0", ready=False)
    wait_for(lambda: f.gateway.readyz().status == 503 and f.ingest.readyz().status == 503, 10, "not ready")
    wait_for(lambda: any("QUEUE-BOUND" in line and 'exchange="public"' in line for line in f.ingest.log().splitlines()),
             10, "the queue to be bound, without which the broker drops what is published")
    with Swarm(f.ws, token(), 2) as swarm:
        asked = [(s, s.ask(bind={"ex": "public", "key": "a"})) for s in swarm.sessions]
        f.publish("public", "a", b"0", content_type="application/json")
        assert all(a["ok"] for a in swarm.answers([(s, s.ask(ping=1)) for s in swarm.sessions]))
        way.set("pass")
        for program in f.programs:
            program.await_ready()
        assert all(a["ok"] for a in swarm.answers(asked))
        delivered_after(f, swarm, swarm.sessions, 1)
    # The event that was published before is in the log, too.
    assert log_numbers(f, redis)[:2] == [0, 1]
