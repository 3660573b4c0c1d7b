"""The Events application: everything but ranking.

Events and their sources, items, users and versions of the model. `EventsEndpoint` is the whole of it without Ray,
`Events` its replica. An acknowledgement is sent after the write; posts that arrive while a pipeline is under way share
the next one.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from ray import serve
from ray.exceptions import RayError

from deployments.batcher import MicroBatcher
from deployments.entrance import Entrance, name_of_this_process
from deployments.erasure_routes import ErasureRoutes, LogSide, ask_export
from deployments.errors import (
    FULL_S,
    ForbiddenError,
    InvalidError,
    MalformedError,
    NotFoundError,
    UnavailableError,
    as_api_error,
    retry_after,
)
from deployments.gate import KNOWN, PUBLIC, AccessConfig
from deployments.http import JSON_TYPE, App, Request, Response, json_response, wire_headers
from deployments.log_clock import LogClock
from deployments.log_keeper import get_keeper
from deployments.metrics import Exporter, source_values
from deployments.openapi import openapi
from deployments.openapi_bodies import MAX_ROWS
from deployments.source_routes import AskJudge, SourceRoutes, ask_judge
from deployments.versions import Ask, VersionRoutes, ask_hub
from features.access import ADMIN, EVENTS
from features.clock import WallClock
from features.connect import StoreConfig, access_of, bulk_of, connect
from features.decoding import decoder
from features.errors import FeatureError, InvalidInput, LogFull
from features.events import (
    LoggedAttributes,
    Scalar,
    check_id,
    invalid_from,
    parse_attributes,
)
from features.intake import Intake, Receipt, attributes_record
from features.item_table import ItemTable
from features.quarantine import QuarantineKeeper
from features.schema import Entity, Schema
from features.source_watch import SourceWatch
from features.sources import SourceRules
from features.state import describe, unpack
from features.store import Applied, FeatureStore, Record, all_of

ASK_S: Final = 2.0
SOURCE_HEADER: Final = "headrace-source"  # who sends a post: the source of its events that name none


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/events`."""

    events: list[msgspec.Raw]


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One item of `POST /v1/items`."""

    id: str
    attributes: dict[str, Scalar | list[str]]


class ItemEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/items`."""

    items: list[msgspec.Raw]


_envelope_of = decoder(msgspec.json, Envelope)
_item_envelope_of = decoder(msgspec.json, ItemEnvelope)
_item_of = decoder(msgspec.json, Item)


