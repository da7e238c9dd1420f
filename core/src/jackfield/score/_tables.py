"""Tables on disk, read a batch at a time: Parquet, CSV, NDJSON and Delta.

Every row of a file comes once, in a batch or among its rejects, at a position that is the same each
time: a run that was killed goes on behind the last row that is done.
"""

from __future__ import annotations

import abc
import bz2
import gzip
import importlib
import itertools
import lzma
import queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds

from jackfield.errors import ScoreError
from jackfield.score._arrow import is_list, is_text
from jackfield.score._job import SUFFIXES, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from jackfield.score._job import Cells, Format, ScoreJob

#: Suffixes of compressed texts.
COMPRESSIONS = (".gz", ".bz2", ".xz")
#: What is read of a text at once, in bytes.
_BLOCK_BYTES = 1 << 22
#: Rows of a text that are looked at to tell what its columns hold.
_LOOKED_AT = 1000
#: Most characters of a line that an error or a reject shows.
_LONGEST_LINE = 1000


class Batch(NamedTuple):
    """Some rows of a table."""

    rows: pa.RecordBatch
    #: Where in the whole input each row of `rows` is. [rows]
    positions: NDArray[np.int64]
    #: Rows that can't be read, with their place in the whole input.
    rejects: list[Rejected]

    @property
    def size(self) -> int:
        """Rows of the input that it stands for."""
        return len(self.positions) + len(self.rejects)


class Table(abc.ABC):
    """A table on disk."""

    #: What its columns hold, or seem to.
    schema: pa.Schema
    #: What its cells come as.
    cells: Cells = "typed"
    #: How many rows it has; None where nothing tells.
    total: int | None = None
    #: Whether `total` is an estimate.
    is_estimate = False
    #: What would differ if it changed.
    state: object

    @abc.abstractmethod
    def sample(self) -> pa.RecordBatch:
        """Read its first rows, all columns."""

    @abc.abstractmethod
    def batches(
        self, cell_types: Mapping[str, pa.DataType], *, rows: int, skip: int
    ) -> Iterator[Batch]:
        """Read the rows.

        Args:
            cell_types: The columns that are read, and the types of those whose cells have none.
            rows: Most rows of a batch.
            skip: Rows at the beginning to leave out.

        Raises:
            ScoreError: A file can't be read.
        """


def open_table(job: ScoreJob) -> Table:
    """Open a job's input.

    Raises:
        ScoreError: There is none, or it is of no known form.
    """
    form = job.input_format if job.input_format != "auto" else _detect(job.inputs)
    if form == "delta":
        return _open_delta(job.inputs)
    files = [file for path in job.inputs for file in _files(Path(path), form)]
    if not files:
        raise ScoreError(f"no {form} file is in {', '.join(job.inputs)}")
    try:
        if form == "parquet":
            return _Parquet(files, [Path(path) for path in job.inputs])
        return _Csv(files) if form == "csv" else _NdJson(files)
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ScoreError(f"the input can't be read: {error}") from error


def format_of(path: Path) -> Format | None:
    """Tell a file's format by its suffix; None for an unknown one."""
    suffixes = [each for each in path.suffixes if each not in COMPRESSIONS]
    return SUFFIXES.get(suffixes[-1].lower()) if suffixes else None


def _detect(inputs: Sequence[str]) -> Format:
    found: set[Format] = set()
    for text in inputs:
        path = Path(text)
        if not path.exists():
            raise ScoreError(f"there is no '{text}'")
        if (path / "_delta_log").is_dir():
            found.add("delta")
        elif path.is_dir():
            found |= {form for file in _walk(path) if (form := format_of(file))}
        elif form := format_of(path):
            found.add(form)
    if len(found) == 1:
        return found.pop()
    known = ", ".join(SUFFIXES)
    what = f"files of several forms ({', '.join(sorted(found))})" if found else "no known file"
    raise ScoreError(f"{what} in {', '.join(inputs)}; known are {known}; or tell --input-format")


