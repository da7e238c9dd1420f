"""An application that uses a client of the protocol and embeds our server, in one process.

Arguments: the client's front door, its messages, its stubs, and a folder of models. Prints, as
JSON, what the client's own gRPC stub and plain HTTP got from the server.
"""

import asyncio
import importlib
import json
import sys
import urllib.request
from pathlib import Path

front_door, messages, stubs, models = sys.argv[1:]
importlib.import_module(front_door)
pb = importlib.import_module(messages)
GRPCInferenceServiceStub = importlib.import_module(stubs).GRPCInferenceServiceStub

import grpc.aio  # noqa: E402  after the client, as an application that came to us later has it

from jackfield import InferRequest, Server, ServerSettings, Tensor  # noqa: E402


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


async def main() -> dict[str, object]:
    settings = ServerSettings(http_port=0, grpc_port=0, metrics_endpoint="")
    server = Server([Path(models)], settings=settings, plugins=[])
    stopped = asyncio.Event()
    found = {}

    async def ask(addresses) -> None:
        async with grpc.aio.insecure_channel(addresses.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            request = pb.ModelInferRequest(model_name="echo", raw_input_contents=[b"\x01\x02"])
            request.inputs.add(name="x", datatype="UINT8", shape=[2])
            reply = await stub.ModelInfer(request, timeout=20)
            found["grpc"] = [reply.outputs[0].name, list(reply.raw_output_contents[0])]
            metadata = await stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
            found["name"] = metadata.name
        found["http"] = await asyncio.to_thread(get, f"{addresses.http}/v2/health/ready")
        response = await server.model("echo").infer(InferRequest([Tensor.from_array("x", [3, 4])]))
        found["in process"] = response.output("x").array.tolist()
        stopped.set()

    await asyncio.wait_for(server.run(stopped, ask), 60)
    return found


sys.stdout.write("\n" + json.dumps(asyncio.run(main())) + "\n")
