"""A 64-bit hash of many strings at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def hash_strings(values: pa.Array) -> NDArray[np.uint64]:
    """FNV-1a of each string's UTF-8 bytes, then MurmurHash3's finaliser; uint64 [n].

    FNV alone leaves the upper bits of short strings alike; the finaliser spreads them.
    """
    values = values.cast(pa.large_string())
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[values.offset :][: len(values) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    start, length = offsets[:-1], np.diff(offsets)
    hashes = np.full(len(values), _OFFSET)
    for place in range(int(length.max(initial=0))):
        longer = np.flatnonzero(length > place)
        hashes[longer] = (hashes[longer] ^ data[start[longer] + place]) * _PRIME
    return _spread(hashes)


def _spread(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        hashes = (hashes ^ (hashes >> np.uint64(33))) * factor
    return hashes ^ (hashes >> np.uint64(33))
