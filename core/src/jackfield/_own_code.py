"""Make a runtime of a class or function that a model's author wrote beside the settings.

Two styles. Full: `infer` takes an `InferRequest` and gives an `InferResponse`; it is called as it
is. Typed: parameters name the inputs, annotations pick the codecs; what converts is chosen here,
when the model loads. Used by `_models`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from jackfield._code import Code
from jackfield._routes import find_routes
from jackfield._signature import Call, is_full_style, read_hints
from jackfield.errors import ModelLoadError
from jackfield.messages import InferRequest, InferResponse, ModelMetadata
from jackfield.runtime import Capabilities, ModelContext

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

Infer: TypeAlias = Callable[[InferRequest], InferResponse | Awaitable[InferResponse]]
Stream: TypeAlias = Callable[
    [InferRequest], Iterator[InferResponse] | AsyncGenerator[InferResponse, None]
]


def load_own_code(path: str, folder: Path, context: ModelContext) -> OwnRuntime:
    """Import an author's class or function, and construct it.

    Args:
        path: ``module:name``; an empty name takes the only candidate that the module has.
        folder: The model's folder.
        context: What the constructor gets, if it takes something.

    Raises:
        ModelLoadError: There is no such thing, or it does not have the form of a model. What the
            author's code raises passes through.
    """
    code = Code(folder)
    try:
        module_name, _, name = path.partition(":")
        module = code.load(module_name)
        found = _find(module, module_name, name) if name else _find_only(module, module_name)
        model = _construct(found, context) if isinstance(found, type) else found
        return OwnRuntime(model, code, context=context)
    except BaseException:
        code.close()
        raise


def _find(module: ModuleType, module_name: str, name: str) -> Callable[..., Any]:
    found: Any = getattr(module, name, None)
    if not isinstance(found, type) and not inspect.isroutine(found):
        problem = f"module '{module_name}' has no class or function '{name}'"
        raise ModelLoadError(problem)
    function: Callable[..., Any] = found
    return function


def _find_only(module: ModuleType, module_name: str) -> Callable[..., Any]:
    """Find the class that has `infer`; where there is none, the function."""
    own = {
        name: each
        for name, each in vars(module).items()
        if not name.startswith("_") and getattr(each, "__module__", "") == module.__name__
    }
    found: dict[str, Any] = {
        name: each
        for name, each in own.items()
        if isinstance(each, type) and callable(getattr(each, "infer", None))
    } or {name: each for name, each in own.items() if inspect.isfunction(each)}
    if len(found) != 1:
        names = ", ".join(f"'{name}'" for name in found) or "none"
        problem = (
            f"'{module_name}.py' should have one class with 'infer', or one function; it has "
            f"{names}; name one: {module_name}.py:{next(iter(found), 'NAME')}"
        )
        raise ModelLoadError(problem)
    only: Callable[..., Any]
    (only,) = found.values()
    return only


def _construct(kind: type, context: ModelContext) -> object:
    """Call the constructor with the context, if it takes one."""
    parameters = [
        each
        for each in inspect.signature(kind).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    first = parameters[0] if parameters else None
    takes_context = first is not None and (
        first.name == "context" or first.default is inspect.Parameter.empty
    )
    try:
        inspect.signature(kind).bind(*([context] if takes_context else []))
    except TypeError as error:
        problem = (
            f"the constructor of '{kind.__name__}' takes {inspect.signature(kind)}; "
            "it should take nothing or the model's context"
        )
        raise ModelLoadError(problem) from error
    return kind(context) if takes_context else kind()


class OwnRuntime:
    """A runtime whose methods are the author's, where there are any; made by `load_own_code`.

    Args:
        model: The author's object, or function.
        code: The modules that it lives in; closed with it.
        context: The model's.

    Raises:
        ModelLoadError: It does not have the form of a model.
    """

    def __init__(self, model: object, code: Code, *, context: ModelContext) -> None:
        self.model = model
        self._code = code
        infer = model if inspect.isroutine(model) else getattr(model, "infer", None)
        stream = None if inspect.isroutine(model) else getattr(model, "stream", None)
        if not callable(infer):
            problem = f"class '{type(model).__name__}' has no method 'infer'"
            raise ModelLoadError(problem)
        _refuse_coroutines(model)
        inferring = None if is_full_style(infer) else Call(infer, context=context)
        self.infer: Infer = infer if inferring is None else _infer(inferring)
        self.stream: Stream | None = None
        streaming = None
        if callable(stream):
            streaming = None if is_full_style(stream) else Call(stream, context=context)
            self.stream = _stream(stream, streaming)
        self.routes = find_routes(model)
        calls = [call for call in (inferring, streaming) if call is not None]
        self._reads_headers = any(call.reads_headers for call in calls)
        self._derived = ModelMetadata(platform="python")
        if inferring is not None:
            self._derived = msgspec.structs.replace(
                self._derived, inputs=inferring.inputs, outputs=inferring.outputs
            )

    @property
    def capabilities(self) -> Capabilities:
        """What the author's object declares, and the headers if a parameter asks for them."""
        given: Capabilities = getattr(self.model, "capabilities", Capabilities())
        if self._reads_headers and isinstance(given, Capabilities):
            return msgspec.structs.replace(given, reads_headers=True)
        return given

    def load(self) -> None:
        """Let the author's object load."""
        try:
            if load := getattr(self.model, "load", None):
                load()
        except BaseException:
            self._code.close()
            raise

    def metadata(self) -> ModelMetadata:
        """Give the author's metadata, else what the signature says."""
        metadata = getattr(self.model, "metadata", None)
        if metadata is None:
            return self._derived
        found: ModelMetadata = metadata()
        return found

    def close(self) -> None:
        """Let the author's object free what it holds, and forget its modules."""
        try:
            if close := getattr(self.model, "close", None):
                close()
        finally:
            self._code.close()


