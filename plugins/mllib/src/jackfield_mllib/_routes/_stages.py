"""The stages inside a model."""

from __future__ import annotations


def stages_of(model: object) -> list[object]:
    """List the stages of a model, those inside others too; a stage alone is its own."""
    model = getattr(model, "bestModel", model)
    stages = getattr(model, "stages", None)
    if not isinstance(stages, list):
        return [model]
    return [each for stage in stages for each in stages_of(stage)]
