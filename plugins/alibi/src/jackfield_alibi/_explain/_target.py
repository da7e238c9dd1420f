"""The model that is explained: called in process, or as a client of its server."""

from __future__ import annotations

import contextlib
import random
from contextvars import ContextVar
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jackfield import (
    CallTimeoutError,
    CapacityError,
    Datatype,
    DeadlineError,
    Fault,
    InferRequest,
    InvalidRequestError,
    JackfieldError,
    ModelLoadError,
    ModelMetadata,
    RequestedOutput,
    RequestError,
    RuntimeFailedError,
    Tensor,
    TensorMetadata,
)
from jackfield.client import InferResult
from jackfield_alibi._explain._calling import (
    await_target,
    create_caller,
    is_passing,
    is_refusal,
    is_too_large,
    status_of,
)
from jackfield_alibi._explain._explanation import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from jackfield import InferResponse, ModelContext
    from jackfield_alibi._explain._calling import Caller, Reached
    from jackfield_alibi._explain._target_settings import TargetSettings

__all__ = [
    "Target",
    "TargetBusyError",
    "TargetFailedError",
    "TargetRefusedError",
    "Usage",
    "open_target",
    "target_error",
]

#: The input of a target that tells none, as MLServer has it.
_INPUT = "predict"
_PROBABILITIES = "predict_proba"
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
#: How often somebody who waits for a repeat looks whether he still should, in seconds.
_LOOK_S = 0.05


class TargetFailedError(RuntimeFailedError):
    """The target failed, or its answer can't be used; the text names it, its status and why.

    Args:
        name: The target.
        problem: What happened, for the caller: no address, no text of another server.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name)
        self.problem = problem
        self.args = (f"the target '{name}' {problem}",)


class TargetRefusedError(RequestError):
    """The target refuses rows that the explainer made of the request's.

    It took the reference data when the explainer was loaded, so that it is the request that does
    not fit.

    Args:
        name: The target.
        problem: Its own reason.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"the target '{name}' {problem}")


class TargetBusyError(CapacityError):
    """The target is overloaded, not ready or gone, repeats among it.

    Args:
        name: The target.
        problem: What happened, for the caller.
        retry_after_s: What the caller is told to wait, in seconds.
    """

    fault = Fault.NOT_READY

    def __init__(self, name: str, problem: str, *, retry_after_s: float = 1.0) -> None:
        self.name = name
        self.problem = problem
        self.retry_after_s = retry_after_s
        super().__init__(f"the target '{name}' {problem}")


class Usage:
    """What one request cost at the target; counts while it runs.

    Attributes:
        calls: Calls that were answered.
        rows: Rows in them.
    """

    __slots__ = ("calls", "rows")

    def __init__(self) -> None:
        self.calls = 0
        self.rows = 0


def open_target(
    context: ModelContext,
    settings: TargetSettings,
    *,
    wants: Literal["", "probabilities"] = "",
) -> Target:
    """Find the target at load, and learn what it takes and gives.

    A `target`, and an `infer_uri` of this very server (`_address.own_model` has the rule), is
    called in process. Another server may still start: it is asked again for `target_wait_s`.

    Args:
        context: Of the explainer.
        settings: Which model, and how it is called.
        wants: `"probabilities"` takes the output `predict_proba` where the target has it and the
            settings name no `infer_output`; `""` takes the first output (the first that needs no
            asking for), as MLServer does.

    Raises:
        ModelLoadError: There is no such model, it is not ready within `target_wait_s`, it has no
            such output, a credential's environment variable is not set, ….
    """
    caller = create_caller(context, settings)
    try:
        reached = await_target(caller, settings)
        return Target(context, settings, caller, reached, wants=wants)
    except BaseException:
        caller.close()
        raise


