"""Write the pages that are made from the code: hooks.md, settings.md and errors.md.

`python docs/generate.py` rewrites them; with `--check` it only tells which are stale.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec

from jackfield import errors, hookspecs, settings, window
from jackfield._cli import cli
from jackfield._grpc.errors import STATUS as GRPC_STATUS
from jackfield._http.errors import STATUS as HTTP_STATUS
from jackfield.messages import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

FOLDER = Path(__file__).parent

# ---- hooks.md ----

#: Sections of a hook's docstring, in order; `Args` where the hook has arguments.
SECTIONS = ("When", "Args", "Returns", "Errors", "Example", "Since")
_SECTION = re.compile(r"^(\w+):\n((?: {4}.*\n?|\n)+)", re.MULTILINE)
_BANNER = re.compile(r"^# ---- (?P<title>.+) ----$")
_ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)


class Hook(msgspec.Struct, frozen=True):
    """One hook as hookspecs.py declares it."""

    name: str
    signature: str
    phase: str
    duty: str
    #: Section -> its text, in the docstring's order.
    sections: dict[str, str]


def read_hooks() -> list[Hook]:
    """Read every hook of hookspecs.py, its phase from the comment above its group."""
    source = _source(hookspecs)
    phases = {
        number: match["title"]
        for number, line in enumerate(source.splitlines(), start=1)
        if (match := _BANNER.match(line))
    }
    hooks = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            returns = ast.unparse(node.returns) if node.returns else "None"
            hooks.append(
                Hook(
                    name=node.name,
                    signature=f"{node.name}({ast.unparse(node.args)}) -> {returns}",
                    phase=phases[max(number for number in phases if number < node.lineno)],
                    duty=docstring.partition("\n")[0],
                    sections={
                        title: re.sub(r"^ {4}", "", text, flags=re.MULTILINE).strip()
                        for title, text in _SECTION.findall(docstring)
                    },
                )
            )
    return hooks


def hooks_page() -> str:
    """Make hooks.md."""
    parts = [
        "# Hooks",
        (ast.get_docstring(ast.parse(_source(hookspecs))) or "").partition("\n\n")[2],
        "The entry point's name is the plugin's name, its value the module; the module's import "
        "stays light, since every start and `jackfield plugins` import it:\n\n"
        "```toml\n"
        '[project.entry-points.jackfield]\nonnx = "jackfield_onnx"\n'
        "```",
    ]
    phase = ""
    for hook in read_hooks():
        if hook.phase != phase:
            phase = hook.phase
            parts.append(f"## {phase[0].upper()}{phase[1:]}")
        parts += [f"### `{hook.signature}`", hook.duty]
        for title, text in hook.sections.items():
            body = _ARGUMENT.sub(r"- `\1`: ", text) if title == "Args" else text
            between = "\n\n" if title in ("Args", "Example") else " "
            parts.append(f"**{title}.**{between}{body}")
    return _page("core/src/jackfield/hookspecs.py", parts)


# ---- settings.md ----

_SETTINGS_INTRODUCTION = """\
Where a value comes from, strongest first:

- **the server**: option of `jackfield serve` > `JACKFIELD_…` > `MLSERVER_…` > `settings.json` in a
  served folder > default. `MLSERVER_…` takes the same names as `JACKFIELD_…`, and MLServer's own.
- **a model**: `JACKFIELD_MODEL_…` > `MLSERVER_MODEL_…` > its `model-settings.json` > default. The
  variables count where one path with one model is served: several models would share them. Without
  a `model-settings.json`, a name, implementation or uri among them stands for one (KServe does so).

Variables are also read from a file `.env` in the working folder, the process's own before them.
`JACKFIELD_PLUGINS` names the plugins to use, with commas between; all are used without it. A
setting without a variable below is set in the file only. An embedded `Server` is given its
`ServerSettings`; it reads no file and no variable for them.

What happens to an unknown name:

