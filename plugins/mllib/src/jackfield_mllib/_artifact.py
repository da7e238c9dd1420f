"""Read what a model's folder tells of itself, and load it with the class that it names.

Every stage that Spark saves is a folder with ``metadata/part-00000…``: one line of JSON with its
class, its uid, its parameters and the version of Spark. That much is read without a JVM, so that
what is wrong with a folder is told before one starts.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyspark
from pyspark.ml.base import Estimator, Model, Transformer

from jackfield import ModelLoadError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

#: How Spark's classes begin whose models lie in RDDs.
RDD_ERA = "org.apache.spark.mllib."
_JVM = "org.apache.spark.ml."
_PIPELINES = frozenset(["PipelineModel"])
_TUNED = frozenset(["CrossValidatorModel", "TrainValidationSplitModel"])
#: Models that have no data of their own: those below, and what the folders beside them hold.
_WITHOUT_DATA = _PIPELINES | _TUNED | {"OneVsRestModel"}
_STAGE = re.compile(r"(\d+)_.+")
#: What Python's errors from the JVM begin with, and what Java's have before their text.
_JAVA_NAME = re.compile(r"^:?\s*(?:[a-z]\w*\.)+([A-Z]\w*): ")
#: The JVM's own classes in an error's text.
_NO_CLASS = re.compile(r"(?:ClassNotFoundException|NoClassDefFoundError): ([\w.$/]+)")


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One transformer as its folder describes it."""

    #: Full name of the class: of the JVM, or of Python for a stage that Python saved.
    class_name: str
    uid: str
    #: Version of Spark that saved it; empty where the folder does not say.
    spark_version: str
    #: Default parameters, and those that were set.
    params: dict[str, Any]
    folder: Path
    #: Of a pipeline its stages in order; of a tuned model the best one; of an R formula the
    #: pipeline that it stands for.
    children: tuple[Stage, ...] = ()

    @property
    def kind(self) -> str:
        """The class's own name: ``LogisticRegressionModel``."""
        return self.class_name.rpartition(".")[2]

    @property
    def is_of_rdds(self) -> bool:
        """Whether it is one of `pyspark.mllib`."""
        return self.class_name.startswith(RDD_ERA)

    def walk(self) -> Iterator[Stage]:
        """Give the stages that transform rows, in order; pipelines are taken apart."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.walk()

    def labels(self) -> set[str]:
        """Name the columns that hold what was to be predicted: training alone reads them."""
        own = self.params.get("labelCol")
        found = {own} if isinstance(own, str) else set()
        return found.union(*(child.labels() for child in self.children))


class _Metadata(msgspec.Struct, rename={"class_name": "class", "spark_version": "sparkVersion"}):
    class_name: str
    spark_version: str = ""
    uid: str = ""
    param_map: dict[str, Any] = msgspec.field(name="paramMap", default_factory=dict)
    default_param_map: dict[str, Any] = msgspec.field(name="defaultParamMap", default_factory=dict)


def read(
    folder: Path | None, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> Stage:
    """Read the description of a model and of all its stages.

    Returns:
        The model; a doubtful version is in the log.

    Raises:
        ModelLoadError: There is no such folder, it is not whole, holds what can't transform rows,
            or was saved by a newer major version of Spark.
    """
    if folder is None:
        raise ModelLoadError("no artifact was found; name its folder in 'parameters.uri'")
    if folder.is_file() and folder.parent.name == "metadata":
        folder = folder.parent.parent
    if not folder.is_dir():
        raise ModelLoadError(
            f"'{folder.name}' is a file; a Spark model is a folder with 'metadata' in it"
        )
    found = _read(folder, folder)
    _check_version(found, logger)
    if not found.is_of_rdds:
        _check_classes(found)
    return found


def load(stage: Stage) -> Transformer:
    """Load what a description is of, into the session that is active.

    Raises:
        ModelLoadError: Spark can't read it; the text has Spark's reason, and no stack trace.
    """
    kind = _require_class(stage)
    try:
        # a plain path would be looked up in the cluster's own file system
        loaded: Transformer = kind.load(stage.folder.resolve().as_uri())
    # Spark's errors are of many kinds, of Python's own, too
    except Exception as error:
        if type(error).__name__ == "Py4JNetworkError":
            raise
        raise ModelLoadError(_problem(stage, error)) from error
    return loaded


def first_line(error: BaseException) -> str:
    """Give what an error of Spark says, without the classes and the stack of the JVM."""
    text = str(error)
    java = getattr(error, "java_exception", None)
    if java is not None:
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.getMessage() or java.getClass().getName())
    lines = [each.strip() for each in text.splitlines() if each.strip()]
    line = next((each for each in lines if not each.startswith("An error occurred")), text)
    return _JAVA_NAME.sub("", line)


# ---- the folder ----


def _read(folder: Path, root: Path) -> Stage:
    told = _read_metadata(folder, root)
    kind = told.class_name.rpartition(".")[2]
    if told.class_name.startswith(RDD_ERA):
        children: tuple[Stage, ...] = ()
    elif kind in _PIPELINES:
        children = tuple(_read(each, root) for each in _stage_folders(folder, told, root))
    elif kind in _TUNED:
        children = (_read(folder / "bestModel", root),)
    elif kind == "RFormulaModel":
        children = (_read(folder / "pipelineModel", root),)
    else:
        children = ()
    stage = Stage(
        class_name=told.class_name,
        uid=told.uid,
        spark_version=told.spark_version,
        params=told.default_param_map | told.param_map,
        folder=folder,
        children=children,
    )
    if not stage.is_of_rdds:
        _check_whole(stage, root)
    return stage


def _read_metadata(folder: Path, root: Path) -> _Metadata:
    where = _name(folder, root)
    files = sorted((folder / "metadata").glob("part-*")) if folder.is_dir() else []
    text = b"".join(each.read_bytes() for each in files).strip()
    if not text:
        raise ModelLoadError(
            f"{where} has no 'metadata/part-00000', which tells what was saved there; "
            "copy or save it again"
        )
    try:
        return msgspec.json.decode(text.splitlines()[0], type=_Metadata)
    except msgspec.DecodeError as error:
        raise ModelLoadError(
            f"{where}: 'metadata/{files[0].name}' is not what Spark writes: {error}; "
            "copy or save it again"
        ) from error


def _stage_folders(folder: Path, told: _Metadata, root: Path) -> list[Path]:
    """Find the folders of a pipeline's stages, ``stages/0_UID`` and so on, in order."""
    found = {
        int(match[1]): each
        for each in (folder / "stages").glob("*_*")
        if (match := _STAGE.fullmatch(each.name))
    }
    uids = told.param_map.get("stageUids", [])
    for place, uid in enumerate(uids):
        if place not in found:
            raise ModelLoadError(
                f"{_name(folder, root)} lacks the stage '{uid}', one of {len(uids)}; "
                "copy or save it again"
            )
    return [found[place] for place in range(len(uids))]


