"""A grpc.aio server with the inference service, health and reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from jackfield._grpc.health import HealthServicer
from jackfield._wire.descriptors import SERVICE, reflection_pool
from jackfield.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._grpc.servicer import Servicer
    from jackfield.settings import ServerSettings


class GrpcServer:
    """Owns one grpc.aio server.

    Args:
        servicer: Answers the protocol's calls.
        settings: Limits.
        problem: Tells why the server is not ready; empty when it is.
        shares_port: Other processes of this user listen on the port, too.
    """

    def __init__(
        self,
        servicer: Servicer,
        settings: ServerSettings,
        problem: Callable[[], str],
        *,
        shares_port: bool = False,
    ) -> None:
        limit = settings.max_grpc_message_bytes
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # without it a second server on a taken port would share it in silence
                ("grpc.so_reuseport", int(shares_port)),
            ]
        )
        self._server.add_generic_rpc_handlers((servicer.handler(),))
        self._health = HealthServicer(("", SERVICE), problem)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=reflection_pool())

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which is a free one where 0 was asked for.

        Raises:
            SettingsError: The address can't be listened on.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            problem = f"can't listen on {address}; choose another with --grpc-port"
            raise SettingsError("grpc_port", problem) from error
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no new call; those in flight have `grace_s` seconds to end."""
        self._health.close()
        await self._server.stop(grace_s)
