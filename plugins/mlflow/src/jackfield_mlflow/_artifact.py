"""Find a model's folder, fetch it where it is elsewhere, read its MLmodel file, load it as pyfunc.

What MLflow raises on the way is told with the secrets of its addresses taken out.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec

# importing MLflow starts its usage reports, unless it finds this; who wants them sets it himself
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# by default it asks a server that is not there for four minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

import mlflow.artifacts
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from jackfield import ModelLoadError
from jackfield_mlflow import TRACKED_SCHEMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.pyfunc import PyFuncModel

    from jackfield import ModelContext
    from jackfield_mlflow import MlflowOptions

MLMODEL = "MLmodel"
# MLflow hands a model's configuration to its code, and takes the model, by global names
_loading = threading.Lock()
#: Whose users have a registry that MLflow looks into by other means than the rest.
_DATABRICKS = ("databricks", "databricks-uc", "uc")

_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")
_TOKEN = re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]+")
# also of a path alone, as an HTTP client tells what it asked for
_QUERY = re.compile(r"((?:\w[\w+.-]*:)?/[^\s?'\"]*)\?[^\s'\"]+")


class Fetched(msgspec.Struct, frozen=True):
    """A model's folder on this machine."""

    folder: Path
    #: Where it came from, for people: without secrets; empty for a folder of the operator's.
    source: str = ""
    #: Version in the registry that `source` stood for when it was fetched; empty where it has none.
    registered_version: str = ""
    #: Holds the folder until it is removed; None for a folder of the operator's.
    temporary: tempfile.TemporaryDirectory[str] | None = None

    def remove(self) -> None:
        """Remove what was fetched."""
        if self.temporary is not None:
            self.temporary.cleanup()


def redact(text: str) -> str:
    """Take out the user names, passwords and queries of URIs, and what HTTP authorizes with.

    Signed addresses have keys in their queries; a server may repeat a header that it refuses.
    """
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("***@", _TOKEN.sub(r"\1 ***", text)))


def fetch(context: ModelContext, options: MlflowOptions) -> Fetched:
    """Find the model's folder, or fetch it to a temporary one.

    Raises:
        ModelLoadError: There is no model, its store is not trusted, or MLflow can't get it.
    """
    if not context.uri:
        if context.artifact is None:
            raise ModelLoadError(
                "no artifact was found; name a folder with a file 'MLmodel', or an address such "
                "as models:/NAME@ALIAS, in 'parameters.uri'"
            )
        folder = context.artifact
        return Fetched(folder.parent if folder.name == MLMODEL else folder)
    source = redact(context.uri)
    scheme = urlsplit(context.uri).scheme.lower()
    if scheme not in TRACKED_SCHEMES and not options.trust:
        raise ModelLoadError(
            f"'{source}' is not loaded: a model runs code that it carries, and nobody said that "
            f"this one may; if you trust the store, set 'trust' to true in 'parameters.extra'"
        )
    temporary = tempfile.TemporaryDirectory(prefix="jackfield-mlflow-", ignore_cleanup_errors=True)
    try:
        uri, version = context.uri, ""
        if scheme == "models":
            uri, version = _resolve(context.uri, options)
        elif scheme == "runs" and options.tracking_uri:
            uri = _resolve_run(context.uri, options.tracking_uri)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=uri,
            dst_path=temporary.name,
            tracking_uri=options.tracking_uri or None,
            registry_uri=options.registry_uri or None,
        )
    # whatever a store's client raises: it may name the address with its secrets
    except Exception as error:  # noqa: BLE001
        temporary.cleanup()
        is_lost = scheme in TRACKED_SCHEMES and not (
            options.tracking_uri or options.registry_uri or mlflow.is_tracking_uri_set()
        )
        hint = (
            "no tracking server is set: name it as 'tracking_uri' in 'parameters.extra', or in "
            "the environment variable MLFLOW_TRACKING_URI; MLflow says: "
        )
        raise ModelLoadError(
            f"'{source}' can't be fetched: {hint if is_lost else ''}{_reason(error)}"
        ) from None
    except BaseException:
        temporary.cleanup()
        raise
    folder = Path(path)
    return Fetched(folder.parent if folder.name == MLMODEL else folder, source, version, temporary)


def read(fetched: Fetched) -> Model:
    """Read the MLmodel file.

    Raises:
        ModelLoadError: It is missing or damaged, or the model can't be loaded as Python function.
    """
    file = fetched.folder / MLMODEL
    if not file.is_file():
        raise ModelLoadError(
            f"{_place(fetched)} has no file 'MLmodel'; is it the folder that save_model wrote?"
        )
    try:
        model = Model.load(str(file))
    # YAML's and MLflow's own errors, and those of a file that holds something else
    except Exception as error:
        raise ModelLoadError(f"'MLmodel' can't be read: {_reason(error)}") from error
    flavors = cast("Mapping[str, object]", model.flavors)
    if mlflow.pyfunc.FLAVOR_NAME not in flavors:
        raise ModelLoadError(
            f"it has no Python function (flavour '{mlflow.pyfunc.FLAVOR_NAME}'), only "
            f"{', '.join(sorted(flavors)) or 'no flavour at all'}; save it with a flavour of MLflow"
        )
    return model


