"""Which models share a process: the hosts of one server, by what their models have in common."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from jackfield._environments import Running, prepare
from jackfield._process.host import CLOSE_TIMEOUT_S, Host

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from jackfield._environments import Environment
    from jackfield._repository import ModelSource
    from jackfield.settings import ModelSettings

_Key: TypeAlias = "Hashable | None"


class Hosts:
    """The hosts of one server; for any thread.

    Args:
        close_timeout_s: Longest wait for a process to end by itself, in seconds.
    """

    def __init__(self, *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._close_timeout_s = close_timeout_s
        self._lock = threading.Lock()
        self._shared: dict[Hashable, Host] = {}
        self._hosts: set[Host] = set()
        self._running = Running()

    def join(
        self,
        source: ModelSource,
        loop: asyncio.AbstractEventLoop,
        running: Running | None = None,
    ) -> Host:
        """Find the host of a model, or make one; `leave` ends what this began.

        Blocks, for minutes where its environment has to be made.

        Args:
            source: The model.
            loop: Where it is called.
            running: What makes its environment, to be given up by the caller, who has to stop it
                when the server stops; None for what the server's end stops.

        Raises:
            ModelLoadError: There is no environment for it.
        """
        settings, running = source.settings.own_environment, running or self._running
        environment = prepare(settings, source.folder, running) if settings else None
        key = _key(source.settings, environment)
        with self._lock:
            host = self._shared.get((key, loop)) if key is not None else None
            if host is None:
                host = Host(
                    loop,
                    source.settings.parameters.inference_pool_gid or source.name,
                    environment,
                    close_timeout_s=self._close_timeout_s,
                )
                self._hosts.add(host)
                if key is not None:
                    self._shared[key, loop] = host
            host.tenants.append((source.name, source.version))
        return host

    def leave(self, host: Host, source: ModelSource) -> bool:
        """Let go of a host, for a model that joined it; the last one ends its process.

        Returns:
            Whether it was the last one: then the process has ended.
        """
        with self._lock:
            host.tenants.remove((source.name, source.version))
            if host.tenants:
                return False
            self._forget(host)
        host.close()
        return True

    def close(self) -> None:
        """End all processes that are left, as of models that did not end in time."""
        with self._lock:
            hosts = [*self._hosts]
            for host in hosts:
                self._forget(host)
            # a server may start again
            running, self._running = self._running, Running()
        running.stop()
        for host in hosts:
            host.close()

    def _forget(self, host: Host) -> None:
        self._hosts.discard(host)
        for key in [key for key, other in self._shared.items() if other is host]:
            del self._shared[key]


def _key(settings: ModelSettings, environment: Environment | None) -> _Key:
    """Tell what a model has in common with those that share its process; None shares it with none.

    A process has one environment, so that `inference_pool_gid` joins only models of the same one.
    """
    parameters = settings.parameters
    if parameters.inference_pool_gid:
        return (parameters.inference_pool_gid, environment.key if environment else None)
    if parameters.autogenerate_inference_pool_gid or environment is None:
        return None
    return ("", environment.key)
