"""What is measured: each case starts its servers once and measures them in interleaved rounds.

Used by `run.py` and `embedding.py`. A new case is a function and an entry in `CASES`.
"""

import http.client
import itertools
import json
import shutil
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from environments import HERE, ServerError, note, tail
from forms import BINARY, GRPC, JSON, LIVE, TIMED, Form
from load import Generator, Job, Load, Wrk
from peers import (
    JACKFIELD,
    MLSERVER,
    PEERS,
    VARIANTS,
    Command,
    jackfield_arguments,
    mlserver_batching,
)
from servers import (
    HOST,
    Bench,
    Launch,
    Model,
    Peer,
    Ports,
    Question,
    Server,
    answers_ready,
    listens_for_grpc,
    request,
    serve,
)

WARM_UP_S = 1.0
#: Part of the peak rate at which an open loop is run.
OPEN_SHARE = 0.7
OPEN_CONNECTIONS = 64
#: How long the model that holds the GIL does so, and how many requests it always has.
HOG_S = 0.05
HOG_IN_FLIGHT = 4
#: Requests per second of each stream that is watched beside it, on so many connections.
PROBE_RATE = 50.0
PROBE_CONNECTIONS = 8
#: MLServer's (max_batch_size, max_batch_time in seconds) that are tried to find its best.
BATCHES = ((16, 0.005), (64, 0.005), (64, 0.02), (64, 0.1))


@dataclass(frozen=True, slots=True)
class Measurement:
    """A load, and what was measured: which server at which level, in which round."""

    case: str
    server: str
    level: str
    round: int
    load: Load


#: What one turn of a server measured: loads by (server's name in the tables, level).
Found = Mapping[tuple[str, str], Load]
#: Measures a server for so many seconds.
Measure = Callable[[Server, float], Found]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command: how to measure, and what was found."""

    bench: Bench
    wrk: Wrk | None
    generator: Generator
    seconds: float
    rounds: int
    connections: Sequence[int]
    chosen: frozenset[str] = frozenset()
    """Names of the servers that are asked for; empty is all."""
    measurements: list[Measurement] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """What the reader of a case's tables has to know, found while measuring."""

    def remark(self, case: str, text: str) -> None:
        """Note what a case found out beside numbers; once, however often it did."""
        texts = self.remarks.setdefault(case, [])
        if text not in texts:
            texts.append(text)
            note(f"{case}: {text}")


@dataclass(frozen=True, slots=True)
class Case:
    """A comparison with a section of its own in the report."""

    name: str
    title: str
    text: str
    run: Callable[[Run, str], None]
    peers: tuple[Peer, ...]
    """Whose environments are needed."""
    references: tuple[str, ...]
    """With whom every server is compared."""


@contextmanager
def started(
    run: Run, case: str, peers: Sequence[Peer], model: str, *, check: bool = True
) -> Iterator[list[Server]]:
    """Start the peers that are asked for, all at once; those that fail are noted and left out.

    With `check`, each must give the right answers in its own form.
    """
    with ExitStack() as stack:
        servers = []
        for peer in peers:
            if run.chosen and peer.name.split(",")[0] not in run.chosen:
                continue
            note(f"{case}: starting {peer.name}")
            # of its own, so that a server that fails the check is stopped here and now
            own = ExitStack()
            try:
                server = own.enter_context(serve(peer, run.bench, model))
                # the bare gRPC servicer speaks no HTTP: its answers are checked as they come
                if check and peer.is_ready is not listens_for_grpc:
                    server.check(peer.form)
            except ServerError as error:
                own.close()
                run.bench.fail(f"{case}: {peer.name}", error)
                continue
            stack.enter_context(own)
            servers.append(server)
        yield servers


