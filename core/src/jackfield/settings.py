"""ServerSettings and ModelSettings: every setting, its default, and where it may come from.

The Structs are the one table that the CLI's help, ``docs/settings.md`` and the tests read.
Precedence: option > environment (``JACKFIELD_*``, then ``MLSERVER_*``) > file > default. The files
have MLServer's names and form; ours is a superset. An unknown key is an error where the file or
variable is ours, and a warning where it is MLServer's and must keep working.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from jackfield._validation import explain
from jackfield.errors import SettingsError
from jackfield.messages import TensorMetadata
from jackfield.window import WindowSettings

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "EnvironmentSettings",
    "ModelParameters",
    "ModelSettings",
    "MonitorSettings",
    "ServerSettings",
    "VersionPolicy",
    "WebhookSettings",
]

#: Name of the file that holds a server's settings, as MLServer has it.
SERVER_FILE = "settings.json"
#: Name of the file that holds a model's settings, as MLServer has it.
MODEL_FILE = "model-settings.json"
#: Folder beside a model that holds its golden samples.
GOLDEN_FOLDER = "golden"

Port = Annotated[int, Meta(ge=0, le=65535)]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one server."""

    host: Annotated[
        str,
        Meta(
            description="Address to listen on. A folder that brings a settings.json without it "
            "keeps MLServer's default, 0.0.0.0."
        ),
    ] = "127.0.0.1"
    http_port: Annotated[Port, Meta(description="Port of the REST API; 0 takes a free one.")] = 8080
    grpc_port: Annotated[Port, Meta(description="Port of the gRPC API; 0 takes a free one.")] = 8081
    metrics_port: Annotated[
        Port, Meta(description="Port of the Prometheus metrics; 0 takes a free one.")
    ] = 8082
    metrics_endpoint: Annotated[
        str, Meta(description="Path of the metrics; empty switches the metrics server off.")
    ] = "/metrics"
    http_server: Annotated[
        Literal["auto", "uvicorn", "hypercorn"],
        Meta(description="Who runs the REST API: uvicorn (HTTP/1.1, auto) or hypercorn (HTTP/2)."),
    ] = "auto"
    mlserver_metrics: Annotated[
        bool, Meta(description="Give the metrics by MLServer's names, too.")
    ] = False
    workers: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["auto"],
        Meta(description="Server processes on the same ports; auto: as many as cores."),
    ] = 1
    worker_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Longest time, in seconds, that one of several workers may be without an "
            "answer from its event loop; then it is killed, and another takes its place.",
        ),
    ] = 30.0
    root_path: Annotated[
        str, Meta(description="Path that a proxy in front strips, for example /ml.")
    ] = ""
    server_name: Annotated[str, Meta(description="Name in the server's metadata.")] = "jackfield"
    max_body_bytes: Annotated[
        int, Meta(ge=1, description="Largest body of an HTTP request, in bytes; 413 above.")
    ] = 64 * 1024 * 1024
    max_grpc_message_bytes: Annotated[
        int, Meta(ge=1, le=2**31 - 1, description="Largest gRPC message, in bytes.")
    ] = 64 * 1024 * 1024
    shared_memory: Annotated[
        bool,
        Meta(
            description="Let callers pass tensors by system shared memory. Whoever reaches the "
            "server can then have it read and write what its user may under /dev/shm."
        ),
    ] = False
    max_shared_memory_bytes: Annotated[
        int,
        Meta(
            ge=1,
            description="Most bytes of shared memory registered by callers, and most bytes of it "
            "that requests hold copies of.",
        ),
    ] = 1024 * 1024 * 1024
    gzip_enabled: Annotated[
        bool, Meta(description="Compress responses for callers that accept gzip or deflate.")
    ] = True
    cors_settings: Annotated[
        CorsSettings | None,
        Meta(description="Cross-origin rules as a JSON object; none by default: no page may call."),
    ] = None
    keep_alive_s: Annotated[
        float,
        Meta(
            gt=0,
            description="How long a connection of the REST API stays open without a request, in "
            "seconds. Longer than clients and balancers keep theirs, so that none sends on one "
            "that is just being closed.",
        ),
    ] = 75.0
    drain_timeout_s: Annotated[
        float,
        Meta(ge=0, description="Longest wait for requests in flight when stopping, in seconds."),
    ] = 30.0
    load_models_at_startup: Annotated[
        bool, Meta(description="Load every model at start; false starts with none loaded.")
    ] = True
    strict: Annotated[
        bool, Meta(description="A model that can't be loaded at start stops the server.")
    ] = False
    watch: Annotated[
        bool,
        Meta(
            description="Load what changes or comes in the paths served, unload what goes; not "
            "what was unloaded by request. With the extra watch, the system tells of changes."
        ),
    ] = False
    watch_interval_s: Annotated[
        float,
        Meta(
            ge=0.001,
            description="How long files must not have changed before they are loaded, and how "
            "often they are looked at where the system does not tell of changes, in seconds.",
        ),
    ] = 1.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="Form of the log: text, or one JSON object a line; auto is text."),
    ] = "auto"

    source_options: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            description="What the client of a store is given to fetch artifacts, by the URI's "
            'scheme: {"s3": {"endpoint_url": "https://minio:9000"}}; they are shown nowhere.'
        ),
    ] = {}
    trusted_sources: Annotated[
        str,
        Meta(
            description="Beginnings of URIs, with commas between, from which models may be fetched "
            "that run code when they are loaded, as pickles do: s3://bucket/models,hf://me."
        ),
    ] = ""
    serve_offline: Annotated[
        bool,
        Meta(
            description="Where a store can't be reached, serve what was fetched last, with a "
            "warning; false: such a model is not loaded."
        ),
    ] = True
    max_artifact_bytes: Annotated[
        int, Meta(ge=1, description="Most bytes that are fetched of one URI.")
    ] = 64 * 1024**3
    fetch_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest time to fetch all of one URI, in seconds.")
    ] = 3600.0
    source_timeout_s: Annotated[
        float,
        Meta(gt=0, description="Longest wait for an answer of a store, in seconds."),
    ] = 30.0

    def __repr__(self) -> str:
        return f"ServerSettings({', '.join(f'{k}={v!r}' for k, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # the options may hold keys of stores
        names = (name for name in self.__struct_fields__ if name != "source_options")
        return [(name, getattr(self, name)) for name in names]


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which pages of other origins a browser lets call this server; MLServer's names."""

    allow_origins: list[str] = []
    allow_origin_regex: str | None = None
    allow_credentials: bool = False
    #: POST is among them, unlike MLServer's default, which lets no page infer.
    allow_methods: tuple[str, ...] = ("GET", "POST")
    allow_headers: list[str] = []
    expose_headers: list[str] = []
    max_age: int = 600

    def arguments(self) -> dict[str, Any]:
        """Give the arguments of Starlette's middleware, which has the same names."""
        return msgspec.structs.asdict(self)


class ModelParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a model's settings that MLServer keeps under `parameters`."""

    uri: Annotated[
        str,
        Meta(
            description="The artifact, a file or folder, relative to the settings file; "
            "the folder of the settings file by default. Or a URI of such a file or folder, as "
            "s3://bucket/wine, or one that its runtime fetches itself, as MLflow's "
            "models:/wine@champion."
        ),
    ] = ""
    version: Annotated[str, Meta(description="The model's version; empty for none.")] = ""
    sha256: Annotated[
        str,
        Meta(
            pattern="^([0-9a-fA-F]{64})?$",
            description="SHA-256 of the artifact, checked before a byte is deserialised; of a "
            "folder by the rule in docs/artifact-sources.md. With a URI it is that of what the URI "
            "names, and consent to run code that it carries.",
        ),
    ] = ""
    trust: Annotated[
        bool,
        Meta(
            description="What is fetched from `uri` may run code when it is loaded, as pickles do. "
            "A local path needs no such consent."
        ),
    ] = False
    format: Annotated[str, Meta(description="Form of the artifact, for runtimes that ask.")] = ""
    content_type: Annotated[
        str, Meta(description="Content type of requests that name none, for runtimes that ask.")
    ] = ""
    environment_path: Annotated[
        str,
        Meta(
            description="MLServer's name for `environment.path`: folder of an environment that "
            "there is."
        ),
    ] = ""
    environment_tarball: Annotated[
        str,
        Meta(
            description="MLServer's name for `environment.path`: an environment packed by "
            "conda-pack or venv-pack."
        ),
    ] = ""
    inference_pool_gid: Annotated[
        str,
        Meta(
            description="Models of the same name for it, and of the same environment, share a "
            "process other than the server's."
        ),
    ] = ""
    autogenerate_inference_pool_gid: Annotated[
        bool,
        Meta(description="The model shares its process with no other one, whatever environment."),
    ] = False
    extra: Annotated[
        dict[str, Any], Meta(description="The runtime's own settings; see the runtime's page.")
    ] = {}


class EnvironmentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An interpreter with packages of its own, in which a model runs; see docs/environments.md."""

    requirements: Annotated[
        list[str],
        Meta(
            description="Packages to install, as pip takes them; or wheels and folders of sources, "
            "relative to the settings file, as ./plugins/mine[extra]. With `path`: what is "
            "lacking there. jackfield itself comes along."
        ),
    ] = []
    python: Annotated[
        str,
        Meta(
            description="Version of Python (3.11), or path of an interpreter relative to the "
            "settings file; the server's own version by default."
        ),
    ] = ""
    path: Annotated[
        str,
        Meta(
            description="An environment that there is, relative to the settings file: its folder, "
            "or a tarball by conda-pack or venv-pack."
        ),
    ] = ""
    index_url: Annotated[
        str,
        Meta(
            description="Package index, instead of the one that the variables of uv or pip name. "
            "No more of it than the host is shown."
        ),
    ] = ""
    extra_index_urls: Annotated[
        list[str], Meta(description="Indexes that are asked before it; shown as little.")
    ] = []
    find_links: Annotated[
        list[str],
        Meta(
            description="Folders of wheels, relative to the settings file, or URLs of pages that "
            "list some; they are looked through as well."
        ),
    ] = []
    offline: Annotated[
        bool,
        Meta(description="Use no network: only `find_links` and what was downloaded before."),
    ] = False

    def __repr__(self) -> str:
        return f"EnvironmentSettings({', '.join(f'{k}={v!r}' for k, v in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # the URLs may hold secrets
        shown = ("requirements", "python", "path", "offline")
        return [(name, value) for name in shown if (value := getattr(self, name))]


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a monitor's events are sent; its secrets are shown nowhere."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^/?#\s]+[^\s]*$",
            description="Where events are posted to as JSON: http or https, redirects are not "
            "followed. No more of it than the host is shown, for the rest may be a secret.",
        ),
    ]
    secret: Annotated[
        str,
        Meta(
            description="Key of the signature in the header X-Jackfield-Signature; empty signs "
            "nothing."
        ),
    ] = ""
    secret_env: Annotated[
        str, Meta(description="Environment variable that holds the key, instead of `secret`.")
    ] = ""
    on: Annotated[
        Literal["change", "drift", "all"],
        Meta(
            description="Which verdicts are sent: those that differ from the one before (change), "
            "those that find drift or outliers (drift), or all."
        ),
    ] = "change"
    timeout_s: Annotated[
        float,
        Meta(gt=0, le=60, description="Longest wait for the receiver at each step, in seconds."),
    ] = 5.0
    retries: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Further tries where the receiver can't be reached, or answers 408, 429 or "
            "5xx; after 1, 2, 4 … seconds.",
        ),
    ] = 3

    def __post_init__(self) -> None:
        """Refuse two keys, in msgspec's form of words."""
        if self.secret and self.secret_env:
            raise ValueError("Expected one of 'secret' and 'secret_env', got `both`")

    def __repr__(self) -> str:
        return f"WebhookSettings(url={self.shown_url!r}, on={self.on!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.shown_url), ("on", self.on)]

    @property
    def shown_url(self) -> str:
        """The URL as far as it is no secret: scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A detector that watches a model, out of its way."""

    detector: Annotated[
        str,
        Meta(
            min_length=1,
            description="The model of this server that judges: one that answers is_drift, "
            "is_outlier or is_adversarial.",
        ),
    ]
    name: Annotated[str, Meta(description="Name of the monitor; the detector's by default.")] = ""
    watch: Annotated[
        Literal["inputs", "outputs"],
        Meta(description="What of the model is watched."),
    ] = "inputs"
    tensors: Annotated[
        list[str],
        Meta(description="The inputs or outputs watched, by name; all of them if empty."),
    ] = []
    sample: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of the rows that are looked at, taken by chance."),
    ] = 1.0
    window: Annotated[
        Annotated[int, Meta(ge=1)] | WindowSettings | None,
        Meta(
            description="Rows that are judged together: their number, or an object with rows or "
            "seconds. null: they go to the detector as they come, which may count windows itself."
        ),
    ] = None
    max_queue: Annotated[
        int,
        Meta(ge=1, description="Most rows that wait to be judged; the oldest are dropped."),
    ] = 10_000
    history: Annotated[
        int, Meta(ge=1, le=10_000, description="Verdicts kept for REST and the report.")
    ] = 100
    outlier_share: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Share of outlier rows up to which a verdict is no alarm, for detectors of "
            "outliers and adversarial rows.",
        ),
    ] = 0.0
    webhook: Annotated[
        WebhookSettings | None, Meta(description="Where events are sent, beside the log.")
    ] = None


class VersionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which versions of a model are served; one of the two."""

    latest: Annotated[int, Meta(ge=0, description="Only the newest: so many of them.")] = 0
    specific: Annotated[list[str | int], Meta(description="Only those of these names.")] = []

    def __post_init__(self) -> None:
        """Refuse none and both, in msgspec's form of words."""
        if bool(self.latest) == bool(self.specific):
            found = "both" if self.latest else "neither"
            raise ValueError(f"Expected one of 'latest' and 'specific', got `{found}`")

    @property
    def names(self) -> set[str]:
        """The versions of `specific`: a number is a name as well."""
        return {str(each) for each in self.specific}


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one model version."""

    name: Annotated[str, Meta(description="The model's name; the folder's by default.")] = ""
    implementation: Annotated[
        str,
        Meta(
            description="The runtime: a plugin's name for it (sklearn), MLServer's class name "
            "(mlserver_sklearn.SKLearnModel) or a class beside the settings file "
            "(my_module.MyRuntime). Empty finds it by the artifact."
        ),
    ] = ""
    platform: Annotated[str, Meta(description="Platform in the metadata.")] = ""
    versions: Annotated[list[str], Meta(description="MLServer's; has no effect.")] = []
    version_policy: Annotated[
        VersionPolicy | Literal["all"] | None,
        Meta(
            description="Which versions are served: all, which is the default, or an object with "
            "latest, how many of the newest, or specific, their names. It lies in the settings "
            "file beside the versions' folders, or in that of the newest version that has one."
        ),
    ] = None
    inputs: Annotated[
        list[TensorMetadata],
        Meta(description="Inputs in the metadata, instead of what the runtime derives."),
    ] = []
    outputs: Annotated[
        list[TensorMetadata],
        Meta(description="Outputs in the metadata, instead of what the runtime derives."),
    ] = []
    scheduler: Annotated[
        Literal["auto", "direct", "thread", "process"],
        Meta(
            description="Where infer runs: on the event loop (direct), in threads, or in a process "
            "of its own. auto: coroutines on the loop; runtimes whose rows are independent there "
            "or in a thread, by their measured cost; all else in threads."
        ),
    ] = "auto"
    environment: Annotated[
        # text that begins like JSON is read as JSON
        EnvironmentSettings | Annotated[str, Meta(pattern=r"^([^{\[]|$)")] | None,
        Meta(
            description="The model runs in a process of its own, with an interpreter and packages "
            "of its own; or just the path of an environment that there is."
        ),
    ] = None
    needs: Annotated[
        list[str],
        Meta(
            description="Models of this server that this one calls: they are loaded before it, and "
            "it is not loaded without them."
        ),
    ] = []
    max_queue: Annotated[
        int,
        Meta(
            ge=1,
            description="Most requests held, waiting and running, and as many for paths of the "
            "runtime's own; 429 above.",
        ),
    ] = 1000
    max_batch_size: Annotated[
        int,
        Meta(
            ge=0,
            description="Most requests merged into one call, for runtimes whose rows are "
            "independent; 1 merges none, 0 sets no bound.",
        ),
    ] = 0
    max_batch_rows: Annotated[
        int,
        Meta(
            ge=0,
            description="Most rows merged into one call; one request may have more. 0 sets no "
            "bound.",
        ),
    ] = 8192
    max_batch_time: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a request waits for others to be merged with, in seconds. 0: it "
            "never waits, and is merged with those that wait already.",
        ),
    ] = 0.0
    max_concurrency: Annotated[
        int,
        Meta(
            ge=0,
            description="Most calls of infer at the same time. 0: one; the cores' number for a "
            "runtime that gains by threads and whose rows are not merged; no bound for coroutines.",
        ),
    ] = 0
    max_infer_time: Annotated[
        float,
        Meta(
            ge=0,
            description="Longest call of infer, in seconds: its callers get 504, and the model is "
            "not ready until it returns. 0 sets no bound.",
        ),
    ] = 300.0
    max_restart_time: Annotated[
        float,
        Meta(
            ge=0,
            description="Longest that requests wait while the model's own process is started again "
            "after it died, in seconds since then; 503 above. 0: they don't wait.",
        ),
    ] = 30.0
    priority_levels: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Levels of the request parameter 'priority', of which 1 goes first; 0: it "
            "has no effect.",
        ),
    ] = 0
    default_priority_level: Annotated[
        int,
        Meta(
            ge=0,
            description="Level of requests that name none, or none that there is; 0: the last.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Meta(
            ge=0,
            description="Threads of the framework's own pools for one call. 0: the cores divided "
            "by the workers.",
        ),
    ] = 0
    monitors: Annotated[
        list[MonitorSettings],
        Meta(description="Detectors that watch the model's inputs or outputs, out of its way."),
    ] = []
    warm_up: Annotated[
        bool | Annotated[int, Meta(ge=0)] | list[str],
        Meta(
            description="What the model answers before it serves, and is not loaded if it does "
            "not: true or a number for so many requests that are made of its metadata, or files of "
            "JSON requests and folders of them, relative to the settings file."
        ),
    ] = False
    golden: Annotated[
        str,
        Meta(
            description="Folder of golden samples beside the settings file, requests with the "
            "answers to them: a model that answers otherwise is not loaded. Empty: none are tried."
        ),
    ] = GOLDEN_FOLDER
    cache_enabled: Annotated[bool, Meta(description="MLServer's; has no effect yet.")] = False
    parallel_workers: Annotated[
        int | None, Meta(description="MLServer's, deprecated there; has no effect.")
    ] = None
    warm_workers: Annotated[
        bool, Meta(description="MLServer's, deprecated there; has no effect.")
    ] = False
    parameters: Annotated[
        ModelParameters, Meta(description="Artifact, version and the runtime's own settings.")
    ] = ModelParameters()

    @property
    def own_environment(self) -> EnvironmentSettings | None:
        """The environment that the model runs in, by our name or MLServer's; None: the server's."""
        given = self.environment or EnvironmentSettings()
        given = EnvironmentSettings(path=given) if isinstance(given, str) else given
        if not given.path:
            path = self.parameters.environment_tarball or self.parameters.environment_path
            given = msgspec.structs.replace(given, path=path)
        return given if given != EnvironmentSettings() else None

    @property
    def is_isolated(self) -> bool:
        """Whether the model runs in another process than the server's."""
        parameters = self.parameters
        return bool(
            self.scheduler == "process"
            or self.own_environment is not None
            or parameters.inference_pool_gid
            or parameters.autogenerate_inference_pool_gid
        )


