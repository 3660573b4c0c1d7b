"""Has every Python function of ours tell atheris which of its branches were taken.

Not by atheris' own import hook: what numba compiles is read as bytecode, and must stay as it was written. Those are no
functions any more by the time that a module is loaded, so they are passed over here.
"""

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

import atheris

PACKAGES: Final = ("features", "learners", "deployments")


def instrument() -> int:
    """Instrument what is loaded of our packages; returns how many functions."""
    functions = {id(found): found for module in _modules() for found in _functions(module)}
    for function in functions.values():
        atheris.instrument_func(function)
    return len(functions)


def _modules() -> Iterator[ModuleType]:
    return (module for name, module in list(sys.modules.items()) if name.partition(".")[0] in PACKAGES)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            for inner in list(vars(value).values()):
                yield from _plain(inner, module)
        else:
            yield from _plain(value, module)


def _plain(value: Any, module: ModuleType) -> Iterator[FunctionType]:
    """The functions behind a method, a property or a decorated function."""
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, FunctionType):
        value = getattr(value, "__wrapped__", value)
    if isinstance(value, FunctionType) and value.__module__ == module.__name__:
        yield value
