"""A monitor: its pump takes rows from the queue to the detector, and verdicts to those who ask.

`observe` is all that a request pays. The pump is a task of the event loop, which calls the detector
as any caller does; rows are joined and cut in one thread for all monitors of a server, since an
array of many rows takes milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from jackfield._inner import IS_INNER
from jackfield._label import label_model
from jackfield._monitors.intake import Intake
from jackfield._monitors.record import MonitorRecord
from jackfield._monitors.rows import Column, MisfitError, Rows, fit, unpack
from jackfield._monitors.statistics import MonitorStatistics
from jackfield._monitors.verdict import NoVerdictError, Verdict, read_verdicts
from jackfield.errors import (
    CapacityError,
    DeadlineError,
    JackfieldError,
    ModelLoadError,
    ModelNotFoundError,
    RequestError,
)
from jackfield.messages import InferRequest, RequestedOutput
from jackfield.tensor import Datatype, Tensor
from jackfield.window import Window, WindowSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jackfield._monitors.webhook import Webhook
    from jackfield.messages import InferResponse, ModelMetadata, TensorMetadata
    from jackfield.settings import MonitorSettings

logger = logging.getLogger("jackfield.monitor")

#: How long rows gather before they are looked at, in seconds: the pump's work is for many at once.
GATHER_S = 0.05
#: Most rows of a call without a window.
MOST_ROWS = 1000
#: Most rows kept of those judged last, for the report, and their bytes: a row may be an image.
MOST_RECENT = 1000
MOST_RECENT_BYTES = 16 * 1024 * 1024
#: How often a detector that can't be had is asked about the same rows, and the pauses between, in
#: seconds, each twice the one before: a reload takes a second or two.
_TRIES = 6
_FIRST_PAUSE_S = 0.1
#: Longest pause while there is no detector, in seconds.
_LONGEST_PAUSE_S = 2.0
#: After so many seconds without an answer of the detector, the status says so.
LONG_S = 10.0
#: How often a window is looked at that time alone fills, in seconds.
_LOOK_S = 0.5


class Observer(Protocol):
    """What a model shows its requests to."""

    def observe(self, request: InferRequest, response: InferResponse) -> None:
        """Look at one request that was answered; raises nothing and waits for nothing."""

    def close(self) -> None:
        """Be told that the model is gone."""


class Detector(Protocol):
    """What a monitor needs of a loaded model."""

    @property
    def metadata(self) -> ModelMetadata: ...

    async def infer(self, request: InferRequest, /) -> InferResponse: ...


class _Batch(NamedTuple):
    """What the detector is asked about at once."""

    rows: Rows
    tensors: Sequence[Tensor]


class _Prepared(NamedTuple):
    """What became of some samples."""

    batches: Sequence[_Batch]
    misfit: str
    misfits: int
    #: Rows that the window dropped, or that did not fit those that it held.
    dropped: int
    #: Rows that it holds.
    held: int
    fullness: float


class Monitor:
    """Watches one model version by one detector; made and closed on the event loop.

    It outlives a reload of the model that does not change its settings.

    Args:
        model: Name of the model that is watched.
        version: Its version; empty for an un-versioned model.
        settings: The monitor's.
        watched: What the model's metadata say of the tensors that it watches.
        find: Finds a model of this server by name, or raises why there is none.
        thread: Joins and cuts rows.

    Raises:
        ModelLoadError: The webhook's key is missing.
    """

    def __init__(
        self,
        model: str,
        version: str,
        settings: MonitorSettings,
        *,
        watched: Sequence[TensorMetadata],
        find: Callable[[str], Detector],
        thread: ThreadPoolExecutor,
    ) -> None:
        self.model = model
        self.version = version
        self.settings = settings
        self.name = settings.name or settings.detector
        self.watched = watched
        self._label = f"{label_model(model, version)}, monitor '{self.name}'"
        self._find = find
        self._thread = thread
        self.statistics = MonitorStatistics()
        #: The newest last; at most as many as the settings say.
        self.history: deque[Verdict] = deque(maxlen=settings.history)
        self._problem = ""
        #: When the detector was asked what it has not answered yet, of the monotonic clock.
        self._asked_at: float | None = None
        #: Rows taken from the queue, of which nothing is known yet.
        self._asked = 0
        #: Why rows did not fit, the last time that some did not.
        self.misfit = ""
        #: Names of the features, of the rows judged last.
        self.features: Sequence[str] = ()
        self._recent: deque[Rows] = deque()
        self._watches_inputs = settings.watch == "inputs"
        self._webhook: Webhook | None = None
        if settings.webhook is not None:
            # brings the standard library's HTTP and TLS
            from jackfield._monitors.webhook import Webhook

            self._webhook = Webhook(settings.webhook, self.statistics, self._label)
        self._window = Window(settings.window) if settings.window else None
        self._columns: tuple[Column, ...] | None = None
        self._held = 0
        self._fullness = 0.0
        self._is_timed = isinstance(settings.window, WindowSettings) and bool(
            settings.window.seconds or settings.window.max_age
        )
        self._woken = asyncio.Event()
        # a lone tensor may have any name in a request
        is_part = {each.name for each in watched} != {*settings.tensors}
        names = settings.tensors if is_part else ()
        self._intake = Intake(settings, self.statistics, self._woken.set, names=names)
        self._is_closed = False
        self._pump = asyncio.create_task(self._run(), name=f"jackfield-monitor-{self.name}")

    # ---- what a request pays ----

    def observe(self, request: InferRequest, response: InferResponse) -> None:
        """Take rows of a request by chance; not of those that the server's models make."""
        if IS_INNER.get() or self._is_closed:
            return
        try:
            self._intake.offer(request.inputs if self._watches_inputs else response.outputs)
        # a fault here is no caller's: his answer is there
        except Exception:
            if not self.statistics.drops["error"]:
                logger.exception("%s failed on a request; this is told once", self._label)
            self.statistics.drops["error"] += 1

    def close(self) -> None:
        """End the pump; what waits is forgotten."""
        self._is_closed = True
        self._pump.cancel()
        if self._webhook is not None:
            self._webhook.close()

    # ---- what is told ----

    @property
    def verdict(self) -> Verdict | None:
        """The last verdict; None before the first one."""
        return self.history[-1] if self.history else None

    @property
    def problem(self) -> str:
        """Why the detector judges nothing now; empty if it does."""
        if self._problem or self._asked_at is None:
            return self._problem
        waited_s = time.monotonic() - self._asked_at
        return f"the detector has not answered for {waited_s:.0f} s" if waited_s > LONG_S else ""

    @property
    def waiting_rows(self) -> int:
        """Rows that were sampled and not judged yet: in the queue, the window or the detector."""
        return self._intake.rows + self._held + self._asked

    def recent_rows(self) -> list[Tensor]:
        """Give rows that were judged last, as the detector got them; about `MOST_RECENT`."""
        if not self._recent:
            return []
        records = np.concatenate([rows.records for rows in self._recent])
        return unpack(self._recent[-1]._replace(records=records))

    async def reference_rows(self) -> Tensor | None:
        """Ask the detector for rows of its reference data; None where it gives none.

        Raises:
            JackfieldError: It can't be had now, or fails.
        """
        detector = self._find(self.settings.detector)
        if all(output.name != "reference" for output in detector.metadata.outputs):
            return None
        # a request has rows: this one stands for none, and no verdict is asked for
        inputs = [_blank(each) for each in detector.metadata.inputs]
        token = IS_INNER.set(True)
        try:
            response = await detector.infer(
                InferRequest(inputs, outputs=[RequestedOutput("reference")])
            )
        finally:
            IS_INNER.reset(token)
        return response.output("reference")

    def detector_parameters(self) -> dict[str, Any]:
        """Give what the detector's metadata say of it; empty while it can't be had."""
        try:
            return dict(self._find(self.settings.detector).metadata.parameters)
        except JackfieldError:
            return {}

    def record(self) -> MonitorRecord[Verdict]:
        """Give all that there is to tell; no secrets."""
        counts = self.statistics
        window = None
        if self._window is not None:
            window = {"rows": self._held, "fullness": round(self._fullness, 4)}
        webhook = None
        if self._webhook is not None:
            webhook = {**counts.deliveries, "problem": self._webhook.problem}
        return MonitorRecord(
            name=self.name,
            settings=_shown(self.settings),
            problem=self.problem,
            misfit=self.misfit,
            rows={
                "seen": counts.seen_rows,
                "sampled": counts.sampled_rows,
                "judged": counts.judged_rows,
                "waiting": self._intake.rows,
                "outliers": counts.outlier_rows,
                "dropped": dict(counts.drops),
            },
            window=window,
            verdicts={"count": counts.verdicts, "positive": counts.positives},
            calls={"success": counts.calls, **counts.failures},
            webhook=webhook,
            current=self.verdict,
            history=list(self.history),
        )

    # ---- the pump ----

    async def _run(self) -> None:
        IS_INNER.set(True)
        pause_s = GATHER_S
        while True:
            await self._until_woken()
            await asyncio.sleep(pause_s)
            try:
                self._find(self.settings.detector)
            except JackfieldError as error:
                # rows wait in the queue, which keeps the newest
                self._note(f"the detector can't be had: {error}")
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = GATHER_S
            try:
                await self._turn()
            # a fault here must not end the monitor
            except Exception as error:
                self.statistics.drops["error"] += self._asked
                self._asked = 0
                logger.exception("%s failed", self._label)
                self._note(f"{type(error).__name__}: {error}", is_logged=True)

    async def _until_woken(self) -> None:
        if not self._is_timed:
            await self._woken.wait()
            return
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._woken.wait()
        except TimeoutError:
            pass  # a window may be due

    async def _turn(self) -> None:
        """Bring what waits into the detector's form, and ask it about each window."""
        loop = asyncio.get_running_loop()
        metadata = self._find(self.settings.detector).metadata
        self._woken.clear()
        samples = self._intake.fetch()
        self._asked = sum(sample.rows for sample in samples)
        prepared = await loop.run_in_executor(
            self._thread, self._prepare, samples, metadata, time.time()
        )
        self._held, self._fullness = prepared.held, prepared.fullness
        self._asked = sum(len(batch.rows.records) for batch in prepared.batches)
        drops = self.statistics.drops
        drops["window"] += prepared.dropped
        drops["misfit"] += prepared.misfits
        if prepared.misfit and prepared.misfit != self.misfit:
            self.misfit = prepared.misfit
            logger.warning("%s: rows are dropped: %s", self._label, self.misfit)
        for batch in prepared.batches:
            await self._judge(batch)
            self._asked -= len(batch.rows.records)

    def _prepare(self, samples: Sequence[Any], detector: ModelMetadata, now: float) -> _Prepared:
        """Join rows and fill windows; in the thread."""
        misfit, misfits, dropped = "", 0, 0
        batches: list[Rows] = []
        for fitted, n_rows in fit(samples, self.watched, detector):
            if isinstance(fitted, MisfitError):
                misfit, misfits = str(fitted), misfits + n_rows
            elif self._window is None:
                batches += _cut(fitted)
            else:
                if self._columns not in (None, fitted.columns):
                    dropped += self._begin_window()
                self._columns = fitted.columns
                self.features = fitted.features
                before = self._window.status(now).dropped
                for full in self._window.add(fitted.records, now):
                    batches.append(fitted._replace(records=full.rows))
                dropped += self._window.status(now).dropped - before
        held, fullness = 0, 0.0
        if self._window is not None and self._columns is not None:
            before = self._window.status(now).dropped
            for full in self._window.due(now):
                batches.append(Rows(self._columns, full.rows, self.features))
            status = self._window.status(now)
            dropped += status.dropped - before
            held, fullness = status.rows, status.fullness
        asked = [_Batch(rows, unpack(rows)) for rows in batches]
        return _Prepared(asked, misfit, misfits, dropped, held, fullness)

    def _begin_window(self) -> int:
        """Begin anew: the rows that come have another form than those held; tells how many."""
        assert self.settings.window is not None
        held, self._window = self._window, Window(self.settings.window)
        return held.status(time.time()).rows if held is not None else 0

    async def _judge(self, batch: _Batch) -> None:
        """Ask the detector about some rows, again where it can't be had for a moment."""
        counts, n_rows = self.statistics, len(batch.rows.records)
        request = InferRequest(batch.tensors)
        pause_s = _FIRST_PAUSE_S
        for attempt in range(_TRIES):
            self._asked_at = time.monotonic()
            try:
                response = await self._find(self.settings.detector).infer(request)
                verdicts = await self._read(response, batch.rows)
            except (ModelNotFoundError, CapacityError) as error:
                counts.failures["unavailable"] += 1
                self._note(f"the detector can't be had: {error}")
                if isinstance(error, DeadlineError) or attempt + 1 == _TRIES:
                    break
                await asyncio.sleep(pause_s)
                pause_s *= 2
            except (RequestError, NoVerdictError) as error:
                is_refused = isinstance(error, RequestError)
                counts.failures["refused" if is_refused else "no_verdict"] += 1
                counts.drops["failure"] += n_rows
                what = "refuses the rows" if is_refused else "gives no verdict"
                self._note(f"the detector {what}: {error}")
                return
            except Exception as error:  # noqa: BLE001  anybody's code; its trace is in the log
                counts.failures["failed"] += 1
                counts.drops["failure"] += n_rows
                self._note(f"the detector failed: {error}")
                return
            else:
                counts.calls += 1
                counts.judged_rows += n_rows
                self._remember(batch.rows)
                if self._problem:
                    logger.info("%s judges again", self._label)
                    self._problem = ""
                for verdict in verdicts:
                    self._publish(verdict)
                return
            finally:
                self._asked_at = None
        counts.drops["unavailable"] += n_rows

    async def _read(self, response: InferResponse, rows: Rows) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        now = time.time()

        def read() -> list[Verdict]:
            return read_verdicts(
                response,
                rows=len(rows.records),
                time_s=now,
                names=rows.features,
                outlier_share=self.settings.outlier_share,
            )

        return await loop.run_in_executor(self._thread, read)

    def _note(self, problem: str, *, is_logged: bool = False) -> None:
        """Tell a problem: in the status as long as it lasts, in the log once."""
        if problem != self._problem and not is_logged:
            logger.warning("%s: %s", self._label, problem)
        self._problem = problem

    def _remember(self, rows: Rows) -> None:
        """Keep some of the rows judged last."""
        if self._recent and self._recent[-1].columns != rows.columns:
            self._recent.clear()
        self.features = rows.features
        most = min(MOST_RECENT, MOST_RECENT_BYTES // rows.records.itemsize) or 1
        step = -(-len(rows.records) // most)
        # copied: a window's rows are a view on more of them
        self._recent.append(rows._replace(records=rows.records[::step].copy()))
        count = sum(len(each.records) for each in self._recent)
        while count - len(self._recent[0].records) >= most:
            count -= len(self._recent.popleft().records)

    def _publish(self, verdict: Verdict) -> None:
        """Count a verdict, and tell those who want to know."""
        previous = self.verdict
        counts = self.statistics
        counts.verdicts += 1
        counts.positives += verdict.is_positive
        if verdict.kind != "drift":
            counts.outlier_rows += verdict.flagged_rows
        self.history.append(verdict)
        is_change = verdict.is_positive != (previous is not None and previous.is_positive)
        if is_change:
            self._log(verdict)
        webhook, wanted = self._webhook, self.settings.webhook
        if webhook is None or wanted is None:
            return
        is_wanted = {"all": True, "drift": verdict.is_positive, "change": is_change}[wanted.on]
        if is_wanted:
            event = verdict.kind if verdict.is_positive else "ok"
            webhook.send(event, self._event(event, verdict, is_change=is_change))

    def _event(self, event: str, verdict: Verdict, *, is_change: bool) -> bytes:
        return msgspec.json.encode(
            {
                "event": event,
                "is_change": is_change,
                "model": self.model,
                "version": self.version,
                "monitor": self.name,
                "detector": self.settings.detector,
                "watch": self.settings.watch,
                "verdict": verdict,
            }
        )

    def _log(self, verdict: Verdict) -> None:
        facts = {"model": self.model, "version": self.version, "monitor": self.name}
        if not verdict.is_positive:
            logger.info("%s: no %s any more", self._label, verdict.kind, extra=facts)
            return
        names = [each.name for each in verdict.features if each.is_drift]
        where = f" in {', '.join(names[:10])}" if names and names != ["all"] else ""
        count = "" if verdict.kind == "drift" else f" ({verdict.flagged_rows})"
        logger.warning(
            "%s: %s%s%s, of %d rows",
            self._label,
            verdict.kind,
            count,
            where,
            verdict.rows,
            extra=facts,
        )


class Handle:
    """A monitor as one loaded model has it: its successor may have the same monitor."""

    __slots__ = ("_close", "monitor", "observe")

    def __init__(self, monitor: Monitor, close: Callable[[], None]) -> None:
        self.monitor = monitor
        #: The monitor's own, so that a request pays no step between.
        self.observe = monitor.observe
        self._close: Callable[[], None] | None = close

    def close(self) -> None:
        """Let go of the monitor, once."""
        close, self._close = self._close, None
        if close is not None:
            close()


class Monitors:
    """The monitors of one server's models; used on its event loop.

    Args:
        find: Finds a model that serves, by its name; raises as `Models.get` does.
    """

    def __init__(self, find: Callable[[str], Detector]) -> None:
        self._find = find
        #: By model, version and settings: what the loaded models that have it say of the tensors.
        self._users: dict[Monitor, list[Sequence[TensorMetadata]]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def create(
        self, model: str, version: str, settings: Sequence[MonitorSettings], metadata: ModelMetadata
    ) -> tuple[Handle, ...]:
        """Make the observers of a model that was loaded; the last thing that can fail.

        A monitor that the version had before, with the same settings, is gone on with.

        Args:
            model: The model's name.
            version: Its version; empty for none.
            settings: Of its monitors.
            metadata: What it takes and gives.

        Raises:
            ModelLoadError: Two have one name, a tensor is not the model's, the detector is the
                model itself, or a key of a webhook is missing.
        """
        for place, each in enumerate(settings):
            _check(model, f"monitors[{place}]", each, metadata)
        names = [each.name or each.detector for each in settings]
        if twice := {name for name in names if names.count(name) > 1}:
            problem = f"monitors: several are named '{min(twice)}'; give each a 'name'"
            raise ModelLoadError(problem)
        handles: list[Handle] = []
        try:
            for each in settings:
                watched = metadata.inputs if each.watch == "inputs" else metadata.outputs
                handles.append(self._use(model, version, each, watched))
        except ModelLoadError:
            for handle in handles:
                handle.close()
            raise
        return tuple(handles)

    def _use(
        self,
        model: str,
        version: str,
        settings: MonitorSettings,
        watched: Sequence[TensorMetadata],
    ) -> Handle:
        for monitor in self._users:
            if (monitor.model, monitor.version, monitor.settings) == (model, version, settings):
                break
        else:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="jackfield-monitor")
            monitor = Monitor(
                model, version, settings, watched=watched, find=self._find, thread=self._thread
            )
            self._users[monitor] = []
        told = [*watched]
        self._users[monitor].append(told)
        monitor.watched = told
        return Handle(monitor, lambda: self._leave(monitor, told))

    def _leave(self, monitor: Monitor, told: Sequence[TensorMetadata]) -> None:
        users = [each for each in self._users[monitor] if each is not told]
        self._users[monitor] = users
        if users:  # a change that is given up leaves what was there
            monitor.watched = users[-1]
        else:
            del self._users[monitor]
            monitor.close()
        if not self._users and self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


def monitors_of(model: object) -> list[Monitor]:
    """List the monitors of a loaded model."""
    observers: Iterable[object] = getattr(model, "observers", ())
    return [each.monitor for each in observers if isinstance(each, Handle)]


def _check(model: str, where: str, settings: MonitorSettings, metadata: ModelMetadata) -> None:
    """Refuse what can never work.

    Raises:
        ModelLoadError: As `Monitors.create` says.
    """
    if settings.detector == model:
        problem = f"{where}.detector: '{model}' can't watch itself"
        raise ModelLoadError(problem)
    tensors = metadata.inputs if settings.watch == "inputs" else metadata.outputs
    known = [tensor.name for tensor in tensors]
    for name in settings.tensors:
        if known and name not in known:
            problem = (
                f"{where}.tensors: expected {settings.watch} of the model "
                f"({', '.join(known)}), found '{name}'"
            )
            raise ModelLoadError(problem)


def _shown(settings: MonitorSettings) -> dict[str, Any]:
    """Give settings as they may be shown to any caller: no key, and of a URL its host only."""
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    webhook = settings.webhook
    if webhook is not None:
        shown["webhook"] = {
            "url": webhook.shown_url,
            "on": webhook.on,
            "timeout_s": webhook.timeout_s,
            "retries": webhook.retries,
            "is_signed": bool(webhook.secret or webhook.secret_env),
        }
    return shown


def _cut(rows: Rows) -> Iterable[Rows]:
    """Cut rows into as many as one call has at most."""
    for start in range(0, len(rows.records), MOST_ROWS):
        yield rows._replace(records=rows.records[start : start + MOST_ROWS])


def _blank(tensor: TensorMetadata) -> Tensor:
    """Make one row of zeros, or of empty texts."""
    sizes = [size if size >= 0 else 1 for size in tensor.shape[1:]]
    blank = b"" if tensor.datatype is Datatype.BYTES else 0
    row = np.full((1, *sizes), blank, dtype=tensor.datatype.dtype)
    return Tensor(tensor.name, tensor.datatype, row)
