"""Several nodes: any of them serves, any M disks or their nodes may fail."""

import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from bodies import KIB, MIB, body
from bucketsd import run
from clients import BUCKET as BUCKET_OF_CLIENTS
from clients import Clients
from deployment import Deployment, NetworkedDeployment
from latencies import latencies, percentiles, told
from throttle import throttled
from wire import Wire

BUCKET = "nodes"


def at_once(work, items, threads=6):
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@pytest.mark.seconds(600)
def test_every_node_serves_what_any_node_took():
    """8+4 in two sets over 6 nodes with 4 disks each; a thousand objects."""
    with Deployment(nodes=6, disks=4, ec="8+4") as deployment:
        deployment.format().start()
        draw = random.Random(1)
        sizes = [1, 16 * KIB, 16 * KIB + 1, 5 * MIB, 64 * MIB]
        sizes += [int(2 ** draw.uniform(0, 21)) for _ in range(145)]
        sizes += [int(2 ** draw.uniform(0, 15)) for _ in range(850)]
        objects = {f"k{n:03}": size for n, size in enumerate(sizes)}
        deployment.nodes[0].client().create_bucket(Bucket=BUCKET)

        def put(item):
            number, (key, size) = item
            # A busy machine may answer 503 SlowDown; clients try again.
            answers(deployment.nodes[number % 6], 200, lambda wire: wire.put(BUCKET, key, body(size, key)), 60)

        at_once(put, enumerate(objects.items()))

        def check(node):
            with Wire(node) as wire:
                listed = [(key, size) for key, size, _ in wire.list_all(BUCKET, max_keys=137)]
                assert listed == sorted(objects.items())
            for key, size in objects.items():
                answer = answers(node, 200, lambda wire, key=key: wire.get(BUCKET, key), 60)
                assert answer.body == body(size, key), (node.name, key)

        at_once(check, deployment.nodes, threads=3)
        # A node that is gone is not missed; with a third of the nodes gone (8 of 24 disks) reads go on, too.
        deployment.nodes[2].kill()
        check(deployment.nodes[0])
        objects["new"] = 3000
        answers(deployment.nodes[4], 200, lambda wire: wire.put(BUCKET, "new", body(3000, "new")), 60)
        deployment.nodes[5].kill()
        time.sleep(3)
        check(deployment.nodes[1])
        # Three gone: every set has lost 6 of its 12 disks, more than 4. (A partition may still have 5 of its 9 voters: what lies
        # beside its manifest is then served.)
        deployment.nodes[3].kill()
        time.sleep(3)
        with Wire(deployment.nodes[0]) as wire:
            assert wire.put(BUCKET, "refused", body(100 * KIB, "refused")).status == 503
            assert wire.get(BUCKET, "k003").status == 503
        for number in (2, 5, 3):
            deployment.nodes[number].start(60)
        with Wire(deployment.nodes[3]) as wire:
            assert wire.get(BUCKET, "new").body == body(3000, "new")
            assert wire.get(BUCKET, "refused").status == 404


@pytest.mark.seconds(400)
def test_nodes_are_killed_again_and_again():
    with Deployment() as deployment:
        deployment.format().start()
        clients = Clients(deployment)
        draw = random.Random(2)
        for _ in range(5):
            time.sleep(1.5)
            node = draw.choice(deployment.nodes)
            clients.take_away(node)
            node.kill()
            time.sleep(draw.uniform(0.2, 4))
            node.start(60)
            clients.give_back(node)
        time.sleep(2)
        clients.stop()
        clients.check()


@pytest.mark.seconds(400)
def test_a_node_that_hangs_is_not_waited_for():
    with Deployment() as deployment:
        deployment.format().start()
        clients = Clients(deployment)
        draw = random.Random(3)
        for _ in range(4):
            time.sleep(1.5)
            node = draw.choice(deployment.nodes)
            clients.take_away(node)
            os.kill(node.process.pid, signal.SIGSTOP)
            time.sleep(draw.uniform(1, 6))
            os.kill(node.process.pid, signal.SIGCONT)
            time.sleep(0.5)
            clients.give_back(node)
        time.sleep(1)
        clients.stop()
        clients.check()


