"""What ingest leaves in Redis, read as a checker does."""
import json
from collections import Counter
from urllib.parse import quote


class PartitionLog:
    """The log, meta and channels of one exchange in Redis."""

    def __init__(self, client, prefix, exchange, partition=0):
        self.client = client
        self.exchange = exchange
        self.partition = partition
        self.base = f"{prefix}:{{{quote(exchange, safe='')}:{partition}}}"

    @property
    def log_key(self):
        return self.base + ":log"

    @property
    def meta_key(self):
        return self.base + ":meta"

    def meta(self):
        return {k.decode(): v.decode() for k, v in self.client.hgetall(self.meta_key).items()}

    def entries(self):
        """[(id, key, frame, digest)], oldest first."""
        return [(i.decode(), fields[b"k"], fields[b"f"], fields[b"h"])
                for i, fields in self.client.xrange(self.log_key)]

    def length(self):
        return self.client.xlen(self.log_key)

    def frames(self):
        """The frames as a client would get them, without their ids."""
        return [json.loads(b"{" + f) for _, _, f, _ in self.entries()]

    def messages(self):
        return [f["msg"] for f in self.frames()]

    def subscribe(self, *channels):
        """A subscription to channels below the partition (":tick", ":ch:task"). It is in effect on return."""
        pubsub = self.client.pubsub()
        pubsub.subscribe(*[self.base + c for c in channels])
        for _ in channels:
            pubsub.get_message(timeout=5)
        return pubsub


def drain(pubsub, count, timeout=10):
    """The next `count` messages: [(channel, payload)]."""
    got = []
    while len(got) < count:
        message = pubsub.get_message(timeout=timeout)
        assert message is not None, f"{len(got)} of {count} messages came"
        if message["type"] == "message":
            got.append((message["channel"], message["data"]))
    return got


def compare(numbers, confirmed, per=lambda n: 0):
    """Lost, duplicated and out-of-order numbers of what the log holds against what the broker confirmed. per(n) names the
    publisher whose order counts."""
    counts = Counter(numbers)
    lost = sorted(set(confirmed) - set(counts))
    doubled = sorted(n for n, c in counts.items() if c > 1)
    last, disorder = {}, []
    for n in numbers:
        if n < last.get(per(n), -1):
            disorder.append(n)
        last[per(n)] = max(n, last.get(per(n), -1))
    return lost, doubled, disorder