def _walk(folder: Path) -> list[Path]:
    """Find a folder's files, in order; what begins with a dot or an underline is no data."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _files(path: Path, form: str) -> list[Path]:
    if not path.exists():
        raise ScoreError(f"there is no '{path}'")
    if path.is_dir():
        return [file for file in _walk(path) if format_of(file) == form]
    return [path]


def _state(files: Sequence[Path]) -> object:
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _gather(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    """Make batches of a good size: large ones are cut, small ones put together."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.rows.num_rows
        if count >= rows:
            whole = _concat(held)
            start = 0
            while count - start >= rows:
                yield _cut(whole, start, start + rows)
                start += rows
            rest = _cut(whole, start, count, is_last=True)
            held, count = [rest] if rest.size else [], count - start
    if held:
        yield _concat(held)


def _concat(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches([batch.rows for batch in batches]).combine_chunks()
    found = table.to_batches()
    schema = batches[0].rows.schema
    rows = found[0] if found else pa.RecordBatch.from_pylist([], schema=schema)
    return Batch(
        rows,
        np.concatenate([batch.positions for batch in batches]),
        [each for batch in batches for each in batch.rejects],
    )


def _cut(batch: Batch, start: int, stop: int, *, is_last: bool = False) -> Batch:
    """Take some rows, and the rejects before the first row that is not taken."""
    positions = batch.positions
    low = positions[start - 1] if start else -1
    high = positions[stop - 1] if stop else -1
    rejects = [each for each in batch.rejects if each.row > low and (is_last or each.row < high)]
    return Batch(batch.rows.slice(start, stop - start), positions[start:stop], rejects)


# ---- Parquet and Delta ----


class _Dataset(Table):
    """Files of one schema that have types."""

    def __init__(self, dataset: ds.Dataset, state: object) -> None:
        self._dataset = dataset
        self.schema = dataset.schema
        self.state = state
        fragments = list(dataset.get_fragments())
        self._fragments = [
            (each, each.count_rows()) for each in sorted(fragments, key=lambda each: each.path)
        ]
        self.total = sum(count for _, count in self._fragments)

    def sample(self) -> pa.RecordBatch:
        table = self._dataset.head(_LOOKED_AT).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self.schema)

    def batches(
        self, cell_types: Mapping[str, pa.DataType], *, rows: int, skip: int
    ) -> Iterator[Batch]:
        return _gather(self._scan(list(cell_types), rows, skip), rows)

    def _scan(self, columns: list[str], rows: int, skip: int) -> Iterator[Batch]:
        position = 0
        for fragment, count in self._fragments:
            if skip >= position + count:
                position += count
                continue
            parts = fragment.split_by_row_group() if skip > position else [fragment]
            for part in parts:
                size = part.count_rows() if len(parts) > 1 else count
                if skip >= position + size:
                    position += size
                    continue
                for batch in part.to_batches(
                    schema=self.schema, columns=columns, batch_size=rows, fragment_readahead=1
                ):
                    start = max(0, min(skip - position, batch.num_rows))
                    taken = batch.slice(start)
                    first = position + start
                    position += batch.num_rows
                    if taken.num_rows:
                        yield Batch(taken, np.arange(first, position), [])


class _Parquet(_Dataset):
    def __init__(self, files: Sequence[Path], roots: Sequence[Path]) -> None:
        root = roots[0] if len(roots) == 1 and roots[0].is_dir() else None
        dataset = ds.dataset(
            [str(file) for file in files],
            format="parquet",
            partitioning="hive" if root is not None else None,
            partition_base_dir=str(root) if root is not None else None,
        )
        super().__init__(dataset, _state(files))


def import_deltalake() -> Any:  # noqa: ANN401  a module that may not be installed
    """Import what reads and writes Delta tables.

    Raises:
        ScoreError: It is not installed.
    """
    try:
        return importlib.import_module("deltalake")
    except ModuleNotFoundError as error:
        raise ScoreError(
            "a Delta table needs deltalake, which is not installed: pip install deltalake"
        ) from error


