"""The model that is explained: in process, over HTTP and gRPC, and when it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from jackfield import (
    DeadlineError,
    InvalidRequestError,
    ModelContext,
    ModelLoadError,
    ModelSettings,
    Server,
    ServerSettings,
)
from jackfield.client import Client
from jackfield.testing import running
from jackfield_alibi._explain._explanation import StoppedError
from jackfield_alibi._explain._target import (
    TargetBusyError,
    TargetFailedError,
    TargetRefusedError,
    open_target,
    target_error,
)
from jackfield_alibi._explain._target_settings import TargetSettings

X, Y = load_iris(return_X_y=True)
SECRET = "moon-river-7231"

MODELS = """
    import time
    from typing import Annotated

    import numpy as np
    from numpy.typing import NDArray

    from jackfield import Capabilities, InferRequest, InferResponse, InvalidRequestError


    class Slow:
        def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> NDArray[np.float64]:
            time.sleep(float(x[0, 0]))
            return x.sum(axis=1)


    class Columns:
        def infer(
            self,
            a: Annotated[NDArray[np.float64], (-1,)],
            b: Annotated[NDArray[np.int64], (-1, 1)],
        ) -> NDArray[np.float64]:
            assert b.dtype == np.int64
            return a * 10 + b[:, 0]


    class Texts:
        def infer(self, text: list[str]) -> NDArray[np.int64]:
            return np.array([len(each) for each in text])


    class Image:
        def infer(self, image: Annotated[NDArray[np.uint8], (-1, 4, 5, 3)]) -> NDArray[np.float32]:
            return image.reshape(len(image), -1).mean(axis=1, keepdims=True, dtype=np.float32)


    class Labels:
        def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> NDArray[np.str_]:
            return np.array(["äpfel" if each > 0 else "birnen" for each in x[:, 0]])


    class Wrong:
        def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> NDArray[np.float64]:
            return x[:1, 0]


    class Failing:
        def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> NDArray[np.float64]:
            if len(x) > 2:
                raise RuntimeError("the drive is full")
            return x[:, 0]


    class Echo:
        capabilities = Capabilities(reads_headers=True)

        def infer(self, request: InferRequest) -> InferResponse:
            headers = request.parameters["headers"]
            raise InvalidRequestError("x", expected="nothing", found=headers["x-token"])


    class Largest:
        def __init__(self):
            self.largest = 0

        def infer(self, x: Annotated[NDArray[np.float64], (-1, 4)]) -> NDArray[np.float64]:
            self.largest = max(self.largest, len(x))
            return np.full(len(x), float(self.largest))
    """
OWN = ("Slow", "Columns", "Texts", "Image", "Labels", "Wrong", "Failing", "Echo", "Largest")

#: The versions of the model `versioned`, and what each is.
VERSIONS = {"1": "iris", "2": "forest"}

#: A model that opens a target at load, and asks it in `infer`: an explainer without its library.
PROBE = """
    import msgspec
    import numpy as np
    from jackfield_alibi._explain._target import open_target
    from jackfield_alibi._explain._target_settings import TargetSettings


    class Probe:
        def __init__(self, context):
            self.context = context

        def load(self):
            settings = msgspec.convert(dict(self.context.extra), TargetSettings)
            self.target = open_target(self.context, settings, wants="probabilities")
            self.target.check(np.ones((3, 4)))

        def infer(self, x: np.ndarray) -> np.ndarray:
            with self.target.request():
                return self.target.predict(x)
    """


def write(
    parent, name, implementation, *, folder="", code="", uri="", version="", extra=None, **settings
):
    place = parent / (folder or name)
    place.mkdir(parents=True, exist_ok=True)
    if code:
        (place / "model.py").write_text(textwrap.dedent(code))
    given = {"extra": extra, "uri": uri, "version": version}
    parameters = {key: value for key, value in given.items() if value}
    written = {"name": name, "implementation": implementation, "parameters": parameters}
    (place / "model-settings.json").write_text(json.dumps(written | settings))
    return place


def write_estimator(folder, name, estimator):
    place = write(folder, name, "sklearn", uri="./model.joblib")
    joblib.dump(estimator, place / "model.joblib")
    return place


@pytest.fixture(scope="module")
def estimators():
    diabetes = load_diabetes(return_X_y=True)
    return {
        "iris": LogisticRegression(max_iter=500).fit(X, Y),
        "forest": RandomForestClassifier(10, random_state=0).fit(X, Y),
        "line": LinearRegression().fit(*diabetes),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, estimators):
    place = tmp_path_factory.mktemp("models")
    for name, estimator in estimators.items():
        write_estimator(place, name, estimator)
    for version, kind in VERSIONS.items():
        uri = f"../{kind}/model.joblib"
        write(place, "versioned", "sklearn", folder=version, uri=uri, version=version)
    for kind in OWN:
        write(place, kind.lower(), f"model.{kind}", code=MODELS)
    return place


@pytest.fixture(scope="module")
def server(folder):
    with Server([folder]).sync() as found:
        yield found


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A server in a process of its own; a target in this one would be called without a wire."""

    process: subprocess.Popen
    http: str
    grpc: str

    def kill(self):
        self.process.kill()
        self.process.wait()

    def await_tried(self, name):
        """Wait until a model is ready."""
        with Client(self.http) as client:
            end = time.monotonic() + 60
            while not client.is_live() or not self._has(client, name):
                assert time.monotonic() < end, "the server does not start"

    def _has(self, client, name):
        index = {entry.name: entry.state for entry in client.index()}
        return index.get(name) == "READY" and "LOADING" not in index.values()


