"""A host on the server's side: one child process, its calls, and what happens when it dies.

Several models may live in one. A process that dies fails what it holds at once, and is started
again with all its models, with a growing pause if it keeps dying.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING

from jackfield._label import label_model
from jackfield._process.callbacks import PeerAnswers
from jackfield._process.child import Child
from jackfield._process.errors import restore_failure
from jackfield._process.frames import FrameError, encode
from jackfield._process.link import Link
from jackfield._process.log import model_log_level
from jackfield._process.messages import (
    Answer,
    Begin,
    Cancel,
    Counted,
    Ended,
    Failed,
    Loaded,
    LoadFailed,
    Refused,
    Resolved,
    SetLogLevel,
    Unload,
    Unloaded,
    describe_request,
)
from jackfield._process.routes import RouteCalls
from jackfield._process.suspects import digest_of
from jackfield.errors import (
    InvalidRequestError,
    ModelLoadError,
    ProcessDiedError,
)
from jackfield.messages import InferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jackfield._environments import Environment
    from jackfield._process.frames import Buffer, Payload
    from jackfield._process.messages import Load, Message, Resolve
    from jackfield._process.proxy import ProcessRuntime
    from jackfield._process.routes import Home, RouteCall
    from jackfield.messages import InferRequest
    from jackfield.tensor import Tensor

logger = logging.getLogger("jackfield")

#: Longest wait for a process to close its runtimes and end, in seconds.
CLOSE_TIMEOUT_S = 10.0
#: Pause before a process that died again is started: the first, and the longest, in seconds.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
#: One that served for so long, in seconds, is started again without a pause.
_STEADY_S = 10.0
#: Deaths in a row after which no request waits for the next start.
_PATIENCE = 3
#: Deaths while a model loaded after which a process that has others does without it.
_FATAL_LOADS = 2
#: How often a thread that waits for the loop looks whether there still is one, in seconds.
_LOOK_S = 1.0


class Pending:
    """A call that the process holds."""

    __slots__ = ("future", "is_suspect", "member", "number", "request")

    def __init__(
        self,
        number: int,
        member: ProcessRuntime,
        request: InferRequest,
        future: asyncio.Future[InferResponse | None],
        *,
        is_suspect: bool,
    ) -> None:
        self.number = number
        self.member = member
        self.request = request
        #: Of the next response; None ends a stream.
        self.future = future
        #: Whether it was under way when the process died before.
        self.is_suspect = is_suspect


class Host:
    """A child process and the models in it; made by `Hosts`.

    What has no other note is called on the loop. How many requests are under way at once is for the
    models' schedulers to bound: each is held here until it is answered.

    Args:
        loop: Where its models are called.
        title: Of the process, for who lists processes.
        environment: Its interpreter and packages; None for the server's.
        close_timeout_s: Longest wait for the process to end by itself, in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        title: str,
        environment: Environment | None = None,
        *,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self.loop = loop
        self.environment = environment
        self._title = title
        self._close_timeout_s = close_timeout_s
        #: Models that are loaded or loading there, by the number that stands for each.
        self.members: dict[int, ProcessRuntime] = {}
        #: Who holds it, by name and version; it is closed with the last one. `Hosts` counts.
        self.tenants: list[tuple[str, str]] = []
        #: Whether it died so often that no request waits for it.
        self.is_crashing = False
        self._link: Link | None = None
        #: What its models ask of others, and what their own paths are asked; of this process.
        self._peers: PeerAnswers | None = None
        self.routes: RouteCalls | None = None
        self._log_level = logging.NOTSET
        self._calls: dict[int, Pending] = {}
        self._numbers = itertools.count(1)
        self._model_numbers = itertools.count(1)
        #: What the process was asked about a model, by its number; threads wait for the answers.
        self._asked: dict[int, Future[Message]] = {}
        #: Those that came when it had died, and how was not known yet.
        self._asked_late: list[Future[Message]] = []
        #: Dead processes of which that is not known yet.
        self._unburied = 0
        #: How the last one ended.
        self._ended = "its process ended"
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_reviving = False
        # what the threads share
        self._child: Child | None = None
        self._is_lost = False
        #: Held while the process is started.
        self._starting = threading.Lock()
        #: Held while a model is loaded: of one that dies meanwhile it is known which one it was.
        self._loading = threading.Lock()
        self._closing = threading.Event()
        # what the thread that starts it again remembers
        self._steady_from = 0.0
        self._deaths = 0

    @property
    def pid(self) -> int:
        """The number of its process, the last one if it died; 0 for none. For any thread."""
        return self._child.pid if self._child else 0

    @property
    def is_closed(self) -> bool:
        """Whether it ends for good. For any thread."""
        return self._closing.is_set()

    def new_model(self) -> int:
        """Get a number that stands for a model; for any thread."""
        return next(self._model_numbers)

    def facts(self) -> dict[str, str]:
        """Tell whose process it is, for the log; for any thread."""
        tenants = list(dict.fromkeys(self.tenants))
        version = tenants[0][1] if len(tenants) == 1 else ""
        return {"model": ", ".join(dict.fromkeys(name for name, _ in tenants)), "version": version}

    # ---- calls ----

    def begin(
        self, member: ProcessRuntime, request: InferRequest, *, is_stream: bool, is_suspect: bool
    ) -> Pending:
        """Send a request to the process, which is up.

        Raises:
            InvalidRequestError: It can't be passed on.
        """
        link = self._link
        assert link is not None, "a member that is up has a link"
        number = next(self._numbers)
        message = describe_request(number, member.number, request, is_stream=is_stream)
        try:
            frame = link.transport.encode(message, request.inputs)
        except FrameError as error:
            raise InvalidRequestError(
                "", expected="what can be passed to the model's process", found=str(error)
            ) from error
        if (level := model_log_level()) != self._log_level:
            self._log_level = level
            link.send(encode(SetLogLevel(level)))
        future = self.loop.create_future()
        pending = self._calls[number] = Pending(
            number, member, request, future, is_suspect=is_suspect
        )
        link.send(frame)
        return pending

    def go_on(self, pending: Pending) -> bool:
        """Wait for a stream's next response; False where its process is not the same any more."""
        if self._calls.setdefault(pending.number, pending) is not pending:
            return False
        pending.future = self.loop.create_future()
        return True

    def forget(self, pending: Pending) -> bool:
        """Drop a call; tells whether it was still to be answered."""
        return self._calls.pop(pending.number, None) is not None

    def cancel(self, pending: Pending) -> None:
        """Tell the process that nobody waits for a call, nor for what it asks for its sake."""
        if self._peers is not None:
            self._peers.leave(pending.number)
        self.tell(Cancel(pending.number))

    def tell(self, message: Message, tensors: Sequence[Tensor] = ()) -> None:
        """Send a message; nothing happens while the process is down.

        Raises:
            FrameError: It can't be written.
        """
        if self._link is not None:
            self._link.send(self._link.transport.encode(message, tensors))

    async def changed(self, until: float) -> None:
        """Wait until a model of it comes up, or something else happens to it.

        Args:
            until: When to give up, by the loop's clock.

        Raises:
            TimeoutError: Nothing happened.
        """
        future = self.loop.create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout_at(until):
                await future
        finally:
            self._waiting.discard(future)

    def tell_change(self) -> None:
        """Wake who waits in `changed`."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _on_frame(self, payload: Payload) -> None:
        assert self._link is not None, "a link that is closed reads nothing"
        message, tensors = self._link.transport.decode(payload)
        if isinstance(message, _ANSWERS) and (pending := self._calls.pop(message.call, None)):
            if not pending.future.done():  # else cancelled meanwhile
                _answer(pending, message, tensors)
        elif self._serve(message, tensors) or isinstance(message, _ANSWERS):  # that come late
            pass
        elif isinstance(message, Counted):
            if member := self.members.get(message.model):
                member.metrics.families = message.families
        elif isinstance(message, Loaded | LoadFailed | Resolved | Unloaded):
            if asked := self._asked.pop(message.model, None):
                asked.set_result(message)
        else:
            problem = f"it sent {type(message).__name__}, which is none of its own messages"
            raise FrameError(problem)

    def _serve(self, message: Message, tensors: Sequence[Tensor]) -> bool:
        """Do what the process asks for, or take what it answers at a path of its own."""
        assert self._peers is not None
        assert self.routes is not None
        return self._peers.handle(message, tensors) or self.routes.handle(message, tensors)

    # ---- what threads ask of the process ----

    def load(self, member: ProcessRuntime, message: Load) -> Loaded:
        """Have a model loaded, in a process that is started for it if there is none; in a thread.

        Raises:
            ModelLoadError: It can't be served, or the process died.
        """
        with self._loading:
            self._ensure_started()
            loaded = self._load(member, message)
            self._steady_from = monotonic()
            return loaded

    def _load(self, member: ProcessRuntime, message: Load) -> Loaded:
        self._on_loop(self._add, member)
        try:
            answer = self._ask(message.model, message)
            if not isinstance(answer, Loaded):
                raise ModelLoadError(_problem(answer))
        except BaseException:
            if not member.is_loaded:
                self._on_loop(self.members.pop, member.number, None)
            raise
        return answer

    def _add(self, member: ProcessRuntime) -> None:
        self.members[member.number] = member
        if self._peers is not None:
            self._peers.add(member.number, member.find_peer)

    def resolve(self, message: Resolve) -> Resolved:
        """Have a model's runtime found in the process's environment; in a thread.

        Raises:
            ModelLoadError: There is none, or the process died.
        """
        with self._loading:
            self._ensure_started()
            answer = self._ask(message.model, message)
        if not isinstance(answer, Resolved):
            raise ModelLoadError(_problem(answer))
        return answer

    def unload(self, member: ProcessRuntime) -> None:
        """Have a model closed, while the others stay; in a thread."""
        self._on_loop(self._drop, member)
        try:
            self._ask(member.number, Unload(member.number), timeout_s=self._close_timeout_s)
        except ProcessDiedError:
            pass  # it holds the model no more
        except TimeoutError:
            logger.warning(
                "%s: it was not closed within %g s; its process, which has other "
                "models, keeps what it holds",
                label_model(*member.facts),
                self._close_timeout_s,
            )

    def close(self) -> None:
        """End the process, when it has closed its models; in a thread."""
        self._closing.set()
        with self._starting:
            child = self._child
        if child is not None:
            child.stop(self._close_timeout_s)
        try:
            self.loop.call_soon_threadsafe(self._let_go)
        except RuntimeError:  # the loop is closed, and watches nothing any more
            if child is not None:
                child.sock.close()

    def _ensure_started(self) -> None:
        """Start the process where there is none; `_loading` is held."""
        with self._starting:
            if self._closing.is_set():
                problem = "it is unloaded"
                raise ModelLoadError(problem)
            if self._child is not None and not self._is_lost:
                return
            child = self._child = Child(self._title, self.facts, self.environment)
            self._is_lost = False
        if not self._on_loop(self._attach, child):
            child.end()
            child.sock.close()

    def _ask(self, model: int, message: Message, timeout_s: float | None = None) -> Message:
        """Ask about a model, and wait for the answer.

        Raises:
            ModelLoadError: The question can't be written, or the loop has ended.
            ProcessDiedError: The process died.
            TimeoutError: There was no answer within `timeout_s`.
        """
        answer: Future[Message] = Future()
        try:
            frame = encode(message)
        except FrameError as error:
            problem = f"its process can't be told what to load: {error}"
            raise ModelLoadError(problem) from error
        until = None if timeout_s is None else monotonic() + timeout_s
        if self._on_loop(self._begin_ask, model, frame, answer):
            while not self.loop.is_closed():
                left_s = _LOOK_S if until is None else min(_LOOK_S, until - monotonic())
                try:
                    return answer.result(left_s)
                except TimeoutError:
                    if until is not None and monotonic() >= until:
                        raise
        problem = "the server stops"
        raise ModelLoadError(problem)

    def _begin_ask(self, model: int, frame: Sequence[Buffer], answer: Future[Message]) -> None:
        if self._link is None:
            if self._unburied:
                self._asked_late.append(answer)
            else:
                _tell_death([answer], self._ended)
            return
        self._asked[model] = answer
        self._link.send(frame)

    def _on_loop(self, function: Callable[..., object], *args: object) -> bool:
        """Call a function on the loop, sometime; False if that is closed."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def _call_on_loop(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the loop, and wait until it is done."""
        done = threading.Event()

        def call() -> None:
            function(*args)
            done.set()

        if self._on_loop(call):
            while not done.wait(_LOOK_S) and not self.loop.is_closed():
                pass

    # ---- life and death of the process ----

    def _attach(self, child: Child) -> None:
        """Begin to talk with a process that was started."""
        self._link = Link(
            self.loop,
            child.sock,
            child.transport,
            on_frame=self._on_frame,
            on_lost=lambda problem: self._lose(child, problem),
        )
        self._link.open()
        self._peers = PeerAnswers(self.tell)
        self.routes = RouteCalls(self.tell, self._numbers, self._peers.leave)
        self._log_level = model_log_level()
        # the author's code imports what it would import in the server
        path = [] if self.environment else list(sys.path)
        self._link.send(encode(Begin(path, self._log_level)))

    def _let_go(self) -> None:
        """Stop to watch, when the process is gone for good."""
        if self._link is not None:
            self._link.close()
            self._link = None
        calls, asked = self._take()
        if routes := self._end_asking():
            routes.close("it is unloaded")
        for member in self.members.values():
            member.go_down("it is unloaded")
        for pending in calls:
            pending.member.fail(pending.future, "it is unloaded")
        for answer in asked:
            answer.set_exception(ProcessDiedError("it is unloaded"))
        self.tell_change()

    def _drop(self, member: ProcessRuntime) -> None:
        """Let go of one model; the others stay."""
        self.members.pop(member.number, None)
        if self._peers is not None:
            self._peers.remove(member.number)
        member.go_down("it is unloaded")
        for pending in [each for each in self._calls.values() if each.member is member]:
            del self._calls[pending.number]
            member.fail(pending.future, "it is unloaded")
        self.tell_change()

    def _take(self) -> tuple[list[Pending], list[Future[Message]]]:
        calls, asked = list(self._calls.values()), list(self._asked.values())
        self._calls.clear()
        self._asked.clear()
        return calls, asked

    def _end_asking(self) -> RouteCalls | None:
        """Cancel what the models asked; returns what is asked at paths of their own."""
        routes = self.routes
        if self._peers is not None:
            self._peers.close()
        self._peers = self.routes = None
        return routes

    def _lose(self, child: Child, problem: str) -> None:
        """Begin anew, in a thread of its own: the loop's threads may all be busy."""
        self._link = None
        self._is_lost = True
        if self._closing.is_set():
            # it closes its models before it ends: who closes it waits for that, and lets go then
            return
        self._unburied += 1
        routes = self._end_asking()
        for member in self.members.values():
            member.go_down("its process ended, and is started again")
        # one thread at a time starts it: that one finds out by itself if it dies again
        is_reviving, self._is_reviving = self._is_reviving, True
        args = (child, problem, *self._take(), routes)
        self._start_thread(self._bury if is_reviving else self._bury_and_revive, *args)

    def _start_thread(self, target: Callable[..., object], *args: object) -> None:
        name = f"jackfield-revive-{self._title}"
        threading.Thread(target=target, args=args, name=name, daemon=True).start()

    def _bury_and_revive(
        self,
        child: Child,
        problem: str,
        calls: Sequence[Pending],
        asked: Sequence[Future[Message]],
        routes: RouteCalls | None,
    ) -> None:
        self._revive(self._bury(child, problem, calls, asked, routes))

    def _bury(
        self,
        child: Child,
        problem: str,
        calls: Sequence[Pending],
        asked: Sequence[Future[Message]],
        routes: RouteCalls | None,
    ) -> str:
        """Find out how a process ended, and tell those who wait for it; in a thread."""
        how = child.end()
        reason = f"its process was ended: {problem}" if problem else f"its process {how}"
        if self._closing.is_set():
            reason = "it is unloaded"
        else:
            child.report(f"{reason} while it loaded" if asked else reason)
        _tell_death(asked, reason)
        # what sent no frames was killed here, for that
        is_own_doing = child.is_own_doing or bool(problem)
        self._on_loop(self._blame, calls, routes, reason, how, is_own_doing)
        return reason

    def _blame(
        self,
        calls: Sequence[Pending],
        routes: RouteCalls | None,
        reason: str,
        how: str,
        is_own_doing: bool,  # noqa: FBT001  called by the loop
    ) -> None:
        """Fail what the process held, and remember it: it may have died of that."""
        self._unburied -= 1
        self._ended = reason
        late, self._asked_late = self._asked_late, []
        _tell_death(late, reason)
        for member in self.members.values():
            if member.problem:
                member.go_down(reason)
        if not self._closing.is_set():
            _tell_suspects([*calls, *(routes.whole if routes else ())], how, is_own_doing)
        for pending in calls:
            pending.member.fail(pending.future, reason)
        if routes is not None:
            routes.close(reason)

    def _revive(self, reason: str) -> None:
        """Start a process until all its models serve; in a thread."""
        if monotonic() - self._steady_from >= _STEADY_S:
            self._deaths = 0
        while not self._closing.is_set() and (down := self._down()):
            pause = _pause(self._deaths)
            self._deaths += 1
            when = f"in {pause:g} s" if pause else "now"
            told = f"{reason}; it is started again {when}"
            if not self._on_loop(self._tell, down, told, self._deaths > _PATIENCE):
                return
            if self._closing.wait(pause):
                break
            for member in down:
                try:
                    self._load_again(member)
                except ModelLoadError as error:
                    reason = f"its process was started again, and failed: {error}"
                    if not self._closing.is_set():
                        logger.error("%s: %s", label_model(*member.facts), reason)
                    if isinstance(error, ProcessDiedError):
                        break
        self._on_loop(self._end_revival)

    def _down(self) -> list[ProcessRuntime]:
        """List the models that are to be loaded again; for any thread."""
        return [each for each in list(self.members.values()) if each.is_loaded and each.problem]

    def _load_again(self, member: ProcessRuntime) -> None:
        with self._loading:
            self._ensure_started()
            if member.number not in self.members:  # unloaded meanwhile
                return
            try:
                loaded = self._load(member, member.describe())
            except ProcessDiedError as error:
                member.fatal_loads += 1
                if member.fatal_loads >= _FATAL_LOADS and len(self.members) > 1:
                    # the others would die with it each time
                    self._call_on_loop(self._bench, member, str(error))
                raise
            member.fatal_loads = 0
            if not member.is_same(loaded):
                self._ask(member.number, Unload(member.number))
                problem = "what it takes and gives has changed on disk; load it anew"
                raise ModelLoadError(problem)
            self._steady_from = monotonic()
            self._call_on_loop(self._bring_up, member)

    def _bench(self, member: ProcessRuntime, problem: str) -> None:
        self.members.pop(member.number, None)
        member.go_down(
            f"{problem}; other models live in that process, which goes on without it: load it anew"
        )
        member.is_benched = True
        self.tell_change()

    def _bring_up(self, member: ProcessRuntime) -> None:
        # else it died just now, and is found among those that are down
        if self._link is not None and member.number in self.members:
            member.come_up()
            self.tell_change()

    def _tell(self, down: Sequence[ProcessRuntime], problem: str, is_crashing: bool) -> None:  # noqa: FBT001  called by the loop
        self.is_crashing = is_crashing
        for member in down:
            if member.problem:
                member.go_down(problem)
        self.tell_change()

    def _end_revival(self) -> None:
        self._is_reviving = self.is_crashing = False
        if self._link is None and not self._closing.is_set() and self._down():
            # it died after the thread had looked last
            self._is_reviving = True
            self._start_thread(self._revive, "its process ended")


