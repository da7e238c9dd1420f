"""What mounting costs: one server alone and mounted in FastAPI, one-row requests over HTTP.

    python benchmarks/embedding.py [--seconds 5] [--rounds 3] [--connections 1,16,64]

Both run in uvicorn with the same settings, from the same environment; `serve` is `jackfield serve`
beside them. See README.md for how to read the result.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import report
import run
from servers import (
    ENVIRONMENTS_FOLDER,
    HOST,
    JACKFIELD,
    Environment,
    Launch,
    Peer,
    infer_body,
    note,
    prepare,
    stop_on_sigterm,
)

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


def _uvicorn_command(launch: Launch, code: str) -> list[str | Path]:
    (launch.folder / "app.py").write_text(code.format(model=str(launch.model)))
    address = [f"--host={HOST}", f"--port={launch.ports.http}"]
    options = ["--no-access-log", "--http=httptools", "--loop=uvloop"]
    return [launch.scripts / "python", "-m", "uvicorn", "app:app", *address, *options]


def _serve_command(launch: Launch) -> list[str | Path]:
    ports = [f"--{name}-port={port}" for name, port in launch.ports._asdict().items()]
    jackfield = launch.scripts / "jackfield"
    return [jackfield, "serve", launch.model, "--name", "iris", "--host", HOST, *ports]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("serve", FASTAPI, _serve_command),
        Peer("alone", FASTAPI, lambda launch: _uvicorn_command(launch, ALONE)),
        Peer("mounted", FASTAPI, lambda launch: _uvicorn_command(launch, MOUNTED)),
    )
}
#: With whom the others are compared.
REFERENCES = ("alone",)


def main() -> int:
    """Run the comparison; 0 if every server was measured without a failed request, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    run.add_load_arguments(parser)
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS_FOLDER, metavar="FOLDER")
    report.add_arguments(parser, "benchmarks/EMBEDDING.md")
    arguments = parser.parse_args()
    arguments.only = list(PEERS.values())
    executable = shutil.which("wrk")
    if executable is None:
        note("wrk is not installed; it is the Debian package `wrk` (apt-get install wrk)")
        return 2
    stop_on_sigterm()
    facts = report.machine_facts()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        bench = prepare(arguments.only, arguments.envs, folder)
        wrk = run.Wrk(executable, folder / "request.lua")
        wrk.script.write_text(run.WRK_SCRIPT.format(body=infer_body(bench.answers.rows[0])))
        measurements = run.measure_all(bench, wrk, arguments)
    report.publish(
        "Mounted in FastAPI and alone: one-row requests over HTTP",
        run.sections(measurements, bench.failures, names=PEERS, references=REFERENCES),
        facts=facts,
        versions=bench.versions(),
        raw={"measurements": list(map(asdict, measurements)), "failures": bench.failures},
        arguments=arguments,
    )
    return 1 if bench.failures or any(each.load.n_errors for each in measurements) else 0


if __name__ == "__main__":
    sys.exit(main())