class SharedPipeline:
    """A store whose `apply` calls share pipelines: one is under way, the others wait and go together."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._batcher: MicroBatcher[list[Record], list[Applied | FeatureError]] = MicroBatcher(
            self._apply, max_batch=64
        )
        self.keys, self.schema = store.keys, store.schema

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """As `FeatureStore.apply`."""
        return await self._batcher.submit(list(records))

    async def _apply(self, posts: list[list[Record]]) -> list[list[Applied | FeatureError] | Exception]:
        results = iter(await self._store.apply([record for post in posts for record in post]))
        return [[next(results) for _ in post] for post in posts]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class EventsEndpoint:
    """The routes, around a store.

    Args:
        quarantine: Knows whose events do not count; somebody runs it.
        entrance: Lets in who may, and keeps what is done with power.
        ask_hub: Asks the hub; see `deployments.versions`.
        ask_judge: See `SourceRoutes`.
        log: See `LogSide`.
        now_ms: Log time.
        is_event_clock: History is lived through; `ts_ms` may be any instant.
    """

    def __init__(
        self,
        store: FeatureStore,
        quarantine: QuarantineKeeper,
        ask_hub: Ask,
        ask_judge: AskJudge,
        log: LogSide,
        now_ms: Callable[[], int],
        *,
        entrance: Entrance,
        is_event_clock: bool,
    ) -> None:
        self._store = store
        self._log_status = log.status
        self._now_ms = now_ms
        self._shared = SharedPipeline(store)
        self._watch = quarantine.watch
        self._intake = Intake(self._shared, None if is_event_clock else WallClock(), quarantine)
        self.n_accepted = self.n_duplicates = self.n_quarantined = self.n_rejected = 0
        audit = entrance.audit
        self.app = entrance.app()
        for method, path, handler, scope in (
            ("POST", "/v1/events", self.post_events, EVENTS),
            ("POST", "/v1/items", self.post_items, EVENTS),
            ("PUT", "/v1/items/{id}", self.put_item, EVENTS),
            ("GET", "/v1/items/{id}", self.get_item, KNOWN),
            ("GET", "/v1/users/{id}", self.get_user, ADMIN),
            ("PUT", "/v1/users/{id}", self.put_user, EVENTS),
            ("GET", "/v1/log", self.get_log, KNOWN),
            ("GET", "/v1/health", self.get_health, PUBLIC),
            ("GET", "/v1/openapi.json", self.get_openapi, KNOWN),
            *VersionRoutes(ask_hub, audit, now_ms).routes,
            *SourceRoutes(quarantine, ask_judge, audit, now_ms).routes,
            *ErasureRoutes(self._shared.apply, log, audit, now_ms).routes,
            *audit.routes,
        ):
            self.app.add(method, path, handler, scope)

    async def post_events(self, request: Request) -> Response:
        """Accept events; each is judged by itself."""
        source = _source_of(request)
        try:
            events = _raw_list(request, _envelope_of, "events")
        except MalformedError:
            self._watch.refuse(source)
            raise
        request.caller.charge(len(events) - 1)
        receipt = await self._intake.accept(events, source, request.caller.speaks_for)
        self.n_accepted += receipt.accepted
        self.n_duplicates += receipt.duplicates
        self.n_quarantined += receipt.quarantined
        self.n_rejected += len(receipt.rejected)
        return _receipt_response(receipt, "events")

    async def post_items(self, request: Request) -> Response:
        """Accept item attributes; each item is judged by itself."""
        receipt = Receipt()
        records: list[tuple[int, Record]] = []
        rows = _raw_list(request, _item_envelope_of, "items")
        request.caller.charge(len(rows) - 1)
        for index, raw in enumerate(rows):
            try:
                item = _decode(raw)
                records.append((index, self._record("item", item.id, item.attributes)))
            except InvalidInput as error:
                receipt.reject(index, error)
        results = await self._shared.apply([record for _, record in records]) if records else []
        for (index, _), result in zip(records, results, strict=True):
            receipt.note(index, result)
        receipt.rejected.sort(key=lambda row: int(row["index"]))
        return _receipt_response(receipt, "items")

    async def put_item(self, request: Request) -> Response:
        """Replace an item's attributes; its row shows them within half a second."""
        body = _checked(lambda: parse_attributes(request.body))
        return await self._write(_checked(lambda: self._record("item", request.params["id"], body.attributes)))

    async def get_item(self, request: Request) -> Response:
        """Show an item's row."""
        item = request.params["id"]
        _checked(lambda: check_id(item, "$.id"))
        _, (packed,) = await self._read([], [item])
        if not packed:
            raise NotFoundError(f"no item {item!r}")
        table = ItemTable(self._store.schema, capacity=2)
        (row,) = table.load([item], [packed])
        return json_response({"id": item, **table.describe(int(row), self._now_ms())})

    async def get_user(self, request: Request) -> Response:
        """Show what is known about a person."""
        user = request.params["id"]
        _checked(lambda: check_id(user, "$.id"))
        (packed,), _ = await self._read([user], [])
        schema = self._store.schema
        return json_response(describe(unpack(packed, schema), schema, self._now_ms()))

    async def put_user(self, request: Request) -> Response:
        """Replace a person's attributes."""
        body = _checked(lambda: parse_attributes(request.body))
        return await self._write(_checked(lambda: self._record("user", request.params["id"], body.attributes)))

    async def get_log(self, _: Request) -> Response:
        """Say how full the log is, how long that will do, and how far it is archived."""
        return json_response(await self._log_status())

    async def get_health(self, _: Request) -> Response:
        """Say whether the store answers; 503 if it does not."""
        await self._read(["health"], [])
        return json_response({"status": "ok"})

    async def get_openapi(self, _: Request) -> Response:
        """Describe this interface."""
        return json_response(openapi(self._store.schema))

    def _record(self, entity: Entity, name: str, attributes: dict[str, Any]) -> Record:
        stated = LoggedAttributes(name, attributes, self._now_ms())
        return attributes_record(entity, stated, self._store.schema, self._store.keys)

    async def _write(self, record: Record) -> Response:
        (result,) = await self._shared.apply([record])
        if isinstance(result, FeatureError):
            raise as_api_error(result)
        return json_response({"log_ms": result.id.ms}, 202)

    async def _read(self, users: list[str], items: list[str]) -> tuple[list[bytes], list[bytes]]:
        states, rows = await self._store.read(users, items)
        try:
            return all_of(states), all_of(rows)
        except FeatureError as error:
            raise as_api_error(error) from None


