import asyncio

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jackfield._wire.descriptors import METHODS, SERVICE, ModelInferRequest

Code = grpc.StatusCode


pytestmark = pytest.mark.usefixtures("nothing_blocks_the_loop")


def infer_message(*values, model="double", **fields):
    message = ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name="x", datatype="FP64", shape=[len(values)])
    message.raw_input_contents.append(np.array(values, "<f8").tobytes())
    return message


async def refusal(awaitable):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


# ---- what goes well ----


async def test_an_answer_is_raw_and_has_name_version_and_id(add_model, models_dir, running, call):
    add_model("double", version="7")
    async with running(models_dir) as run, run.channel() as channel:
        answer = await call(channel, "ModelInfer", infer_message(1, 2.5, id="abc"))
        unnamed = await call(channel, "ModelInfer", infer_message(1))
        versioned = await call(channel, "ModelInfer", infer_message(1, model_version="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("double", "7", "abc")
    [output] = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP64", [2])
    assert np.frombuffer(answer.raw_output_contents[0], "<f8").tolist() == [2, 5]
    assert not output.HasField("contents")
    assert unnamed.id
    assert versioned.model_version == "7"


async def test_an_unversioned_models_version_is_empty(add_model, models_dir, running, call):
    add_model("double")
    async with running(models_dir) as run, run.channel() as channel:
        assert (await call(channel, "ModelInfer", infer_message(1))).model_version == ""


async def test_typed_contents_are_taken(add_model, models_dir, running, call):
    add_model("double")
    message = ModelInferRequest(model_name="double")
    message.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -2])
    async with running(models_dir) as run, run.channel() as channel:
        answer = await call(channel, "ModelInfer", message)
    assert np.frombuffer(answer.raw_output_contents[0], "i1").tolist() == [2, -4]


async def test_parameters_reach_the_runtime_and_come_back(add_model, models_dir, running, call):
    add_model("m", "Echo")
    message = infer_message(1, model="m")
    message.parameters["a"].uint64_param = 2**64 - 1
    message.inputs[0].parameters["b"].bool_param = True
    async with running(models_dir) as run, run.channel() as channel:
        answer = await call(channel, "ModelInfer", message)
    assert answer.parameters["a"].uint64_param == 2**64 - 1
    assert answer.outputs[0].parameters["b"].bool_param is True


async def test_metadata_is_what_rest_gives(add_model, models_dir, running, call):
    add_model("double", version="3")
    async with running(models_dir) as run, run.channel() as channel, run.client() as client:
        answer = await call(channel, "ModelMetadata", name="double")
        body = (await client.get("/v2/models/double")).json()
        server = await call(channel, "ServerMetadata")
        server_body = (await client.get("/v2")).json()
    assert (answer.name, answer.platform, list(answer.versions)) == (
        body["name"],
        body["platform"],
        body["versions"],
    )
    for kind in ("inputs", "outputs"):
        found = [(each.name, each.datatype, list(each.shape)) for each in getattr(answer, kind)]
        assert found == [(each["name"], each["datatype"], each["shape"]) for each in body[kind]]
    assert answer.outputs[0].parameters["on_request"].bool_param is False
    assert (server.name, server.version, list(server.extensions)) == tuple(server_body.values())


async def test_models_are_listed_unloaded_and_loaded(add_model, models_dir, running, call):
    add_model("double")
    add_model("bad", "BrokenOnLoad")
    async with running(models_dir) as run, run.channel() as channel:
        lines = (await call(channel, "RepositoryIndex")).models
        assert [(line.name, line.state) for line in lines] == [
            ("bad", "UNAVAILABLE"),
            ("double", "READY"),
        ]
        assert "the file is corrupt" in lines[0].reason
        lines = (await call(channel, "RepositoryIndex", ready=True)).models
        assert [line.name for line in lines] == ["double"]
        assert (await call(channel, "ModelReady", name="double")).ready
        assert not (await call(channel, "ModelReady", name="bad")).ready
        await call(channel, "RepositoryModelUnload", model_name="double")
        assert not (await call(channel, "ModelReady", name="double")).ready
        assert not (await call(channel, "ServerReady")).ready
        assert (await call(channel, "ServerLive")).live
        await call(channel, "RepositoryModelLoad", model_name="double")
        assert (await call(channel, "ServerReady")).ready
        error = await refusal(call(channel, "RepositoryModelLoad", model_name="bad"))
        assert error.code() is Code.UNAVAILABLE
        error = await refusal(call(channel, "RepositoryModelLoad", model_name="nothing"))
        assert error.code() is Code.NOT_FOUND


