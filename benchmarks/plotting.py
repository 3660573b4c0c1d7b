"""Pictures of what was measured, as PNG. Needs matplotlib (extra `bench`); `absence` says if it is not there.

Every picture has its machine underneath: a latency without one says nothing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

COLOURS: Final = ("#0b6e4f", "#1f5fa8", "#c8553d", "#7a5195", "#b08900", "#4d4d4d", "#2a9d8f", "#e07a9b", "#a3a3a3")

Curves = Mapping[str, Sequence[tuple[float, float, float]]]
"""By system: (arrivals per second, p50 in ms, p99 in ms)."""


def absence() -> str:
    """Why nothing can be plotted; empty if it can."""
    return (
        ""
        if find_spec("matplotlib")
        else "no plot: matplotlib is not installed (python deployments/locks/install.py bench)"
    )


def plot_latency(curves: Curves, title: str, caption: str, path: Path) -> None:
    """Latency against arrival rate: p50 dashed, p99 solid, one colour a system."""
    figure, axes = _figure(1)
    axis = axes[0]
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        rates, p50_ms, p99_ms = zip(*sorted(points), strict=True)
        axis.plot(rates, p99_ms, "o-", color=colour, linewidth=2, markersize=6, label=f"{name}, p99")
        axis.plot(rates, p50_ms, "o--", color=colour, linewidth=1.3, markersize=4, label=f"{name}, p50")
    axis.set_yscale("log")
    axis.set_xlim(left=0)
    axis.set_xlabel("arrivals per second (open loop)")
    axis.set_ylabel("latency from the intended send time, ms")
    _plain_ticks(axis)
    axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    axis.set_title(title, loc="left", fontsize=11)
    _save(figure, caption, path)


def plot_series(
    panels: Sequence[Mapping[str, Any]], title: str, caption: str, path: Path, *, along: str = "seconds"
) -> None:
    """Panels over time, one below the other.

    Args:
        panels: Each with `label` of the y axis, `times_s`, `series` (values by name) and optionally `is_log`,
            `is_log_time`.
        along: Label of the x axis.
    """
    figure, axes = _figure(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for (name, values), colour in zip(panel["series"].items(), COLOURS, strict=False):
            axis.plot(panel["times_s"], values, "-", color=colour, linewidth=1.6, label=name)
        if panel.get("is_log"):
            axis.set_yscale("log")
            _plain_ticks(axis)
        else:
            axis.set_ylim(0, 1.1 * max(1e-9, axis.dataLim.intervaly[1]))
        if panel.get("is_log_time"):
            axis.set_xscale("log")
        axis.set_ylabel(panel["label"])
        if len(panel["series"]) > 1:
            axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    axes[-1].set_xlabel(along)
    axes[0].set_title(title, loc="left", fontsize=11)
    _save(figure, caption, path)


def plot_periods(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    level: Mapping[str, float],
    ticks: Mapping[str, float],
    title: str,
    caption: str,
    path: Path,
) -> None:
    """MRR@10 against how often something is refreshed, with intervals.

    Args:
        curves: By name: (period in seconds, mean, and the ends of its interval).
        level: What there is without waiting, by name: a dotted line.
        ticks: Periods in words.
    """
    figure, axes = _figure(1)
    axis = axes[0]
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        periods_s, means, lows, highs = zip(*points, strict=True)
        axis.fill_between(periods_s, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axis.plot(periods_s, means, "o-", color=colour, linewidth=2, markersize=6, label=name)
    for name, value in level.items():
        axis.axhline(value, color=COLOURS[-1], linewidth=1.2, linestyle=":", label=name)
    axis.set_xscale("log")
    axis.set_xticks(list(ticks.values()), list(ticks))
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("refreshed every")
    axis.set_ylabel("MRR@10")
    axis.legend(fontsize=9, loc="lower left", frameon=False)
    axis.set_title(title, loc="left", fontsize=11)
    _save(figure, caption, path)


def plot_quality(
    days: Sequence[float],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    title: str,
    caption: str,
    path: Path,
) -> None:
    """A metric over time by way of ranking, the first drawn thick and with its interval.

    Args:
        series: By name, a (mean, low, high) for each day.
    """
    figure, (axis,) = _figure(1)
    for number, ((name, figures), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        means, lows, highs = zip(*figures, strict=True)
        axis.plot(days, means, "-", color=colour, linewidth=2.6 if number == 0 else 1.4, label=name)
        if number == 0:
            axis.fill_between(days, lows, highs, color=colour, alpha=0.15, linewidth=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("days since the stream began")
    axis.set_ylabel("MRR@10")
    axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    axis.set_title(title, loc="left", fontsize=11)
    _save(figure, caption, path)


def _figure(n_panels: int) -> tuple[Any, list[Any]]:
    import matplotlib  # noqa: PLC0415  optional

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    height = 5.2 if n_panels == 1 else 2.6 * n_panels + 0.8
    figure, axes = pyplot.subplots(n_panels, 1, figsize=(9.0, height), squeeze=False, sharex=True)
    for axis in axes[:, 0]:
        axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
        axis.grid(visible=True, which="minor", axis="y", color="#eeeeee", linewidth=0.5)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, list(axes[:, 0])


def _plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10 instead of powers of ten, and an axis that ends at such numbers."""
    from matplotlib import ticker  # noqa: PLC0415

    low, high = axis.dataLim.intervaly
    steps = [step * 10.0**power for power in range(-4, 7) for step in (1.0, 2.0, 5.0)]
    axis.set_ylim(max(step for step in steps if step <= low), min(step for step in steps if step >= high))
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _save(figure: Any, caption: str, path: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415

    lines = [line for part in caption.splitlines() for line in textwrap.wrap(part, 145)]
    figure.tight_layout(rect=(0, 0.035 * len(lines) * 5.2 / figure.get_figheight(), 1, 1))
    figure.text(0.015, 0.012, "\n".join(lines), fontsize=7.5, color="#555555", va="bottom")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
