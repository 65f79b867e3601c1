"""Who takes part: our gateway, the floors, and peers from Debian's packages, each in its best one-core shape.

A contestant knows how to start, which processes are its server, how a session subscribes and how an event is
published. Message sizes are what the receiver gets: a contestant that wraps the event gets a smaller body.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

from support import http
from support.fleet import Fleet
from support.ports import free_port, is_listening
from support.process import Process
from support.rabbit import RabbitServer
from support.wait import wait_for

from bench.stand import BenchError, children, pin


# The load generator's smallest body. The original's wrapping alone is 290 bytes.
BODY_MIN = 64


class Contestant:
    name = None
    title = None
    groups = True         # can publish to one group of sessions
    needs = ()            # a file of its package
    process = None
    overhead = None       # bytes of a received message around the body; found out by calibrate()

    def __init__(self, stand, options):
        self.stand, self.options = stand, options
        self.directory = stand.directory / self.name
        self.directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def missing(cls):
        """None, or why it cannot take part."""
        for path in cls.needs:
            if not Path(path).exists():
                return f"{path} is not installed"
        return None

    def start(self):
        raise NotImplementedError

    def stop(self):
        raise NotImplementedError

    def servers(self):
        """{name: pids}; the first is the one whose CPU and memory are compared."""
        raise NotImplementedError

    def session_arguments(self):
        raise NotImplementedError

    def publish_arguments(self, body):
        raise NotImplementedError

    @property
    def server(self):
        return next(iter(self.servers()))

    def arguments(self, sessions, size=300, groups=1, publish=True):
        body = max(BODY_MIN, size - (self.overhead or 0))
        result = ["--sessions", sessions, "--groups", groups, *self.session_arguments()]
        for name, pids in self.servers().items():
            result += ["--server", f"{name}=" + ",".join(map(str, pids))]
        if publish:
            result += ["--body", body, *self.publish_arguments(body)]
        return result

    def calibrate(self):
        """Find the overhead, and see that everything arrives unharmed."""
        report = self.stand.load([*self.arguments(3), "--events", 5, "--rate", 50, "--warmup", 3, "--check"])
        self.overhead = round(report["publish"]["frame_bytes"]) - 300
        counts = report["counts"]
        if report["publish"]["delivered"] != 15 or counts["damaged"] or counts["repeated"] or counts["foreign"]:
            raise BenchError(f"{self.name}: the trial did not go well: {report}")


class Ours(Contestant):
    name = "ours"
    title = "Event Fleet"
    binding = '{"bind":{"ex":"bench","key":"task.{g}.#"},"req":1}'
    rule = {"allow": True}
    fleet = None

    def start(self):
        os.environ["EF_BIN"] = str(self.stand.build / "bin")
        self.fleet = Fleet(self.directory, self.stand.redis.url(), self.stand.rabbit.url(), self.stand.key.public_file,
                           {"bench": {"access": [self.rule]}}, overrides=self.overrides())
        self.fleet.declare_exchanges()
        self.fleet.add_ingest(ready=False)
        self.fleet.add_gateway()
        self.fleet.ingest.await_ready()
        pin([self.fleet.gateway.pid], self.stand.server_cores)
        self.token_file = self.stand.tokens(1)

    def overrides(self):
        return {"log": {"level": "error"}, "gateway": {"session_requests_per_s": 0},
                "history": {"max_events": 20000}}

    def stop(self):
        if self.fleet:
            self.fleet.forget_queues()
            self.fleet.stop()

    def servers(self):
        return {"gateway": [self.fleet.gateway.pid], "ingest": [self.fleet.ingest.pid], "redis": [self.stand.redis.pid],
                "broker": [self.stand.rabbit.pid]}

    def session_arguments(self):
        return ["--port", self.fleet.gateway.listen.rpartition(":")[2], "--request", "/subscribe?jwt={token}",
                "--tokens", self.token_file, "--say", self.binding, "--hear", '"ok":true']

    def publish_arguments(self, body):
        return ["--amqp", self.stand.rabbit.url(), "--exchange", "bench", "--key", "task.{g}.finished"]


class Floor(Contestant):
    name = "floor"
    title = "floor: one write() per message"
    options_of_program = ()

    def start(self):
        self.port = free_port()
        self.process = Process(self.name, [self.stand.program("floor"), self.port, *self.options_of_program],
                               self.directory / "log").start()
        wait_for(lambda: is_listening(self.port), 10, "the floor to listen")
        pin([self.process.pid], self.stand.server_cores)

    def stop(self):
        if self.process:
            self.process.stop()

    def servers(self):
        return {"floor": [self.process.pid]}

    def session_arguments(self):
        return ["--port", self.port, "--request", "/{g}", "--say", '{"bind":1}', "--hear", '"ok":true']

    def publish_arguments(self, body):
        return ["--tcp", self.port, "--message", f"EV {{g}} {body}\\n{{body}}"]


class FloorCoalesced(Floor):
    name = "floor-coalesced"
    title = "floor: one write() per session and burst"
    options_of_program = ("--coalesce",)


class Nchan(Contestant):
    name = "nchan"
    title = "nchan 1.3, memory"
    needs = ("/usr/sbin/nginx", "/usr/lib/nginx/modules/ngx_nchan_module.so")
    upstream = use = ""

    def start(self):
        self.port = free_port()
        location = f"nchan_channel_id $arg_id; {self.use}"
        config = self.directory / "nginx.conf"
        config.write_text(f"""
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
worker_processes 1; daemon off; error_log /dev/null crit; pid {self.directory}/nginx.pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off; {self.temporary_paths()}
  nchan_shared_memory_size 256M;
  {self.upstream}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location = /pub {{ nchan_publisher; nchan_message_buffer_length 10; keepalive_requests 1000000000; {location} }}
    location = /sub {{ nchan_subscriber websocket; nchan_subscriber_first_message newest; {location} }}
  }}
}}
""")
        self.process = Process(self.name, ["/usr/sbin/nginx", "-p", self.directory, "-c", config],
                               self.directory / "log").start()
        # With Redis it first answers 503.
        wait_for(lambda: http.get(f"http://127.0.0.1:{self.port}/pub?id=b000000").status in (200, 404), 10, "nchan to answer")
        self.workers = wait_for(lambda: children(self.process.pid)[1:], 5, "nginx to have a worker")
        pin(self.workers, self.stand.server_cores)

    def temporary_paths(self):
        return " ".join(f"{kind}_temp_path {self.directory}/{kind};"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))

    def stop(self):
        if self.process:
            self.process.stop()

    def servers(self):
        return {"nginx": self.workers}

    def session_arguments(self):
        return ["--port", self.port, "--request", "/sub?id=b{g}"]

    def publish_arguments(self, body):
        return ["--tcp", self.port, "--refusal", "HTTP/1.1 4", "--message",
                f"POST /pub?id=b{{g}} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {body}\\r\\n\\r\\n{{body}}"]


class NchanRedis(Nchan):
    name = "nchan-redis"
    title = "nchan 1.3, Redis"
    use = "nchan_redis_pass store;"

    def start(self):
        self.upstream = f"upstream store {{ nchan_redis_server {self.stand.redis.url()}; }}"
        super().start()

    def servers(self):
        return {**super().servers(), "redis": [self.stand.redis.pid]}


class Nats(Contestant):
    name = "nats"
    title = "NATS server 2.9, WebSocket"
    needs = ("/usr/sbin/nats-server",)

    def start(self):
        self.port, self.ws_port = free_port(), free_port()
        config = self.directory / "nats.conf"
        config.write_text(f"""
