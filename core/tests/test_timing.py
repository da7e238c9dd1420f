import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield import Timing
from jackfield._timing import server_timing
from jackfield._wire.descriptors import METHODS, SERVICE

# Server-Timing's grammar: metrics with parameters, each a token or a quoted string
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
PARAMETER = rf'{TOKEN}=(?:{TOKEN}|"[^"\\]*")'
METRIC = rf"{TOKEN}(?:;{PARAMETER})*"
TOLD = ["decode", "queue", "compute", "encode", "batch"]
HEADER = re.compile(rf"{METRIC}(?:, {METRIC})*")


def parse(value):
    """Read a header: the parameters of each metric, by its name."""
    assert HEADER.fullmatch(value)
    metrics = {}
    for metric in re.findall(METRIC, value):
        name, *parameters = metric.split(";")
        metrics[name] = dict(parameter.split("=", 1) for parameter in parameters)
    return metrics


def test_each_part_is_told_in_milliseconds_to_the_microsecond():
    timing = Timing(1_000, 22_000, 362_000, 1_612_499, rows=48, requests=16)
    assert server_timing(timing, 18_000) == (
        "decode;dur=0.021, queue;dur=0.340, compute;dur=1.250, encode;dur=0.018, "
        'batch;requests=16;rows=48;desc="16 requests, 48 rows"'
    )


def test_one_is_not_told_as_many():
    value = server_timing(Timing(0, 0, 0, 0, rows=1, requests=1), 0)
    assert value.endswith('desc="1 request, 1 row"')


@given(
    times=st.lists(st.integers(0, 2**62), min_size=4, max_size=4).map(sorted),
    encode_ns=st.integers(0, 2**62),
    rows=st.integers(0, 2**31),
    requests=st.integers(1, 2**31),
)
def test_any_timing_keeps_the_grammar_and_the_parts_sum_up(times, encode_ns, rows, requests):
    metrics = parse(server_timing(Timing(*times, rows, requests), encode_ns))
    assert list(metrics) == TOLD
    parts = [float(metrics[name]["dur"]) for name in ("decode", "queue", "compute")]
    total = (times[-1] - times[0]) / 1e6
    assert abs(sum(parts) - total) <= 0.0015 + total * 1e-12
    assert (metrics["batch"]["requests"], metrics["batch"]["rows"]) == (str(requests), str(rows))


@pytest.mark.parametrize("wanted", ["1", "?1", "0", None])
async def test_who_asks_over_rest_is_told_in_a_header(serving, add_model, body_of, wanted):
    headers = {"want-server-timing": wanted} if wanted else {}
    async with serving(add_model("m")) as (_, rest, _):
        answer = await rest.post("/v2/models/m/infer", content=body_of(1, 2, 3), headers=headers)
        assert answer.status_code == 200
        if wanted in ("1", "?1"):
            metrics = parse(answer.headers["server-timing"])
            assert metrics["batch"]["requests"] == "1"
            assert all(float(metrics[part]["dur"]) > 0 for part in ("decode", "compute", "encode"))
        else:
            assert "server-timing" not in answer.headers


@pytest.mark.parametrize("wanted", [True, False])
async def test_who_asks_over_grpc_is_told_in_the_trailing_metadata(serving, add_model, wanted):
    method = METHODS["ModelInfer"]
    message = method.request(model_name="m")
    tensor = message.inputs.add(name="x", datatype="FP64", shape=[3])
    tensor.contents.fp64_contents.extend([1, 2, 3])
    async with serving(add_model("m")) as (_, _, channel):
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        call = infer(message, metadata=[("want-server-timing", "1")] if wanted else [])
        await call
        told = dict(await call.trailing_metadata())
    assert ("server-timing" in told) is wanted
    if wanted:
        assert list(parse(told["server-timing"])) == TOLD
