"""What progressive validation tells of a batch."""

import math

import numpy as np
import pytest

from learners.progressive import Progressive

MASK = np.array([[True, True, True], [True, True, False]])


def test_a_batch_is_told_by_how_much_its_log_loss_is_above_popularitys() -> None:
    """By hand: log 3 and log 2 for who calls all alike; for popularity log 2 and log(1 + e)."""
    alike = np.zeros((2, 3), dtype=np.float32)
    popularity = np.array([[0.0, math.log(0.5), math.log(0.5)], [0.0, 1.0, 9.0]], dtype=np.float32)
    excess = Progressive().add(alike, popularity, MASK)
    expected = (math.log(3) + math.log(2) - math.log(2) - math.log(1 + math.e)) / 2
    assert excess == pytest.approx(expected, abs=1e-6)


def test_a_batch_that_is_as_hard_for_popularity_is_not_above_it() -> None:
    progressive = Progressive()
    for spread in (0.1, 5.0):
        scores = (spread * np.random.default_rng(1).standard_normal((2, 3))).astype(np.float32)
        assert progressive.add(scores, scores, MASK) == 0.0
