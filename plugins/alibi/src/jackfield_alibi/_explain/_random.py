"""Random numbers that come out the same again, though explainers draw from a global generator.

An explainer with a seed has the generator for itself; those without share it.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: How often a thread that waits for its turn looks whether anybody still waits for it, in seconds.
_LOOK_S = 0.05


class _Turns:
    """Lets one thread in alone, or several together, in the order in which they come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._together = 0
        self._alone = False

    @contextlib.contextmanager
    def take(self, check: Callable[[], None], *, alone: bool) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._alone or (alone and self._together):
                    self._changed.wait(_LOOK_S)
                    check()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._enter(1, alone=alone)
        try:
            yield
        finally:
            with self._changed:
                self._enter(-1, alone=alone)
                self._changed.notify_all()

    def _enter(self, change: int, *, alone: bool) -> None:
        if alone:
            self._alone = change > 0
        else:
            self._together += change


_turns = _Turns()


@contextlib.contextmanager
def drawing(seed: int | None, check: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Draw random numbers within: the same ones again with the same seed.

    Args:
        seed: Of the global generators of NumPy, Python and PyTorch (where it is imported), whose
            state is put back; None draws what comes.
        check: Called while it waits for its turn; may raise to end that.

    Yields:
        A function that sets the generators back to the seed.
    """
    if seed is None:
        with _turns.take(check, alone=False):
            yield lambda: None
        return
    with _turns.take(check, alone=True):
        numpy_state, python_state = np.random.get_state(), random.getstate()
        torch = sys.modules.get("torch")
        torch_state = torch.random.get_rng_state() if torch is not None else None

        def reseed() -> None:
            np.random.seed(seed)
            random.seed(seed)
            if torch is not None:
                torch.manual_seed(seed)

        reseed()
        try:
            yield reseed
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            if torch is not None:
                torch.random.set_rng_state(torch_state)
