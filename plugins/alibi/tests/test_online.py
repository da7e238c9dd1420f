"""Online detectors: Alibi's own answers, a memory that is whole, and run lengths as promised."""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from jackfield_alibi._detect._steps import OnlineDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytest.importorskip("alibi_detect", reason="needs Alibi Detect")

ERT = 40
WINDOW = 8
BOOTSTRAPS = 2000
#: Runs until a false alarm that are measured.
RUNS = 60
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="its backend, PyTorch, is not installed"
)
UNIVARIATE = ("FETDriftOnline", "CVMDriftOnline")
#: Without smoothing its statistic is one of few values, and often the threshold itself.
TIED = "FETDriftOnline without smoothing"
DETECTORS = [
    "FETDriftOnline",
    TIED,
    "CVMDriftOnline",
    pytest.param("MMDDriftOnline", marks=NEEDS_TORCH),
    pytest.param("LSDDDriftOnline", marks=NEEDS_TORCH),
]


def stream(name: str, seed: int, count: int, *, shift: float = 0.0) -> NDArray[Any]:
    """Rows as the reference data of a detector has them, or shifted ones."""
    random = np.random.default_rng(seed)
    if name in ("FETDriftOnline", TIED):
        return random.random((count, 2)) < 0.3 + 0.2 * shift
    return (random.normal(size=(count, 3)) + shift).astype(np.float32)


def build(name: str, seed: int) -> Any:
    """Build a detector; its thresholds and splits are drawn from the seed."""
    from alibi_detect import cd

    np.random.seed(seed)
    kind = name.partition(" ")[0]
    reference = stream(name, 1, 150 if name == "CVMDriftOnline" else 400)
    given: dict[str, Any] = {"ert": ERT, "n_bootstraps": BOOTSTRAPS, "verbose": False}
    if name == TIED:
        given["lam"] = 1.0
    if kind in UNIVARIATE:
        given["window_sizes"] = [WINDOW, 2 * WINDOW]
    else:
        import torch

        torch.manual_seed(seed)
        given |= {"window_size": WINDOW, "backend": "pytorch", "device": "cpu"}
    return getattr(cd, kind)(reference, **given)


@functools.cache
def _built(name: str, seed: int) -> Any:
    return build(name, seed)


@pytest.fixture
def detector_of() -> Callable[[str, int], Any]:
    """Get a detector at its first step, built once for each seed: Numba compiles for seconds."""

    def get(name: str, seed: int) -> Any:
        detector = copy.deepcopy(_built(name, seed))
        detector.reset_state()
        return detector

    return get


def trajectory(online: OnlineDetector, rows: NDArray[Any]) -> list[tuple[Any, ...]]:
    return [facts(online.predict(row)) for row in rows]


