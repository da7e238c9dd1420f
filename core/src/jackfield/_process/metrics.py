"""The metrics that a model in a process of its own counts itself, as that process told last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric

    from jackfield._process.messages import Family


class ProcessMetrics:
    """Reads as `ModelMetrics` does; what is counted begins at 0 with each new process."""

    def __init__(self) -> None:
        self.families: Sequence[Family] = ()

    def collect(self) -> Iterable[Metric]:
        """Give all metrics; at most about half a second old."""
        from prometheus_client import Metric

        for family in self.families:
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric
