"""One live model version: admits, times, counts and answers its requests; and ends.

Used on its server's event loop. Foreign exceptions of a runtime are translated here and nowhere
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING, overload

from jackfield._label import label_model
from jackfield._outputs import select_outputs
from jackfield._peers import Beside, request_of
from jackfield._scheduling import (
    NEVER,
    Execution,
    Scheduler,
    choose_stream,
)
from jackfield.errors import (
    CapacityError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    RequestError,
    RuntimeFailedError,
)
from jackfield.messages import InferRequest, InferResponse, ModelMetadata, Timing

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Iterator,
        Sequence,
    )

    from jackfield._loading import OwnMetrics
    from jackfield._monitors import Observer
    from jackfield._repository import ModelSource
    from jackfield._routes import ModelRoute
    from jackfield._statistics import ModelStatistics
    from jackfield._threads import ThreadBound
    from jackfield._tracing import TraceSettings
    from jackfield.runtime import Capabilities, Runtime
    from jackfield.tensor import Tensor


logger = logging.getLogger("jackfield")

#: What a caller is told as it is. Not what a runtime meets as a client of another server, whose
#: address it may name.
_TOLD = (RequestError, CapacityError, RuntimeFailedError)


class Model:
    """One loaded model version: admits requests, runs its scheduler, counts."""

    def __init__(
        self,
        source: ModelSource,
        runtime: Runtime,
        metadata: ModelMetadata,
        *,
        scheduler: Scheduler,
        statistics: ModelStatistics,
        capabilities: Capabilities,
        traces: TraceSettings,
        routes: Sequence[ModelRoute] = (),
        metrics: OwnMetrics | None = None,
        bound: ThreadBound | None = None,
        needs: Sequence[str] = (),
    ) -> None:
        self.name = source.name
        self.version = source.version
        #: Names of the models that it calls.
        self.needs = needs
        self.metadata = metadata
        self.runtime_name = source.spec.name if source.spec else ""
        self._runtime = runtime
        #: Runs its requests; the shells look whether that is a matter of milliseconds.
        self.scheduler = scheduler
        self._bound = bound
        self._stream = choose_stream(runtime, bound)
        self.streams = self._stream is not None
        self.reads_headers = capabilities.reads_headers
        self.is_stateful = capabilities.stateful
        self._is_row_wise = capabilities.row_wise
        self.statistics = statistics
        self._outputs = frozenset(output.name for output in metadata.outputs)
        self._max_queue = source.settings.max_queue
        #: Paths that the runtime answers itself.
        self.routes = routes
        #: What the runtime counts itself.
        self.metrics = metrics
        self._visits = 0
        self._traces = traces
        self._idle = asyncio.Event()
        self._idle.set()
        self._beside = Beside(statistics)
        #: Who is shown what was answered; streams are not.
        self.observers: Sequence[Observer] = ()
        #: What was loaded in its place. Who found this one before may ask it after that: the body
        #: of its request was still to come.
        self.successor: Model | None = None

    @overload
    async def infer(self, request: InferRequest, /) -> InferResponse: ...

    @overload
    async def infer(self, /, **inputs: object) -> InferResponse: ...

    async def infer(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> InferResponse:
        """Compute a response.

        Args:
            request: At least one input; requested outputs are checked against the metadata.
            inputs: Instead of a request: an array for each input, by the input's name.

        Returns:
            The runtime's outputs, with the model's name and version and the request's id.

        Raises:
            DeadlineError: The caller's time is over, or the longest that a call may take.
            InvalidRequestError: An output is unknown, or the runtime refuses the request.
            ModelNotReadyError: The runtime does not come back from an earlier call.
            OverloadedError: `max_queue` requests are held already.
            RuntimeFailedError: The runtime raised; the log tells what.
            TypeError: An input is nothing that a tensor can be made of, or there is none.

        Example:
            ```python
            response = await server.model("iris").infer(x=[[5.1, 3.5, 1.4, 0.2]])
            response.arrays["predict"]
            ```
        """
        arrived = perf_counter_ns()
        if request is None or inputs:
            request = request_of(request, inputs)
        if self.successor is not None:
            return await self._newest().infer(request)
        received = request.received_ns or arrived
        self._admit(request)
        call = None
        try:
            deadline = NEVER
            if request.parameters or request.deadline_ns:
                deadline = self._deadline(request, received, arrived)
            call = self.scheduler.submit(request, arrived, deadline)
            await call.future
            response, started, ended, rows, requests = call.execution
            outputs: Sequence[Tensor] = response.outputs
            if request.outputs:
                outputs = select_outputs(request.outputs, outputs, self.metadata)
        except BaseException as error:
            if call is not None:
                self.scheduler.leave(call)
            self._fail(error, perf_counter_ns() - received)
            raise
        finally:
            self._release()
        self.statistics.succeeded(received, arrived, started, ended, call.size, rows)
        if self._traces.is_on:
            self._trace(request, outputs, arrived=arrived, started=started, ended=ended)
        timing = Timing(received, arrived, started, ended, rows, requests)
        answer = InferResponse(
            outputs, response.parameters, self.name, self.version, request.id, timing
        )
        for observer in self.observers:
            observer.observe(request, answer)
        return answer

    def infer_here(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> InferResponse | None:
        """Compute a response in the calling thread, any one but the loop's, for another model.

        It saves two changes of threads, which cost more than a short call. For that nothing else
        may be under way in this model, and its runtime must be one that any thread may call.

        Args:
            request: As for `infer`.
            inputs: As for `infer`.

        Returns:
            As `infer`; None where that is the way, and nothing has happened.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        arrived = perf_counter_ns()
        if request is None or inputs:
            request = request_of(request, inputs)
        if self.successor is not None or self._traces.is_on:
            return None
        left_ns = request.deadline_ns - arrived if request.deadline_ns else NEVER
        if request.parameters or not request.inputs:
            return None
        if not self.scheduler.fits_here(request, left_ns):
            return None
        if request.outputs and self._outputs:
            self._check_outputs(request)
        if not self._beside.enter():
            return None
        statistics = self.statistics
        received = request.received_ns or arrived
        try:
            # Looked at after it was counted: the loop, which looks first and counts then, may have
            # let in one that is not seen here, and no more.
            if statistics.in_flight or statistics.beside > 1 or self._max_queue == 1:
                return None
            outcome = self.scheduler.answer_here(request)
            if not isinstance(outcome, Execution):
                raise outcome
            response, started, ended, rows, requests = outcome
            outputs: Sequence[Tensor] = response.outputs
            if request.outputs:
                outputs = select_outputs(request.outputs, outputs, self.metadata)
        except BaseException as error:
            self._fail(error, perf_counter_ns() - received)
            raise
        finally:
            self._beside.leave()
        statistics.succeeded(received, arrived, started, ended, rows)
        timing = Timing(received, arrived, started, ended, rows, requests)
        return InferResponse(
            outputs, response.parameters, self.name, self.version, request.id, timing
        )

    @overload
    def stream(self, request: InferRequest, /) -> AsyncGenerator[InferResponse, None]: ...

    @overload
    def stream(self, /, **inputs: object) -> AsyncGenerator[InferResponse, None]: ...

    async def stream(
        self, request: InferRequest | None = None, /, **inputs: object
    ) -> AsyncGenerator[InferResponse, None]:
        """Compute responses one after another; one alone where the runtime does not stream.

        Args:
            request: As for `infer`.
            inputs: As for `infer`.

        Yields:
            Responses, each with the model's name and version and the request's id. Closing the
            generator, or cancelling its task, ends the runtime's work.

        Raises:
            InvalidRequestError: As for `infer`; so do the others there.
        """
        if request is None or inputs:
            request = request_of(request, inputs)
        if self.successor is not None:
            async with contextlib.aclosing(self._newest().stream(request)) as responses:
                async for response in responses:
                    yield response
            return
        if self._stream is None:
            yield await self.infer(request)
            return
        arrived = perf_counter_ns()
        self._admit(request)
        outputs: Sequence[Tensor] = ()
        try:
            async with contextlib.aclosing(self._stream(request)) as responses:
                async for response in responses:
                    if not isinstance(response, InferResponse):
                        raise _no_response("stream yielded", response)
                    outputs = response.outputs
                    # one without any tells of progress
                    if request.outputs and outputs:
                        outputs = select_outputs(request.outputs, outputs, self.metadata)
                    yield InferResponse(
                        outputs, response.parameters, self.name, self.version, request.id
                    )
        except BaseException as error:  # GeneratorExit too: a caller who leaves has no answer
            self._fail(error, perf_counter_ns() - (request.received_ns or arrived))
            raise
        finally:
            self._release()
        ended = perf_counter_ns()
        size = shape[0] if self._is_row_wise and (shape := request.inputs[0].shape) else 1
        self.statistics.executed(requests=1, rows=size, ns=ended - arrived, waiting=0)
        received = request.received_ns or arrived
        self.statistics.succeeded(received, arrived, arrived, ended, size)
        if self._traces.is_on:
            self._trace(request, outputs, arrived=arrived, started=arrived, ended=ended)

    def _newest(self) -> Model:
        model = self
        while model.successor is not None:
            model = model.successor
        return model

    @property
    def problem(self) -> str:
        """Why it can't answer now, although it is loaded; empty when it can."""
        return self.scheduler.problem or str(getattr(self._runtime, "problem", ""))

    def _admit(self, request: InferRequest) -> None:
        """Let a request in, or refuse it."""
        if not request.inputs:  # the shells refuse it earlier
            raise InvalidRequestError(
                "inputs", expected="at least one", found="none", model=self.name
            )
        if request.outputs and self._outputs:
            self._check_outputs(request)
        statistics = self.statistics
        if statistics.in_flight + statistics.beside >= self._max_queue:
            statistics.rejected_count += 1
            raise OverloadedError(self.name, limit=self._max_queue)
        statistics.in_flight += 1
        self._idle.clear()

    def _deadline(self, request: InferRequest, received: int, arrived: int) -> int:
        """Find when the caller's time is over: by the transport, or by `timeout`."""
        deadline = request.deadline_ns or NEVER
        timeout_us = request.parameters.get("timeout", 0)
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
            raise InvalidRequestError(
                "parameters.timeout",
                expected="an integer of 0 or more, in microseconds",
                found=repr(timeout_us),
                model=self.name,
            )
        if timeout_us:
            deadline = min(deadline, received + timeout_us * 1000)
        if deadline <= arrived:
            raise DeadlineError(self.name, timeout_s=(deadline - received) * 1e-9)
        return deadline

    def _release(self) -> None:
        self.statistics.in_flight -= 1
        if not self.statistics.in_flight and not self._visits:
            self._idle.set()

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Keep the runtime while one of its own routes answers; that is no inference.

        Raises:
            OverloadedError: `max_queue` of them are under way already.
        """
        if self._visits >= self._max_queue:
            raise OverloadedError(self.name, limit=self._max_queue)
        self._visits += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._visits -= 1
            if not self.statistics.in_flight and not self._visits:
                self._idle.set()

    def _fail(self, error: BaseException, ns: int) -> None:
        """Count a failure; raise what the caller may know of it instead."""
        self.statistics.failed(ns, _outcome(error))
        self.translate(error)

    def translate(self, error: BaseException) -> None:
        """Raise what the caller may know of what a runtime raised, where that is something else."""
        if isinstance(error, InvalidRequestError) and not error.model:
            raise error.for_model(self.name) from error
        # the seam where foreign code runs: whatever it raises is logged here and told to nobody;
        # SystemExit, if let through, would end the event loop
        if isinstance(error, Exception | SystemExit) and not isinstance(error, _TOLD):
            logger.error("%s failed", label_model(self.name, self.version), exc_info=error)
            raise RuntimeFailedError(self.name, self.version) from error

    def _trace(
        self,
        request: InferRequest,
        outputs: Sequence[Tensor],
        *,
        arrived: int,
        started: int,
        ended: int,
    ) -> None:
        self._traces.trace(
            self.name,
            self.version,
            request=request,
            outputs=outputs,
            received=request.received_ns or arrived,
            arrived=arrived,
            started=started,
            ended=ended,
        )

    def _check_outputs(self, request: InferRequest) -> None:
        for index, output in enumerate(request.outputs):
            if output.name not in self._outputs:
                raise InvalidRequestError(
                    f"outputs[{index}].name",
                    expected=f"one of {', '.join(sorted(self._outputs))}",
                    found=f"'{output.name}'",
                    model=self.name,
                )

    async def close(self, timeout_s: float | None = None) -> None:
        """Wait for the requests in flight, then free the runtime.

        Args:
            timeout_s: The longest wait; None waits for all. A runtime that is still in use then is
                not freed.
        """
        for observer in self.observers:
            observer.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._beside.close()
                await self._idle.wait()
                await self.scheduler.drain()
        except TimeoutError:
            logger.warning(
                "%s: requests did not end within %g s",
                label_model(self.name, self.version),
                timeout_s,
            )
            self.scheduler.close()
            return
        self.scheduler.close()
        # a thread of its own name: those of the loop are waited for without end when it closes
        closer = ThreadPoolExecutor(1, thread_name_prefix="jackfield-close")
        try:
            async with asyncio.timeout(timeout_s):
                ends: list[Callable[[], object]] = [self.scheduler.join, self._runtime.close]
                await asyncio.get_running_loop().run_in_executor(closer, _call_each, ends)
        except TimeoutError:
            logger.warning("%s did not close in time", label_model(self.name, self.version))
        # foreign code: a runtime that fails to free itself must not keep others from closing
        except (Exception, SystemExit):
            logger.exception("%s failed to close", label_model(self.name, self.version))
        finally:
            if self._bound is not None:
                closer.submit(self._bound.close)
            closer.shutdown(wait=False)


def _call_each(functions: list[Callable[[], object]]) -> None:
    """Call functions, and let go of each: a thread's own hold outlasts its answer by a moment."""
    while functions:
        functions.pop(0)()


def _outcome(error: BaseException) -> str:
    """Name a failure for the statistics."""
    if isinstance(error, DeadlineError):
        return "deadline"
    if isinstance(error, RequestError):
        return "invalid"
    if isinstance(error, CapacityError):
        return "unavailable"
    # a caller who leaves a stream closes its generator
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return "failure"


def _no_response(what: str, found: object) -> TypeError:
    message = f"{what} {type(found).__name__}, not InferResponse"
    return TypeError(message)
