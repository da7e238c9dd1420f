"""Alibi's explainers as engines: load what was saved, build from settings, ask for explanations.

Imports Alibi, which takes seconds; so only what needs it imports this.
"""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jackfield import JackfieldError, ModelLoadError
from jackfield_alibi._explain._engines import keywords_of
from jackfield_alibi._explain._explanation import Explanation, StoppedError
from jackfield_alibi._explain._random import drawing
from jackfield_alibi._explain._target import target_error

with warnings.catch_warnings():
    # of the libraries that Alibi imports; none is ours to mend
    warnings.simplefilter("ignore")
    from alibi.api import interfaces
    from alibi.saving import load_explainer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jackfield import TensorMetadata
    from jackfield_alibi._explain._explanation import Instances, Material, Progress

#: Silent unless something is wrong: each anchor that is not found exactly is no news, nor are
#: shap's sums, below Alibi.
for _talker in ("alibi", "shap"):
    logging.getLogger(_talker).setLevel(logging.ERROR)


class AlibiEngine:
    """An explainer of Alibi behind the `Engine` protocol.

    Args:
        kind: The `explainer_type`.
        explainer: It is asked by its `explain`.
        takes_one: It takes a single instance, not rows of them.
        without: Parameters of `explain` that a caller must not set.
    """

    library = "alibi"
    input: TensorMetadata | None = None

    def __init__(
        self,
        kind: str,
        explainer: Any,  # noqa: ANN401  Alibi is untyped
        *,
        takes_one: bool = False,
        without: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self.method = str(explainer.meta["name"])
        #: MLServer names the method by its module.
        self.module = type(explainer).__module__.rpartition(".")[2]
        self.takes_one = takes_one
        self.parameters: Mapping[str, object] = keywords_of(
            explainer.explain, without={"verbose", "verbose_every", *without}
        )
        self._explainer = explainer

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`. One that takes a single instance gets the first."""
        found = self._explainer.explain(
            instances[0] if self.takes_one else instances, **self._arguments(parameters)
        )
        if not self.takes_one:
            progress.explained(len(instances))
        # some hand out their own `meta`, which the next call changes
        return Explanation(self.kind, copy.deepcopy(found.meta), found.data)

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Make of JSON what the explainer takes."""
        return dict(parameters)


def make_explainer(
    material: Material,
    build: Callable[[Callable[..., Any], dict[str, Any]], Any],
    *,
    predictor: Callable[..., Any] | None = None,
) -> Any:  # noqa: ANN401  Alibi is untyped
    """Load the saved explainer, or build one.

    Args:
        material: What there is.
        build: Takes the predictor and the constructor's arguments in the settings; gives the
            explainer, fitted.
        predictor: Asks the target; its `predict` by default.

    Raises:
        ModelLoadError: There is no target, the target does not fit, or Alibi refuses.
    """
    asks = predictor or require_target(material)
    try:
        with drawing(material.options.seed, _go_on), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if material.saved is not None and material.options.init_parameters is None:
                return _load(material, asks)
            return build(asks, dict(material.options.init_parameters or {}))
    except (JackfieldError, StoppedError):
        raise
    # Alibi and what it imports raise errors of many kinds
    except Exception as error:
        reason = target_error(error)
        if isinstance(reason, ModelLoadError):
            raise reason from error
        if reason is not None:
            raise ModelLoadError(str(reason)) from error
        problem = f"the explainer '{material.kind}' can't be built: {type(error).__name__}: {error}"
        raise ModelLoadError(problem) from error


def _go_on() -> None:
    """Wait for the turn, however long."""


def _load(material: Material, predictor: Callable[..., Any]) -> Any:  # noqa: ANN401
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explainer = load_explainer(material.saved, predictor)
    for each in caught:
        if "explainer from version" in str(each.message):
            material.logger.warning("%s", each.message)
    if not isinstance(explainer, interfaces.Explainer):
        problem = f"its artifact holds a {type(explainer).__name__}, which is no explainer"
        raise ModelLoadError(problem)
    return explainer


def require_target(material: Material) -> Callable[..., Any]:
    """Get the function that asks the target.

    Raises:
        ModelLoadError: The settings name none.
    """
    if material.target is None:
        problem = (
            f"the explainer '{material.kind}' asks the model that it explains: name it in "
            "'parameters.extra.target', or give its address in 'parameters.extra.infer_uri'"
        )
        raise ModelLoadError(problem)
    return cast("Callable[..., Any]", material.target.predict)


def require_reference(material: Material) -> Any:  # noqa: ANN401  an array
    """Get the reference data.

    Raises:
        ModelLoadError: The settings name none.
    """
    if material.reference is None:
        problem = (
            f"the explainer '{material.kind}' is built from reference data: name its file in "
            "'parameters.extra.reference', or a saved explainer's folder in 'parameters.uri'"
        )
        raise ModelLoadError(problem)
    return material.reference


def names_of(material: Material) -> list[str]:
    """Name the features; stand-ins where nobody told."""
    if material.feature_names:
        return list(material.feature_names)
    width = material.width
    if width is None:
        problem = (
            f"the explainer '{material.kind}' needs the features' names: "
            "set 'parameters.extra.feature_names' or 'parameters.extra.reference'"
        )
        raise ModelLoadError(problem)
    return [f"x{place}" for place in range(width)]


def categories_of(material: Material) -> dict[int, list[str]] | None:
    """Give the features' categories as Alibi takes them; None where there are none."""
    return {place: list(names) for place, names in material.categorical_names.items()} or None


def by_place(found: object) -> object:
    """Make the keys of a JSON object the places that they are: `{"0": …}` is `{0: …}`."""
    if not isinstance(found, dict):
        return found
    return {
        int(key) if isinstance(key, str) and key.lstrip("-").isdigit() else key: value
        for key, value in found.items()
    }


def constructor_arguments(
    material: Material, given: Mapping[str, Any], **usual: object
) -> dict[str, Any]:
    """Put the settings' arguments over the usual ones, those that are None left out."""
    arguments = {key: value for key, value in usual.items() if value is not None} | dict(given)
    if "categorical_names" in arguments:
        arguments["categorical_names"] = by_place(arguments["categorical_names"])
    if isinstance(name := arguments.get("dtype"), str):
        try:
            arguments["dtype"] = np.dtype(name).type
        except TypeError as error:
            problem = f"'parameters.extra.init_parameters.dtype': {error}"
            raise ModelLoadError(problem) from error
    if "predictor" in arguments:
        problem = "'parameters.extra.init_parameters' holds a predictor, which is the target"
        raise ModelLoadError(problem)
    return arguments
