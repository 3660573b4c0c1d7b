"""How many bytes things take: made by the code that makes them in production, then measured.

A *full* person has acted on as many items as a state remembers, and an item has as many successors as a row holds; so
these are the sizes of those who have been there for a while. Newcomers are smaller, by half and more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.decisions import new_decision
from features.encoding import Encoder
from features.events import LoggedDecision, LoggedEvent, encode_body
from features.item_table import ItemTable
from features.keys import Keys
from features.schema import Schema
from features.state import apply_update, history_in, update_for
from learners.model import ModelConfig, RankingModel

ID_BYTES: Final = 16  # of users, items and events
N_SHOWN: Final = 50  # items of a decision that are logged; as many as the Ranker keeps
START_MS: Final = 1_764_000_000_000
CONTEXT: Final = {"device": "mobile", "os": "android", "country": "de", "region": "saxony", "referrer": "search"}
ATTRIBUTES: Final = {"category": "shoes", "brand": "any", "tags": ["red", "sale", "new"], "price": 49.95}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one thing each, without what a server or an allocator adds."""

    state: int
    """A person's packed state, full."""
    row: int
    """An item's packed row, full."""
    row_in_memory: int
    """An item's row in the columns of an `ItemTable`: projector, learners, and the caches of replicas."""
    event: int
    """The body of an event in the log, without the state that stands beside it."""
    decision: int
    """The same of a decision."""
    weights: int
    """All dense weights."""
    embedding: int
    """An embedding row in a version: its number, its key and its values."""
    embedding_sent: int
    """The same as replicas get it: its key, and a scale and a byte for each value."""


def identifier(number: int) -> str:
    """An id of the usual length."""
    return f"{number:0{ID_BYTES}d}"


def example_event(schema: Schema, user: int, item: int, ts_ms: int, event_id: str | None = None) -> LoggedEvent:
    """Somebody acts on an item, in a context of everything the schema declares."""
    context = {name: CONTEXT.get(name, "any") for name in schema.context}
    return LoggedEvent(
        schema.event_types[0], identifier(user), identifier(item), ts_ms, 1.0, {**context}, event_id, None
    )


def full_state(schema: Schema, user: int = 0) -> bytes:
    """The state of a person who has acted on as many items as are remembered."""
    state = b""
    for number in range(schema.n_recent):
        event = example_event(schema, user, number, START_MS + number)
        state = apply_update(state, update_for(event, schema), schema)
    return state


def full_row(schema: Schema, item: int = 0) -> bytes:
    """The row of an item that has as many successors as are remembered."""
    table = ItemTable(schema)
    declared = {attribute.name for attribute in schema.item_attributes}
    known: Mapping[str, object] = {name: value for name, value in ATTRIBUTES.items() if name in declared}
    table.set_attributes(identifier(item), {**known})
    for number in range(1, schema.n_successors + 1):
        ms = START_MS + 2 * number
        first = example_event(schema, number, item, ms)
        state = apply_update(b"", update_for(first, schema), schema)
        table.fold_events([(example_event(schema, number, item + number, ms + 1), history_in(state, schema))])
    return table.pack(table.row(identifier(item)))


def example_decision(schema: Schema, user: int = 0, n_shown: int = N_SHOWN) -> LoggedDecision:
    """A ranking of which as many items are logged."""
    keys, name = Keys(), identifier(user)
    inputs = np.zeros((n_shown, len(Encoder(schema).dense_names)), dtype=np.float16)
    items = [identifier(number) for number in range(n_shown)]
    context = {name: CONTEXT.get(name, "any") for name in schema.context}
    decision = new_decision(name, keys)
    return LoggedDecision(decision, name, START_MS, 1, {**context}, items, [1.0] * n_shown, inputs.tobytes())


def sizes_of(schema: Schema, n_shown: int = N_SHOWN) -> Sizes:
    """Measure them.

    Args:
        n_shown: Items of a decision that are logged.
    """
    table, config = ItemTable(schema), ModelConfig()
    event = example_event(schema, 0, 0, START_MS, identifier(0))
    return Sizes(
        state=len(full_state(schema)),
        row=len(full_row(schema)),
        row_in_memory=table.fixed.itemsize + table.successors.itemsize * schema.n_successors,
        event=len(encode_body(event)),
        decision=len(encode_body(example_decision(schema, n_shown=n_shown))),
        weights=4 * len(RankingModel(schema, config).flat),
        embedding=4 + 8 + 4 * config.n_embedding,
        embedding_sent=8 + 4 + config.n_embedding,
    )
