"""All workers or none, whatever fails and whoever dies; and what several told, put together."""

import asyncio
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._changes import (
    LoadModel,
    Register,
    SetLog,
    SetTraces,
    UnloadModel,
    Unregister,
)
from jackfield._monitors import MonitorRecord, Verdict
from jackfield._process.messages import Family, Sample
from jackfield._statistics import ModelStatistics
from jackfield._workers.changes import Changes, changes_between, settings_of
from jackfield._workers.departed import Departed
from jackfield._workers.member import Member
from jackfield._workers.memory import measure
from jackfield._workers.merge import (
    Counted,
    merge_lines,
    merge_metrics,
    merge_monitors,
    merge_statistics,
)
from jackfield._workers.messages import Answer, AskMetrics, AskStatistics, Standing
from jackfield.errors import ModelNotFoundError


class Party:
    """A worker that keeps what was done, and fails or dies as it is told."""

    def __init__(self, number, fate="well"):
        self.number, self.fate = number, fate
        self.prepared, self.made, self.given_up = {}, [], []

    async def prepare(self, number, change, wish, *, is_last):
        await asyncio.sleep(0)
        if self.fate == "dies":
            return "it died while the change was prepared"
        if self.fate == "fails" or (self.fate == "fails if asked" and wish):
            return "no"
        self.prepared[number] = change
        return ""

    async def commit(self, number):
        await asyncio.sleep(0)
        if self.fate != "dies at last":
            self.made.append(self.prepared.pop(number))

    async def abort(self, number):
        self.given_up.append(self.prepared.pop(number))

    async def give_up(self, name):
        pass


FATES = st.sampled_from(["well", "fails", "dies", "dies at last"])


@given(fates=st.lists(FATES, min_size=1, max_size=4), first=st.integers(0, 3))
def test_a_change_is_made_by_all_or_by_none(fates, first):
    parties = {number: Party(number, fate) for number, fate in enumerate(fates, 1)}
    asked = parties[first % len(fates) + 1]

    async def run():
        changes = Changes()
        problem = await changes.make(LoadModel("m"), parties, first=asked, wish=1)
        return problem, changes.standing

    problem, standing = asyncio.run(run())
    is_refused = bool({"fails", "dies"} & {*fates})
    assert bool(problem) == is_refused
    # one that dies after all agreed gets it when it is born again
    assert ("m" in standing.models) == (not is_refused)
    for party in parties.values():
        assert not (party.prepared and party.fate != "dies at last")
        assert len(party.made) == (not is_refused and party.fate == "well")


def test_what_fails_in_the_worker_that_was_asked_is_tried_in_no_other():
    asked, other = Party(1, "fails"), Party(2)
    problem = asyncio.run(Changes().make(LoadModel("m"), {2: other, 1: asked}, first=asked))
    assert problem == "no"
    assert not other.given_up


@pytest.mark.parametrize("asked", [1, 2])
def test_who_has_to_wait_for_another_is_asked_last(asked):
    order = []

    class Waits(Party):
        async def prepare(self, number, change, wish, *, is_last):
            order.append((self.number, is_last))
            if self.number != 2 and not is_last:
                return None
            return await super().prepare(number, change, wish, is_last=is_last)

    parties = {number: Waits(number) for number in (1, 2, 3)}
    assert asyncio.run(Changes().make(LoadModel("m"), parties, first=parties[asked])) == ""
    assert order.index((2, False)) < order.index((1, True)) < order.index((3, True))
    assert all(party.made for party in parties.values())


def test_a_worker_that_is_not_among_all_yet_changes_nothing():
    party = Party(1)
    assert "is starting" in asyncio.run(Changes().make(LoadModel("m"), {}, first=party))


def test_changes_of_a_model_wait_for_each_other_and_for_who_wants_to_be_alone(until):
    async def run():
        order, gate = [], asyncio.Event()

        class Slow(Party):
            async def prepare(self, number, change, wish, *, is_last):
                order.append(f"begin {getattr(change, 'name', 'all')}")
                if getattr(change, "name", "") == "slow":
                    await gate.wait()
                order.append(f"end {getattr(change, 'name', 'all')}")
                return "no"

        changes, parties = Changes(), {1: Slow(1)}

        async def alone():
            async with changes.stopped():
                order.append("alone")

        tasks = [
            asyncio.create_task(each)
            for each in (
                changes.make(LoadModel("slow"), parties, first=parties[1]),
                changes.make(UnloadModel("slow"), parties, first=parties[1]),
                changes.make(LoadModel("other"), parties, first=parties[1]),
            )
        ]
        await until(lambda: "end other" in order)
        tasks += [asyncio.create_task(alone())]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(changes.make(LoadModel("late"), parties, first=parties[1]))]
        gate.set()
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(run())
    assert order.index("end slow") < order.index("begin slow", 1)
    assert order.index("alone") < order.index("begin late")
    assert order.index("end other") < order.index("alone")