# ---- what goes wrong ----


def without_inputs():
    return ModelInferRequest(model_name="double")


def bad_datatype():
    message = infer_message(1)
    message.inputs[0].datatype = "FP31"
    return message


def bad_shape():
    message = infer_message(1)
    message.inputs[0].shape[0] = -1
    return message


def bad_output():
    message = infer_message(1)
    message.outputs.add(name="z")
    return message


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (without_inputs(), Code.INVALID_ARGUMENT, "'double': inputs: expected at least one, found"),
        (bad_datatype(), Code.INVALID_ARGUMENT, "inputs[0].datatype: expected one of BOOL"),
        (bad_shape(), Code.INVALID_ARGUMENT, "inputs[0].shape: expected"),
        (bad_output(), Code.INVALID_ARGUMENT, "outputs[0].name: expected one of y, found 'z'"),
        (infer_message(1, model="dubble"), Code.NOT_FOUND, "did you mean 'double'"),
        (infer_message(1, model_version="9"), Code.NOT_FOUND, "version '9' of model 'double'"),
        (infer_message(1, model="bad"), Code.UNAVAILABLE, "OSError: the file is corrupt"),
        (infer_message(1, model="failing"), Code.INTERNAL, "failed on this request"),
        (infer_message(1, model="unencodable"), Code.INTERNAL, "log tells why"),
    ],
)
async def test_a_fault_has_its_code_and_text_and_the_channel_goes_on(
    add_model, models_dir, running, call, caplog, message, code, text
):
    add_model("double")
    add_model("bad", "BrokenOnLoad")
    add_model("failing", "Failing")
    add_model("unencodable", "Unencodable")
    async with running(models_dir) as run, run.channel() as channel:
        error = await refusal(call(channel, "ModelInfer", message))
        assert error.code() is code
        assert text in error.details()
        assert "swordfish" not in error.details()
        pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
        assert pushback == ("1000" if code is Code.UNAVAILABLE else None)
        await call(channel, "ModelInfer", infer_message(1))
    assert ("swordfish" in caplog.text) is (message.model_name == "failing")


async def test_a_full_queue_is_resource_exhausted_with_a_pushback(
    add_model, models_dir, running, call, stage
):
    add_model("m", "Staged", max_queue=1)
    async with running(models_dir) as run, run.channel() as channel:
        first = asyncio.ensure_future(call(channel, "ModelInfer", infer_message(1, model="m")))
        await stage.until_inferring()
        error = await refusal(call(channel, "ModelInfer", infer_message(2, model="m")))
        stage.may_answer.set()
        await first
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "overloaded: 1 requests" in error.details()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


async def test_a_call_given_up_while_it_waits_is_never_run(
    add_model, models_dir, running, call, stage, until
):
    add_model("m", "Staged")
    async with running(models_dir) as run, run.channel() as channel:
        first = asyncio.ensure_future(call(channel, "ModelInfer", infer_message(1, model="m")))
        await stage.until_inferring()
        second = call(channel, "ModelInfer", infer_message(2, model="m"))
        model = run.server.model("m")
        await until(lambda: model.statistics.in_flight == 2)
        second.cancel()
        await until(lambda: model.statistics.in_flight == 1)
        stage.may_answer.set()
        await first
    assert "infer 2" not in stage.log


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelReady"])
async def test_what_is_not_there_is_not_found(models_dir, running, call, method):
    async with running(models_dir) as run, run.channel() as channel:
        error = await refusal(call(channel, method, name="nothing"))
    assert error.code() is Code.NOT_FOUND


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if not method.client_streaming]
)
async def test_a_method_that_is_not_served_is_unimplemented(models_dir, running, call, method):
    async with running(models_dir) as run, run.channel() as channel:
        try:
            await call(channel, method)
        except grpc.aio.AioRpcError as error:
            code = error.code()
        else:
            code = Code.OK
    served = {"Server", "Model", "Repository", "TraceSetting", "LogSettings"}
    assert (code is Code.UNIMPLEMENTED) is not method.startswith(tuple(served))
    assert code not in (Code.UNKNOWN, Code.INTERNAL)