@pytest.mark.seconds(300)
def test_a_node_that_gets_a_hundredth_of_its_time_is_hardly_felt():
    """By clients of the others, from a few seconds on."""
    sizes = {4 * KIB: 1000, MIB: 200}
    with Deployment() as deployment:
        deployment.format().start()
        asked, _, slow = deployment.nodes
        asked.client().create_bucket(Bucket=BUCKET)

        def measure(what):
            measured = {}
            for size, count in sizes.items():
                data = body(size, size)

                def put(wire, name, data=data):
                    answer = wire.put(BUCKET, f"{len(data)}/{name}", data)
                    assert answer.status == 200, answer

                def get(wire, name, data=data):
                    answer = wire.get(BUCKET, f"{len(data)}/{name}")
                    assert answer.status == 200 and answer.body == data, answer

                for action in (put, get):
                    measured[action.__name__, size] = percentiles(latencies(asked, action, count))
                    print(f"{action.__name__.upper()} {size}, {what}: {told(measured[action.__name__, size])}")
            return measured

        def info():
            return next(node for node in asked.info()["nodes"] if node["name"] == slow.name)

        before = measure("all nodes well")
        with throttled(slow.process.pid, on=0.001, off=0.099):
            deadline = time.monotonic() + 60
            while (shown := info())["leads"] or not shown["slow"]:
                assert time.monotonic() < deadline, shown
                time.sleep(0.5)
            measure("one gets a hundredth of its time, being found out")
            during = measure("one gets a hundredth of its time")
        for (action, size), took in during.items():
            usual = before[action, size]
            assert took[50] < 2 * usual[50] + 0.02 and took[99] < 2 * usual[99] + 0.05, (action, size, usual, took)
        # Whether its disks are quick again shows as soon as something is written.
        while (shown := info())["slow"] or not shown["leads"]:
            latencies(asked, lambda wire, name: wire.put(BUCKET, f"after/{name}", b"x"), 40)
            assert time.monotonic() < deadline + 60, shown
            time.sleep(0.5)


@pytest.mark.seconds(400)
def test_a_rolling_restart_fails_no_request():
    with Deployment() as deployment:
        deployment.format().start()
        deployment.nodes[0].client().create_bucket(Bucket=BUCKET)
        # A request that fails once has failed.
        clients = Clients(deployment, tries=1)
        for node in deployment.nodes * 2:
            time.sleep(1)
            # As a load balancer does, when the node says that it is not ready any more.
            clients.take_away(node)
            time.sleep(0.5)
            assert node.terminate() == 0
            node.start(60)
            clients.give_back(node)
        time.sleep(1)
        clients.stop()
        clients.check()
        assert not any(clients.failed.values()), clients.failed


@pytest.mark.seconds(300)
def test_what_was_written_without_a_node_is_written_to_it_when_it_is_back():
    with Deployment(nodes=5, disks=1, ec="3+2") as deployment:
        deployment.format().start()
        first = deployment.nodes[0]
        first.client().create_bucket(Bucket=BUCKET)
        lost = deployment.nodes[3]
        os.kill(lost.process.pid, signal.SIGSTOP)
        keys = {f"k{n}": body(300 * KIB, n) for n in range(8)}

        def put(item):
            with Wire(first, timeout=30) as wire:
                while wire.put(BUCKET, *item).status != 200:
                    time.sleep(0.2)

        at_once(put, keys.items(), threads=8)
        os.kill(lost.process.pid, signal.SIGCONT)
        deadline = time.monotonic() + 60
        while True:
            waiting = sum(node.metric("buckets_parts_to_repair") for node in deployment.nodes)
            repaired = sum(node.metric("buckets_chunks_repaired_total") for node in deployment.nodes)
            if repaired and not waiting:
                break
            assert time.monotonic() < deadline, (waiting, repaired, first.log_tail())
            time.sleep(0.2)
        # Without two others, what was written again is needed.
        deployment.nodes[1].kill()
        deployment.nodes[2].kill()
        time.sleep(3)
        for key, data in keys.items():
            with Wire(first) as wire:
                assert wire.get(BUCKET, key).body == data


