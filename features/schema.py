"""Features are declared, not coded.

A `Schema` names the event types and context fields that count, the decayed counters kept for users and items, how many
recent items and successors are remembered, and the attributes of items and users. From it follow the byte layout of
stored state and the list of model inputs. Its fingerprint travels with every stored state: bytes written under
another schema are refused by name, never misread.

The module knows no store and no model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import msgspec
import xxhash

from features.errors import SchemaError

Entity = Literal["user", "item"]
AttributeKind = Literal["category", "tags", "number"]

FORMAT: Final = 2  # of the packed bytes; part of the fingerprint


def hash64(text: str) -> int:
    """xxh3_64 of the UTF-8 bytes, never 0: 0 means absent in every key array."""
    return xxhash.xxh3_64_intdigest(text.encode()) or 1


known_hash64 = lru_cache(maxsize=1 << 16)(hash64)  # the same few items and values come up in everybody's last minutes


def duration(seconds: float) -> str:
    """A duration in a feature's name: `1800s`, `0.5s`."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


@dataclass(frozen=True, kw_only=True)
class Counter:
    """Exponentially decayed counts of some event types, one value per half-life.

    With `split` the counts are kept apart by the value of a context field, in `n_buckets` hashed buckets.
    """

    name: str
    entity: Entity
    types: tuple[str, ...]
    half_lives_s: tuple[float, ...]
    split: str | None = None
    n_buckets: int = 1
    use_value: bool = False
    """Add the event's `value` instead of 1."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A declared property: one category, a list of tags, or a number."""

    name: str
    entity: Entity
    kind: AttributeKind
    max_tags: int = 8

    @property
    def width(self) -> int:
        """Number of keys a row of this attribute takes."""
        return {"category": 1, "tags": self.max_tags, "number": 0}[self.kind]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How much of what one person does counts for others: in rows of items, and in what is learned.

    Not part of the fingerprint: bytes written under other limits mean the same, counts of what counted then. But it is
    part of the schema, as all who fold the log have that in common, and must have these in common too.
    """

    per_item: int = 5
    """Events of one type on one item among the newest `n_recent` of a person that count; more than `n_recent`: all."""
    burst: float = 500.0
    """Events that a person's counter may hold, whatever its half-life, before what follows counts no more."""
    per_hour: float = 60.0
    """Events that it may hold beside these for each hour of its half-life."""
    late_s: float = 300.0
    """How much older than the newest that a counter of the person has counted an event may be."""
    max_value: float = 1e6
    """More than this of an event's `value` does not count."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("per_item", 1, 2**31),
            ("burst", 1.0, 1e12),
            ("per_hour", 0.0, 1e12),
            ("late_s", 0.0, 1e9),
            ("max_value", 0.0, 1e12),
        ):
            if not low <= getattr(self, name) <= high:
                raise SchemaError(f"schema.voice.{name}: expected {low:g} to {high:g}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A counter's place in the packed block: `ms` at `offset`, then n_buckets x n_half_lives float32 values."""

    counter: Counter
    index: int
    offset: int
    start: int
    """Index of its first value among all values of the entity."""

    @property
    def half_lives_ms(self) -> tuple[float, ...]:
        """Half-lives in milliseconds, as the decay takes them."""
        return tuple(seconds * 1000.0 for seconds in self.counter.half_lives_s)

    @property
    def n_values(self) -> int:
        """Number of float32 values."""
        return self.counter.n_buckets * len(self.counter.half_lives_s)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The declaration everything else is derived from."""

    event_types: tuple[str, ...] = ("view", "click", "cart", "purchase", "like")
    context: tuple[str, ...] = ("device", "os", "country", "region", "referrer")
    counters: tuple[Counter, ...] = field(default_factory=lambda: default_counters())
    attributes: tuple[Attribute, ...] = field(default_factory=lambda: default_attributes())
    n_recent: int = 32
    """Recent items remembered per user."""
    n_successors: int = 64
    """Successors remembered per item."""
    successor_span: int = 5
    """How many of the items before an event count as its predecessors; the k-th adds 1/k."""
    successor_window_s: float = 7200.0
    """Predecessors older than this do not count."""
    successor_half_lives_s: tuple[float, ...] = (2700.0, 43200.0)
    voice: Voice = field(default_factory=Voice)
    """See there; the only part that the fingerprint leaves out."""

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def fingerprint(self) -> int:
        """64-bit hash of the declaration and the byte format."""
        layout = {name: value for name, value in asdict(self).items() if name != "voice"}
        return xxhash.xxh3_64_intdigest(msgspec.msgpack.encode([FORMAT, layout], order="deterministic")) or 1

    @cached_property
    def user_groups(self) -> tuple[Group, ...]:
        """Counter groups of a user, in byte order."""
        return _groups(self, "user")

    @cached_property
    def user_block_bytes(self) -> int:
        """Bytes of a user's counter block."""
        return sum(8 + 4 * group.n_values for group in self.user_groups)

    @cached_property
    def item_groups(self) -> tuple[Group, ...]:
        """Counter groups of an item, in byte order."""
        return _groups(self, "item")

    @cached_property
    def type_index(self) -> dict[str, int]:
        """Event type -> its number in stored state."""
        return {name: index for index, name in enumerate(self.event_types)}

    @cached_property
    def user_attributes(self) -> tuple[Attribute, ...]:
        """Declared attributes of a user."""
        return tuple(a for a in self.attributes if a.entity == "user")

    @cached_property
    def item_attributes(self) -> tuple[Attribute, ...]:
        """Declared attributes of an item."""
        return tuple(a for a in self.attributes if a.entity == "item")

    def as_dict(self) -> dict[str, Any]:
        """The declaration as plain values; `schema_from_dict` reads it back."""
        return asdict(self)


