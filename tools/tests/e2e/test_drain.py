"""A node is drained before it is stopped: no client notices, and none is drained that cannot be done without."""

import json
import time

import pytest

from clients import Clients
from deployment import Deployment


def control(asked, *arguments, code=0):
    done = asked.control(*arguments)
    assert done.returncode == code, done
    return done


def told(asked, node):
    return next(known for known in asked.info()["nodes"] if known["name"] == node.name)


def is_whole(asked):
    """All disks are there, and have what was written without them."""
    info = asked.info()
    conditions = {disk["condition"] for group in info["sets"] for disk in group["disks"]}
    return conditions == {"ok"} and info["repairs"]["partsToRepair"] == 0


def whole_for_all(nodes):
    """Each node finds out for itself."""
    return all(is_whole(node) for node in nodes)


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.seconds(400)
def test_a_node_is_drained_stopped_and_started_and_no_request_fails():
    with Deployment() as deployment:
        deployment.format().start()
        nodes = deployment.nodes
        # A request that fails once has failed; clients go on asking a node that is drained until it is stopped.
        clients = Clients(deployment, count=2, tries=1)
        for number, node in enumerate(nodes):
            asked = nodes[(number + 1) % 3]
            wait_until(lambda: told(asked, node)["leads"])
            done = control(asked, "node", "drain", node.name, "--json")
            answer = json.loads(done.stdout)
            assert (answer["node"], answer["draining"], answer["leads"]) == (node.name, True, 0)
            assert (answer["writesTolerate"], answer["readsTolerate"]) == (0, 0)
            status, why = node.ask("/ready")
            assert status == 503 and "drained" in why
            assert node.metric("buckets_draining") == 1 and node.metric("buckets_groups_led") == 0
            # Longer than others wait until they hand over to the node that should lead.
            start = time.monotonic()
            while time.monotonic() - start < 7:
                assert (told(asked, node)["condition"], told(asked, node)["leads"]) == ("draining", 0)
                time.sleep(0.1)
            listed = control(asked, "node", "list").stdout
            assert any(line.startswith(node.name) and "draining" in line for line in listed.splitlines()), listed
            # As a load balancer does, which has seen it long ago.
            clients.take_away(node)
            time.sleep(0.5)
            assert node.terminate() == 0
            node.start(60)
            # A start ends it.
            assert node.metric("buckets_draining") == 0
            clients.give_back(node)
            # What was written meanwhile has to be there before the next one may go.
            wait_until(lambda: whole_for_all(nodes), 60)
        clients.stop()
        clients.check()
        assert not clients.failed["get"] and not clients.failed["put"], clients.failed


@pytest.mark.seconds(200)
def test_a_node_that_cannot_be_done_without_is_not_drained():
    with Deployment() as deployment:
        deployment.format().start()
        first, second, third = deployment.nodes
        third.kill()
        wait_until(lambda: told(first, third)["condition"] == "unreachable")
        refused = control(first, "node", "drain", second.name, code=1).stderr
        for part in (second.name, "2 of its 6 disks would be left", "4 are needed", third.name, "--force"):
            assert part in refused, refused
        assert second.ask("/ready")[0] == 200 and told(first, second)["condition"] == "up"
        control(second, "node", "drain", second.host, code=1)
        control(first, "node", "drain", "127.0.0.1:1", code=1)
        third.start(60)
        wait_until(lambda: whole_for_all(deployment.nodes), 60)

        # Asked of itself; and then another one, which would be too many.
        assert "may be stopped" in control(second, "node", "drain", second.name).stdout
        refused = control(first, "node", "drain", third.name, code=1).stderr
        assert second.name in refused and "draining" in refused, refused
        # All the same, and taken back.
        control(first, "node", "drain", third.name, "--force")
        assert {node.ask("/ready")[0] for node in (second, third)} == {503}
        for node in (second, third):
            control(first, "node", "undrain", node.name)
            assert node.ask("/ready")[0] == 200
        wait_until(lambda: all(told(first, node)["leads"] for node in (second, third)))


def test_a_single_node_is_not_drained(server):
    refused = control(server, "node", "drain", "n1", code=1).stderr
    assert "local disks only" in refused, refused
