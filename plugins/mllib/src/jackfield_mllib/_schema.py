"""Find the columns that a model takes.

A column is an input if a stage reads it that no stage before has made. What it holds is told by the
stage that reads it; the operator's own word goes before that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pyarrow import parquet
from pyspark.ml import PipelineModel
from pyspark.ml.linalg import VectorUDT
from pyspark.ml.tuning import CrossValidatorModel, TrainValidationSplitModel
from pyspark.sql import types as sql

from jackfield import Datatype, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyspark.ml import Transformer

    from jackfield.messages import TensorMetadata
    from jackfield_mllib._artifact import Stage

#: Parameters that name columns which a stage reads, and those which it makes.
_READS: Final = ("inputCol", "inputCols", "featuresCol", "userCol", "itemCol", "itemsCol",
                 "offsetCol")  # fmt: skip
_MAKES: Final = ("outputCol", "outputCols", "predictionCol", "probabilityCol", "rawPredictionCol",
                 "topicDistributionCol", "linkPredictionCol", "quantilesCol", "leafCol",
                 "varianceCol")  # fmt: skip
#: Types as the operator and the metadata name them -> Spark's, and the datatype of its tensors.
_TYPES: Final[dict[str, tuple[sql.DataType, Datatype]]] = {
    "double": (sql.DoubleType(), Datatype.FP64),
    "float": (sql.FloatType(), Datatype.FP32),
    "long": (sql.LongType(), Datatype.INT64),
    "int": (sql.IntegerType(), Datatype.INT32),
    "short": (sql.ShortType(), Datatype.INT16),
    "byte": (sql.ByteType(), Datatype.INT8),
    "boolean": (sql.BooleanType(), Datatype.BOOL),
    "string": (sql.StringType(), Datatype.BYTES),
    "array<string>": (sql.ArrayType(sql.StringType()), Datatype.BYTES),
    "array<double>": (sql.ArrayType(sql.DoubleType()), Datatype.FP64),
    "array<float>": (sql.ArrayType(sql.FloatType()), Datatype.FP32),
    "array<int>": (sql.ArrayType(sql.IntegerType()), Datatype.INT32),
    "array<long>": (sql.ArrayType(sql.LongType()), Datatype.INT64),
}
_SYNONYMS: Final = {
    "bigint": "long",
    "integer": "int",
    "smallint": "short",
    "tinyint": "byte",
    "real": "float",
    "bool": "boolean",
    "text": "string",
    "array<bigint>": "array<long>",
    "array<integer>": "array<int>",
}
_VECTOR = re.compile(r"vector(?:\s*[(\[<]\s*(\d+)\s*[)\]>])?")
#: What stages read whose inputs are not vectors.
_READ_AS: Final[Mapping[str, str]] = {
    "Tokenizer": "string",
    "RegexTokenizer": "string",
    "StringIndexerModel": "string",
    "FeatureHasher": "double",
    "IndexToString": "double",
    "OneHotEncoderModel": "double",
    "OneHotEncoder": "double",
    "Bucketizer": "double",
    "Binarizer": "double",
    "ImputerModel": "double",
    "VectorAssembler": "double",
    "Interaction": "double",
    "TargetEncoderModel": "double",
    "StopWordsRemover": "array<string>",
    "NGram": "array<string>",
    "HashingTF": "array<string>",
    "CountVectorizerModel": "array<string>",
    "Word2VecModel": "array<string>",
    "FPGrowthModel": "array<string>",
    "ALSModel": "int",
}
_OF_COUNTS: Final = frozenset(["LocalLDAModel", "DistributedLDAModel"])
#: Stages of which nobody can tell what they read.
_FREE: Final = frozenset(["SQLTransformer"])
_IS_DOUBLE = re.compile(r"-?\d+\.\d+(?:E-?\d+)?")
_INTEGERS: Final = frozenset(["long", "int", "short", "byte"])


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A column that a model takes."""

    name: str
    #: As in `parameters.extra.schema`: "double", "string", "vector" …
    type: str
    #: Of a vector; 0 where it is not known.
    width: int = 0
    #: False where a stage that reads it refuses (or drops) rows without a value.
    nullable: bool = True
    #: The values that a stage was trained with.
    categories: tuple[str | float, ...] = ()
    #: Whether a row with another value than those is refused (or dropped).
    is_closed: bool = False
    #: Whether its numbers have to be 0 or more: the inference of topics need not end otherwise.
    is_counts: bool = False

    @property
    def is_vector(self) -> bool:
        """Whether it is a vector of Spark's, or an array of numbers."""
        return self.type == "vector" or (
            self.type.startswith("array<") and self.datatype is not Datatype.BYTES
        )

    @property
    def datatype(self) -> Datatype:
        """The datatype of its tensor in the metadata."""
        return Datatype.FP64 if self.type == "vector" else _TYPES[self.type][1]

    @property
    def spark(self) -> sql.StructField:
        """The column in a DataFrame; of a vector with its width, as Spark's own stages tell it."""
        if self.type != "vector":
            return sql.StructField(self.name, _TYPES[self.type][0], nullable=True)
        told = {"ml_attr": {"num_attrs": self.width}} if self.width else {}
        return sql.StructField(self.name, VectorUDT(), nullable=True, metadata=told)


