"""The checker itself: what it must find, it finds."""
import array

import pytest

import checker
from clients import Binding
from publisher import KEYS, key_index


def judged(got, gaps=(), expected=range(10), published=10):
    b = Binding("#")
    b.got, b.gaps = array.array("I", got), list(gaps)
    v = checker.Verdict("x")
    checker.judge_binding(v, "s", b, list(expected), published)
    return [n for _, n in v.lost], [n for _, n in v.duplicated], [d[1] for d in v.disorder], [n for _, n in v.unexpected], \
        [n for _, n in v.again]


ALL = list(range(10))


@pytest.mark.subset
@pytest.mark.parametrize("got, gaps, found", [
    (ALL, [], ([], [], [], [], [])),
    ([0, 1, 2, 4, 5, 6, 7, 8, 9], [], ([3], [], [], [], [])),
    ([0, 1, 2, 4, 5, 6, 7, 8, 9], [3], ([], [], [], [], [])),
    ([0, 1, 2, 4, 5, 6, 7, 8, 9], [4], ([3], [], [], [], [])),
    ([0, 1, 2], [3], ([], [], [], [], [])),
    ([0, 1, 2], [], ([3, 4, 5, 6, 7, 8, 9], [], [], [], [])),
    (ALL[:5] + [4] + ALL[5:], [], ([], [4], [], [], [])),
    (ALL[:5] + [4] + ALL[5:], [5], ([], [], [], [], [4])),
    ([0, 2, 1] + ALL[3:], [], ([], [], [1], [], [])),
    (ALL + [10], [], ([], [], [], [10], [])),
])
def test_the_checker_finds(got, gaps, found):
    assert judged(got, gaps) == found


@pytest.mark.subset
def test_expected_follows_the_keys():
    numbers = [n for n in range(1000) if n % 3]
    e = checker.Expected(numbers)
    assert e.of(frozenset(range(KEYS))) == numbers
    assert e.of(frozenset([5])) == [n for n in numbers if key_index(n) == 5]
