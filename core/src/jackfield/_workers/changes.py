"""A change is made in all workers or in none, and a worker that comes later has it, too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from jackfield._changes import (
    Change,
    LoadModel,
    Register,
    SetLog,
    SetTraces,
    UnloadModel,
    Unregister,
)
from jackfield._workers.messages import Asked, Standing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Party(Protocol):
    """A worker, as a change sees it."""

    @property
    def number(self) -> int:
        """Its number."""

    async def prepare(self, number: int, change: Change, wish: int, *, is_last: bool) -> str | None:
        """Do all of a change that can fail; returns why it did, empty if it didn't.

        None asks to do it after the others, with `is_last`.
        """

    async def commit(self, number: int) -> None:
        """Make it; a worker that can't is ended, so that none differs from the others."""

    async def abort(self, number: int) -> None:
        """Leave all as it was."""

    async def give_up(self, name: str) -> None:
        """Give up a load of a model whose environment is being made."""


class Changes:
    """Makes changes, one of each model at a time, and keeps what they have come to."""

    def __init__(self) -> None:
        self.standing = Standing()
        self._numbers = itertools.count(1)
        # kept while somebody holds it or waits: names come from callers
        self._locks: weakref.WeakValueDictionary[object, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        #: Unloads that wait for a load of the same model, by its name.
        self._unloads: Counter[str] = Counter()
        self._gate = _Gate()

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Keep all changes waiting, once those under way are made."""
        async with self._gate.alone():
            yield

    async def make(
        self,
        change: Change,
        members: dict[int, Party],
        *,
        first: Party,
        wish: int = 0,
    ) -> str:
        """Make a change in all workers, or in none.

        One worker prepares it before the others: what kills a worker does not kill them all.

        Args:
            change: What to make.
            members: The workers that there are; read when the change's turn has come.
            first: The worker that a caller asked.
            wish: The number that it gave the change.

        Returns:
            Why it was not made; empty if it was.
        """
        async with self._turn(change, members):
            number = next(self._numbers)
            # a worker that comes needs to know what was decided, not wait until it is done: what is
            # unloaded answers its last requests first
            async with self._gate.shared():
                problem, prepared = await self._prepare(number, change, members, first, wish)
                if not problem:
                    # from here on it is made: a worker that dies now has it when it is born again
                    self.standing = _after(self.standing, change, number)
            await asyncio.gather(
                *(each.abort(number) if problem else each.commit(number) for each in prepared)
            )
            return problem

    @contextlib.asynccontextmanager
    async def _turn(self, change: Change, members: dict[int, Party]) -> AsyncIterator[None]:
        """Wait until no other change of the same is under way.

        A load may make an environment for minutes: an unload has it given up.
        """
        lock = self._locks.setdefault(_key(change), asyncio.Lock())
        if not isinstance(change, UnloadModel) or not lock.locked():
            async with lock:
                yield
            return
        self._unloads[change.name] += 1
        try:
            await asyncio.gather(*(each.give_up(change.name) for each in [*members.values()]))
            await lock.acquire()
        finally:
            self._unloads -= Counter([change.name])  # those at zero are forgotten
        try:
            yield
        finally:
            lock.release()

    async def _prepare(
        self,
        number: int,
        change: Change,
        members: dict[int, Party],
        first: Party,
        wish: int,
    ) -> tuple[str, list[Party]]:
        """Have all prepare a change; tells why one can't, and those that can."""
        parties = list(members.values())
        if first not in parties:
            return "the server is starting, and changes nothing before", []
        if isinstance(change, LoadModel) and change.name in self._unloads:
            return "given up, since the model is unloaded", []
        rest = [each for each in parties if each is not first]
        prepared: list[Party] = []
        later: list[Party] = []
        problem = ""
        for group in ([first], rest, later):
            found = await asyncio.gather(
                *(
                    each.prepare(
                        number, change, wish if each is first else 0, is_last=group is later
                    )
                    for each in group
                )
            )
            for each, why in zip([*group], found, strict=True):
                if why is None:
                    later.append(each)
                elif not why:
                    prepared.append(each)
                elif not problem:
                    problem = why if each is first else f"worker {each.number}: {why}"
            if problem:
                break
        return problem, prepared


def _key(change: Change) -> object:
    """Name what a change is of."""
    match change:
        case LoadModel(name) | UnloadModel(name):
            return "model", name
        case SetTraces() | SetLog():
            return type(change)
        case Register() | Unregister():
            return Register


def _after(standing: Standing, change: Change, number: int) -> Standing:
    """Tell what callers have changed, one change later."""
    models, traces, log, regions = (
        dict(standing.models),
        dict(standing.traces),
        standing.log,
        dict(standing.regions),
    )
    match change:
        case LoadModel(name, parameters):
            models[name] = Asked(parameters, number)
        case UnloadModel(name):
            models[name] = Asked(None, number)
        case SetTraces(model, settings):
            traces[model] = {**traces.get(model, {}), **settings}
        case SetLog(settings):
            log = {**log, **settings}
        case Register(name):
            regions[name] = change
        case Unregister(""):
            regions = {}
        case Unregister(name):
            regions.pop(name, None)
    return Standing(models, traces, log, regions)


def changes_between(before: Standing, after: Standing) -> list[Change]:
    """List what has to be changed where `before` holds, so that `after` does."""
    changes: list[Change] = []
    for name, asked in after.models.items():
        if asked != before.models.get(name):
            is_gone = asked.parameters is None
            changes.append(
                UnloadModel(name) if is_gone else LoadModel(name, asked.parameters or {})
            )
    changes += [
        SetTraces(model, settings)
        for model, settings in after.traces.items()
        if settings != before.traces.get(model)
    ]
    if after.log != before.log:
        changes.append(SetLog(after.log))
    changes += [
        Unregister(name)
        for name, region in before.regions.items()
        if region != after.regions.get(name)
    ]
    changes += [
        region for name, region in after.regions.items() if region != before.regions.get(name)
    ]
    return changes


def settings_of(standing: Standing) -> Sequence[Change]:
    """List what is no load: what a new worker has to do once its models were tried."""
    return changes_between(Standing(models=standing.models), standing)


def asked_of(standing: Standing) -> dict[str, dict[str, Any] | None]:
    """Give what was asked of each model, as `Models.start` takes it."""
    return {name: asked.parameters for name, asked in standing.models.items()}


def is_encodable(change: Change) -> bool:
    """Tell whether a change can be sent: callers may give numbers of any size."""
    try:
        msgspec.msgpack.encode(change)
    except (msgspec.MsgspecError, OverflowError, TypeError, ValueError, RecursionError):
        return False
    return True


class _Gate:
    """Many may pass at a time, or one that wants to be alone; it goes before those who come."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0
        self._is_taken = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_taken and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._is_taken and not self._inside)
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            self._is_taken = True
        try:
            yield
        finally:
            async with self._changed:
                self._is_taken = False
                self._changed.notify_all()
