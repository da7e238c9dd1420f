"""Explainers that ask their target about rows near the one explained: anchors and KernelShap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jackfield import Datatype, ModelLoadError, TensorMetadata
from jackfield_alibi._explain._alibi import (
    AlibiEngine,
    categories_of,
    constructor_arguments,
    make_explainer,
    names_of,
    require_reference,
    require_target,
)
from jackfield_alibi._explain._kernel import quicken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Material


def _fitted_on_rows(
    material: Material, explainer_class: Callable[..., Any]
) -> Callable[[Callable[..., Any], dict[str, Any]], object]:
    """Give what builds an explainer of this class, and fits it on the reference data."""

    def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
        rows = require_reference(material)
        arguments = constructor_arguments(
            material,
            given,
            feature_names=names_of(material),
            categorical_names=categories_of(material),
            seed=material.options.seed,
        )
        explainer = explainer_class(predictor, **arguments)
        return explainer.fit(rows, **material.options.fit_parameters)

    return build


class AnchorTabularEngine(AlibiEngine):
    """Rules on features that keep a prediction as it is."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import AnchorTabular

        explainer = make_explainer(material, _fitted_on_rows(material, AnchorTabular))
        super().__init__(material.kind, explainer, takes_one=True)
        if explainer.ohe:
            return
        width = len(explainer.feature_names)
        self.input = TensorMetadata("", Datatype.FP64, [-1, width])


class AnchorTextEngine(AlibiEngine):
    """Words that keep a prediction as it is, whatever the others are."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import AnchorText
        from alibi.explainers.anchors.text_samplers import SimilaritySampler, UnknownSampler

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            nlp = given.pop("nlp", None)
            if given.get("sampling_strategy", "unknown") == "language_model":
                problem = (
                    "'parameters.extra.init_parameters': a language model is not built from "
                    "settings; save the explainer and name its folder in 'parameters.uri'"
                )
                raise ModelLoadError(problem)
            seed = material.options.seed
            arguments = constructor_arguments(material, given, seed=seed)
            return AnchorText(predictor, nlp=_language(nlp), **arguments)

        explainer = make_explainer(material, build)
        super().__init__(material.kind, explainer, takes_one=True)
        self.input = TensorMetadata("", Datatype.BYTES, [-1])
        sampler = explainer.perturbation
        if isinstance(sampler, UnknownSampler | SimilaritySampler):
            # else each word of each sample has room for all of the text: gigabytes for a page of it
            sampler.set_data_type = lambda: setattr(sampler, "dtype", object)


def _language(name: object) -> object:
    """Get spaCy's pipeline of a name or a folder; without one that splits English words."""
    import spacy

    if name is None:
        return spacy.blank("en")
    try:
        return spacy.load(str(name))
    except OSError as error:
        problem = f"'parameters.extra.init_parameters.nlp': {error}"
        raise ModelLoadError(problem) from error


class AnchorImageEngine(AlibiEngine):
    """Parts of an image that keep a prediction as it is."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import AnchorImage

        shape = _image_shape(material)
        predict = require_target(material)
        if shape is not None and _takes_rows_of(material, math.prod(shape)):
            inner = predict

            def predict(images: NDArray[Any]) -> NDArray[Any]:
                found: NDArray[Any] = inner(images.reshape(len(images), -1))
                return found

        def build(predictor: Callable[..., Any], given: dict[str, Any]) -> object:
            if shape is None:
                problem = (
                    "the explainer 'anchor_image' needs the images' shape: set "
                    "'parameters.extra.init_parameters.image_shape' to [height, width, channels]"
                )
                raise ModelLoadError(problem)
            background = given.pop("images_background", material.reference)
            arguments = constructor_arguments(
                material,
                given,
                images_background=None if background is None else np.asarray(background),
                seed=material.options.seed,
            )
            return AnchorImage(predictor, **(arguments | {"image_shape": shape}))

        explainer = make_explainer(material, build, predictor=predict)
        super().__init__(material.kind, explainer, takes_one=True)
        self.input = TensorMetadata("", Datatype.FP64, [-1, *explainer.image_shape])


def _image_shape(material: Material) -> tuple[int, ...] | None:
    """Find [height, width, channels]: in the settings, else of the reference, else the target's."""
    given = (material.options.init_parameters or {}).get("image_shape")
    if given is not None:
        return tuple(int(each) for each in given)
    if material.saved is not None:
        import dill

        with (material.saved / "meta.dill").open("rb") as file:
            return tuple(dill.load(file)["params"]["image_shape"])
    if material.reference is not None and material.reference.ndim > 1 + 1:
        return tuple(material.reference.shape[1:])
    told = material.target_shape
    if len(told) > 1 + 1 and all(each > 0 for each in told[1:]):
        return tuple(told[1:])
    return None


def _takes_rows_of(material: Material, width: int) -> bool:
    """Tell whether the target takes images as rows of so many numbers."""
    told = material.target_shape
    return len(told) == 1 + 1 and told[1] == width


class KernelShapEngine(AlibiEngine):
    """SHAP values of any model, by Alibi."""

    def __init__(self, material: Material) -> None:
        from alibi.explainers import KernelShap

        explainer = make_explainer(material, _fitted_on_rows(material, KernelShap))
        super().__init__(material.kind, explainer)
        quicken(explainer._explainer)
        # those that it hands on to shap
        self.parameters = {**self.parameters, "nsamples": "auto", "l1_reg": "auto"}
        if explainer.feature_names and not explainer.use_groups:
            width = len(explainer.feature_names)
            self.input = TensorMetadata("", Datatype.FP64, [-1, width])

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"silent": True, **parameters}
