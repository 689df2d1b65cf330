"""Disks that fail while they are there: EIO, flushes that fail, rot, lost and misdirected writes, slowness. Service goes on, nothing
is acknowledged that is not there, and what a bad disk says is never believed."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bodies import KIB, MIB, assert_same, body
from bucketsd import Bucketsd
from latencies import latencies, percentiles, told
from wire import Wire

ALWAYS = 1_000_000
BUCKET = "faulty"
SIZES = [0, 100, 4 * KIB, 100 * KIB, 1 * MIB, 3 * MIB + 1]


class FaultyNode:
    """A node whose disks do as they are told."""

    def __init__(self, server):
        self.server = server
        self.file = server.directory / "faults.json"
        self.there = {}
        self.refused = 0
        self.faults()

    def faults(self, **by_disk):
        """disk0={...}: what disks do from now on; those not named are well."""
        described = {str(self.server.disks[int(disk.removeprefix("disk"))]): what for disk, what in by_disk.items()}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(described))
        new.rename(self.file)
        # The daemon looks at it every 50 ms.
        time.sleep(0.2)

    def put(self, prefix, rounds=4, allowed=(200,)):
        """Objects of every size; what was acknowledged has to be there from then on."""
        statuses = []
        with Wire(self.server, timeout=60) as wire:
            for number in range(rounds):
                for size in SIZES:
                    key = f"{prefix}/{number}/{size}"
                    data = body(size, key)
                    answer = self.put_as_clients_do(wire, key, data, allowed)
                    assert answer.status in allowed, (key, answer, self.server.log_tail())
                    statuses.append(answer.status)
                    if answer.status == 200:
                        self.there[key] = data
        return statuses

    def put_as_clients_do(self, wire, key, data, allowed):
        """A write that is under way when the disk of its partition's leader fails gets a 503; clients try again."""
        for pause in (0.1, 0.4, 1.6):
            answer = wire.put(BUCKET, key, data)
            if answer.status in allowed or answer.status != 503:
                return answer
            self.refused += 1
            print(f"{key} was refused: {answer.body.decode()}")
            time.sleep(pause)
        return wire.put(BUCKET, key, data)

    def check(self):
        """Every acknowledged object reads byte-equal."""

        def look(keys):
            with Wire(self.server, timeout=60) as wire:
                for key in keys:
                    answer = wire.get(BUCKET, key)
                    assert answer.status == 200, (key, answer, self.server.log_tail())
                    assert_same(answer.body, self.there[key], key)

        keys = sorted(self.there)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, [keys[n::4] for n in range(4)]))

    def conditions(self):
        return [disk["condition"] for group in self.server.info()["sets"] for disk in group["disks"]]

    def wait_for(self, conditions, seconds=60):
        deadline = time.monotonic() + seconds
        while self.conditions() != conditions:
            assert time.monotonic() < deadline, (self.conditions(), conditions, self.server.log_tail())
            time.sleep(0.2)


@pytest.fixture
def node():
    server = Bucketsd(name="faulty")
    server.arguments = ["--cache", "16MiB", "--disk-faults", server.directory / "faults.json"]
    with server.format():
        faulty = FaultyNode(server)
        server.start()
        with Wire(server) as wire:
            assert wire.request("PUT", f"/{BUCKET}").status == 200
        faulty.put("before")
        yield faulty


@pytest.mark.parametrize("pair", [(0, 1), (1, 3)], ids=str)
def test_reads_that_fail_on_m_disks_are_not_seen(node, pair):
    node.faults(**{f"disk{number}": {"read_error_per_million": ALWAYS} for number in pair})
    node.check()
    node.server.kill()
    node.server.start()
    node.check()


