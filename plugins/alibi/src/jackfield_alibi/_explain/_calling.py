"""How a target is reached: a model of the same server, or one behind a client.

Knows addresses and credentials, and keeps both out of what a caller is told.
"""

from __future__ import annotations

import base64
import os
import re
import ssl
from pathlib import Path
from time import monotonic, perf_counter_ns, sleep
from typing import TYPE_CHECKING, Protocol

from jackfield import (
    CallError,
    CallTimeoutError,
    CapacityError,
    DeadlineError,
    InferRequest,
    InferResponse,
    ModelLoadError,
    ModelMetadata,
    ModelNotFoundError,
    NoAnswerError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRequestError,
    RequestError,
)
from jackfield.client import Client, Retries
from jackfield_alibi._explain._address import Address, own_model, read_infer_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc
    import httpx

    from jackfield import ModelContext, SyncModel
    from jackfield_alibi._explain._target_settings import TargetSettings

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
#: MLServer's explainers send it: what logs payloads has no use for perturbed rows.
_HEADERS = {"seldon-skip-logging": "true"}
#: A shorter secret is no secret, and its replacement would spoil the text.
_SHORTEST_SECRET = 4
#: The client's own repeats are off: they can't know that a predict may be sent again always.
_ONCE = Retries(limit=0)
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0
#: Bytes of rows in one call. gRPC's servers take messages of 4 MiB unless they are told otherwise.
_HTTP_BYTES = 16 * 2**20
_GRPC_BYTES = 3 * 2**20


class Reached(Protocol):
    """A target that answers, for one request."""

    @property
    def metadata(self) -> ModelMetadata:
        """What it takes and gives."""

    def infer(self, request: InferRequest, timeout_s: float) -> InferResponse:
        """Answer, or raise an error of the core's tree within the time."""


class Caller(Protocol):
    """The way to a target; safe among threads."""

    #: The model's name.
    name: str
    #: Where it is, for the operator's log; without credentials.
    place: str
    is_local: bool
    #: Most bytes of rows in one call; 0 for no limit.
    most_bytes: int

    def find(self, timeout_s: float) -> Reached:
        """Find the target as it is now.

        Raises:
            JackfieldError: It is not there, or not ready.
        """

    def redact(self, text: str) -> str:
        """Take the credentials out of a text that another server wrote."""

    def close(self) -> None:
        """Close the connections."""


def create_caller(context: ModelContext, settings: TargetSettings) -> Caller:
    """Choose the way to the target by the settings; nothing is sent.

    Raises:
        ModelLoadError: The settings name none, two, or one that can't be.
    """
    if settings.target and settings.infer_uri:
        raise ModelLoadError(
            "'target' and 'infer_uri' are both given: give 'target' for a model of this server, "
            "'infer_uri' for one elsewhere"
        )
    if settings.target:
        return _LocalCaller(context, settings.target, settings.target_version)
    if not settings.infer_uri:
        raise ModelLoadError(
            "it has no target: give 'target', the name of a model of this server, or 'infer_uri', "
            "where it is served"
        )
    own = own_model(settings.infer_uri)
    if own is not None and _is_served(context, own):
        context.logger.info(
            "'infer_uri' is of this server's own model '%s': it is called in process", own.name
        )
        return _LocalCaller(context, own.name, own.version)
    try:
        address = read_infer_uri(settings.infer_uri)
    except ValueError as error:
        problem = f"'infer_uri': {error}"
        raise ModelLoadError(problem) from None
    return _RemoteCaller(address, settings)


# ---- a model of this server ----


def _is_served(context: ModelContext, own: Address) -> bool:
    """Tell whether this server has a model; another one in the same process may have it."""
    try:
        context.model(own.name, own.version)
    except (ModelNotFoundError, ModelLoadError):
        return False
    except CapacityError:
        pass  # it has, and finding the target says what is the matter
    return True


