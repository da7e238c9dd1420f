"""One running server with a few models, which all tests of real clients share.

They ask it twice: first its models are in its own process, then in hosts.
"""

import gc
import inspect
import os
import sys

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.protocol.triton import MODULES, Triton
from tests.serving import serving, write_model

#: Small, so that a body over it is quickly sent.
MAX_BODY_BYTES = 100_000
#: Models that share a host, whose interpreter and packages are given; each other one has its own.
IN_ENVIRONMENT = ("iris", "versioned", "meeting")


@pytest.fixture(scope="session", params=["in_server", "in_hosts"])
def write(request):
    """`write_model`, for models of the server's own process, or for models in hosts."""

    def write(parent, implementation, *, name, **settings):
        if request.param == "in_hosts":
            is_given = name in IN_ENVIRONMENT
            settings |= {"environment": sys.prefix} if is_given else {"scheduler": "process"}
        return write_model(parent, implementation, name=name, **settings)

    return write


@pytest.fixture(scope="session")
def repository(write, tmp_path_factory):
    """The folder that is served; a test may add a model under a name of its own, and load it."""
    folder = tmp_path_factory.mktemp("repository")
    write(folder, "echo.Echo", name="echo")
    for version in ("2", "10"):
        write(
            folder,
            "echo.Echo",
            name="versioned",
            folder=f"versioned-{version}",
            parameters={"version": version},
        )
    write(folder, "faulty.Faulty", name="failing", parameters={"extra": {"infer": "raises"}})
    write(folder, "faulty.Faulty", name="broken", parameters={"extra": {"load": "raises"}})
    for name in ("told", "listening", "deaf"):
        write(folder, f"told.{name.title()}", name=name)
    for name in ("counting", "endless", "meeting"):
        write(folder, f"streams.{name.title()}", name=name)
    # two requests at a time, of which the first waits long for the other
    write(folder, "tallying.Tallying", name="tallying", max_batch_size=2, max_batch_time=10)
    os.mkfifo(folder / "endless" / "cancelled")
    fp32 = {"name": "x", "datatype": "FP32"}
    tensors = {"one": [fp32 | {"shape": [-1, 2]}], "open": [fp32 | {"shape": [-1, -1]}]}
    for name, inputs in tensors.items():
        write(folder, "echo.Echo", name=name, inputs=inputs)
    text = {"name": "x", "datatype": "BYTES", "shape": [1]}
    write(folder, "echo.Echo", name="text", inputs=[text])
    scores = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    labels = {"parameters": {"classes": ["cat", "dog", "ζ"]}}
    write(folder, "echo.Echo", name="scores", inputs=[scores], outputs=[scores | labels])
    iris = write(folder, "sklearn", name="iris")
    joblib.dump(
        LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), iris / "model.joblib"
    )
    return folder


@pytest.fixture(scope="session")
def server(repository):
    limit = str(MAX_BODY_BYTES)
    with serving(repository, "--max-body-bytes", limit) as served:
        yield served


@pytest.fixture(params=MODULES, ids=lambda module: module.__name__.removeprefix("tritonclient."))
async def triton(request, server):
    is_http = request.param.__name__.startswith("tritonclient.http")
    url = server.http.removeprefix("http://") if is_http else server.grpc
    triton = Triton(request.param, request.param.InferenceServerClient(url))
    yield triton
    closed = triton.client.close()
    if inspect.isawaitable(closed):
        await closed
    gc.collect()  # here, not within a test of another module
