"""The verdict of every row: what the broker confirmed against what each binding of each client received.

  lost         confirmed, wanted by a binding that was live before, never delivered, and not between the two events around a
               gap that the client was told of
  duplicated   delivered twice to a binding, with no announced gap in between
  again        the same, but with one in between: then a client knows that it must look
  disorder     delivered after a later one
  unexpected   for no binding of the client, never published, or not understood

One line a row. `recovered` is how long after the fault's end the last client had all that was published before it.
"""
import bisect
import time
from collections import defaultdict

from publisher import key_index


class Verdict:
    def __init__(self, row):
        self.row = row
        self.confirmed = self.expected = self.delivered = 0
        self.lost, self.duplicated, self.again, self.disorder, self.unexpected = [], [], [], [], []
        self.gaps = self.clients_with_gap = self.reconnects = self.refused = 0
        self.recovered_s = None
        self.notes = []

    def line(self):
        parts = [f"confirmed {self.confirmed}", f"delivered {self.delivered} of {self.expected}", f"lost {len(self.lost)}",
                 f"duplicated {len(self.duplicated)}", f"disorder {len(self.disorder)}",
                 f"unexpected {len(self.unexpected)}", f"gaps announced {self.gaps}", f"reconnects {self.reconnects}"]
        if self.again:
            parts.append(f"again after a gap {len(self.again)}")
        if self.recovered_s is not None:
            parts.append(f"recovered in {self.recovered_s:.1f} s")
        return f"row {self.row}: " + ", ".join(parts + self.notes)

    def examples(self):
        return {name: values[:8] for name in ("lost", "duplicated", "disorder", "unexpected")
                if (values := getattr(self, name))}


class Expected:
    """The confirmed numbers of a set of keys, sorted; made once for each set."""

    def __init__(self, numbers):
        self._by_key = defaultdict(list)
        for n in numbers:
            self._by_key[key_index(n)].append(n)
        self._made = {}

    def of(self, keys):
        if keys not in self._made:
            self._made[keys] = sorted(n for k in keys for n in self._by_key.get(k, ()))
        return self._made[keys]


def excused_ranges(got, gaps):
    """What may be missing: between the event before a gap and the one after it."""
    ranges = []
    for i in gaps:
        before = max(got[:i]) if i > 0 else -1
        ranges.append((before, got[i] if i < len(got) else float("inf")))
    return ranges


def judge_binding(verdict, name, b, expected, published):
    got = b.got
    seen = set(got)
    missing = [n for n in expected if n not in seen]
    if missing:
        ranges = excused_ranges(got, b.gaps)
        verdict.lost += [(name, n) for n in missing if not any(low < n < high for low, high in ranges)]
    if len(seen) != len(got) or any(got[i] > got[i + 1] for i in range(len(got) - 1)):
        judge_order(verdict, name, got, b.gaps)
    verdict.unexpected += [(name, n) for n in seen if n >= published]
    verdict.expected += len(expected)
    verdict.delivered += len(got)
    verdict.gaps += len(b.gaps)


def judge_order(verdict, name, got, gaps):
    segment_of = {}  # number: the segment in which it came last
    last = -1
    for i, n in enumerate(got):
        segment = bisect.bisect_right(gaps, i)
        if i in gaps:
            last = -1
        if n in segment_of:
            (verdict.duplicated if segment_of[n] == segment else verdict.again).append((name, n))
        elif n < last:
            verdict.disorder.append((name, n, last))
        segment_of[n] = segment
        last = max(last, n)


def recovered_s(bindings, times, fault_end):
    """Longest time after fault_end at which an event came that was published before; at least to the first one after."""
    longest = 0.0
    for b in bindings:
        first = bisect.bisect_left(b.at, fault_end)
        behind = [b.at[i] for i in range(first, len(b.at)) if b.got[i] < len(times) and times[b.got[i]] <= fault_end]
        if behind:
            longest = max(longest, behind[-1] - fault_end)
        elif first < len(b.at) and len(b.keys) > 1:
            longest = max(longest, b.at[first] - fault_end)
    return longest


def drain(publisher, clients, timeout):
    """Stop publishing and wait until everything confirmed has come, or until nothing comes any more."""
    publisher.stop()
    expected = Expected(set(publisher.confirmed) - publisher.poison)
    wanted = [(b, expected.of(b.keys)) for b in clients.bindings]
    deadline = time.monotonic() + timeout
    incomplete = wanted
    moved, delivered = time.monotonic(), -1
    while incomplete and time.monotonic() < deadline:
        incomplete = [(b, e) for b, e in incomplete if e and (not b.got or b.got[-1] < e[-1])]
        if clients.delivered != delivered:
            moved, delivered = time.monotonic(), clients.delivered
        if clients.live == len(clients.sessions) and time.monotonic() - moved > 20:
            break
        time.sleep(0.05)
    return expected


def judge(row, publisher, clients, fault_end=None, timeout=60):
    """End the load and look at everything. Prints the line; assert on what it returns, or use check()."""
    expected = drain(publisher, clients, timeout)
    clients.close()
    v = Verdict(row)
    v.confirmed = len(publisher.confirmed)
    for s in clients.sessions:
        for b in s.bindings:
            judge_binding(v, f"session {s.number} {b.pattern}", b, expected.of(b.keys), publisher.published)
    v.unexpected += clients.unexpected
    v.reconnects = len(clients.ends)
    v.refused = clients.counts["not recovered"]
    v.clients_with_gap = sum(any(b.gaps for b in s.bindings) for s in clients.sessions)
    v.counts = dict(clients.counts)
    if fault_end is not None:
        v.recovered_s = recovered_s(clients.bindings, publisher.times, fault_end)
    return v


def check(v, gaps=False, recovered_s=None):
    """Nothing lost, doubled, out of order or unexpected; gaps only where they are due."""
    text = v.line() + (f"\n    client events: {v.counts}" if v.counts else "") + \
        "".join(f"\n    {k}: {e}" for k, e in v.examples().items())
    print(text)
    assert not (v.lost or v.duplicated or v.disorder or v.unexpected), text
    assert v.confirmed > 0 and v.delivered > 0, text
    if not gaps:
        assert v.gaps == 0, text
    if recovered_s is not None:
        assert v.recovered_s <= recovered_s, text
    return v
