"""The function that Serve's controller asks how many replicas there should be.

Serve pickles the module that it is in by value, so it has one of its own; the arithmetic is in `autoscaling.py`.
"""

from typing import Any, Protocol

from deployments.autoscaling import BUSY, LATE, AutoscaleConfig, desired


class Context(Protocol):
    """What of `ray.serve.config.AutoscalingContext` matters."""

    current_num_replicas: int
    policy_state: dict[str, Any]

    @property
    def aggregated_metrics(self) -> dict[str, dict[Any, float]]:
        """Every replica's value of every metric."""
        ...


class LoadPolicy:
    """What Serve asks. Replicas that have not told anything yet do not count; if none has, all stays.

    Args:
        settings: Those of an `AutoscaleConfig`, for Serve carries plain values only.
    """

    def __init__(self, **settings: Any) -> None:
        self._config = AutoscaleConfig(**settings)

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """How many replicas there should be."""
        told = context.aggregated_metrics or {}
        if not (told.get(BUSY) and told.get(LATE)):
            return context.current_num_replicas, context.policy_state
        busy_ratio, late_ratio = (sum(told[name].values()) / len(told[name]) for name in (BUSY, LATE))
        return desired(context.current_num_replicas, busy_ratio, late_ratio, self._config), context.policy_state
