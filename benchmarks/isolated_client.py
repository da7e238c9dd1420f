"""Ask servers with large tensors, one call after the other, in turns; prints JSON.

    python isolated_client.py PLAN

Run by `isolated.py`, in an environment with grpcio and protobuf. It does as little as can be: the
bytes of a request are made once, those of an answer are read and only their number is checked.
"""

import http.client
import itertools
import json
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import grpc
from messages import METHOD, ModelInferRequest

HOST = "127.0.0.1"
_LIMIT = ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)


class Plan(NamedTuple):
    """What to ask: each model with each size over each protocol, in each round."""

    http: int
    grpc: int
    models: list[str]
    sizes: list[int]
    rounds: int
    #: Bytes that one measurement moves to the server; five calls at least.
    moved_bytes: int


class Rest:
    """Binary HTTP over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=120)
        self._room = bytearray()

    def prepare(self, model: str, numbers: bytes) -> Callable[[], int]:
        """Make a request; what it gives sends it, and tells the size of the answer."""
        tensor: dict[str, object] = {"name": "x", "datatype": "FP32"}
        tensor |= {"shape": [len(numbers) // 4]}
        tensor |= {"parameters": {"binary_data_size": len(numbers)}}
        head = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [tensor]}).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        return partial(self._ask, f"/v2/models/{model}/infer", head + numbers, headers)

    def _ask(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        size = int(response.headers["Content-Length"])
        if size > len(self._room):
            self._room = bytearray(size)
        view, found = memoryview(self._room)[:size], 0
        while found < size:
            found += response.readinto(view[found:])
        response.read()
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {bytes(view[:300])!r}")
        return size


class Grpc:
    """`ModelInfer` with raw contents over one channel."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"{HOST}:{port}", options=_LIMIT)
        self._call = self._channel.unary_unary(METHOD, bytes, bytes)

    def prepare(self, model: str, numbers: bytes) -> Callable[[], int]:
        """Make a request, as that of `Rest`."""
        message = ModelInferRequest(model_name=model)
        message.inputs.add(name="x", datatype="FP32", shape=[len(numbers) // 4])
        message.raw_input_contents.append(numbers)
        data: bytes = message.SerializeToString()
        return lambda: len(self._call(data))


def main() -> None:
    """Measure, and print seconds per call by protocol, size and model, in the order of rounds."""
    plan = Plan(**json.loads(sys.argv[1]))
    clients: dict[str, Rest | Grpc]
    clients = {"REST, binary": Rest(plan.http), "gRPC, raw": Grpc(plan.grpc)}
    times: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    for number in range(plan.rounds + 1):
        for (protocol, client), size in itertools.product(clients.items(), plan.sizes):
            numbers = array("f", range(size // 4)).tobytes()
            at = number % len(plan.models)
            for model in [*plan.models[at:], *plan.models[:at]]:
                ask = client.prepare(model, numbers)
                least = size if model.startswith("echo") else 4
                found = []
                for _ in range(max(5, plan.moved_bytes // size)):
                    start = time.perf_counter()
                    answered = ask()
                    found.append(time.perf_counter() - start)
                    if not least <= answered < least + 1000:
                        raise SystemExit(f"{model}: {answered} bytes, expected {least} and a head")
                if number:  # the first round fills pools and caches
                    of_size = times.setdefault(protocol, {}).setdefault(str(size), {})
                    of_size.setdefault(model, []).append(found)
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    main()
