"""``jackfield check``: validate settings and artifacts without serving."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jackfield._cli.environment import allowed_plugins, read_environment
from jackfield._cli.output import print_json, print_table
from jackfield._log import configure_logging
from jackfield._models import Models, ModelState
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield.settings import resolve_server_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield._repository import ModelSource


def check_models(paths: Sequence[str], *, load: bool, as_json: bool) -> int:
    """Check what lies at the paths.

    Returns:
        0 if all is well, 1 if there is a problem or no model.

    Raises:
        SettingsError: The server's settings are wrong.
    """
    configure_logging("error", "text")
    environ = read_environment()
    folders = [Path(path) for path in paths if Path(path).is_dir()]
    resolved = resolve_server_settings(folders, environ=environ, options={})
    plugins = discover(allowed_plugins(environ))
    repository = Repository(paths, plugins, environ=environ)
    sources = repository.scan()
    problems = {(source.name, source.version): source.problem for source in sources}
    if load:
        problems = asyncio.run(_load(repository))
    lines = [_line(source, problems[source.name, source.version]) for source in sources]
    warnings = [*resolved.warnings, *plugins.warnings]
    warnings += [text for source in sources for text in source.warnings]
    if as_json:
        print_json({"models": lines, "warnings": warnings})
    else:
        columns = ("model", "version", "runtime", "artifact", "problem")
        print_table(columns, [[line[column] for column in columns] for line in lines])
        for warning in warnings:
            print_warning(warning)
        if not lines:
            print_warning("there is no model here")
    return 1 if any(problems.values()) or not lines else 0


def print_warning(text: str) -> None:
    """Print a warning to standard error."""
    import click

    click.echo(f"warning: {text}", err=True)


async def _load(repository: Repository) -> dict[tuple[str, str], str]:
    models = Models(repository)
    await models.start()
    problems = {
        (line.name, line.version): "" if line.state is ModelState.READY else line.reason
        for line in await models.index()
    }
    await models.close(timeout_s=10)
    return problems


def _line(source: ModelSource, problem: str) -> dict[str, str]:
    return {
        "model": source.name,
        "version": source.version,
        "runtime": source.spec.name if source.spec else "",
        "artifact": str(source.artifact or _without_secrets(source.uri or source.remote)),
        "problem": problem,
    }


def _without_secrets(uri: str) -> str:
    """Leave out the user, the password and the query, which may sign the address."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
