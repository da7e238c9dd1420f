"""What a host runs: ``python -m jackfield._process.worker``.

Loads models as the server would, and answers the frames that come. A lone model with a plain
`infer` runs in the main thread, which reads the socket itself: no thread is woken for a request.
All else runs around an event loop; as models come and go, so do these two. The end of the socket is
the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import socket
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

from jackfield._lifeline import tie
from jackfield._process.callbacks import UNDER, PeerCalls
from jackfield._process.errors import encode_error
from jackfield._process.frames import FrameError
from jackfield._process.hosted import Hosted, Loader
from jackfield._process.link import Link
from jackfield._process.log import configure_child_logging, set_log_level
from jackfield._process.messages import (
    Answer,
    Begin,
    Cancel,
    Counted,
    Ended,
    Infer,
    Load,
    LoadFailed,
    Next,
    Resolve,
    SetLogLevel,
    Unload,
    Unloaded,
    restore_request,
)
from jackfield._process.routes import RouteAnswers
from jackfield._process.segments import Transport
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from jackfield._process.frames import Buffer, Payload
    from jackfield._process.messages import Family, Message
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")

#: How often the models' own metrics are looked at, in seconds.
_METRICS_S = 0.5
#: How often a thread that waits looks whether the server is still there, in seconds.
_LOOK_S = 1.0
#: Models that load at the same time, beside those that serve.
_LOADERS = 4
#: As plain numbers: the enumeration's own sums cost microseconds.
_NO_WAIT = int(socket.MSG_DONTWAIT)


def main() -> None:
    """Serve models until the server shuts the socket."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    tie(sock, int(sys.argv[2]))
    faulthandler.enable()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    Worker(sock).serve()


class _Engine(Protocol):
    """Reads the socket, and has the models answer."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that reads, where one does."""

    def run(self) -> _Engine | None:
        """Answer until the socket ends, or another engine fits better, which is returned."""

    def post(self, frame: Sequence[Buffer]) -> None:
        """Send a frame; called by one thread at a time."""

    def wait(self, event: threading.Event) -> None:
        """Wait until an event is set, or the engine ends; in any thread but the loop's."""


