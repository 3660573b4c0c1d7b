"""Values as bytes that travel: checked, without pickle, arrays as they are.

    8 bytes   magic and format          8 bytes   xxh3_64 of the rest          msgpack

Bytes that were cut or altered are refused as `CorruptSnapshot`, and so are arrays that are not of the declared type.
Arrays that are unpacked are read-only copies: so they are aligned, wherever in the bytes they stood.
"""

from functools import cache
from typing import Any, Generic, TypeVar, get_args

import msgspec
import numpy as np
import xxhash

from features.decoding import decoder
from learners.errors import CorruptSnapshot

T = TypeVar("T")
Packed = bytes | memoryview


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), np.ascontiguousarray(value).reshape(-1).view(np.uint8).data]
    raise TypeError(type(value))


def _decode_array(kind: Any, value: Any) -> Any:
    name, shape, data = value
    expected = _dtype_of(kind)
    if name != expected.str:  # what else a name may stand for is not found out
        raise ValueError(f"expected an array of {expected.str}, got {name!r:.32}")
    return np.frombuffer(data, expected).reshape(shape)


@cache
def _dtype_of(kind: Any) -> np.dtype[Any]:
    """Of a type such as `NDArray[np.float32]`."""
    _, declared = get_args(kind)
    dtype: np.dtype[Any] = np.dtype(get_args(declared)[0])
    return dtype


class Packing(Generic[T]):
    """Packs and unpacks values of one kind.

    Args:
        magic: Eight bytes that name what is packed, and its format.
        kind: A msgspec type.
    """

    def __init__(self, magic: bytes, kind: type[T]) -> None:
        self._magic = magic
        self._encode = msgspec.msgpack.Encoder(enc_hook=_encode_array).encode
        self._decode = decoder(msgspec.msgpack, kind, _decode_array)

    def pack(self, value: T) -> bytes:
        """A value as bytes."""
        body = self._encode(value)
        return b"".join((self._magic, xxhash.xxh3_64_digest(body), body))

    def unpack(self, packed: Packed) -> T:
        """Read what `pack` wrote.

        Raises:
            CorruptSnapshot: If they were cut or altered, or are of another format.
        """
        view = memoryview(packed).cast("B")
        if len(view) < 16 or bytes(view[:8]) != self._magic:
            raise CorruptSnapshot(f"snapshot of {len(view)} bytes: expected to begin with {self._magic!r}")
        if xxhash.xxh3_64_digest(view[16:]) != bytes(view[8:16]):
            raise CorruptSnapshot(f"snapshot of {len(view)} bytes: checksum does not match; fetch or write it again")
        try:
            return self._decode(view[16:])
        except (msgspec.DecodeError, ValueError, TypeError, OverflowError) as error:
            raise CorruptSnapshot(f"snapshot of {len(view)} bytes: {error}") from None
