"""A TCP proxy that misbehaves on request. Runs in a thread of its own.

Modes, changed at any time, also for connections that live:
  pass       carry bytes both ways
  refuse     do not listen at all
  rst        reset living connections and each new one
  blackhole  accept, read and write nothing: the peer looks alive but silent
  delay      pass, each piece later by delay_s
  throttle   pass, at most rate_bytes_s per direction and connection
cut(n): after n more bytes from the server to the client, on each connection, reset it.
halfopen(): what the client sends vanishes; what the server sends passes.
"""
import asyncio
import socket
import struct
import threading

from .ports import free_port


class Proxy:
    def __init__(self, target_port, port=None, target_host="127.0.0.1"):
        self.target = (target_host, target_port)
        self.port = port or free_port()
        self.mode = "pass"
        self.delay_s = 0.5
        self.rate_bytes_s = 10000
        self.accepted = 0
        self.to_server_bytes = 0
        self.to_client_bytes = 0
        self._cut_after = None
        self._lost_direction = None
        self._connections = set()
        self._server = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self):
        self._thread.start()
        self._call(self._start())
        return self

    def stop(self):
        if self._thread.is_alive():
            self._call(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def set(self, mode, **numbers):
        """set("delay", delay_s=1), set("throttle", rate_bytes_s=1000), ..."""
        assert mode in ("pass", "refuse", "rst", "blackhole", "delay", "throttle"), mode
        self._call(self._set(mode, numbers))

    def cut(self, after_bytes):
        self._cut_after = after_bytes

    def halfopen(self, lost="to_server"):
        """lost: "to_server", "to_client", or None to end it."""
        assert lost in ("to_server", "to_client", None)
        self._lost_direction = lost

    def drop(self):
        """Reset all living connections; the mode stays."""
        self._call(self._drop())

    def finish(self):
        """FIN, not RST, to both ends of all living connections; the mode stays."""
        self._call(self._finish())

    @property
    def connections(self):
        return len(self._connections)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(15)

    async def _start(self):
        self._changed = asyncio.Event()
        await self._listen()

    async def _listen(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024,
                                                  limit=1 << 16)

    async def _stop(self):
        if self._server:
            self._server.close()
        await self._drop()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, mode, numbers):
        for name, value in numbers.items():
            assert name in ("delay_s", "rate_bytes_s"), name
            setattr(self, name, value)
        self.mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if mode == "refuse":
            if self._server:
                self._server.close()
                self._server = None
            await self._drop()
        elif self._server is None:
            await self._listen()
        if mode == "rst":
            await self._drop()

    async def _drop(self):
        for writer in list(self._connections):
            _reset(writer)

    async def _finish(self):
        for writer in list(self._connections):
            if not writer.is_closing():
                writer.write_eof()

    async def _accept(self, reader, writer):
        self.accepted += 1
        if self.mode == "rst":
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self._connections.update((writer, up_writer))
        try:
            await asyncio.gather(self._pump(reader, up_writer, "to_server", writer),
                                 self._pump(up_reader, writer, "to_client", up_writer))
        except (ConnectionError, asyncio.IncompleteReadError, OSError, RuntimeError):  # the last: written after FIN
            _reset(writer)
            _reset(up_writer)
        finally:
            for w in (writer, up_writer):
                self._connections.discard(w)
                if not w.is_closing():
                    w.close()

    async def _pump(self, reader, writer, direction, other_writer):
        cut_left = None
        while True:
            await self._while_blackhole()
            data = await reader.read(65536)
            await self._while_blackhole()
            if not data:
                if writer.can_write_eof() and not writer.is_closing():
                    writer.write_eof()
                return
            if self._lost_direction == direction:
                continue
            if self.mode == "delay":
                await asyncio.sleep(self.delay_s)
            elif self.mode == "throttle":
                await asyncio.sleep(len(data) / self.rate_bytes_s)
            if direction == "to_client":
                if self._cut_after is not None:
                    cut_left = self._cut_after if cut_left is None else cut_left
                    data, cut_left = data[:cut_left], cut_left - len(data)
                self.to_client_bytes += len(data)
            else:
                self.to_server_bytes += len(data)
            writer.write(data)
            await writer.drain()
            if cut_left is not None and cut_left <= 0:
                raise ConnectionResetError()

    async def _while_blackhole(self):
        while self.mode == "blackhole":
            await self._changed.wait()


def _reset(writer):
    """RST, not FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()
