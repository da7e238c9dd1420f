"""Call the booster: a few rows by the quickest way, many in threads.

`Booster.predict` parses its parameters and makes a predictor each time. The library's C interface
has a way for single rows that does so once; Python reaches it by two names that are not public, the
loaded library and the booster's handle. So it is tried when a model loads, and serves only if it
gives the same bits.

A booster notes the iterations of a prediction in itself: predictions of different ones at the same
time get each other's trees, and the way for single rows those of the last one. So requests that
choose iterations have a booster of their own, and wait for each other there.
Source: LightGBM's C API, LGBM_BoosterPredictForMatSingleRowFast; GBDT::InitPredict of LightGBM 4.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Annotated, Any

import lightgbm
import lightgbm.basic
import numpy as np
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from jackfield_lightgbm._log import Logger

#: Most rows that go one by one: as many as that are about as quick by `Booster.predict`. Measured
#: with 100 trees, one thread: 1 row 4 against 22 µs, 4 rows 10 against 31, 32 rows 69 against 67.
_FEW_ROWS = 16
#: Rows times trees from which threads are used, about 3 ms of work. Below, waking them costs more
#: than they save, and where other processes take the cores, each call waits for them up to 20 ms.
_MANY = 50_000
#: SHAP values of a tree take about as long as this many predictions of it.
_CONTRIBUTIONS = 50

_FLOAT32, _FLOAT64 = 0, 1
_NORMAL, _RAW = 0, 1
_DTYPES: dict[np.dtype[Any], int] = {np.dtype(np.float32): _FLOAT32, np.dtype(np.float64): _FLOAT64}


class LightGBMParameters(Struct, frozen=True):
    """What one request may set; LightGBM's own names."""

    num_iteration: Annotated[
        Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None,
        Meta(
            description="How many iterations to use, each one tree per class; 0 or less is all. By "
            "default up to the best one where training noted it, else all.",
        ),
    ] = None
    start_iteration: Annotated[
        int, Meta(ge=0, le=2**31 - 1, description="The first iteration to use.")
    ] = 0
    pred_early_stop: Annotated[
        bool, Meta(description="Stop for a row once its result is clear; classifiers and rankers.")
    ] = False
    pred_early_stop_freq: Annotated[
        int, Meta(ge=1, le=2**31 - 1, description="Iterations between looks at whether to stop.")
    ] = 10
    pred_early_stop_margin: Annotated[
        float, Meta(ge=0, description="Margin from which a result is clear.")
    ] = 10.0


class Predictor:
    """Computes on arrays of float32 or float64, [rows, features], several threads at once.

    Args:
        booster: It stays in memory as long as this.
        threads: For many rows.
        rows: Rows to try the quick way with.
        logger: Learns where the quick way does not serve.
    """

    def __init__(
        self, booster: lightgbm.Booster, *, threads: int, rows: NDArray[Any], logger: Logger
    ) -> None:
        #: Predicts some iterations only; made by the first request that asks for it.
        self._chosen: lightgbm.Booster | None = None
        self._choosing = threading.Lock()
        if 0 < booster.best_iteration < booster.current_iteration():
            # else even the default is a choice; the text has the trees up to the best one
            self._chosen = booster
            booster = lightgbm.Booster(model_str=booster.model_to_string())
        self._booster = booster
        self._threads = threads
        self._width = booster.num_feature()
        self._trees = max(booster.num_trees(), 1)
        self._defaults = LightGBMParameters()
        self._fast: dict[int, _Fast] = {}
        try:
            fast = {kind: _Fast(booster, kind) for kind in (_NORMAL, _RAW)}
            is_same = _gives_the_same(fast, booster, rows)
        # the names are not public: another version of LightGBM may have others
        except Exception as error:  # noqa: BLE001
            logger.info("single rows go by Booster.predict: %s: %s", type(error).__name__, error)
            return
        if is_same:
            self._fast = fast
        else:
            logger.info("single rows go by Booster.predict: the quick way gives other results")

    @property
    def is_fast(self) -> bool:
        """Whether single rows go the quick way."""
        return bool(self._fast)

    def normal(self, data: NDArray[Any], asked: LightGBMParameters) -> NDArray[Any]:
        """Predict; [rows], or [rows, classes]."""
        if data.shape[0] <= _FEW_ROWS and self._fast and asked == self._defaults:
            return self._fast[_NORMAL](data)
        return self._predict(data, asked)

    def raw(self, data: NDArray[Any], asked: LightGBMParameters) -> NDArray[Any]:
        """Sum up the trees; [rows], or [rows, classes]."""
        if data.shape[0] <= _FEW_ROWS and self._fast and asked == self._defaults:
            return self._fast[_RAW](data)
        return self._predict(data, asked, raw_score=True)

    def leaf(self, data: NDArray[Any], asked: LightGBMParameters) -> NDArray[Any]:
        """Find the leaves; [rows, trees]."""
        return self._predict(data, asked, pred_leaf=True)

    def contributions(self, data: NDArray[Any], asked: LightGBMParameters) -> NDArray[Any]:
        """Compute SHAP values; [rows, features + 1], or [rows, classes, features + 1]."""
        found = self._predict(data, asked, weight=_CONTRIBUTIONS, pred_contrib=True)
        classes = found.shape[1] // (self._width + 1)
        return found if classes == 1 else found.reshape(-1, classes, self._width + 1)

    def close(self) -> None:
        """Free what the quick way holds; nothing computes any more."""
        for each in self._fast.values():
            each.close()
        self._fast = {}

    def _predict(
        self, data: NDArray[Any], asked: LightGBMParameters, *, weight: int = 1, **kind: bool
    ) -> NDArray[Any]:
        if not data.shape[0]:
            # LightGBM divides by the number of rows
            row = np.zeros((1, self._width))
            return self._predict(row, asked, weight=weight, **kind)[:0]
        is_much = data.shape[0] * self._trees * weight >= _MANY
        given: dict[str, Any] = {**kind, "num_threads": self._threads if is_much else 1}
        if asked.pred_early_stop:
            given["pred_early_stop"] = True
            given["pred_early_stop_freq"] = asked.pred_early_stop_freq
            given["pred_early_stop_margin"] = asked.pred_early_stop_margin
        if asked.num_iteration is None and not asked.start_iteration:
            return np.asarray(self._booster.predict(data, **given))
        with self._choosing:
            if self._chosen is None:
                self._chosen = lightgbm.Booster(model_str=self._booster.model_to_string())
            return np.asarray(
                self._chosen.predict(
                    data,
                    num_iteration=asked.num_iteration,
                    start_iteration=asked.start_iteration,
                    **given,
                )
            )


