"""Decoders that fail in one way.

msgspec raises three kinds of errors for bytes that it cannot make anything of: its own, `UnicodeDecodeError` where text
is no UTF-8, and `RecursionError` where too much is nested. Whoever catches the first alone is thrown by a stranger's
two bytes. Here all of them are `msgspec.DecodeError`.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class decoder(Generic[T]):  # noqa: N801  it is used as the function that it stands for
    """A function that decodes values of one kind; it can be pickled, and is then made anew.

    Args:
        module: `msgspec.json` or `msgspec.msgpack`.
        hook: Makes of decoded values what msgspec does not know; see `msgspec.msgpack.Decoder`.
    """

    __slots__ = ("_decode", "_made_of")

    def __init__(self, module: ModuleType, kind: type[T], hook: Callable[[Any, Any], Any] | None = None) -> None:
        self._made_of = module.__name__, kind, hook
        self._decode: Callable[[Any], T] = module.Decoder(kind, dec_hook=hook).decode

    def __call__(self, data: bytes | memoryview | msgspec.Raw) -> T:
        """Decode.

        Raises:
            msgspec.ValidationError: If it is another value than it should be.
            msgspec.DecodeError: If it is none.
        """
        try:
            return self._decode(data)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None

    def __reduce__(self) -> Any:
        return _made, self._made_of


def _made(module: str, kind: type[T], hook: Callable[[Any, Any], Any] | None) -> decoder[T]:
    return decoder({"msgspec.json": msgspec.json, "msgspec.msgpack": msgspec.msgpack}[module], kind, hook)