class Resolved(msgspec.Struct, frozen=True):
    """Server settings with their origin."""

    settings: ServerSettings
    #: Field -> where its value was read; fields at their default are missing.
    sources: Mapping[str, str]
    #: What the operator should know, a sentence each.
    warnings: Sequence[str]


# MLServer's server settings that are not ours by the same name: the field that stands for it, the
# type it has there and how its value converts, or a sentence that says why it has no effect.
_NO_CACHE = "responses are not cached yet"
_NO_KAFKA = "Kafka is not served yet"
_MLSERVER: dict[str, tuple[str, type, Callable[[Any], Any]] | str] = {
    "debug": ("log_level", bool, lambda value: "debug" if value else "info"),
    "use_structured_logging": ("log_format", bool, lambda value: "json" if value else "text"),
    "grpc_max_message_length": ("max_grpc_message_bytes", int, lambda value: value),
    "parallel_workers": "'workers' sets how many whole servers share the ports",
    "parallel_workers_timeout": "'worker_timeout_s' bounds how long a worker may hang",
    "environments_dir": "environments are kept in the folder that JACKFIELD_CACHE_DIR names",
    "model_repository_root": "the paths given on the command line are served",
    "model_repository_implementation": "the repository can't be replaced yet",
    "model_repository_implementation_args": "the repository can't be replaced yet",
    "server_version": "the server's metadata tells the installed version",
    "extensions": "the server's metadata lists what it serves",
    "metrics_rest_server_prefix": "REST requests are counted by model, not by path",
    "metrics_dir": "the metrics need no folder",
    "logging_settings": "logging is set by log_level and log_format",
    "kafka_enabled": _NO_KAFKA,
    "kafka_servers": _NO_KAFKA,
    "kafka_topic_input": _NO_KAFKA,
    "kafka_topic_output": _NO_KAFKA,
    "tracing_server": "traces are not exported yet",
    "cache_enabled": _NO_CACHE,
    "cache_size": _NO_CACHE,
    "models_dir": "the paths given on the command line are served",
    "env_tarball": "name the tarball in the model's settings, parameters.environment_tarball",
}