class _LocalReached:
    def __init__(self, model: SyncModel) -> None:
        self._model = model
        self.metadata = model.metadata

    def infer(self, request: InferRequest, timeout_s: float) -> InferResponse:
        deadline = perf_counter_ns() + int(timeout_s * 1e9)
        return self._model.infer(
            InferRequest(request.inputs, request.outputs, deadline_ns=deadline)
        )


class _LocalCaller:
    """Asks the server for the model anew for each request: the one that serves then."""

    is_local = True
    most_bytes = 0

    def __init__(self, context: ModelContext, name: str, version: str) -> None:
        self.name = name
        self.place = "this server"
        self._context = context
        self._version = version

    def find(self, timeout_s: float) -> Reached:
        return _LocalReached(self._context.model(self.name, self._version))

    def redact(self, text: str) -> str:
        return text

    def close(self) -> None:
        pass


# ---- a model elsewhere ----


class _RemoteCaller:
    """A client of the target's server; the metadata is asked for once, when it first answers."""

    is_local = False

    def __init__(self, address: Address, settings: TargetSettings) -> None:
        self.name = address.name
        self.place = address.model_url
        self.most_bytes = _GRPC_BYTES if address.is_grpc else _HTTP_BYTES
        headers, self._secrets = _headers(settings.target_headers, address.login)
        tls = _read_tls(settings) if address.url.startswith(("https:", "grpcs:")) else None
        self._http = self._channel = None
        if tls is not None and address.is_grpc:
            self._channel = tls.channel(f"{address.host}:{address.port}")
        elif tls is not None:
            self._http = tls.http()
        try:
            self._client = Client(
                address.url,
                headers=headers,
                timeout_s=settings.target_timeout_s,
                retries=_ONCE,
                http=self._http,
                channel=self._channel,
            )
        except ImportError as error:
            raise ModelLoadError(str(error)) from error
        self._model = self._client.model(address.name, address.version)
        self._metadata: ModelMetadata | None = None

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata or ModelMetadata(name=self.name)

    def find(self, timeout_s: float) -> Reached:
        if self._metadata is None:
            metadata = self._ask(timeout_s)
            # servers tell of a model that is not ready yet
            if not self._model.is_ready(timeout_s=timeout_s):
                raise RemoteNotReadyError(f"its server says that '{self.name}' is not ready")
            self._metadata = metadata
        return self

    def _ask(self, timeout_s: float) -> ModelMetadata:
        try:
            return self._model.metadata()
        except RemoteNotFoundError as error:
            # a server that starts knows no model yet
            if not self._client.is_ready(timeout_s=timeout_s):
                raise RemoteNotReadyError(f"its server is not ready, and says: {error}") from error
        return self._model.metadata()

    def infer(self, request: InferRequest, timeout_s: float) -> InferResponse:
        return self._model.infer(request, timeout_s=timeout_s).response

    def redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def close(self) -> None:
        self._client.close()
        if self._http is not None:
            self._http.close()
        if self._channel is not None:
            self._channel.close()


class RemoteNotReadyError(CapacityError):
    """The other server says that it, or the model, is not ready."""


class _Tls:
    """Certificates, read."""

    def __init__(self, authorities: str, certificate: str, key: str) -> None:
        self._authorities, self._certificate, self._key = authorities, certificate, key

    def http(self) -> httpx.Client:
        import httpx  # only who calls another server over HTTP needs it

        context = ssl.create_default_context(cafile=self._authorities or None)
        if self._certificate:
            context.load_cert_chain(self._certificate, self._key or None)
        return httpx.Client(verify=context)

    def channel(self, address: str) -> grpc.Channel:
        import grpc

        credentials = grpc.ssl_channel_credentials(
            *(
                Path(each).read_bytes() if each else None
                for each in (self._authorities, self._key, self._certificate)
            )
        )
        limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        return grpc.secure_channel(address, credentials, limits)


def _read_tls(settings: TargetSettings) -> _Tls | None:
    """Check the files of certificates; None where the settings name none."""
    paths = {
        name: getattr(settings, name)
        for name in ("ssl_verify_path", "ssl_cert_path", "ssl_key_path")
    }
    for name, path in paths.items():
        if path and not Path(path).is_file():
            problem = f"'{name}': there is no file '{path}'"
            raise ModelLoadError(problem)
    if not any(paths.values()):
        return None
    if bool(settings.ssl_cert_path) != bool(settings.ssl_key_path):
        raise ModelLoadError("'ssl_cert_path' and 'ssl_key_path': one is given without the other")
    return _Tls(*paths.values())