def bucket(group: Group, context: dict[str, Any]) -> int | None:
    """The bucket an event or request with this context falls into; None when the split field is absent."""
    if group.counter.split is None:
        return 0
    value = context.get(group.counter.split)
    return None if value is None else bucket_of(value, group.counter.n_buckets)


def bucket_of(value: Any, n_buckets: int) -> int:
    """The bucket of a value that a counter is split by."""
    return known_hash64(str(value)) % n_buckets


def schema_from_dict(values: dict[str, Any]) -> Schema:
    """Build a schema from TOML or `as_dict` values; unknown fields are errors.

    Raises:
        SchemaError: With the path of the bad field.
    """
    for name, kind in (("", Schema), ("counters", Counter), ("attributes", Attribute), ("voice", Voice)):
        found = values.get(name, []) if name else values
        rows = [found] if isinstance(found, dict) else found
        for row in filter(lambda row: isinstance(row, dict), rows if isinstance(rows, Sequence) else ()):
            unknown = set(row) - set(kind.__dataclass_fields__)
            if unknown:
                raise SchemaError(f"schema{'.' + name if name else ''}: unknown field {min(unknown)!r}")
    try:
        return msgspec.convert(values, Schema)
    except msgspec.ValidationError as error:
        raise SchemaError(f"schema: {error}") from None


def default_counters() -> tuple[Counter, ...]:
    """Counts of every default event type, from two minutes to a week, and clicks split by where people are."""
    types = ("view", "click", "cart", "purchase", "like")
    items = [Counter(name=t, entity="item", types=(t,), half_lives_s=(120.0, 1800.0, 21600.0, 604800.0)) for t in types]
    users = [Counter(name=t, entity="user", types=(t,), half_lives_s=(1800.0, 86400.0, 2592000.0)) for t in types]
    splits = [
        Counter(
            name=f"by_{name}",
            entity="item",
            types=types,
            half_lives_s=(7200.0,),
            split=name,
            n_buckets=32,
        )
        for name in ("country", "region", "referrer")
    ]
    return (*items, *users, *splits)


def default_attributes() -> tuple[Attribute, ...]:
    """What most catalogues and user tables know."""
    return (
        Attribute(name="category", entity="item", kind="category"),
        Attribute(name="brand", entity="item", kind="category"),
        Attribute(name="tags", entity="item", kind="tags"),
        Attribute(name="price", entity="item", kind="number"),
        Attribute(name="segment", entity="user", kind="category"),
    )


def _groups(schema: Schema, entity: Entity) -> tuple[Group, ...]:
    groups: list[Group] = []
    offset = start = 0
    for counter in schema.counters:
        if counter.entity != entity:
            continue
        group = Group(counter=counter, index=len(groups), offset=offset, start=start)
        groups.append(group)
        offset += 8 + 4 * group.n_values
        start += group.n_values
    return tuple(groups)


def _check(schema: Schema) -> None:
    if not schema.event_types:
        raise SchemaError("schema.event_types: expected at least one type")
    for name, value, low, high in (
        ("n_recent", schema.n_recent, 1, 256),
        ("n_successors", schema.n_successors, 1, 1024),
        ("successor_span", schema.successor_span, 1, schema.n_recent),
    ):
        if not low <= value <= high:
            raise SchemaError(f"schema.{name}: expected {low} to {high}, got {value}")
    _check_unique("event_types", list(schema.event_types))
    _check_unique("context", list(schema.context))
    _check_unique("counters", [f"{c.entity}.{c.name}" for c in schema.counters])
    _check_unique("attributes", [f"{a.entity}.{a.name}" for a in schema.attributes])
    for counter in schema.counters:
        _check_counter(schema, counter)


def _check_unique(name: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise SchemaError(f"schema.{name}: {value!r} is declared twice")


def _check_counter(schema: Schema, counter: Counter) -> None:
    where = f"schema.counters[{counter.name}]"
    unknown = set(counter.types) - set(schema.event_types)
    if unknown or not counter.types:
        raise SchemaError(f"{where}.types: expected declared event types, got {sorted(unknown)}")
    if not counter.half_lives_s or min(counter.half_lives_s) <= 0:
        raise SchemaError(f"{where}.half_lives_s: expected positive seconds, got {list(counter.half_lives_s)}")
    if counter.split is not None and counter.split not in schema.context:
        raise SchemaError(f"{where}.split: {counter.split!r} is not a declared context field")
    if not 1 <= counter.n_buckets <= 4096 or (counter.split is None and counter.n_buckets != 1):
        raise SchemaError(f"{where}.n_buckets: expected 1 without split, else up to 4096, got {counter.n_buckets}")
