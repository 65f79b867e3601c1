#!/usr/bin/python3
"""Builds and runs the fleet on this machine: started by deploy/local/up.

    sample events -> RabbitMQ -> ingest -> Redis -> gateways -> HAProxy -> browsers
                                                       '-> development auth service

Every server is a child of this process, listens on loopback, and keeps its files under build/local (or --directory):
log/ has a log of each, data/ what Redis and RabbitMQ store (emptied at start, unless --keep-data), keys/ the auth service's
key pair. One fleet per directory: up.lock is locked while it runs, and the kernel unlocks it however we end.

Failures:
- A port is taken, the build fails, a server does not come up: we say which, show the end of its log, stop what runs, exit 1.
- A child ends by itself later: the same.
- Ctrl-C, SIGTERM, a closed terminal: everything is stopped in reverse order, each within its time limit; exit 0.
- We are killed: the kernel sends the children SIGTERM.
"""
import argparse
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "local"
sys.path.insert(0, str(ROOT / "tests"))
from support import ports  # noqa: E402
from support.process import Process  # noqa: E402
from support.rabbit import RabbitServer  # noqa: E402
from support.redis_server import RedisServer  # noqa: E402
from support.wait import Timeout, wait_for  # noqa: E402

import sample_data  # noqa: E402

GATEWAYS_MAX = 20


class Failure(Exception):
    """Something to tell, and then to stop."""


class Stop(BaseException):
    """The person at the terminal wants it to end. Not an Exception: no wait takes it for "not yet"."""


class Signals:
    """Signals only set a flag; code that waits looks at it. So none is caught between a fork and its bookkeeping."""

    def __init__(self):
        self.wanted = threading.Event()
        self.stopping = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame):
        if self.stopping:
            print("still stopping; every server has a time limit", flush=True)
        self.wanted.set()

    def check(self):
        if self.wanted.is_set() and not self.stopping:
            raise Stop()

    def wait(self, seconds):
        self.wanted.wait(seconds)
        self.check()


class Progress:
    """Plain lines with the seconds since the start; a line every few seconds while something takes long."""

    def __init__(self, signals):
        self.signals = signals
        self.began = time.monotonic()
        self.next_line = 0.0
        self.what = ""

    def say(self, text):
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", flush=True)

    def begin(self, what):
        self.what = what
        self.next_line = time.monotonic() + 3
        self.say(what)

    def tick(self):
        """Call it while waiting."""
        self.signals.check()
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + 3
            self.say(f"  ... {self.what}")


def shown(path):
    """A path as it can be typed from the top of the checkout."""
    try:
        return str(Path(path).relative_to(ROOT))
    except ValueError:
        return str(path)