def _open_delta(inputs: Sequence[str]) -> Table:
    if len(inputs) > 1:
        raise ScoreError(f"one Delta table can be read at a time, found {', '.join(inputs)}")
    deltalake = import_deltalake()
    try:
        table = deltalake.DeltaTable(inputs[0])
        return _Dataset(table.to_pyarrow_dataset(), [inputs[0], table.version()])
    except deltalake.exceptions.DeltaError as error:
        raise ScoreError(f"'{inputs[0]}' can't be read as a Delta table: {error}") from error


# ---- CSV ----


class _Csv(Table):
    """Files of text with a line of names.

    All cells are read as text: what a column holds is told by most of its first rows, so that a
    cell that does not fit costs its own row only. An empty cell without quotes is null.
    """

    cells = "text"
    is_estimate = True

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.state = _state(files)
        self._names: list[str] | None = None
        first = next(self._read(files[0]), None)
        self._names = list(self._header)
        self._sample = first.rows.slice(0, _LOOKED_AT) if first is not None else self._no_rows()
        self.schema = pa.schema(
            [
                pa.field(name, _seems(self._sample.column(place)))
                for place, name in enumerate(self._names)
            ]
        )
        is_plain = all(file.suffix not in COMPRESSIONS for file in files)
        if first is not None and is_plain:
            size = sum(file.stat().st_size for file in files)
            seen = min(_BLOCK_BYTES, files[0].stat().st_size)
            self.total = max(first.size, round(first.size * size / max(seen, 1)))

    def _no_rows(self) -> pa.RecordBatch:
        names = self._names or []
        return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in names], names=names)

    def sample(self) -> pa.RecordBatch:
        return self._sample

    def batches(
        self, cell_types: Mapping[str, pa.DataType], *, rows: int, skip: int
    ) -> Iterator[Batch]:
        return _gather(self._all(list(cell_types), skip), rows)

    def _all(self, columns: list[str], skip: int) -> Iterator[Batch]:
        position = 0
        for file in self._files:
            for batch in self._read(file):
                first, position = position, position + batch.size
                if position <= skip:
                    continue
                rejects = [each._replace(row=each.row + first) for each in batch.rejects]
                positions = batch.positions + first
                start = int(np.searchsorted(positions, skip))
                yield Batch(
                    batch.rows.select(columns).slice(start),
                    positions[start:],
                    [each for each in rejects if each.row >= skip],
                )

    def _read(self, file: Path) -> Iterator[Batch]:
        """Read a file's rows; positions and rejects count from the batch's first row."""
        broken: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def refuse(row: Any) -> str:  # noqa: ANN401  Arrow's
            broken.put(row)
            return "skip"

        try:
            reader = self._open(file, refuse)
            self._header = reader.schema.names
            if self._names is not None and self._header != self._names:
                raise ScoreError(
                    f"'{file}' has the columns {', '.join(self._header)}, "
                    f"the first file {', '.join(self._names)}"
                )
            waiting: list[Any] = []
            position = 0
            for batch in reader:
                while not broken.empty():
                    waiting.append(broken.get())
                read = _place(batch, waiting, position)
                position += read.size
                yield _decode(read)
            while not broken.empty():
                waiting.append(broken.get())
            if waiting:
                yield _decode(_place(self._nothing(), waiting, position, is_end=True))
        except (OSError, pa.ArrowInvalid) as error:
            raise ScoreError(f"'{file}' can't be read as CSV: {error}") from error

    def _nothing(self) -> pa.RecordBatch:
        names = self._header
        return pa.RecordBatch.from_arrays([pa.array([], pa.binary()) for _ in names], names=names)

    def _open(self, file: Path, refuse: Any) -> Any:  # noqa: ANN401  Arrow's
        source = pa.input_stream(str(file), compression="detect")
        read = pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
        parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse)
        # text that is not UTF-8 costs its own row, not the file
        names = self._names or _header(file)
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        return pa.csv.open_csv(
            source, read_options=read, parse_options=parse, convert_options=convert
        )


