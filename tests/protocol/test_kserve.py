"""KServe's clients, unmodified, by an interpreter that has them: tritonclient can't be beside.

They have no method for streams.
"""

import json
from pathlib import Path

import pytest
from tests.protocol.packages import KSERVE, require, run_python

CLIENTS = Path(__file__).with_name("clients")
BROKEN = "model 'broken' is not ready: failed to load: ValueError: a secret of load"
NOBODY = "model 'nobody' is not served here"
FAILING = "model 'failing' failed on this request; the server's log tells why"


@pytest.fixture(scope="module")
def rest(server):
    return ask("kserve_rest.py", server.http)


@pytest.fixture(scope="module")
def grpc(server):
    return ask("kserve_grpc.py", server.grpc)


def ask(script: str, address: str) -> dict[str, object]:
    python = require(KSERVE).python
    # the script's own folder is its path, for the module that both scripts share
    printed = run_python(python, str(CLIENTS / script), address, is_safe_path=False)
    return json.loads(printed.splitlines()[-1])


def test_the_rest_client_finds_the_server_live_and_ready(rest):
    assert (rest["live"], rest["ready"]) == (True, True)
    assert rest["models"] == {"echo": True, "broken": False, "nobody": False}


@pytest.mark.parametrize(
    ("form", "count"),
    [("json", 12), ("binary in", 12), ("binary out", 12), ("binary", 13), ("all binary", 13)],
)
def test_the_rest_client_gets_each_datatype_back_bit_for_bit(rest, form, count):
    assert all(rest[form].values()), rest[form]
    assert len(rest[form]) == count
    assert rest["reply"] == ["echo", "a-1"]


def test_the_rest_client_tells_our_texts(rest):
    assert rest["errors"]["nobody"].startswith(f"{NOBODY}, '404 Not Found'")
    assert rest["errors"]["broken"].startswith(f"{BROKEN}, '503 Service Unavailable'")
    assert rest["errors"]["failing"].startswith(f"{FAILING}, '500 Internal Server Error'")


def test_the_grpc_client_finds_the_server_live_and_ready(grpc):
    assert (grpc["live"], grpc["ready"]) == (True, True)
    assert grpc["models"] == {"echo": True, "broken": False}


@pytest.mark.parametrize(("form", "count"), [("raw", 13), ("typed", 12)])
def test_the_grpc_client_gets_each_datatype_back_bit_for_bit(grpc, form, count):
    assert all(grpc[form].values()), grpc[form]
    assert len(grpc[form]) == count
    assert grpc["reply"] == ["echo", "a-1"]


def test_the_grpc_client_tells_our_texts(grpc):
    assert grpc["errors"] == {
        "nobody": ["NOT_FOUND", NOBODY],
        "broken": ["UNAVAILABLE", BROKEN],
        "failing": ["INTERNAL", FAILING],
    }
