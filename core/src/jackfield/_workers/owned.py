"""A model with a memory in the worker that owns it, whether it serves there or for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from jackfield._process.messages import Loaded
from jackfield._process.routes import RemoteAnswer, describe_routes
from jackfield._routes import Undecoded, Written
from jackfield._scheduling import choose_stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric
    from starlette.types import Receive, Scope, Send

    from jackfield._loading import Loaded as LoadedModel
    from jackfield._routes import ModelRoute

#: A connection between workers is about one model, and needs no number for it.
MODEL = 0


class OwnedRuntime:
    """A model that is loaded in this worker, which owns it.

    It takes the place of the model's metrics, by which it is found again from what serves.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.stream = choose_stream(loaded.runtime, loaded.bound)
        # what is bounded elsewhere is loaded elsewhere
        is_far = loaded.bound is None
        self.routes = [_relayed(each) if is_far else each for each in loaded.routes]

    def placed(self) -> LoadedModel:
        """Give what is to serve."""
        return self.loaded._replace(metrics=self)

    def collect(self) -> Iterable[Metric]:
        """Give the model's own metrics."""
        return self.loaded.metrics.collect()

    def describe(self) -> Loaded:
        """Tell the others what it is."""
        routes = describe_routes(self.routes)
        facts = self.loaded.metadata, self.loaded.capabilities, self.stream is not None, routes
        return Loaded(MODEL, *facts)


class _Relayed(Response):
    """An answer that a host sends as it comes."""

    def __init__(self, answer: RemoteAnswer) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer.send(send)


def _relayed(route: ModelRoute) -> ModelRoute:
    """Give a path whose method is in a host as `RouteAnswers` takes it."""

    async def answer(**given: object) -> object:
        given = {
            key: bytes(each) if isinstance(each, msgspec.Raw) else each
            for key, each in given.items()
        }
        result = await route.handler(**given)
        if isinstance(result, Written):
            return Response(bytes(result), media_type="application/json")
        return _Relayed(result) if isinstance(result, RemoteAnswer) else result

    # undecoded, but JSON: the host is to say what is wrong with it
    body = msgspec.Raw if route.body is Undecoded else route.body
    return route._replace(handler=answer, body=body)