# a tuple is looked through faster than a union
_ANSWERS = (Answer, Ended, Refused, Failed)


def _answer(pending: Pending, message: Message, tensors: Sequence[Tensor]) -> None:
    """Give a caller what the process sent for him."""
    future = pending.future
    if isinstance(message, Answer):
        future.set_result(InferResponse(tensors, message.parameters))
    elif isinstance(message, Ended):
        future.set_result(None)
    elif isinstance(message, Refused | Failed):
        future.set_exception(restore_failure(message, pending.member.facts))


def _tell_suspects(under_way: Sequence[Pending | RouteCall], how: str, is_own_doing: bool) -> None:  # noqa: FBT001  a fact of the death
    """Tell each model what of it was under way at a death."""
    suspects = {
        (each.member, digest_of(each.request)): each for each in under_way if each.is_suspect
    }
    by_member: dict[Home, list[InferRequest]] = {}
    for each in under_way:
        by_member.setdefault(each.member, []).append(each.request)
    for member, requests in by_member.items():
        # one alone, however often it was asked for at the same time
        only = [each.request for (whose, _), each in suspects.items() if whose is member]
        member.blame(
            requests,
            how,
            is_own_doing=is_own_doing,
            only_suspect=only[0] if only and len(suspects) == 1 else None,
        )


def _tell_death(asked: Sequence[Future[Message]], reason: str) -> None:
    for answer in asked:
        what = f"{reason} while it loaded; the log has what it printed last"
        answer.set_exception(ProcessDiedError(what))


def _problem(answer: Message) -> str:
    return answer.problem if isinstance(answer, LoadFailed) else "its process is confused"


def _pause(deaths: int) -> float:
    """Tell how long to wait after so many deaths in a row: not at all after the first."""
    return min(_FIRST_PAUSE_S * 2 ** (deaths - 1), _LONGEST_PAUSE_S) if deaths else 0.0
