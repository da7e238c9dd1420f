import gc
import json
import logging
import sys
import weakref

import numpy as np
import pytest

from jackfield import (
    Datatype,
    InferRequest,
    InvalidRequestError,
    RequestedOutput,
    RuntimeFailedError,
    Server,
    SettingsError,
    Tensor,
)

HEAD = """
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple, Optional, TypedDict
import numpy as np
from numpy.typing import NDArray
from jackfield import (
    Capabilities, InferRequest, InferResponse, ModelContext, ModelMetadata, Parameters, Tensor
)

"""


@pytest.fixture
def write(tmp_path):
    """Write a Python file that holds a model, and give its path."""

    def write(code, name="mine", *, head=HEAD):
        file = tmp_path / f"{name}.py"
        file.write_text(head + code)
        return file

    return write


@pytest.fixture
def serve(write):
    def serve(code, suffix="", **options):
        return Server([f"{write(code)}{suffix}"], plugins=(), **options)

    return serve


def one(signature, body, *, more=""):
    return f"class Mine:\n{more}    def infer(self, {signature}:\n        {body}\n"


def request(*, outputs=(), parameters=None, tags=None, **inputs):
    tags = tags or {}
    tensors = [
        Tensor.from_array(
            name, value, parameters={"content_type": tags[name]} if name in tags else {}
        )
        for name, value in inputs.items()
    ]
    return InferRequest(tensors, [RequestedOutput(*each) for each in outputs], parameters or {})


async def answer(server, asked, name="mine"):
    response = await server.model(name).infer(asked)
    return {tensor.name: tensor.array.tolist() for tensor in response.outputs}


# ---- what an annotation makes of a tensor ----

READ = {
    "array": ("np.ndarray", [[1, 2]], "array([[1, 2]])"),
    "typed array": ("NDArray[np.float64]", [1.0, 2.0], "array([1., 2.])"),
    "wider array": ("NDArray[np.float64]", np.array([1, 2], "i4"), "array([1., 2.])"),
    "rounded": ("NDArray[np.float32]", [0.5], "array([0.5], dtype=float32)"),
    "any float": ("NDArray[np.floating]", [0.5], "array([0.5])"),
    "any": ("NDArray[Any]", [1, 2], "array([1, 2])"),
    "texts in an array": ("NDArray[np.str_]", [["a", "é"]], "array([['a', 'é']], dtype='<U1')"),
    "bytes in an array": ("NDArray[np.object_]", [b"\xff"], "array([b'\\xff'], dtype=object)"),
    "shape": ("Annotated[NDArray[np.int64], (-1, 2)]", [[1, 2]], "array([[1, 2]])"),
    "optional": ("Optional[np.ndarray]", [1, 2], "array([1, 2])"),
    "texts": ("list[str]", ["a", "é"], "['a', 'é']"),
    "base64": ("list[bytes]", ["aGk="], "[b'hi']"),
    "moments": ("list[datetime]", ["2024-01-02"], "[datetime.datetime(2024, 1, 2, 0, 0)]"),
    "numbers": ("list[float]", [1, 2], "[1.0, 2.0]"),
    "column of numbers": ("list[int]", [[1], [2]], "[1, 2]"),
    "rows of numbers": ("list[list[int]]", [[1, 2], [3, 4]], "[[1, 2], [3, 4]]"),
    "flags": ("list[bool]", [True, False], "[True, False]"),
    "objects": ("list[dict[str, Any]]", ['{"a": 1}'], "[{'a': 1}]"),
    "text": ("str", ["a"], "'a'"),
    "text, no shape": ("str", "a", "'a'"),
    "number": ("float", [[2]], "2.0"),
    "integer": ("int", [2], "2"),
    "flag": ("bool", [True], "True"),
    "one of bytes": ("bytes", ["aGk="], "b'hi'"),
    "tensor": ("Tensor", [1], "Tensor(name='x', datatype=<Datatype.INT64: 'INT64'>"),
    "all": ("dict[str, np.ndarray]", [1], "{'x': array([1])}"),
}


