"""Prometheus text as numbers."""
import re
import urllib.request

_SAMPLE = re.compile(r'^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$')
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


def parse(text):
    """{name: value} and {'name{a="b"}': value}, labels in the order of the text. Raises on a bad line."""
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        m = _SAMPLE.match(line)
        if not m:
            raise ValueError(f"not a sample: {line!r}")
        name, labels, value = m.groups()
        key = name
        if labels:
            key += "{" + ",".join(f'{k}="{v}"' for k, v in _LABEL.findall(labels)) + "}"
        if key in samples:
            raise ValueError(f"twice: {key}")
        samples[key] = float(value)
    return samples


def fetch(admin, timeout=5):
    """The metrics of a program, by its admin address "host:port"."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=timeout) as r:
        return parse(r.read().decode())


def total(samples, name):
    """The sum over all label values of one metric; 0 if there is none."""
    return sum(v for k, v in samples.items() if k == name or k.startswith(name + "{"))
