"""`headrace`: the command line. Parses arguments, and leaves the work to the module of the command.

That one is imported only then: what a node of a cluster is asked at its start must not wait for torch.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from deployments.arguments import (
    add_address,
    add_attributes,
    add_config,
    add_queries,
    command,
    count,
    here_or_there,
    lazily,
    milliseconds,
    seconds,
    speed,
)
from deployments.client import HeadraceError
from deployments.errors import ApiError, ClusterError, ConfigError
from deployments.terminal import console
from features.errors import FeatureError

EVENTS = "Parquet: a file, a folder, or the URL of a bucket's folder; or what `headrace archive` made"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return int(options.run(options) or 0)
    except (ConfigError, ClusterError, ApiError, FeatureError, HeadraceError) as error:
        console.print(f"headrace {options.command}: {error}", style="red", markup=False)
        return 1
    except httpx.TransportError as error:
        console.print(f"headrace {options.command}: no answer from {options.url}: {error}", style="red", markup=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace", description="Real-time individualization as a cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_local(commands)
    _add_cluster(commands)
    _add_versions(commands)
    _add_sources(commands)
    _add_people(commands)
    _add_keys(commands)
    _add_history(commands)
    _add_items(commands)
    _add_backfill(commands)
    _add_archive(commands)
    _add_check_skew(commands)
    return parser


def _add_local(commands: Any) -> None:
    """What starts and ends everything on this machine."""
    up = command(
        commands,
        "up",
        lazily("cli_local", "run_up"),
        "Start everything on this machine.",
        "headrace up --port 8000 --detach",
    )
    add_config(up)
    up.add_argument("--port", type=int, help="port of the HTTP route (default 8000)")
    up.add_argument("--clock", choices=("wall", "event"), help="event: history can be lived through")
    up.add_argument("--ephemeral", action="store_true", help="keep nothing on disk")
    up.add_argument("--detach", action="store_true", help="return once it is ready; end it with `headrace down`")
    demo = command(
        commands,
        "demo",
        lazily("demo", "run_demo"),
        "Live through a real stream and watch it learn.",
        "headrace demo --exit",
    )
    demo.add_argument("--exit", action="store_true", help="stop after its own checks")
    demo.add_argument("--port", type=int, default=8000)


def _add_cluster(commands: Any) -> None:
    """What brings a cluster up, shows it and ends it; the last two also what runs here."""
    down = command(
        commands, "down", here_or_there("down"),
        "End what `headrace up` started here, or what runs on a cluster and its workers, before `ray down`.",
        "headrace down --address http://192.0.2.10:8265",
    )  # fmt: skip
    down.add_argument("--port", type=int, default=8000, help="of the run on this machine")
    add_address(down, required=False)
    status = command(
        commands, "status", here_or_there("status"), "Show what is running, here or on a cluster.",
        "headrace status --address http://192.0.2.10:8265 --json",
    )  # fmt: skip
    status.add_argument("--port", type=int, default=8000, help="of the run on this machine")
    status.add_argument("--json", action="store_true")
    add_address(status, required=False)
    deploy = command(
        commands, "deploy", lazily("cli_deploy", "run_deploy"),
        "Bring this machine's source and settings up on a running cluster, or put them in place of what runs there.",
        "HEADRACE_REDIS_URL=redis://:PASSWORD@192.0.2.20:6379/0 headrace deploy --address http://192.0.2.10:8265",
    )  # fmt: skip
    add_address(deploy, required=True)
    add_config(deploy)
    node = command(
        commands, "node", lazily("node", "run_node"),
        "Make this machine a node of a cluster, before `ray start`: cluster.yaml does it.",
        "headrace node && source ~/headrace/node/environment.sh",
    )  # fmt: skip
    node.add_argument("--folder", type=Path, default=Path("~/headrace/node"), help="what a node needs is written here")
    node.add_argument(
        "--joined", metavar="HEAD:PORT", help="only say, by exit status 0, that it is a live node of this cluster"
    )


def _add_versions(commands: Any) -> None:
    """What goes back to an earlier model, and on again."""
    versions = command(
        commands, "versions", lazily("cli_versions", "run_versions"),
        "Show which version of the model answers, which are kept, and what became of versions, by whom and why.",
        "headrace versions",
    )  # fmt: skip
    versions.add_argument("--json", action="store_true")
    rollback = command(
        commands, "rollback", lazily("cli_versions", "run_rollback"),
        "Have all replicas answer with an earlier version, until `headrace resume`; learning goes on meanwhile.",
        'headrace rollback 1841 --reason "clicks fell after the release"',
    )  # fmt: skip
    rollback.add_argument(
        "version", type=int, nargs="?", help="as in `headrace versions` (default: stay at what answers)"
    )
    resume = command(
        commands, "resume", lazily("cli_versions", "run_resume"),
        "Have replicas follow the newest version again.", "headrace resume",
    )  # fmt: skip
    for one in (versions, rollback, resume):
        one.add_argument("--url", default="http://127.0.0.1:8000")
    for one in (rollback, resume):
        one.add_argument("--reason", default="", help="why, for the history")


def _add_sources(commands: Any) -> None:
    """Whose events count."""
    sources = command(
        commands, "sources", lazily("cli_sources", "run_sources"),
        "Show what each source of events sends, and which are in quarantine, by whom and why.", "headrace sources",
    )  # fmt: skip
    sources.add_argument("--json", action="store_true")
    quarantine = command(
        commands, "quarantine", lazily("cli_sources", "run_quarantine"),
        "Have what a source sends kept in the log, and change nothing, until `headrace release`.",
        'headrace quarantine kiosk --reason "sends every click twice"',
    )  # fmt: skip
    release = command(
        commands, "release", lazily("cli_sources", "run_release"),
        "Have what a source sends count again, from now on.", "headrace release kiosk",
    )  # fmt: skip
    for one in (sources, quarantine, release):
        one.add_argument("--url", default="http://127.0.0.1:8000")
    for one in (quarantine, release):
        one.add_argument("source", help="as its events name it")
    quarantine.add_argument("--reason", default="", help="why, for whoever looks")


def _add_people(commands: Any) -> None:
    """What people may ask for."""
    erase = command(
        commands, "erase", lazily("cli_people", "run_erase"),
        "Have a person erased: the state at once; log, archive and versions of the model by and by.",
        "headrace erase u1 --wait",
    )  # fmt: skip
    erase.add_argument("user")
    erase.add_argument("--wait", action="store_true", help="return when nothing of this person is left")
    erase.add_argument("--url", default="http://127.0.0.1:8000")
    export = command(
        commands, "export", lazily("cli_people", "run_export"),
        "Write everything that is known of a person, a JSON object a line: the state, then every entry of the log.",
        "headrace export u1 --out u1.ndjson",
    )  # fmt: skip
    export.add_argument("user")
    export.add_argument("--out", type=Path, help="where to write it (default: standard output)")
    export.add_argument("--archive", metavar="FOLDER", help="of the log (default: [store] archive)")
    export.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose store it reads")
    add_config(export)


def _add_keys(commands: Any) -> None:
    """Who may come in, and what was done with power."""
    keys = command(
        commands, "keys", lazily("cli_keys", "run_keys"),
        "Show the API keys of a store; with a second word, make one, replace one, or take some away.",
        'HEADRACE_REDIS_URL=redis://… headrace keys add web --scope rank --scope events --per-s 500',
    )  # fmt: skip
    keys.add_argument("--json", action="store_true")
    _add_store(keys)
    changes = keys.add_subparsers(title="changes", metavar="add|rotate|revoke")
    add = command(
        changes, "add", lazily("cli_keys", "run_add"), "Make a key; it is shown once.",
        "headrace keys add kiosk --scope events --days 90",
    )  # fmt: skip
    add.add_argument("name", help="of whoever holds it: so it stands in the record, and its events have this source")
    add.add_argument("--scope", action="append", required=True, choices=("rank", "events", "admin"), help="what it may")
    add.add_argument(
        "--per-s", type=float, default=0.0, metavar="N", help="rankings and events a second (default: any)"
    )
    add.add_argument("--source", action="append", metavar="NAME", help="it sends events of this source; * of any")
    add.add_argument("--days", type=float, default=0.0, metavar="D", help="how long it opens (default: for ever)")
    rotate = command(
        changes, "rotate", lazily("cli_keys", "run_rotate"),
        "Make a key with the rights of another one, which opens for a while yet.", "headrace keys rotate web",
    )  # fmt: skip
    rotate.add_argument("name", help="whose")
    rotate.add_argument("--keep-s", type=seconds, default=3600.0, metavar="S", help="how long (default 3600)")
    revoke = command(
        changes, "revoke", lazily("cli_keys", "run_revoke"), "Take keys away, within a second.",
        "headrace keys revoke web",
    )  # fmt: skip
    revoke.add_argument("name", help="of the keys, or the id of one")
    for one in (add, rotate, revoke):
        _add_store(one)
    audit = command(
        commands, "audit", lazily("cli_keys", "run_audit"),
        "Show what was done with power: by whom, when, from which version to which.", "headrace audit --last 20",
    )  # fmt: skip
    audit.add_argument("--last", type=count, default=100, metavar="N", help="so many (default 100)")
    audit.add_argument("--json", action="store_true")
    audit.add_argument("--url", default="http://127.0.0.1:8000")


def _add_store(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose store it is")


def _add_history(commands: Any) -> None:
    """What lives through recorded streams."""
    replay = command(
        commands, "replay", lazily("cli_replay", "run_replay"),
        "Send a recorded stream through the front door; or live through the log again as if a source had sent nothing.",
        "headrace replay events.parquet --queries queries.parquet --out predictions.parquet; "
        "headrace replay --without checkout-app --config my.toml",
    )  # fmt: skip
    replay.add_argument("events", nargs="?", metavar="EVENTS", help=f"send this. {EVENTS}")
    replay.add_argument("--speed", type=speed, default=None, help="max (default), or event time per wall time")
    replay.add_argument("--url", help="where to send EVENTS (default http://127.0.0.1:8000)")
    add_queries(replay, required=False)
    add_attributes(replay)
    replay.add_argument("--without", nargs="+", metavar="NAME", help="leave out what these sources sent")
    log = replay.add_argument_group("without EVENTS: the log, offline, into a lineage for `headrace promote`")
    log.add_argument("--with", nargs="+", metavar="NAME", help="count in what these sources sent while in quarantine")
    log.add_argument("--before", nargs="+", metavar="EVENTS", help="the history that the store was backfilled from")
    log.add_argument("--archive", metavar="FOLDER", help="the log's archive (default: [store] archive)")
    log.add_argument("--port", type=int, help="of the run on this machine, whose log and Ray it uses (default 8000)")
    log.add_argument("--memory", type=float, metavar="MB", help="what each core may take for its data (default 512)")
    log.add_argument("--folder", help="where lineages are kept; a URL for several machines")
    add_config(replay)
    _add_promote(commands)
    _add_autoschema(commands)
    evaluate = command(
        commands, "evaluate", lazily("cli_history", "run_evaluate"),
        "Replay and learn without servers: the same loop, offline.",
        "headrace evaluate events.parquet --queries queries.parquet --out predictions.parquet",
    )  # fmt: skip
    evaluate.add_argument("events", help=EVENTS)
    add_config(evaluate)
    add_queries(evaluate, required=True)
    add_attributes(evaluate)


def _add_promote(commands: Any) -> None:
    promote = command(
        commands, "promote", lazily("cli_promote", "run_promote"),
        "Put a lineage that `headrace replay --without` has made in the place of what serves; without NAME list them.",
        "headrace promote 5c1f1d0a9be3a7f2",
    )  # fmt: skip
    promote.add_argument("name", nargs="?", metavar="NAME", help="of a lineage")
    add_config(promote)
    promote.add_argument(
        "--port", type=int, default=8000, help="of the run on this machine, whose store and Ray it uses"
    )
    promote.add_argument("--folder", help="where lineages are kept; a URL for several machines")


def _add_autoschema(commands: Any) -> None:
    autoschema = command(
        commands, "autoschema", lazily("cli_autoschema", "run_autoschema"),
        "Look at recorded events, and propose a schema for them: TOML, each line with what speaks for it.",
        "headrace autoschema events/ --items items.parquet --out my.toml && headrace up --config my.toml",
    )  # fmt: skip
    autoschema.add_argument("events", nargs="+", metavar="EVENTS", help="Parquet files, folders of them, bucket URLs")
    add_attributes(autoschema)
    autoschema.add_argument("--out", type=Path, help="where to write it (default: standard output)")
    autoschema.add_argument("--force", action="store_true", help="put it in the place of a file that is there")
    autoschema.add_argument(
        "--sample", type=count, default=1_000_000, metavar="N", help="look at so many events at most (default 1000000)"
    )


def _add_items(commands: Any) -> None:
    """What loads a catalogue."""
    items = command(
        commands, "items", lazily("cli_items", "run_items"), "Load a catalogue into what is running.",
        "headrace items catalogue.csv --config my.toml",
    )  # fmt: skip
    items.description = (
        "Load a catalogue into what is running: a row an item, named by the column `item` (or `id`), every other "
        "column an attribute, typed as the schema declares it; they replace what the item had. Rows that cannot be "
        "loaded are written to a file of their own, with reasons, and the others loaded all the same. After Ctrl-C "
        "the same command goes on where it stopped. Exit status: 0 if everything was loaded, 1 if a row was rejected "
        "or the load failed, 130 after Ctrl-C."
    )
    items.add_argument("file", type=Path, help="Parquet, CSV or NDJSON; the latter two perhaps gzipped")
    items.add_argument("--format", choices=("parquet", "csv", "ndjson"), help="default: as the name of FILE ends")
    items.add_argument("--url", default="http://127.0.0.1:8000")
    add_config(items)
    items.add_argument(
        "--tag-separator", default="|", metavar="TEXT", help="between tags that are one text (default |), not a list"
    )
    items.add_argument("--rejected", type=Path, help="where rejected rows go (default FILE.rejected.ndjson)")
    items.add_argument("--restart", action="store_true", help="begin with the first row, whatever was loaded before")


def _add_backfill(commands: Any) -> None:
    """What makes states, rows and a model out of a history."""
    backfill = command(
        commands, "backfill", lazily("cli_backfill", "run_backfill"),
        "Make states of people, rows of items and a warm model out of a history, while live events go on.",
        "headrace backfill history/ --config my.toml",
    )  # fmt: skip
    backfill.add_argument("events", nargs="+", help="Parquet: a file, a folder, or the URL of a bucket's folder")
    add_config(backfill)
    backfill.add_argument(
        "--port", type=int, default=8000, help="of the run on this machine, whose store and Ray it uses"
    )
    backfill.add_argument(
        "--memory", type=float, default=512.0, metavar="MB", help="what each core may take for its data (default 512)"
    )
    backfill.add_argument("--folder", help="where it keeps what it has made so far; a URL for several machines")
    backfill.add_argument("--no-training", action="store_true", help="states and rows alone, no model")
    backfill.add_argument("--any-order", action="store_true", help="take files that are not in time order")


def _add_archive(commands: Any) -> None:
    """What keeps the log for ever."""
    archive = command(
        commands, "archive", lazily("cli_archive", "run_archive"),
        "Write the log to Parquet, for ever or up to now.",
        "headrace archive s3://bucket/log --once",
    )  # fmt: skip
    archive.description = (
        "Write the log to Parquet, each entry once: files by date and partition, with what every event said in "
        "columns of its own. Until Ctrl-C it follows the log; with --once it ends where the log ends now. The same "
        "command goes on where the last one stopped. From the first start on, the log is kept until it is archived, "
        "also while nobody archives: --forget ends that. `headrace replay FOLDER` lives through the events again."
    )
    archive.add_argument("folder", nargs="?", metavar="FOLDER", help="a folder, or the URL of a bucket's folder")
    add_config(archive)
    archive.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose log it is")
    archive.add_argument("--once", action="store_true", help="archive what the log holds now, and end")
    archive.add_argument("--forget", action="store_true", help="let the log be trimmed without regard to an archive")


def _add_check_skew(commands: Any) -> None:
    """What proves that features are served as they are learned from."""
    skew = command(
        commands, "check-skew", lazily("cli_check_skew", "run_check_skew"),
        "Make the features of logged decisions again from the log, and compare.",
        "headrace check-skew --last-s 600 --sample 10",
    )  # fmt: skip
    skew.description = (
        "Make the features of logged decisions again from the log, and compare them, as float16, with what was looked "
        "at: a person's must be those of a state that the person had, an item's what its row gave at some moment from "
        "half a second before the decision on. Of a log whose beginning is gone, decisions of the last minute or two "
        "are judged. Exit status: 0 if nothing differs, 1 if something does or the check failed, 130 after Ctrl-C."
    )
    add_config(skew)
    skew.add_argument("--port", type=int, default=8000, help="of the run on this machine, whose store it reads")
    skew.add_argument(
        "--archive", metavar="FOLDER", help="of the log, which goes back to its beginning (config: store.archive)"
    )
    skew.add_argument("--last-s", type=float, metavar="S", help="only decisions of the last S seconds")
    skew.add_argument("--sample", type=count, default=1, metavar="N", help="one decision of N, by its id (default 1)")
    skew.add_argument(
        "--behind-ms",
        type=milliseconds,
        default=500,
        metavar="MS",
        help="how far rows may be behind the log (default 500)",
    )
    skew.add_argument(
        "--from-version", action="store_true", help="begin at the oldest whole version, though the log is whole"
    )
    skew.add_argument("--json", action="store_true", help="everything that was found, to standard output")


if __name__ == "__main__":
    sys.exit(main())
