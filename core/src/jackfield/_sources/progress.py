"""How far a fetch is: what the log says of it, and the limits that it may not pass."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("jackfield")

#: Seconds between two lines of one fetch.
EVERY_S = 5.0


class Progress:
    """Adds up the bytes of all files of one fetch; used by several threads.

    Args:
        shown: What is fetched, for the log.
        total: Bytes expected; None where that is not known.
        max_bytes: Most bytes that may come.
        timeout_s: Longest that all of it may take.
        clock: Gives the seconds.
    """

    def __init__(
        self,
        shown: str,
        total: int | None,
        *,
        max_bytes: int,
        timeout_s: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._shown = shown
        self._total = total
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._clock = clock
        self._began = self._told = clock()
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        #: Why all files are given up; empty while none failed.
        self.problem = ""

    def reach(self, path: str, done: int) -> None:
        """Note how many bytes of a file are there; less than before where it begins anew.

        Raises:
            ModelLoadError: A limit is passed, or another file failed.
        """
        with self._lock:
            if self.problem:
                raise ModelLoadError(self.problem)
            self._files[path] = done
            here, now = sum(self._files.values()), self._clock()
            if here > self._max_bytes:
                raise ModelLoadError(too_large(self._shown, here, self._max_bytes))
            if now - self._began > self._timeout_s:
                problem = (
                    f"'{self._shown}' did not come within {self._timeout_s:g} s (fetch_timeout_s)"
                )
                raise ModelLoadError(problem)
            if now - self._told < EVERY_S:
                return
            self._told = now
        logger.info("fetching '%s': %s", self._shown, self._spell(here, now))

    def finish(self) -> None:
        """Tell that all has come."""
        here, now = sum(self._files.values()), self._clock()
        logger.info(
            "fetched '%s': %s, %.1f s", self._shown, self._spell(here, now), now - self._began
        )

    def _spell(self, here: int, now: float) -> str:
        rate = here / max(now - self._began, 1e-6)
        if self._total:
            share = f"{min(100, 100 * here // self._total)} % of {spell_bytes(self._total)}"
        else:
            share = spell_bytes(here)
        return f"{share}, {rate / 1e6:.1f} MB/s"


def too_large(shown: str, found: int, limit: int) -> str:
    """Say that an artifact is over the limit."""
    return (
        f"'{shown}' has {spell_bytes(found)} or more, and at most {spell_bytes(limit)} are fetched "
        "(max_artifact_bytes)"
    )


def spell_bytes(count: int) -> str:
    """Spell a number of bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} bytes"
