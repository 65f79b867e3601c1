"""Fixtures of the integration tests.

    redis, rabbit     private servers, one for the whole session
    keys              keys.auth is configured in every fleet, keys.other is not
    token             token(sub="1", **claims): a good token
    access_api        the scripted access-check API, fresh for every test
    fleet             fleet(gateways=1, ingests=1, **changes) -> Fleet; stopped and checked after the test
    module_fleet      the same for all tests of a module
    proxy             proxy(port) -> Proxy; stopped after the test

`fleet(exchanges=..)` replaces the exchanges (default: fleet.default_exchanges); every other keyword is a part
of the configuration and is merged into it: fleet(gateway={"session_bindings_max": 3}). declare=False leaves the
exchanges to the test, start=False the programs, ready=False does not wait for them; amqp_url and redis_url may lead through a
proxy. Fleets do not see each other: each has its own Redis prefix, and a virtual host to itself.
"""
import itertools
from types import SimpleNamespace

import pytest

from support.access_api import AccessApi
from support.fleet import Fleet, default_exchanges
from support.proxy import Proxy
from support.rabbit import RabbitServer
from support.redis_server import RedisServer
from support.tokens import Key

_live_fleets = []
_vhost_numbers = itertools.count(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for fleet in _live_fleets:
            report.sections.append((f"logs of {fleet.directory}", fleet.log_tails()))


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory):
    server = RabbitServer(tmp_path_factory.mktemp("rabbit")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    return SimpleNamespace(directory=directory, auth=Key(directory, "auth"), other=Key(directory, "other"))


@pytest.fixture(scope="session")
def token(keys):
    return keys.auth.token


@pytest.fixture(scope="session")
def _access_api():
    api = AccessApi().start()
    yield api
    api.stop()


@pytest.fixture
def access_api(_access_api):
    _access_api.reset()
    yield _access_api
    _access_api.release()


@pytest.fixture(scope="session")
def _vhosts(rabbit):
    """Virtual hosts that no living fleet uses; taken again, because making one takes a second."""
    return []


def _factory(redis, rabbit, keys, api, vhosts, tmp_path_factory, name):
    made = []

    def make(gateways=1, ingests=1, exchanges=None, declare=True, start=True, ready=True, env=None,
             vhost=None, amqp_url=None, redis_url=None, **changes):
        own_vhost = vhost is None and amqp_url is None
        if own_vhost:
            vhost = vhosts.pop() if vhosts else rabbit.add_vhost(f"v{next(_vhost_numbers)}")
        fleet = Fleet(tmp_path_factory.mktemp(name), redis_url or redis.url(), amqp_url or rabbit.url(vhost),
                      keys.auth.public_file, exchanges if exchanges is not None else default_exchanges(api.url),
                      changes, env)
        fleet.vhost = vhost
        made.append((fleet, own_vhost))
        _live_fleets.append(fleet)
        if declare:
            fleet.declare_exchanges()
        for _ in range(ingests):
            fleet.add_ingest(start=start, ready=False)
        for _ in range(gateways):
            fleet.add_gateway(start=start, ready=False)
        if start and ready:
            for program in fleet.programs:
                program.await_ready()
        return fleet

    def finish():
        errors = []
        for fleet, own_vhost in reversed(made):
            try:
                fleet.stop()
            except AssertionError as e:
                errors.append(str(e))
            _live_fleets.remove(fleet)
            if own_vhost and rabbit.process.running:
                _clean_vhost(rabbit, fleet)
                vhosts.append(fleet.vhost)
        assert not errors, "\n\n".join(errors)

    return make, finish


def _clean_vhost(rabbit, fleet):
    connection = rabbit.connect(fleet.vhost)
    try:
        channel = connection.channel()
        for exchange in fleet.config["exchanges"]:
            channel.queue_delete(f"event.ingest.{exchange}.0")
            channel.exchange_delete(exchange)
        channel.queue_delete("event.dead")
        channel.exchange_delete("event.dead")
    finally:
        connection.close()


@pytest.fixture
def fleet(redis, rabbit, keys, access_api, _vhosts, tmp_path_factory, request):
    make, finish = _factory(redis, rabbit, keys, access_api, _vhosts, tmp_path_factory,
                            request.node.name[:60].replace("/", "_"))
    yield make
    finish()


@pytest.fixture(scope="module")
def module_fleet(redis, rabbit, keys, _access_api, _vhosts, tmp_path_factory, request):
    make, finish = _factory(redis, rabbit, keys, _access_api, _vhosts, tmp_path_factory,
                            request.module.__name__.replace(".", "_"))
    yield make
    finish()


@pytest.fixture
def proxy():
    made = []

    def make(target_port, **kwargs):
        made.append(Proxy(target_port, **kwargs).start())
        return made[-1]

    yield make
    for p in made:
        p.stop()
