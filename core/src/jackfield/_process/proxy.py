"""Stand in the server for a runtime that lives in a process of its own.

To its model it is a runtime as any other, whose `infer` is a coroutine function. A process that
dies fails what it holds at once and is started again, with a growing pause if it keeps dying.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, cast

import msgspec

from jackfield._loading import Loaded as LoadedModel
from jackfield._process.child import Child
from jackfield._process.errors import restore_error
from jackfield._process.frames import (
    Answer,
    Cancel,
    Counted,
    Ended,
    Failed,
    FrameError,
    Infer,
    Load,
    Loaded,
    Next,
    Payload,
    Refused,
    SetLogLevel,
    Spec,
    decode,
    encode,
)
from jackfield._process.link import Link
from jackfield._process.log import model_log_level
from jackfield._process.metrics import ProcessMetrics
from jackfield.errors import (
    InvalidRequestError,
    ModelLoadError,
    ModelNotReadyError,
    RuntimeFailedError,
)
from jackfield.messages import InferRequest, InferResponse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable

    from jackfield._repository import ModelSource
    from jackfield.messages import ModelMetadata
    from jackfield.runtime import Capabilities, RuntimeSpec

logger = logging.getLogger("jackfield")

#: Longest wait for a process to close its runtime and end, in seconds.
CLOSE_TIMEOUT_S = 10.0
#: Pause before a process that died again is started: the first, and the longest, in seconds.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
#: One that served for so long, in seconds, is started again without a pause.
_STEADY_S = 10.0


def load_in_process(
    source: ModelSource, loop: asyncio.AbstractEventLoop, *, threads: int = 1
) -> LoadedModel:
    """Load a model in a process of its own; called in a thread.

    Args:
        source: The model.
        loop: The loop that will call its `infer`; it runs.
        threads: As for `load_runtime`.

    Returns:
        As `load_runtime` in this process would, with a `ProcessRuntime`, which has the metrics.

    Raises:
        ModelLoadError: It can't be served, in the words that it would be refused with here, or its
            process died.
    """
    runtime = ProcessRuntime(source, loop, threads=threads)
    runtime.load()
    return LoadedModel(runtime, runtime.metadata(), runtime.capabilities, (), runtime.metrics)


class ProcessRuntime:
    """A runtime whose calls are answered by a child process.

    `load` and `close` are called in threads, all else on the loop. How many requests are under way
    at once is for the scheduler to bound: each is held here until it is answered.

    Args:
        source: What to load.
        loop: Where `infer` and `stream` are called.
        threads: What its framework's pools may use there for one call.
        close_timeout_s: Longest wait for the process to end by itself, in seconds.
    """

    def __init__(
        self,
        source: ModelSource,
        loop: asyncio.AbstractEventLoop,
        *,
        threads: int = 1,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self._source = source
        self._loop = loop
        self._threads = threads
        self._close_timeout_s = close_timeout_s
        #: An async generator function where the child's runtime streams; set by `load`.
        self.stream: Callable[[InferRequest], AsyncGenerator[InferResponse, None]] | None = None
        #: What the model counts itself, as its process told last.
        self.metrics = ProcessMetrics()
        #: Why it can't answer now; empty when it can.
        self.problem = "loading"
        self._log_level = logging.NOTSET
        self._loaded: Loaded | None = None
        self._link: Link | None = None
        self._calls: dict[int, asyncio.Future[InferResponse | None]] = {}
        self._numbers = itertools.count(1)
        # what the threads share
        self._child: Child | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()
        # what the thread that starts it again remembers
        self._started = 0.0
        self._deaths = 0

    @property
    def pid(self) -> int:
        """The number of its process; 0 for none."""
        return self._child.pid if self._child else 0

    @property
    def capabilities(self) -> Capabilities:
        """What the child's runtime declares."""
        return self._found.capabilities

    @property
    def _found(self) -> Loaded:
        assert self._loaded is not None, "load was not called, or failed"
        return self._loaded

    def load(self) -> None:
        """Start the process and wait until the model serves there.

        Raises:
            ModelLoadError: It can't be served, or the process died.
        """
        child, self._loaded = self._start()
        if self._loaded.streams:
            self.stream = self._stream
        self._hand_over(child)

    def metadata(self) -> ModelMetadata:
        """Give what the child told."""
        return self._found.metadata

    async def infer(self, request: InferRequest) -> InferResponse:
        """Have the child compute.

        Raises:
            InvalidRequestError: The child's runtime refuses the request, or the request can't be
                passed on: it is too large, or a parameter is no value that a message holds.
            ModelNotReadyError: The process died; the reason says how.
            RuntimeFailedError: The child's runtime raised something else; the log has the trace.
        """
        link = self._ready_link()
        call, future = self._begin(link, request, is_stream=False)
        try:
            return cast("InferResponse", await future)
        finally:
            if self._calls.pop(call, None):  # its caller has gone
                link.send(encode(Cancel(call)))

    async def _stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Have the child compute one response after the other, each when it is asked for.

        Yields:
            The responses.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        link = self._ready_link()
        call, future = self._begin(link, request, is_stream=True)
        is_over = False
        try:
            while (response := await future) is not None:
                yield response
                if self._link is not link:
                    raise self._not_ready()
                future = self._calls[call] = self._loop.create_future()
                link.send(encode(Next(call)))
            is_over = True
        finally:
            self._calls.pop(call, None)
            if not is_over:
                link.send(encode(Cancel(call)))

    def close(self) -> None:
        """Have the child close its runtime; kill it when that takes too long."""
        self._closing.set()
        with self._starting:
            child = self._child
        if child is None:
            return
        child.stop(self._close_timeout_s)
        try:
            self._loop.call_soon_threadsafe(self._let_go)
        except RuntimeError:  # the loop is closed, and watches nothing any more
            child.sock.close()

    # ---- calls ----

    def _ready_link(self) -> Link:
        if self._link is None:
            raise self._not_ready()
        return self._link

    def _not_ready(self) -> ModelNotReadyError:
        return ModelNotReadyError(self._source.name, self._source.version, reason=self.problem)

    def _begin(
        self, link: Link, request: InferRequest, *, is_stream: bool
    ) -> tuple[int, asyncio.Future[InferResponse | None]]:
        call = next(self._numbers)
        parameters = cast("dict[str, object]", request.parameters)
        message = Infer(
            call, is_stream, request.id, request.received_ns, parameters, list(request.outputs)
        )
        try:
            frame = encode(message, request.inputs)
        except FrameError as error:
            raise InvalidRequestError(
                "", expected="what can be passed to the model's process", found=str(error)
            ) from error
        if (level := model_log_level()) != self._log_level:
            self._log_level = level
            link.send(encode(SetLogLevel(level)))
        future = self._calls[call] = self._loop.create_future()
        link.send(frame)
        return call, future

    def _on_frame(self, payload: Payload) -> None:
        message, tensors = decode(payload)
        if isinstance(message, Counted):
            self.metrics.families = message.families
            return
        if not isinstance(message, Answer | Ended | Refused | Failed):
            problem = f"it sent {type(message).__name__}, which is none of its own messages"
            raise FrameError(problem)
        future = self._calls.pop(message.call, None)
        if future is None or future.done():  # cancelled meanwhile
            return
        if isinstance(message, Answer):
            future.set_result(InferResponse(tensors, message.parameters))
        elif isinstance(message, Ended):
            future.set_result(None)
        elif isinstance(message, Refused):
            future.set_exception(restore_error(message))
        else:
            name, version = self._source.name, self._source.version
            logger.error(
                "model '%s' %s failed in its process:\n%s",
                *(name, version, message.trace.rstrip()),
                extra={"model": name, "version": version},
            )
            future.set_exception(RuntimeFailedError(name, version))

    # ---- life and death of the process ----

    def _start(self) -> tuple[Child, Loaded]:
        """Start a process and wait until the model serves there."""
        load = _describe(self._source, self._threads)
        with self._starting:
            if self._closing.is_set():
                problem = "it is unloaded"
                raise ModelLoadError(problem)
            child = self._child = Child(self._source.name, self._source.version)
        loaded = child.load(load)
        self._started = monotonic()
        return child, loaded

    def _hand_over(self, child: Child) -> None:
        """Let the loop watch a process that serves; called in a thread."""
        try:
            self._loop.call_soon_threadsafe(self._attach, child)
        except RuntimeError:  # the loop is closed: nobody will ask
            child.end()
            child.sock.close()

    def _attach(self, child: Child) -> None:
        self._link = Link(
            self._loop,
            child.sock,
            child.reader,
            on_frame=self._on_frame,
            on_lost=lambda problem: self._lose(child, problem),
        )
        self._link.open()
        self._log_level = logging.NOTSET
        self.problem = ""

    def _let_go(self) -> None:
        """Stop to watch, when the process is gone for good."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self.problem = "it is unloaded"
        self._fail(self._take_calls(), self.problem)

    def _lose(self, child: Child, problem: str) -> None:
        """Begin anew, in a thread of its own: the loop's threads may all be busy."""
        self._link = None
        if self._closing.is_set():
            self.problem = "it is unloaded"
            return
        self.problem = "its process ended, and is started again"
        args = (child, problem, self._take_calls())
        name = f"jackfield-revive-{self._source.name}"
        threading.Thread(target=self._revive, args=args, name=name, daemon=True).start()

    def _take_calls(self) -> list[asyncio.Future[InferResponse | None]]:
        calls = list(self._calls.values())
        self._calls.clear()
        return calls

    def _fail(self, calls: list[asyncio.Future[InferResponse | None]], reason: str) -> None:
        for future in calls:
            if not future.done():
                error = ModelNotReadyError(self._source.name, self._source.version, reason=reason)
                future.set_exception(error)

    def _revive(
        self, child: Child, problem: str, calls: list[asyncio.Future[InferResponse | None]]
    ) -> None:
        """Find out how a process ended, tell its callers, and start it until it serves."""
        how = child.end()
        reason = f"its process {how}"
        if problem:
            reason = f"its process was ended: {problem}"
        child.report(reason)
        if monotonic() - self._started >= _STEADY_S:
            self._deaths = 0
        while not self._closing.is_set():
            pause = _pause(self._deaths)
            self._deaths += 1
            when = f"in {pause:g} s" if pause else "now"
            told = f"{reason}; it is started again {when}"
            if not self._on_loop(self._tell, calls, reason, told):
                return
            calls = []
            if self._closing.wait(pause):
                break
            try:
                child, loaded = self._start()
                self._check(child, loaded)
            except ModelLoadError as error:
                reason = f"its process was started again, and failed: {error}"
                if not self._closing.is_set():
                    name, version = self._source.name, self._source.version
                    logger.error("model '%s' %s: %s", name, version, reason)
                continue
            self._hand_over(child)
            return
        self._on_loop(self._tell, calls, reason, "it is unloaded")

    def _tell(
        self, calls: list[asyncio.Future[InferResponse | None]], reason: str, problem: str
    ) -> None:
        self.problem = problem
        self._fail(calls, reason)

    def _on_loop(self, function: Callable[..., None], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # it is closed
            return False
        return True

    def _check(self, child: Child, loaded: Loaded) -> None:
        """Refuse what is another model than the one that was loaded."""
        # not the records: a NaN among the parameters differs from itself
        if encode(loaded) != encode(self._found):
            child.end()
            child.sock.close()
            problem = "what it takes and gives has changed on disk; load it anew"
            raise ModelLoadError(problem)


def _pause(deaths: int) -> float:
    """Tell how long to wait after so many deaths in a row: not at all after the first."""
    return min(_FIRST_PAUSE_S * 2 ** (deaths - 1), _LONGEST_PAUSE_S) if deaths else 0.0


def _describe(source: ModelSource, threads: int) -> Load:
    spec = source.spec
    if source.problem or spec is None:
        raise ModelLoadError(source.problem or "no runtime was found for it")
    return Load(
        source.name,
        source.version,
        str(source.folder),
        str(source.artifact or ""),
        source.uri,
        # the server watches; keys of webhooks are not the process's matter
        msgspec.structs.replace(source.settings, monitors=[]),
        _describe_runtime(spec),
        [_describe_runtime(each) for each in source.runtimes.values()],
        threads,
        list(sys.path),
        model_log_level(),
    )


def _describe_runtime(spec: RuntimeSpec) -> Spec:
    options = spec.options
    return Spec(
        spec.name,
        spec.runtime,
        spec.capabilities,
        f"{options.__module__}:{options.__qualname__}" if options else "",
    )
