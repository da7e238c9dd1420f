"""Measure explanations per second: ours in process and over wires, MLServer's, and the floor.

    python benchmarks/explain.py [--seconds 5] [--rounds 3] [--cases iris-kernel_shap,…]

The same saved explainers of Alibi, AnchorTabular and KernelShap, of the same two models of
scikit-learn, are served by ours and by MLServer's runtime. See README.md for how to read the
result. Needs the standard library only; makes an environment for each server.
"""

import argparse
import http.client
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import environments
import report
from environments import ENVIRONMENTS_FOLDER, HERE, ROOT, Environment, ServerError, note, tail
from peers import Command, jackfield_arguments
from servers import HOST, Bench, Launch, Model, Peer, Ports, request, serve, stop_on_sigterm

#: How many times MLServer's explanations per second ours is aimed at.
GOAL = 5.0

#: Alibi needs NumPy 1.
STACK = (
    *("scikit-learn==1.9.1", "numpy==1.26.4", "scipy==1.17.1"),
    *("alibi[shap]==0.9.6", "shap==0.43.0", "click"),
)
OURS = Environment(
    "jackfield-explain",
    (*STACK, "httpx", "skl2onnx==1.20.0", "onnxruntime==1.31.1"),
    {
        "jackfield": ROOT / "core",
        "jackfield-sklearn": ROOT / "plugins" / "sklearn",
        "jackfield-alibi": ROOT / "plugins" / "alibi",
    },
)
THEIRS = Environment(
    "mlserver-explain",
    # MLServer 1.7.1 does not start with uvloop 0.22, which its own requirements allow
    (*STACK, "mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),
)
#: Its own requirements bring TensorFlow, and let no resolver come to an end.
THEIR_RUNTIME = "mlserver-alibi-explain==1.6.1"

MODELS = {
    "iris": "logistic regression on iris",
    "forest": "a forest of 100 trees on iris",
}
KINDS = {"anchor_tabular": "AnchorTabular", "kernel_shap": "KernelShap"}
CASES = tuple(f"{model}-{kind}" for model in MODELS for kind in KINDS)
PACKAGES = ("alibi", "shap", "mlserver-alibi-explain")
REQUEST_TIMEOUT_S = 120.0
#: Before anything is measured, of each server and case.
WARM_S = 0.5
#: Rows that are explained again and again, all as often: some take several times as many calls.
#: `explain_models.py` has the same number.
CYCLE = 5
#: Rows whose explanations are compared, how closely, and what an anchor is better than.
CHECKED, TOLERANCE, PRECISION = 3, 1e-6, 0.5

SERVERS = {
    "jackfield": "one server has the model and its explainer, which calls it in process",
    "jackfield-onnx": "as `jackfield`, the model converted by `jackfield[sklearn-onnx]` where it "
    "answers the same, which is our default where that is installed; the others of ours have "
    '`"accelerate": "off"`',
    "jackfield-http": "the model is in another of our servers, called by binary HTTP",
    "jackfield-grpc": "the same by gRPC",
    "jackfield-shap": "as `jackfield`, computed by `shap` itself, which is our default",
    "mlserver": "the model in one MLServer, its explainer in another, both as installed",
    "mlserver-inprocess": "the same with `parallel_workers: 0` in both",
    "mlserver's calls": "a loop around Alibi that calls the model in MLServer (in process there) "
    "by the functions of MLServer's runtime; no server for the explainer",
    "floor": "a loop around Alibi that calls scikit-learn; no server at all",
    "floor-one-thread": "the same with `OMP_NUM_THREADS=1`",
}


#: What the names of ours have at their end, and that of the model which they call in process.
IN_PROCESS = {"": "", "-onnx": "-onnx", "-shap": ""}

#: The settings of a server's models, by name.
Settings = dict[str, dict[str, Any]]


class Measured(NamedTuple):
    """A number of explanations, one after another."""

    case: str
    explanations: int
    seconds: float
    calls: int = 0
    """Of the model, where they are counted."""
    rows: int = 0
    model_seconds: float = 0.0
    """In the model, where that is known."""

    @property
    def rate(self) -> float:
        """Explanations per second."""
        return self.explanations / self.seconds


def main() -> int:
    """Save, start all, measure in turns, write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS_FOLDER, metavar="FOLDER")
    report.add_arguments(parser, "benchmarks/EXPLAIN.md")
    arguments = parser.parse_args()
    stop_on_sigterm()
    facts = report.machine_facts()
    cases, wanted = arguments.cases.split(","), arguments.servers.split(",")
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as running:
        folder = Path(name)
        bench = prepare(folder, arguments.envs)
        found = {
            each: explainer
            for each, explainer in start(bench, folder, running, wanted)
            if each in wanted and check(bench, each, explainer, cases)
        }
        measured = rounds(found, cases, arguments)
        versions = bench.versions()
        for each, installed in versions.items():
            shown = (f"{name} {installed[name]}" for name in PACKAGES if name in installed)
            facts[f"Alibi in `{each}`"] = ", ".join(shown)
    facts["Rounds"] = f"{arguments.rounds} of {arguments.seconds:g} s"
    report.publish(
        "Explanations: in process and over JSON",
        [
            *report.failures_section(bench.failures),
            "## Goals",
            goals(measured, cases),
            "## Servers",
            "\n".join(f"- **{name}**: {SERVERS[name]}" for name in found),
            "## Where the time goes",
            shares(measured, cases),
            *(text for case in cases for text in describe(measured, case)),
        ],
        facts=facts,
        versions=versions,
        raw={"measurements": [{"server": each, **one._asdict()} for each, one in measured]},
        arguments=arguments,
    )
    return 1 if bench.failures else 0


# ---- what is served ----


def prepare(folder: Path, envs: Path) -> Bench:
    """Make the environments, train the models, save the explainers.

    Raises:
        ServerError: Ours can't be made. Without MLServer's there is no comparison, and it is noted.
    """
    bench = Bench({}, {OURS.name: environments.create(OURS, envs)})
    try:
        scripts = environments.create(THEIRS, envs)
        _add_runtime(scripts)
        bench.scripts[THEIRS.name] = scripts
    except ServerError as error:
        bench.fail(THEIRS.name, error)
    note("training the models, fitting the explainers")
    program = [bench.scripts[OURS.name] / "python", HERE / "explain_models.py"]
    done = subprocess.run([*program, "save", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError("the explainers can not be made", tail(done.stderr))
    bench.models["explainers"] = Model("explainers", folder, [])
    return bench


def _add_runtime(scripts: Path) -> None:
    if "mlserver-alibi-explain" in environments.installed_versions(scripts):
        return
    uv, python = shutil.which("uv"), str(scripts / "python")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    done = subprocess.run(
        [*pip, "--no-deps", THEIR_RUNTIME], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"{THEIR_RUNTIME} can not be installed", tail(done.stderr))


def _explainer(case: str, launch: Launch, **target: str) -> dict[str, Any]:
    """Write the settings that ours and MLServer's take alike."""
    _, _, kind = case.partition("-")
    extra: dict[str, Any] = {"explainer_type": kind, **target}
    if kind == "kernel_shap":
        # without the second MLServer asks its model about a row without its first dimension
        extra |= {"infer_output": "predict_proba", "explainer_batch": True}
    return {
        "implementation": "mlserver_alibi_explain.AlibiExplainRuntime",
        "parameters": {"uri": str(launch.model.file / case), "extra": extra},
    }


def _estimator(file: Path, **extra: str) -> dict[str, Any]:
    return {
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(file), **({"extra": extra} if extra else {})},
    }


