"""The supervisor: keeps the ports, starts the workers, watches them, and serves nothing itself.

It imports neither a web server nor gRPC nor a framework, and runs no model: what can bring a worker
down does not bring it down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from jackfield._changes import LoadModel, UnloadModel
from jackfield._label import label_model
from jackfield._ports import SPREADS, Reservation
from jackfield._threads import available_cores
from jackfield._workers.changes import Changes, changes_between
from jackfield._workers.channel import LostError
from jackfield._workers.child import Child
from jackfield._workers.departed import KEPT, Departed
from jackfield._workers.folder import SharedFolder
from jackfield._workers.memory import measure
from jackfield._workers.messages import (
    Admission,
    Answer,
    Ask,
    AskReady,
    CannotStart,
    Done,
    Gathered,
    Inquire,
    Join,
    Reload,
    Reloaded,
    Serving,
    Start,
    Told,
    Watched,
    Wish,
    WorkerMemory,
)
from jackfield.errors import CrashLoopError, SettingsError, StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield._announcement import Announcement
    from jackfield._changes import Change
    from jackfield._workers.changes import Party
    from jackfield._workers.messages import Message, Question
    from jackfield.settings import ServerSettings

logger = logging.getLogger("jackfield")

#: Each is a whole server: a slip of the keyboard would take all memory.
_MOST_PER_CORE = 16
#: Deaths in a row before one worker has served that end the server.
_MOST_EARLY_DEATHS = 5
#: Deaths within so many seconds that end it, for each worker; those of workers that had served for
#: some time are not counted.
_MOST_DEATHS = 5
_WINDOW_S = 60.0
_STEADY_S = 10.0
#: Pause before a worker that died again is started: the first, and the longest, in seconds.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 300.0
#: Longest wait for all workers to say that they are not ready, and for one to answer, in seconds.
_TELL_S = 1.0
_ANSWER_S = 5.0
#: How long workers may take to end after `drain_timeout_s`, in seconds.
_END_S = 5.0
#: For how long a measured memory is given again, in seconds.
_MEMORY_S = 10.0


class Supervisor:
    """Runs several workers until it is told to stop.

    Args:
        models: What they serve, as `Server` takes it.
        settings: `workers` is a number of 1 or more.
        name: As `Server` takes it.
        plugins: As `Server` takes it.
        environ: As `Server` takes it.
        announce: Called once, when all workers serve.
        spreads: Whether the system spreads connections over sockets that share a port; where it
            does not, the workers accept from one socket.

    Raises:
        SettingsError: A port can't be listened on, or the system is not one that this works on.
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        settings: ServerSettings,
        name: str,
        plugins: Sequence[str] | None,
        environ: dict[str, str],
        announce: Callable[[Announcement, Sequence[WorkerMemory], Sequence[int]], None],
        spreads: bool = SPREADS,
    ) -> None:
        if os.name != "posix" or not sys.executable:
            problem = "several workers need a Unix system and a Python executable; use 1"
            raise SettingsError("workers", problem)
        assert isinstance(settings.workers, int)
        self._wanted = settings.workers
        if self._wanted > (most := _MOST_PER_CORE * (cores := available_cores())):
            problem = f"{self._wanted} workers for {cores} cores; at most {most}"
            raise SettingsError("workers", problem)
        self._announce = announce
        self._ports = _reserve(settings, spreads=spreads)
        self._folder = SharedFolder()
        self._changes = Changes()
        ports = {each.setting: each.port for each in self._ports}
        self._settings = msgspec.structs.replace(settings, **ports)
        self._start = Start(
            number=0,
            models=list(models),
            settings=self._settings,
            name=name,
            plugins=None if plugins is None else list(plugins),
            environ=environ,
            path=sys.path,
            listeners={
                each.setting: each.sock.fileno() for each in self._ports if each.is_inherited
            },
            is_late=False,
            folder=str(self._folder.path),
            standing=self._changes.standing,
        )
        #: By number: those that run, and those of them that take part in changes.
        self._children: dict[int, Child] = {}
        self._members: dict[int, Party] = {}
        self._departed = Departed()
        self._memory: tuple[float, list[WorkerMemory]] = (0.0, [])
        self._is_started = False
        self._restarts = 0
        self._early_deaths = 0
        self._deaths: deque[float] = deque()
        #: Starts in a row of a worker that ended before it served, by its number.
        self._failures: dict[int, int] = {}
        #: Set for a moment, to start at once what pauses.
        self._retry = asyncio.Event()
        #: Changes under way.
        self._making: set[asyncio.Task[str]] = set()
        #: What the watching worker has told of the models' files.
        self._watched: dict[str, str] | None = None
        #: Set when all models are to be loaded anew.
        self._hung_up = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGINT or SIGTERM; a second one hurries. SIGHUP reloads all models.

        Returns:
            The exit code: 0 after a stop that was asked for, in time.

        Raises:
            StartupError: The server can't start, or its workers die again and again.
        """
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        reloading = asyncio.create_task(self._reload_on_signals())
        keeping = [asyncio.create_task(self._keep(each)) for each in range(1, self._wanted + 1)]
        for task in keeping:
            task.add_done_callback(self._on_kept)
        try:
            await asyncio.shield(self._end)
            return await self._drain(keeping)
        except BaseException:
            self._kill_all()
            raise
        finally:
            for task in (*keeping, reloading):
                task.cancel()
            await asyncio.gather(*keeping, reloading, return_exceptions=True)
            for port in self._ports:
                port.close()
            self._folder.close()

    # ---- signals ----

    def _on_stop(self) -> None:
        if self._end.done():
            logger.warning("told to stop again: requests in flight are cut off")
            self._kill_all()
        else:
            self._end.set_result(None)

    async def _reload_on_signals(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()  # once more, where the signal comes again meanwhile
            logger.info("reloading all models")
            # whoever mended what keeps a worker from starting does not wait for its pause
            self._retry.set()
            self._retry.clear()
            await self._reload()

    async def _reload(self) -> None:
        for number in sorted(self._members):
            with contextlib.suppress(LostError, KeyError):  # it dies; the next one is asked
                answer = await self._children[number].channel.call(Reload())
                if isinstance(answer, Reloaded):
                    left = f"; failed: {answer.failed}" if answer.failed else ""
                    logger.info("reloaded all models in all workers%s", left)
                    return
        logger.error("nothing was reloaded: no worker serves")

    def _on_kept(self, task: asyncio.Task[None]) -> None:
        """End everything by what ends the care for one worker."""
        if not task.cancelled() and (error := task.exception()) and not self._end.done():
            self._end.set_exception(error)

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill()

    async def _drain(self, keeping: Sequence[asyncio.Task[None]]) -> int:
        """Take readiness down in all workers first; then let them answer what they hold."""
        logger.info("stopping %d workers", len(self._children))
        children = list(self._children.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TELL_S):
                await asyncio.gather(*(child.tell("the server stops") for child in children))
        stops = [asyncio.create_task(child.stop()) for child in children]
        _, late = await asyncio.wait(keeping, timeout=self._settings.drain_timeout_s + _END_S)
        if late:
            logger.error("%d workers did not end in time, and are killed", len(late))
            self._kill_all()
            await asyncio.wait(late)
        await asyncio.gather(*stops)
        was_clean = not late and all(child.was_clean for child in children)
        logger.info("stopped")
        return 0 if was_clean else 1

    # ---- one worker ----

    async def _keep(self, number: int) -> None:
        """Keep a worker running.

        Raises:
            CrashLoopError: Workers die again and again.
        """
        pause_s = 0.0
        while True:
            child = Child(
                number,
                standing=self._changes.standing,
                is_late=self._is_started,
                on_call=self._answer,
            )
            self._children[number] = child
            how = await self._run(child)
            if self._end.done():
                return
            self._bury(child)
            served_s = time.monotonic() - child.served_at if child.served_at else 0.0
            is_steady = served_s >= _STEADY_S
            pause_s = 0.0 if is_steady else min(_LONGEST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            before = "" if child.served_at else self._note_failure(number)
            logger.error("worker %d %s%s; started again in %g s", number, how, before, pause_s)
            if not is_steady and not child.is_excused:
                self._count_death(child, how)
            await self._pause(pause_s)
            if self._end.done():
                return
            self._restarts += 1

    def _note_failure(self, number: int) -> str:
        """Count a start that failed, for who watches the server; gives words for the log."""
        failures = self._failures[number] = self._failures.get(number, 0) + 1
        return " before it served" + (f", {failures} times in a row" if failures > 1 else "")

    async def _pause(self, pause_s: float) -> None:
        """Pause until a worker is to be started again, or all are to end."""

        async def until_retry() -> None:
            await self._retry.wait()

        retry = asyncio.create_task(until_retry())
        wanted = [self._end, retry]
        try:
            await asyncio.wait(wanted, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            retry.cancel()

    async def _run(self, child: Child) -> str:
        """Run a worker until its end; returns how it ended."""
        try:
            # one watches the models' files, and what it finds is changed in all
            is_watching = self._settings.watch and child.number == 1
            start = msgspec.structs.replace(
                self._start,
                number=child.number,
                settings=msgspec.structs.replace(self._settings, watch=is_watching),
                is_late=child.is_late,
                watched=self._watched if is_watching and child.is_late else None,
                standing=child.standing,
            )
            try:
                await child.start(start, timeout_s=self._settings.worker_timeout_s)
                if self._end.done():  # it was not told with the others
                    await child.stop()
            except LostError:
                pass
            except OSError as error:
                logger.error("worker %d can't be started: %s", child.number, error)
            return await child.end()
        except asyncio.CancelledError:
            child.kill()
            await child.end()
            raise
        finally:
            self._members.pop(child.number, None)

    def _bury(self, child: Child) -> None:
        """Keep what a dead worker had counted."""
        self._children.pop(child.number, None)
        self._departed.bury(child.number)

    def _count_death(self, child: Child, how: str) -> None:
        """Count the death of a worker that did not serve for long.

        Raises:
            CrashLoopError: It was one too many.
        """
        if not child.served_at and not any(each.is_serving for each in self._children.values()):
            self._early_deaths += 1
        if self._early_deaths >= _MOST_EARLY_DEATHS:
            message = (
                f"{self._early_deaths} workers in a row ended before they served; the last one "
                f"{how}; the log tells more"
            )
            raise CrashLoopError(message)
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _WINDOW_S:
            self._deaths.popleft()
        if len(self._deaths) >= _MOST_DEATHS * self._wanted:
            message = (
                f"workers died {len(self._deaths)} times within {_WINDOW_S:g} s, each soon after "
                f"its start; the last one {how}; the log tells more"
            )
            raise CrashLoopError(message)

    # ---- what workers ask ----

    async def _answer(self, child: Child, message: Message) -> Message:
        match message:
            case Join(ready):
                return await self._admit(child, ready)
            case Serving(announcement):
                await self._note_serving(child, announcement)
            case CannotStart(problem):
                # where others serve, it may be mended while they do
                child.is_excused = any(each.is_serving for each in self._children.values())
                if self._is_started:
                    logger.error("worker %d can't start: %s", child.number, problem)
                elif not self._end.done():
                    self._end.set_exception(StartupError(problem))
            case Wish(number, change):
                # the one that asks may die: what the others hold is to be ended all the same
                making = asyncio.create_task(self._make(change, child, number))
                self._making.add(making)
                making.add_done_callback(self._making.discard)
                return Done(await asyncio.shield(making))
            case Watched(told):
                self._watched = told
            case Inquire(question):
                return await self._gather(question)
            case _:
                return Done(f"a supervisor is not asked for {type(message).__name__}")
        return Done()

    async def _admit(self, child: Child, ready: Sequence[tuple[str, str]]) -> Message:
        """Take a worker among those that take part in changes, with what it has missed."""
        async with self._changes.stopped():
            elsewhere = await self._ready_elsewhere(child) if child.is_late else set()
            if missing := sorted(elsewhere - {*ready}):
                names = ", ".join(label_model(*each) for each in missing)
                problem = f"it can't load what others serve: {names}"
                return Admission([], problem)
            self._members[child.number] = child
            return Admission(changes_between(child.standing, self._changes.standing))

    async def _ready_elsewhere(self, child: Child) -> set[tuple[str, str]]:
        """List what another worker serves, and nobody has changed since this one started."""
        before, now = child.standing.models, self._changes.standing.models
        for number in sorted(self._members):
            told = await self._ask(self._children[number], AskReady())
            if told is not None and told.answer:
                ready = msgspec.msgpack.decode(told.answer, type=list[tuple[str, str]])
                return {key for key in ready if now.get(key[0]) == before.get(key[0])}
        return set()

    async def _note_serving(self, child: Child, announcement: Announcement) -> None:
        child.begin_to_serve()
        self._early_deaths = 0
        self._failures.pop(child.number, None)
        if self._is_started:
            logger.info("worker %d serves again", child.number)
            await child.tell("")
            return
        serving = [each for each in self._children.values() if each.is_serving]
        if len(serving) == self._wanted:
            self._is_started = True
            await asyncio.gather(*(each.tell("") for each in serving))
            memory = await self._measure()
            pids = [self._children[number].pid for number in sorted(self._children)]
            self._announce(announcement, memory, pids)

    async def _make(self, change: Change, child: Child, wish: int) -> str:
        problem = await self._changes.make(change, self._members, first=child, wish=wish)
        if not problem and isinstance(change, LoadModel | UnloadModel):
            self._departed.forget(change.name)
        return problem

    async def _gather(self, question: Question) -> Gathered:
        """Ask all workers that callers reach.

        Those that take part in changes, and at the first start those that load their models.
        """
        members = [
            child
            for number, child in sorted(self._children.items())
            if number in self._members or not child.is_late
        ]
        told = await asyncio.gather(*(self._ask(each, question) for each in members))
        # what the others told last is among the departed's by now
        here = [
            (child, answer)
            for child, answer in zip(members, told, strict=True)
            if self._children.get(child.number) is child
        ]
        answers = [answer for _, answer in here if answer is not None]
        departed = self._departed.answers(question)
        if type(question) in KEPT:
            answers = [self._departed.keep(each, question) for each in answers]
            # those that die right now are not buried yet
            departed += [
                self._departed.keep(Answer(child.number, b""), question)
                for child, answer in here
                if answer is None
            ]
        return Gathered(
            answers,
            [each for each in departed if each.answer],
            serving=sum(each.is_serving for each in self._children.values()),
            failing=len(self._failures),
            wanted=self._wanted,
            restarts=self._restarts,
            memory=await self._measure() if type(question) in KEPT else [],
        )

    async def _ask(self, child: Child, question: Question) -> Answer | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await child.channel.call(Ask(question))
        except LostError:
            return None
        except TimeoutError:
            return Answer(child.number, b"")
        if isinstance(answer, Told):
            return Answer(child.number, answer.answer)
        # one that begins to start listens on no port yet
        return Answer(child.number, b"") if child.number in self._members else None

    async def _measure(self) -> list[WorkerMemory]:
        measured_at, memory = self._memory
        pids = {each.number: each.pid for each in self._children.values() if each.is_serving}
        is_new = time.monotonic() - measured_at < _MEMORY_S
        if is_new and {each.worker for each in memory} == {*pids}:
            return memory
        sizes = await asyncio.gather(*(asyncio.to_thread(measure, pid) for pid in pids.values()))
        memory = [WorkerMemory(number, *size) for number, size in zip(pids, sizes, strict=True)]
        self._memory = time.monotonic(), memory
        return memory


def _reserve(settings: ServerSettings, *, spreads: bool) -> list[Reservation]:
    """Reserve all ports, or none.

    Raises:
        SettingsError: One can't be listened on.
    """
    ports = ["http_port", "grpc_port"]
    if settings.metrics_endpoint:
        ports.append("metrics_port")
    with contextlib.ExitStack() as kept:
        found = []
        for setting in ports:
            # gRPC takes no listening socket: it shares the port whether it is spread or not
            is_inherited = not spreads and setting != "grpc_port"
            port = Reservation(
                settings.host, getattr(settings, setting), setting, is_inherited=is_inherited
            )
            kept.callback(port.close)
            found.append(port)
        kept.pop_all()
    return found
