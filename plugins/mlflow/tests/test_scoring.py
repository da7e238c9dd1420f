"""The scoring protocol: byte for byte what ``mlflow models serve`` answers, on the same models.

The reference has all of MLflow, which serving does without: an environment of its own, whose
interpreter the variable JACKFIELD_MLFLOW_PYTHON names.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from mlflow.version import VERSION
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jackfield import ServerSettings
from jackfield.testing import running

HERE = Path(__file__).parent
PYTHON = os.environ.get("JACKFIELD_MLFLOW_PYTHON", "")
beside_mlflow = pytest.mark.skipif(
    not PYTHON, reason="JACKFIELD_MLFLOW_PYTHON names no interpreter that has all of MLflow"
)

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
COLUMNS = ["alcohol", "malic_acid", "ash"]
ROW = [14.23, 1.71, 2.43]


# ---- the models ----


def signature(*inputs, outputs=None, params=None):
    return ModelSignature(
        inputs=Schema(list(inputs)) if inputs else None, outputs=outputs, params=params
    )


def params_schema():
    return ParamSchema(
        [
            ParamSpec("scale", "double", 2.0),
            ParamSpec("count", "long", 3),
            ParamSpec("name", "string", "none"),
            ParamSpec("strict", "boolean", default=False),
            ParamSpec("when", "datetime", np.datetime64("2024-01-01")),
            ParamSpec("many", "long", [1, 2], shape=(-1,)),
        ]
    )


def columns_of_each_type():
    kinds = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
    return [ColSpec(kind, f"a {kind}", required=kind in ("long", "string")) for kind in kinds]


def nested_columns():
    person = Object(
        [Property("name", DataType.string), Property("age", DataType.long, required=False)]
    )
    return [
        ColSpec(Array(DataType.double), "numbers"),
        ColSpec(person, "person"),
        ColSpec(Array(person), "people", required=False),
        ColSpec(Map(DataType.long), "counts", required=False),
        ColSpec(AnyType(), "anything", required=False),
    ]


def echo(folder, given, *, answer="told"):
    save_model(
        folder,
        python_model=str(HERE / "scoring_code" / "echo.py"),
        signature=given,
        model_config={"answer": answer},
        pip_requirements=["mlflow"],
    )


def hinted(folder, name):
    file = HERE / "scoring_code" / f"{name}.py"
    save_model(folder, python_model=str(file), pip_requirements=["mlflow"])


def save_all(root):
    """Save a model for each kind of signature."""
    from mlflow.sklearn import save_model as save_estimator

    wine = load_wine(as_frame=True)
    table = wine.data[COLUMNS]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(table, wine.target)
    bare = make_pipeline(StandardScaler(), LogisticRegression()).fit(table.to_numpy(), wine.target)
    # cloudpickle: the estimators are ours, and skops is no part of what is tested
    saved = {"pip_requirements": ["scikit-learn"], "serialization_format": "cloudpickle"}
    save_estimator(
        model, root / "wine", signature=infer_signature(table, model.predict(table)), **saved
    )
    matrix = infer_signature(table.to_numpy(), bare.predict(table))
    save_estimator(bare, root / "matrix", signature=matrix, **saved)
    save_estimator(bare, root / "bare", **saved)
    numbers = [ColSpec("double", name) for name in COLUMNS]
    echo(root / "params", signature(*numbers, params=params_schema()))
    echo(root / "params-only", signature(params=params_schema()))
    echo(root / "unsigned", None)
    echo(root / "types", signature(*columns_of_each_type()))
    echo(root / "nested", signature(*nested_columns()))
    echo(root / "one-column", signature(ColSpec("double", "alcohol")))
    echo(root / "nameless", signature(ColSpec("double"), ColSpec("string")))
    tensors = [
        TensorSpec(np.dtype("float32"), (-1, 3), "image"),
        TensorSpec(np.dtype("int64"), (-1,), "label"),
    ]
    echo(root / "tensors", signature(*tensors))
    echo(root / "text-tensor", signature(TensorSpec(np.dtype("str"), (-1,))))
    chat = Array(Object([Property("role", DataType.string), Property("content", DataType.string)]))
    limit = ParamSchema(
        [ParamSpec("max_tokens", "long", 16), ParamSpec("stream", "boolean", False)]
    )
    echo(root / "chat", signature(ColSpec(chat, "messages"), params=limit))
    echo(root / "answers", signature(ColSpec("string", "answer")), answer="asked")
    hinted(root / "messages", "messages")
    hinted(root / "moments", "moments")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what MLflow says while it saves is no matter here
        save_all(root)
    return root


# ---- the requests ----


class Ask(NamedTuple):
    body: bytes
    content_type: str | None = JSON


def ask(value, content_type=JSON):
    return Ask(json.dumps(value).encode(), content_type)


def split(columns, *rows, **more):
    return ask({"dataframe_split": {"columns": columns, "data": list(rows), **more}})


def parquet(frame, **options):
    file = io.BytesIO()
    frame.to_parquet(file, **options)
    return Ask(file.getvalue(), PARQUET)


def csv(text, content_type=CSV):
    return Ask(text if isinstance(text, bytes) else text.encode(), content_type)


RECORD = dict(zip(COLUMNS, ROW, strict=True))
LINES = "alcohol,malic_acid,ash\n14.23,1.71,2.43\n12.37,.94,1.36\n"
WHOLE = pd.DataFrame([RECORD, RECORD])

#: Sent to every model.
COMMON = {
    # tables
    "split": split(COLUMNS, ROW, ROW),
    "split with an index": split(COLUMNS, ROW, index=["a"]),
    "split without columns": ask({"dataframe_split": {"data": [ROW]}}),
    "split, columns in another order": split(COLUMNS[::-1], ROW[::-1]),
    "split, one column more": split([*COLUMNS, "more"], [*ROW, "x"]),
    "split, one column less": split(COLUMNS[:2], ROW[:2]),
    "split, no rows": split(COLUMNS),
    "split, a gap": split(COLUMNS, [None, *ROW[1:]]),
    "split, whole numbers": split(COLUMNS, [14, 1, 2]),
    "split, a text": split(COLUMNS, ["high", *ROW[1:]]),
    "split, numbers as texts": split(COLUMNS, [str(each) for each in ROW]),
    "split, ragged": split(COLUMNS, ROW, ROW[:1]),
    "split, too many cells": split(COLUMNS[:1], ROW),
    "split, twice the same column": split(["ash", "ash"], [1, 2]),
    "split, lists for columns": split([["a"], ["b"]], [1, 2]),
    "split, another field": split(COLUMNS, ROW, orient="split"),
    "split, no data": ask({"dataframe_split": {"columns": COLUMNS}}),
    "split, data is a number": ask({"dataframe_split": {"data": 3}}),
    "split is a list": ask({"dataframe_split": [ROW]}),
    "split is null": ask({"dataframe_split": None}),
    "records": ask({"dataframe_records": [RECORD, RECORD]}),
    "records, one column less": ask({"dataframe_records": [{"ash": 2.4}]}),
    "records, a gap": ask({"dataframe_records": [RECORD, {"ash": 2.4}]}),
    "records are numbers": ask({"dataframe_records": [1, 2]}),
    "records are an object": ask({"dataframe_records": RECORD}),
    "records are a text": ask({"dataframe_records": "x"}),
    "no records": ask({"dataframe_records": []}),
    # tensors
    "instances, rows": ask({"instances": [ROW, ROW]}),
    "instances, objects": ask({"instances": [RECORD, RECORD]}),
    "instances, a number": ask({"instances": 3}),
    "instances, null": ask({"instances": None}),
    "instances, none": ask({"instances": []}),
    "instances, mixed": ask({"instances": [RECORD, 3]}),
    "instances, lengths differ": ask({"instances": [RECORD, {"ash": 2.4}]}),
    "inputs, rows": ask({"inputs": [ROW, ROW]}),
    "inputs, columns": ask({"inputs": {name: [each] for name, each in RECORD.items()}}),
    "inputs, objects": ask({"inputs": [RECORD]}),
    "inputs, one object": ask({"inputs": RECORD}),
    "inputs, a number": ask({"inputs": 1.5}),
    "inputs, a text": ask({"inputs": "high"}),
    "inputs, texts": ask({"inputs": ["a", "b"]}),
    "inputs, null": ask({"inputs": None}),
    "inputs, ragged": ask({"inputs": [[1, 2], [3]]}),
    "inputs, infinities": Ask(b'{"inputs": [[NaN, Infinity, -Infinity]]}'),
    "inputs, a large number": Ask(b'{"inputs": [[1e999, 1, 1]]}'),
    # params
    "params": ask({"dataframe_records": [RECORD], "params": {"scale": 3.5, "many": [4]}}),
    "params, whole number for double": ask({"inputs": [RECORD], "params": {"scale": 3}}),
    "params, wrong type": ask({"dataframe_records": [RECORD], "params": {"scale": "much"}}),
    "params, float for long": ask({"dataframe_records": [RECORD], "params": {"count": 1.5}}),
    "params, scalar for a list": ask({"dataframe_records": [RECORD], "params": {"many": 4}}),
    "params, unknown": ask({"dataframe_records": [RECORD], "params": {"other": 1}}),
    "params, a list": ask({"dataframe_records": [RECORD], "params": [1]}),
    "params, null": ask({"dataframe_records": [RECORD], "params": None}),
    "params, a moment": ask({"inputs": [RECORD], "params": {"when": "2024-02-29T01:02:03"}}),
    "params alone": ask({"params": {"scale": 1.0}}),
    # bodies of language models
    "messages": ask({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
    "messages, streamed": ask({"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    "messages, wrong": ask({"messages": "hi", "max_tokens": "many"}),
    "prompt": ask({"prompt": "hi", "temperature": 0.5}),
    "input": ask({"input": ["hi"], "scale": 1.0}),
    "input beside inputs": ask({"input": "hi", "inputs": [ROW]}),
    # JSON that is none of these
    "two forms": ask({"inputs": [ROW], "instances": [ROW]}),
    "no form": ask({"data": [ROW]}),
    "an empty object": Ask(b"{}"),
    "a list": ask([ROW]),
    "a number": Ask(b"3"),
    "null": Ask(b"null"),
    "nothing": Ask(b""),
    "no JSON": Ask(b"alcohol=3"),
    "cut off": Ask(b'{"inputs": [1,'),
    "no UTF-8": Ask(b'{"inputs": ["\xff"]}'),
    "with a byte order mark": Ask(b'\xef\xbb\xbf{"inputs": [1]}'),
    "UTF-16": Ask(json.dumps({"inputs": [ROW]}).encode("utf-16")),
    "half a surrogate": Ask(b'{"inputs": ["\\ud800"]}'),
    "twice the same key": Ask(b'{"inputs": [1], "inputs": [2]}'),
    "nested too deep": Ask(b"[" * 100_000),
    "a number of 5000 digits": Ask(b'{"inputs": [' + b"9" * 5000 + b"]}"),
    # CSV
    "csv": csv(LINES),
    "csv, CRLF": csv(LINES.replace("\n", "\r\n")),
    "csv, byte order mark": csv("\ufeff" + LINES),
    "csv, an index": csv(",alcohol,malic_acid,ash\n0,14.23,1.71,2.43\n"),
    "csv, quotes": csv('alcohol,malic_acid,ash\n"14.23","1.71","2,43"\n'),
    "csv, a gap": csv("alcohol,malic_acid,ash\n,1.71,2.43\n"),
    "csv, blanks": csv("alcohol, malic_acid , ash\n 14.23 , 1.71, 2.43\n\n\n"),
    "csv, semicolons": csv(LINES.replace(",", ";")),
    "csv, names alone": csv("alcohol,malic_acid,ash\n"),
    "csv, a text": csv("alcohol,malic_acid,ash\nhigh,1.71,2.43\n"),
    "csv, ragged": csv("alcohol,malic_acid\n1,2,3\n1,2,3,4\n"),
    "csv, a quote too many": csv('alcohol\n"1\n'),
    "csv, the same name twice": csv("ash,ash\n1,2\n"),
    "csv, umlauts": csv("färbe,ash\nrötlich,2\n"),
    "csv, no UTF-8": csv(b"alcohol\n\xff\n"),
    "csv, nothing": csv(""),
    "csv, a zero byte": csv("alcohol\n1\x002\n"),
    # Parquet
    "parquet": parquet(WHOLE),
    "parquet, an index": parquet(WHOLE.set_index("ash")),
    "parquet, no index": parquet(WHOLE, index=False, compression="gzip"),
    "parquet, another type": parquet(WHOLE.astype("float32")),
    "parquet, texts": parquet(WHOLE.astype(str)),
    "parquet, no rows": parquet(WHOLE.iloc[:0]),
    "parquet, cut off": Ask(parquet(WHOLE).body[:-20], PARQUET),
    "parquet, nothing": Ask(b"", PARQUET),
    "parquet, JSON": Ask(ask({"inputs": [ROW]}).body, PARQUET),
    # content types
    "utf-8 said": csv(LINES, "text/csv; charset=utf-8"),
    "UTF-8 said": csv(LINES, "text/csv;charset=UTF-8"),
    "parquet, utf-8 said": parquet(WHOLE)._replace(content_type=f"{PARQUET}; charset=utf-8"),
    "latin-1 said": csv(LINES, "text/csv; charset=latin-1"),
    "quoted charset": csv(LINES, 'text/csv; charset="utf-8"'),
    "another parameter": csv(LINES, "text/csv; header=present"),
    "a semicolon": csv(LINES, "text/csv;"),
    "in capitals": csv(LINES, "Text/CSV"),
    "plain text": csv(LINES, "text/plain"),
    "pandas-split": csv("{}", "application/json; format=pandas-split"),
    "a form": csv("a=1", "application/x-www-form-urlencoded"),
    "binary tensors": csv(b"\0", "application/octet-stream"),
    "no content type": csv(LINES, None),
    "an empty content type": csv(LINES, ""),
}

BINARY = "aGVsbG8="
EACH_TYPE = {
    "a boolean": True, "a integer": 1, "a long": 2**40, "a float": 0.1, "a double": 0.1,
    "a string": "ü", "a binary": BINARY, "a datetime": "2024-02-29T12:30:00",
}  # fmt: skip
NESTED = {
    "numbers": [1, 2.5], "person": {"name": "Ada", "age": 36}, "people": [{"name": "Bob"}],
    "counts": {"a": 1}, "anything": {"x": ["1", "y"]},
}  # fmt: skip
ASKED = (
    "frame", "series", "series without a name", "array", "integers", "booleans", "texts", "objects",
    "moments", "a list of moments", "a list of arrays", "a list of texts", "bytes",
    "a dict of arrays", "a dict of lists", "a dict", "a dict with a number for a key", "a record",
    "a list of records", "a scalar", "a text", "none", "not a number", "an empty list",
)  # fmt: skip
FAILURES = ("a value error", "a failure", "an error of MLflow", "an internal error of MLflow")
#: A model's results that JSON can't hold.
UNWRITABLE = ("a generator", "something", "a set")


def variations(name, record):
    """Ask with a record in each form, and with each of its cells wrong or missing."""
    yield name, "records", ask({"dataframe_records": [record, record]})
    yield name, "split", split(list(record), list(record.values()))
    yield name, "instances", ask({"instances": [record, record]})
    yield name, "inputs, records", ask({"inputs": [record]})
    yield name, "inputs, columns", ask({"inputs": {key: [each] for key, each in record.items()}})
    yield name, "csv", csv(pd.DataFrame([record]).to_csv(index=False))
    yield name, "parquet", parquet(pd.DataFrame([record]))
    for key in record:
        less = {other: each for other, each in record.items() if other != key}
        yield name, f"without {key}", ask({"dataframe_records": [less]})
        yield name, f"instances without {key}", ask({"instances": [less]})
        for wrong in (None, "x", 1.5, True, [1], {"name": 1}, 2**70):
            changed = {**record, key: wrong}
            yield name, f"{key} is {wrong}", ask({"dataframe_records": [changed]})
        for wrong in ("x", 1.5, [1]):
            yield name, f"{key} of inputs is {wrong}", ask({"inputs": [{**record, key: wrong}]})


def special():
    """Give requests for one model: its name, what it is about, and the request."""
    yield from variations("types", EACH_TYPE)
    yield from variations("nested", NESTED)
    images = {"image": [[1, 2, 3], [4, 5, 6]], "label": [7, 8]}
    yield "tensors", "inputs", ask({"inputs": images})
    rows = [{"image": [1, 2, 3], "label": 7}, {"image": [4, 5, 6], "label": 8}]
    yield "tensors", "instances", ask({"instances": rows})
    yield "tensors", "one less", ask({"inputs": {"image": images["image"]}})
    yield "tensors", "wrong width", ask({"inputs": {**images, "image": [[1, 2]]}})
    yield "tensors", "rows differ", ask({"inputs": {**images, "label": [1]}})
    yield "tensors", "texts", ask({"inputs": {**images, "label": ["a", "b"]}})
    yield "tensors", "floats for integers", ask({"inputs": {**images, "label": [1.5, 2]}})
    yield "tensors", "split", split(list(images), [[1, 2, 3], 7])
    yield "one-column", "a list", ask({"inputs": [1, 2.5]})
    yield "one-column", "instances", ask({"instances": [1, 2.5]})
    yield "nameless", "split", ask({"dataframe_split": {"data": [[1, "a"]]}})
    yield "nameless", "rows", ask({"inputs": [[1, "a"]]})
    yield "text-tensor", "texts", ask({"inputs": ["a", "ü"]})
    for text in ("2024-02-29", "hi", "2024-02-29T12:30:00+01:00", 3, None):
        yield "moments", f"{text}", ask({"inputs": [text]})
    good = {"role": "user", "content": "hi"}
    for each in (good, {**good, "weight": 2}, {**good, "weight": "x"}, {"role": "user"}, "hi"):
        yield "messages", f"{each}", ask({"inputs": [good, each]})
    yield "messages", "instances", ask({"instances": [good]})
    yield "messages", "csv", csv("role,content\nuser,hi\n")
    yield "messages", "LLM", ask({"messages": [good]})
    for asked in (*ASKED, *FAILURES, *UNWRITABLE):
        yield "answers", asked, ask({"dataframe_records": [{"answer": asked}]})
        yield "answers", f"{asked}, unwrapped", ask({"input": "x", "answer": [asked]})


#: What MLflow's server answers with 500, and we as stated.
BETTER = {
    "nested too deep": 400,
    "a number of 5000 digits": 400,
    "no content type": 415,
}
NAMES = (
    "answers", "bare", "chat", "matrix", "messages", "moments", "nameless", "nested", "one-column",
    "params", "params-only", "tensors", "text-tensor", "types", "unsigned", "wine",
)  # fmt: skip


# ---- MLflow's server and ours, in processes of their own ----


@contextlib.contextmanager
def process(*command, log, **more):
    """Run a process with an environment that makes both sides write sets in the same order."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JACKFIELD_", "MLSERVER_", "MLFLOW_", "PYTHON"))
    }
    environment = {**kept, "PYTHONHASHSEED": "0", "COLUMNS": "80", **more}
    pipe = subprocess.PIPE
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, start_new_session=True
        ) as started,
    ):
        try:
            yield started
        finally:
            started.stdin.close()
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


