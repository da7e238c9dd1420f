"""Read a typed model's signature: which inputs it takes, which outputs it gives, and how.

All is decided when the model loads; for a request a `Call` binds arguments and makes tensors.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from jackfield import codecs
from jackfield._kinds import SUPPORTED, Kind, kind_of, spell, wrong_type
from jackfield.errors import InvalidRequestError, ModelLoadError
from jackfield.messages import InferRequest, InferResponse, Parameters
from jackfield.runtime import ModelContext
from jackfield.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield.messages import TensorMetadata
    from jackfield.settings import ModelSettings

_STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator)
_EMPTY = inspect.Parameter.empty
#: Names of a lone parameter without an annotation that say that it is the whole request.
_REQUEST_NAMES = ("request", "req")


def read_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Evaluate a function's annotations.

    Raises:
        ModelLoadError: One can't be evaluated; it is named.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        missing = str(error.name)
        written = {name: str(each) for name, each in function.__annotations__.items()}
        name = next((name for name, text in written.items() if missing in text), "")
        problem = (
            f"the annotation of '{name}' of {function.__name__}, '{written.get(name, '')}', needs "
            f"'{missing}', which the module does not import when it runs"
        )
        raise ModelLoadError(problem) from error


def is_full_style(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes an `InferRequest` and gives `InferResponse`s."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1:
        return False
    (parameter,) = parameters
    hints = read_hints(function)
    if parameter.name not in hints:
        is_named_so = parameter.name in _REQUEST_NAMES or parameter.name.startswith("_")
        return is_named_so or parameter.kind is inspect.Parameter.VAR_POSITIONAL
    returned = hints.get("return", InferResponse)
    if typing.get_origin(returned) in _STREAMS:
        returned = typing.get_args(returned)[0]
    return hints[parameter.name] is InferRequest and returned is InferResponse


class _Whole(NamedTuple):
    """The parameter that takes all inputs which no other parameter names."""

    name: str
    text: str
    content_type: str
    type: type


class Call:
    """How a typed function is called for a request, and its answer turned into a response.

    Args:
        function: The function; of a method, the bound one.
        context: The model's.

    Raises:
        ModelLoadError: An annotation is missing, or no codec does what it says.
    """

    def __init__(self, function: Callable[..., Any], *, context: ModelContext) -> None:
        self.function = function
        self.reads_headers = False
        self._settings = context.settings
        self._kinds: dict[str, Kind] = {}
        self._required: set[str] = set()
        self._whole: _Whole | None = None
        self._given: dict[str, Callable[[InferRequest], object]] = {}
        hints = read_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            self._read_parameter(parameter, hints.get(parameter.name, _EMPTY), context)
        self._answer = _Answer(hints.get("return", _EMPTY), function.__name__, self._settings)

    def _read_parameter(
        self, parameter: inspect.Parameter, hint: object, context: ModelContext
    ) -> None:
        name, what = parameter.name, f"parameter '{parameter.name}' of {self.function.__name__}"
        if parameter.kind in _UNNAMED:
            problem = f"{what} has no name that an input could have; write plain parameters"
            raise ModelLoadError(problem)
        if hint is _EMPTY:
            problem = f"{what} has no annotation; supported are: {SUPPORTED}"
            raise ModelLoadError(problem)
        if self._is_given(name, hint, context):
            return
        if parameter.default is _EMPTY:
            self._required.add(name)
        if codecs.content_type_of(hint) is not None and codecs.is_whole(hint):
            self._add_whole(name, hint, what)
            return
        declared = {each.name: each.parameters for each in self._settings.inputs}
        default = declared.get(name, {}).get("content_type", "")
        kind = kind_of(hint, str(default))
        if kind is None:
            problem = f"{what} is {spell(hint)}, which no codec makes; supported are: {SUPPORTED}"
            raise ModelLoadError(problem)
        self._kinds[name] = kind

    def _is_given(self, name: str, hint: object, context: ModelContext) -> bool:
        """Take a parameter that is no input: it gets something of the request or the model."""
        is_mapping = (typing.get_origin(hint) or hint) in (dict, Mapping)
        if name == "headers" and is_mapping:
            self.reads_headers = True
            self._given[name] = _headers
        elif hint == Parameters or (name == "parameters" and is_mapping):
            self._given[name] = _parameters
        elif hint is InferRequest:
            self._given[name] = _request
        elif hint is ModelContext:
            self._given[name] = lambda _: context
        else:
            return False
        return True

    def _add_whole(self, name: str, hint: object, what: str) -> None:
        if self._whole is not None:
            problem = f"{what} and '{self._whole.name}' would both take all inputs; keep one"
            raise ModelLoadError(problem)
        hint = codecs.unalias(hint)
        plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        parts = [each for each in typing.get_args(plain) if each is not types.NoneType]
        if typing.get_origin(plain) in (typing.Union, types.UnionType):
            plain = parts[0]
        origin: Any = typing.get_origin(plain) or plain
        content_type = codecs.content_type_of(hint) or ""
        self._whole = _Whole(name, spell(hint), content_type, origin)

    # ---- what the metadata says ----

    @property
    def inputs(self) -> list[TensorMetadata]:
        """The inputs; empty where an annotation leaves one open."""
        if self._whole is not None:
            return []
        found = [
            kind.describe(name, **({} if name in self._required else {"optional": True}))
            for name, kind in self._kinds.items()
        ]
        return _all_or_none(found)

    @property
    def outputs(self) -> list[TensorMetadata]:
        """The outputs; empty where the return annotation leaves one open."""
        return _all_or_none([kind.describe(name) for name, kind in self._answer.kinds.items()])

    # ---- for each request ----

    def arguments(self, request: InferRequest) -> dict[str, object]:
        """Make the function's arguments.

        Raises:
            InvalidRequestError: An input is missing, is none of the function's or does not fit.
        """
        values: dict[str, object] = {}
        others: list[Tensor] = []
        for index, tensor in enumerate(request.inputs):
            kind = self._kinds.get(tensor.name)
            if kind is None:
                others.append(tensor)
                continue
            content_type = codecs.choose(request, tensor, default=kind.content_type)
            values[tensor.name] = kind.read(tensor, content_type, f"inputs[{index}]")
        if others and self._whole is not None:
            values[self._whole.name] = self._read_whole(self._whole, request, others)
            others = []
        takes_any = _request in self._given.values()
        if not self._required <= values.keys() or (others and not takes_any):
            raise self._misfit(request)
        for name, give in self._given.items():
            values[name] = give(request)
        return values

    def _read_whole(
        self, whole: _Whole, request: InferRequest, tensors: Sequence[Tensor]
    ) -> object:
        content_type = codecs.choose(request, default=whole.content_type, settings=self._settings)
        part = msgspec.structs.replace(request, inputs=tensors)
        value = codecs.decode_request(part, content_type)
        if not isinstance(value, whole.type):
            raise InvalidRequestError(
                "parameters.content_type",
                expected=f"one that makes {whole.text}, as '{whole.content_type}' does",
                found=f"'{content_type}'",
            )
        return value

    def _misfit(self, request: InferRequest) -> InvalidRequestError:
        wanted = [name for name in self._kinds if name in self._required]
        if self._whole is not None and self._whole.name in self._required:
            wanted.append(f"others for {self._whole.name}")
        may_be = [name for name in self._kinds if name not in self._required]
        expected = _list(wanted)
        if may_be:
            expected += f", and perhaps {_list(may_be)}"
        return InvalidRequestError(
            "inputs", expected=expected, found=_list([each.name for each in request.inputs])
        )

    def response(self, value: object, request: InferRequest) -> InferResponse:
        """Make a response of what the function returned.

        Raises:
            TypeError: It is not what the return annotation says, or no tensor holds it.
            InvalidRequestError: The request asks for an output, or a content type, that it can't
                have.
        """
        response = self._answer.make(value)
        return _as_requested(response, request) if request.outputs else response


_UNNAMED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)


def _request(request: InferRequest) -> InferRequest:
    return request


def _headers(request: InferRequest) -> object:
    return request.parameters.get("headers", {})


def _parameters(request: InferRequest) -> Parameters:
    return {name: value for name, value in request.parameters.items() if name != "headers"}


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _all_or_none(found: Sequence[TensorMetadata | None]) -> list[TensorMetadata]:
    """Say nothing rather than a part: a document would show a part as the whole."""
    return [each for each in found if each is not None] if None not in found else []


class _Answer:
    """What a return annotation says, and how an answer becomes tensors.

    `kinds` has the outputs by name; it is empty where the annotation leaves the names open: a
    DataFrame, a dict, tensors, or no annotation at all.
    """

    def __init__(self, hint: object, function: str, settings: ModelSettings) -> None:
        self.kinds: dict[str, Kind] = {}
        self._what = f"the answer of {function}"
        self._declared = {each.name: each.parameters for each in settings.outputs}
        if typing.get_origin(hint) in _STREAMS:
            (hint, *_) = typing.get_args(hint)
        self._text = spell(hint)
        #: What the answer must be an instance of; empty for anything.
        self._types: tuple[type, ...] = ()
        if hint in (_EMPTY, Any, object):
            return
        plain = codecs.unalias(hint)
        origin: Any = typing.get_origin(plain) or plain
        if isinstance(origin, type) and issubclass(origin, tuple):
            self._types = (tuple,)
            self._read_parts(_parts_of_tuple(plain))
        elif typing.is_typeddict(hint):
            self._types = (Mapping,)
            self._read_parts(typing.get_type_hints(hint, include_extras=True))
        elif hint in (InferResponse, Tensor, list[Tensor]) or (
            codecs.content_type_of(hint) is not None and codecs.is_whole(hint)
        ):
            self._types = (Mapping if origin is dict else origin,)
        else:
            self._read_parts({"output-0": hint})

    def _read_parts(self, hints: Mapping[str, object]) -> None:
        for name, hint in hints.items():
            default = self._declared.get(name, {}).get("content_type", "")
            kind = kind_of(hint, str(default))
            if kind is None:
                part = "" if hint is None or self._text == spell(hint) else f", its part '{name}'"
                problem = (
                    f"{self._what} is {self._text}{part}, which no codec encodes; "
                    f"supported are: {SUPPORTED}, and tuples and TypedDicts of them"
                )
                raise ModelLoadError(problem)
            self.kinds[name] = kind

    def make(self, value: object) -> InferResponse:
        """Make a response.

        Raises:
            TypeError: The value is not what the annotation says, or no tensor holds it.
        """
        if self._types and not isinstance(value, self._types):
            raise wrong_type(self._what, self._text, value)
        if isinstance(value, InferResponse):
            return value
        if not self.kinds:
            if value is None:
                message = f"{self._what} is None, which no tensor holds"
                raise TypeError(message)
            return codecs.encode_response(value)
        if isinstance(value, tuple) and self._types:
            self._check(len(value) == len(self.kinds), f"{len(value)} parts")
            parts: Mapping[str, Any] = dict(zip(self.kinds, value, strict=True))
        elif isinstance(value, Mapping) and self._types:
            self._check(value.keys() == self.kinds.keys(), f"the keys {_list(list(value))}")
            parts = value
        else:
            parts = dict.fromkeys(self.kinds, value)
        return InferResponse([kind.write(name, parts[name]) for name, kind in self.kinds.items()])

    def _check(self, fits: bool, found: str) -> None:  # noqa: FBT001  reads as an assertion
        if not fits:
            message = f"{self._what}: the return annotation says {self._text}, found {found}"
            raise TypeError(message)


def _parts_of_tuple(hint: Any) -> dict[str, object]:  # noqa: ANN401  a type form of any kind
    if hasattr(hint, "_fields"):  # a NamedTuple
        hints = typing.get_type_hints(hint, include_extras=True)
        return {name: hints.get(name, object) for name in hint._fields}
    parts = typing.get_args(hint)
    return {f"output-{index}": part for index, part in enumerate(parts) if part is not Ellipsis}


def _as_requested(response: InferResponse, request: InferRequest) -> InferResponse:
    """Check the outputs asked for, and encode them by the content types asked for."""
    tensors = {tensor.name: tensor for tensor in response.outputs}
    for index, output in enumerate(request.outputs):
        tensor = tensors.get(output.name)
        if tensor is None:
            raise InvalidRequestError(
                f"outputs[{index}].name",
                expected=f"one of {_list(list(tensors))}",
                found=f"'{output.name}'",
            )
        wanted = output.parameters.get("content_type", "")
        given = str(tensor.parameters.get("content_type", "np"))
        if wanted and wanted != given:
            field = f"outputs[{index}].parameters.content_type"
            if not isinstance(wanted, str) or wanted not in codecs.TENSOR_CONTENT_TYPES:
                known = _list(codecs.TENSOR_CONTENT_TYPES)
                raise InvalidRequestError(field, expected=f"one of {known}", found=f"'{wanted}'")
            try:
                value = codecs.decode(tensor, given)
                tensors[output.name] = codecs.encode(output.name, value, wanted)
            except (TypeError, InvalidRequestError) as error:
                raise InvalidRequestError(
                    field,
                    expected=f"a content type that holds it, as '{given}'",
                    found=f"'{wanted}'",
                ) from error
    return msgspec.structs.replace(response, outputs=list(tensors.values()))
