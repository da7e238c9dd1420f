"""The standard health service, for load balancers and Kubernetes.

Not the one that grpc_health brings: its watches, which clients hold open for as long as they live,
keep a stopping server until the end of its grace; and where one of two watches ends, the other
hears of no change any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jackfield._wire.descriptors import ProtoMessage

_Status = health_pb2.HealthCheckResponse
#: Models come and go without telling: a watch looks again after so many seconds.
_INTERVAL_S = 1.0


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers for some services, all of which are ready when the server is.

    Args:
        services: Their full names; the empty one stands for the whole server.
        problem: Tells why the server is not ready; empty when it is.
    """

    def __init__(self, services: Collection[str], problem: Callable[[], str]) -> None:
        self._services = frozenset(services)
        self._problem = problem
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End all watches, once they have told the last state."""
        self._closed.set()

    def _state(self, service: str) -> int:
        if service not in self._services:
            return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.NOT_SERVING if self._problem() else _Status.SERVING)

    async def Check(  # noqa: N802  the protocol's name
        self, request: ProtoMessage, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ProtoMessage:
        """Answer the state of a service."""
        state = self._state(request.service)
        if state == _Status.SERVICE_UNKNOWN:
            details = f"there is no service '{request.service}'"
            await context.abort(grpc.StatusCode.NOT_FOUND, details)
        return _Status(status=state)

    async def Watch(  # noqa: N802  the protocol's name
        self, request: ProtoMessage, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answer the state of a service now, and whenever it has changed."""
        told = None
        is_last = False
        while not is_last:
            is_last = self._closed.is_set()
            state = self._state(request.service)
            if state != told:
                told = state
                await context.write(_Status(status=state))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _INTERVAL_S)
