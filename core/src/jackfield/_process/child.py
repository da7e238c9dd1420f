"""One child process: started, told to load its model, and ended; blocking, in threads."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from jackfield._process.frames import FrameError, FrameReader, Loaded, LoadFailed, decode, encode
from jackfield._process.log import relay
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from jackfield._process.frames import Load, Payload

logger = logging.getLogger("jackfield")

#: Lines that a child printed last, kept for when it dies.
_KEPT_LINES = 20
_MAX_LINE_BYTES = 1024 * 1024
#: Longest wait for what a dead child printed, in seconds; a process that it started may hold on.
_LAST_WORDS_S = 1.0


class Child:
    """A fresh interpreter that serves one model; owned by a `ProcessRuntime`.

    It has a session of its own: what a terminal or a supervisor sends to the server's group does
    not reach it before the server has answered what it holds. It ends when its socket is shut, and
    at once when the server dies: it is killed when the pipe, of which only the server has the
    writing end, is closed.

    Args:
        name: The model's.
        version: The model's.
    """

    def __init__(self, name: str, version: str) -> None:
        self._facts = {"model": name, "version": version}
        if os.name != "posix" or not sys.executable:
            problem = "a process of its own needs a Unix system and a Python executable"
            raise ModelLoadError(problem)
        self.sock, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        command = [
            *(sys.executable, "-P", "-m", "jackfield._process.worker"),
            *(str(theirs.fileno()), str(lifeline), name),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: the name holds a zero byte
            self.sock.close()
            os.close(self._lifeline)
            problem = f"its process can't be started: {error}"
            raise ModelLoadError(problem) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid
        self.reader = FrameReader()
        self._ending = threading.Lock()
        self._how = ""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._relaying = threading.Thread(
            target=self._relay, name=f"jackfield-log-{name}", daemon=True
        )
        self._relaying.start()

    def load(self, load: Load) -> Loaded:
        """Wait until the model serves.

        Raises:
            ModelLoadError: It can't be served, or the child died; it is gone then.
        """
        try:
            for part in encode(load):
                self.sock.sendall(part)
            message, _ = decode(self._receive())
        except (OSError, EOFError):
            how = self.end()
            self.sock.close()
            self.report(f"its process {how} while it loaded")
            problem = f"its process {how} while it loaded; the log has what it printed last"
            raise ModelLoadError(problem) from None
        except FrameError as error:
            self.end()
            self.sock.close()
            problem = f"its process can't be told what to load, or how it went: {error}"
            raise ModelLoadError(problem) from error
        if isinstance(message, Loaded):
            return message
        self.end()
        self.sock.close()
        problem = message.problem if isinstance(message, LoadFailed) else "its process is confused"
        raise ModelLoadError(problem)

    def _receive(self) -> Payload:
        while True:
            count = self.sock.recv_into(self.reader.space())
            if not count:
                raise EOFError
            for payload in self.reader.filled(count):
                return payload

    def stop(self, timeout_s: float) -> None:
        """Let it close its runtime; kill it if it takes longer than `timeout_s` seconds."""
        # it may be gone
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning(
                "model '%s' %s: its process did not end within %g s, and is killed",
                *self._facts.values(),
                timeout_s,
            )
        self.end()

    def end(self) -> str:
        """Kill it and what it started, if they live; say how it ended."""
        with self._ending:
            if not self._how:
                self._kill()
                code = self._process.wait()
                # what it started, where it ended by itself; a group that lives keeps its number
                self._kill()
                self._relaying.join(_LAST_WORDS_S)
                os.close(self._lifeline)
                self._how = _describe_exit(code)
        return self._how

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def report(self, what: str) -> None:
        """Log how it died, with what it printed last."""
        printed = "\n".join(self._lines)
        last = f"; it printed last:\n{printed}" if printed else ""
        logger.error("model '%s' %s: %s%s", *self._facts.values(), what, last)

    def _relay(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                text = line.decode(errors="replace").rstrip("\n")
                if relay(text, **self._facts):
                    self._lines.append(text)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    names = {each.value: f" ({each.name})" for each in signal.Signals}
    return f"was killed by signal {-code}{names.get(-code, '')}"
