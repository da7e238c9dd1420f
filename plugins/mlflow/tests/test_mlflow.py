"""Where models come from, what is known of them, and what is told to the operator."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import msgspec
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from jackfield import (
    Capabilities,
    InferRequest,
    InvalidRequestError,
    ModelLoadError,
    Tensor,
    codecs,
)
from jackfield.client import Client
from jackfield.errors import RemoteRequestError
from jackfield.testing import running
from jackfield_mlflow import MlflowOptions, jackfield_runtimes
from jackfield_mlflow._artifact import redact

CODE = Path(__file__).parent / "served_code"
FLOWERS, SPECIES = load_iris(return_X_y=True, as_frame=True)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*An input example was not provided:UserWarning",
    "ignore:.*Add type hints to the `predict` method:UserWarning",
)


def save(folder, *, requirements=("scikit-learn",), **extra):
    model = LogisticRegression(max_iter=300).fit(FLOWERS, SPECIES)
    signature = infer_signature(FLOWERS, model.predict(FLOWERS))
    # MLflow's own, by pandas 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model, folder, signature=signature, pip_requirements=list(requirements), **extra
        )
    return folder


def rows(count=2):
    few = FLOWERS.iloc[:count]
    return InferRequest([Tensor.from_array(name, few[name].to_numpy()) for name in few])


# ---- where a model is ----


@pytest.mark.parametrize("named", ["", "MLmodel"])
def test_a_folder_is_served_without_settings(tmp_path, named):
    save(tmp_path / "iris")
    with running(tmp_path / "iris" / named) as server, Client(server.http) as client:
        assert client.model("iris").metadata().platform == "mlflow_sklearn"
        found = client.model("iris").infer(rows())["output-0"]
    assert found.tolist() == [0, 0]


def test_mlservers_settings_serve_as_they_are(tmp_path):
    save(tmp_path / "wine" / "model")
    (tmp_path / "wine" / "model-settings.json").write_text(
        '{"name": "wine", "implementation": "mlserver_mlflow.MLflowRuntime", '
        '"parameters": {"uri": "./model"}}'
    )
    with running(tmp_path) as server, Client(server.http) as client:
        metadata = client.model("wine").metadata()
        found = client.model("wine").infer(rows())["output-0"]
    assert [list(each.shape) for each in metadata.inputs] == [[-1, 1]] * 4
    (output,) = [each for each in metadata.outputs if not each.parameters.get("on_request")]
    assert (output.name, list(output.shape)) == ("output-0", [-1, 1])
    assert found.tolist() == [[0], [0]]


def test_the_file_mlmodel_stands_for_its_folder(load, saved):
    assert load(saved["iris"].folder / "MLmodel").infer(rows()).outputs[0].array.tolist() == [0, 0]


def test_what_is_no_model_is_refused(load, tmp_path):
    with pytest.raises(ModelLoadError, match=r"no artifact .* models:/NAME@ALIAS"):
        load(None)
    with pytest.raises(ModelLoadError, match="has no file 'MLmodel'"):
        load(tmp_path)
    (tmp_path / "MLmodel").write_text("flavors: [")
    with pytest.raises(ModelLoadError, match="'MLmodel' can't be read"):
        load(tmp_path)
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {}, onnx: {}}")
    with pytest.raises(ModelLoadError, match=r"no Python function .* only onnx, sklearn"):
        load(tmp_path)


def test_a_missing_package_is_named(load, tmp_path):
    folder = save(tmp_path / "m")
    file = folder / "MLmodel"
    file.write_text(
        file.read_text().replace("loader_module: mlflow.sklearn", "loader_module: gone_")
    )
    with pytest.raises(ModelLoadError, match=r"needs the package 'gone_'.*requirements\.txt"):
        load(folder)


@pytest.mark.parametrize("scheme", ["s3", "gs", "https", "sftp"])
def test_a_store_is_read_only_with_consent(load, scheme):
    secret = f"{scheme}://user:secret@127.0.0.1:1/models/iris?sig=key"
    with pytest.raises(ModelLoadError, match="set 'trust' to true") as caught:
        load(None, uri=secret)
    assert "secret" not in str(caught.value)
    assert "key" not in str(caught.value)


def test_a_store_that_does_not_answer_is_told_without_secrets(load, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelLoadError) as caught:
        load(None, uri="http://user:secret@127.0.0.1:1/models/iris?sig=key", trust=True)
    assert "http://***@127.0.0.1:1/models/iris" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "key" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("uri", ["models:/iris@champion", "runs:/abc/model", "models:/iris/3"])
def test_a_tracking_server_that_does_not_answer_is_told_without_secrets(load, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ModelLoadError, match=f"'{uri}' can't be fetched") as caught:
        load(None, uri=uri, tracking_uri="http://user:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


def test_secrets_are_taken_out_of_addresses():
    text = "GET https://u:p@h/x?sig=k failed; s3://key:word@bucket, models:/a@champion is fine"
    assert redact(text) == (
        "GET https://***@h/x?*** failed; s3://***@bucket, models:/a@champion is fine"
    )
    assert redact("tried with url: /x?sig=k (refused)") == "tried with url: /x?*** (refused)"
    assert redact("db://u:p'w@h/x") == "db://***@h/x"


def test_the_spec_says_what_mlflow_fetches():
    (spec,) = jackfield_runtimes()
    assert {"models", "runs", "mlflow-artifacts", "s3", "gs", "https"} <= set(spec.uri_schemes)
    assert spec.artifacts[0].executes_code
    assert msgspec.convert({}, MlflowOptions) == MlflowOptions()


def test_no_tracking_server_is_told(load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModelLoadError, match=r"no tracking server is set.*MLFLOW_TRACKING_URI"):
        load(None, uri="runs:/abc/model")


def test_a_process_of_its_own_has_mlflows_paths(saved, tmp_path):
    settings = {
        "name": "apart",
        "implementation": "mlflow",
        "parameters": {"uri": str(saved["iris"].folder)},
        "scheduler": "process",
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    row = FLOWERS.iloc[:1].to_json(orient="split", index=False)
    row = f'{{"dataframe_split": {row}}}'.encode()
    with running(tmp_path) as server, Client(server.http) as client:
        assert client.model("apart").infer(rows())["output-0"].tolist() == [0, 0]
        for address in (f"{server.http}/v2/models/apart/invocations", f"{server.http}/invocations"):
            asked = urllib.request.Request(address, row, {"content-type": "application/json"})
            with urllib.request.urlopen(asked) as answer:
                assert json.load(answer) == {"predictions": [0]}


# ---- what is known of it ----


def test_a_flavour_of_rows_is_merged_and_a_python_function_is_not(load, saved, tmp_path):
    assert load(saved["iris"].folder).capabilities == Capabilities(row_wise=True, thread_safe=True)
    assert load(saved["proba"].folder).capabilities.row_wise
    assert load(saved["diabetes"].folder).capabilities.row_wise
    assert load(saved["columns"].folder).capabilities == Capabilities()
    scored = save(tmp_path / "m", pyfunc_predict_fn="score")
    assert not load(scored).capabilities.row_wise


def test_the_metadata_say_where_it_comes_from(load, saved):
    metadata = load(saved["iris"].folder).metadata()
    told = metadata.parameters["mlflow"]
    assert metadata.platform == "mlflow_sklearn"
    assert told["flavors"] == ["sklearn"]
    assert told["mlflow_version"] == mlflow.__version__
    assert told["flavor"] == "pyfunc"


def test_requirements_are_compared_package_by_package(load, tmp_path, caplog):
    wanted = [
        "scikit-learn==0.1",
        "no-such-package>=2",
        "numpy",
        "mlflow",
        "odd; python_version<'3'",
    ]
    with caplog.at_level(logging.WARNING):
        runtime = load(save(tmp_path / "m", requirements=wanted))
    told = runtime.metadata().parameters["requirements_mismatch"]
    assert [(each["package"], each["required"]) for each in told] == [
        ("scikit-learn", "==0.1"), ("no-such-package", ">=2"),
    ]  # fmt: skip
    assert told[1]["installed"] is None
    logged = [each.getMessage() for each in caplog.records if each.msg.startswith("package")]
    assert len(logged) == 2
    assert "scikit-learn==0.1" in logged[0]
    assert runtime.infer(rows()).outputs[0].array.tolist() == [0, 0]


def test_requirements_come_from_condas_file_where_there_is_no_other(load, tmp_path):
    folder = save(tmp_path / "m", requirements=["scikit-learn==0.1"])
    (folder / "requirements.txt").unlink()
    told = load(folder).metadata().parameters["requirements_mismatch"]
    assert [each["package"] for each in told] == ["scikit-learn"]


def test_another_python_is_told(load, tmp_path):
    folder = save(tmp_path / "m")
    file = folder / "MLmodel"
    lines = [
        "    python_version: 3.6.1" if "python_version" in line else line
        for line in file.read_text().splitlines()
    ]
    file.write_text("\n".join(lines))
    (told,) = load(folder).metadata().parameters["requirements_mismatch"]
    assert (told["package"], told["required"]) == ("python", "==3.6.1")


def test_an_example_that_is_not_answered_is_a_warning(load, tmp_path, caplog):
    folder = save(tmp_path / "m", input_example=FLOWERS.head(1))
    file = folder / "input_example.json"
    example = json.loads(file.read_text())
    example["columns"][0] = "gone"
    file.write_text(json.dumps(example))
    with caplog.at_level(logging.WARNING):
        runtime = load(folder)
    assert "its input example is not answered" in caplog.text
    assert runtime.infer(rows()).outputs[0].array.tolist() == [0, 0]


# ---- what it answers ----


def test_what_the_framework_refuses_is_the_callers_error(load, saved):
    request = rows()
    bad = np.array([np.nan, 1.0])
    first = Tensor.from_array(request.inputs[0].name, bad)
    with pytest.raises(InvalidRequestError, match="NaN"):
        load(saved["iris"].folder).infer(InferRequest([first, *request.inputs[1:]]))


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent") / "parrot"
    mlflow.pyfunc.save_model(
        folder, python_model=str(CODE / "agent.py"), pip_requirements=["mlflow"]
    )
    with running(folder) as server, Client(server.http) as client:
        yield client.model("parrot")


def said(**message):
    return InferRequest([codecs.encode("input", [[message]], "pd_json")])


def test_an_agent_answers(agent):
    request = said(role="user", content="hello")
    (answer,) = [json.loads(each) for each in agent.infer(request)["output-0"]]
    assert answer["output"][0]["content"][0]["text"] == "hello"
    (event,) = [json.loads(each["output-0"][0]) for each in agent.stream(request)]
    assert event["item"]["content"][0]["text"] == "hello"


@pytest.mark.parametrize("ask", ["infer", "stream"])
def test_what_an_agent_can_not_be_asked_is_the_callers_error(agent, ask):
    with pytest.raises(RemoteRequestError, match=r"role; Field required") as caught:
        list(getattr(agent, ask)(said(content="hello")))
    assert "https://" not in str(caught.value)


def test_what_a_type_hint_refuses_is_told_in_one_line(load, saved):
    runtime = load(saved["hinted-People"].folder)
    request = InferRequest([codecs.encode("x", [{"name": "Ada"}], "pd_json")])
    with pytest.raises(InvalidRequestError, match=r"age; Field required") as caught:
        runtime.infer(request)
    assert "https://" not in str(caught.value)


def test_an_error_of_the_users_own_code_is_not(load, tmp_path):
    code = tmp_path / "bad.py"
    code.write_text(
        textwrap.dedent(
            """
            import mlflow

            class Bad(mlflow.pyfunc.PythonModel):
                def predict(self, context, model_input, params=None):
                    raise ValueError("own fault")

            mlflow.models.set_model(Bad())
            """
        )
    )
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=str(code), pip_requirements=["mlflow"])
    with pytest.raises(ValueError, match="own fault"):
        load(tmp_path / "m").infer(InferRequest([Tensor.from_array("x", [1])]))


def test_the_operators_model_config_reaches_the_model(load, saved):
    runtime = load(saved["hinted-Ints"].folder, model_config={"kind": "Texts"})
    # its signature is of integers still
    with pytest.raises(InvalidRequestError, match=r"list\[str\]"):
        runtime.infer(InferRequest([Tensor.from_array("x", [1])]))


def save_with_code(folder, answer):
    module = folder.parent / "own_helper.py"
    module.write_text(f"def answer():\n    return {answer}\n")
    code = folder.parent / "uses.py"
    code.write_text(
        textwrap.dedent(
            """
            import mlflow

            class Uses(mlflow.pyfunc.PythonModel):
                def predict(self, context, model_input, params=None):
                    import own_helper
                    return [own_helper.answer()]

                def load_context(self, context):
                    import own_helper

            mlflow.models.set_model(Uses())
            """
        )
    )
    shutil.rmtree(folder, ignore_errors=True)
    mlflow.pyfunc.save_model(
        folder, python_model=str(code), code_paths=[str(module)], pip_requirements=["mlflow"]
    )
    return folder


def test_a_model_that_is_loaded_again_runs_its_new_code(load, tmp_path):
    request = InferRequest([Tensor.from_array("x", [1])])
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    old = load(save_with_code(tmp_path / "one" / "m", 1))
    assert old.infer(request).outputs[0].array.tolist() == [1]
    new = load(save_with_code(tmp_path / "two" / "m", 2))
    assert new.infer(request).outputs[0].array.tolist() == [2]


def test_a_closed_model_leaves_no_path_behind(load, tmp_path):
    (tmp_path / "one").mkdir()
    runtime = load(save_with_code(tmp_path / "one" / "m", 1))
    runtime.close()
    assert not [each for each in sys.path if each.startswith(str(tmp_path))]


def test_merged_requests_are_answered_as_alone(saved):
    names = list(FLOWERS)
    folder = saved["iris"].folder
    expected = saved["iris"].pyfunc().predict(FLOWERS)
    with running(folder) as server, Client(server.http) as client:
        model = client.model("iris")

        def ask(row):
            return model.infer(**{name: [FLOWERS[name][row]] for name in names})["output-0"][0]

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, range(0, 150, 3)))
    assert found == expected[::3].tolist()
    assert isinstance(pd.Series(found).iloc[0], np.int64)
