"""The four tritonclients behind one face, so that a test has one body for all of them."""

import inspect
import json
import types
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

TIMEOUT_S = 20.0
MODULES = (
    tritonclient.http,
    tritonclient.http.aio,
    tritonclient.grpc,
    tritonclient.grpc.aio,
)
DATATYPES = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "object": "BYTES",
}
STATUS = {
    "400": "StatusCode.INVALID_ARGUMENT",
    "404": "StatusCode.NOT_FOUND",
    "500": "StatusCode.INTERNAL",
    "503": "StatusCode.UNAVAILABLE",
}


@dataclass(frozen=True)
class Triton:
    """One of the four clients, called in one way."""

    module: types.ModuleType
    client: Any

    @property
    def name(self) -> str:
        return self.module.__name__.removeprefix("tritonclient.")

    @property
    def is_http(self) -> bool:
        return self.name.startswith("http")

    async def ask(self, method: str, *args: object, **kwargs: object) -> Any:
        if not self.is_http:
            kwargs["client_timeout"] = TIMEOUT_S
        answer = getattr(self.client, method)(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    async def read(self, method: str, *args: object, **kwargs: object) -> Any:
        """Ask for JSON, which gRPC makes of a message: INT64 as text, what is empty left out."""
        as_json = {} if self.is_http else {"as_json": True}
        return await self.ask(method, *args, **kwargs, **as_json)

    def inputs(self, arrays: Mapping[str, np.ndarray], *, is_json: bool = False) -> list[Any]:
        """Make inputs; as the client likes them, which is binary, or over HTTP within the JSON."""
        form = {"binary_data": False} if is_json and self.is_http else {}
        return [
            self.module.InferInput(
                name, list(array.shape), DATATYPES[array.dtype.name]
            ).set_data_from_numpy(array, **form)
            for name, array in arrays.items()
        ]

    async def infer(
        self,
        model: str,
        arrays: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        is_json: bool = True,
        classes: int = 0,
        **more: object,
    ) -> Any:
        """Infer; over HTTP with everything in the JSON, or in the client's own binary form."""
        form = {"binary_data": False} if is_json and self.is_http else {}
        wanted = [
            self.module.InferRequestedOutput(name, class_count=classes, **form) for name in outputs
        ]
        given = self.inputs(arrays, is_json=is_json)
        return await self.ask("infer", model, given, outputs=wanted or None, **more)

    async def refusal(self, status: str, answer: Awaitable[object]) -> str:
        """The text of the error that the client's user gets."""
        with pytest.raises(InferenceServerException) as caught:
            await answer
        assert caught.value.status() == (status if self.is_http else STATUS[status])
        return caught.value.message()

    def as_dict(self, result: Any) -> dict[str, Any]:
        """The whole response, but for tensors in their binary form."""
        if self.is_http:
            return result.get_response()
        answer = result.get_response(as_json=True)
        return json.loads(answer) if isinstance(answer, str) else answer

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters without the field that gRPC puts around each."""
        if self.is_http:
            return dict(given)
        return {key: next(iter(value.values())) for key, value in given.items()}


def texts(result: Any, name: str) -> list[str]:
    """A BYTES output's elements as text: JSON gives the client `str`, the binary form `bytes`."""
    found = result.as_numpy(name).reshape(-1).tolist()
    return [each if isinstance(each, str) else each.decode() for each in found]
