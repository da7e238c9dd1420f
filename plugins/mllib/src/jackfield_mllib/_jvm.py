"""The process that Spark's driver runs in: found, started, watched, connected to and ended.

Used by `_session` alone; knows no models. pyspark's own launch waits without end for a JVM that
hangs, forks with Python code in the child (a danger beside the threads of a server) and leaves the
process to the signals that the server gets; so it is started here, and pyspark is told where it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.find_spark_home import _find_spark_home
from pyspark.java_gateway import launch_gateway

from jackfield import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Jvm", "check_java"]

logger = logging.getLogger("jackfield.spark")

#: The oldest Java that Spark 4 runs on.
_OLDEST_JAVA = 17
_WANTED = "Spark needs Java 17 or 21"
_ADVICE = "install a JDK or JRE, or set JAVA_HOME to the folder of one"
#: For `java -version`, which takes a tenth of a second on a machine with nothing to do.
_ASK_JAVA_S = 60.0
#: How often the start looks for the file in which the JVM tells its port.
_LOOK_S = 0.02
#: What a JVM gets to end after it was told to, before it is killed.
_END_S = 15.0
#: Lines of the JVM's log that are kept for the text of an error, stack traces aside.
_LINES = 5
#: Runs a command that ignores the signals by which a server is told to stop: the JVM has to answer
#: what is in flight, and ends when the server closes its standard input, or is gone.
_DEAF = ("/bin/sh", "-c", "trap '' HUP INT TERM; exec \"$@\"", "sh")

_SPARK_LINE = re.compile(
    r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (?P<level>TRACE|DEBUG|INFO|WARN|ERROR|FATAL) (?P<text>.*)"
)
_LEVELS = {"WARN": logging.WARNING, "ERROR": logging.ERROR, "FATAL": logging.ERROR}
#: What every start says, on every machine, and every load.
_USUAL = (
    # the column of labels, which no request has
    "does not exist during transformation. Skip StringIndexerModel",
    "NativeCodeLoader",
    "Using incubator modules",
    "Using Spark's default log4j profile",
    "Setting default log level",
    "To adjust logging level",
    "InstanceBuilder: Failed to load implementation",
    "VectorizationProvider",
    # a session that runs here needs no address that others reach
    "Utils: Your hostname",
    "Utils: Set SPARK_LOCAL_IP",
)


def check_java() -> None:
    """Find the Java that Spark's scripts would run, before they fail in words of their own.

    Raises:
        ModelLoadError: There is none, or it is too old.
    """
    home = Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home(), "conf"))
    if (home / "spark-env.sh").is_file():
        return  # it may set JAVA_HOME
    java_home = os.environ.get("JAVA_HOME")
    runner = str(Path(java_home, "bin", "java")) if java_home else "java"
    if shutil.which(runner) is None:
        where = f"JAVA_HOME is '{java_home}', which has no bin/java" if java_home else ""
        raise ModelLoadError(f"{_WANTED}; {where or 'none was found'}: {_ADVICE}")
    try:
        told = subprocess.run(
            [runner, "-version"], capture_output=True, text=True, timeout=_ASK_JAVA_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelLoadError(f"{_WANTED}; '{runner}' does not run: {error}") from error
    text = told.stderr + told.stdout
    found = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', text)
    if told.returncode or found is None:
        raise ModelLoadError(f"{_WANTED}; '{runner} -version' says: {text.strip() or 'nothing'}")
    if int(found[2]) < _OLDEST_JAVA:
        raise ModelLoadError(f"{_WANTED}; '{runner}' is version {found[1]}: {_ADVICE}")


class Jvm:
    """A JVM in a process group of its own, which ends with the process that started it.

    Args:
        conf: Spark's configuration, which the JVM starts with.
        timeout_s: What it gets until its gateway answers, in seconds.
        on_end: Called once in a thread when the process ended without `end`, with how it did.

    Raises:
        ModelLoadError: It ended, or did not answer in time.
    """

    def __init__(
        self, conf: Mapping[str, str], *, timeout_s: float, on_end: Callable[[Jvm], object]
    ) -> None:
        self._on_end = on_end
        self._is_wanted = True
        #: Set when the process has ended.
        self.ended = threading.Event()
        self._last_lines: deque[str] = deque(maxlen=_LINES)
        py4j = logging.getLogger("py4j")
        if py4j.level == logging.NOTSET:
            # it tells of each connection, and of those that break with a stack trace
            py4j.setLevel(logging.WARNING)
        folder = Path(tempfile.mkdtemp(prefix="jackfield-spark-"))
        try:
            port_file = folder / "port"
            self._process = _start(conf, folder, port_file)
            self.pid = self._process.pid
            self._relay_thread = self._spawn("log", self._relay)
            self._spawn("watch", self._watch)
            try:
                self._wait_for(port_file, timeout_s)
                told = port_file.read_bytes()
                port, size = struct.unpack_from(">ii", told)
                secret = told[8 : 8 + size].decode()
                with _environment(PYSPARK_GATEWAY_PORT=str(port), PYSPARK_GATEWAY_SECRET=secret):
                    self.gateway: Any = launch_gateway()  # type: ignore[no-untyped-call]
            except BaseException:
                self.end(at_once=True)
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self, *, at_once: bool = False) -> None:
        """End the process, and return when it is gone.

        Args:
            at_once: Kill it, rather than ask it first.
        """
        self._is_wanted = False
        if hasattr(self, "gateway"):
            with contextlib.suppress(Exception):  # whatever py4j meets at a JVM that is gone
                self.gateway.shutdown()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if at_once or not self.ended.wait(_END_S):
            self.kill()
            self.ended.wait()

    def kill(self) -> None:
        """Kill the process and what it started; whoever waits for its answer gets an error."""
        if self.ended.is_set():
            return  # its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def is_gone(self) -> bool:
        """Tell whether the process has ended, noticed or not."""
        if self.ended.is_set():
            return True
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, options) is not None
        except ChildProcessError:
            return True

    @property
    def ending(self) -> str:
        """How the process ended, to follow its name: ``was killed by SIGKILL``."""
        code = self._process.returncode
        if code is None:
            return "is running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    @property
    def last_words(self) -> str:
        """What it printed last, in one line."""
        self._relay_thread.join(1)  # the pipe may hold some still
        return "; ".join(self._last_lines) or "it said nothing"

    def _spawn(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"spark-{name}-{self.pid}", daemon=True)
        thread.start()
        return thread

    def _watch(self) -> None:
        self._process.wait()
        self.ended.set()
        if self._is_wanted:
            self._on_end(self)

    def _wait_for(self, file: Path, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not file.is_file():
            if self.ended.wait(_LOOK_S):
                raise ModelLoadError(f"the JVM of Spark {self.ending}: {self.last_words}")
            if time.monotonic() > until:
                raise ModelLoadError(
                    f"the JVM of Spark did not start within {timeout_s:g} s: {self.last_words}"
                )

    def _relay(self) -> None:
        """Log what the JVM prints; the lines of a stack trace as the line before them."""
        level = logging.DEBUG
        if self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for raw in lines:
                line = raw.decode(errors="replace").rstrip()
                if not line:
                    continue
                is_trace = line.startswith(("\t", "Caused by: "))
                if match := _SPARK_LINE.fullmatch(line):
                    level, line = _LEVELS.get(match["level"], logging.DEBUG), match["text"]
                elif not is_trace:
                    level = logging.DEBUG
                if any(each in line for each in _USUAL):
                    level = logging.DEBUG
                elif not is_trace:
                    self._last_lines.append(line)
                logger.log(level, "%s", line)


def _start(conf: Mapping[str, str], folder: Path, port_file: Path) -> subprocess.Popen[bytes]:
    # a file, not arguments, which everyone on the machine can read: there may be secrets
    properties = folder / "spark.properties"
    properties.touch(mode=0o600)
    properties.write_text("".join(f"{key} {_escape(conf[key])}\n" for key in conf))
    wanted = shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"))
    command = [
        *_DEAF,
        str(Path(_find_spark_home(), "bin", "spark-submit")),
        "--properties-file",
        str(properties),
        "--load-spark-defaults",
        *wanted,
    ]
    environment = {
        **os.environ,
        "SPARK_CONNECT_MODE": "0",
        "_PYSPARK_DRIVER_CONN_INFO_PATH": str(port_file),
    }
    try:
        return subprocess.Popen(
            command,
            env=environment,
            # the JVM ends when this pipe does: with this process, however that ends
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ModelLoadError(f"Spark can't be started: {error}") from error


def _escape(value: str) -> str:
    """Write a value as Java's properties have it."""
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{escaped}" if escaped[:1].isspace() else escaped


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables for a moment: pyspark knows no other way to say where a gateway is."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
