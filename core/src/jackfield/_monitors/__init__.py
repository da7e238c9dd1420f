"""Monitors: detectors that watch a served model's inputs or outputs, out of its way.

`Model` calls `observe` of each of its observers after a success; all that costs time happens later,
in a task and a thread of the monitor's own. A detector is a model of the same server, whichever its
runtime is. Used by `_models`, `_metrics`, `_control`,
`_http` and `_workers`; knows none of them.
"""

from __future__ import annotations

from jackfield._monitors.monitor import Monitor, Monitors, Observer, monitors_of
from jackfield._monitors.record import MonitorRecord
from jackfield._monitors.verdict import FeatureVerdict, Verdict

__all__ = [
    "FeatureVerdict",
    "Monitor",
    "MonitorRecord",
    "Monitors",
    "Observer",
    "Verdict",
    "monitors_of",
]
