"""What a target of the tests does when it is called: count, wait at a gate, fail."""

from __future__ import annotations

import threading

#: Calls so far; a test sets the others and puts them back.
calls = 0
#: Clear: a call waits until it is set.
is_open = threading.Event()
is_open.set()
#: Set when a call waits at the gate, or has passed it.
was_called = threading.Event()
#: Calls after which each one fails; None for never.
fails_after: int | None = None
_lock = threading.Lock()


def reset():
    global calls, fails_after
    calls, fails_after = 0, None
    is_open.set()
    was_called.clear()


def call():
    global calls
    with _lock:
        calls += 1
        number = calls
    was_called.set()
    if not is_open.wait(30):
        message = "the gate stayed closed"
        raise TimeoutError(message)
    if fails_after is not None and number > fails_after:
        message = f"call {number} is one too many"
        raise RuntimeError(message)
