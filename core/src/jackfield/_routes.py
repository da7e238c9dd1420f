"""The REST paths that a model's runtime answers itself: found and checked when the model loads.

The shell that serves them is `_http.model_routes`; this knows no web framework.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from jackfield._signature import read_hints
from jackfield.errors import ModelLoadError
from jackfield.messages import InferRequest
from jackfield.runtime import RouteMark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: First parts of the server's own paths at its root.
_TAKEN_AT_ROOT = frozenset(["metrics", "v2"])
#: First parts of the server's own paths below a model's: a test compares them with the routes.
TAKEN = frozenset(
    [
        "config",
        "docs",
        "generate",
        "generate_stream",
        "infer",
        "infer_stream",
        "monitors",
        "ready",
        "stats",
        "trace",
        "versions",
    ]
)
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_PATH = re.compile(
    r"/(?P<first>[\w.~-]+)(/([\w.~-]+|\{[a-zA-Z_]\w*(:(str|int|float|uuid|path))?\}))*"
)
_PARAMETER = re.compile(r"\{(\w+)")


class Undecoded(bytes):
    """What stands as `ModelRoute.body` for a type that another process knows: it gets the bytes."""


class Written(bytes):
    """An answer that is JSON already."""


class ModelRoute(NamedTuple):
    """One path of a model."""

    path: str
    methods: tuple[str, ...]
    #: A bound method; see `jackfield.route` for what it takes and gives.
    handler: Callable[..., Any]
    #: The type that the JSON body is decoded to; None where the method does not take it.
    body: Any = None
    #: The parameters' names of the two.
    request_name: str = ""
    body_name: str = ""
    #: Whether it is served at the server's root as well, where no other model has it there.
    at_root: bool = False
    #: Whether the model is not to be served without it.
    is_needed: bool = True
    #: Whether it is a path of the models that this one needs, too.
    on_needed: bool = False


def call_plain(handler: Callable[..., Any], given: Mapping[str, object]) -> object:
    """Call a plain method in the thread that is its own for that time."""
    try:
        return handler(**given)
    except StopIteration as error:  # no future takes it: the caller would wait for ever
        problem = f"{handler.__name__} raised StopIteration"
        raise RuntimeError(problem) from error


def find_routes(model: object) -> tuple[ModelRoute, ...]:
    """Find the methods of a model that are marked with `route`.

    Raises:
        ModelLoadError: A path has the wrong form, is the server's own, or is there twice.
    """
    routes = []
    seen: dict[tuple[str, str], str] = {}
    for each in _marked(model):
        what = f"route '{each.path}' of '{each.handler.__name__}'"
        _check(each, what)
        routes.append(_read_parameters(each, what))
        for method in each.methods:
            key = (method, _PARAMETER.sub("{", each.path))
            if other := seen.get(key):
                problem = f"{what} is the route of '{other}' already ({method})"
                raise ModelLoadError(problem)
            seen[key] = each.handler.__name__
    return tuple(routes)


def _marked(model: object) -> Iterator[ModelRoute]:
    # of the class, and statically: properties are not run
    for name in dir(type(model)):
        marks = getattr(inspect.getattr_static(type(model), name), "__jackfield_routes__", ())
        for mark in marks:
            if isinstance(mark, RouteMark):
                methods = tuple(method.upper() for method in mark.methods)
                yield ModelRoute(
                    mark.path,
                    methods,
                    getattr(model, name),
                    at_root=mark.at_root,
                    is_needed=mark.is_needed,
                    on_needed=mark.on_needed,
                )


def _check(route: ModelRoute, what: str) -> None:
    match = _PATH.fullmatch(route.path)
    if match is None:
        problem = f"{what}: expected a path as '/explain' or '/explain/{{row}}'"
        raise ModelLoadError(problem)
    if match["first"] in TAKEN:
        taken = ", ".join(sorted(TAKEN))
        problem = f"{what} is the server's own; choose another first part than {taken}"
        raise ModelLoadError(problem)
    if route.at_root and match["first"] in _TAKEN_AT_ROOT:
        taken = ", ".join(sorted(_TAKEN_AT_ROOT))
        problem = f"{what} is the server's own at the root; choose another first part than {taken}"
        raise ModelLoadError(problem)
    names = _PARAMETER.findall(route.path)
    if len({*names, "model", "version"}) < len(names) + 2:
        problem = f"{what}: names in braces differ from each other, and from model and version"
        raise ModelLoadError(problem)
    unknown = [method for method in route.methods if method not in _METHODS]
    if unknown or not route.methods:
        found = ", ".join(unknown) or "none"
        problem = f"{what}: expected methods of {', '.join(_METHODS)}, found {found}"
        raise ModelLoadError(problem)


def _read_parameters(route: ModelRoute, what: str) -> ModelRoute:
    """Find what the method takes: the request, a decoded body, both or nothing."""
    for name, parameter in inspect.signature(route.handler).parameters.items():
        # by its name: Starlette may be imported for the type checker only
        annotation = getattr(parameter.annotation, "__name__", str(parameter.annotation))
        is_request = annotation.rpartition(".")[2] == "Request"
        if (parameter.annotation is parameter.empty or is_request) and not route.request_name:
            route = route._replace(request_name=name)
        elif parameter.annotation is not parameter.empty and route.body is None:
            route = route._replace(body_name=name, body=_body_of(route, name, what))
        else:
            names = ", ".join(inspect.signature(route.handler).parameters)
            problem = f"{what}: its method takes {names}; expected the request and one body at most"
            raise ModelLoadError(problem)
    return route


def _body_of(route: ModelRoute, name: str, what: str) -> object:
    body = read_hints(route.handler)[name]
    if body is InferRequest:
        return body
    try:
        msgspec.json.Decoder(body)
    except TypeError as error:
        problem = f"{what}: '{name}' can't be decoded from JSON: {error}"
        raise ModelLoadError(problem) from error
    return body
