"""One scikit-learn model in MLflow's format, served by each of its servers and by ours.

    python benchmarks/mlflow_servers.py [--seconds 5] [--rounds 3] [--connections 1,16,64]

Ours is asked over the Open Inference Protocol, by its framework's plugin and by MLflow's Python
function, and over MLflow's own protocol; `mlflow models serve` over the latter; MLServer over the
former. See README.md for how to read the result.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import peers
import report
import run
from cases import Case, Run, by_connections, rounds, started
from environments import ROOT, Environment, ServerError, tail
from forms import JSON, MLFLOW, Form, Rows, flat
from peers import JACKFIELD, MLFLOW_SERVING, MLSERVER, MODEL_STACK, Command, jackfield_arguments
from sections import case_sections
from servers import Launch, Peer, predicts, stop_on_sigterm

#: How many times the requests of both others is aimed at, at so many connections.
GOAL, AT = 5.0, 16

OURS = Environment(
    "jackfield-mlflow",
    (*MODEL_STACK, "mlflow-skinny==3.17.2"),
    {**JACKFIELD.checkout, "jackfield-mlflow": ROOT / "plugins" / "mlflow"},
)
THEIRS = Environment(
    "mlserver-mlflow",
    # the other pins are those that MLServer needs to start
    (*MODEL_STACK, *MLSERVER.requirements, "mlserver-mlflow==1.7.1", "mlflow==3.17.2"),
)

_NAMES = ("sepal length", "sepal width", "petal length", "petal width")
_SAVE = """\
    import sys, joblib, numpy, pandas, mlflow.sklearn
    from mlflow.models import infer_signature
    model = joblib.load(sys.argv[1])
    rows = numpy.ones((2, 4))
    names = sys.argv[2:]
    example = pandas.DataFrame(rows, columns=names) if names else rows
    mlflow.sklearn.save_model(
        model, "model", serialization_format="cloudpickle", pip_requirements=["scikit-learn"],
        signature=infer_signature(example, numpy.zeros(2, dtype="int64")),
    )
    """
#: Microseconds that a row takes: by MLflow's Python function, and by the estimator itself.
_ALONE = """\
    import sys, time, warnings, numpy, pandas, mlflow.pyfunc
    warnings.simplefilter("ignore")
    names = sys.argv[1:]
    model = mlflow.pyfunc.load_model("model")
    estimator = model.get_raw_model()
    row = numpy.array([[5.1, 3.5, 1.4, 0.2]])
    data = pandas.DataFrame(row, columns=names) if names else row

    def best(call, data):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(200):
                call(data)
            times.append((time.perf_counter() - start) / 200)
        return min(times) * 1e6

    print(best(model.predict, data), best(estimator.predict, row))
    """


def _save(launch: Launch, names: Sequence[str]) -> None:
    """Save the model in MLflow's format, with a signature of columns, or of a tensor without."""
    _python(launch.scripts, _SAVE, launch.folder, [str(launch.model.file), *names])


