"""Give the system back the memory that was freed and that the allocator keeps.

glibc keeps what is not at the end of a heap, and a thread that loads may have a heap of its own.
Measured with `benchmarks/memory.py`. Other C libraries have no such call: nothing happens there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def trim() -> None:
    """Give it back; takes a few milliseconds, without the interpreter's lock."""
    if call := _find():
        call(0)


@functools.cache
def _find() -> Callable[[int], object] | None:
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):  # musl has none
        call: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
        return call
    return None