listen: "127.0.0.1:{self.port}"
log_file: "/dev/null"
ping_interval: "1h"
max_pending: 256MB
websocket {{ listen: "127.0.0.1:{self.ws_port}", no_tls: true, compression: false, handshake_timeout: "30s" }}
""")
        with self.stand.on_server_cores():
            self.process = Process(self.name, [self.needs[0], "-c", config], self.directory / "log").start()
        wait_for(lambda: is_listening(self.ws_port), 10, "NATS to listen")

    def stop(self):
        if self.process:
            self.process.stop()

    def servers(self):
        return {"nats": [self.process.pid]}

    def session_arguments(self):
        hello = r'CONNECT {"verbose":false,"pedantic":false}\r\nSUB bench.{g} 1\r\nPING\r\n'
        return ["--port", self.ws_port, "--binary", "--batched", "--say", hello, "--hear", "PONG"]

    def publish_arguments(self, body):
        return ["--tcp", self.port, "--refusal", "-ERR", "--greeting", r'CONNECT {"verbose":false,"pedantic":false}\r\n',
                "--message", f"PUB bench.{{g}} {body}\\r\\n{{body}}\\r\\n"]


class WebStomp(Contestant):
    name = "web-stomp"
    title = "RabbitMQ 3.10, web-stomp"
    rabbit = None
    needs = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)

    def start(self):
        self.ws_port = free_port()
        self.stand.progress("starting RabbitMQ with web-stomp")
        self.rabbit = RabbitServer(self.directory / "node", config_lines=[
            "web_stomp.tcp.ip = 127.0.0.1", f"web_stomp.tcp.port = {self.ws_port}", "stomp.listeners.tcp = none",
            "web_stomp.ws_opts.idle_timeout = 600000", "log.file.level = none"])
        (self.rabbit.directory / "enabled_plugins").write_text("[rabbitmq_web_stomp].\n")
        with self.stand.on_server_cores():
            self.rabbit.start()
        wait_for(lambda: is_listening(self.ws_port), 20, "web-stomp to listen")

    def stop(self):
        if self.rabbit:
            self.rabbit.stop()

    def servers(self):
        return {"broker": [self.rabbit.pid]}

    def session_arguments(self):
        return ["--port", self.ws_port, "--request", "/ws",
                "--say", r"CONNECT\nlogin:guest\npasscode:guest\nhost:/\naccept-version:1.2\nheart-beat:0,0\n\n\0",
                "--hear", "CONNECTED",
                "--say", r"SUBSCRIBE\nid:0\ndestination:/topic/bench.{g}\nack:auto\nreceipt:1\n\n\0", "--hear", "RECEIPT"]

    def publish_arguments(self, body):
        return ["--amqp", self.rabbit.url(), "--exchange", "amq.topic", "--key", "bench.{g}"]


class Pushpin(Contestant):
    name = "pushpin"
    title = "Pushpin 1.36"
    needs = ("/usr/bin/pushpin",)
    groups = False  # its built-in origin subscribes every session to one channel

    def start(self):
        self.port, self.push_port, http_port, sub, command = (free_port() for _ in range(5))
        for name in ("run", "log"):
            (self.directory / name).mkdir(exist_ok=True)
        library = "/usr/lib/pushpin" if Path("/usr/lib/pushpin/internal.conf").exists() else "/usr/share/pushpin"
        (self.directory / "routes").write_text("* test\n")
        config = self.directory / "pushpin.conf"
        config.write_text(f"""
