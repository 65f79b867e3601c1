"""shared/topic gives the answers of a real RabbitMQ topic exchange.

One queue per pattern, one message per routing key; what each queue received is what RabbitMQ's topic exchange matched.
The same pairs go to build/*/tools/topic_pairs, which asks topic_match. The pairs are random, with a fixed seed,
and made so that a good part of them match.
"""
import random
import subprocess

import pytest

from support.fleet import bin_dir

WORDS = ["a", "b", "", "ab", "*x", "p*", "x#", "\u00e9"]


def random_pattern(rng, words_max, hashes_max):
    words, hashes = [], 0
    for _ in range(rng.randint(0, words_max)):
        kind = rng.random()
        if kind < 0.25 and hashes < hashes_max:
            hashes += 1
            words.append("#")
        elif kind < 0.5:
            words.append("*")
        else:
            words.append(rng.choice(WORDS))
    return ".".join(words)


def random_key(rng, words_max):
    # A key may hold the words "*" and "#" too; there they are literal.
    return ".".join(rng.choice(WORDS + ["*", "#"]) for _ in range(rng.randint(0, words_max)))


def derived_key(rng, pattern):
    """A key near the pattern: its wildcards filled in, sometimes with a mistake."""
    words = []
    for word in pattern.split(".") if pattern else []:
        if word == "#":
            words += [rng.choice(WORDS) for _ in range(rng.randint(0, 3))]
        else:
            words.append(rng.choice(WORDS) if word == "*" else word)
    if words and rng.random() < 0.3:
        words[rng.randrange(len(words))] = rng.choice(WORDS)
    return ".".join(words)


def short_pairs(rng):
    patterns = {random_pattern(rng, 6, 4) for _ in range(190)}
    patterns |= {"", ".", "#", "*", "#.#", "#.*", "*.#", "#.*.#", "a.#.b", "#.a.#.b.#", "..", "*.*", "#.", ".#", "p*"}
    ordered = sorted(patterns)
    keys = {random_key(rng, 6) for _ in range(100)} | {derived_key(rng, rng.choice(ordered)) for _ in range(100)}
    return ordered, sorted(keys | {"", ".", "..", "a", "a.b", "#", "*", "*.#"})


def long_pairs(rng):
    """Texts of up to 255 bytes. RabbitMQ's own matching is exponential in the number of "#", so there are few here."""
    word = "w" * 255
    dots = "." * 255
    many = ".".join(["a"] * 128)
    half = ".".join(["a"] * 64) + "." + "b" * 127
    keys = [word, word[:-1] + "v", dots, dots[:-1], many, many[:-1] + "b", half, "a." + "c" * 253]
    patterns = [word, dots, many, half, "#." + "b" * 127, "a.#." + many[:200].rstrip("."), "*.*." + many[4:],
                ".".join(["*"] * 128), ".".join(["*"] * 127), ".#", "#.", "#.a", "a.#.a", "a.#.b", "*", "*." + "c" * 253,
                dots[:127] + "#" + dots[:127], "#." + many[:253], many[:253] + ".#"]
    for i in range(30):
        key = [rng.choice("ab") for _ in range(rng.randint(60, 127))]
        keys.append(".".join(key))
        # Patterns made of a key, so that they match it and perhaps others: "#", "*" and words.
        tail = rng.randint(0, 3 if i % 2 else len(key))
        words = [w if rng.random() < 0.5 else "*" for w in key[len(key) - tail:]]
        patterns.append(".".join(rng.choice([["#"], ["a", "#"], ["*", "#", "b", "#"]]) + words))
    patterns = sorted({p for p in patterns if len(p.encode()) <= 255})
    keys = sorted({k for k in keys if len(k.encode()) <= 255})
    assert max(len(p) for p in patterns) == 255 and max(len(k) for k in keys) == 255
    return patterns, keys


def ask_rabbitmq(rabbit, patterns, keys):
    """{(pattern, key)} of those that match."""
    matched = set()
    connection = rabbit.connect()
    try:
        channel = connection.channel()
        channel.exchange_declare("topic-pairs", "topic", auto_delete=True)
        queues = []
        for pattern in patterns:
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, "topic-pairs", pattern)
            queues.append(queue)
        channel.confirm_delivery()
        for i, key in enumerate(keys):
            channel.basic_publish("topic-pairs", key, str(i).encode())
        # Every message is confirmed, so it is counted in the queues that it went to.
        expected = sum(channel.queue_declare(q, passive=True).method.message_count for q in queues)
        received = 0

        def receive(pattern):
            def callback(_channel, method, _properties, body):
                nonlocal received
                received += 1
                key = keys[int(body)]
                assert method.routing_key == key
                matched.add((pattern, key))
            return callback
        for pattern, queue in zip(patterns, queues):
            channel.basic_consume(queue, receive(pattern), auto_ack=True)
        while received < expected:
            connection.process_data_events(time_limit=10)
        assert received == len(matched) == expected
    finally:
        connection.close()
    return matched


def ask_us(pairs):
    def as_hex(text):
        return text.encode().hex() or "-"
    done = subprocess.run([bin_dir().parent / "tools" / "topic_pairs"], check=True, timeout=60, stdout=subprocess.PIPE,
                          input="".join(f"{as_hex(p)} {as_hex(k)}\n" for p, k in pairs), text=True)
    answers = done.stdout.split()
    assert len(answers) == len(pairs)
    return {pair for pair, answer in zip(pairs, answers) if answer == "1"}


@pytest.mark.parametrize("make, at_least", [(short_pairs, 20000), (long_pairs, 1500)])
def test_topic_match_equals_a_real_topic_exchange(rabbit, make, at_least):
    patterns, keys = make(random.Random(20161))
    pairs = [(p, k) for p in patterns for k in keys]
    assert len(pairs) >= at_least
    theirs = ask_rabbitmq(rabbit, patterns, keys)
    ours = ask_us(pairs)
    assert sorted(ours ^ theirs) == []
    # Both answers occur often enough to mean something.
    assert len(pairs) * 0.04 < len(theirs) < len(pairs) * 0.95