def _python(scripts: Path, code: str, folder: Path, arguments: Sequence[str]) -> str:
    done = subprocess.run(
        [scripts / "python", "-c", textwrap.dedent(code), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError("can not save or load the model in MLflow's format", tail(done.stderr))
    return done.stdout


def _jackfield(launch: Launch, names: Sequence[str], flavor: str) -> Command:
    _save(launch, names)
    settings = {
        "name": launch.model.name,
        "implementation": "mlflow",
        "parameters": {"uri": "./model", "extra": {"flavor": flavor}},
    }
    (launch.folder / "model-settings.json").write_text(json.dumps(settings))
    return [launch.scripts / "jackfield", *jackfield_arguments(launch, launch.folder)]


def _mlserver(launch: Launch, names: Sequence[str], workers: int) -> Command:
    _save(launch, names)
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    server = {"host": "127.0.0.1", **ports, "parallel_workers": workers}
    settings = {
        "name": launch.model.name,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(launch.folder / "model")},
    }
    (launch.folder / "settings.json").write_text(json.dumps(server))
    (launch.folder / "model-settings.json").write_text(json.dumps(settings))
    return [launch.scripts / "mlserver", "start", launch.folder]


def _mlflow(launch: Launch, names: Sequence[str]) -> Command:
    _save(launch, names)
    address: Command = ["--host", "127.0.0.1", "--port", str(launch.ports.http)]
    command: Command = [launch.scripts / "mlflow", "models", "serve", "-m", "model"]
    return [*command, "--env-manager", "local", *address]


def _encode_columns(rows: Rows) -> bytes:
    columns = [
        {"name": name, "shape": [len(rows)], "datatype": "FP64", "data": [row[at] for row in rows]}
        for at, name in enumerate(_NAMES)
    ]
    return json.dumps({"inputs": columns}).encode()


def _encode_split(rows: Rows) -> bytes:
    return json.dumps({"dataframe_split": {"columns": _NAMES, "data": [*rows]}}).encode()


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of signature, and how a row is sent by it."""

    name: str
    title: str
    names: Sequence[str]
    infer: Form
    invoke: Form


_TENSOR = _Kind("tensor", "A signature of one tensor", (), JSON, MLFLOW)
_COLUMNS = _Kind(
    "columns",
    "A signature of four columns",
    _NAMES,
    JSON._replace(name="columns", encode=_encode_columns),
    MLFLOW._replace(
        name="split",
        encode=_encode_split,
        decode=lambda body: flat(json.loads(body)["predictions"]),
    ),
)


def _peers(kind: _Kind) -> tuple[Peer, ...]:
    """List the servers, asked in the forms of a kind of signature."""
    names = kind.names

    def ours(name: str, flavor: str, form: Form) -> Peer:
        return Peer(name, OURS, partial(_jackfield, names=names, flavor=flavor), form)

    def theirs(name: str, workers: int) -> Peer:
        return Peer(name, THEIRS, partial(_mlserver, names=names, workers=workers), kind.infer)

    return (
        ours("jackfield", "native", kind.infer),
        ours("jackfield-pyfunc", "pyfunc", kind.infer),
        ours("jackfield-invocations", "pyfunc", kind.invoke),
        Peer(
            "mlflow",
            MLFLOW_SERVING,
            partial(_mlflow, names=names),
            kind.invoke,
            predicts(kind.invoke),
        ),
        theirs("mlserver", 1),
        theirs("mlserver-inprocess", 0),
    )


def _measure(this: Run, case: str, kind: _Kind) -> None:
    with started(this, case, _peers(kind), "iris") as servers:
        rounds(this, case, servers, by_connections(this))
        for server in servers:
            server.check(server.peer.form)
    _remark(this, case, kind)


def _remark(this: Run, case: str, kind: _Kind) -> None:
    """Say what part of the time is spent in MLflow's Python function, called in a loop."""
    environment = OURS.name
    if environment not in this.bench.scripts:
        return
    model = this.bench.models["iris"]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scripts, folder = this.bench.scripts[environment], Path(name)
        _python(scripts, _SAVE, folder, [str(model.file), *kind.names])
        found = _python(scripts, _ALONE, folder, kind.names).split()
    pyfunc, estimator = map(float, found[-2:])
    this.remark(
        case,
        f"Called in a loop, one row takes MLflow's Python function {pyfunc:,.0f} us, the estimator "
        f"itself {estimator:,.0f}: who calls the function for each row answers at most "
        f"{1e6 / pyfunc:,.0f} requests/s on one core.",
    )
    for server in ("jackfield-pyfunc", "jackfield-invocations", "mlflow", "mlserver"):
        if rate := _rate(this, case, server, "1 connection"):
            this.remark(
                case,
                f"`{server}` at 1 connection: {rate * pyfunc / 1e6:.0%} of the time is the "
                "function's.",
            )


def _rate(this: Run, case: str, server: str, level: str) -> float:
    rates = [
        each.load.requests_per_s
        for each in this.measurements
        if (each.case, each.server, each.level) == (case, server, level)
    ]
    return statistics.median(rates) if rates else 0.0


def _goals(this: Run) -> list[str]:
    """Say whether ours answers so many times the requests of the others."""
    lines = []
    level = f"{AT} connections"
    for case in CASES:
        ours = _rate(this, case.name, "jackfield", level)
        for other in case.references:
            rate = _rate(this, case.name, other, level)
            if ours and rate:
                verdict = "met" if ours >= GOAL * rate else "not met"
                lines.append(f"- {case.title}, {level}, jackfield / {other}: "
                             f"{ours / rate:.1f}, aimed at {GOAL:.0f}: {verdict}")  # fmt: skip
    return ["## Goals", "\n".join(lines)] if lines else []


def _case(kind: _Kind) -> Case:
    run_it: Callable[[Run, str], None] = partial(_measure, kind=kind)
    return Case(
        kind.name,
        kind.title,
        "One row a request, default settings. `jackfield` is the Open Inference Protocol answered "
        "by the framework's plugin, `jackfield-pyfunc` the same by MLflow's Python function, "
        "`jackfield-invocations` MLflow's protocol.",
        run_it,
        _peers(kind),
        ("mlflow", "mlserver", "mlserver-inprocess"),
    )


CASES = [_case(_TENSOR), _case(_COLUMNS)]


def main() -> int:
    """Run the comparison; 0 if every server was measured without a failed request, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    run.add_load_arguments(parser)
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/MLFLOW.md")
    arguments = parser.parse_args()
    stop_on_sigterm()
    facts = report.machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        this = run.start_run(arguments, [*CASES[0].peers], Path(name))
        facts |= run.load_facts(this)
        for case in CASES:
            try:
                case.run(this, case.name)
            except ServerError as error:
                this.bench.fail(case.name, error)
    report.publish(
        "Models of MLflow: one row a request",
        [
            *report.failures_section(this.bench.failures),
            *_goals(this),
            *(section for case in CASES for section in case_sections(this, case)),
        ],
        facts=facts,
        versions=this.bench.versions(),
        raw={"measurements": list(map(asdict, this.measurements)), "remarks": this.remarks},
        arguments=arguments,
    )
    return run.status(this)


if __name__ == "__main__":
    sys.exit(main())
