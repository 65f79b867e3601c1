"""A publisher at full speed, in a process of its own: it must not share the readers' interpreter.

    flood = Flood(fleet.amqp_url, "public", ["a.1", "a.2"], 100000)
    ...
    flood.wait()

Event n (from 0) has the number n as its JSON body and the key keys[choose(n)]; key_of(n) tells which. With
rate=0 as fast as it goes; else that many a second. Persistent messages survive a broker's restart.
"""
import json
import subprocess
import sys
from pathlib import Path


def key_index(n, keys):
    """Which key event n has: mixed, but the same for everybody who asks."""
    return (n * 2654435761 >> 7) % keys


class Flood:
    def __init__(self, url, exchange, keys, count, first=0, rate=0, confirm=False, padding=0):
        self.keys, self.first, self.count = list(keys), first, count
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.flood",
             json.dumps([url, exchange, self.keys, first, count, rate, confirm, padding])],
            cwd=Path(__file__).resolve().parents[1], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)

    def key_of(self, n):
        return self.keys[key_index(n, len(self.keys))]

    @property
    def running(self):
        return self._process.poll() is None

    def wait(self, timeout=120):
        """All is published (and confirmed, if asked for)."""
        out, _ = self._process.communicate(timeout=timeout)
        assert self._process.returncode == 0, out

    def stop(self):
        if self.running:
            self._process.kill()
        self._process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def main():
    import time

    import pika
    url, exchange, keys, first, count, rate, confirm, padding = json.loads(sys.argv[1])
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    if confirm:
        channel.confirm_delivery()
    properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    start = time.monotonic()
    pad = " " * padding
    for n in range(first, first + count):
        channel.basic_publish(exchange, keys[key_index(n, len(keys))], (pad + str(n)).encode(), properties)
        if rate and (n - first) % 50 == 49:
            ahead = (n - first + 1) / rate - (time.monotonic() - start)
            if ahead > 0:
                connection.sleep(ahead)
    # A synchronous call behind the last message: the broker has read all of them.
    connection.channel().close()
    connection.close()


if __name__ == "__main__":
    main()
