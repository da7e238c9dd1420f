"""Requests that were under way when their process died: which of them is to blame.

A runtime that ends its process on one input would do so for ever, as long as its caller tries
again. So what was under way at a death runs alone from then on, merged with nothing, and what is
under way, alone, at another death is refused for an hour, and then tried again, alone. A death that
may have come from outside, as by SIGKILL, takes a third one: an operator kills with it, and so does
the kernel when one input takes all memory. What is answered is innocent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jackfield.messages import InferRequest

_Known = TypeVar("_Known", int, str)

#: Most digests kept of each kind: rows under suspicion, requests refused.
_MOST = 16_384
#: How long a request is refused, in seconds.
REFUSED_S = 3600.0
#: How long one is under suspicion since the last death, in seconds: longer than it is refused.
_SUSPECT_S = 2 * REFUSED_S
#: What a death tells against who was under way, whether the process died by its own doing or may
#: have been killed from outside, and what is enough to refuse: two of those, or three of any.
_BY_ITSELF, _FROM_OUTSIDE, _ENOUGH = 3, 2, 6


class Suspects:
    """What one model's process died of, by digests of requests' inputs.

    Not by the requests themselves, for those that waited together were merged into one: rows are
    known again in any company.

    Args:
        is_row_wise: Whether the model's rows are independent.
        clock: Tells seconds.
    """

    def __init__(self, *, is_row_wise: bool, clock: Callable[[], float] = monotonic) -> None:
        self._is_row_wise = is_row_wise
        self._clock = clock
        #: Digest -> when it is forgotten, and what tells against it; the oldest goes first.
        self._rows: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        #: Digest -> when it may be tried again, and how the process died of it.
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any request at all is under suspicion; cheap, for each request asks."""
        return bool(self._rows or self._refused)

    def holds(self, request: InferRequest) -> bool:
        """Tell whether a request, or a row of it, is under suspicion: then it runs alone."""
        if not self:
            return False
        self._forget()
        return digest_of(request) in self._refused or any(
            digest in self._rows for digest in self._row_digests(request)
        )

    def refusal(self, request: InferRequest) -> str:
        """Tell how the process died of a request; empty for one that may be computed."""
        if not self._refused:
            return ""
        self._forget()
        return self._refused.get(digest_of(request), (0.0, ""))[1]

    def suspect(self, requests: Iterable[InferRequest], *, is_own_doing: bool) -> None:
        """Take notice of what was under way at one death.

        Args:
            requests: All of the model; those that are equal count as one.
            is_own_doing: Whether nobody else can have ended the process.
        """
        now = self._clock()
        # in their order: the oldest go first
        digests = dict.fromkeys(each for request in requests for each in self._row_digests(request))
        for digest in digests:
            _, against = self._rows.pop(digest, (0.0, 0))
            against += _BY_ITSELF if is_own_doing else _FROM_OUTSIDE
            self._rows[digest] = (now + _SUSPECT_S, against)
        _trim(self._rows, now)

    def has_enough(self, request: InferRequest) -> bool:
        """Tell whether what is known of a request, or of a row of it, is enough to refuse it."""
        known = (self._rows.get(digest, (0.0, 0)) for digest in self._row_digests(request))
        return any(against >= _ENOUGH for _, against in known)

    def refuse(self, request: InferRequest, how: str) -> None:
        """Refuse a request from now on, until its time is over."""
        now, digest = self._clock(), digest_of(request)
        self._refused.pop(digest, None)
        self._refused[digest] = (now + REFUSED_S, how)
        _trim(self._refused, now)

    def clear(self, request: InferRequest) -> None:
        """Take notice that a request was answered."""
        if self._rows:
            for digest in self._row_digests(request):
                self._rows.pop(digest, None)

    def _row_digests(self, request: InferRequest) -> Iterator[bytes]:
        counts = {each.array.shape[:1] for each in request.inputs}
        if not self._is_row_wise or len(counts) != 1 or counts == {()}:
            yield digest_of(request)
            return
        [(count,)] = counts
        for row in range(count):
            yield digest_of(request, row)

    def _forget(self) -> None:
        now = self._clock()
        _trim(self._rows, now)
        _trim(self._refused, now)


def _trim(digests: OrderedDict[bytes, tuple[float, _Known]], now: float) -> None:
    while digests and (len(digests) > _MOST or next(iter(digests.values()))[0] < now):
        digests.popitem(last=False)


def digest_of(request: InferRequest, row: int | None = None) -> bytes:
    """Boil down a request's inputs, or one row of them, to 16 bytes."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in request.inputs:
        array = tensor.array if row is None else tensor.array[row]
        shape = array.shape if isinstance(array, np.ndarray) else ()
        head = f"{tensor.name}\0{tensor.datatype.value}\0{shape}\0"
        found.update(head.encode(errors="surrogatepass"))
        if tensor.array.dtype == object:  # BYTES
            elements = array.reshape(-1) if isinstance(array, np.ndarray) else [array]
            for element in elements:
                blob = element if isinstance(element, bytes) else str(element).encode()
                found.update(len(blob).to_bytes(8, "little"))
                found.update(blob)
        else:
            found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()
