"""Vowpal Wabbit: logistic regression with crosses, one update an example, on the features of `slates`.

Features go in as numbers, the context as names. Crosses multiply namespaces: popularity with itself, everything with
co-occurrence. A query's scores are logits, so the softmax of a slate is what the model says about it. No better, on
Globo's first half million events: features as bins, alone or beside the numbers; more crosses; five or nineteen
negatives; other rates, a constant one, `--coin`.

Text is what its Python package takes fastest, and is written by a compiled loop: the figures are of the learner, not of
Python's string formatting.

Legend: E events, N slots of an example, F features, C context columns, K candidates.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit

from benchmarks.rankers.slates import Slates, feature_names
from benchmarks.rankers.stream import F64, Stream

N_NEGATIVES: Final = 9
ARGUMENTS: Final = "--loss_function logistic -b 20 -q cc -q cp -q pp -q ap -q sp -q px --quiet"
NAMESPACES: Final = {"count": "c", "total": "c", "age": "a", "since": "a", "split": "s"}  # the rest: p, pairs
N_VALUES: Final = 1000  # of a context column, at most: names of one do not run into the next one's
MAX_BYTES: Final = 10  # of a number, a namespace, a label

Progress = Callable[[int], None]


def wabbit_scores(stream: Stream, on_progress: Progress, seed: int = 1) -> F64:
    """Logits [Q, K] of each query's candidates.

    Args:
        on_progress: Called with the number of events done.
    """
    import vowpalwabbit  # noqa: PLC0415  optional

    namespaces = [NAMESPACES.get(name.partition("_")[0], "p") for name in feature_names(stream)]
    lines = Lines(np.array([ord(namespace) for namespace in namespaces], dtype=np.uint8))
    found_QK = np.zeros(stream.candidates_QK.shape)
    learner = vowpalwabbit.Workspace(ARGUMENTS)
    for step in Slates(stream, N_NEGATIVES, np.random.default_rng(seed)).steps():
        for line in lines.of(step.slates_ENF, step.contexts_EC, is_labelled=True):
            learner.learn(line)
        if step.query >= 0:
            asked = lines.of(step.query_KF[None], step.context_C[None], is_labelled=False)
            found_QK[step.query] = [learner.predict(line) for line in asked]
        on_progress(step.n_events)
    learner.finish()
    return found_QK


class Lines:
    """Writes examples as Vowpal Wabbit's text.

    Args:
        namespace_F: Letter of each feature's namespace; those of one namespace stand side by side.
    """

    def __init__(self, namespace_F: Any) -> None:
        self._namespace_F = namespace_F

    def of(self, slates_ENF: Any, contexts_EC: Any, *, is_labelled: bool) -> list[str]:
        """A line for each slot of each slate; the first slot of a labelled one is the positive."""
        n_lines = slates_ENF.shape[0] * slates_ENF.shape[1]
        line_bytes = MAX_BYTES * (3 * slates_ENF.shape[2] + contexts_EC.shape[1] + 3)
        text = np.zeros(max(1, n_lines * line_bytes), np.uint8)
        n_bytes = _write(text, self._namespace_F, slates_ENF, contexts_EC, is_labelled)
        return text[:n_bytes].tobytes().decode("ascii").splitlines()


@njit(cache=True)
def _write(text: Any, namespace_F: Any, slates_ENF: Any, contexts_EC: Any, is_labelled: bool) -> int:
    at = 0
    for e in range(slates_ENF.shape[0]):
        for n in range(slates_ENF.shape[1]):
            if is_labelled:
                if n > 0:
                    text[at] = ord("-")
                    at += 1
                text[at], text[at + 1] = ord("1"), ord(" ")
                at += 2
            at = _write_numbers(text, at, namespace_F, slates_ENF[e, n])
            at = _open(text, at, ord("x"))
            for c in range(contexts_EC.shape[1]):
                at = _token(text, at, N_VALUES * (c + 1) + contexts_EC[e, c] + 1)
            text[at] = ord("\n")
            at += 1
    return at


@njit(cache=True)
def _write_numbers(text: Any, at: int, namespace_F: Any, value_F: Any) -> int:
    """Features by number, to two decimals; what is 0 goes without saying."""
    for f in range(len(value_F)):
        if f == 0 or namespace_F[f] != namespace_F[f - 1]:
            at = _open(text, at, namespace_F[f])
        hundredths = round(100.0 * value_F[f])
        if hundredths > 0:
            at = _token(text, at, f)
            text[at] = ord(":")
            at = _digits(text, at + 1, hundredths // 100)
            text[at], text[at + 1] = ord("."), ord("0") + hundredths // 10 % 10
            text[at + 2] = ord("0") + hundredths % 10
            at += 3
    return at


@njit(cache=True)
def _open(text: Any, at: int, namespace: int) -> int:
    text[at], text[at + 1], text[at + 2] = ord(" "), ord("|"), namespace
    return at + 3


@njit(cache=True)
def _token(text: Any, at: int, number: int) -> int:
    text[at] = ord(" ")
    return _digits(text, at + 1, number)


@njit(cache=True)
def _digits(text: Any, at: int, number: int) -> int:
    n_digits = 1
    while 10**n_digits <= number:
        n_digits += 1
    for digit in range(1, n_digits + 1):
        text[at + n_digits - digit] = ord("0") + number % 10
        number //= 10
    return at + n_digits
