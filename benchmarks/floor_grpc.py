"""The floor over gRPC: a bare `grpc.aio` servicer written by hand for one scikit-learn model.

Parse the message, `frombuffer`, `predict`, serialise: a generic handler on uvloop with the
protocol's messages in a private pool, and nothing else.
Run inside its own environment: `python floor_grpc.py MODEL PORT`.
"""

import signal
import sys
from typing import Any, TypeAlias

import grpc
import grpc.aio
import joblib
import messages
import numpy as np
import uvloop

DTYPES = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "INT32": np.int32}

#: A message of the protocol, whose fields are known to the descriptors alone.
Message: TypeAlias = Any


async def serve(model_file: str, port: str) -> None:
    """Serve on the loopback interface until SIGTERM."""
    predict = joblib.load(model_file).predict

    async def infer(request: Message, _: object) -> Message:
        tensor = request.inputs[0]
        numbers = np.frombuffer(request.raw_input_contents[0], DTYPES[tensor.datatype])
        labels = predict(numbers.reshape(tensor.shape))
        response = messages.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="predict", datatype="INT64", shape=(len(labels), 1))
        response.raw_output_contents.append(labels.tobytes())
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=messages.ModelInferRequest.FromString,
        response_serializer=messages.ModelInferResponse.SerializeToString,
    )
    server = grpc.aio.server(options=messages.CHANNEL_OPTIONS)
    method = {"ModelInfer": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(messages.SERVICE, method),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    uvloop.run(serve(*sys.argv[1:]))
