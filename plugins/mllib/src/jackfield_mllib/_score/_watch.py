"""Wait for Spark in a thread, and tell how far it is."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from jackfield.score import Progress, ScoreProgress
from jackfield_mllib._score._told import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyspark.sql import SparkSession

_T = TypeVar("_T")

#: The stage during which rows are counted.
SCORING = "scoring"
#: How often Spark is asked how far it is.
_LOOK_S = 0.2


class Watch:
    """The progress of one run.

    Args:
        spark: Classic, or of Spark Connect.
        progress: Who is told.
    """

    def __init__(self, spark: SparkSession, progress: Progress) -> None:
        self._spark = spark
        self._progress = progress
        #: Rows that there are, once they are counted.
        self.total: int | None = None
        #: Rows that were not scored, once it is known.
        self.rejected = 0
        self._rows = 0

    def wait_for(self, action: Callable[[], _T], *, stage: str = SCORING) -> _T:
        """Run what starts jobs in Spark, and tell how far it is until it is done.

        What `Progress` raises, and an interrupt, end the jobs.

        Args:
            action: Returns when Spark is done.
            stage: What Spark is asked to do.
        """
        is_classic = hasattr(self._spark, "_jsparkSession")
        jobs = _Classic(self._spark) if is_classic else _Connect(self._spark)
        found: list[_T] = []
        failed: list[BaseException] = []

        def act() -> None:
            try:
                jobs.enter()
                found.append(action())
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                failed.append(error)

        thread = threading.Thread(target=act, name="spark-score", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                if stage == SCORING:
                    self._rows = max(self._rows, self._rows_done(jobs))
                self._tell(stage)
                thread.join(_LOOK_S)
        except BaseException:
            with contextlib.suppress(*GONE):
                jobs.cancel()
            raise
        finally:
            jobs.leave()
        if failed:
            raise failed[0]
        if stage == SCORING:
            self._rows = self.total or 0
            self._tell(stage)
        return found[0]

    def _tell(self, stage: str) -> None:
        self._progress(ScoreProgress(self._rows, self.rejected, self.total, stage=stage))

    def _rows_done(self, jobs: _Connect | _Classic) -> int:
        done, tasks = jobs.tasks()
        return (self.total or 0) * done // tasks if tasks else 0


class _Classic:
    """The jobs that one thread starts, in a session with a JVM of this process."""

    def __init__(self, spark: SparkSession) -> None:
        self._context = spark.sparkContext
        self._group = f"jackfield-{uuid.uuid4().hex}"

    def enter(self) -> None:
        """Count the jobs that this thread starts from now on."""
        self._context.setJobGroup(self._group, "jackfield score", interruptOnCancel=True)

    def leave(self) -> None:
        """Nothing is left behind: the group is its thread's."""

    def tasks(self) -> tuple[int, int]:
        """Give the tasks that are done, and all."""
        tracker = self._context.statusTracker()
        done = tasks = 0
        for job in tracker.getJobIdsForGroup(self._group):
            info = tracker.getJobInfo(job)
            stages = [tracker.getStageInfo(each) for each in info.stageIds] if info else []
            done += sum(each.numCompletedTasks for each in stages if each)
            tasks += sum(each.numTasks for each in stages if each)
        return done, tasks

    def cancel(self) -> None:
        """End the jobs."""
        self._context.cancelJobGroup(self._group)


class _Connect:
    """The same in a session of a Spark Connect server."""

    def __init__(self, spark: Any) -> None:  # noqa: ANN401  pyspark's two sessions have no base
        self._spark = spark
        self._tag = f"jackfield-{uuid.uuid4().hex}"
        self._tasks = (0, 0)
        spark.registerProgressHandler(self._note)

    def _note(self, *, stages: Iterable[Any] | None, done: bool, **_: object) -> None:
        known = list(stages or ())
        if known and not done:
            self._tasks = (
                sum(each.num_completed_tasks for each in known),
                sum(each.num_tasks for each in known),
            )

    def enter(self) -> None:
        self._spark.addTag(self._tag)

    def leave(self) -> None:
        self._spark.removeProgressHandler(self._note)

    def tasks(self) -> tuple[int, int]:
        return self._tasks

    def cancel(self) -> None:
        self._spark.interruptTag(self._tag)
