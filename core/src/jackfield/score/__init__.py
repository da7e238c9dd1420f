"""Apply a model whose rows are independent to a whole table: what ``jackfield score`` runs.

`ScoreJob` says what is scored, `Scorer` loads its model and scores one Arrow batch after the other,
a `ScoreEngine` brings all batches to scorers: `LocalEngine` here in this process, others come from
plugins. Needs pyarrow, which is imported when a `Scorer` is made.

Example:
    ```python
    job = ScoreJob(model="models/wines", inputs=("wines.parquet",), output="scored.parquet")
    with Scorer(job) as scorer:
        plan = scorer.plan(table.schema)
        for batch in table.to_batches():
            scored = plan.score(batch)
            write(scored.batch)  # of the schema plan.schema
            keep(scored.rejects)
    ```
"""

from __future__ import annotations

from jackfield.errors import ScoreError
from jackfield.score import _arrow as _arrow  # says what to install, before all else
from jackfield.score._job import (
    FORMATS,
    SUFFIXES,
    Cells,
    Format,
    Progress,
    Rejected,
    Scored,
    ScoreEngine,
    ScoreJob,
    ScoreProgress,
    ScoreSummary,
)
from jackfield.score._local import LocalEngine
from jackfield.score._scorer import ScorePlan, Scorer, find_source

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Cells",
    "Format",
    "LocalEngine",
    "Progress",
    "Rejected",
    "ScoreEngine",
    "ScoreError",
    "ScoreJob",
    "ScorePlan",
    "ScoreProgress",
    "ScoreSummary",
    "Scored",
    "Scorer",
    "find_source",
]
