"""The Spark engine of ``jackfield score``, in the order of a run.

- `_engine`: the run itself
- `_options`: what ``--engine-option`` may say, and the session that it asks for
- `_tables`: Spark's readers and writers
- `_parts`: which row of the whole input a row of a task is
- `_executors`: models of any runtime, in the Python workers of the executors
- `_transform`: models of Spark itself, by their own `transform`
- `_rejects`: the file of rows that were not scored
- `_watch`: waiting for Spark, and telling how far it is
- `_told`: Spark's errors in a line

What the Python workers run is `jackfield_mllib._score_worker`.
"""

from jackfield_mllib._score._engine import SparkEngine

__all__ = ["SparkEngine"]
