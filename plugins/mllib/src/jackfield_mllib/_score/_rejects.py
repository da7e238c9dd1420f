"""The file of rows that were not scored, in the order of the input.

Spark sorts them, and the driver writes them as they come: it never holds more than a few.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it

from jackfield_mllib._score._told import told
from jackfield_mllib._score_worker import REJECT, ROW, SPLIT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jackfield_mllib._score._executors import Computed
    from jackfield_mllib._score._parts import Parts
    from jackfield_mllib._score._watch import Watch

#: How many rows the driver takes at a time.
_AT_ONCE = 20_000


def write_rejects(
    made: Computed, parts: Parts, path: str, *, spark: SparkSession, watch: Watch
) -> None:
    """Write the file: as lines of NDJSON with `row`, `reason` and `values`.

    Args:
        made: Has at least one.
        parts: Say which rows they are.
        path: A file of the driver's machine, or a URI that Spark writes to.
        spark: The session.
        watch: Is told.
    """
    watch.rejected = made.rejected
    offsets = spark.createDataFrame([*parts.offsets.items()], f"{SPLIT} long, offset long")
    row = F.col(ROW) + F.col("offset")
    # the row goes before the reason, within the same object
    line = F.concat(F.lit('{"row":'), row.cast("string"), F.lit(","), F.substr(REJECT, F.lit(2)))
    lines = made.rejects.join(F.broadcast(offsets), SPLIT).select(
        row.alias("row"), line.alias("value")
    )
    scheme, _, rest = path.rpartition("://")
    is_file = scheme in ("", "file")
    pieces = made.rejected // _AT_ONCE + 1 if is_file else 1
    lines = lines.repartitionByRange(pieces, "row").sortWithinPartitions("row").select("value")

    def write() -> None:
        if is_file:
            _write_file(lines, Path(rest))
        else:
            lines.write.mode("overwrite").text(path)

    with told("the rejects could not be written"):
        watch.wait_for(write, stage="writing the rejects")


def _write_file(lines: DataFrame, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(f"{each['value']}\n" for each in lines.toLocalIterator())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
