"""What lives through histories, loads catalogues, keeps the log and proves that features are right."""

from pathlib import Path
from typing import Any

from deployments.arguments import (
    add_attributes,
    add_config,
    add_queries,
    command,
    count,
    lazily,
    milliseconds,
    speed,
)

EVENTS = "Parquet: a file, a folder, or the URL of a bucket's folder; or what `headrace archive` made"


def add_data(commands: Any) -> None:
    """Declare them."""
    _add_history(commands)
    _add_items(commands)
    _add_backfill(commands)
    _add_archive(commands)
    _add_check_skew(commands)


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
