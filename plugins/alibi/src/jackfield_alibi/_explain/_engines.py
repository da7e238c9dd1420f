"""Which engine explains which kind: a path for each, imported when a model needs it."""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING, cast

from jackfield import InvalidRequestError, ModelLoadError
from jackfield_alibi._explain._options import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    from jackfield_alibi._explain._explanation import Engine, Material

#: ``module:function`` for each kind; the function takes `Material` and gives an `Engine`.
ENGINES: Mapping[str, str] = {
    "anchor_tabular": "_blackbox:AnchorTabularEngine",
    "anchor_text": "_blackbox:AnchorTextEngine",
    "anchor_image": "_blackbox:AnchorImageEngine",
    # by shap or Alibi, as the option `library` says
    "kernel_shap": "_whitebox:kernel_shap",
    "tree_shap": "_whitebox:tree_shap",
    "ale": "_curves:AleEngine",
    "partial_dependence": "_curves:PartialDependenceEngine",
    "partial_dependence_variance": "_curves:PartialDependenceVarianceEngine",
    "permutation_importance": "_curves:PermutationImportanceEngine",
    "tree_partial_dependence": "_whitebox._trees:TreeCurveEngine",
    "tree_partial_dependence_variance": "_whitebox._trees:TreeCurveEngine",
    "integrated_gradients": "_whitebox._tensorflow:IntegratedGradientsEngine",
    "cem": "_whitebox._tensorflow:CemEngine",
    "counterfactual": "_whitebox._tensorflow:CounterfactualEngine",
    "counterfactual_proto": "_whitebox._tensorflow:PrototypeEngine",
    "counterfactual_rl": "_whitebox._policies:PolicyEngine",
    "gradient_similarity": "_whitebox._gradients:SimilarityEngine",
}


def build(material: Material) -> Engine:
    """Build the engine of a kind.

    Raises:
        ModelLoadError: There is no such kind, what it needs is not installed, or is missing in the
            settings.
    """
    path = ENGINES.get(check_kind(material.kind))
    module, _, name = str(path).partition(":")
    try:
        found = getattr(importlib.import_module(f"jackfield_alibi._explain.{module}"), name)
        # it may choose between libraries, and import the chosen one only now
        return cast("Callable[[Material], Engine]", found)(material)
    except ImportError as error:
        cause = _cause(error)
        missing = (cause.name or "").partition(".")[0]
        if missing == "jackfield_alibi":
            raise
        extra = "shap" if missing in ("shap", "matplotlib") else "alibi-explain"
        problem = (
            f"the explainer '{material.kind}' needs '{missing or cause}', which can't be imported "
            f'({cause}); install it: pip install "jackfield[{extra}]"'
        )
        raise ModelLoadError(problem) from cause


def _cause(error: ImportError) -> ImportError:
    """Find why an own module could not be imported.

    Of threads that import it at once, one is told so; the others get what it left behind.
    """
    if error.name is None or not error.name.startswith("jackfield_alibi."):
        return error
    try:
        importlib.import_module(error.name)
    except ImportError as cause:
        return cause
    return error


def check_kind(kind: str) -> str:
    """Give the kind back.

    Raises:
        ModelLoadError: There is no such kind; the text names the nearest ones.
    """
    if kind in KINDS:
        return kind
    close = difflib.get_close_matches(kind, KINDS, 2)
    hint = f"; did you mean {' or '.join(repr(each) for each in close)}?" if close else ""
    found = f"found '{kind}'{hint}" if kind else "found none"
    problem = f"'parameters.extra.explainer_type': expected one of {', '.join(KINDS)}, {found}"
    raise ModelLoadError(problem)


def keywords_of(explain: Callable[..., Any], *, without: Collection[str] = ()) -> dict[str, object]:
    """Read the parameters that a method takes beside its first one, with their defaults.

    Args:
        explain: A bound method of an explainer.
        without: Names that a caller must not set.
    """
    found = list(inspect.signature(explain).parameters.values())[1:]
    return {
        each.name: None if each.default is each.empty else each.default
        for each in found
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and each.name not in without
    }


def check_parameters(found: Mapping[str, Any], known: Mapping[str, object]) -> dict[str, Any]:
    """Give a request's parameters back.

    Raises:
        InvalidRequestError: One is unknown.
    """
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InvalidRequestError(
                "parameters.explain_parameters",
                expected=f"names of {', '.join(known) or 'none: it takes no parameters'}",
                found=f"'{name}'{hint}",
            )
    return dict(found)
