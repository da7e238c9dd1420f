"""What a detector is, read from the object: its kind, what it takes, what it was fitted to.

Knows the attributes of Alibi Detect's classes, so that nothing else has to.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from jackfield import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Most rows of the reference data that are shown.
REFERENCE_ROWS = 1000
#: Detectors of outliers that judge each row by itself, and change nothing.
_ROW_WISE = ("IForest", "KNN", "LOF", "GMM", "PCA", "SVM", "_KNN", "_LOF", "_GMM", "_PCA", "_SVM")
#: Detectors that score the features of a row, too.
_WITH_FEATURE_SCORE = ("OutlierAE", "OutlierVAE", "OutlierSeq2Seq", "LLR")
_CLASSIFIERS = ("ClassifierDrift", "SpotTheDiffDrift")
#: Detectors of drift with a threshold for the distance.
_WITH_DISTANCE_THRESHOLD = ("MMDDrift", "LSDDDrift", "LearnedKernelDrift", "ContextMMDDrift")
#: Detectors of one value of p for each feature.
_UNIVARIATE = ("KSDrift", "CVMDrift", "ChiSquareDrift", "TabularDrift", "FETDrift")
#: What a detector remembers beside Alibi Detect's own states, by its class.
_MEMORIES: Mapping[str, tuple[str, ...]] = {"Mahalanobis": ("C", "mean", "n", "clip")}

Kind: TypeAlias = Literal["drift", "outlier", "adversarial"]
_KINDS: tuple[Kind, ...] = ("drift", "outlier", "adversarial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a detector."""

    #: Its class, for example "KSDrift".
    name: str
    kind: Kind
    #: It takes one row after another, and remembers them.
    is_online: bool
    #: "numpy", "sklearn", "pytorch", "tensorflow" or "keops".
    backend: str
    #: Of one row: () for a number, (4,) for features, (28, 28, 1) for images; None: not known.
    shape: tuple[int, ...] | None
    #: Of the reference data as they go in; None where they were preprocessed, or are not kept.
    dtype: np.dtype[Any] | None
    #: ``[n, ...]`` as they go in; None where the detector does not keep them.
    reference: NDArray[Any] | None
    #: It changes the rows before it looks at them.
    has_preprocessing: bool
    #: The level of significance; None where it has none.
    p_val: float | None
    #: The score above which a row is an outlier; None where it is not set.
    threshold: float | None
    #: Values of p, of distances: one for each feature, or 1.
    width: int
    #: Fewest rows that it can judge.
    min_rows: int
    #: Rows are judged one by one, and nothing is remembered.
    is_row_wise: bool
    #: Names of attributes in which it remembers what it saw.
    memory: tuple[str, ...]
    #: Arguments of `predict` beside the rows: name -> default.
    arguments: Mapping[str, object]
    #: It takes zeros and ones, nothing else.
    is_binary: bool
    #: It needs a second array, the context of each row.
    has_context: bool
    #: Of one row of the context.
    context_shape: tuple[int, ...] | None
    #: Of the statistic and of the threshold at one step of an online detector.
    statistic_shape: tuple[int, ...]
    threshold_shape: tuple[int, ...]

    @property
    def has_feature_score(self) -> bool:
        """Whether it scores features of each row."""
        return self.name in _WITH_FEATURE_SCORE

    @property
    def is_classifier(self) -> bool:
        """Whether it trains a classifier, whose probabilities it tells."""
        return self.name in _CLASSIFIERS

    @property
    def is_univariate(self) -> bool:
        """Whether it tests each feature by itself."""
        return self.name.removesuffix("Online") in _UNIVARIATE

    @property
    def has_distance_threshold(self) -> bool:
        """Whether it tells the distance from which there is drift."""
        return self.name in _WITH_DISTANCE_THRESHOLD

    @property
    def has_p_value(self) -> bool:
        """Whether it tells how likely a score is among the reference data."""
        return self.kind == "outlier" and self.name in _ROW_WISE and self.name != "IForest"