@pytest.mark.parametrize("case", READ)
async def test_an_annotation_picks_what_an_input_becomes(case, serve):
    annotation, value, expected = READ[case]
    async with serve(one(f"x: {annotation}) -> str", "return repr(x)")) as server:
        [found] = (await answer(server, request(x=value)))["output-0"]
        assert found.decode().startswith(expected)


MISFITS = {
    "integer from float": ("NDArray[np.int64]", [0.5], {}, r"datatype: expected INT64, found FP64"),
    "number from text": ("NDArray[np.int64]", ["a"], {}, r"datatype: expected INT64, found BYTES"),
    "rank": ("Annotated[np.ndarray, (-1, 2)]", [1], {}, r"shape: expected \[any, 2\], found \[1\]"),
    "size": ("Annotated[np.ndarray, (-1, 2)]", [[1]], {}, r"expected \[any, 2\], found \[1, 1\]"),
    "text from number": ("list[str]", [1], {}, r"datatype: expected BYTES"),
    "several": ("float", [1.0, 2.0], {}, r"shape: expected one element, found \[2\]"),
    "content type": ("np.ndarray", ["a"], {"x": "str"}, r"one that makes numpy.ndarray, as 'np'"),
    "unknown type": ("np.ndarray", [1], {"x": "teapot"}, r"expected one of 'np'.*found 'teapot'"),
    "not base64": ("list[bytes]", ["%"], {}, r"data\[0\]: expected base64, found '%'"),
    "rows": ("list[list[int]]", [1], {}, r"shape: expected \[any, any\], found \[1\]"),
}


@pytest.mark.parametrize("case", MISFITS)
async def test_an_input_that_does_not_fit_is_the_callers_fault(case, serve):
    annotation, value, tags, text = MISFITS[case]
    async with serve(one(f"x: {annotation}) -> str", "return 'no'")) as server:
        with pytest.raises(InvalidRequestError, match=rf"model 'mine': inputs\[0\]\..*{text}"):
            await answer(server, request(x=value, tags=tags))


async def test_the_requests_content_type_goes_before_the_annotations(serve):
    async with serve(one("x: list[bytes]) -> str", "return repr(x)")) as server:
        for tag, expected in (("base64", b"[b'hi']"), ("np", b"[b'aGk=']"), ("str", b"['aGk=']")):
            found = await answer(server, request(x=["aGk="], tags={"x": tag}))
            assert found["output-0"] == [expected]


