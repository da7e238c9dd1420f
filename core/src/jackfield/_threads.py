"""Bound the thread pools that frameworks bring: OpenMP's, and those of BLAS libraries.

A pool is as large as the machine unless somebody says otherwise, each thread that predicts gets an
OpenMP pool of its own, and threads of a pool spin for a while when their work is done. A model owns
a `ThreadBound`; whoever calls its runtime applies it first, in the thread of the call. Knows no
framework; threadpoolctl finds the libraries, and is imported when the first model loads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

__all__ = ["ThreadBound", "available_cores", "count_workers", "default_threads"]

_CGROUPS = Path("sys/fs/cgroup")


def available_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: its CPU affinity, and its cgroups' quota.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        At least 1. A fraction is dropped: a pool with more threads than the quota has cores is
        stopped, all of it, for the rest of each period.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quotas = [quota for folder in _own_cgroups(root) if (quota := _read_quota(folder)) is not None]
    return max(1, int(min([cores, *quotas])))


def count_workers(workers: int | Literal["auto"]) -> int:
    """Count the processes that the setting `workers` asks for: as many as cores for "auto"."""
    return available_cores() if workers == "auto" else workers


def default_threads(workers: int, *, models: int = 1, cores: int | None = None) -> int:
    """Choose the threads of a model for which the settings name none.

    Args:
        workers: Processes that serve the same models on this machine.
        models: Models of one process that may predict at the same time.
        cores: To share; None for the available ones.

    Returns:
        A model's share of half of the cores, at least 1. The event loop needs a core, too, and the
        threads of a pool wait for each other by spinning: one that is as large as the machine was
        measured to become up to 100 times slower as soon as anything else runs.
    """
    return max(1, (available_cores() if cores is None else cores) // (2 * workers * models))


def parse_quota(quota: str, period: str) -> float | None:
    """Read a quota, both in microseconds: of cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_…_us`).

    Returns:
        Cores; None if there is no quota (v2 says `max`, v1 `-1`) or it can't be read.
    """
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _read_quota(folder: Path) -> float | None:
    try:
        match (folder / "cpu.max").read_text("ascii").split():
            case [quota, period]:
                return parse_quota(quota, period)
            case _:
                return None
    except OSError:
        pass  # the root has no such file, nor has v1
    try:
        quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
        return parse_quota(quota, (folder / "cpu.cfs_period_us").read_text("ascii"))
    except OSError:
        return None


def _own_cgroups(root: Path) -> Iterator[Path]:
    """Give the folders of the process's own groups and of all above: each one's quota counts."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # v1 has a folder for each controller; where two share one, this is a link to it
        top = root / _CGROUPS / ("cpu" if controllers else "")
        own = top / path.strip("/")
        # in a container the path may be the host's, and what is mounted begins at the own group
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


class _Pool(NamedTuple):
    """A pool of one library."""

    set_threads: Callable[[int], object]
    #: Threads that it has where nobody bounds it; an environment variable may have set them.
    installed: int

    def bound(self, threads: int) -> None:
        """Bound it; never more than it has by itself."""
        self.set_threads(min(threads, self.installed))


class _Process:
    """The pools of this process: one object, as the libraries' state is the process's.

    OpenMP's number belongs to the thread that sets it, and so does that of BLAS libraries which
    compute by OpenMP, or are MKL. That of all other BLAS libraries is the whole process's: it is
    the largest that a model asks for.
    """

    def __init__(self) -> None:
        #: Grows when libraries are found that were not there before.
        self.version = 0
        self._lock = threading.Lock()
        self._asked: Counter[int] = Counter()
        self._modules = 0
        self._shared: dict[str, _Pool] = {}
        self._own: dict[str, _Pool] = {}

    def ask(self, threads: int) -> None:
        """Count a model that wants so many threads."""
        with self._lock:
            self._asked[threads] += 1
            self._update()

    def withdraw(self, threads: int) -> None:
        """Forget one such model; without any, the pools are as large as they came."""
        with self._lock:
            self._asked -= Counter([threads])
            self._update()

    def refresh(self) -> None:
        """Look the libraries up anew."""
        with self._lock:
            self._update()

    def pools_of_a_thread(self, modules: int) -> tuple[_Pool, ...]:
        """Give the pools whose number belongs to a thread.

        Args:
            modules: How many modules are imported. When it changes the libraries are looked up
                anew, which takes milliseconds: an import may have brought some.
        """
        with self._lock:
            if modules != self._modules:
                self._update()
                self._modules = modules
            return tuple(self._own.values())

    def _update(self) -> None:
        # In a thread of its own: there OpenMP still says what a thread has where nothing was set,
        # and threadpoolctl lets one living thread alone change OpenBLAS, which would later keep
        # scikit-learn from doing so around a predict.
        thread = threading.Thread(target=self._look_up, name="jackfield-pools")
        thread.start()
        thread.join()

    def _look_up(self) -> None:
        import threadpoolctl

        for library in threadpoolctl.ThreadpoolController().lib_controllers:
            by_openmp = getattr(library, "threading_layer", "") == "openmp"
            of_thread = library.user_api == "openmp" or library.internal_api == "mkl" or by_openmp
            pools = self._own if of_thread else self._shared
            if library.filepath not in pools:
                pools[library.filepath] = _Pool(library.set_num_threads, library.num_threads or 1)
                self.version += 1
        largest = max(self._asked, default=sys.maxsize)
        for pool in self._shared.values():
            pool.bound(largest)


_PROCESS = _Process()


class _Here(threading.local):
    """What the calling thread's pools were bound to, and what was imported and found then."""

    bound = (0, 0, 0)


_HERE = _Here()


class ThreadBound:
    """How many threads frameworks may use for one model's predicts; owned by the model.

    Made before the runtime loads, in a thread (it takes milliseconds), and closed when the model
    is gone.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            problem = f"a model needs at least 1 thread, not {threads}"
            raise ValueError(problem)
        self.threads = threads
        _PROCESS.ask(threads)

    def apply(self) -> None:
        """Bound the calling thread's pools; call it before each predict, in its thread.

        Free (0.2 µs) where this thread's last predict had the same bound. It stays until another
        is applied: nothing is restored.
        """
        _bound_here(self.threads)

    def apply_single(self) -> None:
        """Bound the calling thread's pools to the thread itself: for predicts on the event loop."""
        _bound_here(1)

    def refresh(self) -> None:
        """Find what loading has brought; call it, in a thread, when the runtime has loaded.

        `apply` looks by itself when modules were imported since. It can't see a library that an
        import brings last, or a runtime's `load` by other ways than an import.
        """
        _PROCESS.refresh()

    def close(self) -> None:
        """Let the other models' bounds decide; call it once."""
        _PROCESS.withdraw(self.threads)


def _bound_here(threads: int) -> None:
    modules = len(sys.modules)
    if _HERE.bound != (threads, modules, _PROCESS.version):
        for pool in _PROCESS.pools_of_a_thread(modules):
            pool.bound(threads)
        _HERE.bound = (threads, modules, _PROCESS.version)