def _header(file: Path) -> list[str]:
    """Read the names of a CSV file's columns."""
    options = pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
    parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
    source = pa.input_stream(str(file), compression="detect")
    with pa.csv.open_csv(source, read_options=options, parse_options=parse) as reader:
        names: list[str] = reader.schema.names
    return names


def _place(
    batch: pa.RecordBatch, waiting: list[Any], position: int, *, is_end: bool = False
) -> Batch:
    """Put broken lines where they are between the rows of a batch; those behind it stay."""
    count = batch.num_rows
    rejects: list[Rejected] = []
    positions = np.arange(count)
    # the line of names is the first, and counts from 1
    while waiting and (
        (place := waiting[0].number - 2 - position) < count + len(rejects) or is_end
    ):
        row = waiting.pop(0)
        text = row.text[:_LONGEST_LINE]
        reason = f"expected {row.expected_columns} columns, found {row.actual_columns}"
        positions[place - len(rejects) :] += 1
        rejects.append(Rejected(place, reason, {"line": text}))
    return Batch(batch, positions, rejects)


def _decode(batch: Batch) -> Batch:
    """Make text of the cells' bytes; a row that is not UTF-8 is rejected."""
    rows = batch.rows
    columns = []
    wrong: dict[int, str] = {}
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        try:
            columns.append(column.cast(pa.string()))
        except pa.ArrowInvalid:
            cells = column.to_pylist()
            for row, cell in enumerate(cells):
                if cell is not None and not _is_utf8(cell):
                    wrong.setdefault(row, f"column '{name}' is not UTF-8 text")
            texts = [None if each is None else each.decode(errors="replace") for each in cells]
            columns.append(pa.array(texts, pa.string()))
    rows = pa.RecordBatch.from_arrays(columns, names=rows.schema.names)
    if not wrong:
        return batch._replace(rows=rows)
    rejects = [
        Rejected(int(batch.positions[row]), why, rows.slice(row, 1).to_pylist()[0])
        for row, why in wrong.items()
    ]
    kept = np.delete(np.arange(rows.num_rows), list(wrong))
    return Batch(
        rows.take(pa.array(kept)),
        batch.positions[kept],
        sorted([*batch.rejects, *rejects], key=lambda each: each.row),
    )


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True


def _seems(column: pa.Array) -> pa.DataType:
    """Tell what a column of text holds: what more than half of its cells are."""
    cells = [each for each in column.to_pylist() if each is not None and each.strip()]
    if not cells:
        return pa.null()
    if sum(each.strip().lower() in ("true", "false") for each in cells) * 2 > len(cells):
        return pa.bool_()
    numbers = [each for each in cells if _is_number(each)]
    if len(numbers) * 2 <= len(cells):
        return pa.string()
    is_whole = all(each.strip().lstrip("+-").isdecimal() for each in numbers)
    return pa.int64() if is_whole else pa.float64()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


# ---- NDJSON ----


class _NdJson(Table):
    """Files with a JSON object in each line.

    What a column holds is told by the first rows; a row with a cell that does not fit is rejected.
    """

    cells = "json"
    is_estimate = True

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.state = _state(files)
        rows: list[dict[str, object]] = []
        size = 0
        for line in itertools.islice(_lines(files[0]), _LOOKED_AT):
            size += len(line)
            value = _parse(line)
            if isinstance(value, dict):
                rows.append(value)
        names = list(dict.fromkeys(name for row in rows for name in row))
        self.schema = pa.schema(
            [pa.field(name, _json_type([row.get(name) for row in rows])) for name in names]
        )
        self._rows = rows
        if rows and all(file.suffix not in COMPRESSIONS for file in files):
            whole = sum(file.stat().st_size for file in files)
            self.total = max(len(rows), round(len(rows) * whole / size))

    def sample(self) -> pa.RecordBatch:
        types = {field.name: field.type for field in self.schema}
        return _read_rows(self._rows, np.arange(len(self._rows)), types).rows

    def batches(
        self, cell_types: Mapping[str, pa.DataType], *, rows: int, skip: int
    ) -> Iterator[Batch]:
        position = 0
        lines = itertools.chain.from_iterable(map(_lines, self._files))
        for _ in itertools.islice(lines, skip):
            position += 1
        while chunk := list(itertools.islice(lines, rows)):
            values, places, rejects = [], [], []
            for place, line in enumerate(chunk, position):
                value = _parse(line)
                if isinstance(value, dict):
                    values.append(value)
                    places.append(place)
                else:
                    text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\n")
                    rejects.append(Rejected(place, "expected a JSON object", {"line": text}))
            read = _read_rows(values, np.array(places, np.int64), cell_types)
            rejects = sorted([*rejects, *read.rejects], key=lambda each: each.row)
            yield read._replace(rejects=rejects)
            position += len(chunk)