def test_nodes_may_have_ipv6_addresses():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with Deployment(disks=1, ec="2+1", host="[::1]") as deployment:
        deployment.format().start()
        one, two, three = deployment.nodes
        one.client().create_bucket(Bucket=BUCKET)
        data = body(300 * KIB, "six")
        two.client().put_object(Bucket=BUCKET, Key="key", Body=data)
        three.kill()
        assert one.client().get_object(Bucket=BUCKET, Key="key")["Body"].read() == data
        conditions = {node["name"]: node["condition"] for node in one.info()["nodes"]}
        assert conditions.keys() == {node.name for node in deployment.nodes}


@pytest.mark.seconds(200)
def test_a_gateway_serves_without_disks():
    with Deployment() as deployment:
        deployment.format().start()
        gateway = deployment.gateway()
        try:
            gateway.start(60)
            client = gateway.client()
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="small", Body=b"through a gateway")
            large = body(3 * MIB, "large")
            client.put_object(Bucket=BUCKET, Key="large", Body=large)
            with Wire(deployment.nodes[2]) as wire:
                assert wire.get(BUCKET, "small").body == b"through a gateway"
                assert wire.get(BUCKET, "large").body == large
            deployment.nodes[0].kill()
            assert client.get_object(Bucket=BUCKET, Key="large")["Body"].read() == large
            client.delete_object(Bucket=BUCKET, Key="small")
            with Wire(deployment.nodes[1]) as wire:
                assert wire.get(BUCKET, "small").status == 404
            assert gateway.terminate() == 0
        finally:
            gateway.end()


@pytest.mark.seconds(200)
def test_a_change_of_buckets_and_users_is_seen_everywhere_at_once():
    with Deployment() as deployment:
        deployment.format().start()
        for number, node in enumerate(deployment.nodes):
            node.client().create_bucket(Bucket=f"from-{number}")
            for other in deployment.nodes:
                other.client().head_bucket(Bucket=f"from-{number}")
        # Created twice at the same moment from two nodes: one wins.
        for attempt in range(10):

            def create(node, name=f"race-{attempt}"):
                with Wire(node) as wire:
                    return wire.request("PUT", f"/{name}", body=b"").status

            assert sorted(at_once(create, deployment.nodes)) == [200, 409, 409]
        deployment.nodes[0].client().delete_bucket(Bucket="from-1")
        for node in deployment.nodes:
            names = [bucket["Name"] for bucket in node.client().list_buckets()["Buckets"]]
            assert "from-1" not in names and "from-2" in names


