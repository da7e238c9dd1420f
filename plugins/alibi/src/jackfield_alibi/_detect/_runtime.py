"""Serve a detector of Alibi Detect: of drift, of outliers or of adversarial instances."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from jackfield import (
    Capabilities,
    InferResponse,
    InvalidRequestError,
    ModelLoadError,
    ModelMetadata,
    route,
)
from jackfield.tabular import RequestParameters
from jackfield.window import Window, WindowSettings
from jackfield_alibi._detect._artifact import OWN_STATE_FOLDER, library_version, read
from jackfield_alibi._detect._facts import facts_of, inner_of
from jackfield_alibi._detect._inputs import Inputs, input_dtype
from jackfield_alibi._detect._memory import Attributes, RequestBatch
from jackfield_alibi._detect._options import DetectOptions
from jackfield_alibi._detect._outputs import Answers, MlserverAnswers, Verdict, needs_verdict
from jackfield_alibi._detect._parameters import Asked, PredictParameters
from jackfield_alibi._detect._state import DetectorState, OnlineDetector

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from jackfield import InferRequest, ModelContext, Parameter
    from jackfield_alibi._detect._artifact import Saved
    from jackfield_alibi._detect._state import Part

_Array: TypeAlias = "NDArray[Any]"


class DetectRuntime:
    """One detector, whatever class of Alibi Detect it is.

    Rows in, rows or verdicts out; under MLServer's class name the shapes are MLServer's.
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        self._is_mlserver = context.settings.implementation.startswith("mlserver_")
        options = context.options
        self._options = options if isinstance(options, DetectOptions) else DetectOptions()
        self._state: DetectorState | None = None

    def load(self) -> None:
        """Read the detector, find out what it is, and go on from what it remembers."""
        self._version = library_version()
        saved = read(self._context.artifact, self._context.logger, seed=self._options.seed)
        self._form = saved.form
        self._detector: Any = saved.detector
        self._facts = facts = facts_of(saved.detector)
        self._predict = PredictParameters(facts.arguments, self._options.predict_parameters)
        self._asked = RequestParameters(Asked)
        preprocess = getattr(inner_of(saved.detector), "preprocess_fn", None)
        self._inputs = Inputs(facts, self._options, dtype=input_dtype(facts, preprocess))
        self._answers: Answers | MlserverAnswers
        answers = MlserverAnswers if self._is_mlserver else Answers
        self._answers = answers(facts, self._predict.defaults)
        self._window = self._make_window()
        self._batch = self._make_batch()
        self._online = None
        if facts.is_online:
            self._online = OnlineDetector(saved.detector, seed=self._options.seed)
        parts = self._parts()
        is_row_wise = facts.is_row_wise and self._batch is None
        self.capabilities = Capabilities(
            row_wise=is_row_wise, thread_safe=is_row_wise, stateful=bool(parts)
        )
        self._count()
        if parts:
            self._open_state(saved, parts)

    def metadata(self) -> ModelMetadata:
        """Tell the detector, its kind, its inputs and outputs."""
        facts = self._facts
        parameters: dict[str, Parameter] = {
            "detector": facts.name,
            "kind": facts.kind,
            "online": facts.is_online,
            "backend": facts.backend,
            "library": "alibi-detect",
            "version": self._version,
        }
        if self._options.feature_names:
            parameters["feature_names"] = list(self._options.feature_names)
        if facts.p_val is not None:
            parameters["p_val"] = facts.p_val
        if facts.threshold is not None:
            parameters["threshold"] = facts.threshold
        if facts.kind == "drift":
            parameters["drift_type"] = str(self._predict.defaults.get("drift_type", "batch"))
        if self._options.predict_parameters:
            parameters["predict_parameters"] = dict(self._options.predict_parameters)
        if self._window is not None:
            parameters["window"] = msgspec.to_builtins(self._window.settings)
        if self._state is not None:
            parameters |= self._state.metadata()
        if self._is_mlserver:
            parameters["predict_as"] = self._context.settings.implementation
        return ModelMetadata(
            platform=f"alibi-detect_{self._form}",
            inputs=self._inputs.metadata(),
            outputs=self._answers.metadata(),
            parameters=parameters | self._asked.metadata(),
        )

    def infer(self, request: InferRequest) -> InferResponse:
        """Judge the rows of a request; with a window or a batch, when it is full.

        Shapes: A table is [n, features], arrays are [n, ...]. Answers have the rows, or the
        verdicts, first.
        """
        arguments = self._predict.of(self._asked.read(request))
        rows, context = self._inputs.read(request)
        if not needs_verdict(request):
            return InferResponse(self._answers.tensors(request, []))
        with self._state.turn() if self._state is not None else contextlib.nullcontext():
            verdicts = self._judge(rows, context, arguments)
        self._observe(verdicts)
        tensors = self._answers.tensors(request, verdicts)
        return InferResponse(tensors, self._scalars() if self._is_mlserver else {})

    def close(self) -> None:
        """Save what it remembers, and let go of the detector."""
        if self._state is not None:
            self._state.close()
            self._state = None
        self._detector = self._online = self._window = None

    @route("/state", is_needed=False)
    def show_state(self) -> dict[str, Any]:
        """Tell how full the window is, and how it stands with what is saved."""
        told: dict[str, Any] = {"detector": self._facts.name}
        if self._window is not None:
            status = self._window.status(time.time())
            told["window"] = {
                "rows": status.rows,
                "fullness": status.fullness,
                "oldest_age_s": status.oldest_age,
                "windows": status.windows,
                "dropped_rows": status.dropped,
            }
        if self._batch is not None:
            told["batch"] = {"requests": len(self._batch), "of": self._options.batch_size}
        if self._state is not None:
            told |= self._state.status()
        return told

    # ---- what is decided when it loads ----

    def _make_window(self) -> Window | None:
        setting = self._options.window
        if setting is None:
            return None
        facts = self._facts
        if facts.kind != "drift" or facts.is_online or facts.has_context:
            what = "judges each row" if facts.kind != "drift" else "has a window of its own"
            if facts.has_context:
                what = "needs the context of its rows"
            raise ModelLoadError(f"'parameters.extra.window': {facts.name} {what}; leave it out")
        if self._options.batch_size is not None:
            raise ModelLoadError(
                "'parameters.extra' has 'window' and 'batch_size'; one of them says what is judged "
                "together"
            )
        settings = WindowSettings(rows=setting) if isinstance(setting, int) else setting
        if 0 < settings.rows < facts.min_rows:
            raise ModelLoadError(
                f"'parameters.extra.window': expected at least {facts.min_rows} rows, which "
                f"{facts.name} needs, found {settings.rows}"
            )
        least = max(settings.min_rows, facts.min_rows)
        return Window(msgspec.structs.replace(settings, min_rows=least))

    def _make_batch(self) -> RequestBatch | None:
        size, facts = self._options.batch_size, self._facts
        if size is None:
            return None
        if facts.is_online or facts.has_context:
            if not self._is_mlserver:
                raise ModelLoadError(
                    f"'parameters.extra.batch_size': {facts.name} judges each request; leave it out"
                )
            self._context.logger.warning("'batch_size' has no effect with %s", facts.name)
            return None
        if facts.kind != "drift" and not self._is_mlserver:
            raise ModelLoadError(
                f"'parameters.extra.batch_size': {facts.name} judges each row; leave it out"
            )
        return RequestBatch(size)

    def _parts(self) -> dict[str, Part]:
        """Gather what is remembered from one request to the next."""
        parts: dict[str, Part] = {}
        if self._window is not None:
            parts["window"] = self._window
        if self._batch is not None:
            parts["batch"] = self._batch
        if self._online is not None:
            parts["online"] = self._online
        if self._facts.memory:
            parts["detector"] = Attributes(inner_of(self._detector), self._facts.memory)
        return parts

    def _open_state(self, saved: Saved, parts: Mapping[str, Part]) -> None:
        folder: Path | None = None
        if self._options.save_state:
            # relative to the artifact's folder; an absolute path stands for itself
            folder = saved.folder / (self._options.state_folder or OWN_STATE_FOLDER)
        state = DetectorState(
            folder,
            model=self._context.name,
            identity=saved.fingerprint,
            parts=parts,
            save_every=self._options.state_save_freq,
            logger=self._context.logger,
            metrics=self._context.metrics,
            version=self._context.version,
        )
        state.open()
        self._state = state

    # ---- judging ----

    def _judge(
        self, rows: _Array, context: _Array | None, arguments: Mapping[str, Any]
    ) -> list[Verdict]:
        if self._online is not None:
            verdicts = []
            for row in _own(rows):
                verdicts.append(Verdict(self._online.predict(row, **arguments)["data"], 1))
                self._stepped(1)
            return verdicts
        for gathered in (self._window, self._batch):
            if gathered is not None and not gathered.fits(rows):
                raise InvalidRequestError(
                    "inputs[0]",
                    expected="rows of the kind that the window holds already",
                    found=f"{rows.dtype} {list(rows.shape)}",
                )
        if self._window is not None:
            full = self._window.add(rows, time.time())
            self._stepped(len(rows))
            return [self._verdict(each.rows, None, arguments) for each in full]
        if self._batch is not None:
            whole = self._batch.add(rows)
            self._stepped(len(rows))
            return [] if whole is None else [self._verdict(whole, None, arguments)]
        if len(rows) < self._facts.min_rows:
            raise InvalidRequestError(
                "inputs[0].shape",
                expected=f"at least {self._facts.min_rows} rows, which {self._facts.name} needs",
                found=str(list(rows.shape)),
            )
        verdict = self._verdict(rows, context, arguments)
        self._stepped(len(rows))
        return [verdict]

    def _stepped(self, count: int) -> None:
        """Count rows when they are remembered: a failure after that takes none back."""
        if self._state is not None:
            self._state.stepped(count)

    def _verdict(
        self, rows: _Array, context: _Array | None, arguments: Mapping[str, Any]
    ) -> Verdict:
        # texts are lists to whoever preprocesses them
        given: Any = rows.tolist() if rows.dtype == object and rows.ndim == 1 else _own(rows)
        positional = (given,) if context is None else (given, _own(context))
        try:
            answer = self._detector.predict(*positional, **arguments)
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            if self._facts.shape is not None:
                raise
            # nothing told what a row is, so that what is wrong with it shows here only
            raise InvalidRequestError(
                "inputs[0]",
                expected=f"rows that {self._facts.name} takes ({error})",
                found=f"{rows.dtype} {list(rows.shape)}",
            ) from error
        return Verdict(answer["data"], len(rows))

    def _scalars(self) -> dict[str, Parameter]:
        """Tell the detector's own metadata, as MLServer does: what gRPC can carry."""
        return {
            key: value
            for key, value in self._detector.meta.items()
            if isinstance(value, bool | int | float | str)
        }

    # ---- metrics ----

    def _count(self) -> None:
        metrics, facts = self._context.metrics, self._facts
        what = "verdicts" if facts.kind == "drift" and not facts.is_online else "rows"
        self._judged = metrics.counter("detector_judged", f"Judged by the detector: {what}.")
        self._flagged = metrics.counter(
            "detector_flagged", f"Found to be drift, outliers or adversarial: {what}."
        )
        self._flag = {"drift": "is_drift", "outlier": "is_outlier"}.get(
            facts.kind, "is_adversarial"
        )

    def _observe(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            flags = verdict.data.get(self._flag)
            if flags is None:
                continue
            if self._facts.kind == "drift":
                self._judged.inc()
                self._flagged.inc(bool(np.any(flags)))
            else:
                self._judged.inc(verdict.rows)
                by_row = np.asarray(flags).reshape(verdict.rows, -1).any(axis=1)
                self._flagged.inc(int(by_row.sum()))


def _own(rows: _Array) -> _Array:
    """Give rows that may be written to: PyTorch takes no others, and preprocessing may write."""
    return rows if rows.flags.writeable else rows.copy()