def read_until(started, pattern, log):
    """Read what a process prints, up to a line; gives the match."""
    for line in started.stdout:
        if found := re.search(pattern, line.decode()):
            return found
    raise AssertionError(f"it ended: {log.read_text()}")


def wait_for(url, started, log, *, timeout_s=90.0):
    """Ask until something answers."""
    deadline = time.monotonic() + timeout_s
    while True:
        assert started.poll() is None, f"it ended: {log.read_text()}"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(url)
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {url}: {log.read_text()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def ours(models, tmp_path_factory):
    """Serve all models by the command; gives its address."""
    log = tmp_path_factory.mktemp("ours") / "log"
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = (sys.executable, "-m", "jackfield", "serve", str(models), *ports)
    with process(*command, log=log) as started:
        yield read_until(started, r"^REST +(\S+)", log)[1]


@pytest.fixture(scope="module")
def theirs(models, tmp_path_factory):
    """Serve all models by MLflow's app; gives its address."""
    log = tmp_path_factory.mktemp("theirs") / "log"
    command = (PYTHON, str(HERE / "scoring_reference.py"), str(models))
    with process(*command, log=log) as started:
        found = json.loads(read_until(started, r"^\{.*\}$", log)[0])
        mine = {name: importlib.metadata.version(name) for name in found["packages"]}
        assert found["packages"] == mine, "the two compare only if they have the same versions"
        yield f"http://127.0.0.1:{found['port']}"


@pytest.fixture(scope="module")
def command(models, tmp_path_factory):
    """Serve one model by ``mlflow models serve``; gives its address."""
    log = tmp_path_factory.mktemp("command") / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    path = os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]])
    serve = (
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(models / "wine"),
        "--env-manager",
        "local",
    )
    with process(PYTHON, *serve, "-p", str(port), log=log, PATH=path) as started:
        wait_for(f"http://127.0.0.1:{port}/ping", started, log)
        yield f"http://127.0.0.1:{port}"


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


