"""What a model's own process runs: ``python -m jackfield._process.worker``.

Loads one model as the server would, and answers the frames that come. A plain `infer` without
streams runs in the main thread, which reads the socket itself: no thread is woken for a request.
All else runs around an event loop. The end of the socket is the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import importlib
import inspect
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from jackfield._loading import Loaded as LoadedModel
from jackfield._loading import load_runtime
from jackfield._process.errors import encode_error
from jackfield._process.frames import (
    Answer,
    Cancel,
    Counted,
    Ended,
    Family,
    FrameError,
    FrameReader,
    Infer,
    Load,
    Loaded,
    LoadFailed,
    Next,
    Payload,
    Sample,
    SetLogLevel,
    Spec,
    decode,
    encode,
    pack,
)
from jackfield._process.link import Link
from jackfield._process.log import configure_child_logging, set_log_level
from jackfield._repository import ModelSource
from jackfield._scheduling import choose_stream
from jackfield._threads import available_cores
from jackfield.errors import ModelLoadError
from jackfield.messages import InferRequest, InferResponse
from jackfield.runtime import RuntimeSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import FrameType

    import msgspec

    from jackfield._loading import OwnMetrics
    from jackfield._process.frames import Buffer, Message
    from jackfield._scheduling import Stream
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")

#: What a supervisor or a terminal sends to all processes.
_LEFT_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: How often the model's own metrics are looked at, in seconds.
_METRICS_S = 0.5


def main() -> None:
    """Serve one model until the server shuts the socket."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    lifeline = int(sys.argv[2])
    for descriptor in (sock.fileno(), lifeline):
        os.set_inheritable(descriptor, False)  # noqa: FBT003  it takes no name
    _die_with_server(lifeline)
    _leave_signals_to_server()
    os.register_at_fork(
        # a signal that comes in between is for what the copy does with it
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_SIGNALS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_SIGNALS),
        after_in_child=lambda: _leave_server(sock, lifeline),
    )
    faulthandler.enable()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    reader = FrameReader()
    payload = _receive_one(sock, reader)
    if payload is None:
        return
    message, _ = decode(payload)
    if not isinstance(message, Load):
        problem = f"expected what to load first, found {type(message).__name__}"
        raise FrameError(problem)
    configure_child_logging(message.log_level)
    # the author's code imports what it would import in the server
    sys.path[:] = message.path
    loaded = _load(message, sock)
    if loaded is None:
        return
    try:
        _choose_engine(loaded, sock, reader).run()
    finally:
        try:
            loaded.runtime.close()
        # foreign code, and the server waits for the end of this process only
        except (Exception, SystemExit):
            logger.exception("model '%s' %s failed to close", message.name, message.version)


