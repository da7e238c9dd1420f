"""Each runtime beside MLServer's: one row and 1000, REST and gRPC, memory and start.

    python benchmarks/runtimes.py [--seconds 1] [--rounds 2] [--only NAME,...]

The same model and the same `model-settings.json` for both servers; MLServer with its threads as
installed, and with one. See README.md for how to read the result.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import environments
import peers
import report
import run as runs
from cases import Case, Found, Measure, Run, closed_loop, count, rounds, started
from environments import HERE, ROOT, Environment, ServerError, note, tail
from forms import GRPC, JSON, encode_json, flat
from load import Generator, Job, Load, find_wrk
from peers import FLOOR, MODEL_STACK, Command, jackfield_arguments
from sections import (
    OURS,
    Goal,
    Ratio,
    compare,
    describe_errors,
    goal_sections,
    loss_sections,
    p50,
    p99,
    rate,
)
from servers import (
    HOST,
    Bench,
    Launch,
    Model,
    Peer,
    Question,
    Server,
    request,
    serve,
    stop_on_sigterm,
)

THEIRS = "mlserver"
THEIRS_ONE = "mlserver, 1 thread"
UNACCELERATED = "jackfield, accelerate off"
#: The level of the goals.
CONNECTIONS = 16
#: MLServer 1.7.1 does not start with uvloop 0.22, which its own requirements allow.
MLSERVER = ("mlserver==1.7.1", "uvloop<0.22")
PROGRAM = HERE / "runtime_models.py"
#: What the forest's probabilities may differ by; its labels have to be the same.
TOLERANCE = 1e-9
LOAD_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Runtime:
    """A model, and the environments of ours and MLServer's runtime for it."""

    name: str
    """Of the model, too; one of `runtime_models.KINDS`."""
    title: str
    file: str
    implementation: str
    """As in MLServer's settings files, which ours takes, too."""
    ours: Environment
    theirs: Environment
    least: float = 10
    """How often the throughput of MLServer as installed is aimed at."""
    is_accelerated: bool = False

    @property
    def peers(self) -> tuple[Peer, ...]:
        """List the servers that are compared."""
        settings = {"name": self.name, "implementation": self.implementation}
        ours = partial(_jackfield, settings, {})
        theirs = partial(_mlserver, settings)
        # this setting alone is ours: MLServer has no accelerated form
        off = partial(_jackfield, settings, {"extra": {"accelerate": "off"}})
        return (
            Peer(OURS, self.ours, ours),
            *([Peer(UNACCELERATED, self.ours, off)] if self.is_accelerated else []),
            Peer(THEIRS, self.theirs, theirs),
            Peer(THEIRS_ONE, self.theirs, theirs, variables={"OMP_NUM_THREADS": "1"}),
        )


def _jackfield(
    settings: Mapping[str, str], parameters: Mapping[str, object], launch: Launch
) -> Command:
    _write_model_settings(settings, parameters, launch)
    return [launch.scripts / "jackfield", *jackfield_arguments(launch, launch.folder)]


def _mlserver(settings: Mapping[str, str], launch: Launch) -> Command:
    _write_model_settings(settings, {}, launch)
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    (launch.folder / "settings.json").write_text(json.dumps({"host": HOST, **ports}))
    return [launch.scripts / "mlserver", "start", launch.folder]


def _write_model_settings(
    settings: Mapping[str, str], parameters: Mapping[str, object], launch: Launch
) -> None:
    """Write the one file, the same for both servers."""
    written = {**settings, "parameters": {"uri": str(launch.model.file), **parameters}}
    (launch.folder / "model-settings.json").write_text(json.dumps(written))


def _environments(
    plugin: str, ours: Sequence[str], theirs: Sequence[str]
) -> tuple[Environment, Environment]:
    checkout = {"jackfield": ROOT / "core", f"jackfield-{plugin}": ROOT / "plugins" / plugin}
    return (
        Environment(f"jackfield-{plugin}", (*MODEL_STACK, *ours), checkout),
        Environment(
            f"mlserver-{plugin}", (*MODEL_STACK, *MLSERVER, f"mlserver-{plugin}==1.7.1", *theirs)
        ),
    )


#: The extra `onnx` of our plugin.
_SKLEARN = _environments("sklearn", ("skl2onnx==1.20.0", "onnx==1.23.2", "onnxruntime==1.32.0"), ())
#: As each is installed: our extra brings the build for the CPU, MLServer's requirement the other.
_XGBOOST = _environments("xgboost", ("xgboost-cpu==3.2.0",), ("xgboost==3.2.0",))
_LIGHTGBM = _environments("lightgbm", ("lightgbm==4.7.0",), ("lightgbm==4.7.0",))
_CATBOOST = _environments("catboost", ("catboost==1.2.10",), ("catboost==1.2.10",))
_SKLEARN_CLASS = "mlserver_sklearn.SKLearnModel"

RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            "logistic",
            "scikit-learn, standardised logistic regression",
            "logistic.joblib",
            _SKLEARN_CLASS,
            *_SKLEARN,
        ),
        Runtime(
            "forest",
            "scikit-learn, random forest of 100 trees",
            "forest.joblib",
            _SKLEARN_CLASS,
            *_SKLEARN,
            least=100,
            is_accelerated=True,
        ),
        Runtime(
            "xgboost",
            "XGBoost, XGBClassifier of 100 trees",
            "xgboost.ubj",
            "mlserver_xgboost.XGBoostModel",
            *_XGBOOST,
        ),
        Runtime(
            "lightgbm",
            "LightGBM, booster of 100 trees",
            "lightgbm.bst",
            "mlserver_lightgbm.LightGBMModel",
            *_LIGHTGBM,
        ),
        Runtime(
            "catboost",
            "CatBoost, CatBoostClassifier of 100 trees",
            "catboost.cbm",
            "mlserver_catboost.CatboostModel",
            *_CATBOOST,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one start of a server took, or of an interpreter that only loads the model."""

    runtime: str
    server: str
    seconds: float
    """From the creation of the process to readiness, or to the loaded model."""
    resident_mib: float
    bare_seconds: float
    bare_mib: float


@dataclass(frozen=True, slots=True)
class Results:
    """What is found beside loads."""

    footprints: list[Footprint] = field(default_factory=list)
    after_load_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    """By runtime and server."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Of the accelerated form: what the metadata says, and what was compared here."""


def main() -> int:
    """Run the comparison; 0 if all was measured, nothing failed and answers are equal, else 1."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    results = Results()
    chosen = [RUNTIMES[name] for name in arguments.only]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        run, many = _prepare(arguments, chosen, Path(name))
        facts |= runs.load_facts(run)
        took = time.perf_counter() - start
        note(f"prepared in {took:.0f} s")
        for runtime in chosen:
            try:
                if runtime.name in run.bench.models:
                    _measure(run, runtime, many[runtime.name], results)
                    _start(run, runtime, arguments.starts, results)
            except ServerError as error:
                run.bench.fail(runtime.name, error)
            except (KeyboardInterrupt, SystemExit):
                # its servers are stopped by now; what was measured is not lost
                run.bench.fail(runtime.name, ServerError("was interrupted, and all after it"))
                break
    facts["Took"] = f"{time.perf_counter() - start - took:.0f} s"
    cases = [_case(runtime) for runtime in chosen]
    report.publish(
        "Runtimes beside MLServer's",
        [
            *report.failures_section(run.bench.failures),
            *goal_sections(run, _goals(run, chosen)),
            *_evidence_section(results),
            *loss_sections(run, cases),
            *(section for runtime in chosen for section in _section(run, runtime)),
            *_footprint_section(chosen, results),
        ],
        facts=facts,
        versions=run.bench.versions(),
        raw={**runs.raw(run), **asdict(results)},
        arguments=arguments,
    )
    return runs.status(run)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        type=_parse_runtimes,
        default=[*RUNTIMES],
        metavar="NAME,...",
        help=f"only these, of {', '.join(RUNTIMES)}",
    )
    parser.add_argument(
        "--starts", type=int, default=1, help="starts that are timed, of each server"
    )
    runs.add_load_arguments(parser)
    parser.set_defaults(seconds=1, rounds=2)
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/RUNTIMES.md")
    return parser.parse_args()


def _parse_runtimes(names: str) -> list[str]:
    if unknown := [name for name in names.split(",") if name not in RUNTIMES]:
        message = f"no runtime named {', '.join(unknown)}; known: {', '.join(RUNTIMES)}"
        raise argparse.ArgumentTypeError(message)
    return names.split(",")


def _prepare(
    arguments: argparse.Namespace, chosen: Sequence[Runtime], folder: Path
) -> tuple[Run, dict[str, Model]]:
    """Make environments and models; gives the run, and the large request of each model.

    Raises:
        ServerError: The environment of the load generator can not be made.
    """
    scripts = {FLOOR.name: environments.create(FLOOR, arguments.envs)}
    bench = Bench({}, scripts)
    wanted = {each.name: each for runtime in chosen for each in (runtime.ours, runtime.theirs)}
    for environment in wanted.values():
        try:
            scripts[environment.name] = environments.create(environment, arguments.envs)
        except ServerError as error:
            bench.fail(environment.name, error)
    many = {}
    for runtime in chosen:
        try:
            bench.models[runtime.name], many[runtime.name] = _train(bench, runtime, folder)
        except ServerError as error:
            bench.fail(runtime.name, error)
    generator = Generator(scripts[FLOOR.name] / "python")
    run = Run(
        bench,
        find_wrk(folder),
        generator,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        connections=arguments.connections,
    )
    return run, many


def _train(bench: Bench, runtime: Runtime, folder: Path) -> tuple[Model, Model]:
    """Train a model in our environment; gives it with one row, and with many."""
    if runtime.ours.name not in bench.scripts:
        raise ServerError("has no environment to be trained in")
    file = folder / runtime.file
    python = bench.scripts[runtime.ours.name] / "python"
    note(f"training {runtime.name}")
    done = subprocess.run(
        [python, PROGRAM, "train", runtime.name, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError("can not be trained", tail(done.stdout))
    written = json.loads(file.with_suffix(".questions.json").read_text())
    one = Model(runtime.name, file, [Question(**given) for given in written["one"]])
    # a file of another name, since the generator reads the question that is beside it
    beside = file.with_stem(f"{file.stem}-many")
    large = Model(runtime.name, beside, [Question(**written["many"])])
    for model in (one, large):
        model.question_file.write_text(json.dumps(model.questions[0]._asdict()))
    return one, large


def _measure(run: Run, runtime: Runtime, many: Model, results: Results) -> None:
    """Put all servers of a model under load, after their answers were compared with its own."""

    def rest(number: int, server: Server, seconds: float) -> Found:
        load = closed_loop(run, server, number, seconds, JSON)
        return {(server.peer.name, _rest(number)): load}

    def grpc(number: int, server: Server, seconds: float) -> Found:
        if server.peer.name == UNACCELERATED:
            return {}
        job = Job(GRPC, server.ports.grpc, server.model, seconds, number)
        return {(server.peer.name, _grpc(number)): run.generator.run(job)}

    def large(form: str, server: Server, seconds: float) -> Found:
        if server.peer.name == UNACCELERATED:
            return {}
        port = server.ports.grpc if form == GRPC else server.ports.http
        load = run.generator.run(Job(form, port, many, seconds, 1, least=2))
        return {(server.peer.name, _large(form)): load}

    measures: list[Measure] = [
        *(partial(rest, number) for number in run.connections),
        *(partial(grpc, number) for number in run.connections),
        *(partial(large, form) for form in (JSON.name, GRPC)),
    ]
    # before the servers: it reads the framework's files into the cache, for them as well
    bare = {peer.name: _load_bare(run.bench, peer, runtime) for peer in _timed(run, runtime)}
    with started(run, runtime.name, runtime.peers, runtime.name) as servers:
        for server in [*servers]:
            if server.peer.name in bare:
                _keep(runtime, server, bare[server.peer.name], results)
            try:
                server.check(JSON, many)
            except ServerError as error:
                run.bench.fail(f"{runtime.name}: {server.peer.name}", error)
                servers.remove(server)
        _remark_on_form(run, runtime, servers)
        if runtime.is_accelerated:
            _compare_forms(run, runtime, servers, results)
        rounds(run, runtime.name, servers, measures, warm_up=[partial(rest, CONNECTIONS)])
        results.after_load_mib[runtime.name] = {
            server.peer.name: server.resident_mib() for server in servers if _is_up(server)
        }


def _remark_on_form(run: Run, runtime: Runtime, servers: Sequence[Server]) -> None:
    """Tell the reader by what ours is served, where its metadata says so."""
    for server in servers:
        try:
            told = _metadata(server) if server.peer.name == OURS else {}
        except (ServerError, OSError, http.client.HTTPException, ValueError) as error:
            run.bench.fail(f"{runtime.name}: metadata", ServerError(f"can not be read: {error!r}"))
            continue
        if told:
            run.remark(runtime.name, f"The model's metadata says: `{json.dumps(told)}`")


def _is_up(server: Server) -> bool:
    return server.process.poll() is None


def _rest(number: int) -> str:
    return f"REST, {count(number, 'connection')}"


def _grpc(number: int) -> str:
    return f"gRPC, {count(number, 'call')} in flight"


def _large(form: str) -> str:
    return "gRPC raw, 1000 rows" if form == GRPC else "REST JSON, 1000 rows"


def _compare_forms(run: Run, runtime: Runtime, servers: Sequence[Server], results: Results) -> None:
    """Ask the accelerated server and the other for many rows; set both beside the framework.

    A difference is a failure of the run.
    """
    file = run.bench.models[runtime.name].file.with_suffix(".questions.json")
    given = json.loads(file.read_text())["evidence"]
    for server in servers:
        if server.peer.name not in (OURS, UNACCELERATED):
            continue
        try:
            found = _asked_for_evidence(server, given)
            told = _metadata(server)
            wanted = "onnx" if server.peer.name == OURS else "off"
            if told.get("accelerated", "off") != wanted:
                raise ServerError(f"is not served as wanted, by `{wanted}`: {told}")
            results.evidence[server.peer.name] = {**found, "metadata": told}
            if found["labels_different"] or not found["largest_difference"] <= TOLERANCE:
                raise ServerError(f"answers otherwise than the framework: {found}")
        except (ServerError, OSError, http.client.HTTPException, ValueError, LookupError) as error:
            reason = error.reason if isinstance(error, ServerError) else repr(error)
            failure = ServerError(f"gave no evidence: {reason}")
            run.bench.fail(f"{runtime.name}: {server.peer.name}, equality", failure)


def _asked_for_evidence(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    outputs = [{"name": "predict"}, {"name": "predict_proba"}]
    body = encode_json(given["rows"], {"outputs": outputs})
    path, headers = JSON.path.format(model=server.model.name), JSON.headers([])
    status, answer = request(server.ports.http, "POST", path, body, headers)
    if status != 200:
        raise ServerError(f"answered with status {status}: {answer[:200]!r}")
    found = {each["name"]: flat(each["data"]) for each in json.loads(answer)["outputs"]}
    labels = zip(found["predict"], given["labels"], strict=True)
    pairs = zip(found["predict_proba"], given["probabilities"], strict=True)
    return {
        "rows": len(given["rows"]),
        "labels_different": sum(one != other for one, other in labels),
        "largest_difference": max(abs(one - other) for one, other in pairs),
    }


def _metadata(server: Server) -> dict[str, Any]:
    """Read what the model's metadata says of its accelerated form."""
    status, answer = request(server.ports.http, "GET", f"/v2/models/{server.model.name}")
    if status != 200:
        raise ServerError(f"has no metadata: status {status}")
    told: dict[str, Any] = json.loads(answer).get("parameters", {})
    prefixes = ("accelerated", "compared", "largest", "tolerance", "not_accelerated")
    return {name: value for name, value in told.items() if name.startswith(prefixes)}


def _timed(run: Run, runtime: Runtime) -> list[Peer]:
    """List those whose start and memory are told: one thread less makes no difference to them."""
    return [
        peer
        for peer in runtime.peers
        if peer.name != THEIRS_ONE and peer.environment.name in run.bench.scripts
    ]


def _start(run: Run, runtime: Runtime, starts: int, results: Results) -> None:
    """Start each server again, alone, beside an interpreter of its environment that only loads."""
    failed: set[str] = set()
    for _ in range(1, starts):
        for peer in _timed(run, runtime):
            if peer.name in failed:
                continue
            try:
                bare = _load_bare(run.bench, peer, runtime)
                with serve(peer, run.bench, runtime.name) as server:
                    server.check(JSON)
                    _keep(runtime, server, bare, results)
            except ServerError as error:
                run.bench.fail(f"{runtime.name}: {peer.name}, start", error)
                failed.add(peer.name)


def _keep(runtime: Runtime, server: Server, bare: tuple[float, float], results: Results) -> None:
    name, seconds, mib = server.peer.name, server.ready_after_s, server.resident_mib()
    results.footprints.append(Footprint(runtime.name, name, seconds, mib, *bare))
    note(
        f"{runtime.name}: {name} was ready after {seconds:.2f} s, {mib:.0f} MiB; "
        f"bare {bare[0]:.2f} s, {bare[1]:.0f} MiB"
    )


def _load_bare(bench: Bench, peer: Peer, runtime: Runtime) -> tuple[float, float]:
    """Time the import of the framework and the load; gives the memory after a row, too."""
    python = bench.scripts[peer.environment.name] / "python"
    file = bench.models[runtime.name].file
    command: list[str | Path] = [python, "-I", PROGRAM, "load", runtime.name, file]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        is_loaded = process.stdout.readline().strip() == "loaded"
        seconds = time.perf_counter() - start
        rest = process.communicate(timeout=LOAD_TIMEOUT_S)[0]
    if not is_loaded or process.returncode != 0:
        raise ServerError("failed in a bare interpreter")
    return seconds, float(rest)


def _case(runtime: Runtime) -> Case:
    """Describe a runtime to the functions that compare servers."""

    def unused(_: Run, __: str) -> None:
        """Cases of `run.py` measure themselves."""

    return Case(runtime.name, runtime.title, "", unused, runtime.peers, (THEIRS, THEIRS_ONE))


def _goals(run: Run, chosen: Sequence[Runtime]) -> list[Goal]:
    number = CONNECTIONS
    return [
        Goal(runtime.name, level, THEIRS, rate, least=least)
        for runtime in chosen
        for level, least in ((_rest(number), runtime.least), (_grpc(number), 10.0))
        if number in run.connections
    ]


def _section(run: Run, runtime: Runtime) -> Iterator[str]:
    """Write a table of one runtime: every level, every server."""
    levels = dict.fromkeys(each.level for each in run.measurements if each.case == runtime.name)
    if not levels:
        return
    yield f"## {runtime.title} (`{runtime.name}`)"
    yield from run.remarks.get(runtime.name, [])
    rows = [row for level in levels for row in _rows(run, runtime, level)]
    columns = [
        *("level", "server", "requests/s", "p50 ms", "p99 ms"),
        *("÷ as installed", "÷ its best", "failed requests"),
    ]
    yield report.table(columns, rows)


def _rows(run: Run, runtime: Runtime, level: str) -> Iterator[list[str]]:
    by_server: dict[str, list[Load]] = {}
    for each in run.measurements:
        if (each.case, each.level) == (runtime.name, level):
            by_server.setdefault(each.server, []).append(each.load)
    best = max(
        (name for name in by_server if name.startswith(THEIRS)),
        key=lambda name: statistics.median(map(rate, by_server[name])),
        default=THEIRS,
    )
    for name, loads in by_server.items():
        yield [
            level,
            f"{name} (its best)" if name == best else name,
            report.spread(map(rate, loads), 0 if rate(loads[0]) >= 100 else 1),
            report.spread(map(p50, loads)),
            report.spread(map(p99, loads)),
            _times(compare(run, runtime.name, level, name, THEIRS)),
            _times(compare(run, runtime.name, level, name, best)),
            describe_errors(loads),
        ]


def _times(ratio: Ratio | None) -> str:
    if ratio is None or ratio.name == ratio.reference:
        return "-"
    return report.spread(ratio.of(rate), 1)


def _evidence_section(results: Results) -> list[str]:
    if not results.evidence:
        return []
    rows = [
        [
            name,
            f"{found['rows']:,}",
            str(found["labels_different"]),
            f"{found['largest_difference']:.1e}",
            f"{found['metadata'].get('compared_rows', 0):,}",
            f"{found['metadata'].get('largest_difference', 0.0):.1e}",
        ]
        for name, found in results.evidence.items()
    ]
    columns = [
        *("server", "rows", "labels that differ", "largest difference of a probability"),
        *("rows, by its metadata", "largest difference, by its metadata"),
    ]
    return [
        "## The accelerated forest answers the same",
        "Beside `predict` and `predict_proba` of scikit-learn itself, over REST: all tumours, and "
        "rows with one number on a threshold of a tree, or the next FP64 or FP32 number to it. The "
        "model's metadata tells what the server itself compared when it loaded the model.",
        report.table(columns, rows),
    ]


def _footprint_section(chosen: Sequence[Runtime], results: Results) -> list[str]:
    rows = []
    for runtime in chosen:
        after = results.after_load_mib.get(runtime.name, {})
        for peer in runtime.peers:
            found = [
                each
                for each in results.footprints
                if (each.runtime, each.server) == (runtime.name, peer.name)
            ]
            if not found:
                continue
            rows.append(
                [
                    runtime.name,
                    peer.name,
                    report.spread(each.seconds for each in found),
                    report.spread(each.bare_seconds for each in found),
                    report.spread(each.seconds / each.bare_seconds for each in found),
                    report.spread((each.resident_mib for each in found), 0),
                    report.spread((each.bare_mib for each in found), 0),
                    report.spread(each.resident_mib / each.bare_mib for each in found),
                    f"{after[peer.name]:,.0f}" if peer.name in after else "-",
                ]
            )
    if not rows:
        return []
    columns = [
        *("runtime", "server", "ready, s", "bare, s", "ratio"),
        *("ready, MiB", "bare, MiB", "ratio", "after the load, MiB"),
    ]
    return [
        "## Start and memory",
        "Bare is an interpreter of the same environment that imports the framework, loads the "
        "model and answers one row; its time ends with the load. Memory is the resident set of all "
        "processes of a server, pages that they share once in each.",
        report.table(columns, rows),
    ]


if __name__ == "__main__":
    sys.exit(main())
