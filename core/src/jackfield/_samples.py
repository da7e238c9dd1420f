"""Samples of a model: requests that warm it up, and golden ones whose answers are known.

A model that was loaded answers them before it serves. A golden answer that differs fails the load:
what served before goes on. A sample is a JSON file: an inference request, or an object with
`request`, the golden `response`, and `tolerances` by output.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from jackfield._example import example_request
from jackfield._validation import explain
from jackfield._wire import json
from jackfield.errors import JackfieldError, ModelLoadError, RuntimeFailedError
from jackfield.settings import GOLDEN_FOLDER
from jackfield.tensor import Datatype

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from jackfield._repository import ModelSource
    from jackfield.messages import InferRequest, InferResponse, ModelMetadata
    from jackfield.tensor import Tensor


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far an element may be from the golden one: ``atol + rtol * |golden|``."""

    rtol: Annotated[float, Meta(ge=0)] = 0.0
    atol: Annotated[float, Meta(ge=0)] = 0.0


#: By datatype; all others are compared exactly. Other processors and libraries of linear algebra
#: were seen to differ by a tenth of these.
_TOLERANCES = {
    Datatype.FP64: Tolerance(1e-7, 1e-9),
    Datatype.FP32: Tolerance(1e-4, 1e-6),
    Datatype.FP16: Tolerance(1e-2, 1e-3),
    Datatype.BF16: Tolerance(1e-2, 1e-3),
}
_EXACT = Tolerance()


class _Golden(msgspec.Struct, forbid_unknown_fields=True):
    """The form of a file; `response` is empty where the sample only warms up."""

    request: msgspec.Raw
    response: msgspec.Raw = msgspec.Raw()
    tolerances: dict[str, Tolerance] = {}


class Sample(NamedTuple):
    """A request, and what a model is to answer; None where that is not known."""

    name: str
    request: InferRequest
    response: InferResponse | None = None
    tolerances: Mapping[str, Tolerance] = {}


async def rehearse(
    infer: Callable[[InferRequest], Awaitable[InferResponse]],
    source: ModelSource,
    metadata: ModelMetadata,
    *,
    is_stateful: bool,
) -> bool:
    """Let a model that was loaded answer its samples: those that warm up, then the golden ones.

    Args:
        infer: Asks it.
        source: Where it and its samples lie.
        metadata: What it takes.
        is_stateful: Whether it remembers what it is asked.

    Returns:
        Whether there was any sample.

    Raises:
        ModelLoadError: A sample can't be read or is not answered, or a golden answer differs.
    """
    samples = await asyncio.to_thread(lambda: [*_warm_up(source, metadata), *_golden(source)])
    if samples and is_stateful:
        problem = "it remembers what it is asked, so that no sample may be tried: of 'warm_up' and "
        raise ModelLoadError(problem + f"'{source.settings.golden}', nothing fits it")
    for sample in samples:
        await _try(infer, sample)
    return bool(samples)


async def _try(infer: Callable[[InferRequest], Awaitable[InferResponse]], sample: Sample) -> None:
    kind = "warm-up" if sample.response is None else "golden"
    try:
        response = await infer(sample.request)
    except JackfieldError as error:
        cause = error.__cause__
        reason = str(error)
        if isinstance(error, RuntimeFailedError) and cause is not None:
            reason = f"{type(cause).__name__}: {cause}"
        raise ModelLoadError(f"{kind} sample '{sample.name}' failed: {reason}") from error
    if sample.response is not None and (problem := _differ(sample, response)):
        raise ModelLoadError(f"golden sample '{sample.name}': {problem}")


# ---- where they are ----


def sample_files(source: ModelSource) -> list[Path]:
    """List the files and folders of a model's samples; missing ones are left out."""
    given = source.settings.warm_up
    names = given if isinstance(given, list) else []
    folder = source.settings.golden
    places = [_find(source, name) for name in [*names, *([folder] if folder else [])]]
    return [place for place in places if place is not None]


def _warm_up(source: ModelSource, metadata: ModelMetadata) -> Iterator[Sample]:
    given = source.settings.warm_up
    if isinstance(given, list):
        for name in given:
            place = _find(source, name)
            if place is None:
                raise ModelLoadError(f"warm_up: there is no '{name}' beside the model")
            for sample in _read_all(place, source.name):
                yield Sample(sample.name, sample.request)
    elif given:
        example = example_request(metadata)
        if example is None:
            raise ModelLoadError(
                "warm_up: no example can be made of its inputs; name files of requests there"
            )
        request, _ = json.decode_infer(msgspec.json.encode(example), source.name)
        yield from [Sample("of the metadata", request)] * int(given)


def _golden(source: ModelSource) -> Iterator[Sample]:
    folder = source.settings.golden
    if not folder:
        return
    place = _find(source, folder)
    if place is None:
        if folder != GOLDEN_FOLDER:
            raise ModelLoadError(f"golden: there is no '{folder}' beside the model")
        return
    for sample in _read_all(place, source.name):
        if sample.response is None:
            raise ModelLoadError(f"golden sample '{sample.name}' has no 'response'")
        yield sample


def _find(source: ModelSource, name: str) -> Path | None:
    """Find what lies beside a model: in its version's folder, else beside those."""
    places = (home / name for home in source.homes)
    # what can't be looked at is a matter of this model alone: no error, as `Path.exists` may raise
    return next((place for place in places if os.path.exists(place)), None)


