"""The servers that are compared: their environments, settings and command lines.

A new one is an `Environment` (a name and requirements), a function that turns a `Launch` into a
command line, and an entry in `PEERS`.
"""

import argparse
import json
import subprocess
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from environments import ENVIRONMENTS_FOLDER, HERE, ROOT, Environment, ServerError, tail
from forms import MLFLOW, PLAIN
from servers import HOST, Launch, Peer, listens_for_grpc, predicts

#: The same in every environment, so that all servers spend the same time in `predict`.
MODEL_STACK = ("scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1")

JACKFIELD = Environment(
    "jackfield",
    MODEL_STACK,
    {"jackfield": ROOT / "core", "jackfield-sklearn": ROOT / "plugins" / "sklearn"},
)
#: Forests and linear models are served by ONNX Runtime there, where they answer the same.
JACKFIELD_ONNX = Environment(
    "jackfield-onnx",
    (*MODEL_STACK, "skl2onnx==1.20.0", "onnxruntime==1.31.1"),
    JACKFIELD.checkout,
)
MLSERVER = Environment(
    "mlserver",
    # MLServer 1.7.1 does not start with uvloop 0.22, which its own requirements allow.
    (*MODEL_STACK, "mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22"),
)
#: Has what the load generator needs, too.
FLOOR = Environment(
    "floor",
    (
        *MODEL_STACK,
        *("starlette", "msgspec", "uvicorn", "httptools", "uvloop", "grpcio", "protobuf"),
    ),
)
BENTOML = Environment("bentoml", (*MODEL_STACK, "bentoml==1.4.39"))
LITSERVE = Environment("litserve", (*MODEL_STACK, "litserve==0.2.19"))
RAY = Environment("ray", (*MODEL_STACK, "ray[serve]==2.60.0"))
MLFLOW_SERVING = Environment("mlflow", (*MODEL_STACK, "mlflow==3.17.2"))

#: 1000x784 FP64 has 6 MiB, more than gRPC takes by default.
_MAX_GRPC_BYTES = 64 * 1024 * 1024

Command = list[str | Path]


def jackfield_arguments(launch: Launch, served: Path, **options: str) -> Command:
    """Give the arguments of the command `jackfield`: a file or folder on the free ports."""
    named = {**{f"{name}-port": port for name, port in launch.ports._asdict().items()}, **options}
    given = [f"--{key}={value}" for key, value in named.items()]
    return ["serve", served, "--host", HOST, *given]


def _jackfield(launch: Launch, *, program: Sequence[str | Path] = (), **options: str) -> Command:
    """Serve the model's file with all settings at their defaults."""
    arguments = jackfield_arguments(launch, launch.model.file, name=launch.model.name, **options)
    return [*(program or [launch.scripts / "jackfield"]), *arguments]


def _unmeasured(launch: Launch) -> Command:
    return _jackfield(launch, program=[launch.scripts / "python", HERE / "unmeasured.py"])


def _mlserver(
    launch: Launch,
    *,
    settings: Mapping[str, int] = {},
    model_settings: Mapping[str, float] = {},
) -> Command:
    ports = {f"{name}_port": port for name, port in launch.ports._asdict().items()}
    server = {"host": HOST, **ports, "grpc_max_message_length": _MAX_GRPC_BYTES, **settings}
    model = {
        "name": launch.model.name,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(launch.model.file)},
        **model_settings,
    }
    (launch.folder / "settings.json").write_text(json.dumps(server))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    return [launch.scripts / "mlserver", "start", launch.folder]


def mlserver_batching(size: int, seconds: float, *, workers: int) -> Peer:
    """Give MLServer with its adaptive batching, and with so many worker processes."""
    command = partial(
        _mlserver,
        settings={"parallel_workers": workers},
        model_settings={"max_batch_size": size, "max_batch_time": seconds},
    )
    where = "in process" if workers == 0 else f"{workers} worker"
    return Peer(f"mlserver-batch ({size}, {seconds} s, {where})", MLSERVER, command)


def _floor(launch: Launch) -> Command:
    port = str(launch.ports.http)
    return [
        launch.scripts / "python",
        HERE / "floor.py",
        launch.model.file,
        port,
        launch.model.name,
    ]


def _floor_grpc(launch: Launch) -> Command:
    program = HERE / "floor_grpc.py"
    return [launch.scripts / "python", program, launch.model.file, str(launch.ports.grpc)]