@pytest.fixture(scope="module")
def http():
    with httpx.Client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def peer():
    """MLflow's server cuts a connection some time after it has failed: a new one each time."""
    with httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


def post(http, url, asked):
    headers = {} if asked.content_type is None else {"content-type": asked.content_type}
    answer = http.post(url, content=asked.body, headers=headers)
    return Answer(answer.status_code, answer.headers.get("content-type", ""), answer.content)


def difference(what, found, wanted):
    """Tell how an answer differs from what MLflow's own says we should give; empty if not."""
    if wanted.status == 500 and wanted.content_type.startswith("text/plain"):
        better = BETTER.get(what)
        if better is not None:
            return "" if found.status == better else f"{better} {found}"
        # a result that JSON can't hold: the model is at fault, and the core says so
        unwritable = what.split(",")[0] in UNWRITABLE and found.status == 500
        return "" if unwritable and found.content_type == JSON else f"{wanted} {found}"
    if wanted.status == 500 and b"against the type hint" in wanted.body:
        same = json.loads(found.body)["message"] == json.loads(wanted.body)["message"]
        return "" if same and found[:2] == (400, JSON) else f"{wanted}\n{found}"
    if b'"stack_trace": ' not in wanted.body:
        return "" if found == wanted else f"{wanted}\n{found}"
    theirs, mine = json.loads(wanted.body), json.loads(found.body)
    del theirs["stack_trace"]
    if mine["message"].startswith(theirs["message"]):
        theirs["message"] = mine["message"]
    same = (found.status, found.content_type, mine) == (wanted.status, JSON, theirs)
    return "" if same and b"Traceback" not in found.body else f"{wanted}\n{found}"


