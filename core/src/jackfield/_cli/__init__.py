"""The command line: ``jackfield serve``, ``plugins``, ``check``, ``version``.

A command's module is imported when it runs: listing plugins needs no web server.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jackfield.errors import JackfieldError
from jackfield.settings import ServerSettings, default, description, fields

if TYPE_CHECKING:
    from collections.abc import Callable

_PATHS = click.Path(path_type=Path)


def main() -> None:
    """Run a command; an error of ours is one line and a non-zero exit."""
    try:
        cli(standalone_mode=True)
    except JackfieldError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Serve models by the Open Inference Protocol; every runtime is a plugin."""


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each server setting, from the one table."""
    for name, field in reversed(fields(ServerSettings).items()):
        option = f"--{name.replace('_', '-')}"
        value = default(field)
        is_flag = isinstance(value, bool)
        choices = getattr(getattr(field.type, "__origin__", None), "__args__", ())
        command = click.option(
            f"{option}/--no-{option[2:]}" if is_flag else option,
            name,
            default=None,
            type=click.Choice(choices) if choices else type(value),
            help=f"{description(field)}  [default: {value}]",
        )(command)
    return command


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@click.option("--name", default="", help="Name of the one model, instead of its file's.")
@_server_options
def serve(paths: tuple[Path, ...], name: str, **options: object) -> None:
    """Serve the models at PATHS: artifact files, and folders of models."""
    from jackfield._cli.serve import serve_models

    given = {key: value for key, value in options.items() if value is not None}
    sys.exit(serve_models(paths, name=name, options=given))


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=_PATHS)
@click.option("--load/--no-load", default=True, help="Load the models too, or read settings only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(paths: tuple[Path, ...], *, load: bool, as_json: bool) -> None:
    """Check settings and artifacts at PATHS without serving; the exit code tells."""
    from jackfield._cli.check import check_models

    sys.exit(check_models(paths, load=load, as_json=as_json))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, as_json: bool) -> None:
    """List the installed plugins and their runtimes; no framework is imported."""
    from jackfield._cli.plugins import list_plugins

    list_plugins(as_json=as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(*, as_json: bool) -> None:
    """Print the versions of jackfield, its plugins and Python."""
    from jackfield._cli.plugins import list_versions

    list_versions(as_json=as_json)
