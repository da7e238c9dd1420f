"""Make rows up, to see whether two routes answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.feature import StringIndexerModel
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types

from jackfield_mllib._routes._stages import stages_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pyspark.ml import Transformer

#: Rows made up.
ROWS = 48
_TEXTS = ("a b c", "", "Ünïcode and more words", "1.0")
_FLOATS = (types.DoubleType, types.FloatType)
_DTYPES: Mapping[type[types.DataType], str] = {
    types.BooleanType: "?", types.ByteType: "i1", types.ShortType: "i2", types.IntegerType: "i4",
    types.LongType: "i8", types.FloatType: "f4", types.DoubleType: "f8",
}  # fmt: skip


def sample_rows(model: Transformer, schema: types.StructType) -> dict[str, NDArray[Any]]:
    """Make rows up, the same ones each time: numbers, known labels, a missing value in each column.

    Returns:
        Columns as routes take them; none if the width of a vector is not known.
    """
    random = np.random.default_rng(0)
    labels = _labels(model)
    found: dict[str, NDArray[Any]] = {}
    for field in schema.fields:
        type_ = field.dataType
        if isinstance(type_, VectorUDT):
            width = ((field.metadata or {}).get("ml_attr") or {}).get("num_attrs")
            if not width:
                return {}
            found[field.name] = _numbers(random, (ROWS, width))
        elif isinstance(type_, types.ArrayType):
            found[field.name] = _lists(random, type_.elementType)
        elif isinstance(type_, types.StringType):
            texts = np.array(labels.get(field.name) or _TEXTS, object)
            found[field.name] = random.choice(texts, ROWS)
            found[field.name][-1] = None
        elif name := _DTYPES.get(type(type_)):
            found[field.name] = _scalars(random, np.dtype(name), labels.get(field.name))
        else:
            return {}
    return found


def _numbers(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Make numbers up that every model takes: of many sizes, whole ones, none below zero."""
    made = np.abs(random.normal(size=shape))
    made[8:16] = random.integers(0, 5, shape)[8:16]
    made[16:32] *= 10.0 ** random.uniform(-6, 3, shape)[16:32]
    made[-2] = 0.0
    return made


def _scalars(
    random: np.random.Generator, dtype: np.dtype[Any], labels: Sequence[str] | None
) -> NDArray[Any]:
    if labels:
        return random.choice(np.array(labels, np.float64), ROWS).astype(dtype)
    if dtype.kind == "f":
        made = _numbers(random, (ROWS,)).astype(dtype).astype(object)
        made[-1] = None
        # an array of objects that are none of NumPy's
        return np.array([each if each is None else float(each) for each in made], object)
    return random.integers(0, 2 if dtype.kind == "b" else 5, ROWS).astype(dtype)


def _lists(random: np.random.Generator, element: types.DataType) -> NDArray[Any]:
    made = np.empty(ROWS, object)
    for place in range(ROWS):
        size = int(random.integers(0, 6))
        if isinstance(element, types.StringType):
            made[place] = [str(each) for each in random.choice([*"abcdef", "ö"], size)]
        elif isinstance(element, _FLOATS):
            made[place] = random.normal(size=size).tolist()
        else:
            made[place] = random.integers(0, 5, size).tolist()
    return made


def _labels(model: Transformer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stage in stages_of(model):
        if isinstance(stage, StringIndexerModel):
            names = stage.getInputCols() if stage.isSet("inputCols") else [stage.getInputCol()]
            for name, labels in zip(names, stage.labelsArray, strict=False):
                found[name] = [each for each in labels if each]
    return found
