"""A worker's view of all workers: it asks the supervisor, who asks all, and puts it together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from jackfield._changes import LoadModel, UnloadModel
from jackfield._metrics import render
from jackfield._models import IndexEntry, ModelState
from jackfield._monitors import MonitorRecord, Verdict, monitors_of
from jackfield._process.messages import Family, Sample
from jackfield._versions import version_key
from jackfield._workers.changes import is_encodable
from jackfield._workers.channel import LostError
from jackfield._workers.merge import (
    Counted,
    merge_lines,
    merge_metrics,
    merge_monitors,
    merge_statistics,
)
from jackfield._workers.messages import (
    AskIndex,
    AskMetrics,
    AskMonitors,
    AskReady,
    AskState,
    AskStatistics,
    Done,
    Gathered,
    Inquire,
    Watched,
    Wish,
)
from jackfield.errors import (
    CapacityError,
    InvalidRequestError,
    JackfieldError,
    ModelNotFoundError,
    ModelNotReadyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jackfield._changes import Change
    from jackfield._control import Control, Prepared
    from jackfield._monitors import Monitor
    from jackfield._workers.channel import Channel
    from jackfield._workers.messages import Question

_STOPS = "the server stops"


class Member:
    """All workers, as one of them knows them; a `Fleet`.

    Args:
        channel: To the supervisor.
        control: What concerns this worker.
        passes_on: Tells of a model's name whether another worker has its memory.
    """

    def __init__(
        self, channel: Channel, control: Control, passes_on: Callable[[str], bool]
    ) -> None:
        self._passes_on = passes_on
        self._channel = channel
        self._control = control
        self._models = control.models
        self._wishes = itertools.count(1)
        #: Why a wish of this worker was refused here, to be raised as it was.
        self._refused: dict[int, JackfieldError | None] = {}
        self._prepared: dict[int, Prepared] = {}
        #: Set when all is made that the others made before.
        self._is_level = asyncio.Event()
        #: What the supervisor told of the whole server; None before it did.
        self._told: str | None = None

    @property
    def problem(self) -> str:
        """Why the whole server is not ready; empty when it is."""
        if self._told is None:
            return self._models.problem or "other workers are starting"
        return self._told

    @problem.setter
    def problem(self, told: str) -> None:
        self._told = told

    # ---- for the shells ----

    async def apply(self, change: Change) -> None:
        """Make a change in all workers, or in none.

        Raises:
            JackfieldError: It is not made: what this worker raised, or what another one said.
        """
        if not is_encodable(change):
            raise InvalidRequestError("", expected="values of common sizes", found="another one")
        wish = next(self._wishes)
        self._refused[wish] = None
        try:
            answer = await self._channel.call(Wish(wish, change))
        except LostError as error:
            raise CapacityError(_STOPS) from error
        finally:
            refused = self._refused.pop(wish)
        if refused is not None:
            raise refused
        if isinstance(answer, Done) and answer.problem:
            if name := getattr(change, "name", ""):
                raise ModelNotReadyError(name, reason=answer.problem)
            raise CapacityError(answer.problem)

    async def note_watched(self, told: Mapping[str, str]) -> None:
        """Keep what this worker's watcher told, for the one that takes its place."""
        with contextlib.suppress(LostError):
            await self._channel.call(Watched(dict(told)))

    async def index(self) -> list[IndexEntry]:
        """List all model versions; what is ready is so in all workers."""
        gathered = await self._gather(AskIndex())
        lines: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        for told in gathered.answers:
            for line in msgspec.msgpack.decode(told.answer) if told.answer else ():
                lines.setdefault((line["name"], line["version"]), {})[told.worker] = line
        numbers = [told.worker for told in gathered.answers]
        return [
            _entry(*key, [(number, lines[key].get(number)) for number in numbers])
            for key in sorted(lines, key=lambda key: (key[0], version_key(key[1])))
        ]

    async def state(self, name: str, version: str) -> IndexEntry:
        """Get the state of a model version in all workers."""
        gathered = await self._gather(AskState(name, version))
        lines = [
            (told.worker, msgspec.msgpack.decode(told.answer) if told.answer else None)
            for told in gathered.answers
        ]
        return _entry(name, version, lines)

    async def statistics(self) -> list[dict[str, Any]]:
        """Give what all models did in all workers."""
        gathered = await self._gather(AskStatistics())
        return merge_statistics(
            [msgspec.msgpack.decode(told.answer) for told in gathered.answers if told.answer],
            [
                record
                for told in gathered.departed
                for record in msgspec.msgpack.decode(told.answer)
            ],
        )

    async def monitors(self, name: str, version: str) -> list[MonitorRecord[Verdict]]:
        """Give what the monitors of a model version found in all workers."""
        gathered = await self._gather(AskMonitors(name, version))
        return merge_monitors(
            [
                (
                    told.worker,
                    [
                        await record.with_history(_VERDICT.decode)
                        for record in _MONITORS.decode(told.answer)
                    ],
                )
                for told in gathered.answers
                if told.answer
            ]
        )

    async def expose(self) -> tuple[bytes, str]:
        """Render the metrics of all workers."""
        gathered = await self._gather(AskMetrics())
        server, process = merge_metrics(
            [
                (told.worker, _COUNTED.decode(told.answer))
                for told in gathered.answers
                if told.answer
            ],
            [_COUNTED.decode(told.answer) for told in gathered.departed],
        )
        own = [*_of_workers(gathered), *map(_metric, server)]
        return await render(own, [*map(_metric, process)])

    async def _gather(self, question: Question) -> Gathered:
        try:
            answer = await self._channel.call(Inquire(question))
        except LostError as error:
            raise CapacityError(_STOPS) from error
        if not isinstance(answer, Gathered):
            raise CapacityError("the supervisor can't ask the workers now")
        return answer

    # ---- for the supervisor ----

    async def prepare(self, number: int, change: Change, wish: int, *, is_last: bool) -> str | None:
        """Do all of a change that can fail; returns why it did, empty if it didn't.

        Returns None for what is to be prepared by another one first: what it finds out about the
        model holds for this one.
        """
        await self._is_level.wait()
        if not is_last and isinstance(change, LoadModel) and self._passes_on(change.name):
            return None
        try:
            self._prepared[number] = await self._control.prepare(change)
        except JackfieldError as error:
            is_unknown = isinstance(error, ModelNotFoundError) and isinstance(change, UnloadModel)
            if is_unknown and not wish:
                return ""  # the one that was asked failed to load it, and no other has tried
            if wish in self._refused:  # else the caller has left
                self._refused[wish] = error
            return str(error)
        return ""

    async def commit(self, number: int) -> str:
        """Make a prepared change; returns why it can't, which should not be."""
        try:
            if prepared := self._prepared.pop(number, None):
                await prepared.commit()
        except JackfieldError as error:
            return str(error)
        return ""

    async def abort(self, number: int) -> None:
        """Give a prepared change up."""
        if prepared := self._prepared.pop(number, None):
            await prepared.abort()

    def give_up(self, name: str) -> None:
        """Give up a load of a model whose environment is being made."""
        self._models.give_up(name)

    async def make(self, change: Change) -> None:
        """Make a change that the others have made before.

        Raises:
            JackfieldError: It can't be made.
        """
        try:
            await (await self._control.prepare(change)).commit()
        except ModelNotFoundError:
            if not isinstance(change, UnloadModel):  # its files are gone, too
                raise

    async def catch_up(self, changes: Sequence[Change]) -> None:
        """Make what the others made while this one started; what comes next waits for it.

        Raises:
            JackfieldError: A change can't be made.
        """
        for change in changes:
            await self.make(change)
        self._is_level.set()

    async def reload(self) -> int:
        """Load all models anew, in all workers; tells how many failed."""
        return await self._control.reload()

    async def answer(self, question: Question) -> bytes:
        """Answer for this worker alone."""
        match question:
            case AskIndex():
                return msgspec.msgpack.encode(await self._models.index())
            case AskReady():
                return msgspec.msgpack.encode(self.ready())
            case AskState(name, version):
                return msgspec.msgpack.encode(self._state(name, version))
            case AskStatistics():
                return msgspec.msgpack.encode(self._models.statistics())
            case AskMonitors(name, version):
                monitors = self._monitors(name, version)
                return msgspec.msgpack.encode(
                    [await each.record().with_history(_encode) for each in monitors]
                )
            case AskMetrics():
                server, process = await self._control.metrics.read()
                counted = Counted([*map(_family, server)], [*map(_family, process)])
                return msgspec.msgpack.encode(counted)

    def _state(self, name: str, version: str) -> IndexEntry:
        try:
            return self._models.state(name, version)
        except JackfieldError as error:
            return IndexEntry(name, version, ModelState.UNAVAILABLE, str(error))

    def _monitors(self, name: str, version: str) -> list[Monitor]:
        try:
            return monitors_of(self._models.get(name, version))
        except JackfieldError:  # it does not serve here
            return []

    def ready(self) -> list[tuple[str, str]]:
        """List the model versions that serve here."""
        return [(model.name, model.version) for model in self._models.loaded()]


