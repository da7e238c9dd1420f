"""The event loop of a process that serves, and the end of that process."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("jackfield")


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Choose the event loop: uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.Loop


def leave_stuck_threads() -> None:
    """End the process although a runtime's thread never returns."""
    stuck = [thread for thread in threading.enumerate() if thread.name.startswith("jackfield-")]
    if stuck:
        for thread in stuck:
            thread.join(timeout=1.0)
        if any(thread.is_alive() for thread in stuck):
            logger.warning("leaving %d threads that do not end", len(stuck))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
