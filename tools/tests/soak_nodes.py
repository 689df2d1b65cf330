#!/usr/bin/env python3
"""Nodes under load for as long as you like, with one trouble after the other, one node at a time; ends at the first wrong answer.

    ./test.sh e2e                                                          # once: builds the binaries and the venv
    target/e2e-venv/bin/python tools/tests/soak_nodes.py                   # six nodes, ten minutes
    target/e2e-venv/bin/python tools/tests/soak_nodes.py --nodes 3 --ec 4+2
    target/e2e-venv/bin/python tools/tests/soak_nodes.py --minutes 120 --seed 7

A node is killed, hangs, is restarted, is drained first, is slowed down, loses a disk or all of them; or all are killed at once. Clients write (also in parts),
read and list through the others meanwhile; what was acknowledged has to be there, byte by byte, at every node in the end. About 2 GB
below target/; BUCKETS_E2E_KEEP=1 leaves the disks and the logs there.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "e2e"))

import damage  # noqa: E402
from bucketsd import run  # noqa: E402
from clients import Clients  # noqa: E402
from deployment import Deployment  # noqa: E402
from test_drain import whole_for_all  # noqa: E402
from throttle import throttled  # noqa: E402


def kill(deployment, node, draw):
    node.kill()
    time.sleep(draw.uniform(0.1, 10))
    node.start(60)


def kill_twice(deployment, node, draw):
    """The second time while it is coming back."""
    node.kill()
    node.spawn()
    time.sleep(draw.uniform(0.02, 1.5))
    node.kill()
    time.sleep(draw.uniform(0.1, 3))
    node.start(60)


def hang(deployment, node, draw):
    os.kill(node.process.pid, signal.SIGSTOP)
    time.sleep(draw.uniform(0.5, 10))
    os.kill(node.process.pid, signal.SIGCONT)
    node.wait_ready(60)


def restart(deployment, node, draw):
    assert node.terminate() == 0
    time.sleep(draw.uniform(0, 3))
    node.start(60)


def drain(deployment, node, draw):
    asked = next(other for other in deployment.nodes if other is not node)
    deadline = time.monotonic() + 120
    # Refused for as long as what the one before missed is not written again.
    while (done := asked.control("node", "drain", node.name)).returncode != 0:
        assert time.monotonic() < deadline, done
        time.sleep(1)
    restart(deployment, node, draw)


def slow(deployment, node, draw):
    with throttled(node.process.pid, on=0.001, off=draw.choice([0.02, 0.05, 0.099])):
        time.sleep(draw.uniform(3, 12))
    node.wait_ready(60)


def lose_a_disk(deployment, node, draw):
    disk = draw.choice(node.disks)
    damage.empty(disk)
    time.sleep(draw.uniform(1, 5))
    run("bucketsctl", "disk", "replace", disk, "--cluster", deployment.file, "--node", node.name, check=True)


def lose_all_disks(deployment, node, draw):
    node.kill()
    for disk in node.disks:
        shutil.rmtree(disk)
    time.sleep(draw.uniform(0, 3))
    node.format().start(60)


def power_cut(deployment, clients, draw):
    """All nodes at once; they come back in any order."""
    for node in deployment.nodes:
        clients.take_away(node)
    for node in deployment.nodes:
        node.kill()
    for node in draw.sample(deployment.nodes, len(deployment.nodes)):
        node.spawn()
        time.sleep(draw.uniform(0, 0.5))
    for node in deployment.nodes:
        node.wait_ready(60)
        clients.give_back(node)


TROUBLES = [kill, kill, kill_twice, hang, hang, restart, drain, slow, lose_a_disk, lose_all_disks, power_cut]


def wait_until_whole(deployment, clients, seconds):
    deadline = time.monotonic() + seconds
    while not whole_for_all(deployment.nodes):
        assert not clients.wrong, clients.wrong
        if time.monotonic() > deadline:
            shown = deployment.nodes[0].control("info").stdout
            raise AssertionError(f"not whole after {seconds} s:\n{shown}")
        time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="which troubles; the rest is up to the machine")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--disks", type=int, default=2, help="of each node")
    parser.add_argument("--ec", default="8+4", help="with M at least the disks of a node, or clients will be refused")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    two_may_go = int(options.ec.split("+")[1]) >= 2 * options.disks
    with Deployment(nodes=options.nodes, disks=options.disks, ec=options.ec) as deployment:
        deployment.format().start()
        clients = Clients(deployment)
        began = time.monotonic()
        try:
            while time.monotonic() < began + 60 * options.minutes:
                node = draw.choice(deployment.nodes)
                trouble = draw.choice(TROUBLES)
                start = time.monotonic()
                if trouble is power_cut:
                    power_cut(deployment, clients, draw)
                else:
                    clients.take_away(node)
                    trouble(deployment, node, draw)
                    clients.give_back(node)
                over = time.monotonic()
                # The next one may come before all is written again that this one missed, where the code allows for both and
                # nothing was lost for good.
                if trouble in (lose_a_disk, lose_all_disks) or not two_may_go or draw.random() < 0.5:
                    wait_until_whole(deployment, clients, 120)
                whole = time.monotonic()
                done = ", ".join(f"{count} {what}" for what, count in clients.done.items())
                print(
                    f"{start - began:6.0f} s: {trouble.__name__} {node.name} for {over - start:.1f} s, "
                    f"waited {whole - over:.1f} s; done: {done}; failed: {sum(map(len, clients.failed.values()))}",
                    flush=True,
                )
                assert not clients.wrong, clients.wrong
        finally:
            clients.stop()
        wait_until_whole(deployment, clients, 120)
        clients.check()
        print("all well")


if __name__ == "__main__":
    main()
