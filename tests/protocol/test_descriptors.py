"""Our descriptors against those of the clients, and both of them in one process."""

import functools
import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.protocol.packages import KSERVE, MLSERVER, SOURCE, TRITON, Client, require, run_python

from jackfield._wire import descriptors

#: A fact of the wire: (message or enum, number) or (service, method), and what stands there.
Facts = dict[tuple[str, int | str], object]


@pytest.fixture(params=[TRITON, KSERVE, MLSERVER], ids=lambda client: client.package)
def client(request):
    return require(request.param)


@pytest.fixture
def triton():
    return require(TRITON)


@functools.cache
def client_facts(client: Client) -> Facts:
    script = """
import importlib, sys
for module in sys.argv[1:]:
    print("descriptor", importlib.import_module(module).DESCRIPTOR.serialized_pb.hex())
"""
    printed = run_python(client.python, "-c", script, client.messages, *client.further_messages)
    facts: Facts = {}
    for line in printed.splitlines():
        if line.startswith("descriptor "):  # a package may print lines of its own
            facts |= file_facts(bytes.fromhex(line.split()[1]))
    return facts


@functools.cache
def our_facts() -> Facts:
    return file_facts(
        descriptors.POOL.FindFileByName("jackfield/open_inference.proto").serialized_pb
    )


def file_facts(serialized: bytes) -> Facts:
    """Take a file apart into what must agree for two ends to understand each other."""
    file = FileDescriptorProto.FromString(serialized)
    facts: Facts = {}
    for enum in file.enum_type:
        facts |= enum_facts(f"{file.package}.{enum.name}", enum)
    for message in file.message_type:
        facts |= message_facts(f"{file.package}.{message.name}", message)
    for service in file.service:
        for method in service.method:
            facts[f"{file.package}.{service.name}", method.name] = (
                method.input_type,
                method.output_type,
                method.client_streaming,
                method.server_streaming,
            )
    return facts


def message_facts(name: str, message: Any) -> Facts:
    facts: Facts = {(name, 0): "map entry" if message.options.map_entry else "message"}
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        facts[name, field.number] = (
            field.name,
            FieldDescriptorProto.Label.Name(field.label),
            FieldDescriptorProto.Type.Name(field.type),
            field.type_name,
            oneof,
            field.proto3_optional,
        )
    for enum in message.enum_type:
        facts |= enum_facts(f"{name}.{enum.name}", enum)
    for nested in message.nested_type:
        facts |= message_facts(f"{name}.{nested.name}", nested)
    return facts


def enum_facts(name: str, enum: Any) -> Facts:
    return {(name, value.number): value.name for value in enum.value}


# ---- The descriptors ----------------------------------------------------------------------------


def test_the_shipped_descriptors_are_what_the_proto_compiles_to(tmp_path):
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    compiled = tmp_path / "compiled.binpb"
    script = Path(__file__).with_name("compile_proto.py")
    subprocess.run([sys.executable, str(script), str(compiled)], check=True)

    shipped = SOURCE / "jackfield" / "_wire" / "open_inference.binpb"
    assert shipped.read_bytes() == compiled.read_bytes(), f"run {script.name}"


def test_every_message_field_and_method_of_a_client_agrees_with_ours(client):
    ours = our_facts()
    theirs = client_facts(client)
    assert ("inference.ModelInferRequest", 1) in theirs

    different = {fact: (value, ours.get(fact)) for fact, value in theirs.items()}
    different = {fact: (a, b) for fact, (a, b) in different.items() if a != b}
    assert different.keys() == client.differences, different


def test_beyond_triton_we_have_only_the_metadata_parameters_of_mlserver(triton):
    response = "inference.ModelMetadataResponse"
    tensor = f"{response}.TensorMetadata"
    entries = {
        (f"{owner}.ParametersEntry", number) for owner in (response, tensor) for number in range(3)
    }
    assert our_facts().keys() - client_facts(triton).keys() == {
        (response, 6),
        (tensor, 4),
        *entries,
    }


# ---- One process --------------------------------------------------------------------------------

OURS = "jackfield._wire.descriptors"

BOTH = """
import importlib, sys
loaded = [importlib.import_module(module) for module in sys.argv[1:]]
first, last = (module.ModelInferRequest for module in (loaded[0], loaded[-1]))
assert first is not last
sent = first(model_name="iris", raw_input_contents=[b"12"])
received = last.FromString(sent.SerializeToString())
assert (received.model_name, list(received.raw_input_contents)) == ("iris", [b"12"])
"""


def test_a_client_can_be_imported_before_us(client):
    run_python(client.python, "-c", BOTH, client.messages, client.front_door, OURS)


def test_a_client_can_be_imported_after_us(client):
    run_python(client.python, "-c", BOTH, OURS, client.front_door, client.messages)


# ---- The wire -----------------------------------------------------------------------------------

RESEND = """
import importlib, json, sys
from google.protobuf.json_format import MessageToDict
received = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
received.ParseFromString(bytes.fromhex(sys.stdin.read()))
fields = MessageToDict(received, preserving_proto_field_name=True)
print(json.dumps([fields, received.SerializeToString(deterministic=True).hex()]))
"""


