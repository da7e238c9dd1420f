"""The two gRPC messages of the benchmarks, from the protocol's descriptors in a private pool.

Used by `floor_grpc.py`, `generator.py` and `soak_client.py`, inside environments that have
protobuf. The descriptors are read as data from this checkout; nothing of Jackfield is imported.
"""

import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from forms import TYPE_CODES, Labels, Rows, encode_numbers
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "inference.GRPCInferenceService"
METHOD = f"/{SERVICE}/ModelInfer"
#: A message of 1000x784 FP64 has 6 MiB, more than gRPC takes by default.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
)

_FILE = (
    Path(__file__)
    .resolve()
    .parent.parent.joinpath("core", "src", "jackfield", "_wire", "open_inference.binpb")
)


#: The classes exist at run time only.
MessageClass: TypeAlias = Any


def _message_class(pool: DescriptorPool, name: str) -> MessageClass:
    return GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))


def _load_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(_FILE.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load_pool()
ModelInferRequest = _message_class(_POOL, "ModelInferRequest")
ModelInferResponse = _message_class(_POOL, "ModelInferResponse")


def encode(
    model: str, rows: Rows, request_id: str = "1", parameters: Mapping[str, int] | None = None
) -> bytes:
    """Write a request with one raw tensor; with an id, since some servers make one up."""
    message = ModelInferRequest(model_name=model, id=request_id)
    for name, value in (parameters or {}).items():
        message.parameters[name].int64_param = value
    message.inputs.add(name="input-0", datatype="FP64", shape=(len(rows), len(rows[0])))
    message.raw_input_contents.append(encode_numbers(rows))
    return bytes(message.SerializeToString())


def decode(data: bytes) -> Labels:
    """Read the numbers of a response's first output, raw or typed.

    Raises:
        LookupError: It has no output, or one of an unexpected datatype.
    """
    message = ModelInferResponse.FromString(data)
    output = message.outputs[0]
    if message.raw_output_contents:
        code = TYPE_CODES[output.datatype]
        return [*array.array(code, message.raw_output_contents[0])]
    contents = output.contents
    return [*contents.int64_contents, *contents.int_contents, *contents.fp64_contents]