def facts_of(detector: Any) -> Facts:  # noqa: ANN401  a library without annotations
    """Find out what a detector is.

    Raises:
        ModelLoadError: It is of no known kind, or was not fitted.
    """
    meta = detector.meta
    kind = meta.get("detector_type")
    if kind is None and type(detector).__module__.startswith("alibi_detect.od."):
        kind = "outlier"  # 0.11 does not tell it of some
    if kind not in _KINDS:
        raise ModelLoadError(f"expected a detector of {', '.join(_KINDS)}, found '{kind}'")
    name = type(detector).__name__
    inner = inner_of(detector)
    config = _config(detector)
    preprocess = getattr(inner, "preprocess_fn", None)
    reference = _reference(config, inner, has_preprocessing=preprocess is not None)
    arguments = _arguments(detector)
    memory = (
        _MEMORIES.get(name, ()) if not type(detector).__module__.endswith("._mahalanobis") else ()
    )
    if getattr(inner, "update_x_ref", None) or getattr(inner, "update_ref", None):
        memory = ("x_ref", "n") if not hasattr(inner, "c_ref") else ("x_ref", "c_ref", "n")
    context = getattr(inner, "c_ref", None)
    facts = Facts(
        name=name,
        kind=kind,
        is_online=kind == "drift" and bool(meta.get("online")),
        backend=_backend(detector, inner, config, meta),
        shape=_shape(detector, inner, config, reference),
        dtype=reference.dtype if reference is not None else None,
        reference=reference,
        has_preprocessing=preprocess is not None,
        p_val=_number(getattr(inner, "p_val", None)),
        threshold=_threshold(detector),
        width=int(getattr(inner, "n_features", 1)) if hasattr(inner, "correction") else 1,
        min_rows=_min_rows(name, inner),
        is_row_wise=kind == "outlier" and name in _ROW_WISE,
        memory=memory,
        arguments=arguments,
        is_binary=name.startswith("FETDrift") and preprocess is None,
        has_context=name == "ContextMMDDrift",
        context_shape=None if context is None else tuple(np.shape(context)[1:]),
        statistic_shape=_statistic_shape(inner),
        threshold_shape=tuple(np.shape(getattr(inner, "thresholds", ()))[1:]),
    )
    _check_fitted(detector, facts)
    return facts


def inner_of(detector: Any) -> Any:  # noqa: ANN401  see facts_of
    """Get the object that computes: some classes are a shell for one of several backends."""
    inner = detector
    while hasattr(inner, "_detector"):
        inner = inner._detector
    return inner


def _config(detector: Any) -> dict[str, Any]:  # noqa: ANN401  see facts_of
    try:
        # the reference data as they were given, where the detector has normalised its own
        return dict(detector.get_config())
    except (AttributeError, NotImplementedError):
        return {}


def _reference(
    config: Mapping[str, Any],
    inner: Any,  # noqa: ANN401  see facts_of
    *,
    has_preprocessing: bool,
) -> NDArray[Any] | None:
    found = config.get("x_ref")
    if found is None:
        found = getattr(inner, "x_ref", None)
    is_changed = getattr(inner, "x_ref_preprocessed", False) or getattr(
        inner, "preprocess_at_init", True
    )
    if found is None or (has_preprocessing and is_changed):
        return None
    if hasattr(found, "cpu"):
        found = found.cpu().numpy()
    array = np.asarray(found)
    return array if array.ndim else None


def _shape(
    detector: Any,  # noqa: ANN401  see facts_of
    inner: Any,  # noqa: ANN401  see facts_of
    config: Mapping[str, Any],
    reference: NDArray[Any] | None,
) -> tuple[int, ...] | None:
    if reference is not None:
        return reference.shape[1:]
    # of reference data that were preprocessed already, theirs is not that of a row as it comes
    given = getattr(inner, "input_shape", None)
    if getattr(inner, "x_ref_preprocessed", False):
        given = config.get("input_shape")
    if given is not None:
        return tuple(int(each) for each in given)
    for place, read in _SHAPES:
        found = detector
        for part in place.split("."):
            found = getattr(found, part, None)
        if found is not None:
            try:
                return tuple(int(each) for each in read(found))
            except (TypeError, IndexError, AttributeError):
                continue
    return () if type(detector).__name__ == "SpectralResidual" else None


