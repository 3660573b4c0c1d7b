"""Do the labels of a source agree with a model? One whose labels say the opposite is told, with the reason.

    slates, scored by a model ──► agreement of each ──► by source ──► says the opposite, and the others do not

The *agreement* of a slate is the share of its pairs (rewarded, not rewarded) that the model orders as the labels do;
ties count half, and chance has .5. A slate without such a pair says nothing.

Each source is bet on: that its agreement is below chance (`learners.duel`). So it does not matter how often one looks,
nor whether it told the truth for long before. An alarm alone proves nothing: it may be the model that is wrong. A
source is told if those that nobody suspects have half of the newest slates, and the model agrees with them beyond
chance. Who names no source is one of them. One source alone, or what is most of the traffic, is never told: nobody can
say who is right. It is then *in doubt*, and does not speak against others until it is forgotten; or the model would
learn from it, and the few who tell the truth would be those that say the opposite.

It keeps at most `N_SOURCES`, those seen most; the others are seen as if they named none. No model, no log, no Ray.

Legend: B slates, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from learners.duel import Duel, DuelConfig
from learners.losses import ListwiseLoss, PointwiseLoss
from learners.parts import Part

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
N_SOURCES: Final = 64
WINDOW: Final = 5000.0  # slates, of all sources, that a mean is taken over
CHANCE: Final = 0.5
SUSPICION: Final = 1e-3  # of the evidence that is an alarm: since then the figures are those of what is told


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementConfig:
    """When the labels of a source count as the opposite."""

    quarantine: bool = True
    """Whether such a source is put in quarantine; False: agreement is only told."""
    sigmas: float = 4.0
    """Standard errors by which the agreement with the others lies above chance, at least."""
    duel: DuelConfig = field(default_factory=DuelConfig)
    """Of half of what agreement is below chance, so that it never has to be cut: with .01, below .48 counts."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.sigmas <= 100.0:
            raise ValueError(f"judge.sources.sigmas: expected 0.0 to 100.0, got {self.sigmas}")


@dataclass(slots=True)
class _Heard:
    """What is known of a source."""

    duel: Duel
    n_slates: int = 0
    recent: F64 = field(default_factory=lambda: np.zeros(3))
    """Of the window: how many slates, the sum of their agreement, and of its square."""
    n_suspected: int = 0
    suspected: float = 0.0
    """Sum of the agreement of so many slates, since there was a suspicion."""
    is_told: bool = False
    is_in_doubt: bool = False

    @property
    def is_suspected(self) -> bool:
        """Whether it cannot speak against others."""
        return self.is_told or self.is_in_doubt or self.duel.evidence >= SUSPICION

    def add(self, values: Sequence[float]) -> bool:
        """Take in the agreement of its slates in a batch; whether the test alarms."""
        value_B = np.array(values)
        self.n_slates += len(values)
        self.recent += len(values), value_B.sum(), (value_B**2).sum()
        self.n_suspected += len(values)
        self.suspected += float(value_B.sum())
        is_alarm = self.duel.add((CHANCE - float(value_B.mean())) / 2.0)
        if self.duel.evidence < SUSPICION:
            self.n_suspected, self.suspected = 0, 0.0
        return is_alarm


