"""All checks, in the order in which they are made: by level, REST before gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackfield.testing.conformance._check import Check
from jackfield.testing.conformance.checks import (
    binary_grpc,
    binary_http,
    core_grpc,
    core_http,
    core_http_bad,
    management_grpc,
    management_http,
    stream_grpc,
    stream_http,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_MODULES = (
    core_http,
    core_http_bad,
    core_grpc,
    binary_http,
    binary_grpc,
    stream_http,
    stream_grpc,
    management_http,
    management_grpc,
)


def _checks_of(module: ModuleType) -> Iterator[Check]:
    """Yield a module's checks as they stand there: single ones, and tuples of them."""
    for value in vars(module).values():
        if isinstance(value, Check):
            yield value
        elif isinstance(value, tuple):
            yield from (each for each in value if isinstance(each, Check))


#: Every check there is; the page on conformance lists them.
CHECKS = tuple(check for module in _MODULES for check in _checks_of(module))
