"""Servers on free ports, for the tests that go over a wire."""

from __future__ import annotations

import asyncio
import threading
from typing import NamedTuple

import pytest

from jackfield import Server, ServerSettings


class Addresses(NamedTuple):
    """Where a server listens, as a client takes it."""

    http: str
    grpc: str


@pytest.fixture(scope="session")
def serve():
    """Run servers on free ports, in threads, until the tests are over."""
    stops = []

    def start(*paths):
        ready = threading.Event()
        found = {}

        async def run():
            stop = asyncio.Event()
            stops.append((asyncio.get_running_loop(), stop, thread))

            async def announce(at):
                found["at"] = Addresses(at.http, f"grpc://{at.grpc}")
                ready.set()

            free = ServerSettings(http_port=0, grpc_port=0, metrics_port=0)
            await Server(paths, settings=free).run(stop, announce)

        def main():
            try:
                asyncio.run(run())
            finally:
                ready.set()

        thread = threading.Thread(target=main)
        thread.start()
        assert ready.wait(60)
        return found["at"]

    yield start
    for loop, stop, thread in stops:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive()