def port_holder(port):
    """" (held by redis-server, pid 12)" for a listening loopback or wildcard port; "" if we may not know."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for directory in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(fd) in inodes for fd in directory.iterdir()):
                name = (directory.parent / "comm").read_text().strip()
                return f" (held by {name}, pid {directory.parent.name})"
        except OSError:
            continue
    return ""


class Ports:
    def __init__(self, front, inner, gateways):
        self.front = front
        self.redis, self.rabbit, self.epmd, self.dist, self.auth, self.ingest = range(inner, inner + 6)
        self.gateways = [inner + 10 + i for i in range(gateways)]
        self.gateway_admins = [inner + 40 + i for i in range(gateways)]

    def check(self, inner):
        named = [(self.front, "the front door", "--port"), (self.redis, "Redis", ""), (self.rabbit, "RabbitMQ", ""),
                 (self.epmd, "RabbitMQ's port mapper", ""), (self.dist, "RabbitMQ's distribution", ""),
                 (self.auth, "the auth service", ""), (self.ingest, "ingest's admin port", "")]
        named += [(p, f"gateway-{i + 1}", "") for i, p in enumerate(self.gateways)]
        named += [(p, f"gateway-{i + 1}'s admin port", "") for i, p in enumerate(self.gateway_admins)]
        taken = [f"port {port} for {what} is taken{port_holder(port)}; choose {'another with ' + option if option else f'a free range with --inner-ports (now {inner}..{inner + 59})'}"
                 for port, what, option in named if not ports.is_free(port)]
        if taken:
            raise Failure("\n".join(taken))


class LocalFleet:
    def __init__(self, options, signals):
        self.options = options
        self.signals = signals
        self.progress = Progress(signals)
        self.ports = Ports(options.port, options.inner_ports, options.gateways)
        self.directory = options.directory.resolve()
        self.logs = self.directory / "log"
        self.data = self.directory / "data"
        self.keys = self.directory / "keys"
        self.state = self.directory / "state.json"
        self.lock = None
        # (name, address, process, seconds it gets to stop, function that stops it), in the order of starting.
        self.members = []

    # One at a time.

    def take_lock(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.directory / "up.lock", "a+")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.lock.seek(0)
            pid = self.lock.read().strip() or "unknown"
            raise Failure(f"a fleet already runs in {shown(self.directory)} (pid {pid}). "
                          f"Stop it with Ctrl-C where it runs, or with: kill {pid}") from None
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()

    # Building.

    def run_quietly(self, what, log, *commands):
        self.progress.begin(what)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as out:
            for command in commands:
                child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                         start_new_session=True)
                try:
                    while child.poll() is None:
                        self.progress.tick()
                        time.sleep(0.1)
                except Stop:
                    os.killpg(child.pid, signal.SIGTERM)
                    child.wait()
                    raise
                if child.returncode != 0:
                    raise Failure(f"{what}: failed. The end of {shown(log)}:\n" + tail(log, 40))

    def build(self):
        self.run_quietly("building the programs", self.logs / "build.log", ["cmake", "--preset", "release", "-DEF_WERROR=OFF"],
                         ["cmake", "--build", "--preset", "release", "--target", "event-ingest", "event-gateway"])

    # Starting.

    def add(self, name, address, process, limit_s, stop=None):
        self.members.append((name, address, process, limit_s, stop or (lambda: process.stop(limit_s))))

    def spawn(self, name, address, argv, limit_s=10, env=None):
        process = Process(name, argv, self.logs / f"{name}.log", env={**os.environ, **(env or {})}, cwd=ROOT,
                          die_with_parent=True)
        Path(process.log).unlink(missing_ok=True)
        process.start()
        self.add(name, address, process, limit_s)
        return process

    def await_up(self, process, condition, what, timeout=30):
        def look():
            self.progress.tick()
            if not process.running:
                raise Timeout(f"{process.name} ended with exit status {process.poll()}")
            return condition()
        try:
            wait_for(look, timeout, what, interval=0.1)
        except Timeout as e:
            raise Failure(f"{e}. The end of {shown(process.log)}:\n{process.log_tail(25)}") from None

    def start_stores(self):
        if not self.options.keep_data:
            shutil.rmtree(self.data, ignore_errors=True)
        for name in ("redis", "rabbitmq"):
            (self.logs / f"{name}.log").unlink(missing_ok=True)
        self.progress.begin("starting Redis")
        redis = RedisServer(self.data / "redis", self.ports.redis, ("--appendonly", "yes"), log=self.logs / "redis.log",
                            die_with_parent=True)
        try:
            redis.start()
        except Timeout as e:
            raise Failure(str(e)) from None
        self.add("redis", f"redis://127.0.0.1:{self.ports.redis}", redis.process, 15)

        self.progress.begin("starting RabbitMQ (takes some seconds)")
        rabbit = RabbitServer(self.data / "rabbitmq", self.ports.rabbit, node="event-fleet-local@localhost",
                              epmd_port=self.ports.epmd, dist_port=self.ports.dist, log=self.logs / "rabbitmq.log",
                              die_with_parent=True)
        try:
            rabbit.start(progress=self.progress.tick)
        except Timeout as e:
            raise Failure(str(e)) from None
        self.add("epmd", f"127.0.0.1:{self.ports.epmd}", rabbit.epmd, 5)
        self.add("rabbitmq", f"amqp://guest:guest@127.0.0.1:{self.ports.rabbit}", rabbit.process, 45)
        connection = rabbit.connect()
        for exchange in sample_data.EXCHANGES:
            connection.channel().exchange_declare(exchange, "topic", durable=True)
        connection.close()
        self.amqp_url = rabbit.url()
        self.redis_url = redis.url()

    def start_auth(self):
        self.progress.begin("starting the development auth service")
        self.auth_url = f"http://127.0.0.1:{self.ports.auth}"
        process = self.spawn("auth", self.auth_url, ["/usr/bin/python3", HERE / "dev_auth.py", "--port", self.ports.auth,
                                                     "--keys", self.keys], 5)
        self.await_up(process, lambda: get(self.auth_url + "/health"), "the auth service")

    def program_env(self, **more):
        return {"AMQP_URL": self.amqp_url, "REDIS_URL": self.redis_url, "AUTH_URL": self.auth_url,
                "AUTH_PUBLIC_KEY": str(self.keys / "auth.pub"), "INGEST_ADMIN": f"127.0.0.1:{self.ports.ingest}", **more}

    def start_programs(self):
        config = HERE / "fleet.json"
        binaries = ROOT / "build" / "bin"
        self.progress.begin("starting ingest")
        admin = f"127.0.0.1:{self.ports.ingest}"
        process = self.spawn("ingest", f"http://{admin}/metrics", [binaries / "event-ingest", "--config", config], 15,
                             self.program_env())
        self.await_up(process, lambda: get(f"http://{admin}/readyz"), "ingest to be ready")
        self.progress.begin(f"starting {self.options.gateways} gateway{'s' if self.options.gateways > 1 else ''}")
        started = []
        for i, (port, admin_port) in enumerate(zip(self.ports.gateways, self.ports.gateway_admins), 1):
            admin = f"127.0.0.1:{admin_port}"
            process = self.spawn(f"gateway-{i}", f"http://127.0.0.1:{port}  (admin {admin})",
                                 [binaries / "event-gateway", "--config", config], 15,
                                 self.program_env(GATEWAY_LISTEN=f"127.0.0.1:{port}", GATEWAY_ADMIN=admin))
            started.append((process, admin))
        for process, admin in started:
            self.await_up(process, lambda: get(f"http://{admin}/readyz"), f"{process.name} to be ready")

    def start_front(self):
        self.progress.begin("starting HAProxy")
        config = self.directory / "haproxy.cfg"
        config.write_text(haproxy_config(self.ports))
        self.front_url = f"http://127.0.0.1:{self.ports.front}"
        process = self.spawn("haproxy", self.front_url, [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", config], 5)
        self.await_up(process, lambda: json.loads(get(self.front_url + "/health"))["status"] == "ok",
                      "the fleet to answer through HAProxy that all is well")

    def start_sample_events(self):
        if self.options.no_sample_events:
            return
        self.progress.begin("starting the publisher of sample events")
        self.spawn("sample-events", "publishes to RabbitMQ", ["/usr/bin/python3", HERE / "sample_events.py", "--amqp",
                                                              self.amqp_url], 5)

    def start(self):
        self.take_lock()
        self.ports.check(self.options.inner_ports)
        self.state.unlink(missing_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.build()
        self.start_stores()
        self.start_auth()
        self.start_programs()
        self.start_front()
        self.start_sample_events()
        self.state.write_text(json.dumps({"pid": os.getpid(), "subscribe": self.subscribe_url, "auth": self.auth_url,
                                     "amqp": self.amqp_url, "redis": self.redis_url}, indent=2) + "\n")

    # Running.

    @property
    def subscribe_url(self):
        return f"ws://127.0.0.1:{self.ports.front}/subscribe"

    def show(self):
        rows = [("what", "where", "pid", "log")]
        rows += [(name, address, str(process.pid), shown(process.log)) for name, address, process, _, _ in self.members]
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        instance = next(iter(sample_data.INSTANCES))
        key = f"task.{instance}.#"
        token = json.loads(get(f"{self.auth_url}/token?sub=1"))["jwt"]
        print()
        for row in rows:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        print(f"""
