"""A model of code alone: how friendly are some texts?"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray  # noqa: TC002  jackfield reads the annotations when it loads
from words import WORDS

from jackfield import route

if TYPE_CHECKING:
    from jackfield import ModelContext


class Answer(TypedDict):
    """The outputs, by name."""

    score: NDArray[np.float64]
    label: list[str]


class Question(msgspec.Struct):
    """What /explain is asked."""

    text: str


class Friendliness:
    """Adds up the words that it knows."""

    def __init__(self, context: ModelContext) -> None:
        self._most = float(context.extra.get("most", 1.0))
        self._log = context.logger
        self._texts = context.metrics.counter("texts_scored", "Texts in requests.")

    def load(self) -> None:
        """Get ready; a model with weights reads them here."""
        self._words = {word: value / self._most for word, value in WORDS.items()}
        self._log.info("%d words are known", len(self._words))

    def infer(self, texts: list[str], least: float = 0.0) -> Answer:
        """Score each text, and call it friendly if it is over `least`."""
        self._texts.inc(len(texts))
        scores = np.array([sum(self._values(text).values()) for text in texts])
        return {
            "score": scores,
            "label": ["friendly" if score > least else "not friendly" for score in scores],
        }

    @route("/explain", methods=["POST"])
    def explain(self, question: Question) -> dict[str, float]:
        """Tell what each known word adds."""
        return self._values(question.text)

    def _values(self, text: str) -> dict[str, float]:
        words = text.lower().split()
        return {word: self._words[word] for word in words if word in self._words}
