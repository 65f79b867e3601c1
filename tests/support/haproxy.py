"""HAProxy in front of gateways, set up as deploy/local does it: a gateway whose /readyz fails gets no new connections."""
import shutil
from pathlib import Path

from .ports import free_port, is_listening
from .process import Process
from .wait import wait_for


class HaProxy:
    def __init__(self, directory, gateways, port=None, connections=9000):
        """gateways: Programs, started or not."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        servers = "\n".join(
            f"    server gateway-{i} {g.listen} check port {g.admin.rsplit(':', 1)[1]} inter 500ms fall 2 rise 1"
            for i, g in enumerate(gateways))
        config = directory / "haproxy.cfg"
        config.write_text(f"""global
    maxconn {connections}
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 75s
    timeout http-request 10s
    option forwardfor
    option redispatch
    retries 3
frontend browsers
    bind 127.0.0.1:{self.port}
    default_backend gateways
backend gateways
    balance leastconn
    option httpchk GET /readyz
{servers}
""")
        binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self.process = Process("haproxy", [binary, "-db", "-f", config], directory / "haproxy.log", cwd=directory)

    @property
    def ws(self):
        return f"ws://127.0.0.1:{self.port}/subscribe"

    def start(self):
        self.process.start()
        wait_for(lambda: is_listening(self.port), 10, "HAProxy to listen")
        return self

    def stop(self):
        self.process.kill()
