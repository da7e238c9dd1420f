"""The floor: what a good engineer writes by hand for one scikit-learn model over REST.

Starlette, msgspec and uvicorn on httptools and uvloop; typed decoding, one `predict` per request,
called on the event loop because a thread hop costs more than the call. Speaks enough of the Open
Inference Protocol for the benchmark and nothing else: no registry, no metrics, no batching. A
tensor comes as JSON numbers or, with the header that tells the JSON text's length, as bytes.
Run inside its own environment: `python floor.py MODEL PORT NAME`.
"""

import sys
from typing import Any

import joblib
import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

DTYPES = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}


class Input(msgspec.Struct):
    """A tensor of the request; `data` may be flat or nested."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] = []


class InferRequest(msgspec.Struct):
    """The body of a request."""

    inputs: list[Input]
    id: str | None = None


class Output(msgspec.Struct, omit_defaults=True):
    """A tensor of the response."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[int] | None = None
    parameters: dict[str, int] | None = None


class InferResponse(msgspec.Struct, omit_defaults=True):
    """The body of a response."""

    model_name: str
    outputs: list[Output]
    id: str | None = None


def create_app(model_file: str, name: str) -> Starlette:
    """Load the model and build the application around it."""
    predict = joblib.load(model_file).predict
    decode = msgspec.json.Decoder(InferRequest).decode
    encode = msgspec.json.Encoder().encode

    async def infer(request: Request) -> Response:
        length = request.headers.get("inference-header-content-length")
        if length is not None:
            return binary(await request.body(), int(length))
        try:
            body = decode(await request.body())
            tensor = body.inputs[0]
            array = np.array(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)
        except (msgspec.DecodeError, LookupError, ValueError) as error:
            return Response(encode({"error": str(error)}), 400, media_type="application/json")
        labels = predict(array)
        output = Output("predict", (len(labels), 1), "INT64", labels.tolist())
        response = InferResponse(name, [output], body.id)
        return Response(encode(response), media_type="application/json")

    def binary(data: bytes, length: int) -> Response:
        body = decode(memoryview(data)[:length])
        tensor = body.inputs[0]
        array = np.frombuffer(data, DTYPES[tensor.datatype], offset=length).reshape(tensor.shape)
        labels = predict(array)
        size = {"binary_data_size": labels.nbytes}
        output = Output("predict", (len(labels), 1), "INT64", parameters=size)
        head = encode(InferResponse(name, [output], body.id))
        headers = {"inference-header-content-length": str(len(head))}
        content = head + labels.tobytes()
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def ready(_: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route(f"/v2/models/{name}/infer", infer, methods=["POST"]),
            Route(f"/v2/models/{name}/ready", ready),
        ]
    )


def main(model_file: str, port: str, name: str) -> None:
    """Serve on the loopback interface until a signal arrives."""
    uvicorn.run(
        create_app(model_file, name),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
