"""A model with a memory lives in one worker; the others pass on what they are asked of it.

Whoever has the lock of a model's file is its owner, and answers on a Unix socket whose path is in
the file: requests, streams, and the model's own paths. The system drops the lock of a process that
dies: then the first who gets it loads the model, with what the dead one has left on disk, and the
others find the new owner in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from jackfield._workers.owned import OwnedRuntime
from jackfield._workers.remote import PAUSE_S, NoOwnerError, RemoteRuntime
from jackfield._workers.responder import Responder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jackfield._loading import Loaded as LoadedModel
    from jackfield._models import Models
    from jackfield._process.messages import Loaded
    from jackfield._repository import ModelSource

logger = logging.getLogger("jackfield")

#: Connections that wait to be taken: each other worker has one for each such model.
_BACKLOG = 1024


class Owners:
    """Which models with a memory this worker owns, and where the others are.

    Args:
        folder: All workers' own; made and removed by the supervisor.
        models: This worker's.
    """

    def __init__(self, folder: Path, models: Models) -> None:
        self._folder = folder
        self._path = str(folder / f"{os.getpid()}.sock")
        self._models = models
        self._lock = threading.Lock()
        #: Descriptors of the locked files, by model.
        self._claims: dict[str, int] = {}
        #: Names of the models that others own, by the same.
        self._passed_on: dict[str, str] = {}
        #: Loads under way and done; what others are told of the model.
        self._loads: dict[str, Future[Loaded]] = {}
        self._responders: set[Responder] = set()

    async def open(self) -> None:
        """Begin to answer the other workers."""
        self._loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  it takes no name
        self._taking = asyncio.create_task(self._take(listener))

    async def _take(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    sock, _ = await self._loop.sock_accept(listener)
                except OSError as error:  # too many files are open
                    logger.warning("another worker can't be answered now: %s", error)
                    await asyncio.sleep(PAUSE_S)
                else:
                    self._responders.add(
                        Responder(self._models, self._find_load, sock, self._responders.discard)
                    )

    def load(self, source: ModelSource, here: Callable[[], LoadedModel]) -> LoadedModel:
        """Load a model here, or find its owner; called in a thread.

        Args:
            source: The model.
            here: Loads it in this worker.

        Raises:
            ModelLoadError: It can't be loaded.
        """
        loaded: LoadedModel | None = None
        if source.spec is None or not source.spec.capabilities.stateful:
            loaded = here()
            if not loaded.capabilities.stateful:
                return loaded
            # only its code knew that it has a memory
            if self.claim(source):
                return self.load_owned(source, lambda: loaded).placed()
            loaded.runtime.close()
            if loaded.bound is not None:
                loaded.bound.close()
        remote = RemoteRuntime(self, source, here, self._loop)
        while not self.claim(source):
            try:
                found = asyncio.run_coroutine_threadsafe(remote.connect(), self._loop).result()
            except NoOwnerError:
                threading.Event().wait(PAUSE_S)
                continue
            if not found.capabilities.stateful:  # its kind may have a memory, it has none
                remote.close()
                return here()
            with self._lock:
                self._passed_on[_key(source.name, source.version)] = source.name
            return remote.placed(found)
        return self.load_owned(source, here).placed()

    def load_owned(self, source: ModelSource, here: Callable[[], LoadedModel]) -> OwnedRuntime:
        """Load a model whose owner this worker is; in a thread.

        Raises:
            ModelLoadError: It can't be loaded; another worker may try.
        """
        key = _key(source.name, source.version)
        future: Future[Loaded] = Future()
        before = self._loads.get(key)
        self._loads[key] = future
        try:
            own = OwnedRuntime(here())
        except BaseException:
            # one that serves goes on
            if before is not None and before.done() and not before.exception():
                self._loads[key] = before
            else:
                self._release(key)
            future.set_exception(NoOwnerError())
            raise
        future.set_result(own.describe())
        return own

    def claim(self, source: ModelSource) -> bool:
        """Become the owner of a model; tells whether this worker is."""
        import fcntl

        key = _key(source.name, source.version)
        with self._lock:
            if key in self._claims:
                return True
            descriptor = os.open(self._folder / key, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, self._path.encode(), 0)
            self._claims[key] = descriptor
            self._passed_on.pop(key, None)
            return True

    def passes_on(self, name: str) -> bool:
        """Tell whether another worker has the memory of a model."""
        with self._lock:
            return name in self._passed_on.values()

    def _release(self, key: str) -> None:
        with self._lock:
            descriptor = self._claims.pop(key)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def _find_load(self, name: str, version: str) -> Future[Loaded] | None:
        return self._loads.get(_key(name, version))

    def find(self, source: ModelSource) -> str:
        """Give the path of the owner's socket; empty if there is none."""
        with contextlib.suppress(OSError):
            return (self._folder / _key(source.name, source.version)).read_text()
        return ""


def _key(name: str, version: str) -> str:
    """Make a file's name of a model's."""
    return hashlib.sha256(f"{name}\0{version}".encode()).hexdigest()[:32]
