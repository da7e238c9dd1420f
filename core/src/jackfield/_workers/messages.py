"""What the supervisor and its workers tell each other.

Both ends are this package, of the same version, on one machine. Each message is a call, which the
other end answers with another message.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from jackfield._announcement import Announcement
from jackfield._changes import Change, Register
from jackfield.settings import ServerSettings


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """What was asked last of one model."""

    #: Of its load; None where it was unloaded.
    parameters: dict[str, Any] | None
    #: Number of the change, so that the same, asked again, differs.
    number: int


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """What callers have changed since the server was started, so that a new worker is as others."""

    models: dict[str, Asked] = {}
    #: Trace settings by model; those of the server by the empty name.
    traces: dict[str, dict[str, Any]] = {}
    log: dict[str, Any] = {}
    regions: dict[str, Register] = {}


class Done(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The answer to what has none, or none other than whether it went well."""

    #: Why not; empty if it did.
    problem: str = ""


# ---- supervisor to worker ----


class Start(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """First: serve this."""

    number: int
    models: list[str]
    #: Its ports are those to listen on, and `workers` is a number.
    settings: ServerSettings
    name: str
    #: None for all.
    plugins: list[str] | None
    environ: dict[str, str]
    #: Where it imports from: the supervisor's `sys.path`.
    path: list[str]
    #: Descriptors of listening sockets, by the setting of their port.
    listeners: dict[str, int]
    #: It takes a dead one's place, beside others that serve.
    is_late: bool
    #: Where workers that own models with a memory are found.
    folder: str
    standing: Standing
    #: What the dead one's watcher told last; None where it did not watch.
    watched: dict[str, str] | None = None


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Are you there?"""


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Do all of a change that can fail."""

    number: int
    change: Change
    #: Of the `Wish` that it is for, where that was this worker's; else 0.
    wish: int
    #: All that could be prepared before it is: the answer is no `Later`.
    is_last: bool


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Make the change."""

    number: int


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Leave all as it was before the change."""

    number: int


class GiveUp(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """Give up a load of the model whose environment is being made: it is to be unloaded."""

    name: str


class Reload(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Load all models anew, in all workers; answered with a `Reloaded`."""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Answer for yourself, with a `Told`."""

    question: Question


class Tell(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The whole server is ready, or is not."""

    #: Why not; empty if it is.
    problem: str


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Take no new connection, answer what you hold, and end."""


# ---- worker to supervisor ----


class Join(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """My models were tried; answered with an `Admission`."""

    #: Names and versions of those that are ready.
    ready: list[tuple[str, str]]


class Serving(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """I listen, and all models were tried."""

    announcement: Announcement


class CannotStart(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """I end, since something is wrong that another try won't mend."""

    problem: str


class Watched(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """My watcher has told this, and all was done about it."""

    told: dict[str, str]


class Wish(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """A caller wants this in all workers."""

    number: int
    change: Change


class Inquire(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """Ask all workers; answered with a `Gathered`."""

    question: Question


# ---- answers ----


class Admission(msgspec.Struct, frozen=True, array_like=True, tag=50):
    """What was changed while the worker started: it is one of all from here on."""

    changes: list[Change]
    #: Why it must end instead; empty if it need not.
    problem: str = ""


class Later(msgspec.Struct, frozen=True, array_like=True, tag=54):
    """Prepare it in the others first: one of them has the model's memory."""


class Reloaded(msgspec.Struct, frozen=True, array_like=True, tag=53):
    """All models were tried."""

    #: How many were left as they were.
    failed: int


class Told(msgspec.Struct, frozen=True, array_like=True, tag=51):
    """An answer to a question, which only workers read."""

    answer: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What one worker told."""

    worker: int
    #: Empty if it did not answer in time.
    answer: bytes


class WorkerMemory(msgspec.Struct, frozen=True, array_like=True):
    """The memory of a worker and of the processes that it has started, in bytes.

    The proportional size counts a page that several processes share in equal parts, the unique
    size does not count it at all. They are 0 where the system doesn't tell.
    """

    worker: int
    proportional_bytes: int
    unique_bytes: int


class Gathered(msgspec.Struct, frozen=True, array_like=True, tag=52):
    """What all workers told."""

    answers: list[Answer]
    #: What those had told last that are dead.
    departed: list[Answer]
    serving: int
    #: Those that ended before they served, and are tried again.
    failing: int
    wanted: int
    restarts: int
    memory: list[WorkerMemory]


# ---- what can be asked ----


class AskIndex(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """All model versions with their states."""


class AskState(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The state of one model version."""

    name: str
    version: str


class AskStatistics(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What all models did."""


class AskMetrics(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All metrics."""


class AskMonitors(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """What the monitors of one model version found."""

    name: str
    version: str


class AskReady(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Names and versions of the models that serve."""


Question: TypeAlias = AskIndex | AskReady | AskState | AskStatistics | AskMetrics | AskMonitors

Message: TypeAlias = (
    Done
    | Start
    | Ping
    | Prepare
    | Commit
    | Abort
    | GiveUp
    | Reload
    | Ask
    | Tell
    | Stop
    | Join
    | Serving
    | CannotStart
    | Watched
    | Wish
    | Inquire
    | Admission
    | Later
    | Reloaded
    | Told
    | Gathered
)


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One message on its way."""

    #: Of the call, counted by the end that calls; negative for its answer.
    call: int
    message: Message