_COUNTED = msgspec.msgpack.Decoder(Counted)
_MONITORS = msgspec.msgpack.Decoder(list[MonitorRecord[msgspec.Raw]])
_VERDICT = msgspec.msgpack.Decoder(Verdict)


def _encode(verdict: Verdict) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(verdict))


def _entry(name: str, version: str, told: list[tuple[int, dict[str, Any] | None]]) -> IndexEntry:
    state, reason = merge_lines(told)
    return IndexEntry(name, version, ModelState(state), reason)


def _family(metric: Metric) -> Family:
    samples = [Sample(each.name, dict(each.labels), each.value) for each in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.documentation, family.kind)
    for sample in family.samples:
        metric.add_sample(sample.name, sample.labels, sample.value)
    return metric


def _of_workers(gathered: Gathered) -> Iterable[Metric]:
    """Tell of the workers themselves."""
    workers = GaugeMetricFamily(
        "jackfield_workers", "Workers by whether they serve now.", labels=("state",)
    )
    workers.add_metric(["serving"], gathered.serving)
    workers.add_metric(["failing"], gathered.failing)
    workers.add_metric(["absent"], gathered.wanted - gathered.serving - gathered.failing)
    restarts = CounterMetricFamily(
        "jackfield_worker_restarts", "Workers started in the place of dead ones."
    )
    restarts.add_metric([], gathered.restarts)
    memory = GaugeMetricFamily(
        "jackfield_worker_memory_bytes",
        "Memory of a worker and the processes that it started, in bytes: proportional counts "
        "pages that are shared in equal parts, unique does not count them.",
        labels=("worker", "kind"),
    )
    for each in gathered.memory:
        if each.proportional_bytes:
            memory.add_metric([str(each.worker), "proportional"], each.proportional_bytes)
            memory.add_metric([str(each.worker), "unique"], each.unique_bytes)
    return workers, restarts, memory
