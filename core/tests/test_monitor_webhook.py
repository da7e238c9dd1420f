"""A monitor's events on their way to a URL: signed, tried again, and in nobody's way."""

import hashlib
import hmac
import http.server
import json
import socket
import threading

import msgspec
import pytest

from jackfield._monitors.statistics import MonitorStatistics
from jackfield._monitors.webhook import MOST_WAITING, Webhook
from jackfield.errors import ModelLoadError
from jackfield.settings import ModelSettings, MonitorSettings, WebhookSettings

KEY = "swordfish"


class Receiver(http.server.ThreadingHTTPServer):
    """Takes events, and answers what the test says; writes down what came."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers = []
        self.got = []
        self.came = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook?token=secret"

    def wait(self, count=1):
        for _ in range(count):
            assert self.came.acquire(timeout=10)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.server.came.release()
        self.server.may_answer.wait(10)
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status in (301, 307):
            self.send_header("Location", f"{self.server.url}&again=1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *given):
        """Say nothing."""


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        receiver.may_answer.set()
        receiver.shutdown()
        thread.join()


@pytest.fixture
def hook(receiver):
    """Make a webhook that does not wait long between tries; closed in the end."""
    made = []

    def make(url="", *, pause_s=0.001, **settings):
        settings = WebhookSettings(url=url or receiver.url, **settings)
        webhook = Webhook(settings, MonitorStatistics(), "monitor", first_pause_s=pause_s)
        made.append(webhook)
        return webhook

    yield make
    for webhook in made:
        webhook.close()
        if webhook._thread is not None:
            webhook._thread.join(10)


def counts(webhook):
    """Close it, and tell how its deliveries ended."""
    webhook.close()
    webhook._thread.join(10)
    assert not webhook._thread.is_alive()
    return {key: count for key, count in webhook._statistics.deliveries.items() if count}


def test_an_event_is_posted_with_a_signature_of_its_time_and_body(receiver, hook):
    webhook = hook(secret=KEY)
    webhook.send("drift", b'{"event":"drift"}')
    receiver.wait()
    assert counts(webhook) == {"delivered": 1}
    path, headers, body = receiver.got[0]
    assert path == "/hook?token=secret"
    assert body == b'{"event":"drift"}'
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Jackfield-Event"] == "drift"
    signed = headers["X-Jackfield-Timestamp"].encode() + b"." + body
    expected = hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Jackfield-Signature"] == f"sha256={expected}"


def test_the_key_may_come_from_the_environment(receiver, hook, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", KEY)
    webhook = hook(secret_env="HOOK_KEY")
    webhook.send("drift", b"{}")
    receiver.wait()
    assert "X-Jackfield-Signature" in receiver.got[0][1]
    with pytest.raises(ModelLoadError, match="NO_KEY is not set"):
        hook(secret_env="NO_KEY")


def test_without_a_key_nothing_is_signed(receiver, hook):
    webhook = hook()
    webhook.send("drift", b"{}")
    receiver.wait()
    assert "X-Jackfield-Signature" not in receiver.got[0][1]


def test_what_fails_for_a_moment_is_tried_again_as_the_same_delivery(receiver, hook):
    receiver.answers = [500, 429, 200]
    webhook = hook(retries=3)
    webhook.send("drift", b"{}")
    receiver.wait(3)
    assert counts(webhook) == {"delivered": 1}
    assert len({headers["X-Jackfield-Delivery"] for _, headers, _ in receiver.got}) == 1


def test_after_all_tries_it_is_given_up_and_told_once(receiver, hook, caplog):
    receiver.answers = [503] * 6
    webhook = hook(retries=2)
    for _ in range(2):
        webhook.send("drift", b"{}")
    receiver.wait(6)
    assert counts(webhook) == {"failed": 2}
    assert webhook.problem == "the receiver answered 503"
    assert caplog.messages == ["monitor: its webhook failed: the receiver answered 503"]


@pytest.mark.parametrize("status", [400, 404, 301, 307])
def test_a_refusal_is_final_and_a_redirect_is_not_followed(receiver, hook, status):
    receiver.answers = [status]
    webhook = hook()
    webhook.send("drift", b"{}")
    receiver.wait()
    assert counts(webhook) == {"failed": 1}
    assert len(receiver.got) == 1


def test_nobody_there_is_a_failure_that_shows_no_secret(hook):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    webhook = hook(f"http://user:{KEY}@127.0.0.1:{port}/{KEY}", retries=1)
    webhook.send("drift", b"{}")
    assert counts(webhook) == {"failed": 1}
    assert "ConnectionRefusedError" in webhook.problem
    assert KEY not in webhook.problem


@pytest.mark.parametrize("path", [f"\x01{KEY}", f"\N{SNOWMAN}{KEY}"])
def test_a_url_that_is_none_is_final_and_shows_no_secret(hook, receiver, path):
    webhook = hook(f"{receiver.url}/{path}")
    webhook.send("drift", b"{}")
    assert counts(webhook) == {"failed": 1}
    assert "characters" in webhook.problem
    assert KEY not in webhook.problem


def test_a_receiver_that_does_not_answer_in_time_is_a_failure(receiver, hook):
    receiver.may_answer.clear()
    webhook = hook(timeout_s=0.05, retries=0)
    webhook.send("drift", b"{}")
    receiver.wait()
    assert counts(webhook) == {"failed": 1}


def test_more_events_than_may_wait_are_dropped_and_counted(receiver, hook):
    receiver.may_answer.clear()
    webhook = hook()
    webhook.send("drift", b"{}")
    receiver.wait()  # the thread has it
    for _ in range(MOST_WAITING + 3):
        webhook.send("drift", b"{}")
    assert webhook._statistics.deliveries["dropped"] == 3
    receiver.may_answer.set()
    receiver.wait(MOST_WAITING)
    assert counts(webhook) == {"delivered": MOST_WAITING + 1, "dropped": 3}


def test_closing_does_not_wait_for_the_next_try(receiver, hook):
    receiver.answers = [500] * 2
    webhook = hook(pause_s=1000)
    webhook.send("drift", b"{}")
    receiver.wait()
    assert counts(webhook) == {"failed": 1}


def test_secrets_are_in_no_text_of_the_settings():
    webhook = WebhookSettings(url=f"https://user:{KEY}@example.org:8443/{KEY}?k={KEY}", secret=KEY)
    settings = ModelSettings(monitors=[MonitorSettings(detector="d", webhook=webhook)])
    for text in (repr(settings), str(settings), f"{webhook!r}", str([*webhook.__rich_repr__()])):
        assert KEY not in text
    assert "https://example.org:8443/…" in repr(settings)
    # as a file has them they can still be written
    assert msgspec.json.decode(msgspec.json.encode(settings), type=ModelSettings) == settings


DETECTOR = """
import numpy as np
from numpy.typing import NDArray


