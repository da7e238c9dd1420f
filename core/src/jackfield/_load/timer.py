"""Wake an event loop on time: event loops round to milliseconds, a rate of thousands does not."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_SECOND = 1_000_000_000


class Timer(Protocol):
    """Calls back once for each time that it is set to."""

    def set(self, at_ns: int) -> None:
        """Call back at a time of `time.monotonic_ns`, instead of the one set before."""

    def close(self) -> None:
        """Call back no more."""


def create_timer(callback: Callable[[], None]) -> Timer:
    """Make the finest timer that the system has."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError, NotImplementedError):
            return _FdTimer(callback)
    return _LoopTimer(callback)


class _LoopTimer:
    """The event loop's own: a millisecond late at worst, where the machine is idle."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_ns: int) -> None:
        self.close()
        delay_s = max(at_ns - time.monotonic_ns(), 0) / _SECOND
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class _Spec(ctypes.Structure):
    """`struct itimerspec`: how often again, and when first."""

    _fields_ = (
        ("again_s", ctypes.c_long),
        ("again_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


#: Of <time.h> and <sys/timerfd.h>; Python's own `os.timerfd_create` comes with 3.13.
_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _FdTimer:
    """Linux's timer that is a file, which the event loop watches like a socket."""

    def __init__(self, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._wake)

    def set(self, at_ns: int) -> None:
        # a time of 0 would switch it off
        seconds, rest = divmod(max(at_ns, 1), _SECOND)
        spec = _Spec(0, 0, seconds, rest)
        self._settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
            self._callback()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
