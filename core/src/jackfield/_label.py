"""How texts name a model."""

from __future__ import annotations


def label_model(name: str, version: str = "") -> str:
    """Name a model, or one version of it, for an error's text or a line of the log.

    Args:
        name: The model.
        version: Its version; empty for an un-versioned model, or for all of it.
    """
    return f"version '{version}' of model '{name}'" if version else f"model '{name}'"
