"""What one of everything costs, and where each figure is from: all that `benchmarks.capacity` takes for granted.

Seconds are of one core of the machines named in `LOG.md` (two cores of a virtual machine, Xeon or EPYC): another
processor has others, so measure there before money is spent. Nothing here was measured on more than one machine, and
the loops behind most figures were hot: between other work the same code was seen to take up to twice as long.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitCosts:
    """Seconds of a core and bytes. `store` is the server's side, the others are processes of ours."""

    # A replica. `bench_serving` at fdce731: 3,704, 2,420 and 754 ranks/s saturate it with 10, 100 and 500 candidates.
    rank_s: float = 0.22e-3
    """Of a rank, whatever it asks for."""
    candidate_s: float = 2.1e-6
    """Of each candidate besides, its row in the cache."""
    calm_ratio: float = 0.42
    """Share of what saturates a replica at which p99 stays below 6 ms: 980 of 2,420/s (README)."""
    cache_row_s: float = 7.6e-6
    """Of an item row that is read into the cache: 2.5 for the reply, 5.1 for the row (`bench_store`)."""
    hear_row_s: float = 0.4e-6
    """Of a row that was written somewhere: every replica hears of every one (`bench_store`)."""
    swap_byte_s: float = 4.2e-9
    """Of each byte of a version: 1.2 ms for 0.58 MB in a hot loop (LOG, 2026-11-28), twice that between other work."""

    # What stands in front of it and beside it.
    proxy_s: float = 0.11e-3
    """HAProxy's, of a rank that passes: 11 % of a core for 900 ranks and 10 posts a second (LOG, the same). Of one
    thread; several were never measured."""
    intake_s: float = 25e-6
    """Of an event in `POST /v1/events`: a quarter of a core for 10,000/s in large posts (LOG, "Idle scheduling")."""
    ray_node_cores: float = 0.3
    """Ray's own on a node: 8 % of a core and bursts of one (LOG, the same), rounded up."""

    # The store: `bench_store`, LOG of "What the store costs". It does one thing at once: a server has one core.
    store_read_person_s: float = 9.4e-6
    """When many ask at once; 37 of a lone question."""
    store_read_row_s: float = 1.3e-6
    store_write_event_s: float = 37e-6
    store_write_decision_s: float = 30e-6
    store_read_event_s: float = 1.9e-6
    """Of an event that is read in the log, by every reader."""
    store_read_decision_s: float = 7e-6
    store_write_row_s: float = 13e-6
    store_commit_s: float = 50e-6
    """Of the item rows of one partition that are written together, besides the rows."""
    store_hear_row_s: float = 0.3e-6
    """Of a written row, for each listener; a difference of larger figures, 0.15 to 0.6."""
    store_byte_s: float = 0.4e-9
    """Of a byte of versions: a tenth of a millisecond for 256 KiB (`features/store_files.py`)."""

    # Projector and learners.
    read_event_s: float = 5e-6
    """Of an event that comes out of the log (`bench_store`), for each of them."""
    read_decision_s: float = 7.4e-6
    project_event_s: float = 29e-6
    """The projector's between reading an event and writing rows (`bench_store`). In place, four small flushes a second
    beside other work, all it does was seen to take 20 % of a core at 1,000 events/s, where these figures say 7."""
    write_row_s: float = 3.6e-6
    """The projector's, of sending a row (`bench_store`)."""
    commit_s: float = 70e-6
    learn_event_s: float = 75e-6
    """A slate of 25 with a history of 20: 13,210 and 13,510/s (README, `bench_learning`)."""
    learn_candidate_s: float = 3e-6
    """A twenty-fifth of it, for decisions: their own speed was never measured."""
    fold_others_event_s: float = 4.4e-6
    """A learner's, of an event another one learns from: 2.2 us an event of two (LOG, "page faults")."""
    round_event_s: float = 2.3e-6
    """Ends of rounds and packing, of each event of the log (LOG, the same; of two learners)."""
    hub_byte_s: float = 2.5e-9
    """The hub's, of each byte it is offered: 7.6 ms for 3 MB (LOG, "bursts of others")."""

    # Memory.
    person_bytes: float = 120.0
    """The server's beside a state, the key included (`bench_store`, Valkey 9); likewise the others."""
    item_bytes: float = 95.0
    entry_bytes: float = 120.0
    seen_bytes: float = 41.0
    """Of an event's id; Redis 7 takes twice that."""
    table_row_bytes: float = 237.0
    """Of an embedding row with everything that finds it and learns it (README, `bench_tables`)."""
    item_id_bytes: float = 150.0
    """Python's, of an item in a table beside its row: its id, and its places in a list and a dictionary."""
    replica_bytes: float = 0.6e9
    """A Ranker with a few thousand items (LOG, ten minutes: 588 MiB)."""
