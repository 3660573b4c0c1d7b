"""From what is asked of a system to cores, servers and bytes, by arithmetic.

    plan = Plan(Load(ranks_per_s=1000, users=1e6, items=1e5))
    plan.n_nodes, plan.n_learners, plan.n_servers

Everything follows from how the code works today and from `benchmarks.unit_costs`; nothing is measured here. Four things
make it more than multiplication: which rows a replica must read again (few items get most of the interest, and what is
written often is read often); every replica hears of every row that is written; every learner, the judge and the
projector read the whole log; and every version goes to every replica.

A *busy* figure is cores: seconds of a core in each second. Where no number of processes is enough it is infinite.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from benchmarks.popularity import F64, Popularity
from benchmarks.sizes import N_SHOWN, Sizes, sizes_of
from benchmarks.unit_costs import UnitCosts
from deployments.config import Config
from deployments.node import CORES_PER_PROXY_THREAD
from deployments.row_cache import MAX_ITEMS
from features.connect import StoreConfig
from features.encoding import N_RECENT
from features.joiner import OVERHEAD_BYTES
from features.schema import Schema
from learners.checkpoints import FULL_EVERY, N_KEPT
from learners.online import LearnerConfig
from learners.projector import FLUSH_S

SCHEMA: Final = Schema()
LEARNER: Final = LearnerConfig()
N_PARTITIONS: Final = StoreConfig(url="").n_partitions
ROWS_OF_EVENT: Final = 1 + SCHEMA.successor_span
"""Item rows that an event changes, at most: its own, and those of the items before it."""
DRAWS_OF_EVENT: Final = 1 + LEARNER.sampling.n_negatives + N_RECENT
"""Embedding rows that are trained by an event: its slate, and the history."""
VERSIONS_PER_S: Final = 1.0 / Config().offer_s
WHOLE_EVERY_S: Final = FULL_EVERY / VERSIONS_PER_S
UPKEEP_BYTES: Final = 12  # of an embedding row, in what is offered to the hub
NAME_BYTES: Final = 30  # of a row's key, on its way to a listener
COMMAND_BYTES: Final = 400  # of an event on its way to the store, beside its body


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is asked of a system."""

    ranks_per_s: float
    users: float
    items: float
    events_per_rank: float = 1.0
    n_candidates: int = 100
    exponent: float = 1.0
    """Of the popularity of items, see `Popularity`; candidates, events and negatives are all drawn by it."""
    keep_log_s: float = 3600.0
    dedupe_window_s: float = 3600.0

    @property
    def events_per_s(self) -> float:
        """Events."""
        return self.ranks_per_s * self.events_per_rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """What it runs on, and how much of that may be used."""

    node_cores: int = 8
    learning_cores: int = 4
    """Of a node that learns; each has a core for hub and projector, which only the first needs."""
    node_bytes: float = 32 * 2.0**30
    """Of every node."""
    store_bytes: float = 50e9
    """Data of one server: a machine of 64 GiB, with room for a fork and for fragments."""
    network_bytes_per_s: float = 1.25e9
    """Of a machine: 10 Gbit/s."""
    store_busy: float = 0.5
    """Of a server: rankings wait for it."""
    learner_busy: float = 0.8
    """Of a learner: it has to catch up after a restart."""
    proxy_busy: float = 0.7
    """Of each thread of a node's HAProxy; there is one for every `CORES_PER_PROXY_THREAD`."""
    intake_busy: float = 0.5
    """Of a replica of Events."""
    memory_ratio: float = 0.8
    """Of a node."""


popularity_of = lru_cache(maxsize=512)(Popularity)


@lru_cache(maxsize=1)
def default_sizes() -> Sizes:
    """Those of the default schema."""
    return sizes_of(SCHEMA)


