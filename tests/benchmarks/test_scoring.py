"""From several ways' scores to what is reported."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.bench_quality import cut
from benchmarks.scoring import Truth, Way, ages, best_of, judged, periods

HOUR_MS = 3_600_000


def way(name: str, scores: list[list[float]], *, has_probabilities: bool = True) -> Way:
    return Way(name=name, scores_QK=np.array(scores), has_probabilities=has_probabilities)


def truth(n_queries: int) -> Truth:
    return Truth(
        true_Q=np.zeros(n_queries, np.int64),
        people_Q=np.arange(n_queries),
        age_ms_Q=np.array([-1, 0, 2 * HOUR_MS, 30 * HOUR_MS] * n_queries)[:n_queries],
        hours_Q=np.arange(n_queries) / 2,
    )


GOOD = way("good", [[2.0, 0.0]] * 40)
BAD = way("bad", [[0.0, 1.0]] * 40, has_probabilities=False)


def test_ways_are_judged_in_pairs_with_the_first() -> None:
    found = judged([GOOD, BAD], truth(40))
    assert found["metrics"]["good"]["MRR@10"] == (1.0, 1.0, 1.0)
    assert found["metrics"]["bad"]["MRR@10"] == (0.5, 0.5, 0.5)
    assert found["difference"]["bad"]["MRR@10"] == (-0.5, -0.5, -0.5)
    assert found["metrics"]["good"]["log loss"].mean == pytest.approx(np.log(1 + np.exp(-2)))


def test_who_has_no_probabilities_has_neither_log_loss_nor_calibration() -> None:
    found = judged([GOOD, BAD], truth(40))
    assert "log loss" not in found["metrics"]["bad"] and "log loss" not in found["difference"]["bad"]
    assert found["calibration"].keys() == {"good"}


def test_queries_are_split_by_the_age_of_the_true_item() -> None:
    age_ms = np.array([-1, 0, HOUR_MS - 1, HOUR_MS, 24 * HOUR_MS - 1, 24 * HOUR_MS])
    split = {name: np.flatnonzero(where).tolist() for name, where in ages(age_ms).items()}
    assert split == {"cold": [0], "< 1 h": [1, 2], "1-24 h": [3, 4], "> 24 h": [5]}
    assert list(ages(age_ms[1:3])) == ["< 1 h"]
    assert judged([GOOD, BAD], truth(40))["n_by_age"] == {"cold": 10, "< 1 h": 10, "1-24 h": 10, "> 24 h": 10}


@pytest.mark.parametrize(("n_queries", "n_periods"), [(0, 0), (7, 7), (40, 20), (45, 20)])
def test_periods_share_the_queries_out(n_queries: int, n_periods: int) -> None:
    found = periods(n_queries)
    assert len(found) == n_periods
    assert sum(where.sum() for where in found) == n_queries


def test_over_time_has_a_figure_for_each_period() -> None:
    found = judged([way("turns", [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)], truth(40))
    assert [figure.mean for figure in found["over_time"]["turns"]] == [1.0] * 10 + [0.5] * 10
    assert found["hours"][:2] == [0.25, 1.25]


def test_the_best_setting_is_that_of_the_highest_mrr() -> None:
    assert best_of([BAD, GOOD], truth(40).true_Q) is GOOD


def test_queries_are_cut_at_the_time_of_the_last_event() -> None:
    events = pa.table({"ts_ms": [10, 20, 30, 40]})
    queries = pa.table({"ts_ms": [31, 30, 5], "query_id": [3, 2, 1]})
    first, asked = cut(events, queries, 3)
    assert first.num_rows == 3
    assert asked["query_id"].to_pylist() == [1, 2]