@pytest.mark.parametrize("letter", ["x", " ", "%", "é", "\n", "😀"])
async def test_an_enormous_name_makes_no_enormous_answer(
    add_model, models_dir, running, call, letter
):
    add_model("double")
    async with running(models_dir) as run, run.channel() as channel, asyncio.timeout(5):
        name = letter * 1_000_000
        error = await refusal(call(channel, "ModelInfer", infer_message(1, model=name)))
        assert error.code() is Code.NOT_FOUND
        assert len(error.details()) < 8000
        message = infer_message(1, model="double")
        message.inputs[0].datatype = name
        error = await refusal(call(channel, "ModelInfer", message))
        assert error.code() is Code.INVALID_ARGUMENT
        assert len(error.details()) < 8000


async def test_a_message_over_the_limit_is_resource_exhausted(add_model, models_dir, running, call):
    add_model("double")
    async with (
        running(models_dir, max_grpc_message_bytes=10_000) as run,
        run.channel() as channel,
    ):
        error = await refusal(call(channel, "ModelInfer", infer_message(*range(2000))))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        await call(channel, "ModelInfer", infer_message(1))


async def test_bytes_that_are_no_message_fail_that_call_alone(add_model, models_dir, running, call):
    add_model("double")
    async with running(models_dir) as run, run.channel() as channel:
        garbage = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        error = await refusal(garbage(b"\xff\xff\xff"))
        assert error.code() is Code.INVALID_ARGUMENT
        await call(channel, "ModelInfer", infer_message(1))


# ---- the standard services ----


async def test_the_health_service_follows_readiness(add_model, models_dir, running, stage):
    add_model("m", "Staged")
    serving = health_pb2.HealthCheckResponse.SERVING
    async with running(models_dir) as run, run.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == serving
        error = await refusal(health.Check(health_pb2.HealthCheckRequest(service="teapot")))
        assert error.code() is Code.NOT_FOUND


async def test_the_health_service_says_not_serving_while_models_load(
    add_model, models_dir, running, stage, unused_tcp_port
):
    from jackfield import Server, ServerSettings

    stage.may_load.clear()
    add_model("m", "Staged")
    settings = ServerSettings(http_port=0, metrics_endpoint="", grpc_port=unused_tcp_port)
    server = Server([models_dir], plugins=(), settings=settings)
    stop, started = asyncio.Event(), asyncio.Event()

    async def announce(addresses):
        started.set()

    task = asyncio.create_task(server.run(stop, announce))
    await stage.until_loading()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        status = health_pb2.HealthCheckResponse
        assert (await health.Check(request)).status == status.NOT_SERVING
        watch = health.Watch(request)
        assert (await watch.read()).status == status.NOT_SERVING
        stage.may_load.set()
        await started.wait()
        assert (await watch.read()).status == status.SERVING
        watch.cancel()
    stop.set()
    await task


async def test_a_client_that_watches_health_does_not_hold_the_stop_up(models_dir, running):
    async with asyncio.timeout(10), running(models_dir) as run:
        channel = run.channel()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        run.stop.set()
        await run.task
        await channel.close()


async def test_reflection_lists_and_describes_the_services(models_dir, running):
    async with running(models_dir) as run, run.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
        ]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(questions))]
    names = {each.name for each in answers[0].list_services_response.service}
    assert names == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for answer in answers[1:]:
        assert answer.file_descriptor_response.file_descriptor_proto
