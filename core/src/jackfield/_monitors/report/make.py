"""Make a report, in a process of its own where there is something to draw.

Drawing is a second of Python, which would take turns with a server's requests in the same process.
"""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Literal

from jackfield._monitors.report.draw import draw_png
from jackfield._monitors.report.page import make_page

if TYPE_CHECKING:
    from jackfield._monitors.report.data import ReportData

_WORKER = "jackfield._monitors.report.worker"
Form = Literal["html", "png"]
#: Longest time that a report may take, in seconds.
_LONGEST_S = 60.0
#: How the process exits where matplotlib is missing.
IS_MISSING = 3


def make_report(data: ReportData, form: Form) -> bytes:
    """Make a report; blocks, and computes nothing here where there is something to draw.

    Raises:
        ImportError: It is a picture, and matplotlib is not installed.
        RuntimeError: The process failed; the text has what it printed last.
        TimeoutError: It took longer than a minute, and was killed.
    """
    if importlib.util.find_spec("matplotlib") is None or not sys.executable:
        return make_here(data, form)
    command = [sys.executable, "-P", "-m", _WORKER, form]
    try:
        done = subprocess.run(
            command,
            # what this process wrote itself, for one that it starts itself
            input=pickle.dumps(data, pickle.HIGHEST_PROTOCOL),
            capture_output=True,
            check=False,
            timeout=_LONGEST_S,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"a report took longer than {_LONGEST_S:g} s") from error
    printed = done.stderr.decode(errors="replace")[-2000:]
    if done.returncode == IS_MISSING:
        raise ImportError(printed)
    if done.returncode:
        problem = f"the process that makes reports exited with code {done.returncode}: {printed}"
        raise RuntimeError(problem)
    return done.stdout


def make_here(data: ReportData, form: Form) -> bytes:
    """Make a report in this process.

    Raises:
        ImportError: It is a picture, and matplotlib is not installed.
    """
    return draw_png(data) if form == "png" else make_page(data).encode(errors="replace")
