"""What is measured: each scenario is a list of points, and a point is measured with each of its contestants in turns."""
import dataclasses
import json
import statistics
import subprocess
import time

import pika

from bench.contestants import Ours
from bench.stand import pin
from support.access_api import AccessApi
from support.fleet import Fleet
from support.wait import wait_for

# Delivered of what was published, below which a contestant counts as saturated.
SATURATED = 0.99


@dataclasses.dataclass(frozen=True)
class Point:
    scenario: str
    contestants: tuple
    sessions: int
    rate: float          # events per second
    size: int = 300
    groups: int = 1
    burst: int = 1
    seconds: float = 3.0

    @property
    def label(self):
        parts = [f"{self.sessions} sessions", f"{self.size} B"]
        if self.groups > 1:
            parts.append(f"{self.sessions // self.groups} receivers per event")
        if self.burst > 1:
            parts.append(f"bursts of {self.burst}")
        parts.append(f"{self.rate:g} events/s")
        return ", ".join(parts)

    def pace(self):
        return ["--rate", self.rate, "--burst", self.burst, "--seconds", self.seconds]


PEERS = ("nchan", "nchan-redis", "nats", "web-stomp", "pushpin", "reference")


def points(quick):
    seconds = 1.0 if quick else 3.0
    result = []

    def add(scenario, contestants, **what):
        result.append(Point(scenario, contestants, seconds=what.pop("seconds", seconds), **what))

    # The same rate for ours and the floor, so that both find their caches as cold: half of what a core can do. One
    # event is through before the next is due.
    for size in (300,) if quick else (300, 1000):
        for sessions in (1000,) if quick else (100, 1000, 5000):
            add("fan-out", ("ours", "floor"), sessions=sessions, size=size, rate=80000 / sessions)
    for sessions in (1000,) if quick else (100, 1000, 5000):
        add("bursts", ("ours", "floor-coalesced"), sessions=sessions, burst=8, rate=480000 / sessions)
    add("selective", ("ours", "floor"), sessions=1000 if quick else 5000, groups=100 if quick else 500, rate=1500)
    for rate in (20, 100) if quick else (10, 20, 50, 100, 200, 300):
        # The original and web-stomp are beyond their end at higher rates, and need seconds to set up.
        peers = PEERS if rate <= 20 else PEERS[1:3] if quick else PEERS[:3]
        add("rates", ("ours", "floor", *peers), sessions=1000, rate=rate, seconds=1.0 if quick else 4.0)
    return result


def measure(stand, contestant, point):
    pids = [p for pids in contestant.servers().values() for p in pids]
    stand.quiesce(pids)
    return stand.load([*contestant.arguments(point.sessions, point.size, point.groups), *point.pace(), "--warmup", 5])


def figures(contestant, report):
    """The figures of one measurement that are compared."""
    publish = report["publish"]
    cpu = publish["servers"][contestant.server]["cpu_s"]
    return {
        "deliveries_per_cpu_s": publish["delivered"] / cpu if cpu else 0,
        "delivered_share": publish["delivered"] / publish["expected"] if publish["expected"] else 0,
        "events_per_s": publish["events"] / publish["seconds"],
        "core_share": cpu / publish["seconds"],
        "p50_us": publish["latency_us"]["p50"],
        "p99_us": publish["latency_us"]["p99"],
        "last_p50_us": publish["last_us"]["p50"],
        "last_p99_us": publish["last_us"]["p99"],
        "frame_bytes": publish["frame_bytes"],
        **{f"cpu_us_per_event.{name}": s["cpu_s"] * 1e6 / publish["events"] for name, s in publish["servers"].items()},
        # Somebody else had the server's core while the server had work to do.
        "wait_share": min(1, publish["servers"][contestant.server]["wait_s"] / publish["watched_s"]),
    }


def medians(rows):
    return {key: statistics.median(r[key] for r in rows) for key in rows[0]}


def run_points(stand, contestants, wanted, rounds):
    """[{scenario, label, .., contestant, medians, rounds}], each contestant's turns alternating."""
    results = []
    for number, point in enumerate(wanted):
        taking_part = [contestants[n] for n in point.contestants if n in contestants]
        taking_part = [c for c in taking_part if c.groups or point.groups == 1]
        rows = {c.name: [] for c in taking_part}
        for turn in range(rounds):
            # Another order each round: nobody always comes after the same neighbour.
            for contestant in taking_part[turn % len(taking_part):] + taking_part[:turn % len(taking_part)]:
                stand.progress(f"{number + 1}/{len(wanted)} {point.scenario}, {point.label}: "
                               f"{contestant.name}, round {turn + 1} of {rounds}")
                rows[contestant.name].append(figures(contestant, measure(stand, contestant, point)))
        for contestant in taking_part:
            median = medians(rows[contestant.name])
            results.append({**dataclasses.asdict(point), "label": point.label, "contestant": contestant.name,
                            "saturated": median["delivered_share"] < SATURATED, "medians": median,
                            "rounds": rows[contestant.name]})
    return results


# --- sessions: memory, and what accepting costs ---------------------------------------------------------------

def run_sessions(stand, options, quick):
    """Sessions with own token and own binding, granted by an access API whose answers are in the cache: CPU of accept,
    verify and bind by number of sessions, and memory once they are idle."""
    count = 2000 if quick else 19000
    idle = 2000 if quick else 15000
    api = AccessApi().start()
    ours = Ours(stand, options)
    ours.binding = '{"bind":{"ex":"bench","key":"ok{i}.#"},"req":1}'
    result = {}
    try:
        ours.rule = {"http": api.url + "/check/{key.0}"}
        ours.start()
        ours.token_file = stand.tokens(count)
        stand.progress(f"sessions: {count} grants into the cache")
        stand.load([*ours.arguments(count, publish=False), "--settle-s", 0], timeout=900)
        # A gateway that remembers nothing itself: the grants come from Redis.
        result["accept"] = accept(stand, ours, count)
        result["idle"] = memory(stand, ours, idle)
        result["checks_asked"] = api.count
    finally:
        ours.stop()
        api.stop()
    return result


