"""An application that imports a client of the protocol embeds our server, gRPC and all."""

import json
from pathlib import Path

import pytest
from tests.protocol.packages import KSERVE, MLSERVER, TRITON, require, run_python

SCRIPT = Path(__file__).with_name("clients") / "embedding.py"


@pytest.mark.parametrize("client", [TRITON, KSERVE, MLSERVER], ids=lambda client: client.package)
def test_a_client_and_our_server_live_in_one_process(client, repository):
    require(client)
    modules = (client.front_door, client.messages, client.stubs)
    printed = run_python(client.python, str(SCRIPT), *modules, str(repository / "echo"))
    assert json.loads(printed.splitlines()[-1]) == {
        "grpc": ["x", [1, 2]],
        "name": "jackfield",
        "http": {"live": True, "ready": True},
        "in process": [3, 4],
    }
