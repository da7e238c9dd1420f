"""Outputs: run what a request asks for, each once, and make tensors of what a framework gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from jackfield import codecs
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferResponse, Parameters, TensorMetadata
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from jackfield.messages import InferRequest, Parameter
    from jackfield.tabular._parameters import RequestParameters

#: What an output of a name means, in every plugin that has it.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "predict": "labels of a classifier, values of a regressor, scores of a ranker",
        "predict_proba": "probability of each class, [rows, classes]",
        "predict_log_proba": "their logarithms",
        "raw": "what the model adds up, before a link function or a threshold",
        "leaf": "index of the leaf that a row ends in, [rows, trees]",
        "contributions": "SHAP values and, in the last column, the expected value",
        "transform": "what a transformer makes of the rows",
        "inverse_transform": "the way back from there",
        "score_samples": "likelihood or anomaly score of each row",
        "kneighbors": "distances of the nearest neighbours, and their indices",
    }
)
#: Other names under which an output may be asked for.
ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType({"raw": ("margin", "decision_function")})


class Output(msgspec.Struct, frozen=True):
    """One thing that a model can compute.

    Example:
        ```python
        Output("predict_proba", lambda data, asked: model.predict_proba(data))
        Output("predict", lambda proba, asked: labels.of_probabilities(proba), of="predict_proba")
        Output("kneighbors", neighbours, parts=("kneighbors", "kneighbors_indices"))
        ```
    """

    #: One of `NAMES` if it means that; else a method's name.
    name: str
    #: Called with the data (or the result of another output, see `of`) and the request's parameters
    #: (None if the plugin names no Struct); see `tensors_of` for what it may return.
    compute: Callable[..., object]
    #: What is known before anything is computed; `Outputs.learn` finds it out where it is None.
    datatype: Datatype | None = None
    #: -1 stands for any size. None is not known: [-1].
    shape: Sequence[int] | None = None
    #: For the metadata, for example `Labels.metadata`; a tuple has one for each part.
    parameters: Parameters | tuple[Parameters, ...] = {}
    #: Names of its tensors where it computes several; empty leaves it to `tensors_of`.
    parts: tuple[str, ...] = ()
    #: Name of the output whose result it is made of; empty for the data.
    of: str = ""


class Outputs:
    """The outputs of a model: the first one answers a request that names none.

    An output of `ALIASES` may be asked for by those names, too; they are in the metadata.

    Args:
        outputs: In the order of the metadata.
        parameters: Reads what one request sets; None hands None to the outputs' functions.
        is_column_2d: Results of one dimension are answered as [rows, 1], as MLServer does.

    Raises:
        ValueError: There is none, two have one name, or one is made of another that is not there.
    """

    def __init__(
        self,
        outputs: Iterable[Output],
        *,
        parameters: RequestParameters[Any] | None = None,
        is_column_2d: bool = False,
    ) -> None:
        given = list(outputs)
        self._outputs = {each.name: each for each in given}
        if not given or len(self._outputs) < len(given):
            message = f"expected outputs of different names, found {[each.name for each in given]}"
            raise ValueError(message)
        for each in given:
            source, steps = each.of, 0
            while source:
                if source not in self._outputs or steps > len(given):
                    message = f"output '{each.name}' is made of '{source}', which is not of data"
                    raise ValueError(message)
                source, steps = self._outputs[source].of, steps + 1
        self._default = given[0]
        self._parameters = parameters
        self._is_column_2d = is_column_2d
        self._told: dict[str, list[TensorMetadata]] = {}
        #: Name that a request may give -> its output, and the tensor of that output.
        self._owners: dict[str, tuple[Output, str]] = {}
        for each in given:
            self._tell(each, self._declared(each))

    @property
    def default(self) -> str:
        """Name of the output that answers a request which names none."""
        return self._default.name

    def metadata(self) -> list[TensorMetadata]:
        """Say which tensors there are; all but the default's have the parameter `on_request`.

        An alias has the parameter `alias_of`.
        """
        told = [each for tensors in self._told.values() for each in tensors]
        names = {each.name for each in told}
        return told + [
            TensorMetadata(
                alias,
                each.datatype,
                each.shape,
                {**each.parameters, "on_request": True, "alias_of": each.name},
            )
            for name, tensors in self._told.items()
            for each in tensors
            for alias in _aliases(name, each.name)
            if alias not in names
        ]

    def learn(self, data: object) -> dict[str, Exception]:
        """Compute every output once, which shows datatypes and shapes, and warms them up.

        Args:
            data: One row or more, as `infer` takes it.

        Returns:
            Output -> what it raised; its metadata are what was declared.
        """
        asked = self._parameters.defaults if self._parameters else None
        failed: dict[str, Exception] = {}
        results: dict[str, object] = {}
        for output in self._outputs.values():
            try:
                tensors = self._tensors(output, self._result(output, data, asked, results), data)
            # a made-up row may be refused, in any way
            except Exception as error:  # noqa: BLE001
                failed[output.name] = error
                continue
            told = [
                TensorMetadata(each.name, each.datatype, [-1, *each.shape[1:]]) for each in tensors
            ]
            if output.shape is not None and len(told) == 1:
                (declared,) = self._declared(output)[:1]
                told = [TensorMetadata(told[0].name, told[0].datatype, declared.shape)]
            self._tell(output, told)
        return failed

    def infer(self, request: InferRequest, data: object) -> InferResponse:
        """Compute what the request asks for, each output once, in the order asked.

        Args:
            request: Names the outputs, and sets parameters.
            data: What the outputs' functions take. If it is a list, or has a `shape`, that tells
                the number of rows, and every tensor has as many.

        Raises:
            InvalidRequestError: An output is not one of them, or a parameter has the wrong type.
            ValueError: A result does not have as many rows as the data.
        """
        asked = self._parameters.read(request) if self._parameters else None
        if not request.outputs:
            output = self._default
            result = (
                self._result(output, data, asked, {}) if output.of else output.compute(data, asked)
            )
            return InferResponse(self._tensors(output, result, data))
        results: dict[str, object] = {}
        made: dict[str, Tensor] = {}
        found: list[Tensor] = []
        for index, wanted in enumerate(request.outputs):
            if wanted.name not in self._owners:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected=f"one of {', '.join(sorted(self._owners))}",
                    found=f"'{wanted.name}'",
                )
            output, name = self._owners[wanted.name]
            if name not in made:
                result = self._result(output, data, asked, results)
                for tensor in self._tensors(output, result, data):
                    made.setdefault(tensor.name, tensor)
            if name not in made:
                message = f"output '{output.name}' gave no '{name}'"
                raise ValueError(message)
            tensor = made[name]
            if name != wanted.name:
                tensor = Tensor(wanted.name, tensor.datatype, tensor.array, tensor.parameters)
            found.append(tensor)
        return InferResponse(found)

    def _result(
        self, output: Output, data: object, asked: object, results: dict[str, object]
    ) -> object:
        if output.name not in results:
            source = data
            if output.of:
                source = self._result(self._outputs[output.of], data, asked, results)
            results[output.name] = output.compute(source, asked)
        return results[output.name]

    def _tensors(self, output: Output, result: object, data: object) -> list[Tensor]:
        shape = getattr(data, "shape", None)
        rows = shape[0] if shape else len(data) if isinstance(data, list) else None
        tensors = tensors_of(output.name, result, parts=output.parts, rows=rows)
        if self._is_column_2d:
            tensors = [
                Tensor(each.name, each.datatype, each.array.reshape(-1, 1), each.parameters)
                if each.array.ndim == 1
                else each
                for each in tensors
            ]
        return tensors

    def _declared(self, output: Output) -> list[TensorMetadata]:
        shape = [-1] if output.shape is None else list(output.shape)
        if self._is_column_2d and len(shape) == 1:
            shape = [*shape, 1]
        datatype = output.datatype or Datatype.FP64
        return [TensorMetadata(name, datatype, shape) for name in output.parts or (output.name,)]

    def _tell(self, output: Output, tensors: list[TensorMetadata]) -> None:
        """Note the tensors of an output, for the metadata and for requests."""
        old = [name for name, (owner, _) in self._owners.items() if owner is output]
        for name in old:
            del self._owners[name]
        told = []
        for index, tensor in enumerate(tensors):
            # a result of several parts may hold one that is an output of its own
            if tensor.name != output.name and tensor.name in self._outputs:
                continue
            given = output.parameters
            parameters: dict[str, Parameter] = {}
            if output is not self._default:
                parameters["on_request"] = True
            if isinstance(given, tuple):
                parameters |= given[index] if index < len(given) else {}
            else:
                parameters |= given
            told.append(TensorMetadata(tensor.name, tensor.datatype, tensor.shape, parameters))
            self._owners[tensor.name] = (output, tensor.name)
        self._told[output.name] = told
        for each in told:
            for alias in _aliases(output.name, each.name):
                self._owners.setdefault(alias, (output, each.name))


def _aliases(output: str, tensor: str) -> list[str]:
    """Name a tensor of an output by the output's other names: raw_0 is margin_0, too."""
    return [alias + tensor.removeprefix(output) for alias in ALIASES.get(output, ())]


