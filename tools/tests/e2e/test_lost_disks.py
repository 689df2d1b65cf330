"""Any M of the disks may be gone, empty or damaged, while the server is stopped and while it runs: every object still reads
byte-equal, and the damage is told. One more: a clear 503, never wrong bytes, and everything is back with the disks."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import damage
from bodies import KIB, MIB, assert_same, body
from bucketsd import Bucketsd
from wire import Wire
from writers import put_parts

SIZES = [0, 1, 4 * KIB, 100 * KIB, 128 * KIB, 128 * KIB + 1, 700 * KIB, 1 * MIB, 5 * MIB + 3]
PAIRS = list(itertools.combinations(range(4), 2))


class Stored:
    """A node with objects of every kind, and what must be read from it."""

    def __init__(self, server):
        self.server = server
        self.bodies = {}

    def fill(self, prefix="", small=40):
        with Wire(self.server) as wire:
            answer = wire.request("PUT", "/kept")
            # 409: made already, and one's own.
            assert answer.status == (409 if self.bodies else 200), (answer, self.server.log_tail())
            for size in SIZES:
                self.put(wire, f"{prefix}size/{size}", body(size, f"{prefix}{size}"))
            for number in range(small):
                self.put(wire, f"{prefix}small/{number:04}", body(50 * number, f"{prefix}{number}"))
            key, data = f"{prefix}multipart", body(12 * MIB, f"{prefix}multipart")
            assert put_parts(wire, "kept", key, data)
            self.bodies[key] = data
        return self

    def put(self, wire, key, data):
        answer = wire.put("kept", key, data)
        assert answer.status == 200, answer
        self.bodies[key] = data

    def check(self, listing=True):
        """Everything reads byte-equal, in whole and in part, and is listed."""

        def look(keys):
            with Wire(self.server) as wire:
                for key in keys:
                    answer = wire.get("kept", key)
                    assert answer.status == 200, (key, answer, self.server.log_tail())
                    assert_same(answer.body, self.bodies[key], key)
                    if len(answer.body) > 1000:
                        part = wire.get("kept", key, range="bytes=500-999")
                        assert_same(part.body, self.bodies[key][500:1000], key)

        keys = sorted(self.bodies)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, [keys[n::4] for n in range(4)]))
        if listing:
            with Wire(self.server) as wire:
                listed = wire.list_all("kept")
            assert [(key, size) for key, size, _ in listed] == [(key, len(self.bodies[key])) for key in keys]


@pytest.fixture
def stored():
    with Bucketsd(name="lost").format() as server:
        server.start()
        yield Stored(server).fill()


def told(server, seconds=30):
    """Waits until `bucketsctl info` shows what happened: disks that are not well, or damage that was found on them."""
    deadline = time.monotonic() + seconds
    while True:
        done = server.control("info", "--json")
        info = json.loads(done.stdout)
        disks = [disk for group in info["sets"] for disk in group["disks"]]
        unwell = [disk for disk in disks if disk["condition"] != "ok"]
        if unwell:
            assert done.returncode in (3, 4) and info["verdict"] != "safe", info
            assert all(disk["reason"] for disk in unwell), unwell
            return
        if sum(disk["corruptions"] or 0 for disk in disks):
            return
        assert time.monotonic() < deadline, f"info still shows no damage: {done.stdout}"
        time.sleep(0.3)


DAMAGES = {
    "removed": lambda disk, seed: damage.take_away(disk),
    "emptied": lambda disk, seed: damage.empty(disk),
    "flipped": lambda disk, seed: damage.flip(disk, seed),
}


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("kind", DAMAGES)
def test_any_m_disks_lost_while_stopped(stored, kind, pair):
    server = stored.server
    assert server.terminate() == 0
    for number in pair:
        DAMAGES[kind](server.disks[number], str(pair))
    server.start()
    stored.check()
    told(server)
    # Writes go on where they can: with K = M and half of the disks gone they cannot, and say so.
    with Wire(server) as wire:
        answer = wire.put("kept", "new", b"new")
        assert answer.status in (200, 503), answer
        if answer.status == 200:
            stored.bodies["new"] = b"new"
    stored.check()


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("kind", DAMAGES)
def test_any_m_disks_lost_while_running(stored, kind, pair):
    server = stored.server
    for number in pair:
        DAMAGES[kind](server.disks[number], str(pair))
    stored.check()
    # And after a restart, when nothing is in memory any more.
    server.kill()
    server.start()
    stored.check()
    told(server)


@pytest.mark.parametrize("number", range(4))
def test_one_disk_lost_and_writes_go_on(stored, number):
    server = stored.server
    server.kill()
    damage.take_away(server.disks[number])
    server.start()
    stored.check()
    stored.fill("degraded/", small=10)
    stored.check()
    # What was written while degraded survives another loss.
    server.kill()
    damage.take_away(server.disks[(number + 1) % 4])
    server.start()
    stored.check()


def test_damage_in_every_kind_of_file(stored):
    """File by file on two disks: whatever is hit, all reads are right."""
    server = stored.server
    server.terminate()
    every = damage.files_of(server.disks[0])
    assert every
    for turn, path in enumerate(every):
        relative = path.relative_to(server.disks[0])
        intact = {}
        for disk in server.disks[:2]:
            if (disk / relative).exists():
                intact[disk / relative] = sparse_copy(disk / relative)
                damage.flip(disk, turn, share=1.0, only=lambda file, hit=disk / relative: file == hit)
        server.start()
        try:
            stored.check()
        except AssertionError as error:
            raise AssertionError(f"with damage in {relative} of two disks: {error}") from error
        server.kill()
        # The server must not have been led to spoil the good disks; the hit ones start over intact.
        for file, blocks in intact.items():
            restore(file, blocks)


def sparse_copy(path):
    with open(path, "rb") as file:
        blocks = {}
        for at in damage.written_blocks(path):
            file.seek(at)
            blocks[at] = file.read(damage.BLOCK)
        return blocks


def restore(path, blocks):
    if path.exists():
        with open(path, "r+b") as file:
            for at, data in blocks.items():
                file.seek(at)
                file.write(data)


def test_flips_are_counted(stored):
    server = stored.server
    server.terminate()
    for disk in server.disks[:2]:
        damage.flip(disk, "counted", share=0.5, only=lambda path: path.stat().st_size > 1 * MIB)
    server.start()
    stored.check()
    counted = {
        name: sum(samples.values())
        for name, samples in server.metrics().items()
        if "corrupt" in name or "damage" in name or "checksum" in name
    }
    assert sum(counted.values()) > 0, f"no metric counts the damage: {counted}"


def test_more_than_m_lost_is_a_503_and_everything_comes_back(stored):
    server = stored.server
    server.terminate()
    for disk in server.disks[:3]:
        damage.take_away(disk)
    server.spawn()
    deadline = time.monotonic() + 20
    while server.ask("/health")[0] != 200 and time.monotonic() < deadline:
        server.check_alive()
        time.sleep(0.05)
    assert server.ask("/ready")[0] == 503
    with Wire(server) as wire:
        for answer in (
            wire.get("kept", "size/1"),
            wire.put("kept", "new", b"x"),
            wire.request("GET", "/kept", [("list-type", "2")]),
            wire.delete("kept", "size/1"),
            wire.request("GET", "/"),
        ):
            assert answer.status == 503 and answer.code in ("ServiceUnavailable", "SlowDown"), answer
    assert server.control("info").returncode != 0
    server.kill()
    for disk in server.disks[:3]:
        damage.bring_back(disk)
    server.start()
    stored.check()
    assert server.control("info").returncode == 0


def test_more_than_m_damaged_gives_no_wrong_bytes(stored):
    server = stored.server
    server.terminate()
    for disk in server.disks[:3]:
        damage.flip(disk, "too many", share=0.7, only=lambda path: path.stat().st_size > 1 * MIB)
    server.spawn()
    deadline = time.monotonic() + 20
    while server.ask("/health")[0] != 200 and time.monotonic() < deadline:
        server.check_alive()
        time.sleep(0.05)
    for key, data in stored.bodies.items():
        with Wire(server) as wire:
            try:
                answer = wire.get("kept", key)
            except Exception:  # noqa: BLE001 - a body that breaks off is an error that the client sees
                continue
            if answer.status == 200:
                assert_same(answer.body, data, key)
            else:
                assert answer.status >= 500, (key, answer)


def test_disks_that_come_back_hold_what_they_held(stored):
    """Two disks are away for a while and come back; the others have gone on without them where they could."""
    server = stored.server
    server.terminate()
    damage.take_away(server.disks[2])
    server.start()
    stored.fill("meanwhile/", small=20)
    server.terminate()
    damage.bring_back(server.disks[2])
    server.start()
    stored.check()
    server.terminate()
    # The one that was away is not trusted more than it should be.
    damage.take_away(server.disks[0])
    server.start()
    stored.check()
