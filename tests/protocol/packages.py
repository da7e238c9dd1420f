"""The clients that are tested, each in a process of its own.

Two of them cannot share a process, since each registers the package `inference`, and KServe and
MLServer seldom share an environment: a client runs by the interpreter that its variable names.
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "core" / "src"


@dataclass(frozen=True)
class Client:
    """A client: what its users import, its generated modules, and where it differs from us."""

    package: str
    front_door: str
    messages: str
    stubs: str
    further_messages: tuple[str, ...] = ()
    differences: frozenset[tuple[str, int | str]] = frozenset()

    @property
    def variable(self) -> str:
        return f"JACKFIELD_{self.package.upper()}_PYTHON"

    @property
    def python(self) -> str:
        return os.environ.get(self.variable, sys.executable)


TRITON = Client(
    "tritonclient",
    "tritonclient.grpc",  # the package alone imports no gRPC
    "tritonclient.grpc.service_pb2",
    "tritonclient.grpc.service_pb2_grpc",
    further_messages=("tritonclient.grpc.model_config_pb2",),
)
KSERVE = Client(
    "kserve",
    "kserve",
    "kserve.protocol.grpc.grpc_predict_v2_pb2",
    "kserve.protocol.grpc.grpc_predict_v2_pb2_grpc",
    # KServe has no repository name, and its responses repeat the model's. Its own client calls
    # neither method, so that Triton's numbers, which MLServer shares, are the ones to follow.
    differences=frozenset(
        {
            ("inference.RepositoryModelLoadRequest", 1),
            ("inference.RepositoryModelLoadResponse", 1),
            ("inference.RepositoryModelLoadResponse", 2),
            ("inference.RepositoryModelUnloadRequest", 1),
            ("inference.RepositoryModelUnloadResponse", 1),
            ("inference.RepositoryModelUnloadResponse", 2),
        }
    ),
)
MLSERVER = Client(
    "mlserver",
    "mlserver",
    "mlserver.grpc.dataplane_pb2",
    "mlserver.grpc.dataplane_pb2_grpc",
    # MLServer streams bare ModelInferResponse messages.
    differences=frozenset({("inference.GRPCInferenceService", "ModelStreamInfer")}),
)


def require(client: Client) -> Client:
    """Skip where the package is absent, unless a variable promises that it is there."""
    if client.variable not in os.environ and importlib.util.find_spec(client.package) is None:
        pytest.skip(f"{client.package} is not installed, and {client.variable} is not set")
    return client


def run_python(python: str, *arguments: str, stdin: str = "", is_safe_path: bool = True) -> str:
    """Run Python with our package on its path, and give what it prints."""
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [python, *(["-P"] if is_safe_path else []), *arguments],
        input=stdin,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