A token of user 1, good for a day (more: curl '{self.auth_url}/token?sub=2'):

{token}

To see user 1's task events, paste this into another terminal:

  {HERE / 'subscribe'} --key '{key}'

Or this into a browser's console:

  const token = (await (await fetch("{self.auth_url}/token?sub=1")).json()).jwt;
  const ws = new WebSocket("{self.subscribe_url}?jwt=" + token);
  ws.onopen = () => ws.send(JSON.stringify({{ bind: {{ ex: "wf", key: "{key}" }} }}));
  ws.onmessage = e => console.log(JSON.parse(e.data));

Ctrl-C stops all of it.""", flush=True)

    def watch(self):
        while True:
            for name, _, process, _, _ in self.members:
                status = process.poll()
                if status is not None:
                    how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
                    raise Failure(f"{name} (pid {process.pid}) ended by itself: {how}. "
                                  f"The end of {shown(process.log)}:\n{process.log_tail(25)}")
            self.signals.wait(0.25)

    # Ending.

    def stop(self):
        self.signals.stopping = True
        self.state.unlink(missing_ok=True)
        if not self.members:
            if self.signals.wanted.is_set():
                print("\nstopped; no server was running yet", flush=True)
            return True
        print(f"\nstopping {len(self.members)} servers", flush=True)
        clean = True
        for name, _, process, limit_s, stop in reversed(self.members):
            if not process.running:
                process.kill()  # reaps it
                continue
            began = time.monotonic()
            status = stop()
            took = time.monotonic() - began
            if status == -signal.SIGKILL and took >= limit_s:
                clean = False
                print(f"  {name}: did not stop within {limit_s} s, killed", flush=True)
            else:
                print(f"  {name}: stopped after {took:.1f} s" + (f", exit status {status}" if status > 0 else ""), flush=True)
        print("all stopped" + (f"; its logs are in {shown(self.logs)}" if clean else ""), flush=True)
        return clean


def get(url):
    """The body of a 200 answer; raises otherwise."""
    with urllib.request.urlopen(url, timeout=3) as answer:
        return answer.read().decode()


def tail(path, lines):
    return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])


def haproxy_config(p):
    servers = "\n".join(
        f"    server gateway-{i} 127.0.0.1:{port} check port {admin} inter 1s fall 2 rise 1"
        for i, (port, admin) in enumerate(zip(p.gateways, p.gateway_admins), 1))
    # A connection through HAProxy takes two descriptors; it refuses to start when it may not open so many.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    connections = 20000 if files == resource.RLIM_INFINITY else max(100, min(20000, (files - 200) // 2))
    return f"""# Written by deploy/local/up at each start.
