"""An online detector, and all that its next step depends on.

Alibi Detect draws thresholds, splits of the reference data and kernel centres at random whenever a
detector is built, and does not save them; and `FETDriftOnline` draws from NumPy's global generator
at a tie. All of that is part of the memory here, so that a detector that was loaded anew goes on
as one that never stopped. What Alibi Detect piles up with each step, and never reads, is left out.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Attributes that are drawn when a detector is built; each class has some of them.
_DRAWN = (
    "thresholds", "permit_probs", "ref_inds", "init_test_inds", "k_xx_sub_sum", "c_inds",
    "non_c_inds", "kernel_centers", "x_ref_eff", "H_lam_inv", "c2s",
)  # fmt: skip
_RANDOM = ("random.keys", "random.place", "random.gauss")


class OnlineDetector:
    """Steps of one online detector; a part of a `DetectorState`.

    Args:
        detector: One of Alibi Detect's that has a `load_state`.
        seed: Of the draws at ties, for `FETDriftOnline`; None takes one from the system.
    """

    def __init__(self, detector: Any, *, seed: int | None = None) -> None:  # noqa: ANN401  untyped
        self.detector = detector
        # the class of a backend, behind the public one
        self._inner = getattr(detector, "_detector", detector)
        self._random = _own_random(self._inner, seed)

    @property
    def time(self) -> int:
        """Steps since the detector began or was reset."""
        return int(self._inner.t)

    def predict(self, row: NDArray[Any], **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
        """Take one step.

        Args:
            row: One instance, without a first dimension for rows.
            parameters: As the detector's own `predict` has them.

        Returns:
            What the detector's own `predict` returns.
        """
        answer: dict[str, Any] = self.detector.predict(row, **parameters)
        inner = self._inner
        # these would grow with each row, and be copied with each
        if hasattr(inner, "xs"):
            inner.xs = inner.xs[-int(inner.max_ws) :]
        inner.test_stats = inner.test_stats[-1:]
        inner.drift_preds = inner.drift_preds[-1:]
        return answer

    def reset(self) -> None:
        """Begin anew, with the same thresholds."""
        self.detector.reset_state()

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copy all that the next steps depend on."""
        kept = {name: _to_array(getattr(self._inner, name)) for name in self._names()}
        if self._random is not None:
            state = self._random.get_state(legacy=False)
            kept["random.keys"] = np.array(state["state"]["key"])
            kept["random.place"] = np.array(state["state"]["pos"])
            kept["random.gauss"] = np.array([state["has_gauss"], state["gauss"]], np.float64)
        return kept

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a copy.

        Raises:
            ValueError: It is another kind of detector's; nothing is changed.
        """
        names = self._names()
        expected = {*names, *(_RANDOM if self._random is not None else ())}
        if snapshot.keys() != expected:
            odd = ", ".join(sorted(snapshot.keys() ^ expected))
            raise ValueError(f"expected the state of a {type(self.detector).__name__}: {odd}")
        values = {name: _like(getattr(self._inner, name), snapshot[name], name) for name in names}
        if self._random is not None:
            has_gauss, gauss = snapshot["random.gauss"]
            keys, place = snapshot["random.keys"], int(snapshot["random.place"])
            self._random.set_state(("MT19937", keys, place, int(has_gauss), float(gauss)))
        for name, value in values.items():
            setattr(self._inner, name, value)

    def _names(self) -> list[str]:
        drawn = [name for name in _DRAWN if name in vars(self._inner)]
        return [*self._inner.online_state_keys, *drawn]


def _own_random(inner: Any, seed: int | None) -> np.random.RandomState | None:  # noqa: ANN401
    """Give a detector that draws when it checks a generator of its own.

    The global one is everybody's: its state can be neither saved for one detector nor put back.
    """
    check = getattr(type(inner), "_check_drift", None)
    code = getattr(check, "__code__", None)
    if check is None or code is None or "random" not in code.co_names or code.co_freevars:
        return None
    random = np.random.RandomState(seed)
    used = {name: getattr(np, name) for name in code.co_names if hasattr(np, name)}
    numpy = types.SimpleNamespace(**used | {"random": random})
    own = types.FunctionType(code, check.__globals__ | {"np": numpy}, check.__name__)
    inner._check_drift = types.MethodType(own, inner)
    return random


def _to_array(value: Any) -> NDArray[Any]:  # noqa: ANN401  a tensor of any framework
    if isinstance(value, list):
        return np.array([_to_array(each) for each in value])
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value)


def _like(live: Any, array: NDArray[Any], name: str) -> Any:  # noqa: ANN401  see _to_array
    """Make of an array what the detector has in its place."""
    if isinstance(live, list):
        if len(live) != len(array):
            raise ValueError(f"expected {len(live)} {name}, found {len(array)}")
        return [_like(one, each, name) for one, each in zip(live, array, strict=True)]
    framework = type(live).__module__.partition(".")[0]
    if framework == "torch":
        import torch

        return torch.from_numpy(np.array(array)).to(live.device)
    if framework == "tensorflow":
        import tensorflow

        return tensorflow.convert_to_tensor(array)
    if isinstance(live, np.ndarray) and live.ndim:
        return np.array(array)
    return np.asarray(array)[()] if isinstance(live, np.generic) else np.asarray(array).item()