class Agreement:
    """`add` slates batch by batch, `take_told` whenever one likes."""

    def __init__(self, config: AgreementConfig) -> None:
        self._config = config
        self._heard: dict[str | None, _Heard] = {None: _Heard(Duel(config.duel))}
        self._told: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of sources kept, beside those that are seen as one."""
        return len(self._heard) - 1

    def add(self, sources: Sequence[str | None], agreement_B: F64) -> None:
        """Take in a batch, scored before anything was learned from it.

        Args:
            sources: [B] who told; None: nobody says.
            agreement_B: 0 to 1; not a number where a slate says nothing.
        """
        said: dict[str | None, list[float]] = {}
        for source, agreement in zip(sources, agreement_B.tolist(), strict=True):
            if np.isfinite(agreement):
                said.setdefault(source, []).append(agreement)
        fading = (1.0 - 1.0 / WINDOW) ** sum(map(len, said.values()))
        for one in self._heard.values():
            one.recent *= fading
        alarmed = [source for source, values in said.items() if self._of(source).add(values)]
        for source in alarmed:
            self._tell(source)

    def take_told(self) -> dict[str, str]:
        """Sources found to say the opposite since the last take, and why; each once, until it is forgotten."""
        told, self._told = self._told, {}
        return told

    def forget(self, source: str) -> None:
        """Judge a source anew, as if it had never been heard of."""
        self._heard.pop(source, None)
        self._told.pop(source, None)

    def figures(self) -> dict[str, dict[str, Any]]:
        """By source: number of slates since it is known, mean agreement with the newest, whether it is in doubt."""
        return {
            source: {"slates": one.n_slates, "agreement": _mean(one.recent), "in_doubt": one.is_in_doubt}
            for source, one in self._heard.items()
            if source is not None
        }

    def _of(self, source: str | None) -> _Heard:
        """What is known of it; of one beyond the bound, that of those who name none."""
        if source in self._heard:
            return self._heard[source]
        if len(self) >= N_SOURCES:
            least = min(filter(None, self._heard), key=lambda name: float(self._heard[name].recent[0]))
            if self._heard[least].recent[0] >= 1.0:
                return self._heard[None]
            self._heard[None].recent += self._heard.pop(least).recent
        self._heard[source] = _Heard(Duel(self._config.duel))
        return self._heard[source]

    def _tell(self, source: str | None) -> None:
        """Tell a source whose test alarms, if there are others who can say that it is wrong."""
        one = self._heard.get(source, self._heard[None])
        if one.is_told:
            return
        others = sum((each.recent for each in self._heard.values() if not each.is_suspected), np.zeros(3))
        if source is None or one is self._heard[None] or not self._can_say(others):
            one.is_in_doubt = True
            return
        one.is_told = True
        self._told[source] = (
            f"labels say the opposite of what others tell: agreement {one.suspected / one.n_suspected:.2f} "
            f"over {one.n_suspected} slates, others {_mean(others):.2f}"
        )

    def _can_say(self, others: F64) -> bool:
        """Whether the others have half of the newest slates, and the model agrees with them beyond chance."""
        n, _, squares = others
        if not n or n < sum(each.recent[0] for each in self._heard.values()) / 2.0:
            return False
        mean = _mean(others)
        error = np.sqrt(max(squares / n - mean**2, 0.0) / n)
        return bool(mean - self._config.sigmas * error > CHANCE)


def _mean(recent: F64) -> float:
    """Agreement with the slates of the window; chance if they have all faded."""
    return float(recent[1] / recent[0]) if recent[0] else CHANCE


def agreements(scores_BK: NDArray[np.floating], is_rewarded_BK: Bools, mask_BK: Bools) -> F64:
    """Share of the pairs (rewarded, not rewarded) of each slate that the scores order so; ties count half.

    Args:
        mask_BK: The candidates that count.
    Returns:
        [B], 0 to 1; not a number where there is no pair.
    """
    others_BK = mask_BK & ~is_rewarded_BK
    rewarded_BK = mask_BK & is_rewarded_BK
    above_B = np.zeros(len(scores_BK))
    for k in np.flatnonzero(rewarded_BK.any(axis=0)):
        score_B1 = scores_BK[:, k : k + 1]
        won_BK = (score_B1 > scores_BK) * 0.5 + ~(score_B1 < scores_BK) * 0.5  # also where a score is no number: half
        above_B += rewarded_BK[:, k] * (won_BK * others_BK).sum(axis=1)
    n_pairs_B = rewarded_BK.sum(axis=1) * others_BK.sum(axis=1)
    found_B: F64 = np.where(n_pairs_B > 0, above_B / np.maximum(n_pairs_B, 1), np.nan)
    return found_B


def agreements_of(part: Part, scores_BK: NDArray[np.floating], is_known_BK: Bools) -> F64:
    """Agreement of each slate of a part with a model; of late rewards none is known.

    Args:
        scores_BK: Of that model.
        is_known_BK: Candidates that it has learned of: what it thinks of others is nobody's fault.
    Returns:
        [B], 0 to 1; not a number where a slate says nothing.
    """
    mask_BK, loss = part.inputs.mask & is_known_BK, part.loss
    if isinstance(loss, PointwiseLoss):
        return agreements(scores_BK, loss.reward > 0.0, mask_BK & loss.is_shown[:, None])
    assert isinstance(loss, ListwiseLoss)
    first_BK = np.zeros(mask_BK.shape, dtype=bool)
    first_BK[:, 0] = True
    return agreements(scores_BK, first_BK, mask_BK)
