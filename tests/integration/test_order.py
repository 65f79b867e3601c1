"""Order and completeness: each session gets exactly its events, in order, one copy for each matching binding."""
import json
from collections import Counter

import pytest

from support.flood import Flood
from support.swarm import Swarm
from support.topics import matches

EVENTS = 100_000
SESSIONS = 200


def patterns_of(number, keys):
    """The bindings of session `number`: exact, wildcard, overlapping, doubled ones; a few have all events.
    Together they ask for about a million deliveries."""
    project, task = number % 10, number % 5
    exact = keys[number % len(keys)]
    few = [[exact],                                      # one key
           [exact, keys[(number * 7 + 3) % len(keys)]],  # two keys
           [f"p{project}.t{task}.*"],                    # a wildcard at the end
           [f"p{project}.*.x", exact],                   # a wildcard in the middle, and the same event again
           [f"p{project}.#.t{task}.#.x", exact, exact],  # several "#", and the same binding twice
           [f"p{project}.#.x", f"p{project}.t{task}.#"],  # two that overlap
           ["nobody.#", "p1", "p1.*", "#.q"],            # nothing
           [f"*.t{task}.x"] if number % 16 == 7 else [f"p{project}.*.*", "*.*.y"]]
    if number in (0, 77):
        return ["#"]
    if number == 133:
        return ["#", "p3.#", "p3.t2.x", "#.t2.x"]
    return few[number % len(few)]


# Up to a minute on two cores, three when they are shared.
@pytest.mark.timeout(300)
def test_each_session_gets_exactly_its_events_in_order(fleet, token):
    f = fleet(gateway={"session_queue_max_bytes": 256 << 20, "ping_interval_s": 0}, log={"level": "info"})
    keys = [f"p{p}.t{t}.x" for p in range(10) for t in range(5)]
    assert len(keys) == 50
    first_seen = [None] * EVENTS          # event n's frame, as whoever got it first got it
    got = [[] for _ in range(SESSIONS)]   # the numbers of each session's events, in order of arrival
    differing = []

    def on_message(session, payload):
        # The body is the event's number, and the last member of the frame.
        n = int(payload[payload.rindex(b":") + 1:-1])
        got[session.number].append(n)
        if first_seen[n] is None:
            first_seen[n] = payload
        elif first_seen[n] != payload:
            differing.append((first_seen[n], payload))

    with Swarm(f.ws, token(), SESSIONS, on_message) as swarm:
        asked = [(s, s.ask(bind={"ex": "public", "key": p}))
                 for s in swarm.sessions for p in patterns_of(s.number, keys)]
        assert all(a.get("ok") is True for a in swarm.answers(asked))

        with Flood(f.amqp_url, "public", keys, EVENTS) as flood:
            copies = {(s.number, key): c for s in swarm.sessions for key in keys
                      if (c := sum(matches(p, key) for p in patterns_of(s.number, keys)))}
            published = Counter(flood.key_of(n) for n in range(EVENTS))
            expected_total = sum(c * published[key] for (_, key), c in copies.items())
            assert 700_000 < expected_total < 2_000_000  # the test is as large as it says
            swarm.pump(lambda: swarm.received >= expected_total, 240, f"{expected_total} events")
            flood.wait()

        # A fence: had there been more copies than there should be, they would be in front of it.
        fence = [(s, s.ask(bind={"ex": "public", "key": "fence"})) for s in swarm.sessions]
        swarm.answers(fence)
        assert swarm.received == expected_total
        assert not [s.closed for s in swarm.sessions if s.closed]

    assert not differing, differing[:2]
    keys_in_order = [flood.key_of(n) for n in range(EVENTS)]
    for number in range(SESSIONS):
        expected = [n for n, key in enumerate(keys_in_order) for _ in range(copies.get((number, key), 0))]
        assert got[number] == expected, describe(number, got[number], expected)

    frames = [json.loads(frame) for frame in first_seen]
    for n in range(0, EVENTS, 97):
        assert frames[n]["dinfo"]["routingKey"] == keys_in_order[n] and frames[n]["msg"] == n
    epochs = {frame["id"].rsplit(":", 1)[0] for frame in frames}
    assert len(epochs) == 1
    ids = [tuple(map(int, frame["id"].rsplit(":", 1)[1].split("-"))) for frame in frames]
    assert all(a < b for a, b in zip(ids, ids[1:])), "ids must grow"

    metrics = f.gateway.metrics()
    assert metrics['event_gateway_events_total{exchange="public"}'] == EVENTS
    assert metrics["event_gateway_deliveries_total"] == expected_total


def describe(number, got, expected):
    at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    return (f"session {number}: {len(got)} events, expected {len(expected)}; they differ at {at}: "
            f"{got[at - 2:at + 5]} instead of {expected[at - 2:at + 5]}")


def test_events_of_several_exchanges_keep_each_their_own_order(fleet, token):
    f = fleet(exchanges={"one": {"access": "public"}, "two": {"access": "public"}, "three": {"access": "public"}},
              gateway={"session_queue_max_bytes": 64 << 20})
    count = 3000
    with Swarm(f.ws, token(), 5) as swarm:
        for exchange in ("one", "two", "three"):
            swarm.bind_all(exchange, "#")
        floods = [Flood(f.amqp_url, exchange, ["a.b", "c"], count) for exchange in ("one", "two", "three")]
        swarm.pump(lambda: swarm.received >= 5 * 3 * count, 60)
        for flood in floods:
            flood.wait()
        for s in swarm.sessions:
            by_exchange = {"one": [], "two": [], "three": []}
            for event in s.events:
                by_exchange[event["dinfo"]["exchange"]].append(event["msg"])
            assert by_exchange == {e: list(range(count)) for e in by_exchange}


def test_a_binding_added_or_taken_back_under_load_changes_no_other_binding(fleet, token):
    """Channels come and go (task.5f below task below the root) while events pass; who stays bound misses nothing,
    and who comes and goes gets events without holes from its first to its last."""
    f = fleet(gateway={"session_queue_max_bytes": 64 << 20, "session_requests_per_s": 0})
    count = 20_000
    with Swarm(f.ws, token(), 4) as swarm:
        steady, narrow, wide, root = swarm.sessions
        swarm.bind_all("public", "task.5f.#", [steady])
        with Flood(f.amqp_url, "public", ["task.5f.a"], count, rate=6000) as flood:
            moves = [(narrow, "task.5f.a"), (wide, "task.#"), (root, "#")]
            rounds, waiting, bound = 0, [], {}
            while len(steady.messages) < count:
                swarm.pump(lambda: len(steady.messages) >= count or all(r in s.answers for s, r in waiting), 60)
                assert all("ok" in s.answers[r] for s, r in waiting if r in s.answers), waiting
                session, key = moves[rounds % 3]
                command = "unbind" if bound.get(session) else "bind"
                bound[session] = command == "bind"
                waiting = [(session, session.ask(**{command: {"ex": "public", "key": key}}))]
                rounds += 1
            flood.wait()
        assert rounds > 30
        assert [e["msg"] for e in steady.events] == list(range(count))
        for s in (narrow, wide, root):
            numbers = [e["msg"] for e in s.events]
            assert numbers == sorted(set(numbers)), "in order, and none twice"
            assert numbers
    assert f.gateway.metric("event_gateway_events_total") == count
