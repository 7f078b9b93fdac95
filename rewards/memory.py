"""When a batch does not fit: say which one does, and never halve it on the quiet.

A batch of another size may change scores in their last bit, so its size is the user's.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from tgo.rewards.errors import OutOfMemoryError


def is_exhausted(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU (where torch has no type for it)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def too_large(
    size: int, attempt: Callable[[int], object], device: torch.device
) -> OutOfMemoryError:
    """The error for a batch of `size` images that did not fit.

    `attempt(n)` scores n images; it is tried with halves until one fits, so the size in the
    message is one that was seen to fit.
    """
    what = f"{size} images at once do not fit into the memory of {device}"
    smaller = size // 2
    while smaller:
        _release()
        if _fits(attempt, smaller):
            return OutOfMemoryError(f"{what}; {smaller} do: set the batch size to {smaller}")
        smaller //= 2
    return OutOfMemoryError(
        f"{what}, nor does one; use a 16-bit dtype, fewer reward models or a larger device"
    )


def _fits(attempt: Callable[[int], object], size: int) -> bool:
    try:
        attempt(size)
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        return False
    return True


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
