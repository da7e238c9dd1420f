"""KServe's InferenceRESTClient against a server at a URL; prints what it found as JSON."""

import asyncio
import json
import sys

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve_arrays import NOT_BINARY, is_same


async def ask(url: str) -> dict[str, object]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=20)) as client:

        async def infer(model: str, datatype: str) -> object:
            given = InferInput("x", list(NOT_BINARY[datatype].shape), datatype)
            given.set_data_from_numpy(NOT_BINARY[datatype], binary_data=False)
            request = InferRequest(model_name=model, infer_inputs=[given], request_id="a-1")
            return await client.infer(url, request, model_name=model)

        async def error(model: str) -> str:
            try:
                await infer(model, "INT64")
            except httpx.HTTPStatusError as raised:
                return str(raised)
            return "none"

        replies = {datatype: await infer("echo", datatype) for datatype in NOT_BINARY}
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "models": {
                name: await client.is_model_ready(url, name)
                for name in ("echo", "broken", "nobody")
            },
            "same": {
                datatype: is_same(reply.outputs[0].as_numpy(), NOT_BINARY[datatype])
                for datatype, reply in replies.items()
            },
            "reply": [replies["FP32"].model_name, replies["FP32"].id],
            "errors": {name: await error(name) for name in ("nobody", "broken", "failing")},
        }


json.dump(asyncio.run(ask(sys.argv[1])), sys.stdout)