def free_port():
    """Find a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def elsewhere():
    """Start `jackfield serve` in processes of their own; does not wait until they are up."""
    with contextlib.ExitStack() as started:

        def start(*paths, **options):
            ports = {"http_port": free_port(), "grpc_port": free_port(), "metrics_port": 0}
            given = [
                text
                for name, value in {**ports, **options}.items()
                for text in (f"--{name.replace('_', '-')}", str(value))
            ]
            process = subprocess.Popen(
                [sys.executable, "-m", "jackfield", "serve", *map(str, paths), *given],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            found = Elsewhere(
                process,
                f"http://127.0.0.1:{ports['http_port']}",
                f"grpc://127.0.0.1:{ports['grpc_port']}",
            )
            started.callback(found.kill)
            return found

        yield start


@pytest.fixture(scope="module")
def remote(folder, elsewhere):
    """The same models in another process, each over HTTP and gRPC."""
    found = elsewhere(folder)
    found.await_tried("iris")
    return found


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model that can't be loaded."""
    code = "class Broken:\n    infer = 1\n"
    return write(tmp_path_factory.mktemp("broken"), "broken", "model.Broken", code=code)


@pytest.fixture(scope="module")
def limited(folder, broken, elsewhere):
    """A server that takes little at a time, and has a model that it can't load."""
    bounds = {"max_body_bytes": 40_000, "max_grpc_message_bytes": 40_000}
    found = elsewhere(folder / "iris", broken, **bounds)
    found.await_tried("iris")
    return found


def context_of(server=None, **extra):
    return ModelContext(
        name="explainer",
        version="",
        artifact=None,
        settings=ModelSettings(),
        options=None,
        logger=logging.getLogger("jackfield"),
        find_model=None if server is None else server.model,
    )


@pytest.fixture
def open_it(server):
    """Open targets, close them at the end."""
    with contextlib.ExitStack() as opened:

        def open_one(*, wants="", server=server, **settings):
            target = open_target(context_of(server), TargetSettings(**settings), wants=wants)
            opened.callback(target.close)
            return target

        yield open_one


def url_of(remote, wire, name):
    base = remote.grpc if wire == "grpc" else remote.http
    return f"{base}/v2/models/{name}/infer"


@pytest.fixture(params=["local", "http", "grpc"])
def ask(request, open_it, remote):
    """Open a target by each of the ways to it."""

    def open_one(name, *, version="", **settings):
        if request.param == "local":
            return open_it(target=name, target_version=version, **settings)
        uri = url_of(remote, request.param, f"{name}/versions/{version}" if version else name)
        return open_it(infer_uri=uri, server=None, **settings)

    open_one.is_local = request.param == "local"
    return open_one


# ---- what it predicts ----


def test_labels_and_probabilities_are_the_estimators_own(ask, estimators):
    iris = estimators["iris"]
    labels = ask("iris").predict(X)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, iris.predict(X))
    target = ask("iris", wants="probabilities")
    assert (target.name, target.output_name) == ("iris", "predict_proba")
    np.testing.assert_array_equal(target.predict(X), iris.predict_proba(X))


