"""Rows whose victim is ingest."""
import signal
import time

import pytest


def kill_owners(w, load, times, rng, rate):
    """SIGKILL the owner at random moments, now and then both; what was killed starts again."""
    ingests = w.fleet.ingests
    for round in range(times):
        load.publisher.await_more(int(rate * rng.uniform(0.02, 0.6)))
        victims = list(ingests) if rng.random() < 0.15 else [w.owner() or rng.choice(ingests)]
        for v in victims:
            v.kill()
        # Sometimes the next is killed while the first is still starting, or just taking over.
        time.sleep(rng.choice((0, 0.05, rng.uniform(0, 1.0))))
        for v in victims:
            v.start(ready=False)
    w.fault_ended()
    for i in ingests:
        i.await_ready()


@pytest.mark.subset
@pytest.mark.timeout(300)
def test_row_06_kill_9_of_ingest_at_random_moments(world, rng, times):
    w = world(ingests=2)
    with w.load(rate=2000, clients=8) as load:
        kill_owners(w, load, times(12), rng, 2000)
        load.publisher.await_more(1000)
        load.check("6 kill -9 of ingest", recovered_s=15)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_row_06_kill_9_of_ingest_200_times(world, rng, times):
    w = world(ingests=2)
    with w.load(rate=2000, clients=8) as load:
        kill_owners(w, load, times(200), rng, 2000)
        load.publisher.await_more(1000)
        load.check("6 kill -9 of ingest, 200 times", recovered_s=15)


def freeze_owners(w, load, times, rng):
    for round in range(times):
        load.publisher.await_more(rng.randrange(50, 800))
        owner = w.await_owner()
        others = [i for i in w.fleet.ingests if i is not owner]
        owner.signal(signal.SIGSTOP)
        try:
            w.await_owner(others)  # the broker closes the frozen one's connection after two heartbeats
            load.publisher.await_more(rng.randrange(1, 800))
        finally:
            owner.signal(signal.SIGCONT)
    w.fault_ended()
    for i in w.fleet.ingests:
        i.await_ready()


@pytest.mark.subset
@pytest.mark.timeout(300)
def test_row_06_ingest_frozen_past_its_replacement(world, rng, times):
    w = world(ingests=2, amqp={"heartbeat_s": 1})
    with w.load(rate=1000, clients=8) as load:
        freeze_owners(w, load, times(3), rng)
        load.publisher.await_more(500)
        load.check("6 SIGSTOP, takeover, SIGCONT", recovered_s=15)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_row_06_ingest_frozen_50_times(world, rng, times):
    w = world(ingests=2, amqp={"heartbeat_s": 1})
    with w.load(rate=1000, clients=8) as load:
        freeze_owners(w, load, times(50), rng)
        load.publisher.await_more(500)
        load.check("6 SIGSTOP, takeover, SIGCONT, 50 times", recovered_s=15)