async def test_the_settings_content_type_goes_before_the_annotations(add_model):
    declared = {"datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "np"}}
    code = HEAD + one("x: list[bytes]) -> str", "return repr(x)")
    folder = add_model("m", "Mine", code=code, inputs=[{"name": "x", **declared}])
    async with Server([folder], plugins=()) as server:
        found = await answer(server, request(x=["aGk="]), "m")
        assert found["output-0"] == [b"[b'aGk=']"]


# ---- inputs ----


async def test_names_pick_the_inputs_and_defaults_make_them_optional(serve):
    code = one("x: list[int], y: list[int], z: int = 3) -> list[int]", "return [*x, *y, z]")
    async with serve(code) as server:
        assert (await answer(server, request(y=[2], x=[1])))["output-0"] == [1, 2, 3]
        assert (await answer(server, request(z=[4], y=[2], x=[1])))["output-0"] == [1, 2, 4]
        for given in ({"x": [1]}, {"x": [1], "y": [2], "q": [3]}, {"q": [3]}):
            names = ", ".join(f"'{name}'" for name in given)
            expected = f"inputs: expected 'x', 'y', and perhaps 'z', found {names}$"
            with pytest.raises(InvalidRequestError, match=expected):
                await answer(server, request(**given))


async def test_missing_and_extra_inputs_are_400(serve, client_of, body_of):
    async with (
        serve(one("y: list[int]) -> int", "return 1")) as server,
        client_of(server) as client,
    ):
        found = await client.post("/v2/models/mine/infer", content=body_of(1))
        assert found.status_code == 400
        assert found.json() == {"error": "model 'mine': inputs: expected 'y', found 'x'"}


async def test_a_dict_takes_what_no_parameter_names(serve):
    code = one("x: int, rest: dict[str, Any]) -> list[str]", "return [str(x), *rest]")
    async with serve(code) as server:
        found = await answer(server, request(a=[1], x=[7], b=[2]))
        assert found["output-0"] == [b"7", b"a", b"b"]
        with pytest.raises(InvalidRequestError, match="expected 'x', 'others for rest', found 'x'"):
            await answer(server, request(x=[7]))


async def test_headers_parameters_request_and_context_are_at_hand(serve, client_of):
    code = one(
        "x: int, headers: dict[str, str], parameters: Parameters, request: InferRequest, "
        "context: ModelContext) -> list[str]",
        "return [headers['x-who'], str(dict(parameters)), request.id, context.name]",
    )
    async with serve(code) as server, client_of(server) as client:
        tensor = {"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}
        body = {"id": "7", "parameters": {"a": 1}, "inputs": [tensor]}
        found = await client.post(
            "/v2/models/mine/infer", content=json.dumps(body), headers={"X-Who": "me"}
        )
        assert found.json()["outputs"][0]["data"] == ["me", "{'a': 1}", "7", "mine"]
        inputs = server.model("mine").metadata.inputs
        assert [each.name for each in inputs] == ["x"]


async def test_a_model_that_does_not_ask_for_headers_gets_none(serve, client_of, body_of):
    code = one("x: np.ndarray, parameters: Parameters) -> int", "return len(parameters)")
    async with serve(code) as server, client_of(server) as client:
        found = await client.post("/v2/models/mine/infer", content=body_of(1))
        assert found.json()["outputs"][0]["data"] == [0]
        assert not server.model("mine").reads_headers


# ---- outputs ----

WRITTEN = {
    "array": ("np.ndarray", "np.array([[1]])", {"output-0": ("INT64", (1, 1), [[1]])}),
    "typed": ("NDArray[np.float32]", "np.array([1.5])", {"output-0": ("FP32", (1,), [1.5])}),
    "texts": ("list[str]", "['a']", {"output-0": ("BYTES", (1,), [b"a"])}),
    "bytes": ("list[bytes]", "[b'hi']", {"output-0": ("BYTES", (1,), [b"aGk="])}),
    "number": ("float", "1", {"output-0": ("FP64", (1,), [1.0])}),
    "of numpy": ("float", "np.float32(1)", {"output-0": ("FP64", (1,), [1.0])}),
    "text": ("str", "'a'", {"output-0": ("BYTES", (1,), [b"a"])}),
    "numbers": ("list[float]", "[1, 2]", {"output-0": ("FP64", (2,), [1.0, 2.0])}),
    "array of text": (
        "NDArray[np.str_]",
        "np.array(['é'])",
        {"output-0": ("BYTES", (1,), ["é".encode()])},
    ),
    "tuple": (
        "tuple[NDArray[np.int64], list[str]]",
        "(np.array([1]), ['a'])",
        {"output-0": ("INT64", (1,), [1]), "output-1": ("BYTES", (1,), [b"a"])},
    ),
    "dict": (
        "dict[str, Any]",
        "{'p': [1.0], 'q': ['a']}",
        {"p": ("FP64", (1,), [1.0]), "q": ("BYTES", (1,), [b"a"])},
    ),
    "named": ("Named", "Named(1, 'a')", {"p": ("INT64", (1,), [1]), "q": ("BYTES", (1,), [b"a"])}),
    "typed dict": (
        "Typed",
        "{'q': 'a', 'p': 1}",
        {"p": ("INT64", (1,), [1]), "q": ("BYTES", (1,), [b"a"])},
    ),
    "tensor": ("Tensor", "Tensor.from_array('t', [1])", {"t": ("INT64", (1,), [1])}),
    "tensors": ("list[Tensor]", "[Tensor.from_array('t', [1])]", {"t": ("INT64", (1,), [1])}),
    "response": (
        "InferResponse",
        "InferResponse([Tensor.from_array('t', [1])])",
        {"t": ("INT64", (1,), [1])},
    ),
    "open": ("Any", "[1, 2]", {"output-0": ("INT64", (2,), [1, 2])}),
}
PARTS = """
class Named(NamedTuple):
    p: int
    q: str


class Typed(TypedDict):
    p: int
    q: str


"""


@pytest.mark.parametrize("case", WRITTEN)
async def test_the_return_annotation_picks_what_an_answer_becomes(case, serve):
    annotation, value, expected = WRITTEN[case]
    code = PARTS + one(f"x: np.ndarray) -> {annotation}", f"return {value}")
    async with serve(code) as server:
        response = await server.model("mine").infer(request(x=[1]))
        found = {
            tensor.name: (tensor.datatype.value, tensor.shape, tensor.array.tolist())
            for tensor in response.outputs
        }
        assert found == expected
        declared = {each.name: each.datatype for each in server.model("mine").metadata.outputs}
        for name, datatype in declared.items():
            assert expected[name][0] == datatype


async def test_without_a_return_annotation_the_value_decides(serve):
    async with serve(one("x: list[str])", "return {'n': len(x), 'x': x}")) as server:
        found = await answer(server, request(x=["a", "b"]))
        assert found == {"n": 2, "x": [b"a", b"b"]}


WRONG = {
    "None": ("np.ndarray", "None", "says numpy.ndarray, found NoneType"),
    "list for array": ("np.ndarray", "[1]", "says numpy.ndarray, found list"),
    "element": ("list[str]", "[1]", "element 0 is int"),
    "text for number": ("float", "'1'", "says float, found str"),
    "kind of number": ("NDArray[np.int64]", "np.array([0.5])", "expected INT64, found FP64"),
    "shape": ("Annotated[np.ndarray, (2,)]", "np.zeros(3)", r"expected \[2\], found \[3\]"),
    "parts": ("tuple[int, int]", "(1,)", r"says tuple\[int, int\], found 1 parts"),
    "no tuple": ("tuple[int, int]", "1", r"says tuple\[int, int\], found int"),
    "keys": ("Typed", "{'p': 1}", "found the keys 'p'"),
    "no dict": ("dict[str, Any]", "[1]", r"says dict\[str, Any\], found list"),
    "set": ("Any", "{1}", "tensor 'output-0'"),
    "nothing": ("Any", "None", "the answer of infer is None"),
    "no response": ("InferResponse", "3", "says jackfield.messages.InferResponse, found int"),
    "ragged": ("list[list[int]]", "[[1], [1, 2]]", "inhomogeneous"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_an_answer_of_the_wrong_type_is_told_in_the_log(case, serve, caplog):
    annotation, value, text = WRONG[case]
    code = PARTS + one(f"x: np.ndarray) -> {annotation}", f"return {value}")
    async with serve(code) as server:
        with pytest.raises(RuntimeFailedError, match="failed on this request") as failed:
            await server.model("mine").infer(request(x=[1]))
    assert "TypeError: " in caplog.text
    with pytest.raises(TypeError, match=text):
        raise failed.value.__cause__


async def test_a_full_style_answer_of_the_wrong_type_is_told_in_the_log(serve, caplog):
    code = "class Mine:\n    def infer(self, request):\n        return [1]\n"
    async with serve(code) as server:
        with pytest.raises(RuntimeFailedError):
            await server.model("mine").infer(request(x=[1]))
    assert "TypeError: infer returned list, not InferResponse" in caplog.text


async def test_outputs_are_given_as_asked_for(serve):
    code = one("x: np.ndarray) -> dict[str, Any]", "return {'a': ['hi'], 'b': x}")
    async with serve(code) as server:
        found = await answer(server, request(x=[1], outputs=[("b",)]))
        assert found == {"b": [1]}
        wanted = ("a", {"content_type": "pd_json"})
        found = await answer(server, request(x=[1], outputs=[wanted, ("b",)]))
        assert found == {"a": [b'"hi"'], "b": [1]}
        for name, content_type, text in (
            ("c", "np", r"outputs\[0\].name: expected one of 'a', 'b', found 'c'"),
            (
                "b",
                "str",
                r"outputs\[0\].parameters.content_type: expected a content type that holds",
            ),
            ("b", "teapot", r"content_type: expected one of 'np', .* found 'teapot'"),
        ):
            asked = request(x=[1], outputs=[(name, {"content_type": content_type})])
            with pytest.raises(InvalidRequestError, match=text):
                await answer(server, asked)


# ---- metadata ----


async def test_metadata_says_what_the_signature_says(serve):
    code = one(
        "x: Annotated[NDArray[np.float32], (-1, 4)], any: NDArray[np.int8], names: list[str], "
        "pictures: list[bytes], best: int = 3) -> tuple[NDArray[np.float64], list[str]]",
        "return x, names",
    )
    async with serve(code) as server:
        metadata = server.model("mine").metadata
    inputs = {
        each.name: (each.datatype, list(each.shape), each.parameters) for each in metadata.inputs
    }
    assert inputs == {
        "x": (Datatype.FP32, [-1, 4], {}),
        "any": (Datatype.INT8, [-1], {"any_shape": True}),
        "names": (Datatype.BYTES, [-1], {"content_type": "str"}),
        "pictures": (Datatype.BYTES, [-1], {"content_type": "base64"}),
        "best": (Datatype.INT64, [1], {"optional": True}),
    }
    assert [each.name for each in metadata.outputs] == ["output-0", "output-1"]
    assert metadata.platform == "python"


@pytest.mark.parametrize(
    "signature", ["x: np.ndarray, y: int) -> np.ndarray", "x: dict[str, Any]) -> dict[str, Any]"]
)
async def test_metadata_says_nothing_rather_than_a_part(signature, serve):
    async with serve(one(signature, "return x")) as server:
        metadata = server.model("mine").metadata
        assert (list(metadata.inputs), list(metadata.outputs)) == ([], [])


async def test_the_authors_metadata_goes_first(serve):
    more = "    def metadata(self):\n        return ModelMetadata(platform='own')\n"
    async with serve(one("x: int) -> int", "return x", more=more)) as server:
        assert server.model("mine").metadata.platform == "own"


async def test_the_docs_of_a_typed_model_ask_for_what_it_needs(serve, client_of):
    code = one("x: NDArray[np.float64], best: int = 3) -> NDArray[np.float64]", "return x * best")
    async with serve(code) as server, client_of(server) as client:
        document = (await client.get("/v2/models/mine/docs/dataplane.json")).json()
        schemas = document["components"]["schemas"]
        assert schemas["FlatRequest"]["required"] == ["x"]
        inputs = schemas["InferRequest"]["properties"]["inputs"]
        assert (inputs["minItems"], inputs["maxItems"]) == (1, 2)
        x = inputs["items"]["oneOf"][0]
        assert x["properties"]["datatype"] == {"const": "FP64"}
        assert "maxItems" not in x["properties"]["shape"]
        example = document["paths"]["/v2/models/mine/infer"]["post"]["requestBody"]["content"]
        body = example["application/json"]["example"]
        assert [each["name"] for each in body["inputs"]] == ["x"]
        assert (await client.post("/v2/models/mine/infer", json=body)).status_code == 200


# ---- what can't be loaded ----

REFUSED = {
    "annotation": (
        one("x: set[int]) -> int", "return 1"),
        r"parameter 'x' of infer is set\[int\], which no codec makes; supported are: numpy.ndarray",
    ),
    "no annotation": (
        one("x) -> int", "return 1"),
        "parameter 'x' of infer has no annotation; supported are: numpy.ndarray",
    ),
    "datatype": (one("x: NDArray[np.complex128]) -> int", "return 1"), "which no codec makes"),
    "answer": (
        one("x: int) -> set[int]", "return x"),
        r"the answer of infer is set\[int\], which no codec encodes; supported are: numpy",
    ),
    "part of an answer": (
        one("x: int) -> tuple[int, set[int]]", "return x"),
        r"the answer of infer is tuple\[int, set\[int\]\], its part 'output-1', which no codec",
    ),
    "None": (one("x: int) -> None", "return x"), "the answer of infer is NoneType, which no codec"),
    "not imported": (
        one("x: 'pd.DataFrame') -> int", "return 1"),
        "the annotation of 'x' of infer, 'pd.DataFrame', needs 'pd', which the module does not",
    ),
    "star": (one("*x: int) -> int", "return 1"), "parameter 'x' of infer has no name that"),
    "stars": (one("**x: int) -> int", "return 1"), "parameter 'x' of infer has no name that"),
    "position": (one("x: int, /) -> int", "return 1"), "parameter 'x' of infer has no name that"),
    "two wholes": (
        one("x: dict[str, Any], y: dict[str, Any]) -> int", "return 1"),
        "parameter 'y' of infer and 'x' would both take all inputs",
    ),
    "stream": (
        one("x: int) -> int", "return 1") + "    def stream(self, q: set[int]): yield 1\n",
        "parameter 'q' of stream is set",
    ),
    "stream that is none": (
        one("x: int) -> int", "return 1") + "    async def stream(self, x: int): return 1\n",
        "'stream' is a coroutine function that yields nothing",
    ),
    "constructor": (
        one("x: int) -> int", "return 1", more="    def __init__(self, a, b): pass\n"),
        r"the constructor of 'Mine' takes \(a, b\); it should take nothing or the model's context",
    ),
    "constructor raises": (
        one("x: int) -> int", "return 1", more="    def __init__(self): 1 / 0\n"),
        "ZeroDivisionError",
    ),
    "load raises": (
        one("x: int) -> int", "return 1", more="    def load(self): 1 / 0\n"),
        "ZeroDivisionError",
    ),
    "async load": (
        one("x: int) -> int", "return 1", more="    async def load(self): pass\n"),
        "'load' is a coroutine function, and runs in a thread: write a plain 'def'",
    ),
    "nothing": (
        "x = 1\n",
        "'mine.py' should have one class with 'infer', or one function; it has none",
    ),
    "two classes": (
        one("x: int) -> int", "return 1") + "class Other(Mine): pass\n",
        "it has 'Mine', 'Other'; name one: mine.py:Mine",
    ),
    "two functions": ("def a(x: int): ...\ndef b(x: int): ...\n", "it has 'a', 'b'; name one"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_model_is_refused_when_it_loads(case, serve):
    code, text = REFUSED[case]
    before = set(sys.modules)
    async with serve(code) as server:
        [line] = await server.index()
        assert line.state == "UNAVAILABLE"
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(line.reason)
    assert not [name for name in set(sys.modules) - before if "jackfield_model" in name]


# ---- where a model is found ----


@pytest.mark.parametrize(
    ("suffix", "name"), [("", "mine"), (":Mine", "Mine"), (":predict", "predict")]
)
async def test_a_python_file_is_a_model_without_any_settings(suffix, name, serve):
    code = one("x: int) -> int", "return x + 1") + "def predict(x: int) -> int:\n    return x + 1\n"
    async with serve(code, suffix) as server:
        assert await answer(server, request(x=[1]), name) == {"output-0": [2]}
        assert server.model(name).runtime_name == f"mine.{suffix[1:] or 'py'}"


async def test_a_file_with_one_function_is_a_model(serve):
    code = (
        "from math import floor\n"
        "def mine(x: int) -> int:\n    return _more(x)\n"
        "def _more(x): return x + 1\n"
    )
    async with serve(code, name="other") as server:
        assert await answer(server, request(x=[1]), "other") == {"output-0": [2]}


async def test_classes_of_one_file_are_models_of_their_own(write):
    code = one("x: int) -> int", "return 1") + one("x: int) -> int", "return 2").replace(
        "Mine", "Other"
    )
    file = write(code)
    async with Server([f"{file}:Mine", f"{file}:Other"], plugins=()) as server:
        assert await answer(server, request(x=[1]), "Mine") == {"output-0": [1]}
        assert await answer(server, request(x=[1]), "Other") == {"output-0": [2]}


@pytest.mark.parametrize("path", ["nowhere.py", "nowhere.py:Mine", "nowhere:Mine"])
def test_a_file_that_is_not_there_is_refused(path, tmp_path):
    with pytest.raises(SettingsError, match="there is no such file or folder"):
        Server([tmp_path / path], plugins=())


async def test_a_class_that_is_not_there_is_said(serve):
    async with serve(one("x: int) -> int", "return 1"), ":Nobody") as server:
        [line] = await server.index()
        assert line.reason.endswith("module 'mine' has no class or function 'Nobody'")


async def test_the_ways_to_construct(add_model, models_dir):
    ways = {
        "context": "def __init__(self, context): self.name = context.name",
        "any": "def __init__(self, c): self.name = c.name",
        "nothing": "def __init__(self): self.name = 'nothing'",
        "default": "def __init__(self, name='default'): self.name = name",
        "late": "def load(self): self.name = 'late'",
    }
    for name, way in ways.items():
        code = HEAD + one("x: int) -> str", "return self.name", more=f"    {way}\n")
        add_model(name, "Mine", code=code)
    async with Server([models_dir], plugins=()) as server:
        for name in ways:
            expected = name.encode()
            assert await answer(server, request(x=[1]), name) == {"output-0": [expected]}


async def test_settings_and_extra_are_in_the_context(add_model):
    code = HEAD + one(
        "x: int) -> list[str]",
        "c = self.c; return [c.version, str(c.extra['depth']), c.settings.name, c.artifact.name]",
        more="    def __init__(self, context): self.c = context\n",
    )
    folder = add_model("m", "Mine", code=code, version="3", extra={"depth": 2})
    async with Server([folder], plugins=()) as server:
        assert await answer(server, request(x=[1]), "m") == {"output-0": [b"3", b"2", b"m", b"m3"]}


# ---- where it runs ----


async def test_a_coroutine_function_runs_on_the_loop_and_a_plain_one_in_a_thread(serve):
    body = "import threading; return threading.current_thread().name"
    async with serve(one("x: int) -> str", body)) as server:
        [name] = (await answer(server, request(x=[1])))["output-0"]
        assert name.startswith(b"jackfield-infer")
    async with serve(one("x: int) -> str", body).replace("    def", "    async def")) as server:
        assert (await answer(server, request(x=[1])))["output-0"] == [b"MainThread"]


STREAMS = {
    "async generator": "async def stream(self, x: int) -> AsyncIterator[str]:\n"
    "        for i in range(x): yield str(i)",
    "async iterator": "def stream(self, x: int) -> AsyncIterator[str]:\n"
    "        return self.later(x)\n"
    "    async def later(self, x):\n        for i in range(x): yield str(i)",
    "generator": "def stream(self, x: int) -> Iterator[str]:\n"
    "        for i in range(x): yield str(i)",
    "iterator": "def stream(self, x: int) -> Iterator[str]:\n        return map(str, range(x))",
    "full": "async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:\n"
    "        for i in range(request.inputs[0].array.item()): yield self.full(i)",
    "full generator": "def stream(self, request):\n"
    "        for i in range(request.inputs[0].array.item()): yield self.full(i)",
    "full iterator": "def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:\n"
    "        return self.later(request)\n"
    "    async def later(self, request):\n"
    "        for i in range(request.inputs[0].array.item()): yield self.full(i)",
}
FULL = "    def full(self, i): return InferResponse([Tensor.from_array('output-0', [str(i)])])\n"


@pytest.mark.parametrize("case", STREAMS)
async def test_a_stream_is_converted_step_by_step(case, serve):
    code = one("x: int) -> str", "return ''", more=FULL) + f"    {STREAMS[case]}\n"
    async with serve(code) as server:
        stream = server.model("mine").stream(request(x=[3]))
        found = [response.output("output-0").array.tolist() async for response in stream]
        assert found == [[b"0"], [b"1"], [b"2"]]


@pytest.mark.parametrize("case", ["async generator", "generator", "async iterator", "iterator"])
async def test_a_bad_request_of_a_stream_is_the_callers_fault(case, serve):
    code = one("x: int) -> str", "return ''", more=FULL) + f"    {STREAMS[case]}\n"
    async with serve(code) as server:
        with pytest.raises(InvalidRequestError, match="expected 'x', found 'y'"):
            await anext(server.model("mine").stream(request(y=[3])))


@pytest.mark.parametrize(
    "stream",
    [
        "async def stream(self, x: int) -> AsyncIterator[int]: yield 'a'",
        "def stream(self, request): yield 3",
    ],
)
async def test_a_stream_that_yields_the_wrong_type_fails(stream, serve, caplog):
    code = one("x: int) -> str", "return ''") + f"    {stream}\n"
    async with serve(code) as server:
        with pytest.raises(RuntimeFailedError):
            await anext(server.model("mine").stream(request(x=[3])))
    assert "TypeError" in caplog.text


async def test_a_stream_that_the_caller_leaves_is_closed(serve, stage):
    code = (
        "import stage\n"
        + one("x: int) -> str", "return ''")
        + "    async def stream(self, x: int) -> AsyncIterator[int]:\n"
        "        try:\n            while True: yield x\n"
        "        finally: stage.log.append('closed')\n"
    )
    async with serve(code) as server:
        stream = server.model("mine").stream(request(x=[3]))
        await anext(stream)
        await stream.aclose()
        assert stage.log == ["closed"]


async def test_what_the_author_refuses_is_told_and_what_it_raises_is_not(serve):
    code = (
        "from jackfield import InvalidRequestError\n"
        + one(
            "x: int) -> int",
            "if x: raise InvalidRequestError('inputs[0]', expected='0', found='1')",
        )
        + "        raise ValueError('swordfish')\n"
    )
    async with serve(code) as server:
        with pytest.raises(InvalidRequestError, match=r"model 'mine': inputs\[0\]: expected 0"):
            await answer(server, request(x=[1]))
        with pytest.raises(RuntimeFailedError) as error:
            await answer(server, request(x=[0]))
        assert "swordfish" not in str(error.value)


# ---- life ----


async def test_a_reload_serves_changed_code_and_changed_siblings(write, tmp_path):
    write("value = 1\n", "helper", head="")
    path = write("from helper import value\n" + one("x: int) -> int", "return value"))
    async with Server([path], plugins=()) as server:
        assert await answer(server, request(x=[1])) == {"output-0": [1]}
        write("value = 2\n", "helper", head="")
        await server._models.load("mine")
        assert await answer(server, request(x=[1])) == {"output-0": [2]}
        write("value = ]", "helper", head="")
        with pytest.raises(Exception, match="SyntaxError"):
            await server._models.load("mine")
        assert await answer(server, request(x=[1])) == {"output-0": [2]}


async def test_an_unloaded_model_leaves_no_module_and_no_memory(serve, until):
    more = "    def close(self): self.closed = True\n"
    before = set(sys.modules)
    async with serve(one("x: int) -> int", "return x", more=more)) as server:
        await answer(server, request(x=[1]))
        model = weakref.ref(server.model("mine")._runtime.model)
        new = set(sys.modules) - before
        modules = [name for name in new if name.startswith("_jackfield_model_")]
        assert modules
        await server._models.unload("mine")
        assert not set(modules) & set(sys.modules)

        def is_free():
            gc.collect()
            return model() is None

        await until(is_free)


async def test_the_logger_carries_name_and_version(add_model, caplog):
    code = HEAD + one(
        "x: int) -> int",
        "self.log.warning('hello'); return x",
        more="    def __init__(self, context): self.log = context.logger\n",
    )
    folder = add_model("m", "Mine", code=code, version="3")
    async with Server([folder], plugins=()) as server:
        await answer(server, request(x=[1]), "m")
    [record] = [each for each in caplog.records if each.message == "hello"]
    assert (record.model, record.version, record.levelno) == ("m", "3", logging.WARNING)
