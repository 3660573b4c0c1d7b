"""The house as strangers see it: both applications behind one door, over a store in memory, without Ray.

What is there is there for good: people with a history, items with rows, versions, a source in quarantine.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from deployments.entrance import Entrance
from deployments.erasure_routes import LogSide
from deployments.errors import InvalidError, UnavailableError
from deployments.events import EventsEndpoint
from deployments.gate import AccessConfig, KeyGate
from deployments.http import App, Message, Receive, Scope, Send
from deployments.ranker import RankEndpoint
from features.access import ADMIN, Action, new_key, new_token
from features.access_store import MemoryAccessStore
from features.erasures import Erased, Erasing
from features.errors import FeatureError, StoreUnavailable
from features.item_table import ItemTable
from features.memory_store import MemoryStore
from features.quarantine import QuarantineKeeper
from features.schema import Schema
from features.source_watch import SourceWatch
from features.sources import Quarantine, SourceRules
from features.state import describe, unpack
from features.store import Applied, Read, Record
from tests.deployments.test_ranking import ranking
from tests.features.examples import T0_MS, click

Mood = Literal["well", "full", "away"]
TOKEN: Final = new_token()
"""Of a key that may do everything."""
KEY: Final = {"authorization": f"Bearer {TOKEN}"}
ITEMS: Final = ("a", "b", "c", "läden/1")
KEPT: Final = (3, 4, 7)


class MoodyStore(MemoryStore):
    """A store that can be full, or away."""

    mood: Mood = "well"

    async def apply(self, records: Sequence[Record]) -> list[Applied | FeatureError]:
        """As the store's, while it is there."""
        if self.mood == "away":
            return [StoreUnavailable("the store is away")] * len(records)
        self.limit_log(1 if self.mood == "full" else 0)
        return await super().apply(records)

    async def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[Read], list[Read]]:
        """As the store's, while it is there."""
        if self.mood == "away":
            gone = StoreUnavailable("the store is away")
            return [gone] * len(users), [gone] * len(items)
        return await super().read(users, items)

    async def quarantined(self) -> dict[str, Quarantine]:
        """As the store's, while it is there."""
        self.see()
        return await super().quarantined()

    async def quarantine(self, source: str, quarantine: Quarantine) -> bool:
        """As the store's, while it is there."""
        self.see()
        return await super().quarantine(source, quarantine)

    async def release(self, source: str) -> bool:
        """As the store's, while it is there."""
        self.see()
        return await super().release(source)

    async def erasure(self, name: str) -> Erasing | Erased | None:
        """As the store's, while it is there."""
        self.see()
        return await super().erasure(name)

    def see(self) -> None:
        """Raise, if it is away."""
        if self.mood == "away":
            raise StoreUnavailable("the store is away")


class MoodyRecord(MemoryAccessStore):
    """Keys and actions, which are away with a store."""

    def __init__(self, store: MoodyStore) -> None:
        super().__init__()
        self._store = store

    async def note_action(self, action: Action) -> None:
        """Keep an action, while the store is there."""
        self._store.see()
        await super().note_action(action)

    async def actions(self, count: int) -> list[Action]:
        """The newest actions, while the store is there."""
        self._store.see()
        return await super().actions(count)


class Hub:
    """Versions, as the hub tells of them."""

    def __init__(self, store: MoodyStore) -> None:
        self._store = store
        self._pinned: dict[str, Any] | None = None

    async def ask(self, method: str, *arguments: Any, wait_s: float = 2.0) -> Any:
        """Call a method by its name.

        Raises:
            InvalidError, UnavailableError: As `deployments.versions.ask_hub`.
        """
        del wait_s
        if self._store.mood == "away":
            raise UnavailableError("the model hub is being restarted")
        return getattr(self, f"_{method}")(*arguments)

    def _status(self) -> dict[str, Any]:
        figures = {"version": 7, "live": 7, "trained_through_ms": T0_MS, "events": 900, "examples": 400}
        judged = {"reasons": [], "anchor": 3, "figures": {"examples": 40}}
        told = {"progressive": {"mrr": 0.3}, "state": "live", "pinned": self._pinned, "held": None, "judged": judged}
        return {**figures, **told, "publishing": {"commit_ms": 2.5}, "pid": 1, "release": "1"}

    def _versions(self) -> dict[str, Any]:
        line = {"what": "published", "first": 1, "last": 7, "since_ms": 1, "until_ms": T0_MS, "who": "judge", "why": ""}
        return {"current": 7, "live": 7, "pinned": self._pinned, "kept": list(KEPT), "history": [line]}

    def _rollback(self, version: int | None, who: str, why: str) -> int:
        version = 7 if version is None else version
        if version not in KEPT:
            raise InvalidError(f"version {version} is not kept; kept are {KEPT}", path="$.version")
        self._pinned = {"version": version, "who": who, "why": why, "at_ms": T0_MS}
        return version

    def _resume(self, _who: str, _why: str) -> int:
        self._pinned = None
        return 7


