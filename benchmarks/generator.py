"""Make load from one process: closed or open loop, over HTTP/1.1 or gRPC, every answer checked.

Run by `load.py` inside an environment that has grpcio, protobuf and uvloop, as
`python generator.py PLAN`: prints `ready` when it is connected, starts when it reads a line, prints
one JSON object at the end.

An open loop sends at times that were fixed before (a Poisson process with a fixed seed) whether or
not answers came, and counts a latency from the time that was meant: a server that stalls can not
slow the load down and so hide its stall. A closed loop has a number of requests in flight and sends
the next one when an answer is there.
"""

import asyncio
import collections
import gc
import json
import random
import re
import selectors
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import messages
import uvloop
from forms import FORMS, GRPC, Form, Labels, Rows

HOST = "127.0.0.1"
#: How long the answers to the last requests are waited for.
DRAIN_S = 20.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does."""

    form: str
    """Of `forms.FORMS`, or `grpc`."""
    port: int
    model: str
    question: str
    """A file with the rows of the one request and the labels of its answer, in JSON."""
    seconds: float
    in_flight: int
    """Connections, or calls over one gRPC channel; at most so many requests wait for an answer."""
    rate: float = 0.0
    """Requests per second of an open loop; 0 is a closed loop."""
    seed: int = 0
    delay_s: float = 0.0
    least: int = 0
    """A closed loop goes on until it has so many answers, however long that takes."""


@dataclass(slots=True)
class Tally:
    """What came of the requests."""

    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """By how much a request of an open loop left late though a connection was free."""
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    last_answer: float = 0.0


class Question:
    """The request that is repeated, and whether an answer is right."""

    def __init__(self, plan: Plan) -> None:
        given = json.loads(Path(plan.question).read_text())
        self.rows: Rows = given["rows"]
        self._labels: Labels = given["labels"]
        self._form: Form | None = None if plan.form == GRPC else FORMS[plan.form]
        self._right: bytes | None = None
        if self._form is None:
            self.request = messages.encode(plan.model, self.rows)
        else:
            self.request = _form_request(self._form, plan.model, self.rows)

    def is_right(self, answer: bytes) -> bool:
        """Compare with the last right answer's bytes, and only if they differ by its numbers."""
        if answer == self._right:
            return True
        try:
            if self._form is None:
                found = messages.decode(answer)
            elif self._form.method == "GET":
                found = self._labels
            else:
                found = self._form.decode(answer)
        except (ValueError, LookupError, TypeError):
            return False
        if found != self._labels:
            return False
        self._right = answer
        return True


def _form_request(form: Form, model: str, rows: Rows) -> bytes:
    path = form.path.format(model=model)
    return http_request(form.method, path, form.headers(rows), form.encode(rows))


def http_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Write a request for a kept-alive connection."""
    fields = {"Host": HOST, **headers, "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """A kept-alive HTTP/1.1 connection with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; a write that is larger than its buffer is its own affair."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Hand over an answer that is complete."""
        buffer = self._buffer
        buffer += data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(buffer, 0, end)
        if length is None:
            self._fail(ConnectionError("an answer without a length"))
            return
        total = end + 4 + int(length[1])
        if len(buffer) < total:
            return
        status, body = int(buffer[9:12]), bytes(buffer[end + 4 : total])
        del buffer[:total]
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self._transport = None
        self._fail(exc or ConnectionResetError("closed by the server"))

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and give status and body.

        Raises:
            OSError: The connection ended.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._buffer.clear()
            await loop.create_connection(lambda: self, HOST, self._port)
        assert self._transport is not None
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    _port = 0

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        connection = cls()
        connection._port = port
        await asyncio.get_running_loop().create_connection(lambda: connection, HOST, port)
        return connection


#: Sends the one request and says what went wrong, or nothing.
Ask = Callable[[], Awaitable[str | None]]


async def _http_lanes(plan: Plan, question: Question) -> list[Ask]:
    def lane(connection: Connection) -> Ask:
        async def ask() -> str | None:
            try:
                status, body = await connection.ask(question.request)
            except OSError:
                return "read"
            if status >= 400:
                return "status"
            return None if question.is_right(body) else "wrong"

        return ask

    return [lane(await Connection.open(plan.port)) for _ in range(plan.in_flight)]


