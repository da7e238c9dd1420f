"""What dead workers had counted: without it, the server's counters would go back."""

from __future__ import annotations

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


class Departed:
    """Keeps what was told last by those that are dead, put together.

    What a worker counted after it was asked last is lost with it: nobody has seen it.
    """

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._records: list[Record] = []

    def add(self, question: Question, answer: bytes, without: Collection[str] = ()) -> None:
        """Keep the last answer of a worker that is dead.

        Args:
            question: What it was asked.
            answer: What it told.
            without: Models that were loaded anew or unloaded since.
        """
        if isinstance(question, AskMetrics):
            counted = msgspec.msgpack.decode(answer, type=Counted)
            counters = [each for each in counted.server if each.kind != "gauge"]
            self._families = add_families([*self._families, *_without(counters, without)])
        elif isinstance(question, AskStatistics):
            records: list[Record] = msgspec.msgpack.decode(answer)
            kept = [each for each in records if each["name"] not in without]
            self._records = add_records([*self._records, *kept])

    def forget(self, model: str) -> None:
        """Drop what begins at 0 in the others, too, since a model was loaded anew or unloaded."""
        self._records = [each for each in self._records if each["name"] != model]
        self._families = _without(self._families, [model])

    def answers(self, question: Question) -> list[Answer]:
        """Give what is kept, as an answer to a question; none where nothing is."""
        if isinstance(question, AskMetrics) and self._families:
            return [Answer(0, msgspec.msgpack.encode(Counted(self._families, [])))]
        if isinstance(question, AskStatistics) and self._records:
            return [Answer(0, msgspec.msgpack.encode(self._records))]
        return []


def _without(families: Iterable[Family], models: Collection[str]) -> list[Family]:
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
