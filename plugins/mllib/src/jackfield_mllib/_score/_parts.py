"""Which row of the whole input a row of a task is.

A task reads parts of files, one after the other, and Spark numbers the rows of each task in the
order in which it reads them. So a row's place is that of its part's first row, counted over all
files in order, and how far it is behind that row.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from pyspark.sql import functions as F  # noqa: N812  as all of Spark's users call it

from jackfield_mllib._score._told import told
from jackfield_mllib._score_worker import ROW, SPLIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import Column, DataFrame

    from jackfield_mllib._score._watch import Watch

_FILE, _START = "_metadata.file_path", "_metadata.file_block_start"


class Parts(NamedTuple):
    """The parts of an input."""

    rows: int
    #: `SPLIT` -> what makes of `ROW` the place in the input, added to it.
    offsets: Mapping[int, int]


def numbered() -> tuple[Column, Column]:
    """Give `SPLIT` and `ROW`, to be selected from what a reader gives."""
    split = F.expr(f"xxhash64({_FILE}, {_START})").alias(SPLIT)
    return split, F.monotonically_increasing_id().alias(ROW)


def count_rows(source: DataFrame, inputs: Sequence[str], watch: Watch) -> Parts:
    """Count the rows of each part that a task reads.

    Args:
        source: What a reader gives.
        inputs: The paths that it reads, whose order is that of the rows.
        watch: Learns how many rows there are.
    """
    path, start = F.expr(_FILE).alias("path"), F.expr(_START).alias("start")
    rows = source.select(path, start, *numbered())
    parts = rows.groupBy("path", "start", SPLIT).agg(
        F.count(F.lit(1)).alias("rows"), F.min(ROW).alias("first")
    )
    with told("the table can't be read"):
        found = watch.wait_for(parts.collect, stage="counting the rows")
    order = functools.partial(_place, [plain(each) for each in inputs])
    before = 0
    offsets = {}
    for part in sorted(found, key=lambda each: (*order(each["path"]), each["start"])):
        offsets[int(part[SPLIT])] = before - int(part["first"])
        before += int(part["rows"])
    watch.total = before
    return Parts(before, offsets)


def plain(path: str) -> str:
    """Bring a path and a file's URI to one form."""
    parts = urlsplit(path)
    if parts.scheme in ("", "file"):
        return os.path.abspath(unquote(parts.path) if parts.scheme else path)
    return f"{parts.scheme}://{parts.netloc}{unquote(parts.path)}".rstrip("/")


def _place(inputs: Sequence[str], file: str) -> tuple[int, str]:
    """Say which of the inputs a file is of, and its name there, so that they can be sorted."""
    name = plain(file)
    for place, path in enumerate(inputs):
        if name == path or name.startswith(f"{path}/"):
            return place, name
    return len(inputs), name
