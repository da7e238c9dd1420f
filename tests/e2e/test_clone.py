"""The README's first command, from a fresh clone, with nothing but Python and pip."""

import json
import os
import re
import signal
import subprocess

import pytest
from tests.readme import README, command
from tests.serving import ROOT, bare_path, clean_environment, free_port, wait_until

#: It makes an environment and downloads what it needs.
TIMEOUT_S = 240.0


@pytest.mark.skipif(not README.exists(), reason="README.md is not there yet")
def test_the_command_of_the_readme_serves_from_a_fresh_clone(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True, timeout=60
    )
    ports = {f"JACKFIELD_{name}_PORT": str(free_port()) for name in ("HTTP", "GRPC", "METRICS")}
    env = clean_environment(**ports, HOME=str(tmp_path), PATH=bare_path())
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["sh", "-c", command("serve")],
            cwd=clone,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, to end whatever the command starts
        )
    try:

        def printed() -> str | None:
            text = log.read_text()
            assert process.poll() is None, text
            found = re.search(r"^try:\n  (curl .*\\\n.*)\n", text, re.MULTILINE)
            return found and found[1]

        request = wait_until(printed, "the request to try", timeout_s=TIMEOUT_S)
        done = subprocess.run(
            request, shell=True, capture_output=True, text=True, check=False, timeout=20
        )
        assert json.loads(done.stdout)["outputs"], done.stderr
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        process.wait(30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
