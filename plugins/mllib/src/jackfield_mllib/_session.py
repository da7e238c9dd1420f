"""One Spark session for all models of a process: started by the first, stopped with the last.

A model has a `Lease`. If Spark is lost (its JVM dies, a Connect server goes), calls in flight fail
at once, every lease has a `problem`, Spark is started again in the background, and each model is
told to load itself into the new session. Used by the runtime and its routes; knows no models.

A session has one configuration. The first model that names a key decides its value; a later one
that names another value is refused, unless Spark can change the key while it runs and no model has
named it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from py4j.protocol import Py4JNetworkError
from pyspark import SparkConf, SparkContext, SparkFiles
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jackfield import JackfieldError, ModelLoadError, ModelNotReadyError
from jackfield_mllib._jvm import Jvm, check_java

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Lease", "SessionOptions", "acquire"]

logger = logging.getLogger("jackfield.spark")

#: For a start with nothing else to do on the machine it is 4 to 7 s.
_START_S = 120.0
#: For Spark to finish what it does, and stop.
_STOP_S = 30.0
#: For one address of a cluster to accept a connection.
_CONNECT_S = 5.0
#: Between attempts to start Spark again: the first, and the most.
_PAUSE_S = (1.0, 60.0)
#: From a broken connection to the end of the process at its other end.
_NOTICE_S = 5.0
#: Between signs of life to a Spark Connect server, which forgets a session that gives none for an
#: hour, or what its operator sets.
_ALIVE_S = 60.0
#: What a Spark Connect server says of a session that it no longer has.
_GONE = (
    "INVALID_HANDLE",
    "SESSION_CLOSED",
    "SESSION_CHANGED",
    "SESSION_NOT_FOUND",
    "UNAVAILABLE",
    "RETRIES_EXCEEDED",
)
#: As the ports are that an URL leaves out.
_PORTS = {"spark": 7077, "sc": 15002}
_MASTER = "spark.master"
_REMOTE = "spark.remote"


class SessionOptions(Struct, frozen=True, kw_only=True):
    """What a model wants of the session."""

    #: Spark's own settings.
    conf: Mapping[str, str | bool | float] = {}
    #: Empty: a local one with `threads`.
    master: str = ""
    #: URL of a Spark Connect server, ``sc://host:port``; excludes `master`.
    remote: str = ""
    #: Cores of a local master.
    threads: int = 1
    #: From the first process to a session that answers, in seconds.
    timeout_s: float = _START_S

    def wanted(self) -> dict[str, str]:
        """Give what it names, with the address as a key like the others.

        Raises:
            ModelLoadError: Two addresses are named, or one that Spark has no word for.
        """
        conf = {key: _text(value) for key, value in self.conf.items()}
        for key, value in ((_MASTER, self.master), (_REMOTE, self.remote)):
            if value and conf.setdefault(key, value) != value:
                raise ModelLoadError(
                    f"'conf' has '{key}': '{conf[key]}', while '{key[6:]}' is '{value}'; "
                    "name it once"
                )
        if _MASTER in conf and _REMOTE in conf:
            raise ModelLoadError(
                f"'master' is '{conf[_MASTER]}' and 'remote' '{conf[_REMOTE]}'; a session is of "
                "one of the two"
            )
        if not conf.get(_REMOTE, "sc://").startswith("sc://"):
            raise ModelLoadError(
                f"'remote': expected a Spark Connect URL, 'sc://host:port', found "
                f"'{conf[_REMOTE]}'; what runs in a JVM of this process is 'master'"
            )
        return conf


def acquire(options: SessionOptions, *, name: str, version: str = "") -> Lease:
    """Take a share in the process's Spark session, which the first caller starts.

    Args:
        options: What the model wants; what it does not name is as it is.
        name: The model, for errors.
        version: Its version.

    Returns:
        The share; who asked for it closes it.

    Raises:
        ModelLoadError: Spark can't be started, or runs with other options.
    """
    return _SHARED.acquire(options, name, version)


class Lease:
    """A model's share in the session, to be used from any thread; made by `acquire`."""

    def __init__(self, shared: _Shared, engine: _Engine, name: str, version: str) -> None:
        self.name = name
        self._version = version
        self._shared = shared
        self._engine = engine
        self._reload: Callable[[SparkSession], None] | None = None
        #: Why the model can't answer now; empty when it can.
        self.problem = ""

    @property
    def spark(self) -> SparkSession:
        """The session of the moment; another one after Spark was lost."""
        return self._engine.session

    @property
    def is_connect(self) -> bool:
        """Whether it is a Spark Connect session, which has no gateway to a JVM."""
        return self._engine.is_connect

    @property
    def jvm_pid(self) -> int | None:
        """The process of the JVM that this process started; None if it started none."""
        return self._engine.jvm_pid

    def on_restart(self, reload: Callable[[SparkSession], None]) -> None:
        """Say how to load the model into a new session, after the old one was lost.

        Args:
            reload: Called in a thread; what it raises becomes the model's `problem`.
        """
        self._reload = reload

    @contextlib.contextmanager
    def calls(self) -> Iterator[SparkSession]:
        """Use Spark: for all calls of one request.

        Raises:
            ModelNotReadyError: Spark is not there, or was lost during the calls.
        """
        if self.problem:
            raise self._not_ready(self.problem)
        engine = self._engine
        engine.activate()
        try:
            yield engine.session
        except JackfieldError:
            raise
        except Exception as error:  # whatever a connection that breaks makes the libraries raise
            problem = engine.find_loss(error)
            if problem:
                raise self._not_ready(self._shared.lose(engine, problem)) from error
            raise

    def close(self) -> None:
        """Give the share back; the last one stops Spark and ends its JVM."""
        self._shared.release(self)

    def _not_ready(self, reason: str) -> ModelNotReadyError:
        return ModelNotReadyError(self.name, self._version, reason=reason)

    # ---- for `_Shared` ----

    def suspend(self, problem: str) -> None:
        self.problem = problem

    def resume(self, engine: _Engine) -> None:
        """Load the model into a new session."""
        self._engine = engine
        if self._reload is not None:
            engine.activate()
            try:
                self._reload(engine.session)
            except Exception as error:
                if problem := engine.find_loss(error):
                    self._shared.lose(engine, problem)
                    return
                logger.exception("model '%s' can't be loaded into the new session", self.name)
                self.problem = f"it can't be loaded again after Spark was lost: {error}"
                return
        self._shared.settle(self, engine)


