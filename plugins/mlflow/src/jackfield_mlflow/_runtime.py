"""Serve a model of MLflow as Python function, or by the plugin of its framework."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import inspect
import traceback
from typing import TYPE_CHECKING, Any, cast

import msgspec
from mlflow.exceptions import MlflowException

from jackfield import (
    Capabilities,
    InferResponse,
    InvalidRequestError,
    ModelMetadata,
)
from jackfield_mlflow import MlflowOptions
from jackfield_mlflow._artifact import Fetched, fetch, forget, load, read, redact
from jackfield_mlflow._inputs import Inputs, example_of
from jackfield_mlflow._native import METHODS, choose
from jackfield_mlflow._outputs import Outputs, example_values
from jackfield_mlflow._scoring import ScoringRoutes, enter_serving
from jackfield_mlflow._signature import Params, content_type_of, fields_of
from jackfield_mlflow._versions import mismatches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

    from jackfield import InferRequest, ModelContext, Parameter
    from jackfield_mlflow._native import Native
    from jackfield_mlflow._signature import Field

#: Flavours whose Python function looks at one row at a time and writes nothing on the model.
_ROW_WISE = frozenset(["sklearn", "xgboost", "lightgbm", "catboost"])
#: How an error of MLflow's begins that the caller's input made, beside those of its own class.
_OF_INPUT = ("Failed to validate the input data", "Failed to validate data against type hint")
#: How pydantic's lines begin that lead to its own pages.
_POINTER = "For further information visit"
#: Most characters of another's error.
_SHOWN = 400

_ENDED = object()


class MlflowRuntime(ScoringRoutes):
    """One model of MLflow.

    A model of a Python function whose `predict` is a coroutine function is awaited on the event
    loop; one with `predict_stream` has `stream`.
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        options = context.options
        self._options = options if isinstance(options, MlflowOptions) else MlflowOptions()
        self._fetched: Fetched | None = None
        self._native: Native | None = None
        #: After `load`: what may be done with this model.
        self.capabilities = Capabilities()

    def load(self) -> None:
        """Fetch the model, load it, try it with its input example, and choose who serves it."""
        self._fetched = fetch(self._context, self._options)
        try:
            self._load(self._fetched)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the model, and remove what was fetched."""
        if self._native is not None:
            self._native.close()
            self._native = None
        self.__dict__.pop("pyfunc", None)
        # bound methods that `load` put there
        for name in ("infer", "stream"):
            self.__dict__.pop(name, None)
        if self._fetched is not None:
            forget(self._fetched)
            self._fetched = None

    def metadata(self) -> ModelMetadata:
        """Say what the signature says, and how the model is served."""
        return self._metadata

    def infer(self, request: InferRequest) -> InferResponse:
        """Answer by the framework's plugin, or by the Python function."""
        if self._native is not None:
            return self._native.infer(request)
        return self._answer(request)

    # ---- loading ----

    def _load(self, fetched: Fetched) -> None:
        enter_serving()
        model = read(fetched)
        logger = self._context.logger
        self._mismatches = mismatches(fetched.folder, model)
        for each in self._mismatches:
            logger.warning("package '%s': %s; results may differ", each.package, each)
        pyfunc = load(fetched, model, self._options.model_config)
        signature = model.signature
        schema = signature.inputs if signature is not None else None
        given = signature.outputs if signature is not None else None
        fields = fields_of(schema, "input", is_column_2d=self._is_mlserver)
        self._inputs = Inputs(
            fields,
            is_list=bool(signature is not None and signature._is_signature_from_type_hint),
            content_type=self._context.settings.parameters.content_type,
        )
        self._params = Params(signature.params if signature is not None else None)
        self._outputs = Outputs(
            fields_of(given, "output", is_column_2d=self._is_mlserver),
            is_column_2d=self._is_mlserver,
        )
        self._answer: Callable[[InferRequest], InferResponse] = self._infer_pyfunc
        self._prepare_coroutine(pyfunc)
        if pyfunc._predict_stream_fn is not None:
            self._prepare_stream(pyfunc)
        self._warm_up(pyfunc, model, fetched)
        example = example_of(pyfunc.input_example, fields)
        told = self._describe(model, fields, example)
        self.capabilities = self._judge(model)
        if "infer" in self.__dict__ or "stream" in self.__dict__:
            self._metadata = _with(told, flavor="pyfunc")
            return
        choice = choose(
            self._options.flavor,
            model,
            fetched.folder,
            self._context,
            told=told,
            answer=self._infer_pyfunc,
            raw_model=self.pyfunc.get_raw_model,
            example=example,
        )
        self._metadata = _with(told, **choice.parameters)
        if choice.native is not None:
            self._native = choice.native
            self._metadata = choice.native.metadata(self._metadata)
            self.capabilities = choice.native.capabilities
        logger.info("%s", choice.reason)

    def _describe(
        self, model: Model, fields: list[Field], example: InferRequest | None
    ) -> ModelMetadata:
        examples = {each.name: each for each in example.inputs} if example is not None else {}
        flavors = sorted(set(cast("Mapping[str, object]", model.flavors)) - {"python_function"})
        parameters: dict[str, Parameter] = {}
        if content_type := content_type_of(fields):
            parameters["content_type"] = content_type
        parameters |= self._params.metadata()
        told: dict[str, Parameter] = {
            "flavors": flavors,
            "mlflow_version": str(model.mlflow_version or ""),
            "run_id": model.run_id,
            "model_id": model.model_id,
            "source": self._fetched.source if self._fetched is not None else "",
            "version": self._fetched.registered_version if self._fetched is not None else "",
            "type_hints": self._type_hints(),
        }
        parameters["mlflow"] = {key: value for key, value in told.items() if value}
        if self._mismatches:
            parameters["requirements_mismatch"] = [each.metadata() for each in self._mismatches]
        return ModelMetadata(
            platform=f"mlflow_{flavors[0]}" if len(flavors) == 1 else "mlflow",
            inputs=[
                each.metadata(
                    {"example": example_values(examples[each.name])}
                    if each.name in examples
                    else {}
                )
                for each in fields
            ],
            outputs=self._outputs.metadata(),
            parameters=parameters,
        )

    def _type_hints(self) -> Parameter:
        model = self._python_model()
        hints = getattr(model, "predict_type_hints", None)
        given = {
            "input": getattr(hints, "input", None),
            "output": getattr(hints, "output", None),
        }
        return {
            name: kind.__name__
            if isinstance(kind, type) and not hasattr(kind, "__args__")
            else str(kind)
            for name, kind in given.items()
            if kind is not None
        }

    def _judge(self, model: Model) -> Capabilities:
        """Say what is known of a flavour's Python function; nothing of one that is the user's."""
        flavors = cast("Mapping[str, Mapping[str, object]]", model.flavors)
        names = set(flavors) - {"python_function"}
        if len(names) != 1 or not names <= _ROW_WISE:
            return Capabilities()
        method = str(flavors["python_function"].get("predict_fn") or "predict")
        is_rows = self._inputs.is_table and not self._params.are_some and method in METHODS
        return Capabilities(row_wise=is_rows, thread_safe=True)

    def _warm_up(self, pyfunc: PyFuncModel, model: Model, fetched: Fetched) -> None:
        """Predict the input example once: the first call is slow, and shows what comes out."""
        example = pyfunc.input_example
        if example is None:
            return
        try:
            params = model.load_input_example_params(str(fetched.folder))
            self._outputs.learn(self._call(example, params))
        # a model's own code, or an example of another time
        except Exception as error:  # noqa: BLE001
            self._context.logger.warning(
                "its input example is not answered: %s: %s",
                type(error).__name__,
                redact(str(error)),
            )

    # ---- a request ----

    def _infer_pyfunc(self, request: InferRequest) -> InferResponse:
        data, params = self._inputs.read(request), self._params.read(request)
        try:
            result = self._call(data, params)
        except (MlflowException, TypeError, ValueError) as error:
            _blame(error)
            # a framework's own, not the user's code
            if isinstance(error, ValueError) and self.capabilities.thread_safe:
                raise _refusal("data that the model accepts", str(error)) from error
            raise
        return self._outputs.write(result, request)

    def _call(self, data: object, params: dict[str, object] | None) -> object:
        result: object = self.pyfunc.predict(data, params=params)
        if inspect.isawaitable(result):
            return asyncio.run(_awaited(result))
        return result

    # ---- coroutine functions and streams ----

    def _prepare_coroutine(self, pyfunc: PyFuncModel) -> None:
        """Await a `predict` that is a coroutine function on the event loop.

        What calls `pyfunc` itself gets a result, not a coroutine.
        """
        self.pyfunc = pyfunc
        if not _is_coroutine_function(self._python_model()):
            return
        original: Callable[..., Any] = pyfunc._predict_fn

        @functools.wraps(original)
        def complete(*args: object, **kwargs: object) -> object:
            return asyncio.run(_awaited(original(*args, **kwargs)))

        self.pyfunc = copy.copy(pyfunc)
        self.pyfunc._predict_fn = complete

        async def infer(request: InferRequest) -> InferResponse:
            data, params = self._inputs.read(request), self._params.read(request)
            try:
                # MLflow checks the columns first, which takes about a millisecond
                result = await asyncio.to_thread(pyfunc.predict, data, params)
                if inspect.isawaitable(result):
                    result = await result
            except (MlflowException, TypeError, ValueError) as error:
                _blame(error)
                raise
            return self._outputs.write(result, request)

        self.__dict__["infer"] = infer

    def _prepare_stream(self, pyfunc: PyFuncModel) -> None:
        function = getattr(self._python_model(), "predict_stream", None)

        def checked(request: InferRequest) -> Any:  # noqa: ANN401  an iterator of either kind
            data: Any = self._inputs.read(request)
            params = self._params.read(request)
            try:
                if inspect.isasyncgenfunction(inspect.unwrap(function) if function else None):
                    # MLflow's own method wraps it in a plain generator
                    return pyfunc._predict_stream(data, params)
                return pyfunc.predict_stream(data, params)
            except (MlflowException, TypeError, ValueError) as error:
                _blame(error)
                raise

        if function is not None and inspect.isasyncgenfunction(inspect.unwrap(function)):

            async def stream_async(request: InferRequest) -> AsyncGenerator[InferResponse, None]:
                async with contextlib.aclosing(checked(request)) as chunks:
                    async for chunk in chunks:
                        yield self._outputs.write(chunk, request)

            self.__dict__["stream"] = stream_async
            return

        def stream(request: InferRequest) -> Generator[InferResponse, None, None]:
            # MLflow sets a context variable before the first chunk and resets it after the last,
            # and the steps may run in several threads
            context = contextvars.copy_context()
            chunks = context.run(checked, request)
            try:
                while (chunk := context.run(next, chunks, _ENDED)) is not _ENDED:
                    yield self._outputs.write(chunk, request)
            except (MlflowException, TypeError, ValueError) as error:
                _blame(error)
                raise
            finally:
                context.run(chunks.close)

        self.__dict__["stream"] = stream

    def _python_model(self) -> object:
        """Give the user's own object of a python_function model; None for other flavours."""
        implementation: object = self.pyfunc._model_impl
        return getattr(implementation, "python_model", None)