def _write(launch: Launch, models: Settings) -> None:
    for name, settings in models.items():
        place = launch.folder / "models" / name
        place.mkdir(parents=True)
        text = json.dumps({"name": name, **settings})
        (place / "model-settings.json").write_text(text)


def _models(launch: Launch) -> Settings:
    return {name: _estimator(launch.model.file / f"{name}.joblib") for name in MODELS}


def _plain_models(launch: Launch) -> Settings:
    files = {name: launch.model.file / f"{name}.joblib" for name in MODELS}
    return {name: _estimator(file, accelerate="off") for name, file in files.items()}


def _jackfield(launch: Launch, models: Callable[[Launch], Settings]) -> Command:
    _write(launch, models(launch))
    served = jackfield_arguments(launch, launch.folder / "models")
    return [launch.scripts / "jackfield", *served]


def _mlserver(launch: Launch, models: Callable[[Launch], Settings], workers: int) -> Command:
    _write(launch, models(launch))
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    server = {"host": HOST, **ports, "parallel_workers": workers, "debug": False}
    (launch.folder / "models" / "settings.json").write_text(json.dumps(server))
    return [launch.scripts / "mlserver", "start", launch.folder / "models"]


def _are_ready(names: Sequence[str]) -> Callable[[Ports, Model], bool]:
    """Tell whether all models are; MLServer calls itself ready before it has any."""

    def are_ready(ports: Ports, _: Model) -> bool:
        paths = (f"/v2/models/{name}/ready" for name in names)
        return all(request(ports.http, "GET", path)[0] == 200 for path in paths)

    return are_ready


