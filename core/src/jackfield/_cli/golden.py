"""``jackfield golden record``: write down what a model answers, to hold later ones to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from jackfield._cli.environment import allowed_plugins, read_environment
from jackfield._log import configure_logging
from jackfield._models import Models
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._samples import Tolerance, read_sample, write_sample
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jackfield._model import Model
    from jackfield._repository import ModelSource

#: Longest wait for the models to close, in seconds.
_CLOSE_S = 10.0


def record_golden(
    path: str,
    *,
    requests: Sequence[Path],
    model: str,
    version: str,
    folder: Path | None,
    tolerances: Mapping[str, tuple[float, float]],
) -> int:
    """Let a model answer requests, and write both as golden samples.

    Args:
        path: The model, or a folder of models.
        requests: Files of requests or of samples; empty for the golden samples that it has.
        model: Its name, where several are there.
        version: Its version; the newest for none.
        folder: Where to write; empty for the model's own folder of golden samples.
        tolerances: By output: the relative and the absolute one.

    Returns:
        The exit code.

    Raises:
        JackfieldError: The model can't be loaded, or does not answer.
    """
    configure_logging("error", "text")
    environ = read_environment()
    repository = Repository([path], discover(allowed_plugins(environ)), environ=environ)
    given = {output: Tolerance(*pair) for output, pair in tolerances.items()}
    written = asyncio.run(_record(repository, requests, model, version, folder, given))
    for file in written:
        click.echo(file)
    return 0


async def _record(
    repository: Repository,
    requests: Sequence[Path],
    name: str,
    version: str,
    folder: Path | None,
    tolerances: Mapping[str, Tolerance],
) -> list[Path]:
    models = Models(repository, tries_samples=False)
    models.open()
    try:
        sources = repository.scan()
        names = {source.name for source in sources}
        if not name and len(names) != 1:
            raise ModelLoadError(f"name one model with --model: {', '.join(sorted(names))}")
        await models.start()
        found = models.get(name or names.pop(), version)
        [source] = [
            each for each in sources if (each.name, each.version) == (found.name, found.version)
        ]
        folder = folder or _golden_folder(source)
        files = requests or _list(folder)
        return await _write(found, files, folder, tolerances)
    finally:
        await models.close(_CLOSE_S)


async def _write(
    model: Model,
    files: Sequence[Path],
    folder: Path,
    tolerances: Mapping[str, Tolerance],
) -> list[Path]:
    written = []
    for file in files:
        sample = read_sample(file, model.name)
        response = await model.infer(sample.request)
        if unknown := set(tolerances) - {tensor.name for tensor in response.outputs}:
            raise ModelLoadError(f"--tolerance: there is no output '{min(unknown)}'")
        target = folder / f"{file.stem}.json"
        try:
            write_sample(target, sample.request, response, {**sample.tolerances, **tolerances})
        except OSError as error:
            raise ModelLoadError(f"'{target}' can't be written: {error.strerror}") from error
        written.append(target)
    return written


def _list(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ModelLoadError(f"no sample is in '{folder}' yet; give a request with --request")
    return files


def _golden_folder(source: ModelSource) -> Path:
    if not source.homes or not source.settings.golden:
        raise ModelLoadError("it has no folder of golden samples of its own; name one with --to")
    return source.homes[0] / source.settings.golden
