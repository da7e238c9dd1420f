"""What mounting costs: one server alone and mounted in FastAPI, one-row requests over HTTP.

    python benchmarks/embedding.py [--seconds 5] [--rounds 3] [--connections 1,16,64]

Both run in uvicorn with the same settings, from the same environment; `serve` is `jackfield serve`
beside them. See README.md for how to read the result.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import peers
import report
import run
from cases import Case, Run, by_connections, rounds, started
from environments import Environment
from peers import JACKFIELD, Command
from sections import case_sections
from servers import HOST, Launch, Peer, stop_on_sigterm

FASTAPI = Environment("fastapi", (*JACKFIELD.requirements, "fastapi"), JACKFIELD.checkout)

ALONE = """\
from jackfield import Server

app = Server([{model!r}], name="iris")
"""
#: At the root, so that all are asked for the same URL; the app has a route of its own before it.
MOUNTED = """\
from fastapi import FastAPI
from jackfield import Server

server = Server([{model!r}], name="iris")
app = FastAPI(lifespan=server.lifespan)


@app.get("/hello")
async def hello() -> str:
    return "hello"


app.mount("/", server)
"""


def _uvicorn_command(launch: Launch, code: str) -> Command:
    (launch.folder / "app.py").write_text(code.format(model=str(launch.model.file)))
    address = [f"--host={HOST}", f"--port={launch.ports.http}"]
    options = ["--no-access-log", "--http=httptools", "--loop=uvloop"]
    return [launch.scripts / "python", "-m", "uvicorn", "app:app", *address, *options]


def _measure(run: Run, case: str) -> None:
    with started(run, case, CASE.peers, "iris") as servers:
        rounds(run, case, servers, by_connections(run))


CASE = Case(
    "embedding",
    "Mounted in FastAPI and alone",
    "One-row requests over HTTP in closed loops; `serve` is `jackfield serve`.",
    _measure,
    (
        peers.PEERS["jackfield"]._replace(name="serve", environment=FASTAPI),
        Peer("alone", FASTAPI, lambda launch: _uvicorn_command(launch, ALONE)),
        Peer("mounted", FASTAPI, lambda launch: _uvicorn_command(launch, MOUNTED)),
    ),
    ("alone",),
)


def main() -> int:
    """Run the comparison; 0 if every server was measured without a failed request, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    run.add_load_arguments(parser)
    peers.add_arguments(parser)
    report.add_arguments(parser, "benchmarks/EMBEDDING.md")
    arguments = parser.parse_args()
    stop_on_sigterm()
    facts = report.machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        this = run.start_run(arguments, [*CASE.peers], Path(name))
        facts |= run.load_facts(this)
        _measure(this, CASE.name)
    report.publish(
        "Mounted in FastAPI and alone: one-row requests over HTTP",
        [*report.failures_section(this.bench.failures), *case_sections(this, CASE)],
        facts=facts,
        versions=this.bench.versions(),
        raw=run.raw(this),
        arguments=arguments,
    )
    return run.status(this)


if __name__ == "__main__":
    sys.exit(main())