# ---- what a model takes ----


def find_fields(
    stage: Stage,
    model: Transformer,
    *,
    schema: Mapping[str, str],
    declared: Sequence[TensorMetadata] = (),
) -> list[Field]:
    """Find the columns that a model takes.

    Args:
        stage: What its folder tells.
        model: The same, loaded.
        schema: Types that the operator gives; a column that is not found otherwise is added.
        declared: Inputs that the operator declares; they say the types of columns of their names.

    Returns:
        In the order in which the stages read them.

    Raises:
        ModelLoadError: A type is none that there is; or the stages don't tell the columns, and the
            operator doesn't either.
    """
    given = {name: _parse_type(name, each) for name, each in schema.items()}
    for each in declared:
        given.setdefault(each.name, _type_of_tensor(each))
    leaves = list(zip(stage.walk(), _walk(model, stage), strict=True))
    found = _Finder(given, stage.labels()).find(leaves)
    free = [each.uid for each, _ in leaves if each.kind in _FREE or _reads_unknown(each)]
    if free and not schema:
        raise ModelLoadError(
            f"what the stage '{free[0]}' reads can't be told; name all columns that the model "
            "takes, with their types, in 'parameters.extra.schema', for example "
            '{"age": "double", "city": "string"}'
        )
    if free:
        # what stages after it read may be its own
        found = [each for each in found if each.name in schema]
        found.sort(key=lambda each: list(schema).index(each.name))
    names = {each.name for each in found}
    found += [
        Field(name=name, type=kind, width=width)
        for name, (kind, width) in given.items()
        if name in schema and name not in names
    ]
    if not found:
        raise ModelLoadError(
            "no stage tells which columns it takes; name them, with their types, in "
            "'parameters.extra.schema'"
        )
    return found


