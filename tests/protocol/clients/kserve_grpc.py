"""KServe's InferenceGRPCClient against a server at an address; prints what it found as JSON."""

import asyncio
import json
import sys

import grpc
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve_arrays import ARRAYS, NOT_BINARY, is_same


async def ask(address: str) -> dict[str, object]:
    async with InferenceGRPCClient(address, timeout=20) as client:

        async def infer(model: str, datatype: str, *, is_raw: bool) -> object:
            given = InferInput("x", list(ARRAYS[datatype].shape), datatype)
            given.set_data_from_numpy(ARRAYS[datatype], binary_data=is_raw)
            request = InferRequest(model_name=model, infer_inputs=[given], request_id="a-1")
            return await client.infer(request)

        async def error(model: str) -> list[str]:
            try:
                await infer(model, "INT64", is_raw=True)
            except grpc.RpcError as raised:
                return [raised.code().name, raised.details()]
            return ["none"]

        async def same(*, is_raw: bool) -> dict[str, bool]:
            found = {}
            for datatype, sent in (ARRAYS if is_raw else NOT_BINARY).items():
                reply = await infer("echo", datatype, is_raw=is_raw)
                found[datatype] = is_same(reply.outputs[0].as_numpy(), sent)
            return found

        reply = await infer("echo", "FP32", is_raw=True)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "models": {name: await client.is_model_ready(name) for name in ("echo", "broken")},
            "raw": await same(is_raw=True),
            "typed": await same(is_raw=False),
            "reply": [reply.model_name, reply.id],
            "errors": {name: await error(name) for name in ("nobody", "broken", "failing")},
        }


json.dump(asyncio.run(ask(sys.argv[1])), sys.stdout)
