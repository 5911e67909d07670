"""The emulated line: its arithmetic on a clock of the test's own, and one real line, where this machine lets us."""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.measure import BenchError
from loadtest.wan import line as line_module
from loadtest.wan.line import Line, reason_against, wan_line
from loadtest.wan.pipe import Pipe, Way
from loadtest.wan.pump import admit_train
from loadtest.wan.segments import HEADER, HEADER_SIZE, Train, is_train

ROOT = Path(__file__).parents[2]
BYTE_A_SECOND = 8.0
"""A rate at which whole seconds and bytes need no rounding."""

arrivals = st.lists(st.tuples(st.integers(0, 2000), st.integers(20, 1500)), min_size=1, max_size=60)
"""(seconds since the one before, size) of each packet."""


def packet(number, size):
    return number.to_bytes(4, "big") + bytes(size - 4)


def number_of(data):
    return int.from_bytes(data[:4], "big")


def deliver(pipe, until):
    """Take out what is due, at exactly the time it is due."""
    out = []
    while (at := pipe.next_due) is not None and at <= until:
        out += [(at, data) for data in pipe.due(at)]
    return out


def pass_through(pipe, packets, changes=None):
    """Offer packets; return the numbers of those taken, and (time, packet) of those that came out."""
    now, out, taken = 0, [], set()
    for number, (gap, size) in enumerate(packets):
        now += gap
        out += deliver(pipe, now)
        if changes is not None:
            pipe.change(dataclasses.replace(pipe.way, delay=changes[number % len(changes)]))
        if pipe.offer(now, packet(number, size)):
            taken.add(number)
    return taken, out + deliver(pipe, float("inf"))


@given(arrivals, st.integers(1500, 9000), st.sampled_from([0.0, 0.2]))
def test_no_stretch_of_time_carries_more_than_the_rate(packets, queue, loss):
    pipe = Pipe(Way(BYTE_A_SECOND, 5.0, queue, loss), 0.0)
    _, out = pass_through(pipe, packets)
    for first, (begin, _) in enumerate(out):
        carried = 0
        for end, data in out[first + 1 :]:
            carried += len(data)
            assert carried <= end - begin


@given(arrivals, st.integers(1500, 9000), st.lists(st.integers(0, 5000), min_size=1, max_size=5))
def test_packets_keep_their_order_even_when_the_delay_changes(packets, queue, delays):
    taken, out = pass_through(Pipe(Way(BYTE_A_SECOND, 7.0, queue), 0.0), packets, delays)
    assert [number_of(data) for _, data in out] == sorted(taken)
    assert [at for at, _ in out] == sorted(at for at, _ in out)


@given(st.lists(st.integers(20, 1500), min_size=1, max_size=30), st.integers(0, 10_000))
def test_a_packet_that_meets_no_other_takes_its_own_time_and_the_delay(sizes, delay):
    pipe = Pipe(Way(BYTE_A_SECOND, delay, 1500), 0.0)
    _, out = pass_through(pipe, [(1500, size) for size in sizes])
    assert [at for at, _ in out] == [1500 * (at + 1) + size + delay for at, size in enumerate(sizes)]


@given(arrivals, st.integers(20, 9000))
def test_a_packet_is_dropped_exactly_when_the_queue_would_hold_more_than_its_bound(packets, queue):
    taken, _ = pass_through(Pipe(Way(BYTE_A_SECOND, 3.0, queue), 0.0), packets)
    # The same in bytes instead of times: one byte leaves in each second.
    waiting, expected = 0, set()
    for number, (gap, size) in enumerate(packets):
        waiting = max(0, waiting - gap)
        if waiting + size <= queue:
            waiting += size
            expected.add(number)
    assert taken == expected


