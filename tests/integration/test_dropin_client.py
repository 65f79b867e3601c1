"""Drop-in: the browser code of the original's README works unchanged, with the npm package reconnecting-websocket.

dropin/page.js is that code. Its packages (and `ws` in place of a browser's WebSocket) are installed by `npm ci` from
dropin/package-lock.json into a build folder, once.
"""
import hashlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from support.fleet import REPOSITORY
from support.wait import wait_for

DROPIN = Path(__file__).parent / "dropin"


@pytest.fixture(scope="module")
def page_js():
    """page.js beside its packages."""
    names = ("package.json", "package-lock.json")
    digest = hashlib.sha256(b"".join((DROPIN / name).read_bytes() for name in names)).hexdigest()[:12]
    folder = REPOSITORY / "build" / "dropin" / digest
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in names:
            shutil.copy(DROPIN / name, folder)
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, timeout=100,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        (folder / "installed").touch()
    shutil.copy(DROPIN / "page.js", folder)
    return folder / "page.js"


class Page:
    def __init__(self, page_js, *arguments):
        self.seen = []
        self._process = subprocess.Popen(["node", page_js, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        self._thread = threading.Thread(target=self._read, name="page", daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._process.stdout:
            self.seen.append(json.loads(line))

    def count(self, what):
        return sum(what in line for line in self.seen)

    @property
    def tasks(self):
        return [line["task"] for line in self.seen if "task" in line]

    def running(self):
        assert self._process.poll() is None, self._process.stderr.read()
        return True

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._thread.join(10)
        self._process.stdout.close()
        self._process.stderr.close()


@pytest.fixture
def page(page_js):
    pages = []

    def make(*arguments):
        pages.append(Page(page_js, *arguments))
        return pages[-1]
    yield make
    for p in pages:
        p.stop()


def task(status, **more):
    """As the README shows one."""
    return {"_id": "57c4a6fafe948ddd0372e20e", "status_msg": "", "status": status, "user_id": "1",
            "progress_key": "brlife.57912b0fef01633d720918cf.57c4a6fafe948ddd0372e20e",
            "instance_id": "57912b0fef01633d720918cf", "service": "soichih/bl-product-nifti", "name": "diff import", **more}


KEY = "task.57912b0fef01633d720918cf.57c4a6fafe948ddd0372e20e"


def hear(f, p, status):
    """Publish until the page hears it: its bind has no answer that would tell when it is in effect."""
    def heard():
        if p.running() and not any(t[1] == status for t in p.tasks):
            f.publish("wf", KEY, task(status, next_date="2016-08-30T19:52:46.992Z"))
        return any(t[1] == status for t in p.tasks)
    wait_for(heard, 40, f"the page to hear {status}; it saw {p.seen}", interval=0.1)


def test_the_readme_s_client_hears_its_tasks_and_survives_a_restart_of_the_gateway(fleet, token, page):
    f = fleet()
    p = page(f.ws, "wf", "task.57912b0fef01633d720918cf.#", token(sub="1"))
    hear(f, p, "requested")
    assert p.tasks[0] == ["57c4a6fafe948ddd0372e20e", "requested", "", "2016-08-30T19:52:46.992Z"]
    f.publish("wf", "task.other.x", task("not ours"))
    hear(f, p, "running")
    opens = p.count("open")
    f.gateway.stop()
    wait_for(lambda: p.count("close") >= 1, 10, "the page to notice")
    assert [line["close"] for line in p.seen if "close" in line][0] == 1001
    f.gateway.start()
    wait_for(lambda: p.running() and p.count("open") > opens, 40, "the page to open its socket again")
    hear(f, p, "finished")  # it has bound again in onopen
    f.gateway.process.kill()
    f.gateway.start()
    hear(f, p, "archived")
    assert all(t[1] != "not ours" for t in p.tasks)
    assert all(line.get("error") is None for line in p.seen)


def test_the_readme_s_client_may_bind_what_its_rules_allow_only(fleet, token, page, access_api):
    f = fleet()
    access_api.everything("deny")
    denied = page(f.ws, "wf", "task.57912b0fef01633d720918cf.#", token(sub="2"))
    # The README's code reads data.msg, which an error does not have: like with the original it throws.
    wait_for(lambda: denied._process.poll() is not None, 20, "the page to hear the error")
    assert "Cannot read properties of undefined" in denied._process.stderr.read()
    assert denied.tasks == []
