"""AMQP topic patterns as tests expect them: written for clarity, by dynamic programming over the words."""


def matches(pattern, key):
    """Does a topic binding `pattern` take the routing key? Words split by "."; "*" one word, "#" zero or more."""
    wanted, words = pattern.split(".") if pattern else [], key.split(".") if key else []
    reachable = {0}  # numbers of words of the key that the pattern so far can have taken
    for part in wanted:
        if part == "#":
            reachable = set(range(min(reachable), len(words) + 1)) if reachable else reachable
        elif part == "*":
            reachable = {n + 1 for n in reachable if n < len(words)}
        else:
            reachable = {n + 1 for n in reachable if n < len(words) and words[n] == part}
    return len(words) in reachable