def test_random_loss_has_its_ratio_and_repeats_with_its_seed():
    count, loss = 50_000, 0.01

    def lost(seed):
        pipe = Pipe(Way(1e9, 0.0, 10**9, loss, seed), 0.0)
        return [number for number in range(count) if not pipe.offer(float(number), b"x" * 100)]

    assert lost(1) == lost(1) != lost(2)
    spread = (count * loss * (1 - loss)) ** 0.5
    for seed in range(3):
        assert abs(len(lost(seed)) - count * loss) < 5 * spread


def test_a_lost_packet_has_taken_its_time_of_the_bottleneck():
    pipe = Pipe(Way(BYTE_A_SECOND, 0.0, 1000, loss=1.0), 0.0)
    assert not pipe.offer(0.0, bytes(600))
    assert pipe.counters.lost == 1
    pipe.change(dataclasses.replace(pipe.way, loss=0.0))
    assert not pipe.offer(0.0, bytes(600))
    assert pipe.counters.overflowed == 1
    assert pipe.offer(0.0, bytes(400))
    assert pipe.next_due == 1000.0


def test_a_hole_swallows_large_packets_only():
    pipe = Pipe(Way(1e6, 0.0, 10**6, largest=1400), 0.0)
    assert [pipe.offer(0.0, bytes(size)) for size in (1400, 1401)] == [True, False]
    assert pipe.counters.too_large == 1


def test_a_flapping_line_is_down_at_the_end_of_each_period():
    pipe = Pipe(Way(1e6, 0.0, 10**6, down=2.0, every=10.0), 100.0)
    taken = [at for at in range(30) if pipe.offer(100.0 + at, b"x" * 50)]
    assert taken == [at for at in range(30) if at % 10 < 8]
    assert pipe.counters.while_down == 6


@given(arrivals)
def test_every_packet_is_accounted_for(packets):
    pipe = Pipe(Way(BYTE_A_SECOND, 3.0, 3000, 0.1, largest=1400, down=500.0, every=3000.0), 0.0)
    _, out = pass_through(pipe, packets)
    counted = pipe.counters
    assert counted.packets == len(packets)
    assert counted.bytes == sum(size for _, size in packets)
    dropped = counted.lost + counted.overflowed + counted.too_large + counted.while_down
    assert counted.packets == counted.delivered + dropped
    assert (counted.delivered, counted.delivered_bytes) == (len(out), sum(len(data) for _, data in out))
    assert counted.longest_wait <= 3000
    assert pipe.restart_counters() is counted
    assert pipe.counters.packets == 0


def test_the_best_second_is_the_fullest_one():
    pipe = Pipe(Way(1e9, 0.0, 10**6), 0.0)
    for at, size in ((1.0, 100), (1.5, 100), (2.5, 150), (4.0, 30)):
        pipe.offer(at, bytes(size))
        pipe.due(at + 0.1)
    assert pipe.counters.peak_second == 200


@pytest.mark.parametrize("wrong", [{"rate_bit": 0.0}, {"delay": -1.0}, {"loss": 1.5}, {"down": 2.0, "every": 1.0}])
def test_no_line_is_like_this(wrong):
    with pytest.raises(ValueError, match="line"):
        Way(**{"rate_bit": 1e6, "delay": 0.0, "queue_bytes": 1, **wrong})


def test_the_queue_is_one_bandwidth_delay_product_and_never_tiny():
    assert Line(rate_bit=100e6, rtt=0.1).queue == 1_250_000
    assert Line(rate_bit=1e6, rtt=0.01).queue == 256 << 10
    assert Line(queue_bytes=7).queue == 7
    up, down = Line(loss=0.1).ways()
    assert up.seed != down.seed
    assert up.delay + down.delay == 0.1


def test_without_root_it_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(line_module.os, "geteuid", lambda: 1000)
    with pytest.raises(BenchError, match="need root"), wan_line(Line()):
        pass


# --- many segments in one read ----------------------------------------------------------------------------------------


