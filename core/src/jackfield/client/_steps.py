"""Steps of a call that need the outside, and the two drivers that take them.

An operation is a generator: it yields what it needs and gets it sent in, so that it is written once
for blocking and for asynchronous callers, and tested without either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from jackfield.errors import CallError

if TYPE_CHECKING:
    from jackfield.client._exchange import AsyncTransport, Call, Transport

T = TypeVar("T")


class Send(NamedTuple):
    """Needs the `Reply` to a call."""

    call: Call
    timeout_s: float


class Open(NamedTuple):
    """Needs the stream that answers a call."""

    call: Call
    timeout_s: float


class Wait(NamedTuple):
    """Needs time to pass."""

    seconds: float


#: What an operation yields, is sent (by the kind of step) and returns.
Steps: TypeAlias = Generator[Send | Open | Wait, Any, T]


def drive(steps: Steps[T], transport: Transport) -> T:
    """Take the steps of an operation, blocking meanwhile."""
    given: object = None
    failed: CallError | None = None
    while True:
        try:
            step = steps.throw(failed) if failed else steps.send(given)
        except StopIteration as stop:
            result: T = stop.value
            return result
        failed, given = None, None
        try:
            if isinstance(step, Send):
                given = transport.send(step.call, step.timeout_s)
            elif isinstance(step, Open):
                given = transport.open(step.call, step.timeout_s)
            else:
                time.sleep(step.seconds)
        except CallError as error:
            failed = error


async def drive_async(steps: Steps[T], transport: AsyncTransport) -> T:
    """Take the steps of an operation on an event loop."""
    given: object = None
    failed: CallError | None = None
    while True:
        try:
            step = steps.throw(failed) if failed else steps.send(given)
        except StopIteration as stop:
            result: T = stop.value
            return result
        failed, given = None, None
        try:
            if isinstance(step, Send):
                given = await transport.send(step.call, step.timeout_s)
            elif isinstance(step, Open):
                given = await transport.open(step.call, step.timeout_s)
            else:
                await asyncio.sleep(step.seconds)
        except CallError as error:
            failed = error