class Plan:
    """What a load needs. Properties follow from one another."""

    def __init__(self, load: Load, machines: Machines | None = None, costs: UnitCosts | None = None) -> None:
        self.load = load
        self.machines = machines or Machines()
        self.costs = costs or UnitCosts()
        self.sizes = default_sizes()
        self._popularity = popularity_of(max(1.0, load.items), load.exponent)

    # What follows from the events, whoever there is to hear of it.

    @cached_property
    def written_each_s(self) -> F64:
        """How often one item of each bin of popularity is written: once in a flush of the projector at most."""
        touched: F64 = ROWS_OF_EVENT * self.load.events_per_s * FLUSH_S * self._popularity.shares
        return -np.expm1(-touched) / FLUSH_S

    @cached_property
    def rows_written_per_s(self) -> float:
        """Item rows the projector writes."""
        return self._popularity.distinct(ROWS_OF_EVENT * self.load.events_per_s * FLUSH_S) / FLUSH_S

    @cached_property
    def rows_trained_per_s(self) -> float:
        """Different embedding rows of items that a second of the log trains."""
        of_decisions = self.load.ranks_per_s * (N_SHOWN + N_RECENT)
        draws = self.load.events_per_s * DRAWS_OF_EVENT + of_decisions
        return min(self._popularity.distinct(draws), self.embedded_items)

    @property
    def embedded_items(self) -> float:
        """Items with an embedding row of their own."""
        return min(self.load.items, LEARNER.table.max_rows)

    @property
    def versions_bytes_per_s(self) -> float:
        """What versions bring to a node, if no row is left for later; each has all dense weights."""
        return VERSIONS_PER_S * self.sizes.weights + self.rows_trained_per_s * self.sizes.embedding_sent

    @property
    def offered_bytes_per_s(self) -> float:
        """What the hub is offered for them: optimizer and upkeep, and the item rows of a second of events."""
        items = self._popularity.distinct(ROWS_OF_EVENT * self.load.events_per_s)
        rows = self.rows_trained_per_s * (self.sizes.embedding + UPKEEP_BYTES)
        return VERSIONS_PER_S * 4 * self.sizes.weights + rows + items * self.sizes.row

    @property
    def whole_bytes(self) -> float:
        """Everything a learner knows, as the hub holds it and now and then writes it."""
        return self.embedded_items * (self.sizes.embedding + UPKEEP_BYTES) + self.load.items * self.sizes.row

    @property
    def kept_version_bytes(self) -> float:
        """Durable versions, at most: whole ones, and what came since the last but one of them."""
        return N_KEPT * self.whole_bytes + 2 * WHOLE_EVERY_S * self.offered_bytes_per_s

    @property
    def committed_bytes_per_s(self) -> float:
        """What the hub makes durable: what it is offered, and now and then everything."""
        return self.offered_bytes_per_s + self.whole_bytes / WHOLE_EVERY_S

    # Serving.

    @cached_property
    def standing_busy(self) -> float:
        """What a replica does before it has answered anything: it hears of written rows, and swaps versions."""
        return self.rows_written_per_s * self.costs.hear_row_s + self.versions_bytes_per_s * self.costs.swap_byte_s

    def rows_read_per_s(self, ranks_per_s: float) -> float:
        """Item rows that a replica reads which answers so many ranks: written since, or dropped from its cache."""
        asked_per_s = ranks_per_s * self.load.n_candidates
        dropped_each_s = asked_per_s / self._popularity.draws_until(MAX_ITEMS)
        return self._popularity.rereads_per_s(asked_per_s, self.written_each_s + dropped_each_s)

    def replica_busy(self, ranks_per_s: float) -> float:
        """Of a replica that answers so many ranks in large batches; small ones cost more, hence `calm_ratio`."""
        rank_s = self.costs.rank_s + self.load.n_candidates * self.costs.candidate_s
        rows_busy = self.rows_read_per_s(ranks_per_s) * self.costs.cache_row_s
        return self.standing_busy + ranks_per_s * rank_s + rows_busy

    @cached_property
    def ranks_per_replica(self) -> float:
        """Ranks a replica answers a second with the tail that was measured; 0 if it is busy enough without any."""
        low, high = 0.0, 1.0 / self.costs.rank_s
        if self.standing_busy >= self.costs.calm_ratio:
            return 0.0
        for _ in range(40):
            middle = (low + high) / 2.0
            is_calm = self.replica_busy(middle) <= self.costs.calm_ratio
            low, high = (middle, high) if is_calm else (low, middle)
        return low

    @property
    def n_replicas(self) -> float:
        """Replicas of the Ranker, each with a core of its own."""
        return _enough(self.load.ranks_per_s, self.ranks_per_replica)

    @property
    def replica_bytes(self) -> float:
        """Memory of a replica: all embeddings, and cached rows."""
        row_bytes = self.sizes.row_in_memory + self.costs.item_id_bytes
        embeddings = self.embedded_items * self.costs.table_row_bytes
        return self.costs.replica_bytes + embeddings + min(self.load.items, MAX_ITEMS) * row_bytes

    @property
    def replicas_per_node(self) -> int:
        """As many as there are cores beside HAProxy and Ray, as its threads carry, and as memory holds."""
        proxy_busy = self.ranks_per_replica * self.costs.proxy_s
        n_threads = max(1, self.machines.node_cores // CORES_PER_PROXY_THREAD)
        by_cores = (self.machines.node_cores - self.costs.ray_node_cores) / (1.0 + proxy_busy)
        by_proxy = n_threads * self.machines.proxy_busy / proxy_busy if proxy_busy else math.inf
        by_memory = self.machines.node_bytes * self.machines.memory_ratio / self.replica_bytes
        return math.floor(min(by_cores, by_proxy, by_memory))

    @property
    def intake_cores(self) -> float:
        """Cores of replicas of Events."""
        return self.load.events_per_s * self.costs.intake_s / self.machines.intake_busy

    @property
    def n_nodes(self) -> float:
        """Serving nodes."""
        if not self.replicas_per_node:
            return math.inf
        intake_nodes = self.intake_cores / self.machines.node_cores
        return _up(self.n_replicas / self.replicas_per_node + intake_nodes)

    # Learning.

    @property
    def learner_standing_busy(self) -> float:
        """What every learner does however many there are: it reads the whole log, and folds every event into rows."""
        costs, load = self.costs, self.load
        of_event = costs.read_event_s + costs.fold_others_event_s + costs.round_event_s
        return load.events_per_s * of_event + load.ranks_per_s * costs.read_decision_s

    @property
    def learning_busy(self) -> float:
        """What is divided among learners."""
        decision_s = (N_SHOWN + N_RECENT) * self.costs.learn_candidate_s
        event_s = self.costs.learn_event_s - self.costs.fold_others_event_s
        return self.load.events_per_s * event_s + self.load.ranks_per_s * decision_s

    @property
    def n_learners(self) -> float:
        """Learners, each with a core of its own."""
        return max(1.0, _enough(self.learning_busy, self.machines.learner_busy - self.learner_standing_busy))

    @property
    def item_table_bytes(self) -> float:
        """Rows of all items: in the projector, and in every learner."""
        return self.load.items * (self.sizes.row_in_memory + self.costs.item_id_bytes)

    @property
    def learner_bytes(self) -> float:
        """Memory of a learner."""
        return self.item_table_bytes + self.embedded_items * self.costs.table_row_bytes

    @property
    def judge_bytes(self) -> float:
        """Memory of the judge: embeddings of what answers and of the anchor."""
        return self.item_table_bytes + 2.0 * self.embedded_items * self.costs.table_row_bytes

    @property
    def learning_node_bytes(self) -> float:
        """Memory of a learning node with one learner, judge, projector and hub."""
        return self.learner_bytes + self.judge_bytes + self.item_table_bytes + self.whole_bytes

    @property
    def n_learning_nodes(self) -> float:
        """Nodes for learners, judge, projector and hub: by cores, and by how many readers' memory there is room for.

        The judge takes a core as a learner does.
        """
        room = self.machines.node_bytes * self.machines.memory_ratio - self.item_table_bytes - self.whole_bytes
        each = math.floor(min(self.machines.learning_cores - 1, room / self.judge_bytes))
        return _enough(self.n_learners + 1.0, each)

    @property
    def projector_busy(self) -> float:
        """Of the one process that reads everything, folds events and writes rows."""
        costs, load = self.costs, self.load
        of_event = costs.read_event_s + costs.project_event_s
        fold = load.events_per_s * of_event + load.ranks_per_s * costs.read_decision_s
        commits = min(N_PARTITIONS / FLUSH_S, self.rows_written_per_s) * costs.commit_s
        return fold + commits + self.rows_written_per_s * costs.write_row_s

    @property
    def hub_busy(self) -> float:
        """Of the one process that commits versions."""
        return self.committed_bytes_per_s * self.costs.hub_byte_s

    @property
    def open_decision_bytes(self) -> float:
        """Decisions whose feedback may still come, over all learners."""
        join, each = LEARNER.join, OVERHEAD_BYTES + self.sizes.state + self.sizes.decision
        return self.load.ranks_per_s * join.attribution_s * each

    # The store.

    @cached_property
    def store_busy(self) -> dict[str, float]:
        """Cores of the store, by what for."""
        load, costs = self.load, self.costs
        log_s = load.events_per_s * costs.store_read_event_s + load.ranks_per_s * costs.store_read_decision_s
        commits = min(N_PARTITIONS / FLUSH_S, self.rows_written_per_s) * costs.store_commit_s
        n_replicas = self.n_replicas if load.ranks_per_s else 0.0
        return {
            "people read": load.ranks_per_s * costs.store_read_person_s,
            "rows read": self.rows_reread_per_s * costs.store_read_row_s,
            "events": load.events_per_s * costs.store_write_event_s,
            "decisions": load.ranks_per_s * costs.store_write_decision_s,
            "log read": (2.0 + self.n_learners) * log_s,
            "rows written": commits + self.rows_written_per_s * costs.store_write_row_s,
            "replicas told": self.rows_written_per_s * n_replicas * costs.store_hear_row_s,
            "versions": self.committed_bytes_per_s * costs.store_byte_s,
        }

    @property
    def rows_reread_per_s(self) -> float:
        """Item rows that all replicas read."""
        if not self.ranks_per_replica:
            return math.inf
        return self.load.ranks_per_s / self.ranks_per_replica * self.rows_read_per_s(self.ranks_per_replica)

    @property
    def logged_bytes(self) -> tuple[float, float]:
        """Of an event and of a decision in the log, as they travel: each has a person's state beside it."""
        return self.sizes.event + self.sizes.state, self.sizes.decision + self.sizes.state

    @cached_property
    def store_bytes(self) -> dict[str, float]:
        """Memory of the store, by what for; everybody full."""
        load, costs = self.load, self.costs
        event, decision = self.logged_bytes
        return {
            "people": load.users * (self.sizes.state + costs.person_bytes),
            "items": load.items * (self.sizes.row + costs.item_bytes),
            "events in the log": load.events_per_s * load.keep_log_s * (event + costs.entry_bytes),
            "decisions in the log": load.ranks_per_s * load.keep_log_s * (decision + costs.entry_bytes),
            "ids seen": 2 * load.events_per_s * load.dedupe_window_s * costs.seen_bytes,
            "versions": self.kept_version_bytes,
        }

    @cached_property
    def store_bytes_per_s(self) -> dict[str, float]:
        """What goes to the store and comes from it, by what for."""
        load, sizes = self.load, self.sizes
        event, decision = self.logged_bytes
        n_replicas = self.n_replicas if load.ranks_per_s else 0.0
        return {
            "people read": load.ranks_per_s * sizes.state,
            "rows read": self.rows_reread_per_s * sizes.row,
            "events": load.events_per_s * (sizes.event + COMMAND_BYTES),
            "decisions": load.ranks_per_s * decision,
            "log read": (2.0 + self.n_learners) * (load.events_per_s * event + load.ranks_per_s * decision),
            "rows written": self.rows_written_per_s * sizes.row,
            "replicas told": self.rows_written_per_s * n_replicas * NAME_BYTES,
            "versions": self.committed_bytes_per_s,
        }

    @property
    def servers_by(self) -> dict[str, float]:
        """Masters it takes, if each has an equal part of everything, by what they run out of."""
        return {
            "processor": sum(self.store_busy.values()) / self.machines.store_busy,
            "memory": sum(self.store_bytes.values()) / self.machines.store_bytes,
            "network": sum(self.store_bytes_per_s.values()) / self.machines.network_bytes_per_s,
        }

    @property
    def n_servers(self) -> float:
        """Masters of the store; more than one are a Redis Cluster."""
        return _up(max(self.servers_by.values()))

    @property
    def weights_bytes_per_s(self) -> float:
        """What leaves the hub's node: each node fetches a version once, for all its replicas."""
        return self.versions_bytes_per_s * self.n_nodes


def _enough(needed: float, each: float) -> float:
    """How many it takes, of which each does so much."""
    if not needed:
        return 0.0
    return _up(needed / each) if each > 0 else math.inf


def _up(count: float) -> float:
    return math.ceil(count) if math.isfinite(count) else math.inf