def tensors_of(
    name: str, value: object, *, parts: Sequence[str] = (), rows: int | None = None
) -> list[Tensor]:
    """Make tensors of what a framework's method returned.

    - an array, a list of values or a Series is one tensor of its own shape, its first dimension the
      rows; a scalar is ``[1]``;
    - a sparse matrix is made dense;
    - a tuple, and a list of arrays, is one tensor for each: named by `parts`, else ``name_0``,
      ``name_1`` and so on; nothing is stacked, since their widths may differ;
    - a mapping is one tensor for each key, by that name;
    - a DataFrame is one matrix, or one tensor ``name_COLUMN`` for each column where their kinds
      differ;
    - numbers in an object array get their dtype, None among them is NaN; text is BYTES; what is
      mixed otherwise is JSON in BYTES, of the content type `pd_json`.

    Args:
        name: Of the tensor, if it is one.
        value: The result.
        parts: Names of several.
        rows: How many rows the first dimension has; None does not look. A lone row that came
            without its dimension gets it back.

    Raises:
        TypeError: The protocol has no datatype for it.
        ValueError: There are not as many rows, or not as many results as parts.
    """
    if type(value) is np.ndarray and value.dtype != object and not parts:
        return [_tensor(name, value, rows)]
    if isinstance(value, Mapping):
        return [_tensor(str(key), _array(each), rows) for key, each in value.items()]
    if isinstance(value, tuple) or (
        isinstance(value, list) and value and all(_is_array(each) for each in value)
    ):
        names = list(parts) or [f"{name}_{index}" for index in range(len(value))]
        if len(names) != len(value):
            message = f"output '{name}': expected {len(names)} results, found {len(value)}"
            raise ValueError(message)
        return [_tensor(part, _array(each), rows) for part, each in zip(names, value, strict=True)]
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        array = _array_of_pandas(value)
        if array.dtype == object and not all(isinstance(each, str) for each in array.flat):
            return [
                _tensor(f"{name}_{column}", _array_of_pandas(value.iloc[:, place]), rows)
                for place, column in enumerate(value.columns)
            ]
        return [_tensor(name, array, rows)]
    return [_tensor(parts[0] if parts else name, _array(value), rows)]


