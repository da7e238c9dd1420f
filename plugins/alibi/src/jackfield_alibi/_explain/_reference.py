"""Read reference data: rows that an explainer knows, from a file that carries no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from jackfield import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".npy", ".npz", ".csv", ".parquet", ".json")


class Table(NamedTuple):
    """Rows and, where the file tells, the names of the columns."""

    rows: NDArray[Any]
    names: tuple[str, ...] = ()


def read_table(file: Path, setting: str) -> Table:
    """Read rows from a file.

    Args:
        file: Of one of `SUFFIXES`; ``.npz`` holds one array, ``.json`` a list of rows or of
            objects, or an object of columns.
        setting: Name of the setting that names it, for errors.

    Raises:
        ModelLoadError: It is missing, damaged, empty, of another form or would need a pickle.
    """
    where = f"'{setting}': '{file.name}'"
    if not file.is_file():
        problem = f"{where} is missing in '{file.parent}'"
        raise ModelLoadError(problem)
    try:
        table = _read(file)
    except ModelLoadError:
        raise
    # each library has errors of its own
    except Exception as error:
        problem = f"{where} can't be read: {type(error).__name__}: {error}"
        raise ModelLoadError(problem) from error
    if table is None:
        problem = f"{where}: expected a file of {', '.join(SUFFIXES)}"
        raise ModelLoadError(problem)
    if table.rows.ndim == 0 or not len(table.rows):
        problem = f"{where}: expected rows, found shape {list(table.rows.shape)}"
        raise ModelLoadError(problem)
    return table


def check_finite(rows: NDArray[Any], setting: str) -> NDArray[Any]:
    """Give rows of finite numbers back, whole numbers as FP64.

    Raises:
        ModelLoadError: They hold something else.
    """
    if rows.dtype.kind not in "fiub":
        problem = f"'{setting}': expected numbers, found {rows.dtype}"
        raise ModelLoadError(problem)
    numbers = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
    if not np.isfinite(numbers).all():
        place = [int(each) for each in np.argwhere(~np.isfinite(numbers))[0]]
        problem = f"'{setting}': expected finite numbers, found {numbers[tuple(place)]} at {place}"
        raise ModelLoadError(problem)
    return numbers


def _read(file: Path) -> Table | None:
    match file.suffix.lower():
        case ".npy":
            return Table(np.load(file, allow_pickle=False))
        case ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                if len(arrays.files) != 1:
                    problem = f"'{file.name}' holds {', '.join(arrays.files)}: expected one array"
                    raise ModelLoadError(problem)
                return Table(arrays[arrays.files[0]])
        case ".json":
            return _of_json(msgspec.json.decode(file.read_bytes()))
        case ".csv" | ".parquet":
            import pandas as pd

            frame = pd.read_csv(file) if file.suffix.lower() == ".csv" else pd.read_parquet(file)
            return Table(frame.to_numpy(), tuple(map(str, frame.columns)))
    return None


def _of_json(found: Any) -> Table:  # noqa: ANN401  whatever JSON holds
    if isinstance(found, dict):
        return Table(np.column_stack([np.asarray(each) for each in found.values()]), tuple(found))
    if found and isinstance(found[0], dict):
        names = tuple(found[0])
        return Table(np.array([[row[name] for name in names] for row in found]), names)
    return Table(np.array(found))
