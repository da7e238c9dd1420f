"""Serve a fitted scikit-learn estimator: load it, describe it, call its methods.

All that a request needs to know is decided in `load`; `infer` reads, calls and wraps.
"""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from msgspec import structs
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from jackfield import (
    Capabilities,
    Datatype,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)
from jackfield_sklearn import SklearnOptions, _estimator
from jackfield_sklearn._artifact import catching_warnings, read
from jackfield_sklearn._input import Documents, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from jackfield import InferRequest, ModelContext, Parameter
    from jackfield_sklearn._input import Input

#: Methods that are outputs where the estimator has them; the first one found is the default.
_METHODS = (
    "predict",
    "transform",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
)
#: Outputs whose columns, or sign, stand for classes.
_PER_CLASS = ("predict_proba", "predict_log_proba", "decision_function")
#: Beginnings of names that `predict_fn` may not have: a request must not train.
_NOT_SERVED = ("_", "fit", "partial_fit", "set_")


class SklearnRuntime:
    """One fitted estimator, each of its methods an output.

    `predict` (or what `predict_fn` names) answers requests that name no output. Under MLServer's
    class name, results of one dimension are answered as [n, 1], as MLServer does.
    """

    #: What the spec declares, less what can't be vouched for in this model; known after `load`.
    capabilities: Capabilities

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        self._methods: dict[str, Callable[[object], object]] = {}
        self._default = ""
        #: Output -> its method and its index in the list that the method gives.
        self._parts: dict[str, tuple[str, int]] = {}

    def load(self) -> None:
        """Read the artifact, find its methods and try each with one row."""
        estimator = read(self._context.artifact, self._context.logger)
        kind = type(estimator).__name__
        names = [name for name in _METHODS if callable(getattr(estimator, name, None))]
        wanted = self._predict_fn(names)
        if wanted and (
            not callable(getattr(estimator, wanted, None)) or wanted.startswith(_NOT_SERVED)
        ):
            raise ModelLoadError(
                f"'parameters.extra.predict_fn' is '{wanted}', which {kind} does not offer; "
                f"it offers: {', '.join(names) or 'none'}"
            )
        if not wanted:
            raise ModelLoadError(
                f"the artifact holds '{kind}', which has none of {', '.join(_METHODS)}; "
                "save a fitted estimator that can be asked about new rows"
            )
        self._check(estimator)
        self._default = wanted
        # the way back takes other columns than all the other methods
        names = [] if wanted == "inverse_transform" else [each for each in names if each != wanted]
        self._methods = {name: getattr(estimator, name) for name in [wanted, *names]}
        self._input = self._choose_input(estimator)
        is_known = _estimator.is_known(estimator)
        self.capabilities = Capabilities(
            row_wise=_estimator.is_row_wise(estimator), thread_safe=is_known
        )
        self._metadata = self._describe(estimator)

    def metadata(self) -> ModelMetadata:
        """Say what was found when loading; outputs beside the default one are on request."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Call the methods that the request asks for, each once.

        Shapes: An input matrix is [n, features], a column [n] or [n, 1]; outputs are as the method
        gives them, and [n, 1] instead of [n] under MLServer's class name.
        """
        data = self._input.read(request.inputs)
        if not request.outputs:
            return InferResponse(self._compute(self._default, data))
        computed: dict[str, list[Tensor]] = {}
        outputs: list[Tensor] = []
        for index, output in enumerate(request.outputs):
            method, part = self._parts.get(output.name, (output.name, None))
            if method not in self._methods:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected=f"one of {', '.join([*self._methods, *self._parts])}",
                    found=f"'{output.name}'",
                )
            if method not in computed:
                computed[method] = self._compute(method, data)
            tensors = computed[method]
            outputs += tensors if part is None else [tensors[part]]
        return InferResponse(outputs)

    def close(self) -> None:
        """Let go of the estimator."""
        self._methods = {}

    def _predict_fn(self, names: list[str]) -> str:
        options = self._context.options
        chosen = options.predict_fn if isinstance(options, SklearnOptions) else ""
        return chosen or next(iter(names), "")

    def _check(self, estimator: object) -> None:
        if _estimator.reads_files(estimator):
            raise ModelLoadError(
                "its vectorizer reads files that a request would name; fit it with input='content'"
            )
        # a stateless class of somebody else may look unfitted
        if type(estimator).__module__.startswith("sklearn."):
            try:
                check_is_fitted(estimator)
            except NotFittedError as error:
                raise ModelLoadError(
                    f"the {type(estimator).__name__} is not fitted; save it after fitting"
                ) from error

    def _choose_input(self, estimator: object) -> Input:
        width = getattr(estimator, "n_features_in_", None)
        if self._default == "inverse_transform":
            width = None
        elif width is None and _estimator.takes_documents(estimator):
            return Documents()
        fitted_names = None if width is None else getattr(estimator, "feature_names_in_", None)
        # a request's tensors can't share a name
        if fitted_names is not None and len(set(fitted_names)) < len(fitted_names):
            fitted_names = None
        is_named = fitted_names is not None
        frame = _find_frame() if is_named or width is None else None
        if is_named and frame is None and _estimator.selects_by_name(estimator):
            raise ModelLoadError(
                "it was fitted on a DataFrame and finds its columns by name, which needs pandas; "
                'install it: pip install "jackfield-sklearn[pandas]"'
            )
        names: list[str] | None = None
        if fitted_names is not None:
            names = [str(each) for each in fitted_names]
        elif width is not None:
            names = [f"x{index}" for index in range(width)]  # scikit-learn's names for the nameless
        return Table(
            names,
            _estimator.sample_columns(estimator, names) if names else [],
            is_named=is_named,
            frame=frame,
            is_column_2d=self._is_mlserver,
            copies=_estimator.writes_on_data(estimator),
        )

    def _describe(self, estimator: object) -> ModelMetadata:
        """Describe inputs and outputs; the outputs as one row shows them."""
        outputs: list[TensorMetadata] = []
        for method in self._methods:
            found = self._try(estimator, method)
            for index, tensor in enumerate(found):
                if tensor.name != method:
                    self._parts[tensor.name] = (method, index)
                parameters: dict[str, Parameter] = {}
                if method != self._default:
                    parameters["on_request"] = True
                if method in _PER_CLASS:
                    parameters |= _classes(estimator, index, tensor.shape)
                elif method == "transform":
                    parameters |= _columns(estimator, tensor.shape)
                outputs.append(structs.replace(tensor, parameters=parameters))
        artifact = self._context.artifact
        is_joblib = artifact is not None and artifact.suffix == ".joblib"
        return ModelMetadata(
            platform="sklearn_joblib" if is_joblib else "sklearn_pickle",
            inputs=self._input.metadata(),
            outputs=outputs,
            parameters={
                "estimator": type(estimator).__name__,
                "sklearn_version": sklearn.__version__,
            },
        )

    def _try(self, estimator: object, method: str) -> list[TensorMetadata]:
        """Compute one row, which shows what the method gives and warms it up."""
        sample = self._input.sample()
        if not sample:
            return [self._guess(estimator, method)]
        with catching_warnings():
            try:
                tensors = self._compute(method, self._input.read(sample))
            # a made-up row may be refused, and the methods may be anybody's code
            except Exception as error:  # noqa: BLE001
                self._context.logger.info(
                    "'%s' refused a made-up row, its metadata are a guess: %s", method, error
                )
                return [self._guess(estimator, method)]
        return [
            TensorMetadata(tensor.name, tensor.datatype, [-1, *tensor.shape[1:]])
            for tensor in tensors
        ]

    def _guess(self, estimator: object, method: str) -> TensorMetadata:
        classes = getattr(estimator, "classes_", None)
        per_row = [-1, 1] if self._is_mlserver else [-1]
        if method == "transform":
            return TensorMetadata(method, Datatype.FP64, [-1, -1])
        if isinstance(classes, np.ndarray) and classes.ndim == 1:
            if method == "predict":
                return TensorMetadata(method, Datatype.of(classes.dtype), per_row)
            if method in _PER_CLASS and (method != "decision_function" or len(classes) > 2):
                return TensorMetadata(method, Datatype.FP64, [-1, len(classes)])
        return TensorMetadata(method, Datatype.FP64, per_row)

    def _compute(self, method: str, data: object) -> list[Tensor]:
        try:
            result = self._methods[method](data)
        except ValueError as error:
            if not _is_refusal(error):
                raise
            found = f"'{str(error).partition(chr(10))[0]}'"
            raise InvalidRequestError(
                "inputs", expected="data that the model accepts", found=found
            ) from error
        if isinstance(result, tuple) or (isinstance(result, list) and method in _PER_CLASS):
            return [self._wrap(f"{method}_{index}", each) for index, each in enumerate(result)]
        return [self._wrap(method, result)]

    def _wrap(self, name: str, result: object) -> Tensor:
        """Make a tensor of an array, a sparse matrix or a DataFrame."""
        array = np.asarray(result.toarray() if hasattr(result, "toarray") else result)
        if array.dtype == object:
            array = _typed(array)
        if self._is_mlserver and array.ndim == 1:
            array = array.reshape(-1, 1)
        return Tensor.from_array(name, array)


