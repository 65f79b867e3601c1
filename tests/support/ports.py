"""Free ports on loopback, below the range from which the kernel takes ports for outgoing connections.

A port from that range could be taken by somebody's client between our look and our server's bind."""
import random
import socket

_handed_out = set()
_random = random.SystemRandom()


def is_free(port, host="127.0.0.1"):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
    return True


def free_port():
    for _ in range(1000):
        port = _random.randrange(15000, 32000)
        if port not in _handed_out and is_free(port):
            _handed_out.add(port)
            return port
    raise RuntimeError("no free port between 15000 and 32000")


def is_listening(port, host="127.0.0.1"):
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
