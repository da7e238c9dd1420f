"""``jackfield explain``: ask a server why its model predicts what it does, and show the answer.

Knows no explainer: whatever answers at a model's path ``/explain`` is shown, tensors as tables,
contributions as bars, rules as sentences, pictures in a file.
"""

from __future__ import annotations

import csv
import math
import sys
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import click
import msgspec
import numpy as np

from jackfield import codecs
from jackfield._cli.infer import tensor_rows
from jackfield._cli.output import print_json, print_table
from jackfield._wire import json
from jackfield.client import Client
from jackfield.client._address import read_address
from jackfield.client._exchange import Call
from jackfield.client._request import build_request
from jackfield.errors import (
    BadAnswerError,
    CallError,
    InvalidRequestError,
    NoAnswerError,
    RemoteNotFoundError,
    RemoteRequestError,
)
from jackfield.messages import InferRequest
from jackfield.tensor import Datatype, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield.client._exchange import Reply
    from jackfield.messages import InferResponse, ModelMetadata

#: Forms that a server may give instead of tensors, and their media types.
_PICTURES = {"html": "text/html", "png": "image/png"}
FORMS = ("table", "json", *_PICTURES)
#: Characters of a bar, on either side of the middle: a table fits into a terminal's 80 columns.
_BAR = 10
#: Contributions of a row that have a line of their own.
_MOST_LINES = 20


class _Row(NamedTuple):
    """What is known of the rows, to show beside what was found."""

    names: Sequence[str]
    #: [rows, features]; None where a request has another form.
    cells: NDArray[Any] | None