class _Engine(Protocol):
    """What gives the session."""

    session: SparkSession
    is_connect: bool
    jvm_pid: int | None

    def activate(self) -> None:
        """Make it the one that Spark's own code takes in the calling thread."""

    def find_loss(self, error: BaseException | None) -> str:
        """Say why the session is lost, if that is what an error comes from; else nothing."""

    def stop(self, *, is_lost: bool = False) -> None:
        """End it, and forget it."""


class _Shared:
    """The state of the process: pyspark has one context for each, too."""

    def __init__(self) -> None:
        #: Starting, stopping and counting are one at a time.
        self._lock = threading.Lock()
        self._leases: list[Lease] = []
        self._engine: _Engine | None = None
        self._options = SessionOptions()
        #: What models have named: key, its value, and the model.
        self._named: dict[str, tuple[str, str]] = {}
        #: Why there is no session though there are leases.
        self._problem = ""
        #: For who notices a loss first.
        self._noticing = threading.Lock()
        self._all_closed = threading.Event()

    def acquire(self, options: SessionOptions, name: str, version: str) -> Lease:
        wanted = options.wanted()
        with self._lock:
            if self._problem:
                raise ModelLoadError(self._problem)
            if self._engine is None:
                self._options = options
                self._named = {key: (value, name) for key, value in wanted.items()}
                self._engine = self._start()
                self._all_closed.clear()
            else:
                self._join(self._engine, wanted, name)
            lease = Lease(self, self._engine, name, version)
            self._leases.append(lease)
            self._check(self._engine)
            return lease

    def release(self, lease: Lease) -> None:
        with self._lock:
            if lease not in self._leases:
                return
            self._leases.remove(lease)
            lease.suspend("it is closed")
            if self._leases:
                return
            self._all_closed.set()
            engine, self._engine = self._engine, None
            is_lost, self._problem = bool(self._problem), ""
            if engine is not None:
                engine.stop(is_lost=is_lost)

    def lose(self, engine: _Engine, problem: str) -> str:
        """Take notice that a session is lost, once; tells at once what becomes of it."""
        with self._noticing:
            if self._engine is not engine or self._problem:
                return self._problem or problem
            self._problem = f"{problem}; it is being started again"
            for lease in list(self._leases):
                lease.suspend(self._problem)
        logger.error("%s", self._problem)
        threading.Thread(
            target=self._recover, args=(engine, problem), name="spark-recover", daemon=True
        ).start()
        return self._problem or problem

    def settle(self, lease: Lease, engine: _Engine) -> None:
        """Let a model answer again, unless the session was lost once more."""
        with self._noticing:
            if self._engine is engine and not self._problem and lease in self._leases:
                lease.suspend("")

    def _check(self, engine: _Engine) -> None:
        """Notice what was lost before anything could be told of it."""
        if problem := engine.find_loss(None):
            self.lose(engine, problem)

    def _recover(self, lost: _Engine, problem: str) -> None:
        pause, most = _PAUSE_S
        lost.stop(is_lost=True)
        while True:
            with self._lock:
                if self._engine is not lost:
                    return  # all models were closed
                engine = self._start_again(problem)
                leases = list(self._leases)
            if engine is not None:
                break
            logger.error("%s; next attempt in %g s", self._problem, pause)
            if self._all_closed.wait(pause):
                return
            pause = min(2 * pause, most)
        self._check(engine)
        for lease in leases:
            if self._engine is not engine or self._problem:
                return  # lost once more: who noticed goes on
            if lease in self._leases:
                lease.resume(engine)
        logger.info("Spark was started again, with %d models", len(leases))

    def _start_again(self, problem: str) -> _Engine | None:
        try:
            engine = self._start()
        except ModelLoadError as error:
            self._problem = f"{problem}, and can't be started again: {error}"
            for lease in self._leases:
                lease.suspend(self._problem)
            return None
        self._engine, self._problem = engine, ""
        return engine

    def _start(self) -> _Engine:
        conf = {key: value for key, (value, _) in self._named.items()}
        if _REMOTE in conf:
            return _Remote(conf, self._options.timeout_s, self.lose)
        if SparkContext._active_spark_context is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
            engine = _Foreign()
            self._named = {}
            self._join(engine, conf, "")
            return engine
        return _Local(conf, self._options, self.lose)

    def _join(self, engine: _Engine, wanted: dict[str, str], model: str) -> None:
        """Check what one more model wants against what there is."""
        runtime = engine.session.conf
        for key, value in wanted.items():
            known, by = self._named.get(key, (None, ""))
            if known is None and key != _REMOTE:
                known = runtime.get(key, None)
            if known == value:
                continue
            if not by and key not in (_MASTER, _REMOTE) and runtime.isModifiable(key):
                runtime.set(key, value)
                self._named[key] = (value, model)
                continue
            found = "without it" if known is None else f"with '{known}'"
            raise ModelLoadError(
                f"'{key}' is '{value}', but the Spark session that all models of this process "
                f"share runs {found}{f', as model {by!r} says' if by else ''}; say the same for "
                "all, or serve the model from a server of its own"
            )


