"""One child process: started, heard, and ended; blocking, in threads."""

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
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jackfield._label import label_model
from jackfield._lifeline import describe_exit
from jackfield._process.log import relay
from jackfield._process.segments import Transport
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jackfield._environments import Environment

logger = logging.getLogger("jackfield")

#: Lines that a child printed last, kept for when it dies.
_KEPT_LINES = 50
_MAX_LINE_BYTES = 1024 * 1024
#: Longest wait for what a dead child printed, in seconds; a process that it started may hold on.
_LAST_WORDS_S = 1.0
#: Variables that bring the server's packages into another environment's interpreter.
_SERVERS_OWN = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
#: What a process's own code raises; others are sent, by whoever may.
_OWN_SIGNALS = {
    int(getattr(signal, name))
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
}


class Child:
    """A fresh interpreter that serves models; owned by a `Host`.

    It has a session of its own: what a terminal or a supervisor sends to the server's group does
    not reach it before the server has answered what it holds. It ends when its socket is shut, and
    at once when the server dies: it is killed when the pipe, of which only the server has the
    writing end, is closed.

    Args:
        title: Of the process, for who lists processes.
        facts: Tells, for the log, whose process it is: `model` and `version`.
        environment: Its interpreter and packages; None for the server's.

    Raises:
        ModelLoadError: It can't be started.
    """

    def __init__(
        self, title: str, facts: Callable[[], dict[str, str]], environment: Environment | None
    ) -> None:
        self._facts = facts
        if os.name != "posix" or not sys.executable:
            problem = "a process of its own needs a Unix system and a Python executable"
            raise ModelLoadError(problem)
        self.sock, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        command = [
            *_interpreter(environment),
            *(str(theirs.fileno()), str(lifeline), title),
            *(environment.extra_path if environment else ()),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_variables(environment),
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
        self.transport = Transport()
        #: Whether it ended by what it did itself, as far as can be told; `end` finds out.
        self.is_own_doing = False
        self._ending = threading.Lock()
        self._how = ""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._relaying = threading.Thread(
            target=self._relay, name=f"jackfield-log-{title}", daemon=True
        )
        self._relaying.start()

    def stop(self, timeout_s: float) -> None:
        """Let it close its runtimes; kill it if it takes longer than `timeout_s` seconds."""
        # it may be gone
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning(
                "%s: its process did not end within %g s, and is killed",
                label_model(*self._facts().values()),
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
                self.is_own_doing = code >= 0 or -code in _OWN_SIGNALS
                self._how = describe_exit(code)
        return self._how

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def report(self, what: str) -> None:
        """Log how it died, with what it printed last."""
        printed = "\n".join(self._lines)
        last = f"; it printed last:\n{printed}" if printed else ""
        logger.error("%s: %s%s", label_model(*self._facts().values()), what, last)

    def _relay(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                text = line.decode(errors="replace").rstrip("\n")
                if relay(text, **self._facts()):
                    self._lines.append(text)


def _interpreter(environment: Environment | None) -> list[str]:
    """Tell what to start: the interpreter, and how it finds this package."""
    package = Path(__file__).parents[1]
    if environment is None:
        return [sys.executable, "-P", "-m", "jackfield._process.worker"]
    bootstrap = package / "_process" / "bootstrap.py"
    # -s: a user's own packages are no part of it
    return [str(environment.python), "-s", "-P", str(bootstrap), *_lent(package)]


def _lent(package: Path) -> list[str]:
    """Tell where the packages and plugins lie that `bootstrap` lends, each after their number.

    Plugins are lent for an environment that holds a framework and knows nothing of Jackfield, as
    MLServer's users have packed.
    """
    lent = [str(package)]
    plugins = []
    for name in ("prometheus_client", "threadpoolctl"):
        lent += _place(name)
    for entry in entry_points(group="jackfield"):
        place = _place(entry.module.partition(".")[0])
        if place and entry.dist is not None:
            lent += place
            plugins += [entry.dist.name, str(entry.dist.locate_file(""))]
    return [str(len(lent)), *lent, str(len(plugins) // 2), *plugins]


def _place(module: str) -> list[str]:
    """Tell where a module or package of Python code lies; empty where there is none."""
    found = find_spec(module)
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return []
    file = Path(found.origin)
    return [str(file.parent if file.name == "__init__.py" else file)]


def _variables(environment: Environment | None) -> dict[str, str] | None:
    """Tell the variables of its process; None for the server's own."""
    if environment is None:
        return None
    found = {name: value for name, value in os.environ.items() if name not in _SERVERS_OWN}
    # what its packages start by name is theirs
    found["PATH"] = os.pathsep.join([str(environment.python.parent), found.get("PATH", os.defpath)])
    return found
