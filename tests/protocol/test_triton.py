"""tritonclient, unmodified: over HTTP and gRPC, blocking and asynchronous, by one body."""

import gc
import inspect
import json
import types
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tests.serving import write_model
from tritonclient.utils import InferenceServerException

from jackfield import __version__

# the asynchronous HTTP client leaves answers unread, which aiohttp says when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")

TIMEOUT_S = 20.0
IRIS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
DATATYPES = {"float64": "FP64", "int64": "INT64", "object": "BYTES"}
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
    is_http: bool

    async def ask(self, method: str, *args: object, **kwargs: object) -> Any:
        if not self.is_http:
            kwargs["client_timeout"] = TIMEOUT_S
        answer = getattr(self.client, method)(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    async def read(self, method: str, *args: object) -> Any:
        """Ask for JSON, which gRPC makes of a message: INT64 as text, what is empty left out."""
        return await self.ask(method, *args, **({} if self.is_http else {"as_json": True}))

    async def infer(
        self, model: str, inputs: dict[str, np.ndarray], outputs: tuple[str, ...] = (), **more: str
    ) -> Any:
        """Infer; over HTTP with everything in the JSON."""
        form = {"binary_data": False} if self.is_http else {}
        given = [
            self.module.InferInput(
                name, list(array.shape), DATATYPES[array.dtype.name]
            ).set_data_from_numpy(array, **form)
            for name, array in inputs.items()
        ]
        wanted = [self.module.InferRequestedOutput(name, **form) for name in outputs]
        return await self.ask("infer", model, given, outputs=wanted or None, **more)

    async def refusal(self, status: str, answer: Awaitable[object]) -> str:
        """The text of the error that the client's user gets."""
        with pytest.raises(InferenceServerException) as caught:
            await answer
        assert caught.value.status() == (status if self.is_http else STATUS[status])
        return caught.value.message()


@pytest.fixture(
    params=[tritonclient.http, tritonclient.http.aio, tritonclient.grpc, tritonclient.grpc.aio],
    ids=lambda module: module.__name__.removeprefix("tritonclient."),
)
async def triton(request, server):
    is_http = request.param.__name__.startswith("tritonclient.http")
    url = server.http.removeprefix("http://") if is_http else server.grpc
    triton = Triton(request.param, request.param.InferenceServerClient(url), is_http)
    yield triton
    closed = triton.client.close()
    if inspect.isawaitable(closed):
        await closed
    gc.collect()  # here, not within a test of another module


async def test_health_and_readiness(triton):
    assert await triton.ask("is_server_live") is True
    assert await triton.ask("is_server_ready") is True
    assert await triton.ask("is_model_ready", "iris") is True
    assert await triton.ask("is_model_ready", "versioned", "10") is True
    assert await triton.ask("is_model_ready", "broken") is False


async def test_the_server_tells_its_name_version_and_extensions(triton):
    assert await triton.read("get_server_metadata") == {
        "name": "jackfield",
        "version": __version__,
        "extensions": ["model_repository"],
    }


async def test_a_model_tells_its_inputs_and_outputs(triton):
    metadata = await triton.read("get_model_metadata", "iris")
    assert metadata["name"] == "iris"
    assert metadata["platform"] == "sklearn_joblib"
    (given,) = metadata["inputs"]
    shape = [-1, 4] if triton.is_http else ["-1", "4"]
    assert (given["datatype"], given["shape"]) == ("FP64", shape)
    assert {"predict", "predict_proba"} <= {output["name"] for output in metadata["outputs"]}


async def test_a_model_tells_its_versions_the_newest_last(triton):
    metadata = await triton.read("get_model_metadata", "versioned")
    assert metadata["versions"] == ["2", "10"]


async def test_a_scikit_learn_model_answers(triton):
    metadata = await triton.read("get_model_metadata", "iris")
    name = metadata["inputs"][0]["name"]

    result = await triton.infer("iris", {name: IRIS}, ("predict_proba", "predict"))

    np.testing.assert_array_equal(result.as_numpy("predict"), [0, 2])
    probabilities = result.as_numpy("predict_proba")
    assert (probabilities.shape, probabilities.dtype) == ((2, 3), np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


async def test_default_outputs_come_where_none_are_named(triton):
    result = await triton.infer("echo", {"x": IRIS, "y": np.array([7])})
    np.testing.assert_array_equal(result.as_numpy("x"), IRIS)
    np.testing.assert_array_equal(result.as_numpy("y"), [7])


async def test_only_the_outputs_named_come_in_the_order_named(triton):
    inputs = {name: np.array([index]) for index, name in enumerate("abc")}
    result = await triton.infer("echo", inputs, ("c", "a"))
    answer = await as_dict(triton, result)
    assert [output["name"] for output in answer["outputs"]] == ["c", "a"]
    np.testing.assert_array_equal(result.as_numpy("c"), [2])
    assert result.as_numpy("b") is None


async def test_text_arrives_as_text(triton):
    sent = np.array(["cat", "ζ", ""], object)
    result = await triton.infer("echo", {"x": sent}, ("x",))
    found = result.as_numpy("x").tolist()
    assert [each if isinstance(each, str) else each.decode() for each in found] == sent.tolist()


async def test_the_id_and_the_model_asked_for_come_back(triton):
    inputs = {"x": np.array([1])}
    result = await triton.infer("versioned", inputs, request_id="a-1", model_version="2")
    answer = await as_dict(triton, result)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "a-1",
        "versioned",
        "2",
    )


async def test_the_newest_version_answers_where_none_is_named(triton):
    answer = await as_dict(triton, await triton.infer("versioned", {"x": np.array([1])}))
    assert answer["model_version"] == "10"


async def test_parameters_reach_the_model_and_come_back(triton):
    sent = {"colour": "red", "size": 3, "is_big": True}
    result = await triton.infer("echo", {"x": np.array([1])}, ("x",), parameters=sent)
    found = (await as_dict(triton, result))["parameters"]
    if triton.is_http:
        assert found == sent
    else:
        assert found == {
            "colour": {"string_param": "red"},
            "size": {"int64_param": "3"},
            "is_big": {"bool_param": True},
        }


X = {"x": np.array([1])}
REFUSED = {
    "an unknown model": (
        lambda triton: triton.infer("ech", X),
        "404",
        "model 'ech' is not served here; did you mean 'echo'",
    ),
    "an unknown version": (
        lambda triton: triton.infer("versioned", X, model_version="7"),
        "404",
        "version '7' of model 'versioned' is not served here; did you mean '10' or '2'",
    ),
    "metadata of an unknown model": (
        lambda triton: triton.read("get_model_metadata", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
    "a bad shape": (
        lambda triton: triton.infer("iris", {"x": IRIS[:, :3]}),
        "400",
        "model 'iris': inputs[0].shape: expected ",
    ),
    "an output of no model": (
        lambda triton: triton.infer("iris", {"x": IRIS}, ("nothing",)),
        "400",
        "model 'iris': outputs[0].name: expected one of ",
    ),
    "an output that the runtime refuses": (
        lambda triton: triton.infer("echo", {"x": IRIS}, ("y",)),
        "400",
        "model 'echo': outputs[0].name: expected x, found 'y'",
    ),
    "a model that fails": (
        lambda triton: triton.infer("failing", X),
        "500",
        "model 'failing' failed on this request; the server's log tells why",
    ),
    "a model that is not ready": (
        lambda triton: triton.infer("broken", X),
        "503",
        "model 'broken' is not ready: failed to load",
    ),
    "loading an unknown model": (
        lambda triton: triton.ask("load_model", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
    "loading a broken model": (
        lambda triton: triton.ask("load_model", "broken"),
        "503",
        "model 'broken' is not ready: failed to load",
    ),
    "unloading an unknown model": (
        lambda triton: triton.ask("unload_model", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
}


@pytest.mark.parametrize(("ask", "status", "text"), REFUSED.values(), ids=REFUSED)
async def test_an_error_reaches_the_user_with_status_and_text(triton, ask, status, text):
    assert text in await triton.refusal(status, ask(triton))


async def test_what_a_model_raises_is_kept_from_the_caller(triton):
    text = await triton.refusal("500", triton.infer("failing", {"x": np.array([1])}))
    assert "secret" not in text


async def test_readiness_of_an_unknown_model_is_false_or_an_error(triton):
    if triton.is_http:
        assert await triton.ask("is_model_ready", "nobody") is False
    else:
        text = await triton.refusal("404", triton.ask("is_model_ready", "nobody"))
        assert "model 'nobody' is not served here" in text


async def test_the_index_lists_states_and_reasons(triton):
    lines = await index(triton)
    assert lines["iris", ""] == ("READY", "")
    assert lines["versioned", "2"] == lines["versioned", "10"] == ("READY", "")
    state, reason = lines["broken", ""]
    assert state == "UNAVAILABLE"
    assert reason.startswith("failed to load: ")


async def test_a_model_can_be_added_loaded_unloaded_and_loaded_again(triton, repository):
    name = f"added-{triton.module.__name__.removeprefix('tritonclient.')}"
    write_model(repository, "echo.Echo", name=name)
    assert (await index(triton))[name, ""] == ("UNAVAILABLE", "not loaded")

    for _ in range(2):
        await triton.ask("load_model", name)
        assert await triton.ask("is_model_ready", name) is True
        assert (await index(triton))[name, ""] == ("READY", "")
        result = await triton.infer(name, {"x": np.array([5])}, ("x",))
        np.testing.assert_array_equal(result.as_numpy("x"), [5])

        await triton.ask("unload_model", name)
        assert await triton.ask("is_model_ready", name) is False
        assert (await index(triton))[name, ""] == ("UNAVAILABLE", "unloaded")
        text = await triton.refusal("503", triton.infer(name, {"x": np.array([5])}))
        assert f"model '{name}' is not ready: unloaded" in text


async def index(triton: Triton) -> dict[tuple[str, str], tuple[str, str]]:
    found = await triton.read("get_model_repository_index")
    lines = found if triton.is_http else found["models"]
    return {
        (line["name"], line.get("version", "")): (line["state"], line.get("reason", ""))
        for line in lines
    }


async def as_dict(triton: Triton, result: Any) -> dict[str, Any]:
    if triton.is_http:
        return result.get_response()
    answer = result.get_response(as_json=True)
    return json.loads(answer) if isinstance(answer, str) else answer
