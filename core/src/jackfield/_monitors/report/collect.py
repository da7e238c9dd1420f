"""Gather what a monitor knows into a report's data; on the event loop, where monitors live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from jackfield._monitors.report.data import ReportData
from jackfield.errors import JackfieldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jackfield._monitors.monitor import Monitor
    from jackfield._monitors.report.data import Column
    from jackfield.settings import MonitorSettings
    from jackfield.tensor import Tensor


async def collect(monitor: Monitor) -> ReportData:
    """Ask the detector for its reference, and copy what the monitor has."""
    settings, counts = monitor.settings, monitor.statistics
    reference, problem = None, monitor.problem
    try:
        reference = await monitor.reference_rows()
    except JackfieldError as error:
        problem = problem or f"the detector gives no reference: {error}"
    sample = monitor.recent_rows()
    names = [str(name) for name in monitor.features]
    facts = [
        ("rows seen", f"{counts.seen_rows:,}"),
        ("rows sampled", f"{counts.sampled_rows:,} (each with a chance of {settings.sample:g})"),
        ("rows judged", f"{counts.judged_rows:,}"),
        ("rows dropped", _drops(counts.drops)),
        ("last misfit", monitor.misfit),
        ("verdicts", f"{counts.verdicts:,}, of them alarms: {counts.positives:,}"),
    ]
    return ReportData(
        model=monitor.model,
        version=monitor.version,
        monitor=monitor.name,
        detector=settings.detector,
        detector_class=str(monitor.detector_parameters().get("detector", "")),
        watches=settings.watch,
        window=_window(settings),
        made_s=time.time(),
        names=names or _tensor_names(sample),
        reference=_join([reference]) if reference is not None else None,
        sample=_join(sample) if sample else None,
        verdicts=[*monitor.history],
        outlier_share=settings.outlier_share,
        facts=facts,
        problem=problem,
    )


def _drops(drops: dict[str, int]) -> str:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in drops.items() if count)
    return f"{sum(drops.values()):,}" + (f" ({reasons})" if reasons else "")


def _window(settings: MonitorSettings) -> str:
    """Say in words what is judged together."""
    window = settings.window
    if window is None:
        return "the detector's own"
    if isinstance(window, int):
        return f"{window:,} rows"
    unit = "rows" if window.rows else "s"
    size = f"{window.rows or window.seconds:,} {unit}"
    return f"{size}, a new one each {window.every:g} {unit}" if window.every else size


def _join(tensors: Sequence[Tensor]) -> Column:
    """Put tensors beside each other: ``[rows, features]``, of objects if one has texts."""
    tables = [each.array.reshape(len(each.array), -1) for each in tensors if each.array.ndim]
    if len(tables) == 1:
        return tables[0]
    if any(table.dtype.kind == "O" for table in tables):
        tables = [table.astype(object) for table in tables]
    return np.hstack(tables)


def _tensor_names(tensors: Sequence[Tensor]) -> list[str]:
    """Name features by the tensors that they are, where each is one."""
    is_each = len(tensors) > 1 and all(each.array.size == len(each.array) for each in tensors)
    return [each.name for each in tensors] if is_each else []
