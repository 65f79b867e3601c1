"""REFERENCE.md, *Broker trouble*: RabbitMQ goes and comes back, and nothing that it has confirmed is lost.

These tests have a broker of their own, because they stop it.
"""
import asyncio
import json
import threading
import time

import pika
import pytest
from aiohttp import web

from support import http
from support.bystander import Bystander
from support.rabbit import RabbitServer
from support.raw_ws import PING, PONG, Gone, RawWs
from support.wait import wait_for

HEALTHY = {"status": "ok", "amqp_connected": True, "message": "all good"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    server = RabbitServer(tmp_path_factory.mktemp("broker"))
    yield server
    server.stop()


class Publisher:
    """Numbers events, as fast as a confirm each allows, through all trouble. An event whose confirm did not come is
    given up: it may arrive or not."""

    def __init__(self, url, exchange, prefix):
        self.exchange, self.prefix = exchange, prefix
        self.confirmed = []
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0
        self._parameters.connection_attempts = 1
        self._parameters.socket_timeout = 2
        self._stopping = threading.Event()
        self._connection = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def _run(self):
        n = 0
        channel = None
        while not self._stopping.wait(0.005):
            n += 1
            try:
                if channel is None:
                    self._connection = pika.BlockingConnection(self._parameters)
                    channel = self._connection.channel()
                    channel.confirm_delivery()
                channel.basic_publish(self.exchange, f"{self.prefix}.{n}", json.dumps({"n": n}).encode(),
                                      pika.BasicProperties(content_type="application/json", delivery_mode=2))
                self.confirmed.append(n)
            except (pika.exceptions.AMQPError, OSError):
                channel = None

    def await_more(self, count, timeout=60):
        mark = len(self.confirmed) + count
        wait_for(lambda: len(self.confirmed) >= mark, timeout, f"{count} more confirmed events")

    def stop(self):
        self._stopping.set()
        self._thread.join(20)
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


class Reader:
    """An old client's session: it binds once and must hear everything."""

    def __init__(self, fleet, token, exchange, key):
        self.numbers = []
        self.socket = RawWs(f"{fleet.ws}?jwt={token}", timeout=120)
        assert self.socket.status == 101
        self.socket.send(json.dumps({"bind": {"ex": exchange, "key": key}, "req": 1}))
        assert json.loads(self.socket.recv_text())["ok"] is True
        self.ended = None
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while True:
                self.numbers.append(json.loads(self.socket.recv_text())["msg"]["n"])
        except Exception as e:
            self.ended = repr(e)

    def await_all(self, publisher, timeout=60):
        """Every confirmed event has come, in order."""
        last = publisher.confirmed[-1]
        wait_for(lambda: self.ended or (self.numbers and self.numbers[-1] >= last), timeout, f"event {last}")
        assert self.ended is None, self.ended
        got = list(self.numbers)
        assert got == sorted(got), "not in order"
        missing = set(publisher.confirmed) - set(got)
        assert not missing, f"lost {len(missing)} of {len(publisher.confirmed)}: {sorted(missing)[:10]}"
        return got


def health(f):
    return http.get(f.gateway.http + "/health").json()


def declare(f):
    """Exchanges again, for a broker that is new, with a connection that is new."""
    wait_for(lambda: f.declare_exchanges() is None, 30, "the exchanges")


@pytest.fixture
def f(fleet, broker):
    """A fleet on this module's broker, which runs."""
    if not broker.process.running:
        broker.start()
    made = fleet(amqp_url=broker.url(), amqp={"heartbeat_s": 2})
    return made


def test_with_the_broker_down_at_start_the_port_opens_and_readyz_says_not_ready(fleet, broker, token):
    """Row: broker down at start."""
    assert not broker.process.running
    f = fleet(amqp_url=broker.url(), declare=False, ready=False)
    wait_for(lambda: health(f)["amqp_connected"] is False, 20, "the gateway to answer")
    assert f.ingest.readyz().status == 503
    assert "amqp" in f.ingest.readyz().text
    assert health(f)["status"] == "failed"
    with RawWs(f"{f.ws}?jwt={token()}", timeout=30) as c:
        c.send('{"bind":{"ex":"public","key":"early.#"},"req":1}')
        assert json.loads(c.recv_text())["ok"] is True
        broker.start()
        declare(f)
        f.ingest.await_ready(45)
        wait_for(lambda: f.ingest.metric('event_ingest_exchange_waiting{exchange="public"}') == 0, 30,
                 "ingest to find its exchange")
        wait_for(lambda: health(f) == HEALTHY, 15, "the gateway to hear of it")
        f.publish("public", "early.1", {"a": 1})
        assert json.loads(c.recv_text())["msg"] == {"a": 1}


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_broker_that_goes_and_comes_back_loses_nothing(f, broker, token, how):
    """Rows: broker restart, kill -9: clients stay, bindings come back, none lost."""
    reader = Reader(f, token(), "public", "n.#")
    with Publisher(f.amqp_url, "public", "n") as publisher:
        publisher.await_more(50)
        if how == "kill":
            broker.kill()
        else:
            broker.process.stop(30)
        wait_for(lambda: health(f)["amqp_connected"] is False, 30, "the gateway to hear of it")
        late = Reader(f, token("2"), "public", "n.#")  # binds while the broker is down
        # Ingest sleeps until the broker is back and has new events: it would wait longer from attempt to attempt, and
        # the test with it.
        wait_for(lambda: "retry_ms=" in f.ingest.process.log_text(), 10, "ingest to have tried")
        f.ingest.process.freeze()
        broker.start()
        publisher.await_more(50)
        f.ingest.process.thaw()
        wait_for(lambda: health(f) == HEALTHY, 60, "ingest to come back")
        publisher.await_more(50)
    got = reader.await_all(publisher)
    if how == "restart":
        assert got == sorted(set(got)), "something came twice"
    assert late.ended is None
    wait_for(lambda: late.numbers and late.numbers[-1] == got[-1], 20, "the late client's events")
    first = got.index(late.numbers[0])
    assert late.numbers == got[first:]


def trouble_fin(broker, between):
    between.finish()


def trouble_reset(broker, between):
    between.drop()


def trouble_close(broker, between):
    broker.ctl("close_all_connections", "a test wants it")


@pytest.mark.parametrize("trouble", [trouble_fin, trouble_reset, trouble_close], ids=["fin", "reset", "close"])
def test_a_connection_that_the_broker_ends_is_made_again(fleet, broker, proxy, token, trouble):
    """Row: FIN from the broker (the original never reconnected); also RST, and connection.close."""
    if not broker.process.running:
        broker.start()
    between = proxy(broker.port)
    f = fleet(amqp_url=broker.url(port=between.port), amqp={"heartbeat_s": 10}, declare=False)
    f.amqp_url = broker.url()  # the publishers' own way
    declare(f)
    wait_for(lambda: f.ingest.metric('event_ingest_exchange_waiting{exchange="public"}') == 0, 30, "ingest to consume")
    reader = Reader(f, token(), "public", "n.#")
    with Publisher(f.amqp_url, "public", "n") as publisher:
        publisher.await_more(30)
        for _ in range(2):
            accepted = between.accepted
            trouble(broker, between)
            wait_for(lambda: between.accepted > accepted, 30, "ingest to connect again")
            publisher.await_more(30)
            wait_for(lambda: f.ingest.metric("event_ingest_amqp_connected") == 1, 30, "ingest to be connected")
    got = reader.await_all(publisher)
    assert got == sorted(set(got)), "something came twice"


def test_a_silent_broker_is_noticed_by_its_heartbeat(fleet, broker, proxy, token):
    """Row: silent broker (the original never reconnected)."""
    if not broker.process.running:
        broker.start()
    between = proxy(broker.port)
    f = fleet(amqp_url=broker.url(port=between.port), amqp={"heartbeat_s": 1}, declare=False)
    f.amqp_url = broker.url()
    declare(f)
    wait_for(lambda: f.ingest.metric('event_ingest_exchange_waiting{exchange="public"}') == 0, 30, "ingest to consume")
    reader = Reader(f, token(), "public", "n.#")
    with Publisher(f.amqp_url, "public", "n") as publisher:
        publisher.await_more(30)
        accepted = between.accepted
        between.set("blackhole")
        started = time.monotonic()
        wait_for(lambda: between.accepted > accepted, 20, "ingest to give the silent connection up")
        assert time.monotonic() - started > 0.9
        wait_for(lambda: health(f)["amqp_connected"] is False, 10, "the gateway to hear of it")
        publisher.await_more(30)
        between.set("pass")
        wait_for(lambda: health(f) == HEALTHY, 40, "ingest to come back")
        publisher.await_more(30)
    got = reader.await_all(publisher)
    assert got == sorted(set(got)), "something came twice"


def test_a_client_that_leaves_while_its_check_runs_disturbs_nobody(f, token, access_api):
    """Row: a client that leaves while its check runs."""
    access_api.behave("slow", "gate")
    access_api.behave("denied", _denied_behind_the_gate)
    with Bystander(f, token("bystander")) as bystander:
        for n in range(10):
            with RawWs(f"{f.ws}?jwt={token(str(n))}") as c:
                c.send('{"bind":{"ex":"wf.task","key":"slow.#"}}')
                c.send('{"bind":{"ex":"wf.task","key":"denied.#"}}')
                c.send('{"ping":1,"req":1}')
                assert json.loads(c.recv_text())["req"] == 1
                wait_for(lambda n=n: access_api.count == 2 * n + 2, 10, "the checks to be asked")
                if n % 2:
                    c.reset()
        wait_for(lambda: f.gateway.metric("event_gateway_sessions") == 1, 10, "the sessions to be gone")
        access_api.open_gate()
        wait_for(lambda: f.gateway.metric("event_gateway_access_pending") == 0, 10, "the checks to end")
        assert f.gateway.metric("event_gateway_bindings_pending") == 0
        for n in range(20):
            f.publish("wf.task", f"slow.{n}", {"n": n})
            f.publish("wf.task", f"denied.{n}", {"n": n})
        bystander.check()
        assert f.ingest.metric("event_ingest_amqp_disconnects_total") == 0


async def _denied_behind_the_gate(api, request):
    await api.gate_opened.wait()
    return web.Response(text='{"status":"denied"}', content_type="application/json")


def test_idle_sessions_are_pinged_and_dead_ones_closed(fleet, token):
    """Row: no pings."""
    f = fleet(gateway={"ping_interval_s": 1, "pong_timeout_s": 1})
    url = f"{f.ws}?jwt={token()}"
    with RawWs(url) as alive, RawWs(url) as dead:
        dead_at = time.monotonic()
        opcode, payload = dead.recv_frame(10)
        assert opcode == PING
        for _ in range(3):
            opcode, payload = alive.recv_frame(10)
            assert opcode == PING
            alive.send(payload, opcode=PONG)
        with pytest.raises(Gone):
            dead.recv_frame(10)
        assert time.monotonic() - dead_at > 1
        alive.send('{"ping":1,"req":1}')
        assert json.loads(alive.recv_text(10))["ok"] is True

    async def go():
        async with f.client(token()) as c:
            await c.silent(2.5)  # an ordinary client answers by itself, and hears nothing of it
            assert (await c.ping())["ok"] is True
    asyncio.run(go())
