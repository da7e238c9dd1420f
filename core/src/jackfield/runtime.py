"""What a runtime author writes: a class, and the record that describes it.

Used by plugins and by the core; imports no framework and no NumPy.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import msgspec

from jackfield.errors import ModelLoadError
from jackfield.model_metrics import ModelMetrics

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from jackfield._peers import SyncModel
    from jackfield.messages import InferRequest, InferResponse, ModelMetadata
    from jackfield.settings import ModelSettings

__all__ = ["ArtifactFormat", "Capabilities", "ModelContext", "Runtime", "RuntimeSpec", "route"]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the core may do with a runtime; `jackfield.testing.RuntimeContract` proves each."""

    #: Rows (the first dimension) are independent: requests may be merged and responses split.
    row_wise: bool = False
    #: `infer` may run in several threads at once.
    thread_safe: bool = False
    #: The GIL is released while the framework computes: threads bring speed.
    releases_gil: bool = False
    #: It wants the request's headers (gRPC: metadata) in `parameters["headers"]`.
    reads_headers: bool = False
    #: A request changes what later ones get (a detector with memory).
    stateful: bool = False


class ArtifactFormat(msgspec.Struct, frozen=True):
    """A form in which a framework saves a model, known by a file's name, or its content."""

    #: Glob pattern on the file name, for example ``*.joblib``; of a folder it may be a path below
    #: it, for example ``metadata/part-00000*``.
    pattern: str
    #: Reading it can run code that it carries (pickle): the operator's consent is needed. A path
    #: on the server's own disk that the operator gives, or a folder that it lies in, is consent.
    executes_code: bool = False
    #: Others' files have such names, too (``*.json``): it is this form only if
    #: `jackfield.artifacts.identify` finds the framework that the spec is named after. A file that
    #: has the pattern for its name counts without that where the settings name the runtime.
    by_content: bool = False
    #: The artifact is the folder that has a file of the pattern. All below it is part of it: no
    #: other model is looked for there.
    is_folder: bool = False


class RuntimeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Describe a runtime without importing its framework.

    Example:
        ```python
        RuntimeSpec(
            name="onnx",
            runtime="jackfield_onnx._runtime:OnnxRuntime",
            artifacts=(ArtifactFormat("*.onnx"),),
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            frameworks=("onnxruntime",),
        )
        ```
    """

    #: What `implementation` in ``model-settings.json`` says; unique among the installed plugins.
    name: str
    #: ``module:Class``, imported when a model needs it. The class is called with a `ModelContext`.
    runtime: str
    #: Formats that it reads; in a folder with several artifacts the first match wins.
    artifacts: tuple[ArtifactFormat, ...] = ()
    #: Other names of the same runtime: MLServer's class names.
    aliases: tuple[str, ...] = ()
    capabilities: Capabilities = Capabilities()
    #: Struct of the runtime's own settings, decoded from `parameters.extra`; None takes none. It
    #: may have `needs`, names of models that this one calls; see `ModelContext.model`.
    options: type[msgspec.Struct] | None = None
    #: Distributions of the framework, listed with their versions by ``jackfield plugins``.
    frameworks: tuple[str, ...] = ()
    #: Schemes of a `parameters.uri` that the runtime fetches itself, for example ``models``.
    uri_schemes: tuple[str, ...] = ()
    #: What the operator should know before using it, as the licence of the version that is
    #: installed; ``jackfield plugins`` shows it. Empty for nothing.
    notice: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelContext:
    """What a runtime is constructed with."""

    name: str
    #: Empty for an un-versioned model.
    version: str
    #: The file or folder to load. None if the model has none, or it is at `uri`.
    artifact: Path | None
    #: What the runtime is to fetch itself, of one of its spec's `uri_schemes`; empty otherwise.
    uri: str = ""
    settings: ModelSettings
    #: The runtime's own settings: the Struct that its spec names, else None.
    options: msgspec.Struct | None
    #: Threads that the framework's own pools may use for one call of `infer`.
    threads: int = 1
    #: Carries the model's name and version.
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    #: Counters, gauges and histograms, shown with the model's name and version; gone with it.
    metrics: ModelMetrics = dataclasses.field(default_factory=ModelMetrics)
    #: All installed runtimes, by name.
    runtimes: Mapping[str, RuntimeSpec] = dataclasses.field(default_factory=dict)
    #: Finds a model of the same server by name and version; None where there is no server.
    find_model: Callable[[str, str], SyncModel] | None = None

    @property
    def extra(self) -> Mapping[str, Any]:
        """The author's own settings: `parameters.extra` of the model's settings."""
        return self.settings.parameters.extra

    def model(self, name: str, version: str = "") -> SyncModel:
        """Get another model of the same server, to call it without a wire.

        Not to be kept: asked for at each request it is the one that serves then. Models that the
        settings name (`needs`), or the runtime's options by a property of that name, are loaded
        before this one, and it is not loaded without them.

        Args:
            name: Its name.
            version: Its version; empty gets the un-versioned or else the newest ready one.

        Returns:
            The model; it may be called in any thread but the event loop's. The arrays that it
            answers with may be read-only: copy what is to be changed.

        Raises:
            ModelNotFoundError: There is none.
            ModelNotReadyError: It is loading, unloading or failed to load.
            ModelLoadError: There is no server around this model.
            RuntimeError: It is called on the event loop.
        """
        if self.find_model is None:
            raise ModelLoadError(
                f"it needs the model '{name}', and can't reach other models from here: "
                "they are not served at all"
            )
        return self.find_model(name, version)

    def load_with(
        self, name: str, artifact: Path, extra: Mapping[str, Any] | None = None
    ) -> tuple[Runtime, Capabilities]:
        """Load an artifact with another plugin's runtime, for one that stands in front of it.

        Args:
            name: The other runtime's name.
            artifact: A file or folder of a form that it reads.
            extra: The other runtime's own settings, in place of this one's; none by default.

        Returns:
            The runtime, loaded, and what may be done with it. Who asked for it closes it.

        Raises:
            ModelLoadError: The runtime is not installed, refuses its settings, or can't serve the
                artifact. Whatever else it raises comes as it is.
        """
        from jackfield._code import import_class  # not for who only describes a runtime

        spec = self.runtimes.get(name)
        if spec is None:
            raise ModelLoadError(
                f"it needs the runtime '{name}', which is not installed; "
                f'install it: pip install "jackfield[{name}]"'
            )
        parameters = msgspec.structs.replace(
            self.settings.parameters, uri=str(artifact), extra=dict(extra or {})
        )
        settings = msgspec.structs.replace(
            self.settings, implementation=name, parameters=parameters
        )
        options = None
        if spec.options is not None:
            try:
                options = msgspec.convert(dict(extra or {}), spec.options)
            except msgspec.ValidationError as error:
                problem = f"the settings for the runtime '{name}' do not fit: {error}"
                raise ModelLoadError(problem) from error
        runtime: Runtime = import_class(spec.runtime)(
            dataclasses.replace(self, artifact=artifact, uri="", settings=settings, options=options)
        )
        runtime.load()
        return runtime, getattr(runtime, "capabilities", spec.capabilities)


@runtime_checkable
class Runtime(Protocol):
    """One model in memory. Inherit nothing: have these methods.

    The core constructs it with a `ModelContext`, calls `load` once, then `metadata` once, then
    `infer` any number of times, then `close` once, when no `infer` runs any more. `load`,
    `metadata` and `close` run in a thread. A plain `infer` runs in a thread too; a coroutine
    function runs on the event loop, and must not block it.

    It may have `stream`, an async generator function (or a plain one, which is stepped through in
    threads), that takes a request and yields `InferResponse`s: the streaming routes use it.

    After `load` it may have `capabilities`, where those of its spec do not hold for this model, and
    `problem`, a text that tells why it can't answer at the moment, and is empty when it can: the
    model is not ready while it has one, and its `infer` raises `ModelNotReadyError`.
    """

    def load(self) -> None:
        """Read the artifact; return when the model can serve.

        Raises:
            ModelLoadError: It can't be served, with what the operator should do. Anything else
                that is raised is reported with its type and text.
        """

    def metadata(self) -> ModelMetadata:
        """Say what the model takes and gives, derived from the model where it knows.

        Returns:
            Platform, inputs, outputs and parameters; tensors that the operator declares in the
            settings replace those given here.
        """

    def infer(self, request: InferRequest) -> InferResponse | Awaitable[InferResponse]:
        """Compute the outputs that the request asks for, or the default ones.

        Args:
            request: The core has checked that the requested outputs are in the metadata (where it
                has any).

        Returns:
            The outputs, in the order asked for.

        Raises:
            InvalidRequestError: The request doesn't fit the model: the caller gets the text.
                Anything else that is raised is logged, and the caller learns only that it failed.
        """

    def close(self) -> None:
        """Free what `load` took."""


_Handler = TypeVar("_Handler", bound="Callable[..., object]")


@dataclasses.dataclass(frozen=True, slots=True)
class RouteMark:
    """What `route` notes on a method."""

    path: str
    methods: tuple[str, ...]
    at_root: bool = False
    is_needed: bool = True
    on_needed: bool = False


def route(
    path: str,
    *,
    methods: Sequence[str] = ("GET",),
    at_root: bool = False,
    is_needed: bool = True,
    on_needed: bool = False,
) -> Callable[[_Handler], _Handler]:
    """Answer a REST path of the model by a method of its runtime.

    The path lies under the model's own, ``/v2/models/{name}`` and
    ``/v2/models/{name}/versions/{version}``, and is there as long as the model is loaded. A
    coroutine function runs on the event loop, and must not block it; who asks and leaves before the
    answer cancels it. A plain one runs in a thread, beside those of `infer`.

    Args:
        path: Begins with a slash and a fixed part that is none of the server's; later parts may be
            ``{name}``, found in the request's `path_params`.
        methods: HTTP methods.
        at_root: It is the server's path, too, as long as one model alone has it there; its first
            part is none of the server's own then (``v2``, ``metrics``).
        is_needed: In an environment of its own that has no Starlette a model has no paths that take
            Starlette's `Request`. False: it is served without this one there, with a warning;
            otherwise it is refused.
        on_needed: It is a path of the models that this one needs, too (see `ModelContext.model`),
            as long as one model alone brings it there: an explainer answers at the path of the
            model that it explains.

    Returns:
        A decorator for a method that takes nothing, Starlette's `Request`, one parameter of another
        annotated type, or both. That one is the JSON body, decoded to the type; for `InferRequest`
        it has any form that the protocol's inference has. The method returns Starlette's
        `Response`, an `InferResponse`, which is written in the protocol's form, or what JSON can
        hold, arrays included.

    Example:
        ```python
        class Model:
            def infer(self, x: np.ndarray) -> np.ndarray:
                return x @ self.weights

            @route("/weights")
            def show_weights(self) -> dict[str, object]:
                return {"weights": self.weights}
        ```
    """

    def note(handler: _Handler) -> _Handler:
        mark = RouteMark(path, tuple(methods), at_root, is_needed, on_needed)
        marks = (*getattr(handler, "__jackfield_routes__", ()), mark)
        handler.__jackfield_routes__ = marks  # type: ignore[attr-defined]
        return handler

    return note
