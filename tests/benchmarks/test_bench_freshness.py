"""What the freshness benchmark counts as the time from an acknowledgement to weights that know the event."""

import math

from benchmarks.bench_freshness import Seen, delays_s


def seen(acks: list[tuple[float, int]], answers: list[tuple[float, int]]) -> Seen:
    return Seen(
        acks=[(at_s, log_ms, 0.0) for at_s, log_ms in acks],
        answers=[(at_s, through_ms, 1, 0.0) for at_s, through_ms in answers],
    )


def test_the_first_answer_beyond_the_post_counts():
    assert delays_s(seen([(1.0, 100)], [(1.1, 90), (1.5, 101), (1.9, 200)]), 0.0) == [0.5]


def test_trained_exactly_up_to_the_post_is_not_enough():
    assert delays_s(seen([(1.0, 100)], [(1.1, 100)]), 0.0) == [math.inf]


def test_posts_of_the_warm_up_are_no_samples():
    assert delays_s(seen([(1.0, 100), (3.0, 300)], [(3.25, 301)]), 2.0) == [0.25]


def test_one_answer_may_answer_for_many_posts():
    assert delays_s(seen([(1.0, 100), (2.0, 200)], [(2.5, 201)]), 0.0) == [1.5, 0.5]
