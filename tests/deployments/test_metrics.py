"""Metrics with tags: what is known of a source, under its name."""

from typing import Any

from deployments.metrics import BY_SOURCE, source_values

UNKNOWN: dict[str, Any] = {
    **{"accepted": 0, "quarantined": 0, "invalid": 0, "invalid_ratio": 0.0},
    **{"lag_s": None, "same": {}, "quarantine": None},
}


def test_every_value_of_a_source_has_its_name_and_what_is_not_known_is_not_told() -> None:
    held = {**UNKNOWN, "quarantined": 3, "lag_s": 2.5, "same": {"user": 1.0, "item": 0.5}, "quarantine": object()}
    values = source_values({"": UNKNOWN, "kiosk": held})
    assert {name for name, _ in values} <= set(BY_SOURCE)
    kiosk = (("source", "kiosk"),)
    assert values["headrace_source_quarantined_total", kiosk] == 3
    assert values["headrace_source_is_quarantined", kiosk] == 1.0
    assert values["headrace_source_lag_s", kiosk] == 2.5
    assert values["headrace_source_same_ratio", (*kiosk, ("field", "item"))] == 0.5
    assert values["headrace_source_is_quarantined", (("source", ""),)] == 0.0
    assert ("headrace_source_lag_s", (("source", ""),)) not in values
