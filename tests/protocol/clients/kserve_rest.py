"""KServe's InferenceRESTClient against a server at a URL; prints what it found as JSON."""

import asyncio
import json
import sys

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from kserve_arrays import ARRAYS, NOT_BINARY, is_same


async def ask(url: str) -> dict[str, object]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=20)) as client:

        async def infer(
            model: str, datatype: str, *, is_binary: bool = False, wanted: object = None
        ) -> object:
            given = InferInput("x", list(ARRAYS[datatype].shape), datatype)
            given.set_data_from_numpy(ARRAYS[datatype], binary_data=is_binary)
            request = InferRequest(
                model_name=model,
                infer_inputs=[given],
                request_id="a-1",
                parameters=wanted if isinstance(wanted, dict) else None,
                request_outputs=wanted if isinstance(wanted, list) else None,
            )
            return await client.infer(url, request, model_name=model)

        async def same(arrays: object, **form: object) -> dict[str, bool]:
            found = {}
            for datatype in arrays:
                reply = await infer("echo", datatype, **form)
                found[datatype] = is_same(reply.outputs[0].as_numpy(), ARRAYS[datatype])
            return found

        async def error(model: str) -> str:
            try:
                await infer(model, "INT64")
            except httpx.HTTPStatusError as raised:
                return str(raised)
            return "none"

        reply = await infer("echo", "FP32")
        wanted = [RequestedOutput("x", {"binary_data": True})]
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "models": {
                name: await client.is_model_ready(url, name)
                for name in ("echo", "broken", "nobody")
            },
            "json": await same(NOT_BINARY),
            "binary in": await same(NOT_BINARY, is_binary=True),
            "binary out": await same(NOT_BINARY, wanted=wanted),
            "binary": await same(ARRAYS, is_binary=True, wanted=wanted),
            "all binary": await same(ARRAYS, is_binary=True, wanted={"binary_data_output": True}),
            "reply": [reply.model_name, reply.id],
            "errors": {name: await error(name) for name in ("nobody", "broken", "failing")},
        }


json.dump(asyncio.run(ask(sys.argv[1])), sys.stdout)
