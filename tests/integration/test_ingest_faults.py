"""ingest while its neighbours and itself are killed, stopped and emptied: nothing lost, nothing twice, in order."""
import os
import signal
import socket
import time

import pika
import pytest

from support.log_reader import PartitionLog, compare, drain
from support.publisher import Publisher
from support.rabbit import RabbitServer
from support.redis_server import RedisServer
from support.wait import wait_for

EXCHANGES = {"wf": {"access": "public"}}


@pytest.fixture
def solid_redis(tmp_path):
    """A Redis that forgets nothing when it is killed."""
    server = RedisServer(tmp_path / "redis", options=["--appendonly", "yes", "--appendfsync", "always"]).start()
    yield server
    server.kill()


@pytest.fixture
def own_rabbit(tmp_path):
    server = RabbitServer(tmp_path / "rabbit").start()
    yield server
    server.stop()


@pytest.fixture
def world(fleet):
    def make(redis, ingests=1, **options):
        f = fleet(gateways=0, ingests=ingests, exchanges=EXCHANGES, redis_url=redis.url(), **options)
        f.log_of = lambda: PartitionLog(redis.client(), f.prefix, "wf")
        return f
    return make


def check(f, publisher, timeout=60):
    """All that was confirmed is in the log once, in order."""
    log = f.log_of()

    def complete():
        return log.length() >= len(publisher.confirmed) and log.messages()[-1]["n"] >= publisher.confirmed[-1]
    try:
        wait_for(complete, timeout, "the log to be complete", interval=0.2)
    except AssertionError:
        pass  # the comparison says more
    numbers = [m["n"] for m in log.messages()]
    lost, doubled, disorder = compare(numbers, publisher.confirmed)
    print(f"confirmed {len(publisher.confirmed)}, in the log {len(numbers)}, lost {len(lost)}, "
          f"doubled {len(doubled)}, out of order {len(disorder)}")
    assert (lost[:10], doubled[:10], disorder[:10]) == ([], [], [])
    return numbers


def some(publisher, count):
    """Wait until so many more are confirmed."""
    goal = len(publisher.confirmed) + count
    wait_for(lambda: len(publisher.confirmed) >= goal, 60, f"{count} more events")


def test_redis_killed_and_back_under_load(world, solid_redis):
    f = world(solid_redis)
    with Publisher(f.amqp_url, "wf") as p:
        for _ in range(4):
            some(p, 300)
            solid_redis.kill()
            some(p, 200)
            solid_redis.start()
            f.ingest.await_metric("event_ingest_redis_up", lambda v: v == 1, 15)
        some(p, 300)
    check(f, p)
    assert f.ingest.metric("event_ingest_duplicates_total") == 0, "the fence recognises what was sent again"


def test_rabbitmq_restarted_under_load(world, solid_redis, own_rabbit):
    f = world(solid_redis, amqp_url=own_rabbit.url())
    with Publisher(f.amqp_url, "wf") as p:
        for _ in range(2):
            some(p, 500)
            own_rabbit.ctl("stop_app")
            f.ingest.await_metric("event_ingest_amqp_connected", lambda v: v == 0)
            own_rabbit.ctl("start_app")
            f.ingest.await_metric("event_ingest_amqp_connected", lambda v: v == 1, 60)
        some(p, 500)
    check(f, p)
    f.ingest.await_ready()


def test_active_ingest_killed_under_load(world, redis):
    f = world(redis, ingests=2)
    log = f.log_of()
    with Publisher(f.amqp_url, "wf", rate=2000) as p:
        for round in range(6):
            some(p, 300 + 37 * round)
            owner = log.meta()["owner"]
            active = next(i for i in f.ingests if f":{i.pid}:" in owner)
            active.kill()
            some(p, 200)
            active.start()
        some(p, 300)
    check(f, p)


def test_a_frozen_owner_is_fenced_when_it_wakes(world, redis):
    f = world(redis, ingests=2, amqp={"heartbeat_s": 2})
    log = f.log_of()
    with Publisher(f.amqp_url, "wf", rate=2000) as p:
        some(p, 300)
        owner = log.meta()["owner"]
        active = next(i for i in f.ingests if f":{i.pid}:" in owner)
        standby = next(i for i in f.ingests if i is not active)
        active.signal(signal.SIGSTOP)
        wait_for(lambda: f":{standby.pid}:" in log.meta()["owner"], 30, "the standby to take over")
        some(p, 500)
        active.signal(signal.SIGCONT)
        some(p, 500)
    check(f, p)
    active.await_ready()


