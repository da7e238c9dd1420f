"""Run the command line: ``python -m jackfield`` and the ``jackfield`` script."""

from __future__ import annotations

from jackfield._cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
