"""The floor of `workers.py` over gRPC: a bare `grpc.aio` servicer of its small model.

Run as `python floor_workers.py PORT`, any number of times for one port: the system spreads the
connections, as it does for workers.
"""

import os
import signal
import sys
from typing import Any, TypeAlias

import grpc
import grpc.aio
import messages
import numpy as np
import uvloop

WEIGHTS = np.linspace(-1, 1, 4)

#: A message of the protocol, whose fields are known to the descriptors alone.
Message: TypeAlias = Any


async def infer(request: Message, _: object) -> Message:
    """Answer one request: parse, `@`, serialise, and nothing else."""
    rows = np.frombuffer(request.raw_input_contents[0]).reshape(request.inputs[0].shape)
    found = rows @ WEIGHTS
    response = messages.ModelInferResponse(model_name=request.model_name, id=request.id)
    response.outputs.add(name="y", datatype="FP64", shape=found.shape)
    response.raw_output_contents.append(found.tobytes())
    return response


async def serve(port: str) -> None:
    """Serve on the loopback interface until SIGTERM."""
    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=messages.ModelInferRequest.FromString,
        response_serializer=messages.ModelInferResponse.SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    methods = {"ModelInfer": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(messages.SERVICE, methods),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    # grpc.aio complains when its loop is closed before it
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(serve(sys.argv[1]))
