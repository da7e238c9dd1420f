"""Choose who serves a model, and load it with the plugin if that does."""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from jackfield import Datatype, ModelLoadError, ModelMetadata, RequestedOutput
from jackfield_mlflow._native._plan import PLAIN, Plan, UnfitError, listed, plan_of
from jackfield_mlflow._native._reader import Column, Reader
from jackfield_mlflow._native._serving import Native, Picked, first_line
from jackfield_mlflow._native._trials import compare, trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow.models import Model

    from jackfield import Capabilities, InferRequest, ModelContext, Parameter, Runtime
    from jackfield_mlflow._native._serving import Answer

#: What pyfunc's only output is called without a signature.
_SOLE = "output-0"


class Choice(NamedTuple):
    """Who serves the model."""

    #: None where pyfunc does.
    native: Native | None
    #: ``pyfunc``, or the flavour's name.
    flavor: str
    #: One sentence.
    reason: str

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What the model's metadata tell of it."""
        return {"flavor": self.flavor, "flavor_reason": self.reason}


def choose(
    wanted: Literal["auto", "native", "pyfunc"],
    model: Model,
    folder: Path,
    context: ModelContext,
    *,
    told: ModelMetadata,
    answer: Answer,
    raw_model: Callable[[], object],
    example: InferRequest | None = None,
) -> Choice:
    """Decide who serves a model, and load it with the plugin if that does.

    Args:
        wanted: "auto" takes the plugin where nothing stands against it, "native" fails if something
            does.
        model: What MLmodel says.
        folder: Where it lies.
        context: Of the model; it knows the plugins.
        told: What the signature says of inputs and outputs, as pyfunc is served.
        answer: Answers a request by pyfunc, with the outputs of `told`.
        raw_model: Gives what pyfunc loaded, as the framework knows it.
        example: A request made of the model's input example.

    Returns:
        The choice; who asked closes its `native`.

    Raises:
        ModelLoadError: The plugin is asked for and can't serve it as pyfunc does.
    """
    if wanted == "pyfunc":
        return Choice(None, "pyfunc", "the settings ask for pyfunc")
    is_asked = wanted == "native"
    try:
        plan = plan_of(model, folder, context)
        with _artifact(plan, raw_model) as artifact:
            inner, capabilities = _load(plan, artifact, context)
        try:
            inside = inner.metadata()
            reader = _reader(model, told, inside)
            picked = _pick(plan, model, inside, told)
            native = Native(inner, capabilities, reader, picked, told, answer)
            requests = trials(reader, inside, example)
            tried, problem = compare(native, requests, stacks=plan.flavor == "sklearn")
            if problem and not is_asked:
                raise UnfitError(problem)
        except BaseException:
            inner.close()
            raise
    except UnfitError as error:
        if is_asked:
            raise ModelLoadError(
                f"'parameters.extra.flavor' is 'native', but {error}; leave it at 'auto' or set "
                "'pyfunc'"
            ) from error.__cause__
        return Choice(None, "pyfunc", f"served by pyfunc: {error}")
    if problem:
        tried = f"as the settings ask; nothing could be compared: {problem}"
    if reader.is_free:
        tried += "; no signature tells its inputs, the plugin does"
    return Choice(native, plan.flavor, f"served by the plugin '{plan.flavor}', {tried}")


@contextlib.contextmanager
def _artifact(plan: Plan, raw_model: Callable[[], object]) -> Iterator[Path]:
    """Give what the plugin reads.

    Raises:
        UnfitError: What pyfunc loaded can't be copied.
    """
    if not plan.is_copied:
        yield plan.artifact
        return
    with tempfile.TemporaryDirectory(prefix="jackfield-mlflow-") as folder:
        copy = Path(folder) / "model.pkl"
        try:
            # MLflow has loaded it, by its own rules of whom to trust: reading it back runs no more
            copy.write_bytes(pickle.dumps(raw_model()))
        # what an estimator holds is anybody's
        except Exception as error:
            raise UnfitError(
                f"the plugin '{plan.flavor}' does not read '{plan.artifact.name}', and what MLflow "
                f"made of it can't be pickled: {first_line(error)}"
            ) from error
        yield copy


