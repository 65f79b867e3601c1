"""ingest alone: from RabbitMQ into Redis."""
import json
import re

import pika
import pytest

from support.log_reader import PartitionLog, drain
from support.wait import wait_for

EXCHANGES = {"wf": {"access": "public"}, "fan": {"type": "fanout", "access": "public"},
             "dir": {"type": "direct", "keys": ["a", "b.c"], "access": "public"}}

JSON = pika.BasicProperties(content_type="application/json")


@pytest.fixture
def ingest(fleet, redis):
    def make(**options):
        options.setdefault("exchanges", EXCHANGES)
        f = fleet(gateways=0, **options)
        f.log_of = lambda exchange: PartitionLog(redis.client(), f.prefix, exchange)
        return f
    return make


def test_an_event_is_logged_and_published_to_every_prefix_of_its_key(ingest):
    f = ingest()
    log = f.log_of("wf")
    sub = log.subscribe(":ch:", ":ch:task", ":ch:task.5f", ":ch:task.5f.6a", ":ch:other")
    f.publish("wf", "task.5f.6a", {"_id": "6a", "n": 1.50})
    got = drain(sub, 4)
    assert sorted(c.decode().split(":ch:")[1] for c, _ in got) == ["", "task", "task.5f", "task.5f.6a"]
    assert len({payload for _, payload in got}) == 1
    payload = got[0][1].decode()
    (entry_id, key, frame, digest), = log.entries()
    epoch = log.meta()["epoch"]
    assert re.fullmatch("[a-z0-9]{4,8}", epoch)
    assert key == b"task.5f.6a" and re.fullmatch(b"[0-9a-f]{32}", digest)
    assert payload == f'{epoch}:{entry_id} 10 task.5f.6a{{"id":"wf:0:{epoch}:{entry_id}",{frame.decode()}'
    event = json.loads(payload.split(" task.5f.6a", 1)[1])
    assert list(event) == ["id", "headers", "dinfo", "msg"] and event["msg"] == {"_id": "6a", "n": 1.5}
    f.ingest.await_metric('event_ingest_acked_total{exchange="wf"}', lambda v: v == 1)


def test_fanout_and_direct_exchanges_are_served(ingest):
    f = ingest()
    f.publish("fan", "any.key", {"n": 1})
    f.publish("dir", "a", {"n": 2})
    f.publish("dir", "elsewhere", {"n": 3})
    f.publish("dir", "b.c", {"n": 4})
    wait_for(lambda: f.log_of("dir").length() == 2, what="both events")
    assert f.log_of("dir").messages() == [{"n": 2}, {"n": 4}]
    wait_for(lambda: f.log_of("fan").messages() == [{"n": 1}])


def test_many_events_arrive_in_order(ingest):
    f = ingest()
    channel = f.channel().connection.channel()
    for n in range(5000):
        channel.basic_publish("wf", f"k.{n % 7}", b'{"n":%d}' % n, JSON)
    channel.close()
    log = f.log_of("wf")
    wait_for(lambda: log.length() == 5000, 30, "5000 events")
    assert [m["n"] for m in log.messages()] == list(range(5000))
    f.ingest.await_metric("event_ingest_acked_total", lambda v: v == 5000)
    wait_for(lambda: log.meta()["acked"] == log.entries()[-1][0], 5, "acked to reach the tip")
    assert f.ingest.metric("event_ingest_inflight_bytes") == 0
    assert f.queue_depth("wf") == 0


def test_ticks_come_once_a_second_and_carry_the_tip(ingest):
    f = ingest()
    log = f.log_of("wf")
    sub = log.subscribe(":tick")
    f.publish("wf", "a", {"n": 1})
    wait_for(lambda: log.length() == 1)
    drain(sub, 1)
    ticks = [payload.decode().split(" ") for _, payload in drain(sub, 3)]
    entry_id = log.entries()[0][0]
    counters = [int(t[0]) for t in ticks]
    assert counters == list(range(counters[0], counters[0] + 3))
    assert all(t[1:] == [log.meta()["epoch"], entry_id, "0-0", "1"] for t in ticks)