def test_an_unload_has_loads_given_up_that_came_before_it(until):
    async def run():
        begun, given_up = [], asyncio.Event()

        class Makes(Party):
            async def prepare(self, number, change, wish, *, is_last):
                if isinstance(change, LoadModel):
                    begun.append(change)
                    await given_up.wait()
                    return "given up"
                return await super().prepare(number, change, wish, is_last=is_last)

            async def give_up(self, name):
                assert name == "m"
                given_up.set()

        changes, party = Changes(), Makes(1)
        wishes = [LoadModel("m"), LoadModel("m"), UnloadModel("m")]
        tasks = [
            asyncio.create_task(changes.make(wish, {1: party}, first=party)) for wish in wishes
        ]
        problems = await asyncio.gather(*tasks)
        assert problems == ["given up", "given up, since the model is unloaded", ""]
        assert len(begun) == 1
        assert party.made == [UnloadModel("m")]
        # those that come later are made
        assert await changes.make(LoadModel("m"), {1: party}, first=party) == "given up"
        assert len(begun) == 2

    asyncio.run(run())


def test_what_is_decided_keeps_no_worker_from_coming_while_old_requests_end(until):
    async def run():
        ends = asyncio.Event()

        class Busy(Party):
            async def commit(self, number):
                await ends.wait()
                await super().commit(number)

        changes, busy = Changes(), Busy(1)
        parties = {1: busy}
        unload = asyncio.create_task(changes.make(UnloadModel("m"), parties, first=busy))
        await until(lambda: "m" in changes.standing.models)
        async with changes.stopped():  # as a worker comes in
            assert not busy.made
        again = asyncio.create_task(changes.make(LoadModel("m"), parties, first=busy))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not again.done()  # of one model, one after another
        ends.set()
        assert [await unload, await again] == ["", ""]
        assert busy.made == [UnloadModel("m"), LoadModel("m")]

    asyncio.run(run())


def test_a_worker_makes_what_it_missed_before_what_comes_next():
    order = []

    class Control:
        models = None

        async def prepare(self, change):
            await asyncio.sleep(0)
            if change == UnloadModel("gone"):
                raise ModelNotFoundError("gone")
            order.append(change)
            return self

        async def commit(self):
            await asyncio.sleep(0)

    async def run():
        member = Member(None, Control(), lambda name: False)
        missed = [LoadModel("a"), UnloadModel("gone"), LoadModel("b")]
        catching_up = asyncio.create_task(member.catch_up(missed))
        assert await member.prepare(7, UnloadModel("b"), 0, is_last=False) == ""
        assert await member.commit(7) == ""
        await catching_up
        assert order == [LoadModel("a"), LoadModel("b"), UnloadModel("b")]

    asyncio.run(run())


NAMES = st.sampled_from("ab")
VALUES = st.sampled_from(["1", "2", None])
CHANGES = st.one_of(
    st.builds(LoadModel, NAMES, st.dictionaries(st.just("config"), st.sampled_from("xy"))),
    st.builds(UnloadModel, NAMES),
    st.builds(SetTraces, NAMES, st.dictionaries(st.sampled_from("pq"), VALUES)),
    st.builds(SetLog, st.dictionaries(st.sampled_from("pq"), VALUES)),
    st.builds(Register, NAMES, NAMES, st.just(0), st.integers(1, 2)),
    st.builds(Unregister, st.sampled_from(["a", "b", ""])),
)


class State:
    """What a worker is after changes: the model that the diff is compared with."""

    def __init__(self):
        self.models, self.traces, self.log, self.regions = {}, {}, {}, {}

    def apply(self, change):
        match change:
            case LoadModel(name, parameters):
                self.models[name] = parameters
            case UnloadModel(name):
                self.models[name] = None
            case SetTraces(model, settings):
                self.traces[model] = _updated(self.traces.get(model, {}), settings)
            case SetLog(settings):
                self.log = _updated(self.log, settings)
            case Register(name):
                self.regions[name] = change
            case Unregister(name):
                self.regions = {
                    key: each for key, each in self.regions.items() if name not in ("", key)
                }

    def seen(self):
        loaded = {name: each for name, each in self.models.items() if each != {}}
        traces = {name: each for name, each in self.traces.items() if each}
        return loaded, traces, self.log, self.regions