def test_the_lease_moves_and_ticks_go_on_when_their_holder_dies(world, redis):
    f = world(redis, ingests=2)
    log = f.log_of()
    sub = log.subscribe(":tick")
    drain(sub, 2)
    holder = next(i for i in f.ingests if f":{i.pid}:" in log.meta()["lease"])
    holder.kill()
    ticks = [int(payload.split(b" ")[0]) for _, payload in drain(sub, 4)]
    assert ticks == list(range(ticks[0], ticks[0] + 4)), "no counter is skipped"
    assert f":{holder.pid}:" not in log.meta()["lease"]


def test_sigterm_hands_over_in_order_and_without_duplicates(world, redis):
    f = world(redis, ingests=2)
    log = f.log_of()
    with Publisher(f.amqp_url, "wf", rate=2000) as p:
        for _ in range(3):
            some(p, 400)
            owner = log.meta()["owner"]
            active = next(i for i in f.ingests if f":{i.pid}:" in owner)
            active.stop()
            some(p, 200)
            active.start()
        some(p, 200)
    check(f, p)


def test_scripts_flushed_in_the_middle(world, redis):
    f = world(redis)
    with Publisher(f.amqp_url, "wf", rate=2000) as p:
        for _ in range(20):
            some(p, 50)
            redis.client().script_flush()
        some(p, 200)
    check(f, p)


def test_redis_out_of_memory_holds_and_goes_on(world, solid_redis):
    f = world(solid_redis)
    client = solid_redis.client()
    log = f.log_of()
    with Publisher(f.amqp_url, "wf") as p:
        some(p, 200)
        client.config_set("maxmemory", 1000000)
        f.ingest.await_metric("event_ingest_redis_errors_total", lambda v: v >= 1)
        wait_for(lambda: not f.ingest.is_ready(), 15, "readiness to say so")
        some(p, 1500)
        assert f.ingest.metric("event_ingest_inflight_events") <= 1000
        client.config_set("maxmemory", 0)
        some(p, 200)
    check(f, p)
    f.ingest.await_ready()
    assert log.meta()["epoch"]


def test_redis_emptied_begins_a_new_epoch_and_goes_on(world, redis):
    f = world(redis)
    log = f.log_of()
    for n in range(10):
        f.publish("wf", "a", {"n": n})
    wait_for(lambda: log.length() == 10)
    epoch = log.meta()["epoch"]
    redis.client().flushall()
    f.publish("wf", "a", {"n": 10})
    wait_for(lambda: log.messages() == [{"n": 10}], 15)
    assert log.meta()["epoch"] != epoch
    f.publish("wf", "a", {"n": 11})
    wait_for(lambda: log.messages() == [{"n": 10}, {"n": 11}])


def test_a_log_that_lost_its_tail_begins_a_new_epoch(world, redis):
    f = world(redis)
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    # A failover to a replica that is behind: the state of now comes back later.
    saved = [(k, redis.client().dump(k)) for k in (log.log_key, log.meta_key)]
    epoch = log.meta()["epoch"]
    f.publish("wf", "a", {"n": 1})
    f.ingest.await_metric("event_ingest_acked_total", lambda v: v == 2)
    with redis.client().pipeline(transaction=True) as t:
        for k, dump in saved:
            t.restore(k, 0, dump, replace=True)
        t.execute()
    f.publish("wf", "a", {"n": 2})
    wait_for(lambda: log.messages() == [{"n": 0}, {"n": 2}], 15)
    meta = log.meta()
    assert meta["epoch"] != epoch and meta["floor"] == log.entries()[0][0]


def test_a_deleted_log_begins_a_new_epoch(world, redis):
    f = world(redis)
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    epoch = log.meta()["epoch"]
    redis.client().delete(log.log_key)
    f.publish("wf", "a", {"n": 1})
    wait_for(lambda: log.messages() == [{"n": 1}], 15)
    assert log.meta()["epoch"] != epoch


def test_a_key_of_another_type_is_said_and_survived(world, redis):
    f = world(redis)
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    redis.client().rename(log.log_key, log.log_key + "x")
    redis.client().set(log.log_key, "not a stream")
    f.publish("wf", "a", {"n": 1})
    f.ingest.await_metric("event_ingest_redis_errors_total", lambda v: v >= 1)
    wait_for(lambda: not f.ingest.is_ready(), 15)
    redis.client().rename(log.log_key + "x", log.log_key)
    wait_for(lambda: log.messages() == [{"n": 0}, {"n": 1}], 15)
    f.ingest.await_ready()


