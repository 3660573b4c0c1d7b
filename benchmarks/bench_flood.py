"""One person in a hundred clicks one item a thousand times: where does it stand for all the others?

    python -m benchmarks.bench_flood [--clicks 1000] [--share 0.01] [--seconds 1800] [--seed 1] [--json [FILE]]
                                     [--plot FILE.png] [--config benchmarks/simulated.toml]

One simulated stream (`benchmarks.simulator`, without a change), lived through as `headrace evaluate` does: what serves
is up to date at every instant. From a third of it on, within a minute, a `share` of the people click an item of
middling popularity, and do nothing else from then on.

    undisturbed   they do not
    once          each clicks it once, as if it were in fashion
    few           each clicks it `per_item` times (`schema.Voice`), as fast as in a flood
    flood         each clicks it `clicks` times: as good as `few`, to the bit
    evading       each clicks as many others, any, in between as a history holds, until none of it is heard any more,
                  and as often again
    no bound      `flood` and `evading`, and everything counts

Shown: every half minute the mean rank of the item among a hundred candidates, the others drawn by the root of their
counts, for a panel of the other people: before, at best since, and at the end; and by how many places that is better
than undisturbed. The same by popularity alone, as it ranks while there is no model. Of what the others click from then
on, MRR@10 among a hundred candidates. *Heard* is how many of the events count.

NOT shown: people who are made up. Each has a voice; what bounds them is the rate of the key that sends for them.
"""

import argparse
import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import benchmarks
from benchmarks import machine, plotting
from benchmarks.simulator import SimulatorConfig, simulate
from deployments.config import Config, load_config
from features.events import LoggedEvent
from features.schema import Schema, Voice
from features.state import apply_update, update_for
from features.voice import Voices
from learners.answers import true_columns
from learners.evaluation import Evaluation, in_time_order, one_thread
from learners.memory import keep_memory
from learners.metrics import reciprocal_ranks

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
FREE: Final = Voice(per_item=2**31, burst=1e12, late_s=1e9, max_value=1e12)
UNDISTURBED: Final = "undisturbed"
RUNS: Final = {
    UNDISTURBED: ("", True),
    "once": ("once", True),
    "few": ("few", True),
    "flood": ("flood", True),
    "evading": ("evading", True),
    "flood, no bound": ("flood", False),
    "evading, no bound": ("evading", False),
}
"""By name: what the flooders do, and whether there is a bound."""
MOVES: Final = ("moved", "moved_most", "moved_last", "plain_moved", "plain_moved_most", "plain_moved_last")
STEP_S: Final = 30
FLOOD_S: Final = 60
N_PANEL: Final = 200
N_CANDIDATES: Final = 100


