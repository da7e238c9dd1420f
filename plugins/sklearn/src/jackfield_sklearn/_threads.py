"""Bound the threads of scikit-learn's pools: one for a few rows, the model's share for many.

joblib's are opened by an estimator's `n_jobs`, OpenMP's by whoever computes; both are set for the
thread that computes, so that models do not disturb each other.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import joblib
from threadpoolctl import ThreadpoolController

from jackfield_sklearn._estimator import parts

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Rows from which on several threads are not slower than one. A forest of 100 trees, one thread and
#: four on a busy machine, in ms: 1 row 4 and 13, 1,000 rows 10 and 47, 4,000 26 and 24.
MANY_ROWS = 4_000


class Threads:
    """The pools of one model.

    Args:
        estimator: Its `n_jobs`, and those inside it, are left to `of` from now on.
        count: Threads for many rows.
    """

    def __init__(self, estimator: object, count: int) -> None:
        self._count = count
        self._uses_joblib = False
        for part in parts(estimator):
            # what is told to be serial stays so
            if getattr(part, "n_jobs", None) not in (None, 1):
                part.n_jobs = None  # type: ignore[attr-defined]
                self._uses_joblib = True
        openmp = ThreadpoolController().select(user_api="openmp").lib_controllers
        own = [each for each in openmp if "scikit_learn" in (each.filepath or "")]
        self._openmp = own or openmp
        self._set = threading.local()

    @contextlib.contextmanager
    def many(self) -> Iterator[None]:
        """Use the model's share of threads."""
        self.bound(self._count)
        try:
            if self._uses_joblib and self._count > 1:
                with joblib.parallel_config("threading", n_jobs=self._count):
                    yield
            else:
                yield
        finally:
            self.bound(1)

    def bound(self, count: int = 1) -> None:
        """Bound OpenMP's pool of this thread; costs a look where that was done before."""
        if getattr(self._set, "count", 0) != count:
            for each in self._openmp:
                each.set_num_threads(count)
            self._set.count = count