def fresh_gateway(stand, ours):
    ours.fleet.gateway.restart()
    pin([ours.fleet.gateway.pid], stand.server_cores)


def accept(stand, ours, count):
    fresh_gateway(stand, ours)
    stand.progress(f"sessions: accepting {count}")
    report = stand.load([*ours.arguments(count, publish=False), "--step", 1000], timeout=900)
    steps = [{"sessions": s["sessions"], "cpu_us": s["cpu_us_per_session"]["gateway"]} for s in report["connect"]["steps"]]
    return {"steps": steps, "median_cpu_us": statistics.median(s["cpu_us"] for s in steps),
            "last_to_first": steps[-1]["cpu_us"] / steps[0]["cpu_us"]}


def memory(stand, ours, count):
    fresh_gateway(stand, ours)
    stand.progress(f"sessions: memory of {count} idle ones")
    report = stand.load([*ours.arguments(count, publish=False), "--settle-s", 2], timeout=900)
    gateway = report["connect"]["servers"]["gateway"]
    return {"sessions": count, "user_bytes": gateway["anon_grown_bytes"] / count,
            # The load generator is at the other end of every connection, with as many sockets.
            "kernel_bytes": report["connect"]["slab_grown_bytes"] / count / 2}


# --- ingest ---------------------------------------------------------------------------------------------------

QUEUE = "event.ingest.bench.0"


def run_ingest(stand, options, quick, rounds):
    """A queue full of 1 kB events: how fast, and for how much CPU, ingest empties it, against a bare consumer."""
    events = 20000 if quick else 100000
    ours = Ours(stand, options)
    rows = {"ingest": [], "consume-only": []}
    try:
        ours.start()
        ours.fleet.ingest.stop()
        broker_cores = stand.server_cores
        pin([stand.rabbit.pid], broker_cores)
        for turn in range(rounds):
            stand.progress(f"ingest: consume-only, round {turn + 1} of {rounds}")
            fill(stand, ours, events)
            rows["consume-only"].append(consume_only(stand, events))
            stand.progress(f"ingest: ingest, round {turn + 1} of {rounds}")
            fill(stand, ours, events)
            rows["ingest"].append(drain(stand, ours, events))
    finally:
        pin([stand.rabbit.pid], stand.load_cores)
        ours.stop()
    result = {name: {**medians(r), "rounds": r} for name, r in rows.items()}
    result["rate_ratio"] = result["ingest"]["events_per_s"] / result["consume-only"]["events_per_s"]
    return result


def fill(stand, ours, events):
    stand.load(["--sessions", 0, "--amqp", stand.rabbit.url(), "--exchange", "bench",
                "--key", "five.words.make.one.key", "--body", 1000, "--flat-out", "--burst", 100, "--events", events,
                "--warmup", 0, "--settle-s", 0])
    ours.fleet.channel()
    wait_for(lambda: ours.fleet.queue_depth("bench") == events, 60, "the queue to hold the events", 0.1)


def consume_only(stand, events):
    done = subprocess.run([stand.program("consume"), stand.rabbit.url(), QUEUE, str(events), f"broker={stand.rabbit.pid}"],
                          stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    report = json.loads(done.stdout)
    return {"events_per_s": events / report["seconds"], "cpu_us": report["own_cpu_s"] * 1e6 / events,
            "broker_cpu_us": report["servers"]["broker"]["cpu_s"] * 1e6 / events}


def cpu_ns(pid):
    """CPU time of a living process, to the nanosecond."""
    # CPUCLOCK_SCHED of the process, as clock_getcpuclockid() makes it.
    return time.clock_gettime_ns((~pid << 3) | 2)


def drain(stand, ours, events):
    ingest = ours.fleet.ingest
    before = ingest_published(stand, ours)
    ingest.start(ready=False)
    wait_for(lambda: ingest_published(stand, ours) > before, 30, "ingest to begin", 0.005)
    watched = (ingest.pid, stand.rabbit.pid, stand.redis.pid)
    first, started, cpu = ingest_published(stand, ours), time.monotonic(), [cpu_ns(p) for p in watched]
    wait_for(lambda: ingest_published(stand, ours) - before >= events * 0.98, 300, "ingest to be through", 0.02)
    done = ingest_published(stand, ours) - first
    seconds, cpu = time.monotonic() - started, [cpu_ns(p) - c for p, c in zip(watched, cpu)]
    wait_for(lambda: ingest_published(stand, ours) - before == events, 30, "ingest to publish the rest")
    wait_for(lambda: ours.fleet.queue_depth("bench") == 0, 30, "the queue to be empty")
    ingest.stop()
    return {"events_per_s": done / seconds, "cpu_us": cpu[0] / 1e3 / done, "broker_cpu_us": cpu[1] / 1e3 / done,
            "redis_cpu_us": cpu[2] / 1e3 / done}


def ingest_published(stand, ours):
    """Events that were ever added to the log: XINFO's entries-added."""
    if not hasattr(ours, "client"):
        ours.client = stand.redis.client()
    log = f"{ours.fleet.prefix}:{{bench:0}}:log"
    return ours.client.xinfo_stream(log)["entries-added"]
