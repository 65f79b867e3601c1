"""Fixtures of the fault suite.

    world      world(ingests=1, gateways=1, ..) -> World; one per row, stopped after it
    rng        random numbers that follow from --seed and the row's name
    rabbit     the suite's RabbitMQ; a row that breaks the node takes own_rabbit
    times(n)   how often a fault is repeated: n, or what --times says; sessions(n): likewise
"""
import itertools
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import World  # noqa: E402

from support.rabbit import RabbitServer  # noqa: E402
from support.tokens import Key  # noqa: E402

_live_worlds = []
_vhost_numbers = itertools.count(1)


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=1, help="repeat each row with other random timing")
    parser.addoption("--seed", type=int, default=None, help="the first round's seed")
    parser.addoption("--times", type=int, default=None, help="how often a row repeats its fault")
    parser.addoption("--sessions", type=int, default=None, help="how many sessions the rows with many have")


def pytest_configure(config):
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(1_000_000)


def pytest_report_header(config):
    return f"fault suite: --rounds {config.option.rounds} --seed {config.option.seed}"


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.option.seed
        seeds = range(first, first + metafunc.config.option.rounds)
        metafunc.parametrize("seed", seeds, ids=[f"seed-{s}" for s in seeds])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        seed = getattr(item, "callspec", None) and item.callspec.params.get("seed")
        report.sections.append(("again with", f"tests/faults/run --seed {seed} -k '{item.originalname}'"))
        for world in _live_worlds:
            if world.fleet:
                report.sections.append((f"logs of {world.directory}", world.fleet.log_tails()))


def pytest_terminal_summary(terminalreporter):
    """One line a row, whatever pytest's verbosity."""
    lines = [line for reports in terminalreporter.stats.values() for r in reports
             if getattr(r, "when", None) == "call" for line in r.capstdout.splitlines() if line.startswith("row ")]
    if lines:
        terminalreporter.section("rows")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def rng(seed, request):
    return random.Random(f"{seed} {request.node.originalname}")


@pytest.fixture
def times(request):
    return lambda n: request.config.option.times or n


@pytest.fixture
def sessions(request):
    return lambda n: request.config.option.sessions or n


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory):
    server = RabbitServer(tmp_path_factory.mktemp("rabbit")).start()
    yield server
    server.stop()


@pytest.fixture
def own_rabbit(tmp_path):
    made = []

    def make(**options):
        made.append(RabbitServer(tmp_path / "rabbit", **options).start())
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    return Key(tmp_path_factory.mktemp("keys"), "auth")


@pytest.fixture(scope="session")
def _vhosts():
    return []


@pytest.fixture
def world(rabbit_for_world, keys, rng, tmp_path):
    rabbit, vhost = rabbit_for_world
    w = World(tmp_path, rabbit, vhost, keys, keys.token, rng)
    _live_worlds.append(w)
    yield w.build
    try:
        w.stop()
    finally:
        _live_worlds.remove(w)


@pytest.fixture
def rabbit_for_world(request, _vhosts):
    """(server, virtual host). A row with own_rabbit passes that to world() and needs none of these."""
    if "own_rabbit" in request.fixturenames:
        yield None, "/"
        return
    server = request.getfixturevalue("rabbit")
    vhost = _vhosts.pop() if _vhosts else server.add_vhost(f"v{next(_vhost_numbers)}")
    yield server, vhost
    connection = server.connect(vhost)
    try:
        channel = connection.channel()
        for queue in ("event.ingest.public.0", "event.dead"):
            channel.queue_delete(queue)
        for exchange in ("public", "event.dead"):
            channel.exchange_delete(exchange)
    finally:
        connection.close()
    _vhosts.append(vhost)
