"""The tail of the serving path: beside events, beyond saturation, while weights change, over time, on two replicas.

    python -m benchmarks.bench_tail events   [--rounds 3] [--seconds 20]
    python -m benchmarks.bench_tail overload [--seconds 10]
    python -m benchmarks.bench_tail swaps    [--rounds 7] [--seconds 10]
    python -m benchmarks.bench_tail soak     [--minutes 10]
    python -m benchmarks.bench_tail replicas [--rounds 2] [--seconds 5]

All: [--rate R] arrivals per second instead of half of saturation (not replicas), [--json [FILE]]; overload and soak:
[--plot FILE.png]. Headrace as `headrace up` runs it, 100 candidates, open loop with latency from the intended send time
(replicas: closed loop). Events come in through `POST /v1/events`, from a process of its own at niceness 10.

NOT shown: senders and generator on another machine (they share the cores, and the tail with them), several machines,
people who arrive at random (arrivals are evenly spaced), a store that fails (see `tests/cluster/test_faults.py`).
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import machine, plotting, tail_runs
from benchmarks.comparing import Goal
from benchmarks.latency import REFUSED
from benchmarks.tails import Interval

LATENCY = ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
LATENCY_HEADER = ("p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms")


def report_events(found: dict[str, Any]) -> None:
    """Print what `events` found."""
    print(f"open loop, {found['rate_per_s']:.0f} ranks/s\n")
    header = ("events/s offered", "accepted", *LATENCY_HEADER, "errors", "post p99 ms", "sender cpu", "learned after s")
    names = ("sent_per_s", *LATENCY)
    told = ("post_p99_ms", "sender_cpu", "caught_up_s")
    rows = [
        [f"{row['events_per_s']:.0f}", *(row[name] for name in names), row["errors"] or "none", *(row[n] for n in told)]
        for row in found["rows"]
    ]
    rows.append(["floor, none", 0.0, *(found["floor"][name] for name in LATENCY), "", "", "", ""])
    print(machine.table(header, rows))
    roles = sorted(name for name in found["rows"][-1] if name.endswith(" cpu"))
    shares = [[f"{row['events_per_s']:.0f}", *(f"{row.get(role, 0.0):.0%}" for role in roles)] for row in found["rows"]]
    print(f"\nshare of a core\n{machine.table(('events/s', *(role[:-4] for role in roles)), shares)}\n")
    for row in found["rows"][1:]:
        goal = Goal(
            text=f"p99 with {row['events_per_s']:.0f} events/s (5 ms, or the floor's + 2)",
            value=row["p99_ms"],
            unit=" ms",
            limit=round(found["limit_ms"], 2),
            is_at_least=False,
        )
        print(goal.line())


def report_overload(found: dict[str, Any]) -> None:
    """Print what `overload` found."""
    half = found["half_per_s"]
    header = ("phase", "admitted/s", *LATENCY_HEADER, "errors", "refused", "429 p99 ms", "probe p99 ms")
    probed = [*(probe["p99_ms"] for probe in found["probe"]), *["-"] * (len(tail_runs.PHASES) - tail_runs.N_PROBED)]
    rows = []
    for (name, times), phase, probe_ms in zip(tail_runs.PHASES, found["phases"], probed, strict=True):
        figures = [phase["rate_per_s"], *(phase[figure] for figure in LATENCY)]
        refused = f"{phase['errors'].get(REFUSED, 0) / phase['n']:.1%}"
        refused_ms = "-" if phase["refused_p99_ms"] is None else phase["refused_p99_ms"]
        errors = phase["errors"] or "none"
        rows.append([f"{name}, {times * half:.0f}/s", *figures, errors, refused, refused_ms, probe_ms])
    print(f"open loop on {tail_runs.MANY_CONNECTIONS} connections, status {{0}} is no answer\n")
    print(machine.table(header, rows))
    print("\nreplica and HAProxy: " + ("the same processes as before" if found["same_pids"] else "RESTARTED"))
    ratio, back_s = found["admitted_ratio"], found["recovery_s"]
    print(Goal(text="admitted p99 : at half", value=ratio, unit=" x", limit=2.0, is_at_least=False).line())
    print(Goal(text="back within its range after", value=back_s, unit=" s", limit=2.0, is_at_least=False).line())


def report_swaps(found: dict[str, Any]) -> None:
    """Print what `swaps` found."""
    n = len(found["p99_ms"]["held"])
    print(f"{n} pairs at {found['rate_per_s']:.0f} ranks/s, {tail_runs.STEADY_PER_S:.0f} events/s\n")
    header = ("side", "swaps/s seen", *LATENCY_HEADER, "errors", "p99 of each run, ms")
    rows = []
    for side, figures in found["sides"].items():
        each = " ".join(f"{value:.3g}" for value in found["p99_ms"][side])
        told = (figures[name] for name in LATENCY)
        rows.append([side, found["swaps_per_s"][side], *told, found["errors"][side] or "none", each])
    print(machine.table(header, rows))
    ratio = Interval(**found["ratio"])
    print(f"\nmedian ratio of p99, published : held: {ratio.text()}")
    print(Goal(text="that ratio", value=ratio.value, unit=" x", limit=1.1, is_at_least=False).line())


def report_soak(found: dict[str, Any]) -> None:
    """Print what `soak` found."""
    whole, windows = found["whole"], found["windows"]
    print(f"{found['minutes']:g} minutes at {found['rate_per_s']:.0f} ranks/s, {found['sent_per_s']:.0f} events/s\n")
    rows = [["whole", *(whole[name] for name in LATENCY), whole["errors"] or "none"]]
    print(machine.table(("", *LATENCY_HEADER, "errors"), rows))
    mib = found["memory"]["mib"]
    print()
    rows = []
    for name, unit, values in (
        ("p50", "ms", windows["p50_ms"]),
        ("p99", "ms", windows["p99_ms"]),
        ("resident memory of the replica", "MiB", mib),
    ):
        key = "mib" if unit == "MiB" else f"{name}_ms"
        edges = [values[0], values[-1]] if values else ["-", "-"]
        rows.append([f"{name}, {unit}", *edges, Interval(**found["slopes"][key]).text()])
    print(machine.table(("windows of 10 s", "first", "last", "slope per minute [95 %]"), rows))


def report_replicas(found: dict[str, Any]) -> None:
    """Print what `replicas` found."""
    roles = sorted({role for row in found["rows"] for role in row["cpu_ms"]})
    header = ("connections", "replicas", "rate/s", *LATENCY_HEADER, "errors")
    names = ("n_connections", "n_rankers", "rate_per_s", *LATENCY)
    print(machine.table(header, [[*(row[n] for n in names), row["errors"] or "none"] for row in found["rows"]]))
    print("\nprocessor time per answer, ms")
    rows = [
        [row["n_connections"], row["n_rankers"], *(float(row["cpu_ms"].get(role, 0.0)) for role in roles)]
        for row in found["rows"]
    ]
    print(machine.table(("connections", "replicas", *roles), rows))


def plot_overload(found: dict[str, Any], caption: str, path: Path) -> None:
    """Latency of the admitted, and answers and refusals per second."""
    series = found["series"]
    latency = {"p50": series["p50_ms"], "p99": series["p99_ms"]}
    rates = {"answered": series["answered_per_s"], "refused": series["refused_per_s"]}
    panels = [
        {"label": "latency of answers, ms", "times_s": series["times_s"], "series": latency, "is_log": True},
        {"label": "per second, when due", "times_s": series["times_s"], "series": rates},
    ]
    title = "Half of saturation, twice, half again, 83 and 90 % of it (windows of 0.5 s)"
    plotting.plot_series(panels, title, caption, path)


def plot_soak(found: dict[str, Any], caption: str, path: Path) -> None:
    """Latency and memory over time."""
    windows, memory = found["windows"], found["memory"]
    latency = {"p50": windows["p50_ms"], "p99": windows["p99_ms"]}
    resident = {"resident": memory["mib"]}
    panels = [
        {"label": "latency, ms", "times_s": windows["times_s"], "series": latency, "is_log": True},
        {"label": "replica's memory, MiB", "times_s": memory["times_s"], "series": resident},
    ]
    title = f"{found['rate_per_s']:.0f} ranks/s and {found['sent_per_s']:.0f} events/s (windows of 10 s)"
    plotting.plot_series(panels, title, caption, path)


RUNS = {
    "events": (tail_runs.events, report_events, None),
    "overload": (tail_runs.overload, report_overload, plot_overload),
    "swaps": (tail_runs.swaps, report_swaps, None),
    "soak": (tail_runs.soak, report_soak, plot_soak),
    "replicas": (tail_runs.replicas, report_replicas, None),
}
DEFAULTS = {"events": (3, 20.0), "overload": (1, 10.0), "swaps": (7, 10.0), "soak": (1, 0.0), "replicas": (2, 5.0)}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_tail", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (rounds, seconds) in DEFAULTS.items():
        command = commands.add_parser(name, help=RUNS[name][0].__doc__)
        command.add_argument("--rate", type=float, help="ranks per second instead of half of saturation")
        command.add_argument("--rounds", type=int, default=rounds)
        command.add_argument("--seconds", type=float, default=seconds, help="measured seconds of a run or a phase")
        command.add_argument("--minutes", type=float, default=10.0, help="of the soak")
        command.add_argument("--json", nargs="?", const="-", help="write everything to a file, or to standard output")
        command.add_argument("--plot", type=Path, help="write a PNG (overload, soak)")
    return parser.parse_args()


def main() -> None:
    """Measure and report."""
    options = parse()
    run, report, plot = RUNS[options.command]
    known = machine.facts()
    found = run(options)
    print(f"\n{machine.describe(known)}\n{machine.warn(found['others_ratio'])}")
    report(found)
    settings = {name: getattr(options, name) for name in ("rate", "rounds", "seconds", "minutes")}
    machine.write_json({"what": options.command, "machine": known, "settings": settings, **found}, options.json)
    if options.plot and plot:
        reason = plotting.absence()
        if reason:
            print(reason)
        else:
            caption = (
                f"{machine.describe(known).splitlines()[0]}\n100 candidates; store, senders and load generator on "
            )
            plot(found, caption + "the same cores", options.plot)


if __name__ == "__main__":
    main()
