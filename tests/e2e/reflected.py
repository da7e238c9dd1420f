"""A gRPC client that knows of a service only what the server's reflection tells it."""

from typing import Any, Self

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SERVICE = "inference.GRPCInferenceService"


class Reflected:
    """Calls the inference service with messages that are made of the server's descriptors."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._remote = ProtoReflectionDescriptorDatabase(self._channel)
        self._service = DescriptorPool(self._remote).FindServiceByName(SERVICE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()

    @property
    def services(self) -> set[str]:
        return set(self._remote.get_services())

    def request(self, method: str, **fields: object) -> Any:
        kind = self._service.methods_by_name[method].input_type
        return GetMessageClass(kind)(**fields)

    def call(self, method: str, request: Any, *, timeout_s: float = 60.0) -> Any:
        kind = GetMessageClass(self._service.methods_by_name[method].output_type)
        invoke = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=kind.FromString,
        )
        return invoke(request, timeout=timeout_s)