# ---- beside MLflow's server ----


def differences(http, peer, asks):
    """Send each request to both sides; gives what differs, by what was asked."""

    def compare(each):
        what, ours, theirs, asked = each
        return what, difference(what, post(http, ours, asked), post(peer, theirs, asked))

    with ThreadPoolExecutor(4) as pool:
        return {what: differs for what, differs in pool.map(compare, asks) if differs}


@beside_mlflow
@pytest.mark.parametrize("name", NAMES)
def test_every_model_answers_as_under_mlflow(ours, theirs, http, peer, name):
    mine, other = f"{ours}/v2/models/{name}/invocations", f"{theirs}/{name}/invocations"
    asks = [(what, mine, other, asked) for what, asked in COMMON.items()]
    assert not differences(http, peer, asks)


@beside_mlflow
@pytest.mark.parametrize("name", sorted({name for name, _, _ in special()}))
def test_what_suits_one_model_is_answered_as_under_mlflow(ours, theirs, http, peer, name):
    mine, other = f"{ours}/v2/models/{name}/invocations", f"{theirs}/{name}/invocations"
    mine_too = [each for each in special() if each[0] == name]
    assert not differences(http, peer, [(what, mine, other, asked) for _, what, asked in mine_too])
    assert post(http, mine, mine_too[0][2]).status == 200


