"""The parts of an output: each written whole or not at all, with a journal of those that are done.

All lies in a hidden folder beside the output until every row is in it; then the output appears at
once. A run that was killed at any moment finds here what it need not do again.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from jackfield.errors import ScoreError
from jackfield.score._arrow import is_list
from jackfield.score._tables import COMPRESSIONS, format_of, import_deltalake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO

    from jackfield.score._job import Format, Rejected, ScoreJob

#: A row group of Parquet is written when it has so many rows or bytes.
_GROUP_ROWS = 131_072
_GROUP_BYTES = 1 << 26
#: A part ends after so long, so that a kill costs a slow model no more than that.
_PART_S = 30.0
_RESTART = "--restart begins anew"


class Part(msgspec.Struct, frozen=True):
    """A part that is done: a line of the journal."""

    rows: int
    scored: int
    rejected: int
    #: Size of its file; it has none (0) if no row of it was scored.
    bytes: int


def output_format(job: ScoreJob) -> Format:
    """Tell the format of a job's output.

    Raises:
        ScoreError: The suffix is unknown.
    """
    path = Path(job.output)
    if job.output_format != "auto":
        return job.output_format
    if not path.suffix:
        return "parquet"
    found = format_of(path)
    if found is None or path.suffix in COMPRESSIONS:
        raise ScoreError(
            f"the format of the output '{path}' is not known: expected .parquet, .csv or .ndjson, "
            "or no suffix for a folder of parts; or tell --output-format"
        )
    return found


class Parts:
    """What is done of an output; a context manager.

    Args:
        job: Says where the output goes.
        state: What must be as it was for a run to go on: names -> anything that JSON has.
        schema: Of the output.

    Raises:
        ScoreError: An output is there already, another run writes it, or what was begun can't be
            gone on with.
    """

    def __init__(self, job: ScoreJob, state: Mapping[str, object], schema: pa.Schema) -> None:
        self._output = Path(job.output)
        self._rejects = Path(job.rejects_path)
        self._format = output_format(job)
        #: A folder of parts, or one file.
        self._is_folder = not self._output.suffix or self._format == "delta"
        self._folder = self._output.parent / f".{self._output.name}.score"
        self._waste = self._output.parent / f".{self._output.name}.score.old"
        self._parts = self._folder / "parts"
        self._schema = schema
        self.done: list[Part] = []
        self._open(job, state)

    def _open(self, job: ScoreJob, state: Mapping[str, object]) -> None:
        if not self._output.parent.is_dir():
            raise ScoreError(f"there is no folder '{self._output.parent}' for the output")
        is_begun = (self._folder / "state.json").is_file()
        if not job.restart and not is_begun:
            for path in (self._output, self._rejects):
                if path.exists():
                    raise ScoreError(f"'{path}' is there already; --restart replaces it")
        shutil.rmtree(self._waste, ignore_errors=True)
        self._parts.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._folder / "lock", self._output)
        try:
            if job.restart or not is_begun:
                # in this order: without its state a run does not go on
                (self._folder / "state.json").unlink(missing_ok=True)
                shutil.rmtree(self._parts)
                self._parts.mkdir()
                _write(self._folder / "state.json", msgspec.json.encode(state))
            else:
                self._resume(state)
        except BaseException:
            self._lock.close()
            raise

    def _resume(self, state: Mapping[str, object]) -> None:
        before = msgspec.json.decode((self._folder / "state.json").read_bytes())
        now = msgspec.json.decode(msgspec.json.encode(state))
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ScoreError(
                f"an earlier run of this output did not end, and {' and '.join(changed)} "
                f"changed since; {_RESTART}"
            )
        for number in range(sys.maxsize):
            journal = self._parts / f"part-{number:05}.json"
            if not journal.is_file():
                break
            part = msgspec.json.decode(journal.read_bytes(), type=Part)
            file = self._file(number)
            if part.bytes and not (file.is_file() and file.stat().st_size == part.bytes):
                break  # somebody removed it: it is done again, and all behind it
            self.done.append(part)
        # what a kill has left behind
        last = f"part-{len(self.done):05}"
        for file in self._parts.iterdir():
            if file.name >= last:
                file.unlink()

    # ---- what is done ----

    @property
    def rows(self) -> int:
        """Rows of the input that are done."""
        return sum(part.rows for part in self.done)

    @property
    def scored(self) -> int:
        """Of those, how many were scored."""
        return sum(part.scored for part in self.done)

    @property
    def rejected(self) -> int:
        """Of those, how many were rejected."""
        return sum(part.rejected for part in self.done)

    @property
    def rejects(self) -> str:
        """Where rejected rows are; empty if there are none."""
        return str(self._rejects) if self.rejected else ""

    def begin(self) -> PartWriter:
        """Begin the next part."""
        number = len(self.done)
        file = self._file(number)
        has_header = self._is_folder or not any(part.bytes for part in self.done)
        make = _WRITERS[self._format]
        return PartWriter(
            file,
            lambda: make(_aside(file), self._schema, has_header),
            self._parts / f"part-{number:05}.rejects",
            self._parts / f"part-{number:05}.json",
            self.done,
        )

    def _file(self, number: int) -> Path:
        suffix = "parquet" if self._format == "delta" else self._format
        return self._parts / f"part-{number:05}.{suffix}"

    # ---- the end ----

    def finish(self) -> None:
        """Make the output of the parts; from now on it is there.

        A run that is killed in here does it again.
        """
        numbers = [number for number, part in enumerate(self.done) if part.bytes]
        if not numbers:  # an output without a row has its columns nevertheless
            writer = _WRITERS[self._format](_aside(self._file(0)), self._schema, True)  # noqa: FBT003
            writer.close()
            os.replace(_aside(self._file(0)), self._file(0))
            numbers = [0]
        self._finish_rejects()
        files = [self._file(number) for number in numbers]
        if self._is_folder:
            self._finish_folder(files)
        else:
            whole = self._folder / "whole"
            whole.unlink(missing_ok=True)
            if len(files) == 1:
                _link(files[0], whole)
            elif self._format == "parquet":
                _merge_parquet(files, whole, self._schema, self.scored)
            else:
                _merge_text(files, whole)
            os.replace(whole, self._output)
        _sync(self._output.parent)
        if sys.platform == "win32":  # a folder with an open file can't be renamed there
            self._lock.close()
        # at once: a folder that is half gone would look like a run to go on with
        os.replace(self._folder, self._waste)
        shutil.rmtree(self._waste)

    def _finish_rejects(self) -> None:
        if not self.rejected:
            self._rejects.unlink(missing_ok=True)
            return
        files = sorted(self._parts.glob("part-*.rejects"))
        _merge_text(files, self._folder / "rejects")
        # another folder may be another disk
        moved = self._rejects.with_name(f".{self._rejects.name}.tmp")
        shutil.move(self._folder / "rejects", moved)
        os.replace(moved, self._rejects)

    def _finish_folder(self, files: Sequence[Path]) -> None:
        whole = self._folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        for file in files:
            _link(file, whole / file.name)
        if self._format == "delta":
            _make_delta(whole)
        old = self._folder / "old"
        if self._output.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self._output, old)
        elif self._output.exists():
            self._output.unlink()
        os.replace(whole, self._output)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


class PartWriter:
    """Writes one part; what it holds counts from `commit` on, and never before."""

    def __init__(
        self,
        file: Path,
        make: Callable[[], Writer],
        rejects: Path,
        journal: Path,
        done: list[Part],
    ) -> None:
        self._file, self._make, self._rejects, self._journal = file, make, rejects, journal
        self._done = done
        self._writer: Writer | None = None
        self._lines: BinaryIO | None = None
        self._ends_s = time.monotonic() + _PART_S
        self.rows = self.scored = self.rejected = 0

    @property
    def is_old(self) -> bool:
        """Whether it has been written for long."""
        return time.monotonic() > self._ends_s

    def write(self, batch: pa.RecordBatch, rejects: Sequence[Rejected]) -> None:
        """Add scored rows and rejected ones."""
        if batch.num_rows:
            if self._writer is None:
                self._writer = self._make()
            self._writer.write(batch)
        if rejects:
            if self._lines is None:
                self._lines = _aside(self._rejects).open("wb")
            self._lines.writelines(each.line() for each in rejects)
        self.scored += batch.num_rows
        self.rejected += len(rejects)
        self.rows += batch.num_rows + len(rejects)

    def commit(self) -> None:
        """Finish the part: its files first, then its line of the journal."""
        size = 0
        if self._writer is not None:
            self._writer.close()
            size = _aside(self._file).stat().st_size
            _publish(self._file)
        if self._lines is not None:
            self._lines.close()
            _publish(self._rejects)
        _sync(self._file.parent)
        part = Part(self.rows, self.scored, self.rejected, size)
        _write(self._journal, msgspec.json.encode(part))
        self._done.append(part)

    def drop(self) -> None:
        """Leave it: its rows are done again."""
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowInvalid):
                self._writer.close()
        if self._lines is not None:
            self._lines.close()


# ---- files ----


def _aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.tmp")


def _publish(file: Path) -> None:
    """Give a file that was written aside its name, once it is on the disk."""
    with _aside(file).open("rb+") as opened:
        os.fsync(opened.fileno())
    os.replace(_aside(file), file)


def _write(file: Path, data: bytes) -> None:
    _aside(file).write_bytes(data)
    _publish(file)
    _sync(file.parent)


def _link(file: Path, other: Path) -> None:
    """Give a part a second name: the first stays for a run that is killed before its end."""
    try:
        os.link(file, other)
    except OSError:  # a disk without such
        shutil.copy2(file, other)


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    if sys.platform == "win32":  # has no such thing
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _lock(file: Path, output: Path) -> BinaryIO:
    """Keep other runs from an output; a kill frees it."""
    opened = file.open("wb")
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ModuleNotFoundError:  # not on Windows
        return opened
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        opened.close()
        raise ScoreError(f"another run writes '{output}' at the moment") from error
    return opened


# ---- formats ----


class Writer(Protocol):
    """Writes one file."""

    def write(self, batch: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


class _ParquetWriter:
    def __init__(self, file: Path, schema: pa.Schema, _has_header: bool) -> None:  # noqa: FBT001
        self._writer = pq.ParquetWriter(str(file), schema)
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            table = pa.Table.from_batches(self._held)
            self._writer.write_table(table, row_group_size=self._rows)
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _CsvWriter:
    def __init__(self, file: Path, schema: pa.Schema, has_header: bool) -> None:  # noqa: FBT001
        self._schema = pa.schema([pa.field(each.name, _csv_type(each.type)) for each in schema])
        options = pa.csv.WriteOptions(include_header=has_header)
        self._writer = pa.csv.CSVWriter(str(file), self._schema, write_options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [
            _as_csv(column, field.type)
            for column, field in zip(batch.columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _csv_type(kind.value_type)
    if types.is_float16(kind):
        return pa.float32()
    is_nested = is_list(kind) or types.is_struct(kind) or types.is_map(kind)
    return pa.string() if is_nested else kind


def _as_csv(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give a column a form that a cell of text has: lists and the like are JSON."""
    if column.type == kind:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not pa.types.is_string(kind) or pa.types.is_large_string(column.type):
        return column.cast(kind)
    return pa.array(
        [
            None if each is None else msgspec.json.encode(each, enc_hook=str).decode()
            for each in column.to_pylist()
        ],
        kind,
    )


