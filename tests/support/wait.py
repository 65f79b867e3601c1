"""Waiting for a condition, never for a time."""
import time


class Timeout(AssertionError):
    pass


def wait_for(condition, timeout=10.0, what="the condition", interval=0.02):
    """Call condition() until it returns something true, and return that. Errors count as "not yet"
    and are shown if time runs out."""
    deadline = time.monotonic() + timeout
    error = None
    while True:
        try:
            value = condition()
            error = None
            if value:
                return value
        except Timeout:
            raise
        except Exception as e:  # not yet there: the server may still be starting
            value, error = None, e
        if time.monotonic() >= deadline:
            tail = f": {error!r}" if error else f" (last value {value!r})"
            raise Timeout(f"waited {timeout:g} s for {what}{tail}")
        time.sleep(interval)