@beside_mlflow
def test_the_command_answers_as_its_app(command, theirs, ours, http, peer):
    """What the other tests compare with is what the command serves."""
    mine, app = f"{ours}/v2/models/wine/invocations", f"{theirs}/wine/invocations"
    asks = [(what, mine, f"{command}/invocations", asked) for what, asked in COMMON.items()]
    assert not differences(http, peer, asks)
    for what in ("records", "csv, nothing", "split, a text", "plain text"):
        wanted = post(peer, f"{command}/invocations", COMMON[what])
        assert post(peer, app, COMMON[what])[:2] == wanted[:2]


@beside_mlflow
@pytest.mark.parametrize("path", ["ping", "health", "version"])
def test_the_other_paths_answer_as_under_mlflow(command, ours, http, peer, path):
    wanted = peer.get(f"{command}/{path}")
    found = http.get(f"{ours}/v2/models/wine/{path}")
    assert wanted.status_code == found.status_code == 200
    assert found.content == wanted.content
    assert found.headers["content-type"] == wanted.headers["content-type"]
    refused, theirs = http.post(f"{ours}/v2/models/wine/{path}"), peer.post(f"{command}/{path}")
    assert refused.status_code == theirs.status_code == 405


@beside_mlflow
def test_the_table_has_successes_and_errors_of_every_form(theirs, peer):
    counts = Counter()
    failures = set()
    for what, asked in COMMON.items():
        status = post(peer, f"{theirs}/wine/invocations", asked).status
        counts[asked.content_type, status] += 1
        if status == 500:
            failures.add(what)
    for form in (JSON, CSV, PARQUET):
        assert counts[form, 200] >= 2
        assert counts[form, 400] >= 3
    # no more of MLflow's own failures than are known
    assert failures == set(BETTER)


# ---- without it ----


@pytest.fixture(scope="module")
def wine(models):
    with running(models / "wine") as server:
        yield server.http


@pytest.fixture(scope="module")
def served(models):
    with running(models) as server:
        yield server.http


def test_one_model_answers_at_the_root_and_below_its_own_path(wine, http):
    for url in (wine, f"{wine}/v2/models/wine"):
        answer = post(http, f"{url}/invocations", COMMON["csv"])
        assert answer == (200, JSON, b'{"predictions": [0, 1]}')
        assert http.get(f"{url}/ping").content == b"\n"
        assert http.get(f"{url}/health").content == b"\n"
        assert http.get(f"{url}/version").text == VERSION


def test_of_two_models_the_root_names_both(models, http):
    with running(models / "wine", models / "matrix") as server:
        for path in ("invocations", "ping", "health", "version"):
            method = "POST" if path == "invocations" else "GET"
            answer = http.request(method, f"{server.http}/{path}")
            assert answer.status_code == 404
            for expected in ("'wine'", "'matrix'", "/v2/models/"):
                assert expected in answer.json()["error"]
        for name in ("wine", "matrix"):
            url = f"{server.http}/v2/models/{name}/invocations"
            answer = post(http, url, COMMON["split, columns in another order"])
            assert answer.status == 200