def _die_with_server(lifeline: int) -> None:
    """Have the kernel kill this group when the server dies, whoever holds the GIL then."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere it is SIGIO, which ends a process as well
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _leave_signals_to_server() -> None:
    """Outlive what a supervisor sends to all processes, until the server has drained this one.

    Not by ignoring the signals: that would be inherited by what the model starts.
    """

    def stay(number: int, frame: FrameType | None) -> None:
        """Do nothing."""

    for number in _LEFT_SIGNALS:
        signal.signal(number, stay)


def _leave_server(sock: socket.socket, lifeline: int) -> None:
    """Cut off a copy of this process that the model forked: the server must see the end of it."""
    sock.close()
    os.close(lifeline)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_SIGNALS)


def _receive_one(sock: socket.socket, reader: FrameReader) -> Payload | None:
    """Wait for the first frame; None if the server is gone."""
    while count := sock.recv_into(reader.space()):
        for payload in reader.filled(count):
            return payload
    return None


def _load(load: Load, sock: socket.socket) -> LoadedModel | None:
    """Load the model and tell how it went."""
    answer: Sequence[Buffer]
    loaded: LoadedModel | None = None
    try:
        loaded = load_runtime(_source(load), threads=load.threads)
        _check_routes(load, loaded)
        streams = choose_stream(loaded.runtime) is not None
        answer = encode(Loaded(loaded.metadata, loaded.capabilities, streams))
    except (ModelLoadError, FrameError) as error:
        if loaded is not None:
            loaded.runtime.close()
            loaded = None
        problem = str(error).encode(errors="backslashreplace").decode()
        answer = encode(LoadFailed(problem))
    _send_all(sock, answer)
    return loaded


def _check_routes(load: Load, loaded: LoadedModel) -> None:
    """Refuse a model whose own routes are lost here, or tell that they are."""
    if needed := [each.path for each in loaded.routes if each.is_needed]:
        problem = (
            f"its own routes ({_quoted(needed)}) can't be served from a process of its own; "
            "leave them out or choose another scheduler"
        )
        raise ModelLoadError(problem)
    if loaded.routes:
        logging.getLogger("jackfield").warning(
            "model '%s' %s: its own routes (%s) are not served: its scheduler is 'process'",
            load.name,
            load.version,
            _quoted([each.path for each in loaded.routes]),
        )


def _quoted(paths: Sequence[str]) -> str:
    return ", ".join(f"'{each}'" for each in paths)


def _source(load: Load) -> ModelSource:
    return ModelSource(
        name=load.name,
        version=load.version,
        folder=Path(load.folder),
        settings=load.settings,
        artifact=Path(load.artifact) if load.artifact else None,
        uri=load.uri,
        spec=_runtime_spec(load.spec),
        runtimes={spec.name: _runtime_spec(spec) for spec in load.runtimes},
    )


def _runtime_spec(spec: Spec) -> RuntimeSpec:
    module, _, name = spec.options.partition(":")
    options: type[msgspec.Struct] | None = None
    if module:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        options = cast("type[msgspec.Struct]", found)
    return RuntimeSpec(
        name=spec.name,
        runtime=spec.runtime,
        capabilities=spec.capabilities,
        options=options,
    )


class _Engine(Protocol):
    def run(self) -> None:
        """Answer until the socket ends."""


def _choose_engine(loaded: LoadedModel, sock: socket.socket, reader: FrameReader) -> _Engine:
    runtime, capabilities, bound = loaded.runtime, loaded.capabilities, loaded.bound
    assert bound is not None, "load_runtime bounds what it loads"
    stream = choose_stream(runtime)
    is_parallel = capabilities.thread_safe and capabilities.releases_gil
    if inspect.iscoroutinefunction(runtime.infer):
        bound.apply()  # in the loop's thread, for good
        return _LoopEngine(loaded, sock, reader, stream=stream)
    plain = cast("Callable[[InferRequest], InferResponse]", runtime.infer)

    def infer(request: InferRequest) -> InferResponse:
        bound.apply()
        return plain(request)

    if stream is None and not is_parallel:
        return _SerialEngine(infer, loaded.metrics, sock, reader)
    threads = available_cores() if is_parallel else 1
    return _LoopEngine(loaded, sock, reader, stream=stream, plain=infer, threads=threads)


def _request(message: Infer, tensors: Sequence[Tensor]) -> InferRequest:
    return InferRequest(
        tensors, message.outputs, message.parameters, message.id, message.received_ns
    )


def _decode(payload: Payload) -> tuple[Message, list[Tensor]]:
    # the arrays of a request are read-only in the server, too
    return decode(payload._replace(data=payload.data.toreadonly()))


def _encode_response(call: int, response: object, what: str) -> Sequence[Buffer]:
    if not isinstance(response, InferResponse):
        message = f"{what} {type(response).__name__}, not InferResponse"
        raise TypeError(message)
    parameters = cast("dict[str, object]", response.parameters)
    return encode(Answer(call, parameters), response.outputs)


class _SerialEngine:
    """Runs a plain `infer` in the main thread, one request at a time."""

    def __init__(
        self,
        infer: Callable[[InferRequest], InferResponse],
        metrics: OwnMetrics,
        sock: socket.socket,
        reader: FrameReader,
    ) -> None:
        self._infer = infer
        self._metrics = metrics
        self._sock = sock
        self._reader = reader
        #: Requests not begun, in the order of their arrival.
        self._waiting: dict[int, InferRequest] = {}
        self._sending = threading.Lock()

    def run(self) -> None:
        """Answer until the socket ends."""
        _watch_metrics(self._metrics, self._send)
        while True:
            if not self._waiting and not self._receive(0):
                return
            # cancellations may lie there, too
            while self._waiting:
                try:
                    if not self._receive(socket.MSG_DONTWAIT):
                        return
                except BlockingIOError:
                    break
            if self._waiting:
                call = next(iter(self._waiting))
                self._answer(call, self._waiting.pop(call))

    def _receive(self, flags: int) -> bool:
        """Read once; tells whether the server is there."""
        count = self._sock.recv_into(self._reader.space(), 0, flags)
        for payload in self._reader.filled(count) if count else ():
            message, tensors = _decode(payload)
            if isinstance(message, Infer):
                self._waiting[message.call] = _request(message, tensors)
            elif isinstance(message, Cancel):
                self._waiting.pop(message.call, None)
            elif isinstance(message, SetLogLevel):
                set_log_level(message.level)
        return count > 0

    def _answer(self, call: int, request: InferRequest) -> None:
        try:
            answer = _encode_response(call, self._infer(request), "infer returned")
        # the seam where foreign code runs: whatever it raises is this request's failure
        except BaseException as error:  # noqa: BLE001
            answer = encode_error(call, error)
        self._send(answer)

    def _send(self, frame: Sequence[Buffer]) -> None:
        with self._sending:
            _send_all(self._sock, frame)


class _LoopEngine:
    """Runs coroutines and streams on a loop, and a plain `infer` in threads beside it."""

    def __init__(
        self,
        loaded: LoadedModel,
        sock: socket.socket,
        reader: FrameReader,
        *,
        stream: Stream | None,
        plain: Callable[[InferRequest], InferResponse] | None = None,
        threads: int = 1,
    ) -> None:
        self._runtime = loaded.runtime
        self._metrics = loaded.metrics
        self._sock = sock
        self._reader = reader
        self._stream = stream
        self._plain = plain
        self._threads = threads
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: Streams whose next response nobody has asked for yet.
        self._wanted: dict[int, asyncio.Semaphore] = {}

    def run(self) -> None:
        """Answer until the socket ends."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()
        link = self._link = Link(
            loop, self._sock, self._reader, on_frame=self._on_frame, on_lost=lost.set_result
        )
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="jackfield-infer")
        link.open()
        _watch_metrics(self._metrics, lambda frame: loop.call_soon_threadsafe(link.send, frame))
        if problem := await lost:
            logger.error("the server can't be understood: %s", problem)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # not before it is over: close frees what infer uses
        self._executor.shutdown(cancel_futures=True)

    def _on_frame(self, payload: Payload) -> None:
        message, tensors = _decode(payload)
        if isinstance(message, Infer):
            answering = self._answer_stream if message.is_stream else self._answer
            task = asyncio.ensure_future(answering(message.call, _request(message, tensors)))
            self._tasks[message.call] = task
            task.add_done_callback(lambda _: self._tasks.pop(message.call, None))
        elif isinstance(message, Cancel):
            if task_found := self._tasks.get(message.call):
                task_found.cancel()
        elif isinstance(message, Next) and message.call in self._wanted:
            self._wanted[message.call].release()
        elif isinstance(message, SetLogLevel):
            set_log_level(message.level)

    async def _answer(self, call: int, request: InferRequest) -> None:
        try:
            response = await self._infer(request)
            answer = _encode_response(call, response, "infer returned")
        # the seam again, where a task's cancellation passes, too
        except BaseException as error:  # noqa: BLE001
            answer = _failure(call, error)
        self._link.send(answer)

    def _infer(self, request: InferRequest) -> Awaitable[InferResponse]:
        if self._plain is None:
            return cast("Awaitable[InferResponse]", self._runtime.infer(request))
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._executor, _without_stop_iteration, self._plain, request)

    async def _answer_stream(self, call: int, request: InferRequest) -> None:
        assert self._stream is not None
        wanted = self._wanted[call] = asyncio.Semaphore(0)
        try:
            async with contextlib.aclosing(self._stream(request)) as responses:
                async for response in responses:
                    self._link.send(_encode_response(call, response, "stream yielded"))
                    # not further than asked: an endless stream would fill the server's memory
                    await wanted.acquire()
            answer: Sequence[Buffer] = encode(Ended(call))
        except BaseException as error:  # noqa: BLE001  as above
            answer = _failure(call, error)
        finally:
            del self._wanted[call]
        self._link.send(answer)


