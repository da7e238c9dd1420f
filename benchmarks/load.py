"""Put a server under load and say what it did: wrk for HTTP, or our generator in processes.

wrk costs the least, so that it makes the closed loops over HTTP where it is installed. Open loops,
gRPC and large bodies are made by `generator.py`, which checks every answer.
"""

import contextlib
import json
import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from environments import HERE, ServerError
from forms import Form
from servers import HOST, Model

#: What one process of the generator can send and still be on time, in requests per second.
RATE_PER_PROCESS = 3000
#: A machine of four cores has to hold the server as well.
MOST_PROCESSES = 4
#: A generator that has not ended by then is broken.
GRACE_S = 120

WRK_SCRIPT = """\
local file = assert(io.open("{body}", "rb"))
wrk.method = "{method}"
wrk.body = file:read("*a")
file:close()
{headers}

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{{"requests":%d,"duration_us":%d,"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,' ..
    '"errors":{{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}}}\\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw of a server."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    errors: dict[str, int]
    """Failed requests by kind: `status` counts answers of 400 and above, `wrong` wrong answers."""
    is_open: bool = False
    """Whether the rate was set, so that only latencies tell."""
    processes: int = 0
    """How many processes of our generator made it; 0 is wrk."""
    client_share: float = 0.0
    """What part of a core the busiest of them used; near 1 it, not the server, was measured."""
    late_p99_ms: float = 0.0
    """By how much an open loop's requests left late though a connection was free."""

    @property
    def n_errors(self) -> int:
        """Failed requests of all kinds."""
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Wrk:
    """wrk, with a folder for its scripts."""

    executable: str
    folder: Path

    def run(self, form: Form, model: Model, port: int, *, connections: int, seconds: float) -> Load:
        """Keep a server busy over so many connections, one request in flight on each.

        Raises:
            ServerError: wrk ended without a result.
        """
        rows = model.questions[0].rows
        body, script = self.folder / "body", self.folder / "request.lua"
        body.write_bytes(form.encode(rows))
        headers = form.headers(rows).items()
        lines = (f'wrk.headers["{name}"] = "{value}"' for name, value in headers)
        script.write_text(
            WRK_SCRIPT.format(body=body, method=form.method, headers="\n".join(lines))
        )
        # wrk gives each thread the same number of connections and drops the rest.
        threads = 2 if connections % 2 == 0 else 1
        options = [f"-t{threads}", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout=10s"]
        url = f"http://{HOST}:{port}{form.path.format(model=model.name)}"
        done = subprocess.run(
            [self.executable, *options, "--latency", "--script", script, url],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            # wrk calls `done` of the script after everything else that it prints.
            result = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError) as error:
            message = f"was not measured: wrk ended with status {done.returncode}"
            raise ServerError(message, done.stdout + done.stderr) from error
        return Load(
            requests=result["requests"],
            requests_per_s=result["requests"] / result["duration_us"] * 1e6,
            p50_ms=result["p50_us"] / 1000,
            p90_ms=result["p90_us"] / 1000,
            p99_ms=result["p99_us"] / 1000,
            errors=result["errors"],
        )

    def version(self) -> str:
        """Read the first words of what wrk prints, with status 1, for `--version`."""
        done = subprocess.run(
            [self.executable, "--version"], capture_output=True, text=True, check=False
        )
        return " ".join((done.stdout + done.stderr).split()[:2])


def find_wrk(folder: Path) -> Wrk | None:
    """Give wrk if it is installed."""
    executable = shutil.which("wrk")
    return None if executable is None else Wrk(executable, folder)


@dataclass(frozen=True, slots=True)
class Job:
    """One stream of requests of our generator; see `generator.Plan`."""

    form: str
    port: int
    model: Model
    seconds: float
    in_flight: int
    rate: float = 0.0
    delay_s: float = 0.0
    least: int = 0


@dataclass(slots=True)
class _Running:
    process: subprocess.Popen[str]
    job: int


@dataclass(frozen=True, slots=True)
class Generator:
    """Our generator, with the interpreter that has what it needs."""

    python: Path

    def run(self, job: Job) -> Load:
        """Make one stream of load.

        Raises:
            ServerError: The generator could not connect, or nothing was answered.
        """
        return self.run_together([job])[0]

    def run_together(self, jobs: Sequence[Job]) -> list[Load]:
        """Make several streams at the same time; gives what came of each.

        Raises:
            ServerError: A generator could not connect, or nothing was answered.
        """
        with contextlib.ExitStack() as stack:
            running = [
                _Running(stack.enter_context(self._start(plan)), number)
                for number, job in enumerate(jobs)
                for plan in _plans(job)
            ]
            for each in running:
                _expect_ready(each.process)
            for each in running:
                assert each.process.stdin is not None
                each.process.stdin.write("go\n")
                each.process.stdin.flush()
            results: list[list[_Result]] = [[] for _ in jobs]
            for each in running:
                try:
                    output, log = each.process.communicate(timeout=jobs[each.job].seconds + GRACE_S)
                except subprocess.TimeoutExpired as error:
                    raise ServerError("was not measured: the generator did not end") from error
                if each.process.returncode != 0:
                    raise ServerError("was not measured: the generator failed", log)
                results[each.job].append(json.loads(output))
        return [
            _merge(result, is_open=job.rate > 0) for job, result in zip(jobs, results, strict=True)
        ]

    @contextlib.contextmanager
    def _start(self, plan: dict[str, object]) -> Iterator[subprocess.Popen[str]]:
        command: list[str | Path] = [self.python, HERE / "generator.py", json.dumps(plan)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()


def _plans(job: Job) -> Iterator[dict[str, object]]:
    """Divide a job among processes, so that no one of them is what is measured."""
    wanted = math.ceil(job.rate / RATE_PER_PROCESS) if job.rate else job.in_flight
    # one process keeps a few large bodies, or probes, in flight with ease
    small = job.least > 0 or 0 < job.rate <= RATE_PER_PROCESS
    count = 1 if small else max(1, min(wanted, MOST_PROCESSES, job.in_flight))
    for number in range(count):
        yield {
            "form": job.form,
            "port": job.port,
            "model": job.model.name,
            "question": str(job.model.question_file),
            "seconds": job.seconds,
            "in_flight": job.in_flight // count + (number < job.in_flight % count),
            "rate": job.rate / count,
            "seed": number,
            "delay_s": job.delay_s,
            "least": job.least,
        }


def _expect_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline().strip() != "ready":
        raise ServerError("was not measured: the generator could not start", process.stderr.read())


class _Result(TypedDict):
    """What one process of the generator prints."""

    latencies_us: list[int]
    late_us: list[int]
    errors: dict[str, int]
    seconds: float
    cpu_share: float


def _merge(results: Sequence[_Result], *, is_open: bool) -> Load:
    errors: Counter[str] = Counter()
    for result in results:
        errors.update(result["errors"])
    ordered = sorted(latency for result in results for latency in result["latencies_us"])
    late = sorted(late for result in results for late in result["late_us"])
    if not ordered:
        raise ServerError(f"answered nothing; failed requests: {dict(errors)}")
    return Load(
        requests=len(ordered),
        requests_per_s=sum(len(result["latencies_us"]) / result["seconds"] for result in results),
        p50_ms=percentile(ordered, 50) / 1000,
        p90_ms=percentile(ordered, 90) / 1000,
        p99_ms=percentile(ordered, 99) / 1000,
        errors=dict(errors),
        is_open=is_open,
        processes=len(results),
        client_share=max(result["cpu_share"] for result in results),
        late_p99_ms=percentile(late, 99) / 1000 if late else 0.0,
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Give the smallest value that so many percent of the ordered values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
