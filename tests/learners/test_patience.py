"""How often is too often."""

from learners.patience import DECLINES_MS, MAX_DECLINES, MAX_HELD, Patience


def times_until_back(patience: Patience, first: int) -> int:
    """How many versions from this one on are held before it is gone back."""
    version = first
    while not patience.hold(version):
        assert not patience.hold(version)  # the same one again does not count
        version += 1
    patience.go_back(version + 1)
    return version + 1 - first


def test_each_time_in_a_row_takes_twice_as_many_up_to_a_limit() -> None:
    patience, took = Patience(3), []
    for first in range(0, 10_000, 1000):
        took.append(times_until_back(patience, first))
    assert took[:4] == [3, 6, 12, 24] and took[-1] == MAX_HELD


def test_what_was_gone_back_to_passes_and_proves_nothing_but_one_after_it_does() -> None:
    patience = Patience(2)
    assert times_until_back(patience, 10) == 2
    patience.let_pass(12)
    assert times_until_back(patience, 20) == 4
    patience.let_pass(25)
    assert times_until_back(patience, 30) == 2


def test_one_that_passes_in_between_begins_the_row_anew() -> None:
    patience = Patience(2)
    for version in (1, 3, 5):
        assert not patience.hold(version)
        patience.let_pass(version + 1)


def test_too_many_declines_are_those_of_an_hour() -> None:
    patience = Patience(2)
    assert [patience.decline(n * DECLINES_MS // 2) for n in range(MAX_DECLINES)] == [False, False, True]
    rare = Patience(2)
    assert not any(rare.decline(n * DECLINES_MS) for n in range(10))
