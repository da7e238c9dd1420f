"""Measure the wire alone, in one process: our encoders and decoders beside the bare libraries.

    python benchmarks/wire.py [--rounds 25] [--milliseconds 20]

Needs the core of this checkout, with the libraries that it brings: orjson, msgspec, pysimdjson,
NumPy, protobuf. All candidates of a row do the same work and are checked to give the same numbers;
they run in turn, so that a machine that drifts slows all of them.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from timeit import Timer
from typing import Any

import msgspec
import numpy as np
import orjson
import report
import simdjson
from numpy.typing import NDArray

from jackfield import Datatype, InferResponse, Tensor
from jackfield._wire import json as wire_json
from jackfield._wire import proto, raw
from jackfield._wire.descriptors import ModelInferRequest, ModelInferResponse

SHAPES = {"1x30": (1, 30), "100x30": (100, 30), "1000x784": (1000, 784)}
LARGEST = "1000x784"
LIBRARIES = ("jackfield", "numpy", "orjson", "msgspec", "pysimdjson", "protobuf")

Array = NDArray[np.float64]
#: What is timed, by its name; ours first. Each gives an array, or a body.
Candidates = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Bar:
    """A promise: one candidate takes at most so many times what the fastest of others takes."""

    text: str
    ours: str
    others: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Work:
    """One form of the wire in one direction."""

    name: str
    candidates: Callable[[Array], Candidates]
    #: Gives the array that a candidate made or wrote, so that all can be compared.
    numbers: Callable[[Any, Array], Array]
    bars: tuple[Bar, ...] = ()


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None


def _head(array: Array, **fields: object) -> dict[str, object]:
    return {"name": "x", "shape": list(array.shape), "datatype": "FP64", **fields}


def _response(array: Array) -> InferResponse:
    return InferResponse([Tensor("x", Datatype.FP64, array)], model_name="m", id="a-1")


def decode_json(array: Array) -> Candidates:
    """A whole request of one tensor, its numbers flat."""
    data = array.reshape(-1).tolist()
    body = json.dumps({"id": "a-1", "inputs": [_head(array, data=data)]}).encode()
    typed = msgspec.json.Decoder(_Request)
    parser = simdjson.Parser()

    def ours() -> Array:
        return wire_json.decode_infer(body, "m")[0].inputs[0].array

    def by_loads(loads: Callable[[bytes], Any]) -> Callable[[], Array]:
        def decode() -> Array:
            given = loads(body)["inputs"][0]
            return np.array(given["data"], np.float64).reshape(given["shape"])

        return decode

    def by_msgspec() -> Array:
        given = typed.decode(body).inputs[0]
        return np.array(given.data, np.float64).reshape(given.shape)

    def by_simdjson() -> Array:
        given: Any = parser.parse(body)
        tensor = given["inputs"][0]
        numbers = np.frombuffer(tensor["data"].as_buffer(of_type="d"), np.float64)
        shape = [*tensor["shape"]]
        del given, tensor  # the parser refuses to go on while parts of its last text live
        return numbers.reshape(shape)

    return {
        "jackfield": ours,
        "json + numpy.array": by_loads(json.loads),
        "orjson + numpy.array": by_loads(orjson.loads),
        "msgspec + numpy.array": by_msgspec,
        "simdjson + numpy.frombuffer": by_simdjson,
    }


def encode_json(array: Array) -> Candidates:
    """A whole response of one tensor, its numbers flat."""
    response = _response(array)

    def bare(data: object) -> dict[str, object]:
        return {"model_name": "m", "id": "a-1", "outputs": [_head(array, data=data)]}

    return {
        "jackfield": lambda: wire_json.encode_infer(response)[0],
        "json of a list": lambda: json.dumps(bare(array.reshape(-1).tolist())).encode(),
        "msgspec of a list": lambda: msgspec.json.encode(bare(array.reshape(-1).tolist())),
        "orjson of the array": lambda: orjson.dumps(
            bare(array.reshape(-1)), option=orjson.OPT_SERIALIZE_NUMPY
        ),
    }


def decode_binary(array: Array) -> Candidates:
    """A whole request with its tensor behind the JSON text, and the tensor alone."""
    size = {"binary_data_size": array.nbytes}
    head = json.dumps({"id": "a-1", "inputs": [_head(array, parameters=size)]}).encode()
    length, body = len(head), head + array.tobytes()
    view = memoryview(body)[length:]
    shape = list(array.shape)

    def by_hand() -> Array:
        given = orjson.loads(body[:length])["inputs"][0]
        return np.frombuffer(body, np.float64, offset=length).reshape(given["shape"])

    return {
        "jackfield, request": lambda: wire_json.decode_infer(body, "m", length)[0].inputs[0].array,
        "jackfield, tensor": lambda: raw.decode_raw(
            view, Datatype.FP64, shape, field="x", model="m"
        ),
        "orjson + numpy.frombuffer, request": by_hand,
        "numpy.frombuffer, tensor": lambda: np.frombuffer(view, np.float64).reshape(shape),
        **_read_once(view, shape),
    }


def _read_once(data: bytes | memoryview, shape: list[int]) -> Candidates:
    """A view costs the same for any size: what the first who reads the numbers pays is in here."""

    def ours() -> Array:
        return raw.decode_raw(data, Datatype.FP64, shape, field="x", model="m").copy()

    return {
        "jackfield, tensor read once": ours,
        "numpy.frombuffer, tensor read once": lambda: (
            np.frombuffer(data, np.float64).reshape(shape).copy()
        ),
    }


def encode_binary(array: Array) -> Candidates:
    """A whole response with its tensor behind the JSON text, and the tensor alone."""
    response = _response(array)
    tensor = response.outputs[0]
    form = wire_json.ResponseForm(is_binary=True)

    def by_hand() -> bytes:
        data = array.tobytes()
        given = _head(array, parameters={"binary_data_size": len(data)})
        head = orjson.dumps({"model_name": "m", "id": "a-1", "outputs": [given]})
        return b"".join([head, data])

    return {
        "jackfield, response": lambda: wire_json.encode_infer(response, form)[0],
        "jackfield, tensor": lambda: raw.encode_raw(tensor),
        "orjson + numpy.tobytes, response": by_hand,
        "numpy.tobytes, tensor": array.tobytes,
    }


def decode_grpc(array: Array) -> Candidates:
    """A whole message with raw contents, parsed from its bytes, and the tensor alone."""
    message = ModelInferRequest(model_name="m", id="a-1")
    message.inputs.add(name="x", datatype="FP64", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    body, contents, shape = message.SerializeToString(), array.tobytes(), list(array.shape)

    def ours() -> Array:
        return proto.decode_infer(ModelInferRequest.FromString(body))[0].inputs[0].array

    def by_hand() -> Array:
        given = ModelInferRequest.FromString(body)
        numbers = np.frombuffer(given.raw_input_contents[0], np.float64)
        return numbers.reshape(given.inputs[0].shape)

    return {
        "jackfield, request": ours,
        "jackfield, tensor": lambda: raw.decode_raw(
            contents, Datatype.FP64, shape, field="x", model="m"
        ),
        "protobuf + numpy.frombuffer, request": by_hand,
        "numpy.frombuffer, tensor": lambda: np.frombuffer(contents, np.float64).reshape(shape),
        **_read_once(contents, shape),
    }


def encode_grpc(array: Array) -> Candidates:
    """A whole message with raw contents, serialised to bytes, and the tensor alone."""
    response = _response(array)
    tensor = response.outputs[0]

    def by_hand() -> bytes:
        message = ModelInferResponse(model_name="m", id="a-1")
        message.outputs.add(name="x", datatype="FP64", shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
        return bytes(message.SerializeToString())

    return {
        "jackfield, response": lambda: proto.encode_infer(response).SerializeToString(),
        "jackfield, tensor": lambda: raw.encode_raw(tensor),
        "protobuf + numpy.tobytes, response": by_hand,
        "numpy.tobytes, tensor": array.tobytes,
    }


def _decoded(found: object, sent: Array) -> Array:
    return np.asarray(found, np.float64)


def _written_json(found: bytes, sent: Array) -> Array:
    return np.array(json.loads(found)["outputs"][0]["data"], np.float64).reshape(sent.shape)


def _written_behind(found: bytes, sent: Array) -> Array:
    return np.frombuffer(found[-sent.nbytes :], np.float64).reshape(sent.shape)


def _written_grpc(found: bytes, sent: Array) -> Array:
    contents = found
    if len(found) != sent.nbytes:
        contents = ModelInferResponse.FromString(found).raw_output_contents[0]
    return np.frombuffer(contents, np.float64).reshape(sent.shape)


def _view_bars(reader: str) -> tuple[Bar, ...]:
    return (
        Bar(
            f"{reader}: a tensor's view, of which no number is read",
            "jackfield, tensor",
            ("numpy.frombuffer, tensor",),
            1.2,
        ),
        Bar(
            f"{reader}: a tensor whose numbers are read once",
            "jackfield, tensor read once",
            ("numpy.frombuffer, tensor read once",),
            1.2,
        ),
    )


def _copy_bar(writer: str) -> Bar:
    return Bar(f"{writer}: a tensor", "jackfield, tensor", ("numpy.tobytes, tensor",), 1.2)


WORK = (
    Work(
        "JSON, decode",
        decode_json,
        _decoded,
        (
            Bar(
                "JSON, decode: against the fastest parser",
                "jackfield",
                (
                    "json + numpy.array",
                    "orjson + numpy.array",
                    "msgspec + numpy.array",
                    "simdjson + numpy.frombuffer",
                ),
                1.3,
            ),
        ),
    ),
    Work(
        "JSON, encode",
        encode_json,
        _written_json,
        (
            Bar(
                "JSON, encode: against orjson's NumPy serialiser",
                "jackfield",
                ("orjson of the array",),
                1.3,
            ),
        ),
    ),
    Work("binary HTTP, decode", decode_binary, _decoded, _view_bars("binary HTTP, decode")),
    Work(
        "binary HTTP, encode",
        encode_binary,
        _written_behind,
        (_copy_bar("binary HTTP, encode"),),
    ),
    Work("gRPC raw, decode", decode_grpc, _decoded, _view_bars("gRPC raw, decode")),
    Work("gRPC raw, encode", encode_grpc, _written_grpc, (_copy_bar("gRPC raw, encode"),)),
)

#: Microseconds per call by candidate, in the order of the rounds.
Times = dict[str, list[float]]


def main() -> int:
    """Measure everything."""
    arguments = _parse_arguments()
    facts = report.machine_facts()
    facts["Libraries"] = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    facts["Numbers"] = "FP64, normally distributed, with all their digits"
    facts["Rounds"] = f"{arguments.rounds}, of about {arguments.milliseconds} ms for each candidate"
    measured = {
        work.name: {
            size: _measure(work, np.random.default_rng(5).standard_normal(shape), arguments)
            for size, shape in SHAPES.items()
        }
        for work in WORK
    }
    kept = [line for work in WORK for line in _bar_lines(work, measured[work.name][LARGEST])]
    report.publish(
        "The wire alone",
        [
            f"## Bars, at {LARGEST}",
            report.table(("bar", "at most", "ratio", "fastest of the others", "kept"), kept),
            "To make a view takes the same time for any size. What ours takes more is the check "
            "of the shape and of the number of bytes, less than a microsecond; beside two bare "
            "calls of NumPy that is a large ratio, and beside a tensor that anybody reads, none. "
            "Times of whole requests and responses are in the rows below. The simdjson row keeps "
            "its parser, and its memory, from call to call, as ours does.",
            *(part for work in WORK for part in _section(work, measured[work.name])),
        ],
        facts=facts,
        versions={},
        raw={"microseconds": measured},
        arguments=arguments,
    )
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25, help="turns of each candidate")
    parser.add_argument(
        "--milliseconds", type=float, default=20, help="about how long a turn takes"
    )
    report.add_arguments(parser, "benchmarks/WIRE.md")
    return parser.parse_args()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of this checkout"


def _measure(work: Work, array: Array, arguments: argparse.Namespace) -> Times:
    """Check that all candidates do the work, then time them in turn."""
    candidates = work.candidates(array)
    for name, call in candidates.items():
        found = work.numbers(call(), array)
        if found.shape != array.shape or not np.array_equal(found, array):
            message = f"{work.name}: '{name}' gives other numbers"
            raise ValueError(message)
    timers = {name: Timer(call) for name, call in candidates.items()}
    number = {name: _calls(timer, arguments.milliseconds / 1e3) for name, timer in timers.items()}
    times: Times = {name: [] for name in timers}
    for turn in range(arguments.rounds):
        for name in _rotated([*timers], turn):
            times[name].append(timers[name].timeit(number[name]) / number[name] * 1e6)
    return times


def _calls(timer: Timer, seconds: float) -> int:
    """How many calls take about so long; the first ones warm up."""
    timer.timeit(1)
    took = min(timer.timeit(1) for _ in range(3))
    return max(1, round(seconds / max(took, 1e-7)))


def _rotated(names: list[str], turn: int) -> Iterator[str]:
    start = turn % len(names)
    yield from names[start:]
    yield from names[:start]


def _bar_lines(work: Work, times: Times) -> Iterator[tuple[str, ...]]:
    for bar in work.bars:
        fastest = min(bar.others, key=lambda name: statistics.median(times[name]))
        ratio = _ratios(times[bar.ours], times[fastest])
        is_kept = "yes" if statistics.median(ratio) <= bar.limit else "no"
        yield bar.text, f"{bar.limit}", report.spread(ratio), fastest, is_kept


def _ratios(ours: list[float], others: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, others, strict=True)]


def _section(work: Work, by_size: dict[str, Times]) -> Iterator[str]:
    rows = []
    for size, times in by_size.items():
        ours = next(iter(times))
        for name, values in times.items():
            rows.append(
                (
                    size,
                    name,
                    f"{min(values):,.2f}",
                    f"{statistics.median(values):,.2f}",
                    f"{statistics.median(_ratios(times[ours], values)):.2f}",
                )
            )
    yield f"## {work.name}"
    yield report.table(("size", "what", "min µs", "median µs", "first ÷ this"), rows)


if __name__ == "__main__":
    sys.exit(main())