def _read_all(place: Path, model: str) -> Iterator[Sample]:
    try:  # not by `glob`, for which a folder that may not be read is empty
        files = sorted(each for each in place.iterdir() if each.suffix == ".json")
    except NotADirectoryError:
        files = [place]
    except OSError as error:
        problem = f"the samples in '{place}' can't be listed: {error.strerror}"
        raise ModelLoadError(problem) from error
    for file in files:
        yield read_sample(file, model)


# ---- files ----


def read_sample(file: Path, model: str) -> Sample:
    """Read a sample.

    Args:
        file: An inference request in JSON, or such an object as `write_sample` writes.
        model: Name of the model, for error texts.

    Raises:
        ModelLoadError: It can't be read, or is neither.
    """
    try:
        body = file.read_bytes()
        is_golden = "request" in msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        given = msgspec.json.decode(body, type=_Golden) if is_golden else _Golden(msgspec.Raw(body))
        request, _ = json.decode_infer(bytes(given.request), model)
        response = json.decode_response(bytes(given.response)) if given.response else None
    except msgspec.ValidationError as error:
        where, expected, found = explain(error)
        problem = f"{where + ': ' if where else ''}expected {expected}, found {found}"
        raise ModelLoadError(f"sample '{file.name}': {problem}") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadError(f"sample '{file.name}' can't be read: {error}") from error
    except JackfieldError as error:
        raise ModelLoadError(f"sample '{file.name}': {error}") from error
    return Sample(file.stem, request, response, given.tolerances)


def write_sample(
    file: Path,
    request: InferRequest,
    response: InferResponse,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> None:
    """Write a golden sample.

    Args:
        file: Replaced where it exists; its folder is made.
        request: What is asked; its id is left out.
        response: What is to be answered; likewise.
        tolerances: By output; those of the datatypes otherwise.

    Raises:
        InvalidRequestError: A tensor has a datatype that JSON does not carry.
        OSError: It can't be written.
    """
    asked = msgspec.structs.replace(request, id="")
    golden = msgspec.structs.replace(response, id="", timing=None)
    sample: dict[str, object] = {
        "request": msgspec.Raw(json.encode_request(asked)[0]),
        "response": msgspec.Raw(json.encode_infer(golden)[0]),
    }
    if tolerances:
        sample["tolerances"] = tolerances
    file.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(sample), indent=2)
    # beside it and in its place at once: who reads it never finds half of it
    half = file.with_name(f".{file.name}.half")
    try:
        half.write_bytes(text + b"\n")
        half.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            half.unlink()


# ---- comparing ----


def _differ(sample: Sample, response: InferResponse) -> str:
    """Say how an answer differs from the golden one; empty if it does not."""
    golden: Sequence[Tensor] = sample.response.outputs if sample.response else ()
    given = {tensor.name: tensor for tensor in response.outputs}
    for tensor in golden:
        found = given.get(tensor.name)
        if found is None:
            return f"output '{tensor.name}' is missing; there is {', '.join(given) or 'none'}"
        default = _TOLERANCES.get(tensor.datatype, _EXACT)
        tensor = _unwrap(tensor, found)
        if problem := _compare(tensor, found, sample.tolerances.get(tensor.name, default)):
            return f"output '{tensor.name}'{problem}"
    return ""


def _unwrap(golden: Tensor, found: Tensor) -> Tensor:
    """Undo the base64 that JSON gives bytes which are no text."""
    key = "content_type"
    if golden.parameters.get(key) != "base64" or found.parameters.get(key) == "base64":
        return golden
    try:
        elements = [base64.b64decode(each) for each in golden.array.reshape(-1).tolist()]
    except ValueError:  # it only says so
        return golden
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return msgspec.structs.replace(golden, array=array.reshape(golden.shape))


def _compare(golden: Tensor, found: Tensor, tolerance: Tolerance) -> str:
    if (golden.datatype, golden.shape) != (found.datatype, found.shape):
        return (
            f": expected {golden.datatype} {list(golden.shape)}, "
            f"found {found.datatype} {list(found.shape)}"
        )
    is_same = _are_same(golden.array, found.array, tolerance)
    wrong = is_same.size - int(np.count_nonzero(is_same))
    if not wrong:
        return ""
    at = np.unravel_index(int(np.argmin(is_same)), golden.shape)
    expected, value = golden.array[at], found.array[at]
    if golden.datatype is not Datatype.BYTES:
        expected, value = expected.item(), value.item()
    allowed = "" if tolerance == _EXACT else f" (rtol {tolerance.rtol:g}, atol {tolerance.atol:g})"
    others = f"; {wrong} of {is_same.size} elements differ" if wrong > 1 else ""
    index = f" at {[int(each) for each in at]}" if golden.shape else ""
    return f"{index}: expected {expected!r}, found {value!r}{allowed}{others}"


def _are_same(golden: NDArray[Any], found: NDArray[Any], tolerance: Tolerance) -> NDArray[np.bool_]:
    """Compare element by element; NaN is NaN."""
    if golden.dtype.kind == "f" or (tolerance != _EXACT and golden.dtype.kind in "iu"):
        wide = [each.astype(np.float64) for each in (golden, found)]
        close = np.isclose(wide[1], wide[0], tolerance.rtol, tolerance.atol, equal_nan=True)
        return np.atleast_1d(close)
    return np.atleast_1d(np.equal(golden, found).astype(bool))