class _Finder:
    """Walks the stages once."""

    def __init__(self, given: Mapping[str, tuple[str, int]], labels: set[str]) -> None:
        self._given = given
        self._labels = labels
        self._fields: dict[str, Field] = {}
        self._made: set[str] = set()

    def find(self, leaves: Sequence[tuple[Stage, object]]) -> list[Field]:
        widths = _known_widths(leaves)
        read_later = {name for stage, _ in leaves for name in reads(stage)}
        for stage, model in leaves:
            # an indexer of labels: Spark leaves it out where there is no such column
            outputs = set(makes(stage))
            is_of_labels = outputs <= self._labels and not outputs & read_later
            if stage.kind == "StringIndexerModel" and is_of_labels:
                self._made |= outputs
                continue
            columns = list(reads(stage))
            for place, name in enumerate(columns):
                if name not in self._made:
                    self._add(self._field(stage, model, place, name, columns, widths))
            self._made |= outputs
        return list(self._fields.values())

    def _add(self, field: Field) -> None:
        """Keep what all readers of a column tell."""
        before = self._fields.get(field.name)
        if before is None:
            self._fields[field.name] = field
            return
        stronger = before if before.categories or before.width or not field.categories else field
        if before.type == "double" != field.type:
            stronger = field
        self._fields[field.name] = msgspec.structs.replace(
            stronger,
            nullable=before.nullable and field.nullable,
            is_counts=before.is_counts or field.is_counts,
        )

    def _field(
        self,
        stage: Stage,
        model: object,
        place: int,
        name: str,
        columns: Sequence[str],
        widths: Mapping[str, int],
    ) -> Field:
        kind, width = _READ_AS.get(stage.kind, "vector"), 0
        categories: tuple[str | float, ...] = ()
        policy = stage.params.get("handleInvalid", "")
        if stage.kind == "StringIndexerModel":
            categories = _labels(stage, model, place)
            if categories and all(_IS_DOUBLE.fullmatch(str(each)) for each in categories):
                kind, categories = "double", tuple(float(each) for each in categories)
        elif stage.kind == "FeatureHasher" and name in stage.params.get("categoricalCols", ()):
            kind = "string"
        elif stage.kind == "VectorAssembler":
            total = next((widths[each] for each in makes(stage) if each in widths), 0)
            raw = [each for each in columns if each not in self._made]
            if total > 1 and len(columns) == 1:
                kind, width = "vector", total
            elif total and raw == columns and total != len(columns) and name not in self._given:
                raise ModelLoadError(
                    f"the stage '{stage.uid}' makes a vector of {total} from {len(columns)} "
                    "columns, so that some of them are vectors; say which in "
                    '\'parameters.extra.schema\', for example {"embedding": "vector(16)"}'
                )
        if kind == "vector":
            width = width or widths.get(name, 0)
        if name in self._given:
            told, told_width = self._given[name]
            if told != kind:
                categories = ()
            kind, width = told, told_width or (width if told == "vector" else 0)
        refuses = policy in ("error", "skip") and stage.kind in (
            "StringIndexerModel", "VectorAssembler", "Bucketizer", "OneHotEncoderModel",
        )  # fmt: skip
        return Field(
            name=name,
            type=kind,
            width=width,
            nullable=not refuses and kind not in _INTEGERS,
            categories=categories,
            is_closed=refuses and bool(categories),
            is_counts=stage.kind in _OF_COUNTS,
        )


def reads(stage: Stage) -> Iterator[str]:
    """Name the columns that a stage reads."""
    if (
        stage.kind == "VectorSizeHint"
        or "featuresCol" not in stage.params
        or (stage.params.get("inputCol") or stage.params.get("inputCols"))
    ):
        wanted = tuple(each for each in _READS if each != "featuresCol")
    else:
        wanted = _READS
    for parameter in wanted:
        yield from _named(stage, parameter)


def makes(stage: Stage) -> Iterator[str]:
    """Name the columns that a stage makes."""
    for parameter in _MAKES:
        yield from _named(stage, parameter)
    if stage.kind == "VectorSizeHint":
        yield from _named(stage, "inputCol")


def _named(stage: Stage, parameter: str) -> list[str]:
    value = stage.params.get(parameter)
    if isinstance(value, str):
        return [value] if value else []
    return [each for each in value or () if isinstance(each, str)]


def _walk(model: object, stage: Stage) -> Iterator[object]:
    """Give the loaded stage beside each of `Stage.walk`; None where Python does not show it."""
    if stage.kind == "RFormulaModel":
        yield from (None for _ in stage.walk())
    elif isinstance(model, PipelineModel):
        for part, child in zip(model.stages, stage.children, strict=True):
            yield from _walk(part, child)
    elif isinstance(model, CrossValidatorModel | TrainValidationSplitModel):
        yield from _walk(model.bestModel, stage.children[0])
    else:
        yield model