def test_a_deleted_queue_comes_back_and_what_was_held_is_published(world, solid_redis):
    f = world(solid_redis)
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    solid_redis.client().client_pause(3000)
    for n in range(1, 200):
        f.publish("wf", "a", {"n": n})
    wait_for(lambda: f.queue_depth("wf") == 0, what="ingest to hold all of it")
    f.channel().queue_delete("event.ingest.wf.0")
    f.ingest.await_metric("event_ingest_consumer_cancels_total", lambda v: v == 1)
    wait_for(lambda: log.length() == 200, 15, "what was held")
    f.ingest.await_metric("event_ingest_consuming", lambda v: v == 1)

    def served():
        f.publish("wf", "a", {"n": 200})
        return log.length() > 200
    wait_for(served, 15, "the new queue")
    assert [m["n"] for m in log.messages()][:200] == list(range(200))


def test_an_exchange_deleted_and_made_again_is_bound_again(world, redis):
    f = world(redis)
    f.channel().exchange_delete("wf")
    f.ingest.await_metric("event_ingest_exchange_waiting", lambda v: v == 1, 30)
    f.declare_exchanges()
    f.ingest.await_metric("event_ingest_exchange_waiting", lambda v: v == 0, 30)
    f.publish("wf", "a", {"n": 1})
    wait_for(lambda: f.log_of().messages() == [{"n": 1}])


def test_a_silent_broker_is_noticed_by_its_heartbeat(world, redis, rabbit, proxy):
    vhost = rabbit.add_vhost("silent")
    wire = proxy(rabbit.port)
    f = world(redis, amqp_url=rabbit.url(vhost, port=wire.port), amqp={"heartbeat_s": 1})
    wire.set("blackhole")
    before = time.monotonic()
    f.ingest.await_metric("event_ingest_amqp_connected", lambda v: v == 0, 10)
    assert time.monotonic() - before < 4
    wait_for(lambda: not f.ingest.is_ready(), 15)
    wire.set("pass")
    f.ingest.await_ready()


def test_reading_stops_at_the_limit_and_the_connection_lives(world, solid_redis):
    f = world(solid_redis, ingest={"inflight_max_bytes": 2000000}, amqp={"heartbeat_s": 1})
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    disconnects = f.ingest.metric("event_ingest_amqp_disconnects_total")
    solid_redis.client().client_pause(5000)
    channel = f.channel().connection.channel()
    properties = pika.BasicProperties(content_type="application/json")
    for n in range(1, 400):
        channel.basic_publish("wf", "a", b'{"n":%d,"x":"%s"}' % (n, b"x" * 40000), properties)
    f.ingest.await_metric("event_ingest_read_paused", lambda v: v == 1)
    assert f.ingest.metric("event_ingest_inflight_bytes") < 2500000
    wait_for(lambda: log.length() == 400, 30, "all of it")
    assert [m["n"] for m in log.messages()] == list(range(400))
    assert f.ingest.metric("event_ingest_amqp_disconnects_total") == disconnects
    assert f.ingest.metric("event_ingest_read_paused") == 0


@pytest.mark.parametrize("what", ["nothing", "redis", "rabbit"])
def test_sigterm_at_start_ends_in_order(fleet, redis, rabbit, what):
    closed = "127.0.0.1:1"
    f = fleet(gateways=0, ingests=1, exchanges=EXCHANGES, declare=False, start=False,
              redis_url=redis.url() if what == "redis" else f"redis://{closed}/0",
              amqp_url=rabbit.url() if what == "rabbit" else f"amqp://guest:guest@{closed}/")
    for wait in (0, 0.005, 0.05, 0.3):
        f.ingest.start(ready=False)
        # Before main() a signal is the kernel's business.
        wait_for(lambda: "STARTING" in f.ingest.log(), interval=0.001)
        time.sleep(wait)
        f.ingest.stop(10)
        os.unlink(f.ingest.process.log)


def test_quorum_queue_active_killed_under_load(world, redis):
    """RabbitMQ counts redeliveries in a header of its own; that must not make a known event look new."""
    f = world(redis, ingests=2, amqp={"queue_type": "quorum"})
    log = f.log_of()
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, headers={"a": 1, "b": {"c": "d"}})
    with Publisher(f.amqp_url, "wf", rate=1500, properties=properties) as p:
        for _ in range(4):
            some(p, 400)
            owner = log.meta()["owner"]
            active = next(i for i in f.ingests if f":{i.pid}:" in owner)
            active.kill()
            some(p, 200)
            active.start()
        some(p, 200)
    check(f, p)