class _Local:
    """A session in a JVM that this process started: on this machine, or the driver of a cluster."""

    is_connect = False

    def __init__(
        self,
        conf: Mapping[str, str],
        options: SessionOptions,
        on_loss: Callable[[_Engine, str], object],
    ) -> None:
        check_java()
        master = conf.get(_MASTER) or f"local[{options.threads}]"
        _check_answers(master, "master")
        conf = {**_defaults(master, options.threads), **conf, _MASTER: master}
        self._jvm = Jvm(
            conf,
            timeout_s=options.timeout_s,
            on_end=lambda jvm: on_loss(self, self._loss(jvm)),
        )
        self.jvm_pid: int | None = self._jvm.pid
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._jvm.kill()

        overdue = threading.Timer(options.timeout_s, give_up)
        overdue.start()
        try:
            self.session = self._connect(conf, master)
        except Exception as error:
            is_gone = self._jvm.is_gone()
            self._jvm.end(at_once=True)
            _forget()
            if is_late.is_set():
                reason = f"there was no session within {options.timeout_s:g} s"
            elif is_gone:
                reason = f"its JVM {self._jvm.ending}: {self._jvm.last_words}"
            else:
                reason = str(error).strip().partition("\n\tat ")[0]
            raise ModelLoadError(
                f"Spark can't be started with master '{master}': {reason}"
            ) from error
        finally:
            overdue.cancel()
        logger.info("Spark %s is started, process %d", self.session.version, self._jvm.pid)

    def _connect(self, conf: Mapping[str, str], master: str) -> SparkSession:
        found: list[SparkSession] = []
        failed: list[BaseException] = []

        def connect() -> None:
            try:
                known = SparkConf(loadDefaults=True, _jvm=self._jvm.gateway.jvm)
                for key, value in conf.items():
                    known.set(key, value)
                context = SparkContext(conf=known, gateway=self._jvm.gateway)
                if master.startswith("local"):
                    # the Python of PATH need not have what this one has
                    context.pythonExec = os.environ.get("PYSPARK_PYTHON", sys.executable)
                self._files = SparkFiles.getRootDirectory()
                found.append(SparkSession(context))
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                failed.append(error)

        # on the main thread, pyspark would take the server's own handler for SIGINT away
        thread = threading.Thread(target=connect, name="spark-connect")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def activate(self) -> None:
        """Do nothing: a process has one context."""

    def find_loss(self, error: BaseException | None) -> str:
        if error is not None and _is_broken(error):
            self._jvm.ended.wait(_NOTICE_S)
        if self._jvm.is_gone():
            self._jvm.ended.wait(_NOTICE_S)
            return self._loss(self._jvm)
        if error is not None and "stopped SparkContext" in str(error):
            # as it does when a cluster's master is gone for good
            return "Spark has stopped by itself"
        return ""

    def stop(self, *, is_lost: bool = False) -> None:
        context = self.session._sc
        if not is_lost:
            overdue = threading.Timer(_STOP_S, self._jvm.kill)
            overdue.start()
            with contextlib.suppress(Exception):  # it may end while it is told to
                self.session.stop()
            overdue.cancel()
        context._jsc = None  # what is left is on Python's side
        context.stop()
        _forget()
        if self._files in sys.path:
            sys.path.remove(self._files)
        self._jvm.end(at_once=is_lost)
        logger.info("Spark is stopped, process %d", self._jvm.pid)

    @staticmethod
    def _loss(jvm: Jvm) -> str:
        return f"the JVM of Spark {jvm.ending}"


