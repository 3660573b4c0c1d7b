"""Whether a version may answer: judged by what has just happened, by somebody who does not learn.

    the log ──► batches, with what truly happened ──► scored by what answers, and by the anchor
                              │                                    │
    an edition ──► flip, score the newest, settle or revert        └──► is what answers worse than the anchor?

The *gate* looks at each edition before replicas get it. Every weight is finite and of a size that weights have. On the
newest slates its loss is above neither that of what answers nor that of the anchor by more than is tolerated, and it is
not surer of itself than it is right. Of those that it has learned from next to nothing is tolerated: who learns well
has less loss there than what answers, and who learns the wrong thing shows it there first. Of the others, most of them
while a learner catches up, as much as beside the anchor: what was learned from an hour ago may be no better now.

The *anchor* is a version of some time ago. What answers is compared with it on every batch that neither has learned
from, for as long as it takes: so a decline is found that no edition shows by itself (`learners.duel`).

Differences are told as shares of the loss of what answers: so slates and impressions are judged by one measure.

And those are judged who tell what has happened (`learners.agreement`): by the anchor, if there is one. What answers
may have learned from a source that says the opposite, before it is found, how to please it.

No Ray, no log. Price: the embeddings twice, as replicas have them.

Legend: B slates, K candidates.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from learners import editions
from learners.agreement import Agreement, AgreementConfig, agreements_of
from learners.duel import Duel, DuelConfig
from learners.editions import Head
from learners.embeddings import FALLBACK
from learners.losses import ListwiseLoss, PointwiseLoss
from learners.opinions import LEAST, Case, Opinion, opinion, without
from learners.parts import Part
from learners.scorer import Scorer
from learners.verdicts import Verdict

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]
FEW: Final = 30  # slates: of fewer it is not known how far off their mean may be
USUAL: Final = 10.0  # a weight up to here is never too large
WINDOW: Final = 5000.0  # slates that the usual loss is a mean of
SUSPICION: Final = 1e-3  # of the evidence that is an alarm


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """What is tolerated; losses as shares of that of what answers."""

    n_slates: int = 1024
    """Newest slates that an edition is judged by."""
    tolerance: float = 0.0025
    """By which the loss of an edition may be above that of what answers, on slates that it has learned from."""
    anchor_tolerance: float = 0.05
    """By which it may be above that of the anchor, and of what answers on any slates."""
    sigmas: float = 4.0
    """Standard errors that a difference lies beyond what is tolerated before it counts."""
    max_growth: float = 3.0
    """Times the largest weight of what answers that a weight may be."""
    overconfidence: float = 0.2
    """Share of what it calls likely that may not come true, if it is more than with what answers."""
    max_held: int = 5
    """Versions in a row that are not let pass, before learning begins anew from what answers."""
    anchor_age_s: float = 600.0
    """Log time that the anchor lies behind, at least."""
    duel: DuelConfig = field(default_factory=DuelConfig)
    sources: AgreementConfig = field(default_factory=AgreementConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_slates", 64, 65536),
            ("tolerance", 0.0, 10.0),
            ("anchor_tolerance", 0.0, 10.0),
            ("sigmas", 0.0, 100.0),
            ("max_growth", 1.0, 1e6),
            ("overconfidence", 0.0, 1.0),
            ("max_held", 1, 256),
            ("anchor_age_s", 0.0, 604800.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"judge.{name}: expected {low} to {high}, got {getattr(self, name)}")


class Judge:
    """`take` batches as they come; `begin`, `add`, then `decide` on an edition."""

    def __init__(self, schema: Schema, config: JudgeConfig) -> None:
        self._schema = schema
        self._config = config
        self._live = Scorer(schema, max_spare_bytes=None)
        self._live_through_ms = 0
        self._largest = USUAL
        """Weight of what answers."""
        self._coming: Head | None = None
        self._coming_largest = 0.0
        self._anchor: Scorer | None = None
        self._anchored_ms = 0
        """When the anchor was laid, in log time."""
        self._duel = Duel(config.duel)
        self._decline = ""
        self._usual = {ListwiseLoss: np.zeros(2), PointwiseLoss: np.zeros(2)}
        """Loss of what answers, and number of slates, by kind."""
        self._cases: deque[Case] = deque()
        self._n_slates = 0
        self.agreement = Agreement(config.sources)
        """Of what sources tell with the anchor, or else with what answers."""

    @property
    def live(self) -> Scorer:
        """What answers."""
        return self._live

    def take(self, parts: Iterable[Part], first_ms: int) -> list[Case]:
        """What has happened since `first_ms`: before any version has learned from it, if that can be.

        Returns:
            What the models make of it, part by part.
        """
        parts = [part for part in parts if not (isinstance(part.loss, PointwiseLoss) and not part.loss.is_shown.any())]
        cases = [Case(part, first_ms, opinion(self._live, part), self._by_anchor(part)) for part in parts]
        for case in cases:
            self._note_usual(case)
        if cases and self._live_through_ms <= first_ms:
            if self._anchor is not None:
                self._compare(cases)
            if self._live.version:
                self._hear(cases)
        self._cases += cases
        self._n_slates += sum(len(case.live.losses) for case in cases)
        while self._cases and self._n_slates - len(self._cases[0].live.losses) >= self._config.n_slates:
            self._n_slates -= len(self._cases.popleft().live.losses)
        return cases

    def begin(self, head: Head) -> None:
        """Start to look at an edition.

        Raises:
            StaleSnapshot, ForeignSnapshot: As `Scorer.begin`.
        """
        self._live.begin(head)
        self._coming, self._coming_largest = head, _largest(head.weights)

    def add(self, part: editions.Part) -> Iterator[None]:
        """Prepare rows of it, a slice before each yield."""
        self._coming_largest = max(self._coming_largest, 127.0 * float(part.scales.max(initial=0.0)))
        yield from self._live.add(part)

    def decide(self) -> Verdict:
        """Say whether it may answer; if so, it is what answers, after `settle`; if not, nothing has changed.

        It may not while what answers has declined: it stands on that.
        """
        assert self._coming is not None
        head, self._coming = self._coming, None
        reasons = self._of_size(head)
        figures = {"largest": self._coming_largest}
        has_answered = self._live.version > 0
        self._live.flip()
        opinions = [opinion(self._live, case.part) for case in self._cases]
        if not reasons and has_answered:
            reasons, found = self._by_slates(opinions, head.trained_through_ms)
            figures |= found
        decline, self._decline = self._decline, ""
        if reasons or decline:
            self._live.revert()
        else:
            self._become(head, opinions)
        return Verdict(tuple(reasons), figures, decline, self.anchor)

    def follow(self) -> None:
        """Instead of `decide`: it does answer, whatever is thought of it; another anchor is wanted."""
        self.drop_anchor()
        self.take_over()

    def take_over(self) -> None:
        """Instead of `decide`: what answers has become this, which lacks some rows; the anchor is what it was."""
        assert self._coming is not None
        head, self._coming = self._coming, None
        self._live.flip()
        self._become(head, [opinion(self._live, case.part) for case in self._cases])

    def forget(self, people: U64) -> None:
        """Have no slates of these people, by the hashes of their ids."""
        found = [without(case, ~np.isin(case.part.people, people)) for case in self._cases]
        self._cases = deque(case for case in found if case is not None)
        self._n_slates = sum(len(case.live.losses) for case in self._cases)

    def settle(self) -> Iterator[None]:
        """After an edition has come to answer, a slice before each yield."""
        yield from self._live.settle()

    @property
    def anchor(self) -> int:
        """Version of the anchor; 0: there is none."""
        return 0 if self._anchor is None else self._anchor.version

    def wants_anchor(self, now_ms: int) -> bool:
        """Whether it is time for another one: not while there is a suspicion that what answers is worse."""
        is_due = self._anchor is None or now_ms >= self._anchored_ms + 1000.0 * self._config.anchor_age_s
        return is_due and not self._decline and self._duel.evidence < SUSPICION

    def lay_anchor(self, head: Head, parts: Iterable[editions.Part], now_ms: int) -> Iterator[None]:
        """Compare with this version from now on, a slice before each yield."""
        anchor = Scorer(self._schema)
        yield from anchor.apply(head, parts)
        self._anchor, self._anchored_ms = anchor, now_ms
        self._duel, self._decline = Duel(self._config.duel), ""
        for case in self._cases:
            case.anchor = opinion(anchor, case.part)

    def lay_anchor_again(self, head: Head, parts: Iterable[editions.Part]) -> Iterator[None]:
        """Have the same anchor without some rows, a slice before each yield; what was found out goes on."""
        anchor = Scorer(self._schema)
        yield from anchor.apply(head, parts)
        self._anchor = anchor
        for case in self._cases:
            case.anchor = opinion(anchor, case.part)

    def drop_anchor(self) -> None:
        """Have none, until another one is laid."""
        self._anchor, self._duel, self._decline = None, Duel(self._config.duel), ""
        for case in self._cases:
            case.anchor = None

    def _by_anchor(self, part: Part) -> Opinion | None:
        return None if self._anchor is None else opinion(self._anchor, part)

    def _hear(self, cases: Sequence[Case]) -> None:
        """Note how far those who told of these slates agree with the anchor, or else with what answers."""
        model = self._anchor or self._live
        sources, found = list[str | None](), list[F64]()
        for case in cases:
            is_known_BK = model.tables["item"].lookup(case.part.inputs.item_key) != FALLBACK
            sources += case.part.sources
            found.append(agreements_of(case.part, (case.anchor or case.live).scores, is_known_BK))
        self.agreement.add(sources, np.concatenate(found))

    def _note_usual(self, case: Case) -> None:
        loss_B = case.live.losses
        usual = self._usual[type(case.part.loss)]
        usual *= (1.0 - 1.0 / WINDOW) ** len(loss_B)
        usual += (loss_B.sum(), len(loss_B))

    def _usual_of(self, part: Part) -> float:
        total, n = self._usual[type(part.loss)]
        return max(float(total / n), LEAST)

    def _compare(self, cases: Sequence[Case]) -> None:
        """Bet on how much more what answers loses than the anchor; it is told once, and the betting begins anew."""
        excess_B = self._excess([case.live for case in cases], [case.anchor for case in cases], cases)
        if self._duel.add(float(excess_B.mean())):
            self._decline = (
                f"loss above that of anchor {self.anchor} by {self._duel.mean:.3f} of itself, "
                f"on the average over {self._duel.n_batches} batches"
            )
            self._duel = Duel(self._config.duel)

    def _excess(self, ours: Sequence[Opinion], theirs: Sequence[Opinion | None], cases: Sequence[Case]) -> F64:
        """By how much more ours lose than theirs, slate by slate, as a share of what is usual; where there are any."""
        return np.concatenate(
            [
                np.zeros(0),
                *(
                    (our.losses - their.losses) / self._usual_of(case.part)
                    for our, their, case in zip(ours, theirs, cases, strict=True)
                    if their is not None
                ),
            ]
        )

    def _of_size(self, head: Head) -> list[str]:
        limit = self._config.max_growth * self._largest
        if self._coming_largest <= limit:
            return []
        return [f"version {head.version} has a weight of {self._coming_largest:.3g}: expected at most {limit:.3g}"]

    def _by_slates(self, opinions: Sequence[Opinion], through_ms: int) -> tuple[list[str], dict[str, float]]:
        """Compare with what answers and with the anchor on the newest slates.

        Args:
            through_ms: All log time before this was learned from.
        """
        cases, config, reasons = list(self._cases), self._config, []
        figures = {"slates": float(self._n_slates)}
        learned = [case.live if case.first_ms < through_ms else None for case in cases]
        for figure, whose, tolerance, others in (
            ("excess", "what answers, of those learned from,", config.tolerance, learned),
            ("excess_on_all", "what answers", config.anchor_tolerance, [case.live for case in cases]),
            ("anchor_excess", f"anchor {self.anchor}", config.anchor_tolerance, [case.anchor for case in cases]),
        ):
            excess_B = self._excess(opinions, others, cases)
            if len(excess_B) >= FEW:
                mean, sure = _lower(excess_B, config.sigmas)
                figures[figure] = mean
                if not sure <= tolerance:
                    reasons.append(
                        f"loss on {len(excess_B)} newest slates above that of {whose} by {mean:.4f} of itself"
                    )
        if self._n_slates >= FEW:
            surer_B, before_B = (_surer(some) for some in (opinions, [case.live for case in cases]))
            mean, sure = _lower(surer_B, config.sigmas)
            figures["overconfidence"] = mean
            if sure > config.overconfidence and _lower(surer_B - before_B, config.sigmas)[1] > 0.0:
                reasons.append(f"{mean:.2f} of what it calls likely does not come true")
        return reasons, figures

    def _become(self, head: Head, opinions: Sequence[Opinion]) -> None:
        self._live_through_ms = head.trained_through_ms
        self._largest = max(USUAL, self._coming_largest, self._largest if head.base is not None else 0.0)
        for case, found in zip(self._cases, opinions, strict=True):
            case.live = found


def _surer(opinions: Sequence[Opinion]) -> F64:
    """By how much less came than was called likely, slate by slate, as a share of what was."""
    called_B = np.concatenate([one.called for one in opinions])
    came_B = np.concatenate([one.came for one in opinions])
    surer_B: F64 = (called_B - came_B) / max(float(called_B.mean()), LEAST)
    return surer_B


def _lower(values_B: F64, sigmas: float) -> tuple[float, float]:
    """The mean, and that less so many of its standard errors; both not finite if any value is."""
    mean = float(values_B.mean())
    return mean, mean - sigmas * float(values_B.std()) / np.sqrt(len(values_B))


def _largest(weights: F32) -> float:
    """Of the sizes of these; not finite if any of them is."""
    return float(np.abs(weights).max())