def _reads_unknown(stage: Stage) -> bool:
    ours = ("org.apache.spark.ml.", "pyspark.ml.")
    return not stage.class_name.startswith(ours) and not any(reads(stage))


def _labels(stage: Stage, model: object, place: int) -> tuple[str, ...]:
    """Give the labels that an indexer was trained with, of one of its columns."""
    if model is not None:
        found = model.labelsArray  # type: ignore[attr-defined]
    else:
        # inside an R formula, which Python does not show; Spark 2 wrote the labels of one column
        told = parquet.read_table(stage.folder / "data").to_pydict()
        found = told["labelsArray"][0] if "labelsArray" in told else told.get("labels", [])
    return tuple(str(each) for each in found[place]) if place < len(found) else ()


# ---- widths ----

#: How models tell the width of the vectors that they take.
_WIDTHS: Final[tuple[tuple[str, Callable[[Any], int]], ...]] = (
    ("numFeatures", lambda model: model.numFeatures),
    ("mean", lambda model: model.mean.size),
    ("originalMin", lambda model: model.originalMin.size),
    ("maxAbs", lambda model: model.maxAbs.size),
    ("median", lambda model: model.median.size),
    ("pc", lambda model: model.pc.numRows),
    ("idf", lambda model: model.idf.size),
    ("clusterCenters", lambda model: len(model.clusterCenters()[0])),
    ("gaussians", lambda model: model.gaussians[0].mean.size),
    ("vocabSize", lambda model: model.vocabSize()),
    ("getScalingVec", lambda model: model.getScalingVec().size),
    ("models", lambda model: model.models[0].numFeatures),
)


def _known_widths(leaves: Sequence[tuple[Stage, object]]) -> dict[str, int]:
    """Find the widths of vector columns, by the stages that read them."""
    found: dict[str, int] = {}
    for stage, model in leaves:
        if stage.kind == "VectorSizeHint":
            for name in _named(stage, "inputCol"):
                found.setdefault(name, int(stage.params.get("size", 0)))
            continue
        if stage.kind in _READ_AS or stage.kind.startswith("OneHot"):
            continue
        for name in reads(stage):
            width = _width(model)
            if width > 0:
                found.setdefault(name, width)
    return found


def _width(model: object) -> int:
    for name, ask in _WIDTHS:
        if name in vars(model) or hasattr(type(model), name):
            try:
                return int(ask(model))
            # not all that have the attribute can tell: an old model has -1 or nothing
            except Exception:  # noqa: BLE001
                return 0
    return 0


# ---- types ----


def _parse_type(name: str, text: str) -> tuple[str, int]:
    plain = text.strip().lower()
    if match := _VECTOR.fullmatch(plain):
        return "vector", int(match[1] or 0)
    plain = _SYNONYMS.get(plain.replace(" ", ""), plain.replace(" ", ""))
    if plain not in _TYPES:
        raise ModelLoadError(
            f"'parameters.extra.schema': '{name}' is '{text}'; expected vector, vector(WIDTH), "
            f"{', '.join(_TYPES)}"
        )
    return plain, 0


def _type_of_tensor(told: TensorMetadata) -> tuple[str, int]:
    shape = list(told.shape)
    if len(shape) == 2 and shape[1] != 1 and told.datatype is not Datatype.BYTES:
        return "vector", max(shape[1], 0)
    by_datatype = {
        datatype: name for name, (_, datatype) in _TYPES.items() if not name.startswith("array")
    }
    wider = {
        Datatype.UINT8: "short",
        Datatype.UINT16: "int",
        Datatype.UINT32: "long",
        Datatype.UINT64: "long",
        Datatype.FP16: "float",
        Datatype.BF16: "float",
    }
    return by_datatype.get(told.datatype) or wider[told.datatype], 0