T = TypeVar("T")


def fields(settings: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Get the fields of a settings Struct, by name."""
    return {field.name: field for field in msgspec.structs.fields(settings)}


def description(field: msgspec.structs.FieldInfo) -> str:
    """Get the help text of a field."""
    for meta in getattr(field.type, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    return ""


def default(field: msgspec.structs.FieldInfo) -> object:
    """Get the default of a field."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def resolve_server_settings(
    folders: Sequence[Path],
    *,
    environ: Mapping[str, str],
    options: Mapping[str, object],
) -> Resolved:
    """Read the server's settings from all their sources.

    Args:
        folders: Folders served; at most one of them may bring a ``settings.json``.
        environ: Environment variables.
        options: What was given on the command line, by field name; strongest.

    Returns:
        The settings, their origin, and warnings about MLServer's settings without effect.

    Raises:
        SettingsError: A key of ours is unknown, a value has the wrong form, or two folders bring
            settings.
    """
    files = [path for folder in folders if (path := folder / SERVER_FILE).is_file()]
    if len(files) > 1:
        raise SettingsError(str(files[1]), f"'{files[0]}' is there too; one may set the server")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    warnings: list[str] = []
    known = fields(ServerSettings)
    for name, value, source, is_ours in _given(files, environ, options):
        entry = None if is_ours else _MLSERVER.get(name)
        if isinstance(entry, str):
            warnings.append(f"{source}: '{name}' has no effect: {entry}")
            continue
        field, kind, convert = entry or (name, None, None)
        if field not in known:
            problem = _unknown(field, [*known, *([] if is_ours else _MLSERVER)])
            if is_ours:
                raise SettingsError(source, problem)
            warnings.append(f"{source}: {problem}; it is ignored")
            continue
        if kind and convert:
            value = convert(_convert(value, kind, source=source, path=name))
        values[field] = _convert(value, known[field].type, source=source, path=name)
        sources[field] = source
    return Resolved(ServerSettings(**values), sources, warnings)


