"""Counterfactuals by a policy that was trained beforehand."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import InvalidRequestError, ModelLoadError
from jackfield_alibi._explain._alibi import AlibiEngine, make_explainer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress


class PolicyEngine(AlibiEngine):
    """A near row with another prediction, by Alibi's CounterfactualRL or its tabular kind.

    Its training takes minutes to hours, so it is loaded, not built. A request sets `Y_t`, the class
    wanted of each row, or one for all.
    """

    def __init__(self, material: Material) -> None:
        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            problem = (
                "the explainer 'counterfactual_rl' is trained beforehand: save it by its `save`, "
                "and name the folder in 'parameters.uri'"
            )
            raise ModelLoadError(problem)

        with _whole_modules():
            explainer = make_explainer(material, build)
        super().__init__(material.kind, explainer)

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        rows, asked = np.asarray(instances), dict(parameters)
        wanted = asked.get("Y_t")
        if wanted is None:
            raise InvalidRequestError(
                "parameters.explain_parameters.Y_t",
                expected="the class wanted of each row, or one for all",
                found="none",
            )
        targets = np.asarray(wanted).reshape(-1)
        if len(targets) not in (1, len(rows)):
            raise InvalidRequestError(
                "parameters.explain_parameters.Y_t",
                expected=f"1 or {len(rows)} classes",
                found=f"{len(targets)}",
            )
        asked["Y_t"] = targets
        return super().explain(rows, asked, progress)


#: Several explainers may be loaded at once.
_loading = threading.Lock()


@contextlib.contextmanager
def _whole_modules() -> Iterator[None]:
    """Have Alibi read its networks whole within, as it saved them.

    PyTorch 2.6 and later read weights alone unless they are told otherwise; Alibi does not tell.
    The folder is the operator's, and its `explainer.dill` runs code anyway.
    """
    try:
        import torch
        from alibi.explainers.backends.pytorch import cfrl_base
    except ImportError:
        yield  # the explainer is TensorFlow's, or its loading says what is missing
        return

    def load_model(path: str | os.PathLike[str]) -> object:
        return torch.load(path, map_location="cpu", weights_only=False)

    with _loading:
        usual, cfrl_base.load_model = cfrl_base.load_model, load_model
        try:
            yield
        finally:
            cfrl_base.load_model = usual