def _bentoml(launch: Launch) -> Command:
    command: Command = ["env", f"MODEL={launch.model.file}", launch.scripts / "bentoml", "serve"]
    port = str(launch.ports.http)
    return [*command, "app_bentoml:Iris", "--working-dir", HERE, "--host", HOST, "--port", port]


def _app(program: str) -> Callable[[Launch], Command]:
    def command(launch: Launch) -> Command:
        port = str(launch.ports.http)
        return [launch.scripts / "python", HERE / program, launch.model.file, port]

    return command


def _mlflow(launch: Launch) -> Command:
    """Save the model in MLflow's format, which `models serve` wants."""
    code = """\
        import sys, joblib, mlflow.sklearn
        model = joblib.load(sys.argv[1])
        mlflow.sklearn.save_model(model, "model", serialization_format="cloudpickle")
        """
    done = subprocess.run(
        [launch.scripts / "python", "-c", textwrap.dedent(code), launch.model.file],
        cwd=launch.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError("can not save the model in its format", tail(done.stderr))
    address: Command = ["--host", HOST, "--port", str(launch.ports.http)]
    mlflow = launch.scripts / "mlflow"
    return [mlflow, "models", "serve", "-m", "model", "--env-manager", "local", *address]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("jackfield", JACKFIELD, _jackfield),
        Peer("jackfield-onnx", JACKFIELD_ONNX, _jackfield),
        Peer("mlserver", MLSERVER, _mlserver),
        Peer("mlserver-inprocess", MLSERVER, partial(_mlserver, settings={"parallel_workers": 0})),
        Peer("floor", FLOOR, _floor),
        Peer("floor-grpc", FLOOR, _floor_grpc, is_ready=listens_for_grpc),
        Peer(
            "bentoml", BENTOML, _bentoml, PLAIN, predicts(PLAIN), {"BENTOML_DO_NOT_TRACK": "True"}
        ),
        Peer("litserve", LITSERVE, _app("app_litserve.py"), PLAIN, predicts(PLAIN)),
        Peer(
            "ray",
            RAY,
            _app("app_ray.py"),
            PLAIN,
            predicts(PLAIN),
            {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
        ),
        Peer("mlflow", MLFLOW_SERVING, _mlflow, MLFLOW, predicts(MLFLOW)),
    )
}
#: Ours with less than all it does, to tell what measuring costs.
VARIANTS = {
    peer.name: peer
    for peer in (
        Peer(
            "jackfield, no metrics port",
            JACKFIELD,
            lambda at: _jackfield(at, **{"metrics-endpoint": ""}),
        ),
        Peer("jackfield, no statistics", JACKFIELD, _unmeasured),
    )
}

#: Named in the reports with their versions, where an environment has them; the JSON names all.
REPORTED_PACKAGES = (
    "jackfield", "jackfield-sklearn", "mlserver", "mlserver-sklearn", "bentoml", "litserve", "ray",
    "mlflow", "fastapi", "starlette", "uvicorn", "httptools", "h11", "uvloop", "grpcio", "protobuf",
    "msgspec", "orjson", "pydantic", "scikit-learn", "numpy", "jackfield-xgboost",
    "jackfield-lightgbm", "jackfield-catboost", "mlserver-xgboost", "mlserver-lightgbm",
    "mlserver-catboost", "xgboost", "xgboost-cpu", "lightgbm", "catboost", "onnxruntime",
    "skl2onnx", "jackfield-mlflow", "jackfield-mllib", "mlflow-skinny", "mlserver-mlflow",
    "pyspark", "pyarrow", "pandas",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the environments are."""
    parser.add_argument(
        "--envs",
        type=Path,
        default=ENVIRONMENTS_FOLDER,
        metavar="FOLDER",
        help="where the servers' virtual environments are kept (default: .bench-envs)",
    )


def parse_peers(names: str) -> list[Peer]:
    """Read names of servers with commas between.

    Raises:
        argparse.ArgumentTypeError: One is not known.
    """
    unknown = [name for name in names.split(",") if name not in PEERS]
    if unknown:
        message = f"no server named {', '.join(unknown)}; known: {', '.join(PEERS)}"
        raise argparse.ArgumentTypeError(message)
    return [PEERS[name] for name in names.split(",")]
