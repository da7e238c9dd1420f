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
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from jackfield._code import holds_module
from jackfield._consent import find_code, find_liberties, refuse
from jackfield._sources.address import parse
from jackfield._sources.fetch import Fetched, Sources, SourceSettings
from jackfield._versions import choose_versions, version_key
from jackfield.artifacts import identify
from jackfield.errors import ModelLoadError, SettingsError
from jackfield.runtime import RuntimeSpec
from jackfield.settings import MODEL_FILE, ModelSettings, read_model_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from jackfield._plugins import Plugins
    from jackfield.runtime import ArtifactFormat

#: A folder of this name holds a version, as Triton lays repositories out.
_VERSION_FOLDER = re.compile(r"^v?\d+(\.\d+)*$")
_CODE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)")
#: A slash, control characters, which would be in the log, too, and what a file's name has in place
#: of bytes that are no UTF-8.
_NOT_IN_URLS = re.compile(r"[/\x00-\x1f\x7f\ud800-\udfff]")
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
    #: What `Repository.fetch` fetches before it is loaded; its artifact is found then, and its
    #: runtime where the settings don't name one. Empty for none.
    remote: str = ""
    spec: RuntimeSpec | None = None
    #: All installed runtimes, by name.
    runtimes: Mapping[str, RuntimeSpec] = dataclasses.field(default_factory=dict)
    #: Files and folders that it is made of: where one of them changes, it is another model.
    parts: tuple[Path, ...] = ()
    #: Its own folders, in which its samples are looked for: its version's first.
    homes: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str = ""


