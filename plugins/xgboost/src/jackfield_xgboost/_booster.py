"""Predict with a booster: in place where XGBoost can, several threads for many rows.

XGBoost's own threads wait for each other busily. With two or more of them one row took 25 to 100 ms
on a machine that had other work (4 cores; 0.12 ms with one), so a booster has one thread, and rows
beyond some thousands are divided among threads of our own, which wait idly.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xgboost

from jackfield import InvalidRequestError, ModelLoadError
from jackfield.tabular import both_classes

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from jackfield_xgboost._facts import Facts
    from jackfield_xgboost._runtime import Asked

Floats: TypeAlias = "NDArray[np.float32]"

#: Fewest rows for which a further thread pays, of what takes microseconds for a row and of what
#: takes a hundred times as long.
_ROWS_PER_THREAD = 2048
_SLOW_ROWS_PER_THREAD = 32


class Predictor:
    """One booster and how it is asked.

    Args:
        booster: Owned by this object from now on.
        facts: What the booster told.
        missing: Number that counts as missing beside NaN; None for none.
        device: "cpu", "cuda" or "cuda:N".
        threads: Help with many rows.
        workers: How many compute then: those threads and the caller's.

    Raises:
        ModelLoadError: There is no such device.
    """

    def __init__(
        self,
        booster: xgboost.Booster,
        facts: Facts,
        *,
        missing: float | None,
        device: str,
        threads: ThreadPoolExecutor | None,
        workers: int = 1,
    ) -> None:
        _place(booster, device)
        self._booster = booster
        self._facts = facts
        self._missing = math.nan if missing is None else missing
        self._is_in_place = not facts.is_linear and device == "cpu"
        self._threads = threads if self._is_in_place else None
        self._workers = workers
        best = facts.best_iteration
        self._iterations = (0, 0) if best is None else (0, best + 1)

    def value(self, data: Floats, asked: Asked) -> Floats:
        """Answer what the objective makes of the raw values, [rows] or [rows, width]."""
        width = 1 if self._facts.objective == "multi:softmax" else self._facts.width
        return self._predict(data, self._range(asked), width=width, is_raw=False)

    def margin(self, data: Floats, asked: Asked) -> Floats:
        """Answer the raw values, [rows] or [rows, width]."""
        return self._predict(data, self._range(asked), width=self._facts.width, is_raw=True)

    def both(self, data: Floats, asked: Asked) -> Floats:
        """Answer the probabilities of both classes, [rows, 2]."""
        return both_classes(self.value(data, asked))

    def leaf(self, data: Floats, asked: Asked) -> NDArray[np.int32]:
        """Answer the leaf of each tree that a row ends in, [rows, trees]."""
        iterations = self._range(asked, from_start=True)
        found = self._explain(data, iterations, pred_leaf=True)
        rows = data.shape[0]
        return found.reshape(rows, -1 if rows else 0).astype(np.int32)

    def contributions(self, data: Floats, asked: Asked) -> Floats:
        """Answer SHAP values, [rows, features + 1] or [rows, width, features + 1]."""
        size = self._facts.features + 1
        return self._explain(
            data,
            self._range(asked, from_start=True),
            pred_contribs=True,
            approx_contribs=asked.approx_contribs,
        ).reshape(data.shape[0], *self._per_target, size)

    def interactions(self, data: Floats, asked: Asked) -> Floats:
        """Answer SHAP values of pairs, with one more dimension than `contributions`."""
        size = self._facts.features + 1
        return self._explain(
            data,
            self._range(asked, from_start=True),
            pred_interactions=True,
            approx_contribs=asked.approx_contribs,
        ).reshape(data.shape[0], *self._per_target, size, size)

    @property
    def _per_target(self) -> tuple[int, ...]:
        return (self._facts.width,) if self._facts.width > 1 else ()

    def _predict(
        self, data: Floats, iterations: tuple[int, int], *, width: int, is_raw: bool
    ) -> Floats:
        shape = (data.shape[0], width) if width > 1 else (data.shape[0],)
        if not data.shape[0]:
            return np.empty(shape, np.float32)
        kind = "margin" if is_raw else "value"

        def in_place(rows: Floats) -> Floats:
            found: Floats = self._booster.inplace_predict(
                rows,
                iteration_range=iterations,
                predict_type=kind,
                missing=self._missing,
                validate_features=False,  # the columns were looked at
            )
            return found

        if not self._is_in_place:
            return self._explain(data, iterations, output_margin=is_raw).reshape(shape)
        # XGBoost refuses a view that begins anywhere in a message
        aligned = data if data.flags.aligned else data.copy()
        return self._divide(in_place, aligned, _ROWS_PER_THREAD).reshape(shape)

    def _explain(self, data: Floats, iterations: tuple[int, int], **wanted: bool) -> Floats:
        """Predict by way of a DMatrix, which everything but plain prediction needs."""
        if not data.shape[0]:
            return np.empty(0, np.float32)
        self._refuse_infinity(data)
        options: dict[str, Any] = dict(wanted)

        def explain(rows: Floats) -> Floats:
            matrix = xgboost.DMatrix(rows, missing=self._missing, nthread=1)
            found: Floats = self._booster.predict(
                matrix, iteration_range=iterations, validate_features=False, **options
            )
            return found

        aligned = data if data.flags.aligned else data.copy()
        return self._divide(explain, aligned, _SLOW_ROWS_PER_THREAD)

    def _divide(self, compute: Callable[[Floats], Floats], data: Floats, least: int) -> Floats:
        """Compute parts of the rows in several threads if there are enough of them."""
        parts = min(self._workers, data.shape[0] // least)
        if parts < 2 or self._threads is None:
            return compute(data)
        first, *others = np.array_split(data, parts)
        running = [self._threads.submit(compute, each) for each in others]
        return np.concatenate([compute(first), *(each.result() for each in running)])

    def _range(self, asked: Asked, *, from_start: bool = False) -> tuple[int, int]:
        """Check which iterations a request wants.

        Raises:
            InvalidRequestError: They are not there.
        """
        wanted = asked.iteration_range
        if wanted is None:
            return self._iterations
        begin, end = wanted
        rounds = self._facts.rounds
        if self._facts.is_linear:
            expected = "nothing, since a linear booster has no iterations to choose from"
        elif from_start and begin:
            expected = "0 as the first iteration, for leaves and contributions"
        elif 0 <= begin < (end or rounds) <= rounds:
            return wanted
        else:
            expected = f"[begin, end] with 0 <= begin < end <= {rounds}, or 0 as the end"
        raise InvalidRequestError(
            "parameters.iteration_range", expected=expected, found=f"[{begin}, {end}]"
        )

    def _refuse_infinity(self, data: Floats) -> None:
        if math.isinf(self._missing):
            return
        is_infinite = np.isinf(data)
        if is_infinite.any():
            row, column = np.argwhere(is_infinite)[0].tolist()
            raise InvalidRequestError(
                "inputs",
                expected="finite numbers, for what XGBoost computes on a DMatrix",
                found=f"an infinite one in row {row}, column {column}",
            )


def _place(booster: xgboost.Booster, device: str) -> None:
    """Bind a booster to one thread and a device, and make sure that it is there."""
    is_cuda = device.startswith("cuda")
    if is_cuda and not xgboost.build_info().get("USE_CUDA"):
        raise ModelLoadError(
            f"'parameters.extra.device' is '{device}', and the installed XGBoost "
            f"{xgboost.__version__} is built without CUDA; uninstall xgboost-cpu and "
            'pip install "jackfield-xgboost[gpu]"'
        )
    parameters: dict[str, object] = {"nthread": 1, "device": device}
    if is_cuda:
        parameters["fail_on_invalid_gpu_id"] = True
    try:
        booster.set_param(parameters)
        used = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"XGBoost can't use the device '{device}': {reason}") from error
    if is_cuda and not used.startswith("cuda"):  # XGBoost goes on without it
        raise ModelLoadError(
            f"'parameters.extra.device' is '{device}', and XGBoost {xgboost.__version__} finds no "
            "such GPU"
        )
