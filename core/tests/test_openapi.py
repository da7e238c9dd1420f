import html.parser
import json
from urllib.parse import urljoin

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount

from jackfield import Datatype, Server, ServerSettings
from jackfield._http.openapi import OPERATIONS

CODE = """
import numpy as np
from jackfield import (
    InferResponse, InvalidRequestError, ModelLoadError, ModelMetadata, Tensor, TensorMetadata
)
from jackfield.tensor import Datatype


class Described:
    "Takes the declared inputs alone; answers with zeros of the declared outputs."

    def __init__(self, context):
        self.inputs = context.settings.inputs
        self.outputs = context.settings.outputs

    def load(self): ...

    def metadata(self):
        return ModelMetadata(platform="described")

    def infer(self, request):
        rows = 1
        if self.inputs:
            given = {tensor.name: tensor for tensor in request.inputs}
            if set(given) != {tensor.name for tensor in self.inputs}:
                raise InvalidRequestError("inputs", expected="other inputs", found="these")
            for declared in self.inputs:
                self.check(given[declared.name], declared)
            rows = request.inputs[0].shape[0] if request.inputs[0].shape else 1
        wanted = [output.name for output in request.outputs] or [
            output.name for output in self.outputs if not output.parameters.get("on_request")
        ]
        by_name = {output.name: output for output in self.outputs}
        return InferResponse([self.zeros(by_name[name], rows) for name in wanted])

    def check(self, tensor, declared):
        if tensor.datatype is not declared.datatype:
            raise InvalidRequestError("inputs", expected=declared.datatype, found=tensor.datatype)
        sizes = zip(tensor.shape, declared.shape)
        if len(tensor.shape) != len(declared.shape) or any(b not in (-1, a) for a, b in sizes):
            raise InvalidRequestError("inputs", expected="another shape", found="this")
        categories = declared.parameters.get("categories")
        if categories and not {each.decode() for each in tensor.array.flat} <= set(categories):
            raise InvalidRequestError("inputs", expected="a known category", found="another")

    def zeros(self, output, rows):
        shape = [rows if size < 0 else size for size in output.shape]
        array = np.zeros(shape, output.datatype.dtype)
        if output.datatype is Datatype.BYTES:
            array[...] = b"no"
        return Tensor(output.name, output.datatype, array)

    def close(self): ...


class Broken(Described):
    def load(self):
        raise ModelLoadError("it is broken")
"""


def tensor(name, datatype, shape, **parameters):
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


CLASSIFIER = {
    "inputs": [tensor("x", "FP64", [-1, 4])],
    "outputs": [
        tensor("predict", "INT64", [-1]),
        tensor("predict_proba", "FP64", [-1, 3], on_request=True, classes=["a", "b", "c"]),
    ],
}
COLUMNS = {
    "inputs": [
        tensor("age (years)", "INT32", [-1]),
        tensor("town", "BYTES", [-1, 1], categories=["Delft", "Leiden"]),
        tensor("is_known", "BOOL", [-1]),
    ],
    "outputs": [tensor("label", "BYTES", [-1]), tensor("score", "FP32", [-1, 2])],
}
EVERY = [each.value for each in Datatype if each is not Datatype.BF16]
MODELS = {
    "classifier": CLASSIFIER,
    "columns": COLUMNS,
    "every": {
        "inputs": [tensor(f"in {each}", each, [-1, 2]) for each in EVERY],
        "outputs": [tensor(f"out {each}", each, [-1, 2]) for each in EVERY],
    },
    "picture": {
        "inputs": [tensor("pixels", "UINT8", [2, 3, 2])],
        "outputs": [tensor("mean", "FP64", [])],
    },
    "scalar": {"inputs": [tensor("x", "FP32", [])], "outputs": [tensor("y", "FP32", [1])]},
    "odd & names": {
        "inputs": [tensor('$ref `|"', "INT8", [1])],
        "outputs": [tensor("<b>\n", "INT8", [1])],
    },
}


