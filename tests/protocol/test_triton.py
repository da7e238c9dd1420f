"""tritonclient, unmodified: over HTTP and gRPC, blocking and asynchronous, by one body."""

import json

import numpy as np
import pytest
from tests.protocol.triton import texts

from jackfield import __version__

# the asynchronous HTTP client leaves answers unread, which aiohttp says when they are collected
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")

IRIS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])
X = {"x": np.array([1])}

each_form = pytest.mark.parametrize("is_json", [True, False], ids=["json", "binary"])


async def test_health_and_readiness(triton):
    assert await triton.ask("is_server_live") is True
    assert await triton.ask("is_server_ready") is True
    assert await triton.ask("is_model_ready", "iris") is True
    assert await triton.ask("is_model_ready", "versioned", "10") is True
    assert await triton.ask("is_model_ready", "broken") is False


async def test_the_server_tells_its_name_version_and_extensions(triton):
    assert await triton.read("get_server_metadata") == {
        "name": "jackfield",
        "version": __version__,
        "extensions": [
            "binary_tensor_data",
            "classification",
            "logging",
            "model_configuration",
            "model_repository",
            "model_repository(unload_dependents)",
            "parameters",
            "statistics",
            "trace",
        ],
    }


async def test_a_model_tells_its_inputs_and_outputs(triton):
    metadata = await triton.read("get_model_metadata", "iris")
    assert metadata["name"] == "iris"
    assert metadata["platform"] == "sklearn_joblib"
    (given,) = metadata["inputs"]
    shape = [-1, 4] if triton.is_http else ["-1", "4"]
    assert (given["datatype"], given["shape"]) == ("FP64", shape)
    assert {"predict", "predict_proba"} <= {output["name"] for output in metadata["outputs"]}


async def test_a_model_tells_its_versions_the_newest_last(triton):
    metadata = await triton.read("get_model_metadata", "versioned")
    assert metadata["versions"] == ["2", "10"]


