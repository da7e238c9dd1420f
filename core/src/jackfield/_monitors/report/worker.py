"""The process that makes one report: ``python -m jackfield._monitors.report.worker html``.

`make_report` starts it. It reads the data from its standard input, and writes the report to its
standard output.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys

from jackfield._monitors.report.make import IS_MISSING, make_here

#: How far it steps back for others that compute.
_NICE = 10


def main() -> None:
    """Read data, write a report."""
    # what others print goes beside it
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        with contextlib.suppress(AttributeError, OSError):  # Windows has no priorities like these
            os.nice(_NICE)
        data = pickle.load(sys.stdin.buffer)
        try:
            out.write(make_here(data, "png" if sys.argv[1] == "png" else "html"))
        except ImportError as error:
            print(error, file=sys.stderr)  # noqa: T201  to the process that started this one
            sys.exit(IS_MISSING)


if __name__ == "__main__":
    main()