def ip_sum(header):
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def train_of(payload, segment, sequence=2**32 - 700, options=12, flags=0x99):
    """A packet as the kernel gives it: CWR, ACK, PSH and FIN set."""
    headers = 20 + 20 + options
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, headers + len(payload), 65_530, 0x4000, 64, 6, 0, 0xC6120001, 0xC6120002)
    ip = ip[:10] + (~ip_sum(ip) & 0xFFFF).to_bytes(2, "big") + ip[12:]
    tcp = struct.pack(">HHIIBBHHH", 5, 6, sequence, 9, (20 + options) // 4 << 4, flags, 1, 2, 3) + bytes(options)
    return HEADER.pack(1, 1, 77, segment, 20, 16) + ip + tcp + payload


def parsed(piece):
    """(virtio header, sequence number, flags, payload) of a packet, once its IP header is right."""
    virtio, packet = HEADER.unpack_from(piece), piece[HEADER_SIZE:]
    assert ip_sum(packet[:20]) == 0xFFFF
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    begin = 20 + (packet[32] >> 4) * 4
    return virtio, int.from_bytes(packet[24:28], "big"), packet[33], packet[begin:]


@given(st.integers(1, 9000), st.integers(1, 1448), st.integers(0, 2**32 - 1), st.data())
def test_the_pieces_of_a_train_are_its_segments(length, segment, sequence, data):
    payload = bytes(number % 251 for number in range(length))
    train = Train(train_of(payload, segment, sequence))
    assert sum(train.size(number) - train.headers for number in range(train.count)) == length
    first = data.draw(st.integers(0, train.count - 1))
    end = data.draw(st.integers(first + 1, train.count))
    virtio, number, flags, body = parsed(train.piece(first, end))
    assert body == payload[first * segment : end * segment]
    assert number == (sequence + first * segment) % 2**32
    assert flags == 0x10 | (0x80 if first == 0 else 0) | (0x09 if end == train.count else 0)
    if end - first == train.count:
        assert train.piece(first, end) == train_of(payload, segment, sequence)
    elif end - first == 1:
        assert virtio == (1, 0, train.headers, 0, 20, 16)
    else:
        assert virtio == (1, 1, train.headers, segment, 20, 16)


@given(st.integers(1, 40), st.integers(1, 400_000), st.sampled_from([0.0, 0.3]), st.integers(0, 100))
def test_a_train_meets_the_line_segment_by_segment(count, queue, loss, seed):
    segment = 1448
    way = Way(1e7, 1.0, queue, loss, seed, largest=1500)
    payload = bytes(segment * count)
    whole, single = Pipe(way, 0.0), Pipe(way, 0.0)
    admit_train(whole, 0.0, Train(train_of(payload, segment)))
    expected = [number for number in range(count) if single.offer(0.0, bytes(1500))]
    out = deliver(whole, 100.0)
    numbers = [
        (number - (2**32 - 700)) % 2**32 // segment + at
        for _, piece in out
        for _, number, _, body in [parsed(piece)]
        for at in range(len(body) // segment)
    ]
    assert numbers == expected
    deliver(single, 100.0)
    same = ("packets", "bytes", "delivered", "delivered_bytes", "lost", "overflowed", "longest_wait")
    assert [getattr(whole.counters, name) for name in same] == [getattr(single.counters, name) for name in same]
    for _, piece in out:  # at this rate no more than one fits into the time that comes out together
        assert len(parsed(piece)[3]) == segment


def test_segments_that_come_out_at_the_same_time_come_out_together():
    pipe = Pipe(Way(1e9, 1.0, 10**6), 0.0)
    packet = train_of(bytes(1448 * 20), 1448)
    assert is_train(packet)
    assert not is_train(Train(packet).piece(1, 2))
    admit_train(pipe, 0.0, Train(packet))
    ((at, piece),) = deliver(pipe, 2.0)
    assert piece == packet
    assert at == pytest.approx(1.0 + 20 * 1500 * 8 / 1e9)


# --- a real line ------------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(reason_against() is not None, reason=f"no line can be emulated here: {reason_against()}")

SERVER = """
import hashlib, socket
listener = socket.create_server(("198.18.0.2", 5000))
print("listening", flush=True)
connection, _ = listener.accept()
digest = hashlib.sha256()
while block := connection.recv(65536):
    digest.update(block)
connection.sendall(digest.digest())
connection.close()
"""
CLIENT = """
import hashlib, random, socket, sys, time
began = time.monotonic()
connection = socket.create_connection(("198.18.0.2", 5000))
print("connected", time.monotonic() - began, flush=True)
print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode(), flush=True)
data = random.Random(1).randbytes(int(sys.argv[1]))
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
print(connection.recv(32, socket.MSG_WAITALL) == hashlib.sha256(data).digest(), flush=True)
"""


@pytest.fixture
def at_end():
    """Run Python at one end of a line; whatever still runs is killed at the end."""
    started = []

    def start(end, program, *arguments):
        words = [*end.prefix, sys.executable, "-c", program, *arguments]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def left_behind(wan):
    """What is still there of a line."""
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    devices = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    found = [end.namespace for end in wan.ends if end.namespace in spaces]
    return found + [end.device for end in wan.ends if end.device in devices]


@real
def test_tcp_passes_a_lossy_line_whole_and_nothing_is_left_behind(at_end):
    with wan_line(Line(rate_bit=50e6, rtt=0.04, loss=0.01, congestion="reno")) as wan:
        server = at_end(wan.far, SERVER)
        assert server.stdout.readline() == "listening\n"
        client = at_end(wan.near, CLIENT, "1000000")
        said = client.stdout.read().split("\n")
        assert float(said[0].split()[1]) >= 0.04  # the way there and back, at least
        assert said[1:3] == ["reno", "True"]
        counted = wan.lap()
        assert counted["up"]["delivered_bytes"] > 1_000_000
        assert counted["up"]["lost"] > 0
        assert counted["down"]["packets"] > 10
        assert wan.overruns() == 0
    assert left_behind(wan) == []
    assert wan.last["refused"] == 0


@real
def test_what_the_machine_allows_is_as_before():
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    before = allowed.read_text()
    with wan_line(Line(congestion="cubic")) as wan:
        for end in wan.ends:
            assert line_module.inside(end, "cat", "/proc/sys/net/ipv4/tcp_congestion_control") == "cubic\n"
    assert allowed.read_text() == before


@real
def test_large_packets_vanish_in_a_hole_until_it_is_closed(at_end):
    with wan_line(Line(rtt=0.002, largest=1000)) as wan:
        assert at_end(wan.far, SERVER).stdout.readline() == "listening\n"
        client = at_end(wan.near, CLIENT, "20000")
        assert client.stdout.readline().startswith("connected")
        deadline = time.monotonic() + 30
        while not wan.lap()["up"]["too_large"]:
            assert time.monotonic() < deadline
        wan.change(largest=None)
        assert client.stdout.read().split() == ["cubic", "True"]


@real
def test_nothing_is_left_behind_by_a_failure():
    with pytest.raises(ZeroDivisionError), wan_line(Line()) as wan:
        assert left_behind(wan)  # else the check below could not fail
        raise ZeroDivisionError
    assert left_behind(wan) == []
    with pytest.raises(BenchError, match="offers no congestion control 'swift'"), wan_line(Line(congestion="swift")):
        pass
    mine = f"wan-{os.getpid()}-"
    assert mine not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@real
def test_nothing_is_left_behind_by_ctrl_c():
    program = """
import signal, time
from loadtest.wan.line import Line, wan_line
signal.signal(signal.SIGINT, signal.default_int_handler)
with wan_line(Line()) as wan:
    print(wan.near.namespace, wan.far.namespace, flush=True)
    time.sleep(60)
"""
    words = [sys.executable, "-c", program]
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **how, start_new_session=True) as process:
        names = process.stdout.readline().split()
        assert len(names) == 2
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not any(name in listed for name in names)
