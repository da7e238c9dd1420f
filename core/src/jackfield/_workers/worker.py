"""What a worker runs: ``python -m jackfield._workers.worker``, started by the supervisor alone."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._announcement import announce
from jackfield._lifeline import tie
from jackfield._log import configure_logging
from jackfield._workers.changes import asked_of, settings_of
from jackfield._workers.channel import Channel, LostError
from jackfield._workers.event_loop import leave_stuck_threads, loop_factory
from jackfield._workers.messages import (
    Abort,
    Admission,
    Ask,
    CannotStart,
    Commit,
    Done,
    GiveUp,
    Join,
    Later,
    Ping,
    Prepare,
    Reload,
    Reloaded,
    Serving,
    Start,
    Stop,
    Tell,
    Told,
)
from jackfield.errors import JackfieldError, StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jackfield._control import Control, Fleet
    from jackfield._workers.member import Member
    from jackfield._workers.messages import Message
    from jackfield.server import Addresses

logger = logging.getLogger("jackfield")


def main() -> None:
    """Serve until the supervisor says to stop."""
    number, lifeline, stacks = map(int, sys.argv[1:4])
    sock = socket.socket(fileno=number)
    tie(sock, lifeline, stacks)
    faulthandler.enable()
    # tells where its threads are although it hangs, and holds the GIL
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(_Worker().run(sock))
    if code:
        sys.exit(code)
    leave_stuck_threads()


class _Worker:
    """Does what the supervisor says."""

    def __init__(self) -> None:
        self.channel = Channel(self._answer)
        #: Set when there is a server.
        self.member: Member | None = None
        self._stopped = asyncio.Event()

    async def run(self, sock: socket.socket) -> int:
        """Serve; returns the exit code."""
        self._start: asyncio.Future[Start] = asyncio.get_running_loop().create_future()
        await self.channel.open(sock)
        start = await self._start
        # the author's code imports what it would import in a lone server
        sys.path[:] = start.path
        settings = start.settings
        configure_logging(settings.log_level, settings.log_format, worker=start.number)
        try:
            await self._serve(start)
        except JackfieldError as error:
            await self.channel.call(CannotStart(str(error)))
            return 1
        except LostError:
            os._exit(1)
        finally:
            await self.channel.close()
        return 0

    async def _serve(self, start: Start) -> None:
        # heavy: the ties to the supervisor are fastened before
        from jackfield.server import Server

        server = Server(
            start.models,
            settings=start.settings,
            name=start.name,
            plugins=start.plugins,
            environ=start.environ,
        )

        async def started(addresses: Addresses) -> None:
            await self.channel.call(Serving(await announce(server, addresses)))

        await server.run(self._stopped, started, seat=_Seat(self, start))

    async def _answer(self, message: Message) -> Message:
        match message:
            case Start():
                self._start.set_result(message)
            case Ping():
                pass
            case Stop():
                self._stopped.set()
            case _ if self.member is not None:
                return await self._answer_for(self.member, message)
            case _:
                return Done("the worker is starting")
        return Done()

    async def _answer_for(self, member: Member, message: Message) -> Message:
        match message:
            case Prepare(number, change, wish, is_last):
                problem = await member.prepare(number, change, wish, is_last=is_last)
                return Later() if problem is None else Done(problem)
            case Commit(number):
                return Done(await member.commit(number))
            case Abort(number):
                await member.abort(number)
            case GiveUp(name):
                member.give_up(name)
            case Reload():
                return Reloaded(await member.reload())
            case Tell(problem):
                member.problem = problem
            case Ask(question):
                return Told(await member.answer(question))
            case _:
                return Done(f"a worker is not asked for {type(message).__name__}")
        return Done()


class _Seat:
    """This worker's place; a `Seat`."""

    def __init__(self, worker: _Worker, start: Start) -> None:
        self._worker = worker
        self._start = start
        self.is_late = start.is_late
        self.asked: Mapping[str, Mapping[str, object] | None] = asked_of(start.standing)
        self.watched: Mapping[str, str] | None = start.watched
        self.listeners: Mapping[str, socket.socket] = {
            setting: socket.socket(fileno=number) for setting, number in start.listeners.items()
        }

    async def enter(self, control: Control) -> Fleet:
        """Make this worker's view of all, and find out which models the others own."""
        from jackfield._workers.member import Member
        from jackfield._workers.owners import Owners

        owners = Owners(Path(self._start.folder), control.models)
        await owners.open()
        control.models.place = owners.load
        self._member = self._worker.member = Member(self._worker.channel, control, owners.passes_on)
        if self.is_late:  # the others serve
            self._member.problem = ""
        return self._member

    async def join(self) -> None:
        """Become one of those that take part in changes, with all that was changed before.

        Raises:
            StartupError: It can't serve what the others serve.
        """
        for change in settings_of(self._start.standing):
            try:
                await self._member.make(change)
            # a region whose memory is gone, or traces of a model that is: callers see it there
            except JackfieldError as error:
                logger.warning("a change that was made before can't be made now: %s", error)
        admission = await self._worker.channel.call(Join(self._member.ready()))
        if not isinstance(admission, Admission) or admission.problem:
            problem = getattr(admission, "problem", "") or "the supervisor does not answer"
            raise StartupError(problem)
        await self._member.catch_up(admission.changes)


if __name__ == "__main__":
    main()