def _updated(before, changes):
    merged = {**before, **changes}
    return {key: value for key, value in merged.items() if value is not None}


@given(before=st.lists(CHANGES, max_size=6), after=st.lists(CHANGES, max_size=6))
def test_a_worker_that_comes_late_is_as_the_others(before, after):
    async def run():
        changes, parties = Changes(), {1: Party(1)}
        for change in before:
            assert await changes.make(change, parties, first=parties[1]) == ""
        started = changes.standing
        for change in after:
            assert await changes.make(change, parties, first=parties[1]) == ""
        return started, changes.standing

    started, now = asyncio.run(run())
    others, late = State(), State()
    for change in (*before, *after):
        others.apply(change)
    late.models = {name: asked.parameters for name, asked in started.models.items()}
    for change in (*settings_of(started), *changes_between(started, now)):
        late.apply(change)
    assert late.seen() == others.seen()
    assert changes_between(now, now) == []
    assert settings_of(Standing()) == []


def counter(name, value, kind="counter", **labels):
    return Family(name, "", kind, [Sample(f"{name}_total", {"model": "m", **labels}, value)])


def test_counters_are_added_up_and_gauges_follow_their_rule():
    def told(worker, value):
        families = [
            counter("jackfield_infer_requests", value),
            counter("jackfield_infer_waiting", value, "gauge"),
            counter("jackfield_model_load_seconds", value, "gauge"),
            counter("jackfield_monitor_p_value", value, "gauge"),
            counter("mine", value, "gauge"),
        ]
        return worker, Counted(families, [counter("process_cpu_seconds", value)])

    gone = Counted([counter("jackfield_infer_requests", 5), counter("mine", 9, "gauge")], [])
    other = [Sample("jackfield_infer_requests_total", {"model": "unloaded"}, 7)]
    gone.server.append(Family("jackfield_infer_requests", "", "counter", other))
    server, process = merge_metrics([told(1, 2.0), told(2, 3.0)], [gone])
    values = {
        (family.name, sample.labels.get("worker")): sample.value
        for family in (*server, *process)
        for sample in family.samples
    }
    assert values == {
        ("jackfield_infer_requests", None): 10,
        ("jackfield_infer_waiting", None): 5,
        ("jackfield_model_load_seconds", None): 3,
        ("jackfield_monitor_p_value", None): 2,
        ("mine", "1"): 2,
        ("mine", "2"): 3,
        ("process_cpu_seconds", "1"): 2,
        ("process_cpu_seconds", "2"): 3,
    }


def test_what_a_load_does_not_begin_anew_is_kept_of_dead_workers():
    loads = counter("jackfield_model_loads", 3)
    labels = {"model_name": "m", "model_version": ""}
    told = [
        loads,
        counter("jackfield_infer_requests", 3),
        counter("jackfield_monitor_verdicts", 3),
        counter("mine", 3),
        Family("batch_request_queue", "", "histogram", [Sample("x", labels, 3)]),
    ]
    departed = Departed()
    departed.keep(Answer(2, msgspec.msgpack.encode(Counted(told, []))), AskMetrics())
    departed.bury(2)

    def merged(families):
        [answer] = departed.answers(AskMetrics())
        gone = msgspec.msgpack.decode(answer.answer, type=Counted)
        server, _ = merge_metrics([(1, Counted(families, []))], [gone])
        return {family.name: family.samples[0].value for family in server}

    assert {*merged(told).values()} == {6}
    departed.forget("m")
    assert merged(told) == {
        "jackfield_model_loads": 6,
        "jackfield_infer_requests": 3,
        "jackfield_monitor_verdicts": 6,
        "mine": 3,
        "batch_request_queue": 3,
    }
    # one that is unloaded leaves no series, but for its loads
    assert merged([loads]) == {"jackfield_model_loads": 6}


CALLS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=30)


@given(calls=CALLS, dead=st.sets(st.integers(0, 2), max_size=2))
def test_statistics_of_several_workers_are_those_of_one_that_did_it_all(calls, dead):
    whole = ModelStatistics()
    parts = [ModelStatistics() for _ in range(3)]
    for number, (worker, rows) in enumerate(calls):
        for each in (whole, parts[worker]):
            each.executed(requests=1, rows=rows, ns=number, waiting=0)
            each.succeeded(0, 1, 2, 3 + number, rows)
    departed = Departed()
    records = [part.record("m", "1") for part in parts]
    for worker in dead:
        departed.keep(Answer(worker, msgspec.msgpack.encode([records[worker]])), AskStatistics())
        departed.bury(worker)
    told = [[record] for worker, record in enumerate(records) if worker not in dead]
    gone = [
        record
        for each in departed.answers(AskStatistics())
        for record in msgspec.msgpack.decode(each.answer)
    ]
    [found] = merge_statistics(told, gone)
    expected = whole.record("m", "1")
    assert {**found, "last_inference": 0} == {**expected, "last_inference": 0}
    departed.forget("m")
    assert departed.answers(AskStatistics()) == departed.answers(AskMetrics()) == []


