import contextlib
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from tests.embedding.snippets import write_snippet
from tests.serving import clean_environment, write_model


@pytest.fixture
def home(tmp_path):
    """A folder with the models that the page's snippets name."""
    write_model(tmp_path / "models", "iris.Iris", name="iris")
    return tmp_path


@pytest.fixture
def log(home):
    """What happened to the model: `load` and `close`."""

    def read():
        return (home / "models" / "iris" / "log").read_text().split()

    return read


#: Runner -> the arguments that make it serve `app` on a socket that is open already.
RUNNERS = {
    "uvicorn": ["uvicorn", "app:app", "--fd"],
    "hypercorn": ["hypercorn", "app:app", "--bind"],
}


@pytest.fixture
def serve(home):
    """Serve a snippet as its reader would, in a process of its own; ends it by SIGTERM."""

    @contextlib.contextmanager
    def run(name, runner="uvicorn"):
        write_snippet(name, home)
        # a call waits in the open socket until the app is there: nothing polls
        with socket.create_server(("127.0.0.1", 0)) as listener:
            number = listener.fileno()
            port = listener.getsockname()[1]
            at = f"fd://{number}" if runner == "hypercorn" else str(number)
            with (home / "output").open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", *RUNNERS[runner], at],
                    cwd=home,
                    pass_fds=[number],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=clean_environment(),
                )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        finally:
            process.kill()
            process.wait(10)
            sys.stdout.write((home / "output").read_text())

    return run
