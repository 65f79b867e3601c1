"""Clients that come back: they bind with `req`, remember their place, and bind with `since` after every close.

    with Clients(url, token, 50, lambda i: ["#"]) as clients:    all are bound
        ...
    clients.sessions[0].bindings[0].got                          the numbers that came, in order

One thread, one event loop, bytes cut into frames by hand, so that thousands fit. A client's bindings must not overlap:
a frame does not say for which of them it came.
"""
import array
import asyncio
import base64
import collections
import json
import os
import random
import threading
import time
from urllib.parse import quote, urlsplit

from support.raw_ws import CLOSE, PING, PONG, close_of, frame
from support.swarm import need_files
from support.wait import wait_for

from publisher import KEYS, key_index

EXCHANGE = "public"
SILENCE_S = 15  # without a byte although asked: the client gives the connection up
PING_S = 4


def pattern_keys(pattern):
    """Which key indices a pattern takes. Known: "#", "k.N", "k.N.#", "*.N"; several joined by a space are several bindings."""
    words = pattern.split(".")
    if pattern in ("#", "k.#", "k.*"):
        return frozenset(range(KEYS))
    return frozenset([int(words[1])])


class Binding:
    """got: numbers, in order of arrival; at: when. gaps: how many had come when a gap was announced."""

    __slots__ = ("pattern", "keys", "since", "got", "at", "gaps", "live", "asked_since", "not_json")

    def __init__(self, pattern):
        self.pattern, self.keys = pattern, pattern_keys(pattern)
        self.since = self.asked_since = None
        self.got, self.at = array.array("I"), array.array("d")
        self.gaps = []
        self.live = False
        self.not_json = 0

    def gap(self):
        if not self.gaps or self.gaps[-1] != len(self.got):
            self.gaps.append(len(self.got))


class Session(asyncio.Protocol):
    def __init__(self, owner, number, patterns):
        self.owner, self.number = owner, number
        self.bindings = [Binding(p) for p in patterns]
        self.by_key = {k: b for b in self.bindings for k in b.keys}
        assert sum(len(b.keys) for b in self.bindings) == len(self.by_key), "bindings overlap"
        self.connections = 0
        self.failures = 0
        self.paused = False
        self._forget()

    def _forget(self):
        self.transport = None
        self.upgraded = self.closing = False
        self.buffer = b""
        self.req = 0
        self.asked = {}
        self.heard = time.monotonic()
        for b in self.bindings:
            b.live = False

    # Connecting.
    async def connect(self):
        url = self.owner.urls[self.owner.random.randrange(len(self.owner.urls))]
        parts = urlsplit(url)
        self._forget()
        self.request = (f"GET {parts.path}?jwt={quote(self.owner.token, safe='')} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n").encode()
        try:
            await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(lambda: self, parts.hostname, parts.port), 10)
        except (OSError, asyncio.TimeoutError):
            self.owner.count("connect failed")
            self._again()

    def connection_made(self, transport):
        self.transport = transport
        self.connections += 1
        transport.write(self.request)

    def connection_lost(self, error):
        if self.closing:
            return
        self._end("reset" if error else "eof" if self.upgraded else "eof before upgrade")

    def _end(self, why):
        self.closing = True
        if self.upgraded:
            self.owner.ends.append((time.monotonic(), why))
        self.owner.count(why)
        if self.transport:
            self.transport.abort()
        for b in self.bindings:
            b.live = False
        self._again()

    def _again(self):
        if self.owner.stopping:
            return
        if self.owner.away:
            self.owner.absent.append(self)
            return
        # Soon after the first loss, slower when it keeps failing, never all at once.
        wait = self.owner.random.uniform(0.01, min(3.0, self.owner.reconnect_s * 2 ** min(self.failures, 5)))
        self.failures += 1
        loop = asyncio.get_running_loop()
        loop.call_later(wait, lambda: self.owner.spawn(self.connect()))

    # Asking.
    def ask(self, what, **command):
        self.req += 1
        self.asked[self.req] = what
        self.transport.write(frame(json.dumps({**command, "req": self.req})))

    def bind(self, b):
        if self.closing or not self.transport:
            return
        request = {"ex": EXCHANGE, "key": b.pattern}
        b.asked_since = b.since
        if b.since:
            request["since"] = b.since.decode() if isinstance(b.since, bytes) else b.since
        self.ask(b, bind=request)

    def look(self):
        """Now and then: is it still there, and where am I?"""
        if self.closing or not self.upgraded:
            if self.transport and not self.closing and time.monotonic() - self.heard > SILENCE_S:
                self._end("silent before upgrade")
            return
        if self.asked and time.monotonic() - self.heard > SILENCE_S:
            self._end("silent")
            return
        if all(b.live for b in self.bindings):
            self.ask("ping", ping=1)

    # Hearing.
    def data_received(self, data):
        if self.closing:
            return
        self.heard = time.monotonic()
        data = self.buffer + data if self.buffer else data
        if not self.upgraded:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self.buffer = data
                return
            status = int(head.split(b" ", 2)[1])
            if status != 101:
                self._end(f"HTTP {status}")
                return
            self.upgraded = True
            data = rest
            for b in self.bindings:
                self.bind(b)
        self._split(data)

    def _split(self, data):
        at, size = 0, len(data)
        while size - at >= 2:
            first, length = data[at], data[at + 1]
            begin = at + 2
            if length >= 126:
                wide = 2 if length == 126 else 8
                if size - begin < wide:
                    break
                length = int.from_bytes(data[begin:begin + wide], "big")
                begin += wide
            end = begin + length
            if end > size:
                break
            payload = data[begin:end]
            at = end
            if first == 0x81:
                if payload.startswith(b'{"id":'):
                    self._event(payload)
                else:
                    self._message(json.loads(payload))
            elif first == 0x80 | PING:
                self.transport.write(frame(payload, opcode=PONG))
            elif first == 0x80 | CLOSE:
                code, _ = close_of(payload)
                if code == 4410:
                    for b in self.bindings:
                        b.gap()
                self._end(f"close {code}")
                return
            else:
                self.owner.unexpected.append(payload[:200])
        self.buffer = data[at:]

    def _event(self, payload):
        end = payload.index(b'"', 7)
        number = payload.rfind(b'{"n":')
        if number < 0 or not payload[:number].rstrip().endswith(b'"msg":'):
            self._other_event(payload, payload[7:end])
            return
        n = int(payload[number + 5:-2])
        key = key_index(n)
        b = self.by_key.get(key)
        if b is None or b'"routingKey":"k.%d"' % key not in payload:
            self.owner.unexpected.append(payload[:300])
            return
        b.since = payload[7:end]
        b.got.append(n)
        b.at.append(self.heard)

    def _other_event(self, payload, event_id):
        """Poison: no JSON in it, so no number. The key tells whose it is."""
        begin = payload.find(b'"routingKey":"k.')
        index = payload[begin + 16:payload.index(b'"', begin + 16)] if begin >= 0 else b""
        b = self.by_key.get(int(index)) if index.isdigit() else None
        if b is None:
            self.owner.unexpected.append(payload[:300])
            return
        json.loads(payload)
        b.since = event_id
        b.not_json += 1

    def _message(self, m):
        if "gap" in m:
            for b in self.bindings:
                b.gap()
            self.owner.gap_messages += 1
            return
        if "req" not in m:
            self.owner.unexpected.append(json.dumps(m)[:300].encode())
            return
        what = self.asked.pop(m["req"], None)
        if m.get("ok") is not True:
            self.owner.count(f"error {m.get('code')}")
            if isinstance(what, Binding):
                asyncio.get_running_loop().call_later(self.owner.random.uniform(0.3, 1), self.bind, what)
        elif what == "ping":
            pos = (m.get("pos") or {}).get(EXCHANGE + ":0")
            for b in self.bindings:
                if pos and b.live:
                    b.since = f"{EXCHANGE}:0:{pos}"
        elif isinstance(what, Binding):
            self.failures = 0
            if what.asked_since:
                self.owner.count("recovered" if m.get("recovered") is True else "not recovered")
                if m.get("recovered") is not True:
                    what.gap()
            what.live = True
            if "pos" in m:
                what.since = m["pos"]

    @property
    def live(self):
        return all(b.live for b in self.bindings)


