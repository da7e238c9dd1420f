"""Bounds of thread pools, read back from the libraries in the thread that predicts.

Pools are the process's, and libraries that were loaded once stay: each such test runs a script in a
process of its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield._threads import ThreadBound, available_cores, default_threads, parse_quota

#: GCC's OpenMP, as the system has it.
OPENMP = "libgomp.so.1"

PRELUDE = """
import ctypes, sys, threading, types
import numpy  # brings its BLAS
import threadpoolctl
from jackfield._threads import ThreadBound

def load_openmp():
    library = ctypes.CDLL("libgomp.so.1")
    sys.modules["framework"] = types.ModuleType("framework")  # as an import leaves one
    return library

def in_thread(call):
    given = []
    thread = threading.Thread(target=lambda: given.append(call()))
    thread.start()
    thread.join()
    return given[0]

def threads_of(api):
    found = threadpoolctl.threadpool_info()
    return [each["num_threads"] for each in found if each["user_api"] == api]

def after(apply):
    def call():
        apply()
        return threads_of("openmp")[0]
    return in_thread(call)
"""


@pytest.fixture
def run():
    """Run a script with pools of 8 threads; give what it prints."""

    def run_script(script, **environment):
        pools = {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "8"}
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
            env={**os.environ, **pools, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run_script


@pytest.fixture
def openmp():
    try:
        ctypes.CDLL(OPENMP)
    except OSError:
        pytest.skip(f"there is no {OPENMP}")


@pytest.fixture
def openblas(run):
    """Need a BLAS that can be bounded, and can have more than one thread here."""
    if int(run("print(max(threads_of('blas'), default=0))")[0]) < 3:
        pytest.skip("NumPy's BLAS has fewer than 3 threads, or is none that can be bounded")


@pytest.mark.usefixtures("openmp")
def test_a_bound_holds_in_each_thread_that_applies_it_and_in_no_other(run):
    script = """
    load_openmp()
    bound = ThreadBound(3)
    print(after(bound.apply), after(bound.apply), after(bound.apply_single), after(lambda: None))
    """
    assert run(script) == ["3", "3", "1", "8"]


@pytest.mark.usefixtures("openmp")
def test_a_library_that_comes_after_the_bound_is_bounded_at_the_next_predict(run):
    script = """
    bound = ThreadBound(3)
    def call():
        bound.apply()
        library = load_openmp()
        before = library.omp_get_max_threads()
        bound.apply()
        return before, library.omp_get_max_threads()
    print(*in_thread(call))
    """
    assert run(script) == ["8", "3"]


@pytest.mark.usefixtures("openmp")
def test_a_library_that_no_import_brought_is_found_by_refresh(run):
    script = """
    bound = ThreadBound(3)
    def call():
        bound.apply()
        library = ctypes.CDLL("libgomp.so.1")
        bound.apply()
        before = library.omp_get_max_threads()
        in_thread(bound.refresh)
        bound.apply()
        return before, library.omp_get_max_threads()
    print(*in_thread(call))
    """
    assert run(script) == ["8", "3"]


@pytest.mark.usefixtures("openmp")
def test_models_in_threads_of_their_own_keep_their_own_bounds(run):
    script = """
    library = load_openmp()
    two, five = ThreadBound(2), ThreadBound(5)
    turn = threading.Barrier(2)
    def predict(bound):
        seen = set()
        for _ in range(20):
            bound.apply()
            turn.wait()
            seen.add(library.omp_get_max_threads())
            turn.wait()
        return seen
    other = threading.Thread(target=lambda: print("five", *predict(five)))
    other.start()
    mine = predict(two)
    other.join()
    print("two", *mine)
    """
    assert run(script) == ["five", "5", "two", "2"]


@pytest.mark.usefixtures("openmp")
def test_models_that_share_a_thread_get_their_own_bound_each(run):
    script = """
    library = load_openmp()
    two, five = ThreadBound(2), ThreadBound(5)
    for apply in (two.apply, five.apply, five.apply, two.apply_single, two.apply):
        apply()
        print(library.omp_get_max_threads())
    """
    assert run(script) == ["2", "5", "5", "1", "2"]


@pytest.mark.usefixtures("openmp")
def test_a_bound_raises_nothing_above_what_the_environment_allows(run):
    script = """
    load_openmp()
    print(after(ThreadBound(6).apply))
    """
    assert run(script, OMP_NUM_THREADS="4") == ["4"]


@pytest.mark.usefixtures("openblas")
def test_blas_has_the_largest_number_that_a_loaded_model_asks_for(run):
    script = """
    print(*set(threads_of("blas")))
    one = ThreadBound(1)
    print(*set(threads_of("blas")))
    two = ThreadBound(2)
    print(*set(threads_of("blas")))
    two.close()
    print(*set(threads_of("blas")))
    one.close()
    print(*set(threads_of("blas")))
    """
    installed, one, two, again, freed = run(script)
    assert (one, two, again) == ("1", "2", "1")
    assert freed == installed


@pytest.mark.usefixtures("openblas")
def test_the_bound_of_blas_holds_in_every_thread(run):
    script = """
    bound = ThreadBound(2)
    print(*threads_of("blas"), *in_thread(lambda: threads_of("blas")))
    """
    assert set(run(script)) == {"2"}


@pytest.mark.usefixtures("openblas")
def test_a_framework_may_still_bound_blas_around_a_part_of_its_predict(run):
    # threadpoolctl lets one living thread alone change OpenBLAS
    script = """
    bound = ThreadBound(2)
    def call():
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            return threads_of("blas")
    print(*in_thread(call), *threads_of("blas"))
    """
    numbers = run(script)
    assert numbers == ["1"] * (len(numbers) // 2) + ["2"] * (len(numbers) // 2)


def test_threadpoolctl_is_imported_when_a_model_is_bound_and_not_earlier():
    script = """
    import sys
    import jackfield, jackfield._threads
    print("threadpoolctl" in sys.modules)
    jackfield._threads.ThreadBound(1)
    print("threadpoolctl" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("threads", [0, -1])
def test_a_bound_of_no_thread_is_refused(threads):
    with pytest.raises(ValueError, match=f"at least 1 thread, not {threads}"):
        ThreadBound(threads)


@pytest.mark.parametrize(
    ("cores", "workers", "models", "threads"),
    [
        (1, 1, 1, 1),
        (3, 1, 1, 1),
        (4, 1, 1, 2),
        (16, 1, 1, 8),
        (16, 4, 1, 2),
        (16, 1, 2, 4),
        (4, 1, 8, 1),
        (4, 16, 1, 1),
    ],
)
def test_a_model_gets_its_share_of_half_of_the_cores(cores, workers, models, threads):
    assert default_threads(workers, models=models, cores=cores) == threads


@given(cores=st.integers(1, 1024), workers=st.integers(1, 256), models=st.integers(1, 64))
def test_all_models_of_all_workers_together_leave_half_of_the_cores(cores, workers, models):
    threads = default_threads(workers, models=models, cores=cores)
    assert threads >= 1
    assert threads == 1 or 2 * threads * workers * models <= cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [
        ("200000", "100000", 2.0),
        ("150000\n", "100000\n", 1.5),
        ("max", "100000", None),
        ("-1", "100000", None),
        ("0", "100000", None),
        ("100000", "0", None),
        ("", "", None),
        ("many", "100000", None),
    ],
)
def test_a_quota_is_read_as_cores(quota, period, cores):
    assert parse_quota(quota, period) == cores


