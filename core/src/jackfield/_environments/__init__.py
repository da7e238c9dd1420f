"""Interpreters with packages of their own, for models that can't share the server's.

`prepare` is the one door: it makes or finds an environment and tells which interpreter to start.
Who starts it, and what it does there, is not known here.
"""

from __future__ import annotations

from jackfield._environments.environment import Environment
from jackfield._environments.prepare import prepare
from jackfield._environments.running import Running

__all__ = ["Environment", "Running", "prepare"]
