"""The processes of one server, and what they may leave behind; read from the system."""

from __future__ import annotations

import os
from pathlib import Path

#: An environment variable that marks all that comes of one server, whoever its parent is.
MARK = "CHAOS_RUN"


class Processes:
    """Finds the processes of a server by a mark in their environment.

    Args:
        mark: The mark's value.
        supervisor: The number of the process that was started.
        groups: The models of each host process, by one of their names.
    """

    def __init__(self, mark: str, supervisor: int, groups: dict[str, frozenset[str]]) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self.supervisor = supervisor
        self._groups = groups

    def all(self) -> dict[int, str]:
        """Give their numbers and command lines; those that ended and are not waited for, too."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    found[int(folder.name)] = b" ".join(words).decode(errors="replace").strip()
            except OSError:  # it has ended, or is not ours
                continue
        return found

    def workers(self) -> list[int]:
        """Give the numbers of the whole servers: those of `--workers`, or the one alone."""
        found = [pid for pid, line in self.all().items() if "jackfield._workers.worker" in line]
        return sorted(found) or [self.supervisor]

    def hosts(self) -> dict[int, frozenset[str]]:
        """Give the host processes, and the models that each may hold."""
        return {
            pid: next(
                (models for name, models in self._groups.items() if name in line.split()),
                frozenset().union(*self._groups.values()),
            )
            for pid, line in self.all().items()
            if "jackfield._process" in line or "_process/bootstrap.py" in line
        }


def segments() -> set[str]:
    """Give the names of shared memory."""
    return set(os.listdir("/dev/shm"))


def memory_mb(pids: list[int]) -> float:
    """Give the memory of some processes, what they share counted once, in megabytes."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024