@pytest.mark.seconds(200)
def test_strangers_on_the_port_between_nodes_are_refused_and_harmless():
    with Deployment() as deployment, Deployment() as other:
        deployment.format().start()
        node = deployment.nodes[0]
        node.client().create_bucket(Bucket=BUCKET)
        draw = random.Random(4)
        address = ("127.0.0.1", node.peer_port)
        before = node.resident_bytes()

        def knock(data):
            with socket.create_connection(address, timeout=10) as stranger:
                stranger.settimeout(10)
                try:
                    stranger.sendall(data)
                    while stranger.recv(4096):
                        pass
                except OSError:
                    pass

        at_once(knock, [draw.randbytes(draw.choice([1, 40, 1000, 100_000])) for _ in range(60)])
        at_once(knock, [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] * 10)
        # Half-open ones that say nothing, more than are let in at once.
        silent = [socket.create_connection(address, timeout=10) for _ in range(400)]
        with Wire(node) as wire:
            assert wire.put(BUCKET, "beside", b"strangers").status == 200
        time.sleep(4)
        # Nobody who said nothing is kept.
        for stranger in silent:
            stranger.settimeout(5)
            try:
                while stranger.recv(4096):
                    pass
            except ConnectionError:
                pass
            stranger.close()
        assert node.resident_bytes() < before + 50 * MIB
        # A node of the same deployment, by its file, that does not know the secret.
        text = deployment.file.read_text()
        secret = deployment.root(text, "secret")
        wrong = deployment.directory / "wrong.toml"
        wrong.write_text(text.replace(secret, other.root(other.file.read_text(), "secret")))
        wrong.chmod(0o600)
        victim = deployment.nodes[2]
        victim.kill()
        victim.spawn(
            ["--cluster", wrong, "--node", victim.name, "--cores", "1", "--listen", f"127.0.0.1:{victim.port}"]
        )
        time.sleep(3)
        assert victim.ask("/ready")[0] == 503
        assert "secret" in victim.log() or "proof" in victim.log(), victim.log_tail()
        with Wire(node) as wire:
            assert wire.get(BUCKET, "beside").body == b"strangers"
        victim.kill()
        victim.start(60)
        with Wire(victim) as wire:
            assert wire.get(BUCKET, "beside").body == b"strangers"


def test_a_node_says_for_whom_it_waits():
    with Deployment() as deployment:
        deployment.format()
        first = deployment.nodes[0].spawn()
        deadline = time.monotonic() + 20
        while not (answer := first.ask("/ready"))[1].count("waiting for node"):
            assert time.monotonic() < deadline, (answer, first.log_tail())
            time.sleep(0.02)
        assert answer[0] == 503 and deployment.nodes[1].name in answer[1]
        # For the first time all have to come.
        deployment.nodes[1].spawn()
        while deployment.nodes[2].name not in (answer := first.ask("/ready"))[1]:
            assert time.monotonic() < deadline, (answer, first.log_tail())
            time.sleep(0.02)
        assert answer[0] == 503
        deployment.nodes[2].spawn()
        first.wait_ready(60)
        first.client().create_bucket(Bucket=BUCKET)
        for node in deployment.nodes:
            node.terminate()
        # Then two of three are a majority of every partition.
        for node in deployment.nodes[:2]:
            node.spawn()
        first.wait_ready(60)
        assert first.client().list_buckets()["Buckets"][0]["Name"] == BUCKET


def test_format_is_repeatable_and_takes_no_other_disk():
    with Deployment() as deployment:
        deployment.format().format()
        node = deployment.nodes[0]
        one, two = node.disks
        one.rename(node.directory / "aside")
        two.rename(one)
        (node.directory / "aside").rename(two)
        refused = run("bucketsctl", "format", "--cluster", deployment.file, "--node", node.name)
        assert refused.returncode != 0 and "disk" in refused.stderr, refused
        refused = run("bucketsd", "--cluster", deployment.file, "--node", node.name, "--listen", "127.0.0.1:0")
        assert refused.returncode != 0 and "belongs" in refused.stderr, refused


@pytest.mark.seconds(200)
def test_clocks_that_are_an_hour_wrong_change_nothing_but_last_modified():
    with Deployment() as deployment:
        for node, hours in zip(deployment.nodes, (1, 0, -1)):
            node.seconds_ahead = 3600 * hours
        deployment.format().start()
        clients = Clients(deployment, count=2, tries=1)
        for turn in range(3):
            ahead, _, behind = deployment.nodes
            for node in (ahead, behind):
                data = body(300 * KIB, f"{node.name} {turn}")
                with Wire(node) as wire:
                    written = time.time()
                    assert wire.put(BUCKET_OF_CLIENTS, "key", data).status == 200
                # The last write is the last, whatever its time says.
                for other in deployment.nodes:
                    with Wire(other) as wire:
                        answer = wire.get(BUCKET_OF_CLIENTS, "key")
                        assert answer.status == 200 and answer.body == data, (turn, node.name, other.name)
                        modified = parsedate_to_datetime(answer.headers["last-modified"]).timestamp()
                        assert abs(modified - written - node.seconds_ahead) < 30
                        unchanged = {"if-none-match": answer.headers["etag"]}
                        assert wire.get(BUCKET_OF_CLIENTS, "key", **unchanged).status == 304
                        assert wire.put(BUCKET_OF_CLIENTS, "key", b"", **{"if-none-match": "*"}).status == 412
            # Leaders move, and so does whose clock is asked.
            clients.take_away(ahead)
            time.sleep(0.5)
            assert ahead.terminate() == 0
            time.sleep(1)
            ahead.start(60)
            clients.give_back(ahead)
        clients.stop()
        clients.check()