@pytest.mark.parametrize("kind", ["write_error_per_million", "flush_error_per_million"])
def test_a_disk_that_fails_to_write_or_flush_is_fenced_and_comes_back(node, kind):
    server = node.server
    for number in (0, 2):
        node.faults(**{f"disk{number}": {kind: ALWAYS}})
        # On a busy machine the daemon may look at the file later.
        for again in range(10):
            node.put(f"{kind}/{number}/during/{again}")
            if node.conditions()[number] != "ok":
                break
        assert node.conditions()[number] != "ok", "a disk that cannot flush is in service"
        node.check()
        # Opened again it fails again, and the others go on.
        time.sleep(6)
        node.put(f"{kind}/{number}/still")
        assert node.conditions()[number] != "ok"
        node.faults()
        node.wait_for(["ok"] * 4)
        node.put(f"{kind}/{number}/after")
    node.check()
    print(f"{node.refused} writes were refused while a leader's disk failed")
    assert node.refused <= 4
    # What was acknowledged while it was fenced does not need it.
    server.kill()
    server.start()
    node.check()


def test_now_and_then_a_flush_fails_anywhere_and_a_crash_follows(node):
    """Every acknowledgement of ten rounds holds, with flushes that fail on any disk, and kill -9 between."""
    for turn in range(10):
        node.faults(**{f"disk{turn % 4}": {"flush_error_per_million": 20_000, "write_error_per_million": 5_000}})
        node.put(f"now-and-then/{turn}", rounds=3, allowed=(200, 503))
        node.server.kill()
        node.faults()
        node.server.start()
        node.check()


def test_more_than_m_disks_that_cannot_flush_refuse_and_nothing_is_lost(node):
    node.faults(**{f"disk{number}": {"flush_error_per_million": ALWAYS} for number in (0, 1, 2)})
    assert 200 not in node.put("refused", rounds=1, allowed=(200, 503))
    node.faults()
    node.wait_for(["ok"] * 4)
    node.put("after")
    node.check()


@pytest.mark.parametrize(
    "kind", ["bit_rot_per_million", "lost_write_per_million", "misdirected_write_per_million"]
)
def test_what_a_lying_disk_says_is_never_believed(node, kind):
    """One disk of a 2+2 set rots reads, forgets writes or puts them elsewhere: no wrong byte, nothing lost."""
    for chance in (200_000, ALWAYS):
        node.faults(disk3={kind: chance})
        node.put(f"{kind}/{chance}")
        node.check()
    node.server.kill()
    node.server.start()
    node.check()


@pytest.mark.parametrize(("size", "count"), [(4 * KIB, 2000), (MIB, 400)], ids=["inline", "chunks"])
def test_a_disk_that_is_a_hundred_times_slower_is_hardly_felt(node, size, count):
    """GET within twice, PUT within three times of what they were, at the 99th percentile, from a few seconds on; and some room,
    because other things run beside this."""
    data = body(size, "slow")

    def put(wire, name):
        answer = node.put_as_clients_do(wire, f"slow/{name}", data, (200,))
        assert answer.status == 200, (answer, answer.body, node.server.log_tail())

    def get(wire, name):
        answer = wire.get(BUCKET, f"slow/{name}")
        assert answer.status == 200 and answer.body == data, answer

    def measure(what):
        # More is read than the cache holds: it must not hide the disk.
        measured = [percentiles(latencies(node.server, action, count)) for action in (put, get)]
        for name, seconds in zip(("PUT", "GET"), measured):
            print(f"{name} {size}, {what}: {told(seconds)}")
        return measured

    puts, gets = measure("all disks well")
    for number in (0, 1):
        node.faults(**{f"disk{number}": {"slow_factor": 100}})
        measure(f"disk {number} a hundred times slower, being found out")
        slow_puts, slow_gets = measure(f"disk {number} a hundred times slower")
        assert slow_puts[50] < 3 * puts[50] + 0.03 and slow_puts[99] < 3 * puts[99] + 0.1, (puts, slow_puts)
        assert slow_gets[50] < 2 * gets[50] + 0.02 and slow_gets[99] < 2 * gets[99] + 0.05, (gets, slow_gets)
    node.faults()
    print(f"{node.refused} writes were refused and tried again")
    assert node.refused <= 4
    node.check()