def _failure(call: int, error: BaseException) -> Sequence[Buffer]:
    """Write what a runtime raised; a cancellation that the server asked for goes on instead."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    return encode_error(call, error)


def _without_stop_iteration(
    infer: Callable[[InferRequest], InferResponse], request: InferRequest
) -> InferResponse:
    try:
        return infer(request)
    except StopIteration as error:  # no future takes it: the caller would wait for ever
        problem = "infer raised StopIteration"
        raise RuntimeError(problem) from error


def _send_all(sock: socket.socket, frame: Sequence[Buffer]) -> None:
    """Write a frame, blocking; where the server is gone, reading finds out."""
    with contextlib.suppress(OSError):
        for part in pack(frame):
            sock.sendall(part)


def _watch_metrics(metrics: OwnMetrics, send: Callable[[Sequence[Buffer]], object]) -> None:
    """Tell the server what the model counts itself, whenever it has changed."""

    def watch() -> None:
        told: list[Family] = []
        pause = threading.Event()
        while not pause.wait(_METRICS_S):
            families = _families(metrics)
            if families != told:
                # the loop may be closed already
                with contextlib.suppress(RuntimeError):
                    send(encode(Counted(families)))
                told = families

    threading.Thread(target=watch, name="jackfield-metrics", daemon=True).start()


def _families(metrics: OwnMetrics) -> list[Family]:
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(each.name, dict(each.labels), each.value) for each in metric.samples],
        )
        for metric in metrics.collect()
    ]


if __name__ == "__main__":
    main()
