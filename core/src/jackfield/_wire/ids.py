"""Ids for requests that come without one."""

from __future__ import annotations

import random


def make_id() -> str:
    """Make an id that tells requests apart, in the form of a random UUID.

    It need not be unforeseeable, and the system's own source of randomness costs as much as all
    the rest of decoding a row.

    Source: RFC 9562, version 4.
    """
    bits = f"{random.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"
