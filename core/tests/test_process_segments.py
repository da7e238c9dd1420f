"""Segments of shared memory between a server and a model's process."""

import asyncio
import fcntl
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jackfield import Datatype, InferRequest, ModelNotReadyError, Tensor
from jackfield._plugins import discover
from jackfield._process.frames import (
    FrameError,
    FrameReader,
    News,
    Payload,
    decode_news,
    encode_news,
)
from jackfield._process.hosts import Hosts
from jackfield._process.link import Link
from jackfield._process.messages import Answer, Cancel
from jackfield._process.proxy import ProcessRuntime
from jackfield._process.segments import LIMIT_BYTES, MAX_SEGMENTS, Transport
from jackfield._repository import Repository

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="without memfd_create the socket carries all"
)

KIB, MIB = 1024, 1024 * 1024


def memory_files():
    """Count this process's descriptors and mappings of memory that it may share."""
    gc.collect()  # what an error's trace holds
    found = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except FileNotFoundError:  # that of the folder itself
            continue
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum("memfd:jackfield" in each or "/dev/shm" in each for each in (*found, *maps))


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """Find what a test leaves behind, after what it made is gone."""
    assert memory_files() == 0
    yield
    assert memory_files() == 0


class Pair:
    """Two ends of a socket in one process; a sent frame is read at once."""

    def __init__(self, **options):
        self.socks = socket.socketpair()
        self.ends = [Transport(**options), Transport(**options)]

    def send(self, frame, way=0):
        """Send to the other end from one whose number is `way`; gives what came out."""
        sender, reader = (0, 1) if way == 0 else (1, 0)
        sending = threading.Thread(
            target=self.ends[sender].send_all, args=(self.socks[sender], frame)
        )
        sending.start()
        found = []
        if frame:
            while not found:
                found = self.ends[reader].receive(self.socks[reader])
        sending.join()
        if not frame:
            self.read(reader)
        return [self.ends[reader].decode(each) for each in found]

    def pass_on(self, *arrays, way=0):
        """Send arrays; gives the arrays that arrived."""
        tensors = [Tensor.from_array(f"x{i}", each) for i, each in enumerate(arrays)]
        frame = self.ends[way].encode(Answer(1, {}), tensors)
        [(message, found)] = self.send(frame, way)
        assert message == Answer(1, {})
        return [each.array for each in found]

    def read(self, way):
        """Read what lies there, if anything does."""
        try:
            self.ends[way].receive(self.socks[way], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return

    def close(self):
        for end, sock in zip(self.ends, self.socks, strict=True):
            end.close()
            sock.close()


@pytest.fixture
def pair_of():
    """Make pairs that are closed at the end."""
    made = []

    def make(**options):
        made.append(Pair(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def is_shared(array):
    """Tell whether an array lies in a segment."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            return "memfd:jackfield" in line
    return False


def segments():
    """Count the segments of which a pair has both mappings."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[4] for line in maps if "memfd:jackfield" in line})


# ---- what arrives ----


@pytest.mark.parametrize("way", [0, 1])
def test_large_tensors_lie_in_shared_memory_and_small_ones_in_the_frame(pair_of, way):
    pair = pair_of()
    large, small = np.arange(MIB, dtype="f4"), np.arange(6, dtype="i2").reshape(2, 3)
    text = np.array([b"a", b"\x00" * 300_000], dtype=object)
    for arrays in ([large], [small], [large, small, text, large[:0]], [text]):
        found = pair.pass_on(*arrays, way=way)
        assert [each.dtype for each in found] == [each.dtype for each in arrays]
        for one, other in zip(found, arrays, strict=True):
            np.testing.assert_array_equal(one, other)
        has_large = arrays[0] is large
        assert [is_shared(each) for each in found if each.size and each.dtype != object] == [
            has_large for each in arrays if each.size and each.dtype != object
        ]


def test_a_frame_with_a_segment_has_no_elements(pair_of):
    frame = pair_of().ends[0].encode(Answer(1, {}), [Tensor.from_array("x", np.zeros(MIB))])
    assert sum(map(len, frame)) < 200


def test_arrays_in_shared_memory_are_read_only_and_begin_at_multiples_of_64(pair_of):
    found = pair_of().pass_on(np.ones(100_001, "u1"), np.ones(100_001, "f2"), np.ones((3, 7)))
    for array in found:
        assert array.__array_interface__["data"][0] % 64 == 0
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_neither_end_can_take_memory_from_the_other(pair_of):
    pair = pair_of()
    [array] = pair.pass_on(np.ones(MIB))
    kept = [
        int(each.name)
        for each in Path("/proc/self/fd").iterdir()
        if each.is_symlink() and "memfd:jackfield" in os.readlink(each)
    ]
    assert kept, "Python keeps a mapping's descriptor"
    for descriptor in kept:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 10)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert array.sum() == MIB


class Exchange(RuleBasedStateMachine):
    """Frames in both directions, kept and dropped in any order: what is kept stays as it came."""

    def __init__(self):
        super().__init__()
        self.pair = Pair(from_bytes=64, limit_bytes=64 * KIB, keep_s=0)
        self.kept = []
        self.count = 0

    @rule(way=st.sampled_from([0, 1]), sizes=st.lists(st.integers(0, 20_000), max_size=3))
    def send(self, way, sizes):
        arrays = []
        for size in sizes:
            self.count += 1
            arrays.append(np.full(size, self.count % 251, "u1"))
        for one, other in zip(self.pair.pass_on(*arrays, way=way), arrays, strict=True):
            self.kept.append((one, other))

    @rule(data=st.data())
    def drop(self, data):
        if self.kept:
            self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))

    @rule(way=st.sampled_from([0, 1]))
    def give_back(self, way):
        """Tell what is free; with `keep_s=0` the other end's idle memory goes as well."""
        self.pair.send((), way)

    @invariant()
    def nothing_is_overwritten(self):
        for one, other in self.kept:
            assert one.tobytes() == other.tobytes()

    @invariant()
    def no_end_has_more_than_its_bound(self):
        sizes = {}
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "memfd:jackfield" in line and " rw-s " in line:
                start, _, end = line.split()[0].partition("-")
                sizes[line.split()[4]] = int(end, 16) - int(start, 16)
        # whole pages
        assert sum(sizes.values()) <= 2 * (64 * KIB + MAX_SEGMENTS * 4 * KIB)

    def teardown(self):
        self.kept.clear()
        self.pair.close()


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# ---- pieces are used again, bounded, and given back ----


