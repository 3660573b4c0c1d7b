"""How `bench_quality` shows what it found: tables for a terminal, and MRR@10 over time as a picture."""

from pathlib import Path
from typing import Any, Final

from benchmarks import machine, plotting

METRICS: Final = ("MRR@10", "HR@10", "NDCG@10", "AUC", "log loss")
CALIBRATED: Final = {"first": "the candidate ranked first", "all": "all candidates"}


def report(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"\n{machine.describe(found['machine'])}")
    print(f"{found['n_events']:,} events, {found['n_queries']:,} queries; [95 %] over people\n")
    rows = [[name, *_cells(metrics), *_pace(name, found)] for name, metrics in found["metrics"].items()]
    print(machine.table(("ranked by", *METRICS, "seconds", "events/s"), rows))
    print(f"log loss of who calls all candidates alike: {found['uniform_log_loss']:.4f}")
    if found["difference"]:
        print(f"\nless {next(iter(found['metrics']))}, in pairs")
        rows = [[name, *_cells(metrics)] for name, metrics in found["difference"].items()]
        print(machine.table(("ranked by", *METRICS), rows))
    _report_ages(found)
    _report_time(found)
    _report_calibration(found)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw MRR@10 over time."""
    asked = f"{found['n_events']:,} events, {found['n_queries']:,} queries"
    caption = f"{asked}, in periods of equally many queries; band: 95 % of the first\n"
    days = [hours / 24.0 for hours in found["hours"]]
    title = "MRR@10 over time, everything strictly before a query known"
    plotting.plot_quality(days, found["over_time"], title, caption + machine.describe(found["machine"]), path)


def _report_ages(found: dict[str, Any]) -> None:
    print("\nMRR@10 by the age of the true item (cold: nobody had acted on it)")
    header = [f"{age} ({n:,})" for age, n in found["n_by_age"].items()]
    rows = [[name, *(str(figure) for figure in by_age.values())] for name, by_age in found["by_age"].items()]
    print(machine.table(("ranked by", *header), rows))


def _report_time(found: dict[str, Any]) -> None:
    """One line a period, one column a way: means alone, since the picture and the JSON have the intervals."""
    print("\nMRR@10 over time, in periods of equally many queries")
    ways = found["over_time"]
    rows = [
        [f"{hours:.1f}", *(f"{figures[period].mean:.3f}" for figures in ways.values())]
        for period, hours in enumerate(found["hours"])
    ]
    print(machine.table(("hours", *ways), rows))


def _report_calibration(found: dict[str, Any]) -> None:
    """Expected calibration error of each way, then the deciles of the first."""
    if not found["calibration"]:
        return
    print("\nexpected calibration error of the softmax, in deciles of the probability called")
    rows = [[name, *(str(by[kind]["error"]) for kind in CALIBRATED)] for name, by in found["calibration"].items()]
    print(machine.table(("ranked by", *CALIBRATED.values()), rows))
    name, by = next(iter(found["calibration"].items()))
    for kind, text in CALIBRATED.items():
        print(f"\n{name}, {text}")
        rows = [
            [f"{n:,.0f}", f"{called:.5f}", f"{seen:.5f}"]
            for n, called, seen in zip(by[kind]["n"], by[kind]["called"], by[kind]["seen"], strict=True)
        ]
        print(machine.table(("called", "probability called", "came true"), rows))


def _cells(metrics: dict[str, Any]) -> list[str]:
    return [str(metrics[name]) if name in metrics else "" for name in METRICS]


def _pace(name: str, found: dict[str, Any]) -> list[str]:
    took_s = found["took_s"].get(name)
    return ["", ""] if took_s is None else [f"{took_s:,.1f}", f"{found['n_events'] / took_s:,.0f}"]
