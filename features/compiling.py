"""How loops are compiled: by numba at their first call, cached on disk beside their file.

numba counts references to every part of an array that a loop takes a look at, with atomic instructions. Where the parts
are rows of some thirty numbers, that took as long as the arithmetic. It need not where nothing is allocated; so the
loops are given all memory they use. What makes room for them is `allocating`, and goes through few parts itself.

The cache does not notice a change in another file: what calls each other stands together.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from numba import njit

LOOSE: Final = {"reassoc", "contract", "nsz"}
"""`fastmath` for sums in any order, so that they become vector instructions."""
_Function = TypeVar("_Function")


def compiled(**options: Any) -> Callable[[_Function], _Function]:
    """Decorator of what allocates nothing: numba refuses it otherwise."""
    return allocating(_nrt=False, **options)


def allocating(**options: Any) -> Callable[[_Function], _Function]:
    """Decorator of what may allocate."""
    decorator: Callable[[_Function], _Function] = njit(cache=True, error_model="numpy", **options)
    return decorator
