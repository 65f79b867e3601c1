"""deploy/local/up, as a person would use it: start, subscribe, start again by mistake, stop."""
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from support import http, metrics
from support.ports import free_port, is_listening
from support.process import Process
from support.raw_ws import RawWs
from support.wait import Timeout, wait_for

ROOT = Path(__file__).resolve().parents[2]
UP = ROOT / "deploy" / "local" / "up"
SUBSCRIBE = ROOT / "deploy" / "local" / "subscribe"
ALICES = "57912b0fef01633d720918cf"
BOBS = "5e1b7f30a1b2c33d7209b002"

# `up` builds when the programs are not there yet.
pytestmark = pytest.mark.timeout(400)


def free_range(count):
    """The first of `count` free ports in a row."""
    while True:
        first = free_port()
        sockets = []
        try:
            for port in range(first, first + count):
                s = socket.socket()
                sockets.append(s)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()


class Up:
    def __init__(self, directory, *options):
        self.port, self.inner = free_port(), free_range(60)
        self.directory = directory
        self.options = ["--port", self.port, "--inner-ports", self.inner, "--directory", directory, *options]
        # Each start has a log of its own. If pytest dies, so does the fleet.
        self.process = Process("up", [UP, *self.options], directory / f"out-{self.port}", die_with_parent=True)

    def start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process.start()

        def up():
            if not self.process.running:
                raise Timeout(f"up ended with {self.process.poll()}:\n{self.process.log_text()}")
            return "Ctrl-C stops all of it." in self.process.log_text()
        try:
            wait_for(up, 300, "deploy/local/up", interval=0.1)
        except BaseException:
            self.process.stop(90)
            raise
        self.state = json.loads((self.directory / "state.json").read_text())
        return self

    def pids(self):
        return {name: int(pid) for name, pid in
                re.findall(r"^  (\S+)\s.*\s(\d+)\s+\S+\.log$", self.process.log_text(), re.M)}

    def token(self, query="sub=1"):
        return http.get(f"{self.state['auth']}/token?{query}").json()["jwt"]

    def asks(self, path, token):
        return http.get(self.state["auth"] + path, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    fleet = Up(tmp_path_factory.mktemp("local") / "fleet").start()
    yield fleet
    fleet.process.signal_quietly(signal.SIGTERM)
    fleet.process.stop(90)


def subscribe_until(up, pattern, *options, timeout=90):
    """Run subscribe until a line of its output matches; returns all lines."""
    child = subprocess.Popen([SUBSCRIBE, "--directory", up.directory, *options], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    lines, deadline = [], time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            if not select.select([child.stdout], [], [], 0.5)[0]:
                continue
            line = child.stdout.readline()
            if not line:
                break
            lines.append(line.rstrip())
            if re.search(pattern, line):
                return lines
    finally:
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(10) == 0
        finally:
            child.kill()
            child.wait()
    raise AssertionError("no line matches " + pattern + ":\n" + "\n".join(lines) + "\n" + up.process.log_tail(5))


def test_the_printed_command_shows_task_events(up):
    command = re.search(r"^  (\S+/subscribe) --key '(.*)'$", up.process.log_text(), re.M)
    assert command and Path(command[1]) == SUBSCRIBE
    lines = subscribe_until(up, r"finished", "--key", command[2])
    events = [line for line in lines if " wf task." in line and "binding" not in line]
    assert events and all(re.search(rf" wf task\.{ALICES}\.[0-9a-f]{{24}}  (requested|running|finished|failed) ", e)
                          for e in events), lines


def test_the_printed_token_is_good(up):
    token = re.search(r"^(ey[\w-]+\.[\w-]+\.[\w-]+)$", up.process.log_text(), re.M)[1]
    assert up.asks(f"/event/checkaccess/task.{ALICES}.%23", token).json() == {"status": "ok"}


def test_somebody_elses_events_are_denied(up):
    subscribe_until(up, "refused: Access denied wf", "--sub", "2", "--key", f"task.{ALICES}.#")


def test_everybody_hears_the_public_exchange_without_a_token(up):
    subscribe_until(up, "public news.sample", "--no-token", "--ex", "public", "--key", "#")


def test_an_administrator_sees_everybodys_events(up):
    subscribe_until(up, rf"wf task\.{BOBS}", "--admin", "--key", "task.#")


def test_both_gateways_serve_behind_the_front_door(up):
    with_sessions, clients = [], []
    try:
        for _ in range(4):
            clients.append(RawWs(f"ws://127.0.0.1:{up.port}/subscribe?jwt={quote(up.token())}"))
        assert [c.status for c in clients] == [101] * 4
        for i in range(2):
            samples = metrics.fetch(f"127.0.0.1:{up.inner + 40 + i}")
            with_sessions.append(metrics.total(samples, "event_gateway_sessions"))
    finally:
        for c in clients:
            c.close()
    assert with_sessions == [2, 2]


def test_the_auth_service_answers_as_the_originals_services_do(up):
    alice, bob, admin = up.token("sub=1"), up.token("sub=2"), up.token("sub=9&admin=1")
    ok, denied = {"status": "ok"}, {"status": "denied"}
    assert up.asks(f"/event/checkaccess/instance/{ALICES}", alice).json() == ok
    assert up.asks(f"/event/checkaccess/instance/{ALICES}", bob).json() == denied
    assert up.asks("/event/checkaccess/project/5c7d9a1f2b3c4d5e6f708192", alice).json() == ok
    assert up.asks("/event/checkaccess/project/5afc2c8de68fc50028e90820", bob).json() == denied
    assert up.asks("/event/checkaccess/%23", alice).json() == denied
    assert up.asks("/event/checkaccess/%23", admin).json() == ok
    assert up.asks("/event/checkaccess/task.x", "a.b.c").status == 401
    assert up.asks("/users/", alice).status == 403
    users = http.request(up.state["auth"] + "/users/", body=json.dumps({"where": json.dumps({"_id": "1"})}),
                         headers={"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}).json()
    assert [u["email"] for u in users] == ["alice@example.org"]


def run_up(*options):
    return subprocess.run([UP, *map(str, options)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)


def test_a_second_start_says_that_one_runs(up):
    done = run_up(*up.options)
    assert done.returncode == 1
    assert "already runs" in done.stdout and f"pid {up.process.pid}" in done.stdout


def test_a_taken_port_is_named_with_its_holder(up, tmp_path):
    done = run_up("--port", up.port, "--inner-ports", free_range(60), "--directory", tmp_path)
    assert done.returncode == 1
    assert f"port {up.port} for the front door is taken" in done.stdout
    assert f"haproxy, pid {up.pids()['haproxy']}" in done.stdout and "--port" in done.stdout


def test_ctrl_c_stops_everything(up):
    pids = up.pids()
    assert set(pids) == {"redis", "epmd", "rabbitmq", "auth", "ingest", "gateway-1", "gateway-2", "haproxy",
                         "sample-events"}
    up.process.signal(signal.SIGINT)
    assert up.process.wait(90) == 0, up.process.log_text()
    text = up.process.log_text()
    assert "all stopped" in text and "killed" not in text and "exit status" not in text.split("stopping")[1], text
    for name, pid in pids.items():
        assert not os.path.exists(f"/proc/{pid}"), name
    assert not any(is_listening(p) for p in [up.port, *range(up.inner, up.inner + 60)])
    # And once more: what the first run left does not hinder the second, and a dead child ends it.
    again = Up(up.directory, "--no-sample-events", "--gateways", "1").start()
    try:
        pids = again.pids()
        assert "sample-events" not in pids and "gateway-2" not in pids
        os.kill(pids["ingest"], signal.SIGKILL)
        assert again.process.wait(90) == 1
        assert "ingest" in again.process.log_text() and "ended by itself: signal SIGKILL" in again.process.log_text()
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())
    finally:
        again.process.stop(90)
