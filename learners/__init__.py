"""Online learning. `push` is the door for pipelines; it loads Ray only when it is asked for."""

from typing import Any

__all__ = ["push"]


def __getattr__(name: str) -> Any:
    if name == "push":
        from learners.door import push  # noqa: PLC0415  lazily: importing `learners` must load neither Ray nor torch

        return push
    raise AttributeError(f"module 'learners' has no attribute {name!r}")
