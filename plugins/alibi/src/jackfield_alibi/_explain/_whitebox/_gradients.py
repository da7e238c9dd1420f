"""Explainers that follow the gradients of a PyTorch model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import Datatype, InvalidRequestError, ModelLoadError, TensorMetadata
from jackfield_alibi._explain._alibi import (
    AlibiEngine,
    constructor_arguments,
    make_explainer,
    require_reference,
)
from jackfield_alibi._explain._whitebox._models import require_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress


class SimilarityEngine(AlibiEngine):
    """The rows of the training data whose gradients are most like those of the row explained.

    The model is a `torch.nn.Module`, saved whole by `torch.save`, or TorchScript. The training
    data are `reference` and `reference_labels`. `init_parameters.loss_fn` names a loss of
    `torch.nn`: by default `CrossEntropyLoss`, with `task` "regression" `MSELoss`. A request sets
    `Y`, the labels [n] of its rows; a classifier's own are taken without.
    """

    def __init__(self, material: Material) -> None:
        from alibi.explainers import GradientSimilarity

        model = read_module(material, require_file(material))

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            rows = np.asarray(require_reference(material), np.float32)
            if material.reference_labels is None:
                problem = (
                    "the explainer 'gradient_similarity' needs the labels of the reference data: "
                    "name their file in 'parameters.extra.reference_labels'"
                )
                raise ModelLoadError(problem)
            usual = {"task": "classification", "backend": "pytorch", "precompute_grads": True}
            arguments = constructor_arguments(material, given, **usual)
            is_regression = arguments["task"] == "regression"
            loss = arguments.pop("loss_fn", "MSELoss" if is_regression else "CrossEntropyLoss")
            kind = np.float32 if is_regression else np.int64
            explainer = GradientSimilarity(predictor, loss_fn=_loss(loss), **arguments)
            return explainer.fit(rows, material.reference_labels.astype(kind))

        explainer = make_explainer(material, build, predictor=model)
        super().__init__(material.kind, explainer)
        self._shape = tuple(explainer.X_train.shape[1:])
        self._is_regression = explainer.task == "regression"
        self.input = TensorMetadata("", Datatype.FP32, [-1, *self._shape])

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        rows = np.asarray(instances, np.float32)
        if rows.shape[1:] != self._shape:
            raise InvalidRequestError(
                "inputs[0].shape",
                expected=str([-1, *self._shape]),
                found=str(list(rows.shape)),
            )
        asked = dict(parameters)
        labels = asked.get("Y")
        if labels is None and self._is_regression:
            raise InvalidRequestError(
                "parameters.explain_parameters.Y",
                expected=f"{len(rows)} values, since the model is of a regression",
                found="none",
            )
        if labels is not None:
            kind = np.float32 if self._is_regression else np.int64
            asked["Y"] = np.asarray(labels, kind).reshape(-1)
            if len(asked["Y"]) != len(rows):
                raise InvalidRequestError(
                    "parameters.explain_parameters.Y",
                    expected=f"{len(rows)} values, one for each row",
                    found=f"{len(asked['Y'])}",
                )
        return super().explain(rows, asked, progress)


def read_module(material: Material, path: Path) -> Any:  # noqa: ANN401  torch is untyped
    """Read a PyTorch model; the operator's path is consent to run what the file carries.

    Raises:
        ModelLoadError: PyTorch is not installed, or the file holds no module.
    """
    try:
        import torch
    except ImportError as error:
        problem = (
            f"the explainer '{material.kind}' needs PyTorch, which is not installed; "
            'install it: pip install "jackfield-alibi[torch]"'
        )
        raise ModelLoadError(problem) from error
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=False)
        except RuntimeError:
            found = torch.jit.load(path, map_location="cpu")
    # a damaged file raises what it likes
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        problem = f"the model's file '{path.name}' can't be read: {type(error).__name__}: {reason}"
        raise ModelLoadError(problem) from error
    if not isinstance(found, torch.nn.Module):
        problem = (
            f"the model's file '{path.name}' holds a {type(found).__name__}; expected a module "
            "of PyTorch, saved whole: torch.save(model, path)"
        )
        raise ModelLoadError(problem)
    found.eval()
    return found


def _loss(name: object) -> object:
    import torch

    found = getattr(torch.nn, str(name), None) if str(name).endswith("Loss") else None
    if found is None:
        problem = (
            "'parameters.extra.init_parameters.loss_fn': expected the name of a loss of torch.nn, "
            f"for example 'CrossEntropyLoss', found '{name}'"
        )
        raise ModelLoadError(problem)
    return found()