@pytest.mark.parametrize("failure", ["a failure", "a value error"])
def test_what_a_user_s_own_code_raises_stays_in_the_log(served, http, caplog, failure):
    asked = ask({"dataframe_records": [{"answer": failure}]})
    answer = post(http, f"{served}/v2/models/answers/invocations", asked)
    assert answer.status == 400
    error = json.loads(answer.body)
    assert list(error) == ["error_code", "message", "sqlstate", "error_class"]
    assert error["error_code"] == "BAD_REQUEST"
    assert error["message"].startswith("Encountered an unexpected error while evaluating the model")
    assert b"secret" not in answer.body
    (logged,) = [each for each in caplog.records if each.name == "jackfield.model"]
    assert "secret" in str(logged.exc_info[1])
    assert logged.model == "answers"


def test_a_framework_says_what_is_wrong_with_its_input(served, http):
    answer = post(http, f"{served}/v2/models/bare/invocations", ask({"inputs": [[1, 2]]}))
    assert answer.status == 400
    text = json.loads(answer.body)["message"]
    assert "X has 2 features, but StandardScaler is expecting 3" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("asked", ASKED)
def test_a_result_of_each_kind_is_written(served, http, asked):
    body = ask({"dataframe_records": [{"answer": asked}]})
    answer = post(http, f"{served}/v2/models/answers/invocations", body)
    assert answer[:2] == (200, JSON)
    assert list(json.loads(answer.body)) == ["predictions"]


@pytest.mark.parametrize("asked", UNWRITABLE)
def test_a_result_that_json_cannot_hold_is_the_model_s_failure(served, http, asked):
    body = ask({"dataframe_records": [{"answer": asked}]})
    answer = post(http, f"{served}/v2/models/answers/invocations", body)
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("model 'answers' failed on this request")


@pytest.mark.parametrize("what", BETTER)
def test_what_mlflow_fails_on_is_refused(wine, http, what):
    answer = post(http, f"{wine}/invocations", COMMON[what])
    assert answer.status == BETTER[what]
    if answer.status == 415:
        for supported in (JSON, CSV, PARQUET):
            assert supported in answer.body.decode()
    else:
        error = json.loads(answer.body)
        assert error["error_code"] == "BAD_REQUEST"
        assert error["message"].startswith("Invalid input. ")


def test_an_unsupported_media_type_is_told_those_that_are_not(wine, http):
    answer = post(http, f"{wine}/invocations", csv(LINES, "application/xml"))
    assert (answer.status, answer.content_type) == (415, "text/plain; charset=utf-8")
    for supported in (JSON, CSV, PARQUET):
        assert supported in answer.body.decode()


def test_parquet_is_not_supported_where_nothing_reads_it(wine, http, monkeypatch):
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = post(http, f"{wine}/invocations", COMMON["parquet"])
    assert answer.status == 415
    assert "Types: ['text/csv', 'application/json']" in answer.body.decode()
    assert "jackfield-mlflow[parquet]" in answer.body.decode()


