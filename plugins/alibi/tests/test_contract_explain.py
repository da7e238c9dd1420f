"""What the core relies on, for an explainer of each form: saved, built, under MLServer's name."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import httpx
import msgspec
import numpy as np
import pytest

pytest.importorskip("alibi", reason="Alibi is not installed", exc_type=ImportError)

from explainers import MLSERVERS, OURS, SEED

from jackfield import InferRequest, ModelSettings, Tensor
from jackfield.testing import RuntimeContract
from jackfield_alibi import jackfield_runtimes


@pytest.fixture(scope="session")
def elsewhere(explainers, tmp_path_factory):
    """Serve the targets in another process, as a runtime without a server around it needs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("targets") / "log"
    command = [sys.executable, "-W", "ignore", "-m", "jackfield", "serve"]
    names = ("iris", "diabetes")
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, *(str(explainers.folder / each) for each in names), "--http-port",
             str(port), "--grpc-port", "0", "--metrics-port", "0"],
            stdout=output, stderr=output,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(url):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(20)


def _is_ready(url):
    try:
        return httpx.get(f"{url}/v2/models/diabetes/ready").is_success
    except httpx.TransportError:
        return False


class Explained(RuntimeContract):
    """An explainer of the iris forest, which another process serves."""

    # a saved anchor's unpickled functions leave 8.3 KB, a built one less
    leak_bytes = 16 * 1024

    @pytest.fixture
    def spec(self):
        [spec] = [each for each in jackfield_runtimes() if each.name == OURS]
        return spec

    def made(self, url, target="iris", implementation=OURS, **extra):
        extra = {"infer_uri": f"{url}/v2/models/{target}/infer", "seed": SEED, **extra}
        settings = {
            "name": "model",
            "implementation": implementation,
            "parameters": {"extra": extra},
        }
        return msgspec.convert(settings, ModelSettings)

    @pytest.fixture
    def example(self, explainers):
        return InferRequest([Tensor.from_array("x", explainers.targets["iris"].rows[::80])])


class TestSavedAnchor(Explained):
    @pytest.fixture
    def model_dir(self, explainers):
        return explainers.folder / "saved-anchor"

    @pytest.fixture
    def settings(self, elsewhere):
        return self.made(elsewhere)


class TestSavedAnchorAsMLServers(Explained):
    # Alibi takes ten seconds to import there; two of the others show it
    test_another_process_gives_the_same_answers = None

    @pytest.fixture
    def model_dir(self, explainers):
        return explainers.folder / "mlserver-anchor" / "explainer"

    @pytest.fixture
    def settings(self, elsewhere):
        return self.made(elsewhere, implementation=MLSERVERS, explainer_type="anchor_tabular")


class Built(Explained):
    """Reference data are the artifact, and no form of it is told."""

    @pytest.fixture
    def spec(self):
        [spec] = [each for each in jackfield_runtimes() if each.name == OURS]
        return msgspec.structs.replace(spec, artifacts=())


class TestKernelShap(Built):
    @pytest.fixture
    def model_dir(self, explainers):
        return explainers.folder / "shap" / "rows.npy"

    @pytest.fixture
    def settings(self, elsewhere):
        return self.made(elsewhere, explainer_type="kernel_shap", library="alibi")


class TestCurves(Built):
    test_another_process_gives_the_same_answers = None

    @pytest.fixture
    def model_dir(self, explainers):
        return explainers.folder / "ale-diabetes" / "rows.npy"

    @pytest.fixture
    def settings(self, elsewhere):
        return self.made(elsewhere, "diabetes", explainer_type="ale")

    @pytest.fixture
    def example(self, explainers):
        rows = np.ascontiguousarray(explainers.targets["diabetes"].rows[:40])
        return InferRequest([Tensor.from_array("x", rows)])