def _given(
    files: Sequence[Path], environ: Mapping[str, str], options: Mapping[str, object]
) -> Iterator[tuple[str, object, str, bool]]:
    """Yield each setting given, weakest source first: name, value, source, is the source ours."""
    for path in files:
        # MLServer's default, kept where its file is
        yield "host", "0.0.0.0", f"MLServer's default, since {path} is there", False
        for name, value in read_json(path).items():
            if value is not None:
                yield name, value, str(path), False
    for prefix, is_ours in (("MLSERVER_", False), ("JACKFIELD_", True)):
        for variable, text in sorted(environ.items()):
            name = variable.upper().removeprefix(prefix).lower()
            is_other = name.startswith(_OTHER_VARIABLES) and name not in _MLSERVER
            is_other = is_other or _KUBERNETES.match(name) is not None
            if variable.upper().startswith(prefix) and not is_other:
                yield name, text, f"environment variable {variable}", is_ours
    for option, value in options.items():
        yield option, value, f"option --{option.replace('_', '-')}", True


#: Kubernetes puts these into every pod beside a Service of our name: `JACKFIELD_SERVICE_HOST`,
#: `JACKFIELD_PORT`, `JACKFIELD_PORT_8080_TCP` and so on.
_KUBERNETES = re.compile(r"(service_(host|port)|port)(_|$)")
#: Variables with our prefix that set something other than the server.
_OTHER_VARIABLES = ("model_", "plugins", "infer_", "cache_dir")


def read_model_settings(
    path: Path | None, *, environ: Mapping[str, str]
) -> tuple[ModelSettings, list[str]]:
    """Read one model's settings.

    Args:
        path: The ``model-settings.json``; None for a model that has the environment only.
        environ: Variables (``JACKFIELD_MODEL_*``, then ``MLSERVER_MODEL_*``) that go before the
            file; empty where several models would share them.

    Returns:
        The settings, and warnings.

    Raises:
        SettingsError: The file is not JSON, a value has the wrong form, or a key is unknown and
            the file is ours (its `implementation` is missing or a plugin's name).
    """
    raw = {} if path is None else read_json(path)
    source = "environment" if path is None else str(path)
    warnings: list[str] = []
    _put_variables(raw, environ, warnings)
    is_ours = "." not in str(raw.get("implementation", ""))
    extra = _take_unknown(raw, ModelSettings, source=source, is_ours=is_ours, warnings=warnings)
    if extra:
        warnings.append(f"{source}: they are ignored")
    parameters = raw.get("parameters")
    if isinstance(parameters, dict):
        unknown = _take_unknown(
            parameters,
            ModelParameters,
            source=source,
            is_ours=is_ours,
            warnings=warnings,
            prefix="parameters.",
        )
        kept = parameters.get("extra") or {}
        if unknown and isinstance(kept, dict):
            parameters["extra"] = {**unknown, **kept}
            warnings.append(f"{source}: kept in 'parameters.extra': {', '.join(sorted(unknown))}")
        raw["parameters"] = {key: value for key, value in parameters.items() if value is not None}
    raw = {key: value for key, value in raw.items() if value is not None}
    return _convert(raw, ModelSettings, source=source), warnings