def _typed(array: NDArray[Any]) -> NDArray[Any]:
    """Give numbers and truth values in an object array their dtype; leave the rest."""
    values = array.reshape(-1).tolist()
    if not all(isinstance(value, bool | int | float) for value in values):
        return array
    return np.array(values).reshape(array.shape)


def _is_refusal(error: ValueError) -> bool:
    """Tell whether scikit-learn refused the data, and not code of the model's author."""
    modules = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return "sklearn.utils.validation" in modules or modules[-1].startswith("sklearn.")


def _find_frame() -> Callable[..., object] | None:
    try:
        frame: Callable[..., object] = importlib.import_module("pandas").DataFrame
    except ImportError:
        return None
    return frame


def _classes(estimator: object, index: int, shape: Sequence[int]) -> dict[str, Parameter]:
    """Tell the labels, where the columns or the sign stand for them."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list) and index < len(classes):
        classes = classes[index]
    if isinstance(classes, np.ndarray) and (len(shape) == 1 or shape[1] in (1, len(classes))):
        return {"classes": classes.tolist()}
    return {}


def _columns(estimator: object, shape: Sequence[int]) -> dict[str, Parameter]:
    """Tell the names of the columns that `transform` gives."""
    if not hasattr(estimator, "get_feature_names_out"):
        return {}
    try:
        names = [str(each) for each in estimator.get_feature_names_out()]
    # some step doesn't know them, and each says so in its own way
    except Exception:  # noqa: BLE001
        return {}
    return {"columns": names} if len(shape) == 2 and shape[1] in (-1, len(names)) else {}