@pytest.fixture
def add(tmp_path):
    def add(name, kind="Described", *, version="", **settings):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "described.py").write_text(CODE)
        parameters = {"version": version} if version else {}
        settings |= {
            "name": name,
            "implementation": f"described.{kind}",
            "parameters": parameters,
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
        return tmp_path

    return add


@pytest.fixture
async def serve(tmp_path):
    clients = []

    async def serve(**settings):
        server = Server([tmp_path], settings=ServerSettings(**settings))
        await server.start()
        transport = httpx.ASGITransport(server, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://server")
        clients.append((client, server))
        return client

    yield serve
    for client, server in clients:
        await client.aclose()
        await server.stop()


def validator(document, schema):
    """Validate by a schema of a document, its references resolved there."""
    whole = {**schema, "components": document["components"]}
    return jsonschema.Draft202012Validator(whole)


def named(document, name):
    return validator(document, {"$ref": f"#/components/schemas/{name}"})


async def document_of(client, name="", version=""):
    path = f"/v2/models/{name}" if name else "/v2"
    path += f"/versions/{version}" if version else ""
    answer = await client.get(f"{path}/docs/dataplane.json")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def example_of(document, path):
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]


async def test_every_route_is_described_and_nothing_else(add, serve, tmp_path):
    add("model")
    server = Server([tmp_path], settings=ServerSettings(shared_memory=True))
    served = {
        (method.lower(), route.path)
        for route in server._app.routes
        for method in route.methods - {"HEAD"}
    }
    document = await document_of(await serve(shared_memory=True))
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert described == served
    assert len(OPERATIONS) == len({operation.id for operation in OPERATIONS.values()})


@pytest.mark.parametrize("version", ["", "v1.0"])
async def test_the_documents_are_valid_openapi(add, serve, version):
    for name, settings in MODELS.items():
        add(name, version=version, **settings)
    add("undeclared", version=version)
    client = await serve(shared_memory=True)
    OpenAPIV31SpecValidator(await document_of(client)).validate()
    for name in [*MODELS, "undeclared"]:
        OpenAPIV31SpecValidator(await document_of(client, name, version)).validate()


async def test_what_is_switched_off_is_not_described(add, serve):
    add("model")
    document = await document_of(await serve())
    assert not [path for path in document["paths"] if "sharedmemory" in path]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("version", ["", "v1.0"])
async def test_each_get_answers_as_described(add, serve, name, version):
    add(name, version=version, **MODELS[name])
    client = await serve(shared_memory=True)
    for document in (await document_of(client), await document_of(client, name, version)):
        for path, item in document["paths"].items():
            if "get" not in item:
                continue
            filled = path.replace("{model}", name).replace("{version}", version)
            filled = filled.replace("{file}", "docs.js").replace("{region}", "none")
            answer = await client.get(filled)
            response = item["get"]["responses"][str(answer.status_code)]
            if "$ref" in response:
                key = response["$ref"].rpartition("/")[2]
                response = document["components"]["responses"][key]
            ((media_type, content),) = response["content"].items()
            if media_type == "application/json":
                validator(document, content["schema"]).validate(answer.json())
            else:
                assert media_type in ("*/*", answer.headers["content-type"].partition(";")[0])


@pytest.mark.parametrize("name", MODELS)
async def test_the_example_is_valid_and_accepted_and_so_is_the_answer(add, serve, name):
    add(name, **MODELS[name])
    client = await serve()
    document = await document_of(client, name)
    for path, item in document["paths"].items():
        if not path.endswith(("/infer", "/generate")):
            continue
        example = example_of(document, path)
        request = item["post"]["requestBody"]["content"]["application/json"]["schema"]
        validator(document, request).validate(example)
        answer = await client.post(path, json=example)
        assert answer.status_code == 200, answer.text
        response = item["post"]["responses"]["200"]["content"]["application/json"]
        validator(document, response["schema"]).validate(answer.json())
        validator(document, response["schema"]).validate(response["example"])
        shown, true = response["example"], answer.json()
        assert shown.keys() == true.keys()
        for one, other in zip(shown.get("outputs", ()), true.get("outputs", ()), strict=True):
            assert {**one, "data": 0} == {**other, "data": 0}


async def test_the_example_has_the_data_that_the_metadata_give(add, serve):
    inputs = [
        tensor("town", "BYTES", [-1, 2], example=["Delft", "Leiden"], categories=["Delft"]),
        tensor("size", "INT32", [-1, 3], example=7),
        tensor("rank", "INT32", [-1], example=[1, 2]),
    ]
    add("model", inputs=inputs)
    document = await document_of(await serve(), "model")
    example = example_of(document, "/v2/models/model/infer")
    data = [each["data"] for each in example["inputs"]]
    assert data == [["Delft", "Leiden"], [7, 7, 7], [0]]


async def test_the_paths_of_a_version_are_filled_in(add, serve):
    for version in ("1", "2"):
        add("model", version=version, **CLASSIFIER)
    client = await serve()
    document = await document_of(client, "model", "1")
    assert {path[: len("/v2/models/model/versions/1")] for path in document["paths"]} == {
        "/v2/models/model/versions/1"
    }
    path = "/v2/models/model/versions/1/infer"
    answer = await client.post(path, json=example_of(document, path))
    named(document, "InferResponse").validate(answer.json())
    newest = await document_of(client, "model")
    assert newest["info"]["version"] == "2"
    assert not named(newest, "InferResponse").is_valid(answer.json())
    assert not [path for path in newest["paths"] if "versions" in path]


ROW = [0.0, 1.5, 2, 3]
GOOD = {
    "flat": {"data": ROW},
    "nested": {"data": [ROW]},
    "two rows": {"shape": [2, 4], "data": ROW + ROW},
    "not finite": {"data": [None, "Infinity", "-Infinity", "NaN"]},
    "parameters": {"data": ROW, "parameters": {"content_type": "np"}},
}
BAD = {
    "another name": {"name": "y"},
    "another datatype": {"datatype": "FP32"},
    "unknown datatype": {"datatype": "FP65"},
    "no datatype": {"datatype": None},
    "another width": {"shape": [1, 3], "data": ROW[:3]},
    "another rank": {"shape": [4]},
    "a size below 0": {"shape": [-1, 4]},
    "a size that is text": {"shape": ["1", 4]},
    "a text": {"data": ["a", 1, 2, 3]},
    "a boolean": {"data": [True, 1, 2, 3]},
    "nested too deep": {"data": [[ROW]]},
    "nested too short": {"data": [ROW[:3]]},
    "a lone value": {"data": 1.0},
    "no data": {"data": ...},
    "parameters that are a list": {"parameters": []},
}


def classifier_request(change):
    given = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": ROW} | change
    return {"inputs": [{key: value for key, value in given.items() if value is not ...}]}


WHOLE = {
    "no inputs": {},
    "an empty list": {"inputs": []},
    "an input twice": {"inputs": classifier_request({})["inputs"] * 2},
    "an unknown output": {**classifier_request({}), "outputs": [{"name": "y"}]},
    "an output that is text": {**classifier_request({}), "outputs": ["predict"]},
    "classes below 1": {
        **classifier_request({}),
        "outputs": [{"name": "predict_proba", "parameters": {"classification": 0}}],
    },
    "an id that is a number": {**classifier_request({}), "id": 1},
    "a list": [],
}


@pytest.mark.parametrize(
    ("body", "is_good"),
    [
        *[pytest.param(classifier_request(each), True, id=key) for key, each in GOOD.items()],
        *[pytest.param(classifier_request(each), False, id=key) for key, each in BAD.items()],
        *[pytest.param(each, False, id=key) for key, each in WHOLE.items()],
    ],
)
async def test_the_schema_and_the_model_refuse_the_same_bodies(add, serve, body, is_good):
    add("classifier", **CLASSIFIER)
    client = await serve()
    document = await document_of(client, "classifier")
    answer = await client.post("/v2/models/classifier/infer", json=body)
    assert named(document, "InferRequest").is_valid(body) == is_good
    assert answer.status_code == (200 if is_good else 400), answer.text
    named(document, "InferResponse" if is_good else "Error").validate(answer.json())


async def test_inputs_may_come_in_any_order_but_each_once(add, serve):
    add("columns", **COLUMNS)
    client = await serve()
    document = await document_of(client, "columns")
    request = example_of(document, "/v2/models/columns/infer")
    check = named(document, "InferRequest")
    turned = {"inputs": request["inputs"][::-1]}
    assert check.is_valid(turned)
    assert (await client.post("/v2/models/columns/infer", json=turned)).status_code == 200
    assert not check.is_valid({"inputs": request["inputs"][:2]})
    assert not check.is_valid({"inputs": [*request["inputs"][:2], request["inputs"][0]]})


@pytest.mark.parametrize(
    ("datatype", "low", "high"),
    [
        ("INT8", -128, 127),
        ("UINT8", 0, 255),
        ("INT16", -(2**15), 2**15 - 1),
        ("UINT32", 0, 2**32 - 1),
        ("INT64", -(2**63), 2**63 - 1),
        ("UINT64", 0, 2**64 - 1),
    ],
)
async def test_integers_have_the_bounds_of_their_datatype(add, serve, datatype, low, high):
    add("model", inputs=[tensor("x", datatype, [1])], outputs=[tensor("y", "INT8", [1])])
    client = await serve()
    check = named(await document_of(client, "model"), "InferRequest")
    for value, is_good in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        for data in ([value], value):
            body = {"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": data}]}
            assert check.is_valid(body) == is_good
            answer = await client.post("/v2/models/model/infer", json=body)
            assert answer.status_code == (200 if is_good else 400)


