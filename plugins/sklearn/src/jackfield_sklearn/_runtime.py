"""Serve a fitted scikit-learn estimator: load it, describe it, call its methods.

All that a request needs to know is decided in `load`; `infer` reads, calls and wraps.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from msgspec import Struct
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from jackfield import (
    Capabilities,
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    Tensor,
    TensorMetadata,
)
from jackfield.artifacts import Form
from jackfield.tabular import (
    Column,
    Columns,
    Kind,
    Output,
    Outputs,
    RequestParameters,
    documents,
    require_pandas,
)
from jackfield_sklearn import SklearnOptions, _estimator
from jackfield_sklearn._accelerate import accelerate
from jackfield_sklearn._artifact import catching_warnings, read
from jackfield_sklearn._threads import MANY_ROWS, Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from jackfield import ModelContext, Parameter
    from jackfield_sklearn._onnx import Converted

#: Methods that are outputs where the estimator has them, and what the outputs are called; the first
#: one found is the default.
_METHODS = {
    "predict": "predict",
    "transform": "transform",
    "predict_proba": "predict_proba",
    "predict_log_proba": "predict_log_proba",
    "decision_function": "raw",
    "score_samples": "score_samples",
    "kneighbors": "kneighbors",
    "apply": "leaf",
}
#: The way back: it takes other columns than all the other methods.
_BACK = "inverse_transform"
#: Outputs whose columns, or sign, stand for classes.
_PER_CLASS = ("predict_proba", "predict_log_proba", "raw", "decision_function")
#: Beginnings of names that no output may have: a request must not train.
_NOT_SERVED = ("_", "fit", "partial_fit", "set_", "get_")


class _Asked(Struct, frozen=True):
    """What a request may set for a regressor that knows how sure it is."""

    #: Answer the standard deviation, too, as `predict_std`.
    return_std: bool = False


class SklearnRuntime:
    """One fitted estimator, each of its methods an output.

    `predict` (or what `predict_fn` names) answers requests that name no output. Under MLServer's
    class name, results of one dimension are answered as [n, 1], as MLServer does.
    """

    #: What the spec declares, less what can't be vouched for in this model; known after `load`.
    capabilities: Capabilities

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        options = context.options
        self._options = options if isinstance(options, SklearnOptions) else SklearnOptions()
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        #: The converted form, if it serves, and what it can be asked for.
        self._fast: Converted | None = None
        self._fast_names: frozenset[str] = frozenset()
        self._fast_outputs: Outputs | None = None
        #: The way back, if there is one beside other outputs.
        self._back: Outputs | None = None
        self._back_columns = Columns(None)
        self._columns = Columns(None)
        self._is_documents = False
        self._reader: Callable[[InferRequest], Any] = self._columns.matrix
        #: The parts that were made to forget the columns' names, and the names.
        self._had_names: list[tuple[object, object]] = []

    def load(self) -> None:
        """Read the artifact, find its methods, try each with one row, accelerate it if it can be.

        Raises:
            ModelLoadError: It is no fitted estimator with methods that can serve, or a setting does
                not fit it.
        """
        estimator, form = read(
            self._context.artifact,
            self._options.trusted_types,
            self._context.logger,
            self._options.share_memory,
        )
        methods = self._methods(estimator)
        _check(estimator)
        self._threads = Threads(estimator, self._context.threads)
        names_out = _names_out(estimator)
        self._choose_input(estimator, is_way_back=methods[0] == _BACK)
        parameters = None
        if _has_std(estimator):
            parameters = RequestParameters(_Asked)
        self._outputs = self._make_outputs(estimator, methods, names_out, parameters)
        if _BACK in methods[1:]:
            back = self._output(estimator, _BACK, {})
            self._back = Outputs([back], is_column_2d=self._is_mlserver)
        self._try()
        self.capabilities = Capabilities(
            row_wise=_estimator.is_row_wise(estimator), thread_safe=_estimator.is_known(estimator)
        )
        report = self._accelerate(estimator)
        told = parameters.metadata() if parameters else {}
        self._metadata = ModelMetadata(
            platform=self._platform(form),
            inputs=self._inputs(),
            outputs=[*self._outputs.metadata(), *self._back_metadata()],
            parameters={
                "estimator": type(estimator).__name__,
                "sklearn_version": sklearn.__version__,
                "allows_missing": _estimator.allows_missing(estimator),
                **report,
                **told,
            },
        )

    def metadata(self) -> ModelMetadata:
        """Say what was found when loading; outputs beside the default one are on request."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Call the methods that the request asks for, each once.

        Shapes: An input matrix is [n, features], a column [n] or [n, 1]; outputs are as the method
        gives them, and [n, 1] instead of [n] under MLServer's class name.
        """
        outputs = request.outputs
        if self._fast is not None and self._fast_outputs is not None:
            is_fast = not outputs or all(each.name in self._fast_names for each in outputs)
            if is_fast and (rows := self._fast.read(request)) is not None:
                return self._fast_outputs.infer(request, tuple(self._fast.compute(rows)))
        if self._back is not None and any(each.name == _BACK for each in outputs):
            return self._infer_back(request, self._back)
        return self._infer_itself(request)

    def close(self) -> None:
        """Let go of the estimator."""
        self._fast = self._fast_outputs = self._back = None
        self._had_names = []
        self._outputs = Outputs([Output("closed", lambda data, _asked: data)])

    # ---- a request ----

    def _infer_itself(self, request: InferRequest) -> InferResponse:
        """Answer by the estimator itself."""
        data = self._read(request)
        try:
            if len(data) >= MANY_ROWS:
                with self._threads.many():
                    return self._outputs.infer(request, data)
            self._threads.bound()
            return self._outputs.infer(request, data)
        except ValueError as error:
            raise _refusal(error, request) from error

    def _infer_back(self, request: InferRequest, back: Outputs) -> InferResponse:
        if len(request.outputs) > 1:
            raise InvalidRequestError(
                "outputs", expected=f"'{_BACK}' alone, which takes other columns", found="others"
            )
        try:
            return back.infer(request, self._back_columns.matrix(request))
        except ValueError as error:
            raise _refusal(error, request) from error

    # ---- what the estimator can do ----

    def _methods(self, estimator: object) -> list[str]:
        """List the methods that are outputs, the default one first."""
        kind = type(estimator).__name__
        names = [name for name in _METHODS if callable(getattr(estimator, name, None))]
        wanted = self._options.predict_fn or next(iter(names), "")
        settings = [("predict_fn", self._options.predict_fn)]
        for setting, name in [*settings, *(("methods", each) for each in self._options.methods)]:
            is_served = callable(getattr(estimator, name, None)) if name else True
            if not is_served or name.startswith(_NOT_SERVED):
                raise ModelLoadError(
                    f"'parameters.extra.{setting}' is '{name}', which {kind} does not offer; "
                    f"it offers: {', '.join(names) or 'none'}"
                )
        if not wanted:
            raise ModelLoadError(
                f"the artifact holds '{kind}', which has none of {', '.join(_METHODS)}; "
                "save a fitted estimator that can be asked about new rows"
            )
        if wanted == _BACK:
            return [_BACK]
        if callable(getattr(estimator, _BACK, None)):
            names.append(_BACK)
        return list(dict.fromkeys([wanted, *names, *self._options.methods]))

    def _make_outputs(
        self,
        estimator: object,
        methods: list[str],
        names_out: list[str],
        parameters: RequestParameters[_Asked] | None,
    ) -> Outputs:
        made = []
        for method in methods:
            if method == _BACK and method != methods[0]:
                continue
            told: Any = {}
            if _METHODS.get(method) in _PER_CLASS:
                told = _classes(estimator)
            elif method == "transform" and names_out:
                told = {"columns": names_out}
            made.append(self._output(estimator, method, told))
        if parameters is not None:
            made.append(
                Output(
                    "predict_std",
                    lambda data, _asked: estimator.predict(data, return_std=True)[1],  # type: ignore[attr-defined]
                )
            )
        return Outputs(made, parameters=parameters, is_column_2d=self._is_mlserver)

    def _output(self, estimator: object, method: str, told: Any) -> Output:  # noqa: ANN401
        name = _METHODS.get(method, method)
        if self._is_mlserver and method == self._options.predict_fn:
            name = method  # MLServer answers by the name in the settings
        call: Callable[..., object] = getattr(estimator, method)
        datatype, shape = self._guess(estimator, method)
        compute: Callable[..., object] = lambda data, _asked: call(data)  # noqa: E731
        if method == "predict" and _has_std(estimator):

            def compute(data: object, asked: _Asked) -> object:
                if not asked.return_std:
                    return call(data)
                both: Any = call(data, return_std=True)
                return {"predict": both[0], "predict_std": both[1]}

        parts = ("kneighbors", "kneighbors_indices") if method == "kneighbors" else ()
        return Output(name, compute, datatype, shape, told, parts)

    def _guess(self, estimator: object, method: str) -> tuple[Datatype | None, list[int] | None]:
        """Guess what a method gives where no made-up row can show it."""
        classes = getattr(estimator, "classes_", None)
        if method in ("transform", _BACK):
            return None, None
        if isinstance(classes, np.ndarray) and classes.ndim == 1 and method == "predict":
            return Datatype.of(classes.dtype), None
        return None, None

    def _try(self) -> None:
        """Compute one row, which shows what each method gives and warms it up."""
        request = self._sample()
        if request is None:
            return
        with catching_warnings() as caught:
            failed = self._outputs.learn(self._read(request))
        if self._had_names and any("feature names" in str(each.message) for each in caught):
            # some part inside still looks for them
            _estimator.recall_names(self._had_names)
            self._had_names = []
            self._reader = self._columns.frame
        for name, error in failed.items():
            self._context.logger.info(
                "'%s' refused a made-up row, its metadata are a guess: %s", name, error
            )

    def _accelerate(self, estimator: object) -> dict[str, Parameter]:
        if self._options.accelerate == "off":
            return {}
        is_known = _estimator.is_known(estimator)
        if self._outputs.default not in ("predict", "predict_proba") or not is_known:
            return {}
        if _has_std(estimator) or self._is_documents:
            return {}
        samples = None
        if self._options.samples:
            artifact = self._context.artifact
            samples = artifact.parent / self._options.samples if artifact is not None else None
        with catching_warnings():
            found = accelerate(
                estimator,
                self._columns,
                self._infer_itself,
                threads=self._context.threads,
                samples=samples,
                default=self._outputs.default,
                is_column_2d=self._is_mlserver,
            )
        warn = self._options.accelerate == "onnx" and found.form is None
        (self._context.logger.warning if warn else self._context.logger.info)("%s", found.text)
        if found.form is not None:
            self._fast = found.form
            self._fast_outputs = found.outputs
            self._fast_names = frozenset(found.form.names)
            self.capabilities = Capabilities(
                row_wise=self.capabilities.row_wise, thread_safe=True, releases_gil=True
            )
        return found.report

    # ---- inputs ----

    def _choose_input(self, estimator: object, *, is_way_back: bool) -> None:
        """Decide how requests are read: documents, an array or a DataFrame."""
        width = None if is_way_back else getattr(estimator, "n_features_in_", None)
        if width is None and not is_way_back and _estimator.takes_documents(estimator):
            self._is_documents = True
            self._reader = documents
            return
        has_pandas = _has_pandas()
        if width is None:
            matrix = self._matrix(estimator)
            frame = self._columns.frame if has_pandas else matrix
            self._reader = lambda request: (matrix if len(request.inputs) == 1 else frame)(request)
            return
        fitted = getattr(estimator, "feature_names_in_", None)
        # a request's tensors can't share a name
        given = [] if fitted is None else [str(each) for each in fitted]
        is_named = fitted is not None and len(set(given)) == len(given)
        # scikit-learn's names for the nameless
        names = given if is_named else [f"x{i}" for i in range(width)]
        found = _estimator.columns(estimator, names)
        kinds = {each.kind for each in found}
        if not is_named and kinds == {Kind.ANY}:
            # nameless columns of which nothing is known are told as numbers, and may be text
            found = [Column.any(each.name, example=0.0) for each in found]
        self._columns = Columns(found, are_named=is_named)
        if is_named and _estimator.selects_by_name(estimator):
            require_pandas("jackfield-sklearn")
            self._reader = self._columns.frame
            return
        if is_named and kinds != {Kind.NUMBER} and has_pandas:
            self._reader = self._columns.frame
            return
        if fitted is not None:
            self._had_names = _estimator.forget_names(estimator)
        self._reader = self._matrix(estimator)

    def _matrix(self, estimator: object) -> Callable[[InferRequest], NDArray[Any]]:
        columns = self._columns
        if not _estimator.writes_on_data(estimator):
            return columns.matrix
        return lambda request: columns.matrix(request).copy()

    def _read(self, request: InferRequest) -> Any:  # noqa: ANN401  what the estimator takes
        return self._reader(request)

    def _sample(self) -> InferRequest | None:
        if self._is_documents:
            return InferRequest([Tensor.from_array("text", ["text"])])
        return self._columns.sample()

    def _inputs(self) -> list[TensorMetadata]:
        if self._is_documents:
            return [TensorMetadata("text", Datatype.BYTES, [-1])]
        return self._columns.metadata(is_column_2d=self._is_mlserver)

    def _back_metadata(self) -> list[TensorMetadata]:
        if self._back is None:
            return []
        return [
            TensorMetadata(each.name, each.datatype, [-1, -1], {"on_request": True})
            for each in self._back.metadata()
        ]

    def _platform(self, form: Form) -> str:
        if form is Form.SKOPS:
            return "sklearn_skops"
        artifact = self._context.artifact
        is_joblib = artifact is not None and artifact.suffix == ".joblib"
        return "sklearn_joblib" if is_joblib else "sklearn_pickle"


def _check(estimator: object) -> None:
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


def _has_pandas() -> bool:
    try:
        importlib.import_module("pandas")
    except ImportError:
        return False
    return True


def _has_std(estimator: object) -> bool:
    """Tell whether `predict` takes `return_std`."""
    steps = getattr(estimator, "steps", None)
    last: Any = steps[-1][1] if steps else estimator
    try:
        return "return_std" in inspect.signature(last.predict).parameters
    except (AttributeError, TypeError, ValueError):
        return False


def _refusal(error: ValueError, request: InferRequest) -> Exception:
    """Make the caller's error of what scikit-learn refused; code of the model's author it is not.

    Raises:
        ValueError: The error itself, where it is the model's.
    """
    modules = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if "sklearn.utils.validation" not in modules and not modules[-1].startswith("sklearn."):
        raise error
    found = str(error).partition("\n")[0]
    field = "inputs"
    if len(request.inputs) == 1 and (array := request.inputs[0].array).dtype.kind == "f":
        is_odd = ~np.isfinite(array.reshape(-1))
        if is_odd.any():
            field = f"inputs[0].data[{int(is_odd.argmax())}]"
    return InvalidRequestError(field, expected="data that the model accepts", found=f"'{found}'")


def _classes(estimator: object) -> dict[str, Parameter] | tuple[dict[str, Parameter], ...]:
    """Tell the labels; for several targets, those of each."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        return tuple({"classes": each.tolist()} for each in classes)
    return {"classes": classes.tolist()} if isinstance(classes, np.ndarray) else {}


def _names_out(estimator: object) -> list[str]:
    """Tell the names of the columns that `transform` gives; empty where they are not known."""
    if not hasattr(estimator, "get_feature_names_out"):
        return []
    try:
        return [str(each) for each in estimator.get_feature_names_out()]
    # some step doesn't know them, and each says so in its own way
    except Exception:  # noqa: BLE001
        return []
