"""Run `jackfield` without its statistics: the other half of what measuring costs.

Run inside Jackfield's environment, with the arguments of the command. Every public method of
`ModelStatistics` that gives nothing back does nothing; those that answer stay. No setting does
this: it is for the benchmark only.
"""

import inspect
import sys

from jackfield import _statistics
from jackfield.__main__ import main


def _silence() -> None:
    counted = [
        name
        for name, method in inspect.getmembers(_statistics.ModelStatistics, inspect.isfunction)
        if not name.startswith("_") and method.__annotations__.get("return") in ("None", None)
    ]
    if not counted:
        sys.exit("nothing of ModelStatistics counts: this program has to follow it")
    for name in counted:
        setattr(_statistics.ModelStatistics, name, _nothing)


def _nothing(*_: object, **__: object) -> None:
    return None


if __name__ == "__main__":
    _silence()
    main()
