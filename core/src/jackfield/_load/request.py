"""Make the one request that a load repeats: of a model's metadata, or of a file; no I/O."""

from __future__ import annotations

import json as text_json
import math
import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from jackfield._load.plan import Target
from jackfield._wire import json
from jackfield.client._address import read_address
from jackfield.client._exchange import Call, Reply
from jackfield.client._grpc import GrpcDialect
from jackfield.client._http import HttpDialect
from jackfield.errors import InvalidRequestError
from jackfield.messages import InferRequest
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from jackfield.client._exchange import Dialect
    from jackfield.messages import InferResponse, ModelMetadata, TensorMetadata

#: The id of every request: the answers to it are then equal to the byte, most often.
_ID = "bench"


def build_request(metadata: ModelMetadata, *, rows: int, seed: int) -> InferRequest:
    """Make a request that a model should accept.

    A tensor's parameters ``example`` and ``categories`` give its values where it has them. Else
    floats are random, from 0 up to 1; integers are 0, text is "text". Optional inputs are left out,
    unless there are no others.

    Args:
        metadata: What the model takes.
        rows: Size of each input's first dimension where the model leaves it open.
        seed: Of the random values.

    Raises:
        InvalidRequestError: The metadata names no inputs.

    Shapes: sizes that are open beside the first are 1.
    """
    needed = [each for each in metadata.inputs if not each.parameters.get("optional", False)]
    inputs = needed or list(metadata.inputs[:1])
    if not inputs:
        raise InvalidRequestError(
            "inputs",
            expected="a model whose metadata names its inputs, or --request FILE",
            found="metadata without inputs",
            model=metadata.name,
        )
    draw = random.Random(seed)
    return InferRequest([_tensor(each, rows, draw) for each in inputs], id=_ID)


def _tensor(given: TensorMetadata, rows: int, draw: random.Random) -> Tensor:
    shape = [1 if size < 0 else size for size in given.shape]
    if shape and given.shape[0] < 0:
        shape[0] = rows
    size = math.prod(shape)
    flat: NDArray[Any] = np.empty(size, dtype=given.datatype.dtype)
    flat[:] = _values(given, size, draw)
    return Tensor(given.name, given.datatype, flat.reshape(shape))


def _values(given: TensorMetadata, size: int, draw: random.Random) -> list[Any]:
    """Give so many values; an example of one row is repeated."""
    example = given.parameters.get("example")
    categories = given.parameters.get("categories")
    values: list[Any] = []
    if isinstance(example, list | tuple):
        values = list(example)
    elif isinstance(example, bool | int | float | str):
        values = [example]
    elif isinstance(categories, list | tuple) and given.datatype is Datatype.BYTES:
        values = list(categories[:1])
    if not values or size % len(values):
        if given.datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16):
            return [draw.random() for _ in range(size)]
        values = ["text" if given.datatype is Datatype.BYTES else 0]
    if given.datatype is Datatype.BYTES:
        values = [each.encode() if isinstance(each, str) else each for each in values]
    return values * (size // len(values))


class Source:
    """The request, in the form that each server takes.

    Args:
        request: What is asked.
        model: Name of the model.
        version: Its version; empty for the server's choice.
        is_binary: Whether tensors go in binary form over HTTP.
        body: The request's own bytes, which HTTP sends as they are; None to encode it.
        json_length: Length of the body's JSON text; None if that is all there is.
    """

    def __init__(
        self,
        request: InferRequest,
        *,
        model: str,
        version: str,
        is_binary: bool,
        body: bytes | None = None,
        json_length: int | None = None,
    ) -> None:
        self.request = request
        self.model = model
        self.version = version
        self.is_binary = is_binary
        self._body = body
        self._json_length = json_length

    @classmethod
    def from_file(cls, content: bytes, *, model: str, version: str, is_binary: bool) -> Source:
        """Read a file: a JSON inference request, and behind it perhaps binary tensors.

        Raises:
            InvalidRequestError: It is neither.
        """
        length = _json_length(content)
        request, _ = json.decode_infer(content, model, length)
        # --binary asks for another form than the file has; with binary tensors it has that one
        is_kept = not is_binary or length is not None
        return cls(
            request,
            model=model,
            version=version,
            is_binary=is_binary or length is not None,
            body=content if is_kept else None,
            json_length=length,
        )

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        """Encode the request for a server.

        Raises:
            InvalidRequestError: JSON can't carry it.
            ValueError: The URL is none.
        """
        call = self._call(url)
        return Target(url.rstrip("/"), call.target, call.body, {**headers, **call.headers})

    def _call(self, url: str) -> Call:
        is_grpc = read_address(url).is_grpc
        dialect: Dialect = GrpcDialect() if is_grpc else HttpDialect()
        if is_grpc or self._body is None:
            return dialect.infer(
                self.model, self.version, self.request, is_binary=self.is_binary
            ).call
        # the path of any request to the model
        empty = InferRequest([])
        call = dialect.infer(self.model, self.version, empty, is_binary=False).call
        if self._json_length is None:
            return Call(call.target, self._body, call.headers)
        sizes = {"inference-header-content-length": str(self._json_length)}
        return Call(call.target, self._body, {"content-type": "application/octet-stream", **sizes})


def decoder(url: str) -> Callable[[Reply], InferResponse]:
    """Give what reads a server's answers."""
    dialect: Dialect = GrpcDialect() if read_address(url).is_grpc else HttpDialect()
    return dialect.infer("", "", InferRequest([]), is_binary=False).decode


def _json_length(content: bytes) -> int | None:
    """Find where binary tensors begin behind a JSON text; None if there are none.

    Raises:
        InvalidRequestError: It does not begin with JSON.
    """
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except msgspec.DecodeError:
        pass
    else:
        return None
    try:
        # a character of this encoding is a byte
        _, end = text_json.JSONDecoder().raw_decode(content.decode("latin-1"))
    except ValueError as error:
        raise InvalidRequestError(
            "body", expected="a JSON inference request", found=str(error)
        ) from error
    return end
