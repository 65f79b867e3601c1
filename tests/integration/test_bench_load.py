"""The benchmark's load generator counts what is, and notices what must not be."""
import asyncio
import json
import subprocess

import pytest
import websockets

from support.fleet import bin_dir
from support.ports import free_port, is_listening
from support.process import Process
from support.wait import wait_for

BENCH = bin_dir().parent / "bench"
pytestmark = pytest.mark.skipif(not (BENCH / "bench-load").exists(), reason=f"no load generator in {BENCH}")


def load(*arguments):
    done = subprocess.run([BENCH / "bench-load", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("options", [[], ["--coalesce"]])
def test_every_session_gets_the_events_of_its_group(tmp_path, options):
    port = free_port()
    floor = Process("floor", [BENCH / "bench-floor", port, *options], tmp_path / "log").start()
    try:
        wait_for(lambda: is_listening(port), 10, "the floor")
        code, report = load("--port", port, "--sessions", 50, "--groups", 5, "--request", "/{g}", "--say", '{"bind":{g}}',
                            "--hear", '"ok":true', "--tcp", port, "--message", r"EV {g} 200\n{body}", "--body", 200,
                            "--rate", 1000, "--burst", 10, "--events", 100, "--server", f"floor={floor.pid}", "--check")
    finally:
        floor.stop()
    publish = report["publish"]
    assert code == 0
    assert publish["events"] == 100 and publish["expected"] == publish["delivered"] == 1000
    assert publish["frame_bytes"] == 200
    assert publish["servers"]["floor"]["cpu_s"] > 0
    assert 0 < publish["latency_us"]["p50"] <= publish["latency_us"]["p99"] <= publish["latency_us"]["max"]
    # The ten of the warm-up come on top: two events for each of the five groups of ten sessions.
    assert report["counts"]["messages"] == 1100


def test_lost_repeated_and_damaged_messages_are_noticed():
    """A server of three sessions that misbehaves with events 3, 5 and 7."""
    sessions = set()

    async def subscriber(socket, *_):
        sessions.add(socket)
        await socket.wait_closed()

    async def publisher(reader, writer):
        for number in range(12):
            body = (await reader.readexactly(200)).decode()
            for socket in sessions:
                if number == 3:
                    continue
                await socket.send(body if number != 7 else body[:-3] + "!" + body[-2:])
                if number == 5:
                    await socket.send(body)

    async def scene():
        port = free_port()
        async with websockets.serve(subscriber, "127.0.0.1", free_port()) as server:
            feed = await asyncio.start_server(publisher, "127.0.0.1", port)
            async with feed:
                return await asyncio.to_thread(
                    load, "--port", server.sockets[0].getsockname()[1], "--sessions", 3, "--tcp", port, "--message", "{body}",
                    "--body", 200, "--rate", 100, "--events", 10, "--warmup", 2, "--grace-s", 0.5, "--check")

    code, report = asyncio.run(scene())
    counts = report["counts"]
    assert code == 1
    assert (counts["missed"], counts["repeated"], counts["damaged"], counts["foreign"]) == (3, 3, 3, 0)
    assert report["publish"]["delivered"] == 27 and report["publish"]["expected"] == 30