def test_a_segment_is_filled_again_when_the_last_view_is_gone(pair_of):
    pair = pair_of()
    [first] = pair.pass_on(np.full(MIB, 1.0))
    part = first[5:9].reshape(2, 2)
    view = memoryview(part)
    del first
    [second] = pair.pass_on(np.full(MIB, 2.0))
    del part
    pair.send((), way=1)
    [third] = pair.pass_on(np.full(MIB, 3.0))
    assert segments() == 3
    assert np.asarray(view).tolist() == [[1, 1], [1, 1]]
    del view, second
    pair.send((), way=1)
    [fourth] = pair.pass_on(np.full(MIB, 4.0))
    assert segments() == 3
    assert (third[0], fourth[0]) == (3, 4)


def test_what_is_free_is_told_with_the_next_frame(pair_of):
    pair = pair_of()
    for number in range(5):
        [there] = pair.pass_on(np.full(MIB, number))
        assert there[-1] == number
        del there
        [back] = pair.pass_on(np.full(MIB, -number), way=1)
        assert back[-1] == -number
        del back
    assert segments() == 2  # one for each direction


def test_views_may_be_dropped_in_any_thread(pair_of):
    pair = pair_of(limit_bytes=4 * MIB)

    def use_and_drop(arrays):
        assert arrays.pop()[0] == 5

    for _ in range(50):
        arrays = pair.pass_on(np.full(MIB, 5, "u1"))
        assert is_shared(arrays[0])
        thread = threading.Thread(target=use_and_drop, args=(arrays,))
        thread.start()
        thread.join()
        pair.send((), way=1)
    assert segments() == 1


