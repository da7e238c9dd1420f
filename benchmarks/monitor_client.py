"""One client of `monitor.py`: sends requests that differ, and checks each answer.

Run as `python monitor_client.py PLAN`, a `generator.Plan` whose question is a file with a list of
rows and labels: prints `ready` when it is connected, starts when it reads a line, prints one JSON
object at the end. It imports no framework.
"""

import asyncio
import gc
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import generator

#: A request, and the label of its answer.
Question = tuple[bytes, int]


def main(text: str) -> None:
    """Carry out a plan, given as JSON."""
    plan = generator.Plan(**json.loads(text))
    path = f"/v2/models/{plan.model}/infer"
    given = json.loads(Path(plan.question).read_text())
    # each client begins elsewhere
    given = given[plan.seed * len(given) // 2 :] + given[: plan.seed * len(given) // 2]
    questions = itertools.cycle([(_request(path, each["rows"]), each["label"]) for each in given])
    with asyncio.Runner(loop_factory=lambda: generator.event_loop(is_open=plan.rate > 0)) as runner:
        print(json.dumps(runner.run(_load(plan, questions))))


async def _load(plan: generator.Plan, questions: Iterator[Question]) -> dict[str, object]:
    lanes = [
        _lane(await generator.Connection.open(plan.port), questions) for _ in range(plan.in_flight)
    ]
    print("ready", flush=True)
    sys.stdin.readline()
    # a collection is a pause of the client that would be read as one of the server
    gc.collect()
    gc.disable()
    tally = generator.Tally()
    await (generator.open_loop if plan.rate else generator.closed_loop)(plan, lanes, tally)
    return {
        "latencies_us": [round(each * 1e6) for each in tally.latencies_s],
        "late_us": [round(each * 1e6) for each in tally.late_s],
        "errors": dict(tally.errors),
    }


def _request(path: str, rows: Sequence[Sequence[float]]) -> bytes:
    tensor = {"name": "predict", "shape": [1, len(rows[0])], "datatype": "FP64", "data": rows[0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return generator.http_request("POST", path, {"Content-Type": "application/json"}, body)


def _lane(connection: generator.Connection, questions: Iterator[Question]) -> generator.Ask:
    async def ask() -> str | None:
        request, label = next(questions)
        try:
            status, body = await connection.ask(request)
        except OSError:
            return "read"
        if status >= 400:
            return "status"
        return None if json.loads(body)["outputs"][0]["data"] == [label] else "wrong"

    return ask


if __name__ == "__main__":
    main(sys.argv[1])