def _check_whole(stage: Stage, root: Path) -> None:
    kind = None if stage.kind in _WITHOUT_DATA else _find_class(stage)
    where = _name(stage.folder, root)
    # a bisecting k-means has a folder of its own kind in "data"
    parts = [*stage.folder.glob("*/part-*"), *stage.folder.glob("data/*/part-*")]
    holds = {each.parent for each in parts} - {stage.folder / "metadata"}
    # what a model has learned lies in "data"; of some in folders of other names, or of models
    inner = [each for each in stage.folder.glob("*/") if each.name != "metadata"]
    is_model = kind is not None and issubclass(kind, Model)
    if is_model and not holds and (not inner or stage.folder / "data" in inner):
        raise ModelLoadError(
            f"{where} has no data, only its description; it was not copied or saved to the end"
        )
    for each in sorted(holds):
        if not (each / "_SUCCESS").exists():
            raise ModelLoadError(
                f"'{each.relative_to(root)}' has no '_SUCCESS', which Spark writes last: the model "
                "was not copied or saved to the end; copy or save it again "
                "(if it is known to be whole, make an empty file of that name)"
            )


def _name(folder: Path, root: Path) -> str:
    return f"'{root.name}'" if folder == root else f"'{folder.relative_to(root)}'"


# ---- classes and versions ----


def _find_class(stage: Stage) -> type[Any] | None:
    """Import the Python class that stands for a stage's; None where there is none."""
    name = stage.class_name
    if name.startswith(_JVM):
        name = "pyspark.ml." + name.removeprefix(_JVM)
    module, _, kind = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), kind, None) if module else None
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def _check_classes(stage: Stage) -> None:
    _require_class(stage)
    # those of an R formula are the JVM's own
    if stage.kind != "RFormulaModel":
        for child in stage.children:
            _check_classes(child)


def _require_class(stage: Stage) -> type[Any]:
    kind = _find_class(stage)
    if kind is None:
        ours = stage.class_name.startswith((_JVM, "pyspark."))
        raise ModelLoadError(
            f"the stage '{stage.uid}' is of the class '{stage.class_name}', "
            + (
                f"which Spark {pyspark.__version__} does not have"
                if ours
                else "which is not Spark's; install its Python package, and name its JVM package "
                "in 'parameters.extra.conf' ('spark.jars.packages' or 'spark.jars')"
            )
        )
    if issubclass(kind, Estimator):
        raise ModelLoadError(
            f"'{stage.uid}' is a {stage.kind}, which is not fitted; save what its fit returns"
        )
    if not issubclass(kind, Transformer):
        raise ModelLoadError(
            f"'{stage.uid}' is a {stage.kind}, which transforms no rows; save a fitted model"
        )
    return kind


def _check_version(
    stage: Stage, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
) -> None:
    saved, installed = _numbers(stage.spark_version), _numbers(pyspark.__version__)
    if saved[:1] > installed[:1]:
        raise ModelLoadError(
            f"it was saved by Spark {stage.spark_version}, and {pyspark.__version__} is "
            f'installed, which can\'t be relied on to read it; pip install "pyspark>={saved[0]}"'
        )
    if saved[:2] > installed[:2]:
        logger.warning(
            "saved by Spark %s, and %s is installed; results may differ",
            stage.spark_version,
            pyspark.__version__,
        )


def _problem(stage: Stage, error: Exception) -> str:
    text = first_line(error)
    if missing := _NO_CLASS.search(str(error)):
        return (
            f"it needs the JVM class '{missing[1].replace('/', '.')}', which is not there; name "
            "its package in 'parameters.extra.conf' ('spark.jars.packages' or 'spark.jars')"
        )
    if _numbers(stage.spark_version)[:2] > _numbers(pyspark.__version__)[:2]:
        return (
            f"Spark {pyspark.__version__} can't read it: {text}; it was saved by Spark "
            f"{stage.spark_version}, install that version"
        )
    return f"Spark {pyspark.__version__} can't read it: {text}; copy or save it again"


def _numbers(version: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", version)]
