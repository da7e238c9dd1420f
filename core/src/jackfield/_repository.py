"""Where models come from: paths -> settings, versions, artifacts and the runtime that fits each.

Reads names and settings files. An artifact is opened only where its name leaves open which runtime
reads it, and then a bounded part of it is looked at: nothing here runs what it carries.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from jackfield._code import holds_module
from jackfield.artifacts import identify
from jackfield.errors import ModelLoadError, SettingsError
from jackfield.runtime import RuntimeSpec
from jackfield.settings import MODEL_FILE, ModelSettings, read_model_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jackfield._plugins import Plugins
    from jackfield.runtime import ArtifactFormat

#: A folder of this name holds a version, as Triton lays repositories out.
_VERSION_FOLDER = re.compile(r"^v?\d+(\.\d+)*$")
_CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
#: Two letters or more: a single one is a drive of Windows.
_URI_SCHEME = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]+)(?<!\.py):")
#: Suffixes of formats whose plugin may not be installed -> the plugin that reads them.
_SUFFIXES = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".ubj": "xgboost",
    ".bst": "xgboost",
    ".cbm": "catboost",
}
#: Files that make the folder which has them an artifact -> the plugin that reads it; the first
#: is known by its name alone.
_FOLDERS = {"MLmodel": "mlflow", "metadata/part-00000*": "mllib", "config.toml": "alibi-detect"}


_NO_SETTINGS = ModelSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model version as it lies on disk; `problem` says why it can't be loaded."""

    name: str
    version: str
    folder: Path
    settings: ModelSettings = _NO_SETTINGS
    artifact: Path | None = None
    #: What its runtime fetches itself; empty for none.
    uri: str = ""
    spec: RuntimeSpec | None = None
    #: All installed runtimes, by name.
    runtimes: Mapping[str, RuntimeSpec] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problem: str = ""


