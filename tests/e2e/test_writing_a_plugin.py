"""The page for plugin authors, walked: its commands, in its order, with nothing but wheels."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from tests.readme import commands
from tests.serving import ROOT, bare_path, clean_environment, free_port, wait_until

PAGE = ROOT / "docs" / "writing-a-plugin.md"
#: Environments are made and filled by pip.
TIMEOUT_S = 240.0


@pytest.fixture
def environ(wheels, tmp_path):
    """An environment in which pip finds the core's wheel, and nothing of ours is installed."""
    ports = {f"JACKFIELD_{name}_PORT": str(free_port()) for name in ("HTTP", "GRPC", "METRICS")}
    found = os.environ.get("PIP_FIND_LINKS", "")
    return clean_environment(
        **ports, PIP_FIND_LINKS=f"{found} {wheels}".strip(), HOME=str(tmp_path), PATH=bare_path()
    )


def test_the_page_leads_from_nothing_to_a_plugin_that_serves(environ, tmp_path, capsys):
    steps = commands(PAGE)
    assert list(steps) == ["make", "test", "build", "install", "model", "serve", "ask"]
    began = time.monotonic()

    # one shell for all, as a person has: it keeps the folder and the environment
    script = "".join(
        f"echo '[{name}'\n{text}\necho '{name}]'\n"
        for name, text in steps.items()
        if name not in ("serve", "ask")
    )
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    output = {
        name: re.search(rf"^\[{name}\n(.*)^{name}\]$", done.stdout, re.M | re.S)[1]
        for name in ("make", "test", "install")
    }
    assert "wrote jackfield-linear; next:" in output["make"]
    assert re.search(r"^=+ \d+ passed(, \d+ skipped)? in .*=+$", output["test"], re.M)
    assert re.search(r"^linear +jackfield-linear 0\.1\.0 +import +[\d.]+$", output["test"], re.M)
    assert re.search(
        r"^linear +jackfield-linear 0\.1\.0 +linear +\*\.npz +numpy ", output["install"], re.M
    )

    answer = serve_and_ask(steps, environ, tmp_path)
    took_s = time.monotonic() - began
    assert answer["outputs"] == [{"name": "y", "shape": [1, 1], "datatype": "FP64", "data": [3.5]}]
    with capsys.disabled():
        print(f"\nthe walk, from nothing to an answer: {took_s:.0f} s")  # noqa: T201


def serve_and_ask(steps, environ, tmp_path):
    """Run the command that serves, until the one that asks is answered."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["sh", "-c", steps["serve"]],
            cwd=tmp_path / "jackfield-linear",
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, to end whatever the command starts
        )
    try:

        def is_serving() -> bool:
            assert process.poll() is None, log.read_text()
            return "\ntry:\n" in log.read_text()

        wait_until(is_serving, "the server", timeout_s=TIMEOUT_S)
        assert "localhost:8080/" in steps["ask"]
        ask = steps["ask"].replace(":8080/", f":{environ['JACKFIELD_HTTP_PORT']}/")
        done = subprocess.run(
            ask, shell=True, capture_output=True, text=True, check=False, timeout=20
        )
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait(30)
        return json.loads(done.stdout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