@given(st.text(), st.text())
def test_any_text_for_a_quota_gives_cores_or_none(quota, period):
    cores = parse_quota(quota, period)
    assert cores is None or cores > 0


@pytest.fixture
def cgroups(tmp_path):
    """Write the files of control groups; the process's own group first."""

    def write(own, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture
def affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(16)}, raising=False)


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        pytest.param("0::/\n", {}, 16, id="no quota"),
        pytest.param("0::/\n", {"cpu.max": "400000 100000\n"}, 4, id="v2, container"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 16, id="v2, no limit"),
        pytest.param("0::/\n", {"cpu.max": "250000 100000\n"}, 2, id="a fraction is dropped"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="less than a core"),
        pytest.param("0::/\n", {"cpu.max": "3200000 100000\n"}, 16, id="more than affinity"),
        pytest.param("0::/\n", {"cpu.max": "broken"}, 16, id="v2, unreadable"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "300000 100000"}, 3, id="v2, nested"),
        pytest.param(
            "0::/a/b\n",
            {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"},
            2,
            id="v2, the group above counts",
        ),
        pytest.param(
            "0::/a\n", {"other/cpu.max": "100000 100000"}, 16, id="v2, another group does not"
        ),
        pytest.param(
            "5:memory:/x\n4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "600000", "cpu/a/cpu.cfs_period_us": "1e5"},
            16,
            id="v1, unreadable period",
        ),
        pytest.param(
            "5:memory:/x\n4:cpu,cpuacct:/host/path\n",
            {
                "cpu/cpu.cfs_quota_us": "600000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            6,
            id="v1, a path of the host",
        ),
        pytest.param(
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            16,
            id="v1, no limit",
        ),
    ],
)
def test_available_cores_honour_the_quota_of_every_group(cgroups, own, files, cores):
    assert available_cores(cgroups(own, **files)) == cores


@pytest.mark.usefixtures("affinity")
def test_available_cores_are_the_affinity_where_there_are_no_groups(tmp_path):
    assert available_cores(tmp_path) == 16


def test_available_cores_of_this_machine_are_at_least_one():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