def rounds(
    run: Run,
    case: str,
    servers: Sequence[Server],
    measures: Sequence[Measure],
    *,
    warm_up: Sequence[Measure] | None = None,
) -> None:
    """Measure in rounds, each server at each level in turn, so that drift hits all alike.

    The order of the servers moves on by one in each round. A server that fails once is noted and
    not measured any more. `warm_up` is measured in the round that is not kept; by default all are.
    """
    up = [*servers]
    # round 0 is not kept: connections, threads and caches are made in it
    for number in range(run.rounds + 1):
        seconds = min(WARM_UP_S, run.seconds) if number == 0 else run.seconds
        for measure in warm_up if number == 0 and warm_up is not None else measures:
            at = number % len(up) if up else 0
            for server in [*up[at:], *up[:at]]:
                try:
                    found = measure(server, seconds)
                except ServerError as error:
                    log = "\n".join([error.log, tail(server.log.read_text(errors="replace"))])
                    status = server.process.poll()
                    ended = "" if status is None else f"; it had ended with status {status}"
                    failure = ServerError(f"{error.reason}{ended}", log.strip())
                    run.bench.fail(f"{case}: {server.peer.name}", failure)
                    up.remove(server)
                    continue
                if number > 0:
                    _keep(run, case, number, found)


def _keep(run: Run, case: str, number: int, found: Found) -> None:
    for (name, level), load in found.items():
        run.measurements.append(Measurement(case, name, level, number, load))
        what = f"{case} {number}/{run.rounds}, {name}, {level}"
        errors = f", FAILED {load.errors}" if load.n_errors else ""
        note(f"{what}: {load.requests_per_s:,.1f} req/s, p99 {load.p99_ms:,.2f} ms{errors}")


def closed_loop(run: Run, server: Server, connections: int, seconds: float, form: Form) -> Load:
    """Keep a server busy over HTTP with small bodies: by wrk, or by our generator without it."""
    port = server.ports.http
    if run.wrk is not None:
        return run.wrk.run(form, server.model, port, connections=connections, seconds=seconds)
    return run.generator.run(Job(form.name, port, server.model, seconds, connections))


def by_connections(run: Run) -> list[Measure]:
    """Give a closed loop of one-row requests over HTTP for each number of connections."""

    def measure(number: int, server: Server, seconds: float) -> Found:
        load = closed_loop(run, server, number, seconds, server.peer.form)
        return {(server.peer.name, count(number, "connection")): load}

    return [partial(measure, number) for number in run.connections]


