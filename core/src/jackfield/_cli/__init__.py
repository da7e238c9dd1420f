"""The command line of jackfield: one group, one command for each thing that it does.

A command's module is imported when it runs: listing plugins needs no web server.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import UnionType
from typing import IO, TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click

from jackfield.errors import JackfieldError
from jackfield.settings import ServerSettings, default, description, fields

if TYPE_CHECKING:
    from collections.abc import Callable


_UNIONS = (Union, UnionType)


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
        kind = getattr(field.type, "__origin__", None)
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        # an object is given as JSON; several types are told apart where settings are read
        is_text = value is None or isinstance(value, dict) or get_origin(kind) in _UNIONS
        command = click.option(
            f"{option}/--no-{option[2:]}" if is_flag else option,
            name,
            default=None,
            type=click.Choice(choices) if choices else str if is_text else type(value),
            help=f"{description(field)}  [default: {value}]",
        )(command)
    return command


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--name", default="", help="Name of the one model, instead of its file's.")
@_server_options
def serve(paths: tuple[str, ...], name: str, **options: object) -> None:
    """Serve the models at PATHS: artifacts, model.py:Class, folders of models, and URIs."""
    from jackfield._cli.serve import serve_models

    given = {key: value for key, value in options.items() if value is not None}
    sys.exit(serve_models(paths, name=name, options=given))


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--load/--no-load", default=True, help="Load the models too, or read settings only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(paths: tuple[str, ...], *, load: bool, as_json: bool) -> None:
    """Check settings and artifacts at PATHS without serving; the exit code tells."""
    from jackfield._cli.check import check_models

    sys.exit(check_models(paths, load=load, as_json=as_json))


def _levels(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """Split the levels, with commas between."""
    # as in `Level`, whose module is imported when the command runs
    known = ("core", "binary", "stream", "management")
    levels = tuple(name.strip() for name in value.split(",") if name.strip())
    unknown = [name for name in levels if name not in known]
    if unknown or not levels:
        found = ", ".join(unknown) or "none"
        message = f"expected levels of {', '.join(known)}, found {found}"
        raise click.BadParameter(message)
    return levels


def _headers(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, str]:
    """Split headers at their first colon."""
    headers = {}
    for line in value:
        name, colon, text = line.partition(":")
        if not colon:
            message = f"expected NAME: VALUE, found '{line}'"
            raise click.BadParameter(message)
        headers[name.strip()] = text.strip()
    return headers


def _list_checks(context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        from jackfield._cli.conformance import list_checks

        list_checks()
        context.exit()


@cli.command()
@click.argument("url")
@click.option("--grpc", default="", metavar="HOST:PORT", help="The gRPC API; else not checked.")
@click.option("--model", required=True, help="Name of a model that is ready.")
@click.option("--version", default="", help="Its version.  [default: the server's choice]")
@click.option(
    "--level",
    "levels",
    default="core,binary,stream,management",
    callback=_levels,
    show_default=True,
    help="Levels, with commas between.",
)
@click.option(
    "--header", "headers", multiple=True, callback=_headers, help="NAME: VALUE of every request."
)
@click.option(
    "--request",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of a JSON inference request that the model takes, instead of zeros.",
)
@click.option("--allow-unload", is_flag=True, help="Unload the model too, and load it again.")
@click.option("--timeout-s", default=30.0, show_default=True, help="Longest wait for an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Print every check.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_checks,
    help="Print the checks that there are, and end.",
)
def conformance(url: str, **options: Any) -> None:  # noqa: ANN401  click's
    """Check the server at URL against the Open Inference Protocol; the exit code tells."""
    from jackfield._cli.conformance import check_server

    sys.exit(check_server(url, **options))


def _call_options(timeout_s: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a command that calls a model of a running server."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = (
            click.option(
                "--version", default="", help="Its version.  [default: the server's choice]"
            ),
            click.option(
                "--header",
                "headers",
                multiple=True,
                callback=_headers,
                help="NAME: VALUE of the request.",
            ),
            click.option(
                "--timeout-s",
                default=timeout_s,
                show_default=True,
                help="Longest wait for the answer.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print the response as JSON."),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


@cli.command()
@click.argument("url")
@click.option("--model", required=True, help="Name of the model.")
@click.option(
    "--input",
    "source",
    required=True,
    type=click.File("rb"),
    help="File of a JSON inference request; - reads it from the standard input.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the request and the answer to this file, as a golden sample.",
)
@_call_options(60.0)
def infer(url: str, **options: Any) -> None:  # noqa: ANN401  click's
    """Send a request to the server at URL, http:// or grpc://, and print the outputs."""
    from jackfield._cli.infer import infer_once

    sys.exit(infer_once(url, **options))


