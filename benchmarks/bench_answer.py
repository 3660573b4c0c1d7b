"""What does an answer cost a replica, Ray and HTTP apart: reads, encoding, scoring, composing, logging the decision?

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.bench_answer [--seconds 5]

One process with a store of its own on the same machine. Every batch is of other people and other candidates, so its
memory is no warmer than a replica's: what `bench_kernels` shows in a hot loop takes twice as long here. Latency is the
median of a batch; processor time is the process's, the appending of decisions included.
"""

import argparse
import asyncio
import statistics
import time
from typing import Final

import msgspec
import numpy as np
import redis
import uvloop
from threadpoolctl import threadpool_limits

from benchmarks import machine
from benchmarks.bench_kernels import N_EVENTS, START_MS, live_through
from benchmarks.workloads import World
from deployments.decision_log import DecisionLog
from deployments.rank_request import RankRequest
from deployments.ranking import RankConfig, Ranking
from deployments.warm_up import MadeUpWeights
from features.embedded import EmbeddedServer
from features.encoding import Encoder, Request
from features.item_table import ItemTable
from features.keys import Keys
from features.redis_store import RedisStore
from features.schema import Schema
from features.state import unpack
from learners.online import LearnerConfig, OnlineLearner
from learners.publisher import Publisher

BATCH_SIZES: Final = (1, 2, 4, 8, 16)
N_BODIES: Final = 512
WARMUP_S: Final = 1.0
NOW_MS: Final = START_MS + N_EVENTS


def fill(keys: Keys, url: str, table: ItemTable, states: dict[str, bytes]) -> None:
    """Put rows and states where a replica reads them."""
    values = {keys.item(item): table.pack(row) for item, row in table.rows.items() if item}
    values |= {keys.user(user): state for user, state in states.items()}
    with redis.Redis.from_url(url) as client:
        client.mset(values)


def weights(schema: Schema, table: ItemTable, states: dict[str, bytes], requests: list[RankRequest]) -> MadeUpWeights:
    """Untrained weights that know every item there is."""
    learner = OnlineLearner(schema, LearnerConfig())
    asked = [
        Request(unpack(states.get(request.user, b""), schema), request.context, NOW_MS, request.candidates)
        for request in requests
    ]
    inputs = Encoder(schema).encode(table, asked)
    for name, keys in learner.model.met([(inputs, np.ones_like(inputs.mask))]).items():
        learner.tables[name].meet(keys, 0)
    made_up, draft = MadeUpWeights.of(schema), Publisher("benchmark", 0).draft(learner.snapshot(1))
    for _ in made_up.live.apply(draft.head, draft.parts):
        pass
    return made_up


async def answer_for(ranking: Ranking, requests: list[RankRequest], size: int, seconds: float) -> tuple[float, float]:
    """Batch after batch; median latency of one, and processor time a request, in ms."""
    took_s: list[float] = []
    began_s, cpu_s, at = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began_s + seconds:
        some = [requests[(at + place) % len(requests)] for place in range(size)]
        asked_s = time.perf_counter()
        await ranking.answer(some)
        took_s.append(time.perf_counter() - asked_s)
        at += size
        await asyncio.sleep(0)
    return 1000 * statistics.median(took_s), 1000 * (time.process_time() - cpu_s) / at


async def measure(url: str, seconds: float) -> list[list[float]]:
    """A row for each size of a batch."""
    schema, world = Schema(), World()
    table, states = live_through(world, schema)
    requests = [msgspec.json.decode(body, type=RankRequest) for body in world.rank_bodies(N_BODIES)]
    store = RedisStore(url, schema, ephemeral=True)
    await store.open()
    fill(store.keys, url, table, states)
    log = DecisionLog(store)
    ranking = Ranking(store, weights(schema, table, states, requests), lambda: NOW_MS, log.keep, RankConfig())
    tasks = [asyncio.create_task(ranking.follow_rows()), asyncio.create_task(log.run())]
    rows = []
    for size in BATCH_SIZES:
        await answer_for(ranking, requests, size, WARMUP_S)
        rows.append([size, *await answer_for(ranking, requests, size, seconds)])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_answer", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size of a batch")
    seconds = parser.parse_args().seconds
    threadpool_limits(1)
    with EmbeddedServer() as server:
        rows = uvloop.run(measure(server.url, seconds))
    print(machine.describe(machine.facts()))
    print(machine.table(("requests", "batch ms", "processor ms a request"), rows))


if __name__ == "__main__":
    main()