def count(number: int, thing: str) -> str:
    """Write a number of things, in the singular for one."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _peak(run: Run, case: str, server: str) -> float:
    """Find the median rate at the level where it is highest; 0 if nothing was measured."""
    rates: dict[str, list[float]] = {}
    for each in run.measurements:
        if each.case == case and each.server == server and not each.load.is_open:
            rates.setdefault(each.level, []).append(each.load.requests_per_s)
    return max(map(statistics.median, rates.values()), default=0.0)


def _rest(run: Run, case: str) -> None:
    with started(run, case, CASES[case].peers, "iris") as servers:
        rounds(run, case, servers, by_connections(run))
        peaks = {server.peer.name: _peak(run, case, server.peer.name) for server in servers}
        slowest = min(filter(None, peaks.values()), default=0.0)

        def at_rate(level: str, rate: float, server: Server, seconds: float) -> Found:
            job = Job(
                JSON.name, server.ports.http, server.model, seconds, OPEN_CONNECTIONS, rate=rate
            )
            return {(server.peer.name, level): run.generator.run(job)}

        def at_own(server: Server, seconds: float) -> Found:
            rate = OPEN_SHARE * peaks[server.peer.name]
            level = f"open loop, each at {OPEN_SHARE:.0%} of its own peak"
            return at_rate(level, rate, server, seconds) if rate else {}

        same = f"open loop, all at {OPEN_SHARE:.0%} of the slowest one's peak"
        at_same = [partial(at_rate, same, OPEN_SHARE * slowest)] if slowest else []
        rounds(run, case, servers, [at_own, *at_same])
        for server in servers:
            with suppress(ServerError):
                _check_again(run, case, server)


def _check_again(run: Run, case: str, server: Server) -> None:
    try:
        server.check(server.peer.form)
    except ServerError as error:
        run.bench.fail(f"{case}: {server.peer.name}, after the load,", error)


def _grpc(run: Run, case: str) -> None:
    def measure(number: int, server: Server, seconds: float) -> Found:
        job = Job(GRPC, server.ports.grpc, server.model, seconds, number)
        load = run.generator.run(job)
        return {(server.peer.name, f"{count(number, 'call')} in flight"): load}

    with started(run, case, CASES[case].peers, "iris") as servers:
        rounds(run, case, servers, [partial(measure, number) for number in (1, 16)])


def _wide(run: Run, case: str) -> None:
    forms = {
        JSON.name: ("jackfield", "mlserver", "mlserver-inprocess", "floor"),
        BINARY.name: ("jackfield", "floor"),
        GRPC: ("jackfield", "mlserver", "mlserver-inprocess", "floor-grpc"),
    }
    words = {JSON.name: "JSON", BINARY.name: "binary HTTP", GRPC: "gRPC, raw"}

    def measure(form: str, number: int, server: Server, seconds: float) -> Found:
        if server.peer.name not in forms[form]:
            return {}
        port = server.ports.grpc if form == GRPC else server.ports.http
        job = Job(form, port, server.model, seconds, number, least=2 * number)
        load = run.generator.run(job)
        # one name, so that either bare handler is the reference of its own protocol
        name = server.peer.name.removesuffix("-grpc")
        return {(name, f"{words[form]}, {count(number, 'request')} in flight"): load}

    with started(run, case, CASES[case].peers, "wide") as servers:
        levels = itertools.product(forms, (1, 4))
        rounds(run, case, servers, [partial(measure, form, number) for form, number in levels])


def _forest(run: Run, case: str) -> None:
    peers = [*CASES[case].peers]
    if best := _best_batching(run, case):
        peers.append(best)

    def measure(server: Server, seconds: float) -> Found:
        load = closed_loop(run, server, 64, seconds, server.peer.form)
        return {(server.peer.name.split(" (")[0], "64 connections"): load}

    with started(run, case, peers, "forest") as servers:
        rounds(run, case, servers, [measure])


def _best_batching(run: Run, case: str) -> Peer | None:
    """Try MLServer's batching in a few settings, one after the other, and keep the fastest."""
    if run.chosen and "mlserver-batch" not in run.chosen and "mlserver" not in run.chosen:
        return None
    rates: list[tuple[float, Peer]] = []
    for workers, (size, seconds) in itertools.product((0, 1), BATCHES):
        peer = mlserver_batching(size, seconds, workers=workers)
        try:
            with serve(peer, run.bench, "forest") as server:
                server.check(JSON)
                closed_loop(run, server, 64, WARM_UP_S, JSON)
                load = closed_loop(run, server, 64, run.seconds, JSON)
        except ServerError as error:
            run.bench.fail(f"{case}: {peer.name}", error)
            continue
        if not load.n_errors:
            rates.append((load.requests_per_s, peer))
        note(f"{case}: {peer.name}: {load.requests_per_s:,.1f} req/s {load.errors}")
    if not rates:
        return None
    found = "; ".join(f"{peer.name.split(' ', 1)[1]}: {rate:,.1f}" for rate, peer in rates)
    best = max(rates, key=lambda pair: pair[0])[1]
    run.remark(
        case,
        "MLServer's batching was tried as (max_batch_size, max_batch_time, workers), requests/s in "
        f"one measurement each: {found}. `mlserver-batch` is the fastest of them, {best.name}.",
    )
    return best


def _gil(run: Run, case: str) -> None:
    numbers = _calibrate(run)
    hog = Model("hog", run.bench.models["iris"].file.with_name("hog"), [Question([[5.0]], [5.0])])
    hog.question_file.write_text(json.dumps(hog.questions[0]._asdict()))
    variables = {"HOG_NUMBERS": str(numbers)}
    peers = [
        Peer(
            f"jackfield, {scheduler}",
            JACKFIELD,
            partial(_serve_hog, scheduler),
            is_ready=_both_ready,
            variables=variables,
        )
        for scheduler in ("auto", "thread", "process")
    ]
    peers.append(
        Peer("mlserver", MLSERVER, _mlserver_hog, is_ready=_both_ready, variables=variables)
    )

    def probe(server: Server, form: Form, seconds: float, delay_s: float) -> Job:
        port, connections = server.ports.http, PROBE_CONNECTIONS
        return Job(form.name, port, server.model, seconds, connections, PROBE_RATE, delay_s)

    def idle(server: Server, seconds: float) -> Found:
        jobs = [probe(server, form, seconds, 0.0) for form in (LIVE, JSON)]
        live, small = run.generator.run_together(jobs)
        name = server.peer.name
        return {(name, "`/v2/health/live`, alone"): live, (name, "iris, alone"): small}

    def beside(server: Server, seconds: float) -> Found:
        full = Job(JSON.name, server.ports.http, hog, seconds + 1.0, HOG_IN_FLIGHT)
        jobs = [full, *(probe(server, form, seconds, 0.5) for form in (LIVE, JSON))]
        hogs, live, small = run.generator.run_together(jobs)
        name = server.peer.name
        return {
            (name, "`/v2/health/live`, beside the hog"): live,
            (name, "iris, beside the hog"): small,
            (name, "the hog itself"): hogs,
        }

    # each alone: three that hold a core would be measured against one another
    for peer in peers:
        with started(run, case, [peer], "iris") as servers:
            for server in servers:
                try:
                    server.check(JSON, hog)
                except ServerError as error:
                    run.bench.fail(f"{case}: {peer.name}", error)
                    break
                rounds(run, case, servers, [idle, beside])


