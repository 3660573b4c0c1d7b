"""The join of decisions with their feedback: what was shown, and what came of it.

An impression counts once, when the feedback has had `wait_s` to arrive, with the reward that it got by then; one that
got none has the default reward, 0. A reward that comes later, within the attribution window, is told by itself, with
its whole slate; `learners.losses` says what becomes of it.

Rewards do not go ahead of their impressions: what is newest would be known by its clicks alone, and whatever tells it
from what is ten seconds old would be learned as a sure sign of a click.

The join depends on the decisions, the feedback and their own times, not on the order in which they arrive, as long as
all arrive before the impression is counted; a decision or a reward that comes twice counts once. Who restarts reads the
log of the last `attribution_s` again and throws away what comes out.

Feedback whose decision is not known yet is kept for `wait_s`. Price: the packed decisions of the attribution window,
some kilobytes each, at most `max_bytes`; beyond it the oldest are counted and forgotten. The module knows no model; a
reward is a number that belongs to an event's type.

Where impressions are many and rewards few, a share `keep_negatives` of those without reward is enough. Which ones
depends on the decision and the item alone. Odds learned from what is kept are too high by 1 / share; whoever learns
subtracts that from the logit (`log_odds_shift`), and the logit is again that of everything shown.
"""

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from features.errors import InvalidInput
from features.events import LoggedDecision, LoggedEvent
from features.schema import hash64

OVERHEAD_BYTES: Final = 1000  # of a remembered decision beside its bytes: objects and strings


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinConfig:
    """How feedback belongs to decisions."""

    attribution_s: float = 1800.0
    """How long after a decision feedback counts for it."""
    wait_s: float = 10.0
    """How long an impression waits for feedback before it is learned from as one without; most clicks are faster."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Reward of an event type, 0 to 1; 1 for those not named. Of several the highest counts."""
    keep_negatives: float = 1.0
    """Share of the impressions without reward that is learned from."""
    max_bytes: int = 256 * 2**20
    """Of remembered decisions."""

    @property
    def log_odds_shift(self) -> float:
        """What is added to a logit to get that of the impressions which are learned from."""
        return -math.log(self.keep_negatives)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("attribution_s", 0.0, 604800.0),
            ("wait_s", 0.0, 3600.0),
            ("keep_negatives", 1e-6, 1.0),
            ("max_bytes", 0, 2**40),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"join.{name}: expected {low} to {high}, got {getattr(self, name)}")
        for kind, reward in self.rewards.items():
            if not 0.0 <= reward <= 1.0:
                raise ValueError(f"join.rewards.{kind}: expected 0 to 1, got {reward}")


class Outcome(NamedTuple):
    """Something to learn from a decision: that items were shown, or that one of the slate got a reward late."""

    decision: LoggedDecision
    state: bytes
    """The user's packed state at the decision."""
    places: tuple[int, ...]
    """Of the items among those shown."""
    is_shown: bool
    """Whether these count as impressions now; each does once."""
    rewards: tuple[float, ...]
    """What is added to the reward of each so far."""
    source: str | None = None
    """Who told of the rewards; None: nobody says, or several did."""


@dataclass(slots=True)
class _Open:
    decision: LoggedDecision
    state: bytes
    rewards: dict[int, float]
    source: str | None = None
    """Who told of the rewards, in whatever order they came; None: nobody says, or several did."""
    is_counted: bool = False
    is_void: bool = False
    """Nothing is learned from it."""

    @property
    def n_bytes(self) -> int:
        return OVERHEAD_BYTES + len(self.state) + len(self.decision.inputs)


