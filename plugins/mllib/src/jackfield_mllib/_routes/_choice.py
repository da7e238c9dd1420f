"""Choose a model's route when it loads: the gateway's where it answers what `transform` does."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkException

from jackfield import InvalidRequestError, ModelLoadError
from jackfield_mllib._frame import FrameRoute
from jackfield_mllib._routes._gateway import Gateway, NoPlanError
from jackfield_mllib._routes._sample import sample_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from pyspark.ml import Transformer
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    from jackfield import Parameter
    from jackfield_mllib._routes._route import Arrays, Route

Wish: TypeAlias = Literal["auto", "gateway", "dataframe"]
#: Calls of one row that are timed.
_TIMED = 20


@dataclasses.dataclass(frozen=True)
class Choice:
    """A route, and why it was taken."""

    route: Route
    #: For the log: one sentence.
    reason: str
    #: For the metadata: `route`, `route_reason`, and what was compared and measured.
    report: dict[str, Parameter]


def choose_route(
    session: SparkSession,
    model: Transformer,
    schema: StructType,
    wanted: Sequence[str],
    *,
    wish: Wish = "auto",
    frame: Route | None = None,
    default: Sequence[str] = (),
    sample: Arrays | None = None,
) -> Choice:
    """Take the gateway's route if the model can, and it answers made-up rows as `transform` does.

    It takes some 0.1 ms for one row, where a job takes 50 to 200; 1000 rows 0.1 to 5 ms. One
    thread computes: for requests of very many rows the operator may wish for `dataframe`.

    Args:
        session: A classic one, or of Spark Connect, which has the route `dataframe` alone.
        model: A fitted one.
        schema: The columns that it takes. A vector column's width is in its field's metadata
            (`ml_attr`, `num_attrs`) where it is known.
        wanted: Names of all columns that requests may ask for.
        wish: `auto`, or the operator's own choice.
        frame: The route of `dataframe`, where the caller has it.
        default: The columns that most requests ask for: compiled now, not by the first of them.
        sample: A row or more that the model is likely to take, where it takes none made up here.

    Raises:
        ModelLoadError: The operator wishes for `gateway`, which the model can't take; the text says
            why.
    """
    frame = frame or FrameRoute(session, model, schema)
    if wish == "dataframe":
        return _choice(frame, "asked for by the settings")
    try:
        gateway, report = _try(session, model, schema, wanted, default, frame, sample)
    except NoPlanError as error:
        if wish == "gateway":
            raise ModelLoadError(
                f"'parameters.extra.route' is 'gateway', which it can't take: {error}"
            ) from error
        return _choice(frame, str(error))
    compared = report["route_compared_rows"]
    reason = (
        f"bit for bit equal to Spark's transform on {compared} made-up rows"
        if compared
        else "the plan is made of functions of one row; no made-up row fits it to compare"
    )
    return _choice(gateway, reason, report)


def _choice(route: Route, reason: str, report: dict[str, Parameter] | None = None) -> Choice:
    told: dict[str, Parameter] = {"route": route.name, "route_reason": reason, **(report or {})}
    return Choice(route, f"rows pass by the route '{route.name}': {reason}", told)


def _try(
    session: SparkSession,
    model: Transformer,
    schema: StructType,
    wanted: Sequence[str],
    default: Sequence[str],
    frame: Route,
    sample: Arrays | None,
) -> tuple[Gateway, dict[str, Parameter]]:
    if not hasattr(session, "_jsparkSession"):
        raise NoPlanError("a session of Spark Connect has no gateway")
    try:
        gateway = Gateway(session, model, schema, frame)
        names = gateway.carried(wanted)
        if not names:
            raise NoPlanError("it adds columns only of types that are not carried")
        gateway.prepare(names)
        if default and (usual := gateway.carried(default)) == tuple(default) != names:
            gateway.prepare(usual)
        rows = _accepted(gateway, names, sample_rows(model, schema))
        if rows is None:
            rows = _accepted(gateway, names, sample or {})
        return gateway, _compare(gateway, frame, names, rows)
    except Py4JNetworkError:
        raise
    # another version's internals may differ in any way
    except (Py4JError, PySparkException, TypeError, AttributeError) as error:
        text = str(error).strip().partition("\n")[0]
        raise NoPlanError(f"this Spark's plan can't be run here: {text}") from error


def _compare(
    gateway: Gateway, frame: Route, names: Sequence[str], rows: Arrays | None
) -> dict[str, Parameter]:
    """Compare all columns on some rows, and time a call of each route.

    Raises:
        NoPlanError: They differ.
    """
    if rows is None:
        return {"route_compared_rows": 0}
    found = gateway(rows, names)
    try:
        expected, slow = _timed(lambda: frame(rows, names), 2)
    except InvalidRequestError as error:
        raise NoPlanError(f"transform refuses made-up rows that the plan takes: {error}") from error
    for name in names:
        if not is_equal(found[name], expected[name]):
            raise NoPlanError(f"its column '{name}' differs from transform's on made-up rows")
    one = {name: array[:1] for name, array in rows.items()}
    _, fast = _timed(lambda: gateway(one, names), _TIMED)
    return {
        "route_compared_rows": len(next(iter(rows.values()))),
        "route_ms": round(fast * 1e3, 3),
        "dataframe_ms": round(slow * 1e3, 1),
    }


def _accepted(gateway: Gateway, names: Sequence[str], rows: Arrays) -> Arrays | None:
    """Leave the rows out that the model refuses; None if that is all of them."""
    if not rows:
        return None
    kept = []
    for place in range(len(next(iter(rows.values())))):
        try:
            gateway({name: array[place : place + 1] for name, array in rows.items()}, names)
        except InvalidRequestError:
            continue
        kept.append(place)
    return {name: array[kept] for name, array in rows.items()} if kept else None


def _timed(
    call: Callable[[], dict[str, NDArray[Any]]], times: int
) -> tuple[dict[str, NDArray[Any]], float]:
    """Call, and give the best time in seconds."""
    best, found = float("inf"), {}
    for _ in range(times):
        begin = time.perf_counter()
        found = call()
        best = min(best, time.perf_counter() - begin)
    return found, best


def is_equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two columns are equal, bit for bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype != object:
        return one.tobytes() == other.tobytes()
    return all(_is_same(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True))


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return is_equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    # NaN is equal to NaN
    return one == other or (one != one and other != other)
