"""What a check of skew has found, for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from features.skew import Skew
from features.skew_findings import Total

COUNTS = {
    "not_sampled": "not in the sample",
    "too_early": "too early",
    "degraded": "made without some features",
    "out_of_time": "logged too long after they were made",
    "undecodable": "unreadable",
    "foreign": "of another schema",
}
"""Why decisions are not judged, in words."""


def n_differing(skew: Skew) -> int:
    """Values that differ, of all features."""
    return sum(total.differing for totals in (skew.users, skew.items) for total in totals.values())


def as_dict(skew: Skew) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "decisions": asdict(skew.counts),
        "entries_passed_over": skew.moments.n_passed_over,
        "user_features": _plain(skew.users),
        "item_features": _plain(skew.items),
    }


def _plain(totals: Mapping[str, Total]) -> dict[str, Any]:
    return {name: {**asdict(total), "first": _first(total)} for name, total in totals.items()}


def _first(total: Total) -> dict[str, Any] | None:
    if total.first is None:
        return None
    decision, difference = total.first
    return {"decision": decision, **difference._asdict()}


def show(skew: Skew, to: Console) -> None:
    """Draw a table of features, and say what became of the decisions."""
    table = Table(title="features", title_justify="left")
    for column in ("feature", "of", "compared", "differing", "share", "largest difference", "first"):
        table.add_column(column, justify="left" if column in {"feature", "of", "first"} else "right")
    for whose, totals in (("person", skew.users), ("item", skew.items)):
        for name, total in totals.items():
            table.add_row(name, whose, *_row(total), style="red" if total.differing else None)
    to.print(table)
    to.print(_summary(skew), markup=False, highlight=False)


def _row(total: Total) -> tuple[str, ...]:
    if not total.differing:
        return f"{total.compared:,}", "0", "", "", ""
    assert total.first is not None
    decision, (_, item, served, low, high) = total.first
    share = total.differing / total.compared
    where = f"{decision} {item}".strip()
    first = f"{where}: {served:.4g}, expected {low:.4g} to {high:.4g}"
    return f"{total.compared:,}", f"{total.differing:,}", f"{share:.2%}", f"{total.largest:.4g}", first


def _summary(skew: Skew) -> str:
    counts = skew.counts
    others = [f"{getattr(counts, name):,} {words}" for name, words in COUNTS.items() if getattr(counts, name)]
    lines = [
        f"{counts.judged:,} of {counts.seen:,} decisions judged, {counts.differing:,} differ",
        f"{counts.late:,} of these agree with rows up to {counts.latest_ms:,} ms behind the log: late, not wrong"
        if counts.late
        else "",
        f"not judged: {', '.join(others)}" if others else "",
        f"{counts.of_unknown:,} of people of whom the log has not told yet: their items alone"
        if counts.of_unknown
        else "",
        f"{counts.items_without_row:,} items without a row, compared like the others"
        if counts.items_without_row
        else "",
        f"{skew.moments.n_passed_over:,} entries could not be read" if skew.moments.n_passed_over else "",
    ]
    return "\n".join(line for line in lines if line)
