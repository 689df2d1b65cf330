"""What a node takes of memory and processor time, however many connect and however badly they behave."""

import concurrent.futures
import contextlib
import os
import resource
import socket
import threading
import time

import pytest

from bodies import MIB, body
from bucketsd import Bucketsd
from test_bad_input import put_head, signed
from wire import Wire

IDLE_BYTES_MAX = 100 * MIB
LOADED_BYTES_MAX = 300 * MIB
IDLE_SHARE_MAX = 0.02
CONNECTIONS = 10_000


@pytest.fixture(scope="module")
def node():
    with Bucketsd(name="bounds", arguments=["--cache", "64MiB"]).format() as server:
        server.start()
        with Wire(server) as wire:
            assert wire.request("PUT", "/bounds").status == 200
        yield server
        server.check_alive()


def connections_possible():
    """As many as the limit on open files lets this process and the node have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 500
    limit = hard if hard != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(limit, wanted)), hard))
    return min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)


def connect(server):
    return socket.create_connection((server.host, server.port), timeout=10)


def cpu_seconds(server):
    with open(f"/proc/{server.process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_share(server, seconds=3):
    before = cpu_seconds(server)
    time.sleep(seconds)
    return (cpu_seconds(server) - before) / seconds


@pytest.fixture
def peak(node):
    """The most memory that was resident at any look during the test."""
    most = [node.resident_bytes()]
    over = threading.Event()

    def look():
        while not over.wait(0.05):
            most[0] = max(most[0], node.resident_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    yield lambda: most[0]
    over.set()
    watcher.join()


def test_idle_connections_cost_next_to_nothing(node):
    with contextlib.ExitStack() as open_ones:
        count = connections_possible()
        for _ in range(count):
            open_ones.enter_context(connect(node))
        with Wire(node) as wire:
            assert wire.put("bounds", "among-idle", b"x").status == 200
        resident = node.resident_bytes()
        print(f"{count} idle connections: {resident / MIB:.0f} MiB resident")
        assert resident < IDLE_BYTES_MAX
        shares = []
        while len(shares) < 5 and min(shares, default=1) >= IDLE_SHARE_MAX:
            shares.append(idle_share(node))
        print(f"share of one core while idle: {min(shares):.4f}")
        assert min(shares) < IDLE_SHARE_MAX, shares


def test_readers_that_never_read_hold_little(node, peak):
    with Wire(node) as wire:
        data = body(32 * MIB, "unread")
        assert wire.put("bounds", "unread", data).status == 200
    with contextlib.ExitStack() as open_ones:
        for _ in range(256):
            reader = open_ones.enter_context(connect(node))
            reader.sendall(signed(node, "GET", "/bounds/unread"))
        time.sleep(3)
        print(f"256 readers that never read: {peak() / MIB:.0f} MiB resident")
        # The others do not wait for them.
        with Wire(node) as wire:
            assert wire.get("bounds", "among-idle").status in (200, 404)
        assert peak() < LOADED_BYTES_MAX


def test_heads_and_bodies_that_never_end_hold_little(node, peak):
    with contextlib.ExitStack() as open_ones:
        slow = []
        for number in range(1000):
            client = open_ones.enter_context(connect(node))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " if number % 2 else endless(node, number))
            slow.append(client)
        for _ in range(5):
            for client in slow:
                with contextlib.suppress(OSError):
                    client.send(b"a" * 100)
            time.sleep(0.2)
        print(f"1000 slow senders: {peak() / MIB:.0f} MiB resident")
        assert peak() < LOADED_BYTES_MAX
        with Wire(node) as wire:
            answers = {wire.put("bounds", f"beside-slow-{n}", b"x").status for n in range(20)}
        assert answers <= {200, 503}


def endless(server, number):
    """A PUT of 8 MiB whose body does not come."""
    return put_head(server, "bounds", f"never-{number}", b"", length=8 * MIB)


def test_large_uploads_side_by_side_hold_little(node, peak):
    data = body(8 * MIB, "large")

    def upload(number):
        with Wire(node, timeout=120) as wire:
            for attempt in range(4):
                status = wire.put("bounds", f"large-{number % 32}", data).status
                assert status in (200, 503), status
        return status

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(upload, range(64)))
    print(f"64 uploads of 8 MiB at once: {peak() / MIB:.0f} MiB resident")
    assert 200 in statuses
    assert peak() < LOADED_BYTES_MAX
