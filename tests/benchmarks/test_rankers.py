"""What each rival answers, worked out by hand; and that none of them reads the future."""

from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.rankers.neighbours import POPULARITY_WEIGHT, neighbour_scores
from benchmarks.rankers.pairs import add_counts, add_pair, pairs
from benchmarks.rankers.popularity import popularity_scores
from benchmarks.rankers.rivals import RIVALS
from benchmarks.rankers.rules import rule_scores
from benchmarks.rankers.slates import Slates, feature_names
from benchmarks.rankers.stream import Stream, as_stream
from benchmarks.rankers.wabbit import Lines
from tests.benchmarks.streams import DATA, asks, clicks, habit, tiny

TINY = POPULARITY_WEIGHT * 10  # what popularity may add in a stream of a few clicks


def test_popularity_knows_what_came_strictly_before_and_forgets_by_half() -> None:
    events = clicks((0, "s", "a"), (0, "s", "a"), (60_000, "s", "b"), (120_000, "s", "c"))
    stream = tiny(events, (60_000, "t", ["a", "b"]), (120_000, "t", ["a", "b"]))
    np.testing.assert_allclose(popularity_scores(stream, 60.0), [[2 / 2, 0.0], [2 / 4, 1 / 2]])
    np.testing.assert_allclose(popularity_scores(stream, np.inf), [[2.0, 0.0], [2.0, 1.0]])


def test_a_rule_weighs_by_distance_and_fades() -> None:
    events = clicks((0, "s", "a"), (0, "s", "b"), (60_000, "t", "a"), (60_000, "t", "c"), (60_000, "t", "b"))
    asked = ["b", "c", "d"]
    stream = tiny(clicks((0, "x", "a"), *_rows(events)), (60_001, "x", asked))
    np.testing.assert_allclose(rule_scores(stream, np.inf), [[1 + 1 / 2, 1, 0]], atol=TINY)
    np.testing.assert_allclose(rule_scores(stream, 60.0), [[1 / 2 + 1 / 2, 1, 0]], rtol=1e-4, atol=TINY)


def test_rules_of_earlier_items_count_by_distance_when_asked() -> None:
    events = clicks((0, "s", "a"), (1, "s", "d"), (2, "t", "b"), (3, "t", "c"), (4, "x", "a"), (5, "x", "b"))
    stream = tiny(events, (9, "x", ["c", "d"]))
    np.testing.assert_allclose(rule_scores(stream, np.inf, n_asked=1), [[1, 0]], atol=TINY)
    np.testing.assert_allclose(rule_scores(stream, np.inf, n_asked=10), [[1, 1 / 2]], atol=TINY)


NEIGHBOURS = clicks(
    (0, "1", "a"), (1, "1", "b"), (2, "2", "a"), (3, "2", "c"), (4, "3", "c"), (5, "3", "d"), (6, "x", "a"),
    (7, "x", "c"),
)  # fmt: skip


def test_a_neighbour_is_as_near_as_what_it_shares() -> None:
    """Of x's items c weighs 1, a 1/2: session 1 is near by 1/2, session 2 by 3/2, session 3 by 1."""
    stream = tiny(NEIGHBOURS, (9, "x", ["b", "c", "d", "z"]))
    np.testing.assert_allclose(neighbour_scores(stream, 100, 100), [[1 / 2, 3 / 2 + 1, 1, 0]], atol=TINY)


def test_only_the_nearest_and_the_latest_neighbours_count() -> None:
    stream = tiny(NEIGHBOURS, (9, "x", ["b", "c", "d"]))
    np.testing.assert_allclose(neighbour_scores(stream, 100, 1), [[0, 3 / 2, 0]], atol=TINY)
    np.testing.assert_allclose(neighbour_scores(stream, 2, 100), [[0, 1 + 1 / 2, 1]], atol=TINY)


def test_counts_of_a_pair_fade_by_their_half_lives() -> None:
    known, found = pairs(4, [1.0, np.inf]), np.zeros(2)
    add_pair(known, 1, 2, 0, 1.0)
    add_pair(known, 1, 2, 1000, 1.0)
    add_counts(known, 1, 2, 2000, 10.0, found)
    np.testing.assert_allclose(found, [10 * (1 / 2 + 1) / 2, 20])
    add_counts(known, 2, 1, 2000, 1.0, found)
    assert found[1] == 20


def test_an_event_is_described_by_what_came_strictly_before_its_instant() -> None:
    events = clicks((0, "s", "a"), (60_000, "s", "b"), (60_000, "s", "c"), (120_000, "s", "a"))
    stream = tiny(events, (120_001, "s", ["a", "b", "c", "z"]))
    (step,) = Slates(stream, 0, np.random.default_rng(0)).steps()
    column = feature_names(stream).index
    totals = step.slates_ENF[:, 0, column("total")]
    np.testing.assert_allclose(totals, np.log2([1, 1, 2]))
    assert step.slates_ENF[2, 0, column("since_last")] == pytest.approx(np.log2(121))
    np.testing.assert_allclose(
        step.query_KF[:, column("count_120s")], np.log2([2.5, 1 + 2**-0.5, 1 + 2**-0.5, 1]), rtol=1e-3
    )


def test_a_candidate_is_described_by_what_the_session_did() -> None:
    """s went a, b, c: what followed its last item in t, what followed the one before, and what it has seen."""
    events = clicks((0, "t", "b"), (1, "t", "c"), (2, "t", "d"), (3, "s", "a"), (4, "s", "b"), (5, "s", "c"))
    stream = tiny(events, (9, "s", ["d", "b"]))
    *_, step = Slates(stream, 0, np.random.default_rng(0)).steps()
    found = dict(zip(feature_names(stream), step.query_KF.T.tolist(), strict=True))
    assert found["after_last_infs"] == pytest.approx([1.0, 0.0])
    assert found["after_rest_infs"] == pytest.approx([1.0, 1.0])
    assert found["share_of_last_infs"] == pytest.approx([np.log2(1 + 1000 / 2), 0.0])
    assert found["before_last"] == pytest.approx([0.0, np.log2(3)])
    assert found["seen"] == [0.0, 1.0]


