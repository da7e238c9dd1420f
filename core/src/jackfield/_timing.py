"""The header `Server-Timing`: where one request's milliseconds went, told to its caller.

Used by both shells, for callers who ask with `Want-Server-Timing: 1`.
Source: W3C Server Timing, "The Server-Timing Header Field".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield.messages import Timing


def server_timing(timing: Timing, encode_ns: int) -> str:
    """Give the header's value.

    Args:
        timing: That of the response.
        encode_ns: How long the shell took to encode it.

    Returns:
        `decode`, `queue`, `compute` and `encode`, each with `dur` in milliseconds, to the
        microsecond; and `batch`, the runtime's call: `requests` and `rows` in it for programs, and
        the same as `desc` for people.

    Example:
        ```
        decode;dur=0.021, queue;dur=0.340, compute;dur=1.250, encode;dur=0.018,
        batch;requests=16;rows=16;desc="16 requests, 16 rows"
        ```
    """
    requests, rows = timing.requests, timing.rows
    return (
        f"decode;dur={(timing.arrived - timing.received) / 1e6:.3f}, "
        f"queue;dur={(timing.started - timing.arrived) / 1e6:.3f}, "
        f"compute;dur={(timing.ended - timing.started) / 1e6:.3f}, "
        f"encode;dur={encode_ns / 1e6:.3f}, "
        f"batch;requests={requests};rows={rows};"
        f'desc="{_plural(requests, "request")}, {_plural(rows, "row")}"'
    )


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
