"""Small file systems that run full: writes are refused with the right error, reads and deletes go on, space comes back."""

import contextlib
import os
import shutil
import subprocess
import time

import pytest

from bodies import KIB, MIB, assert_same, body
from bucketsd import Bucketsd, scratch
from wire import Wire

# A node leaves the last GiB of a disk to its log and its index.
DISK_BYTES = 2200 * MIB
BUCKET = "full"


@contextlib.contextmanager
def loop_mounted(directory, disks):
    """Each disk of a node on a file system of its own."""
    mounted = []
    try:
        for disk in disks:
            image = directory / f"{disk.name}.img"
            with open(image, "wb") as file:
                file.truncate(DISK_BYTES)
            disk.mkdir()
            for command in (["mkfs.ext4", "-q", "-m", "0", image], ["mount", "-o", "loop", image, disk]):
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    pytest.skip(f"no loop mounts here: {done.stderr.strip()}")
                if command[0] == "mount":
                    mounted.append(disk)
        yield
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def small_node():
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("mounting takes root and e2fsprogs")
    directory = scratch("full")
    server = Bucketsd(directory=directory, arguments=["--cache", "64MiB"])
    with loop_mounted(directory, server.disks):
        with server.format() as server:
            server.start()
            with Wire(server) as wire:
                assert wire.request("PUT", f"/{BUCKET}").status == 200
            yield server


def fill(wire, size, prefix, count_max):
    """Puts until one is refused; what was acknowledged, and the refusal."""
    there = {}
    for number in range(count_max):
        key = f"{prefix}{number:06}"
        data = body(size, key)
        answer = wire.put(BUCKET, key, data)
        if answer.status != 200:
            return there, answer
        there[key] = data
    raise AssertionError(f"{count_max} objects of {size} bytes fit")


def assert_all_there(wire, there):
    for key, data in there.items():
        answer = wire.get(BUCKET, key)
        assert answer.status == 200, (key, answer)
        assert_same(answer.body, data)
    assert {key for key, *_ in wire.list_all(BUCKET)} == set(there)


def leave(disk, free_bytes):
    """Somebody else's file takes the rest."""
    space = os.statvfs(disk)
    with open(disk / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, space.f_bavail * space.f_frsize - free_bytes)


@pytest.mark.seconds(900)
@pytest.mark.parametrize(("size", "free_bytes"), [(4 * MIB, None), (8 * KIB, 450 * MIB)], ids=["chunks", "index"])
def test_full_disks_refuse_writes_and_nothing_else(small_node, size, free_bytes):
    server = small_node
    if free_bytes is not None:
        for disk in server.disks:
            leave(disk, free_bytes)
    with Wire(server, timeout=120) as wire:
        there, refusal = fill(wire, size, "first-", DISK_BYTES // size * 2)
        assert (refusal.status, refusal.code) == (507, "InsufficientStorage"), refusal
        print(f"{len(there)} objects of {size} bytes, then {refusal.code}")
        assert len(there) > 100
        assert_all_there(wire, there)
        # Nothing was fenced for it.
        assert server.ask("/ready")[0] == 200

    # A crash on full disks is like any other.
    server.kill()
    server.start()
    with Wire(server, timeout=120) as wire:
        assert_all_there(wire, there)
        gone = sorted(there)[::2]
        for key in gone:
            assert wire.delete(BUCKET, key).status == 204, key
            del there[key]
        assert_all_there(wire, there)

        # What was deleted makes room for half as much again.
        wanted = len(gone) // 2
        for number in range(wanted):
            key = f"second-{number:06}"
            data = body(size, key)
            answer = put_within(wire, key, data, seconds=60)
            assert answer.status == 200, (number, wanted, answer)
            there[key] = data
        assert_all_there(wire, there)
    assert server.terminate() == 0


def put_within(wire, key, data, seconds):
    """Puts again while the space of what was deleted is on its way back."""
    deadline = time.monotonic() + seconds
    while True:
        answer = wire.put(BUCKET, key, data)
        if answer.status != 507 or time.monotonic() > deadline:
            return answer
        time.sleep(0.5)
