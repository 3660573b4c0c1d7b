"""The nodes' front doors, seen from outside: port 8000 of every node that serves."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import httpx
import msgspec

from deployments.client import Headrace, HeadraceError
from deployments.environment import FRONT_PORT

TIMEOUT_S: Final = 5.0
N_AT_ONCE: Final = 16
PROBE: Final = "headrace-ready"


class Door(msgspec.Struct, frozen=True):
    """What a front door says."""

    problem: str = ""
    """Why it is not well; empty if it is."""
    version: int = 0
    """Of the model; 0: none yet."""
    age_ms: int = 0
    """How far the model's knowledge is behind the log's time."""


class Log(msgspec.Struct, frozen=True):
    """How full the log is; see `GET /v1/log`."""

    bytes: int
    max_bytes: int
    bytes_per_s: float
    hours_left: float | None
    archive: str
    archive_behind_s: float | None
    problems: list[str]


def look(addresses: Iterable[str], api_key: str | None) -> dict[str, Door]:
    """Ask the front doors of these nodes, all at once, for health; with a key also for the model."""
    return _ask_all(addresses, api_key, _look if api_key else _knock)


def look_at_log(addresses: Iterable[str], api_key: str) -> Log | None:
    """Ask the front doors of these nodes, one after the other, for the log that they share; None if none knows."""
    for address in sorted(addresses):
        with suppress(HeadraceError, httpx.TransportError), _client(address, api_key) as client:
            return msgspec.convert(client.get("/v1/log"), Log)
    return None


def look_at_sources(addresses: Iterable[str], api_key: str) -> list[str]:
    """Ask the front doors of these nodes what is wrong with which source of events; each knows what came to it."""
    found: dict[str, None] = {}
    for address in sorted(addresses):
        with suppress(HeadraceError, httpx.TransportError), _client(address, api_key) as client:
            found |= dict.fromkeys(client.get("/v1/sources")["problems"])
    return list(found)


def try_rank(addresses: Iterable[str], api_key: str) -> dict[str, Door]:
    """Ask the front doors of these nodes, all at once, for a ranking and for health."""
    return _ask_all(addresses, api_key, _rank)


def _ask_all(addresses: Iterable[str], api_key: str | None, ask: Callable[[Headrace], Door]) -> dict[str, Door]:
    def asked(address: str) -> Door:
        try:
            with _client(address, api_key) as client:
                return ask(client)
        except (HeadraceError, httpx.TransportError) as error:
            return Door(problem=str(error) or type(error).__name__)

    names = sorted(addresses)
    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        return dict(zip(names, pool.map(asked, names), strict=True))


def _client(address: str, api_key: str | None) -> Headrace:
    return Headrace(f"http://{address}:{FRONT_PORT}", timeout_s=TIMEOUT_S, api_key=api_key)


def _knock(client: Headrace) -> Door:
    client.get("/v1/health")
    return Door()


def _look(client: Headrace) -> Door:
    client.get("/v1/health")
    return _door(client.get("/v1/model"))


def _rank(client: Headrace) -> Door:
    client.get("/v1/health")
    return _door(client.rank(PROBE, [PROBE])["model"])


def _door(model: Mapping[str, int]) -> Door:
    return Door(version=model["version"], age_ms=model["age_ms"] if model["version"] else 0)
