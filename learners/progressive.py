"""Progressive validation: every example is scored before it is learned from, so each is a test exactly once.

Three numbers, each for the model and for the popularity prior on the same slates: log loss, AUC (the chance that the
positive is above a negative, ties count half) and MRR@10. They are kept as means that forget exponentially over the
newest ~5,000 examples, and as means over all of them. For impressions the rate of reward, as predicted and as it came:
a calibrated model predicts on the average what comes.

Legend: B requests, K candidates; the positive is candidate 0.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from learners.metrics import areas, log_losses, reciprocal_ranks

F32 = NDArray[np.float32]
WINDOW: Final = 5000.0  # examples; standard error of a mean AUC about 0.003
IMPRESSIONS: Final = 100_000.0  # rewards are rare: of these, a percent makes a thousand
NAMES: Final = ("logloss", "auc", "mrr")
SOURCES: Final = ("", "popularity_")


def slate_metrics(scores_BK: F32, mask_BK: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log loss, AUC and MRR@10 of each request: [B, 3]."""
    scores = np.where(mask_BK, scores_BK.astype(np.float64), -np.inf)
    positive = np.zeros(len(scores), np.int64)
    return np.stack([measure(scores, positive) for measure in (log_losses, areas, reciprocal_ranks)], axis=1)


class Progressive:
    """`add` a batch; read `metrics`. The whole state is `state`, a list of floats."""

    def __init__(self) -> None:
        n = len(NAMES) * len(SOURCES)
        self._recent = np.zeros(n + 1)
        self._total = np.zeros(n + 1)
        self._impressions = np.zeros(3)  # number, predicted rewards, rewards

    def add(self, scores_BK: F32, popularity_BK: F32, mask_BK: NDArray[np.bool_]) -> float:
        """Take in a batch's scores from before it was learned from.

        Returns:
            By how much their mean log loss is above popularity's; a batch that is hard for both is nothing new.
        """
        rows = np.concatenate([slate_metrics(scores_BK, mask_BK), slate_metrics(popularity_BK, mask_BK)], axis=1)
        rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        keep = 1 - 1 / WINDOW
        powers = keep ** np.arange(len(rows) - 1, -1, -1)
        self._recent = self._recent * keep ** len(rows) + powers @ rows
        self._total += rows.sum(axis=0)
        return float((rows[:, 0] - rows[:, len(NAMES)]).mean())

    def add_impressions(self, n: int, predicted: float, rewards: float) -> None:
        """Take in impressions, the sum of their predicted rates from before they were learned from, and rewards."""
        self._impressions = self._impressions * (1 - 1 / IMPRESSIONS) ** n + np.array([n, predicted, rewards])

    def metrics(self) -> dict[str, float]:
        """Means by name: `auc`, `popularity_auc`, …, over the newest examples, and `total_…` over all."""
        found: dict[str, float] = {}
        for prefix, sums in (("", self._recent), ("total_", self._total)):
            means = sums[:-1] / max(sums[-1], 1e-9)
            names = [f"{prefix}{source}{name}" for source in SOURCES for name in NAMES]
            found.update(zip(names, means.tolist(), strict=True))
        n, predicted, rewards = self._impressions.tolist()
        return {**found, "predicted_reward_rate": predicted / max(n, 1.0), "reward_rate": rewards / max(n, 1.0)}

    @property
    def state(self) -> list[float]:
        """All there is to know, exactly."""
        return [*self._recent.tolist(), *self._total.tolist(), *self._impressions.tolist()]

    @state.setter
    def state(self, values: list[float]) -> None:
        n = len(self._recent)
        self._recent, self._total = np.array(values[:n]), np.array(values[n : 2 * n])
        self._impressions = np.array(values[2 * n :])