- an option, or a variable `JACKFIELD_…` for the server: an error that names the nearest known one;
- in `settings.json`, or a variable `MLSERVER_…`: a warning, since the file may be MLServer's;
- in `model-settings.json`: an error, unless `implementation` is a dotted class name, as MLServer's
  are; then a warning, and an unknown key of `parameters` is kept in `parameters.extra`."""


def settings_page() -> str:
    """Make settings.md."""
    options = {
        str(each.name): " / ".join([*each.opts, *each.secondary_opts])
        for each in cli.commands["serve"].params
    }
    return _page(
        "core/src/jackfield/settings.py",
        [
            "# Settings",
            _SETTINGS_INTRODUCTION,
            "## The server",
            "In `settings.json`, directly in a folder that is given to `jackfield serve`; at most "
            "one folder brings it.",
            _settings_table(settings.ServerSettings, "JACKFIELD_", options),
            "## A model",
            "In the model's `model-settings.json`.",
            _settings_table(settings.ModelSettings, "JACKFIELD_MODEL_"),
            f"Each of `inputs` and `outputs` has {_names(TensorMetadata)}.",
            "### parameters",
            _settings_table(settings.ModelParameters, "JACKFIELD_MODEL_"),
            "### environment",
            "An object, or its `path` alone; [Environments](environments.md) has how it is made.",
            _settings_table(settings.EnvironmentSettings),
            "### version_policy",
            "`all`, or an object; [Versions and hot reload](reload.md) has how versions lie.",
            _settings_table(settings.VersionPolicy),
            "### monitors",
            "Each of `monitors`; [Monitors](monitors.md) has how they work.",
            _settings_table(settings.MonitorSettings),
            "Its `window`, where it is an object:",
            _settings_table(window.WindowSettings),
            "Its `webhook`:",
            _settings_table(settings.WebhookSettings),
            "## MLServer's other names",
            "Server settings of MLServer that are not ours by the same name. Each is read from "
            "`settings.json` and from `MLSERVER_…`; one without effect gives a warning.",
            _table(("MLServer's name", "here"), _mlserver_rows()),
        ],
    )


def variable(prefix: str, field: msgspec.structs.FieldInfo) -> str:
    """Name the environment variable of a field; empty for what belongs to a model's file."""
    kind = get_args(field.type)[0]
    in_file_only = prefix != "JACKFIELD_" and (
        get_origin(kind) in (list, dict) or isinstance(kind, type(msgspec.Struct))
    )
    return "" if in_file_only else prefix + field.name.upper()


def _settings_table(
    kind: type[msgspec.Struct], prefix: str = "", options: dict[str, str] | None = None
) -> str:
    """Make the table of a Struct's fields; without a prefix they are set in the file only."""
    rows = []
    for name, field in settings.fields(kind).items():
        # one cell for both ways to set it, so that the table fits a page
        ways = [variable(prefix, field), (options or {}).get(name, "")]
        rows.append(
            (
                f"`{name}`",
                spell_type(field.type),
                _spell_default(field),
                *(["<br>".join(f"`{way}`" for way in ways if way)] if prefix else []),
                settings.description(field),
            )
        )
    how = ["environment, option" if options else "environment"] if prefix else []
    return _table(("name", "type", "default", *how, "what it does"), rows)


def _spell_default(field: msgspec.structs.FieldInfo) -> str:
    default = settings.default(field)
    if default is msgspec.NODEFAULT:
        return "needed"
    return f"`{'{}' if isinstance(default, msgspec.Struct) else _json(default)}`"


def _mlserver_rows() -> Iterator[tuple[str, str]]:
    for name, entry in settings._MLSERVER.items():
        stands = f"no effect: {entry}" if isinstance(entry, str) else f"`{entry[0]}`"
        yield f"`{name}`", stands