def _refuse_coroutines(model: object) -> None:
    for name in ("load", "metadata", "close"):
        if inspect.iscoroutinefunction(getattr(model, name, None)):
            problem = f"'{name}' is a coroutine function, and runs in a thread: write a plain 'def'"
            raise ModelLoadError(problem)
    if inspect.iscoroutinefunction(getattr(model, "stream", None)):
        problem = "'stream' is a coroutine function that yields nothing; it should yield"
        raise ModelLoadError(problem)


def _infer(call: Call) -> Infer:
    function = call.function
    if inspect.iscoroutinefunction(function):

        async def infer_async(request: InferRequest) -> InferResponse:
            return call.response(await function(**call.arguments(request)), request)

        return infer_async

    def infer(request: InferRequest) -> InferResponse:
        return call.response(function(**call.arguments(request)), request)

    return infer


def _stream(function: Callable[..., Any], call: Call | None) -> Stream:
    """Make a stream of the author's, whose answers `call` converts; None for the full style."""
    returned = typing.get_origin(read_hints(function).get("return"))
    is_async = inspect.isasyncgenfunction(function)
    if call is None and (is_async or inspect.isgeneratorfunction(function)):
        return function
    if is_async or returned in (AsyncGenerator, AsyncIterable, AsyncIterator):

        async def stream_async(request: InferRequest) -> AsyncGenerator[InferResponse, None]:
            values: AsyncIterable[Any] = _start(function, call, request)
            try:
                async for value in values:
                    yield value if call is None else call.response(value, request)
            finally:
                if isinstance(values, AsyncGenerator):
                    await values.aclose()

        return stream_async

    def stream(request: InferRequest) -> Iterator[InferResponse]:
        values: Iterable[Any] = _start(function, call, request)
        for value in values:
            yield value if call is None else call.response(value, request)

    return stream


def _start(function: Callable[..., Any], call: Call | None, request: InferRequest) -> Any:  # noqa: ANN401
    return function(request) if call is None else function(**call.arguments(request))
