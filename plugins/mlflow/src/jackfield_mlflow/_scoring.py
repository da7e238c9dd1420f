"""MLflow's own scoring protocol: the paths of ``mlflow models serve``, answered as it does.

A body is parsed, and a result written, by the installed MLflow itself. What differs is said at
`ScoringRoutes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from typing import TYPE_CHECKING

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION
from starlette.responses import Response

from jackfield import route

if TYPE_CHECKING:
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel
    from starlette.requests import Request

    from jackfield import ModelContext

__all__ = ["ScoringRoutes", "enter_serving"]

_JSON = "application/json"
_NO_PARQUET = (
    "This predictor only supports the following content types: "
    "Types: ['text/csv', 'application/json']. Got '{}'. "
    'For Parquet, install on the server: pip install "jackfield-mlflow[parquet]"'
)
# MLflow says it so, to its own servers alone
_SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
#: What a framework raises about its input; a caller may read their text.
_ABOUT_INPUT = (ValueError, TypeError, LookupError)
#: What is raised of a body that MLflow did not foresee: nested too deep, a number too long.
_UNFORESEEN = (*_ABOUT_INPUT, AttributeError, ArithmeticError, RecursionError)

#: How the one error begins that is the caller's, and that MLflow takes for its own.
_OF_TYPE_HINT = "Failed to validate the input data against the type hint"


def enter_serving() -> None:
    """Tell MLflow that this process serves, as its own server does.

    A model with type hints takes texts for `bytes` (base64) and `datetime` (ISO 8601) then.
    """
    os.environ[_SERVING] = "true"


class ScoringRoutes:
    """Paths of a runtime that holds a pyfunc; at the server's root where it is the only one.

    Status, body and content type are those of ``mlflow models serve``, errors included, but for:

    - a stack trace, which is left out: the log has it. The message ends with the error that the
      model's framework raised, if that is a `ValueError`, `TypeError` or `LookupError`; what a
      user's own code raises is told to nobody
    - 500 for a body that is nested too deep, has a number with too many digits, or values that are
      not of the type hint: 400
    - 500 for a missing content type: 415 with those that are supported
    - 400 for Parquet where no package reads it: 415
    - 500 for a result that JSON can't hold, and 404 and 405: the server's own error body
    """

    #: The model, once it is loaded.
    pyfunc: PyFuncModel
    _context: ModelContext

    @route("/invocations", methods=["POST"], at_root=True, is_needed=False)
    async def invoke(self, request: Request) -> Response:
        """Apply the model to a body of JSON, CSV or Parquet."""
        timeout_s: int = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        try:
            async with asyncio.timeout(timeout_s):
                body = await request.body()
                return await asyncio.to_thread(
                    self._invoke, body, request.headers.get("content-type", "")
                )
        except TimeoutError:
            text = "Request processing time exceeded limit"
            return Response(text, 504, media_type=_JSON)

    @route("/ping", at_root=True, is_needed=False)
    async def ping(self) -> Response:
        """Tell that the model is loaded."""
        return Response("\n", media_type=_JSON)

    @route("/health", at_root=True, is_needed=False)
    async def health(self) -> Response:
        """Tell that the model is loaded."""
        return Response("\n", media_type=_JSON)

    @route("/version", at_root=True, is_needed=False)
    async def version(self) -> Response:
        """Tell the version of MLflow."""
        return Response(VERSION, media_type=_JSON)

    def _invoke(self, body: bytes, content_type: str) -> Response:
        if content_type.startswith(scoring_server.CONTENT_TYPE_PARQUET) and not _reads_parquet():
            return Response(_NO_PARQUET.format(content_type), 415, media_type="text/plain")
        model = _Watched(self.pyfunc)
        try:
            answer = scoring_server.invocations(
                body, content_type, model, model.metadata.get_input_schema()
            )
        except MlflowException as error:
            return self._refuse(error, model.failure)
        except _UNFORESEEN as error:
            if model.has_answered:
                raise  # JSON can't hold what it answered
            text = f"Invalid input. Ensure that the input is valid. Error: '{error!r}'"
            return self._refuse(MlflowException(text, error_code=BAD_REQUEST), None)
        return Response(answer.response, answer.status, media_type=answer.mimetype)

    def _refuse(self, error: MlflowException, cause: Exception | None) -> Response:
        error.json_kwargs.pop("stack_trace", None)
        if str(error).startswith(_OF_TYPE_HINT):
            error = MlflowException(error.message, error_code=BAD_REQUEST)
        if cause is not None and not isinstance(cause, MlflowException):
            self._context.logger.error("MLflow's scoring of a request failed", exc_info=cause)
            if isinstance(cause, _ABOUT_INPUT) and _is_of_framework(self.pyfunc):
                error.message += f" Error: '{cause!r}'"
        return Response(error.serialize_as_json(), error.get_http_status_code(), media_type=_JSON)


def _is_of_framework(pyfunc: PyFuncModel) -> bool:
    """Tell a Python function that MLflow has for a framework from one that its author wrote."""
    module: str = pyfunc.loader_module
    return module.startswith("mlflow.") and not module.startswith("mlflow.pyfunc.")


def _reads_parquet() -> bool:
    for name in ("pyarrow", "fastparquet"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            return True
    return False


class _Watched:
    """A model as MLflow's server takes it, which remembers how its prediction ended."""

    def __init__(self, pyfunc: PyFuncModel) -> None:
        self._pyfunc = pyfunc
        self.metadata: Model = pyfunc.metadata
        self.has_answered = False
        self.failure: Exception | None = None

    def predict(self, data: object, params: dict[str, object] | None = None) -> object:
        try:
            result: object = self._pyfunc.predict(data, params=params)
        except Exception as error:
            self.failure = error
            raise
        self.has_answered = True
        return result