def test_what_has_no_probabilities_gives_its_first_output(ask, estimators):
    target = ask("line", wants="probabilities")
    rows = load_diabetes().data[:7]
    assert target.output_name == "predict"
    predicted = target.predict(rows)
    np.testing.assert_array_equal(predicted, estimators["line"].predict(rows).reshape(-1))


def test_the_output_of_the_settings_goes_before(ask, estimators):
    target = ask("forest", infer_output="predict_proba")
    np.testing.assert_array_equal(target.predict(X[:5]), estimators["forest"].predict_proba(X[:5]))
    labels = ask("forest", infer_output="predict", wants="probabilities").predict(X[:5])
    np.testing.assert_array_equal(labels, estimators["forest"].predict(X[:5]))


def test_rows_become_what_the_target_takes(ask):
    wide = ask("iris").predict(X[:3].astype(np.float32))
    np.testing.assert_array_equal(wide, Y[:3])
    columns = ask("columns")
    assert columns.input_name == "a"
    rows = np.array([[1.5, 2.0], [3.0, 4.4], [0.0, -0.6]])
    np.testing.assert_array_equal(columns.predict(rows), [17.0, 34.0, -1.0])
    images = np.full((2, 4, 5, 3), 300.0)  # more than an UINT8 holds
    images[1] = 6.7
    assert ask("image").predict(images).tolist() == [255.0, 7.0]


def test_texts_go_as_bytes(ask):
    target = ask("texts")
    texts = ["grüße", "", "two\0"]
    assert target.predict(texts).tolist() == [5, 0, 4]
    assert target.predict(np.array(["ab", "c"])).tolist() == [2, 1]
    assert target.check(texts).tolist() == [5, 0]


def test_labels_that_are_text_come_as_text(ask):
    found = ask("labels").predict(np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]]))
    assert found.tolist() == ["äpfel", "birnen"]


def test_the_explainers_own_array_stays_writable(ask):
    rows = X[:4].copy()
    target = ask("iris")
    target.predict(rows)
    rows[0, 0] = 7.0
    assert rows.flags.writeable


def test_calls_and_rows_are_counted_and_told(ask):
    target = ask("iris")
    told = []
    with target.request(on_call=lambda usage: told.append((usage.calls, usage.rows))) as usage:
        target.predict(X[:10])
        target.predict(X[:1])
    assert told == [(1, 10), (2, 11)]
    assert (usage.calls, usage.rows) == (2, 11)


def test_a_call_has_no_more_rows_than_the_settings_say(ask):
    target = ask("largest", target_max_rows=64)
    with target.request() as usage:
        found = target.predict(np.zeros((150, 4)))
    assert found.tolist() == [64.0] * 150
    assert (usage.calls, usage.rows) == (3, 150)


def test_a_version_is_called(ask, estimators):
    for version, kind in VERSIONS.items():
        target = ask("versioned", version=version, wants="probabilities")
        np.testing.assert_array_equal(target.predict(X), estimators[kind].predict_proba(X))


# ---- at load ----


def test_a_missing_model_is_found_at_load(ask):
    with pytest.raises(ModelLoadError, match="'irsi'"):
        ask("irsi")


def test_an_unready_model_is_found_at_load(broken, open_it):
    with (
        Server([broken]).sync() as server,
        pytest.raises(ModelLoadError, match=r"'broken'.*not ready"),
    ):
        open_it(target="broken", server=server)


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_an_unready_model_elsewhere_is_waited_for_within_the_bound(limited, open_it, wire):
    uri = url_of(limited, wire, "broken")
    with pytest.raises(ModelLoadError, match=r"'broken' at .*not ready.*'target_wait_s'"):
        open_it(infer_uri=uri, server=None, target_wait_s=0.2)


@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_what_a_server_finds_too_large_goes_in_smaller_calls(limited, open_it, estimators, wire):
    rows = np.tile(X, (20, 1))  # 96,000 bytes
    target = open_it(infer_uri=url_of(limited, wire, "iris"), server=None)
    with target.request() as usage:
        predicted = target.predict(rows)
    np.testing.assert_array_equal(predicted, estimators["iris"].predict(rows))
    assert usage.calls == 4, "halved twice"