async def _awaited(result: Any) -> object:  # noqa: ANN401  any awaitable
    return await result


def _is_coroutine_function(model: object) -> bool:
    function = getattr(model, "predict", None)
    return function is not None and inspect.iscoroutinefunction(inspect.unwrap(function))


def _with(metadata: ModelMetadata, **parameters: Parameter) -> ModelMetadata:
    told = metadata.parameters.get("mlflow")
    mine = dict(cast("Mapping[str, Parameter]", told)) if isinstance(told, dict) else {}
    return msgspec.structs.replace(
        metadata, parameters={**metadata.parameters, "mlflow": {**mine, **parameters}}
    )


def _blame(error: Exception) -> None:
    """Tell the caller of what MLflow refused; leave errors of the model's own code alone.

    Raises:
        InvalidRequestError: The request is to blame.
    """
    expected = "data of the model's signature"
    if isinstance(error, MlflowException):
        text = str(error.message)
        is_schema = getattr(error, "error_class", None) == "SCHEMA_ENFORCEMENT_FAILED"
        if is_schema or text.startswith(_OF_INPUT):
            # it repeats all of the data before it says what is wrong
            raise _refusal(expected, text.rpartition("Error: ")[2]) from error
    elif _is_of_conversion(error):
        raise _refusal(expected, str(error)) from error


def _is_of_conversion(error: Exception) -> bool:
    """Tell whether MLflow could not make the request that its chat models and agents take."""
    return any(
        frame.f_code.co_name == "_convert_input"
        and str(frame.f_globals.get("__name__")).startswith("mlflow.pyfunc.loaders.")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _refusal(expected: str, reason: str) -> InvalidRequestError:
    """Make the caller's error of a text that others wrote, which may have many lines."""
    # MLflow's may repeat all of the data, and has pydantic's as part of a list
    reason = reason[: 10 * _SHOWN]
    lines = [each.strip() for each in reason.replace("\\n", "\n").splitlines()]
    told = "; ".join(each for each in lines if each and not each.startswith(_POINTER))
    return InvalidRequestError("inputs", expected=expected, found=f"'{redact(told)[:_SHOWN]}'")
