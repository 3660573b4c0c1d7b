"""`headrace check-skew` over decisions that a real ranking made, with a real store: what it finds, says and returns."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from deployments.cli import main
from deployments.rank_request import RankRequest
from deployments.ranking import RankConfig, Ranking
from features.clock import WallClock
from features.connect import StoreConfig, bulk_of, connect, files_of
from features.embedded import EmbeddedServer
from features.encoding import Encoder
from features.events import START, LoggedAttributes
from features.log_files import LogFiles
from features.people import Gone, Mark
from features.projection import Projection
from features.redis_store import RedisStore
from features.schema import Schema
from features.state import apply_update, update_for
from features.store import BulkStore, Record, all_of, event_record, item_record
from learners.checkpoints import Checkpoints
from learners.online import OnlineLearner
from tests.deployments.test_ranking import FixedWeights, LastIsBest
from tests.features.examples import T0_MS, archived, event
from tests.learners.examples import CONFIG, learned

SCHEMA = Schema()
USERS, ITEMS = [f"u{n}" for n in range(6)], [f"i{n}" for n in range(12)]
N = 40


@pytest.fixture(autouse=True)
def store(empty_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreConfig]:
    """An empty store, which the command finds."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_REDIS_URL", empty_server.url)
    yield StoreConfig(url=empty_server.url, n_partitions=4, ephemeral=True)


async def with_store(config: StoreConfig, do: Callable[[RedisStore], Any]) -> Any:
    opened = connect(config, SCHEMA)
    try:
        await opened.open()
        return await do(opened)
    finally:
        await opened.close()


async def live(store: RedisStore, encoder: Encoder | None = None, n: int = N) -> None:
    """People act and are ranked for, one after the other; rows follow as the projector has them follow."""
    rng, clock, kept = np.random.default_rng(3), WallClock(), list[Record]()
    # All of it takes a tenth of a second: a row that is as old as it may be would never be read again.
    config = RankConfig(cache_s=0.005, recent_cache_s=0.005)
    scorer = LastIsBest()
    ranking = Ranking(store, FixedWeights(scorer), clock.now_ms, kept.append, config)
    if encoder is not None:
        ranking._encoder = encoder
    projection = Projection(store, SCHEMA)
    await projection.load()
    prices = [LoggedAttributes(item, {"price": 9.5}, clock.now_ms()) for item in ITEMS]
    all_of(await store.apply([item_record(price, store.keys) for price in prices]))
    for _ in range(n):
        user, item = str(rng.choice(USERS)), str(rng.choice(ITEMS))
        ts_ms = clock.now_ms() - int(rng.integers(0, 600_000))
        acted = event(user, item, type=str(rng.choice(["view", "click"])), ts_ms=ts_ms)
        all_of(await store.apply([event_record(acted, SCHEMA, store.keys)]))
        await projection.advance()
        await ranking.answer([RankRequest(str(rng.choice(USERS)), ITEMS, context={"country": "PT"})])
        all_of(await store.apply(kept))
        kept.clear()
    is_known = Encoder(SCHEMA).dense_names.index("is_known")
    assert n < N or scorer.seen[-1].dense[..., is_known].sum() > len(ITEMS) / 2


