"""Whether a request is the server's own: made by a model or a monitor of it, not by a caller.

An explainer's perturbed rows and a detector's windows are no traffic: no monitor looks at them.
"""

from __future__ import annotations

from contextvars import ContextVar

#: Set in the task that calls a model on behalf of another one.
IS_INNER: ContextVar[bool] = ContextVar("jackfield_is_inner", default=False)
