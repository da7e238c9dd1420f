"""Send one request over and over by gRPC: raw bytes, which nobody encodes again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from jackfield._wire.descriptors import SERVICE
from jackfield.client._address import read_address
from jackfield.client._exchange import Reply

if TYPE_CHECKING:
    from jackfield._load.plan import Target
    from jackfield._load.sender import Answered

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # a connection of its own: not one of another stage
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcSender:
    """Sends all requests over one channel: one connection of HTTP/2.

    Args:
        target: What is sent where.
        answered: Told of each answer; never within `send`.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, target: Target, answered: Answered, *, timeout_s: float) -> None:
        address = read_address(target.url)
        if target.url.startswith("grpcs:"):
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.aio.secure_channel(address.target, credentials, _OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address.target, _OPTIONS)
        self._method = self._channel.unary_unary(f"/{SERVICE}/{target.path}", None, None)
        self._body = target.body
        self._metadata = tuple((name.lower(), value) for name, value in target.headers.items())
        self._answered = answered
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, lanes: int) -> None:
        """Connect; a server that can't be reached shows when requests are sent."""
        try:
            async with asyncio.timeout(self._timeout_s):
                self._channel.get_state(try_to_connect=True)
                await self._until_connected()
        except TimeoutError:
            pass

    async def _until_connected(self) -> None:
        over = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        while (state := self._channel.get_state()) not in over:
            await self._channel.wait_for_state_change(state)

    async def stop(self) -> None:
        """Close the channel; what is in flight is never answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(None)

    def send(self, since_ns: int) -> None:
        """Send the request once."""
        task = asyncio.get_running_loop().create_task(self._call(since_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def expire(self, now_ns: int) -> None:
        """Leave it to gRPC's deadlines."""

    async def _call(self, since_ns: int) -> None:
        try:
            body = await self._method(self._body, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            problem, text = error.code().name, error.details() or ""
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                # no server is helped by a storm
                await asyncio.sleep(0.05)
            self._answered(since_ns, problem, Reply(text.encode(), {}))
        else:
            self._answered(since_ns, "", Reply(body, {}))
