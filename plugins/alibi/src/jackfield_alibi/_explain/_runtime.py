"""Serve an explainer: explanations run in a thread of its own, off the event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from jackfield import (
    Datatype,
    InferRequest,
    InferResponse,
    InvalidRequestError,
    JackfieldError,
    ModelLoadError,
    ModelMetadata,
    Tensor,
    route,
)
from jackfield.tabular import RequestParameters
from jackfield_alibi._explain._build import gather
from jackfield_alibi._explain._engines import build, check_parameters
from jackfield_alibi._explain._explanation import Explanation, Progress, StoppedError
from jackfield_alibi._explain._inputs import Inputs
from jackfield_alibi._explain._json import to_json
from jackfield_alibi._explain._options import ExplainOptions
from jackfield_alibi._explain._random import drawing
from jackfield_alibi._explain._results import Facts, Output, outputs_of
from jackfield_alibi._explain._target import target_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence

    from jackfield import ModelContext, Parameter
    from jackfield_alibi._explain._explanation import Engine, Material
    from jackfield_alibi._explain._inputs import Given
    from jackfield_alibi._explain._target import Target

_T = TypeVar("_T")

#: Least time between two messages of progress, in seconds.
_PROGRESS_S = 0.2
#: Largest number that a request may set: samples and batches take memory before anybody looks.
_LARGEST = 1_000_000
#: Kinds of which MLServer explains the first row alone, without `explainer_batch`.
_OF_FIRST = frozenset(["anchor_tabular", "anchor_text", "anchor_image", "kernel_shap"])
#: Media types of the forms that an explanation has beside tensors.
_FORMS = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "png": "image/png",
}
_EXPLANATION = "explanation"
#: What explainers raise of parameters that they do not check.
_WRONG_VALUES = (TypeError, ValueError, LookupError, ArithmeticError)
#: Kinds that explain a model by many rows: the reference data where a request has none.
_OF_MODELS = frozenset(
    [
        "ale",
        "partial_dependence",
        "partial_dependence_variance",
        "permutation_importance",
        "tree_partial_dependence",
        "tree_partial_dependence_variance",
    ]
)


class Asked(Struct, frozen=True):
    """What one request may set."""

    explain_parameters: Annotated[
        dict[str, Any],
        Meta(description="Arguments of the explainer's `explain`, by name."),
    ] = {}


class _Work(NamedTuple):
    """One request, read and checked."""

    given: Given
    parameters: Mapping[str, Any]
    #: Whether the caller set parameters of his own: what they lead to is his to mend.
    is_set: bool
    outputs: Sequence[Output]


class ExplainRuntime:
    """One explainer, whatever library it is of.

    Under MLServer's class name the answer is one text, MLServer's; else it is tensors.
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        options = context.options
        self._options = options if isinstance(options, ExplainOptions) else ExplainOptions()
        self._parameters = RequestParameters(Asked)
        self._running: set[Progress] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._engine: Engine | None = None
        self._target: Target | None = None

    def load(self) -> None:
        """Load or build the explainer, and see that its target takes what it asks."""
        material = gather(self._context, self._options, is_mlserver=self._is_mlserver)
        self._target = material.target
        try:
            self._prepare(material)
        except BaseException:
            self.close()
            raise

    def _prepare(self, material: Material) -> None:
        self._engine = engine = build(material)
        self._kind = material.kind
        self._has_one = bool(getattr(engine, "takes_one", False))
        self._reference = material.reference
        self._reference_labels = material.reference_labels
        self._check_defaults(engine)
        self._inputs = Inputs(engine, material)
        self._names = material.feature_names, material.target_names, material.categorical_names
        facts = Facts(
            self._inputs.instance, _label_type(material), material.feature_names,
            material.target_names,
        )  # fmt: skip
        computed = [
            each
            for each in outputs_of(material.kind, facts)
            if each.asks.keys() <= engine.parameters.keys()
        ]
        outputs = [*computed, *self._forms()]
        if self._is_mlserver:
            outputs = [_as_mlserver(outputs), *(_on_request(each) for each in outputs)]
            outputs = [
                each for at, each in enumerate(outputs) if at == 0 or each.name != _EXPLANATION
            ]
        self._outputs = {each.name: each for each in outputs}
        self._metadata = ModelMetadata(
            platform=f"{engine.library}_{material.kind}",
            inputs=self._inputs.metadata(),
            outputs=[each.metadata(facts) for each in outputs],
            parameters=self._describe(material, engine),
        )
        self._threads = ThreadPoolExecutor(1, f"explain-{self._context.name}")

    def metadata(self) -> ModelMetadata:
        """Say what is explained, and in which tensors."""
        return self._metadata

    async def infer(self, request: InferRequest) -> InferResponse:
        """Explain all instances of a request; with MLServer's class name the first, as it does."""
        work = self._read(request)
        response: InferResponse = await self._explain(
            work, self._progress(work, request), self._respond
        )
        return response

    async def stream(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """Tell the progress while it goes on, then give the explanation.

        A message of progress has no outputs; its parameters are `rows`, `rows_done`,
        `target_calls`, `target_rows` and `seconds`.
        """
        work = self._read(request)
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def report(_: Progress) -> None:
            loop.call_soon_threadsafe(changed.set)

        progress = self._progress(work, request, report)
        task = asyncio.ensure_future(self._explain(work, progress, self._respond))
        task.add_done_callback(lambda _: changed.set())
        try:
            while True:
                await changed.wait()
                if task.done():
                    break
                changed.clear()
                yield InferResponse([], _tell(progress))
                await asyncio.wait([task], timeout=_PROGRESS_S)
            yield await task
        finally:
            task.cancel()

    @route("/explain", methods=["POST"], at_root=True, on_needed=True, is_needed=False)
    async def explain(self, http: Request, body: InferRequest) -> object:
        """Explain, and answer in the form that `?format=` or `Accept` says.

        Tensors as `infer` gives them without either; MLServer's JSON under its class name.
        """
        form = _wanted(http, default="json" if self._is_mlserver else "")
        if form in ("html", "png") and form not in self._outputs:
            raise InvalidRequestError(
                "format",
                expected="'json', or pictures where matplotlib is installed: "
                'pip install "jackfield[shap]"',
                found=f"'{form}'",
            )
        work = self._read(body)
        progress = self._progress(work, body)
        if not form:
            response = await _while_connected(http, self._explain(work, progress, self._respond))
            return msgspec.structs.replace(
                response,
                model_name=self._context.name,
                model_version=self._context.version,
                id=body.id,
            )

        classes = self._classes(http)

        def render(explanation: Explanation, _: _Work) -> bytes:
            return self._render(explanation, form, classes)

        content = await _while_connected(http, self._explain(work, progress, render))
        return Response(content, media_type=_FORMS[form], headers=self._headers())

    def close(self) -> None:
        """End what runs at its next call of the target; let go of the explainer."""
        for progress in list(self._running):
            progress.stop()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        if self._target is not None:
            self._target.close()
        self._engine = None

    # ---- a request ----

    def _read(self, request: InferRequest) -> _Work:
        engine = self._loaded
        given = self._inputs.read(request)
        if self._is_mlserver and not self._options.explainer_batch and self._kind in _OF_FIRST:
            given = given._replace(instances=given.instances[:1])
        if not len(given.instances):
            given = self._use_reference(given)
        outputs = [self._output(each.name) for each in request.outputs] or [
            each for each in self._outputs.values() if not each.on_request
        ]
        own = check_parameters(self._parameters.read(request).explain_parameters, engine.parameters)
        _check_sizes(own)
        parameters = dict(self._options.explain_parameters)
        for each in outputs:
            parameters |= each.asks
        parameters |= own
        if getattr(engine, "takes_labels", False):
            labels = given.labels
            if labels is None and given.instances is self._reference:
                labels = self._reference_labels
            if labels is not None:
                parameters["y"] = labels
            elif self._kind == "permutation_importance":
                raise InvalidRequestError(
                    "inputs", expected="labels, as an input named 'y'", found="rows alone"
                )
        return _Work(given, parameters, bool(own), outputs)

    def _use_reference(self, given: Given) -> Given:
        """Explain the model on the reference data, where a request has no rows."""
        if self._has_one or self._reference is None or self._kind not in _OF_MODELS:
            raise InvalidRequestError(
                "inputs[0].shape", expected="at least one row to explain", found="none"
            )
        return given._replace(instances=self._reference)

    def _output(self, name: str) -> Output:
        found = self._outputs.get(name)
        if found is None:
            raise InvalidRequestError(
                "outputs", expected=f"names of {', '.join(self._outputs)}", found=f"'{name}'"
            )
        return found

    def _progress(
        self,
        work: _Work,
        request: InferRequest,
        report: Callable[[Progress], None] | None = None,
    ) -> Progress:
        now = perf_counter_ns()
        limits = [request.deadline_ns] if request.deadline_ns else []
        if self._options.timeout_s:
            limits.append(now + int(self._options.timeout_s * 1e9))
        return Progress(
            rows=len(work.given.instances),
            model=self._context.name,
            deadline_ns=min(limits, default=0),
            started_ns=now,
            report=report,
        )

    async def _explain(
        self, work: _Work, progress: Progress, then: Callable[[Explanation, _Work], Any]
    ) -> Any:  # noqa: ANN401  what `then` makes of the explanation
        """Have it explained in the thread; end that when nobody waits any more."""
        if self._threads is None:
            message = "the explainer is closed"
            raise RuntimeError(message)
        self._running.add(progress)
        limit = asyncio.timeout(_seconds_left(progress))
        try:
            async with limit:
                job = self._threads.submit(lambda: then(self._compute(work, progress), work))
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise progress.late() from error
        finally:
            # it goes on till its next call of the target, if it is not done
            progress.stop()
            self._running.discard(progress)

    # ---- in the thread ----

    def _compute(self, work: _Work, progress: Progress) -> Explanation:
        progress.check()
        try:
            with drawing(self._options.seed, progress.check) as reseed:
                if self._target is None:
                    return self._ask_engine(work, progress, reseed)
                with self._target.request(
                    deadline_ns=progress.deadline_ns,
                    is_cancelled=lambda: progress.is_stopped,
                    on_call=progress.called,
                ):
                    return self._ask_engine(work, progress, reseed)
        except (JackfieldError, StoppedError):
            raise
        # an explainer, and what it calls, raises errors of many kinds
        except Exception as error:
            if (reason := target_error(error)) is not None:
                raise reason from error
            if isinstance(error, MemoryError):
                raise InvalidRequestError(
                    "inputs",
                    expected="instances and explain_parameters whose samples fit into memory",
                    found=str(error) or "more",
                ) from error
            if work.is_set and isinstance(error, _WRONG_VALUES):
                raise InvalidRequestError(
                    "parameters.explain_parameters",
                    expected=f"values that {self._loaded.method} takes",
                    found=f"{type(error).__name__}: {error}",
                ) from error
            raise

    def _ask_engine(
        self, work: _Work, progress: Progress, reseed: Callable[[], None]
    ) -> Explanation:
        engine, instances = self._loaded, work.given.instances
        if not self._has_one:
            found = engine.explain(instances, work.parameters, progress)
            return dataclasses.replace(found, instances=instances)
        parts = []
        for place in range(len(instances)):
            # a row's explanation is not to depend on those before it
            reseed()
            parts.append(engine.explain(instances[place : place + 1], work.parameters, progress))
            progress.explained()
        return dataclasses.replace(Explanation.single(parts), instances=instances)

    def _respond(self, explanation: Explanation, work: _Work) -> InferResponse:
        tensors = []
        for each in work.outputs:
            parameters: dict[str, Parameter] = {}
            if each.name == _EXPLANATION and self._is_mlserver:
                parameters = {"content_type": "str"}
            array = each.array(explanation)
            if each.datatype is Datatype.BYTES:
                tensors.append(Tensor.from_array(each.name, array, parameters=parameters))
            else:
                tensors.append(Tensor(each.name, each.datatype, array, parameters))
        headers = self._headers()
        return InferResponse(tensors, {"headers": headers} if headers else {})

    def _classes(self, http: Request) -> Sequence[int] | None:
        """Find the classes that a caller wants drawn: by `?class=`, their names or places."""
        known = self._names[1]
        found = []
        for each in http.query_params.getlist("class"):
            if each in known:
                found.append(known.index(each))
            # no number of a class is longer, and int() refuses the very long ones
            elif each.isdecimal() and len(each) < 5 and int(each) < (len(known) or 10_000):
                found.append(int(each))
            else:
                raise InvalidRequestError(
                    "class", expected=f"one of {', '.join(known) or 'their places'}", found=each
                )
        return found or None

    def _render(
        self, explanation: Explanation, form: str, classes: Sequence[int] | None = None
    ) -> bytes:
        if form == "json":
            return to_json(explanation).encode()
        from jackfield_alibi._explain._pictures import draw

        features, targets, categories = self._names
        return draw(
            explanation,
            "html" if form == "html" else "png",
            model=self._target.name if self._target is not None else self._context.name,
            feature_names=features,
            target_names=targets,
            categorical_names=categories,
            classes=classes,
            instances=explanation.instances,
        )

    def _headers(self) -> dict[str, str]:
        if not self._is_mlserver:
            return {}
        return {
            "x-seldon-alibi-type": "explanation",
            "x-seldon-alibi-method": getattr(self._loaded, "module", self._kind),
        }

    # ---- what is told ----

    def _forms(self) -> list[Output]:
        """List the forms for those who read, and look."""
        forms = [
            Output(
                _EXPLANATION,
                Datatype.BYTES,
                (-1,),
                "Alibi's JSON, of each row or of all",
                lambda found: [to_json(each) for each in found.rows],
                on_request=True,
            )
        ]
        if importlib.util.find_spec("matplotlib") is not None:
            forms += [self._picture(form) for form in ("html", "png")]
        return forms

    def _picture(self, form: str) -> Output:
        return Output(
            form,
            Datatype.BYTES,
            (1,),
            f"the explanation to look at, as {form.upper()}",
            lambda found: _one(self._render(found, form)),
            on_request=True,
        )

    def _describe(self, material: Material, engine: Engine) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {
            "explainer_type": material.kind,
            "explainer": engine.method,
            "library": engine.library,
            "explain_parameters": [*engine.parameters],
        }
        if material.target is not None:
            found |= {
                "target": material.target.name,
                "target_output": material.target.output_name,
                "target_in_process": material.target.is_local,
            }
        if material.feature_names:
            found["feature_names"] = list(material.feature_names)
        if material.target_names:
            found["classes"] = list(material.target_names)
        if material.options.seed is not None:
            found["seed"] = material.options.seed
        if self._is_mlserver:
            found["predict_as"] = self._context.settings.implementation
        return found | self._parameters.metadata()

    def _check_defaults(self, engine: Engine) -> None:
        try:
            check_parameters(self._options.explain_parameters, engine.parameters)
        except InvalidRequestError as error:
            problem = (
                f"'parameters.extra.explain_parameters': expected {error.expected}, "
                f"found {error.found}"
            )
            raise ModelLoadError(problem) from error

    @property
    def _loaded(self) -> Engine:
        if self._engine is None:
            message = "the explainer is closed"
            raise RuntimeError(message)
        return self._engine


def _one(found: object) -> list[object]:
    return [found]


def _on_request(output: Output) -> Output:
    return output._replace(on_request=True)


def _as_mlserver(outputs: Sequence[Output]) -> Output:
    """Give MLServer's only output: a text for each row that is explained, [n, 1]."""
    [found] = [each for each in outputs if each.name == _EXPLANATION]
    return found._replace(
        shape=(-1, 1),
        make=lambda explanation: [[to_json(each)] for each in explanation.rows],
        on_request=False,
    )


def _label_type(material: Material) -> Datatype:
    """Find the datatype of the labels that the target predicts; of probabilities it is a place."""
    target = material.target
    if target is None:
        return Datatype.INT64
    for each in target.metadata.outputs:
        if each.name == target.output_name:
            if each.datatype is Datatype.BYTES:
                return Datatype.BYTES
            is_probability = len(each.shape) > 1 and each.shape[1] != 1
            if each.datatype.dtype.kind == "f" and not is_probability:
                return Datatype.FP64
    return Datatype.INT64


def _check_sizes(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, int | float) and not abs(value) <= _LARGEST:
            raise InvalidRequestError(
                f"parameters.explain_parameters.{name}",
                expected=f"at most {_LARGEST}",
                found=str(value),
            )


def _tell(progress: Progress) -> dict[str, Parameter]:
    return {
        "rows": progress.rows,
        "rows_done": progress.rows_done,
        "target_calls": progress.calls,
        "target_rows": progress.predicted,
        "seconds": round(progress.seconds, 3),
    }


def _seconds_left(progress: Progress) -> float | None:
    if not progress.deadline_ns:
        return None
    return max(progress.deadline_ns - perf_counter_ns(), 0) / 1e9


def _wanted(http: Request, *, default: str) -> str:
    """Find the form that a caller wants: by `?format=`, else by `Accept`."""
    if (form := http.query_params.get("format")) is not None:
        if form not in _FORMS:
            raise InvalidRequestError(
                "format", expected=f"one of {', '.join(_FORMS)}", found=f"'{form}'"
            )
        return form
    accepted = [
        part.partition(";")[0].strip() for part in http.headers.get("accept", "").split(",")
    ]
    for form in ("html", "png"):
        if _FORMS[form].partition(";")[0] in accepted:
            return form
    return default


async def _while_connected(http: Request, work: Coroutine[None, None, _T]) -> _T:
    """Await work as long as the caller is there; what it began ends with him."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
