"""Metrics that a model's author counts and measures, shown with the model's name and version.

Each model version has its own, which go when it is unloaded. Prometheus' library is imported with
the first one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Counter, Gauge, Histogram, Metric
    from prometheus_client.metrics import MetricWrapperBase

    Kept = TypeVar("Kept", bound=MetricWrapperBase)

__all__ = ["ModelMetrics"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
#: Labels that every series has; the server's own metrics have the same.
_OURS = ("model", "version")


class ModelMetrics:
    """The metrics of one model version, by name; `ModelContext.metrics` is one.

    Asked for twice, a metric is the same one. They may be used from any thread.

    Example:
        ```python
        class Model:
            def __init__(self, context):
                self.rows = context.metrics.counter("rows_seen", "Rows in requests.")

            def infer(self, x: np.ndarray) -> np.ndarray:
                self.rows.inc(len(x))
                return x
        ```
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def counter(self, name: str, description: str = "", *, labels: Sequence[str] = ()) -> Counter:
        """Get a number that only grows.

        Args:
            name: Its name; shown with ``_total`` at the end.
            description: A sentence that says what is counted, and in which unit.
            labels: Names of labels beside the model and its version.

        Raises:
            ValueError: The name or a label is none of Prometheus', or is taken by another kind.
        """
        from prometheus_client import Counter

        return self._keep(Counter, name, description, labels)

    def gauge(self, name: str, description: str = "", *, labels: Sequence[str] = ()) -> Gauge:
        """Get a number that goes up and down; as `counter`."""
        from prometheus_client import Gauge

        return self._keep(Gauge, name, description, labels)

    def histogram(
        self,
        name: str,
        description: str = "",
        *,
        labels: Sequence[str] = (),
        buckets: Sequence[float] | None = None,
    ) -> Histogram:
        """Get a distribution of what is observed; as `counter`.

        Args:
            name: Its name.
            description: As for `counter`.
            labels: As for `counter`.
            buckets: Upper bounds; Prometheus' own, made for seconds, if None.
        """
        from prometheus_client import Histogram

        given = {} if buckets is None else {"buckets": tuple(buckets)}
        return self._keep(Histogram, name, description, labels, **given)

    def collect(self) -> Iterable[Metric]:
        """Read all metrics; the server does, for its metrics port."""
        for metric in tuple(self._kept.values()):
            yield from metric.collect()

    def _keep(
        self,
        kind: type[Kept],
        name: str,
        description: str,
        labels: Sequence[str],
        **given: Any,  # noqa: ANN401  the kinds differ in it
    ) -> Kept:
        if not _NAME.fullmatch(name) or name.startswith("jackfield_"):
            message = (
                f"metric '{name}': expected letters, digits and underscores, and another beginning "
                "than 'jackfield_', which is the server's"
            )
            raise ValueError(message)
        if taken := set(labels) & set(_OURS):
            message = f"metric '{name}': the label '{taken.pop()}' is put on every metric already"
            raise ValueError(message)
        kept = self._kept.get(name)
        if kept is None:
            # in no registry: models come and go, and two of them may use one name
            made = kind(name, description or name, labelnames=labels, registry=None, **given)
            kept = self._kept.setdefault(name, made)
        if not isinstance(kept, kind):
            message = f"metric '{name}' is a {type(kept).__name__.lower()} already"
            raise ValueError(message)
        return kept