def _is_array(value: object) -> bool:
    return (hasattr(value, "__array__") and not isinstance(value, np.generic)) or _is_sparse(value)


def _is_sparse(value: object) -> bool:
    return hasattr(value, "toarray")


def _array(value: object) -> NDArray[Any]:
    if hasattr(value, "toarray"):
        value = value.toarray()
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.Series | pandas.DataFrame):
        return _array_of_pandas(value)
    array = np.asarray(value)
    if array.dtype.kind in "SU":
        # NumPy's own texts lose the zero bytes at their end
        array = np.array(value, dtype=object) if isinstance(value, list) else array
    return array


def _array_of_pandas(value: Any) -> NDArray[Any]:  # noqa: ANN401  a Series or a DataFrame
    array = np.asarray(value)
    if array.dtype != object:
        return array
    # pandas's own mark of a missing value, which no codec reads
    return np.asarray(value.astype(object).where(value.notna(), None))


def _tensor(name: str, array: NDArray[Any], rows: int | None) -> Tensor:
    if array.ndim == 0:
        array = array.reshape(1)
    if rows is not None and array.shape[0] != rows:
        if rows != 1 or array.ndim != 1:
            message = f"output '{name}': expected {rows} rows, found the shape {list(array.shape)}"
            raise ValueError(message)
        array = array.reshape(1, -1)
    if array.dtype == object:
        values = array.reshape(-1).tolist()
        if any(isinstance(each, int | float | None) for each in values) and all(
            each is None or isinstance(each, int | float) for each in values
        ):
            typed = np.array([np.nan if each is None else each for each in values])
            return Tensor.from_array(name, typed.reshape(array.shape))
        if not all(isinstance(each, str | bytes) for each in values):
            cells = np.empty(len(values), object)
            for place, each in enumerate(values):
                cells[place] = None if isinstance(each, float) and np.isnan(each) else each
            return codecs.encode(name, cells.reshape(array.shape), "pd_json")
    elif array.dtype.kind == "M":
        return codecs.encode(name, array, "datetime")
    return Tensor.from_array(name, array)
