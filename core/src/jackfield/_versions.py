"""Versions of a model: their order, and which of them a policy chooses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jackfield.settings import VersionPolicy


def version_key(version: str) -> tuple[object, ...]:
    """Order versions as numbers: ``v10`` after ``v3``, ``1.0.0-rc1`` before ``1.0.0``.

    Source: Semantic Versioning 2.0, section 11, with missing parts allowed.
    """
    release, _, pre = version.removeprefix("v").partition("-")
    # a word stands before a number as a release ("blue" < "1"), and after one in a pre-release
    return _tokens(release, numbers_last=True), not pre, _tokens(pre, numbers_last=False)


def _tokens(text: str, *, numbers_last: bool) -> tuple[tuple[bool, int, str], ...]:
    parts = re.findall(r"\d+|[^\d.]+", text)
    return tuple(
        (part.isdecimal() is numbers_last, int(part) if part.isdecimal() else 0, part)
        for part in parts
    )


def choose_versions(versions: Iterable[str], policy: VersionPolicy | None) -> set[str]:
    """Choose which versions of a model are served.

    Args:
        versions: Those that there are; an un-versioned one, "", is always served.
        policy: None serves all of them.

    Source: Triton's version policy.
    """
    found = set(versions)
    if policy is None:
        return found
    numbered = sorted(filter(None, found), key=version_key)
    return found & {"", *(policy.names or numbered[-policy.latest :])}
