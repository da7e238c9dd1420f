"""What is to be scored, what came of it, and who can do it: the types of batch scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import msgspec

from jackfield.errors import ScoreError

if TYPE_CHECKING:
    import pyarrow as pa

#: Forms of a table on disk; "auto" goes by the path's suffix, or by what lies in a folder.
Format: TypeAlias = Literal["auto", "parquet", "csv", "ndjson", "delta"]
FORMATS: tuple[str, ...] = get_args(Format)
#: A file's suffix -> its format; one for a compression may stand behind it.
SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
#: What the cells of a batch come as: of the types of the table's schema; as JSON had them, so that
#: the schema is what they seem to be; all as text, as in a CSV file.
Cells: TypeAlias = Literal["typed", "json", "text"]


class ScoreJob(msgspec.Struct, frozen=True, kw_only=True):
    """A model, a table and where its scored form goes; can be pickled and sent elsewhere.

    Example:
        ```python
        ScoreJob(model="models/wines", inputs=("wines.parquet",), output="scored.parquet")
        ```
    """

    # ---- the model ----

    #: Path or URI, as ``jackfield serve`` takes it.
    model: str
    #: Which of the models there; may be empty where there is one.
    name: str = ""
    #: Which of its versions; empty takes the newest.
    version: str = ""
    #: Environment variables (``JACKFIELD_…``, ``MLSERVER_…``) that set the one model.
    environ: Mapping[str, str] = {}
    #: Names of the plugins to use; None uses all.
    plugins: tuple[str, ...] | None = None
    #: Threads for all; 0 takes the cores.
    threads: int = 0

    # ---- what it is asked ----

    #: The model's input -> the table's columns that are read into it; several make a matrix. An
    #: input that is not named takes the column of its own name, see `jackfield.score.Scorer`.
    columns: Mapping[str, tuple[str, ...]] = {}
    #: The model's outputs; empty asks for its default ones.
    outputs: tuple[str, ...] = ()
    #: Parameters of each request.
    parameters: Mapping[str, Any] = {}

    # ---- the tables ----

    #: Files and folders, one after the other; a URI where the engine reads such.
    inputs: tuple[str, ...]
    input_format: Format = "auto"
    #: A file (with a suffix) or a folder of parts (without); there only when it is complete.
    output: str
    output_format: Format = "auto"
    #: Columns of the input that the output has, too: "all", "none", or their names.
    keep: Literal["all", "none"] | tuple[str, ...] = "all"
    #: Before the name of each output's column.
    prefix: str = ""
    #: File for the rows that could not be scored; empty lies beside the output. There is none if
    #: there are no such rows.
    rejects: str = ""
    #: Most rows that may be rejected in a run that succeeds.
    max_rejects: int = 0
    #: Begin anew: forget what an earlier run did, replace its output.
    restart: bool = False
    #: Rows of one call of the model.
    rows_per_batch: int = 8192
    #: Rows of one part at most; a part ends after half a minute, too. What is done of one is done
    #: again after a kill.
    rows_per_part: int = 10_000_000
    #: The engine's own settings, for example Spark's ``master``.
    engine_options: Mapping[str, str] = {}

    @property
    def rejects_path(self) -> str:
        """Where rejected rows go."""
        return self.rejects or f"{self.output.rstrip('/')}.rejects.ndjson"


class Rejected(NamedTuple):
    """A row that could not be scored."""

    #: Its position, from 0: in its batch as `Scorer.score` gives it, in the whole input as an
    #: engine writes it.
    row: int
    reason: str
    #: Its columns as far as they were read, in forms that JSON has.
    values: dict[str, object]

    def line(self, **more: object) -> bytes:
        """Write it as a line of a rejects file: `row`, `reason`, `values`, and what is added."""
        record = {"row": self.row, "reason": self.reason, **more, "values": self.values}
        return msgspec.json.encode(record) + b"\n"


class Scored(NamedTuple):
    """What came of one batch: each of its rows is in exactly one of the two."""

    #: The rows that were scored, in their order: kept columns, then outputs.
    batch: pa.RecordBatch
    rejects: list[Rejected]


class ScoreProgress(NamedTuple):
    """How far a run is."""

    #: Rows done, scored or rejected, those of an earlier run included.
    rows: int
    rejected: int
    #: Rows that there are; None where that is not known.
    total: int | None
    #: Whether `total` is estimated, from the size of a text file.
    is_estimate: bool = False
    #: What is done now: "scoring", "merging the parts".
    stage: str = "scoring"


class ScoreSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did; `rows` is always the sum of `scored` and `rejected`."""

    model: str
    version: str
    engine: str
    #: Rows that the input has.
    rows: int
    scored: int
    rejected: int
    #: Of `rows`, those that an earlier run did.
    resumed: int = 0
    #: This run's, without loading the model where that is a step of its own.
    seconds: float
    output: str
    #: Empty if no row was rejected.
    rejects: str = ""

    def __post_init__(self) -> None:
        if self.rows != self.scored + self.rejected:
            message = (
                f"of {self.rows} rows {self.scored} were scored and {self.rejected} rejected; "
                f"the output is not complete"
            )
            raise ScoreError(message)

    @property
    def rows_per_second(self) -> float:
        """How many rows this run did in a second."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


class Progress(Protocol):
    """Who is told how far a run is; called often, in the thread that runs it."""

    def __call__(self, progress: ScoreProgress, /) -> None:
        """Take note; what it raises ends the run."""


class ScoreEngine(Protocol):
    """What runs a job; a plugin brings one by the hook `jackfield_score_engines`.

    It is constructed with nothing, in the process of ``jackfield score``. It loads the model by
    `Scorer` wherever it scores.
    """

    #: Whether a run that was interrupted goes on where it was, if the same job is run again. An
    #: engine without this attribute begins anew.
    resumes: bool

    def run(self, job: ScoreJob, progress: Progress) -> ScoreSummary:
        """Score all rows of a job's input.

        Raises:
            ScoreError: It can't be done, with what to do about it. What was written of the output
                by then is not taken for the whole.
        """