def test_another_width_is_found_at_load_with_both_shapes(ask):
    target = ask("iris")
    with pytest.raises(ModelLoadError, match=r"'iris' takes FP64 \[-1, 4\].* FP64 \[20, 3\]"):
        target.check(np.zeros((20, 3)))
    with pytest.raises(ModelLoadError, match=r"'iris' takes FP64 \[-1, 4\].* BYTES \[1\]"):
        target.check(["text"])
    with pytest.raises(ModelLoadError, match=r"2 columns \('a', 'b'\).* FP64 \[5, 3\]"):
        ask("columns").check(np.zeros((5, 3)))
    with pytest.raises(ModelLoadError, match=r"'image' takes UINT8 \[-1, 4, 5, 3\]"):
        ask("image").check(np.zeros((2, 5, 4, 3)))


def test_reference_data_is_predicted_at_load(ask):
    assert ask("iris").check(X).tolist() == [0, 0]
    with pytest.raises(ModelLoadError, match=r"'wrong'.*for 2 rows"):
        ask("wrong").check(X)


def test_an_unknown_output_is_found_at_load(ask):
    with pytest.raises(ModelLoadError, match=r"'infer_output'.*'nope'.*'predict'"):
        ask("iris", infer_output="nope")


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "no target"),
        ({"target": "iris", "infer_uri": "http://a/v2/models/iris"}, "both"),
        ({"infer_uri": "iris"}, "expected a URL"),
        ({"infer_uri": "ftp://a/v2/models/iris"}, "'ftp'"),
        ({"infer_uri": "http://a:8080/iris"}, "/iris"),
        ({"infer_uri": "grpc://a/base/v2/models/iris"}, "/base"),
        ({"infer_uri": "http://a:x/v2/models/iris"}, "can't be read"),
        ({"infer_uri": "https://a/v2/models/i", "ssl_verify_path": "/none"}, "ssl_verify_path"),
    ],
)
def test_settings_that_name_no_target_are_refused(open_it, settings, found):
    with pytest.raises(ModelLoadError, match=found):
        open_it(**settings)


def test_a_model_without_a_server_around_it_has_no_target_here(open_it):
    with pytest.raises(ModelLoadError, match="'iris'"):
        open_it(target="iris", server=None)


# ---- another server, at load ----


def test_a_server_that_never_comes_is_waited_for_within_the_bound(open_it):
    for scheme in ("http", "grpc"):
        began = time.monotonic()
        uri = f"{scheme}://127.0.0.1:{free_port()}/v2/models/iris"
        with pytest.raises(ModelLoadError, match=r"'iris' at .*'target_wait_s'.*'target'"):
            open_it(infer_uri=uri, server=None, target_wait_s=0.4)
        assert time.monotonic() - began >= 0.4


# ---- this very server ----


def test_an_infer_uri_of_this_server_is_called_in_process_and_loaded_first(folder, tmp_path):
    ports = {"http": free_port(), "grpc": free_port()}
    for scheme, port in ports.items():
        extra = {"infer_uri": f"{scheme}://localhost:{port}/v2/models/iris/infer"}
        write(tmp_path, f"a-{scheme}", "model.Probe", code=PROBE, extra=extra, needs=["iris"])
    settings = ServerSettings(http_port=ports["http"], grpc_port=ports["grpc"], metrics_port=0)
    with (
        running(tmp_path, folder / "iris", settings=settings),
        Client(f"http://localhost:{ports['http']}") as client,
    ):
        for scheme in ports:
            found = client.model(f"a-{scheme}").infer(x=X[:2])["output-0"]
            assert found.shape == (2, 3)
        stats = client.model("iris").statistics()
    counted = stats[0]["inference_stats"]["success"]["count"]
    assert counted == 4, "each probe asked once at load and once then"


def test_only_this_process_own_port_makes_a_model_its_own():
    uri = "http://localhost:{}/v2/models/iris/infer"
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        assert TargetSettings(infer_uri=uri.format(port)).needs == ("iris",)
        nowhere = uri.replace("localhost", "0.0.0.0").format(port)
        assert TargetSettings(infer_uri=nowhere).needs == ("iris",)
        grpc = TargetSettings(infer_uri=f"grpc://127.0.0.1:{port}/iris")
        assert grpc.needs == ("iris",)
        other = TargetSettings(infer_uri=f"http://192.0.2.1:{port}/v2/models/iris/infer")
        assert other.needs == ()
    assert TargetSettings(infer_uri=uri.format(port)).needs == ()
    assert TargetSettings(target="iris", infer_uri="model.keras").needs == ("iris",)
    assert TargetSettings(infer_uri="model.keras").needs == ()


