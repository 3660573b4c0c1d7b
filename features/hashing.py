"""xxh3_64 in compiled code, for ids of up to 128 bytes: what loops over packed states need to know an item by.

Source: the specification of XXH3 (Yann Collet, `xxhash_spec.md`), seed 0; tested against the library, byte by byte.
"""

from typing import Any, Final

import numpy as np

from features.compiling import compiled

LONGEST: Final = 128  # bytes
_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248e"
        "e03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d"
        "8a51e04bcdb45931c89f7ec9d9787364"
    ),
    np.uint8,
)
_PRIME_1: Final = np.uint64(0x9E3779B185EBCA87)
_PRIME_2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3: Final = np.uint64(0x165667B19E3779F9)
_MIX_1: Final = np.uint64(0x165667919E3779F9)
_MIX_2: Final = np.uint64(0x9FB21C651E98DF25)
_LOW: Final = np.uint64(0xFFFFFFFF)


@compiled()
def xxh3_64(data: Any, start: int, n: int) -> Any:
    """Hash of `data[start : start + n]`, n at most `LONGEST`."""
    end, length = start + n, np.uint64(n)
    if n > 16:
        total = length * _PRIME_1
        if n > 32:
            if n > 64:
                if n > 96:
                    total += _mixed(data, start + 48, 96) + _mixed(data, end - 64, 112)
                total += _mixed(data, start + 32, 64) + _mixed(data, end - 48, 80)
            total += _mixed(data, start + 16, 32) + _mixed(data, end - 32, 48)
        return _spread(total + _mixed(data, start, 0) + _mixed(data, end - 16, 16))
    if n > 8:
        low = _word(data, start, 8) ^ _word(_SECRET, 24, 8) ^ _word(_SECRET, 32, 8)
        high = _word(data, end - 8, 8) ^ _word(_SECRET, 40, 8) ^ _word(_SECRET, 48, 8)
        return _spread(length + _reversed(low) + high + _folded(low, high))
    if n > 3:
        both = _word(data, end - 4, 4) + (_word(data, start, 4) << np.uint64(32))
        h = both ^ _word(_SECRET, 8, 8) ^ _word(_SECRET, 16, 8)
        h ^= _turned(h, 49) ^ _turned(h, 24)
        h *= _MIX_2
        h ^= (h >> np.uint64(35)) + length
        h *= _MIX_2
        return h ^ (h >> np.uint64(28))
    if n > 0:
        first, middle, last = np.uint64(data[start]), np.uint64(data[start + (n >> 1)]), np.uint64(data[end - 1])
        h = (first << np.uint64(16)) | (middle << np.uint64(24)) | last | (length << np.uint64(8))
        return _spread_short(h ^ _word(_SECRET, 0, 4) ^ _word(_SECRET, 4, 4))
    return _spread_short(_word(_SECRET, 56, 8) ^ _word(_SECRET, 64, 8))


@compiled(inline="always")
def _word(data: Any, at: int, n: int) -> Any:
    """Little endian."""
    word = np.uint64(0)
    for i in range(n):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@compiled()
def _reversed(word: Any) -> Any:
    """The bytes of a word the other way round."""
    found = np.uint64(0)
    for i in range(8):
        found |= ((word >> np.uint64(8 * i)) & np.uint64(0xFF)) << np.uint64(56 - 8 * i)
    return found


@compiled()
def _turned(word: Any, n: int) -> Any:
    return (word << np.uint64(n)) | (word >> np.uint64(64 - n))


@compiled()
def _folded(one: Any, other: Any) -> Any:
    """Both halves of the product of 128 bits, exclusive-or."""
    half = np.uint64(32)
    low = (one & _LOW) * (other & _LOW)
    cross = (one >> half) * (other & _LOW) + (low >> half)
    across = (one & _LOW) * (other >> half) + (cross & _LOW)
    high = (one >> half) * (other >> half) + (cross >> half) + (across >> half)
    return high ^ (one * other)


@compiled()
def _mixed(data: Any, at: int, secret: int) -> Any:
    low = _word(data, at, 8) ^ _word(_SECRET, secret, 8)
    return _folded(low, _word(data, at + 8, 8) ^ _word(_SECRET, secret + 8, 8))


@compiled()
def _spread(h: Any) -> Any:
    h ^= h >> np.uint64(37)
    h *= _MIX_1
    return h ^ (h >> np.uint64(32))


@compiled()
def _spread_short(h: Any) -> Any:
    h ^= h >> np.uint64(33)
    h *= _PRIME_2
    h ^= h >> np.uint64(29)
    h *= _PRIME_3
    return h ^ (h >> np.uint64(32))
