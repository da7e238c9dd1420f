"""Make sure that pyarrow is there before anything here imports it."""

from __future__ import annotations

from jackfield.errors import ScoreError

try:
    import pyarrow as pa
except ModuleNotFoundError as error:
    if error.name != "pyarrow":
        raise
    message = 'scoring tables needs pyarrow; install it: pip install "jackfield[score]"'
    raise ScoreError(message) from error


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or _is_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Tell whether a column holds bytes."""
    types = pa.types
    is_plain = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(is_plain or types.is_fixed_size_binary(kind))


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column holds numbers or truth values."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_number(kind.value_type)
    is_plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(is_plain or types.is_decimal(kind))


def is_list(kind: pa.DataType) -> bool:
    """Tell whether each cell of a column is a list."""
    types = pa.types
    is_variable = types.is_list(kind) or types.is_large_list(kind)
    return bool(is_variable or types.is_fixed_size_list(kind))


def is_moment(kind: pa.DataType) -> bool:
    """Tell whether a column holds dates or times."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_view(kind: pa.DataType) -> bool:
    return str(kind) == "string_view"
