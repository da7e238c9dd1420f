"""The server under test, as its metadata tells it: what to ask, and what to expect back."""

from __future__ import annotations

import functools
import json
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from jackfield._wire.descriptors import ModelInferRequest
from jackfield.tensor import Datatype
from jackfield.testing.conformance._check import ConformanceError, NotApplicableError
from jackfield.testing.conformance._expect import expect_outputs
from jackfield.testing.conformance._grpc import Failure, GrpcClient
from jackfield.testing.conformance._http import Call, HttpClient
from jackfield.testing.conformance._tensor import (
    RAW_ONLY,
    Sample,
    decode_message,
    expect_equal,
    plain_values,
    sample,
    telling_values,
    zeros,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield._wire.descriptors import ProtoMessage
    from jackfield.testing.conformance._http import Reply

#: Rows that values for an echo model fill, where its metadata leaves a size open.
_ROWS = 10


class TensorFacts(msgspec.Struct, frozen=True):
    """An input or output as the server's metadata has it."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, Any] | None = None

    def filled(self, size: int) -> list[int]:
        """Give the shape with its first unknown size set, the other unknown ones to 1."""
        shape = list(self.shape)
        unknown = [index for index, each in enumerate(shape) if each < 0]
        for index in unknown:
            shape[index] = 1
        if unknown:
            shape[unknown[0]] = size
        return shape


class ModelFacts(msgspec.Struct, frozen=True):
    """A model as the server's metadata has it."""

    name: str
    platform: str
    inputs: list[TensorFacts] = []
    outputs: list[TensorFacts] = []
    versions: list[str] | None = None


class Target:
    """A server and one of its models; checks ask it, and build requests with it.

    What is learned by asking (metadata, the answer to an example request) is asked once.

    Args:
        http: Where to send REST requests.
        grpc: Where to send gRPC calls; None where no address was given.
        model: The model's name.
        version: Its version; empty leaves the choice to the server.
        example: Inputs that the model takes, in the form of an inference request; None makes them
            from the metadata.
    """

    def __init__(
        self,
        http: HttpClient,
        grpc: GrpcClient | None,
        *,
        model: str,
        version: str = "",
        example: Mapping[str, Any] | None = None,
    ) -> None:
        self.http = http
        self._grpc = grpc
        self.model = model
        self.version = version
        self._example = example

    @property
    def grpc(self) -> GrpcClient:
        """The gRPC client.

        Raises:
            NotApplicableError: No address was given.
        """
        if self._grpc is None:
            reason = "no gRPC address was given"
            raise NotApplicableError(reason)
        return self._grpc

    # what the server says of itself

    @property
    def has_grpc(self) -> bool:
        """Whether a gRPC address was given."""
        return self._grpc is not None

    @functools.cached_property
    def name(self) -> str:
        """The server's name and version; empty where its metadata can't be read.

        Raises:
            ConformanceError: Nothing answers at the URL.
        """
        reply = self.http.get("v2")
        try:
            body = reply.json()
        except ConformanceError:
            return ""
        return f"{body.get('name', '')} {body.get('version', '')}".strip()

    @property
    def path(self) -> str:
        """The path of the model's routes."""
        return self.path_of(self.model, self.version)

    @staticmethod
    def path_of(model: str, version: str = "") -> str:
        """Make the path of any model's routes; names are quoted as tritonclient does."""
        path = f"v2/models/{quote(model)}"
        return f"{path}/versions/{quote(version)}" if version else path

    @functools.cached_property
    def extensions(self) -> frozenset[str]:
        """What the server's metadata lists; empty where it can't be read."""
        try:
            body = self.http.get("v2").json()
        except ConformanceError:
            return frozenset()
        listed = body.get("extensions") if isinstance(body, dict) else None
        return frozenset(listed if isinstance(listed, list) else [])

    @functools.cached_property
    def facts(self) -> ModelFacts:
        """The model's metadata.

        Raises:
            NotApplicableError: It can't be read; a check of its own says so.
        """
        reply = self.http.get(self.path)
        try:
            return msgspec.convert(reply.json(), ModelFacts)
        except (ConformanceError, msgspec.ValidationError) as error:
            reason = f"the model's metadata can't be used: {error}"
            raise NotApplicableError(reason) from error

    # requests

    @functools.cached_property
    def inputs(self) -> list[Sample]:
        """An example of every input.

        Raises:
            NotApplicableError: The metadata declares no inputs, and no example was given.
        """
        if self._example is not None:
            return [_from_json(given) for given in self._example["inputs"]]
        if not self.facts.inputs:
            reason = "the model's metadata declares no inputs; give an example request"
            raise NotApplicableError(reason)
        return [_example(each) for each in self.facts.inputs]

    @property
    def json_inputs(self) -> list[Sample]:
        """The example's inputs that JSON can carry.

        Raises:
            NotApplicableError: There is none.
        """
        inputs = [each for each in self.inputs if each.datatype not in RAW_ONLY]
        if not inputs:
            reason = "JSON carries none of the model's inputs, which are FP16 or BF16"
            raise NotApplicableError(reason)
        return inputs

    def request(self, **fields: object) -> dict[str, Any]:
        """Make the JSON of a request that the model takes; `fields` are added.

        Raises:
            NotApplicableError: The model does not take it.
        """
        self.require_answer()
        return {"inputs": [each.json() for each in self.json_inputs], **fields}

    def infer(
        self, body: object, headers: Mapping[str, str] | None = None, *, route: str = "infer"
    ) -> Reply:
        """POST a JSON body to the model."""
        return self.http.post_json(f"{self.path}/{route}", body, headers)

    def infer_call(self, body: bytes, headers: Mapping[str, str] | None = None) -> Call:
        """Make a call of the model with any body."""
        given = {"Content-Type": "application/json"} if headers is None else headers
        return Call("POST", f"{self.path}/infer", body, given)

    def json_call(self, body: object) -> Call:
        """Make a call of the model with a JSON body."""
        return self.infer_call(json.dumps(body).encode())

    def binary_body(
        self, samples: Sequence[Sample], **fields: object
    ) -> tuple[bytes, dict[str, str]]:
        """Make a body with every tensor behind the JSON, and its headers."""
        parts = [each.raw() for each in samples]
        inputs = [
            {**each.head(), "parameters": {"binary_data_size": len(part)}}
            for each, part in zip(samples, parts, strict=True)
        ]
        text = json.dumps({"inputs": inputs, **fields}).encode()
        return b"".join([text, *parts]), {"Inference-Header-Content-Length": str(len(text))}

    def message(
        self, samples: Sequence[Sample] | None = None, *, raw: bool = False, request_id: str = ""
    ) -> ProtoMessage:
        """Make a `ModelInferRequest`, of the example's inputs where none are given."""
        message = ModelInferRequest(
            model_name=self.model, model_version=self.version, id=request_id
        )
        if samples is None:
            samples = self.inputs if raw else self.json_inputs
        for each in samples:
            each.add_to(message, raw=raw)
        return message

    # answers

    @functools.cached_property
    def example_reply(self) -> Reply:
        """The server's answer to the example request in JSON, whatever it is."""
        body = {"inputs": [each.json() for each in self.json_inputs]}
        return self.infer(body)

    @functools.cached_property
    def answer(self) -> dict[str, Sample]:
        """The outputs for the example request in JSON.

        Raises:
            ConformanceError: The answer has no good form.
            NotApplicableError: The model does not take the example.
        """
        self.require_answer()
        return expect_outputs(self.example_reply)

    def require_answer(self) -> None:
        """Skip the check where the model does not take the example request."""
        if self.example_reply.status != 200:
            reason = f"the model does not take the example request: {self.example_reply}"
            raise NotApplicableError(reason)

    def expect_answer(self, outputs: Mapping[str, Sample]) -> None:
        """Compare outputs for the example request with those of its JSON form.

        Raises:
            ConformanceError: They differ in name, datatype or shape; or in value, where the model
                answers the same request in the same way.
        """
        expected = self.answer
        if list(outputs) != list(expected):
            message = f"expected the outputs {list(expected)}, found {list(outputs)}"
            raise ConformanceError(message)
        for name, found in outputs.items():
            expect_equal(found, expected[name] if self.repeats else found, exact=False)

    @functools.cached_property
    def repeats(self) -> bool:
        """Whether the model gives the same answer to the same request."""
        again = expect_outputs(self.infer(self.request()))
        try:
            for name, tensor in self.answer.items():
                expect_equal(again[name], tensor, exact=False)
        except (ConformanceError, KeyError):
            return False
        return True

    # models that give back what they get

    def require_echo(self, datatype: Datatype) -> None:
        """Skip the check unless the model gives this datatype back as it is."""
        if not any(each.datatype is datatype for each in self.facts.inputs):
            reason = f"the model has no input of {datatype}"
            raise NotApplicableError(reason)
        if not self.is_echo:
            reason = "the model is no echo: its outputs do not repeat its inputs"
            raise NotApplicableError(reason)

    @functools.cached_property
    def is_echo(self) -> bool:
        """Whether every input has an output of its name and datatype, with its values."""
        outputs = {each.name: each.datatype for each in self.facts.outputs}
        if not self.facts.inputs or self._example is not None:
            return False
        if any(outputs.get(each.name) is not each.datatype for each in self.facts.inputs):
            return False
        plain = [
            sample(each.name, each.datatype, plain_values(each.datatype), each.filled(_ROWS))
            for each in self.facts.inputs
            if each.datatype not in RAW_ONLY
        ]
        if not plain:
            return False
        reply = self.infer({"inputs": [each.json() for each in plain]})
        try:
            found = expect_outputs(reply)
        except ConformanceError:
            return False
        # most, not all: what a server does to one datatype is for that datatype's check
        same = sum(each.name in found and _is_same(found[each.name], each) for each in plain)
        return same * 2 > len(plain)

    def telling(self, datatype: Datatype, *, raw: bool) -> list[Sample]:
        """Make inputs with telling values in one datatype and plain ones in the others."""
        samples = []
        for each in self.facts.inputs:
            if each.datatype in RAW_ONLY and not raw:
                continue
            is_told = each.datatype is datatype
            values = telling_values(datatype, raw=raw) if is_told else plain_values(each.datatype)
            samples.append(sample(each.name, each.datatype, values, each.filled(_ROWS)))
        return samples

    def call_grpc(self, message: ProtoMessage) -> dict[str, Sample]:
        """Infer over gRPC and read the outputs."""
        return decode_message(self.grpc.call("ModelInfer", message))

    def require_grpc_answer(self) -> None:
        """Skip the check where the model does not take the example over gRPC."""
        answer = self._grpc_example
        if isinstance(answer, Failure):
            reason = f"the model does not take the example request over gRPC: {answer}"
            raise NotApplicableError(reason)

    @functools.cached_property
    def _grpc_example(self) -> ProtoMessage | Failure:
        return self.grpc.attempt("ModelInfer", self.message())


def _is_same(found: Sample, expected: Sample) -> bool:
    return found.datatype is expected.datatype and bool(np.array_equal(found.array, expected.array))


def _example(tensor: TensorFacts) -> Sample:
    parameters = tensor.parameters or {}
    categories = parameters.get("categories")
    text = categories[0] if isinstance(categories, list) and categories else None
    text = parameters.get("example", text)
    shape = tensor.filled(1)
    if tensor.datatype is Datatype.BYTES and isinstance(text, str):
        return sample(tensor.name, tensor.datatype, [text.encode()] * math.prod(shape), shape)
    return zeros(tensor.name, tensor.datatype, tensor.filled(1))


def _from_json(given: Mapping[str, Any]) -> Sample:
    datatype = Datatype(given["datatype"])
    values = np.array(given["data"], object).reshape(-1).tolist()
    if datatype is Datatype.BYTES:
        values = [str(value).encode() for value in values]
    return sample(given["name"], datatype, values, given["shape"])