class Repository:
    """The models under the paths that the operator named.

    Args:
        paths: Artifact files, Python files (``model.py``, ``model.py:Class``), folders of
            models, URIs of such files and folders (``s3://models/wine``), and URIs that a runtime
            fetches itself (``models:/wine@champion``).
        plugins: What is installed.
        name: The name of the one model there, instead of the one that its file gives.
        environ: Environment variables, for a single model's settings.
        sources: How URIs are fetched; the defaults if None.

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
        sources: SourceSettings | None = None,
    ) -> None:
        self.paths: list[Path] = []
        self._uris: list[str] = []
        for path in paths:
            given = Path(path)
            if given.exists() or _split_code(given)[0].is_file():
                # a link stays one: where it leads to may change while this serves
                self.paths.append(given.resolve() if ".." in given.parts else given.absolute())
            elif _scheme(str(path)):
                self._uris.append(_whole(str(path)))
            else:
                raise SettingsError(str(path), "there is no such file or folder")
        self._folders = [each for each in self.paths if each.is_dir()]
        self._plugins = plugins
        self._sources = Sources(plugins.sources, sources)
        #: What the URIs among the paths had when they were fetched last, or why they weren't.
        self._fetched: dict[str, Fetched | ModelLoadError] = {}
        self._fetching = threading.Lock()
        self._name = name
        # several models would share the variables, each meant for one
        self._environ = (environ or {}) if len(paths) == 1 else {}

    def scan(self, *, refresh: bool = False, must_exist: bool = False) -> list[ModelSource]:
        """Find all models, in the order of the paths, then by name and version; then the URIs.

        Versions that a model's policy leaves out are left out.

        Args:
            refresh: Look anew at what URIs among the paths have. Else they are fetched once.
            must_exist: A folder served that is gone is an error: one that is not mounted now must
                not look like one whose models were removed.

        Raises:
            SettingsError: A name was given, and there are several models; a folder is gone.
        """
        if must_exist and (gone := [each for each in self._folders if not each.is_dir()]):
            raise SettingsError(str(gone[0]), "the folder is gone")
        found = [source for path in self.paths for source in self._scan(path)]
        found += [source for uri in self._uris for source in self._from_uri(uri, refresh=refresh)]
        runtimes = self._plugins.runtimes
        found = [dataclasses.replace(source, runtimes=runtimes) for source in found]
        if self._name:
            if len({source.name for source in found}) > 1:
                names = ", ".join(sorted({source.name for source in found}))
                raise SettingsError("option --name", f"several models are there: {names}")
            found = [dataclasses.replace(source, name=self._name) for source in found]
        return _chosen(_refuse_doubles(_refuse_bad_name(source) for source in found))

    def _scan(self, path: Path) -> Iterator[ModelSource]:
        file, name = _split_code(path)
        if path.name == MODEL_FILE:
            yield from self._from_settings(path, self._environ)
        elif file.suffix == ".py" and file.is_file():
            yield _from_code(file, name)
        elif path.is_file():
            artifact = self._folder_of(path) or path
            source = self._from_artifact(artifact, name=_title(artifact), version="")
            is_alone = artifact.is_dir() or source.name == "model"
            homes = (artifact if artifact.is_dir() else path.parent,) if is_alone else ()
            yield dataclasses.replace(source, homes=homes)
        else:
            files = sorted(_visible(path, path.rglob(MODEL_FILE)))
            for file in files:
                yield from self._from_settings(file, self._environ if len(files) == 1 else {})
            if not files:
                yield from self._from_folder(path)

    def _from_settings(self, file: Path, environ: Mapping[str, str]) -> Iterator[ModelSource]:
        """Find the model that a settings file describes, or all versions in folders beside it."""
        folder = file.parent
        is_version = _is_version(folder)
        name = folder.parent.name if is_version else folder.name
        try:
            settings, warnings = read_model_settings(file, environ=environ)
        except SettingsError as error:
            parts = (folder,)
            yield ModelSource(name=name, version="", folder=folder, parts=parts, problem=str(error))
            return
        versions = [] if is_version or settings.parameters.version else _version_folders(folder)
        if versions and not self._is_versionless(settings, folder):
            for place in versions:
                if not (place / MODEL_FILE).is_file():
                    yield self._resolve(name, settings, folder, tuple(warnings), version=place.name)
            return
        version = folder.name if is_version and not settings.name else ""
        if is_version:
            settings = _inherit(settings, folder.parent / MODEL_FILE)
        source = self._resolve(name, settings, folder, tuple(warnings))
        yield source if source.version else dataclasses.replace(source, version=version)

    def _is_versionless(self, settings: ModelSettings, folder: Path) -> bool:
        """Tell whether the model is what lies beside its settings, not in the versions' folders."""
        uri = settings.parameters.uri
        try:
            if uri:
                return bool(_scheme(uri)) or _path(uri, folder).exists()
            spec = self._implementation(settings.implementation, folder)
            if spec is not None and not spec.artifacts:
                return False
            artifact = self._pick(folder, spec)
        except ModelLoadError:
            return False
        return not any(_is_version(place) for place in (artifact, artifact.parent))

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
            source = self._from_artifact(
                artifact,
                name=home.name if is_nameless and artifact != root else title,
                version=versioned.name if is_version else "",
            )
            homes = (versioned, home) if is_nameless else (artifact,) if artifact.is_dir() else ()
            yield dataclasses.replace(source, homes=tuple(dict.fromkeys(homes)))

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

    def fetch(self, source: ModelSource) -> ModelSource:
        """Fetch what a model's settings name by a URI, and find its artifact and runtime.

        It may take long. A model that has nothing to fetch is given back as it is; otherwise its
        settings name what was fetched, whose SHA-256 was checked.

        Raises:
            ModelLoadError: It can't be fetched, the operator's consent is lacking, or no runtime
                reads it.
        """
        if not source.remote or source.problem:
            return source
        parameters = source.settings.parameters
        fetched = self._sources.fetch(source.remote, parameters.sha256)
        settings = msgspec.structs.replace(
            source.settings,
            parameters=msgspec.structs.replace(parameters, uri=str(fetched.place), sha256=""),
        )
        if settings.own_environment is not None:
            if not (fetched.is_trusted or parameters.trust):
                why = "what reads it, in an environment of its own, is not known before"
                raise refuse(parse(source.remote).shown, why)
            return dataclasses.replace(source, remote="", settings=settings)
        artifact, spec = self._find_artifact(fetched.place, source.spec)
        if not (fetched.is_trusted or parameters.trust) and (why := find_code(spec, artifact)):
            raise refuse(parse(source.remote).shown, why)
        return dataclasses.replace(
            source, remote="", settings=settings, artifact=artifact, spec=spec
        )

    def _find_artifact(self, place: Path, spec: RuntimeSpec | None) -> tuple[Path, RuntimeSpec]:
        """Find what is to be loaded in a place, and the runtime for it."""
        if spec is None:
            artifact = self._pick(place, None)
            return artifact, self._detect(artifact)
        return self._pick(place, spec) if spec.artifacts else place, spec

    def _from_uri(self, uri: str, *, refresh: bool) -> Iterator[ModelSource]:
        if not self._sources.knows(_scheme(uri)):
            yield self._from_own_uri(uri)
            return
        with self._fetching:
            found = None if refresh else self._fetched.get(uri)
            if found is None:
                try:
                    found = self._sources.fetch(uri)
                except ModelLoadError as error:
                    found = error
                self._fetched[uri] = found
        if isinstance(found, ModelLoadError):
            source = _describe_uri(uri)
            is_file = any(fnmatch.fnmatch(source.name, form.pattern) for _, form in self._readers())
            name = PurePosixPath(source.name).stem if is_file else source.name
            yield dataclasses.replace(source, name=name, problem=str(found))
            return
        for source in self._scan(found.place):
            problem = source.problem
            if not found.is_trusted:
                why = find_liberties(source.settings)
                if not (why or problem):
                    why = find_code(source.spec, source.artifact)
                problem = str(refuse(parse(uri).shown, why)) if why else problem
            yield dataclasses.replace(source, problem=problem)

    def _from_own_uri(self, uri: str) -> ModelSource:
        """Make a model of a URI that its runtime fetches itself."""
        source = dataclasses.replace(_describe_uri(uri), uri=uri)
        try:
            return dataclasses.replace(source, spec=self._fetching_runtime(uri, None))
        except ModelLoadError as error:
            return dataclasses.replace(source, problem=str(error))

    def _fetching_runtime(self, uri: str, spec: RuntimeSpec | None) -> RuntimeSpec:
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
        known = ", ".join(sorted(self._plugins.sources))
        raise ModelLoadError(f"nothing fetches from '{scheme}:'; there are: {known}")

    def _from_artifact(self, file: Path, *, name: str, version: str) -> ModelSource:
        try:
            spec = self._detect(file)
        except ModelLoadError as error:
            source = ModelSource(name=name, version=version, folder=file.parent, parts=(file,))
            return dataclasses.replace(source, problem=str(error))
        return ModelSource(
            name=name, version=version, folder=file.parent, artifact=file, parts=(file,), spec=spec
        )

    def _resolve(
        self,
        name: str,
        settings: ModelSettings,
        folder: Path,
        warnings: tuple[str, ...],
        *,
        version: str = "",
    ) -> ModelSource:
        """Find the runtime and the artifact that the settings mean.

        Args:
            name: The model's name, where the settings have none.
            settings: Its settings.
            folder: Where they lie.
            warnings: About them.
            version: The folder beside them in which the version lies; empty for none.
        """
        home = folder / version
        parts: tuple[Path, ...] = (folder,)
        homes = (folder, folder.parent) if _is_version(folder) else (home, folder)
        if version:  # what lies beside the versions is of all of them
            beside = (each for each in folder.iterdir() if not _is_version(each))
            parts = (home, *_visible(folder, beside))
            if holds_module(home, settings.implementation.rpartition(".")[0]):
                folder = home
        source = ModelSource(
            name=settings.name or name,
            version=settings.parameters.version or version,
            folder=folder,
            settings=settings,
            parts=parts,
            homes=tuple(dict.fromkeys(homes)),
            warnings=warnings,
        )
        try:
            if settings.own_environment is not None:
                return self._leave_open(source, home)
            spec = self._implementation(settings.implementation, folder)
            if scheme := _scheme(uri := settings.parameters.uri):
                fetches = spec is not None and scheme in spec.uri_schemes
                if self._sources.knows(scheme) and not fetches:
                    return dataclasses.replace(source, remote=uri, spec=spec)
                return dataclasses.replace(source, uri=uri, spec=self._fetching_runtime(uri, spec))
            place = _place(uri, home)
            source = dataclasses.replace(source, parts=(*parts, place))
            artifact, spec = self._find_artifact(place, spec)
        except ModelLoadError as error:
            return dataclasses.replace(source, problem=str(error))
        return dataclasses.replace(source, artifact=artifact, spec=spec)

    def _leave_open(self, source: ModelSource, home: Path) -> ModelSource:
        """Give a model whose runtime its environment alone knows: `resolve` finds it there."""
        parameters = source.settings.parameters
        if scheme := _scheme(parameters.uri):
            remote = parameters.uri if self._sources.knows(scheme) else ""
            return dataclasses.replace(source, remote=remote)
        place = _path(parameters.uri, home)
        parameters = msgspec.structs.replace(parameters, uri=str(place))
        settings = msgspec.structs.replace(source.settings, parameters=parameters)
        return dataclasses.replace(source, settings=settings, parts=(*source.parts, place))

    def resolve(self, source: ModelSource) -> ModelSource:
        """Find the runtime and the artifact of a model that was found by another process.

        Args:
            source: Its settings name no environment of its own: it is looked for in this one.
        """
        found = self._resolve(source.name, source.settings, source.folder, source.warnings)
        return dataclasses.replace(
            found, name=source.name, version=source.version, runtimes=self._plugins.runtimes
        )

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