def _calibrate(run: Run) -> int:
    """Find how many numbers to add for one predict to take as long as it should."""
    code = (
        "import time\n"
        "def once(n, now=time.perf_counter):\n"
        "    start = now(); sum(range(n)); return now() - start\n"
        "n = 1_000_000\n"
        f"print(int(n * {HOG_S} / min(once(n) for _ in range(20))))"
    )
    python = run.bench.scripts[JACKFIELD.name] / "python"
    return int(subprocess.check_output([python, "-I", "-c", code]))


def _both_ready(ports: Ports, model: Model) -> bool:
    return answers_ready(ports, model) and answers_ready(ports, model._replace(name="hog"))


def _serve_hog(scheduler: str, launch: Launch) -> Command:
    _write_hog(launch, "hog_jackfield.py", "hog_jackfield.Hog", {"scheduler": scheduler}, "sklearn")
    # strict: a refused setting is to end the server and be told, not waited for
    arguments = jackfield_arguments(launch, launch.folder)
    return [launch.scripts / "jackfield", *arguments, "--strict"]


def _mlserver_hog(launch: Launch) -> Command:
    _write_hog(launch, "hog_mlserver.py", "hog_mlserver.Hog", {}, "mlserver_sklearn.SKLearnModel")
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    settings = {"host": HOST, **ports}
    (launch.folder / "settings.json").write_text(json.dumps(settings))
    return [launch.scripts / "mlserver", "start", launch.folder]


def _write_hog(
    launch: Launch, program: str, hog: str, settings: Mapping[str, str], small: str
) -> None:
    """Write a repository of two models: the one that holds the GIL, and the small one."""
    uri = {"uri": str(launch.model.file)}
    for folder, given in {
        "hog": {"name": "hog", "implementation": hog, **settings},
        "iris": {"name": "iris", "implementation": small, "parameters": uri},
    }.items():
        (launch.folder / folder).mkdir()
        (launch.folder / folder / "model-settings.json").write_text(json.dumps(given))
    shutil.copy(HERE / program, launch.folder / "hog")


def _measuring(run: Run, case: str) -> None:
    def asked(server: Server, seconds: float, number: int) -> Found:
        level = count(number, "connection")
        found = {(server.peer.name, level): closed_loop(run, server, number, seconds, JSON)}
        if server.peer.name == "jackfield":
            timed = closed_loop(run, server, number, seconds, TIMED)
            found["jackfield, Want-Server-Timing: 1", level] = timed
            with _scraped(server):
                scraped = closed_loop(run, server, number, seconds, JSON)
            found["jackfield, metrics read each second", level] = scraped
        return found

    with started(run, case, CASES[case].peers, "iris") as servers:
        for server in servers:
            if server.peer.name == "jackfield" and not _is_timed(server):
                run.remark(case, "This server answers no `Server-Timing`: the header is ignored.")
        measures = [
            partial(lambda number, server, seconds: asked(server, seconds, number), number)
            for number in run.connections
        ]
        rounds(run, case, servers, measures)


