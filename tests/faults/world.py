"""One row's world: a Redis of its own, the suite's RabbitMQ, our programs, proxies where a row wants them, load, verdict.

    w = world(ingests=2, gateways=1)
    with w.load(rate=1000, clients=20) as load:
        load.publisher.await_more(500)
        ... the fault ...
        w.fault_ended()
        load.publisher.await_more(500)
        load.check("6", recovered_s=15)
"""
import contextlib
import time

import checker
from clients import Clients
from publisher import KEYS, Publisher

from support.fleet import Fleet, merge
from support.haproxy import HaProxy
from support.log_reader import PartitionLog
from support.proxy import Proxy
from support.redis_server import RedisServer
from support.wait import wait_for

EXCHANGES = {"public": {"access": "public"}}


def some_patterns(i):
    """A mix: everything, one key, two keys as two bindings."""
    if i % 4 == 0:
        return ["#"]
    if i % 4 == 1:
        return [f"k.{i % KEYS}"]
    if i % 4 == 2:
        return [f"k.{i % KEYS}.#", f"*.{(i + 7) % KEYS}"]
    return ["k.*"]


class Load:
    def __init__(self, world, publisher, clients):
        self.world, self.publisher, self.clients = world, publisher, clients

    def judge(self, row, timeout=60):
        return checker.judge(row, self.publisher, self.clients, self.world.fault_end, timeout)

    def check(self, row, gaps=False, recovered_s=None, timeout=60):
        v = self.judge(row, timeout)
        v.notes += self.world.notes()
        return checker.check(v, gaps, recovered_s)


class World:
    def __init__(self, directory, rabbit, vhost, keys, token, rng):
        self.directory, self.rabbit, self.vhost = directory, rabbit, vhost
        self.keys, self.token, self.random = keys, token, rng
        self.proxies = {}
        self.redis = self.fleet = self.haproxy = None
        self.fault_end = None
        self._extra = []

    def build(self, ingests=1, gateways=1, haproxy=False, via=(), redis_options=(), rabbit=None, exchanges=None,
              env=None, ready=True, **changes):
        """via: hops that lead through a proxy: "ingest-redis", "gateway-redis", "ingest-rabbit", "clients"."""
        if rabbit:
            self.rabbit, self.vhost = rabbit, "/"
        self.redis = RedisServer(self.directory / "redis", options=redis_options).start()
        for hop in via:
            if hop != "clients":
                port = self.redis.port if hop.endswith("redis") else self.rabbit.port
                self.proxies[hop] = Proxy(port).start()
        changes = merge({"log": {"level": "info"}, "gateway": {"drain_timeout_s": 2}}, changes)
        self.fleet = Fleet(self.directory, self.redis.url(), self.rabbit.url(self.vhost), self.keys.public_file,
                           exchanges or EXCHANGES, changes, env)
        self.fleet.declare_exchanges()
        for _ in range(ingests):
            self.fleet.add_ingest(self._through("ingest"), ready=False)
        for _ in range(gateways):
            self.fleet.add_gateway(self._through("gateway"), ready=False)
        if ready:
            for p in self.fleet.programs:
                p.await_ready()
        self.url = [g.ws for g in self.fleet.gateways]
        if haproxy:
            self.haproxy = HaProxy(self.directory / "haproxy", self.fleet.gateways).start()
            self.url = self.haproxy.ws
        if "clients" in via:
            port = int(self.fleet.gateway.listen.rsplit(":", 1)[1])
            self.proxies["clients"] = Proxy(port).start()
            self.url = f"ws://127.0.0.1:{self.proxies['clients'].port}/subscribe"
        self.before = {p.name: (p.pid, p.open_files(), p.rss_bytes()) for p in self.fleet.programs if p.running}
        return self

    def _through(self, program):
        changes = {}
        if f"{program}-redis" in self.proxies:
            changes["redis"] = {"url": f"redis://127.0.0.1:{self.proxies[program + '-redis'].port}/0"}
        if f"{program}-rabbit" in self.proxies:
            changes["amqp"] = {"url": self.rabbit.url(self.vhost, self.proxies[program + "-rabbit"].port)}
        return changes

    def also_stop(self, thing):
        self._extra.append(thing)
        return thing

    # Load.
    @contextlib.contextmanager
    def load(self, rate=500, clients=20, patterns=some_patterns, padding=0, poison=0, warm=300, **options):
        """Clients bound, a publisher going."""
        with Clients(self.url, self.token(), clients, patterns, seed=self.random.random(), **options) as c:
            with Publisher(self.fleet.amqp_url, rate=rate, padding=padding, poison=poison) as p:
                load = Load(self, p, c)
                p.await_more(warm)
                wait_for(lambda: c.delivered > 0, 30, "the first event")
                self.fault_end = None
                yield load

    def fault_ended(self):
        self.fault_end = time.monotonic()

    # Who does what.
    @property
    def log(self):
        return PartitionLog(self.redis.client(), self.fleet.prefix, "public")

    def owner(self):
        """The ingest that owns the partition, or None."""
        name = self.log.meta().get("owner", "")
        return next((i for i in self.fleet.ingests if i.process.popen and f":{i.pid}:" in name), None)

    def await_owner(self, among=None, timeout=30):
        return wait_for(lambda: (o := self.owner()) and (among is None or o in among) and o, timeout, "an owner")

    def notes(self):
        """Descriptors and memory of the programs that lived through the row."""
        notes = []
        for p in self.fleet.programs:
            pid, files, rss = self.before.get(p.name, (None, 0, 0))
            if p.running and p.pid == pid:
                notes.append(f"{p.name} {p.open_files() - files:+d} files {(p.rss_bytes() - rss) / 1e6:+.0f} MB")
        return notes

    # The end.
    def stop(self):
        errors = []
        for proxy in self.proxies.values():
            proxy.set("pass")
            proxy.halfopen(None)
        for step in [self.haproxy and self.haproxy.stop, self.fleet and self.fleet.stop,
                     *[t.stop for t in reversed(self._extra)], *[p.stop for p in self.proxies.values()],
                     self.redis and self.redis.kill]:
            try:
                if step:
                    step()
            except Exception as e:  # stop the rest, then say it
                errors.append(repr(e))
        assert not errors, "\n\n".join(errors)