def test_an_exchange_that_appears_later_is_served_and_holds_nobody_up(ingest):
    f = ingest(exchanges={"wf": {"access": "public"}, "late": {"access": "public"}}, declare=False, ready=False)
    f.channel().exchange_declare("wf", "topic", durable=True)
    f.ingest.await_ready()
    f.ingest.await_metric('event_ingest_exchange_waiting{exchange="late"}', lambda v: v == 1)
    f.ingest.await_metric('event_ingest_exchange_waiting{exchange="wf"}', lambda v: v == 0)
    assert "waited for" in f.ingest.readyz().json()["checks"]["exchanges"]["detail"]
    f.publish("wf", "a", {"n": 1})
    wait_for(lambda: f.log_of("wf").length() == 1)
    f.channel().exchange_declare("late", "topic", durable=True)
    f.ingest.await_metric('event_ingest_exchange_waiting{exchange="late"}', lambda v: v == 0)
    f.publish("late", "a", {"n": 2})
    wait_for(lambda: f.log_of("late").messages() == [{"n": 2}])


def test_an_oversize_event_is_dead_lettered_and_the_others_go_on(ingest):
    f = ingest(ingest={"message_max_bytes": 200000})
    f.publish("wf", "a", "x" * 200000, content_type="text/plain")
    f.publish("wf", "big.one", "y" * 200001, content_type="text/plain", message_id="m1")
    f.publish("wf", "b", {"n": 2})
    log = f.log_of("wf")
    wait_for(lambda: log.length() == 2)
    assert [k for _, k, _, _ in log.entries()] == [b"a", b"b"]
    method, properties, body = wait_for(lambda: (g := f.channel().basic_get("event.dead")) and g[0] and g)
    assert len(body) == 200001 and properties.message_id == "m1"
    f.channel().basic_ack(method.delivery_tag)
    assert f.ingest.metric("event_ingest_dead_lettered_total") == 1
    assert "big.one" in f.ingest.log() and f.ingest.metric("event_ingest_inflight_bytes") == 0


def test_a_queue_with_other_arguments_is_refused_loudly_and_the_others_go_on(ingest):
    f = ingest(start=False)
    f.channel().queue_declare("event.ingest.fan.0", durable=True)
    f.ingest.start(ready=False)
    f.ingest.await_metric('event_ingest_queue_refused{exchange="fan"}', lambda v: v == 1)
    f.ingest.await_metric('event_ingest_consuming{exchange="wf"}', lambda v: v == 1)
    report = wait_for(lambda: (r := f.ingest.readyz().json()) and "406" in r["checks"]["exchanges"]["detail"] and r)
    assert report["ready"] is False
    f.publish("wf", "a", {"n": 1})
    wait_for(lambda: f.log_of("wf").length() == 1)


def test_headers_nested_too_deep_are_left_out_and_the_event_is_served(ingest):
    f = ingest()
    deep = {"x": 1}
    for _ in range(150):
        deep = {"d": deep}
    f.publish("wf", "deep", {"n": 1}, headers={"top": deep})
    f.publish("wf", "flat", {"n": 2}, headers={"top": {"x": 1}})
    log = f.log_of("wf")
    wait_for(lambda: log.length() == 2)
    assert log.messages() == [{"n": 1}, {"n": 2}]
    assert log.frames()[1]["headers"] == {"top": {"x": 1}}
    assert f.ingest.metric("event_ingest_headers_dropped_total") == 1


def test_the_log_is_trimmed_by_count_and_floor_is_the_newest_that_went(ingest):
    f = ingest(history={"max_events": 100})
    log = f.log_of("wf")
    channel = f.channel().connection.channel()
    sub = log.subscribe(":ch:")
    for n in range(1000):
        channel.basic_publish("wf", "k", b'{"n":%d}' % n, JSON)
    ids = [payload.split(b" ")[0].split(b":")[1].decode() for _, payload in drain(sub, 1000)]
    wait_for(lambda: log.length() == 100, 10, "the log to be trimmed")
    assert [m["n"] for m in log.messages()] == list(range(900, 1000))
    wait_for(lambda: log.meta()["floor"] == ids[899], 5, "floor")
    assert f.ingest.metric("event_ingest_trimmed_total") == 900