def test_where_the_bound_is_reached_the_socket_carries_the_rest(pair_of):
    pair = pair_of(limit_bytes=4 * MIB)
    kept = [pair.pass_on(np.full(MIB, number, "u1"))[0] for number in range(7)]
    assert [is_shared(each) for each in kept] == [True] * 4 + [False] * 3
    assert [each[-1] for each in kept] == list(range(7))
    [larger] = pair.pass_on(np.ones(5 * MIB, "u1"))
    assert not is_shared(larger)
    del kept[0]
    pair.send((), way=1)
    [again] = pair.pass_on(np.ones(MIB, "u1"))
    assert is_shared(again)


def test_free_segments_make_room_for_one_of_another_size(pair_of):
    pair = pair_of(limit_bytes=4 * MIB)
    for size in (MIB, 4 * MIB, MIB // 8, 3 * MIB, 4 * MIB):
        [array] = pair.pass_on(np.ones(size, "u1"))
        assert is_shared(array)
        del array
        pair.send((), way=1)


def test_there_are_at_most_so_many_segments(pair_of):
    pair = pair_of()
    kept = [pair.pass_on(np.ones(KIB * 128, "u1"))[0] for _ in range(MAX_SEGMENTS + 3)]
    assert sum(map(is_shared, kept)) == MAX_SEGMENTS


def test_idle_segments_are_given_back(pair_of):
    pair = pair_of(keep_s=0)
    [array] = pair.pass_on(np.ones(MIB))
    pair.send((), way=0)
    assert segments() == 1  # it is read
    del array
    pair.send((), way=1)
    pair.send((), way=0)
    assert memory_files() == 0
    assert not pair.ends[0].needs_care
    [array] = pair.pass_on(np.ones(MIB))
    assert is_shared(array)


def test_a_frame_that_can_not_be_written_takes_no_memory(pair_of):
    pair = pair_of(limit_bytes=MIB)
    for _ in range(3):
        with pytest.raises(FrameError):
            pair.ends[0].encode(
                Answer(1, {"k": object()}), [Tensor.from_array("x", np.ones(MIB, "u1"))]
            )
    [array] = pair.pass_on(np.ones(MIB, "u1"))
    assert is_shared(array)


def test_where_the_system_has_no_memory_the_socket_carries_all(pair_of):
    pair = pair_of()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * KIB, hard))
    try:
        [array] = pair.pass_on(np.arange(MIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not is_shared(array)
    assert array[-1] == MIB - 1


def test_an_end_without_segments_sends_all_by_the_socket(pair_of):
    pair = pair_of(limit_bytes=0)
    [array] = pair.pass_on(np.arange(MIB))
    assert not is_shared(array)
    assert array[-1] == MIB - 1
    assert not any(end.needs_care for end in pair.ends)


def test_a_thousand_calls_with_1_mb_need_no_more_memory_than_ten(pair_of):
    pair = pair_of()

    def call(number):
        [there] = pair.pass_on(np.full(MIB, number % 128, "u1"))
        [back] = pair.pass_on(there, way=1)  # an output that lies in the server's segment
        assert back[0] == back[-1] == number % 128

    def held():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssShmem:")[1].split()[0]) * KIB

    for number in range(10):
        call(number)
    before = held(), memory_files()
    for number in range(1000):
        call(number)
    assert (held(), memory_files()) == before
    assert before[0] < 10 * MIB


# ---- on an event loop ----


class Ends:
    """Two links on one loop; each frame that arrives is kept."""

    def __init__(self, loop, *transports):
        self.frames = [asyncio.Queue(), asyncio.Queue()]
        self.lost = [loop.create_future(), loop.create_future()]
        self.transports = transports
        self.socks = socket.socketpair()
        self.links = [
            Link(
                loop,
                self.socks[i],
                transports[i],
                on_frame=lambda payload, i=i: self.frames[i].put_nowait(
                    self.transports[i].decode(payload)
                ),
                on_lost=self.lost[i].set_result,
            )
            for i in (0, 1)
        ]
        for link in self.links:
            link.open()

    def send(self, *arrays, way=0):
        tensors = [Tensor.from_array("x", each) for each in arrays]
        self.links[way].send(self.transports[way].encode(Answer(1, {}), tensors))

    async def take(self, way=1):
        message, tensors = await asyncio.wait_for(self.frames[way].get(), 20)
        assert message == Answer(1, {})
        return [each.array for each in tensors]


@pytest.fixture
async def ends_of():
    """Make pairs of links that are closed at the end."""
    made = []

    def make(*transports):
        loop = asyncio.get_running_loop()
        made.append(Ends(loop, *(transports or (Transport(), Transport()))))
        return made[-1]

    yield make
    for each in made:
        for link in each.links:
            link.close()


async def test_frames_keep_their_order_while_the_socket_is_full(ends_of):
    ends = ends_of()
    sizes = [10, 60_000, MIB, 300_000, 5]  # as bytes: packed, in parts, and in segments
    for number in range(100):
        ends.send(np.full(sizes[number % 5], number, "u1"))
        ends.send(np.full(sizes[number % 5], 200 - number, "u1"), way=1)
    for number in range(100):
        [there] = await ends.take()
        [back] = await ends.take(way=0)
        assert (there[0], there[-1], len(there)) == (number, number, sizes[number % 5])
        assert (back[0], back[-1]) == (200 - number, 200 - number)


async def test_a_link_tells_what_is_free_when_nothing_else_is_sent(ends_of):
    ends = ends_of(Transport(limit_bytes=MIB, keep_s=0), Transport(limit_bytes=MIB))
    ends.send(np.ones(MIB, "u1"))
    [array] = await ends.take()
    assert is_shared(array)
    del array

    async def gone():
        while memory_files():  # noqa: ASYNC110  the system tells nobody
            await asyncio.sleep(0.05)

    await asyncio.wait_for(gone(), 20)


async def test_what_arrived_outlives_its_link(ends_of):
    ends = ends_of()
    ends.send(np.full(MIB, 7, "u1"))
    [array] = await ends.take()
    for link in ends.links:
        link.close()
    assert is_shared(array)
    assert array.sum() == 7 * MIB


async def test_what_a_closed_link_did_not_send_is_let_go(ends_of):
    ends = ends_of()
    for _ in range(40):
        ends.send(np.ones(60_000, "u1"))  # the socket is full
    for _ in range(3):
        ends.send(np.ones(MIB, "u1"))
    for link in ends.links:
        link.close()
    assert memory_files() == 0
    ends.send(np.ones(MIB, "u1"))  # by a link that is closed
    assert memory_files() == 0


# ---- the other end is killed ----

CHILD = """
import os, signal, socket, sys
import numpy as np
from jackfield import Tensor
from jackfield._process.messages import Answer
from jackfield._process.segments import Transport

sock, transport, kept = socket.socket(fileno=int(sys.argv[1])), Transport(), []

def receive():
    payloads = None
    while not payloads:
        payloads = transport.receive(sock)
        if payloads is None:
            return []
    return [transport.decode(each) for each in payloads]

def send(*arrays):
    tensors = [Tensor.from_array("x", each) for each in arrays]
    transport.send_all(sock, transport.encode(Answer(1, {}), tensors))
"""


def spawn(code, *descriptors, **options):
    program = CHILD + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *map(str, descriptors)]
    return subprocess.Popen(command, pass_fds=descriptors, **options)


@pytest.mark.parametrize("moment", ["reads and is read", "has read nothing"])
def test_a_killed_child_leaves_nothing(moment):
    ours, theirs = socket.socketpair()
    waits = "kept += receive(); send(np.full(1 << 20, 3.0))" if "is read" in moment else ""
    child = spawn(f"{waits}\nos.write(1, b'!'); signal.pause()", theirs.fileno(), stdout=-1)
    theirs.close()
    transport = Transport()
    tensor = Tensor.from_array("x", np.ones(MIB))
    sending = threading.Thread(
        target=transport.send_all, args=(ours, transport.encode(Answer(1, {}), [tensor]))
    )
    sending.start()
    assert child.stdout.read(1) == b"!"
    # what has no name there is gone with the process
    assert "/dev/shm" not in Path(f"/proc/{child.pid}/maps").read_text()
    child.kill()
    child.wait()
    child.stdout.close()
    sending.join()
    arrays = []
    try:
        while (payloads := transport.receive(ours)) is not None:
            arrays += [transport.decode(each)[1][0].array for each in payloads]
    except ConnectionResetError:
        pass
    assert memory_files() > 0
    transport.close()
    ours.close()
    if moment == "has read nothing":
        assert memory_files() == 0
    else:
        assert arrays[0].sum() == 3 * MIB  # it lives as long as it is read


def test_a_killed_server_leaves_nothing_in_its_child():
    ours, theirs = socket.socketpair()
    talk, told = os.pipe()
    server = spawn(
        "send(np.ones(1 << 20)); kept += receive(); os.write(1, b'!'); signal.pause()",
        ours.fileno(),
        stdout=-1,
    )
    child = spawn(
        """
        kept += receive()
        send(np.ones(1 << 20))
        assert receive() == []
        count = lambda: open("/proc/self/maps").read().count("memfd:jackfield")
        used = count()
        transport.close()
        kept.clear()
        os.write(int(sys.argv[2]), f"{used} {count()}".encode())
        """,
        theirs.fileno(),
        told,
    )
    for each in (ours, theirs):
        each.close()
    os.close(told)
    assert server.stdout.read(1) == b"!"
    assert "/dev/shm" not in Path(f"/proc/{server.pid}/maps").read_text()
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    with os.fdopen(talk) as answer:
        used, left = answer.read().split()
    assert child.wait() == 0
    assert (int(used), int(left)) == (2, 0)


# ---- the other end sends what is wrong ----


def sealed(size, seals=fcntl.F_SEAL_SHRINK):
    descriptor = os.memfd_create("jackfield", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def news(created=(), freed=(), retired=()):
    return b"".join(encode_news(News(list(created), list(freed), list(retired))))


def frame_of(**changes):
    """Write a frame whose tensor lies at any place of any segment."""
    tensor = {"name": "x", "datatype": "UINT8", "shape": [10], "size": 10, "offset": 0}
    tensor |= {key: value for key, value in changes.items() if key != "segment"}
    part = [*(tensor[key] for key in ("name", "datatype", "shape", "size")), {}, tensor["offset"]]
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(Answer(1, {})))
    header = msgspec.msgpack.encode([message, [part], changes.get("segment", 1)])
    return b"JKF2" + len(header).to_bytes(4, "little") + len(header).to_bytes(8, "little") + header


GOOD = (1, 4096)
WRONG = {
    "no descriptor": (news([GOOD]), [], "without a descriptor"),
    "a file": (news([GOOD]), [lambda: os.open(sys.executable, os.O_RDONLY)], "can be sealed"),
    "a pipe": (news([GOOD]), [lambda: os.open("/dev/null", os.O_RDONLY)], "can be sealed"),
    "not sealed": (news([GOOD]), [lambda: sealed(4096, 0)], "is not sealed"),
    "sealed against growth": (
        news([GOOD]), [lambda: sealed(4096, fcntl.F_SEAL_GROW)], "is not sealed",
    ),
    "too short": (news([GOOD]), [lambda: sealed(4095)], "has 4095 bytes, not 4096"),
    "of no size": (news([(1, 0)]), [lambda: sealed(0)], "has 0 bytes"),
    "of a size below 0": (news([(1, -1)]), [lambda: sealed(1)], "has -1 bytes"),
    "too large": (
        news([(1, 2 * LIMIT_BYTES + 1)]), [lambda: sealed(2 * LIMIT_BYTES + 1)], "may be mapped",
    ),
    "twice the same": (news([GOOD, GOOD]), [lambda: sealed(4096)] * 2, "is there already"),
    "too many descriptors": (news([GOOD]), [lambda: sealed(4096)] * 200, "descriptors were lost"),
    "free that is not in use": (news(freed=[1]), [], "frees segment 1, which is not in use"),
    "gone that is not known": (news(retired=[5]), [], "segment 5 is not known"),
    "an unknown segment": (frame_of(segment=7), [], "segment 7 is not known"),
    "past the end": (
        news([GOOD]) + frame_of(offset=4090), [lambda: sealed(4096)], "past the end of its segment",
    ),
    "far past the end": (
        news([GOOD]) + frame_of(offset=2**62), [lambda: sealed(4096)], "past the end",
    ),
    "of no segment": (frame_of(segment=0), [], "past the end of its segment"),
    "a size below 0": (
        news([GOOD]) + frame_of(size=-1, offset=64), [lambda: sealed(4096)], "past the end",
    ),
    "texts in a segment": (
        news([GOOD]) + frame_of(datatype="BYTES"), [lambda: sealed(4096)], "malformed",
    ),
    "read already": (
        news([GOOD]) + frame_of() + frame_of(), [lambda: sealed(4096)], "segment 1 is read already",
    ),
    "no news": (
        b"JKN1" + (1).to_bytes(4, "little") + (1).to_bytes(8, "little") + b"\xc1", [], "malformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_ends_the_link_and_leaves_nothing(wrong):
    data, makers, problem = WRONG[wrong]
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, lost, kept = Transport(), loop.create_future(), []
    link = Link(
        loop,
        ours,
        transport,
        on_frame=lambda payload: kept.append(transport.decode(payload)),
        on_lost=lost.set_result,
    )
    link.open()
    descriptors = [make() for make in makers]
    socket.send_fds(theirs, [data], descriptors)
    for each in descriptors:
        os.close(each)
    assert problem in await asyncio.wait_for(lost, 20)
    kept.clear()
    theirs.close()
    assert memory_files() == 0
    assert len(os.listdir("/proc/self/fd")) == before


async def test_descriptors_that_nobody_tells_of_end_the_link():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    lost = loop.create_future()
    link = Link(loop, ours, Transport(), on_frame=lambda _: None, on_lost=lost.set_result)
    link.open()
    descriptor = sealed(10)
    theirs.setblocking(False)
    while not lost.done():
        try:
            socket.send_fds(theirs, [news()], [descriptor])
        except BlockingIOError:
            pass
        except BrokenPipeError:
            break
        await asyncio.sleep(0)
    os.close(descriptor)
    theirs.close()
    assert "does not tell of what" in await asyncio.wait_for(lost, 20)


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 255), st.booleans())
@settings(max_examples=200, deadline=None)
def test_corrupted_news_raise_this_error_or_none(junk, at, value, is_junk):
    whole = bytearray(news([GOOD, (2, 70)], [3, 2**40], [4]))
    header_bytes = len(whole) - 16
    whole[min(at, header_bytes - 1) + 16] = value
    data = memoryview(junk if is_junk else bytes(whole[16:]))
    transport = Transport()
    try:
        transport._read_news(decode_news(Payload(len(data), data, is_news=True)))
    except FrameError as error:
        assert str(error)  # noqa: PT017  both ends are right
    finally:
        transport.close()


def test_news_are_cut_from_what_is_read_as_frames_are():
    reader = FrameReader()
    data = news(freed=[1]) + news(retired=[2])
    reader.space()[: len(data)] = data
    assert [each.is_news for each in reader.filled(len(data))] == [True, True]


def test_small_frames_know_nothing_of_segments(pair_of):
    pair = pair_of()
    assert pair.send(pair.ends[0].encode(Cancel(3))) == [(Cancel(3), [])]
    [array] = pair.pass_on(np.ones(3))
    assert array.tolist() == [1, 1, 1]
    assert not any(end.needs_care for end in pair.ends)
    assert Tensor.from_array("x", array).datatype is Datatype.FP64


# ---- a model in a process of its own ----

MODEL = """
import os, signal, socket, sys
import numpy as np
from jackfield import InferRequest, InferResponse, Tensor
from jackfield._process.frames import News, encode_news


class M:
    kept = []

    def infer(self, request: InferRequest) -> InferResponse:
        x = request.inputs[0].array
        match request.parameters.get("do", "double"):
            case "double":
                y = x * 2
            case "echo":
                y = x
            case "part":
                y = x[100:-100]
            case "keep":
                self.kept.append(x)
                y = x[:1]
            case "kept":
                y = np.array([each.sum() for each in self.kept])
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "lie":
                with socket.socket(fileno=os.dup(int(sys.argv[1]))) as sock:
                    sock.sendall(b"".join(encode_news(News([(7, 4096)], [], []))))
                y = x[:1]
        return InferResponse([Tensor.from_array("y", y)])
"""


@pytest.fixture
async def ask(add_model):
    """Load the model above in a process of its own, and ask it."""
    [source] = Repository([add_model("m", "M", code=MODEL)], discover(only=())).scan()
    runtime = ProcessRuntime(source, Hosts(), asyncio.get_running_loop())
    await asyncio.to_thread(runtime.load)

    async def ask(array, do="double"):
        request = InferRequest([Tensor.from_array("x", array)], parameters={"do": do})
        response = await asyncio.wait_for(runtime.infer(request), 30)
        return response.outputs[0].array

    ask.runtime = runtime
    yield ask
    await asyncio.to_thread(runtime.close)

    async def gone():
        while memory_files():  # noqa: ASYNC110  the loop lets go when it comes to it
            await asyncio.sleep(0.01)

    await asyncio.wait_for(gone(), 20)


async def test_a_model_that_gives_back_its_input_gives_it_unharmed(ask):
    kept = []
    for number in range(10):
        array = np.full(MIB // 4, number, "f4")
        for do, of in (("echo", 1), ("part", 1), ("double", 2)):
            found = await ask(array, do)
            assert is_shared(found)
            kept.append((found, number * of))
    assert all((array == value).all() for array, value in kept)


async def test_an_input_that_a_model_keeps_stays_as_it_came(ask):
    for number in range(1, 41):  # more than may be kept in segments
        await ask(np.full(MIB, number, "u1"), "keep")
    sums = await ask(np.ones(1), "kept")
    assert sums.tolist() == [number * MIB for number in range(1, 41)]


async def test_a_model_that_dies_leaves_its_answers_and_no_memory(ask):
    kept = [await ask(np.full(MIB, number, "u1")) for number in range(3)]
    with pytest.raises(ModelNotReadyError, match="SIGKILL"):
        await asyncio.gather(*(ask(np.ones(MIB, "u1"), "die") for _ in range(3)))
    assert [array.sum() for array in kept] == [0, 2 * MIB, 4 * MIB]
    assert memory_files() > 0
    del kept
    while not ask.runtime.problem == "":  # noqa: ASYNC110, SIM201
        await asyncio.sleep(0.01)
    assert memory_files() == 0
    again = await ask(np.ones(MIB, "u1"))
    assert is_shared(again)


async def test_a_model_that_tells_of_memory_that_is_not_there_ends_its_process_alone(ask):
    with pytest.raises(ModelNotReadyError, match="segment 7 comes without a descriptor"):
        await ask(np.ones(MIB, "u1"), "lie")
    while not ask.runtime.problem == "":  # noqa: ASYNC110, SIM201
        await asyncio.sleep(0.01)
    assert (await ask(np.ones(MIB, "u1"))).sum() == 2 * MIB


async def test_a_thousand_calls_of_a_model_grow_neither_process(ask):
    def held(pid):
        status = Path(f"/proc/{pid}/status").read_text()
        return sum(int(status.split(f"{each}:")[1].split()[0]) for each in ("RssAnon", "RssShmem"))

    array = np.ones(MIB, "u1")
    for _ in range(100):
        await ask(array)
    pids = "self", ask.runtime.pid
    before = list(map(held, pids)), memory_files()
    for _ in range(1000):
        await ask(array)
    after = list(map(held, pids)), memory_files()
    # a segment or two more, where an answer's memory was told to be free a moment later
    assert after[1] <= before[1] + 2 * 2
    for one, other in zip(after[0], before[0], strict=True):
        assert one - other < 4 * KIB  # in KiB
