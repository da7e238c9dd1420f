"""The Spark ML plugin: what it brings, told without importing Spark."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from jackfield import ArtifactFormat, Capabilities, EngineSpec, RuntimeSpec, hookimpl

__all__ = ["MllibOptions", "jackfield_runtimes", "jackfield_score_engines"]


class MllibOptions(Struct, frozen=True):
    """What `parameters.extra` in a model's settings may hold."""

    master: Annotated[
        str,
        Meta(
            description="Spark master, for example `local[4]` or `spark://host:7077`; by default "
            "a local one with as many cores as the model has threads."
        ),
    ] = ""
    remote: Annotated[
        str,
        Meta(description="URL of a Spark Connect server, for example `sc://host:15002`."),
    ] = ""
    conf: Annotated[
        dict[str, str | bool | int | float],
        Meta(description="Spark's own settings, for example `spark.driver.memory`."),
    ] = {}
    route: Annotated[
        Literal["auto", "gateway", "dataframe"],
        Meta(
            description="How rows pass through the model: `dataframe` runs a Spark job for each "
            "call, `gateway` the model's own compiled plan without one. `auto` takes `gateway` "
            "where the model can, and it answers what `transform` does, bit for bit."
        ),
    ] = "auto"
    outputs: Annotated[
        tuple[str, ...],
        Meta(
            description="Columns that answer a request which names none; by default `prediction`, "
            "or what the last stage adds."
        ),
    ] = ()
    schema: Annotated[
        dict[str, str],
        Meta(
            description="Spark types of input columns, instead of what the stages tell: "
            '`{"age": "int", "name": "string", "embedding": "vector(16)"}`. A column that no '
            "stage is known to read is taken in addition."
        ),
    ] = {}


@hookimpl
def jackfield_runtimes() -> list[RuntimeSpec]:
    """Describe the Spark ML runtime."""
    return [
        RuntimeSpec(
            name="mllib",
            runtime="jackfield_mllib._runtime:MllibRuntime",
            # Spark 2 and 3 name the file part-00000, Spark 4 part-00000-UUID-c000.txt
            artifacts=(ArtifactFormat("metadata/part-00000*", is_folder=True, by_content=True),),
            # The latter is what MLServer's example says, which can't be imported there.
            aliases=("mlserver_mllib.MLlibModel", "mlserver-mllib.MLlibModel"),
            # A fitted transformer looks at one row at a time, and Spark takes jobs from any thread.
            # Python waits for the JVM on a socket.
            capabilities=Capabilities(row_wise=True, thread_safe=True, releases_gil=True),
            options=MllibOptions,
            frameworks=("pyspark",),
        )
    ]


@hookimpl
def jackfield_score_engines() -> list[EngineSpec]:
    """Describe the Spark engine of batch scoring."""
    return [
        EngineSpec(
            name="spark", engine="jackfield_mllib._score:SparkEngine", frameworks=("pyspark",)
        )
    ]