def test_many_explainers_wait_for_one_target_without_a_deadlock(folder, tmp_path):
    for index in range(8):  # more than load at the same time
        settings = {"extra": {"target": "iris"}, "needs": ["iris"]}
        write(tmp_path, f"a{index}", "model.Probe", code=PROBE, **settings)
    with Server([tmp_path, folder / "iris"]).sync() as server, ThreadPoolExecutor(32) as pool:
        asked = [
            pool.submit(server.model(f"a{index % 8}").infer, x=X[index : index + 1])
            for index in range(64)
        ]
        for each in asked:
            assert each.result(timeout=60).outputs[0].array.shape == (1, 3)


def test_a_reloaded_target_is_followed(tmp_path, estimators):
    place = write_estimator(tmp_path, "iris", estimators["iris"])
    write(tmp_path, "probe", "model.Probe", code=PROBE, extra={"target": "iris"}, needs=["iris"])
    with running(tmp_path) as server, Client(server.http) as client:
        for name in ("iris", "forest"):
            joblib.dump(estimators[name], place / "model.joblib")
            client.load("iris")
            found = client.model("probe").infer(x=X)["output-0"]
            np.testing.assert_array_equal(found, estimators[name].predict_proba(X))


# ---- when it fails ----


def test_another_width_is_refused_with_both_shapes(ask):
    with pytest.raises(InvalidRequestError, match=r"\[-1, 4\].*'iris' takes, found FP64 \[2, 5\]"):
        ask("iris").predict(np.zeros((2, 5)))


def test_rows_that_the_target_refuses_are_the_callers_matter(ask):
    rows = X[:2].copy()
    rows[1, 2] = np.nan
    with pytest.raises(TargetRefusedError, match=r"target 'iris' refuses the rows.*NaN"):
        ask("iris").predict(rows)
    with pytest.raises(InvalidRequestError, match=r"'columns'.*not finite"):
        ask("columns").predict(np.array([[1.0, np.inf]]))


def test_a_target_that_fails_half_way_is_named_with_its_status(ask, caplog):
    target = ask("failing")
    with target.request() as usage:
        target.predict(X[:2])
        with pytest.raises(TargetFailedError) as caught:
            target.predict(X[:3])
    text = str(caught.value)
    assert "'failing'" in text
    assert "after 1 calls (2 rows)" in text
    assert (usage.calls, usage.rows) == (1, 2)
    if not ask.is_local:
        assert "status" in text
        assert "127.0.0.1" not in text, "where another server is stays in the log"
        assert "127.0.0.1" in caplog.text


def test_an_answer_that_is_not_one_for_each_row_is_a_failure(ask):
    with pytest.raises(TargetFailedError, match=r"'wrong' answered \[1\].*for 3 rows"):
        ask("wrong").predict(X[:3])


def test_the_requests_deadline_ends_it(ask):
    target = ask("slow")
    began = time.perf_counter_ns()
    rows = np.array([[3.0, 0, 0, 0]])
    with (
        target.request(deadline_ns=began + 300_000_000),
        pytest.raises(DeadlineError, match="'explainer'"),
    ):
        target.predict(rows)
    assert time.perf_counter_ns() - began < 2.5e9


def test_one_call_has_a_time_of_its_own(ask):
    with pytest.raises(DeadlineError, match=r"'slow' did not answer within 0.2 s"):
        ask("slow", target_timeout_s=0.2).predict(np.array([[3.0, 0, 0, 0]]))


def test_a_deadline_that_is_over_calls_nothing(ask):
    target = ask("largest")
    with (
        target.request(deadline_ns=time.perf_counter_ns() - 1) as usage,
        pytest.raises(DeadlineError),
    ):
        target.predict(X)
    assert usage.calls == 0


def test_nobody_who_waits_means_no_more_calls(ask):
    target, left = ask("iris"), threading.Event()
    with target.request(is_cancelled=left.is_set, on_call=lambda _: left.set()) as usage:
        target.predict(X)
        with pytest.raises(StoppedError):
            target.predict(X)
    assert usage.calls == 1


def test_each_thread_has_its_own_request(ask):
    target = ask("iris")

    def explain(rows):
        with target.request() as usage:
            for _ in range(5):
                target.predict(X[:rows])
        return usage.rows

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(explain, range(1, 17))) == [5 * rows for rows in range(1, 17)]


