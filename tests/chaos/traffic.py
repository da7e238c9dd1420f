"""One generator of the chaos run's traffic: asks, checks each answer, and writes down how it went.

    python -m tests.chaos.traffic CONFIG.json

A line of JSON for each call goes to standard output. Times are those of the system's monotonic
clock, so that lines of several processes compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import httpx
import msgspec
import numpy as np

from jackfield.client import AsyncClient, Retries
from jackfield.errors import BadAnswerError, CallError, CallTimeoutError, NoAnswerError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jackfield.client import AsyncClientModel

#: How long a caller waits, in seconds; who has no answer by then was left hanging.
PATIENCE_S = 30.0
#: Calls under way at once in an open loop. Those beyond are left out and counted, not sent later:
#: a machine that others use would else get more than its load as soon as it is slower.
MOST = 50
#: The least and the most that a call with a time of its own gives the server, in seconds, and how
#: late its answer may be: the server may be stopped for a while. A call that asks nothing, made
#: again and again so often on the same connections, tells how much later the machine makes it: by
#: so many times of that at most.
OWN_TIMES_S = (0.05, 0.5)
LATE_S = 3.0
PULSE_S = 0.25
PULSES = 2
#: How much later at most, in seconds: beyond it is the server's fault whatever the machine does.
MOST_LATE_S = 15.0
#: Added to this process' niceness, where that is allowed.
HURRY = -10
#: How long callers keep their connections, at most, in seconds: others come in their place, so that
#: a worker that is new gets its part.
STAY_S = 6.0
#: How much goes to the model that takes its time, so that something is always under way.
SLOW, SLOW_PART = "slow", 0.2
FORMS = ("json", "binary", "gRPC")
#: HTTP's status where that time was over.
EXPIRED = 504
#: gRPC's own words for a connection that broke, which has the status of a server that is busy.
BROKEN = ("stream removed", "socket closed", "connection reset", "broken pipe", "recvmsg")
#: gRPC by itself waits for seconds before it connects again, and shares the connections of its
#: channels. The "min" is how long it tries to connect.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


class Plan(msgspec.Struct):
    """What a generator is to do."""

    http: str
    grpc: str
    models: list[str]
    seconds: float
    seed: int
    #: Calls per second; 0 sends the next call of each of `callers` when its last is answered.
    rate: float = 0.0
    callers: int = 16
    #: The part of the calls whose caller leaves before the answer.
    cancelled: float = 0.0
    #: The part that goes by the streaming routes, and the part that has a time of its own.
    streamed: float = 0.0
    timed: float = 0.0


class Line(msgspec.Struct):
    """How one call went."""

    model: str
    sent: float
    ended: float
    #: right, wrong, refused, lost (no answer came), hung (neither an answer nor an error came in
    #: time), expired (its own time was over), cancelled, or left out (not sent: too many were under
    #: way).
    outcome: str
    #: What the answer's generation was; -1 without one.
    generation: float = -1.0
    #: The status and text of what failed.
    what: str = ""
    #: How it was asked.
    by: str = ""


class Caller:
    """A client with its connections, and how long a call on them takes that asks nothing."""

    def __init__(
        self, form: str, client: AsyncClient, close: Callable[[], Awaitable[None]]
    ) -> None:
        self.form = form
        self.client = client
        self._close = close
        #: Calls under way, one that may be asked no more and the others.
        self.calls: set[asyncio.Task[None]] = set()
        self._pulses: list[tuple[float, float]] = []
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            began = time.monotonic()
            self._pulses.append((began, math.inf))
            with contextlib.suppress(CallError):
                await self.client.is_live()
            self._pulses[-1] = began, time.monotonic()
            await asyncio.sleep(PULSE_S)

    def pulse_s(self, since: float) -> float:
        """Give how long such a call took at most that was under way since then, in seconds."""
        now = time.monotonic()
        taken = (min(ended, now) - began for began, ended in self._pulses if ended >= since)
        return max(taken, default=0.0)

    async def leave(self) -> None:
        """Wait for the calls that are under way, and close the connections."""
        if self.calls:
            await asyncio.wait(self.calls)
        self._beating.cancel()
        await asyncio.wait([self._beating])
        await self._close()


class Generator:
    """Sends calls by REST as JSON, REST as bytes and gRPC, in turns that the seed decides."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._lines: list[Line] = []
        self._callers: dict[str, Caller] = {}
        self._calls: list[asyncio.Task[None]] = []

    async def run(self) -> list[Line]:
        """Send what is planned; returns how it went when all is answered."""
        self._callers = {form: self._come(form) for form in FORMS}
        self._leaving: list[asyncio.Task[None]] = []
        changing = asyncio.create_task(self._change_callers())
        ends = time.monotonic() + self._plan.seconds
        if self._plan.rate:
            await self._open_loop(ends)
        else:
            await asyncio.gather(*(self._closed_loop(ends) for _ in range(self._plan.callers)))
        changing.cancel()
        leaving = [caller.leave() for caller in self._callers.values()]
        # what fails here is a fault of ours
        await asyncio.gather(*leaving, *self._leaving, *self._calls)
        return self._lines

    def _come(self, form: str) -> Caller:
        options = {"timeout_s": PATIENCE_S, "retries": Retries(limit=0)}
        if form != "gRPC":
            # all are kept: to connect again costs more than the call
            http = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=None))
            client = AsyncClient(self._plan.http, form=form, http=http, **options)
            return Caller(form, client, http.aclose)
        channel = grpc.aio.insecure_channel(self._plan.grpc, CHANNEL)
        client = AsyncClient(f"grpc://{self._plan.grpc}", channel=channel, **options)
        return Caller(form, client, channel.close)

    async def _change_callers(self) -> None:
        """Have new callers come in the place of others, one kind after the other."""
        while True:
            for form in FORMS:
                await asyncio.sleep(STAY_S / len(FORMS))
                self._leaving.append(asyncio.create_task(self._callers[form].leave()))
                self._callers[form] = self._come(form)

    async def _closed_loop(self, ends: float) -> None:
        while time.monotonic() < ends:
            await self._start()

    async def _open_loop(self, ends: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while due < ends:
            due += self._random.expovariate(self._plan.rate)
            if (pause := due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            if len(under_way) >= MOST:
                now = time.monotonic()
                self._lines.append(Line("", now, now, "left out"))
                continue
            task = self._start()
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    def _start(self) -> asyncio.Task[None]:
        caller = self._callers[self._random.choice(FORMS)]
        task = asyncio.create_task(self._call(caller))
        caller.calls.add(task)
        task.add_done_callback(caller.calls.discard)
        self._calls.append(task)
        return task

    async def _call(self, caller: Caller) -> None:
        draw = self._random
        model = SLOW if draw.random() < SLOW_PART else draw.choice(self._plan.models)
        rows = np.array([[draw.randrange(1000), draw.random()] for _ in range(draw.choice((1, 4)))])
        leaves = draw.random() < self._plan.cancelled
        streams = draw.random() < self._plan.streamed
        own_s = draw.uniform(*OWN_TIMES_S) if draw.random() < self._plan.timed else 0.0
        by = f"{caller.form}{' stream' if streams else ''}"
        line = Line(model, time.monotonic(), 0.0, "right", by=by)
        ask = _stream if streams else _infer
        asked = asyncio.ensure_future(ask(caller.client.model(model), rows, own_s))
        try:
            if leaves:
                done, _ = await asyncio.wait([asked], timeout=draw.random() * 0.01)
                if not done:
                    asked.cancel()
            async with asyncio.timeout(PATIENCE_S):
                y = await asked
            generations = y - 2 * rows if y.shape == rows.shape else y
            line.generation = round(float(generations.flat[0]))
            if y.shape != rows.shape or np.ptp(generations) > 1e-9:
                line.outcome, line.what = "wrong", repr(y)
        except asyncio.CancelledError:
            line.outcome = "cancelled"
        except TimeoutError:
            line.outcome = "hung"
        except CallError as error:
            line.outcome, line.what = _outcome(error, time.monotonic() - line.sent, own_s)
        line.ended = time.monotonic()
        if own_s and line.outcome != "lost":
            allowed_s = own_s + LATE_S + min(PULSES * caller.pulse_s(line.sent), MOST_LATE_S)
            if line.ended - line.sent > allowed_s:
                what = f"beyond {allowed_s:.2f} s, with its own {own_s:.2f} s; {line.what}"
                line.outcome, line.what = "hung", what
        self._lines.append(line)


def _outcome(error: CallError, took_s: float, own_s: float) -> tuple[str, str]:
    """Tell what a failed call was, and the words of it."""
    if took_s >= PATIENCE_S - 1:
        outcome = "hung"
    elif isinstance(error, BadAnswerError):
        outcome = "wrong"
    elif own_s and took_s >= own_s and _is_expired(error):
        outcome = "expired"
    elif isinstance(error, NoAnswerError) or any(word in str(error).lower() for word in BROKEN):
        outcome = "lost"
    else:
        outcome = "refused"
    return outcome, f"{type(error).__name__}: {error}"


def _is_expired(error: CallError) -> bool:
    if isinstance(error, RemoteError):
        return error.status == EXPIRED or "did not answer within" in error.text
    return isinstance(error, CallTimeoutError)  # of gRPC, whose status is the same


async def _infer(model: AsyncClientModel, rows: np.ndarray, own_s: float) -> np.ndarray:
    return (await model.infer(x=rows, parameters=_time(own_s)))["y"]


async def _stream(model: AsyncClientModel, rows: np.ndarray, own_s: float) -> np.ndarray:
    """Get a row of the answer with each response."""
    async with aclosing(model.stream(x=rows, parameters=_time(own_s))) as responses:
        found = [response["y"] async for response in responses]
    return np.concatenate(found) if found else np.empty(0)


def _time(own_s: float) -> dict[str, int] | None:
    return {"timeout": round(own_s * 1e6)} if own_s else None


def main() -> None:
    with contextlib.suppress(PermissionError):
        os.nice(HURRY)  # who is late himself can't tell who else is
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    lines = asyncio.run(Generator(plan).run())
    sys.stdout.buffer.write(b"\n".join(msgspec.json.encode(line) for line in lines))


if __name__ == "__main__":
    main()