class Mean:
    def infer(self, x: NDArray[np.float64]) -> dict:
        return {"is_drift": np.array([int(x.mean() > 1)])}


class Echo:
    def infer(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x
"""


@pytest.mark.parametrize(
    ("on", "events"),
    [
        ("change", ["drift", "ok", "drift"]),
        ("drift", ["drift", "drift", "drift"]),
        ("all", ["ok", "drift", "drift", "ok", "drift"]),
    ],
)
async def test_a_monitor_sends_the_verdicts_that_are_wanted(
    receiver, add_model, models_dir, serving, until, on, events
):
    webhook = {"url": receiver.url, "secret": KEY, "on": on}
    monitors = [{"detector": "mean", "window": 1, "webhook": webhook}]
    add_model("mean", "Mean", code=DETECTOR)
    add_model("echo", "Echo", code=DETECTOR, monitors=monitors)
    async with serving(models_dir) as (server, rest, _):
        for value in (0.0, 5.0, 5.0, 0.0, 5.0):
            await server.model("echo").infer(x=[value])
        await until(lambda: len(receiver.got) == len(events))
        answer = await rest.get("/v2/models/echo/monitors")
        await until(lambda: server.model("echo").observers[0].monitor.statistics.verdicts == 5)
    bodies = [json.loads(body) for _, _, body in receiver.got]
    assert [body["event"] for body in bodies] == events
    last = bodies[-1]
    assert (last["model"], last["monitor"], last["watch"]) == ("echo", "mean", "inputs")
    assert last["verdict"]["is_positive"]
    assert KEY not in answer.text
    assert "token" not in answer.text
    shown = answer.json()["monitors"][0]["settings"]["webhook"]
    assert shown["url"] == f"http://127.0.0.1:{receiver.server_port}/…"
    assert shown["is_signed"] is True