class _Foreign:
    """A session that other code of this process started, and will stop."""

    is_connect = False
    jvm_pid: int | None = None

    def __init__(self) -> None:
        self.session = SparkSession.builder.getOrCreate()

    def activate(self) -> None:
        """Do nothing: a process has one context."""

    def find_loss(self, error: BaseException | None) -> str:
        return ""

    def stop(self, *, is_lost: bool = False) -> None:
        pass


class _Remote:
    """A session of a Spark Connect server."""

    is_connect = True
    jvm_pid: int | None = None

    def __init__(
        self, conf: Mapping[str, str], timeout_s: float, on_loss: Callable[[_Engine, str], object]
    ) -> None:
        self._url = conf[_REMOTE]
        _check_answers(self._url, "remote")
        try:
            from pyspark.sql.connect.client.retries import DefaultPolicy
            from pyspark.sql.connect.session import SparkSession as RemoteSession
        except ImportError as error:
            raise ModelLoadError(
                f"Spark Connect needs a module that is not installed: {error}; install it: "
                'pip install "pyspark[connect]"'
            ) from error
        if SparkContext._active_spark_context is not None:
            raise ModelLoadError(
                f"'remote' is '{self._url}', but other code of this process runs a Spark of its "
                "own in it, and pyspark can't have both"
            )
        found: list[SparkSession] = []
        failed: list[Exception] = []

        def connect() -> None:
            try:
                session: Any = RemoteSession.builder.remote(self._url).create()
                # by default a call to a server that is gone is tried again for ten minutes
                session.client.set_retry_policies([DefaultPolicy(max_retries=3, max_backoff=500)])
                session.version  # noqa: B018  the first call to the server
                for key, value in conf.items():
                    if key != _REMOTE:
                        session.conf.set(key, value)
                found.append(session)
            except Exception as error:  # noqa: BLE001  raised where it is waited for
                failed.append(error)

        os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
        thread = threading.Thread(target=connect, name="spark-connect", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if not found:
            os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)
            reason = failed[0] if failed else f"no answer within {timeout_s:g} s"
            raise ModelLoadError(
                f"the Spark Connect server at '{self._url}' can't be used: {reason}"
            )
        self.session = found[0]
        self._stopped = threading.Event()
        threading.Thread(
            target=self._stay, args=(on_loss,), name="spark-connect-alive", daemon=True
        ).start()

    def _stay(self, on_loss: Callable[[_Engine, str], object]) -> None:
        """Keep the session, and notice without a request that it is lost."""
        while not self._stopped.wait(_ALIVE_S):
            try:
                self.session.conf.get("spark.sql.session.timeZone")
            except Exception as error:  # noqa: BLE001  of gRPC or pyspark, whatever breaks
                if problem := self.find_loss(error):
                    on_loss(self, problem)
                    return

    def activate(self) -> None:
        # models are read and called by what is active in a thread, or not at all
        active: Any = type(self.session)._active_session  # type: ignore[attr-defined]
        active.session = self.session

    def find_loss(self, error: BaseException | None) -> str:
        if error is None:
            return ""
        problem = f"the session of the Spark Connect server at '{self._url}' is lost"
        if isinstance(error, PySparkException):
            told = f"{error.getCondition()} {error}"
            if any(each in told for each in _GONE):
                return problem
        try:
            _check_answers(self._url, "remote")
        except ModelLoadError:
            return problem
        return ""

    def stop(self, *, is_lost: bool = False) -> None:
        self._stopped.set()
        if is_lost:
            self.session.release_session_on_close = False  # type: ignore[attr-defined]
        self.session.stop()
        os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)


