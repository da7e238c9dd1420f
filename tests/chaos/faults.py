"""What the chaos run does to a server, drawn from a seed, and what each of it may cost callers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
from tests.serving import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chaos.processes import Processes
    from tests.serving import Served

#: How long after a process was killed a call on one of its connections may still be lost, in
#: seconds: the callers hear of the end when they next look.
AFTERMATH_S = 0.25
#: Longest wait until what was broken serves again.
RECOVERY_S = 60.0
POISON = -1.0
#: How often the same poison is sent; the server may compute it twice in each worker.
DOSES = 6
#: The supervisor gives up where workers die often: so many at most are killed within a minute.
MOST_KILLS = 7
MINUTE_S = 60.0
#: A host process that served for so long has no deaths in a row any more; seconds, and some.
STEADY_S = 12.0
#: Mean pause between two faults, in seconds.
PAUSE_S = 1.0
#: Within so many seconds from its beginning a load is under way.
LOADING_S = 0.3


#: The kinds that kill a host process by what it computes, and those that kill workers.
CHANGE_AND_KILL = "change a file that is watched, and kill a worker"
POISONING = ("send poison", "send the same poison again")
KILLING = (
    "kill a worker",
    "kill all workers",
    "hang a worker",
    "reload, and kill a worker",
    CHANGE_AND_KILL,
)


@dataclass
class Fault:
    """Something that was done, from its beginning until all serves again."""

    kind: str
    began: float
    #: Models whose calls may fail; None is all.
    models: frozenset[str] | None = frozenset()
    #: How they may: outcomes of `traffic.Line`.
    outcomes: frozenset[str] = frozenset()
    #: When the harm was done: a call that is sent later waits, and does not fail.
    done: float = 0.0
    ended: float = float("inf")
    #: Calls that failed by it.
    cost: int = 0
    note: str = ""
    #: Workers that it kills.
    kills: int = 0

    def explains(self, model: str, outcome: str, sent: float, ended: float) -> bool:
        """Tell whether a call that was under way then may have failed by this."""
        return (
            (self.models is None or model in self.models)
            and outcome in self.outcomes
            and sent <= self.done + AFTERMATH_S
            and ended >= self.began
        )


@dataclass
class Generations:
    """What a model that is reloaded may answer, and when."""

    #: When a load was asked for, when it was answered (infinite: it failed or its answer was lost,
    #: so that either generation may serve until the next success), and the generation.
    changes: list[tuple[float, float, float]] = field(default_factory=list)

    def may_be(self, generation: float, sent: float, ended: float) -> bool:
        """Tell whether a call may have met this generation."""
        certain = [each for each in self.changes if each[1] <= sent]
        # the last that was certain when the call was sent, and all that were begun until its end
        since = max((each[0] for each in certain), default=0.0)
        return any(
            since <= began <= ended and generation == value for began, _, value in self.changes
        )


class Injector:
    """Does one thing after the other to a running server.

    Args:
        served: The server.
        folder: Where its models lie.
        processes: Its processes.
        seed: Decides what comes when.
        watches: Whether it watches the models' files.
        only: A text that what is done has in its name; all, where it is empty.
    """

    def __init__(
        self,
        served: Served,
        folder: Path,
        processes: Processes,
        *,
        seed: int,
        watches: bool,
        only: str = "",
    ) -> None:
        self._url = served.http
        self._metrics_url = served.metrics
        self._folder = folder
        self._processes = processes
        self._random = random.Random(seed)
        self.faults: list[Fault] = []
        self.generations = {"changing": Generations([(0.0, 0.0, 0.0)])}
        self._generation = 0.0
        self._kinds: dict[str, tuple[int, Callable[[], Iterator[Fault]]]] = {
            "kill a worker": (2, self._kill_worker),
            "kill all workers": (1, self._kill_all),
            "hang a worker": (1, self._hang_worker),
            "stop a worker for a while": (1, self._pause_worker),
            "kill a host process": (4, self._kill_host),
            "stop a host process for a while": (1, self._pause_host),
            "send poison": (2, self._poison),
            "send the same poison again": (1, self._poison_again),
            "reload": (5, self._reload),
            "reload, and kill a worker": (2, self._reload_and_kill_worker),
            "reload, and kill a host process": (2, self._reload_and_kill_host),
            "reload what can't be loaded": (3, self._reload_broken),
            "unload and load": (3, self._unload),
            "reload all by SIGHUP": (1, self._hang_up),
        }
        if watches:
            self._kinds["change a file that is watched"] = (4, self._change_file)
            self._kinds[CHANGE_AND_KILL] = (2, self._change_file_and_kill_worker)
        self._kinds = {kind: what for kind, what in self._kinds.items() if only in kind}

    def run(self, seconds: float, *, on_fault: Callable[[Fault], None]) -> None:
        """Inject until the time is over; returns when all serves again."""
        ends = time.monotonic() + seconds
        pending: list[str] = []
        while time.monotonic() < ends:
            time.sleep(
                min(self._random.expovariate(1 / PAUSE_S), max(0.0, ends - time.monotonic()))
            )
            if not pending:  # each kind in turn, as often as its weight, in an order that is drawn
                pending = [kind for kind, (weight, _) in self._kinds.items() for _ in range(weight)]
                self._random.shuffle(pending)
            kind = pending.pop()
            if self._is_too_early(kind):
                pending.insert(0, kind)
                continue
            for fault in self._kinds[kind][1]():
                on_fault(fault)

    def _is_too_early(self, kind: str) -> bool:
        """Tell whether the server would rightly take it for a crash loop, and refuse calls."""
        now = time.monotonic()
        if kind in KILLING:
            killed = sum(fault.kills for fault in self.faults if fault.began >= now - MINUTE_S)
            return killed > MOST_KILLS - 2
        last = max((fault.ended for fault in self.faults if fault.kind in POISONING), default=0.0)
        return kind in POISONING and now - last < STEADY_S

    def _begin(
        self, kind: str, models: frozenset[str] | None = frozenset(), *outcomes: str, note: str = ""
    ) -> Fault:
        """Note a fault; `done` has to be set where the harm takes its time."""
        now = time.monotonic()
        fault = Fault(kind, now, models, frozenset(outcomes), done=now, note=note)
        self.faults.append(fault)
        return fault

    def _end(self, fault: Fault, is_over: Callable[[], bool]) -> None:
        wait_until(is_over, f"recovery after: {fault.kind} {fault.note}", timeout_s=RECOVERY_S)
        fault.ended = time.monotonic()

    def _is_ready(self) -> bool:
        """Ask on new connections, which reach any worker: several times."""
        try:
            return all(
                httpx.get(f"{self._url}/v2/health/ready", timeout=10).status_code == 200
                for _ in range(6)
            )
        except httpx.TransportError:
            return False

    def _kill(self, pid: int) -> None:
        # it may have ended by itself
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # ---- workers ----

    def _kill_worker(self) -> Iterator[Fault]:
        workers = self._processes.workers()
        pid = self._random.choice(workers)
        # what it held is lost, and its hosts go with it; the others answer all the same
        fault = self._begin("kill a worker", None, "lost", note=str(pid))
        fault.kills = 1
        self._kill(pid)
        self._end(fault, lambda: self._are_replaced(workers, {pid}))
        yield fault

    def _kill_all(self) -> Iterator[Fault]:
        workers = self._processes.workers()
        # nobody listens until one is there again
        fault = self._begin("kill all workers", None, "lost")
        fault.kills = len(workers)
        fault.done = float("inf")
        for pid in workers:
            self._kill(pid)
        self._end(fault, lambda: self._are_replaced(workers, set(workers)))
        fault.done = fault.ended
        yield fault

    def _hang_worker(self) -> Iterator[Fault]:
        workers = self._processes.workers()
        pid = self._random.choice(workers)
        # the system gives it connections until it is killed
        fault = self._begin("hang a worker", None, "lost", note=str(pid))
        fault.kills = 1
        fault.done = float("inf")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: pid not in self._processes.workers(), "the end of a worker that hangs")
        fault.done = time.monotonic()
        self._end(fault, lambda: self._are_replaced(workers, {pid}))
        yield fault

    def _pause_worker(self) -> Iterator[Fault]:
        pid = self._random.choice(self._processes.workers())
        # calls wait; none fails
        yield self._pause("stop a worker for a while", pid)

    def _are_replaced(self, before: list[int], gone: set[int]) -> bool:
        now = set(self._processes.workers())
        return not now & gone and len(now) == len(before) == self._serving() and self._is_ready()

    def _serving(self) -> int:
        """Ask how many workers serve; 0 where nobody answers."""
        try:
            text = httpx.get(self._metrics_url, timeout=10).text
        except httpx.TransportError:
            return 0
        found = re.search(r'^jackfield_workers\{state="serving"\} (\d+)', text, re.MULTILINE)
        return int(found[1]) if found else 0

    # ---- host processes ----

    def _kill_host(self) -> Iterator[Fault]:
        hosts = self._processes.hosts()
        if not hosts:
            return
        pid = self._random.choice(sorted(hosts))
        fault = self._begin("kill a host process", hosts[pid], "refused", note=str(pid))
        self._kill(pid)
        self._end(
            fault,
            lambda: (
                len(self._processes.hosts()) >= len(hosts)
                and pid not in self._processes.hosts()
                and self._is_ready()
            ),
        )
        yield fault

    def _pause_host(self) -> Iterator[Fault]:
        if hosts := sorted(self._processes.hosts()):
            yield self._pause("stop a host process for a while", self._random.choice(hosts))

    def _pause(self, kind: str, pid: int) -> Fault:
        fault = self._begin(kind, note=str(pid))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        self._end(fault, self._is_ready)
        return fault

    def _poison(self) -> Iterator[Fault]:
        yield self._send_poison("send poison", self._random.random())[0]

    def _poison_again(self) -> Iterator[Fault]:
        salt = self._random.random()
        statuses = []
        for _ in range(DOSES):
            fault, status = self._send_poison("send the same poison again", salt)
            statuses.append(status)
            yield fault
        assert 500 in statuses, f"the same poison was taken again and again: {statuses}"

    def _send_poison(self, kind: str, salt: float) -> tuple[Fault, int]:
        rows = [POISON, salt]
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": rows}]}
        fault = self._begin(kind, frozenset(["fragile"]), "refused")
        fault.done = float("inf")  # it may wait before it kills
        answer = httpx.post(f"{self._url}/v2/models/fragile/infer", json=body, timeout=60)
        fault.done = time.monotonic()
        fault.note = f"answered {answer.status_code}"
        assert answer.status_code >= 400, f"poison was answered: {answer.text}"
        self._end(fault, self._is_ready)
        return fault, answer.status_code

    # ---- changes ----

    def _write_generation(self, text: str) -> None:
        file = self._folder / "changing" / "generation"
        new = file.with_suffix(".new")
        new.write_text(text)
        new.replace(file)

    def _manage(self, verb: str, model: str) -> int:
        """Load or unload; 0 where the answer was lost."""
        try:
            return httpx.post(
                f"{self._url}/v2/repository/models/{model}/{verb}", json={}, timeout=60
            ).status_code
        except httpx.TransportError:
            return 0

    def _reload(self) -> Iterator[Fault]:
        fault = self._begin("reload")
        status = self._load_next(fault)
        # an answer other than 200 is a failure of ours: nothing else was wrong
        assert status == 200, f"a reload was answered {status}"
        self._end(fault, self._is_ready)
        yield fault

    def _load_next(self, fault: Fault) -> int:
        """Write the next generation, with settings of its own, and have it loaded."""
        self._generation += 1
        fault.note = f"generation {self._generation:g}"
        began = time.monotonic()
        self._write_settings(max_batch_size=self._random.choice([1, 8, 64]))
        self._write_generation(str(self._generation))
        status = self._manage("load", "changing")
        # else either may serve, as a worker that is started anew has what lies on the disk
        certain = time.monotonic() if status == 200 else float("inf")
        self.generations["changing"].changes.append((began, certain, self._generation))
        return status

    def _write_settings(self, **changed: object) -> None:
        file = self._folder / "changing" / "model-settings.json"
        new = file.with_suffix(".new")
        new.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
        new.replace(file)

    def _reload_and_kill_worker(self) -> Iterator[Fault]:
        workers = self._processes.workers()
        pid = self._random.choice(workers)
        fault = self._begin("reload, and kill a worker", None, "lost")
        fault.kills = 1
        fault.done = float("inf")
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(self._load_next, fault)
            time.sleep(self._random.random() * LOADING_S)
            self._kill(pid)
            fault.done = time.monotonic()
            status = loading.result()
        fault.note += f", answered {status}"
        self._end(fault, lambda: self._are_replaced(workers, {pid}))
        yield fault
        yield from self._reload()

    def _reload_and_kill_host(self) -> Iterator[Fault]:
        """Kill a process of a model that is loaded anew: the old one's, or the new one's."""
        models = frozenset(["hosted", "caller"])
        fault = self._begin("reload, and kill a host process", models, "refused")
        fault.done = float("inf")
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(self._manage, "load", "hosted")
            time.sleep(self._random.random() * LOADING_S)
            pids = [pid for pid, held in self._processes.hosts().items() if held == models]
            self._kill(self._random.choice(sorted(pids)))
            fault.done = time.monotonic()
            fault.note = f"answered {loading.result()}"
        self._end(fault, self._is_ready)
        yield fault
        status = self._manage("load", "hosted")
        assert status == 200, f"a reload after a failed one was answered {status}"

    def _change_file(self) -> Iterator[Fault]:
        """Change what a model reads, and say nothing: all workers have to take it."""
        self._generation += 1
        fault = self._begin("change a file that is watched", note=f"{self._generation:g}")
        self._write_generation(str(self._generation))
        self._await_generation(fault)
        yield fault

    def _change_file_and_kill_worker(self) -> Iterator[Fault]:
        """Kill one when it may have heard of a change already, or not."""
        workers = self._processes.workers()
        self._generation += 1
        fault = self._begin(CHANGE_AND_KILL, None, "lost", note=f"{self._generation:g}")
        fault.kills, fault.done = 1, float("inf")
        self._write_generation(str(self._generation))
        time.sleep(self._random.random() * 2 * LOADING_S)
        pid = self._random.choice(workers)
        self._kill(pid)
        fault.done = time.monotonic()
        wait_until(lambda: self._are_replaced(workers, {pid}), "a new worker", timeout_s=RECOVERY_S)
        self._await_generation(fault)
        yield fault

    def _await_generation(self, fault: Fault) -> None:
        """Wait until all workers serve the last generation."""
        changes = self.generations["changing"].changes
        changes.append((fault.began, float("inf"), self._generation))
        self._end(fault, lambda: self._ask_generations() == {self._generation})
        changes[-1] = (fault.began, fault.ended, self._generation)

    def _ask_generations(self) -> set[float]:
        """Ask on new connections which generations serve."""
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}
        url = f"{self._url}/v2/models/changing/infer"
        answers = [httpx.post(url, json=body, timeout=10) for _ in range(8)]
        return {each.raise_for_status().json()["outputs"][0]["data"][0] for each in answers}

    def _reload_broken(self) -> Iterator[Fault]:
        self._write_generation("none")
        fault = self._begin("reload what can't be loaded")
        status = self._manage("load", "changing")
        fault.note = f"answered {status}"
        assert status >= 400, f"a model that can't be loaded was loaded: {status}"
        self._write_generation(str(self._generation))
        self._end(fault, self._is_ready)
        yield fault

    def _unload(self) -> Iterator[Fault]:
        model = self._random.choice(["plain", "hosted", "pair-a"])
        affected = {model, "caller"} if model == "hosted" else {model}
        fault = self._begin("unload and load", frozenset(affected), "refused", note=model)
        fault.done = float("inf")
        for verb in ("unload", "load"):
            status = self._manage(verb, model)
            assert status == 200, f"{verb} of '{model}' was answered {status}"
        fault.done = time.monotonic()
        self._end(fault, self._is_ready)
        yield fault

    def _hang_up(self) -> Iterator[Fault]:
        fault = self._begin("reload all by SIGHUP")
        os.kill(self._processes.supervisor, signal.SIGHUP)
        self._end(fault, self._is_ready)
        yield fault
