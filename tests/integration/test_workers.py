"""gateway.workers above 1: processes that share the port, and one admin port that shows them all."""
import asyncio
import os
import signal
from pathlib import Path

from support.wait import wait_for

SESSIONS = 400


def workers_of(gateway):
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def per_worker(gateway, name):
    return [gateway.metric(f'{name}{{worker="{n}"}}') for n in (0, 1)]


def test_two_workers_share_the_sessions_and_each_event_reaches_all(fleet, token):
    f = fleet(gateway={"workers": 2})

    async def go():
        jwt = token()
        clients = [await f.client(jwt).__aenter__() for _ in range(SESSIONS)]
        await asyncio.gather(*(c.bind_ok("public", "t.#") for c in clients))
        f.publish("public", "t.1", {"n": 1})
        for c in clients:
            assert (await c.next())["msg"] == {"n": 1}
        shares = await asyncio.to_thread(wait_for, lambda: all(per_worker(f.gateway, "event_gateway_sessions")) and
                                         sum(per_worker(f.gateway, "event_gateway_sessions")) == SESSIONS and
                                         per_worker(f.gateway, "event_gateway_sessions"), 10, "all sessions in /metrics")
        assert max(shares) <= 1.2 * SESSIONS / 2, shares
        await asyncio.gather(*(c.close() for c in clients))

    asyncio.run(go())


def test_a_worker_that_dies_is_started_again_and_the_others_go_on(fleet, token):
    f = fleet(gateway={"workers": 2})
    before = workers_of(f.gateway)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(set(workers_of(f.gateway)) - set(before)) == 1, 15, "a new worker")
    assert before[1] in workers_of(f.gateway)
    wait_for(f.gateway.is_ready, 15, "both workers to be ready")
    f.gateway.await_metric("event_gateway_worker_restarts_total", lambda n: n == 1)

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "t.#")
            f.publish("public", "t.1", {"n": 1})
            assert (await c.next())["msg"] == {"n": 1}

    asyncio.run(go())


def test_a_port_that_is_taken_ends_the_supervisor_with_1_and_a_line_that_says_so(fleet):
    f = fleet()
    second = f.add_gateway({"gateway": {"workers": 2, "listen": f.gateway.listen}}, start=False)
    second.start(ready=False)
    try:
        assert wait_for(lambda: not second.running, 15, "the end of the second") and second.process.poll() == 1
        assert "cannot listen" in second.log() and f.gateway.listen in second.log()
    finally:
        f.gateways.remove(second)
