"""A learner is away for an hour of 1,000 events a second: is anything refused or lost, and how soon has it caught up?

    python -m benchmarks.bench_spill EVENTS [--hours 1] [--log-mb 256] [--json FILE]

`headrace up` as an operator would run it, with an archive and a log of so many MB, which the hour exceeds several
times. The learner is stopped (SIGSTOP) after some seconds of the stream, which goes on as fast as one sender gets it
in, 500 events a post, again and again the events of the file, with other people each time. Log time is event time, so
the hour is one for everybody who asks what time it is. Then the learner is killed: Ray starts another one, which goes
on from the last version, first in files, then in the store.

Told are the fullest that the log was, posts that were refused, what was learned in the end, and how many events were
learned in a second while catching up: so many times the thousand that arrived in one.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow as pa

from benchmarks import machine
from benchmarks.bench_quality import running
from deployments.client import Headrace, HeadraceError
from deployments.processes import HOME_VARIABLE, marked_processes, read_record
from deployments.replay import as_event, read_events
from features.archived_events import with_context

POST: Final = 500
PER_S: Final = 1000
LEAD_S: Final = 20  # of the stream that is learned before the learner is stopped
FLUSH_S: Final = 2  # of the stream that follow: a batch is over when time has passed
WAIT_S: Final = 3600.0
LOOK_S: Final = 0.2
CONFIG: Final = Path("benchmarks/globo.toml")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, help="Parquet: ts_ms, type, user, item, and context")
    parser.add_argument("--hours", type=float, default=1.0, help="that the learner is away")
    parser.add_argument("--log-mb", type=int, default=256, help="MB that the log may take")
    parser.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
    options = parser.parse_args()
    found = run(options)
    for name, value in found["measured"].items():
        print(f"{name:28} {value:>14,.1f}" if isinstance(value, float) else f"{name:28} {value:>14,}")
    machine.write_json(found, options.json)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Live through it; returns everything that is reported."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as home:
        config = Path(home) / "spill.toml"
        # Of the stream's own settings the schema: its batches are those of a stream with an event every second.
        schema = CONFIG.read_text().partition("[learner]")[0]
        config.write_text(
            f'{schema}\n[store]\narchive = "{home}/archive"\nlog_max_bytes = {options.log_mb * 1_000_000}\n'
        )
        os.environ[HOME_VARIABLE] = home
        with running(config, home) as url, Headrace(url, timeout_s=60.0) as client:
            measured = _live_through(client, _learner(url), options)
    return {
        "what": "a learner away",
        "machine": machine.facts(),
        "settings": {"hours": options.hours, "log_mb": options.log_mb},
        "measured": measured,
    }


def _live_through(client: Headrace, learner: psutil.Process, options: argparse.Namespace) -> dict[str, int | float]:
    posts, n_away = _posts(read_events(options.events)), round(options.hours * 3600 * PER_S)
    sending = Sending(client, posts)
    sending.send(LEAD_S * PER_S)
    _wait(lambda: client.get("/v1/model")["version"] > 0, "a first version")
    learner.send_signal(signal.SIGSTOP)
    n_before = client.get("/v1/model")["events"]
    began_s = time.monotonic()
    sending.send(n_away)
    sent_s = time.monotonic() - began_s
    n_all = sending.n_accepted
    sending.send(FLUSH_S * PER_S)
    log = client.get("/v1/log")
    print(f"away: {n_away:,} events in {sent_s:.0f} s, {log}", file=sys.stderr)
    learner.kill()
    began_s = time.monotonic()
    _wait(lambda: client.get("/v1/model")["events"] >= n_all, "everything is learned")
    took_s = time.monotonic() - began_s
    n_learned = client.get("/v1/model")["events"]
    return {
        "events while away": n_away,
        "sent per second": n_away / sent_s,
        "posts refused": sending.n_refused,
        "fullest log, MB": sending.fullest / 1e6,
        "entries archived": log["archived_entries"],
        "events accepted in all": sending.n_accepted,
        "events learned": n_learned,
        "caught up after, s": took_s,
        "learned per second": (n_all - n_before) / took_s,
        "times the rate of arrival": (n_all - n_before) / took_s / PER_S,
    }


class Sending:
    """Sends posts one after the other, a refused one again."""

    def __init__(self, client: Headrace, posts: Iterator[list[dict[str, Any]]]) -> None:
        self._client = client
        self._posts = posts
        self._n_posts = 0
        self.n_accepted = self.n_refused = self.fullest = 0

    def send(self, n_events: int) -> None:
        """Send some more events."""
        for _ in range(n_events // POST):
            post = next(self._posts)
            while not self._is_taken(post):
                self.n_refused += 1
                time.sleep(1.0)
            self._n_posts += 1
            if self._n_posts % 20 == 0:
                self.fullest = max(self.fullest, self._client.get("/v1/log")["bytes"])

    def _is_taken(self, post: list[dict[str, Any]]) -> bool:
        try:
            receipt = self._client.send(post)
        except HeadraceError as error:
            if error.status != 429:
                raise
            return False
        self.n_accepted += receipt["accepted"]
        return len(receipt["rejected"]) == 0


def _posts(events: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The events of a file for ever: a thousand in a second, and each time of other people."""
    first_ms, number, copy = events["ts_ms"][0].as_py(), 0, 0
    while True:
        for batch in events.to_batches(max_chunksize=POST):
            post = []
            for row in batch.to_pylist():
                event = as_event(with_context(row))
                post.append({**event, "user": f"{event['user']}-{copy}", "ts_ms": first_ms + number * 1000 // PER_S})
                number += 1
            if len(post) == POST:
                yield post
        copy += 1


def _learner(url: str) -> psutil.Process:
    record = read_record(int(url.rpartition(":")[2]))
    assert record is not None
    (found,) = [one for one in marked_processes(record.run_id) if one.name().startswith("ray::Learner")]
    return found


def _wait(check: Any, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not check():
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
