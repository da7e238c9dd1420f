"""Find what an explainer is made of: its artifact, its target, its reference data, its names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from jackfield import ModelLoadError
from jackfield_alibi._explain._engines import check_kind
from jackfield_alibi._explain._explanation import Material
from jackfield_alibi._explain._reference import SUFFIXES, check_finite, read_table
from jackfield_alibi._explain._target import open_target
from jackfield_alibi._explain._whitebox._boosters import CONTRIBUTIONS

if TYPE_CHECKING:
    from jackfield import ModelContext
    from jackfield_alibi._explain._options import ExplainOptions
    from jackfield_alibi._explain._target import Target

#: Explainers that look into the model's own file; they may do without a target.
WHITE_BOXES = frozenset(
    [
        "integrated_gradients",
        "tree_shap",
        "tree_partial_dependence",
        "tree_partial_dependence_variance",
        "gradient_similarity",
    ]
)
#: Explainers of numbers: of a classifier they take its probabilities, not its labels.
_OF_NUMBERS = frozenset(
    [
        "kernel_shap",
        "ale",
        "partial_dependence",
        "partial_dependence_variance",
        "cem",
        "counterfactual",
        "counterfactual_proto",
        "counterfactual_rl",
    ]
)
#: Those whose numbers are of rows; others are of images or texts, or of either.
_OF_ROWS = frozenset(
    [
        "anchor_tabular",
        "kernel_shap",
        "tree_shap",
        "tree_partial_dependence",
        "tree_partial_dependence_variance",
        "ale",
        "partial_dependence",
        "partial_dependence_variance",
        "permutation_importance",
    ]
)
#: Alibi's classes -> kinds.
_KINDS = {
    "AnchorTabular": "anchor_tabular",
    "AnchorText": "anchor_text",
    "AnchorImage": "anchor_image",
    "KernelShap": "kernel_shap",
    "IntegratedGradients": "integrated_gradients",
    "TreeShap": "tree_shap",
    "TreePartialDependence": "tree_partial_dependence",
    "TreePartialDependenceVariance": "tree_partial_dependence_variance",
    "ALE": "ale",
    "PartialDependence": "partial_dependence",
    "PartialDependenceVariance": "partial_dependence_variance",
    "PermutationImportance": "permutation_importance",
    "CEM": "cem",
    "Counterfactual": "counterfactual",
    "CounterfactualProto": "counterfactual_proto",
    "CounterfactualRL": "counterfactual_rl",
    "CounterfactualRLTabular": "counterfactual_rl",
    "GradientSimilarity": "gradient_similarity",
}


class _Place(NamedTuple):
    """What the artifact is: a saved explainer, reference data, a model's file, or only a folder."""

    folder: Path
    saved: Path | None = None
    reference: Path | None = None
    model: Path | None = None


def gather(context: ModelContext, options: ExplainOptions, *, is_mlserver: bool) -> Material:
    """Gather it all; the target is open then, and took the reference data.

    Raises:
        ModelLoadError: Something is missing, damaged or does not fit the rest.
    """
    place = _look(context.artifact)
    kind = options.explainer_type
    saved = place.saved if options.init_parameters is None else None
    if saved is not None:
        found = _kind_of(saved)
        if kind and check_kind(kind) != found:
            problem = (
                f"'parameters.extra.explainer_type' is '{kind}', and its artifact is of '{found}'"
            )
            raise ModelLoadError(problem)
        kind = found
    check_kind(kind)
    model_file = _model_file(options, place, kind)
    asked = options
    if kind == "tree_shap" and model_file is None and saved is None and not options.infer_output:
        # the target's own trees compute them
        asked = msgspec.structs.replace(options, infer_output=CONTRIBUTIONS)
    target = _open(context, asked, kind, is_mlserver=is_mlserver)
    try:
        return _gather(
            context, options, place._replace(saved=saved, model=model_file), kind, target
        )
    except BaseException:
        if target is not None:
            target.close()
        raise


def _gather(
    context: ModelContext,
    options: ExplainOptions,
    place: _Place,
    kind: str,
    target: Target | None,
) -> Material:
    rows, names = None, options.feature_names
    source = _find(options.reference, place, "reference") or place.reference
    if source is not None:
        rows, told = read_table(source, "parameters.extra.reference")
        rows = check_finite(rows, "parameters.extra.reference")
        names = names or told
        if kind in _OF_ROWS and rows.ndim != 1 + 1:
            problem = (
                f"'parameters.extra.reference': expected rows of features, found shape "
                f"{list(rows.shape)}"
            )
            raise ModelLoadError(problem)
        if target is not None:
            wanted = _names_of(target)
            if told != wanted and sorted(told) == sorted(wanted):
                problem = (
                    "'parameters.extra.reference': expected the columns in the order of its target "
                    f"'{target.name}', {', '.join(wanted)}; found {', '.join(told)}"
                )
                raise ModelLoadError(problem)
            found = target.check(rows if kind != "anchor_image" or rows.ndim == 1 + 1 else rows[:2])
            if found.ndim > 1 + 1 and kind in _OF_ROWS:
                problem = (
                    f"'{kind}' explains one answer for each row, or one for each class, and its "
                    f"target '{target.name}' gives {list(found.shape)} for {len(found)} rows"
                )
                raise ModelLoadError(problem)
    labels = None
    if file := _find(options.reference_labels, place, "reference_labels"):
        labels = read_table(file, "parameters.extra.reference_labels").rows.reshape(-1)
        if rows is None or len(labels) != len(rows):
            problem = (
                f"'parameters.extra.reference_labels' has {len(labels)} labels, and the reference "
                f"data {'are none' if rows is None else f'have {len(rows)} rows'}"
            )
            raise ModelLoadError(problem)
    if not names and target is not None:
        names = _names_of(target)
    width = rows.shape[1] if rows is not None and rows.ndim == 1 + 1 else None
    if width is not None and names and len(names) != width:
        if options.feature_names:
            problem = (
                f"'parameters.extra.feature_names' has {len(names)} names, and the reference data "
                f"has {width} columns"
            )
            raise ModelLoadError(problem)
        names = ()
    return Material(
        kind=kind,
        options=options,
        folder=place.folder,
        saved=place.saved,
        model_file=place.model,
        target=target,
        reference=rows,
        reference_labels=labels,
        feature_names=tuple(names),
        categorical_names=_categories(options, names),
        target_names=options.target_names or _classes_of(target),
        threads=context.threads,
        logger=context.logger,
    )


