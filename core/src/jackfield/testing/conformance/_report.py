"""What a run found: typed, and written for people or for programs."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence

import msgspec


class Outcome(enum.StrEnum):
    """How a check ended."""

    #: The requirement is met.
    PASSED = "passed"
    #: It is not met; the detail says what was expected and what was found.
    FAILED = "failed"
    #: It was not looked at; the detail says why.
    SKIPPED = "skipped"


class Result(msgspec.Struct, frozen=True):
    """One check of a run."""

    id: str
    level: str
    outcome: Outcome
    requirement: str
    source: str
    #: Why it failed or was skipped; empty where it passed.
    detail: str
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of the suite found."""

    url: str
    #: Empty where no address was given.
    grpc: str
    model: str
    version: str
    #: Name and version in the server's metadata; empty where it has none.
    server: str
    #: ISO 8601, UTC.
    started: str
    results: Sequence[Result]

    @property
    def conforms(self) -> bool:
        """Whether no check failed."""
        return not self.of(Outcome.FAILED)

    def of(self, outcome: Outcome, level: str = "") -> list[Result]:
        """Give the results of one outcome, of one level where that is named."""
        return [
            result
            for result in self.results
            if result.outcome is outcome and level in ("", result.level)
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the outcomes of each level, in the order of the levels."""
        counted: dict[str, Counter[str]] = {}
        for result in self.results:
            counted.setdefault(result.level, Counter())[result.outcome] += 1
        return {
            level: {str(outcome): count[outcome] for outcome in Outcome}
            for level, count in counted.items()
        }
