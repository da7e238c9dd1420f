"""A monitor's report: what its detector said, and the features then and now, as HTML or PNG.

`collect` asks a monitor, on the event loop; `make_report` makes the report of that, in a process of
its own if there is something to draw. matplotlib is imported there; the page has its tables without
it.
"""

from __future__ import annotations

from jackfield._monitors.report.collect import collect
from jackfield._monitors.report.data import ReportData
from jackfield._monitors.report.make import Form, make_report

__all__ = ["Form", "ReportData", "collect", "make_report"]
