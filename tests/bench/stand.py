"""The test stand: cores, private servers, the load generator, the progress line.

The server that is measured has one core for itself; everything else (load generator, broker, Redis, ingest, this
program) shares the others. On a machine with a single core there is nothing to measure.
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from support.rabbit import RabbitServer
from support.redis_server import RedisServer
from support.tokens import Key

REPOSITORY = Path(__file__).resolve().parents[2]


class BenchError(Exception):
    pass


def children(pid):
    """All processes below pid, itself first."""
    below = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                below.setdefault(parent, []).append(int(entry))
    found = [pid]
    for p in found:
        found += below.get(p, [])
    return found


def pin(pids, cores):
    """All threads of the processes onto these cores."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Progress:
    """One line at the terminal that is written over; nothing but results elsewhere."""

    def __init__(self):
        self.shown = sys.stderr.isatty()
        self.started = time.monotonic()

    def __call__(self, text):
        if self.shown:
            sys.stderr.write(f"\r\033[K[{time.monotonic() - self.started:4.0f} s] {text}"[:150])
            sys.stderr.flush()

    def clear(self):
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


class Stand:
    def __init__(self, build, directory):
        self.build = Path(build)
        self.directory = Path(directory)
        shutil.rmtree(self.directory, ignore_errors=True)  # a RabbitMQ node knows its old name
        self.directory.mkdir(parents=True)
        self.all_cores = sorted(os.sched_getaffinity(0))
        if len(self.all_cores) < 2:
            raise BenchError("two cores are needed: one for the server that is measured, one for the load")
        self.server_cores = {self.all_cores[0]}
        self.load_cores = set(self.all_cores[1:])
        # All children inherit it; a contestant moves its server to the other core.
        os.sched_setaffinity(0, self.load_cores)
        self.progress = Progress()
        self.key = Key(self.build / "bench")
        self._redis = self._rabbit = None

    def program(self, name):
        return self.build / "bench" / f"bench-{name}"

    # Servers that several contestants share; started when the first asks.
    @property
    def redis(self):
        if self._redis is None:
            self.progress("starting Redis")
            self._redis = RedisServer(self.directory / "redis").start()
        return self._redis

    @property
    def rabbit(self):
        if self._rabbit is None:
            self.progress("starting RabbitMQ")
            self._rabbit = RabbitServer(self.directory / "rabbit").start()
        return self._rabbit

    @contextlib.contextmanager
    def on_server_cores(self):
        """What is started in here takes the server's core as all there is (Erlang and Go size themselves by it)."""
        os.sched_setaffinity(0, self.server_cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.load_cores)

    def stop(self):
        for server in (self._rabbit, self._redis):
            if server is not None:
                server.stop()

    def tokens(self, count):
        """A file with `count` different tokens, kept between runs: signing 20,000 takes half a minute."""
        path = self.build / "bench" / f"tokens-{count}"
        if not path.exists() or time.time() - path.stat().st_mtime > 20 * 3600:
            lines = []
            for i in range(count):
                if i % 500 == 0:
                    self.progress(f"signing tokens: {i} of {count}")
                lines.append(self.key.token(sub=str(i), exp=86400))
            path.write_text("\n".join(lines) + "\n")
        return path

    # The load generator.
    def load(self, arguments, timeout=600):
        argv = [str(self.program("load")), *map(str, arguments)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=timeout)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise BenchError(f"{done.stderr.strip() or done.stdout}\n  {' '.join(argv)}") from None

    def quiesce(self, pids, timeout=15):
        """Wait until the processes rest: what a saturated server still has to say belongs to nobody's figure."""
        deadline = time.monotonic() + timeout
        quiet = 0
        while quiet < 2 and time.monotonic() < deadline:
            before = cpu_seconds(pids)
            time.sleep(0.1)  # the length over which rest is judged
            quiet = quiet + 1 if cpu_seconds(pids) - before <= 0.02 else 0