_SHARED = _Shared()


def _defaults(master: str, threads: int) -> dict[str, str]:
    """Give what serves small requests better than Spark's own defaults for long jobs."""
    found = {
        "spark.app.name": "jackfield",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # by default 200: a job has as many tasks, each a few milliseconds
        "spark.sql.shuffle.partitions": str(threads),
        "spark.default.parallelism": str(threads),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.log.level": "WARN",
    }
    if master.startswith("local"):
        # executors elsewhere could not reach a driver at this address
        found["spark.driver.host"] = "127.0.0.1"
        found["spark.driver.bindAddress"] = "127.0.0.1"
    return found


def _check_answers(url: str, option: str) -> None:
    """Try the addresses of a cluster: Spark itself tries for a minute, and fails in riddles."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        return
    problems = []
    for address in rest.split("/")[0].split(";")[0].split(","):
        host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
        try:
            target = (host.strip("[]"), int(port or _PORTS[scheme]))
            socket.create_connection(target, timeout=_CONNECT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            problems.append(f"{address}: {error}")
        else:
            return
    raise ModelLoadError(f"'{option}' is '{url}', which does not answer ({'; '.join(problems)})")


def _forget() -> None:
    """Make pyspark forget a JVM that is gone: it keeps it where every module finds it."""
    from pyspark.sql.context import SQLContext

    SparkContext._gateway = None
    SparkContext._jvm = None
    SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    SparkSession._activeSession = None
    SQLContext._instantiatedContext = None
    SparkFiles._sc = None


def _is_broken(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it comes from, is of a connection."""
    while error is not None:
        if isinstance(error, Py4JNetworkError | OSError | EOFError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
