"""What does a batch cost a replica: encoding, scoring, and for comparison the network as it is learned with?

    python -m benchmarks.bench_kernels [--repeats 200]

One process, no Ray, no store: the same batch again and again, so its memory is warm; in a replica between other work
everything takes longer. Medians, by number of requests of 100 candidates.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import machine
from benchmarks.workloads import World
from features.encoding import Encoder, Inputs, Request
from features.events import LoggedEvent
from features.item_table import ItemTable
from features.schema import Schema
from features.state import apply_update, unpack, update_for
from learners.model import ModelConfig, RankingModel

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32)
N_EVENTS: Final = 20_000
START_MS: Final = 1_764_000_000_000


def live_through(world: World, schema: Schema) -> tuple[ItemTable, dict[str, bytes]]:
    """Items and people after the world's first events, a millisecond apart."""
    table, states = ItemTable(schema), dict[str, bytes]()
    for item in world.items():
        table.set_attributes(item["id"], item["attributes"])
    for row in world.events(N_EVENTS, start_ms=START_MS):
        event = LoggedEvent(row["type"], row["user"], row["item"], row["ts_ms"], 1.0, row["context"], None, None)
        state = states.get(event.user, b"")
        table.fold_events([(event, unpack(state, schema).history)])
        states[event.user] = apply_update(state, update_for(event, schema), schema)
    return table, states


def forward(model: RankingModel, inputs: Inputs) -> Any:
    """Scores by the operators that are learned with, without gradients."""
    with torch.inference_mode():
        places = model.rows_of(inputs)
        weights = {name: torch.from_numpy(table.weight) for name, table in model.tables.items()}
        return model(inputs, model.embed(inputs, weights, places))


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after a tenth as many to warm up."""
    took_s = []
    for number in range(repeats + repeats // 10):
        began_s = time.perf_counter()
        call()
        if number >= repeats // 10:
            took_s.append(time.perf_counter() - began_s)
    return 1000 * statistics.median(took_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    threadpool_limits(1)
    schema, world = Schema(), World()
    table, states = live_through(world, schema)
    encoder, model = Encoder(schema), RankingModel(schema, ModelConfig())
    bodies = [msgspec.json.decode(body) for body in world.rank_bodies(max(BATCH_SIZES))]
    requests = [
        Request(unpack(states.get(body["user"], b""), schema), body["context"], START_MS + N_EVENTS, body["candidates"])
        for body in bodies
    ]
    everything = encoder.encode(table, requests)
    for name, keys in model.met([(everything, np.ones_like(everything.mask))]).items():
        model.tables[name].meet(keys, 0)
    rows = []
    for size in BATCH_SIZES:
        some = requests[:size]
        inputs = encoder.encode(table, some)
        calls = (lambda some=some: encoder.encode(table, some), lambda i=inputs: model.score(i))
        calls = (*calls, lambda i=inputs: forward(model, i))
        rows.append([size, *(median_ms(call, repeats) for call in calls)])
    print(machine.describe(machine.facts()))
    print(machine.table(("requests", "encode ms", "score ms", "forward ms"), rows))


if __name__ == "__main__":
    main()
