"""A private RabbitMQ node on loopback.

Everything that RabbitMQ would share with another node on this machine is its own: the data, the log, the
configuration, the list of plugins, the Erlang cookie (in its own HOME), the node name, and the port mapper
(epmd), which we start ourselves so that we know its process id.
"""
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pika

from .ports import free_port, is_listening
from .process import Process
from .redis_server import raise_dead
from .wait import wait_for

# Debian's /usr/sbin/rabbitmq-server would change to the system's user and folders.
_BIN = Path("/usr/lib/rabbitmq/bin")


class RabbitServer:
    """start() returns when AMQP connections are accepted: five to ten seconds.

    vhost "/" exists; add_vhost makes more. The user is guest/guest."""

    def __init__(self, directory, port=None, config_lines=(), node=None, epmd_port=None, dist_port=None, log=None,
                 **process):
        self.directory = Path(directory).resolve()
        self.port = port or free_port()
        self.epmd_port = epmd_port or free_port()
        self.dist_port = dist_port or free_port()
        self.node = node or f"event-fleet-{secrets.token_hex(4)}@localhost"
        home = self.directory / "home"
        for d in (home, self.directory / "log", self.directory / "mnesia"):
            d.mkdir(parents=True, exist_ok=True)
        config = self.directory / "rabbitmq.conf"
        config.write_text("\n".join([
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "loopback_users.guest = true",
            "log.console = false",
            # A small test machine is no reason for RabbitMQ to stop its publishers.
            "disk_free_limit.absolute = 50MB",
            "vm_memory_high_watermark.relative = 0.4",
            *config_lines]) + "\n")
        (self.directory / "enabled_plugins").write_text("[].\n")
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)
        self.env = dict(
            os.environ, HOME=str(home), RABBITMQ_NODENAME=self.node, ERL_EPMD_PORT=str(self.epmd_port),
            ERL_EPMD_ADDRESS="127.0.0.1", RABBITMQ_DIST_PORT=str(self.dist_port),
            RABBITMQ_MNESIA_BASE=str(self.directory / "mnesia"), RABBITMQ_LOG_BASE=str(self.directory / "log"),
            RABBITMQ_MNESIA_DIR=str(self.directory / "mnesia" / "node"),
            RABBITMQ_CONFIG_FILE=str(config), RABBITMQ_CONF_ENV_FILE=str(self.directory / "no-rabbitmq-env.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self.directory / "enabled_plugins"),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(self.directory / "no-advanced.config"),
            RABBITMQ_PID_FILE=str(self.directory / "rabbitmq.pid"),
            # With this the start script becomes the Erlang machine instead of waiting for it: the process that
            # we start is the one that we may kill.
            RUNNING_UNDER_SYSTEMD="true",
            # Erlang's schedulers otherwise spin while idle, which costs the tests' few cores.
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none "
                                                "-kernel inet_dist_use_interface {127,0,0,1}")
        self.env.pop("RABBITMQ_NODE_PORT", None)
        self.process = Process("rabbitmq", [_BIN / "rabbitmq-server"],
                               log or self.directory / "rabbitmq.out", env=self.env, cwd=self.directory, **process)
        self.epmd = Process("epmd", ["epmd", "-port", self.epmd_port, "-address", "127.0.0.1"],
                            self.directory / "epmd.log", env=self.env, cwd=self.directory, **process)

    @property
    def pid(self):
        return self.process.pid

    def url(self, vhost="/", port=None):
        return f"amqp://guest:guest@127.0.0.1:{port or self.port}/{vhost.replace('/', '%2f')}"

    def parameters(self, vhost="/", **kwargs):
        return pika.ConnectionParameters("127.0.0.1", self.port, vhost,
                                         pika.PlainCredentials("guest", "guest"), **kwargs)

    def connect(self, vhost="/"):
        """A blocking pika connection without heartbeats: a test may look away for long."""
        return pika.BlockingConnection(self.parameters(vhost, heartbeat=0))

    def start(self, timeout=90.0, progress=None):
        if not self.epmd.running:
            self.epmd.start()
            wait_for(lambda: is_listening(self.epmd_port), 10, "epmd to listen")
        self.process.start()

        def accepts():
            if not self.process.running:
                raise_dead(self.process)
            if progress:
                progress()
            if not is_listening(self.port):
                return False
            self.connect().close()
            return True
        try:
            wait_for(accepts, timeout, f"RabbitMQ to listen on {self.port}", interval=0.1)
        except BaseException:
            self.stop(2)
            raise
        return self

    def stop(self, timeout=30.0):
        """SIGTERM ends a node in order. Also stops its epmd."""
        code = self.process.stop(timeout)
        self.epmd.stop(5)
        return code

    def kill(self):
        """The node's death without notice (its port mapper lives on)."""
        self.process.kill()

    def restart(self):
        self.process.stop(30)
        return self.start()

    def remove_files(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def ctl(self, *arguments, timeout=60):
        """rabbitmqctl; returns its output, raises with it when it fails. A call takes about a second."""
        done = subprocess.run([_BIN / "rabbitmqctl", "-q", *arguments], env=self.env, cwd=self.directory,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    def eval(self, erlang):
        return self.ctl("eval", erlang)

    def add_vhost(self, name):
        # One call instead of two rabbitmqctl commands: each starts an Erlang machine.
        self.eval(f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
                  f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
                  f'<<".*">>, <<".*">>, <<".*">>, <<"tests">>).')
        return name

    def delete_vhost(self, name):
        self.ctl("delete_vhost", name)

    def queues(self, vhost="/", *columns):
        """[{column: text}] of rabbitmqctl list_queues; name and messages unless told."""
        columns = columns or ("name", "messages")
        out = self.ctl("list_queues", "-p", vhost, "--no-table-headers", *columns)
        return [dict(zip(columns, line.split("\t"))) for line in out.splitlines() if line]