def _values(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, Any]:
    """Split ``NAME=JSON``; what is no JSON is text."""
    import msgspec

    values: dict[str, Any] = {}
    for name, text in _pairs(context, option, value).items():
        try:
            values[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            values[name] = text
    return values


@cli.command()
@click.argument("model")
@click.option(
    "--url", default="http://localhost:8080", show_default=True, help="The server, over HTTP."
)
@click.option(
    "--row",
    "rows",
    multiple=True,
    metavar="V,V,...|TEXT",
    help="A row to explain: its cells with commas between, or a text; several are allowed.",
)
@click.option(
    "--request",
    "source",
    type=click.File("rb"),
    help="File of a JSON inference request, instead of rows; - reads the standard input.",
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    callback=_values,
    metavar="NAME=JSON",
    help="Parameter of the explainer.",
)
@click.option(
    "--format",
    "form",
    # as `jackfield._cli.explain.FORMS`, whose module needs a client
    type=click.Choice(["table", "json", "html", "png"]),
    default=None,
    help="What is shown, or saved.  [default: the --output file's suffix, or table]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that gets the answer: .html, .png or .json.",
)
@_call_options(300.0)
def explain(
    model: str,
    *,
    rows: tuple[str, ...],
    source: IO[bytes] | None,
    form: str | None,
    output: Path | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401  click's
) -> None:
    """Ask a server why MODEL predicts what it does for rows; or, without rows, in general.

    The server needs an explainer of MODEL. Contributions are drawn as bars, rules as sentences;
    --output explanation.html or .png saves the explainer's picture.
    """
    if rows and source is not None:
        message = "give --row or --request, not both"
        raise click.UsageError(message)
    suffix = output.suffix.lower().lstrip(".") if output is not None else ""
    form = "json" if as_json else form or (suffix if suffix in ("html", "png", "json") else "table")
    if output is not None and form == "table":
        message = f"expected --output FILE.html, .png or .json, found '{output}'"
        raise click.UsageError(message)
    from jackfield._cli.explain import explain as explain_rows

    sys.exit(explain_rows(model, rows=rows, source=source, form=form, output=output, **options))


def _time(context: click.Context, option: click.Parameter, value: str) -> float:
    """Read a time as ``5``, ``500ms``, ``5s`` or ``2m``; gives seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|)", value)
    if found is None:
        message = f"expected a time like 5s, 500ms or 2m, found '{value}'"
        raise click.BadParameter(message)
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}[found[2]]


def _length(context: click.Context, option: click.Parameter, value: str) -> float:
    """Read a time above 0."""
    if not (seconds := _time(context, option, value)):
        message = f"expected a time above 0, found '{value}'"
        raise click.BadParameter(message)
    return seconds


def _numbers(value: str, what: str, *, is_whole: bool = False) -> tuple[float, ...]:
    """Split numbers above 0, with commas between."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    try:
        numbers = tuple(float(int(part)) if is_whole else float(part) for part in parts)
    except ValueError:
        numbers = ()
    if not all(0 < number < float("inf") for number in numbers) or len(numbers) != len(parts):
        message = f"expected {what}, found '{value}'"
        raise click.BadParameter(message)
    return numbers


def _connections(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = _numbers(value, "numbers of 1 or more, with commas between", is_whole=True)
    return tuple(int(number) for number in numbers)


def _rates(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...] | None:
    """Give the rates; None for a sweep."""
    if value == "sweep":
        return None
    return _numbers(value, "'sweep', or rates above 0 with commas between")


def _plot(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value and Path(value).suffix.lower() not in (".png", ".svg", ".pdf"):
        message = f"expected FILE.png, .svg or .pdf, found '{value}'; --plot alone goes last"
        raise click.BadParameter(message)
    return value


@cli.command()
@click.argument("url")
@click.argument("model")
@click.option("--version", default="", help="Its version.  [default: the server's choice]")
@click.option(
    "--connections",
    default="",
    callback=_connections,
    metavar="N,...",
    help="Closed loop: so many callers, each waiting for its answer.  [default: 1,16,64 if no "
    "--rate is given]",
)
@click.option(
    "--rate",
    "rates",
    default="",
    callback=_rates,
    metavar="R,...|sweep",
    help="Open loop: so many requests per second, whether or not the server keeps up; sweep finds "
    "the peak by a closed loop and takes 10 to 90 % of it.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Gaps between the requests of a rate.",
)
@click.option(
    "--max-outstanding",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Most requests of a rate without an answer; those beyond are dropped, and counted.",
)
@click.option(
    "--duration",
    "duration_s",
    callback=_length,
    metavar="TIME",
    default="5s",
    show_default=True,
    help="Of each load.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    callback=_time,
    metavar="TIME",
    default="1s",
    show_default=True,
    help="The same load before, not counted.",
)
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="URL",
    help="Another server with the model, measured in turns; several are allowed.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=None,
    help="Times to repeat all loads.  [default: 1; 3 with --compare]",
)
@click.option(
    "--request",
    type=click.File("rb"),
    help="File of a JSON inference request, or of one with binary tensors behind; - reads the "
    "standard input.  [default: made of the model's metadata]",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Rows of a request that is made.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of random values and arrivals."
)
@click.option("--binary", "is_binary", is_flag=True, help="Binary tensors over HTTP, not JSON.")
@click.option("--check", "is_checked", is_flag=True, help="Compare all answers with the first.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Generators, each in a process of its own, that share the load.",
)
@click.option(
    "--header", "headers", multiple=True, callback=_headers, help="NAME: VALUE of every request."
)
@click.option("--timeout-s", default=30.0, show_default=True, help="Longest wait for an answer.")
@click.option(
    "--plot",
    "plot_to",
    is_flag=False,
    flag_value="",
    default=None,
    callback=_plot,
    metavar="[FILE]",
    help="Draw latency by throughput: on the terminal, or into FILE.png (needs jackfield[bench]).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    url: str,
    *,
    others: tuple[str, ...],
    connections: tuple[int, ...],
    rates: tuple[float, ...] | None,
    rounds: int | None,
    request: IO[bytes] | None,
    plot_to: str | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401  click's
) -> None:
    """Measure how the server at URL, http:// or grpc://, answers for MODEL under load.

    Closed loop (--connections): throughput, and latency at a number of callers. Open loop (--rate):
    latency at a rate, counted from when each request was due. docs/bench.md says what the numbers
    are, and when to trust them.
    """
    from jackfield._cli.bench import bench_servers
    from jackfield._load.session import Settings

    settings = Settings(
        urls=[url, *others],
        connections=connections or ((1, 16, 64) if rates == () else ()),
        rates=rates or (),
        is_sweep=rates is None,
        rounds=rounds or (3 if others else 1),
        request=request.read() if request else None,
        **options,
    )
    path = Path(plot_to) if plot_to else None
    sys.exit(bench_servers(settings, plot_to=path, has_plot=plot_to is not None, as_json=as_json))


def _columns(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Split ``INPUT=COLUMN,COLUMN``."""
    columns = {}
    for text in value:
        name, equals, names = text.partition("=")
        found = tuple(each.strip() for each in names.split(",") if each.strip())
        if not equals or not name or not found:
            message = f"expected INPUT=COLUMN,..., found '{text}'"
            raise click.BadParameter(message)
        columns[name.strip()] = found
    return columns


def _pairs(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, str]:
    """Split ``KEY=VALUE``."""
    pairs = {}
    for text in value:
        name, equals, rest = text.partition("=")
        if not equals or not name:
            message = f"expected KEY=VALUE, found '{text}'"
            raise click.BadParameter(message)
        pairs[name.strip()] = rest
    return pairs


def _names(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _keep(context: click.Context, option: click.Parameter, value: str) -> str | tuple[str, ...]:
    return value if value in ("all", "none") else _names(context, option, value)


# as `jackfield.score.FORMATS`, whose package needs pyarrow
_FORMATS = click.Choice(["auto", "parquet", "csv", "ndjson", "delta"])


@cli.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--output",
    "-o",
    required=True,
    help="File (.parquet, .csv, .ndjson), or a folder of parts (no suffix); there when complete.",
)
@click.option("--name", default="", help="Which model, where several are at MODEL.")
@click.option("--version", default="", help="Which version.  [default: the newest]")
@click.option(
    "--engine", default="local", show_default=True, help="What runs it; spark needs a plugin."
)
@click.option("--input-format", type=_FORMATS, default="auto", show_default=True)
@click.option("--output-format", type=_FORMATS, default="auto", show_default=True)
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    metavar="INPUT=COLUMN,...",
    help="Columns that an input of the model is read from.  [default: by name]",
)
@click.option(
    "--outputs",
    default="",
    callback=_names,
    metavar="NAME,...",
    help="Outputs of the model.  [default: its default ones]",
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    callback=_pairs,
    metavar="KEY=JSON",
    help="Parameter of each request.",
)
@click.option(
    "--keep",
    default="all",
    show_default=True,
    callback=_keep,
    metavar="all|none|NAME,...",
    help="Columns of the input that the output has, too.",
)
@click.option("--prefix", default="", help="Put before the name of each output's column.")
@click.option(
    "--rejects", default="", help="File of rows that fail.  [default: OUTPUT.rejects.ndjson]"
)
@click.option(
    "--max-rejects",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Most rows that may fail; the exit code is 3 beyond.",
)
@click.option(
    "--rows-per-batch",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="Rows of one call of the model.",
)
@click.option(
    "--rows-per-part",
    type=click.IntRange(min=1),
    default=10_000_000,
    show_default=True,
    help="Most rows of a part, before which a run that is killed need not go back; a part ends "
    "after half a minute, too.",
)
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="For all.  [default: the cores]"
)
@click.option("--restart", is_flag=True, help="Begin anew, and replace an output that is there.")
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    callback=_pairs,
    metavar="KEY=VALUE",
    help="Setting of the engine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def score(model: str, *, engine: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401  click's
    """Apply MODEL, as serve takes it, to the table at INPUT: Parquet, CSV, NDJSON or Delta.

    A run that is killed goes on where it was when the same command is given again. A row that the
    model refuses goes to the rejects file; each row is in one of the two. The exit code is 0 if all
    rows were scored, 3 if more than --max-rejects were not.
    """
    from jackfield._cli.score import score_table

    sys.exit(score_table(model, engine=engine, as_json=as_json, options=options))


@cli.command()
@click.option("--trace", is_flag=True, help="Print the imports and hook calls, with times.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, trace: bool, as_json: bool) -> None:
    """List the installed plugins and their runtimes; no framework is imported."""
    from jackfield._cli.plugins import list_plugins

    list_plugins(trace=trace, as_json=as_json)


def _tolerances(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """Read OUTPUT=RTOL or OUTPUT=RTOL,ATOL."""
    found = {}
    for text in value:
        number = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
        match = re.fullmatch(f"(.+)={number}(?:,{number})?", text)
        if match is None:
            message = f"expected OUTPUT=RTOL or OUTPUT=RTOL,ATOL, found '{text}'"
            raise click.BadParameter(message)
        output, rtol, atol = match.groups(default="0")
        found[output] = float(rtol), float(atol)
    return found


@cli.group()
def golden() -> None:
    """Hold a model to answers that are known: its golden samples."""


@golden.command("record")
@click.argument("path")
@click.option(
    "--request",
    "requests",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of a JSON inference request; several may be given. Without one the golden samples "
    "that there are get new answers.",
)
@click.option("--model", default="", help="Name of the model, where PATH has several.")
@click.option("--version", default="", help="Its version.  [default: the newest]")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write.  [default: the folder golden beside the model's settings]",
)
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="OUTPUT=RTOL[,ATOL]",
    callback=_tolerances,
    help="How far an output may be from what is recorded.  [default: by its datatype]",
)
def record(path: str, **options: Any) -> None:  # noqa: ANN401  click's
    """Let the model at PATH answer requests, and write down what it says as golden samples."""
    from jackfield._cli.golden import record_golden

    sys.exit(record_golden(path, **options))


_CACHED = ("environments", "artifacts")


@cli.command()
@click.argument("kinds", nargs=-1, type=click.Choice(_CACHED), metavar="[environments] [artifacts]")
@click.option("--prune", is_flag=True, help="Remove what no server uses.")
@click.option(
    "--unused-days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="With --prune: leave what was used within so many days. With 0, the next load also takes "
    "the newest packages that fit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cache(kinds: tuple[str, ...], *, prune: bool, unused_days: float, as_json: bool) -> None:
    """List the environments made for models and the artifacts fetched, or remove some."""
    from jackfield._cli.cache import list_cache, prune_cache

    if prune:
        prune_cache(kinds or _CACHED, unused_days=unused_days, as_json=as_json)
    else:
        list_cache(kinds or _CACHED, as_json=as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="NAME")
def init(folder: Path) -> None:
    """Write a model with code of its own into the folder NAME; it serves at once."""
    from jackfield._cli.init import write_model

    write_model(folder)


def _plugin_name(context: click.Context, option: click.Parameter, value: str) -> str:
    from jackfield._cli.new_plugin import check_name

    if problem := check_name(value):
        raise click.BadParameter(problem)
    return value


@cli.command("new-plugin")
@click.argument("name", callback=_plugin_name)
@click.option(
    "--parent",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Folder to write it in.  [default: the working folder]",
)
def new_plugin(name: str, parent: Path) -> None:
    """Write a runtime plugin, jackfield-NAME: a distribution that works, with its tests."""
    from jackfield._cli.new_plugin import write_plugin

    write_plugin(name, parent)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(*, as_json: bool) -> None:
    """Print the versions of jackfield, its plugins and Python."""
    from jackfield._cli.plugins import list_versions

    list_versions(as_json=as_json)
