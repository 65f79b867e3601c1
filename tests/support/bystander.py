"""A session that must not notice what others do: numbered events for it are published all the while.

    with Bystander(fleet, token()) as bystander:
        ...                      somebody misbehaves
        bystander.check()        every event came, once, in order; and one that is published now comes too

Publisher and reader are threads with connections of their own, so a blocking test does not stop them.
"""
import json
import secrets
import socket
import threading

import pika

from .raw_ws import RawWs
from .wait import wait_for


class Bystander:
    def __init__(self, fleet, token, exchange="public", gateway=0, interval_s=0.01):
        self.exchange = exchange
        self.prefix = "bystander." + secrets.token_hex(4)
        self.published = 0
        self.received = []
        self.failure = None
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._socket = RawWs(f"{fleet.gateways[gateway].ws}?jwt={token}", timeout=30)
        assert self._socket.status == 101, self._socket.body
        self._socket.send(json.dumps({"bind": {"ex": exchange, "key": self.prefix + ".#"}, "req": 1}))
        answer = json.loads(self._socket.recv_text())
        assert answer.get("ok") is True, answer
        parameters = pika.URLParameters(fleet.amqp_url)
        parameters.heartbeat = 0
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._threads = [threading.Thread(target=self._guard, args=(work,), name="bystander", daemon=True)
                         for work in (self._publish, self._read)]
        for thread in self._threads:
            thread.start()

    def _guard(self, work):
        try:
            work()
        except Exception as e:  # shown by check()
            if not self._stopping.is_set():
                self.failure = repr(e)

    def _publish(self):
        properties = pika.BasicProperties(content_type="application/json")
        while not self._stopping.wait(self._interval_s):
            n = self.published + 1
            self._channel.basic_publish(self.exchange, f"{self.prefix}.{n}", json.dumps({"n": n}).encode(), properties)
            self.published = n  # the broker has confirmed it

    def _read(self):
        while True:
            self.received.append(json.loads(self._socket.recv_text())["msg"]["n"])

    def check(self, timeout=20):
        """Nothing was lost, nothing came twice, and events still come. Returns how many came."""
        mark = self.published + 1

        def heard():
            return self.failure or (self.received and self.received[-1] >= mark)
        wait_for(heard, timeout, f"the bystander to hear event {mark}")
        assert self.failure is None, f"the bystander failed: {self.failure}"
        received = list(self.received)
        if received != list(range(1, len(received) + 1)):
            raise AssertionError(f"the bystander's events are not 1..n: {_first_fault(received)}")
        return len(received)

    def stop(self):
        self._stopping.set()
        self._threads[0].join(10)
        self._socket.socket.shutdown(socket.SHUT_RDWR)  # wakes the reader
        self._threads[1].join(10)
        self._socket.close()
        if self._connection.is_open:
            self._connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()


def _first_fault(numbers):
    for i, n in enumerate(numbers):
        if n != i + 1:
            return f"number {i + 1} is {n}, around it {numbers[max(0, i - 5):i + 5]}"
    return "none"
