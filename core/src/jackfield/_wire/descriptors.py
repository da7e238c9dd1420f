"""Make the protocol's message classes at run time, from the descriptors in `open_inference.binpb`.

Used by the servicer, which registers the methods of `METHODS`. Two things that generated code
cannot give are the reason:

- the pool is our own. In the default pool the package `inference` belongs to whichever of
  tritonclient, KServe and MLServer is imported first, and the next one fails on its symbols;
- any protobuf runtime will do. Generated code refuses a runtime older than its compiler.

The classes exist at run time only, so that a type checker sees `ProtoMessage`, which is `Any`.
"""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

#: A message of the protocol. Its fields are known to the descriptors alone.
ProtoMessage: TypeAlias = Any


class Method(NamedTuple):
    """What gRPC has to know of one method to serve it."""

    request: type[ProtoMessage]
    response: type[ProtoMessage]
    client_streaming: bool
    server_streaming: bool


def _load_pool() -> DescriptorPool:
    """Read the shipped descriptors into a new pool."""
    shipped = files("jackfield._wire").joinpath("open_inference.binpb").read_bytes()
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(shipped).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


#: Holds this package's descriptors and nothing else.
POOL = _load_pool()

#: The service's full name, the first half of every method's path.
SERVICE = "inference.GRPCInferenceService"


def message_class(name: str) -> type[ProtoMessage]:
    """Look up a message class by the name it has in the package `inference`.

    This is the way to a nested class as well: protobuf's pure-Python form does not make it an
    attribute of the outer one.

    Args:
        name: Dotted where the message is nested, as in "ModelInferRequest.InferInputTensor".

    Raises:
        KeyError: The protocol has no such message.
    """
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


def _load_methods() -> Mapping[str, Method]:
    """Read the service's methods from the pool, in the order of the .proto."""
    return MappingProxyType(
        {
            method.name: Method(
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
            )
            for method in POOL.FindServiceByName(SERVICE).methods
        }
    )


#: Every method of the service by its name, those that no servicer implements yet included.
METHODS = _load_methods()


def reflection_pool() -> DescriptorPool:
    """Make the pool that server reflection answers from.

    Reflection takes one pool for all services, while those of health and of reflection itself
    live in the default pool: the new pool has copies of them beside ours. Imports both services,
    neither of which a server without reflection needs.
    """
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    pool = _load_pool()
    for module in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


# Health and metadata.
ServerMetadataRequest = message_class("ServerMetadataRequest")
ModelMetadataResponse = message_class("ModelMetadataResponse")

# Inference.
InferParameter = message_class("InferParameter")
InferTensorContents = message_class("InferTensorContents")
ModelInferRequest = message_class("ModelInferRequest")
ModelInferResponse = message_class("ModelInferResponse")
ModelStreamInferResponse = message_class("ModelStreamInferResponse")

# Model repository.
RepositoryModelLoadRequest = message_class("RepositoryModelLoadRequest")
RepositoryModelLoadResponse = message_class("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = message_class("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = message_class("RepositoryModelUnloadResponse")

# Configuration and statistics.
ModelConfig = message_class("ModelConfig")
ModelConfigResponse = message_class("ModelConfigResponse")
ModelStatistics = message_class("ModelStatistics")
