"""Explainers of Alibi that need TensorFlow below 2.15.

Integrated gradients want TensorFlow to compute at once; the counterfactuals want its graphs, and
that is a switch of the whole process. So a server has the one or the other.
"""

from __future__ import annotations

import importlib.util
import threading
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

    from jackfield_alibi._explain._explanation import Explanation, Instances, Material, Progress


class _Mode:
    """Which of both this process computes by; it can't change once something was computed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_graph: bool | None = None

    def take(self, kind: str, *, is_graph: bool) -> Any:  # noqa: ANN401  TensorFlow is untyped
        """Import TensorFlow for a kind of explainer.

        Raises:
            ModelLoadError: It is not installed, or an explainer of the other kind is loaded.
        """
        if importlib.util.find_spec("tensorflow") is None:
            problem = (
                f"the explainer '{kind}' needs TensorFlow below 2.15, which is not installed; "
                'install it beside Alibi: pip install "alibi[tensorflow]"'
            )
            raise ModelLoadError(problem)
        import tensorflow as tf

        with self._lock:
            if self._is_graph is not None and self._is_graph is not is_graph:
                other = "integrated_gradients" if is_graph else "cem and the counterfactuals"
                problem = (
                    f"the explainer '{kind}' can't be in one server with {other}: TensorFlow "
                    "computes by graphs or at once, never both in one process; serve it by another"
                )
                raise ModelLoadError(problem)
            if is_graph and tf.executing_eagerly():
                tf.compat.v1.disable_v2_behavior()
            self._is_graph = is_graph
        return tf


_mode = _Mode()


class IntegratedGradientsEngine(AlibiEngine):
    """How much each number of an instance adds to a prediction, by the gradients of a Keras model.

    Attributions are of the class that a request's `target` names; without, of the predicted one.
    """

    def __init__(self, material: Material) -> None:
        tf = _mode.take(material.kind, is_graph=False)
        from alibi.explainers import IntegratedGradients

        path = require_file(material)
        try:
            model = tf.keras.models.load_model(path)
        # a damaged file raises what it likes
        except Exception as error:
            problem = f"the model '{path.name}' can't be read: {type(error).__name__}: {error}"
            raise ModelLoadError(problem) from error

        def build(_: Callable[..., Any], given: dict[str, Any]) -> object:
            arguments = constructor_arguments(material, given)
            place = arguments.pop("layer", None)
            layer = None if place is None else model.layers[int(place)]
            return IntegratedGradients(model, layer=layer, **arguments)

        super().__init__(material.kind, make_explainer(material, build, predictor=model))
        self._model = model
        self._shape = tuple(model.input_shape[1:])
        self._dtype = np.dtype(model.inputs[0].dtype.as_numpy_dtype)
        shape = [-1 if each is None else int(each) for each in self._shape]
        self.input = TensorMetadata("", Datatype.of(self._dtype), [-1, *shape])

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain them; see `Engine`."""
        rows, asked = np.asarray(instances, self._dtype), dict(parameters)
        _check_shape(rows, self._shape)
        if asked.get("target") is None:
            found = np.asarray(self._model(rows))
            if found.ndim > 1 and found.shape[-1] > 1:
                asked["target"] = found.argmax(axis=-1)
        elif isinstance(asked["target"], list):
            asked["target"] = np.asarray(asked["target"])
        if isinstance(asked.get("baselines"), list):
            asked["baselines"] = np.asarray(asked["baselines"], self._dtype)
        return super().explain(rows, asked, progress)


class _GraphEngine(AlibiEngine):
    """One that searches for another instance, one at a time."""

    def __init__(self, material: Material) -> None:
        _mode.take(material.kind, is_graph=True)
        make = self._explainer_class()
        shape = _instance_shape(material)

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            arguments = constructor_arguments(material, {**given, "shape": (1, *shape)})
            if isinstance(arguments.get("feature_range"), list):
                low, high = arguments["feature_range"]
                arguments["feature_range"] = (_bound(low), _bound(high))
            explainer = make(predictor, **arguments)
            if self._takes_reference(arguments):
                rows = np.asarray(require_reference(material))
                explainer.fit(rows, **material.options.fit_parameters)
            return explainer

        super().__init__(material.kind, make_explainer(material, build), takes_one=True)
        self._shape = shape
        self.input = TensorMetadata("", Datatype.FP64, [-1, *shape])

    def _takes_reference(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether the explainer learns from the reference data."""
        return False

    def _explainer_class(self) -> Any:  # noqa: ANN401  Alibi is untyped
        raise NotImplementedError

    def explain(
        self, instances: Instances, parameters: Mapping[str, Any], progress: Progress
    ) -> Explanation:
        """Explain one; see `Engine`."""
        rows = np.asarray(instances)
        _check_shape(rows, self._shape)
        # it takes a batch of one, where others take the instance
        return super().explain(rows[None, :1], parameters, progress)


class CemEngine(_GraphEngine):
    """What must be there (PP), or must not (PN), for a prediction; `mode` says which.

    The numbers that stand for nothing are `init_parameters.no_info_val`, or the reference data's
    medians.
    """

    def _takes_reference(self, arguments: Mapping[str, Any]) -> bool:
        return "no_info_val" not in arguments

    def _explainer_class(self) -> Any:  # noqa: ANN401
        from alibi.explainers import CEM

        return CEM


class CounterfactualEngine(_GraphEngine):
    """A near instance with another prediction."""

    def _explainer_class(self) -> Any:  # noqa: ANN401
        from alibi.explainers import Counterfactual

        return Counterfactual


class PrototypeEngine(_GraphEngine):
    """A near instance with another prediction, like those of its class in the reference data."""

    def _takes_reference(self, arguments: Mapping[str, Any]) -> bool:
        return True

    def _explainer_class(self) -> Any:  # noqa: ANN401
        from alibi.explainers import CounterfactualProto

        return CounterfactualProto


def _instance_shape(material: Material) -> tuple[int, ...]:
    given = (material.options.init_parameters or {}).get("shape")
    if given is not None:
        return tuple(int(each) for each in given[1:])
    if material.reference is not None:
        return tuple(material.reference.shape[1:])
    told = material.target_shape[1:]
    if told and all(each > 0 for each in told):
        return tuple(told)
    problem = (
        f"the explainer '{material.kind}' needs the shape of an instance: set "
        "'parameters.extra.init_parameters.shape' to [1, features] or the like"
    )
    raise ModelLoadError(problem)


def _bound(given: Any) -> Any:  # noqa: ANN401  a number, or one for each feature
    return np.asarray(given)[None] if isinstance(given, list) else given


def _check_shape(rows: Any, shape: tuple[int | None, ...]) -> None:  # noqa: ANN401
    fits = rows.ndim == len(shape) + 1 and all(
        wanted is None or wanted == found
        for wanted, found in zip(shape, rows.shape[1:], strict=True)
    )
    if not fits:
        expected = [-1, *(-1 if each is None else each for each in shape)]
        raise InvalidRequestError(
            "inputs[0].shape", expected=str(expected), found=str(list(rows.shape))
        )
