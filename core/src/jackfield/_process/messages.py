"""What a host, a process with models, and its server tell each other; `frames` writes and reads it.

Both ends are this package, of the same version, on one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from jackfield.messages import InferRequest, ModelMetadata, RequestedOutput, Timing
from jackfield.runtime import Capabilities
from jackfield.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield.tensor import Tensor


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """What a child needs of a `RuntimeSpec`."""

    name: str
    runtime: str
    capabilities: Capabilities
    #: ``module:Class`` of the options' Struct; empty where there is none.
    options: str


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Server to child, first."""

    #: Where it imports from: the server's `sys.path`; empty where it has an environment of its own,
    #: and so a path.
    path: list[str]
    log_level: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """What a child needs of a `ModelSource`."""

    name: str
    version: str
    folder: str
    settings: ModelSettings
    #: Empty for none.
    artifact: str = ""
    #: What its runtime fetches itself; empty for none.
    uri: str = ""
    #: None: the child finds it, and the artifact, among what its own environment has.
    spec: Spec | None = None
    #: All runtimes that the server knows; empty where the child finds them.
    runtimes: list[Spec] = []


class Resolve(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Server to child: find the model's runtime; the answer is `Resolved` or `LoadFailed`."""

    model: int
    place: Place


class Resolved(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Child to server: what a model is, before it is loaded."""

    model: int
    #: Its runtime's name.
    runtime: str
    #: Names of the models that it calls.
    needs: list[str]
    capabilities: Capabilities


class Load(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Server to child: load this model; the answer is `Loaded` or `LoadFailed`."""

    #: Stands for it from now on.
    model: int
    place: Place
    #: What the framework's pools may use for one call.
    threads: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Child to server: the model serves."""

    model: int
    metadata: ModelMetadata
    capabilities: Capabilities
    streams: bool
    #: Paths that it answers itself; a route's number is its place.
    routes: list[RouteTold] = []
    #: Whether its `infer` is no coroutine function.
    is_plain: bool = False


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Child to server: it does not, and why."""

    model: int
    problem: str


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Server to child: close this model, while others go on; the answer is `Unloaded`."""

    model: int


class Unloaded(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Child to server: the model is closed; its number is not used again."""

    model: int


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Server to child: compute this; the inputs follow as the frame's tensors."""

    #: Differs from all others of this process; the answers have it.
    call: int
    model: int
    is_stream: bool
    id: str
    #: By `time.perf_counter_ns`, which is one clock for all processes where hosts run.
    received_ns: int
    #: As in `InferRequest`; 0 for never.
    deadline_ns: int
    parameters: dict[str, Any]
    outputs: list[RequestedOutput]


class Next(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Server to child: the stream's next response is wanted."""

    call: int


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Server to child: nobody waits for this call any more."""

    call: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Child to server: a response, or one of a stream; the outputs are the frame's tensors."""

    call: int
    parameters: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Child to server: the stream has no more responses."""

    call: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Child to server: the runtime raised an error that the caller is told."""

    call: int
    #: Its class in `jackfield.errors`, its text, and its attributes.
    kind: str
    text: str
    facts: dict[str, Any]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Child to server: the runtime raised something else; the trace is for the log alone."""

    call: int
    trace: str


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One number of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric that the model counts itself."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


class Counted(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Child to server: a model's own metrics, all of them, since one changed."""

    model: int
    families: list[Family]


class SetLogLevel(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Server to child: log from this level on."""

    level: int


class FindPeer(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """Child to server: a model asks for another one; the answer is `PeerFound` or `Refused`.

    What a child asks for has numbers of the child's own.
    """

    call: int
    #: The one that asks.
    model: int
    name: str
    version: str


class PeerFound(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """Server to child: there it is."""

    call: int
    name: str
    version: str
    metadata: ModelMetadata


class AskPeer(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """Child to server: have another model compute this; the inputs are the frame's tensors.

    The answer is `FullAnswer`; of a stream one for each `Next`, and `Ended` behind them; or
    `Refused`, or `GivenUp`. `Cancel` ends it.
    """

    call: int
    model: int
    #: The call of the server's that it is made for; 0 for none.
    parent: int
    is_stream: bool
    #: The other model, with the version that was found.
    name: str
    version: str
    id: str
    received_ns: int
    deadline_ns: int
    parameters: dict[str, Any]
    outputs: list[RequestedOutput]


class FullAnswer(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """A response with all that it has; the outputs are the frame's tensors.

    Server to child: another model's; child to server: what a path of the model answers.
    """

    call: int
    parameters: dict[str, Any]
    name: str
    version: str
    id: str
    timing: Timing | None


class GivenUp(msgspec.Struct, frozen=True, array_like=True, tag=36):
    """Server to child: nobody waits for this any more, what it was asked for included."""

    call: int


class RouteTold(msgspec.Struct, frozen=True, array_like=True):
    """What the server needs of a `ModelRoute`; the numbers of a model's are their places."""

    path: str
    methods: list[str]
    #: What of the request it takes, beside its `Request`.
    takes: Literal["nothing", "tensors", "json"]
    at_root: bool
    on_needed: bool


class AskRoute(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """Server to child: have a model's own path answer; its `InferRequest` has the frame's tensors.

    The answer is `FullAnswer`, `RouteText`, or `RouteStarted` with its `RoutePart`s and `Ended`
    behind them; else `Refused`, `Failed` or `RouteRefused`. With the last of them the method is
    done; so it is with the `Ended` that follows a `Cancel`.
    """

    call: int
    model: int
    route: int
    method: str
    scheme: str
    http_version: str
    path: str
    raw_path: bytes
    root_path: str
    path_params: dict[str, Any]
    query: bytes
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int | None] | None
    server: tuple[str, int | None] | None
    #: The JSON that it takes.
    body: bytes = b""
    #: Of its `InferRequest`.
    id: str = ""
    received_ns: int = 0
    deadline_ns: int = 0
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class WantBody(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """Child to server: a path's method reads on in the body."""

    call: int


class BodyPart(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """Server to child: the part that was wanted."""

    call: int
    data: bytes
    has_more: bool


class BodyRefused(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """Server to child: the part that was wanted is one too many."""

    call: int
    error: Refused


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=44):
    """Server to child: a `RoutePart` is on its way to the caller."""

    call: int


class RouteText(msgspec.Struct, frozen=True, array_like=True, tag=45):
    """Child to server: a path's answer, in JSON."""

    call: int
    body: bytes


class RouteStarted(msgspec.Struct, frozen=True, array_like=True, tag=46):
    """Child to server: a path's answer begins so."""

    call: int
    status: int
    headers: list[tuple[bytes, bytes]]


class RoutePart(msgspec.Struct, frozen=True, array_like=True, tag=47):
    """Child to server: a part of the answer's body."""

    call: int
    data: bytes
    has_more: bool


class RouteRefused(msgspec.Struct, frozen=True, array_like=True, tag=48):
    """Child to server: a path's method raised an error with a status of HTTP."""

    call: int
    status: int
    text: str
    headers: dict[str, str] | None


Message: TypeAlias = (
    Begin
    | Resolve
    | Resolved
    | Load
    | Loaded
    | LoadFailed
    | Unload
    | Unloaded
    | Infer
    | Next
    | Cancel
    | Answer
    | Ended
    | Refused
    | Failed
    | Counted
    | SetLogLevel
    | FindPeer
    | PeerFound
    | AskPeer
    | FullAnswer
    | GivenUp
    | AskRoute
    | WantBody
    | BodyPart
    | BodyRefused
    | Taken
    | RouteText
    | RouteStarted
    | RoutePart
    | RouteRefused
)


def describe_request(call: int, model: int, request: InferRequest, *, is_stream: bool) -> Infer:
    """Describe a request; its inputs are to follow."""
    return Infer(
        call,
        model,
        is_stream,
        request.id,
        request.received_ns,
        request.deadline_ns,
        dict(request.parameters),
        list(request.outputs),
    )


def restore_request(message: Infer | AskPeer, inputs: Sequence[Tensor]) -> InferRequest:
    """Make the request anew, with the inputs that came with it."""
    return InferRequest(
        inputs,
        message.outputs,
        message.parameters,
        message.id,
        message.received_ns,
        message.deadline_ns,
    )
