"""What stays of a model that is unloaded: memory over many cycles of load, one request and unload.

For `docs/decisions/0035-a-change-is-prepared.md`. Run it with `python benchmarks/memory.py`; it
needs scikit-learn and the plugin for it, and a system that has /proc. Each case runs in a process
of its own; `--json` prints all samples.

Columns: RSS after the first, the 20th and the last unload, and while the model was loaded last; the
slope of a line through all after the 20th (0: all is given back; `-` with fewer than 22 cycles);
the median of a cycle; and children, threads and open files after the 20th and the last unload,
which should be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CYCLES = 200
#: Cycles after which caches, arenas and imports are what they will be.
WARM = 20

ARRAY = """
import numpy as np
from jackfield import InferResponse, ModelMetadata, Tensor

class Holder:
    '''Holds 64 MiB in one array, and 200,000 small objects.'''

    def __init__(self, context):
        pass

    def load(self):
        self.array = np.ones(8 * 1024 * 1024)
        self.objects = {number: str(number) * 4 for number in range(200_000)}
        self.itself = self

    def metadata(self):
        return ModelMetadata()

    def infer(self, request):
        return InferResponse([Tensor.from_array("y", [self.array[0]])])

    def close(self):
        pass
"""


def write_own_code(folder: Path, settings: dict[str, object]) -> list[float]:
    """Write a model of own code."""
    (folder / "holder.py").write_text(ARRAY)
    write_settings(folder, {"implementation": "holder.Holder", **settings})
    return [1.0]


def write_forest(folder: Path, settings: dict[str, object]) -> list[list[float]]:
    """Write a forest of 60 trees, about 60 MB."""
    import joblib
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    x, y = make_classification(20_000, 20, flip_y=0.3, random_state=0)
    forest = RandomForestClassifier(60, n_jobs=4, random_state=0).fit(x, y)
    joblib.dump(forest, folder / "model.joblib")
    write_settings(folder, {"implementation": "sklearn", **settings})
    row: list[list[float]] = x[:1].tolist()
    return row


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write a model's settings."""
    (folder / "model-settings.json").write_text(json.dumps({"name": "m", **settings}))


CASES = {
    "own code": (write_own_code, {}),
    "own code, in a process": (write_own_code, {"scheduler": "process"}),
    "forest": (write_forest, {}),
    "forest, in a process": (write_forest, {"scheduler": "process"}),
}


def resident_mib(process: int | str = "self") -> float:
    """Measure what a process holds in memory."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sample() -> dict[str, float]:
    """Take what the process holds."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "mib": resident_mib(),
        "children": len(children),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


async def run_cycles(folder: Path, values: object, cycles: int) -> list[dict[str, float]]:
    """Load, ask and unload a model, again and again."""
    from jackfield import Server, ServerSettings

    samples = []
    stopped = asyncio.Event()
    settings = ServerSettings(
        load_models_at_startup=False, http_port=0, grpc_port=0, metrics_port=0
    )
    server = Server([folder], settings=settings)

    async def measure(addresses: object) -> None:
        models = server._models
        for _ in range(cycles):
            began = time.perf_counter()
            await models.load("m")
            loaded = resident_mib()
            response = await server.model("m").infer(x=values)
            assert response.outputs
            del response
            await models.unload("m")
            seconds = time.perf_counter() - began
            await asyncio.sleep(0.05)  # memory is given back a moment later
            samples.append({**sample(), "loaded_mib": loaded, "seconds": seconds})
        stopped.set()

    await server.run(stopped, measure)
    return samples


def run_case(name: str, cycles: int) -> list[dict[str, float]]:
    """Measure one case in this process."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "m"
        folder.mkdir()
        code = "import sys, json; sys.path.insert(0, sys.argv[1]); import memory, pathlib; "
        code += "write, settings = memory.CASES[sys.argv[2]]; "
        code += "print(json.dumps(write(pathlib.Path(sys.argv[3]), settings)))"
        # elsewhere: training leaves traces in memory
        arguments = [str(Path(__file__).parent), name, str(folder)]
        written = subprocess.run(
            [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
        )
        return asyncio.run(run_cycles(folder, json.loads(written.stdout), cycles))


def growth_kib(samples: list[dict[str, float]]) -> float:
    """Fit a line through the memory after the warm cycles: its slope, in KiB a cycle; else NaN."""
    mib = [each["mib"] for each in samples[WARM:]]
    if len(mib) < 2:
        return math.nan
    middle = (len(mib) - 1) / 2
    mean = sum(mib) / len(mib)
    over = sum((at - middle) * (each - mean) for at, each in enumerate(mib))
    return 1024 * over / sum((at - middle) ** 2 for at in range(len(mib)))


def main() -> None:
    """Measure all cases, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.cycles)))
        return
    print(f"RSS of the server in MiB after unloading; {options.cycles} cycles")
    print(f"{'':26}{'1st':>8}{WARM:>7}th{'last':>9}{'loaded':>9}{'KiB/cycle':>11}", end="")
    print(f"{'ms/cycle':>10}{'children':>10}{'threads':>9}{'files':>7}")
    for name in CASES:
        arguments = ["--case", name, "--cycles", str(options.cycles)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        samples = json.loads(done.stdout.splitlines()[-1])
        first, warm, last = samples[0], samples[:WARM][-1], samples[-1]
        growth = growth_kib(samples)
        milliseconds = 1000 * sorted(each["seconds"] for each in samples)[len(samples) // 2]
        print(
            f"{name:26}{first['mib']:8.1f}{warm['mib']:9.1f}{last['mib']:9.1f}"
            f"{last['loaded_mib']:9.1f}{'-' if math.isnan(growth) else f'{growth:.1f}':>11}"
            f"{milliseconds:10.1f}"
            f"{warm['children']:6.0f} {last['children']:<3.0f}"
            f"{warm['threads']:5.0f} {last['threads']:<3.0f}"
            f"{warm['files']:4.0f} {last['files']:<3.0f}"
        )
        if options.json:
            print(json.dumps(samples))


if __name__ == "__main__":
    main()
