"""One worker, as the supervisor has it: started, called, watched and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from jackfield._lifeline import describe_exit
from jackfield._workers.channel import Channel, LostError
from jackfield._workers.messages import (
    Abort,
    Commit,
    Done,
    GiveUp,
    Later,
    Ping,
    Prepare,
    Stop,
    Tell,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jackfield._changes import Change
    from jackfield._workers.messages import Message, Standing, Start

logger = logging.getLogger("jackfield")

#: How long one that does not serve yet may not answer at least, in seconds.
_START_S = 30.0
#: Pause between two questions whether a worker is there, in seconds.
_BEAT_S = 1.0
#: How long the stacks of a worker that hangs may take to come, and to pause, in seconds.
_STACKS_S = 3.0
_STACKS_PAUSE_S = 0.3
_MAX_STACKS_BYTES = 256 * 1024


class Child:
    """A fresh interpreter that runs a whole server.

    It has a session of its own: what a terminal sends to the supervisor's group does not reach it.

    Args:
        number: Its place among the workers, from 1 on; one that takes its place has the same.
        standing: What it starts from.
        is_late: Others serve while it starts.
        on_call: Answers what it asks.
    """

    def __init__(
        self,
        number: int,
        *,
        standing: Standing,
        is_late: bool,
        on_call: Callable[[Child, Message], Awaitable[Message]],
    ) -> None:
        self.number = number
        self.standing = standing
        self.is_late = is_late
        self.is_serving = False
        #: When it began to serve, by `time.monotonic`; 0 before.
        self.served_at = 0.0
        #: It has said itself why it ends, which is no crash.
        self.is_excused = False
        self.was_clean = False
        self.channel = Channel(lambda message: on_call(self, message))
        self._watching: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = self._stacks = -1

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid if self._process else 0

    async def start(self, start: Start, *, timeout_s: float) -> None:
        """Start the process, tell it what to serve, and watch it from then on.

        Args:
            start: What to serve.
            timeout_s: How long it may not answer, in seconds, before it is killed.

        Raises:
            OSError: The system starts no process.
            LostError: It died at once.
        """
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._stacks, stacks = os.pipe()
        held = (theirs.fileno(), lifeline, stacks)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "jackfield._workers.worker", *map(str, held)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(*held, *start.listeners.values()),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(stacks)
        await self.channel.open(ours)
        self._watching = asyncio.create_task(self._watch(timeout_s))
        await self.channel.call(start)

    async def _watch(self, timeout_s: float) -> None:
        """Kill it when it does not answer for so long."""
        limit_s = timeout_s
        try:
            while True:
                # imports hold its loop up before it serves
                limit_s = timeout_s if self.is_serving else max(timeout_s, _START_S)
                async with asyncio.timeout(limit_s):
                    await self.channel.call(Ping())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_S):
                        await self.channel.lost.wait()
        except LostError:
            return
        except TimeoutError:
            stacks = await self._read_stacks()
            logger.error(
                "worker %d has not answered for %g s, and is killed; its threads were at:\n%s",
                self.number,
                limit_s,
                stacks or "(it did not tell)",
            )
            self.kill()

    async def end(self) -> str:
        """Wait for its end, kill what it left, and say how it ended."""
        code: int | None = None
        if self._process is not None:
            code = await self._process.wait()
            self.was_clean = code == 0
            self.kill()  # its group
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.channel.close()
        for descriptor in (self._lifeline, self._stacks):
            if descriptor >= 0:
                os.close(descriptor)
        self._lifeline = self._stacks = -1
        return "could not be started" if code is None else describe_exit(code)

    def kill(self) -> None:
        """Kill it and what it started in its group; nothing happens if it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def tell(self, problem: str) -> None:
        """Tell whether the whole server is ready."""
        with contextlib.suppress(LostError):
            await self.channel.call(Tell(problem))

    async def stop(self) -> None:
        """Have it drain and end."""
        with contextlib.suppress(LostError):
            await self.channel.call(Stop())

    # ---- its part in a change ----

    async def prepare(self, number: int, change: Change, wish: int, *, is_last: bool) -> str | None:
        """Do all of a change that can fail; returns why it did, None to ask for it later."""
        try:
            answer = await self.channel.call(Prepare(number, change, wish, is_last))
        except LostError:
            return "it died while the change was prepared"
        if isinstance(answer, Later):
            return None
        return answer.problem if isinstance(answer, Done) else ""

    async def commit(self, number: int) -> None:
        """Make a change; one that can't is killed: it would differ from the others."""
        with contextlib.suppress(LostError):
            answer = await self.channel.call(Commit(number))
            if isinstance(answer, Done) and answer.problem:
                logger.error(
                    "worker %d can't make a change that the others made, and is killed: %s",
                    self.number,
                    answer.problem,
                )
                self.kill()

    async def abort(self, number: int) -> None:
        """Give a change up."""
        with contextlib.suppress(LostError):
            await self.channel.call(Abort(number))

    async def give_up(self, name: str) -> None:
        """Give up a load of a model whose environment is being made."""
        with contextlib.suppress(LostError):
            await self.channel.call(GiveUp(name))

    def begin_to_serve(self) -> None:
        """Note that it serves."""
        self.is_serving, self.served_at = True, time.monotonic()

    async def _read_stacks(self) -> str:
        """Have the process tell where its threads are, which it does even while it hangs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        loop, told = asyncio.get_running_loop(), bytearray()
        os.set_blocking(self._stacks, False)
        readable = asyncio.Event()
        loop.add_reader(self._stacks, readable.set)
        try:
            async with asyncio.timeout(_STACKS_S):
                await readable.wait()
                while len(told) < _MAX_STACKS_BYTES:
                    readable.clear()
                    part = os.read(self._stacks, 64 * 1024)
                    if not part:  # it is gone
                        break
                    told += part
                    async with asyncio.timeout(_STACKS_PAUSE_S):
                        await readable.wait()
        except (TimeoutError, BlockingIOError):
            pass
        finally:
            loop.remove_reader(self._stacks)
        return told.decode(errors="replace").rstrip()
