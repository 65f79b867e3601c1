"""A publisher in a process of its own: numbered events with the broker's confirms, at a steady rate, through whatever happens.

    with Publisher(url, "public", rate=2000) as p:      it publishes from here on
        p.await_confirmed(1000)
    p.confirmed                                         the numbers that the broker has taken, in order
    p.times[n]                                          when event n was handed to the socket (time.monotonic)

Event n has the key of keys.key_of(n) and the body {"n":n}. An event whose confirm was lost with its connection is not sent
again: it may arrive or not, and is not counted. The order of the numbers is the order of publishing.
"""
import array
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.wait import wait_for

KEYS = 64


def key_index(n):
    """Which of the KEYS keys event n has: mixed, but the same for everybody who asks."""
    return (n * 2654435761 >> 7) % KEYS


class Publisher:
    def __init__(self, url, exchange="public", rate=500, padding=0, poison=0):
        """padding: bytes of white space in each body; poison: every so manieth event has no JSON in it, and no number."""
        self.rate = rate
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps([url, exchange, rate, padding, poison])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.published = self.confirmed_count = 0
        self.confirmed, self.times = [], array.array("d")
        self._result = None
        self._reader = threading.Thread(target=self._read, name="publisher", daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            message = json.loads(line)
            if "result" in message:
                self._result = message["result"]
            else:
                self.published, self.confirmed_count = message["published"], message["confirmed"]

    def await_more(self, count, timeout=60):
        """So many more events confirmed than now."""
        goal = self.confirmed_count + count
        wait_for(lambda: self.confirmed_count >= goal, timeout, f"{count} more confirmed events")

    def set_rate(self, rate):
        """0: a pause."""
        self._send(f"rate {rate}\n")

    def _send(self, text):
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def stop(self, timeout=60):
        """No more events; wait for the confirms of those that are on their way."""
        if self._process.poll() is None and self._result is None:
            self._send("stop\n")
            self._process.wait(timeout)
            self._reader.join(10)
        error = self._process.stderr.read().decode()
        assert self._process.returncode == 0 and self._result, f"the publisher failed: {error[-3000:]}"
        self.published = self._result["published"]
        with open(self._result["file"], "rb") as f:
            self.times.frombytes(f.read(8 * self.published))
        os.unlink(self._result["file"])
        self.confirmed = [n for first, end in self._result["confirmed"] for n in range(first, end)]
        self.poison = set(self._result["poison"])

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is None and not self.confirmed:
            self.stop()
        self.kill()


# --- the process


TICK_S = 0.01
WINDOW = 4000  # unconfirmed events; then it waits
STALLED_S = 12  # without any confirm although some are due: the connection is given up


class _Run:
    def __init__(self, url, exchange, rate, padding, poison):
        import pika
        self.pika = pika
        self.parameters = pika.URLParameters(url)
        self.parameters.heartbeat = 0
        self.parameters.socket_timeout = 3
        self.parameters.stack_timeout = 5
        self.exchange, self.rate, self.padding, self.poison_every = exchange, rate, b" " * padding, poison
        self.properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        self.times = array.array("d")
        self.confirmed = bytearray()
        self.poison = []
        self.count = 0
        self.unconfirmed = {}  # delivery tag: number, in order
        self.stopping = self.stop_at = None
        self.told_at = self.progress_at = 0

    def main(self):
        threading.Thread(target=self.listen, daemon=True).start()
        while not (self.stopping and (not self.unconfirmed or time.monotonic() > self.stop_at)):
            try:
                self.session()
            except (self.pika.exceptions.AMQPError, OSError, AssertionError):
                pass
            self.unconfirmed = {}
            if self.stopping:
                break
            time.sleep(0.1)
        self.tell_result()

    def listen(self):
        for line in sys.stdin:
            words = line.split()
            if words[0] == "rate":
                self.rate = float(words[1])
            else:
                break
        self.stop_at = time.monotonic() + 20
        self.stopping = True

    def session(self):
        """One connection, from its making to its end."""
        connection = self.pika.SelectConnection(
            self.parameters, on_open_callback=self.on_open,
            on_open_error_callback=lambda c, e: c.ioloop.stop(), on_close_callback=lambda c, e: c.ioloop.stop())
        self.connection = connection
        self.tag = 0
        self.progress_at = time.monotonic()
        connection.ioloop.call_later(20, lambda: None if self.tag else connection.ioloop.stop())
        connection.ioloop.start()

    def on_open(self, connection):
        connection.channel(on_open_callback=self.on_channel)

    def on_channel(self, channel):
        self.channel = channel
        channel.add_on_close_callback(lambda ch, why: self.connection.ioloop.stop())
        channel.add_on_return_callback(self.on_return)
        channel.confirm_delivery(self.on_confirm, callback=lambda frame: self.begin())

    def begin(self):
        self.due = time.monotonic()
        self.progress_at = self.due
        self.tick()

    def tick(self):
        now = time.monotonic()
        if self.stopping and (not self.unconfirmed or now > self.stop_at):
            self.connection.ioloop.stop()
            return
        if not self.unconfirmed:
            self.progress_at = now
        elif now - self.progress_at > STALLED_S:
            self.connection.ioloop.stop()
            return
        rate = self.rate
        self.due = max(self.due, now - 0.5) if rate else now
        while rate and not self.stopping and self.due <= now and len(self.unconfirmed) < WINDOW:
            self.publish()
            self.due += 1 / rate
        if now - self.told_at > 0.1:
            self.told_at = now
            self.tell()
        self.connection.ioloop.call_later(TICK_S, self.tick)

    def publish(self):
        n, self.count = self.count, self.count + 1
        body = b'{"n":%d}' % n
        if self.poison_every and n % self.poison_every == self.poison_every - 1:
            self.poison.append(n)
            body = POISON[n // self.poison_every % len(POISON)]
        self.times.append(time.monotonic())
        self.confirmed.append(0)
        self.channel.basic_publish(self.exchange, f"k.{key_index(n)}", self.padding + body, self.properties,
                                   mandatory=True)
        self.tag += 1
        self.unconfirmed[self.tag] = n

    def on_return(self, channel, method, properties, body):
        """No queue took it: the broker confirms it, but nobody can deliver it. The return comes before the confirm."""
        n = int(body.strip()[5:-1]) if body.strip().startswith(b'{"n":') and body.endswith(b"}") else None
        for tag, number in list(self.unconfirmed.items()):
            if number == n:
                del self.unconfirmed[tag]

    def on_confirm(self, frame):
        method = frame.method
        self.progress_at = time.monotonic()
        tags = [method.delivery_tag]
        if method.multiple:
            tags = []
            for tag in self.unconfirmed:
                if method.delivery_tag and tag > method.delivery_tag:
                    break
                tags.append(tag)
        for tag in tags:
            n = self.unconfirmed.pop(tag, None)
            if n is not None and method.NAME == "Basic.Ack":
                self.confirmed[n] = 1

    def tell(self):
        self.say({"published": self.count, "confirmed": self.confirmed.count(1)})

    def say(self, value):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    def tell_result(self):
        import tempfile
        with tempfile.NamedTemporaryFile(delete=False) as f:
            f.write(self.times.tobytes())
        ranges, at = [], 0
        while (first := self.confirmed.find(1, at)) >= 0:
            end = self.confirmed.find(0, first)
            at = end if end >= 0 else len(self.confirmed)
            ranges.append((first, at))
        self.tell()
        self.say({"result": {"published": self.count, "confirmed": ranges, "file": f.name, "poison": self.poison}})


# What the reference's clients get for these: parse errors, or a Buffer.
POISON = [b"{\"n\":", b"\xff\xfe\x00binary", b"", b"[1,2", b"nul", b"{\"n\":1}x", b"\"\\ud800", b"[" * 3000, b"1e", b"\x00"]


if __name__ == "__main__":
    _Run(*json.loads(sys.argv[1])).main()