[global]
include={library}/internal.conf
rundir={self.directory}/run
ipc_prefix=bench-
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{self.port}
logdir={self.directory}/log
log_level=0
client_maxconn=20000
[proxy]
routesfile={self.directory}/routes
updates_check=off
[handler]
push_in_spec=tcp://127.0.0.1:{self.push_port}
push_in_sub_specs=tcp://127.0.0.1:{sub}
push_in_http_addr=127.0.0.1
push_in_http_port={http_port}
command_spec=tcp://127.0.0.1:{command}
message_rate=1000000000
message_hwm=1000000
connection_subscription_max=20
""")
        self.process = Process(self.name, ["/usr/bin/pushpin", f"--config={config}"], self.directory / "out").start()
        wait_for(lambda: is_listening(self.port) and is_listening(self.push_port), 20, "Pushpin to listen")
        self.pids = children(self.process.pid)
        pin(self.pids, self.stand.server_cores)

    def stop(self):
        if self.process:
            self.process.stop()

    def servers(self):
        return {"pushpin": self.pids}

    def session_arguments(self):
        # Its built-in origin subscribes a WebSocket on /ws to the channel "test".
        return ["--port", self.port, "--request", "/ws"]

    def publish_arguments(self, body):
        # Its ZeroMQ interface: it closes an HTTP connection after each request. ZMTP 3.0: greeting, READY, messages.
        greeting = r"\xff\0\0\0\0\0\0\0\0\x7f\x03\0NULL" + r"\0" * 48
        ready = r"\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
        head = 'J{"channel":"test","formats":{"ws-message":{"content":"'
        tail = '"}}}'
        quotes = 8  # of the body; each becomes two characters
        length = (len(head) + body + quotes + len(tail)).to_bytes(8, "big")
        return ["--tcp", self.push_port, "--greeting", rf"{greeting}\x04\x1a{ready}",
                "--message", r"\x02" + "".join(f"\\x{b:02x}" for b in length) + f"{head}{{quoted}}{tail}"]


class Reference(Contestant):
    name = "reference"
    title = "the original service"

    @classmethod
    def missing(cls):
        return None if shutil.which("node") else "node is not installed"

    @property
    def server(self):
        return "node and broker"

    def start(self):
        source = Path(self.options.reference).resolve()
        if not (source / "node_modules").is_dir():
            raise BenchError(f"{source} has no node_modules: run npm install there")
        self.port = free_port()
        # Its configuration is a file in its own tree: it runs in a copy that has another one.
        copy = self.directory / "checkout"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source / "api", copy / "api")
        (copy / "node_modules").symlink_to(source / "node_modules")
        (copy / "api" / "config" / "index.js").write_text(self.configuration())
        with self.stand.rabbit.connect() as connection:
            connection.channel().exchange_declare("bench", "topic", durable=True)
        self.process = Process(self.name, ["node", "api/event.js"], self.directory / "log", cwd=copy).start()
        wait_for(lambda: is_listening(self.port), 20, "the original to listen")
        pin([self.process.pid], self.stand.server_cores)
        self.token_file = self.stand.tokens(1)

    def configuration(self):
        # It writes a line for every delivery; the contest is without logs.
        return f"""