def test_events_logged_but_not_acked_are_recognised_when_they_return(world, redis, rabbit, proxy):
    """The acks are lost on their way; the next session finds all of it in the log."""
    vhost = rabbit.add_vhost("halfopen")
    wire = proxy(rabbit.port)
    f = world(redis, amqp_url=rabbit.url(vhost, port=wire.port), amqp={"heartbeat_s": 2})
    log = f.log_of()
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: log.length() == 1)
    publisher = pika.BlockingConnection(pika.URLParameters(rabbit.url(vhost)))
    channel = publisher.channel()
    properties = pika.BasicProperties(content_type="application/json")
    wire.halfopen("to_server")
    for n in range(1, 301):
        channel.basic_publish("wf", "a", b'{"n":%d}' % n, properties)
    wait_for(lambda: log.length() == 301, what="all to be logged")
    wire.drop()
    wire.halfopen(None)
    f.ingest.await_metric("event_ingest_duplicates_total", lambda v: v >= 300, 30)
    channel.basic_publish("wf", "a", b'{"n":301}', properties)
    wait_for(lambda: log.length() == 302)
    assert [m["n"] for m in log.messages()] == list(range(302))
    publisher.close()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_redis_away_for_long_gives_back_what_is_held(world, solid_redis):
    f = world(solid_redis)
    f.publish("wf", "a", {"n": 0})
    wait_for(lambda: f.log_of().length() == 1)
    solid_redis.kill()
    for n in range(1, 100):
        f.publish("wf", "a", {"n": n})
    wait_for(lambda: f.queue_depth("wf") == 0)
    f.ingest.await_metric("event_ingest_consuming", lambda v: v == 0, 90)
    wait_for(lambda: f.queue_depth("wf") == 99)
    assert f.ingest.metric("event_ingest_inflight_bytes") == 0
    solid_redis.start()
    wait_for(lambda: f.log_of().length() == 100, 30)
    assert [m["n"] for m in f.log_of().messages()] == list(range(100))
    f.ingest.await_ready()


LIES = {
    "silence": b"",
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another version": b"AMQP\0\1\0\0",
    "a frame over frame_max": b"\1\0\0\177\377\377\377",
    "a frame without end": b"\1\0\0\0\0\0\4\0\12\0\12\0",
    "a method that does not decode": b"\1\0\0\0\0\0\4\0\12\0\12\316",
    "a frame on a channel that is not open": b"\3\0\7\0\0\0\0\316",
    "an unexpected method": b"\1\0\0\0\0\0\4\0\12\0\51\316",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.replace(" ", "-"))
def test_a_broker_that_lies_is_left(fleet, redis, lie):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(15)
        port = server.getsockname()[1]
        f = fleet(gateways=0, exchanges=EXCHANGES, declare=False, ready=False, redis_url=redis.url(),
                  amqp_url=f"amqp://guest:guest@127.0.0.1:{port}/", vhost="none")
        connections = []
        for _ in range(2):  # it comes back
            connections.append(server.accept()[0])
            assert connections[-1].recv(8) == b"AMQP\0\0\11\1"
            connections[-1].sendall(LIES[lie])
        for c in connections:
            c.close()
        assert f.ingest.metric("event_ingest_amqp_disconnects_total") >= 1
        assert f.ingest.readyz().status == 503
        f.ingest.stop(10)


def test_a_wrong_password_is_said(fleet, redis, rabbit):
    f = fleet(gateways=0, exchanges=EXCHANGES, declare=False, ready=False, vhost="none",
              amqp_url=f"amqp://guest:wrong-secret@127.0.0.1:{rabbit.port}/")
    wait_for(lambda: "ACCESS_REFUSED" in f.ingest.log())
    assert "wrong-secret" not in f.ingest.log()


@pytest.mark.long
def test_redis_frozen_past_the_watchdog(world, solid_redis):
    """The link is cut with everything in flight; Redis executes what it had received when it wakes, and the rest comes again."""
    f = world(solid_redis)
    with Publisher(f.amqp_url, "wf") as p:
        some(p, 300)
        solid_redis.process.freeze()
        f.ingest.await_metric("event_ingest_redis_up", lambda v: v == 0, 30)
        some(p, 200)
        solid_redis.process.thaw()
        some(p, 300)
    check(f, p)
