"""The MLflow plugin: what it brings, told without importing MLflow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, RuntimeSpec, hookimpl

__all__ = ["MlflowOptions", "jackfield_runtimes"]

#: Their server is the one that the operator named as tracking server or registry.
TRACKED_SCHEMES = ("models", "runs", "mlflow-artifacts")
#: Stores that MLflow reads; some need a client library that is installed besides.
STORE_SCHEMES = (
    *("s3", "r2", "b2", "gs", "wasbs", "abfss", "dbfs", "hdfs", "viewfs"),
    *("ftp", "sftp", "http", "https"),
)


class MlflowOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    tracking_uri: Annotated[
        str,
        Meta(
            description="MLflow's tracking server for runs:/, mlflow-artifacts:/ and models:/; by "
            "default what MLflow's own environment variables say."
        ),
    ] = ""
    registry_uri: Annotated[
        str,
        Meta(description="MLflow's model registry for models:/; by default the tracking server."),
    ] = ""
    flavor: Annotated[
        Literal["auto", "native", "pyfunc"],
        Meta(
            description="How inference requests are answered: pyfunc is MLflow's own way; native "
            "takes the plugin of the model's framework; auto takes native where it changes no "
            "answer."
        ),
    ] = "auto"
    trust: Annotated[
        bool,
        Meta(
            description="Load a model from a store that is not the tracking server's, such as s3: "
            "loading a model runs code that it carries."
        ),
    ] = False
    model_config: Annotated[
        dict[str, Any],
        Meta(description="The model_config that a Python model finds in its context."),
    ] = {}


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the MLflow runtime."""
    return [
        RuntimeSpec(
            name="mlflow",
            runtime="jackfield_mlflow._runtime:MlflowRuntime",
            artifacts=(ArtifactFormat("MLmodel", executes_code=True, is_folder=True),),
            aliases=("mlserver_mlflow.MLflowRuntime",),
            # A Python function may do anything. The runtime widens this for models of which more
            # is known.
            capabilities=Capabilities(),
            options=MlflowOptions,
            frameworks=("mlflow-skinny",),
            uri_schemes=(*TRACKED_SCHEMES, *STORE_SCHEMES),
        )
    ]