def explain(
    model: str,
    *,
    url: str,
    version: str,
    rows: Sequence[str],
    source: IO[bytes] | None,
    parameters: Mapping[str, Any],
    form: str,
    output: Path | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> int:
    """Ask for an explanation and show it.

    Args:
        model: The explained model, or an explainer.
        url: The server, over HTTP.
        version: Of the model; empty for the server's choice.
        rows: Rows to explain: cells with commas between, or texts.
        source: A JSON inference request, instead of rows.
        parameters: Of the explainer, by name.
        form: One of `FORMS`.
        output: File that gets the answer; None prints it.
        headers: Sent with every call.
        timeout_s: Longest wait for an answer.

    Returns:
        The exit code: 1 where the server refused, 2 for what is wrong here.
    """
    try:
        if read_address(url).is_grpc:
            click.echo("error: explanations go over HTTP: give --url http://host:8080", err=True)
            return 2
        client = Client(url, headers=headers, timeout_s=timeout_s)
    except (ImportError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    with client:
        try:
            if source is not None:
                request, _ = json.decode_infer(source.read(), model)
            else:
                request = _build(client.model(model, version).metadata(), rows)
            request = _with_parameters(request, parameters)
            reply = _ask(url, model, version, request, form, headers, timeout_s)
            _check_form(reply, form, url)
            if form in _PICTURES or output is not None:
                return _save(reply.body, form, output)
            return _show(reply, form, client, request)
        except (CallError, InvalidRequestError) as error:
            click.echo(f"error: {error}", err=True)
            if hint := _hint(error, client, model, has_rows=bool(rows or source)):
                click.echo(hint, err=True)
            return 1


# ---- the request ----


def _build(metadata: ModelMetadata, rows: Sequence[str]) -> InferRequest:
    """Make a request of rows of text, by what the model takes; without rows, one of none."""
    inputs = metadata.inputs
    if not rows:
        empty = [
            Tensor(
                each.name,
                each.datatype,
                np.empty([max(size, 0) if at else 0 for at, size in enumerate(each.shape)], dtype),
            )
            for each in inputs
            for dtype in [object if each.datatype is Datatype.BYTES else each.datatype.dtype]
        ]
        return InferRequest(empty)
    is_text = len(inputs) == 1 and inputs[0].datatype is Datatype.BYTES
    if is_text and math.prod(inputs[0].shape[1:]) in (1, -1):
        texts = np.array(rows, dtype=object).reshape(-1, *[1] * (len(inputs[0].shape) - 1))
        return build_request(metadata, [texts], {})
    table = _table(rows)
    if not inputs:
        # the model does not say what it takes
        return InferRequest([codecs.encode("input-0", _column(table))])
    if len(inputs) == 1:
        array = _column(table)
        shape = inputs[0].shape[1:]
        if not shape and 1 in array.shape:
            array = array.reshape(-1)
        if len(shape) > 1 and min(shape) > 0 and math.prod(shape) == array.shape[1]:
            array = array.reshape(-1, *shape)
        return build_request(metadata, [array], {})
    if table.shape[1] != len(inputs):
        names = ", ".join(each.name for each in inputs)
        raise InvalidRequestError(
            "--row",
            expected=f"{len(inputs)} cells: {names}",
            found=f"{table.shape[1]}",
            model=metadata.name,
        )
    values = {
        each.name: (
            cells.astype(object) if each.datatype is Datatype.BYTES else _column(cells)
        ).reshape(-1, *[1] * (len(each.shape) - 1))
        for each, cells in zip(inputs, table.T, strict=True)
    }
    return build_request(metadata, [values], {})


def _table(rows: Sequence[str]) -> NDArray[np.object_]:
    """Cut rows at their commas, as CSV has it.

    Raises:
        InvalidRequestError: Rows differ in length.
    """
    cells = [[cell.strip() for cell in line] for line in csv.reader(rows, skipinitialspace=True)]
    widths = sorted({len(line) for line in cells})
    if len(widths) != 1:
        raise InvalidRequestError(
            "--row", expected="rows of one length", found=f"{' and '.join(map(str, widths))} cells"
        )
    return np.array(cells, dtype=object)


def _column(cells: NDArray[np.object_]) -> NDArray[Any]:
    """Read cells as numbers, whole ones if all are; or leave them texts if one is none."""
    for kind in (int, float):
        try:
            return np.array([kind(cell) for cell in cells.reshape(-1)]).reshape(cells.shape)
        except ValueError:
            continue
    return cells


def _with_parameters(request: InferRequest, parameters: Mapping[str, Any]) -> InferRequest:
    if not parameters:
        return request
    given = request.parameters.get("explain_parameters")
    merged = {**(given if isinstance(given, dict) else {}), **parameters}
    return msgspec.structs.replace(
        request, parameters={**request.parameters, "explain_parameters": merged}
    )


def _ask(
    url: str,
    model: str,
    version: str,
    request: InferRequest,
    form: str,
    headers: Mapping[str, str],
    timeout_s: float,
) -> Reply:
    from jackfield.client._http_transport import HttpTransport

    path = f"v2/models/{quote(model, safe='')}"
    if version:
        path += f"/versions/{quote(version, safe='')}"
    query = f"?format={form}" if form in _PICTURES else ""
    body, _ = json.encode_request(request)
    call = Call(f"{path}/explain{query}", body, {**headers, "content-type": "application/json"})
    transport = HttpTransport(url.rstrip("/"), None)
    try:
        return transport.send(call, timeout_s)
    finally:
        transport.close()


def _hint(error: Exception, client: Client, model: str, *, has_rows: bool) -> str:
    """Say what to do next, where that is known."""
    if isinstance(error, NoAnswerError):
        return "is the server there? --url says where; jackfield serve PATH starts one"
    if isinstance(error, RemoteNotFoundError):
        names = _names_of(client)
        if names and model not in names:
            return f"the server's models: {', '.join(names)}"
        if "several models" in error.text:
            return ""
        return (
            f"model '{model}' has no explainer here: serve one beside it, whose settings have "
            f'"implementation": "alibi-explain" and "parameters": {{"extra": {{"explainer_type": '
            f'"kernel_shap", "target": "{model}", …}}}}; or a model with code of its own, whose '
            f'@route("/explain", methods=["POST"]) answers'
        )
    if isinstance(error, RemoteRequestError) and not has_rows:
        return "an explanation of a row needs one: --row 5.1,3.5,1.4,0.2, or --request FILE"
    return ""


def _names_of(client: Client) -> list[str]:
    """List the names of the server's models; none where it does not tell."""
    try:
        return list(dict.fromkeys(each.name for each in client.index()))
    except CallError:
        return []


# ---- the answer ----


def _check_form(reply: Reply, form: str, url: str) -> None:
    """See that a picture is one.

    Raises:
        BadAnswerError: It is something else.
    """
    found = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form in _PICTURES and found != _PICTURES[form]:
        problem = f"the explainer has no form {form}: it answered {found or 'without a type'}"
        raise BadAnswerError(url, f"{problem}; --format table shows what it gives")


def _save(body: bytes, form: str, output: Path | None) -> int:
    if output is None:
        if sys.stdout.isatty():
            click.echo(f"error: {form} is for a file: --output explanation.{form}", err=True)
            return 2
        click.echo(body, nl=False)
        return 0
    try:
        output.write_bytes(body)
    except OSError as error:
        click.echo(f"error: {output}: {error.strerror or error}", err=True)
        return 2
    click.echo(f"explanation: {output}", err=True)
    return 0


def _show(reply: Reply, form: str, client: Client, request: InferRequest) -> int:
    document = _document(reply.body)
    if form == "json" or not (isinstance(document, dict) and "outputs" in document):
        print_json(document)
        return 0
    response = json.decode_response(reply.body)
    known = _parameters_of(client, response)
    row = _row_of(request, _texts(known.get("feature_names")))
    tensors = {each.name: each for each in response.outputs}
    rest = dict(tensors)
    for each in _SHOWN:
        tensor = tensors.get(each.name)
        if tensor is not None and each.fits(tensor):
            for used in each.show(tensors, row, _texts(known.get("classes"))):
                rest.pop(used, None)
    if rest:
        print_table(("output", "datatype", "shape", "data"), tensor_rows(rest.values()))
    return 0


def _document(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequestError("answer", expected="JSON", found=str(error)) from error


def _parameters_of(client: Client, response: InferResponse) -> Mapping[str, Any]:
    """Read what the explainer's metadata say beside its tensors; nothing if it has none."""
    if not response.model_name:
        return {}
    try:
        return client.model(response.model_name).metadata().parameters
    except CallError:
        return {}


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def _row_of(request: InferRequest, names: Sequence[str]) -> _Row:
    """Find the features' values in what was asked."""
    arrays = [each.array for each in request.inputs]
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return _Row(names, arrays[0].astype(object))
    columns = [array.reshape(-1) for array in arrays]
    if len(columns) > 1 and len({len(each) for each in columns}) == 1:
        cells = np.stack([each.astype(object) for each in columns], 1)
        return _Row(names or [each.name for each in request.inputs], cells)
    return _Row(names, None)


# ---- contributions ----


def _is_contributions(tensor: Tensor) -> bool:
    return (
        tensor.datatype is not Datatype.BYTES and tensor.array.ndim == 3 and tensor.array.size > 0
    )


def _show_contributions(
    tensors: Mapping[str, Tensor], row: _Row, classes: Sequence[str]
) -> Sequence[str]:
    """Print what each feature adds, largest first: of the class with the highest output."""
    values = tensors["shap_values"].array.astype(np.float64)
    base = np.zeros(values.shape[2])
    used = ["shap_values"]
    expected = tensors.get("expected_value")
    if expected is not None and expected.array.size == len(base):
        base = expected.array.astype(np.float64).reshape(-1)
        used.append("expected_value")
    totals = base + np.nan_to_num(values).sum(1)
    for place, total in enumerate(totals):
        top = int(total.argmax())
        title = f"row {place}: " + _class_name(top, classes, len(base))
        title += f"{_number(total[top])}, on average {_number(base[top])}"
        lines = _lines(values[place, :, top], row, place)
        _print_titled(title, ("feature", "value", "contribution", ""), lines)
        if len(base) > 1:
            others = ", ".join(
                f"{_class_name(each, classes, len(base))}{_number(total[each])}"
                for each in np.argsort(-total, kind="stable").tolist()[1:6]
            )
            click.echo(f"not shown: {others}; --json has all\n")
        else:
            click.echo()
    return used


def _lines(values: NDArray[np.float64], row: _Row, place: int) -> list[tuple[str, ...]]:
    order = np.argsort(-np.abs(np.nan_to_num(values)), kind="stable").tolist()
    most = float(np.abs(np.nan_to_num(values)).max()) or 1.0
    has_cells = row.cells is not None and row.cells.shape[1] == len(values)
    has_left = bool((values < 0).any())
    shown = order if len(order) <= _MOST_LINES + 1 else order[:_MOST_LINES]
    lines: list[tuple[str, ...]] = []
    for at in shown:
        name = row.names[at] if at < len(row.names) else f"feature {at}"
        cell = _cell(row.cells[place, at]) if has_cells and row.cells is not None else ""
        lines.append((name, cell, _signed(values[at]), _bar(values[at] / most, has_left=has_left)))
    if len(shown) < len(order):
        rest = float(np.nan_to_num(values[order[len(shown) :]]).sum())
        lines.append(
            (
                f"{len(order) - len(shown)} others",
                "",
                _signed(rest),
                _bar(rest / most, has_left=has_left),
            )
        )
    return lines


def _bar(share: float, *, has_left: bool) -> str:
    """Draw a bar from the middle: what lowers to the left, if anything does, what raises right."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    full, middle = ("█", "│") if encoding.startswith("utf") else ("#", "|")
    size = 0 if math.isnan(share) else min(max(round(abs(share) * _BAR), int(share != 0)), _BAR)
    left, right = (size, 0) if share < 0 else (0, size)
    return f"{full * left:>{_BAR if has_left else 0}}{middle}{full * right}"


# ---- rules ----


def _is_rules(tensor: Tensor) -> bool:
    return tensor.datatype is Datatype.BYTES and tensor.array.ndim == 2


def _show_rules(tensors: Mapping[str, Tensor], row: _Row, classes: Sequence[str]) -> Sequence[str]:
    """Print the rule of each row as a sentence, with how sure it is and how often it holds."""
    del row
    used = ["anchor"]
    for place, cells in enumerate(tensors["anchor"].array):
        conditions = [_cell(each) for each in cells if _cell(each)]
        then = ""
        if (label := _one(tensors, "prediction", place)) is not None:
            used.append("prediction")
            is_class = isinstance(label, int) and 0 <= label < len(classes)
            then = f" THEN {classes[int(label)] if is_class else label}"
        click.echo(f"row {place}: IF {' AND '.join(conditions) or 'anything'}{then}")
        shares = []
        for name in ("precision", "coverage"):
            share = _one(tensors, name, place)
            if isinstance(share, int | float):
                used.append(name)
                shares.append(f"{name} {100 * share:.1f} %")
        if shares:
            click.echo(f"       {', '.join(shares)}")
        click.echo()
    return used


def _one(tensors: Mapping[str, Tensor], name: str, place: int) -> int | float | str | None:
    tensor = tensors.get(name)
    if tensor is None or tensor.array.ndim != 1 or place >= len(tensor.array):
        return None
    found = tensor.array[place]
    if isinstance(found, bytes | str):
        return _cell(found)
    plain = found.item()
    return plain if isinstance(plain, int | float) else str(plain)


class _Shown(NamedTuple):
    """A tensor that is shown in a way of its own."""

    name: str
    fits: Callable[[Tensor], bool]
    #: Gives the names of the tensors that it showed.
    show: Callable[[Mapping[str, Tensor], _Row, Sequence[str]], Sequence[str]]


_SHOWN = (
    _Shown("shap_values", _is_contributions, _show_contributions),
    _Shown("anchor", _is_rules, _show_rules),
)


# ---- text ----


def _print_titled(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        click.echo(title)
    print_table(columns, rows, title=title)


def _class_name(place: int, classes: Sequence[str], count: int) -> str:
    if count == 1:
        return ""
    return f"{classes[place] if place < len(classes) else f'class {place}'} "


def _cell(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}" if math.isfinite(value) else str(value)