class _NdJsonWriter:
    def __init__(self, file: Path, _schema: pa.Schema, _has_header: bool) -> None:  # noqa: FBT001
        self._file = file.open("wb")
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def write(self, batch: pa.RecordBatch) -> None:
        self._file.write(self._encoder.encode_lines(batch.to_pylist()))

    def close(self) -> None:
        self._file.close()


class _Make(Protocol):
    def __call__(self, file: Path, schema: pa.Schema, has_header: bool, /) -> Writer: ...  # noqa: FBT001


_WRITERS: dict[str, _Make] = {
    "parquet": _ParquetWriter,
    "delta": _ParquetWriter,
    "csv": _CsvWriter,
    "ndjson": _NdJsonWriter,
}


def _merge_parquet(files: Sequence[Path], whole: Path, schema: pa.Schema, rows: int) -> None:
    written = 0
    with pq.ParquetWriter(str(whole), schema) as writer:
        for file in files:
            with pq.ParquetFile(str(file)) as part:
                for group in range(part.num_row_groups):
                    table = part.read_row_group(group)
                    writer.write_table(table, row_group_size=max(table.num_rows, 1))
                    written += table.num_rows
    if written != rows:
        raise ScoreError(f"the parts hold {written} rows of {rows}; {_RESTART}")
    with whole.open("rb+") as opened:
        os.fsync(opened.fileno())


def _merge_text(files: Sequence[Path], whole: Path) -> None:
    with whole.open("wb") as out:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def _make_delta(folder: Path) -> None:
    """Make a Delta table of the Parquet files in a folder."""
    import_deltalake().convert_to_deltalake(str(folder))
