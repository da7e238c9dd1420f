"""What a generator is told: values that go between processes."""

from __future__ import annotations

import msgspec

from jackfield._load.arrivals import Arrivals
from jackfield._load.tally import Tally

_SECOND = 1_000_000_000


class Target(msgspec.Struct, frozen=True):
    """Where a request goes, and the request as the bytes that are sent each time.

    `path`, `body` and `headers` are those of `jackfield.client`'s `Call`.
    """

    url: str
    #: Below the URL over HTTP, the method over gRPC.
    path: str
    body: bytes
    headers: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True):
    """A good answer, with which others are compared."""

    body: bytes
    headers: dict[str, str] = {}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of load: so many connections in a closed loop, or a rate in an open one."""

    #: Callers of a closed loop; 0 for an open one.
    connections: int = 0
    #: Requests per second of an open loop; 0 for a closed one.
    rate: float = 0.0

    def __str__(self) -> str:
        """Say it as a table does."""
        if self.rate:
            return f"{self.rate:,.6g}/s"
        return f"{self.connections} connection{'s' if self.connections != 1 else ''}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One stage: a load on a target for a while."""

    target: Target
    load: Load
    arrivals: Arrivals = "poisson"
    #: Requests outstanding at most, in an open loop.
    max_outstanding: int = 512
    duration_s: float = 5.0
    #: The same load before, not counted.
    warm_up_s: float = 1.0
    #: Longest wait for an answer.
    timeout_s: float = 30.0
    seed: int = 0
    #: Compare each answer with the first, or with `reference`.
    is_checked: bool = False
    reference: Answer | None = None
    #: When to start, by `time.monotonic_ns`: processes that share a stage start together.
    start_ns: int = 0
    #: Which part of a constant rate's gap is this process's.
    phase: float = 0.0

    def share(self, index: int, processes: int) -> Plan | None:
        """Cut out the part of one process of several; None where nothing is left for it."""
        load = self.load
        connections = load.connections // processes + (index < load.connections % processes)
        limit = self.max_outstanding // processes + (index < self.max_outstanding % processes)
        if not (limit if load.rate else connections):
            return None
        return msgspec.structs.replace(
            self,
            load=Load(connections=connections, rate=load.rate / processes),
            max_outstanding=limit,
            seed=self.seed * processes + index,
            phase=index / processes,
        )

    @property
    def warm_up_ns(self) -> int:
        """`warm_up_s` in nanoseconds."""
        return int(self.warm_up_s * _SECOND)

    @property
    def duration_ns(self) -> int:
        """`duration_s` in nanoseconds."""
        return int(self.duration_s * _SECOND)


class Seen(msgspec.Struct, frozen=True):
    """What a process tells of a stage while it runs, and at its end."""

    tally: Tally
    is_final: bool
