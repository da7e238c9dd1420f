"""A process's ties to the one that started it: it dies with it, and leaves the signals to it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from types import FrameType

#: What a terminal, or who runs the server, sends to all its processes.
_LEFT_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def tie(sock: socket.socket, *descriptors: int) -> None:
    """Tie this process, and all of its group, to the one that has the pipe's other end.

    Args:
        sock: The socket to that one; copies of this process must not hold it.
        descriptors: The pipe's reading end first, then what copies must not hold either.
    """
    import fcntl

    lifeline = descriptors[0]
    for descriptor in (sock.fileno(), *descriptors):
        os.set_inheritable(descriptor, False)  # noqa: FBT003  it takes no name
    # by the kernel, whoever holds the GIL then
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere it is SIGIO, which ends a process as well
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    # not ignored: that would be inherited by what a model starts
    for number in _LEFT_SIGNALS:
        signal.signal(number, _stay)
    os.register_at_fork(
        # a signal that comes in between is for what the copy does with it
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_SIGNALS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_SIGNALS),
        after_in_child=lambda: _untie(sock, descriptors),
    )


def describe_exit(code: int) -> str:
    """Say how a process ended, by its exit code; a negative one is a signal's number."""
    if code >= 0:
        return f"exited with code {code}"
    names = {each.value: f" ({each.name})" for each in signal.Signals}
    return f"was killed by signal {-code}{names.get(-code, '')}"


def _stay(number: int, frame: FrameType | None) -> None:
    """Do nothing: the other one says when to stop."""


def _untie(sock: socket.socket, descriptors: tuple[int, ...]) -> None:
    """Cut off a copy of this process that a model forked: the other one must see the end of it."""
    # not closed: an event loop holds the socket, too, which would keep it open
    held = sock.detach()
    for descriptor in (*descriptors, *([held] if held >= 0 else [])):
        os.close(descriptor)
    for number in _LEFT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_SIGNALS)