class World:
    """What everybody does, what the flooders do beside it, and who is asked about what."""

    def __init__(self, config: SimulatorConfig, schema: Schema, share: float, n_clicks: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        self._schema, self._seed = schema, seed
        self.n_clicks = n_clicks
        self.start_ms = config.start_ms + round(1000 * config.end_s / 3)
        self.end_ms = config.start_ms + round(1000 * config.end_s)
        self.flooders = rng.permutation(config.n_people)[: max(1, round(share * config.n_people))]
        lived = simulate("swap", replace(config, change_s=config.end_s), seed)
        is_theirs, is_before = self._parts(lived.events)
        self.events = lived.events.filter(pa.array(~is_theirs | is_before))
        is_theirs, is_before = self._parts(lived.queries)
        self.queries = lived.queries.filter(pa.array(~is_theirs & ~is_before))
        before = self.events.filter(pa.array(self.events["ts_ms"].to_numpy() < self.start_ms))
        count = np.bincount(before["item"].to_numpy())
        known = np.flatnonzero(count)
        self.item = int(known[np.argsort(count[known], kind="stable")[len(known) // 2]])
        self.others = rng.permutation(known[known != self.item])
        people = np.setdiff1d(before["user"].to_numpy(), self.flooders)
        self.panel = [self._asked(rng, user, np.sqrt(count)) for user in rng.permutation(people)[:N_PANEL]]

    def stream(self, what: str) -> pa.Table:
        """Everything that happens, in time order."""
        flood = [self._flood(number, what) for number in range(len(self.flooders))]
        ts_ms, users, items = (np.concatenate(parts) for parts in zip(*flood, strict=True))
        rows = {"ts_ms": ts_ms, "type": ["click"] * len(ts_ms), "user": users, "item": items}
        # `session` and `segment` say nothing of a flooder.
        rows |= {name: pa.nulls(len(ts_ms), self.events[name].type) for name in ("session", "segment")}
        whole = pa.concat_tables([self.events, pa.table(rows, self.events.schema)]).unify_dictionaries()
        return whole.take(pa.array(np.argsort(whole["ts_ms"].to_numpy(), kind="stable")))

    def _parts(self, table: pa.Table) -> tuple[Bools, Bools]:
        """Which rows are of flooders, and which of before the flood."""
        return np.isin(table["user"].to_numpy(), self.flooders), table["ts_ms"].to_numpy() < self.start_ms

    def _flood(self, number: int, what: str) -> tuple[I64, I64, I64]:
        """Times, people and items of what one flooder does."""
        voice, n_between = self._schema.voice, self._schema.n_recent
        if what == "evading":
            n = 2 * int(1 + voice.burst + voice.per_hour * 0.5)
            rng = np.random.default_rng([self._seed, 3, number])
            rounds = [[self.item, *rng.permutation(self.others)[:n_between]] for _ in range(1 + n // (1 + n_between))]
            item = np.concatenate(rounds)[:n]
        else:
            item = np.full({"": 0, "once": 1, "few": voice.per_item, "flood": self.n_clicks}[what], self.item)
        n = self.n_clicks if what != "evading" else len(item)
        ts_ms = self.start_ms + number + np.arange(len(item)) * (1000 * FLOOD_S // n)
        return ts_ms, np.full(len(item), self.flooders[number]), item

    def _asked(self, rng: np.random.Generator, user: int, weight: F64) -> dict[str, Any]:
        """A query of a person; the item is the first candidate."""
        clock = rng.exponential(size=len(self.others)) / weight[self.others]
        others = self.others[np.argsort(clock)[: N_CANDIDATES - 1]]
        return {"user": int(user), "candidates": [self.item, *others.tolist()]}


async def live_through(world: World, config: Config, what: str, *, is_bound: bool) -> dict[str, Any]:
    """One run: mean rank of the item, step by step, and how many of the flooders' events are heard."""
    schema = config.schema if is_bound else replace(config.schema, voice=FREE)
    stream = world.stream(what)
    run = Evaluation(stream, schema, config.learner)
    times_ms = range(world.start_ms - 4 * 1000 * STEP_S, world.end_ms + 1, 1000 * STEP_S)
    ranks, plain_ranks, scores = list[float](), list[float](), list[NDArray[np.float32]]()
    queries = in_time_order(world.queries)
    query = next(queries, None)
    for now_ms in times_ms:
        while query is not None and query["ts_ms"] < now_ms:
            await run.advance(query["ts_ms"])
            scores.append(run.score(await run.request(query)))
            query = next(queries, None)
        await run.advance(now_ms)
        requests = [await run.request({**asked, "ts_ms": now_ms}) for asked in world.panel]
        inputs = run.encoder.encode(run.rows, requests)
        ranks.append(mean_rank(run.model.score(inputs)))
        plain_ranks.append(mean_rank(run.encoder.popularity(inputs)))
    return {
        "since_s": [(ms - world.start_ms) / 1000 for ms in times_ms],
        "ranks": ranks,
        "plain_ranks": plain_ranks,
        "mrr": float(reciprocal_ranks(np.array(scores, np.float64), true_columns(world.queries)[: len(scores)]).mean()),
        "told": stream.num_rows - world.events.num_rows,
        "heard": n_heard(world, stream, schema),
    }


def mean_rank(scores_QK: NDArray[np.floating[Any]]) -> float:
    """Of the first candidate, from 1 on; ties count half."""
    first, others = scores_QK[:, :1], scores_QK[:, 1:]
    return float((1.0 + (others > first).sum(axis=1) + 0.5 * (others == first).sum(axis=1)).mean())


def n_heard(world: World, stream: pa.Table, schema: Schema) -> int:
    """How many of the flooders' events count for others, from the start of the flood on."""
    voices, states, n = Voices(schema), dict[str, bytes](), 0
    theirs = stream.filter(pa.array(np.isin(stream["user"].to_numpy(), world.flooders)))
    for row in theirs.select(["type", "user", "item", "ts_ms"]).to_pylist():
        event = LoggedEvent(row["type"], str(row["user"]), str(row["item"]), row["ts_ms"], 1.0, {}, None, None)
        before = states.get(event.user, b"")
        n += event.ts_ms >= world.start_ms and voices.has_voice(event, before)
        states[event.user] = apply_update(before, update_for(event, schema), schema)
    return n


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through every run."""
    keep_memory()
    config, began_s = load_config(options.config), time.monotonic()
    world = World(SimulatorConfig(end_s=options.seconds), config.schema, options.share, options.clicks, options.seed)
    found = {}
    for name, (what, is_bound) in RUNS.items():
        with one_thread():
            found[name] = asyncio.run(live_through(world, config, what, is_bound=is_bound))
        print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return {
        "what": "where a flooded item stands for all who do not flood it",
        "machine": machine.facts("numba"),
        "settings": {
            "clicks": options.clicks,
            "share": options.share,
            "flooders": len(world.flooders),
            "seconds": options.seconds,
            "seed": options.seed,
            "config": options.config.name,  # no path: results are read elsewhere
        },
        "took_s": time.monotonic() - began_s,
        "runs": {name: one | moved(one, found[UNDISTURBED]) for name, one in found.items()},
    }


def moved(found: dict[str, Any], undisturbed: dict[str, Any]) -> dict[str, float]:
    """By how many places the item stands better than undisturbed: on the average since then, at most, in the end."""
    is_since, moves = np.array(found["since_s"]) > 0, {}
    for name, ranks in (("moved", "ranks"), ("plain_moved", "plain_ranks")):
        places = (np.array(undisturbed[ranks]) - np.array(found[ranks]))[is_since]
        moves |= {name: float(places.mean()), f"{name}_most": float(places.max()), f"{name}_last": float(places[-1])}
    return moves


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(
        f"\n{machine.describe(found['machine'])}; {found['took_s']:.0f} s, {found['settings']['flooders']} flooders\n"
    )
    moves = ("moved", "at most", "in the end")
    header = ("run", "told", "heard", "rank before", "best since", "at the end", *moves)
    header = (*header, *(f"by popularity {move}" for move in moves), "MRR@10 of the others")
    rows = []
    for name, one in found["runs"].items():
        since = [rank for at_s, rank in zip(one["since_s"], one["ranks"], strict=True) if at_s > 0]
        ranks = [f"{rank:.1f}" for rank in (one["ranks"][0], min(since), since[-1])]
        rows.append(
            [name, one["told"], one["heard"], *ranks, *(f"{one[at]:+.1f}" for at in MOVES), f"{one['mrr']:.4f}"]
        )
    print(machine.table(header, rows))


def plot(found: dict[str, Any], path: Path) -> None:
    """The mean rank over time."""
    runs = found["runs"]
    panels = [
        {
            "label": f"mean rank, {whose}",
            "times_s": runs[UNDISTURBED]["since_s"],
            "series": {name: one[ranks] for name, one in runs.items()},
        }
        for whose, ranks in (("by the model", "ranks"), ("by popularity", "plain_ranks"))
    ]
    settings = found["settings"]
    title = f"{settings['share']:.0%} of the people click an item {settings['clicks']:,} times: its rank for the others"
    plotting.plot_series(panels, title, machine.describe(found["machine"]), path, along="seconds since the flood began")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_flood", description=__doc__.partition("\n")[0])
    parser.add_argument("--clicks", type=int, default=1000, help="of each flooder")
    parser.add_argument("--share", type=float, default=0.01, help="of the people who flood")
    parser.add_argument("--seconds", type=int, default=1800, help="of the stream")
    parser.add_argument("--seed", type=int, default=1, help="of the stream")
    parser.add_argument(
        "--config", type=Path, default=Path(benchmarks.__file__).parent / "simulated.toml", help="TOML file"
    )
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    parser.add_argument("--plot", type=Path, help="write a picture there")
    options = parser.parse_args()
    if options.seconds < 10 * FLOOD_S:
        parser.error(f"--seconds: expected {10 * FLOOD_S} or more, got {options.seconds}")
    found = run(options)
    report(found)
    if options.plot is not None:
        print(plotting.absence() or plot(found, options.plot) or f"plot: {options.plot}")
    machine.write_json(found, options.json)


if __name__ == "__main__":
    main()