def _is_timed(server: Server) -> bool:
    """Tell whether the header that asks for `Server-Timing` is obeyed."""
    rows = server.model.questions[0].rows
    connection = http.client.HTTPConnection(HOST, server.ports.http, timeout=10)
    try:
        path = TIMED.path.format(model=server.model.name)
        connection.request("POST", path, TIMED.encode(rows), TIMED.headers(rows))
        return connection.getresponse().getheader("Server-Timing") is not None
    finally:
        connection.close()


@contextmanager
def _scraped(server: Server) -> Iterator[None]:
    """Read the metrics each second, as Prometheus does, only more often."""
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            with suppress(OSError):
                request(server.ports.metrics, "GET", "/metrics")
            done.wait(1.0)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _peers(run: Run, case: str) -> None:
    with started(run, case, CASES[case].peers, "iris") as servers:
        rounds(run, case, servers, by_connections(run))


def _named(*names: str) -> tuple[Peer, ...]:
    return tuple(PEERS[name] for name in names)


CASES = {
    case.name: case
    for case in (
        Case(
            "rest",
            "REST, one row",
            "Logistic regression on the iris data, JSON, one row a request, one worker, default "
            "settings. Closed loops, and open loops by our generator, which sends at times "
            "drawn beforehand (Poisson) and counts latency from the time that was meant.",
            _rest,
            _named("jackfield", "jackfield-onnx", "mlserver", "mlserver-inprocess", "floor"),
            ("mlserver", "floor"),
        ),
        Case(
            "grpc",
            "gRPC, one row",
            "The same model over `ModelInfer` with raw contents. `floor-grpc` is a bare `grpc.aio` "
            "servicer. The load is made by our generator in Python, in one process for 1 call in "
            "flight and in 4, each with a channel of its own, for 16.",
            _grpc,
            _named("jackfield", "mlserver", "mlserver-inprocess", "floor-grpc"),
            ("mlserver", "floor-grpc"),
        ),
        Case(
            "wide",
            "1000x784 FP64",
            "Logistic regression on 784 numbers, 1000 rows a request: 15 MB of JSON or 6 MB of "
            "bytes. MLServer's gRPC limit is raised to 64 MiB; it reads no binary HTTP. `floor` is "
            "the bare handler of the protocol in question: `frombuffer`, predict.",
            _wide,
            _named("jackfield", "mlserver", "mlserver-inprocess", "floor", "floor-grpc"),
            ("mlserver", "floor"),
        ),
        Case(
            "gil",
            "Beside a model that holds the GIL",
            f"Own code that adds numbers in one call into C for {HOG_S * 1000:.0f} ms, always "
            f"{HOG_IN_FLIGHT} requests in flight, with `scheduler` auto, thread and process. "
            f"Beside it, in the same server, {PROBE_RATE:.0f} requests a second (open loop) for "
            "`/v2/health/live` and for the small model; the same without the load first. MLServer "
            "runs both models in one worker process.",
            _gil,
            _named("jackfield", "mlserver"),
            ("jackfield, thread", "mlserver"),
        ),
        Case(
            "forest",
            "A forest of 500 trees, 64 connections",
            "One row a request, JSON, closed loop. MLServer as installed, in process, and "
            "with its adaptive batching at the best of a few settings.",
            _forest,
            _named("jackfield", "jackfield-onnx", "mlserver", "mlserver-inprocess", "floor"),
            ("mlserver", "mlserver-batch", "floor"),
        ),
        Case(
            "measuring",
            "What measuring costs",
            "One row over REST. The same process is asked without `Want-Server-Timing: 1` and with "
            "it, and while its metrics are read each second; beside it a server with no metrics "
            "port, and one whose statistics are replaced by functions that do nothing.",
            _measuring,
            (*_named("jackfield"), *VARIANTS.values()),
            ("jackfield",),
        ),
        Case(
            "peers",
            "Other servers, each over its own REST form",
            "The same model and row, one worker, default settings, as each one's users write it.",
            _peers,
            _named("jackfield", "floor", "mlserver", "bentoml", "litserve", "ray", "mlflow"),
            ("bentoml", "litserve", "ray", "mlflow"),
        ),
    )
}


def needed(cases: Sequence[Case]) -> list[Peer]:
    """List the peers whose environments these cases need, each once."""
    return [*{peer.name: peer for case in cases for peer in case.peers}.values()]
