"""What the licence of an installed package asks of who serves with it."""

from __future__ import annotations

import importlib.metadata

_BUSINESS_SOURCE = (
    "{what} is under the Business Source License 1.1, which is no open-source licence: using it in "
    "production needs a licence of its maker, with an exception for non-profit education; each "
    "version becomes Apache-2.0 four years after its release. {name} up to {free} is Apache-2.0."
)


def notice(name: str, *, free: str) -> str:
    """Say under which licence a distribution is, where it is installed.

    Args:
        name: The distribution.
        free: Its last version under Apache-2.0.

    Returns:
        A sentence or two; empty if it is not installed.
    """
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    what = f"{name} {metadata['Version']}"
    told = [metadata[key] for key in ("License-Expression", "License") if key in metadata]
    licence = told[0] if told else "a licence that it does not tell"
    if "Business Source" in licence or licence.startswith("BUSL-"):
        return _BUSINESS_SOURCE.format(what=what, name=name, free=free)
    return f"{what} is under {licence.splitlines()[0]}."