def _gives_the_same(fast: dict[int, _Fast], booster: lightgbm.Booster, rows: NDArray[Any]) -> bool:
    """Compare with what LightGBM's Python interface gives, bit for bit."""
    return all(
        np.array_equal(
            fast[kind](given),
            booster.predict(given, raw_score=kind == _RAW, num_threads=1),
            equal_nan=True,
        )
        for kind in fast
        for given in (rows, rows.astype(np.float32))
    )


class _Fast:
    """The C interface's way for single rows, for one kind of result."""

    def __init__(self, booster: lightgbm.Booster, kind: int) -> None:
        library = getattr(lightgbm.basic, "_LIB")  # noqa: B009  it is not public
        pointer = ctypes.c_void_p
        # functions of its own: those of the library are shared with LightGBM's Python code
        self._predict: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int, *[pointer] * 4)(
            ("LGBM_BoosterPredictForMatSingleRowFast", library)
        )
        self._free: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int, pointer)(
            ("LGBM_FastConfigFree", library)
        )
        integer = ctypes.c_int
        kinds = [pointer, integer, integer, integer, integer, ctypes.c_int32, ctypes.c_char_p]
        self._init: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int, *kinds, pointer)(
            ("LGBM_BoosterPredictForMatSingleRowFastInit", library)
        )
        self._booster = booster
        self._kind = kind
        self._width = booster.num_feature()
        self._classes = booster.num_model_per_iteration()
        #: Of each dtype, what no thread uses at the moment: one thread has one at a time.
        self._idle: dict[np.dtype[Any], list[ctypes.c_void_p]] = {each: [] for each in _DTYPES}

    def __call__(self, data: NDArray[Any]) -> NDArray[Any]:
        """Compute row by row; [rows], or [rows, classes]."""
        rows, classes = data.shape[0], self._classes
        data = np.ascontiguousarray(data)
        made = np.empty(rows if classes == 1 else (rows, classes))
        idle = self._idle[data.dtype]
        try:
            config = idle.pop()
        except IndexError:
            config = self._make(data.dtype)
        count = ctypes.c_int64()
        length = ctypes.addressof(count)
        source = data.__array_interface__["data"][0]
        target = made.__array_interface__["data"][0]
        step, step_made = data.itemsize * self._width, made.itemsize * classes
        predict = self._predict
        try:
            for _ in range(rows):
                if predict(config, source, length, target):
                    raise lightgbm.basic.LightGBMError("prediction of a single row failed")
                source += step
                target += step_made
        finally:
            idle.append(config)
        return made

    def _make(self, dtype: np.dtype[Any]) -> ctypes.c_void_p:
        config = ctypes.c_void_p()
        failed = self._init(
            self._booster._handle,
            self._kind,
            0,
            -1,
            _DTYPES[dtype],
            self._width,
            b"num_threads=1",
            ctypes.byref(config),
        )
        if failed:
            raise lightgbm.basic.LightGBMError("the way for single rows could not be prepared")
        return config

    def close(self) -> None:
        for configs in self._idle.values():
            while configs:
                self._free(configs.pop())