def _ours(launch: Launch, elsewhere: Ports) -> Settings:
    """List the models, and each explainer by each way to its model."""
    found = _plain_models(launch)
    found |= {f"{name}-onnx": settings for name, settings in _models(launch).items()}
    base = {
        "http": f"http://{HOST}:{elsewhere.http}/v2/models",
        "grpc": f"grpc://{HOST}:{elsewhere.grpc}/v2/models",
    }
    for case in CASES:
        model, _, kind = case.partition("-")
        found[case] = _explainer(case, launch, target=model, library="alibi")
        onnx = {"target": f"{model}-onnx", "library": "alibi"}
        found[f"{case}-onnx"] = _explainer(case, launch, **onnx)
        for wire, url in base.items():
            uri = f"{url}/{model}/infer"
            found[f"{case}-{wire}"] = _explainer(case, launch, infer_uri=uri, library="alibi")
        if kind == "kernel_shap":
            shap = {"library": "shap", "reference": str(launch.model.file / "background.npy")}
            found[f"{case}-shap"] = _explainer(case, launch, target=model, **shap)
    return found


def _theirs(launch: Launch, elsewhere: Ports) -> Settings:
    url = f"http://{HOST}:{elsewhere.http}/v2/models"
    return {
        case: _explainer(case, launch, infer_uri=f"{url}/{case.partition('-')[0]}/infer")
        for case in CASES
    }


def start(
    bench: Bench, folder: Path, running: ExitStack, wanted: Sequence[str]
) -> Iterator[tuple[str, "Served | Loop"]]:
    """Start what is compared; all of it stays up. What does not start is noted."""

    def begin(name: str, environment: Environment, command: Callable[[Launch], Command]) -> int:
        note(f"starting {name}")
        names = tuple(MODELS) if name.endswith(", models") else CASES
        peer = Peer(name, environment, command, is_ready=_are_ready(names))
        try:
            server = running.enter_context(serve(peer, bench, "explainers"))
        except ServerError as error:
            bench.fail(name, error)
            return 0
        places[name] = server.ports
        return server.ports.http

    def loop(environment: Environment, url: str = "", *, threads: int = 0) -> Loop:
        found = Loop(bench.scripts[environment.name], folder, url, threads)
        running.callback(found.stop)
        return found

    places: dict[str, Ports] = {}
    yield "floor", loop(OURS)
    yield "floor-one-thread", loop(OURS, threads=1)
    if any(each.startswith("jackfield") for each in wanted) and begin(
        "jackfield, models", OURS, partial(_jackfield, models=_plain_models)
    ):
        models = partial(_ours, elsewhere=places["jackfield, models"])
        if port := begin("jackfield", OURS, partial(_jackfield, models=models)):
            for suffix in ("", "-onnx", "-http", "-grpc", "-shap"):
                yield f"jackfield{suffix}", Served(port, suffix, folder)
    for name, workers in (("mlserver", 1), ("mlserver-inprocess", 0)):
        names = {name, "mlserver's calls"} if workers == 0 else {name}
        if THEIRS.name not in bench.scripts or not names & set(wanted):
            continue
        command = partial(_mlserver, models=_models, workers=workers)
        target = begin(f"{name}, models", THEIRS, command)
        if not target:
            continue
        models = partial(_theirs, elsewhere=places[f"{name}, models"])
        command = partial(_mlserver, models=models, workers=workers)
        if name in wanted and (port := begin(name, THEIRS, command)):
            yield name, Served(port, None, folder)
        if workers == 0:
            yield "mlserver's calls", loop(THEIRS, f"http://{HOST}:{target}")


# ---- measuring ----