def facts(answer: dict[str, Any]) -> tuple[Any, ...]:
    data = answer["data"]
    # NaN is equal to itself here
    return (
        data["is_drift"],
        data["time"],
        data["ert"],
        np.asarray(data["test_stat"]).tobytes(),
        np.asarray(data["threshold"]).tobytes(),
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_the_answers_are_alibis_own(name, detector_of) -> None:
    alibi = detector_of(name, 5)
    online = OnlineDetector(detector_of(name, 5), seed=7)
    rows = np.concatenate([stream(name, 2, 60), stream(name, 3, 30, shift=1)])
    np.random.seed(7)
    expected = [facts(alibi.predict(row)) for row in rows]
    np.random.seed(0)  # nobody else's draws are these
    assert trajectory(online, rows) == expected


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_built_anew_goes_on_as_one_that_never_stopped(name, detector_of) -> None:
    rows = np.concatenate([stream(name, 2, 50), stream(name, 3, 40, shift=1)])
    unbroken = trajectory(OnlineDetector(detector_of(name, 5), seed=7), rows)
    first = OnlineDetector(detector_of(name, 5), seed=7)
    for step in (0, 1, WINDOW, 3 * WINDOW, 70):
        first = OnlineDetector(detector_of(name, 5), seed=7)
        assert trajectory(first, rows[:step]) == unbroken[:step]
        # other thresholds, other splits, other draws: as after a restart
        second = OnlineDetector(detector_of(name, 6), seed=8)
        second.restore(first.snapshot())
        assert second.time == step
        assert trajectory(second, rows[step:]) == unbroken[step:]
        second.reset()
        first.reset()
        again = stream(name, 4, 30)
        assert trajectory(second, again)[0] == trajectory(first, again)[0]


@pytest.mark.parametrize("name", DETECTORS)
def test_two_builds_of_one_configuration_differ(name, detector_of) -> None:
    """Why the thresholds are part of the memory."""
    one, other = (OnlineDetector(detector_of(name, seed)).snapshot() for seed in (5, 6))
    assert not np.array_equal(one["thresholds"], other["thresholds"], equal_nan=True)


def test_a_draw_at_a_tie_takes_nothing_from_the_global_generator(detector_of) -> None:
    online = OnlineDetector(detector_of(TIED, 5), seed=7)
    before = online.snapshot()["random.place"]
    np.random.seed(3)
    expected = np.random.get_state(legacy=False)["state"]
    trajectory(online, stream("FETDriftOnline", 2, 200))
    assert online.snapshot()["random.place"] != before  # it did draw
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], expected["key"])
    assert np.random.get_state(legacy=False)["state"]["pos"] == expected["pos"]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_memory_does_not_grow(name, detector_of) -> None:
    online = OnlineDetector(detector_of(name, 5), seed=7)
    sizes = []
    for seed in range(3):
        trajectory(online, stream(name, seed, 3 * WINDOW))
        sizes.append(sum(each.nbytes for each in online.snapshot().values()))
    assert sizes[0] == sizes[1] == sizes[2]
    inner = getattr(online.detector, "_detector", online.detector)
    assert len(inner.test_stats) == len(inner.drift_preds) == 1


def test_the_state_of_another_kind_is_refused_and_nothing_changes(detector_of) -> None:
    fet = OnlineDetector(detector_of("FETDriftOnline", 5), seed=7)
    cvm = OnlineDetector(detector_of("CVMDriftOnline", 5))
    trajectory(fet, stream("FETDriftOnline", 2, 10))
    before = fet.snapshot()
    with pytest.raises(ValueError, match=r"the state of a FETDriftOnline: .*ids_ref_wins"):
        fet.restore(cvm.snapshot())
    assert {key: value.tobytes() for key, value in fet.snapshot().items()} == {
        key: value.tobytes() for key, value in before.items()
    }


def run_lengths(online: OnlineDetector, rows: NDArray[Any], count: int) -> list[int]:
    """Run until there is an alarm, again and again."""
    lengths, length = [], 0
    for row in rows:
        length += 1
        if online.predict(row)["data"]["is_drift"]:
            lengths.append(length)
            length = 0
            online.reset()
            if len(lengths) == count:
                break
    return lengths


@pytest.mark.parametrize("name", DETECTORS)
def test_false_alarms_are_as_far_apart_as_promised(name, detector_of) -> None:
    online = OnlineDetector(detector_of(name, 5), seed=7)
    lengths = run_lengths(online, stream(name, 11, 6 * ERT * RUNS), RUNS)
    assert len(lengths) == RUNS
    # the univariate ones promise the run from the step at which their smallest window is full
    start = WINDOW - 1 if name.partition(" ")[0] in UNIVARIATE else 0
    mean = float(np.mean(lengths)) - start
    # The mean of RUNS lengths that are about exponential is off by 1/sqrt(RUNS) of itself; the
    # thresholds are quantiles of simulations of which about BOOTSTRAPS/ERT lie beyond, and off by
    # the root of that. Three such deviations, in a logarithm since both multiply; 0.1 is for the
    # reference data, which is a sample itself.
    deviation = math.sqrt(1 / RUNS + ERT / BOOTSTRAPS) * 3 + 0.1
    assert abs(math.log(mean / ERT)) < deviation


@pytest.mark.parametrize("name", DETECTORS)
def test_drift_that_was_planted_is_found_long_before_a_false_alarm(name, detector_of) -> None:
    online = OnlineDetector(detector_of(name, 5), seed=7)
    lengths = run_lengths(online, stream(name, 12, 1000, shift=2), 30)
    assert len(lengths) == 30
    assert np.mean(lengths) < ERT / 3