async def test_outputs_on_request_and_classes_fit_the_schema(add, serve):
    add("classifier", **CLASSIFIER)
    client = await serve()
    document = await document_of(client, "classifier")
    request = example_of(document, "/v2/models/classifier/infer") | {
        "outputs": [
            {"name": "predict_proba", "parameters": {"classification": 2}},
            {"name": "predict"},
        ]
    }
    named(document, "InferRequest").validate(request)
    answer = (await client.post("/v2/models/classifier/infer", json=request)).json()
    assert answer["outputs"][0]["datatype"] == "BYTES"
    named(document, "InferResponse").validate(answer)


@pytest.mark.parametrize(
    "inputs",
    [[], [tensor("x", "BF16", [1])], [tensor("x", "FP32", [-1, 224, 224, 3])]],
    ids=["undeclared", "BF16", "large"],
)
async def test_a_model_without_an_example_has_a_document_without_one(add, serve, inputs):
    add("model", inputs=inputs)
    document = await document_of(await serve(), "model")
    content = document["paths"]["/v2/models/model/infer"]["post"]["requestBody"]["content"]
    assert "example" not in content["application/json"]


async def test_binary_tensors_fit_the_json_text_before_them(add, serve):
    add("model", inputs=[tensor("x", "BF16", [2])], outputs=[tensor("y", "FP32", [1])])
    client = await serve()
    document = await document_of(client, "model")
    head = {
        "inputs": [
            {
                "name": "x",
                "shape": [2],
                "datatype": "BF16",
                "parameters": {"binary_data_size": 4},
            }
        ]
    }
    named(document, "InferRequest").validate(head)
    text = json.dumps(head).encode()
    answer = await client.post(
        "/v2/models/model/infer",
        content=text + bytes(4),
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("rest", ["docs", "docs/dataplane.json"])
async def test_an_unknown_model_gives_404_and_one_that_failed_503(add, serve, rest):
    add("broken", "Broken")
    add("model", version="1")
    client = await serve()
    document = await document_of(client)
    for path, status, word in (
        ("modle", 404, "model"),
        ("model/versions/2", 404, "'2'"),
        ("broken", 503, "it is broken"),
    ):
        answer = await client.get(f"/v2/models/{path}/{rest}")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        named(document, "Error").validate(answer.json())
        assert word in answer.json()["error"]


class Links(html.parser.HTMLParser):
    """Collects what a page loads, and scripts and styles that stand in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.inline, self._tag = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        found = dict(attributes)
        self.links += [found[key] for key in ("src", "href") if key in found]
        self.inline += [key for key in found if key == "style" or key.startswith("on")]

    def handle_data(self, data):
        if self._tag in ("script", "style") and data.strip():
            self.inline.append(data)


PAGES = ["/v2/docs", "/v2/models/model/docs", "/v2/models/model/versions/1/docs"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("mount", ["", "/deep/ml"])
async def test_a_page_loads_all_it_needs_from_beside_it(add, serve, tmp_path, page, mount):
    add("model", version="1", **CLASSIFIER)
    client = await serve()
    if mount:
        app = Starlette(routes=[Mount(mount, client._transport.app)])
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
    answer = await client.get(mount + page)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    links = Links(answer.text)
    assert not links.inline
    assert len(links.links) == 6
    for link in links.links:
        assert "//" not in link
        assert not link.startswith("/")
        found = await client.get(urljoin(f"http://server{mount}{page}", link))
        assert found.status_code == 200, link
    where = f"http://server{mount}{page}/dataplane.json"
    document = (await client.get(where)).json()
    root = urljoin(where, document["servers"][0]["url"])
    assert root == f"http://server{mount}/"
    path = next(path for path in document["paths"] if path.endswith("/infer"))
    if "{" not in path:
        body = example_of(document, path)
        answer = await client.post(root.rstrip("/") + path, json=body)
        assert answer.status_code == 200


async def test_a_models_name_is_text_in_its_page(add, serve):
    add("a<b>&", **CLASSIFIER)
    client = await serve()
    answer = await client.get("/v2/models/a%3Cb%3E&/docs")
    assert "<title>a&lt;b&gt;&amp;</title>" in answer.text
    document = await document_of(client, "a%3Cb%3E&")
    assert "/v2/models/a%3Cb%3E%26/infer" in document["paths"]


@pytest.mark.parametrize(
    ("file", "media_type"),
    [
        ("docs.js", "text/javascript"),
        ("docs.css", "text/css"),
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("favicon-32x32.png", "image/png"),
    ],
)
async def test_files_have_their_type_and_may_be_kept(add, serve, file, media_type):
    add("model")
    answer = await (await serve()).get(f"/v2/docs/assets/{file}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["cache-control"]
    assert answer.headers["etag"]


@pytest.mark.parametrize("file", ["docs.py", "..%2Fapp.py", "%2e%2e/app.py", "index.html", "x"])
async def test_no_other_file_is_given(add, serve, file):
    add("model")
    answer = await (await serve()).get(f"/v2/docs/assets/{file}")
    assert answer.status_code == 404
    assert answer.json()["error"]
