"""Send a monitor's events to a URL, in a thread of its own.

The thread begins with the first event. Nothing here is waited for by a request or a pump.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import logging
import os
import queue
import ssl
import threading
import time
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from jackfield._monitors.statistics import MonitorStatistics
    from jackfield.settings import WebhookSettings

logger = logging.getLogger("jackfield.monitor")

#: Most events that wait for their delivery; more are dropped.
MOST_WAITING = 100
#: What may be better a little later: the receiver's time is over, too many requests, its own fault.
_RETRIED = (408, 429)
#: First pause before another try, in seconds; each is twice the one before.
FIRST_PAUSE_S = 1.0


class Webhook:
    """Delivers events one after another.

    Args:
        settings: Where to, and how often it is tried.
        statistics: Counts deliveries here.
        label: Names the monitor in the log.
        first_pause_s: First pause before another try.

    Raises:
        ModelLoadError: The environment variable that should hold the key is not set.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        statistics: MonitorStatistics,
        label: str,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._settings = settings
        self._key = _find_key(settings)
        self._statistics = statistics
        self._label = label
        self._first_pause_s = first_pause_s
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        #: Why the last delivery failed; empty if it didn't.
        self.problem = ""

    def send(self, event: str, body: bytes) -> None:
        """Take an event for its delivery; dropped where too many wait.

        Args:
            event: Its kind, for a header.
            body: A JSON text.
        """
        if self._closing.is_set():
            return
        try:
            self._waiting.put_nowait((event, body))
        except queue.Full:
            self._statistics.deliveries["dropped"] += 1
            return
        if self._thread is None:
            # a daemon: a receiver that does not answer keeps no process from ending
            self._thread = threading.Thread(target=self._run, name="jackfield-webhook", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the thread end when it has tried what waits, each once more; not waited for."""
        self._closing.set()
        with contextlib.suppress(queue.Full):  # it ends when none waits
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        while not (self._closing.is_set() and self._waiting.empty()):
            waiting = self._waiting.get()
            if waiting is None:
                return
            event, body = waiting
            outcome = "delivered" if self._deliver(event, body) else "failed"
            self._statistics.deliveries[outcome] += 1

    def _deliver(self, event: str, body: bytes) -> bool:
        delivery = str(uuid.uuid4())
        pause_s = self._first_pause_s
        problem, is_final = self._post(event, body, delivery)
        for _ in range(self._settings.retries):
            if not problem or is_final or self._closing.wait(pause_s):
                break
            pause_s *= 2
            problem, is_final = self._post(event, body, delivery)
        if not problem:
            self.problem = ""
            return True
        if problem != self.problem:
            logger.warning("%s: its webhook failed: %s", self._label, problem)
        self.problem = problem
        return False

    def _post(self, event: str, body: bytes, delivery: str) -> tuple[str, bool]:
        """Try once; returns the problem, empty for none, and whether another try is no use."""
        try:
            status = self._exchange(event, body, delivery)
        except (http.client.InvalidURL, UnicodeError):
            # their texts hold the URL, which may be a secret
            return "the URL has characters that no URL has", True
        except (OSError, http.client.HTTPException, ValueError) as error:
            # of an error of the connection, the text may hold the address only
            return f"{type(error).__name__}: {error}", False
        if 200 <= status < 300:
            return "", True
        is_final = status < 500 and status not in _RETRIED
        return f"the receiver answered {status}", is_final

    def _exchange(self, event: str, body: bytes, delivery: str) -> int:
        # the standard library's client: it follows no redirect, takes no proxy from the
        # environment, and needs nothing that the core has not
        parts = urlsplit(self._settings.url)
        timeout_s = self._settings.timeout_s
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", path, body, self._headers(event, body, delivery))
            return connection.getresponse().status
        finally:
            connection.close()

    def _headers(self, event: str, body: bytes, delivery: str) -> dict[str, str]:
        """Make the headers of one try: its time is signed, so that an old event is not replayed."""
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "jackfield",
            "X-Jackfield-Event": event,
            "X-Jackfield-Delivery": delivery,
            "X-Jackfield-Timestamp": timestamp,
        }
        if self._key:
            signed = hmac.new(self._key, f"{timestamp}.".encode() + body, hashlib.sha256)
            headers["X-Jackfield-Signature"] = f"sha256={signed.hexdigest()}"
        return headers


def _find_key(settings: WebhookSettings) -> bytes:
    if not settings.secret_env:
        return settings.secret.encode()
    # read here, by the name that the model's settings give, so that the key is in no file
    key = os.environ.get(settings.secret_env, "")
    if not key:
        problem = f"a monitor's webhook: the environment variable {settings.secret_env} is not set"
        raise ModelLoadError(problem)
    return key.encode()
