"""Own-code models that take and give DataFrames; left out where pandas is not installed."""

import pytest

from jackfield import InferRequest, InvalidRequestError, Server, Tensor

pd = pytest.importorskip("pandas")

CODE = """
import pandas as pd


class Mine:
    def infer(self, frame: pd.DataFrame, scale: float = 2.0) -> pd.DataFrame:
        return frame.assign(y=frame["x"] * scale)


class Column:
    def infer(self, x: pd.Series) -> pd.Series:
        return x * 2


class Wrong:
    def infer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame["x"]
"""


def request(parameters=None, **inputs):
    tensors = [Tensor.from_array(name, value) for name, value in inputs.items()]
    return InferRequest(tensors, parameters=parameters or {})


async def test_a_frame_has_the_inputs_as_columns_and_gives_its_columns(add_model):
    async with Server([add_model("m", "Mine", code=CODE)], plugins=()) as server:
        response = await server.model("m").infer(request(x=[1.0], name=["a"], scale=[3.0]))
        found = {tensor.name: tensor.array.tolist() for tensor in response.outputs}
        assert found == {"x": [1.0], "name": [b"a"], "y": [3.0]}
        assert response.parameters == {"content_type": "pd"}
        with pytest.raises(
            InvalidRequestError, match=r"expected 'others for frame', .* found 'scale'"
        ):
            await server.model("m").infer(request(scale=[3.0]))


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("np", "parameters.content_type: expected one that makes pandas.*DataFrame, as 'pd' does"),
        ("teapot", "parameters.content_type: expected one of .* found 'teapot'"),
    ],
)
async def test_a_request_of_another_content_type_is_refused(add_model, content_type, text):
    async with Server([add_model("m", "Mine", code=CODE)], plugins=()) as server:
        with pytest.raises(InvalidRequestError, match=text):
            await server.model("m").infer(request({"content_type": content_type}, x=[1.0]))


async def test_a_column_is_a_series(add_model):
    async with Server([add_model("m", "Column", code=CODE)], plugins=()) as server:
        response = await server.model("m").infer(request(x=[1, 2]))
        assert response.output("output-0").array.tolist() == [2, 4]


async def test_what_is_no_frame_is_told_in_the_log(add_model, caplog):
    async with Server([add_model("m", "Wrong", code=CODE)], plugins=()) as server:
        with pytest.raises(Exception, match="failed on this request"):
            await server.model("m").infer(request(x=[1.0]))
    assert "the return annotation says pandas" in caplog.text