class Served:
    """Explainers behind a server, asked for one row at a time over one connection."""

    def __init__(self, port: int, suffix: str | None, folder: Path) -> None:
        self._port = port
        self._suffix = suffix
        self._bodies = [_body(row) for row in json.loads((folder / "rows.json").read_text())]
        self._expected = json.loads((folder / "expected.json").read_text())

    def explain(self, case: str, seconds: float) -> Measured:
        """Explain row after row."""
        with self._connection() as connection:
            before = self._model_ns(connection, case)
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds or done % CYCLE:
                self._post(connection, case, done)
                done += 1
            took = time.perf_counter() - started
            spent = self._model_ns(connection, case) - before
            return Measured(case, done, took, model_seconds=spent * 1e-9)

    def _model_ns(self, connection: http.client.HTTPConnection, case: str) -> int:
        """Read what the model has computed so far from the statistics, where ours has it."""
        if self._suffix not in IN_PROCESS:
            return 0
        model = case.partition("-")[0] + IN_PROCESS[self._suffix]
        connection.request("GET", f"/v2/models/{model}/stats")
        [found] = json.loads(connection.getresponse().read())["model_stats"]
        spent: int = found["inference_stats"]["compute_infer"]["ns"]
        return spent

    def check(self, case: str) -> None:
        """Compare the explanations of some rows with those of Alibi itself.

        Raises:
            ServerError: One differs. Anchors are found by chance: what holds for all is compared.
        """
        expected = self._expected[case]
        with self._connection() as connection:
            for row in range(CHECKED):
                data = self._post(connection, case, row)["data"]
                if case.endswith("kernel_shap"):
                    found = [each[0] for each in data["shap_values"]]
                    pairs = zip(found, expected[row], strict=True)
                    is_right = all(
                        abs(x - y) < TOLERANCE
                        for given, wanted in pairs
                        for x, y in zip(given, wanted, strict=True)
                    )
                else:
                    found = [data["raw"]["prediction"], data["precision"]]
                    is_right = found[0] in (expected[row], [expected[row]]) and found[1] > PRECISION
                if not is_right:
                    text = f"explained row {row} of {case} by {found}, expected {expected[row]}"
                    raise ServerError(text[:300])

    def _connection(self) -> "closing[http.client.HTTPConnection]":
        return closing(http.client.HTTPConnection(HOST, self._port, timeout=REQUEST_TIMEOUT_S))

    def _post(self, connection: http.client.HTTPConnection, case: str, row: int) -> dict[str, Any]:
        path = f"/v2/models/{case}{self._suffix or ''}/infer"
        body = self._bodies[row % CYCLE]
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise ServerError(f"answered {response.status}: {text[:300]!r}")
        answer: dict[str, Any] = json.loads(json.loads(text)["outputs"][0]["data"][0])
        return answer


class Loop:
    """A process that explains without a server of its own, told what by its standard input."""

    def __init__(self, scripts: Path, folder: Path, url: str = "", threads: int = 0) -> None:
        command = [scripts / "python", HERE / "explain_models.py", "explain", folder, url]
        bound = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self._process = subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | bound,
            text=True,
        )
        self._read()

    def explain(self, case: str, seconds: float) -> Measured:
        """Explain row after row."""
        assert self._process.stdin is not None
        print(case, seconds, file=self._process.stdin, flush=True)
        return Measured(case, **self._read())

    def check(self, case: str) -> None:
        """Do nothing: what all are compared with is Alibi itself."""

    def _read(self) -> Any:  # noqa: ANN401  what the line holds
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError("the loop around Alibi has ended")
        return json.loads(line)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _body(row: Sequence[float]) -> bytes:
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": [*row]}
    return json.dumps({"inputs": [tensor]}).encode()


def can(server: str, case: str) -> bool:
    """Tell whether a server has an explainer: `shap` itself has no anchors."""
    return server != "jackfield-shap" or case.endswith("kernel_shap")


def check(bench: Bench, name: str, explainer: Served | Loop, cases: Sequence[str]) -> bool:
    """Compare a server's answers; one that is wrong is not measured, and noted."""
    try:
        for case in cases:
            if can(name, case):
                explainer.check(case)
    except (ServerError, OSError, LookupError, TypeError, ValueError) as error:
        wrong = error if isinstance(error, ServerError) else ServerError(repr(error))
        bench.fail(name, wrong)
        return False
    return True


