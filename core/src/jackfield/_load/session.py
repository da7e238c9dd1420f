"""The stages of a benchmark, in order: a list of loads, on each server, in each round."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
from typing import TYPE_CHECKING, Protocol

from jackfield._load.fleet import Fleet
from jackfield._load.plan import Answer, Load, Plan
from jackfield._load.request import Source, build_request
from jackfield._load.sender import create_sender
from jackfield._load.tally import merged
from jackfield.client import Client, Retries
from jackfield.client._exchange import ServerMetadata
from jackfield.client._http import check
from jackfield.errors import ModelNotFoundError, NoAnswerError, RemoteError, RemoteRequestError
from jackfield.messages import ModelMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jackfield._load.arrivals import Arrivals
    from jackfield._load.plan import Target
    from jackfield._load.tally import Tally
    from jackfield.client._exchange import Reply

#: Rates of a sweep, in percent of the peak.
_SWEEP = range(10, 100, 10)
#: Connections that find the peak, where none are given.
_PEAK_CONNECTIONS = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked of a benchmark."""

    urls: Sequence[str]
    model: str
    version: str = ""
    #: Closed loops, one after the other.
    connections: Sequence[int] = ()
    #: Open loops, one after the other, in requests per second.
    rates: Sequence[float] = ()
    #: Find the peak by a closed loop of the most connections, then take rates below it.
    is_sweep: bool = False
    arrivals: Arrivals = "poisson"
    max_outstanding: int = 512
    duration_s: float = 5.0
    warm_up_s: float = 1.0
    timeout_s: float = 30.0
    rounds: int = 1
    processes: int = 1
    is_binary: bool = False
    #: A request's bytes; None builds one of the model's metadata.
    request: bytes | None = None
    rows: int = 1
    seed: int = 0
    is_checked: bool = False
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Server:
    """One that is measured, and what was learnt of it."""

    url: str
    target: Target
    metadata: ServerMetadata
    #: Its answer to the first request; None if that failed.
    first: Answer | None = None


@dataclasses.dataclass(slots=True)
class Row:
    """A load on one server, in all rounds so far."""

    server: Server
    load: Load
    rounds: list[Tally] = dataclasses.field(default_factory=list)

    @property
    def tally(self) -> Tally:
        """All rounds together."""
        return merged(self.rounds, is_beside=False)


@dataclasses.dataclass(slots=True)
class Results:
    """What was measured, in the order of loads, then of servers."""

    servers: list[Server]
    rows: list[Row] = dataclasses.field(default_factory=list)
    is_interrupted: bool = False

    def row(self, server: Server, load: Load) -> Row:
        """Get the row of a load on a server; a new one if there is none."""
        for row in self.rows:
            if row.server is server and row.load == load:
                return row
        row = Row(server, load)
        self.rows.append(row)
        return row


class Watcher(Protocol):
    """Is told how a benchmark goes."""

    def begin(self, row: Row, round_: int) -> None:
        """See a stage begin."""

    def progress(self, tally: Tally) -> None:
        """See what a stage measured so far."""


# ---- before the load ----


def prepare(settings: Settings) -> list[Server]:
    """Ask the servers for what is needed, and make the request: one for all of them.

    Raises:
        CallError: A server can't be reached, or refuses to tell.
        ImportError: httpx, which HTTP needs, is not installed.
        InvalidRequestError: There is no request, or it has no form that can be sent.
        ModelNotFoundError: A server does not have the model.
        ValueError: A URL is none.
    """
    source: Source | None = None
    if settings.request is not None:
        source = Source.from_file(
            settings.request,
            model=settings.model,
            version=settings.version,
            is_binary=settings.is_binary,
        )
    servers = []
    for url in settings.urls:
        with Client(
            url, headers=settings.headers, timeout_s=settings.timeout_s, retries=_NO_RETRIES
        ) as client:
            metadata = _metadata(client, settings)
            if source is None:
                source = Source(
                    build_request(
                        metadata or ModelMetadata(name=settings.model),
                        rows=settings.rows,
                        seed=settings.seed,
                    ),
                    model=settings.model,
                    version=settings.version,
                    is_binary=settings.is_binary,
                )
            servers.append(Server(url, source.target(url, settings.headers), _identity(client)))
    return servers


_NO_RETRIES = Retries(limit=0)


def _metadata(client: Client, settings: Settings) -> ModelMetadata | None:
    """Ask what the model takes; None where the server doesn't tell.

    Raises:
        CallError: The server can't be reached.
        ModelNotFoundError: It does not have the model.
    """
    name, version = settings.model, settings.version
    try:
        return client.model(name, version).metadata()
    except RemoteRequestError as error:
        try:
            names = sorted({entry.name for entry in client.index()})
        except RemoteError:
            raise error from None
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3) or names[:3]
            raise ModelNotFoundError(name, close=close) from error
        if settings.request is None:
            raise
        return None