class Repository:
    """The models under the paths that the operator named.

    Args:
        paths: Artifact files, Python files (``model.py``, ``model.py:Class``), folders of
            models, and URIs that a runtime fetches itself (``models:/wine@champion``).
        plugins: What is installed.
        name: The name of the one model there, instead of the one that its file gives.
        environ: Environment variables, for a single model's settings.

    Raises:
        SettingsError: A path doesn't exist.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        plugins: Plugins,
        *,
        name: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.paths: list[Path] = []
        self._uris: list[str] = []
        for path in paths:
            given = Path(path)
            if given.exists() or _split_code(given)[0].is_file():
                self.paths.append(given.resolve())
            elif _scheme(str(path)):
                self._uris.append(str(path))
            else:
                raise SettingsError(str(path), "there is no such file or folder")
        self._plugins = plugins
        self._name = name
        # several models would share the variables, each meant for one
        self._environ = (environ or {}) if len(paths) == 1 else {}

    def scan(self) -> list[ModelSource]:
        """Find all models, in the order of the paths, then by name and version; then the URIs.

        Raises:
            SettingsError: A name was given, and there are several models.
        """
        found = [source for path in self.paths for source in self._scan(path)]
        found += [self._from_uri(uri) for uri in self._uris]
        runtimes = self._plugins.runtimes
        found = [dataclasses.replace(source, runtimes=runtimes) for source in found]
        if self._name:
            if len({source.name for source in found}) > 1:
                names = ", ".join(sorted({source.name for source in found}))
                raise SettingsError("option --name", f"several models are there: {names}")
            found = [dataclasses.replace(source, name=self._name) for source in found]
        return list(_refuse_doubles(_refuse_bad_name(source) for source in found))

    def _scan(self, path: Path) -> Iterator[ModelSource]:
        file, name = _split_code(path)
        if path.name == MODEL_FILE:
            yield self._from_settings(path, self._environ)
        elif file.suffix == ".py" and file.is_file():
            yield _from_code(file, name)
        elif path.is_file():
            artifact = self._folder_of(path) or path
            yield self._from_artifact(artifact, name=_title(artifact), version="")
        else:
            files = sorted(_visible(path, path.rglob(MODEL_FILE)))
            for file in files:
                yield self._from_settings(file, self._environ if len(files) == 1 else {})
            if not files:
                yield from self._from_folder(path)

    def _from_settings(self, file: Path, environ: Mapping[str, str]) -> ModelSource:
        folder = file.parent
        is_version = _VERSION_FOLDER.match(folder.name) is not None
        name = folder.parent.name if is_version else folder.name
        try:
            settings, warnings = read_model_settings(file, environ=environ)
        except SettingsError as error:
            return ModelSource(name=name, version="", folder=folder, problem=str(error))
        source = self._resolve(name, settings, folder, tuple(warnings))
        if is_version and not settings.name and not source.version:
            source = dataclasses.replace(source, version=folder.name)
        return source

    def _from_folder(self, root: Path) -> Iterator[ModelSource]:
        """Find artifacts without settings: `a.joblib`, `b/model.joblib`, `c/2/model.ubj`."""
        by_title: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
        for place in sorted(self._places(root)):
            rank = 0 if place.is_dir() else self._rank(place)
            if rank is not None:
                by_title.setdefault((place.parent, _title(place)), []).append((rank, place))
        if len(by_title) <= 1 and any(key.upper() in _DESCRIBING for key in self._environ):
            settings, warnings = read_model_settings(None, environ=self._environ)
            yield self._resolve(root.name, settings, root, tuple(warnings))
            return
        for (folder, title), ranked in by_title.items():
            artifact = min(ranked)[1]
            # a version's folder holds the artifact, or is it
            versioned = artifact if artifact.is_dir() else folder
            is_version = versioned != root and _VERSION_FOLDER.match(versioned.name) is not None
            home = versioned.parent if is_version else folder
            is_nameless = title == "model" or (is_version and versioned == artifact)
            yield self._from_artifact(
                artifact,
                name=home.name if is_nameless and artifact != root else title,
                version=versioned.name if is_version else "",
            )

    def _places(self, folder: Path) -> Iterator[Path]:
        """Walk through files and the folders that are artifacts, into which it does not look."""
        for place, folders, files in os.walk(folder):
            here = Path(place)
            if self._folder_framework(here):
                folders.clear()
                yield here
                continue
            # as MLServer leaves out what is hidden
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = (here / name for name in files if not name.startswith("."))
            yield from (path for path in paths if path.is_file())

    def _folder_framework(self, folder: Path) -> str:
        """Name the runtime for a folder that is an artifact; empty for any other folder."""
        for spec, form in self._readers():
            if form.is_folder and is_artifact(folder, spec, form):
                return spec.name
        for pattern, plugin in _FOLDERS.items():  # of a plugin that may not be installed
            files = (file for file in folder.glob(pattern) if file.is_file())
            if plugin not in self._plugins.runtimes and any(
                file.name == pattern or _framework(file) == plugin for file in files
            ):
                return plugin
        return ""

    def _folder_of(self, file: Path) -> Path | None:
        """Find the artifact that a file makes of a folder."""
        folders = {form.pattern for _, form in self._readers() if form.is_folder}
        for pattern in folders | {*_FOLDERS}:
            folder = file.parents[pattern.count("/")]
            if fnmatch.fnmatch(str(file.relative_to(folder)), pattern):
                return folder if self._folder_framework(folder) else None
        return None

    def _from_uri(self, uri: str) -> ModelSource:
        # not of the host or the query, which may hold secrets
        parts = [part.partition("@")[0] for part in urlsplit(uri).path.split("/") if part]
        version = parts.pop() if len(parts) > 1 and _VERSION_FOLDER.match(parts[-1]) else ""
        # models:/NAME/STAGE, and NAME/latest
        name = parts[0 if _scheme(uri) == "models" else -1] if parts else ""
        source = ModelSource(name=name, version=version, folder=Path.cwd(), uri=uri)
        try:
            return dataclasses.replace(source, spec=self._fetching(uri, None))
        except ModelLoadError as error:
            return dataclasses.replace(source, problem=str(error))

    def _fetching(self, uri: str, spec: RuntimeSpec | None) -> RuntimeSpec:
        """Find the runtime that fetches a URI itself."""
        scheme = _scheme(uri)
        if spec is not None and scheme in spec.uri_schemes:
            return spec
        fetching = [each for each in self._plugins.runtimes.values() if scheme in each.uri_schemes]
        if spec is None and fetching:
            return fetching[0]
        if spec is not None and fetching:
            raise ModelLoadError(f"the runtime '{spec.name}' fetches nothing from '{scheme}:'")
        if scheme in _URI_PLUGINS:
            raise self._plugins.missing(_URI_PLUGINS[scheme])
        problem = f"artifacts can't be fetched from '{scheme}:' yet; use a local path"
        raise ModelLoadError(problem)

    def _from_artifact(self, file: Path, *, name: str, version: str) -> ModelSource:
        try:
            spec = self._detect(file)
        except ModelLoadError as error:
            return ModelSource(name=name, version=version, folder=file.parent, problem=str(error))
        return ModelSource(name=name, version=version, folder=file.parent, artifact=file, spec=spec)

    def _resolve(
        self, name: str, settings: ModelSettings, folder: Path, warnings: tuple[str, ...]
    ) -> ModelSource:
        """Find the runtime and the artifact that the settings mean."""
        source = ModelSource(
            name=settings.name or name,
            version=settings.parameters.version,
            folder=folder,
            settings=settings,
            warnings=warnings,
        )
        try:
            spec = self._implementation(settings.implementation, folder)
            if _scheme(uri := settings.parameters.uri):
                return dataclasses.replace(source, uri=uri, spec=self._fetching(uri, spec))
            place = _place(uri, folder)
            if spec is None:
                artifact = self._pick(place, None)
                spec = self._detect(artifact)
            else:
                artifact = self._pick(place, spec) if spec.artifacts else place
        except ModelLoadError as error:
            return dataclasses.replace(source, problem=str(error))
        return dataclasses.replace(source, artifact=artifact, spec=spec)

    def _implementation(self, implementation: str, folder: Path) -> RuntimeSpec | None:
        if not implementation:
            return None
        if spec := self._plugins.find(implementation):
            return spec
        module, _, class_name = implementation.rpartition(".")
        if not module or not _has_code(folder, module):
            raise self._plugins.missing(implementation)
        return RuntimeSpec(name=implementation, runtime=f"{module}:{class_name}")

    def _readers(self) -> list[tuple[RuntimeSpec, ArtifactFormat]]:
        return [(spec, form) for spec in self._plugins.runtimes.values() for form in spec.artifacts]

    def _rank(self, file: Path) -> int | None:
        """Tell which reader of all takes a file first; None if it is no model that is known."""
        readers = self._readers()
        ranks = [
            rank
            for rank, (_, form) in enumerate(readers)
            if fnmatch.fnmatch(file.name, form.pattern) and not form.is_folder
        ]
        for rank in ranks:
            if _is_of(file, *readers[rank]):
                return rank
        # a model nevertheless, if its plugin is only missing
        is_lost = bool(ranks) and _framework(file) not in ("", *self._plugins.runtimes)
        return len(readers) if is_lost else None

    def _pick(self, place: Path, spec: RuntimeSpec | None) -> Path:
        """Choose the artifact in a folder, or the folder: the first pattern with a match wins."""
        if place.is_file():
            return self._folder_of(place) or place
        if folder := self._pick_folder(place, spec):
            return folder
        readers = [(spec, form) for form in spec.artifacts] if spec else self._readers()
        for reader, form in readers:
            files = sorted(
                file
                for file in place.glob(form.pattern)
                # who names the runtime means the file of the usual name, whatever is in it
                if file.is_file()
                and not form.is_folder
                and ((spec and file.name == form.pattern) or _is_of(file, reader, form))
            )
            if len(files) > 1:
                raise _several(place, files)
            if files:
                return files[0]
        if spec is None:
            for file in sorted(place.glob("*")):
                if file.is_file() and self._rank(file) is not None:
                    return file
        patterns = ", ".join(form.pattern for _, form in readers)
        problem = f"no artifact is in '{place}'; looked for {patterns or 'none'}"
        raise ModelLoadError(problem)

    def _pick_folder(self, place: Path, spec: RuntimeSpec | None) -> Path | None:
        """Choose the folder that is an artifact: this one, or the only one in it."""
        if spec is not None and not any(form.is_folder for form in spec.artifacts):
            return None
        below = sorted(path for path in _visible(place, place.glob("*")) if path.is_dir())
        for folders in ([place], below):
            found = [folder for folder in folders if self._is_artifact(folder, spec)]
            if len(found) > 1:
                raise _several(place, found)
            if found:
                return found[0]
        return None

    def _is_artifact(self, folder: Path, spec: RuntimeSpec | None) -> bool:
        """Tell whether a folder is an artifact, of one runtime or of any."""
        if spec is None:
            return bool(self._folder_framework(folder))
        return any(form.is_folder and is_artifact(folder, spec, form) for form in spec.artifacts)

    def _detect(self, artifact: Path) -> RuntimeSpec:
        """Find the one runtime that reads an artifact: by its name, else by its content."""
        if artifact.is_dir():
            framework = self._folder_framework(artifact)
            if spec := self._plugins.runtimes.get(framework):
                return spec
            raise self._plugins.missing(framework)
        claims = [
            (spec, form)
            for spec, form in self._readers()
            if fnmatch.fnmatch(artifact.name, form.pattern) and not form.is_folder
        ]
        claimants = {spec.name: spec for spec, _ in claims}
        sure = {spec.name: spec for spec, form in claims if not form.by_content}
        if len(claimants) == 1 and sure:
            return claims[0][0]
        content = _content(artifact)
        if spec := claimants.get(content.framework):
            return spec
        if len(sure) == 1:
            return next(iter(sure.values()))
        if spec := self._plugins.runtimes.get(content.framework):
            return spec
        if content.framework:
            missing = self._plugins.missing(content.framework)
            raise ModelLoadError(f"'{artifact.name}' is {content.title}; {missing}")
        if sure:
            names = " or ".join(f"'{name}'" for name in sure)
            problem = f"'{artifact.name}' may be for {names}; set implementation to one of them"
            raise ModelLoadError(problem)
        plugin = _SUFFIXES.get(artifact.suffix)
        if plugin and plugin not in self._plugins.runtimes:
            raise self._plugins.missing(plugin)
        known = ", ".join(form.pattern for _, form in self._readers())
        what = f", which is {content.title}" if claims else f"; known are: {known or 'none'}"
        problem = f"no installed runtime reads '{artifact.name}'{what}"
        raise ModelLoadError(problem)


class _Content(NamedTuple):
    """What a file's content tells: name of a plugin, or empty; and in words."""

    framework: str
    title: str


