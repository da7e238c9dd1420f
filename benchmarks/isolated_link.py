"""The link between a server and a model's process alone: the socket beside shared memory, by size.

Run by `isolated.py`, in an environment with Jackfield; prints JSON. Two processes talk as a server
and a model's process do, without a model: one sends a tensor of FP32, and the other reads all its
numbers and tells that it is done (`there`), or sends a tensor of the same size (`there and back`).
"""

import argparse
import json
import os
import socket
import statistics
import sys
import time

import numpy as np

from jackfield import Tensor
from jackfield._process.messages import Answer
from jackfield._process.segments import Transport

KIB = 1024
SIZES = [4 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB]
SIZES += [1024 * KIB, 4096 * KIB, 16384 * KIB, 65536 * KIB]
#: What goes by a segment from the first byte on, and never.
WAYS = {"segment": 1, "socket": 1 << 60}
FORMS = ("there", "there and back")
#: Bytes that one measurement of a size moves, but at least so many calls.
_MOVED_BYTES = 64 * 1024 * KIB
_LEAST_CALLS = 5
_MOST_CALLS = 400


def main() -> None:
    """Measure all sizes, both ways in turn, and print the microseconds per call of each round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ends = {way: _start(way) for way in WAYS}
    times: dict[str, dict[str, dict[int, list[float]]]] = {
        form: {way: {size: [] for size in SIZES} for way in WAYS} for form in FORMS
    }
    for number in range(arguments.rounds + 1):
        for size in SIZES:
            for form in FORMS:
                for way in list(WAYS)[:: 1 if number % 2 else -1]:
                    found = _measure(*ends[way], size, form)
                    if number:  # the first one fills pools and caches
                        times[form][way][size].append(found)
    json.dump(times, sys.stdout)


def _start(way: str) -> tuple[socket.socket, Transport]:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _answer(theirs, Transport(from_bytes=WAYS[way]))
        os._exit(0)
    theirs.close()
    return ours, Transport(from_bytes=WAYS[way])


def _answer(sock: socket.socket, transport: Transport) -> None:
    """Be the model's process: its runtime makes the array that it gives back once."""
    arrays: dict[int, Tensor] = {}
    while (payloads := transport.receive(sock)) is not None:
        for payload in payloads:
            message, tensors = transport.decode(payload)
            assert isinstance(message, Answer)
            size = tensors[0].array.size
            tensors[0].array.max()
            back: list[Tensor] = []
            if message.parameters["form"] == "there and back":
                if size not in arrays:
                    arrays[size] = Tensor.from_array("y", np.ones(size, np.float32))
                back = [arrays[size]]
            del tensors
            transport.send_all(sock, transport.encode(message, back))


def _measure(sock: socket.socket, transport: Transport, size: int, form: str) -> float:
    tensor = Tensor.from_array("x", np.ones(size // 4, np.float32))
    times = []
    for _ in range(max(_LEAST_CALLS, min(_MOST_CALLS, _MOVED_BYTES // size))):
        start = time.perf_counter()
        transport.send_all(sock, transport.encode(Answer(1, {"form": form}), [tensor]))
        _await_answer(sock, transport)
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def _await_answer(sock: socket.socket, transport: Transport) -> None:
    while True:
        payloads = transport.receive(sock)
        assert payloads is not None, "the other process ended"
        for payload in payloads:
            for tensor in transport.decode(payload)[1]:
                tensor.array.max()
            return


if __name__ == "__main__":
    main()
