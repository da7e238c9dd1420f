"""Fetch what URIs name into a cache: the core's own sources, told without importing a client.

`fetch` has the one door, `Sources`. Knows neither models nor runtimes.
"""

from __future__ import annotations

from jackfield.hookspecs import ArtifactSourceSpec, hookimpl

__all__ = ["jackfield_artifact_sources"]

_FILES = "jackfield._sources.filesystem:FilesystemSource"


@hookimpl
def jackfield_artifact_sources() -> list[ArtifactSourceSpec]:
    """Describe the stores that fsspec reads, and the web."""
    return [
        _by_filesystem("s3", "s3a", extra="s3", package="s3fs"),
        _by_filesystem("gs", "gcs", extra="gcs", package="gcsfs"),
        _by_filesystem("az", "abfs", "abfss", extra="azure", package="adlfs"),
        _by_filesystem("hf", extra="hf", package="huggingface_hub"),
        ArtifactSourceSpec(schemes=("https", "http"), source="jackfield._sources.web:WebSource"),
    ]


def _by_filesystem(*schemes: str, extra: str, package: str) -> ArtifactSourceSpec:
    return ArtifactSourceSpec(
        schemes=schemes,
        source=_FILES,
        install=f'pip install "jackfield[{extra}]"',
        packages=("fsspec", package),
    )
