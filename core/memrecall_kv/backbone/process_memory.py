"""Memory that is not needed goes back to the system, or is not taken in the first place."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""How many kernels oneDNN, and torch's layer above it, keep: one for each shape of each matrix product."""
_KERNELS = "64"
"""Several forwards' worth; a thousand if nobody says."""


def keep_few_kernels() -> None:
    """Let a CPU's kernels be kept for a few shapes only, unless the environment says how many.

    Texts and questions are of ever new lengths: kept for all of them, kernels took 20 MB more after every question.
    Works only before the first matrix product of the process.
    """
    for name in _CACHES:
        os.environ.setdefault(name, _KERNELS)


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to.

    glibc keeps what lies between pieces still in use: a process that compresses texts of ever new lengths for half an
    hour then holds gigabytes of nothing. Done once in seconds of work, it costs about 2 % of them.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], Any] | None:
    try:
        found: Callable[[int], Any] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return found
