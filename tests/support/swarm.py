"""Many WebSocket sessions in one thread, fast: bytes are read by one selector and split into frames by hand.

    with Swarm(gateway.ws, token, 200) as swarm:
        swarm.bind_all("public", "a.#")                  with req; returns when all are live
        swarm.pump(lambda: swarm.received >= 1000)       read until the condition holds

Each session keeps the payloads of its text messages in `messages` unless the swarm has `on_message`
(session, payload as bytes). Pings are answered. A session that ends sets `closed` (see Session).
"""
import base64
import json
import os
import resource
import selectors
import socket
import time
from urllib.parse import quote, urlsplit

from .raw_ws import CLOSE, PING, PONG, close_of, frame
from .wait import Timeout


class Session:
    """closed: None while open; then (code, reason, time.monotonic()); code None: no close frame came."""

    __slots__ = ("number", "socket", "buffer", "messages", "answers", "closed", "status", "upgraded", "_req")

    def __init__(self, number, sock):
        self.number, self.socket = number, sock
        self.buffer = bytearray()
        self.messages = []
        self.answers = {}  # req: the answer's object
        self.closed = None
        self.status = None
        self.upgraded = False
        self._req = 0

    def send(self, value):
        self.socket.sendall(frame(json.dumps(value)))

    def ask(self, **command):
        """Send with a fresh req and return that; the answer comes into `answers`."""
        self._req += 1
        self.send({**command, "req": self._req})
        return self._req

    @property
    def events(self):
        return [json.loads(m) for m in self.messages]


class Swarm:
    def __init__(self, url, token=None, count=1, on_message=None, timeout=60, source=None, headers=()):
        self.on_message = on_message
        self.sessions = []
        self.received = 0  # text messages but answers, of all sessions
        self._selector = selectors.DefaultSelector()
        self._source = source
        need_files(count + 200)
        self.add(url, token, count, timeout, headers)

    def add(self, url, token=None, count=1, timeout=60, headers=()):
        """Open more sessions; returns them when all are upgraded."""
        parts = urlsplit(url)
        target = (parts.path or "/") + "?" + parts.query
        if token:
            target += ("&" if parts.query else "") + "jwt=" + quote(token, safe="")
        request = (f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
                   f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                   f"Sec-WebSocket-Version: 13\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n").encode()
        new = []
        for _ in range(count):
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            if self._source:
                s.bind((self._source, 0))
            s.settimeout(timeout)
            s.connect((parts.hostname, parts.port))
            s.sendall(request)
            session = Session(len(self.sessions), s)
            self.sessions.append(session)
            new.append(session)
            self._selector.register(s, selectors.EVENT_READ, session)
        self.pump(lambda: all(s.upgraded or s.closed for s in new), timeout)
        refused = {s.status for s in new if not s.upgraded}
        assert not refused, f"upgrades answered with {refused}"
        return new

    # Reading.
    def pump(self, until=None, timeout=30.0, what="the condition"):
        """Read whatever comes until the condition holds (looked at after each round)."""
        deadline = time.monotonic() + timeout
        while not (until and until()):
            left = deadline - time.monotonic()
            if left <= 0:
                raise Timeout(f"waited {timeout:g} s for {what}; {self.received} messages so far")
            for key, _ in self._selector.select(min(left, 0.05)):
                self._read(key.data)

    def settle(self, idle_s, timeout=30.0):
        """Read until nothing has come for idle_s: only to look for what must not come; prefer fences."""
        last = [-1, time.monotonic()]

        def idle():
            if self.received != last[0]:
                last[:] = self.received, time.monotonic()
            return time.monotonic() - last[1] >= idle_s
        self.pump(idle, timeout)

    def _read(self, session):
        try:
            data = session.socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self._end(session, None, "")
            return
        session.buffer += data
        if not session.upgraded:
            head, end, rest = bytes(session.buffer).partition(b"\r\n\r\n")
            if not end:
                return
            session.status = int(head.split(b" ", 2)[1])
            if session.status != 101:
                self._end(session, None, f"HTTP {session.status}")
                return
            session.upgraded = True
            session.buffer = bytearray(rest)
        self._split(session)

    def _split(self, session):
        data = bytes(session.buffer)
        at, size = 0, len(data)
        on_message = self.on_message
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
                if payload.startswith(b'{"req":'):
                    answer = json.loads(payload)
                    session.answers[answer["req"]] = answer
                    continue
                self.received += 1
                if on_message:
                    on_message(session, payload)
                else:
                    session.messages.append(payload)
            elif first == 0x80 | PING:
                session.socket.sendall(frame(payload, opcode=PONG))
            elif first == 0x80 | CLOSE:
                code, reason = close_of(payload)
                self._end(session, code, reason)
                return
            else:
                raise AssertionError(f"a server frame that begins with {first:#x}")
        del session.buffer[:at]

    def _end(self, session, code, reason):
        if session.closed is None:
            session.closed = (code, reason, time.monotonic())
            self._selector.unregister(session.socket)
            session.socket.close()

    # Asking.
    def answers(self, asked, timeout=30.0):
        """asked: [(session, req)]. Their answers, in that order."""
        self.pump(lambda: all(req in s.answers or s.closed for s, req in asked), timeout, "answers")
        return [s.answers.get(req, {"closed": s.closed}) for s, req in asked]

    def bind_all(self, exchange, key, sessions=None, timeout=30.0):
        asked = [(s, s.ask(bind={"ex": exchange, "key": key})) for s in sessions or self.sessions]
        for answer in self.answers(asked, timeout):
            assert answer.get("ok") is True, answer

    @property
    def open(self):
        return [s for s in self.sessions if s.closed is None]

    def close(self):
        for s in self.open:
            self._end(s, None, "we left")
        self._selector.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def need_files(count):
    """Raise our own limit of open files where it is lower; children started later inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
