"""One process of the soak's callers: mixed requests with their right answers, some cancelled.

Run by `soak.py` inside an environment that has grpcio, protobuf and uvloop, as
`python soak_client.py PLAN`; speaks with it as `generator.py` does with `load.py`.
"""

import asyncio
import collections
import itertools
import json
import math
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import messages
from forms import BINARY, JSON, Rows, binary_headers, encode_json, encode_numbers
from generator import (
    HOST,
    Ask,
    Connection,
    Plan,
    Tally,
    closed_loop,
    event_loop,
    http_request,
    open_loop,
)

#: How many rows a request has: mostly one, sometimes so many that batches have to be divided.
SIZES = (*[1] * 12, 2, 2, 3, 5, 8, 32, 100)
#: JSON, binary HTTP and gRPC.
WEIGHTS = (5, 2, 3)
#: Answers of two batches differ by the order in which products are added, and by no more.
TOLERANCE = 1e-9
#: Longest time after which a request that is to be cancelled is.
CANCEL_WITHIN_S = 0.004
EXAMPLES_KEPT = 5
#: Outcomes that are counted apart from failed calls.
WRONG, CANCELLED = "wrong", "cancelled"


@dataclass(frozen=True, slots=True)
class Soak:
    """What one process does."""

    http_port: int
    grpc_port: int
    model: str
    question: str
    """A file with rows and the number that the model gives for each, in JSON."""
    seconds: float
    in_flight: int
    rate: float
    """Requests per second of an open loop; 0 is a closed loop, to find the peak."""
    seed: int
    cancelled_share: float
    """Part of the requests whose caller goes away."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request and what is to come back."""

    rows: Rows
    answers: list[float]
    request_id: str
    parameters: dict[str, int]

    def differs(self, found: list[float], request_id: str) -> str | None:
        """Say how an answer is not the one to this request."""
        if request_id != self.request_id:
            return f"id {request_id!r} instead of {self.request_id!r}"
        if len(found) != len(self.answers):
            return f"{len(found)} rows instead of {len(self.answers)}"
        for row, (value, answer) in enumerate(zip(found, self.answers, strict=True)):
            if not math.isclose(value, answer, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                return f"row {row} of {len(found)}: {value!r} instead of {answer!r}"
        return None


@dataclass(slots=True)
class Count:
    """What came of the requests beside their times."""

    answered: collections.Counter[str] = field(default_factory=collections.Counter)
    cancelled: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: int = 0
    examples: list[str] = field(default_factory=list)


class Caller:
    """Draws requests, sends them one after the other, and checks what comes back."""

    def __init__(self, soak: Soak, draw: random.Random, rows: Rows, answers: list[float]) -> None:
        self._soak = soak
        self._draw = draw
        self._rows = rows
        self._answers = answers
        self._path = JSON.path.format(model=soak.model)
        self.count = Count()
        self._numbers = itertools.count()

    def lane(
        self,
        connection: Connection,
        call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]",
    ) -> Ask:
        """Give one caller's place: its HTTP connection, and the channel that all share."""

        async def ask() -> str | None:
            question = self._question()
            is_cancelled = self._draw.random() < self._soak.cancelled_share
            form = self._draw.choices(("json", "binary", "grpc"), WEIGHTS)[0]
            if form == "grpc":
                return await self._grpc(call, question, is_cancelled=is_cancelled)
            return await self._http(connection, form, question, is_cancelled=is_cancelled)

        return ask

    def _question(self) -> Question:
        draw = self._draw
        chosen = draw.choices(range(len(self._rows)), k=draw.choice(SIZES))
        # requests of different parameters must not be answered as one
        parameters = {"caller": draw.randrange(3)} if draw.random() < 0.3 else {}
        return Question(
            [self._rows[row] for row in chosen],
            [self._answers[row] for row in chosen],
            f"{self._soak.seed}-{next(self._numbers)}",
            parameters,
        )

    async def _http(
        self, connection: Connection, form: str, question: Question, *, is_cancelled: bool
    ) -> str | None:
        fields: dict[str, object] = {"id": question.request_id}
        if form == "json":
            if question.parameters:
                fields["parameters"] = question.parameters
            body, headers = encode_json(question.rows, fields), JSON.headers(question.rows)
        else:
            fields["parameters"] = {**question.parameters, "binary_data_output": True}
            numbers = encode_numbers(question.rows)
            shape = [len(question.rows), len(question.rows[0])]
            size = {"binary_data_size": len(numbers)}
            tensor = {"name": "input-0", "datatype": "FP64", "shape": shape, "parameters": size}
            head = json.dumps({**fields, "inputs": [tensor]}).encode()
            body, headers = head + numbers, binary_headers(head)
        request = http_request("POST", self._path, headers, body)
        if is_cancelled:
            await self._drop(request)
            self.count.cancelled[form] += 1
            return CANCELLED
        try:
            status, answer = await connection.ask(request)
        except OSError as error:
            return f"{form}: {type(error).__name__}"
        if status >= 400:
            return f"{form}: status {status}"
        try:
            text = answer.decode("latin-1")
            found_id = json.JSONDecoder().raw_decode(text)[0]["id"]
            found = (JSON if form == "json" else BINARY).decode(answer)
        except (ValueError, LookupError, TypeError) as error:
            return self._wrong(form, f"no answer: {error!r}")
        return self._judge(form, question, found, found_id)

    async def _drop(self, request: bytes) -> None:
        """Send a request, all or half of it, and go away."""
        _, writer = await asyncio.open_connection(HOST, self._soak.http_port)
        is_half = self._draw.random() < 0.3
        writer.write(request[: len(request) // 2] if is_half else request)
        await asyncio.sleep(self._draw.random() * CANCEL_WITHIN_S)
        writer.transport.abort()

    async def _grpc(
        self,
        call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]",
        question: Question,
        *,
        is_cancelled: bool,
    ) -> str | None:
        request = messages.encode(
            self._soak.model, question.rows, question.request_id, question.parameters
        )
        running = call(request)
        if is_cancelled:
            await asyncio.sleep(self._draw.random() * CANCEL_WITHIN_S)
            running.cancel()
            self.count.cancelled["grpc"] += 1
            return CANCELLED
        try:
            answer = await running
        except grpc.aio.AioRpcError as error:
            return f"grpc: {error.code().name}"
        message = messages.ModelInferResponse.FromString(answer)
        return self._judge("grpc", question, messages.decode(answer), message.id)

    def _judge(
        self, form: str, question: Question, found: list[float], request_id: str
    ) -> str | None:
        difference = question.differs(found, request_id)
        if difference is not None:
            return self._wrong(form, difference)
        self.count.answered[form] += 1
        return None

    def _wrong(self, form: str, text: str) -> str:
        self.count.wrong += 1
        if len(self.count.examples) < EXAMPLES_KEPT:
            self.count.examples.append(f"{form}: {text}")
        return WRONG


async def _run(soak: Soak, given: dict[str, list[Any]]) -> dict[str, object]:
    caller = Caller(soak, random.Random(soak.seed), given["rows"], given["labels"])
    address = f"{HOST}:{soak.grpc_port}"
    channel = grpc.aio.insecure_channel(address, options=messages.CHANNEL_OPTIONS)
    await channel.channel_ready()
    call = channel.unary_unary(messages.METHOD, request_serializer=None, response_deserializer=None)
    connections = [await Connection.open(soak.http_port) for _ in range(soak.in_flight)]
    lanes = [caller.lane(connection, call) for connection in connections]
    print("ready", flush=True)
    sys.stdin.readline()
    plan = Plan("", soak.http_port, soak.model, "", soak.seconds, len(lanes), soak.rate, soak.seed)
    tally = Tally()
    start, cpu = time.perf_counter(), time.process_time()
    await (open_loop if soak.rate else closed_loop)(plan, lanes, tally)
    took = max(float(soak.seconds), tally.last_answer - start)
    await channel.close(None)
    ordered = sorted(tally.latencies_s)
    return {
        "answered": dict(caller.count.answered),
        "cancelled": dict(caller.count.cancelled),
        "wrong": caller.count.wrong,
        "examples": caller.count.examples,
        "failed": {
            kind: n for kind, n in tally.errors.items() if n and kind not in (WRONG, CANCELLED)
        },
        # a thousand of them tell the percentiles; all would be a hundred megabytes
        "latencies_us": [round(each * 1e6) for each in ordered[:: max(1, len(ordered) // 1000)]],
        "seconds": took,
        "cpu_share": (time.process_time() - cpu) / took,
    }


def main(text: str) -> None:
    """Carry out what is asked for, given as JSON."""
    soak = Soak(**json.loads(text))
    given = json.loads(Path(soak.question).read_text())
    with asyncio.Runner(loop_factory=lambda: event_loop(is_open=soak.rate > 0)) as runner:
        print(json.dumps(runner.run(_run(soak, given))))


if __name__ == "__main__":
    main(sys.argv[1])