async def _grpc_lanes(plan: Plan, question: Question) -> list[Ask]:
    channel = grpc.aio.insecure_channel(f"{HOST}:{plan.port}", options=messages.CHANNEL_OPTIONS)
    await channel.channel_ready()
    call = channel.unary_unary(messages.METHOD, request_serializer=None, response_deserializer=None)

    async def ask() -> str | None:
        try:
            answer = await call(question.request)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name).lower()
        return None if question.is_right(answer) else "wrong"

    return [ask] * plan.in_flight


async def closed_loop(plan: Plan, lanes: list[Ask], tally: Tally) -> None:
    """Keep one request in flight on each lane."""
    deadline = time.perf_counter() + plan.seconds

    async def keep_busy(ask: Ask) -> None:
        while (sent := time.perf_counter()) < deadline or len(tally.latencies_s) < plan.least:
            error = await ask()
            _count(tally, sent, error)
            if error is not None and time.perf_counter() > deadline:
                return

    await asyncio.gather(*map(keep_busy, lanes))


async def open_loop(plan: Plan, lanes: list[Ask], tally: Tally) -> None:
    """Send at the times that were drawn; what finds no lane free waits, and its latency runs."""
    due = _schedule(plan)
    waiting: collections.deque[float] = collections.deque()
    idle = [*lanes]
    busy: set[asyncio.Task[None]] = set()

    async def answer(ask: Ask, intended: float) -> None:
        while True:
            _count(tally, intended, await ask())
            if not waiting:
                idle.append(ask)
                return
            intended = waiting.popleft()

    start = time.perf_counter()
    for at in due:
        intended = start + at
        now = time.perf_counter()
        if now < intended:
            await asyncio.sleep(intended - now)
            now = time.perf_counter()
        if idle:
            tally.late_s.append(now - intended)
            task = asyncio.create_task(answer(idle.pop(), intended))
            busy.add(task)
            task.add_done_callback(busy.discard)
        else:
            waiting.append(intended)
    if busy:
        _, unfinished = await asyncio.wait(busy, timeout=DRAIN_S)
        tally.errors["timeout"] += len(unfinished) + len(waiting)
        for task in unfinished:
            task.cancel()


def _schedule(plan: Plan) -> list[float]:
    """Draw the times to send at, in seconds from the start: the same for every server."""
    draw = random.Random(plan.seed)
    times: list[float] = []
    now = draw.expovariate(plan.rate)
    while now < plan.seconds:
        times.append(now)
        now += draw.expovariate(plan.rate)
    return times


def _count(tally: Tally, since: float, error: str | None) -> None:
    now = time.perf_counter()
    if error is None:
        tally.latencies_s.append(now - since)
        tally.last_answer = now
    else:
        tally.errors[error] += 1


async def _run(plan: Plan) -> dict[str, object]:
    question = Question(plan)
    lanes = await (_grpc_lanes if plan.form == GRPC else _http_lanes)(plan, question)
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.sleep(plan.delay_s)
    # a collection is a pause of the client that would be read as one of the server
    gc.collect()
    gc.disable()
    tally = Tally()
    start, cpu = time.perf_counter(), time.process_time()
    await (open_loop if plan.rate else closed_loop)(plan, lanes, tally)
    took = max(plan.seconds, tally.last_answer - start)
    return {
        "latencies_us": [round(latency * 1e6) for latency in tally.latencies_s],
        "late_us": [round(late * 1e6) for late in tally.late_s],
        "errors": dict(tally.errors),
        "seconds": float(took),
        "cpu_share": (time.process_time() - cpu) / took,
    }


def main(text: str) -> None:
    """Carry out a plan, given as JSON."""
    plan = Plan(**json.loads(text))
    with asyncio.Runner(loop_factory=lambda: event_loop(is_open=plan.rate > 0)) as runner:
        print(json.dumps(runner.run(_run(plan))))


def event_loop(*, is_open: bool) -> asyncio.AbstractEventLoop:
    """Give the loop that costs least, or for an open loop one that sends on time."""
    if is_open:
        # epoll counts milliseconds, select microseconds
        return asyncio.SelectorEventLoop(selectors.SelectSelector())
    return uvloop.new_event_loop()


if __name__ == "__main__":
    main(sys.argv[1])