global
    maxconn {connections}

defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    # Once upgraded, a WebSocket lives by this one. Gateways ping every 25 s, so an idle session is not a silent one.
    timeout tunnel 75s
    option forwardfor
    option redispatch
    retries 3

frontend browsers
    bind 127.0.0.1:{p.front}
    default_backend gateways

backend gateways
    # WebSockets stay: a new one goes where the fewest are.
    balance leastconn
    # /readyz fails first when a gateway drains.
    option httpchk GET /readyz
{servers}
"""


def parse_options():
    parser = argparse.ArgumentParser(
        prog="deploy/local/up",
        description="The whole fleet on this machine: Redis, RabbitMQ, a development auth service, ingest, gateways "
                    "behind HAProxy, and a publisher of sample task events. Ctrl-C stops all of it.")
    parser.add_argument("--gateways", type=int, default=2, metavar="N", help="how many gateways (default %(default)s)")
    parser.add_argument("--no-sample-events", action="store_true", help="no publisher of sample task events")
    parser.add_argument("--keep-data", action="store_true",
                        help="keep what Redis and RabbitMQ stored in the run before (default: start empty)")
    parser.add_argument("--port", type=int, default=8080, help="the port for browsers (default %(default)s)")
    parser.add_argument("--inner-ports", type=int, default=18100, metavar="FIRST",
                        help="the first of 60 ports for everything else (default %(default)s)")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "local",
                        help="where logs and data go (default build/local of this checkout)")
    options = parser.parse_args()
    if not 1 <= options.gateways <= GATEWAYS_MAX:
        parser.error(f"--gateways: 1 to {GATEWAYS_MAX}")
    if not 1 <= options.port <= 65535:
        parser.error("--port: 1 to 65535")
    if not 1 <= options.inner_ports <= 65535 - 60:
        parser.error(f"--inner-ports: 1 to {65535 - 60}")
    if options.inner_ports <= options.port < options.inner_ports + 60:
        parser.error(f"--port {options.port} lies within the inner ports ({options.inner_ports} to {options.inner_ports + 59})")
    return options


def main():
    options = parse_options()
    signals = Signals()
    fleet = LocalFleet(options, signals)
    status = 0
    try:
        fleet.start()
        fleet.show()
        fleet.watch()
    except Stop:
        pass
    except Failure as e:
        print(f"\ndeploy/local/up: {e}", file=sys.stderr, flush=True)
        status = 1
    finally:
        clean = fleet.stop()
    return status if clean else 1


if __name__ == "__main__":
    sys.exit(main())
