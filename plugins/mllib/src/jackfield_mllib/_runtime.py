"""Serve a model of Spark: a pipeline, a tuned model, or a fitted stage alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyspark
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from jackfield import InvalidRequestError, ModelLoadError, ModelMetadata
from jackfield_mllib import MllibOptions
from jackfield_mllib._artifact import first_line, load, read
from jackfield_mllib._frame import FrameRoute
from jackfield_mllib._inputs import Inputs
from jackfield_mllib._outputs import Answers, describe
from jackfield_mllib._rdd import RddModel
from jackfield_mllib._routes import Choice, choose_route
from jackfield_mllib._schema import find_fields
from jackfield_mllib._session import SessionOptions, acquire

if TYPE_CHECKING:
    from pyspark.ml import Transformer
    from pyspark.sql import SparkSession

    from jackfield import InferRequest, InferResponse, ModelContext, Parameter
    from jackfield_mllib._artifact import Stage
    from jackfield_mllib._session import Lease


class Loaded(NamedTuple):
    """A model in a session, and how to ask it."""

    model: Transformer
    inputs: Inputs
    answers: Answers
    choice: Choice


class MllibRuntime:
    """One model in the Spark session that all models of the process share.

    Under MLServer's class name the prediction is answered as `predict`, FP32 [n, 1].
    """

    def __init__(self, context: ModelContext) -> None:
        self._context = context
        options = context.options
        self._options = options if isinstance(options, MllibOptions) else MllibOptions()
        self._is_mlserver = context.settings.implementation.startswith("mlserver")
        self._lease: Lease | None = None
        self._loaded: Loaded | RddModel | None = None

    def load(self) -> None:
        """Read the folder; start Spark or join it, load the model and choose its route.

        A model of `pyspark.mllib` is read without Spark.
        """
        stage = read(self._context.artifact, self._context.logger)
        if stage.is_of_rdds:
            form = self._context.settings.parameters.format
            model = RddModel(stage.folder, form=form, is_mlserver=self._is_mlserver)
            self._loaded, self._metadata = model, model.metadata()
            return
        options = SessionOptions(
            conf=self._options.conf,
            master=self._options.master,
            remote=self._options.remote,
            threads=self._context.threads,
        )
        lease = acquire(options, name=self._context.name, version=self._context.version)
        try:
            with lease.calls() as session:
                self._loaded = loaded = self._load(session, stage)
        except BaseException:
            lease.close()
            raise
        self._lease = lease
        self._metadata = self._describe(stage, loaded)

        def reload(session: SparkSession) -> None:
            self._loaded = self._load(session, stage)

        lease.on_restart(reload)

    @property
    def problem(self) -> str:
        """Why it can't answer now: Spark was lost, and is being started again."""
        return self._lease.problem if self._lease is not None else ""

    def metadata(self) -> ModelMetadata:
        """Say what the stages tell; outputs beside the default ones are on request."""
        return self._metadata

    @property
    def in_session(self) -> Loaded | None:
        """The model in Spark's session, for batch scoring; None for one of `pyspark.mllib`."""
        return self._loaded if isinstance(self._loaded, Loaded) else None

    def infer(self, request: InferRequest) -> InferResponse:
        """Compute the columns that are asked for.

        Shapes: A column is [n] or [n, 1], a vector [n, width]; outputs have n first.
        """
        loaded, lease = self._loaded, self._lease
        if isinstance(loaded, RddModel):
            return loaded.infer(request)
        if loaded is None or lease is None:
            message = "the model is closed"
            raise RuntimeError(message)
        names = loaded.answers.wanted(request)
        columns = loaded.inputs.read(request)
        if not len(next(iter(columns.values()))):
            return loaded.answers.empty(names)
        with lease.calls():
            found = loaded.choice.route(columns, loaded.answers.columns_of(names))
        return loaded.answers.response(names, found)

    def close(self) -> None:
        """Let go of the model; the last one stops Spark."""
        self._loaded = None
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    # ---- loading ----

    def _load(self, session: SparkSession, stage: Stage) -> Loaded:
        """Load the model into a session: the first, or the one after the JVM has died."""
        model = load(stage)
        inputs = Inputs(
            find_fields(
                stage,
                model,
                schema=self._options.schema,
                declared=self._context.settings.inputs,
            )
        )
        try:
            frame = FrameRoute(session, model, inputs.schema)
        except (PySparkException, Py4JJavaError) as error:
            listed = ", ".join(f"'{each.name}' ({each.type})" for each in inputs.fields[:10])
            raise ModelLoadError(
                f"its stages don't fit the columns {listed}: {first_line(error)}; "
                "name the right types in 'parameters.extra.schema'"
            ) from error
        if not frame.added:
            raise ModelLoadError("it adds no column to the rows, so that there is nothing to serve")
        try:
            sample = frame(inputs.sample(), frame.added)
        except InvalidRequestError as error:
            # a made-up row may be refused; the widths of some vectors are then not known
            self._context.logger.debug("a made-up row is refused: %s", error)
            sample = {}
        answers = Answers(
            describe(frame.schema, frame.added, sample),
            stage,
            self._options.outputs,
            is_mlserver=self._is_mlserver,
        )
        choice = choose_route(
            session,
            model,
            inputs.schema,
            answers.columns,
            wish=self._options.route,
            frame=frame,
            default=answers.columns_of(answers.default),
        )
        self._context.logger.info("%s", choice.reason)
        return Loaded(model, inputs, answers, choice)

    def _describe(self, stage: Stage, loaded: Loaded) -> ModelMetadata:
        parameters: dict[str, Parameter] = {
            "class": stage.class_name,
            "stages": [each.class_name for each in stage.walk()],
            "spark_version": pyspark.__version__,
            "saved_by_version": stage.spark_version,
            **loaded.choice.report,
        }
        if self._is_mlserver:
            parameters["predict_as"] = self._context.settings.implementation
        return ModelMetadata(
            platform="spark_ml",
            inputs=loaded.inputs.metadata(is_column_2d=self._is_mlserver),
            outputs=loaded.answers.metadata(),
            parameters=parameters,
        )