def test_what_alibi_wraps_is_found_again(ask):
    error = None
    try:
        try:
            ask("wrong").predict(X[:3])
        except TargetFailedError as cause:
            raise ValueError("predictor failed to be called") from cause
    except ValueError as wrapped:
        error = wrapped
    assert isinstance(target_error(error), TargetFailedError)
    assert target_error(ValueError("another")) is None


# ---- a server that comes late, and dies ----


def test_a_server_that_starts_is_waited_for_and_its_death_is_told(
    folder, elsewhere, open_it, estimators
):
    remote = elsewhere(folder / "iris")
    uris = [url_of(remote, wire, "iris") for wire in ("http", "grpc")]
    options = {"server": None, "wants": "probabilities", "target_retries": 1}
    with ThreadPoolExecutor(2) as pool:  # it imports what it is made of, and listens to nobody
        targets = list(pool.map(lambda uri: open_it(infer_uri=uri, **options), uris))
    with contextlib.ExitStack() as requests:
        for target in targets:
            usage = requests.enter_context(target.request())
            found = target.predict(X)
            np.testing.assert_array_equal(found, estimators["iris"].predict_proba(X))
            assert usage.calls == 1
            requests.close()
    remote.kill()
    for target in targets:
        with pytest.raises(TargetBusyError, match=r"'iris'.*after 0 calls") as caught:
            target.predict(X)
        assert "127.0.0.1" not in str(caught.value)


# ---- credentials ----


class Guarded:
    """A proxy's front: lets pass who shows the credential, and repeats what it was shown."""

    def __init__(self, status=403):
        self.seen = []
        self.status = status

    def __enter__(self):
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        guarded = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                guarded.seen.append(dict(self.headers))
                length = int(self.headers.get("content-length", 0))
                self.rfile.read(length)
                shown = self.headers.get("authorization", "")
                body = json.dumps({"error": f"no entry with '{shown}'"}).encode()
                self.send_response(guarded.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815  the names that http.server looks for

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return f"127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.mark.parametrize("status", [401, 500])
def test_credentials_are_sent_and_never_shown(open_it, monkeypatch, caplog, status):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("IRIS_TOKEN", SECRET)
    front = Guarded(status)
    with front as address, pytest.raises(ModelLoadError) as caught:
        open_it(
            infer_uri=f"http://{address}/v2/models/iris/infer",
            server=None,
            target_headers={"Authorization": "Bearer ${IRIS_TOKEN}"},
        )
    sent = {name.lower(): value for name, value in front.seen[0].items()}
    assert sent["authorization"] == f"Bearer {SECRET}"
    assert sent["seldon-skip-logging"] == "true"
    assert str(status) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


def test_a_login_in_the_url_is_sent_and_never_shown(open_it, caplog):
    caplog.set_level(logging.DEBUG)
    front = Guarded(401)
    with front as address, pytest.raises(ModelLoadError) as caught:
        open_it(infer_uri=f"http://me:{SECRET}@{address}/v2/models/iris/infer", server=None)
    assert front.seen[0]["authorization"].startswith("Basic ")
    shown = str(caught.value) + caplog.text
    assert SECRET not in shown
    assert front.seen[0]["authorization"].removeprefix("Basic ") not in shown


def test_credentials_go_over_each_wire_and_are_never_shown(remote, open_it, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("IRIS_TOKEN", SECRET)
    for wire in ("http", "grpc"):
        target = open_it(
            infer_uri=url_of(remote, wire, "echo"),
            server=None,
            target_headers={"X-Token": "${IRIS_TOKEN}"},
        )
        with pytest.raises(TargetRefusedError, match=r"found \*\*\*") as caught:
            target.predict(X)
        assert SECRET not in str(caught.value) + caplog.text + repr(target)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"authorization": "Bearer ${NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE"),
        ({"authorization": f"{SECRET}\r\nx: y"}, "authorization"),
        ({"a header": SECRET}, "a header"),
    ],
)
def test_headers_that_can_not_be_sent_are_found_at_load(open_it, headers, found):
    with pytest.raises(ModelLoadError, match=found) as caught:
        open_it(infer_uri="http://127.0.0.1:1/v2/models/iris", server=None, target_headers=headers)
    assert SECRET not in str(caught.value)
