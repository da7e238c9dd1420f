"""What a route is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

#: Columns by name, as the package's text says.
Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Route(Protocol):
    """Computes what a model adds to rows; safe to call in several threads."""

    @property
    def name(self) -> str:
        """``local``, ``gateway`` or ``dataframe``."""

    def __call__(self, columns: Arrays, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute columns.

        Args:
            columns: All columns that the model takes, of equal length, one row or more.
            wanted: Names of columns that the model adds.

        Returns:
            An array for each name.

        Raises:
            InvalidRequestError: Spark refuses a row: the text is Spark's (an unseen label, NaN
                where it is not taken).
            Py4JNetworkError: The JVM is gone.
        """