#: Where detectors of outliers keep what tells the shape of a row, and how it is read.
_SHAPES: tuple[tuple[str, Any], ...] = (
    ("isolationforest.n_features_in_", lambda found: (found,)),
    ("C", lambda found: (np.shape(found)[0],)),
    ("backend.gmm.n_features_in_", lambda found: (found,)),
    ("backend.svm.n_features_in_", lambda found: (found,)),
    ("backend.x_ref_mean", lambda found: (found.shape[-1],)),
    ("backend.x_ref", lambda found: found.shape[1:]),
    ("ae.encoder.encoder_net.input_shape", lambda found: found[1:]),
    ("vae.encoder.encoder_net.input_shape", lambda found: found[1:]),
    ("aegmm.encoder.input_shape", lambda found: found[1:]),
    ("vaegmm.encoder.encoder_net.input_shape", lambda found: found[1:]),
    ("distilled_model.input_shape", lambda found: found[1:]),
    ("shape", lambda found: found[1:]),
)


def _statistic_shape(inner: Any) -> tuple[int, ...]:  # noqa: ANN401  see facts_of
    windows = getattr(inner, "window_sizes", None)
    return () if windows is None else (len(windows), int(inner.n_features))


def _backend(
    detector: Any,  # noqa: ANN401  see facts_of
    inner: Any,  # noqa: ANN401  see facts_of
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> str:
    for each in (config.get("backend"), meta.get("backend"), getattr(inner, "backend", None)):
        if isinstance(each, str):
            # an enum of theirs is a text, too
            return str(getattr(each, "value", each)).lower()
    module = type(getattr(detector, "backend", None)).__module__
    for name in ("pytorch", "sklearn"):
        if f".{name}." in module:
            return name
    if type(detector).__name__ == "IForest":
        return "sklearn"
    kinds = (".cd.ks", ".cd.cvm", ".cd.chi", ".cd.tab", ".cd.fet", ".od.maha", ".od.sr")
    place = f".{type(detector).__module__.partition('.')[2]}"
    return "numpy" if place.startswith(kinds) else "tensorflow"


def _threshold(detector: Any) -> float | None:  # noqa: ANN401  see facts_of
    for holder in (detector, getattr(detector, "backend", None)):
        found = _number(getattr(holder, "threshold", None))
        if found is not None:
            return found
    return None


def _number(value: Any) -> float | None:  # noqa: ANN401  see facts_of
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _min_rows(name: str, inner: Any) -> int:  # noqa: ANN401  see facts_of
    if name == "SpectralResidual":
        return 1 + int(max(inner.window_amp, inner.window_local, inner.n_grad_points))
    if name in _CLASSIFIERS:
        folds = getattr(inner, "skf", None)
        return int(folds.n_splits) if folds is not None else 2
    # a distance between pairs of rows
    return 2 if name in _WITH_DISTANCE_THRESHOLD else 1


def _arguments(detector: Any) -> dict[str, object]:  # noqa: ANN401  see facts_of
    found = inspect.signature(detector.predict).parameters.values()
    return {
        each.name: each.default
        for each in found
        if each.default is not inspect.Parameter.empty
        # arrays, and objects that can't be sent
        and each.name not in ("t", "return_forecast")
    }


def _check_fitted(detector: Any, facts: Facts) -> None:  # noqa: ANN401  see facts_of
    if facts.kind == "drift":
        return
    backend = getattr(detector, "backend", None)
    is_fitted = getattr(backend, "fitted", True)
    if facts.name == "IForest":
        is_fitted = facts.shape is not None
    if not is_fitted:
        raise ModelLoadError(f"{facts.name} was not fitted; call its 'fit', and save it again")
    if facts.threshold is None and not facts.has_p_value:
        raise ModelLoadError(
            f"{facts.name} has no threshold; call its 'infer_threshold', and save it again"
        )