def test_the_context_of_an_example_is_that_of_the_event_before() -> None:
    """The first event of a session is no example: no query is asked before it."""
    events = clicks((0, "s", "a"), (1, "s", "b"), (2, "s", "c"), referrer=["r0", "r1", "r2"])
    (step,) = Slates(tiny(events, (9, "s", ["a"])), 0, np.random.default_rng(0)).steps()
    assert step.contexts_EC[:, 0].tolist() == [0, 1] and step.n_events == 3
    assert step.context_C.tolist() == [2]


def test_negatives_are_other_items_in_the_proportions_of_events() -> None:
    """Half of the events have an item of the last hour in them, half one that nobody has acted on."""
    rng = np.random.default_rng(0)
    rows = [(1000 * n, "s", f"i{n // 2}") for n in range(3000)]
    stream = tiny(clicks(*rows), (1000 * 3000, "x", ["i0"]))
    (*_, step) = Slates(stream, 5, rng).steps()
    late = step.slates_ENF[-1000:, 1:, feature_names(stream).index("total")]
    assert (late == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_lines_are_vowpal_wabbits() -> None:
    lines = Lines(np.frombuffer(b"ccp", np.uint8))
    slates, contexts = np.array([[[1.0, 0.0, 12.345], [0.0, 0.07, 0.0]]], np.float32), np.array([[3, -1]], np.int32)
    assert lines.of(slates, contexts, is_labelled=True) == [
        "1  |c 0:1.00 |p 2:12.35 |x 1004 2000",
        "-1  |c 1:0.07 |p |x 1004 2000",
    ]
    assert lines.of(slates[:, :1], contexts, is_labelled=False) == [" |c 0:1.00 |p 2:12.35 |x 1004 2000"]


@pytest.mark.parametrize("name", ["vw", "river"])
def test_what_always_follows_is_learned(name: str) -> None:
    if RIVALS[name].absence:
        pytest.skip(RIVALS[name].absence)
    visits = clicks(*((8_000_000 - 9 + n, f"x{n}", "abcd"[n]) for n in range(4)))
    queries = asks(*((8_000_000, f"x{n}", ["A", "B", "C", "D"]) for n in range(4)))
    stream = as_stream(pa.concat_tables([habit(400), visits]), queries)
    (rank,) = RIVALS[name].settings.values()
    done: list[int] = []
    assert rank(stream, done.append).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert done[-1] == stream.n_events


@pytest.mark.parametrize("name", RIVALS)
def test_no_rival_reads_the_future(name: str) -> None:
    """Neither what comes after a query nor what happens at its very instant."""
    if RIVALS[name].absence:
        pytest.skip(RIVALS[name].absence)
    rows = _rows(habit(60))
    now_ms = rows[81][0]
    query = (now_ms, rows[81][1], ["a", "A", "b", "B", "z"])
    changed = rows[:81] + [(ts_ms, session, "zbB"[n % 3]) for n, (ts_ms, session, _) in enumerate(rows[81:])]
    rank = next(iter(RIVALS[name].settings.values()))
    before, after = (rank(tiny(clicks(*some), query), lambda _: None) for some in (rows, changed))
    np.testing.assert_array_equal(before, after)
    past = [(ts_ms, session, "z") for ts_ms, session, _ in rows[:81]]
    assert not np.array_equal(before, rank(tiny(clicks(*past, *rows[81:]), query), lambda _: None))


def test_a_stream_numbers_what_it_holds() -> None:
    events = clicks((0, "s", "a"), (5, "s", "b"), (5, "t", "a"), region=["x", None, "x"])
    stream = tiny(events, (5, "t", ["b", "z"]), (6, "u", ["a", "b"]))
    assert stream.until_Q.tolist() == [1, 3]
    assert stream.candidates_QK.tolist() == [[1, 2], [0, 1]]
    assert (stream.n_items, stream.n_users, stream.n_sessions) == (3, 3, 3)
    assert stream.context_EC.tolist() == [[0], [1], [0]] and stream.n_values_C.tolist() == [2]
    assert stream.ages_ms(np.array([1, 1], np.int32)).tolist() == [-1, 1]


def test_slates_of_several_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected slates of one length"):
        tiny(clicks((0, "s", "a")), (1, "s", ["a"]), (2, "s", ["a", "b"]))


@pytest.mark.parametrize("name", ["globo_dev", "ml100k"])
def test_ages_are_those_of_the_data_sets(name: str) -> None:
    if not (DATA / f"{name}_events.parquet").exists():
        pytest.skip(f"{name} is not there")
    events, queries = (pq.read_table(DATA / f"{name}_{what}.parquet") for what in ("events", "queries"))
    stream: Stream = as_stream(events, queries)
    column = (np.stack(queries["candidates"].to_numpy()) == queries["item"].to_numpy()[:, None]).argmax(axis=1)
    found = stream.ages_ms(stream.candidates_QK[np.arange(len(column)), column])
    np.testing.assert_array_equal(found, queries["age_ms"].to_numpy())


def test_every_rival_says_what_it_needs() -> None:
    for rival in RIVALS.values():
        assert bool(rival.absence) == bool(rival.package and not find_spec(rival.package))


def _rows(events: pa.Table) -> list[tuple[int, str, str]]:
    return [(row["ts_ms"], row["user"], row["item"]) for row in events.to_pylist()]