def rounds(
    found: dict[str, Served | Loop], cases: Sequence[str], arguments: argparse.Namespace
) -> list[tuple[str, Measured]]:
    """Measure all in turns; the order moves on by one in each round."""
    measured = []
    for case in cases:
        names = [name for name in found if can(name, case)]
        for name in names:
            found[name].explain(case, WARM_S)
        for number in range(arguments.rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                one = found[name].explain(case, arguments.seconds)
                note(f"{case}, round {number + 1}, {name}: {one.rate:.1f}/s")
                measured.append((name, one))
    return measured


# ---- what is written ----


#: Above the table.
SHARES = (
    "All else is Alibi itself at the floor; with ours it is Alibi, the calls of the model, HTTP "
    "and the answer's JSON. The model's part is measured around its predict at the floor, and "
    "taken from the model's statistics with ours. With ours Alibi's KernelShap takes less than at "
    "the floor, since shap below it compares numbers by arrays there, with the same result. Where "
    "the floor misses the goal, no server reaches it unless the model, or Alibi, is made faster."
)


def _rates(measured: Sequence[tuple[str, Measured]], case: str, server: str) -> list[float]:
    return [each.rate for name, each in measured if (name, each.case) == (server, case)]


def _ratios(measured: Sequence[tuple[str, Measured]], case: str, one: str, by: str) -> list[float]:
    """Divide within rounds."""
    # a server that was not measured has none
    pairs = zip(_rates(measured, case, one), _rates(measured, case, by), strict=False)
    return [ours / theirs for ours, theirs in pairs]


def goals(measured: Sequence[tuple[str, Measured]], cases: Sequence[str]) -> str:
    """Say whether ours in process explains so many times as often as MLServer."""
    lines = []
    for case, one in itertools.product(cases, ("jackfield", "jackfield-onnx")):
        if ratios := _ratios(measured, case, one, "mlserver"):
            verdict = "met" if statistics.median(ratios) >= GOAL else "not met"
            line = f"- {case}, {one} / mlserver: {report.spread(ratios, 1)}"
            # Alibi as it is, with the model as it is and nothing around them
            if floor := _ratios(measured, case, "floor", "mlserver"):
                line += f" (the floor: {report.spread(floor, 1)})"
            lines.append(f"{line}, aimed at {GOAL:.0f}: {verdict}")
    return "\n".join(lines) or "No server to compare with was measured."


def shares(measured: Sequence[tuple[str, Measured]], cases: Sequence[str]) -> str:
    """Say what an explanation takes in the model, and what in all else."""
    lines = []
    servers = ("floor", "floor-one-thread", *(f"jackfield{suffix}" for suffix in IN_PROCESS))
    for case, server in itertools.product(cases, servers):
        found = [each for name, each in measured if (name, each.case) == (server, case)]
        if not found:
            continue
        whole = [1000 * each.seconds / each.explanations for each in found]
        model = [1000 * each.model_seconds / each.explanations for each in found]
        rest = [one - other for one, other in zip(whole, model, strict=True)]
        lines.append([case, server, *(report.spread(each, 1) for each in (whole, model, rest))])
    table = report.table(["case", "server", "ms each", "model ms", "all else ms"], lines)
    return f"{SHARES}\n\n{table}"


def describe(measured: Sequence[tuple[str, Measured]], case: str) -> list[str]:
    """Draw the table of a case."""
    model, _, kind = case.partition("-")
    floor = [each for name, each in measured if (name, each.case) == ("floor", case)]
    asked = ""
    if count := sum(each.explanations for each in floor):
        calls = sum(each.calls for each in floor) / count
        rows = sum(each.rows for each in floor) / count
        asked = f" One explanation asks the model {calls:,.1f} times, for {rows:,.0f} rows."
    names = list(dict.fromkeys(name for name, each in measured if each.case == case))
    lines = []
    for name in sorted(names, key=list(SERVERS).index):
        rates = _rates(measured, case, name)
        ms = [1000 / rate for rate in rates]
        part = _ratios(measured, case, name, "floor") if floor else []
        relative = report.spread(part) if part else "-"
        lines.append([name, report.spread(rates, 1), report.spread(ms, 1), relative])
    columns = ["server", "explanations/s", "ms each", "of the floor"]
    return [f"## {KINDS[kind]}, {MODELS[model]} (`{case}`){chr(10) * 2}One row a request, one "
            f"after another.{asked}", report.table(columns, lines)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
