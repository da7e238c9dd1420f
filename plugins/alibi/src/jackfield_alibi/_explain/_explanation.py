"""What an engine is made of, what it answers, and how it learns that nobody waits any more.

Used by all engines, by the target that they call, by the tensors and by the pictures; imports no
explainer.
"""

from __future__ import annotations

import dataclasses
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from jackfield import DeadlineError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield import TensorMetadata
    from jackfield_alibi._explain._options import ExplainOptions
    from jackfield_alibi._explain._target import Target, Usage

#: What is explained: rows [n, features], images [n, height, width, channels], or texts.
Instances: TypeAlias = "NDArray[Any] | list[str]"


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What an explainer found, in Alibi's own layout, whoever computed it.

    `meta` has `name`, `type`, `explanations`, `params` and `version`; `data` has what Alibi's
    explainer of this kind gives, for example `shap_values`, a list with [n, features] for each
    class, `expected_value` [classes] and `raw`, a dict.

    Explainers that take one row at a time (anchors, counterfactuals) give one part for each row;
    `meta` and `data` are then those of the first. With `single` an engine puts them together.
    """

    #: The `explainer_type` of the settings, for example ``kernel_shap``.
    kind: str
    meta: Mapping[str, Any]
    data: Mapping[str, Any]
    #: One for each row, each in Alibi's layout for one row; empty where one explanation has all.
    parts: tuple[Explanation, ...] = ()
    #: What was explained, which some of Alibi's explanations do not tell; the runtime sets it.
    instances: Instances | None = None

    @property
    def rows(self) -> tuple[Explanation, ...]:
        """The explanations row by row, or the one that is of all rows."""
        return self.parts or (self,)

    @classmethod
    def single(cls, parts: Sequence[Explanation]) -> Explanation:
        """Put together the explanations of single rows; there is at least one."""
        first = parts[0]
        return cls(first.kind, first.meta, first.data, tuple(parts))


#: Dimensions of a matrix of rows.
_ROWS = 2


class StoppedError(Exception):
    """Nobody waits for the explanation any more."""


class Progress:
    """How far one explanation is; asked whether it should go on at each call of the target.

    One thread explains and counts; others read, and may `stop` it.
    """

    def __init__(
        self,
        *,
        rows: int,
        model: str = "",
        deadline_ns: int = 0,
        started_ns: int = 0,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        """Begin to count.

        Args:
            rows: Instances to explain.
            model: The explainer's name, for what is raised.
            deadline_ns: When nobody waits any more, by `time.perf_counter_ns`; 0 for never.
            started_ns: When the time began, by the same clock; 0 is now.
            report: Called in the explaining thread after each call of the target and each row.
        """
        self.rows = rows
        #: Rows that are explained.
        self.rows_done = 0
        #: Calls of the target, and the rows in them.
        self.calls = 0
        self.predicted = 0
        self.deadline_ns = deadline_ns
        self._model = model
        self._started_ns = started_ns or perf_counter_ns()
        self._stopped = threading.Event()
        self._report = report

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return (perf_counter_ns() - self._started_ns) / 1e9

    @property
    def is_stopped(self) -> bool:
        """Whether the caller has left."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Have the explainer end at its next call of the target; from any thread."""
        self._stopped.set()

    def check(self) -> None:
        """Return if somebody still waits.

        Raises:
            StoppedError: The caller has left.
            DeadlineError: The time that was given is over.
        """
        if self._stopped.is_set():
            raise StoppedError
        if self.deadline_ns and perf_counter_ns() >= self.deadline_ns:
            raise self.late()

    def late(self) -> DeadlineError:
        """Make the error that tells how much time there was."""
        given = max(self.deadline_ns - self._started_ns, 0) / 1e9
        return DeadlineError(self._model, timeout_s=given)

    def called(self, usage: Usage) -> None:
        """Take over what the target counted."""
        self.calls, self.predicted = usage.calls, usage.rows
        if self._report is not None:
            self._report(self)

    def explained(self, rows: int = 1) -> None:
        """Count rows that are explained, and look whether to go on."""
        self.rows_done += rows
        if self._report is not None:
            self._report(self)
        if self.rows_done < self.rows:
            self.check()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What an engine is made of."""

    #: The `explainer_type`, one of `KINDS`.
    kind: str
    options: ExplainOptions
    #: Where the options' relative paths begin: the folder of the settings.
    folder: Path
    #: Folder of a saved explainer (`explainer.dill`); None: it is built at load.
    saved: Path | None
    #: The model's own file, for explainers that look into it; None where there is none.
    model_file: Path | None
    #: The model that black boxes call; None where neither `target` nor `infer_uri` is given.
    target: Target | None
    #: Rows of the reference data [m, ...]; None without.
    reference: NDArray[Any] | None
    #: Labels of those rows [m]; None without.
    reference_labels: NDArray[Any] | None
    #: Names of the columns; empty where nobody told them.
    feature_names: tuple[str, ...]
    #: Names of a feature's categories, by the feature's place.
    categorical_names: Mapping[int, tuple[str, ...]]
    #: Names of the classes; empty where nobody told them.
    target_names: tuple[str, ...]
    #: Threads that the explainer's own pools may use.
    threads: int
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape that the target's input has in its metadata; empty where that is not known."""
        if self.target is None:
            return ()
        for each in self.target.metadata.inputs:
            if each.name == self.target.input_name:
                return tuple(each.shape)
        return ()

    @property
    def width(self) -> int | None:
        """How many features a row has; None where rows are none, or nobody told."""
        if self.feature_names:
            return len(self.feature_names)
        shape = self.target_shape if self.reference is None else self.reference.shape
        return shape[1] if len(shape) == _ROWS and shape[1] > 0 else None

    @property
    def is_classifier(self) -> bool:
        """Whether the target gives labels."""
        if self.target is None:
            return False
        metadata = self.target.metadata
        if (task := metadata.parameters.get("task")) is not None:
            return str(task).startswith("class")
        kinds = {each.name: each.datatype.dtype.kind for each in metadata.outputs}
        return kinds.get(self.target.output_name, "f") in "iuObS"


class Engine(Protocol):
    """An explainer in memory, whatever library has it. Called by one thread at a time.

    Constructed with `Material`; raises `ModelLoadError` where it can't be built.

    It may have `takes_one`: then `explain` gets a single instance at a time (rows of one), and the
    runtime counts and puts together. It may have `takes_labels`: then the parameter `y` holds the
    labels [n] that the request has as an input of that name, or those of the reference data, or
    is not there.
    """

    #: The explainer's class and its library, as the metadata tell: ``AnchorTabular``, ``alibi``.
    method: str
    library: str
    #: What a request gives, where the engine knows better than the target and the reference data:
    #: [-1, features] or the like; None else. Without a name it has that of the target's input.
    input: TensorMetadata | None
    #: Parameters of a request that `explain` takes, with their defaults.
    parameters: Mapping[str, object]

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain all instances.

        Args:
            instances: Finite, of the input's width; at least one.
            parameters: Of those in `parameters`, what the settings and the request set, as JSON has
                it.
            progress: To be told of each row with `explained`; calls of the target count themselves.

        Raises:
            InvalidRequestError: A parameter or the instances do not fit. A ValueError, TypeError,
                KeyError or IndexError of a request with parameters is taken for that, too.
            StoppedError: Nobody waits any more; so says `progress`.
            DeadlineError: The time is over; so say `progress` and the target.
        """