def test_a_body_above_the_limit_is_refused(models, http):
    free = ServerSettings(http_port=0, grpc_port=0, metrics_port=0, max_body_bytes=2000)
    with running(models / "wine", settings=free) as server:
        assert post(http, f"{server.http}/invocations", csv(LINES)).status == 200
        large = csv(LINES + "1,2,3\n" * 1000)
        assert post(http, f"{server.http}/invocations", large).status == 413
        answer = http.post(
            f"{server.http}/invocations",
            content=iter([large.body[:1500], large.body[1500:]]),
            headers={"content-type": CSV},
        )
        assert answer.status_code == 413


def test_the_event_loop_is_free_while_a_model_computes(models, http):
    """A request that waits in the model is answered after one that came later."""
    from jackfield_mlflow._scoring import ScoringRoutes

    entered, leave = threading.Event(), threading.Event()

    class Slow:
        metadata = mlflow_metadata()

        def predict(self, data, params=None):
            entered.set()
            assert leave.wait(30)
            return [threading.current_thread() is threading.main_thread()]

    async def both():
        routes = ScoringRoutes()
        routes.pyfunc = Slow()
        slow = asyncio.create_task(routes.invoke(request(COMMON["csv"])))
        await asyncio.to_thread(entered.wait, 30)
        quick = await routes.ping()
        assert not slow.done()
        leave.set()
        return quick, await slow

    quick, slow = asyncio.run(both())
    assert quick.body == b"\n"
    assert slow.body == b'{"predictions": [false]}'


def test_a_request_takes_no_longer_than_mlflow_allows(monkeypatch):
    from jackfield_mlflow._scoring import ScoringRoutes

    leave = threading.Event()

    class Stuck:
        metadata = mlflow_metadata()

        def predict(self, data, params=None):
            assert leave.wait(30)

    async def run():
        routes = ScoringRoutes()
        routes.pyfunc = Stuck()
        answer = await routes.invoke(request(COMMON["csv"]))
        leave.set()
        return answer

    monkeypatch.setenv(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name, "1")
    answer = asyncio.run(run())
    assert (answer.status_code, answer.media_type) == (504, JSON)
    assert answer.body == b"Request processing time exceeded limit"


def mlflow_metadata():
    from mlflow.models import Model

    return Model()


def request(asked):
    """Make a request as Starlette hands it over."""
    from starlette.requests import Request

    headers = [] if asked.content_type is None else [(b"content-type", asked.content_type.encode())]

    async def receive():
        return {"type": "http.request", "body": asked.body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*COLUMNS, "columns", "data"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*COLUMNS, "columns", "data", "index", "", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
KEYS = (
    "dataframe_split", "dataframe_records", "instances", "inputs", "params", "messages", "x",
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=2))
@example({"dataframe_split": {"columns": [{}], "data": [[1]]}})
def test_no_json_makes_the_server_fail(served, http, body):
    for name in ("wine", "bare", "types", "tensors", "nested", "messages"):
        answer = post(http, f"{served}/v2/models/{name}/invocations", ask(body))
        assert answer.status in (200, 400), (name, answer)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=60) | st.text(alphabet='a,";\n1.\r\t', max_size=60).map(str.encode),
    st.sampled_from([JSON, CSV, PARQUET]),
)
def test_no_bytes_make_the_server_fail(served, http, body, content_type):
    for name in ("wine", "unsigned"):
        answer = post(http, f"{served}/v2/models/{name}/invocations", Ask(body, content_type))
        assert answer.status in (200, 400), (name, answer)


# ---- MLflow's own client ----


def test_the_scoring_client_of_mlflow_is_served(wine):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    address = httpx.URL(wine)
    client = ScoringServerClient(address.host, address.port)
    client.wait_server_ready(timeout=5)
    client.ping()
    assert client.get_version() == VERSION
    table = load_wine(as_frame=True).data[COLUMNS]
    found = client.invoke(table.iloc[::20]).get_predictions()
    assert isinstance(found, pd.DataFrame)
    assert set(found[0]) == {0, 1, 2}
    with pytest.raises(Exception, match=r"Invocation failed \(error code 400.*malic_acid"):
        client.invoke(table.drop(columns="malic_acid"))


def test_the_scoring_client_of_mlflow_sends_params(models):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    with running(models / "params") as server:
        address = httpx.URL(server.http)
        client = ScoringServerClient(address.host, address.port)
        answer = client.invoke(WHOLE, params={"scale": 9.0})
        assert answer["predictions"]["params"]["scale"] == "float 9.0"
        with pytest.raises(Exception, match=r"Invocation failed.*scale"):
            client.invoke(WHOLE, params={"scale": "much"})
