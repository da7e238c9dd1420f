"""What sends requests: the seam between a loop and the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from jackfield.client._address import read_address
from jackfield.client._exchange import Reply

if TYPE_CHECKING:
    from jackfield._load.plan import Target

#: Told since when the request counts, what went wrong (empty for a good answer), and what came;
#: None where a good answer is not kept.
Answered: TypeAlias = Callable[[int, str, Reply | None], None]


class Sender(Protocol):
    """Sends one request over and over; used on one event loop."""

    async def start(self, lanes: int) -> None:
        """Connect, for so many requests at a time."""

    async def stop(self) -> None:
        """Close all; what is in flight is never answered."""

    def send(self, since_ns: int) -> None:
        """Send the request once; the answer is told later, never from within."""

    def expire(self, now_ns: int) -> None:
        """Give up what waits too long."""


def create_sender(target: Target, answered: Answered, *, timeout_s: float, keeps: bool) -> Sender:
    """Make the sender for a target's URL.

    Args:
        target: What is sent where.
        answered: Told of each answer.
        timeout_s: Longest wait for an answer.
        keeps: Whether good answers are passed on, too.
    """
    if read_address(target.url).is_grpc:
        from jackfield._load.grpc import GrpcSender

        return GrpcSender(target, answered, timeout_s=timeout_s)
    from jackfield._load.http import HttpSender

    return HttpSender(target, answered, timeout_s=timeout_s, keeps=keeps)