class Target:
    """The model that is explained; safe among threads.

    Attributes:
        name: Its name; in errors, too.
        metadata: What it takes and gives, as it was at load.
        input_name: The input that gets the rows; of several (a column each) the first one.
        output_name: The output that is explained; empty for the first one of what comes.
        is_local: It is a model of this server, called without a wire.
    """

    def __init__(
        self,
        context: ModelContext,
        settings: TargetSettings,
        caller: Caller,
        reached: Reached,
        *,
        wants: Literal["", "probabilities"],
    ) -> None:
        """Take what `open_target` found.

        Raises:
            ModelLoadError: The target has no such output.
        """
        self.name = caller.name
        self.is_local = caller.is_local
        self.metadata = reached.metadata
        self.caller = caller
        self.explainer = context.name
        self.logger = context.logger
        self.timeout_s = settings.target_timeout_s
        self.retries = settings.target_retries
        #: Shrinks where the target's server says that a call was too large.
        self.most_rows = settings.target_max_rows
        self._output, self._wants = settings.infer_output, wants
        self._plan = self.plan(reached.metadata)
        outputs = [each.name for each in self.metadata.outputs]
        if settings.infer_output and outputs and settings.infer_output not in outputs:
            raise ModelLoadError(
                f"'infer_output': its target '{self.name}' has no output "
                f"'{settings.infer_output}', but {', '.join(map(repr, outputs))}"
            )
        self.input_name = self._plan.inputs[0].name if self._plan.inputs else _INPUT
        self.output_name = self._plan.output

    def plan(self, metadata: ModelMetadata) -> _Plan:
        """Decide what is sent and asked for; again only after the target was loaded anew."""
        known: _Plan | None = getattr(self, "_plan", None)
        if known is None or known.metadata is not metadata:
            known = self._plan = _Plan(metadata, self._output, self._wants, self.name)
        return known

    def check(self, reference: NDArray[Any] | Sequence[str]) -> NDArray[Any]:
        """Hold reference data against the target at load, and let it predict the first rows of it.

        Args:
            reference: Rows that the explainer knows: [rows, …], or texts.

        Returns:
            What it predicts for the first rows (one or two).

        Raises:
            ModelLoadError: The target takes rows of another shape (the error has both), or can't
                predict them.
        """
        rows = _as_rows(reference)
        if misfit := self._plan.misfit(rows):
            wanted, found = misfit
            raise ModelLoadError(
                f"its target '{self.name}' takes {wanted}, and the reference data has {found}"
            )
        try:
            return self.predict(rows[:2])
        except JackfieldError as error:
            problem = f"its target can't predict the reference data: {error}"
            raise ModelLoadError(problem) from error

    def request(
        self,
        *,
        deadline_ns: int = 0,
        is_cancelled: Callable[[], bool] | None = None,
        on_call: Callable[[Usage], None] | None = None,
    ) -> AbstractContextManager[Usage]:
        """Open a request's frame around all `predict`s of one explanation, in the same thread.

        The target is looked up anew here, so that a reloaded one is followed.

        Args:
            deadline_ns: When nobody waits any more, by `time.perf_counter_ns`; 0 for never
                (`InferRequest.deadline_ns`).
            is_cancelled: Asked before each call whether somebody still waits.
            on_call: Told after each call, for progress.
        """
        return _framed(_Frame(self, deadline_ns, is_cancelled, on_call))

    def predict(self, values: NDArray[Any] | Sequence[str]) -> NDArray[Any]:
        """Predict rows; what Alibi and SHAP take for a predictor (`predictor=target.predict`).

        Works outside of `request`, too, without its deadline.

        Args:
            values: Rows [rows, …] of the input's shape, or texts. Cast to the input's datatype:
                for an integer one they are rounded, and kept within what it holds. A target with
                an input for each column gets the columns, in its own order.

        Returns:
            The output, [rows, …]; a last axis of size 1 is dropped ([rows, 1] is [rows]). BYTES
            are `str`.

        Raises:
            InvalidRequestError: The rows have another shape than the target takes.
            TargetRefusedError: The target refuses the rows; with its reason.
            DeadlineError: The request's time is over, or that of one call (`target_timeout_s`).
            StoppedError: Nobody waits for the request.
            TargetFailedError: The target failed; with its name, status and reason.
            TargetBusyError: It is overloaded, not ready or gone, repeats among it.
        """
        frame = _FRAME.get()
        if frame is None or frame.target is not self:
            frame = _Frame(self, 0, None, None)
        return frame.predict(_as_rows(values))

    def close(self) -> None:
        """Close the connections."""
        self.caller.close()

    def __repr__(self) -> str:
        """Tell the name and the place, never a credential."""
        return f"<Target '{self.name}' at {self.caller.place}>"


