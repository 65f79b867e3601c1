"""An access-check API that answers as the key tells it to.

The behaviour is chosen by the first word of the last path segment, digits at its end dropped: a check of
"deny1" or "deny1.t" is denied, "ok" and any unknown word are granted. Tests may add words (behave) or
replace what all checks get (everything). It runs in a thread of its own, so blocking tests can use it.
"""
import asyncio
import json
import re
import threading
from collections import Counter
from urllib.parse import unquote

from aiohttp import web

from .ports import free_port


class Request:
    """One recorded check. path: as sent, still percent-encoded, with the query."""

    def __init__(self, method, path, headers, word):
        self.method, self.path, self.headers, self.word = method, path, headers, word


def _json(status, value):
    return web.Response(status=status, text=json.dumps(value), content_type="application/json")


async def _hang(api, request):
    await api.hang_released.wait()
    return _json(200, {"status": "ok"})


async def _slow(api, request):
    await asyncio.sleep(api.slow_s)  # this is what a slow API is
    return _json(200, {"status": "ok"})


async def _reset(api, request):
    request.transport.abort()
    return web.Response(status=500)


async def _huge(api, request):
    return web.Response(status=200, content_type="application/json",
                        text='{"status":"ok","padding":"' + "x" * (4 << 20) + '"}')


async def _redirect(api, request):
    return web.Response(status=302, headers={"Location": "/granted/ok"})


async def _gate(api, request):
    """Waits until the test opens the gate, then grants."""
    await api.gate_opened.wait()
    return _json(200, {"status": "ok"})


def _plain(status, text, content_type="application/json"):
    async def answer(api, request):
        return web.Response(status=status, text=text, content_type=content_type)
    return answer


BEHAVIOURS = {
    "ok": _plain(200, '{"status":"ok"}'),
    "deny": _plain(200, '{"status":"denied"}'),
    "upper": _plain(200, '{"status":"OK"}'),
    "true": _plain(200, '{"status":true}'),
    "bare": _plain(200, "true"),
    "array": _plain(200, '["ok"]'),
    "string": _plain(200, '"ok"'),
    "jsonnull": _plain(200, "null"),
    "empty": _plain(200, ""),
    "nocontent": _plain(204, ""),
    "html": _plain(200, "<html>ok</html>", "text/html"),
    "plainok": _plain(200, '{"status":"ok"}', "text/plain"),
    "broken": _plain(200, '{"status":"ok"'),
    "created": _plain(201, '{"status":"ok"}'),
    "e401json": _plain(401, '{"status":"ok","message":"no"}'),
    "e403": _plain(403, '{"status":"denied"}'),
    "e404": _plain(404, "not found", "text/plain"),
    "e429": _plain(429, '{"status":"ok"}'),
    "e500": _plain(500, '{"status":"ok"}'),
    "e503": _plain(503, "", "text/plain"),
    "redirect": _redirect,
    "huge": _huge,
    "reset": _reset,
    "slow": _slow,
    "hang": _hang,
    "gate": _gate,
}


class AccessApi:
    def __init__(self, port=None):
        self.port = port or free_port()
        self.slow_s = 1.0
        self.default = "ok"
        self._lock = threading.Lock()
        self._words = {}
        self._everything = None
        self._requests = []
        self._in_flight = 0
        self._in_flight_max = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="access-api", daemon=True)
        self._runner = None
        self._site = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    # What tests look at and change; safe from any thread.

    def behave(self, word, behaviour):
        """From now on checks of `word` get a behaviour of BEHAVIOURS, or an async function (api, request) -> Response."""
        assert callable(behaviour) or behaviour in BEHAVIOURS, behaviour
        with self._lock:
            self._words[word] = behaviour

    def everything(self, behaviour):
        """All checks get this behaviour; None: by their words again."""
        assert behaviour is None or callable(behaviour) or behaviour in BEHAVIOURS, behaviour
        with self._lock:
            self._everything = behaviour

    def reset(self):
        """Forget what was recorded and changed; let everything that hangs go."""
        with self._lock:
            self._words, self._everything, self._requests = {}, None, []
            self._in_flight_max = self._in_flight
            self.slow_s = 1.0
        self.release()
        self._call(self._rearm())

    def release(self):
        """Answer the checks that hang or wait at the gate, and those that come."""
        self._call(self._release())

    def open_gate(self):
        self._call(self._open_gate())

    @property
    def requests(self):
        with self._lock:
            return list(self._requests)

    @property
    def count(self):
        with self._lock:
            return len(self._requests)

    @property
    def in_flight_max(self):
        with self._lock:
            return self._in_flight_max

    def counts(self):
        """How often each word was asked for."""
        return Counter(r.word for r in self.requests)

    # Life.

    def start(self):
        self._thread.start()
        self._call(self._start())
        return self

    def stop(self):
        if not self._thread.is_alive():
            return
        self._call(self._release())
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def refuse(self):
        """Stop listening: connections are refused until listen()."""
        self._call(self._unlisten())

    def listen(self):
        self._call(self._listen())

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(15)

    async def _start(self):
        await self._rearm()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await self._listen()

    async def _listen(self):
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=2048, reuse_address=True)
        await self._site.start()

    async def _unlisten(self):
        if self._site:
            await self._site.stop()
            self._site = None
            # Keep-alive connections would still be served.
            for protocol in list(self._runner.server.connections):
                if protocol.transport:
                    protocol.transport.abort()

    async def _stop(self):
        await self._unlisten()
        await self._runner.cleanup()

    async def _rearm(self):
        self.hang_released = asyncio.Event()
        self.gate_opened = asyncio.Event()

    async def _release(self):
        self.hang_released.set()
        self.gate_opened.set()

    async def _open_gate(self):
        self.gate_opened.set()

    async def _handle(self, request):
        raw = request.raw_path
        segment = unquote(raw.split("?")[0].rstrip("/").rsplit("/", 1)[-1])
        word = segment.split(".")[0]
        with self._lock:
            self._requests.append(Request(request.method, raw, dict(request.headers), word))
            self._in_flight += 1
            self._in_flight_max = max(self._in_flight_max, self._in_flight)
            behaviour = self._everything or self._words.get(word)
            if behaviour is None:
                stem = re.sub(r"\d+$", "", word)
                behaviour = word if word in BEHAVIOURS else stem if stem in BEHAVIOURS else self.default
        try:
            answer = behaviour if callable(behaviour) else BEHAVIOURS[behaviour]
            return await answer(self, request)
        finally:
            with self._lock:
                self._in_flight -= 1