def _describe_uri(uri: str) -> ModelSource:
    """Give a URI's model the name and version that its path tells."""
    # not of the host or the query, which may hold secrets
    parts = [part.partition("@")[0] for part in urlsplit(uri).path.split("/") if part]
    version = parts.pop() if len(parts) > 1 and _VERSION_FOLDER.match(parts[-1]) else ""
    # models:/NAME/STAGE, and NAME/latest
    name = parts[0 if _scheme(uri) == "models" else -1] if parts else ""
    return ModelSource(name=name, version=version, folder=Path.cwd())


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


def _whole(uri: str) -> str:
    """Give a URI, if it is one."""
    try:
        urlsplit(uri)
    except ValueError:  # whose text may have a password
        raise SettingsError("a URI", "it is malformed: its host is none") from None
    return uri


def _path(uri: str, folder: Path) -> Path:
    if uri.startswith("file:"):
        uri = uri.removeprefix("file:").removeprefix("//")
    try:
        place = (folder / uri).resolve()
        place.exists()
    except (OSError, ValueError) as error:  # it is too long, or has what no path has
        raise ModelLoadError(f"parameters.uri can't be looked at: {error}") from error
    return place


def _place(uri: str, folder: Path) -> Path:
    place = _path(uri, folder)
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
        name=name or file.stem,
        version="",
        folder=folder,
        artifact=folder,
        parts=(folder,),
        homes=(folder,),
        spec=spec,
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


