"""One child process with a log file, in its own session so that a Ctrl-C at the terminal reaches only the parent."""
import ctypes
import os
import signal
import subprocess

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """die_with_parent: the kernel sends it SIGTERM when the thread that started it ends, however that ends."""

    def __init__(self, name, argv, log, env=None, cwd=None, die_with_parent=False):
        self.name = name
        self.argv = [str(a) for a in argv]
        self.log = str(log)
        self.env = env
        self.cwd = cwd
        self.die_with_parent = die_with_parent
        self.popen = None

    def start(self):
        assert self.popen is None, f"{self.name} is running"
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          env=self.env, cwd=self.cwd, start_new_session=True,
                                          preexec_fn=_die_with_parent if self.die_with_parent else None)
        return self

    @property
    def pid(self):
        return self.popen.pid if self.popen else None

    def poll(self):
        """None while it runs, else its exit code (negative: killed by that signal)."""
        return self.popen.poll() if self.popen else 0

    @property
    def running(self):
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number):
        os.kill(self.popen.pid, number)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def thaw_if_frozen(self):
        """SIGCONT only to a stopped process. To one that is ending it does harm: it takes back the SIGSTOP with which
        LeakSanitizer holds the threads, and the leak check then waits for ever."""
        try:
            with open(f"/proc/{self.popen.pid}/stat", encoding="utf-8") as f:
                state = f.read().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "T":
            self.signal_quietly(signal.SIGCONT)

    def wait(self, timeout):
        return self.popen.wait(timeout)

    def kill(self):
        """SIGKILL and reap."""
        if self.popen:
            if self.popen.poll() is None:
                self.popen.kill()
            self.popen.wait()
            self.popen = None

    def stop(self, timeout=20.0):
        """SIGTERM; SIGKILL after the time limit. Returns the exit code."""
        if not self.popen:
            return 0
        if self.popen.poll() is None:
            self.popen.terminate()
            self.thaw_if_frozen()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        code = self.popen.returncode
        self.popen = None
        return code

    def signal_quietly(self, number):
        try:
            self.signal(number)
        except ProcessLookupError:
            pass

    def log_text(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def log_tail(self, lines=30):
        return "\n".join(self.log_text().splitlines()[-lines:])