READY = {"state": "READY", "reason": ""}
FAILED = {"state": "UNAVAILABLE", "reason": "failed"}
LOADING = {"state": "LOADING", "reason": ""}


@pytest.mark.parametrize(
    ("lines", "state", "reason"),
    [
        ([READY, READY], "READY", ""),
        ([FAILED, FAILED], "UNAVAILABLE", "failed"),
        ([READY, FAILED], "UNAVAILABLE", "worker 2: failed"),
        ([LOADING, READY], "LOADING", "worker 1: loading"),
        ([READY, None], "UNAVAILABLE", "worker 2: not there"),
        ([FAILED, LOADING], "UNAVAILABLE", "worker 1: failed; worker 2: loading"),
    ],
)
def test_a_model_is_ready_only_where_all_have_it(lines, state, reason):
    assert merge_lines(list(enumerate(lines, 1))) == (state, reason)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells")
def test_the_memory_of_a_process_is_measured():
    memory = measure(os.getpid())
    assert memory.proportional_bytes >= memory.unique_bytes > 1e6
    assert measure(2**30) == (0, 0)


def found(time_s, *, is_positive=False):
    return Verdict(time_s=time_s, kind="drift", is_positive=is_positive, rows=5)


def record(*history, name="drift", **told):
    told = {"problem": "", "misfit": "", "window": None, "webhook": None, "dropped": 0, **told}
    return MonitorRecord(
        name=name,
        settings={"detector": "ks", "history": 3},
        rows={"seen": 10, "dropped": {"queue": told.pop("dropped"), "misfit": 1}},
        verdicts={"count": len(history), "positive": sum(each.is_positive for each in history)},
        calls={"success": len(history), "failed": 1},
        current=history[-1] if history else None,
        history=history,
        **told,
    )


def test_counts_of_monitors_are_added_up_and_the_newest_verdicts_kept():
    one, other = record(found(1), found(4), dropped=2), record(found(2), found(3), found(5))
    [told] = merge_monitors([(1, [one]), (3, [other])])
    assert told.rows == {"seen": 20, "dropped": {"queue": 2, "misfit": 2}}
    assert told.verdicts == {"count": 5, "positive": 0}
    assert told.calls == {"success": 5, "failed": 2}
    assert [(each.time_s, each.worker) for each in told.history] == [(3, 3), (4, 1), (5, 3)]
    assert (told.current.time_s, told.current.worker) == (5, 3)


def test_an_alarm_that_lasts_in_one_worker_is_what_the_monitor_says():
    """As the metric does, which is 1 while the last verdict in any worker is positive."""
    alarmed = record(found(1), found(2, is_positive=True))
    calm = record(found(3, is_positive=True), found(4))
    [told] = merge_monitors([(1, [calm]), (2, [alarmed]), (3, [record()])])
    assert (told.current.time_s, told.current.worker) == (2, 2)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["", ""], ""),
        (["no detector", "no detector"], "no detector"),
        (["", "no detector"], "worker 2: no detector"),
        (["slow", "no detector"], "worker 1: slow; worker 2: no detector"),
    ],
)
def test_problems_of_monitors_name_their_workers_where_they_differ(texts, expected):
    events = {"delivered": 2, "failed": 1}
    told = [
        (number, [record(problem=text, misfit=text, webhook={**events, "problem": text})])
        for number, text in enumerate(texts, 1)
    ]
    [merged] = merge_monitors(told)
    assert merged.problem == merged.misfit == expected
    assert merged.webhook == {"delivered": 4, "failed": 2, "problem": expected}


def test_the_fullest_window_is_told_and_each_monitor_by_itself():
    windows = [{"rows": rows, "fullness": rows / 10} for rows in (2, 7, 3)]
    told = [
        (number, [record(window=window), record(name="other")])
        for number, window in enumerate(windows, 1)
    ]
    first, second = merge_monitors([*told, (4, [])])
    assert (first.name, first.window) == ("drift", {"rows": 7, "fullness": 0.7})
    assert (second.name, second.window) == ("other", None)