def spell_type(kind: Any) -> str:  # noqa: ANN401  a type form of any kind
    """Spell a field's type and its bounds in words."""
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        limits = [
            f"{sign} {value}"
            for meta in metas
            for sign, value in (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt))
            if value is not None
        ]
        return ", ".join([spell_type(inner), *limits])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{_json(value)}`" for value in get_args(kind))
    if kind is type(None):
        return "`None`"
    if any(get_origin(each) is Annotated for each in get_args(kind)):
        return " or ".join(map(spell_type, get_args(kind)))
    name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return f"`{re.sub(r'[a-z_.]+[.](?=[A-Za-z])', '', name).replace(' | ', ' or ')}`"


# ---- errors.md ----

#: One error of each class that is raised, with the facts of a made-up case.
EXAMPLES: tuple[errors.JackfieldError, ...] = (
    errors.InvalidRequestError(
        "inputs[0].shape", expected="an integer of 0 or more", found="-1", model="iris"
    ),
    errors.ModelNotFoundError("irsi", close=["iris"]),
    errors.PayloadTooLargeError(67108864, 80000000),
    errors.NotServedError("system shared memory", setting="shared_memory"),
    errors.ModelNotReadyError("iris", "2", reason="loading"),
    errors.ServerNotReadyError("it was not started; enter 'async with server:'"),
    errors.OverloadedError("iris", limit=1000),
    errors.DeadlineError("iris", timeout_s=0.5),
    errors.RuntimeFailedError("iris", "2"),
    errors.CallTimeoutError("http://localhost:8080", timeout_s=5),
    errors.BadAnswerError("http://localhost:8080", "expected JSON, found '<html>'"),
    errors.RemoteNotFoundError(404, "model 'irsi' is not served here; did you mean 'iris'"),
    errors.RemoteCapacityError("UNAVAILABLE", "model 'iris' is not ready: loading"),
    errors.SettingsError(
        "environment variable JACKFIELD_HTTP_PRT",
        "unknown setting 'http_prt'; did you mean 'http_port'",
    ),
    errors.PluginError("jackfield-onnx", "0.1.0", "ImportError: no module named 'onnxruntime'"),
    errors.DeadlyRequestError("iris", "2", how="was killed by signal 11 (SIGSEGV)"),
    errors.ProcessDiedError("its process was killed by signal 9 (SIGKILL)"),
    errors.CrashLoopError("5 workers in a row ended before they served; the log tells more"),
    errors.ModelLoadError("its artifact 'model.joblib' is missing"),
    errors.ScoreError("the table has no column 'ash'"),
)


def walk_errors(
    root: type[errors.JackfieldError] = errors.JackfieldError,
) -> Iterator[type[errors.JackfieldError]]:
    """Walk the classes of errors.py, each before those that derive from it."""
    yield root
    for child in root.__subclasses__():
        # a class with two parents is drawn under its first
        if child.__module__ == errors.__name__ and child.__base__ is root:
            yield from walk_errors(child)


def errors_page() -> str:
    """Make errors.md."""
    drawn, _, rest = (
        (ast.get_docstring(ast.parse(_source(errors))) or "").partition("\n\n")[2].partition("\n\n")
    )
    rows = [
        (
            f"`{kind.__name__}`",
            _first_line(kind),
            kind.fault.value,
            str(HTTP_STATUS[kind.fault]),
            GRPC_STATUS[kind.fault].name,
        )
        for kind in walk_errors()
    ]
    texts = []
    for error in EXAMPLES:
        facts = ", ".join(f"`{fact}`" for fact in vars(error))
        texts.append(f"- `{type(error).__name__}` ({facts}):\n  > {error}")
    return _page(
        "core/src/jackfield/errors.py",
        [
            "# Errors",
            rest,
            f"```\n{drawn}\n```",
            "## Faults and statuses",
            'REST answers the status with the body `{"error": "…"}`, gRPC the code with the text '
            "as its details. A `CapacityError` also tells when to come back: `Retry-After` in "
            "seconds, `grpc-retry-pushback-ms` in milliseconds.",
            _table(("class", "when", "fault", "HTTP", "gRPC"), rows),
            "## Texts",
            "An example of each class that is raised, with the attributes that hold its facts.",
            "\n".join(texts),
        ],
    )


# ---- all pages ----


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text("utf-8")


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _names(kind: type[msgspec.Struct]) -> str:
    names = [f"`{field.encode_name}`" for field in msgspec.structs.fields(kind)]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = ((cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _page(source: str, parts: Iterable[str]) -> str:
    note = f"<!-- Made from {source} by docs/generate.py; edit that file, not this page. -->"
    return "\n\n".join([note, *parts]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "hooks.md": hooks_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
}


def stale_pages() -> dict[Path, str]:
    """Find the pages that differ from the code: file -> what it should hold."""
    wanted = {FOLDER / name: make() for name, make in PAGES.items()}
    return {
        file: text
        for file, text in wanted.items()
        if not file.is_file() or file.read_text("utf-8") != text
    }


def main(arguments: list[str]) -> int:
    """Rewrite stale pages, or with `--check` only name them; returns the exit code."""
    stale = stale_pages()
    for file, text in stale.items():
        sys.stdout.write(f"{file.name} differs from the code\n")
        if "--check" not in arguments:
            file.write_text(text, "utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