class House:
    """The ASGI application; `n_asked` counts requests by method and route, `n_answered` answers by status.

    Args:
        mood: Of the store, and of whatever else is asked.
    """

    def __init__(self, mood: Mood = "well") -> None:
        self.store = MoodyStore(Schema())
        self.n_asked: Counter[tuple[str, str]] = Counter()
        self.n_answered: Counter[int] = Counter()
        self._mood = mood
        self._is_furnished = False
        hub = Hub(self.store)
        keeper = QuarantineKeeper(self.store, SourceWatch(SourceRules(), Schema().context), lambda: T0_MS)
        record = MoodyRecord(self.store)
        entrance = Entrance(AccessConfig(keys="on"), record, "house", now_ms=lambda: T0_MS)
        asked = hub.ask, self._judge, LogSide(self.store, self._log_status, self._export), lambda: T0_MS
        assert isinstance(entrance.gate, KeyGate)
        self._record, self._gate = record, entrance.gate
        self._rank: App = RankEndpoint(ranking(self.store)[0], deadline_ms=1000, app=entrance.app()).app
        self._events: App = EventsEndpoint(self.store, keeper, *asked, entrance=entrance, is_event_clock=False).app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope, by whoever HAProxy would ask."""
        if scope["type"] == "http":
            await self._furnish()
            self.n_asked[scope["method"], route_of(scope["path"])] += 1

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.n_answered[message["status"]] += 1
            await send(message)

        await (self._rank if scope["path"] == "/v1/rank" else self._events)(scope, receive, counted)

    async def _furnish(self) -> None:
        if self._is_furnished:
            return
        self._is_furnished = True
        table, keys = ItemTable(self.store.schema), self.store.keys
        await self.store.apply([click("u1", item) for item in ITEMS])
        table.fold(await self.store.read_log({}, count=len(ITEMS)))
        for item in ITEMS:
            await self.store.commit_rows(
                keys.item_partition(item), {item: table.pack(table.rows[item])}, expected={}, reached={}
            )
        await self.store.quarantine("kiosk", Quarantine("ann", "it sends everything twice", T0_MS))
        await self._record.put_key(new_key(TOKEN, "ann", (ADMIN,), made_ms=T0_MS))
        await self._gate.look()
        self.store.mood = self._mood

    async def _judge(self) -> dict[str, dict[str, Any]]:
        return {"kiosk": {"slates": 90, "agreement": 0.3, "in_doubt": True}}

    async def _log_status(self) -> Mapping[str, Any]:
        if self.store.mood == "away":
            raise UnavailableError("the keeper of the log is being restarted")
        behind: dict[str, Any] = {"archive": "", "archived_entries": 0, "archive_behind_s": None, "problems": []}
        erasures = {"erasures": 0, "erasures_wait": ""}
        return {"bytes": 1000, "max_bytes": 0, "bytes_per_s": 1.5, "hours_left": None, **behind, **erasures}

    async def _export(self, user: str) -> bytes | None:
        if self.store.mood == "away":
            raise UnavailableError("the keeper of the log is being restarted")
        if user == "full":
            return None
        state = describe(unpack((await self.store.read([user], []))[0][0], Schema()), Schema(), T0_MS)  # type: ignore[arg-type]
        return msgspec.json.encode({"log_ms": T0_MS, "user": user, "state": state}) + b"\n"


def route_of(path: str) -> str:
    """The route that a path is of; others all count as one."""
    known = ("rank", "events", "items", "model", "model/versions", "model/rollback", "model/resume", "sources")
    more = ("sources/quarantine", "sources/release", "log", "audit", "health", "openapi.json")
    name = path.removeprefix("/v1/")
    for entity in ("items", "users", "erasures"):
        if name.startswith(f"{entity}/"):
            is_export = entity == "users" and name.endswith("/export") and name.count("/") > 1
            return f"/v1/{entity}/{{id}}{'/export' if is_export else ''}"
    return f"/v1/{name}" if name in known + more else "other"