@each_form
async def test_a_scikit_learn_model_answers(triton, is_json):
    metadata = await triton.read("get_model_metadata", "iris")
    name = metadata["inputs"][0]["name"]

    wanted = ("predict_proba", "predict")
    result = await triton.infer("iris", {name: IRIS}, wanted, is_json=is_json)

    np.testing.assert_array_equal(result.as_numpy("predict"), [0, 2])
    probabilities = result.as_numpy("predict_proba")
    assert (probabilities.shape, probabilities.dtype) == ((2, 3), np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@each_form
async def test_default_outputs_come_where_none_are_named(triton, is_json):
    result = await triton.infer("echo", {"x": IRIS, "y": np.array([7])}, is_json=is_json)
    np.testing.assert_array_equal(result.as_numpy("x"), IRIS)
    np.testing.assert_array_equal(result.as_numpy("y"), [7])


@each_form
async def test_only_the_outputs_named_come_in_the_order_named(triton, is_json):
    inputs = {name: np.array([index]) for index, name in enumerate("abc")}
    result = await triton.infer("echo", inputs, ("c", "a"), is_json=is_json)
    answer = triton.as_dict(result)
    assert [output["name"] for output in answer["outputs"]] == ["c", "a"]
    np.testing.assert_array_equal(result.as_numpy("c"), [2])
    assert result.as_numpy("b") is None


@each_form
async def test_text_arrives_as_text(triton, is_json):
    sent = np.array(["cat", "ζ", ""], object)
    result = await triton.infer("echo", {"x": sent}, ("x",), is_json=is_json)
    assert texts(result, "x") == sent.tolist()


async def test_the_id_and_the_model_asked_for_come_back(triton):
    inputs = {"x": np.array([1])}
    result = await triton.infer("versioned", inputs, request_id="a-1", model_version="2")
    answer = triton.as_dict(result)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == (
        "a-1",
        "versioned",
        "2",
    )


async def test_the_newest_version_answers_where_none_is_named(triton):
    answer = triton.as_dict(await triton.infer("versioned", X))
    assert answer["model_version"] == "10"


async def test_parameters_reach_the_model_and_come_back(triton):
    sent = {"colour": "ζ", "size": -(2**63), "share": 0.1, "is_big": True, "is_red": False}
    result = await triton.infer("echo", X, ("x",), parameters=sent)
    found = triton.as_dict(result)["parameters"]
    if triton.is_http:
        assert found == sent
    else:
        assert found == {
            "colour": {"string_param": "ζ"},
            "size": {"int64_param": str(-(2**63))},
            "share": {"double_param": 0.1},
            "is_big": {"bool_param": True},
            "is_red": {"bool_param": False},
        }


@each_form
@pytest.mark.parametrize("sequence", [7, "a conversation"], ids=["number", "text"])
async def test_what_is_said_of_order_and_time_reaches_the_model(triton, is_json, sequence):
    said = {
        "sequence_id": sequence,
        "sequence_start": True,
        "sequence_end": False,
        "priority": 2,
        "timeout": 5_000_000,
    }
    given = {"x": np.array(["a"], object)}
    result = await triton.infer("told", given, ("told",), is_json=is_json, **said)
    told = json.loads(texts(result, "told")[0])
    # the wire's own words stay with the wire: binary_data, binary_data_size
    assert told == {"request": said, "inputs": {"x": {}}, "outputs": {"told": {}}}


@each_form
async def test_a_classification_names_the_best(triton, is_json):
    scores = np.array([[0.5, 0.25, 0.75], [3, 2, 1]], np.float32)
    result = await triton.infer("scores", {"x": scores}, ("x",), is_json=is_json, classes=2)
    assert result.as_numpy("x").shape == (2, 2)
    assert texts(result, "x") == ["0.75:2:ζ", "0.5:0:cat", "3.0:0:cat", "2.0:1:dog"]


async def test_a_classification_of_more_than_there_are_names_all(triton):
    scores = np.array([1, 3, 2], np.float32)
    result = await triton.infer("echo", {"x": scores}, ("x",), classes=9)
    assert texts(result, "x") == ["3.0:1", "2.0:2", "1.0:0"]


async def test_a_classification_of_nothing_is_nothing(triton):
    result = await triton.infer("echo", {"x": np.empty((2, 0))}, ("x",), classes=1)
    assert result.as_numpy("x").shape == (2, 0)


async def test_a_real_models_classification_has_its_labels(triton):
    result = await triton.infer("iris", {"x": IRIS}, ("predict_proba",), classes=1)
    assert [each.split(":")[1:] for each in texts(result, "predict_proba")] == [
        ["0", "0"],
        ["2", "2"],
    ]


@each_form
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_what_is_compressed_comes_back(triton, is_json, algorithm):
    sent = np.zeros(1000)
    form = (
        {
            "request_compression_algorithm": algorithm,
            "response_compression_algorithm": algorithm,
        }
        if triton.is_http
        else {"compression_algorithm": algorithm}
    )
    result = await triton.infer("echo", {"x": sent}, ("x",), is_json=is_json, **form)
    np.testing.assert_array_equal(result.as_numpy("x"), sent)


async def test_headers_reach_a_model_that_wants_them_and_its_own_come_back(triton):
    given = {"x": np.array(["a"], object)}
    headers = {"x-question": "why"}
    result = await triton.infer("listening", given, headers=headers)
    told = json.loads(texts(result, "told")[0])
    assert told["request"]["headers"]["x-question"] == "why"
    assert "parameters" not in triton.as_dict(result)  # what it answers them is no parameter

    result = await triton.infer("deaf", given, headers=headers)
    assert json.loads(texts(result, "told")[0])["request"] == {}


REFUSED = {
    "an unknown model": (
        lambda triton: triton.infer("ech", X),
        "404",
        "model 'ech' is not served here; did you mean 'echo'",
    ),
    "an unknown version": (
        lambda triton: triton.infer("versioned", X, model_version="7"),
        "404",
        "version '7' of model 'versioned' is not served here; did you mean '10' or '2'",
    ),
    "metadata of an unknown model": (
        lambda triton: triton.read("get_model_metadata", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
    "a bad shape": (
        lambda triton: triton.infer("iris", {"x": IRIS[:, :3]}),
        "400",
        "model 'iris': inputs[0].shape: expected ",
    ),
    "an output of no model": (
        lambda triton: triton.infer("iris", {"x": IRIS}, ("nothing",)),
        "400",
        "model 'iris': outputs[0].name: expected one of ",
    ),
    "a classification of no class": (
        lambda triton: triton.infer("echo", {"x": np.array(["a"], object)}, ("x",), classes=1),
        "400",
        "model 'echo': outputs[0].parameters.classification: expected an output of numbers",
    ),
    "an output that the runtime refuses": (
        lambda triton: triton.infer("echo", {"x": IRIS}, ("y",)),
        "400",
        "model 'echo': outputs[0].name: expected x, found 'y'",
    ),
    "a model that fails": (
        lambda triton: triton.infer("failing", X),
        "500",
        "model 'failing' failed on this request; the server's log tells why",
    ),
    "a model that is not ready": (
        lambda triton: triton.infer("broken", X),
        "503",
        "model 'broken' is not ready: failed to load",
    ),
    "loading an unknown model": (
        lambda triton: triton.ask("load_model", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
    "loading a broken model": (
        lambda triton: triton.ask("load_model", "broken"),
        "503",
        "model 'broken' is not ready: failed to load",
    ),
    "loading with a setting that is the operator's": (
        lambda triton: triton.ask("load_model", "echo", config='{"implementation": "os.System"}'),
        "400",
        "model 'echo': parameters.config.implementation: expected one of platform, ",
    ),
    "loading with settings that are no JSON": (
        lambda triton: triton.ask("load_model", "echo", config="{"),
        "400",
        "model 'echo': parameters.config: expected a JSON object as a string",
    ),
    "loading with a setting of another type": (
        lambda triton: triton.ask("load_model", "echo", config='{"max_queue": "many"}'),
        "400",
        "model 'echo': parameters.config.max_queue: expected an integer, found a string",
    ),
    "the configuration of an unknown model": (
        lambda triton: triton.read("get_model_config", "ech"),
        "404",
        "model 'ech' is not served here; did you mean 'echo'",
    ),
    "the statistics of an unknown version": (
        lambda triton: triton.read("get_inference_statistics", "versioned", "7"),
        "404",
        "version '7' of model 'versioned' is not served here",
    ),
    "the trace settings of an unknown model": (
        lambda triton: triton.read("get_trace_settings", "ech"),
        "404",
        "model 'ech' is not served here",
    ),
    "unloading an unknown model": (
        lambda triton: triton.ask("unload_model", "nobody"),
        "404",
        "model 'nobody' is not served here",
    ),
}


@pytest.mark.parametrize(("ask", "status", "text"), REFUSED.values(), ids=REFUSED)
async def test_an_error_reaches_the_user_with_status_and_text(triton, ask, status, text):
    assert text in await triton.refusal(status, ask(triton))


async def test_what_a_model_raises_is_kept_from_the_caller(triton):
    text = await triton.refusal("500", triton.infer("failing", {"x": np.array([1])}))
    assert "secret" not in text


async def test_readiness_of_an_unknown_model_is_false_or_an_error(triton):
    if triton.is_http:
        assert await triton.ask("is_model_ready", "nobody") is False
    else:
        text = await triton.refusal("404", triton.ask("is_model_ready", "nobody"))
        assert "model 'nobody' is not served here" in text


async def test_the_index_lists_states_and_reasons(triton):
    lines = await index(triton)
    assert lines["iris", ""] == ("READY", "")
    assert lines["versioned", "2"] == lines["versioned", "10"] == ("READY", "")
    state, reason = lines["broken", ""]
    assert state == "UNAVAILABLE"
    assert reason.startswith("failed to load: ")


async def test_a_model_can_be_added_loaded_unloaded_and_loaded_again(triton, repository, write):
    name = add_model(triton, repository, write)
    assert (await index(triton))[name, ""] == ("UNAVAILABLE", "not loaded")

    for _ in range(2):
        await triton.ask("load_model", name)
        assert await triton.ask("is_model_ready", name) is True
        assert (await index(triton))[name, ""] == ("READY", "")
        result = await triton.infer(name, {"x": np.array([5])}, ("x",))
        np.testing.assert_array_equal(result.as_numpy("x"), [5])

        await triton.ask("unload_model", name, unload_dependents=True)
        assert await triton.ask("is_model_ready", name) is False
        assert (await index(triton))[name, ""] == ("UNAVAILABLE", "unloaded")
        text = await triton.refusal("503", triton.infer(name, {"x": np.array([5])}))
        assert f"model '{name}' is not ready: unloaded" in text


async def test_a_load_overrides_what_describes_a_model_until_the_next(triton, repository, write):
    name = add_model(triton, repository, write)
    inputs = [{"name": "x", "datatype": "INT64", "shape": [-1]}]
    config = {"platform": "mine", "inputs": inputs, "max_queue": 7}

    await triton.ask("load_model", name, config=json.dumps(config))
    metadata = await triton.read("get_model_metadata", name)
    assert metadata["platform"] == "mine"
    assert [given["name"] for given in metadata["inputs"]] == ["x"]

    await triton.ask("load_model", name)
    metadata = await triton.read("get_model_metadata", name)
    assert (metadata["platform"], metadata.get("inputs", [])) == ("echo", [])


async def test_a_refused_load_leaves_the_model_as_it_was(triton, repository, write):
    name = add_model(triton, repository, write)
    await triton.ask("load_model", name)
    load = triton.ask("load_model", name, config='{"platform": "mine", "parameters": {}}')
    await triton.refusal("400", load)
    assert (await triton.read("get_model_metadata", name))["platform"] == "echo"


async def test_no_files_are_taken(triton, repository):
    if triton.is_http:
        pytest.skip("the client can't write bytes as JSON")
    load = triton.ask("load_model", "echo", config="{}", files={"file:1/own.py": b"import os"})
    text = await triton.refusal("400", load)
    assert "parameters.file:1/own.py: expected no parameter but config" in text


async def test_the_configuration_has_tritons_form(triton):
    found = await triton.read("get_model_config", "one")
    config = found if triton.is_http else found["config"]
    assert (config["name"], config["platform"]) == ("one", "echo")
    (given,) = config["input"]
    assert (given["name"], given["data_type"]) == ("x", "TYPE_FP32")
    assert [int(size) for size in given["dims"]] == [-1, 2]
    assert not config["model_transaction_policy"].get("decoupled", False)

    found = await triton.read("get_model_config", "counting")
    config = found if triton.is_http else found["config"]
    assert config["model_transaction_policy"]["decoupled"] is True


async def test_statistics_count_what_was_asked_and_what_failed(triton, repository, write):
    name = add_model(triton, repository, write)
    await triton.ask("load_model", name)
    for _ in range(3):
        await triton.infer(name, X)
    await triton.refusal("400", triton.infer(name, X, ("nothing",)))

    (line,) = (await triton.read("get_inference_statistics", name))["model_stats"]
    assert line["name"] == name
    assert (int(line["inference_count"]), int(line["execution_count"])) == (3, 3)
    assert int(line["last_inference"]) > 1_600_000_000_000  # in milliseconds
    parts = line["inference_stats"]
    counts = {part: int(found.get("count", 0)) for part, found in parts.items()}
    once = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert counts | {"cache_hit": 0, "cache_miss": 0} == counts
    assert {part: counts[part] for part in once} == dict.fromkeys(once, 3)
    assert counts["fail"] == 1
    ns = {part: int(parts[part].get("ns", 0)) for part in (*once, "fail")}
    assert ns["success"] >= sum(ns[part] for part in once[1:]) > 0
    assert ns["fail"] > 0
    (batch,) = line["batch_stats"]
    assert int(batch["batch_size"]) == 1
    assert int(batch["compute_infer"]["count"]) == 3


async def test_statistics_of_all_models_have_a_line_for_each_version(triton):
    lines = (await triton.read("get_inference_statistics"))["model_stats"]
    names = [(line["name"], line.get("version", "")) for line in lines]
    assert {("versioned", "2"), ("versioned", "10"), ("iris", "")} <= set(names)
    assert len(names) == len(set(names))
    assert "broken" not in dict(names)

    lines = (await triton.read("get_inference_statistics", "versioned", "2"))["model_stats"]
    assert [(line["name"], line["version"]) for line in lines] == [("versioned", "2")]


async def test_the_settings_of_the_log_are_read_and_changed(triton):
    before = triton.parameters(settings_of(await triton.read("get_log_settings")))
    changed = {"log_verbose_level": before["log_verbose_level"] + 1}
    found = await triton.read("update_log_settings", changed)
    assert triton.parameters(settings_of(found)) == before | changed
    found = await triton.read("update_log_settings", {key: before[key] for key in changed})
    assert triton.parameters(settings_of(found)) == before

    text = await triton.refusal("400", triton.ask("update_log_settings", {"log_what": True}))
    assert "log_what" in text


async def test_the_settings_of_traces_are_read_and_changed_for_one_model(triton):
    def told(found):
        return triton.parameters(settings_of(found))

    before = told(await triton.read("get_trace_settings", "echo"))
    changed = {"trace_level": ["TIMESTAMPS"]}
    assert told(await triton.read("update_trace_settings", "echo", changed)) == before | changed
    assert told(await triton.read("get_trace_settings", "one")) == before
    assert told(await triton.read("update_trace_settings", "echo", {"trace_level": None})) == before

    update = triton.ask("update_trace_settings", "echo", {"trace_level": ["EVERYTHING"]})
    assert "trace_level: expected OFF alone, or" in await triton.refusal("400", update)


def add_model(triton, repository, write):
    """Make a model folder for one client and one test; gives the name."""
    name = f"added-{triton.name}-{len([*repository.iterdir()])}"
    write(repository, "echo.Echo", name=name)
    return name


def settings_of(found):
    return found.get("settings", found)


async def index(triton) -> dict[tuple[str, str], tuple[str, str]]:
    found = await triton.read("get_model_repository_index")
    lines = found if triton.is_http else found["models"]
    return {
        (line["name"], line.get("version", "")): (line["state"], line.get("reason", ""))
        for line in lines
    }