class Joiner:
    """`add_decision` and `add_feedback` as they come, `pop_ready` when time has passed.

    Args:
        n_features: Dense inputs of an item.
    """

    def __init__(self, config: JoinConfig, n_features: int) -> None:
        self._config = config
        self._n_features = n_features
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._due: list[tuple[int, str]] = []
        """Instants at which decisions are counted, and after that forgotten."""
        self._orphans: dict[str, list[tuple[LoggedEvent, bool]]] = {}
        self._orphans_due: list[tuple[int, str]] = []
        self._ready: list[Outcome] = []
        self._n_bytes = 0
        self.n_forgotten = 0
        """Decisions that had to go before their attribution window was over."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_ms(self) -> int | None:
        """When there may be something to learn without anything new."""
        return self._due[0][0] if self._due else None

    def has_news(self, now_ms: int) -> bool:
        """Whether `pop_ready` has anything to do."""
        return bool(
            self._ready
            or (self._due and self._due[0][0] <= now_ms)
            or (self._orphans_due and self._orphans_due[0][0] <= now_ms)
        )

    def add_decision(self, decision: LoggedDecision, state: bytes) -> None:
        """Remember what was shown, and to whom.

        Args:
            state: The user's packed state at the decision.
        Raises:
            InvalidInput: If an item is shown twice, or there are not as many rows of inputs.
        """
        if decision.decision in self._open:
            return
        n_items, n_bytes = len(decision.items), len(decision.inputs)
        if not n_items or len(set(decision.items)) < n_items:
            raise InvalidInput(f"decision {decision.decision}: expected distinct items, got {n_items}", "$.items")
        if n_bytes != 2 * n_items * self._n_features:
            expected = f"float16 [{n_items}, {self._n_features}]"
            raise InvalidInput(f"decision {decision.decision}: expected {expected}, got {n_bytes} bytes", "$.inputs")
        found = _Open(decision, state, {})
        self._open[decision.decision] = found
        self._n_bytes += found.n_bytes
        heapq.heappush(self._due, (self._counted_ms(decision), decision.decision))
        for event, has_voice in self._orphans.pop(decision.decision, ()):
            self._reward(found, event, has_voice)
        while self._n_bytes > self._config.max_bytes:
            self._forget(next(iter(self._open)))
            self.n_forgotten += 1

    def add_feedback(self, event: LoggedEvent, *, has_voice: bool = True) -> bool:
        """Take in an event.

        Args:
            has_voice: Whether it counts for others (`features.voice`). From a decision with feedback that does not
                nothing more is learned: without its reward, what was shown would be learned as shown in vain.
        Returns:
            Whether it was joined: its decision is known, showed its item, and is within the attribution window.
        """
        if event.decision is None:
            return False
        found = self._open.get(event.decision)
        if found is not None:
            return self._reward(found, event, has_voice)
        self._orphans.setdefault(event.decision, []).append((event, has_voice))
        heapq.heappush(self._orphans_due, (event.ts_ms + round(1000 * self._config.wait_s), event.decision))
        return False

    def erase(self, user: str) -> None:
        """Forget what was shown to a person and what came of it: nothing more of it is ever ready."""
        gone = [name for name, found in self._open.items() if found.decision.user == user]
        for name in gone:
            self._n_bytes -= self._open.pop(name).n_bytes
        others = {name: [one for one in told if one[0].user != user] for name, told in self._orphans.items()}
        self._orphans = {name: told for name, told in others.items() if told}
        self._ready = [outcome for outcome in self._ready if outcome.decision.user != user]
        # Instants are looked at in order, whatever the heaps look like inside.
        self._due = [due for due in self._due if due[1] in self._open]
        self._orphans_due = [due for due in self._orphans_due if due[1] in self._orphans]
        heapq.heapify(self._due)
        heapq.heapify(self._orphans_due)

    def pop_ready(self, now_ms: int) -> list[Outcome]:
        """What is to be learned as of an instant; each outcome once.

        Args:
            now_ms: Log time; never less than before.
        """
        while self._due and self._due[0][0] <= now_ms:
            due_ms, name = heapq.heappop(self._due)
            found = self._open.get(name)
            if found is None:
                continue
            if found.is_counted:
                self._forget(name)
            else:
                self._count(found)
                heapq.heappush(self._due, (max(due_ms, self._closed_ms(found.decision)), name))
        while self._orphans_due and self._orphans_due[0][0] <= now_ms:
            self._orphans.pop(heapq.heappop(self._orphans_due)[1], None)
        ready, self._ready = self._ready, []
        return ready

    def _reward(self, found: _Open, event: LoggedEvent, has_voice: bool) -> bool:
        decision = found.decision
        if event.item not in decision.items or event.user != decision.user:
            return False
        if not decision.ts_ms <= event.ts_ms < self._closed_ms(decision):
            return False
        if not has_voice:
            found.is_void = True
        place = decision.items.index(event.item)
        before, reward = found.rewards.get(place, 0.0), self._config.rewards.get(event.type, 1.0)
        if reward > 0.0:
            found.source = event.source if not found.rewards or found.source == event.source else None
        if reward > before:
            found.rewards[place] = reward
            if found.is_counted and not found.is_void:
                every = tuple(range(len(decision.items)))
                rewards = tuple(reward - before if other == place else 0.0 for other in every)
                self._ready.append(Outcome(decision, found.state, every, False, rewards, event.source))
        return True

    def _count(self, found: _Open) -> None:
        found.is_counted = True
        if found.is_void:
            return
        every = range(len(found.decision.items))
        kept = tuple(place for place in every if place in found.rewards or self._is_kept(found.decision, place))
        if kept:
            rewards = tuple(found.rewards.get(place, 0.0) for place in kept)
            self._ready.append(Outcome(found.decision, found.state, kept, True, rewards, found.source))

    def _is_kept(self, decision: LoggedDecision, place: int) -> bool:
        share = self._config.keep_negatives
        return share >= 1.0 or hash64(f"{decision.decision} {decision.items[place]}") < share * 2.0**64

    def _forget(self, name: str) -> None:
        found = self._open.pop(name)
        self._n_bytes -= found.n_bytes
        if not found.is_counted:
            self._count(found)

    def _counted_ms(self, decision: LoggedDecision) -> int:
        return decision.ts_ms + round(1000 * self._config.wait_s)

    def _closed_ms(self, decision: LoggedDecision) -> int:
        return decision.ts_ms + round(1000 * self._config.attribution_s)
