"""A private Redis on loopback."""
from pathlib import Path

import redis

from .ports import free_port
from .process import Process
from .wait import wait_for


class RedisServer:
    """start() returns when it answers PING. No persistence unless options ask for it."""

    def __init__(self, directory, port=None, options=(), binary="redis-server", log=None, **process):
        self.directory = Path(directory)
        self.port = port or free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = Process("redis", [
            binary, "--port", self.port, "--bind", "127.0.0.1", "--dir", self.directory, "--save", "",
            "--appendonly", "no", "--maxmemory-policy", "volatile-ttl", "--daemonize", "no",
            # Many short test connections; none of them should meet the backlog of a busy machine.
            "--tcp-backlog", "511", *options], log or self.directory / "redis.log", cwd=self.directory, **process)

    @property
    def pid(self):
        return self.process.pid

    def url(self, db=0):
        return f"redis://127.0.0.1:{self.port}/{db}"

    def client(self, db=0, **kwargs):
        kwargs.setdefault("socket_timeout", 10)
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, **kwargs)

    def start(self, timeout=20.0):
        self.process.start()

        def answers():
            if not self.process.running:
                raise_dead(self.process)
            with self.client() as c:
                return c.ping()
        try:
            wait_for(answers, timeout, "Redis to answer")
        except BaseException:
            self.process.kill()
            raise
        return self

    def stop(self):
        return self.process.stop(10)

    def kill(self):
        self.process.kill()

    def restart(self):
        self.stop()
        return self.start()


def raise_dead(process):
    from .wait import Timeout
    raise Timeout(f"{process.name} ended with {process.poll()}; its log ends:\n{process.log_tail()}")
