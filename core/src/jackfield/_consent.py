"""What a fetched model could do to the server: for that the operator has to consent.

A local path is consent. Of what came from elsewhere, only forms that are read as data are loaded
without: every form and setting that is not known to be harmless counts as code.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from jackfield.artifacts import identify
from jackfield.errors import ModelLoadError
from jackfield.settings import ModelParameters, ModelSettings, default, fields

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield.runtime import ArtifactFormat, RuntimeSpec

#: Of a URI; or a drive of Windows.
_SCHEME = re.compile(r"\s*[a-zA-Z][\w+.-]*:")
#: Settings that may come with a model from anywhere: none reaches beyond it.
_HARMLESS = {
    "name", "implementation", "platform", "versions", "inputs", "outputs", "scheduler", "needs",
    "max_queue", "max_batch_size", "max_batch_rows", "max_batch_time", "max_concurrency",
    "max_infer_time", "max_restart_time", "priority_levels", "default_priority_level", "threads",
    "version_policy", "cache_enabled", "parallel_workers", "warm_workers", "parameters", "uri",
    "version", "sha256", "format", "content_type", "autogenerate_inference_pool_gid",
}  # fmt: skip


def find_code(spec: RuntimeSpec | None, artifact: Path | None) -> str:
    """Say why reading an artifact could run code that it carries; empty if it can't.

    Args:
        spec: The runtime that would read it.
        artifact: The file or folder.
    """
    if spec is None or artifact is None or "." in spec.name:
        return "it is read by code of the model's own"
    forms = [form for form in spec.artifacts if _has_name(artifact, form)]
    try:
        found = identify(artifact) if artifact.is_file() else None
    except OSError as error:
        return f"'{artifact.name}' can't be looked at: {error.strerror}"
    if any(form.executes_code for form in forms) or (found and found.executes_code):
        return f"'{artifact.name}' can run code when it is loaded"
    is_known = bool(forms) or (found is not None and found.framework == spec.name)
    return "" if is_known else f"'{artifact.name}' is in no form that '{spec.name}' says is safe"


def find_liberties(settings: ModelSettings) -> str:
    """Say which settings, come with a model from elsewhere, reach beyond it; empty for none."""
    told = [f"it sets '{name}'" for name in _set(settings, ModelSettings)]
    told += [f"it sets 'parameters.{name}'" for name in _set(settings.parameters, ModelParameters)]
    uri = settings.parameters.uri
    path = PurePosixPath(uri.replace("\\", "/"))
    if _SCHEME.match(uri) or path.is_absolute() or ".." in path.parts:
        told.append("its 'parameters.uri' leads out of it")
    return ", ".join(told)


def refuse(shown: str, why: str) -> ModelLoadError:
    """Say how the operator consents."""
    return ModelLoadError(
        f"it was fetched from '{shown}', and {why}; if you trust who can write there, say so by "
        "trusted_sources or parameters.trust, or pin what you looked at by its SHA-256"
    )


def _has_name(artifact: Path, form: ArtifactFormat) -> bool:
    if form.is_folder:
        return artifact.is_dir() and any(file.is_file() for file in artifact.glob(form.pattern))
    return artifact.is_file() and fnmatch.fnmatch(artifact.name, form.pattern)


def _set(settings: ModelSettings | ModelParameters, kind: type) -> list[str]:
    """List the settings that are set and not harmless."""
    return [
        name
        for name, field in fields(kind).items()
        if name not in _HARMLESS and getattr(settings, name) != default(field)
    ]
