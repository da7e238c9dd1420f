"""What dead workers had counted: without it, the server's counters would go back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from jackfield._workers.merge import Counted, Record, add_families, add_records, model_of
from jackfield._workers.messages import Answer, AskMetrics, AskStatistics, Question

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from jackfield._process.messages import Family

#: The questions whose answers are kept.
KEPT = (AskMetrics, AskStatistics)
#: What goes on where its model is loaded anew: loads themselves, and what monitors count.
_LASTING = ("jackfield_model_loads", "jackfield_monitor_")


@dataclasses.dataclass
class _Last:
    """What a worker told last."""

    question: Question
    answer: bytes
    #: Models that were loaded anew or unloaded since.
    forgotten: set[str] = dataclasses.field(default_factory=set)


class Departed:
    """Keeps what was told last by those that are dead, put together, and by those that may die.

    What a worker counted after it was asked last is lost with it: nobody has seen it.
    """

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._records: list[Record] = []
        #: By the worker, and the kind of question.
        self._last: dict[int, dict[type[Question], _Last]] = {}

    def keep(self, told: Answer, question: Question) -> Answer:
        """Keep what a worker told; of one that is silent, give what it told last."""
        kept = self._last.setdefault(told.worker, {})
        if told.answer:
            kept[type(question)] = _Last(question, told.answer)
            return told
        last = kept.get(type(question))
        return Answer(told.worker, last.answer if last else b"")

    def bury(self, worker: int) -> None:
        """Count what a worker told last among what the dead had counted."""
        for last in self._last.pop(worker, {}).values():
            if isinstance(last.question, AskMetrics):
                counted = msgspec.msgpack.decode(last.answer, type=Counted)
                counters = [each for each in counted.server if each.kind != "gauge"]
                kept = _families_without(counters, last.forgotten)
                self._families = add_families([*self._families, *kept])
            elif isinstance(last.question, AskStatistics):
                records: list[Record] = msgspec.msgpack.decode(last.answer)
                rest = _records_without(records, last.forgotten)
                self._records = add_records([*self._records, *rest])

    def forget(self, model: str) -> None:
        """Drop what begins at 0 in the others, too, since a model was loaded anew or unloaded."""
        self._records = _records_without(self._records, [model])
        self._families = _families_without(self._families, [model])
        for told in self._last.values():
            for last in told.values():
                last.forgotten.add(model)

    def answers(self, question: Question) -> list[Answer]:
        """Give what is kept, as an answer to a question; none where nothing is."""
        if isinstance(question, AskMetrics) and self._families:
            return [Answer(0, msgspec.msgpack.encode(Counted(self._families, [])))]
        if isinstance(question, AskStatistics) and self._records:
            return [Answer(0, msgspec.msgpack.encode(self._records))]
        return []


def _records_without(records: Iterable[Record], models: Collection[str]) -> list[Record]:
    return [each for each in records if each["name"] not in models]


def _families_without(families: Iterable[Family], models: Collection[str]) -> list[Family]:
    """Leave out what belongs to some models, but for what goes on when they are loaded anew."""
    return [
        family
        if family.name.startswith(_LASTING)
        else msgspec.structs.replace(
            family,
            samples=[each for each in family.samples if model_of(each.labels)[0] not in models],
        )
        for family in families
    ]