def target_error(error: BaseException | None) -> Exception | None:
    """Find the target's own error in what an explainer raised because of it.

    Alibi wraps what a predictor raises in errors of its own, which say nothing of the reason.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, JackfieldError | StoppedError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


class _Plan:
    """How rows become tensors, and which output is the prediction."""

    def __init__(
        self,
        metadata: ModelMetadata,
        output: str,
        wants: Literal["", "probabilities"],
        name: str,
    ) -> None:
        self.metadata = metadata
        self.inputs = [each for each in metadata.inputs if not each.parameters.get("optional")]
        self._name = name
        self.output = output or _choose_output(metadata, wants)
        self.outputs = [RequestedOutput(self.output)] if self.output else []

    def misfit(self, rows: NDArray[Any]) -> tuple[str, str] | None:
        """Tell what the target takes and what it would get, where these are not the same."""
        found = _spell(rows)
        if len(self.inputs) > 1:
            if rows.ndim == 2 and rows.shape[1] == len(self.inputs):
                texts = [each.name for each in self.inputs if each.datatype is Datatype.BYTES]
                if not texts or rows.dtype == object:
                    return None
                return f"texts in its column '{texts[0]}'", f"numbers in all, {found}"
            names = ", ".join(f"'{each.name}'" for each in self.inputs)
            return f"{len(self.inputs)} columns ({names})", found
        if not self.inputs:
            return None
        [only] = self.inputs
        wanted = f"{only.datatype} {list(only.shape)} (input '{only.name}')"
        if (only.datatype is Datatype.BYTES) != (rows.dtype == object):
            return wanted, found
        is_free = only.parameters.get("any_shape", False) or not only.shape
        if is_free or _fits(rows.shape, only.shape) or _fits((*rows.shape, 1), only.shape):
            return None
        return wanted, found

    def tensors(self, rows: NDArray[Any]) -> list[Tensor]:
        """Make the tensors of some rows, which fit."""
        if not self.inputs:
            return [_tensor(TensorMetadata(_INPUT, _datatype(rows), ()), rows, self._name)]
        if len(self.inputs) == 1:
            return [_tensor(self.inputs[0], rows, self._name)]
        return [_tensor(each, rows[:, index], self._name) for index, each in enumerate(self.inputs)]

    def read(self, response: InferResponse, rows: int) -> NDArray[Any]:
        """Find the prediction in an answer.

        Raises:
            TargetFailedError: It is not there, or is not one for each row.
        """
        found = InferResult(response)
        name = self.output or next(iter(found), "")
        if name not in found:
            names = ", ".join(map(repr, found)) or "none"
            raise TargetFailedError(
                self._name, f"answered without the output '{name}'; its outputs: {names}"
            )
        array = found[name]
        if array.ndim == 0 or array.shape[0] != rows:
            raise TargetFailedError(
                self._name,
                f"answered {list(array.shape)} ('{name}') for {rows} rows: expected one for each",
            )
        if array.ndim > 1 and array.shape[-1] == 1:
            array = array[..., 0]
        return array if array.dtype != object else _as_text(array)


def _choose_output(metadata: ModelMetadata, wants: Literal["", "probabilities"]) -> str:
    names = [each.name for each in metadata.outputs]
    if wants == "probabilities" and _PROBABILITIES in names:
        return _PROBABILITIES
    default = [each.name for each in metadata.outputs if not each.parameters.get("on_request")]
    return next(iter([*default, *names]), "")


class _Frame:
    """One request: who waits for it and how long, and the target as it was when it began."""

    def __init__(
        self,
        target: Target,
        deadline_ns: int,
        is_cancelled: Callable[[], bool] | None,
        on_call: Callable[[Usage], None] | None,
    ) -> None:
        self.target = target
        self.usage = Usage()
        self._begun = perf_counter_ns()
        self._deadline = deadline_ns
        self._is_cancelled = is_cancelled
        self._on_call = on_call
        self._reached: Reached | None = None

    def predict(self, rows: NDArray[Any]) -> NDArray[Any]:
        target = self.target
        if self._reached is None:
            self._reached = self._repeat(lambda _: target.caller.find(target.timeout_s))
        plan = target.plan(self._reached.metadata)
        if problem := plan.misfit(rows):
            wanted, found = problem
            raise InvalidRequestError(
                "inputs", expected=f"{wanted}, as the target '{target.name}' takes", found=found
            )
        step = self._most_rows(rows)
        parts: list[NDArray[Any]] = []
        begin = 0
        while begin < len(rows) or not parts:
            part = rows[begin : begin + step]
            try:
                parts.append(self._predict_part(plan, part))
            except _TooLargeError:
                target.most_rows = step = max(1, len(part) // 2)
                continue
            begin += len(part)
            if not len(part):
                break
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _most_rows(self, rows: NDArray[Any]) -> int:
        limits = [self.target.most_rows or len(rows)]
        if (most_bytes := self.target.caller.most_bytes) and len(rows):
            limits.append(most_bytes // max(1, rows.nbytes // len(rows)))
        return max(1, min(limits))

    def _predict_part(self, plan: _Plan, rows: NDArray[Any]) -> NDArray[Any]:
        reached = self._reached
        assert reached is not None
        request = InferRequest(plan.tensors(rows), plan.outputs)
        response = self._repeat(lambda timeout_s: reached.infer(request, timeout_s), rows=len(rows))
        self.usage.calls += 1
        self.usage.rows += len(rows)
        answer = plan.read(response, len(rows))
        if self._on_call is not None:
            self._on_call(self.usage)
        return answer

    def _repeat(self, call: Callable[[float], Any], *, rows: int = 0) -> Any:  # noqa: ANN401
        """Call within the time that is left, again where that may help; translate errors."""
        wait_s = _FIRST_WAIT_S
        for attempt in range(self.target.retries + 1):
            timeout_s = min(self.target.timeout_s, self._left_s())
            try:
                return call(timeout_s)
            except JackfieldError as error:
                if is_too_large(error) and rows > 1:
                    raise _TooLargeError from None
                if attempt < self.target.retries and is_passing(error):
                    asked_s = getattr(error, "retry_after_s", 0.0) if status_of(error) else 0.0
                    self._pause(min(asked_s, _LONGEST_WAIT_S) + random.uniform(0, wait_s))
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                    continue
                # the texts of another server's errors name its address: they go to the log alone
                raise self._translate(error) from (error if self.target.is_local else None)
        raise AssertionError  # the last attempt returns or raises

    def _left_s(self) -> float:
        """Tell how long somebody still waits.

        Raises:
            StoppedError: Nobody does.
            DeadlineError: The time is over.
        """
        if self._is_cancelled is not None and self._is_cancelled():
            raise StoppedError
        if not self._deadline:
            return float("inf")
        left = (self._deadline - perf_counter_ns()) / 1e9
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeadlineError:
        given = (self._deadline - self._begun) / 1e9
        return DeadlineError(self.target.explainer, timeout_s=max(given, 0.0))

    def _pause(self, seconds: float) -> None:
        end = perf_counter_ns() + int(seconds * 1e9)
        while (left := (end - perf_counter_ns()) / 1e9) > 0:
            sleep(min(left, _LOOK_S, self._left_s()))
        self._left_s()

    def _translate(self, error: JackfieldError) -> Exception:
        """Say what happened with the target's name; log what the caller is not told."""
        target = self.target
        if isinstance(error, CallTimeoutError | DeadlineError):
            if self._deadline and perf_counter_ns() >= self._deadline:
                return self._late()
            return DeadlineError(target.name, timeout_s=target.timeout_s)
        done = f"after {self.usage.calls} calls ({self.usage.rows} rows)"
        status = status_of(error)
        with_status = f" with status {status}" if status else ""
        reason = target.caller.redact(str(getattr(error, "text", "") or error))
        if is_refusal(error):
            return TargetRefusedError(target.name, f"refuses the rows{with_status}: {reason}")
        target.logger.error(
            "the target '%s' at %s failed %s%s: %s",
            target.name,
            target.caller.place,
            done,
            with_status,
            reason,
        )
        if is_passing(error):
            what = (
                "is not ready or overloaded"
                if isinstance(error, CapacityError)
                else ("does not answer: its server can't be reached, or broke the connection")
            )
            why = f": {reason}" if target.is_local else ""
            wait_s = getattr(error, "retry_after_s", 0.0) or 1.0
            return TargetBusyError(
                target.name, f"{what}{with_status}, {done}{why}", retry_after_s=wait_s
            )
        why = reason if target.is_local else "the explainer's log has its reason"
        return TargetFailedError(target.name, f"failed{with_status} {done}: {why}")


