"""When a call is sent again, and how long to wait before."""

from __future__ import annotations

import dataclasses
import math
import random

from jackfield.errors import CallError, NoAnswerError, RemoteCapacityError

#: Statuses by which a server refuses before it does anything.
_REFUSALS = frozenset([429, 503, "RESOURCE_EXHAUSTED", "UNAVAILABLE"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and when a call that the server refused is sent again.

    A call is repeated when no connection was made, and when the server says that it is overloaded
    or not ready; never after a byte of an answer, nor to load or unload a model.

    Example: `Client(url, retries=Retries(limit=0))` never repeats a call.
    """

    #: Repeats of one call at most.
    limit: int = 3
    #: Upper bound of the first wait, in seconds; it doubles with each repeat. The wait itself is
    #: random below it, so that the callers of an overloaded server don't come back together.
    first_wait_s: float = 0.1
    #: The longest wait; a server that asks for more gets no repeat.
    longest_wait_s: float = 10.0

    def wait_s(self, attempt: int, error: CallError) -> float:
        """Tell how long to wait after a failed attempt, in seconds; infinite to give up.

        Args:
            attempt: How many attempts failed before this one.
            error: What this one raised.
        """
        asked = 0.0
        if isinstance(error, RemoteCapacityError):
            is_safe, asked = error.status in _REFUSALS, error.retry_after_s
        else:
            is_safe = isinstance(error, NoAnswerError) and not error.was_sent
        if not is_safe or attempt >= self.limit or asked > self.longest_wait_s:
            return math.inf
        bound = min(self.longest_wait_s, self.first_wait_s * 2**attempt)
        # beside what was asked for: all callers were asked for the same
        return asked + random.uniform(0, bound)
