"""River: logistic regression, one update an example, on the features of `slates`.

The pipeline of River's own introduction: a running standard scaler, then the regression. At its natural speed, which is
Python's: so each event is learned with three negatives only. A query's scores are logits.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks.rankers.slates import Slates, feature_names
from benchmarks.rankers.stream import F64, Stream

N_NEGATIVES: Final = 3
LEARNING_RATE: Final = 0.1
LEAST: Final = 1e-12  # a probability of 0 or 1 in float64 has no logit

Progress = Callable[[int], None]


def logistic_scores(stream: Stream, on_progress: Progress, seed: int = 1) -> F64:
    """Logits [Q, K] of each query's candidates.

    Args:
        on_progress: Called with the number of events done.
    """
    from river import linear_model, optim, preprocessing  # noqa: PLC0415  optional

    names = feature_names(stream)
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.AdaGrad(LEARNING_RATE))
    found_QK = np.zeros(stream.candidates_QK.shape)
    for step in Slates(stream, N_NEGATIVES, np.random.default_rng(seed)).steps():
        for slate in step.slates_ENF.tolist():
            for slot, values in enumerate(slate):
                model.learn_one(dict(zip(names, values, strict=True)), slot == 0)
        for k, values in enumerate(step.query_KF.tolist()):
            found_QK[step.query, k] = _logit(model.predict_proba_one(dict(zip(names, values, strict=True))))
        on_progress(step.n_events)
    return found_QK


def _logit(probabilities: Any) -> float:
    probability = min(max(probabilities[True], LEAST), 1.0 - LEAST)
    return float(np.log(probability / (1.0 - probability)))