def _headers(given: Mapping[str, str], login: str) -> tuple[dict[str, str], list[str]]:
    """Fill in the environment's variables; gives the headers, and what must never be shown.

    Raises:
        ModelLoadError: A variable is not set, or a header can't be sent. The value is not told.
    """
    headers, secrets = dict(_HEADERS), []
    if login:
        secrets += [login, login.partition(":")[2]]
        headers["authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        secrets.append(headers["authorization"].removeprefix("Basic "))
    for name, value in given.items():
        missing = [each for each in _VARIABLE.findall(value) if each not in os.environ]
        if missing:
            problem = (
                f"'target_headers': '{name}' is made of the environment variable '{missing[0]}', "
                "which is not set"
            )
            raise ModelLoadError(problem)
        filled = _VARIABLE.sub(lambda found: os.environ[found[1]].strip(), value)
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(filled):
            problem = f"'target_headers': '{name}' has characters that a header can't have"
            raise ModelLoadError(problem)
        headers[name.lower()] = filled
        secrets += [
            filled,
            *filled.split(),
            *(os.environ[each] for each in _VARIABLE.findall(value)),
        ]
    # the longest first: one may be a part of another
    long_enough = {each for each in secrets if len(each) >= _SHORTEST_SECRET}
    return headers, sorted(long_enough, key=len, reverse=True)


# ---- at load ----


def await_target(caller: Caller, settings: TargetSettings) -> Reached:
    """Find the target at load; one elsewhere may need some time to be there.

    Raises:
        ModelLoadError: It is not there, or not ready in time; the text tells where, why, how long.
    """
    begun = monotonic()
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return caller.find(settings.target_timeout_s)
        except (RequestError, CapacityError, CallError) as error:
            left_s = settings.target_wait_s - (monotonic() - begun)
            # a timeout, too: nobody waits for an explanation yet
            may_come = is_passing(error) or isinstance(error, CallTimeoutError)
            if not may_come or caller.is_local or left_s <= 0:
                raise ModelLoadError(_told(caller, error, monotonic() - begun)) from None
        sleep(min(wait_s, left_s))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _told(caller: Caller, error: Exception, waited_s: float) -> str:
    reason = caller.redact(str(error))
    if caller.is_local:
        return f"its target '{caller.name}' can't be called: {reason}"
    text = f"its target '{caller.name}' at {caller.place} can't be called: {reason}"
    if is_passing(error) or isinstance(error, CallTimeoutError):
        text += (
            f" (asked for {waited_s:.1f} s; 'target_wait_s' is the limit). If it is a model of "
            f"this server, give its name as 'target' instead of 'infer_uri'"
        )
    return text


def is_passing(error: Exception) -> bool:
    """Tell whether the same call may succeed a little later; to predict twice does no harm."""
    if isinstance(error, CallTimeoutError | DeadlineError):
        return False
    return isinstance(error, CapacityError | NoAnswerError)


def status_of(error: Exception) -> str:
    """Give the status of the target's answer; empty where there was none."""
    return str(error.status) if isinstance(error, RemoteError) else ""


def is_too_large(error: Exception) -> bool:
    """Tell whether the target's server takes fewer bytes at a time."""
    return isinstance(error, RemoteRequestError) and error.status in (413, "RESOURCE_EXHAUSTED")


def is_refusal(error: Exception) -> bool:
    """Tell whether the target refuses these rows; not that it, or this caller, is unknown to it."""
    if isinstance(error, ModelNotFoundError | RemoteNotFoundError):
        return False
    if isinstance(error, RemoteRequestError):
        return error.status not in (401, 403, 407, "UNAUTHENTICATED", "PERMISSION_DENIED")
    return isinstance(error, RequestError)
