"""An empty disk takes the place of a lost one: it votes again, its chunks are written again, and then any M others may go."""

import json
import shutil
import time

import pytest

import damage
from bodies import KIB, MIB, body, md5
from bucketsd import Bucketsd, run
from clients import Clients
from deployment import Deployment
from wire import Wire
from writers import put_parts

BUCKET = "replaced"
SIZES = [0, 100, 16 * KIB, 100 * KIB, 1 * MIB, 5 * MIB + 3]


def fill(server, count=60):
    bodies = {}
    with Wire(server) as wire:
        assert wire.request("PUT", f"/{BUCKET}").status == 200
        for number in range(count):
            key = f"k{number:03}"
            bodies[key] = body(SIZES[number % len(SIZES)], key)
            assert wire.put(BUCKET, key, bodies[key]).status == 200
        bodies["multipart"] = body(12 * MIB, "multipart")
        assert put_parts(wire, BUCKET, "multipart", bodies["multipart"])
    return bodies


def check(server, bodies):
    with Wire(server) as wire:
        for key, data in bodies.items():
            answer = wire.get(BUCKET, key)
            assert answer.status == 200, (key, answer, server.log_tail())
            assert md5(answer.body) == md5(data), key


def conditions(server):
    done = server.control("disk", "list", "--json")
    return {disk["path"]: disk["condition"] for disk in json.loads(done.stdout)["disks"]}


def until(server, condition, path, seconds=120):
    deadline = time.monotonic() + seconds
    while conditions(server)[str(path)] != condition:
        assert time.monotonic() < deadline, (server.control("disk", "list").stdout, server.log_tail())
        time.sleep(0.2)


@pytest.mark.seconds(300)
def test_one_after_the_other_every_disk_of_a_node_is_replaced():
    with Bucketsd(name="replaced").format() as server:
        server.start()
        bodies = fill(server)
        pattern = ",".join(str(disk) for disk in server.disks)
        # What is there is not replaced.
        refused = run("bucketsctl", "disk", "replace", server.disks[0], "--disks", pattern)
        assert refused.returncode == 1 and "already" in refused.stderr, refused
        for disk in server.disks:
            damage.empty(disk)
            until(server, "missing", disk)
            run("bucketsctl", "disk", "replace", disk, "--disks", pattern, check=True)
            until(server, "ok", disk)
        # No disk is left of those that were written to. With 2+2 any two suffice.
        assert server.control("info").returncode == 0
        check(server, bodies)
        for disk in server.disks[1:3]:
            damage.empty(disk)
            until(server, "missing", disk)
        check(server, bodies)


@pytest.mark.seconds(300)
def test_a_disk_and_then_a_whole_node_are_replaced_under_load():
    with Deployment(nodes=3, disks=2, ec="4+2") as deployment:
        first, second, third = deployment.format().start().nodes
        bodies = fill(first)
        clients = Clients(deployment)
        disk = second.disks[1]
        damage.empty(disk)
        until(first, "missing", disk)
        arguments = ["--cluster", deployment.file, "--node", second.name]
        elsewhere = run("bucketsctl", "disk", "replace", third.disks[1], *arguments)
        assert elsewhere.returncode == 1 and str(disk) in elsewhere.stderr, elsewhere
        run("bucketsctl", "disk", "replace", disk, *arguments, check=True)
        until(first, "ok", disk)
        # A machine that lost everything is formatted like a new one.
        clients.take_away(third)
        third.kill()
        for disk in third.disks:
            shutil.rmtree(disk)
        third.format()
        third.spawn()
        third.wait_ready(60)
        clients.give_back(third)
        for disk in third.disks:
            until(first, "ok", disk)
        clients.stop()
        clients.check()
        # What was written again is needed now.
        clients.take_away(first)
        first.kill()
        check(third, bodies)