def _is_version(folder: Path) -> bool:
    return _VERSION_FOLDER.match(folder.name) is not None


def _version_folders(folder: Path) -> list[Path]:
    """List the folders of versions in a model's folder."""
    return [place for place in sorted(folder.iterdir()) if _is_version(place) and place.is_dir()]


def _inherit(settings: ModelSettings, above: Path) -> ModelSettings:
    """Take the model's name and policy from the file beside the versions' folders, if any."""
    try:
        shared, _ = read_model_settings(above, environ={})
    except SettingsError:  # there is none, or it is told for itself
        return settings
    return msgspec.structs.replace(
        settings,
        name=settings.name or shared.name,
        version_policy=settings.version_policy or shared.version_policy,
    )


def _chosen(sources: Iterable[ModelSource]) -> list[ModelSource]:
    """Leave out the versions that a model's policy leaves out."""
    by_name: dict[str, dict[str, ModelSource]] = {}
    found = list(sources)
    for source in found:
        by_name.setdefault(source.name, {})[source.version] = source
    chosen = {name: _choose(versions) for name, versions in by_name.items()}
    return [
        dataclasses.replace(source, **chosen[source.name][source.version])
        for source in found
        if source.version in chosen[source.name]
    ]


def _choose(versions: Mapping[str, ModelSource]) -> dict[str, dict[str, Any]]:
    """Choose versions of one model by the policy of the newest that has one.

    Returns:
        For each version chosen, what is to be said of it.
    """
    newest = sorted(versions, key=version_key, reverse=True)
    policies = [versions[version].settings.version_policy for version in newest]
    policy = next((each for each in policies if each is not None), None)
    if policy is None or policy == "all":
        return {version: {} for version in versions}
    chosen = choose_versions(versions, policy)
    missing = sorted(set(policy.names) - set(versions), key=version_key)
    if not missing:
        return {version: {} for version in chosen}
    there = ", ".join(newest)
    problem = f"version_policy asks for {', '.join(missing)}, which is not there; there is {there}"
    if not chosen:
        return {newest[0]: {"problem": problem}}
    first = versions[min(chosen, key=version_key)]
    told = {"warnings": (*first.warnings, problem)}
    return {version: told if version == first.version else {} for version in chosen}


def _refuse_bad_name(source: ModelSource) -> ModelSource:
    """Refuse names that no route can carry."""
    for what, text in (("name", source.name), ("version", source.version)):
        if _NOT_IN_URLS.search(text) or (what == "name" and text in ("", "stats")):
            why = "it is empty, taken, no UTF-8, or has a '/' or control character"
            problem = f"the {what} {text!r} can't stand in a URL: {why}"
            name, version = (
                each.encode(errors="backslashreplace").decode()
                for each in (source.name, source.version)
            )
            return dataclasses.replace(source, name=name, version=version, problem=problem)
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