def answers(node, wanted, ask, seconds=15):
    """Asks until the status is the one that is wanted."""
    deadline = time.monotonic() + seconds
    while True:
        with Wire(node, timeout=20) as wire:
            answer = ask(wire)
        if answer.status == wanted:
            return answer
        assert time.monotonic() < deadline, (node.name, wanted, answer, node.log_tail())
        time.sleep(0.2)


@pytest.mark.seconds(500)
def test_cut_networks():
    """6 nodes, 4+2 on one disk each: split 2:4 and 3:3, cut one way, healed."""
    with NetworkedDeployment(nodes=6, disks=1, ec="4+2") as deployment:
        deployment.format().start()
        nodes = deployment.nodes
        nodes[0].client().create_bucket(Bucket=BUCKET)
        old, new = body(200 * KIB, "old"), body(300 * KIB, "new")
        with Wire(nodes[0]) as wire:
            assert wire.put(BUCKET, "key", old).status == 200

        # Two against four: the four go on, the two refuse, at once and later.
        deployment.split(nodes[:2], nodes[2:])
        with Wire(nodes[1], timeout=30) as wire:
            assert wire.get(BUCKET, "key").status in (200, 503)
        answers(nodes[3], 200, lambda wire: wire.put(BUCKET, "key", new))
        with Wire(nodes[0], timeout=30) as wire:
            assert wire.get(BUCKET, "key").status == 503
            assert wire.put(BUCKET, "key", old).status == 503
            assert wire.request("GET", f"/{BUCKET}", [("list-type", "2")]).status == 503
        with Wire(nodes[5]) as wire:
            assert wire.get(BUCKET, "key").body == new
        deployment.heal()
        for node in nodes:
            assert answers(node, 200, lambda wire: wire.get(BUCKET, "key")).body == new

        # Three against three: five voters of a partition lie on six nodes, so that each side has some majorities and not others;
        # whatever is answered is right.
        deployment.split(nodes[:3], nodes[3:])
        time.sleep(4)
        taken = {}
        for number in range(24):
            key = f"split/{number}"
            for side, node in (("left", nodes[0]), ("right", nodes[3])):
                with Wire(node, timeout=30) as wire:
                    if wire.put(BUCKET, key, f"{side} {number}".encode()).status == 200:
                        assert key not in taken, f"both sides took {key}"
                        taken[key] = f"{side} {number}".encode()
        deployment.heal()
        for key, data in taken.items():
            for node in (nodes[1], nodes[4]):
                assert answers(node, 200, lambda wire, key=key: wire.get(BUCKET, key)).body == data

        # One way only: the others do not hear node 1, it hears them.
        for other in nodes[1:]:
            deployment.cut(nodes[0], other)
        answers(nodes[2], 200, lambda wire: wire.put(BUCKET, "key", old))
        with Wire(nodes[4], timeout=30) as wire:
            assert wire.get(BUCKET, "key").body == old
        deployment.heal()
        for node in nodes:
            assert answers(node, 200, lambda wire: wire.get(BUCKET, "key")).body == old
            assert answers(node, 200, lambda wire: wire.put(BUCKET, "after", b"x")).status == 200