def infer_request() -> Any:
    request = descriptors.ModelInferRequest(model_name="iris", model_version="2", id="a-1")
    parameters: dict[str, dict[str, Any]] = {
        "bool": {"bool_param": True},
        "false": {"bool_param": False},  # a set member of a oneof goes on the wire at any value
        "int64": {"int64_param": -(2**63)},
        "string": {"string_param": "ζ"},
        "double": {"double_param": 0.1},
        "uint64": {"uint64_param": 2**64 - 1},
    }
    raw = request.inputs.add(name="raw", datatype="FP16", shape=[2, -1])
    output = request.outputs.add(name="label")
    for owner in (request, raw, output):
        for name, choice in parameters.items():
            owner.parameters[name].CopyFrom(descriptors.InferParameter(**choice))
    request.inputs.add(name="typed", datatype="INT64", shape=[3]).contents.CopyFrom(
        descriptors.InferTensorContents(
            bool_contents=[True, False],
            int_contents=[-(2**31)],
            int64_contents=[-(2**63)],
            uint_contents=[2**32 - 1],
            uint64_contents=[2**64 - 1],
            fp32_contents=[0.5],
            fp64_contents=[0.1],
            bytes_contents=[b"\xff\x00", b""],
        )
    )
    request.raw_input_contents.extend([b"\x00\x3c\x00\xc0", b""])
    return request


def infer_response() -> Any:
    response = descriptors.ModelInferResponse(model_name="iris", model_version="2", id="a-1")
    output = response.outputs.add(name="label", datatype="BYTES", shape=[1])
    output.parameters["content_type"].string_param = "str"
    response.parameters["triton_final_response"].bool_param = True
    response.raw_output_contents.append(b"\x03\x00\x00\x00cat")
    return response


def load_request() -> Any:
    request = descriptors.RepositoryModelLoadRequest(model_name="iris")
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = b"\x00\xff"
    request.parameters["unload_dependents"].bool_param = True
    request.parameters["limit"].int64_param = -1
    return request


def config_response() -> Any:
    config = descriptors.ModelConfig(name="iris", max_batch_size=8, backend="sklearn")
    config.input.add(name="x", data_type="TYPE_FP32", dims=[4])
    config.dynamic_batching.max_queue_delay_microseconds = 500
    config.parameters["content_type"].string_value = "np"
    return descriptors.ModelConfigResponse(config=config)


@pytest.mark.parametrize(
    "message",
    [
        infer_request(),
        infer_response(),
        descriptors.ModelStreamInferResponse(error_message="no", infer_response=infer_response()),
        load_request(),
        config_response(),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_triton_client_reads_our_messages_and_we_read_its(triton, message):
    sent = message.SerializeToString(deterministic=True)
    printed = run_python(
        triton.python, "-c", RESEND, triton.messages, message.DESCRIPTOR.name, stdin=sent.hex()
    )
    read, returned = json.loads(printed.splitlines()[-1])

    # The dict has no unknown fields: whatever the client did not understand would be missing.
    assert read == MessageToDict(message, preserving_proto_field_name=True)
    assert type(message).FromString(bytes.fromhex(returned)) == message


# ---- What the servicer is given -----------------------------------------------------------------


def test_every_method_is_listed_with_its_classes_and_only_one_streams():
    assert descriptors.METHODS["ModelInfer"] == (
        descriptors.ModelInferRequest,
        descriptors.ModelInferResponse,
        False,
        False,
    )
    streaming = {
        name
        for name, method in descriptors.METHODS.items()
        if method.client_streaming or method.server_streaming
    }
    assert streaming == {"ModelStreamInfer"}
    assert {(descriptors.SERVICE, name) for name in descriptors.METHODS} == {
        fact for fact in our_facts() if fact[0] == descriptors.SERVICE
    }


def test_a_message_class_has_one_identity_wherever_it_is_found():
    assert descriptors.message_class("ModelInferRequest") is descriptors.ModelInferRequest
    nested = descriptors.message_class("ModelInferRequest.InferInputTensor")
    assert nested is type(descriptors.ModelInferRequest().inputs.add())
    with pytest.raises(KeyError, match="NoSuchMessage"):
        descriptors.message_class("NoSuchMessage")


def test_reflection_describes_our_service_health_and_itself():
    names = [descriptors.SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME]
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    reflection.enable_server_reflection(names, server, pool=descriptors.reflection_pool())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            remote = ProtoReflectionDescriptorDatabase(channel)
            assert sorted(remote.get_services()) == sorted(names)
            pool = DescriptorPool(remote)
            found = {name: pool.FindServiceByName(name) for name in names}
    finally:
        server.stop(grace=None).wait()

    assert [method.name for method in found[descriptors.SERVICE].methods] == [*descriptors.METHODS]
    assert found["grpc.health.v1.Health"].FindMethodByName("Check") is not None


def test_the_services_that_reflection_adds_are_imported_only_for_it():
    script = """
import sys
import jackfield._wire.descriptors as messages
assert not {"grpc_health", "grpc_reflection"} & sys.modules.keys()
messages.reflection_pool()
assert {"grpc_health", "grpc_reflection"} <= sys.modules.keys()
try:
    messages.POOL.FindServiceByName("grpc.health.v1.Health")
except KeyError:
    pass
else:
    raise AssertionError("the pool of messages has changed")
"""
    run_python(sys.executable, "-c", script)
