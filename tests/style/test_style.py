"""The tree itself: formatting, shell scripts, the package list."""
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIP = {".git", "build", "node_modules", "__pycache__"}


def files():
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(p in SKIP or p.startswith("build-") for p in parts):
            yield path


def run(*command):
    return subprocess.run(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_c_sources_are_formatted():
    version = re.search(r"version (\d+)", run("clang-format", "--version").stdout)[1]
    if version != "14":
        pytest.skip(f"the format is that of clang-format 14 (Debian 12), this is {version}")
    sources = [p.relative_to(ROOT) for p in files() if p.suffix in (".c", ".h")]
    assert sources
    done = run("clang-format", "--dry-run", "-Werror", *sources)
    wrong = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", done.stdout, re.M)))
    if done.returncode != 0:
        pytest.fail("run clang-format -i " + " ".join(wrong or [done.stdout]), pytrace=False)


def is_shell(path):
    if path.suffix == ".sh":
        return True
    with open(path, "rb") as f:
        first = f.readline()
    return re.match(rb"#!.*\b(ba|da)?sh\b", first) is not None


def test_shell_scripts_pass_shellcheck():
    scripts = [p for p in files() if is_shell(p)]
    assert ROOT / "tests" / "run" in scripts
    done = run("shellcheck", *scripts)
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)


def test_python_files_compile():
    for path in files():
        with open(path, "rb") as f:
            is_python = path.suffix == ".py" or re.match(rb"#!.*\bpython3\b", f.readline())
        if is_python:
            compile(path.read_bytes(), str(path), "exec")


@pytest.mark.parametrize("group", ["build", "run", "test", "demo", "bench"])
def test_package_list_can_be_read(group):
    done = run(ROOT / "deploy" / "install-packages", "--list", group)
    assert done.returncode == 0, done.stdout
    names = done.stdout.split()
    assert names and all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", n) for n in names), done.stdout