def _load(plan: Plan, artifact: Path, context: ModelContext) -> tuple[Runtime, Capabilities]:
    """Load it with the plugin.

    Raises:
        UnfitError: The plugin refuses it, or can't run here.
    """
    try:
        return context.load_with(plan.flavor, artifact, plan.extra)
    # an installed plugin may lack its framework
    except Exception as error:
        raise UnfitError(
            f"the plugin '{plan.flavor}' can't serve it: {first_line(error)}"
        ) from error


# ---- what the plugin says ----


def _reader(model: Model, told: ModelMetadata, inside: ModelMetadata) -> Reader:
    """Make the reader of the signature's columns, or of the plugin's where there is none.

    Raises:
        UnfitError: The plugin has other columns than the signature.
    """
    schema = model.signature.inputs if model.signature is not None else None
    names, width = _columns(inside)
    if schema is None or not schema.inputs:
        known = {each.name: each.datatype for each in inside.inputs}
        labels = names or [f"x{each}" for each in range(max(width, 0))]
        columns = [Column(each, known.get(each, inside.inputs[0].datatype)) for each in labels]
        return Reader(columns, are_named=bool(names), is_free=True)
    if schema.is_tensor_spec():
        spec = schema.inputs[0]
        columns = [Column(told.inputs[0].name, Datatype.of(spec.type))] * spec.shape[1]
    else:
        specs = zip(told.inputs, schema.inputs, strict=True)
        columns = [Column(each.name, PLAIN[spec.type]) for each, spec in specs]
    if width not in (-1, len(columns)):
        raise UnfitError(f"its signature has {len(columns)} columns, and the model {width}")
    is_named = not schema.is_tensor_spec()
    given = [each.name for each in columns]
    if is_named and names and schema.has_input_names() and _plain(given) != _plain(names):
        raise UnfitError(
            f"its signature's columns ({listed(given)}) are not those of its training "
            f"({listed(names)})"
        )
    return Reader(columns, are_named=is_named, is_free=False)


def _plain(names: list[str]) -> set[str]:
    # LightGBM writes a space so
    return {each.replace(" ", "_") for each in names}


def _columns(inside: ModelMetadata) -> tuple[list[str], int]:
    """Give the names of the plugin's columns, if they have some, and how many there are."""
    first = inside.inputs[0]
    if len(inside.inputs) == 1 and len(first.shape) == 2:
        columns = first.parameters.get("columns")
        return list(map(str, columns)) if isinstance(columns, list) else [], first.shape[1]
    return [each.name for each in inside.inputs], len(inside.inputs)


def _pick(plan: Plan, model: Model, inside: ModelMetadata, told: ModelMetadata) -> Picked:
    """Find the output of the plugin that pyfunc's `predict` gives.

    Raises:
        UnfitError: There is none.
    """
    if len(told.outputs) > 1:
        raise UnfitError(f"it gives {listed([each.name for each in told.outputs])}")
    outputs = {each.name: each for each in inside.outputs}
    defaults = [each.name for each in inside.outputs if not each.parameters.get("on_request")]
    source = plan.source or _source(plan, model, inside)
    if source not in outputs:
        raise UnfitError(f"the plugin '{plan.flavor}' does not offer '{source}' of this model")
    # of two classes a booster's own answer is the second's probability
    is_booster = not plan.source and source == "predict_proba"
    is_second = is_booster and len(outputs["raw"].shape) == 1
    shape = tuple(outputs[source].shape)
    return Picked(
        told.outputs[0].name if told.outputs else _SOLE,
        () if defaults == [source] else (RequestedOutput(source),),
        outputs[source].datatype,
        shape[:1] if is_second else shape,
        is_second=is_second,
    )


def _source(plan: Plan, model: Model, inside: ModelMetadata) -> str:
    """Name the output that the flavour's own class predicts."""
    conf = model.flavors[plan.flavor]
    kind = str(conf.get("model_class") or conf.get("model_type") or "Booster").rpartition(".")[2]
    objective = inside.parameters.get("objective")
    if kind == "CatBoost" or (kind == "Booster" and objective == "binary:logitraw"):
        return "raw"
    has_chances = any(each.name == "predict_proba" for each in inside.outputs)
    is_booster = kind == "Booster" and objective != "multi:softmax"
    return "predict_proba" if is_booster and has_chances else "predict"
