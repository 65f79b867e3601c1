"""A blocking WebSocket client that sends exactly the bytes it is told to, for what no decent client sends."""
import base64
import os
import select
import socket
import struct
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Gone(Exception):
    """The peer ended the TCP connection (without a close frame before, unless you read that)."""


def frame(payload=b"", opcode=TEXT, fin=True, rsv=0, mask=True, length=None, length_bytes=None):
    """The bytes of one frame. length: what the header claims, if not the truth; length_bytes: 0, 2 or 8, if not
    the shortest form."""
    if isinstance(payload, str):
        payload = payload.encode()
    n = len(payload) if length is None else length
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    masked = 0x80 if mask else 0
    if length_bytes == 0 or (length_bytes is None and n < 126):
        head = struct.pack("!BB", first, masked | n)
    elif length_bytes == 2 or (length_bytes is None and n < 65536):
        head = struct.pack("!BBH", first, masked | 126, n)
    else:
        head = struct.pack("!BBQ", first, masked | 127, n)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(b ^ key[i & 3] for i, b in enumerate(payload))


class RawWs:
    """RawWs(url) connects and upgrades; RawWs(url, upgrade=False) only connects.

    status, headers, body: the answer to the upgrade."""

    def __init__(self, url, headers=(), upgrade=True, timeout=10, source=None, receive_buffer=None):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        self.buffer = b""
        self.status, self.headers, self.body = None, {}, b""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect((self.host, self.port))
        if upgrade:
            self.send_upgrade(headers)

    def send_upgrade(self, headers=(), method="GET", version="HTTP/1.1", drop=()):
        """headers: (name, value) pairs; one that exists already is replaced, unless the name begins with "+"
        (then it is sent beside it). drop: names not to send."""
        lines = {"Host": f"{self.host}:{self.port}", "Upgrade": "websocket", "Connection": "Upgrade",
                 "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "Sec-WebSocket-Version": "13"}
        more = []
        for name, value in headers:
            if name.startswith("+"):
                more.append((name[1:], value))
            else:
                lines[name] = value
        text = f"{method} {self.target} {version}\r\n"
        text += "".join(f"{k}: {v}\r\n" for k, v in [*lines.items(), *more] if k not in drop)
        self.send_bytes(text.encode("latin-1") + b"\r\n")
        self.read_response()

    def read_response(self):
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        if self.status != 101:
            length = int(self.headers.get("content-length", -1))
            try:
                while length < 0 or len(self.buffer) < length:
                    self._fill()
            except Gone:
                pass
            self.body, self.buffer = self.buffer, b""

    def _fill(self):
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            raise Gone() from None
        if not data:
            raise Gone()
        self.buffer += data

    def _take(self, n):
        while len(self.buffer) < n:
            self._fill()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def send_bytes(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            raise Gone() from None

    def send(self, payload=b"", **kwargs):
        self.send_bytes(frame(payload, **kwargs))

    def recv_frame(self, timeout=None):
        """(opcode, payload) of the next frame. Raises Gone, or TimeoutError (socket.timeout)."""
        if timeout is not None:
            self.socket.settimeout(timeout)
        first, second = self._take(2)
        n = second & 0x7F
        if n == 126:
            n, = struct.unpack("!H", self._take(2))
        elif n == 127:
            n, = struct.unpack("!Q", self._take(8))
        assert not second & 0x80, "a server must not mask"
        assert first & 0x80, "our server does not fragment"
        assert not first & 0x70, "no extension was negotiated"
        return first & 0x0F, self._take(n)

    def recv_text(self, timeout=None):
        """The next text message; pings on the way are answered."""
        while True:
            opcode, payload = self.recv_frame(timeout)
            if opcode == PING:
                self.send(payload, opcode=PONG)
            elif opcode == TEXT:
                return payload.decode()
            elif opcode == CLOSE:
                raise AssertionError(f"closed: {close_of(payload)}")

    def recv_close(self, timeout=10):
        """(code, reason) of the close frame; anything before it is skipped. Raises Gone if there is none."""
        while True:
            opcode, payload = self.recv_frame(timeout)
            if opcode == CLOSE:
                return close_of(payload)

    def is_readable(self, timeout=0):
        return bool(self.buffer) or bool(select.select([self.socket], [], [], timeout)[0])

    def reset(self):
        """RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def close_of(payload):
    """(None, "") for an empty close frame."""
    if len(payload) < 2:
        return None, ""
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()