def _title(artifact: Path) -> str:
    """Name an artifact: a file without its suffix; a folder has none."""
    return artifact.name if artifact.is_dir() else artifact.stem


def _several(place: Path, found: Sequence[Path]) -> ModelLoadError:
    names = ", ".join(path.name for path in found)
    return ModelLoadError(
        f"several artifacts are in '{place}': {names}; name one in parameters.uri"
    )


def is_artifact(path: Path, spec: RuntimeSpec, form: ArtifactFormat) -> bool:
    """Tell whether a file, or a folder by what it has, is an artifact of a form."""
    if form.is_folder:
        return any(file.is_file() and _is_of(file, spec, form) for file in path.glob(form.pattern))
    return fnmatch.fnmatch(path.name, form.pattern) and _is_of(path, spec, form)


def _is_of(file: Path, spec: RuntimeSpec, form: ArtifactFormat) -> bool:
    """Tell whether a file whose name is of a form is of that form."""
    return not form.by_content or _framework(file) == spec.name


def _framework(file: Path) -> str:
    """Tell which framework wrote a file; empty where that is not known."""
    try:
        return _content(file).framework
    except ModelLoadError:  # it may not be read, or is gone
        return ""


def _content(file: Path) -> _Content:
    """Look into a file.

    Raises:
        ModelLoadError: It can't be read.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise ModelLoadError(f"'{file.name}' can't be read: {error.strerror or error}") from error
    return _identify_state(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@functools.lru_cache(maxsize=4096)
def _identify_state(file: Path, _mtime_ns: int, _size: int, _inode: int) -> _Content:
    """Look into a file once for each state of it: the index is made anew for each who asks."""
    found = identify(file)
    return _Content(found.framework, found.title)


#: Variables that stand for a settings file: KServe describes the model of a pod by these alone.
_DESCRIBING = {
    f"{prefix}_MODEL_{name}"
    for prefix in ("JACKFIELD", "MLSERVER")
    for name in ("NAME", "IMPLEMENTATION", "URI")
}


def _visible(root: Path, paths: Iterator[Path]) -> Iterator[Path]:
    """Leave out what lies in hidden folders, as MLServer does."""
    for path in paths:
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


#: Scheme of a URI -> the plugin that fetches it.
_URI_PLUGINS = {"models": "mlflow", "runs": "mlflow", "mlflow-artifacts": "mlflow"}


def _scheme(uri: str) -> str:
    """Tell the scheme of a URI; empty for a path on this machine."""
    match = _URI_SCHEME.match(uri)
    return match["scheme"].lower() if match and match["scheme"].lower() != "file" else ""


def _place(uri: str, folder: Path) -> Path:
    if uri.startswith("file:"):
        uri = uri.removeprefix("file:").removeprefix("//")
    place = (folder / uri).resolve()
    if not place.exists():
        problem = f"its artifact '{place}' is missing (parameters.uri is '{uri}')"
        raise ModelLoadError(problem)
    return place


def _split_code(path: Path) -> tuple[Path, str]:
    """Split ``mymodel.py:MyModel``; the name is empty where there is none."""
    match = _CODE.fullmatch(path.name)
    return (path.with_name(match["file"]), match["name"]) if match else (path, "")


def _from_code(file: Path, name: str) -> ModelSource:
    """Make a model of a Python file, and of the class or function that is named in it, if any."""
    spec = RuntimeSpec(name=f"{file.stem}.{name or 'py'}", runtime=f"{file.stem}:{name}")
    folder = file.parent
    return ModelSource(
        name=name or file.stem, version="", folder=folder, artifact=folder, spec=spec
    )


def _has_code(folder: Path, module: str) -> bool:
    """Tell whether a dotted class path means the model's own code or something installed."""
    from importlib.util import find_spec

    if holds_module(folder, module):
        return True
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _refuse_bad_name(source: ModelSource) -> ModelSource:
    """Refuse names that no route can carry."""
    for what, text in (("name", source.name), ("version", source.version)):
        if "/" in text or (what == "name" and text in ("", "stats")):
            problem = f"the {what} '{text}' can't stand in a URL: it is empty, taken or has a '/'"
            return dataclasses.replace(source, problem=problem)
    return source


def _refuse_doubles(sources: Iterator[ModelSource]) -> Iterator[ModelSource]:
    taken: dict[tuple[str, str], ModelSource] = {}
    for source in sources:
        key = source.name, source.version
        if other := taken.get(key):
            version = f" version '{source.version}'" if source.version else ""
            problem = f"'{source.folder}' has the model '{source.name}'{version} too; rename one"
            # the first one keeps its place: it may be serving
            taken[key] = dataclasses.replace(other, warnings=(*other.warnings, problem))
            continue
        taken[key] = source
    yield from taken.values()
