"""An ordinary WebSocket client that collects what it receives.

    async with connect(url, token) as c:
        await c.bind("wf", "task.1.#")              old clients' bind: no answer when granted
        answer = await c.ask(bind={...})             with req; returns the answer
        frame = await c.next()                       next message that nobody waited for
        frames = await c.collect(5)                  exactly five messages
        await c.silent(0.3)                          nothing comes for so long
        code, reason = await c.closed()

connect raises HandshakeRefused (status, headers, body) when the upgrade is answered otherwise.
"""
import asyncio
import inspect
import itertools
import json
from urllib.parse import quote

import websockets

_HEADERS_ARGUMENT = ("extra_headers" if "extra_headers" in inspect.signature(
    getattr(websockets.connect, "__init__")).parameters else "additional_headers")


class HandshakeRefused(Exception):
    def __init__(self, status, headers, body):
        super().__init__(f"upgrade answered with {status}")
        self.status, self.headers, self.body = status, headers, body


class Closed(Exception):
    def __init__(self, code, reason):
        super().__init__(f"closed {code} {reason!r}")
        self.code, self.reason = code, reason


class Client:
    def __init__(self, socket):
        self.socket = socket
        self.messages = asyncio.Queue()
        self.all = []          # every message as text (or bytes), in order
        self._answers = {}
        self._req = itertools.count(1)
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self):
        try:
            async for message in self.socket:
                self.all.append(message)
                waiter = self._waiter(message)
                if waiter is not None:
                    if not waiter.done():
                        waiter.set_result(json.loads(message))
                else:
                    self.messages.put_nowait(message)
        except websockets.ConnectionClosed:
            pass
        finally:
            closed = Closed(self.socket.close_code, self.socket.close_reason)
            for waiter in self._answers.values():
                if not waiter.done():
                    waiter.set_exception(closed)
            self.messages.put_nowait(closed)

    def _waiter(self, message):
        # Only answers begin with req; an event of several kilobytes is not parsed here.
        if not self._answers or not isinstance(message, str) or '"req"' not in message[:200]:
            return None
        value = json.loads(message)
        return self._answers.pop(value.get("req"), None) if isinstance(value, dict) else None

    async def send(self, value):
        """A dict is sent as JSON; text as text, bytes as a binary message."""
        await self.socket.send(json.dumps(value) if isinstance(value, (dict, list)) else value)

    async def bind(self, ex, key, **more):
        await self.send({"bind": {"ex": ex, "key": key, **more}})

    async def ask(self, timeout=10, **command):
        """Send with a fresh req and return the answer to it."""
        req = command.setdefault("req", next(self._req))
        waiter = asyncio.get_running_loop().create_future()
        self._answers[req] = waiter
        await self.send(command)
        return await asyncio.wait_for(waiter, timeout)

    async def bind_ok(self, ex, key, timeout=10, **more):
        """Bind with req, and be sure that it is live."""
        answer = await self.ask(timeout, bind={"ex": ex, "key": key, **more})
        assert answer.get("ok") is True, answer
        return answer

    async def next_text(self, timeout=10):
        message = await asyncio.wait_for(self.messages.get(), timeout)
        if isinstance(message, Closed):
            self.messages.put_nowait(message)
            raise message
        return message

    async def next(self, timeout=10):
        return json.loads(await self.next_text(timeout))

    async def collect(self, count, timeout=10):
        async def all_of_them():
            return [await self.next(timeout) for _ in range(count)]
        return await asyncio.wait_for(all_of_them(), timeout)

    async def until(self, condition, timeout=10):
        """All messages up to the first for which condition(message) holds."""
        async def look():
            seen = []
            while True:
                seen.append(await self.next(timeout))
                if condition(seen[-1]):
                    return seen
        return await asyncio.wait_for(look(), timeout)

    async def silent(self, seconds):
        """Nothing may come for that long. Prefer fence(): an event that must come, published after what must not."""
        try:
            message = await self.next_text(seconds)
        except asyncio.TimeoutError:
            return
        raise AssertionError(f"unexpected: {message[:300]!r}")

    async def ping(self, timeout=10):
        """The protocol's own ping: everything that was sent before it has been handled."""
        return await self.ask(timeout, ping=1)

    async def closed(self, timeout=10):
        """(code, reason) once the connection is over; messages before that are kept in `all`."""
        await asyncio.wait_for(self.socket.wait_closed(), timeout)
        await self._reader
        return self.socket.close_code, self.socket.close_reason

    @property
    def is_open(self):
        return not self._reader.done()

    async def close(self):
        await self.socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        await self.close()


class _Connecting:
    """await it, or use it as an async context manager."""

    def __init__(self, coroutine):
        self._coroutine = coroutine
        self._client = None

    def __await__(self):
        return self._coroutine.__await__()

    async def __aenter__(self):
        self._client = await self._coroutine
        return self._client

    async def __aexit__(self, *exc):
        await self._client.close()


def connect(url, token=None, **options):
    """token goes into ?jwt=; header=True sends it as Authorization, subprotocol=True as bearer.<token>.

    Further: headers, subprotocols, origin, and whatever websockets.connect takes."""
    return _Connecting(_connect(url, token, **options))


async def _connect(url, token, header=False, subprotocol=False, headers=None, subprotocols=None, **options):
    headers = dict(headers or {})
    subprotocols = list(subprotocols or [])
    if token is not None:
        if header:
            headers["Authorization"] = f"Bearer {token}"
        elif subprotocol:
            subprotocols.append(f"bearer.{token}")
        else:
            url += ("&" if "?" in url else "?") + "jwt=" + quote(token, safe="")
    if headers:
        options[_HEADERS_ARGUMENT] = headers
    options.setdefault("max_size", None)
    options.setdefault("max_queue", None)
    options.setdefault("ping_interval", None)
    options.setdefault("compression", None)
    options.setdefault("open_timeout", 15)
    try:
        socket = await websockets.connect(url, subprotocols=subprotocols or None, **options)
    except websockets.InvalidStatusCode as e:
        raise HandshakeRefused(e.status_code, dict(e.headers), None) from None
    except websockets.InvalidStatus as e:
        response = e.response
        raise HandshakeRefused(response.status_code, dict(response.headers), response.body) from None
    return Client(socket)
