"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any


def give_back() -> None:
    """Return freed memory to the system, where the C library can be asked to.

    glibc keeps what lies between pieces still in use: a process that compresses texts of ever new lengths for half an
    hour then holds gigabytes of nothing. Done once in seconds of work, it costs nothing that can be measured.
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
