"""How loops are compiled: by numba at their first call, cached on disk beside their file.

numba counts references to every part of an array that a loop takes a look at, with atomic instructions. Where the parts
are rows of some thirty numbers, that took as long as the arithmetic. It need not where nothing is allocated; so the
loops are given all memory they use. What makes room for them is `allocating`, and goes through few parts itself.

The cache does not notice a change in another file: what calls each other stands together.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from numba import njit

FUSED: Final = {"contract", "nsz"}
"""`fastmath` for loops that multiply and add."""
ANY_ORDER: Final = {"reassoc", *FUSED}
"""`fastmath` for sums in any order, so that they become vector instructions: of functions that store nothing.

Of a loop that also stores the compiler makes two, with and without vector instructions, and which of them runs depends
on whether an array happens to lie right behind another; sums in any order would then not be the same every time.
"""
_Function = TypeVar("_Function")


def compiled(**options: Any) -> Callable[[_Function], _Function]:
    """Decorator of what allocates nothing: numba refuses it otherwise."""
    return _decorator(_nrt=False, **options)


def allocating(**options: Any) -> Callable[[_Function], _Function]:
    """Decorator of what may allocate."""
    return _decorator(_nrt=True, **options)


def _decorator(*, fastmath: bool | set[str] = False, **options: Any) -> Callable[[_Function], _Function]:
    """Everything is said: what is left open, a function takes from whoever happens to call it first."""
    decorator: Callable[[_Function], _Function] = njit(cache=True, error_model="numpy", fastmath=fastmath, **options)
    return decorator
