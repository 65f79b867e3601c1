"""Our own programs as processes: ingest and gateways with a made-up configuration on free ports.

Every program has its own folder with its configuration and its log. Where the programs are: EF_BIN, by
default build/asan/bin of this checkout.
"""
import copy
import json
import os
import re
import secrets
import signal
import subprocess
from pathlib import Path

import pika

from . import http, metrics
from .ports import free_port
from .process import Process
from .wait import Timeout, wait_for
from .ws_client import connect

REPOSITORY = Path(__file__).resolve().parents[2]

_REPORT = re.compile(r"ERROR: (?:Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:|Assertion `.*' failed")


def bin_dir():
    return Path(os.environ.get("EF_BIN") or REPOSITORY / "build" / "asan" / "bin").resolve()


def program_env(**more):
    """The environment of our programs: sanitizers stop at the first fault and look for leaks."""
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1:halt_on_error=1:detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    suppressions = REPOSITORY / "tests" / "support" / "lsan.supp"
    if suppressions.exists():
        env.setdefault("LSAN_OPTIONS", f"suppressions={suppressions}:print_suppressions=0")
    env.update({k: str(v) for k, v in more.items()})
    return env


def merge(base, changes):
    """base with changes, objects member by member. None is a value like others; DELETE takes a member out."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is DELETE:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


DELETE = object()


def default_exchanges(access_url):
    """The exchanges of the original service, with its rules, against one access-check API; and "public"."""
    project = access_url + "/event/checkaccess/project/"
    return {
        "wf": {"access": [{"http": access_url + "/event/checkaccess/{key}"}]},
        "wf.task": {"access": [{"http": access_url + "/event/checkaccess/instance/{key.0}"}]},
        "wf.instance": {"access": [{"when": "na.#", "allow": True}, {"claim": "/gids", "has": "{key.0}"}]},
        "warehouse": {"access": [{"when": f"{collection}.*.*.*.#", "http": project + "{key.3}"}
                                 for collection in ("dataset", "project", "rule")]},
        "warehouse.dataset": {"access": [{"http": project + "{key.0}"}]},
        "public": {"access": "public"},
    }


class Program:
    """One running gateway or ingest."""

    def __init__(self, kind, number, directory, config, env=None):
        self.kind, self.number = kind, number
        self.name = f"{kind}-{number}"
        self.directory = Path(directory) / self.name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.config_file = self.directory / "fleet.json"
        self.admin = config[kind]["admin"]
        self.listen = config[kind].get("listen")
        self.process = Process(self.name, [bin_dir() / f"event-{kind}", "--config", self.config_file],
                               self.directory / "log", env=program_env(**(env or {})), cwd=self.directory)
        self.write_config()

    # Addresses.
    @property
    def http(self):
        return f"http://{self.listen}"

    @property
    def ws(self):
        return f"ws://{self.listen}/subscribe"

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process.running

    # Configuration.
    def write_config(self):
        self.config_file.write_text(json.dumps(self.config, indent=2))

    def reload(self, changes):
        """Write the changed configuration and send SIGHUP. Await its effect by what you changed."""
        self.config = merge(self.config, changes)
        self.write_config()
        self.process.signal(signal.SIGHUP)

    # What it says of itself.
    def metrics(self):
        return metrics.fetch(self.admin)

    def metric(self, name):
        """The sum over the labels of one metric; name may hold labels: 'x{a="b"}'."""
        return metrics.total(self.metrics(), name)

    def await_metric(self, name, condition, timeout=10):
        """Wait until condition(value) holds for the metric."""
        return wait_for(lambda: condition(self.metric(name)), timeout, f"{self.name}: {name}")

    def readyz(self):
        return http.get(f"http://{self.admin}/readyz", timeout=5)

    def is_ready(self):
        try:
            return self.readyz().status == 200
        except OSError:
            return False

    def rss_bytes(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # Life.
    def start(self, ready=True, timeout=30):
        self.process.start()
        if ready:
            self.await_ready(timeout)
        return self

    def await_ready(self, timeout=30):
        def ready():
            if not self.running:
                raise Timeout(f"{self.name} ended with {self.process.poll()}; its log ends:\n{self.process.log_tail()}")
            return self.is_ready()
        try:
            wait_for(ready, timeout, f"{self.name} to be ready")
        except Timeout as e:
            report = ""
            if self.running:
                try:
                    report = self.readyz().text
                except OSError as error:
                    report = repr(error)
            raise Timeout(f"{e}\n/readyz: {report}\nlog:\n{self.process.log_tail()}") from None

    def signal(self, number):
        self.process.signal(number)

    def kill(self):
        self.process.kill()

    def stop(self, timeout=30):
        """SIGTERM; it must end with exit code 0 within the time."""
        code = self.process.stop(timeout)
        self.check_log()
        assert code == 0, f"{self.name} ended with {code}; its log ends:\n{self.process.log_tail(60)}"

    def check_log(self):
        text = self.process.log_text()
        found = _REPORT.search(text)
        assert not found, f"{self.name}: {text[found.start():found.start() + 6000]}"

    def restart(self, **kwargs):
        self.stop()
        return self.start(**kwargs)

    def log(self):
        return self.process.log_text()


class Fleet:
    """gateways and ingests: lists of Program. The first of each is also gateway, ingest."""

    def __init__(self, directory, redis_url, amqp_url, key_file, exchanges, overrides=None, env=None):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.amqp_url = amqp_url
        self.env = env or {}
        self.prefix = "t" + secrets.token_hex(4)
        self.config = merge({
            "prefix": self.prefix,
            "log": {"level": "debug", "format": "text"},
            "amqp": {"url": amqp_url, "heartbeat_s": 10},
            "redis": {"url": redis_url},
            "jwt": {"keys": [{"alg": "RS256", "file": str(key_file)}]},
            "exchanges": exchanges,
            "gateway": {"drain_timeout_s": 2},
        }, overrides or {})
        self.prefix = self.config["prefix"]
        self.gateways = []
        self.ingests = []
        self._publisher = None
        self._channel = None

    # Members.
    @property
    def gateway(self):
        return self.gateways[0]

    @property
    def ingest(self):
        return self.ingests[0]

    @property
    def programs(self):
        return self.ingests + self.gateways

    @property
    def ws(self):
        return self.gateway.ws

    def add_gateway(self, changes=None, start=True, ready=True, env=None):
        return self._add("gateway", self.gateways, changes, start, ready, env)

    def add_ingest(self, changes=None, start=True, ready=True, env=None):
        return self._add("ingest", self.ingests, changes, start, ready, env)

    def _add(self, kind, members, changes, start, ready, env):
        addresses = {"admin": f"127.0.0.1:{free_port()}"}
        if kind == "gateway":
            addresses["listen"] = f"127.0.0.1:{free_port()}"
        config = merge(merge(self.config, {kind: addresses}), changes or {})
        program = Program(kind, len(members), self.directory, config, {**self.env, **(env or {})})
        members.append(program)
        if start:
            program.start(ready=ready)
        return program

    def client(self, token=None, gateway=0, **options):
        """A WebSocket client of ws_client.py: `async with fleet.client(token) as c:`."""
        return connect(self.gateways[gateway].ws, token, **options)

    # The broker, as a publisher sees it.
    def channel(self):
        """The publisher's channel (pika, with confirms), made anew if it was lost."""
        if self._channel is None or self._channel.is_closed:
            if self._publisher is None or self._publisher.is_closed:
                parameters = pika.URLParameters(self.amqp_url)
                parameters.heartbeat = 0
                self._publisher = pika.BlockingConnection(parameters)
            self._channel = self._publisher.channel()
            self._channel.confirm_delivery()
        return self._channel

    def declare_exchanges(self):
        for name, exchange in self.config["exchanges"].items():
            self.channel().exchange_declare(name, exchange.get("type", "topic"), durable=True)

    def forget_queues(self):
        """Take away what an earlier fleet left in this virtual host."""
        for name in self.config["exchanges"]:
            self.channel().queue_delete(f"event.ingest.{name}.0")
        self.channel().queue_delete("event.dead")

    def publish(self, exchange, key, body=b"", **properties):
        """Returns when the broker has confirmed it. dict and list are sent as application/json."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body, separators=(",", ":"))
            properties.setdefault("content_type", "application/json")
        if isinstance(body, str):
            body = body.encode()
        self.channel().basic_publish(exchange, key, body, pika.BasicProperties(**properties))

    def queue_depth(self, exchange):
        """Messages that are ready in the exchange's queue (not those that ingest holds)."""
        return self.channel().queue_declare(f"event.ingest.{exchange}.0", passive=True).method.message_count

    # The end.
    def stop(self):
        """Stop everything; then complain about all that went wrong."""
        errors = []
        try:
            if self._publisher is not None and self._publisher.is_open:
                self._publisher.close()
        except pika.exceptions.AMQPError:
            pass  # a test may have killed the broker
        for program in reversed(self.programs):
            if program.process.popen is not None:
                program.process.thaw_if_frozen()
                program.process.signal_quietly(signal.SIGTERM)
        for program in reversed(self.programs):
            try:
                if program.process.popen is not None:
                    program.stop()
                else:
                    program.check_log()
            except AssertionError as e:
                errors.append(str(e))
        assert not errors, "\n\n".join(errors)

    def log_tails(self, lines=40):
        return "".join(f"--- {p.name} ({p.process.log})\n{p.process.log_tail(lines)}\n" for p in self.programs)


def run(kind, *arguments, timeout=20, env=None, cwd=None):
    """Run a program to its end (--check-config, --version, ..). Returns subprocess.CompletedProcess, text."""
    return subprocess.run([bin_dir() / f"event-{kind}", *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
                          env=program_env(**(env or {})), cwd=cwd)
