"""Make the checks, one after another, and note how each ended."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jackfield.testing.conformance._check import (
    Check,
    ConformanceError,
    Level,
    NotApplicableError,
)
from jackfield.testing.conformance._grpc import GrpcClient
from jackfield.testing.conformance._http import HttpClient
from jackfield.testing.conformance._report import Outcome, Report, Result
from jackfield.testing.conformance._target import Target
from jackfield.testing.conformance.checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_TIMEOUT_S = 30.0


@contextlib.contextmanager
def connect(
    url: str,
    grpc: str = "",
    *,
    model: str,
    version: str = "",
    example: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Iterator[Target]:
    """Make the target of a run; its gRPC channel is closed at the end.

    Raises:
        ValueError: The URL is none.
    """
    http = HttpClient(url, headers=headers or {}, timeout_s=timeout_s)
    client = GrpcClient(grpc, metadata=headers or {}, timeout_s=timeout_s) if grpc else None
    try:
        yield Target(http, client, model=model, version=version, example=example)
    finally:
        if client is not None:
            client.close()


def require(check: Check, target: Target, *, allow_unload: bool) -> None:
    """Look whether a check applies at all.

    Raises:
        NotApplicableError: It does not; the text says why.
    """
    if check.unloads and not allow_unload:
        reason = "it unloads or reloads the model, which was not allowed"
        raise NotApplicableError(reason)
    if check.needs_grpc and not target.has_grpc:
        reason = "no gRPC address was given"
        raise NotApplicableError(reason)
    if check.extension and check.extension not in target.extensions:
        reason = f"the server does not list the extension {check.extension}"
        raise NotApplicableError(reason)


def make(check: Check, target: Target, *, allow_unload: bool) -> Result:
    """Make one check."""
    started = time.perf_counter()
    outcome, detail = Outcome.PASSED, ""
    try:
        require(check, target, allow_unload=allow_unload)
        check.look(target)
    except NotApplicableError as reason:
        outcome, detail = Outcome.SKIPPED, str(reason)
    except ConformanceError as error:
        outcome, detail = Outcome.FAILED, str(error)
    except Exception as error:  # noqa: BLE001  an answer of a form that no check foresaw
        outcome, detail = Outcome.FAILED, f"an answer that can't be read: {error!r}"
    seconds = time.perf_counter() - started
    return Result(check.id, check.level, outcome, check.requirement, check.source, detail, seconds)


def run(
    url: str,
    grpc: str = "",
    *,
    model: str,
    version: str = "",
    levels: Collection[Level] = tuple(Level),
    allow_unload: bool = False,
    example: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
    made: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Check a server.

    Args:
        url: Of the REST API, without ``/v2``.
        grpc: ``host:port`` of the gRPC API; empty skips its checks.
        model: Name of a model that is ready.
        version: Its version; empty leaves the choice to the server.
        levels: The levels to check.
        allow_unload: Whether the model may be unloaded for a moment and loaded again.
        example: An inference request that the model takes; None makes one from its metadata, of
            zeros and the text "text".
        headers: Sent with every request, for example an authorization; metadata in gRPC.
        timeout_s: Longest wait for an answer.
        made: Called with each result as it comes.

    Returns:
        A result for each check of the levels.

    Raises:
        ConformanceError: Nothing answers at the URL.
        ValueError: The URL is none.

    Example:
        ```python
        report = run("http://localhost:8080", "localhost:8081", model="iris")
        assert report.conforms, report.of(Outcome.FAILED)
        ```
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    results = []
    with connect(
        url,
        grpc,
        model=model,
        version=version,
        example=example,
        headers=headers,
        timeout_s=timeout_s,
    ) as target:
        server = target.name
        for check in CHECKS:
            if check.level in levels:
                result = make(check, target, allow_unload=allow_unload)
                results.append(result)
                made(result)
    return Report(
        url=url,
        grpc=grpc,
        model=model,
        version=version,
        server=server,
        started=started,
        results=results,
    )
