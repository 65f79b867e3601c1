"""A gateway receives from Redis what its clients want, each event once, and nothing else."""
import pytest

from support.flood import Flood
from support.swarm import Swarm

EVENTS = 60_000
KEYS = [f"task.{t}.{n}" for t in ("5f", "60", "61") for n in range(5)] + ["other.1", "task"]


def received(gateway):
    metrics = gateway.metrics()
    return {kind: metrics.get(f'event_gateway_redis_messages_total{{kind="{kind}"}}', 0)
            for kind in ("event", "tick", "probe")} | {
                "bytes": metrics["event_gateway_redis_received_bytes_total"],
                "events": sum(v for k, v in metrics.items() if k.startswith("event_gateway_events_total"))}


@pytest.fixture
def calm_fleet(fleet):
    return fleet(exchanges={"ev": {"access": "public"}}, log={"level": "info"},
                 gateway={"session_queue_max_bytes": 256 << 20})


def flood(f, count, keys=KEYS):
    """Publish, and wait until ingest has handed all of it to Redis."""
    before = f.ingest.metric("event_ingest_published_total")
    with Flood(f.amqp_url, "ev", keys, count) as it:
        it.wait()
        f.ingest.await_metric("event_ingest_published_total", lambda v: v >= before + count, 60)
    return it


def test_without_a_matching_binding_nothing_but_ticks_and_probes_arrives(calm_fleet, token):
    f = calm_fleet
    with Swarm(f.ws, token(), 3) as swarm:
        swarm.bind_all("ev", "elsewhere.#")
        swarm.bind_all("ev", "task.62.*")
        swarm.bind_all("ev", "taskforce.#")
        before = received(f.gateway)
        flood(f, EVENTS)
        # A tick and a probe published after the events: all that Redis had for us has been counted.
        now = received(f.gateway)
        f.gateway.await_metric('event_gateway_redis_messages_total{kind="tick"}', lambda v: v >= now["tick"] + 2)
        f.gateway.await_metric('event_gateway_redis_messages_total{kind="probe"}', lambda v: v >= now["probe"] + 2)
        after = received(f.gateway)
        assert after["event"] == before["event"] == 0
        assert after["events"] == 0
        assert after["tick"] > before["tick"] and after["probe"] > before["probe"]
        # Ticks and probes cost some hundred bytes a second; the events were several megabytes.
        assert after["bytes"] - before["bytes"] < 100_000
        assert swarm.received == 0


@pytest.mark.parametrize("order", [["#", "task.#", "task.5f.#"], ["task.5f.#", "task.#", "#"]], ids=["down", "up"])
def test_overlapping_bindings_receive_each_event_once(calm_fleet, token, order):
    f, count = calm_fleet, 10_000
    with Swarm(f.ws, token(), 3) as swarm:
        for session, key in zip(swarm.sessions, order):
            swarm.bind_all("ev", key, [session])
        f.gateway.await_metric("event_gateway_channels", lambda v: v == 1)
        it = flood(f, count)
        wanted = {"#": lambda key: True, "task.#": lambda key: key.split(".")[0] == "task",
                  "task.5f.#": lambda key: key.startswith("task.5f.")}
        expected = [[n for n in range(count) if wanted[key](it.key_of(n))] for key in order]
        swarm.pump(lambda: swarm.received >= sum(map(len, expected)), 60)
        assert [[e["msg"] for e in s.events] for s in swarm.sessions] == expected
        after = received(f.gateway)
        assert after["event"] == count
        assert after["events"] == count
        assert f.gateway.metric("event_gateway_events_repeated_total") == 0


def test_a_session_with_all_three_bindings_gets_three_copies_of_one_message(calm_fleet, token):
    f, count = calm_fleet, 1000
    with Swarm(f.ws, token(), 1) as swarm:
        for key in ("#", "task.#", "task.5f.#"):
            swarm.bind_all("ev", key)
        flood(f, count, ["task.5f.1"])
        swarm.pump(lambda: swarm.received >= 3 * count, 60)
        assert [e["msg"] for e in swarm.sessions[0].events] == [n for n in range(count) for _ in range(3)]
        assert received(f.gateway)["event"] == count


def test_channels_follow_the_bindings(calm_fleet, token, redis):
    """What is no longer wanted is no longer subscribed, and a narrower channel comes back when the wider goes."""
    f = calm_fleet

    def subscribed():
        """The channels of bindings that somebody subscribes, without what all of them begin with."""
        base = f"{f.prefix}:{{ev:0}}:ch:"
        with redis.client() as r:
            return sorted(c.decode()[len(base):] for c in r.pubsub_channels(base.replace("[", "\\[") + "*"))

    def becomes(expected):
        swarm.pump(lambda: subscribed() == expected, 10, f"channels {expected}, not {subscribed()}")

    with Swarm(f.ws, token(), 2) as swarm:
        a, b = swarm.sessions
        assert subscribed() == []
        swarm.bind_all("ev", "task.5f.#", [a])
        becomes(["task.5f"])
        swarm.bind_all("ev", "task.60.x", [a])
        becomes(["task.5f", "task.60.x"])
        swarm.bind_all("ev", "task.*.x", [b])
        becomes(["task"])
        swarm.bind_all("ev", "#", [b])
        becomes([""])
        swarm.answers([(b, b.ask(unbind={"ex": "ev", "key": "#"}))])
        becomes(["task"])
        swarm.answers([(b, b.ask(unbind={"ex": "ev", "key": "task.*.x"}))])
        becomes(["task.5f", "task.60.x"])
        assert f.gateway.metric("event_gateway_channels") == 2
        # Each event once also after all these changes.
        flood(f, 500, ["task.5f.x", "task.60.x", "task.61.x", "other"])
        f.publish("ev", "task.5f.last", b"-1", content_type="application/json")
        swarm.pump(lambda: a.messages and a.events[-1]["msg"] == -1)
        numbers = [e["msg"] for e in a.events]
        assert numbers[:-1] == sorted(set(numbers[:-1])) and len(numbers) > 100
        assert b.messages == []
        swarm.close()
    f.gateway.await_metric("event_gateway_sessions", lambda v: v == 0)
    f.gateway.await_metric("event_gateway_channels", lambda v: v == 0)
    assert subscribed() == []
