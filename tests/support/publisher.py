"""A publisher that counts, in a thread: {"n":0}, {"n":1}, .. with confirms, while the world breaks."""
import threading
import time

import pika


class Publisher:
    """with Publisher(url, "wf", rate=1000) as p: .. ; p.confirmed is what the broker has taken, in order.

    A message whose confirmation was lost with the connection is neither sent again nor counted: it may or may not
    arrive."""

    def __init__(self, url, exchange, rate=1000, key=lambda n: f"k.{n % 5}", start=0, properties=None):
        self.parameters = pika.URLParameters(url)
        self.parameters.heartbeat = 0
        self.parameters.socket_timeout = 2
        self.parameters.blocked_connection_timeout = 2
        self.exchange, self.rate, self.key, self.next = exchange, rate, key, start
        self.properties = properties or pika.BasicProperties(content_type="application/json", delivery_mode=2)
        self.confirmed = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the publisher hangs"

    def _run(self):
        while not self._stop.is_set():
            try:
                connection = pika.BlockingConnection(self.parameters)
                channel = connection.channel()
                channel.confirm_delivery()
                self._publish(channel)
                connection.close()
            except (pika.exceptions.AMQPError, OSError):
                time.sleep(0.1)

    def _publish(self, channel):
        due = time.monotonic()
        while not self._stop.is_set():
            n, self.next = self.next, self.next + 1
            channel.basic_publish(self.exchange, self.key(n), b'{"n":%d}' % n, self.properties)
            self.confirmed.append(n)
            due += 1 / self.rate
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif wait < -0.5:
                due = time.monotonic()