def _put_variables(raw: dict[str, Any], environ: Mapping[str, str], warnings: list[str]) -> None:
    """Let a model's variables go before its file."""
    for prefix, is_ours in (("MLSERVER_MODEL_", False), ("JACKFIELD_MODEL_", True)):
        for variable, text in sorted(environ.items()):
            name = variable.upper().removeprefix(prefix).lower()
            if not variable.upper().startswith(prefix) or f"model_{name}" in _MLSERVER:
                continue
            source = f"environment variable {variable}"
            if not is_ours and (option := _runtime_option(name, raw, environ)):
                parameters = raw.setdefault("parameters", {})
                if isinstance(parameters, dict) and isinstance(parameters.get("extra", {}), dict):
                    parameters.setdefault("extra", {})[option] = _read_text(text, source)
                continue
            settings = ModelParameters if name in fields(ModelParameters) else ModelSettings
            known = fields(settings)
            if name not in known:
                problem = _unknown(name, [*fields(ModelSettings), *fields(ModelParameters)])
                if is_ours:
                    raise SettingsError(source, problem)
                warnings.append(f"{source}: {problem}; it is ignored")
                continue
            target = raw.setdefault("parameters", {}) if settings is ModelParameters else raw
            if isinstance(target, dict):
                target[name] = _convert(text, known[name].type, source=source, path=name)


#: MLServer's runtimes whose own settings may be in variables, which have this after the prefix.
_RUNTIMES_WITH_VARIABLES = ("alibi_detect", "alibi_explain", "huggingface")


def _runtime_option(name: str, raw: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """Find which setting of the model's runtime a variable of MLServer's names; empty for none."""
    given = raw.get("implementation") or environ.get("MLSERVER_MODEL_IMPLEMENTATION", "")
    implementation = str(given).replace("-", "_")
    for runtime in _RUNTIMES_WITH_VARIABLES:
        if name.startswith(f"{runtime}_") and runtime in implementation:
            return name.removeprefix(f"{runtime}_")
    return ""


def _read_text(text: str, source: str) -> object:
    """Read a variable of which nobody knows the type yet: lists and objects are JSON."""
    if text[:1] not in ("{", "["):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(source, f"not readable as JSON: {error}") from error


def decode_options(
    extra: Mapping[str, object], options: type[T], *, source: str, is_ours: bool
) -> tuple[T, list[str]]:
    """Decode a runtime's own settings into its Struct.

    Returns:
        The Struct, and a warning for each unknown key where the settings are MLServer's.

    Raises:
        SettingsError: A value has the wrong form, or a key is unknown and the settings are ours.
    """
    raw = dict(extra)
    warnings: list[str] = []
    _take_unknown(
        raw, options, source=source, is_ours=is_ours, warnings=warnings, prefix="parameters.extra."
    )
    return _convert(raw, options, source=source, path="parameters.extra"), warnings


def read_json(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        SettingsError: It can't be read, or is not a JSON object.
    """
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(str(path), f"not readable as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(str(path), f"expected a JSON object, found {type(raw).__name__}")
    return raw


def _take_unknown(
    raw: dict[str, Any],
    settings: type[Any],
    *,
    source: str,
    is_ours: bool,
    warnings: list[str],
    prefix: str = "",
) -> dict[str, Any]:
    """Move the unknown keys out of `raw`, or refuse them where the file is ours."""
    known = fields(settings)
    unknown = {key: raw.pop(key) for key in list(raw) if key not in known}
    for key in unknown:
        problem = _unknown(key, list(known), prefix=prefix)
        if is_ours:
            raise SettingsError(source, problem)
        warnings.append(f"{source}: {problem}")
    return unknown


def _unknown(name: str, known: Sequence[str], *, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{prefix}{close[0]}'" if close else ""
    return f"unknown setting '{prefix}{name}'{hint}"


def _convert(value: object, kind: type[T], *, source: str, path: str = "") -> T:
    """Convert a raw value; text is parsed, as an environment variable needs."""
    try:
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:
            if not isinstance(value, str) or value[:1] not in ("{", "["):
                raise
            # a variable holds lists and objects as JSON, as in MLServer
            return msgspec.convert(msgspec.json.decode(value), kind, strict=False)
    except msgspec.ValidationError as error:
        where, expected, found = explain(error)
        field = ".".join(part for part in (path, where) if part)
        problem = f"{field + ': ' if field else ''}expected {expected}, found {found}"
        raise SettingsError(source, problem) from error
    except msgspec.DecodeError as error:
        raise SettingsError(source, f"{path}: {error}") from error