def _lines(file: Path) -> Iterator[bytes]:
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    try:
        opened: BinaryIO = openers.get(file.suffix, open)(file, "rb")
        with opened:
            yield from (line for line in opened if line.strip())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ScoreError(f"'{file}' can't be read: {error}") from error


def _parse(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


#: Type of a column of JSON in whose first rows there is nothing: text, and JSON of all else.
_UNKNOWN = pa.large_string()


def _json_type(values: list[object]) -> pa.DataType:
    if all(value is None for value in values):
        return _UNKNOWN
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    # what most of them are
    types: dict[pa.DataType, int] = {}
    for value in values:
        if value is not None:
            kind = pa.array([value]).type
            types[kind] = types.get(kind, 0) + 1
    return max(types, key=lambda kind: types[kind])


def _read_rows(
    rows: list[dict[str, Any]], positions: NDArray[np.int64], types: Mapping[str, pa.DataType]
) -> Batch:
    """Make columns of objects; a row with a cell of another type is rejected."""
    wrong: dict[int, str] = {}
    while True:
        columns = []
        kept = [place for place in range(len(rows)) if place not in wrong]
        found = len(wrong)
        for name, kind in types.items():
            cells = [rows[place].get(name) for place in kept]
            column = _cells(cells, kind)
            if column is None:
                for place, cell in zip(kept, cells, strict=True):
                    if _cells([cell], kind) is None:
                        text = orjson.dumps(cell).decode()[:_LONGEST_LINE]
                        wrong.setdefault(place, f"column '{name}': expected {kind}, found {text}")
            else:
                columns.append(column)
        if len(wrong) == found:
            break
    batch = pa.RecordBatch.from_arrays(columns, names=list(types))
    rejects = [
        Rejected(int(positions[place]), why, rows[place]) for place, why in sorted(wrong.items())
    ]
    return Batch(batch, positions[kept], rejects)


def _cells(cells: list[Any], kind: pa.DataType) -> pa.Array | None:
    """Make a column; None if a cell is of another type."""
    if kind == _UNKNOWN:
        cells = [
            each if each is None or isinstance(each, str) else orjson.dumps(each).decode()
            for each in cells
        ]
    elif not _fit(cells, kind):
        return None
    elif pa.types.is_floating(kind):  # Arrow refuses integers that are rounded
        cells = [float(each) if type(each) is int else each for each in cells]
    elif pa.types.is_integer(kind):
        cells = [int(each) if type(each) is float else each for each in cells]
    try:
        return pa.array(cells, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError):
        return None


def _fit(cells: list[Any], kind: pa.DataType) -> bool:
    """Tell whether cells are of a type; Arrow itself would cut numbers and take true for 1."""
    found = {*map(type, cells)} - {type(None)}
    if is_list(kind):
        inner = [value for cell in cells if isinstance(cell, list) for value in cell]
        return found <= {list} and _fit(inner, kind.value_type)
    if pa.types.is_integer(kind):
        is_whole = float not in found or all(
            each.is_integer() for each in cells if isinstance(each, float)
        )
        return found <= {int, float} and is_whole
    if pa.types.is_floating(kind):
        return found <= {int, float}
    return not is_text(kind) or found <= {str}