def _source_of(request: Request) -> str | None:
    """Who sends a post: as it says, or the one that its key speaks for.

    Raises:
        MalformedError: If that is no name.
        ForbiddenError: If its key does not speak for that one.
    """
    raw = request.headers.get(SOURCE_HEADER.encode())
    if raw is None:
        return request.caller.own_source
    try:
        source = raw.decode()
        check_id(source, "$")
    except (UnicodeDecodeError, InvalidInput) as error:
        raise MalformedError(f"header {SOURCE_HEADER}: {error}") from None
    if not request.caller.speaks_for(source):
        raise ForbiddenError(f"header {SOURCE_HEADER}: this key does not speak for {source!r}")
    return source


def _raw_list(request: Request, envelope: Callable[[bytes], Any], name: str) -> list[Any]:
    """The raw elements of an envelope or of NDJSON lines.

    Raises:
        MalformedError: If the envelope does not parse, or holds none or too many.
    """
    if request.content_type == "application/x-ndjson":
        rows: list[Any] = [line for line in request.body.split(b"\n") if line.strip()]
    else:
        try:
            rows = getattr(envelope(request.body), name)
        except msgspec.MsgspecError as error:
            invalid = invalid_from(error)
            raise MalformedError(invalid.message, path=invalid.path) from None
    if not 1 <= len(rows) <= MAX_ROWS:
        raise MalformedError(f"Expected 1 to {MAX_ROWS} {name}, got {len(rows)}", path=f"$.{name}")
    return rows


def _decode(raw: Any) -> Item:
    try:
        return _item_of(raw)
    except msgspec.MsgspecError as error:
        raise invalid_from(error) from None


def _checked(judge: Callable[[], Any]) -> Any:
    try:
        return judge()
    except InvalidInput as error:
        kind = MalformedError if error.path == "$" and "JSON" in error.message else InvalidError
        raise kind(error.message, path=error.path) from None


def _receipt_response(receipt: Receipt, name: str) -> Response:
    """202 if anything is in the log; else 429 if that is full, 503 if it is away, 422 with the first bad field."""
    if receipt.is_confirmed:
        return json_response(receipt.as_dict(), 202)
    first = next((row for row in receipt.rejected if row["error"].get("retryable")), None)
    row = first or receipt.rejected[0]
    is_full = row["error"]["code"] == LogFull.code
    status = LogFull.status if is_full else 503 if first else 422
    error = {key: value for key, value in row["error"].items() if key != "retryable"}
    if "path" in error:
        error["path"] = f"$.{name}[{row['index']}]{error['path'][1:]}"
    headers = wire_headers(retry_after(FULL_S if is_full else 1.0)) if first else ()
    return Response(status, msgspec.json.encode({"error": error, **receipt.as_dict()}), (JSON_TYPE, *headers))


async def log_status() -> dict[str, Any]:
    """The status of the log's keeper.

    Raises:
        UnavailableError: If it is away.
    """
    try:
        status: dict[str, Any] = await asyncio.wait_for(get_keeper().status.remote(), ASK_S)
    except (RayError, ValueError, TimeoutError):
        raise UnavailableError("the keeper of the log is being restarted") from None
    del status["pid"], status["release"]
    return status


@serve.deployment(name="Events")
@serve.ingress()
class Events:
    """One replica."""

    def __init__(self, where: StoreConfig, schema: Schema, rules: SourceRules, access: AccessConfig) -> None:
        is_event_clock = where.clock == "event"
        store = connect(where, schema)
        clock = LogClock(store, is_event_clock=is_event_clock)
        bulk = bulk_of(where)
        quarantine = QuarantineKeeper(bulk, SourceWatch(rules, schema.context), clock.now_ms)
        entrance = Entrance(access, access_of(where), name_of_this_process())
        self._endpoint = EventsEndpoint(
            store,
            quarantine,
            ask_hub,
            ask_judge,
            LogSide(bulk, log_status, ask_export),
            clock.now_ms,
            entrance=entrance,
            is_event_clock=is_event_clock,
        )
        exporters = (
            Exporter(self._values),
            Exporter(lambda: source_values(quarantine.status())),
            Exporter(entrance.values),
        )
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each.run()) for each in (clock, quarantine, entrance, *exporters)]

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application."""
        return self._endpoint.app

    def _values(self) -> Mapping[str, float]:
        return {
            "headrace_events_accepted_total": self._endpoint.n_accepted,
            "headrace_events_duplicate_total": self._endpoint.n_duplicates,
            "headrace_events_quarantined_total": self._endpoint.n_quarantined,
            "headrace_events_rejected_total": self._endpoint.n_rejected,
        }