class Clients:
    def __init__(self, urls, token, count, patterns, seed=0, reconnect_s=0.5, timeout=60, pings=True):
        """urls: one, or a list of which each connection takes a random one. patterns(i): those of session i."""
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        self.token, self.random, self.reconnect_s = token, random.Random(seed), reconnect_s
        self.sessions = [Session(self, i, patterns(i)) for i in range(count)]
        self.unexpected, self.gap_messages = [], 0
        self.counts = collections.Counter()
        self.ends = []  # (when, why) of sessions that had been upgraded
        self.stopping = self.away = False
        self.absent = []  # sessions that stay away until come_back()
        self.worst_lag_s = 0  # of our own loop: a verdict about times needs it small
        self._tasks = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clients", daemon=True)
        need_files(2 * count + 500)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.await_live(timeout)

    def count(self, what):
        self.counts[what] += 1

    def spawn(self, coroutine):
        if self.stopping:
            coroutine.close()
            return
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self):
        # Some hundred a second, not all at once: the beginning is not the test.
        for i, s in enumerate(self.sessions):
            self._loop.call_later(i / 800, lambda s=s: self.spawn(s.connect()))
        self.spawn(self._look())

    async def _look(self):
        """A slice of the sessions every tenth of a second, each every PING_S."""
        slices, i, due = int(PING_S * 10), 0, time.monotonic()
        while True:
            for s in self.sessions[i % slices::slices]:
                s.look()
            i += 1
            due += 0.1
            wait = due - time.monotonic()
            if wait < 0:
                self.worst_lag_s = max(self.worst_lag_s, -wait)
                due = time.monotonic()
            await asyncio.sleep(max(0, wait))

    @property
    def live(self):
        return sum(s.live for s in self.sessions)

    def await_live(self, timeout=60):
        wait_for(lambda: self.live == len(self.sessions), timeout,
                 f"all {len(self.sessions)} sessions to be bound", interval=0.05)

    @property
    def delivered(self):
        return sum(len(b.got) for s in self.sessions for b in s.bindings)

    @property
    def bindings(self):
        return [b for s in self.sessions for b in s.bindings]

    def leave(self):
        """Reset every connection at once, and stay away until come_back()."""
        self.away = True
        self.drop_all()
        wait_for(lambda: len(self.absent) == len(self.sessions), 30, "all sessions to be away")

    def come_back(self, within_s=0.0):
        """All that are away connect, evenly within that time."""
        async def back():
            self.away, absent, self.absent = False, self.absent, []
            for i, s in enumerate(absent):
                self._loop.call_later(within_s * i / len(absent), lambda s=s: self.spawn(s.connect()))
        asyncio.run_coroutine_threadsafe(back(), self._loop).result(30)

    def drop_all(self):
        """Reset every connection at once."""
        async def drop():
            for s in self.sessions:
                if s.transport and not s.closing:
                    s.upgraded = False  # not an end that the gateway made
                    s._end("we left")
        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(30)


    def close(self):
        if not self._thread.is_alive():
            return

        async def end():
            self.stopping = True
            for s in self.sessions:
                s.closing = True
                if s.transport:
                    s.transport.abort()
            tasks = list(self._tasks)
            for t in tasks:
                t.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