class _TooLargeError(Exception):
    """The target's server takes fewer rows at a time."""


_FRAME: ContextVar[_Frame | None] = ContextVar("jackfield_alibi_target", default=None)


@contextlib.contextmanager
def _framed(frame: _Frame) -> Iterator[Usage]:
    token = _FRAME.set(frame)
    try:
        yield frame.usage
    finally:
        _FRAME.reset(token)


# ---- rows and tensors ----


def _as_rows(values: NDArray[Any] | Sequence[str]) -> NDArray[Any]:
    """Give rows as an array; texts as objects."""
    rows = values if isinstance(values, np.ndarray) else np.asarray(values)
    if rows.dtype.kind in "SU":
        # NumPy's own texts lose the zero bytes at their end
        rows = np.array(values.tolist() if isinstance(values, np.ndarray) else values, dtype=object)
    return rows if rows.ndim else rows.reshape(1)


def _datatype(rows: NDArray[Any]) -> Datatype:
    return Datatype.BYTES if rows.dtype == object else Datatype.of(rows.dtype)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (found, -1) for size, found in zip(wanted[1:], shape[1:], strict=True)
    )


def _spell(rows: NDArray[Any]) -> str:
    return f"{_datatype(rows)} {list(rows.shape)}"


def _tensor(given: TensorMetadata, rows: NDArray[Any], target: str) -> Tensor:
    """Make a tensor of an input's datatype and number of dimensions."""
    if len(given.shape) == rows.ndim + 1:
        rows = rows[..., np.newaxis]
    if given.datatype is Datatype.BYTES:
        content_type = given.parameters.get("content_type") or "str"
        return Tensor.from_array(
            given.name, rows.astype(object), parameters={"content_type": content_type}
        )
    array = np.ascontiguousarray(_cast(rows, given, target))
    if array is rows or array.base is not None:
        # a tensor's array may not be written to; the explainer's own may
        array = array.view()
    array.flags.writeable = False
    return Tensor(given.name, given.datatype, array)


def _cast(rows: NDArray[Any], given: TensorMetadata, target: str) -> NDArray[Any]:
    dtype = given.datatype.dtype
    if rows.dtype == dtype:
        return rows
    try:
        if rows.dtype == object:
            rows = rows.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"input '{given.name}'",
            expected=f"{given.datatype}, as the target '{target}' takes",
            found=f"values that are no numbers: {error}",
        ) from error
    if rows.dtype.kind == "f" and dtype.kind in "iu":
        if not np.isfinite(rows).all():
            raise InvalidRequestError(
                f"input '{given.name}'",
                expected=f"{given.datatype}, as the target '{target}' takes",
                found="values that are not finite",
            )
        limits = np.iinfo(dtype)
        # an explainer fills in means; the target knows whole numbers only
        rows = np.clip(np.rint(rows), limits.min, limits.max)
    with np.errstate(over="ignore"):
        return rows.astype(dtype)


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    texts = [
        each.decode(errors="replace") if isinstance(each, bytes) else each
        for each in array.reshape(-1).tolist()
    ]
    return np.array(texts, dtype=object).reshape(array.shape).astype(str)