console.log = console.debug = () => {{}};
exports.event = {{
    amqp: {{ url: {json.dumps(self.stand.rabbit.url())} }},
    exchanges: {{ bench: (req, bind, cb) => cb(null, true) }},
}};
exports.express = {{ host: "127.0.0.1", port: {self.port},
                    pubkey: {json.dumps(self.stand.key.public_pem.decode())} }};
"""

    def stop(self):
        if self.process:
            self.process.stop()

    def servers(self):
        return {"node and broker": [self.process.pid, self.stand.rabbit.pid]}

    def session_arguments(self):
        return ["--port", self.port, "--request", "/subscribe?jwt={token}", "--tokens", self.token_file,
                "--say", '{"bind":{"ex":"bench","key":"task.{g}.#"}}', "--settle-s", "8"]

    def publish_arguments(self, body):
        return ["--amqp", self.stand.rabbit.url(), "--exchange", "bench", "--key", "task.{g}.finished"]


ALL = [Ours, Floor, FloorCoalesced, Nchan, NchanRedis, Nats, WebStomp, Pushpin, Reference]


def installed(package_group="bench"):
    """Install the peers' packages, as deploy/packages.txt lists them."""
    from bench.stand import REPOSITORY
    subprocess.run([REPOSITORY / "deploy" / "install-packages", "build", "test", package_group], check=True)
