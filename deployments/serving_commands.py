"""What starts, shows and ends what serves, and goes back to an earlier model."""

from pathlib import Path
from typing import Any

from deployments.arguments import add_address, add_config, command, here_or_there, lazily


def add_serving(commands: Any) -> None:
    """Declare them."""
    _add_local(commands)
    _add_cluster(commands)
    _add_versions(commands)
    _add_sources(commands)


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
