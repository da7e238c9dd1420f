"""The tools that make environments for one server, or one load: none of them outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Running:
    """What runs for one server, or one load; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._problem = ""

    @contextlib.contextmanager
    def start(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str] | None = None,
        folder: str | None = None,
        lock: int = -1,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a tool, with pipes; it has ended, or is killed, when the block ends.

        Args:
            command: The program and its arguments.
            variables: Its environment variables; None for this process's.
            folder: Where it runs; None for here.
            lock: Descriptor that it inherits; -1 for none.

        Raises:
            ModelLoadError: All was stopped; before or while it runs.
            OSError: It can't be started.
        """
        with self._lock:
            self.check()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                cwd=folder,
                pass_fds=(lock,) if lock >= 0 and sys.platform != "win32" else (),
                # so that what it starts, as a compiler, can be ended with it
                start_new_session=True,
            )
            self._processes.add(process)
        with process:
            try:
                yield process
            except BaseException:
                _kill(process)
                raise
            finally:
                with self._lock:
                    self._processes.discard(process)
        self.check()

    def stop(self, problem: str = "the server stops") -> None:
        """Kill all that runs, and let nothing start.

        Args:
            problem: Why, for who waits for it.
        """
        with self._lock:
            self._problem = self._problem or problem
            for process in self._processes:
                _kill(process)

    def check(self) -> None:
        """Go on, unless all was stopped.

        Raises:
            ModelLoadError: It was.
        """
        if self._problem:
            raise ModelLoadError(self._problem)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a tool with all that it started."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
