"""Sequential rules: who acted on this went on to that.

Every event adds, for each of the events before it in its session, 1 / distance to the rule from that item to this one.
A candidate's score is the decayed weight of the rules that lead to it from the session's last item, or from its last
ten, each again by 1 / distance. What no rule leads to is ordered by its decayed popularity.

Source: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018 (SR), made to forget.
"""

from typing import Any, Final

import numpy as np
from numba import njit

from benchmarks.rankers.pairs import Pairs, add_counts, add_pair, pairs
from benchmarks.rankers.popularity import popularity_scores
from benchmarks.rankers.stream import F64, Stream

STEPS: Final = 10  # events of a session that a rule may span, as in the source
POPULARITY_WEIGHT: Final = 1e-6  # a rule as faint as this tells no more than popularity


def rule_scores(stream: Stream, half_life_s: float, n_asked: int = 1) -> F64:
    """Weight [Q, K] of the rules that lead to each candidate.

    Args:
        half_life_s: Of rules and of popularity.
        n_asked: From how many of the session's last items.
    """
    weight_QK = _through(
        pairs(STEPS * stream.n_events, [half_life_s]), stream.ts_ms_E, stream.session_E, stream.item_E,
        stream.asked_ms_Q, stream.until_Q, stream.visit_Q, stream.candidates_QK, stream.n_sessions, n_asked,
    )  # fmt: skip
    return weight_QK + POPULARITY_WEIGHT * popularity_scores(stream, half_life_s)


@njit(cache=True)
def _through(
    known: Pairs, ts_ms_E: Any, session_E: Any, item_E: Any, asked_ms_Q: Any, until_Q: Any, visit_Q: Any,
    candidates_QK: Any, n_sessions: int, n_asked: int,
) -> Any:  # fmt: skip
    last_S = np.full(n_sessions, -1)
    before_E = np.full(len(item_E), -1)  # the event before in the same session
    found_QK1 = np.zeros((*candidates_QK.shape, 1))
    at = 0
    for q in range(len(until_Q)):
        for e in range(at, until_Q[q]):
            before_E[e] = last_S[session_E[e]]
            last_S[session_E[e]] = e
            before = before_E[e]
            for step in range(STEPS):
                if before < 0:
                    break
                if item_E[before] != item_E[e]:
                    add_pair(known, item_E[before], item_E[e], ts_ms_E[e], 1.0 / (step + 1))
                before = before_E[before]
        at = max(at, until_Q[q])
        before = last_S[visit_Q[q]]
        for step in range(n_asked):
            if before < 0:
                break
            for k in range(candidates_QK.shape[1]):
                item = candidates_QK[q, k]
                add_counts(known, item_E[before], item, asked_ms_Q[q], 1.0 / (step + 1), found_QK1[q, k])
            before = before_E[before]
    return found_QK1[:, :, 0]