def load(fetched: Fetched, model: Model, model_config: Mapping[str, object]) -> PyFuncModel:
    """Load the model as Python function: runs code that it carries.

    Raises:
        ModelLoadError: A package that it needs is missing, or MLflow refuses it. What the model's
            own code raises comes as it is.
    """
    try:
        with _loading:
            _forget_code(fetched.folder, model)
            # where code that is cut off sets none, MLflow would take the model that it loaded last
            vars(mlflow.models.model)["__mlflow_model__"] = None
            pyfunc: PyFuncModel = mlflow.pyfunc.load_model(
                str(fetched.folder), suppress_warnings=True, model_config=dict(model_config) or None
            )
            return pyfunc
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"it needs the package '{error.name}', which is not installed; "
            f"install what its requirements.txt lists"
        ) from error
    except MlflowException as error:
        raise ModelLoadError(_reason(error)) from error


def forget(fetched: Fetched) -> None:
    """Remove the folder if it was fetched, and the model's own code from Python's path."""
    below = os.path.join(fetched.folder, "")
    sys.path[:] = [each for each in sys.path if not each.startswith(below)]
    # MLflow imports a model that is code under a new name each time, and keeps it
    for name, module in list(sys.modules.items()):
        if name.startswith("code_model_") and str(getattr(module, "__file__", "")).startswith(
            below
        ):
            del sys.modules[name]
    fetched.remove()


def _forget_code(folder: Path, model: Model) -> None:
    """Let the model's own modules be imported anew, where another model brought some of that name.

    MLflow puts the folder of such code on Python's path, where modules are imported once: a model
    that is loaded again would be served by its old code.
    """
    code = _flavor(model).get("code")
    if not isinstance(code, str) or not (folder / code).is_dir():
        return
    names = {each.stem if each.suffix == ".py" else each.name for each in (folder / code).iterdir()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in names and _is_of_a_model(getattr(module, "__file__", None)):
            del sys.modules[name]


def _is_of_a_model(file: str | None) -> bool:
    return file is not None and any((each / MLMODEL).is_file() for each in Path(file).parents[:8])


def _flavor(model: Model) -> Mapping[str, object]:
    flavors = cast("Mapping[str, Mapping[str, object]]", model.flavors)
    return flavors.get(mlflow.pyfunc.FLAVOR_NAME, {})


def _place(fetched: Fetched) -> str:
    return f"'{fetched.source or fetched.folder.name}'"


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, MlflowException) else str(error)
    return redact(str(text).strip() or type(error).__name__)


# ---- the registry ----


def _resolve(uri: str, options: MlflowOptions) -> tuple[str, str]:
    """Find what a models:/ address stands for now.

    MLflow's own way looks into one registry for the whole process; here each model has its own.

    Returns:
        An address that says the version, or one in a store; and the version.
    """
    tracking_uri = options.tracking_uri or mlflow.get_tracking_uri()
    # MLflow takes the tracking server for the registry unless that is set
    registry_uri = options.registry_uri or (
        options.tracking_uri if options.tracking_uri else mlflow.get_registry_uri()
    )
    parts = urlsplit(uri)
    if parts.netloc or registry_uri.partition(":")[0] in _DATABRICKS:
        return uri, ""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)
    name, _, rest = parts.path.strip("/").partition("/")
    base, _, alias = name.partition("@")
    if alias:
        found = client.get_model_version_by_alias(base, alias)
        return _join(_stored(client, base, str(found.version)), rest), str(found.version)
    if not rest and name.startswith("m-"):
        return str(client.get_logged_model(name).artifact_location), ""
    wanted, _, rest = rest.partition("/")
    if not wanted:
        message = "expected models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID"
        raise ValueError(message)
    version = wanted if wanted.isdigit() else _newest(client, name, wanted)
    return _join(_stored(client, name, version), rest), version


def _resolve_run(uri: str, tracking_uri: str) -> str:
    """Find the store of a model that a run logged.

    MLflow's own way asks the tracking server of the whole process for it, whichever it is told.

    Returns:
        An address in a store; the same where the run has no model of that name but a folder.
    """
    run, _, path = urlsplit(uri).path.strip("/").partition("/")
    name, _, rest = path.partition("/")
    client = MlflowClient(tracking_uri=tracking_uri)
    experiment = client.get_run(run).info.experiment_id
    token = None
    while name:
        page = client.search_logged_models(
            experiment_ids=[experiment], filter_string=f"name = '{name}'", page_token=token
        )
        for model in page:
            if model.source_run_id == run:
                return _join(str(model.artifact_location), rest)
        token = page.token
        if not token:
            break
    return uri


def _newest(client: MlflowClient, name: str, stage: str) -> str:
    """Find the newest version, of a stage or of all."""
    found = client.search_model_versions(f"name = '{name}'")
    versions = [
        int(each.version)
        for each in found
        if stage.lower() in ("latest", str(each.current_stage).lower())
    ]
    if not versions:
        of = "" if stage.lower() == "latest" else f" in the stage '{stage}'"
        message = f"model '{name}' has no version{of}"
        raise ValueError(message)
    return str(max(versions))


def _stored(client: MlflowClient, name: str, version: str) -> str:
    stored: Any = client.get_model_version_download_uri(name, version)
    return str(stored)


def _join(uri: str, path: str) -> str:
    return f"{uri.rstrip('/')}/{path}" if path else uri
