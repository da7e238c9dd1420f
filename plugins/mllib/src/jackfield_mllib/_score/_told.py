"""Spark's exceptions in a line."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from jackfield.score import ScoreError
from jackfield_mllib._score_worker import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("jackfield.spark")

#: What Spark raises, and what is raised where there is no Spark any more.
SPARKS_ERRORS = (PySparkException, Py4JError)
GONE = (*SPARKS_ERRORS, OSError)
_NO_DELTA = (
    "Spark has no Delta Lake; give it the jars and Delta's settings, each by --engine-option: "
    "spark.jars.packages=io.delta:delta-spark_2.13:VERSION, "
    "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension, "
    "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog"
)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Tell Spark's exceptions in a line; what an executor said of itself as it is.

    Raises:
        ScoreError: Whatever Spark raised.
    """
    try:
        yield
    except SPARKS_ERRORS as error:
        text = str(error)
        logger.debug("%s", what, exc_info=True)
        if MARK in text:
            said, _ = json.JSONDecoder().raw_decode(text.rpartition(MARK)[2])
            raise ScoreError(said) from error
        if "DATA_SOURCE_NOT_FOUND" in text and "delta" in text:
            raise ScoreError(_NO_DELTA) from error
        lines = [
            line for line in text.splitlines() if line.strip() and not line.startswith("\tat ")
        ]
        said = lines[0] if lines else type(error).__name__
        # py4j's first line tells only which call it was
        if said.startswith("An error occurred while calling") and len(lines) > 1:
            said = lines[1].removeprefix(": ")
        raise ScoreError(f"{what}: {said}") from error