class Worker:
    """This process: its models and its end of the socket.

    `tell`, `send` and `wait` are for any thread.

    Args:
        sock: Connected to the server.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.transport = Transport()
        self.models: dict[int, Hosted] = {}
        self.peers = PeerCalls(self)
        self.loader = Loader(self.peers.find_for)
        #: Messages that the next engine begins with.
        self.backlog: deque[tuple[Message, Sequence[Tensor]]] = deque()
        #: Whether the server is gone.
        self.is_over = False
        self._sending = threading.Lock()
        self._engine: _Engine = _SerialEngine(self)

    def serve(self) -> None:
        """Answer until the socket ends, then close the models."""
        threading.Thread(target=self._watch_metrics, name="jackfield-metrics", daemon=True).start()
        engine: _Engine | None = self._engine
        try:
            while engine is not None:
                engine = engine.run()
        finally:
            self.is_over = True
            for hosted in [*self.models.values()]:
                hosted.close()

    @property
    def is_serial(self) -> bool:
        """Whether the main thread alone can do it."""
        return len(self.models) <= 1 and all(each.is_serial for each in self.models.values())

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that reads, where one does."""
        return self._engine.loop

    def tell(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Send a message.

        Raises:
            FrameError: It can't be written.
        """
        self.send(self.transport.encode(message, tensors))

    def send(self, frame: Sequence[Buffer]) -> None:
        """Send a frame; where the server is gone, reading finds out."""
        with self._sending:
            self._engine.post(frame)

    def hand_over(self, engine: _Engine, prepare: Callable[[], bool]) -> bool:
        """Send by another engine from now on.

        Args:
            engine: That one.
            prepare: Called while nobody sends; tells whether it may be.

        Returns:
            What `prepare` told.
        """
        with self._sending:
            is_ready = prepare()
            if is_ready:
                self._engine = engine
            return is_ready

    def wait(self, event: threading.Event) -> None:
        """Wait until an event is set.

        Raises:
            EOFError: The server is gone.
        """
        while not event.is_set():
            if self.is_over:
                raise EOFError
            self._engine.wait(event)

    def take_common(self, message: Message) -> bool:
        """Do what all engines do with a message; tells whether that was all."""
        if isinstance(message, SetLogLevel):
            set_log_level(message.level)
        elif isinstance(message, Begin):
            configure_child_logging(message.log_level)
            if message.path:
                sys.path[:] = message.path
        else:
            return False
        return True

    def load(self, load: Load) -> None:
        """Load a model, and tell how it went."""
        answer, hosted = self.loader.load(load)
        if hosted is not None:
            self.models[hosted.number] = hosted
        try:
            self.tell(answer)
        except FrameError as error:  # its metadata holds what no message does
            if hosted is not None:
                del self.models[hosted.number]
                hosted.close()
            self.tell(LoadFailed(load.model, str(error)))

    def _watch_metrics(self) -> None:
        """Tell the server what the models count themselves, whenever it has changed."""
        told: dict[int, list[Family]] = {}
        pause = threading.Event()
        while not pause.wait(_METRICS_S):
            if self.loop is None and self.transport.needs_care:
                self.send(())  # what memory is free
            models = dict(self.models)
            for number, hosted in models.items():
                families = hosted.count()
                if families != told.get(number, []):
                    self.tell(Counted(number, families))
                    told[number] = families
            for number in told.keys() - models.keys():
                del told[number]


def _check_response(response: object, what: str) -> InferResponse:
    if not isinstance(response, InferResponse):
        message = f"{what} {type(response).__name__}, not InferResponse"
        raise TypeError(message)
    return response


def _answer_of(call: int, response: InferResponse) -> Answer:
    return Answer(call, cast("dict[str, object]", response.parameters))


class _SerialEngine:
    """Runs a plain `infer` in the main thread, one request at a time."""

    loop = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sock = worker.sock
        self._transport = worker.transport
        #: Requests not begun, in the order of their arrival.
        self._waiting: dict[int, tuple[Infer, Sequence[Tensor]]] = {}
        # the main thread reads; while it computes, another one does that waits for an answer
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._is_read = False
        #: Threads that wait for their turn.
        self._readers = 0
        self._has_ended = False

    def run(self) -> _Engine | None:
        """Answer until the socket ends, or a loop is needed, which is returned."""
        self._sock.setblocking(True)  # noqa: FBT003  it takes no name
        worker = self._worker
        try:
            while True:
                if not self._has_work():
                    self._read(self._has_work)
                    is_fresh = not self._transport.has_more
                else:
                    is_fresh = False
                # cancellations may lie there, too
                while self._waiting and not is_fresh and self._read(bool, _NO_WAIT):
                    pass
                if worker.is_over:
                    return None
                if worker.backlog:
                    if not worker.models and self._load_first():
                        continue
                    return self._begin_loop()
                if self._waiting:
                    self._answer(*self._waiting.pop(next(iter(self._waiting))))
        finally:
            with self._lock:
                self._has_ended = True
                if self._is_read:  # another engine is to read from here on
                    self._await_turn(lambda: False)
                self._turn.notify_all()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._worker.backlog or self._worker.is_over)

    def _read(self, is_enough: Callable[[], bool], flags: int = 0) -> bool:
        """Read once, in one thread at a time, unless there is enough; False for nothing read."""
        with self._lock:
            if self._is_read:
                if flags:
                    return False
                self._await_turn(is_enough)
            if is_enough():
                return False
            self._is_read = True
        try:
            if not flags and self._transport.needs_care:
                self._worker.send(())
            payloads = self._transport.receive(self._sock, flags)
            if payloads is None:
                self._worker.is_over = True
                return False
            for payload in payloads:
                self._take(*self._transport.decode(payload))
        except BlockingIOError:
            return False
        except (OSError, FrameError) as error:
            logger.error("the server can't be understood: %s", error)
            self._worker.is_over = True
            return False
        finally:
            with self._lock:
                self._is_read = False
                if self._readers:
                    self._turn.notify_all()
        return True

    def _await_turn(self, is_enough: Callable[[], bool]) -> None:
        """Wait until no other thread reads, or there is enough; `_lock` is held."""
        self._readers += 1
        while self._is_read and not is_enough():
            self._turn.wait()
        self._readers -= 1

    def _take(self, message: Message, tensors: Sequence[Tensor]) -> None:
        if isinstance(message, Infer) and not self._worker.backlog:
            self._waiting[message.call] = (message, tensors)
        elif isinstance(message, Cancel) and message.call in self._waiting:
            del self._waiting[message.call]
        elif isinstance(message, Cancel) and not self._worker.backlog:
            pass  # it runs, or is answered
        elif not (self._worker.take_common(message) or self._worker.peers.handle(message, tensors)):
            self._worker.backlog.append((message, tensors))

    def _load_first(self) -> bool:
        """Load in the main thread while nothing serves; False where that is not what is asked."""
        message, _ = self._worker.backlog[0]
        if isinstance(message, Load):
            self._worker.backlog.popleft()
            self._worker.load(message)
        elif isinstance(message, Resolve):
            self._worker.backlog.popleft()
            self._worker.tell(self._worker.loader.resolve(message))
        else:
            return False
        return self._worker.is_serial

    def _begin_loop(self) -> _LoopEngine:
        worker = self._worker
        worker.backlog.extendleft(reversed(self._waiting.values()))
        self._waiting.clear()
        return _LoopEngine(worker)

    def _answer(self, message: Infer, tensors: Sequence[Tensor]) -> None:
        call = message.call
        UNDER.set(call)
        request = restore_request(message, tensors)
        del tensors
        try:
            infer = self._worker.models[message.model].infer
            assert infer is not None, "a serial model has a plain infer"
            response = _check_response(infer(request), "infer returned")
            del request  # its memory is told free along with the answer
            frame = self._transport.encode(_answer_of(call, response), response.outputs)
        # the seam where foreign code runs: whatever it raises is this request's failure
        except BaseException as error:  # noqa: BLE001
            frame = encode_error(call, error)
        self._worker.send(frame)

    def post(self, frame: Sequence[Buffer]) -> None:
        """Send a frame, blocking."""
        self._transport.send_all(self._sock, frame)

    def wait(self, event: threading.Event) -> None:
        """Read until the event is set, where nobody else does."""
        if not self._has_ended:
            self._read(lambda: event.is_set() or self._has_ended)


class _LoopEngine:
    """Runs coroutines and streams on a loop, and plain functions in threads beside it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        #: What other threads want to send, in their order.
        self._outbox: deque[Sequence[Buffer]] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: Loads and the like.
        self._jobs: set[asyncio.Task[None]] = set()
        #: Streams whose next response nobody has asked for yet.
        self._wanted: dict[int, asyncio.Semaphore] = {}

    def run(self) -> _Engine | None:
        """Answer until the socket ends, or the main thread can do without a loop."""
        return asyncio.run(self._run())

    async def _run(self) -> _Engine | None:
        worker = self._worker
        self.loop = loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ended: asyncio.Future[_Engine | str] = loop.create_future()
        self._link = Link(
            loop, worker.sock, worker.transport, on_frame=self._on_frame, on_lost=self._lose
        )
        self._routes = RouteAnswers(worker.tell)
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="jackfield-load")
        for hosted in worker.models.values():
            self._admit(hosted)
        worker.hand_over(self, self._open)
        while worker.backlog:
            self._take(*worker.backlog.popleft())
        self._consider_leaving()
        ended = await self._ended
        if not isinstance(ended, str):
            self._loaders.shutdown()
            return ended
        if ended:
            logger.error("the server can't be understood: %s", ended)
        worker.is_over = True
        tasks = [*self._tasks.values(), *self._jobs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._routes.close()
        # not before it is over: close frees what infer uses
        self._loaders.shutdown(cancel_futures=True)
        return None

    def _open(self) -> bool:
        self._link.open()
        return True

    def _lose(self, problem: str) -> None:
        self._worker.is_over = True
        if not self._ended.done():
            self._ended.set_result(problem)

    def _consider_leaving(self) -> None:
        """Leave the rest to the main thread alone, where that is enough."""
        if self._worker.is_serial:
            assert self.loop is not None
            self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        worker = self._worker
        if self._tasks or self._jobs or not worker.is_serial or self._ended.done():
            return  # whichever ends last asks anew
        engine = _SerialEngine(worker)
        self._flush()
        if worker.hand_over(engine, lambda: not self._outbox and self._link.release()):
            worker.sock.setblocking(True)  # noqa: FBT003  it takes no name
            self._ended.set_result(engine)

    # ---- what is sent ----

    def post(self, frame: Sequence[Buffer]) -> None:
        """Send a frame when the loop comes to it."""
        if threading.get_ident() == self._thread:
            self._link.send(frame)
            return
        self._outbox.append(frame)
        assert self.loop is not None
        # it may be closed already
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        while self._outbox:
            self._link.send(self._outbox.popleft())

    def wait(self, event: threading.Event) -> None:
        """Wait: the loop reads."""
        event.wait(_LOOK_S)

    # ---- what comes ----

    def _on_frame(self, payload: Payload) -> None:
        self._take(*self._worker.transport.decode(payload))

    def _take(self, message: Message, tensors: Sequence[Tensor]) -> None:
        worker = self._worker
        if isinstance(message, Infer):
            hosted = worker.models.get(message.model)
            if hosted is None:
                problem = f"there is no model {message.model} here"
                raise FrameError(problem)
            answering = self._answer_stream if message.is_stream else self._answer
            request = restore_request(message, tensors)
            self._begin(message.call, answering(message.call, hosted, request))
        elif isinstance(message, Cancel) and message.call in self._tasks:
            self._tasks[message.call].cancel()
        elif isinstance(message, Next) and message.call in self._wanted:
            self._wanted[message.call].release()
        elif isinstance(message, Load):
            self._begin_job(self._load(message))
        elif isinstance(message, Resolve):
            self._begin_job(self._resolve(message))
        elif isinstance(message, Unload):
            self._begin_job(self._unload(message))
        elif not (worker.take_common(message) or worker.peers.handle(message, tensors)):
            self._routes.handle(message, tensors)

    def _begin(self, call: int, work: Coroutine[None, None, None]) -> None:
        task = self._tasks[call] = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._end(call))

    def _end(self, call: int) -> None:
        self._tasks.pop(call, None)
        if not self._tasks:
            self._consider_leaving()

    def _begin_job(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.ensure_future(work)
        self._jobs.add(job)
        job.add_done_callback(self._end_job)

    def _end_job(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            job.result()
        self._consider_leaving()

    # ---- models ----

    def _admit(self, hosted: Hosted) -> None:
        hosted.bound_loop()
        self._routes.add(hosted.number, hosted.routes)

    async def _load(self, load: Load) -> None:
        loop = asyncio.get_running_loop()
        answer, hosted = await loop.run_in_executor(self._loaders, self._worker.loader.load, load)
        if hosted is not None:
            self._worker.models[hosted.number] = hosted
            self._admit(hosted)
        try:
            self._worker.tell(answer)
        except FrameError as error:  # its metadata holds what no message does
            await self._unload(Unload(load.model), LoadFailed(load.model, str(error)))

    async def _resolve(self, resolve: Resolve) -> None:
        loop = asyncio.get_running_loop()
        resolving = self._worker.loader.resolve
        self._worker.tell(await loop.run_in_executor(self._loaders, resolving, resolve))

    async def _unload(self, unload: Unload, answer: Message | None = None) -> None:
        hosted = self._worker.models.pop(unload.model, None)
        if hosted is not None:
            await self._routes.remove(hosted.number)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._loaders, hosted.close)
        self._worker.tell(answer or Unloaded(unload.model))

    # ---- calls ----

    async def _answer(self, call: int, hosted: Hosted, request: InferRequest) -> None:
        UNDER.set(call)
        try:
            response = _check_response(await _infer(call, hosted, request), "infer returned")
            del request  # its memory is told free along with the answer
            transport = self._worker.transport
            frame = transport.encode(_answer_of(call, response), response.outputs)
        # the seam again, where a task's cancellation passes, too
        except BaseException as error:  # noqa: BLE001
            frame = _failure(call, error)
        self._link.send(frame)

    async def _answer_stream(self, call: int, hosted: Hosted, request: InferRequest) -> None:
        UNDER.set(call)
        assert hosted.stream is not None
        transport = self._worker.transport
        wanted = self._wanted[call] = asyncio.Semaphore(0)
        try:
            async with contextlib.aclosing(hosted.stream(request)) as responses:
                async for each in responses:
                    response = _check_response(each, "stream yielded")
                    answer = _answer_of(call, response)
                    self._link.send(transport.encode(answer, response.outputs))
                    # not further than asked: an endless stream would fill the server's memory
                    await wanted.acquire()
            frame = transport.encode(Ended(call))
        except BaseException as error:  # noqa: BLE001  as above
            frame = _failure(call, error)
        finally:
            del self._wanted[call]
        self._link.send(frame)


def _infer(call: int, hosted: Hosted, request: InferRequest) -> Awaitable[InferResponse]:
    if hosted.infer is None:
        return cast("Awaitable[InferResponse]", hosted.runtime.infer(request))
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(hosted.executor, _infer_in_thread, call, hosted.infer, request)


def _infer_in_thread(
    call: int, infer: Callable[[InferRequest], InferResponse], request: InferRequest
) -> InferResponse:
    UNDER.set(call)
    try:
        return infer(request)
    except StopIteration as error:  # no future takes it: the caller would wait for ever
        problem = "infer raised StopIteration"
        raise RuntimeError(problem) from error


def _failure(call: int, error: BaseException) -> list[Buffer]:
    """Write what a runtime raised; a cancellation that the server asked for goes on instead."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    return encode_error(call, error)


if __name__ == "__main__":
    main()