def test_trimming_stops_at_the_notifiers_group_up_to_the_hard_limit(ingest, redis):
    f = ingest(history={"max_events": 10, "max_bytes": 1000000, "hard_max_bytes": 1000000})
    log = f.log_of("wf")
    wait_for(lambda: redis.client().exists(log.log_key))
    redis.client().xgroup_create(log.log_key, "notifier", "0")
    for n in range(50):
        f.publish("wf", "k", {"n": n})
    wait_for(lambda: log.length() == 50)
    wait_for(lambda: log.meta()["acked"] == log.entries()[-1][0], 5, "acked")
    rows = redis.client().xreadgroup("notifier", "me", {log.log_key: ">"}, 20)[0][1]
    ticks = log.subscribe(":tick")
    drain(ticks, 2)
    assert log.length() == 50, "the oldest is pending: nothing may go"
    redis.client().xack(log.log_key, "notifier", *[i for i, _ in rows])
    wait_for(lambda: log.length() == 30, 5, "what the group has read and acked to go")
    assert [m["n"] for m in log.messages()] == list(range(20, 50))
    assert f.ingest.metric("event_ingest_trim_lost_total") == 0
    for n in range(50, 80):
        f.publish("wf", "k", "x" * 50000, content_type="text/plain")
    f.ingest.await_metric("event_ingest_trim_lost_total", lambda v: v > 0)
    assert f.ingest.metric("event_ingest_log_bytes") < 1100000


def test_the_log_is_trimmed_by_age_and_by_bytes(ingest, redis):
    f = ingest(history={"max_age_s": 2, "max_bytes": 1000000})
    log, fan = f.log_of("wf"), f.log_of("fan")
    f.publish("wf", "k", {"n": 1})
    wait_for(lambda: log.length() == 1)
    first = log.entries()[0][0]
    wait_for(lambda: log.length() == 0, 10, "the old event to go")
    assert log.meta()["floor"] == first == log.meta()["tip"]
    for _ in range(40):
        f.publish("fan", "k", "x" * 50000, content_type="text/plain")
    wait_for(lambda: redis.client().memory_usage(fan.log_key) < 1000000, 5, "the log to shrink")


def test_sighup_adds_and_removes_exchanges_and_bindings(ingest):
    f = ingest()
    f.channel().exchange_declare("more", "topic", durable=True)
    f.channel().queue_delete("event.ingest.more.0")
    f.publish("wf", "a", {"n": 0})
    changed = dict(EXCHANGES, more={"access": "public"}, dir={"type": "direct", "keys": ["b.c", "d"], "access": "public"})
    del changed["fan"]
    f.ingest.config["exchanges"] = {}
    f.ingest.reload({"exchanges": changed})
    f.ingest.await_metric('event_ingest_consuming{exchange="more"}', lambda v: v == 1)
    f.ingest.await_metric('event_ingest_consuming{exchange="fan"}', lambda v: v == 0)
    wait_for(lambda: f.ingest.is_ready())

    def rebound():
        f.publish("dir", "d", {"n": "d"})
        return f.log_of("dir").length() > 0
    wait_for(rebound, 10, "the new binding")
    before = f.log_of("dir").length()
    f.publish("dir", "a", {"n": "a"})
    f.publish("dir", "b.c", {"n": "bc"})
    f.publish("more", "x", {"n": 1})
    f.publish("wf", "a", {"n": 2})
    wait_for(lambda: f.log_of("dir").length() == before + 1 and f.log_of("dir").messages()[-1] == {"n": "bc"})
    wait_for(lambda: f.log_of("more").messages() == [{"n": 1}])
    wait_for(lambda: f.log_of("wf").messages() == [{"n": 0}, {"n": 2}])
    assert f.log_of("fan").length() == 0


def test_a_huge_event_passes_and_memory_is_given_back(ingest):
    f = ingest(ingest={"inflight_max_bytes": 1000000})
    f.publish("wf", "warm", {"n": 1})
    log = f.log_of("wf")
    wait_for(lambda: log.length() == 1)
    body = "z" * (12 << 20)
    for n in range(3):
        f.publish("wf", "big", json.dumps({"n": n, "body": body}), content_type="application/json")
    f.publish("wf", "small", {"n": 9})
    wait_for(lambda: log.length() == 5, 60, "all five")
    assert [m["n"] for m in log.messages()] == [1, 0, 1, 2, 9]
    assert f.ingest.metric("event_ingest_inflight_bytes") == 0
    assert f.ingest.metric("event_ingest_read_pauses_total") >= 1
