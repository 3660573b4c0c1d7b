"""The one door for events: judge each by itself, apply the good ones, say what became of all of them.

HTTP and `learners.push` both go through `accept`, so an event means the same, is checked the same and is recognised
as a duplicate the same, wherever it comes in. An acknowledgement is given after the write, never before. What a source
in quarantine sends is judged and kept like everything else, and the receipt says that it does not count.

Attributes have theirs in `attributes_record`, for HTTP and for tables alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from features.clock import Clock
from features.decisions import check_decision
from features.errors import FeatureError, InvalidInput, StoreUnavailable
from features.events import (
    Event,
    LoggedAttributes,
    LoggedEvent,
    check_attributes,
    check_event,
    check_id,
    event_from_row,
    parse_event,
)
from features.keys import Keys
from features.quarantine import QuarantineKeeper
from features.schema import Entity, Schema
from features.store import (
    Applied,
    FeatureStore,
    Record,
    event_record,
    item_record,
    quarantined_record,
    user_record,
)


@dataclass(slots=True)
class Receipt:
    """What became of a batch of events."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    """In the log, but they do not count: their source is in quarantine."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """`{"index", "error": {"code", "message", "path"?, "retryable"?}}`, by index."""
    log_ms: int | None = None
    """Log time of the newest entry that answers for these events; None if nothing was written."""

    @property
    def is_confirmed(self) -> bool:
        """Whether anything of the batch is in the log."""
        return self.accepted + self.duplicates + self.quarantined > 0

    def reject(self, index: int, error: FeatureError) -> None:
        """Note that one event was not taken."""
        detail: dict[str, Any] = {"code": error.code, "message": str(error)}
        if isinstance(error, InvalidInput):
            detail["path"] = error.path
        if error.retryable:
            detail["retryable"] = True
        self.rejected.append({"index": index, "error": detail})

    def note(self, index: int, result: Applied | FeatureError, *, is_quarantined: bool = False) -> None:
        """Note what the store made of one record."""
        if not isinstance(result, Applied):
            self.reject(index, result)
            return
        self.duplicates += result.is_duplicate
        self.quarantined += is_quarantined
        self.accepted += not result.is_duplicate and not is_quarantined
        self.log_ms = max(self.log_ms or 0, result.id.ms)

    def as_dict(self) -> dict[str, Any]:
        """The answer as callers see it."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "quarantined": self.quarantined,
            "rejected": self.rejected,
            "log_ms": self.log_ms,
        }


def _speaks_for_all(_source: str) -> bool:
    """Whoever may push may send events of anybody."""
    return True


class Intake:
    """Accepts events into a store.

    Args:
        clock: Time of arrival. None: history is lived through; `ts_ms` may be any instant, and a missing one is the
            store's event clock.
        quarantine: None: there are no sources.
    """

    def __init__(self, store: FeatureStore, clock: Clock | None, quarantine: QuarantineKeeper | None = None) -> None:
        self._store = store
        self._clock = clock
        self._quarantine = quarantine

    async def accept(
        self,
        raw_events: Sequence[bytes | msgspec.Raw | dict[str, Any]],
        source: str | None = None,
        speaks_for: Callable[[str], bool] = _speaks_for_all,
    ) -> Receipt:
        """Judge and apply events in order.

        Args:
            raw_events: JSON of one event each, or rows of a table.
            source: Of events that name none.
            speaks_for: Whether whoever sends them may send those of a source.
        Returns:
            The receipt. An outage of the store is told per event, as retryable rejections.
        """
        receipt = Receipt()
        decoded: list[tuple[int, Event]] = []
        for index, raw in enumerate(raw_events):
            try:
                event = _decoded(raw, source)
            except InvalidInput as error:
                receipt.reject(index, error)
                named = _named(raw)
                self._refuse(named if named is not None and speaks_for(named) else source)
                continue
            if event.source is None or speaks_for(event.source):
                decoded.append((index, event))
            else:  # no fault of the source that is named
                message = f"Expected a source that this key speaks for, got {event.source!r}"
                receipt.reject(index, InvalidInput(message, "$.source"))
                self._refuse(source)
        good: list[tuple[int, LoggedEvent]] = []
        try:
            now_ms = await self._now_ms(decoded)
            if self._quarantine is not None and decoded:
                await self._quarantine.ready()
        except StoreUnavailable as error:
            for index, _ in decoded:
                receipt.reject(index, error)
            decoded = []
        for index, event in decoded:
            try:
                good.append((index, self._judge(event, now_ms)))
            except InvalidInput as error:
                receipt.reject(index, error)
                self._refuse(event.source)
        await self._apply(good, receipt, now_ms if self._clock is not None and decoded else None)
        receipt.rejected.sort(key=lambda row: int(row["index"]))
        return receipt

    async def _now_ms(self, decoded: Sequence[tuple[int, Event]]) -> int:
        if self._clock is not None:
            return self._clock.now_ms()
        if any(event.ts_ms is None for _, event in decoded):
            return await self._store.now_ms()
        return 0

    def _judge(self, event: Event, now_ms: int) -> LoggedEvent:
        checked = check_event(event, self._store.schema, now_ms, any_time=self._clock is None)
        if event.decision is not None:
            check_decision(event.decision, event.user, self._store.keys)
        return checked

    async def _apply(self, good: list[tuple[int, LoggedEvent]], receipt: Receipt, now_ms: int | None) -> None:
        keeper, keys = self._quarantine, self._store.keys
        held = [keeper is not None and keeper.holds(event.source) for _, event in good]
        records = [
            quarantined_record(event, keys) if is_held else event_record(event, self._store.schema, keys)
            for (_, event), is_held in zip(good, held, strict=True)
        ]
        results = await self._store.apply(records) if records else []
        for (index, event), is_held, result in zip(good, held, results, strict=True):
            receipt.note(index, result, is_quarantined=is_held)
            if keeper is not None and isinstance(result, Applied) and not result.is_duplicate:
                lag_ms = None if now_ms is None else now_ms - event.ts_ms
                keeper.watch.note(event, lag_ms, is_quarantined=is_held)

    def _refuse(self, source: str | None) -> None:
        if self._quarantine is not None:
            self._quarantine.watch.refuse(source if source is not None and _is_name(source) else None)


class _Named(msgspec.Struct):
    """What is read of an event that is none."""

    source: str | None = None


def _decoded(raw: bytes | msgspec.Raw | dict[str, Any], source: str | None) -> Event:
    event = event_from_row(raw) if isinstance(raw, dict) else parse_event(raw)
    return msgspec.structs.replace(event, source=source) if source is not None and event.source is None else event


def _named(raw: bytes | msgspec.Raw | dict[str, Any]) -> str | None:
    """The source that an event names which is not valid, if that much can be read."""
    try:
        return (msgspec.convert(raw, _Named) if isinstance(raw, dict) else msgspec.json.decode(raw, type=_Named)).source
    except msgspec.MsgspecError:
        return None


def _is_name(source: str) -> bool:
    try:
        check_id(source, "$.source")
    except InvalidInput:
        return False
    return True


def attributes_record(entity: Entity, stated: LoggedAttributes, schema: Schema, keys: Keys) -> Record:
    """Judge what is stated about an item or a user, and make a record of it.

    Raises:
        InvalidInput: At `$.id`, or at the attribute that is declared as something else.
    """
    check_id(stated.entity, "$.id")
    if entity == "item":
        check_attributes(stated.attributes, schema.item_attributes)
        return item_record(stated, keys)
    check_attributes(stated.attributes, schema.user_attributes)
    return user_record(stated, keys)