def _identity(client: Client) -> ServerMetadata:
    try:
        return client.server_metadata()
    except RemoteError:
        return ServerMetadata()  # not every server tells


async def _try_once(server: Server, timeout_s: float) -> None:
    """Send the request once: what no server takes is no load.

    Raises:
        NoAnswerError: The server can't be reached.
        RemoteRequestError: It refuses the request.
    """
    answered: asyncio.Future[tuple[str, Reply]] = asyncio.get_running_loop().create_future()

    def note(_: int, problem: str, reply: Reply | None) -> None:
        if reply is not None and not answered.done():
            answered.set_result((problem, reply))

    sender = create_sender(server.target, note, timeout_s=timeout_s, keeps=True)
    try:
        sender.send(0)
        problem, reply = await asyncio.wait_for(answered, timeout_s)
    except TimeoutError:
        raise NoAnswerError(server.url, f"none to the first request in {timeout_s:g} s") from None
    finally:
        await sender.stop()
    if not problem:
        server.first = Answer(reply.body, dict(reply.headers))
        return
    text = reply.body.decode(errors="replace")
    if problem == "not connected":
        raise NoAnswerError(server.url, text, was_sent=False)
    if problem.isdigit():
        try:
            check(int(problem), reply)
        except RemoteRequestError as error:
            raise _refused(problem, error.text) from error
        except RemoteError:
            return  # it fails, perhaps not always: the measurement counts it
    if problem in _REFUSALS:
        raise _refused(problem, text)


#: gRPC's codes that say that another request is needed.
_REFUSALS = frozenset(
    ["INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"]
)


def _refused(status: str, text: str) -> RemoteRequestError:
    hint = "the server refuses the request; --request FILE gives another"
    return RemoteRequestError(status, f"{text} ({hint})")


# ---- the load ----


async def measure(
    settings: Settings, servers: list[Server], stop: asyncio.Event, watcher: Watcher
) -> Results:
    """Run all stages: in each round each load, on one server after the other.

    So servers that are compared are measured close in time, and a machine that slows down meanwhile
    shows in all of them.

    Args:
        settings: What is asked.
        servers: As `prepare` gives them.
        stop: Ends it early; what was measured so far is given.
        watcher: Is told how it goes.

    Raises:
        NoAnswerError: A server can't be reached.
        RemoteRequestError: It refuses the request.
    """
    results = Results(servers)
    for server in servers:
        await _try_once(server, settings.timeout_s)
    connections = list(settings.connections)
    if settings.is_sweep and not connections:
        connections = [_PEAK_CONNECTIONS]
    closed = [Load(connections=each) for each in connections]
    rates = [Load(rate=each) for each in settings.rates]
    async with Fleet(settings.processes) as fleet:
        for round_ in range(settings.rounds):
            for load in closed:
                await _run(load, round_, settings, results, fleet, stop, watcher)
            if settings.is_sweep and not rates:
                rates = sweep(results)
            for load in rates:
                await _run(load, round_, settings, results, fleet, stop, watcher)
    results.rows.sort(key=lambda row: (bool(row.load.rate), row.load.rate, row.load.connections))
    return results


async def _run(
    load: Load,
    round_: int,
    settings: Settings,
    results: Results,
    fleet: Fleet,
    stop: asyncio.Event,
    watcher: Watcher,
) -> None:
    """Put one load on each server."""
    for server in results.servers:
        if stop.is_set():
            break
        plan = Plan(
            target=server.target,
            load=load,
            arrivals=settings.arrivals,
            max_outstanding=settings.max_outstanding,
            duration_s=settings.duration_s,
            warm_up_s=settings.warm_up_s,
            timeout_s=settings.timeout_s,
            # other times in each round, the same for each server
            seed=settings.seed + round_,
            is_checked=settings.is_checked,
            reference=server.first,
        )
        row = results.row(server, load)
        watcher.begin(row, round_)
        row.rounds.append(await fleet.run(plan, stop, watcher.progress))
    results.is_interrupted = stop.is_set()


def sweep(results: Results) -> list[Load]:
    """Give rates from 10 to 90 % of the peak; of the slowest server's, where there are several.

    Returns:
        None where no closed loop was answered.
    """
    peaks = [
        max(
            (row.tally.throughput_per_s for row in results.rows if row.server is server),
            default=0.0,
        )
        for server in results.servers
    ]
    peak = min(peaks)
    # three digits say as much as a measured peak is worth
    return [Load(rate=float(f"{peak * percent / 100:.3g}")) for percent in _SWEEP] if peak else []
