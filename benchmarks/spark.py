"""Spark's models by each route, over REST, beside Spark's bare `transform` in the same run.

    python benchmarks/spark.py [--seconds 3] [--only NAME,...] [--routes NAME,...]

Trains the models in an environment of its own and times Spark itself in one process; then serves
each by each route and keeps the server busy over 1 and 16 connections, with 1 and 1000 rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import environments
import peers
import report
from environments import HERE, ROOT, Environment, ServerError, note, tail
from forms import BINARY, JSON
from load import Generator, Job, Load
from peers import MODEL_STACK, Command, jackfield_arguments
from servers import Bench, Launch, Model, Peer, Question, Server, serve, stop_on_sigterm

SPARK = Environment(
    "jackfield-mllib",
    (*MODEL_STACK, "pyspark==4.3.0", "pandas==2.3.3", "pyarrow==26.0.1",
     "onnxmltools==1.16.0", "skl2onnx==1.20.0", "onnx==1.23.2", "onnxruntime==1.32.0"),
    {"jackfield": ROOT / "core", "jackfield-mllib": ROOT / "plugins" / "mllib"},
)  # fmt: skip
PROGRAM = HERE / "spark_models.py"
NAMES = ("logistic", "forest", "boosted", "perceptron", "clusters", "linear")
ROUTES = ("gateway", "dataframe")
CONNECTIONS = (1, 16)
#: JSON for one row; the large request is binary, so that it is not JSON that is measured.
FORMS = {1: JSON, 1000: BINARY}
#: Large requests: as many as are answered in time, but some.
LEAST = 20
#: Of the ways that `spark_models.py` times.
FLOOR = "Arrow's table"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one load on one server gave."""

    model: str
    route: str
    rows: int
    connections: int
    load: Load


def main() -> int:
    """Measure; 0 if every answer was right, else 1."""
    arguments = _parse_arguments()
    stop_on_sigterm()
    facts = report.machine_facts()
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="bench-spark-") as name:
        folder = Path(name)
        scripts = environments.create(SPARK, arguments.envs)
        _train(scripts / "python", folder, arguments.seconds)
        bare = json.loads((folder / "bare.json").read_text())
        bench = Bench({}, {SPARK.name: scripts})
        generator = Generator(scripts / "python")
        for name in arguments.only:
            models = _models(folder, name)
            bench.models[name] = models[1]
            for route in arguments.routes:
                peer = Peer(f"{name}, {route}", SPARK, partial(_command, route))
                try:
                    with serve(peer, bench, name) as server:
                        found = _measure(server, models, generator, arguments.seconds)
                        measured += [Measured(name, route, *each) for each in found]
                except ServerError as error:
                    bench.fail(peer.name, error)
    report.publish(
        "Spark's models by each route",
        [
            *report.failures_section(bench.failures),
            _served(measured, bare),
            _bare(bare),
        ],
        facts=facts,
        versions=bench.versions(),
        raw={"bare": bare, "served": [asdict(each) for each in measured]},
        arguments=arguments,
    )
    return int(bool(bench.failures) or any(each.load.n_errors for each in measured))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, known in (("--only", NAMES), ("--routes", ROUTES)):
        parser.add_argument(
            option,
            type=lambda text: text.split(","),
            default=[*known],
            metavar="NAME,...",
            help=f"only these, of {', '.join(known)}",
        )
    parser.add_argument("--seconds", type=float, default=3, help="of each load")
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/SPARK.md")
    return parser.parse_args()


def _train(python: Path, folder: Path, seconds: float) -> None:
    done = subprocess.run(
        [python, PROGRAM, folder, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError("the models can not be trained", tail(done.stdout))


def _models(folder: Path, name: str) -> dict[int, Model]:
    """Give a model with the request of one row, and with that of many."""
    found = {}
    for given in json.loads((folder / name / "questions.json").read_text()):
        question = Question(**given)
        size = len(question.rows)
        model = Model(name, folder / name / f"{size}.rows", [question])
        model.question_file.write_text(json.dumps(given))
        found[size] = model
    return found


def _command(route: str, launch: Launch) -> Command:
    written = {
        "name": launch.model.name,
        "implementation": "mllib",
        "parameters": {"uri": str(launch.model.file.parent / "model"), "extra": {"route": route}},
    }
    (launch.folder / "model-settings.json").write_text(json.dumps(written))
    return [launch.scripts / "jackfield", *jackfield_arguments(launch, launch.folder)]


def _measure(
    server: Server, models: dict[int, Model], generator: Generator, seconds: float
) -> Iterator[tuple[int, int, Load]]:
    for size, form in FORMS.items():
        model = models[size]
        server.check(form, model)
        for connections in CONNECTIONS:
            warm = Job(
                form.name, server.ports.http, model, seconds / 2, connections, least=connections
            )
            generator.run(warm)
            job = Job(form.name, server.ports.http, model, seconds, connections, least=LEAST)
            load = generator.run(job)
            what = f"{server.peer.name}, {size} rows, {connections} connections"
            note(f"{what}: {load.requests_per_s:,.1f} req/s, p50 {load.p50_ms:,.2f} ms")
            yield size, connections, load


def _served(measured: list[Measured], bare: dict[str, dict[str, dict[str, float]]]) -> str:
    columns = ("model", "rows", "connections", "route", "req/s", "p50 ms", "p99 ms", "floor p50 ms")
    rows = []
    for each in measured:
        load = each.load
        rows.append(
            (
                each.model,
                f"{each.rows}",
                f"{each.connections}",
                each.route,
                f"{load.requests_per_s:,.1f}",
                f"{load.p50_ms:,.2f}",
                f"{load.p99_ms:,.2f}" + (f" ({load.n_errors} failed)" if load.n_errors else ""),
                f"{bare[each.model][f'{FLOOR}, {each.rows}']['p50']:,.1f}",
            )
        )
    return (
        "## Served\n\nEvery answer was compared with Spark's own. The floor is `transform` in a "
        "process without a server, by Arrow both ways, one call after another.\n\n"
        + report.table(columns, rows)
    )


def _bare(bare: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = []
    for model, ways in bare.items():
        for way, found in ways.items():
            name, _, size = way.rpartition(", ")
            far = f"{found['difference']:.1e}" if "difference" in found else "0"
            took = (f"{found['p50']:,.3f}", f"{found['p99']:,.3f}")
            rows.append((model, size, name, *took, far if "ONNX" in name else "-"))
    columns = ("model", "rows", "way", "p50 ms", "p99 ms", "largest difference")
    return (
        "## In one process, without a server\n\nFrom rows in NumPy to predictions. The difference "
        "is that of probabilities from Spark's, on the training data.\n\n"
        + report.table(columns, rows)
    )


if __name__ == "__main__":
    sys.exit(main())
