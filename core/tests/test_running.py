"""`jackfield.testing.running`, as a plugin's tests use it."""

import threading

import pytest

from jackfield import SettingsError
from jackfield.client import Client
from jackfield.testing import running


@pytest.mark.parametrize("shell", ["http", "grpc"])
def test_a_model_answers_over_both_wires_and_the_server_ends_with_the_block(add_model, shell):
    path = add_model("double", "Double")
    with running(path) as server, Client(getattr(server, shell)) as client:
        assert client.model("double").infer(x=[1.0, 2.0])["y"].tolist() == [2.0, 4.0]
    assert "jackfield-running" not in {thread.name for thread in threading.enumerate()}


def test_what_can_not_be_served_is_told_to_the_test(tmp_path):
    with pytest.raises(SettingsError, match="missing"), running(tmp_path / "missing"):
        pass


def test_the_server_ends_with_a_test_that_fails(add_model):
    path = add_model("double", "Double")
    with pytest.raises(ZeroDivisionError), running(path) as server:
        raise ZeroDivisionError
    with Client(server.http) as client:
        assert not client.is_live()
