"""What becomes of versions: the newest one is drafted as an edition, judged, and handed out or held.

    note ─► wanted ─► draft ─► judged ─┬─► handed out (`learners.shelf`)
                        ▲              └─► held, with the reason; too often in a row, and it is gone back
                        └── the next one holds what this one would have brought

*Held* is what the judge does not let pass, and everything while there is no judge. If version after version is held,
learning begins anew from what answers; each time in a row more patiently, as it may be the log that nothing good is
learned from. If what answers has declined, learning begins anew from the anchor; and if that happens too often,
replicas stay there until somebody who can find out why says `resume`. See `learners.patience`.

A version that is pinned is handed out unasked and stays until it is resumed; others go on to be committed beside it. So
is one that is *ordered*: trained elsewhere, and adopted.

Not known here: how to commit, and what weights mean. One event loop.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.clock import Clock
from features.schema import Schema
from learners import pinning, snapshots
from learners.checkpoints import Files
from learners.erasing import Ends, is_past, without
from learners.errors import CorruptSnapshot, JudgeAway, LearnerError, StaleSnapshot, UnknownVersion
from learners.patience import Patience
from learners.pinning import PINNED, Pin
from learners.publisher import Draft
from learners.shelf import LaidOut, Shelf
from learners.snapshots import Delta
from learners.verdicts import PASSED, Verdict
from learners.version_history import VersionHistory, What

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
HISTORY: Final = "history"
"""Name of the file of what became of versions."""
LEFT_S: Final = 1.0  # after which rows that did not fit are sent, if no version comes
RETRY_S: Final = 1.0
LEARNER: Final = "learner"
GATE: Final = "gate"
ANCHOR: Final = "anchor"

logger = logging.getLogger(__name__)


class Judge(Protocol[T_contra]):
    """Who looks at editions; see `learners.judge`."""

    async def weigh(self, edition: Sequence[T_contra]) -> Verdict:
        """Say whether replicas may get it; if so, it is what answers.

        Raises:
            StaleSnapshot: If it stands on another one than what answers by the judge's account; see `follow`.
            JudgeAway: If there is no answer.
        """
        ...

    async def follow(self, edition: Sequence[T_contra]) -> None:
        """Take this for what answers; raises `JudgeAway`."""
        ...

    async def erase(self, people: Sequence[int], positions: Ends, edition: Sequence[T_contra]) -> bool:
        """Have nothing of people, by the hashes of their ids; `edition` is all that answers, empty if nothing does.

        Returns:
            False while it has not read the log as far as these positions.
        Raises:
            JudgeAway: If there is no answer.
        """
        ...


class Versions(Protocol):
    """Who commits."""

    @property
    def full(self) -> Delta | None:
        """The newest version, whole; None before the first."""
        ...

    @property
    def version(self) -> int:
        """Its number; 0 before the first."""
        ...

    async def go_back(self, version: int) -> int:
        """Have this version, or the last one before it that is kept, as the newest again; returns which one it was.

        Raises:
            UnknownVersion: If none is kept.
        """
        ...


class Held(msgspec.Struct, frozen=True):
    """A version that replicas do not get."""

    version: int
    why: str
    since_ms: int
    """When the first one in a row was."""


class Publishing(Generic[T]):
    """`load`, then `run` as a task; `note` what was committed."""

    def __init__(self, shelf: Shelf[T], versions: Versions, judge: Judge[T], clock: Clock, patience: Patience) -> None:
        self.pin: Pin | None = None
        self.stages: dict[str, float] = {}
        """What the newest edition took, by name."""
        self.n_published = self.n_held = self.n_back = self.n_bytes = 0
        """Editions handed out, verdicts that held one, times it was gone back, and bytes of editions."""
        self._shelf = shelf
        self._versions = versions
        self._judge = judge
        self._clock = clock
        self._patience = patience
        self._files: Files
        self._history = VersionHistory()
        self._wanted = asyncio.Event()
        """Set while there may be something to publish."""
        self._ordered = 0
        self._held: Held | None = None
        self._verdict = PASSED

    @property
    def described(self) -> dict[str, Any]:
        """For people."""
        return {
            "live": self._shelf.version,
            "trained_through_ms": self._shelf.trained_through_ms,
            "state": "pinned" if self.pin else "held" if self._held else "live",
            "pinned": self.pin.described if self.pin else None,
            "held": msgspec.structs.asdict(self._held) if self._held else None,
            "judged": self._verdict.described,
        }

    @property
    def is_held(self) -> bool:
        """Whether the newest version did not pass."""
        return self._held is not None

    @property
    def history(self) -> list[dict[str, Any]]:
        """What became of versions, oldest first."""
        return [msgspec.structs.asdict(line) for line in self._history.lines]

    async def load(self, files: Files, schema: Schema) -> None:
        """Go on with what is durable: the history, and what replicas were kept at."""
        self._files = files
        await files.sweep(PINNED)
        names = await files.names()
        if HISTORY in names:
            self._history.load(await files.read(HISTORY))
        if PINNED in names:
            self._find_pinned(await files.read(PINNED), schema)
        self._wanted.set()

    def note(self, delta: Delta) -> None:
        """A delta was committed."""
        self._shelf.publisher.note(delta)
        self._wanted.set()

    def note_all(self, full: Delta, *, is_ordered: bool = False) -> None:
        """A version is in the place of what was.

        Args:
            is_ordered: Whether replicas get it whatever the judge thinks of it.
        """
        self._ordered = full.version if is_ordered else self._ordered
        self._shelf.publisher.note_all(full)
        self._wanted.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._publish()
            except JudgeAway as error:
                self._note_held(self._versions.version, f"the judge is away: {error}")
                self._want_later(RETRY_S)
            except Exception:  # a supervisor: replicas keep what they have, and the next version is tried
                logger.exception("a version could not be published")
                self._want_later(RETRY_S)

    async def keep_at(self, full: Delta, who: str, why: str) -> None:
        """Pin a version, durably."""
        pin = Pin(who, why, self._clock.now_ms(), pinning.public(full))
        await self._files.write(PINNED, pinning.pins.pack(pin))
        self._go_to(pin)
        await self.tell("rolled back", full.version, who, why)

    async def resume(self, who: str, why: str) -> None:
        """Publish the newest version again, if another one was pinned."""
        if self.pin is None:
            return
        await self._files.delete(PINNED)
        self.pin = None
        full = self._versions.full
        if full is not None:
            self.note_all(full)
            await self.tell("resumed", full.version, who, why)

    async def erase_pin(self, people: NDArray[np.uint64], positions: Ends) -> None:
        """Have nothing of these people in what replicas are kept at. A file of it that cannot be read goes."""
        if PINNED in await self._files.names():
            try:
                kept = pinning.pins.unpack(await self._files.read(PINNED))
            except CorruptSnapshot as error:
                logger.error("checkpoint %s is dropped, it cannot be said whom it is about: %s", PINNED, error)
                await self._files.delete(PINNED)
            else:
                await self._files.write(PINNED, pinning.pins.pack(_without(kept, people, positions)))
        if self.pin is not None:
            self.pin = _without(self.pin, people, positions)
            self._shelf.publisher.note_all(self.pin.full)

    async def erase(self, people: NDArray[np.uint64], positions: Ends) -> bool:
        """After versions and pin are without these people: so is what replicas and the judge have.

        What replicas have is not replaced by a newer version, it only loses rows; so nothing is to be judged.

        Returns:
            False while the judge has not read as far as their erasures.
        Raises:
            JudgeAway: If it does not answer.
        """
        full = self.pin.full if self.pin is not None else self._versions.full
        self._shelf.begin_again(None if full is None else self._shelf.publisher.draft_gone(full))
        self._wanted.set()  # what is being judged stands on what was before
        everything = self._shelf.everything() if self._shelf.publisher.place.number else []
        return await self._judge.erase(people.tolist(), positions, everything)

    async def tell(self, what: What, version: int, who: str, why: str) -> None:
        """Add to the history, durably."""
        self._history.note(what, version, self._clock.now_ms(), who, why)
        await self.save_history()

    async def save_history(self) -> None:
        """Make durable what was only noted: that versions were published, or held."""
        await self._files.write(HISTORY, self._history.packed)

    async def _publish(self) -> None:
        full = self._versions.full
        if full is None or self.pin is not None:
            return
        began_s = time.monotonic()
        draft = self._shelf.publisher.draft(full)
        edition = self._shelf.lay_out(draft.head, draft.parts)
        drafted_s = time.monotonic()
        verdict = await self._judged(draft, edition.refs)
        self.stages |= {"draft_ms": _ms(drafted_s - began_s), "judge_ms": _ms(time.monotonic() - drafted_s)}
        if self.pin is not None or self._shelf.publisher.place != draft.after:
            return  # replicas have gone elsewhere meanwhile
        self._verdict = verdict
        if verdict.decline:
            await self._decline(verdict)
        elif verdict.reasons:
            await self._hold(draft.head.version, "; ".join(verdict.reasons))
        else:
            self._let_pass(draft, edition)

    async def _judged(self, draft: Draft, edition: list[T]) -> Verdict:
        if not draft.is_finite:
            return Verdict(("a weight is not finite",))
        is_ordered = self._shelf.version < self._ordered <= draft.head.version
        try:
            return await self._ask(edition, is_ordered=is_ordered)
        except StaleSnapshot:
            await self._judge.follow(self._shelf.everything())
            return await self._ask(edition, is_ordered=is_ordered)

    async def _ask(self, edition: list[T], *, is_ordered: bool) -> Verdict:
        if not is_ordered:
            return await self._judge.weigh(edition)
        await self._judge.follow(edition)
        return PASSED

    def _let_pass(self, draft: Draft, edition: LaidOut[T]) -> None:
        version = draft.head.version
        self._held = None
        self._patience.let_pass(version)
        self._send(draft, edition)
        self._history.note("published", version, self._clock.now_ms(), LEARNER)
        if draft.n_left:
            self._want_later(LEFT_S)

    async def _hold(self, version: int, why: str) -> None:
        """Replicas keep what they have; too often, and learning begins anew from there."""
        self._note_held(version, why)
        if self._patience.hold(version) and self._shelf.version:
            await self._go_back(self._shelf.version, GATE, f"{self._patience.n_held} versions in a row held; {why}")

    async def _decline(self, verdict: Verdict) -> None:
        """Learning begins anew from the anchor; too often, and replicas stay with what it was."""
        await self._go_back(verdict.anchor, ANCHOR, verdict.decline)
        full = self._versions.full
        if full is not None and self._patience.decline(self._clock.now_ms()):
            await self.keep_at(full, ANCHOR, f"it has declined again and again; {verdict.decline}")

    async def _go_back(self, version: int, who: str, why: str) -> None:
        """Have learning begin anew from a version."""
        try:
            kept = await self._versions.go_back(version)
        except UnknownVersion as error:
            logger.error("replicas stay at version %d: %s", self._shelf.version, error)
            return
        full = self._versions.full
        assert full is not None
        self.n_back += 1
        self._patience.go_back(full.version)
        self.note_all(full)
        await self.tell("went back", full.version, who, f"to {kept}: {why}")

    def _note_held(self, version: int, why: str) -> None:
        now_ms = self._clock.now_ms()
        self.n_held += 1
        self._held = Held(version, why, self._held.since_ms if self._held else now_ms)
        self._history.note("held", version, now_ms, GATE, why)

    def _find_pinned(self, packed: bytes, schema: Schema) -> None:
        try:
            pin = pinning.pins.unpack(packed)
            snapshots.check_schema(pin.full, schema)
        except LearnerError as error:
            logger.error("checkpoint %s is skipped, replicas get the newest version: %s", PINNED, error)
        else:
            self._go_to(pin)

    def _go_to(self, pin: Pin) -> None:
        self.pin, self._held = pin, None
        self._shelf.publisher.note_all(pin.full)
        draft = self._shelf.publisher.draft(pin.full, is_limited=False)
        self._send(draft, self._shelf.lay_out(draft.head, draft.parts))

    def _send(self, draft: Draft, edition: LaidOut[T]) -> None:
        self._shelf.send(draft, edition)
        self.n_published += 1
        self.n_bytes += edition.n_bytes
        n_rows = sum(len(change.rows) for change in draft.changes.values())
        self.stages |= {"edition_bytes": edition.n_bytes, "rows": n_rows, "rows_left": draft.n_left}

    def _want_later(self, after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self._wanted.set)


def _without(pin: Pin, people: NDArray[np.uint64], positions: Ends) -> Pin:
    if is_past(pin.full.progress.positions, positions):
        return pin
    return msgspec.structs.replace(pin, full=without(pin.full, people))


def _ms(seconds: float) -> float:
    return round(1000.0 * seconds, 2)
