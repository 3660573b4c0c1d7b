"""Session neighbours: what was acted on in the latest sessions that are like this one (V-SkNN, streaming).

An item of the session weighs by its place, the last one 1, the one before (n - 1) / n, and so on. A session is as near
as the weights of the items that it shares; only the latest events of each item are looked at. A candidate's score is
the sum of the nearness of the sessions that hold it; what none holds is ordered by its decayed popularity. The whole
index is two chains through the events: to the event before in the same session, and to that of the same item.

Source: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018 (V-SkNN).
"""

from typing import Any, Final

import numpy as np
from numba import njit

from benchmarks.rankers.popularity import popularity_scores
from benchmarks.rankers.stream import F64, Stream

N_OWN: Final = 10  # last events of the session that are looked at
N_HELD: Final = 20  # last events of a neighbour that are counted
HALF_LIFE_S: Final = 1800.0  # of the popularity that orders the rest
POPULARITY_WEIGHT: Final = 1e-6  # less than any neighbour's nearness


def neighbour_scores(stream: Stream, n_latest: int, n_nearest: int) -> F64:
    """Summed nearness [Q, K] of the sessions that hold each candidate.

    Args:
        n_latest: Events of each of the session's items, latest first, whose sessions are looked at.
        n_nearest: Sessions that count, the nearest; of equally near ones those found first, which are later.
    """
    nearness_QK = _through(
        stream.session_E, stream.item_E, stream.until_Q, stream.visit_Q, stream.candidates_QK, stream.n_sessions,
        stream.n_items, n_latest, n_nearest,
    )  # fmt: skip
    return nearness_QK + POPULARITY_WEIGHT * popularity_scores(stream, HALF_LIFE_S)


@njit(cache=True)
def _through(
    session_E: Any, item_E: Any, until_Q: Any, visit_Q: Any, candidates_QK: Any, n_sessions: int, n_items: int,
    n_latest: int, n_nearest: int,
) -> Any:  # fmt: skip
    last_S, last_I = np.full(n_sessions, -1), np.full(n_items, -1)
    before_E, same_E = np.full(len(item_E), -1), np.full(len(item_E), -1)
    nearness_S, score_I = np.zeros(n_sessions), np.zeros(n_items)
    touched = np.zeros(N_OWN * n_latest, np.int64)
    found_QK = np.zeros(candidates_QK.shape)
    at = 0
    for q in range(len(until_Q)):
        for e in range(at, until_Q[q]):
            before_E[e], same_E[e] = last_S[session_E[e]], last_I[item_E[e]]
            last_S[session_E[e]] = last_I[item_E[e]] = e
        at = max(at, until_Q[q])
        n_touched = _near(
            visit_Q[q], session_E, item_E, before_E, same_E, last_S, last_I, nearness_S, touched, n_latest
        )
        order = np.argsort(-nearness_S[touched[:n_touched]], kind="mergesort")
        score_I[:] = 0.0
        for n in range(min(n_nearest, n_touched)):
            session = touched[order[n]]
            held = last_S[session]
            for _ in range(N_HELD):
                if held < 0:
                    break
                score_I[item_E[held]] += nearness_S[session]
                held = before_E[held]
        for n in range(n_touched):
            nearness_S[touched[n]] = 0.0
        for k in range(candidates_QK.shape[1]):
            found_QK[q, k] = score_I[candidates_QK[q, k]]
    return found_QK


@njit(cache=True)
def _near(
    visit: int, session_E: Any, item_E: Any, before_E: Any, same_E: Any, last_S: Any, last_I: Any, nearness_S: Any,
    touched: Any, n_latest: int,
) -> int:  # fmt: skip
    """Add up the nearness of sessions; returns how many were touched. Whose own items they are is left out."""
    n_own = 0
    own = last_S[visit]
    while own >= 0 and n_own < N_OWN:
        n_own += 1
        own = before_E[own]
    n_touched = 0
    own = last_S[visit]
    for step in range(n_own):
        same = last_I[item_E[own]]
        for _ in range(n_latest):
            if same < 0:
                break
            session = session_E[same]
            if session != visit:
                if nearness_S[session] == 0.0:
                    touched[n_touched] = session
                    n_touched += 1
                nearness_S[session] += (n_own - step) / n_own
            same = same_E[same]
        own = before_E[own]
    return n_touched