def found(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what was told a program."""
    status = main(["check-skew", "--json", *options])
    return status, msgspec.json.decode(capsys.readouterr().out)


def test_what_is_served_rightly_differs_in_nothing(store: StoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(with_store(store, live))
    status, told = found(capsys)
    assert status == 0
    assert told["decisions"]["judged"] == told["decisions"]["seen"] == N
    totals = [*told["item_features"].values(), *told["user_features"].values()]
    assert {total["differing"] for total in totals} == {0}
    assert {total["compared"] for total in told["item_features"].values()} == {N * len(ITEMS)}
    assert {total["compared"] for total in told["user_features"].values()} == {N}
    assert main(["check-skew"]) == 0
    out, err = capsys.readouterr()
    assert f"{N} of {N} decisions judged, 0 differ" in out
    assert "from the beginning of the log" in err


def test_history_that_is_lived_through_differs_in_nothing(
    store: StoreConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the event clock a ranking says when it is, and knows everything from before."""

    async def replay(opened: RedisStore) -> None:
        rng, kept = np.random.default_rng(4), list[Record]()
        config = RankConfig(cache_s=0.0, recent_cache_s=0.0)
        ranking = Ranking(opened, FixedWeights(LastIsBest()), lambda: T0_MS, kept.append, config)
        projection = Projection(opened, SCHEMA)
        await projection.load()
        for n in range(N):
            acted = event(str(rng.choice(USERS)), str(rng.choice(ITEMS)), ts_ms=T0_MS + 7_000 * n)
            all_of(await opened.apply([event_record(acted, SCHEMA, opened.keys)]))
            heads = await opened.heads()
            while projection.reached != heads:
                await projection.advance()
            await ranking.answer([RankRequest(str(rng.choice(USERS)), ITEMS, now_ms=acted.ts_ms + 3_000)])
            all_of(await opened.apply(kept))
            kept.clear()

    asyncio.run(with_store(replace(store, clock="event"), replay))
    status, told = found(capsys, "--behind-ms", "0")
    assert (status, told["decisions"]["judged"]) == (0, N)
    assert told["decisions"]["items_without_row"] < N * len(ITEMS) / 2


def test_another_half_life_is_found_named_and_shown(store: StoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    counters = [
        replace(c, half_lives_s=(150.0, *c.half_lives_s[1:])) if (c.entity, c.name) == ("item", "click") else c
        for c in SCHEMA.counters
    ]
    wrong = Encoder(replace(SCHEMA, counters=tuple(counters)))
    asyncio.run(with_store(store, lambda opened: live(opened, wrong)))
    status, told = found(capsys)
    assert status == 1
    assert [name for name, total in told["item_features"].items() if total["differing"]] == ["count:click.120s"]
    assert not any(total["differing"] for total in told["user_features"].values())
    first = told["item_features"]["count:click.120s"]["first"]
    assert first["item"] in ITEMS and first["served"] > first["high"]
    assert main(["check-skew"]) == 1
    assert first["decision"][:8] in capsys.readouterr().out


def test_fewer_decisions_are_judged_if_so_asked(store: StoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(with_store(store, live))
    _, told = found(capsys, "--sample", "4")
    assert 0 < told["decisions"]["judged"] < N / 2
    assert told["decisions"]["judged"] + told["decisions"]["not_sampled"] == N
    status, told = found(capsys, "--last-s", "0")
    assert (status, told["decisions"]["judged"], told["decisions"]["too_early"]) == (0, 0, N)


async def keep_version(store: RedisStore) -> None:
    """A version that has learned from all that is in the log, and is kept whole."""
    learner = learned(sorted(await store.read_log({}, count=10_000)), OnlineLearner(SCHEMA, CONFIG))
    files = files_of(StoreConfig(url=os.environ["HEADRACE_REDIS_URL"]))
    await Checkpoints(files, SCHEMA).replace(learner.snapshot(7))
    await files.close()


async def trim(store: RedisStore) -> None:
    await store.trim(await store.heads())


def test_of_a_log_without_its_beginning_what_came_after_a_version_is_judged(
    store: StoreConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    async def live_on(opened: RedisStore) -> None:
        await live(opened)
        await keep_version(opened)
        await trim(opened)
        await live(opened)

    asyncio.run(with_store(store, live_on))
    status, told = found(capsys, "--behind-ms", "0")
    assert told["decisions"]["judged"] == N
    assert not any(total["differing"] for total in told["user_features"].values())
    assert status == int(any(total["differing"] for total in told["item_features"].values()))
    assert main(["check-skew"]) == 0
    assert "from version 7, of " in capsys.readouterr().err


def test_without_its_beginning_and_without_a_version_it_is_said_what_is_missing(
    store: StoreConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    async def live_and_trim(opened: RedisStore) -> None:
        await live(opened, n=3)
        await trim(opened)

    asyncio.run(with_store(store, live_and_trim))
    assert main(["check-skew"]) == 1
    assert "the beginning of the log is gone" in words(capsys)


async def erase_from_log(store: RedisStore, bulk: BulkStore, user: str) -> None:
    """As an erasure does, once everybody has read."""
    heads = await store.heads()
    entries = await store.read_log({}, count=10_000)
    partition = store.keys.user_partition(user)
    gone = Gone({user: Mark(partition, heads[partition])})
    await bulk.note_erased(partition, heads[partition])
    await bulk.drop_entries(partition, [entry.id for entry in entries if gone.has(entry)], [])
    await bulk.put_users(partition, {user: b""}, heads[partition])


def test_where_somebody_was_erased_it_begins_with_a_version_that_is_past_it(
    store: StoreConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    async def live_and_erase(opened: RedisStore) -> None:
        await live(opened)
        bulk = bulk_of(store)
        await erase_from_log(opened, bulk, USERS[0])
        await bulk.close()

    async def live_on(opened: RedisStore) -> None:
        await live(opened)
        await keep_version(opened)
        await live(opened)

    asyncio.run(with_store(store, live_and_erase))
    assert main(["check-skew"]) == 1
    assert "or somebody was erased" in words(capsys)
    asyncio.run(with_store(store, live_on))
    assert main(["check-skew"]) == 0
    assert "from version 7, of " in capsys.readouterr().err


def test_with_an_archive_it_goes_back_to_where_that_begins(
    store: StoreConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def live_archive_and_trim(opened: RedisStore) -> None:
        await live(opened)
        bulk = bulk_of(store)
        await archived(opened, bulk, LogFiles(str(tmp_path)))
        await bulk.close()
        await trim(opened)

    asyncio.run(with_store(store, live_archive_and_trim))
    status, told = found(capsys, "--archive", str(tmp_path))
    assert (status, told["decisions"]["judged"]) == (0, N)


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_history_before_the_log_is_noticed(store: StoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    async def live_after_history(opened: RedisStore) -> None:
        before = apply_update(b"", update_for(event(USERS[0], "a"), SCHEMA), SCHEMA)
        (partition,) = {opened.keys.user_partition(USERS[0])}
        bulk = bulk_of(store)
        await bulk.put_users(partition, {USERS[0]: before}, START)
        await bulk.close()
        await live(opened)

    asyncio.run(with_store(store, live_after_history))
    assert main(["check-skew"]) == 1
    assert f"user '{USERS[0]}' was known before the log began" in words(capsys)


def test_who_stops_it_is_told_what_was_found_so_far(store: StoreConfig, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(with_store(store, live))
    is_over, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def stop() -> None:
        while signal.getsignal(signal.SIGINT) is before and not is_over.wait(0.0005):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=stop)
    stopper.start()
    status = main(["check-skew"])
    is_over.set()
    stopper.join()
    out, err = capsys.readouterr()
    assert status == 130
    assert "decisions judged" in out and "stopped" in err


def test_without_a_store_or_with_another_schema_it_is_said_what_to_do(
    store: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(with_store(store, trim))
    (tmp_path / "other.toml").write_text("[schema]\nn_recent = 5\n")
    assert main(["check-skew", "--config", str(tmp_path / "other.toml")]) == 1
    assert "give its --config" in words(capsys)
    monkeypatch.delenv("HEADRACE_REDIS_URL")
    assert main(["check-skew", "--port", "1"]) == 1
    assert "nothing runs on port 1" in words(capsys)