def _look(artifact: Path | None) -> _Place:
    if artifact is None:
        return _Place(Path())
    if artifact.is_dir():
        # beside the settings, or the only folder there that has one
        found = [artifact] if (artifact / "explainer.dill").is_file() else []
        found = found or sorted(file.parent for file in artifact.glob("*/explainer.dill"))
        if len(found) > 1:
            names = ", ".join(each.name for each in found)
            problem = f"several explainers are in '{artifact}': {names}; name one in parameters.uri"
            raise ModelLoadError(problem)
        return _Place(artifact, saved=found[0] if found else None)
    if not artifact.exists():
        problem = f"its artifact '{artifact}' is missing"
        raise ModelLoadError(problem)
    if artifact.name == "explainer.dill":
        return _Place(artifact.parent, saved=artifact.parent)
    if artifact.suffix.lower() in SUFFIXES and artifact.suffix.lower() != ".json":
        return _Place(artifact.parent, reference=artifact)
    return _Place(artifact.parent, model=artifact)


def _find(name: str, place: _Place, setting: str) -> Path | None:
    """Find a file in the artifact's folder or beside it."""
    if not name:
        return None
    places = [place.folder / name, place.folder.parent / name]
    for file in places:
        if file.is_file():
            return file
    problem = f"'parameters.extra.{setting}': '{name}' is missing in '{place.folder}'"
    raise ModelLoadError(problem)


def _model_file(options: ExplainOptions, place: _Place, kind: str) -> Path | None:
    if options.model:
        return _find(options.model, place, "model")
    if kind in WHITE_BOXES and options.infer_uri and "://" not in options.infer_uri:
        folder = place.folder / options.infer_uri
        return folder if folder.is_dir() else _find(options.infer_uri, place, "infer_uri")
    return place.model


def _kind_of(saved: Path) -> str:
    """Read which class was saved; the operator's path is consent to read a pickle."""
    if importlib.util.find_spec("alibi") is None:
        problem = (
            "its artifact was saved by Alibi, which is not installed; "
            'install it: pip install "jackfield[alibi-explain]"'
        )
        raise ModelLoadError(problem)
    import dill

    try:
        with (saved / "meta.dill").open("rb") as file:
            meta = dill.load(file)
        name = str(meta["name"])
    # a damaged pickle raises what it likes
    except Exception as error:
        problem = f"'{saved / 'meta.dill'}' can't be read: {type(error).__name__}: {error}"
        raise ModelLoadError(problem) from error
    if name not in _KINDS:
        problem = f"its artifact is of Alibi's '{name}', which is not served"
        raise ModelLoadError(problem)
    return _KINDS[name]


def _open(
    context: ModelContext, options: ExplainOptions, kind: str, *, is_mlserver: bool
) -> Target | None:
    # those that look into the model have its file's path there, as in MLServer
    is_asked = kind not in WHITE_BOXES or "://" in options.infer_uri
    if not options.target and not (options.infer_uri and is_asked):
        return None  # the engine says so, if it needs one
    wants_numbers = kind in _OF_NUMBERS and not is_mlserver
    return open_target(context, options, wants="probabilities" if wants_numbers else "")


def _names_of(target: Target) -> tuple[str, ...]:
    """Find the names of the target's features: of a matrix's columns, or of its inputs."""
    inputs = target.metadata.inputs
    if len(inputs) > 1:
        return tuple(each.name for each in inputs)
    columns: Any = inputs[0].parameters.get("columns") if inputs else None
    return tuple(map(str, columns)) if isinstance(columns, list | tuple) else ()


def _classes_of(target: Target | None) -> tuple[str, ...]:
    """Find the names of the classes that the explained output has a column for."""
    if target is None:
        return ()
    for each in target.metadata.outputs:
        if each.name == target.output_name:
            classes: Any = each.parameters.get("classes")
            if isinstance(classes, list | tuple) and list(each.shape)[1:] == [len(classes)]:
                return tuple(map(str, classes))
    return ()


def _categories(options: ExplainOptions, names: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    found = {}
    for name, categories in options.categorical_names.items():
        if name in names:
            found[list(names).index(name)] = categories
        elif name.isdigit() and (not names or int(name) < len(names)):
            found[int(name)] = categories
        else:
            known = ", ".join(names) or "none are known"
            problem = (
                f"'parameters.extra.categorical_names': '{name}' is no feature's name or place; "
                f"the names: {known}"
            )
            raise ModelLoadError(problem)
    return found
