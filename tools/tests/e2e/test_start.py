"""Starting and stopping: what cannot work ends with one sentence that says what is wrong and what to do; SIGTERM drains."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from bodies import KIB, MIB, assert_same, body
from bucketsd import BINARIES, Bucketsd, clean_environment, free_port, run, scratch
from wire import Wire


@pytest.fixture
def place():
    directory = scratch("start")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def node():
    with Bucketsd(name="start").format() as server:
        yield server


def refused(*arguments, says, status=1, environment=None):
    """bucketsd must end by itself, and its last line on standard error must say so."""
    done = run("bucketsd", *arguments, environment=environment, timeout=30)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "panicked" not in done.stderr, done.stderr
    text = done.stderr.lower()
    for word in [says] if isinstance(says, str) else says:
        assert word.lower() in text, f"{word!r} is not in {done.stderr!r}"
    if status == 1:
        # One sentence of an error, not a trace.
        assert len(done.stderr.strip().splitlines()) <= 3, done.stderr
    return done


# What cannot work


def test_a_port_that_is_taken(node):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused("--disks", node.pattern, "--listen", f"127.0.0.1:{port}", says=[str(port)])


def test_a_port_that_another_bucketsd_has(node, place):
    node.start()
    with Bucketsd(name="second").format() as second:
        refused("--disks", second.pattern, "--listen", f"127.0.0.1:{node.port}", says=[str(node.port)])
    assert node.ask("/health")[0] == 200


def test_disks_that_another_bucketsd_has(node):
    node.start()
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
        wire.put("bucket", "k", b"x")
        refused("--disks", node.pattern, "--listen", f"127.0.0.1:{free_port()}", says="disk1")
        assert wire.get("bucket", "k").body == b"x"
    node.kill()
    node.start()
    with Wire(node) as wire:
        assert wire.get("bucket", "k").body == b"x"


def test_disks_that_are_not_formatted(place):
    for number in range(1, 5):
        (place / f"disk{number}").mkdir()
    listen = f"127.0.0.1:{free_port()}"
    refused("--disks", f"{place}/disk{{1...4}}", "--listen", listen, says=["format", "bucketsctl format"])
    # And nothing was put there.
    assert not list((place / "disk1").iterdir())


def test_disks_that_are_not_there(place):
    listen = f"127.0.0.1:{free_port()}"
    refused("--disks", f"{place}/none{{1...4}}", "--listen", listen, says="none1")
    assert not list(place.iterdir())


def test_disks_of_two_deployments(node, place):
    with Bucketsd(name="other").format() as other:
        shutil.rmtree(node.disks[2])
        shutil.copytree(other.disks[2], node.disks[2])
    node.spawn()
    deadline = time.monotonic() + 30
    while node.process.poll() is None and time.monotonic() < deadline:
        if node.ask("/ready")[0] == 200:
            # It may go on without the foreign disk; it must not use it, and must say so.
            disks = node.info()["sets"][0]["disks"]
            assert [disk["condition"] for disk in disks] == ["ok", "ok", "refused", "ok"], disks
            assert "deployment" in disks[2]["reason"], disks[2]
            return
        time.sleep(0.05)
    assert node.process.poll() == 1 and "deployment" in node.log().lower(), node.log_tail()
    node.process = None


def test_disks_that_were_swapped_are_refused_until_they_are_back(node):
    """An operator who pulls a disk by its place must not pull another one."""
    node.start()
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
        data = body(1 * MIB, "swapped")
        wire.put("bucket", "k", data)
    node.terminate()
    aside = node.directory / "aside"
    node.disks[0].rename(aside)
    node.disks[3].rename(node.disks[0])
    aside.rename(node.disks[3])
    refused = run("bucketsd", "--disks", node.pattern, "--listen", f"127.0.0.1:{node.port}")
    assert refused.returncode == 1 and str(node.disks[3]) in refused.stderr, refused.stderr
    node.disks[0].rename(aside)
    node.disks[3].rename(node.disks[0])
    aside.rename(node.disks[3])
    node.start()
    with Wire(node) as wire:
        assert_same(wire.get("bucket", "k").body, data)


@pytest.mark.parametrize(
    "arguments, status, says",
    [
        (["--no-such-flag"], 2, "--no-such-flag"),
        ([], 1, "--disks"),
        (["--cores", "0", "--disks", "/nowhere"], 1, "cores"),
        (["--cores", "many", "--disks", "/nowhere"], 2, "--cores"),
        (["--disks", "/nowhere{1..4}"], 1, "pattern"),
        (["--disks", "/nowhere", "--listen", "nonsense"], 1, "listen"),
        (["--disks", "/nowhere", "--log-format", "xml"], 2, "--log-format"),
        (["--disks", "/nowhere", "--dev", "/nowhere"], 2, "--dev"),
        (["--config", "/no/such/node.toml"], 1, "/no/such/node.toml"),
        (["stray"], 2, "stray"),
    ],
    ids=str,
)
def test_wrong_flags(arguments, status, says):
    refused(*arguments, says=says, status=status)


@pytest.mark.parametrize(
    "environment, says",
    [
        ({"BUCKETS_ROOT_ACCESS_KEY": "only-one-of-them"}, "BUCKETS_ROOT_SECRET_KEY"),
        ({"BUCKETS_ROOT_SECRET_KEY": "only-one-of-them"}, "BUCKETS_ROOT_ACCESS_KEY"),
        ({"BUCKETS_ROOT_ACCESS_KEY": "root", "BUCKETS_ROOT_SECRET_KEY": "short"}, "secret"),
        ({"BUCKETS_ROOT_ACCESS_KEY": "a b", "BUCKETS_ROOT_SECRET_KEY": "long-enough-secret"}, "access key"),
    ],
    ids=str,
)
def test_credentials_that_cannot_work(node, environment, says):
    refused("--disks", node.pattern, "--listen", f"127.0.0.1:{free_port()}", says=says, environment=environment)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lower its hard limit for good and still run the suite")
def test_memlock_that_is_too_small(node):
    done = subprocess.run(
        ["prlimit", "--memlock=65536:65536", "setpriv", "--inh-caps=-all", "--bounding-set=-all", BINARIES / "bucketsd",
         "--disks", node.pattern, "--listen", f"127.0.0.1:{free_port()}"],
        capture_output=True, text=True, timeout=30, env={**clean_environment(), "HOME": str(node.directory)},
    )  # fmt: skip
    assert done.returncode == 1 and "memlock" in done.stderr.lower(), (done.returncode, done.stderr)


@pytest.fixture
def ramfs(place):
    """A file system that refuses O_DIRECT (a tmpfs of today does not)."""
    mounted = place / "ramfs"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "ramfs", "ramfs", mounted], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount a ramfs")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_a_file_system_without_o_direct(ramfs):
    with Bucketsd(directory=ramfs / "node") as node:
        for disk in node.disks:
            disk.mkdir(parents=True)
        done = run("bucketsctl", "format", "--disks", node.pattern, "--ec", "2+2")
        if done.returncode == 0:
            done = run("bucketsd", "--disks", node.pattern, "--listen", f"127.0.0.1:{free_port()}", timeout=30)
        assert done.returncode == 1 and "o_direct" in done.stderr.lower(), (done.returncode, done.stderr)


# What works


def test_dev_makes_four_disks_and_keys_and_finds_them_again(place):
    with Bucketsd(directory=place) as node:
        arguments = ["--dev", place / "dev", "--listen", f"127.0.0.1:{node.port}", "--cores", "2"]
        seen = []
        for turn in range(2):
            node.log_path = place / f"log{turn}"
            node.spawn(arguments, environment={}).wait_ready()
            seen.append(node.log())
            kept = (place / "dev" / "credentials.toml").read_text()
            node.access_key = re.search(r'access_key = "(.+)"', kept)[1]
            node.secret_key = re.search(r'secret_key = "(.+)"', kept)[1]
            with Wire(node) as wire:
                if turn == 0:
                    assert wire.request("PUT", "/bucket").status == 200
                    assert wire.put("bucket", "k", b"kept").status == 200
                assert wire.get("bucket", "k").body == b"kept"
            assert node.terminate() == 0
        first, second = seen
        assert f"http://127.0.0.1:{node.port}" in first and "aws" in first and " s3 " in first
        # Printed once, where they were made.
        assert node.secret_key in first and node.secret_key not in second
        assert os.stat(place / "dev" / "credentials.toml").st_mode & 0o777 == 0o600
        made = sorted(path.name for path in (place / "dev").iterdir() if path.is_dir())
        assert made == ["disk1", "disk2", "disk3", "disk4"]


def test_dev_does_not_make_a_lost_disk_anew(place):
    """A directory that is gone is a lost disk, not an invitation to format."""
    with Bucketsd(directory=place) as node:
        arguments = ["--dev", place, "--listen", f"{node.host}:{node.port}", "--cores", "2"]
        node.spawn(arguments).wait_ready()
        data = body(300 * KIB, "dev")
        with Wire(node) as wire:
            wire.request("PUT", "/bucket")
            wire.put("bucket", "k", data)
        node.terminate()
        shutil.rmtree(node.disks[1])
        node.spawn(arguments).wait_ready()
        with Wire(node) as wire:
            assert_same(wire.get("bucket", "k").body, data)
        assert node.info()["verdict"] != "safe"


def test_a_configuration_file_says_it_all(place):
    with Bucketsd(directory=place).format() as node:
        configuration = place / "node.toml"
        configuration.write_text(
            f'listen = "127.0.0.1:{node.port}"\ncores = 1\ndisks = ["{node.pattern}"]\nregion = "eu-test-1"\n'
            f'[log]\nformat = "json"\n[credentials]\naccess_key = "{node.access_key}"\nsecret_key = "{node.secret_key}"\n'
        )
        configuration.chmod(0o600)
        node.spawn(["--config", configuration], environment={}).wait_ready()
        with Wire(node) as wire:
            answer = wire.request("GET", "/")
            assert (answer.status, answer.code) == (400, "AuthorizationHeaderMalformed")
            wire.signer.region = "eu-test-1"
            assert wire.request("GET", "/").status == 200
        assert run("bucketsctl", "info", "--config", configuration).returncode == 0
        assert node.terminate() == 0
        for line in node.log().splitlines():
            json.loads(line)


@pytest.mark.parametrize("k, m", [(1, 1), (1, 3), (4, 2), (8, 4)])
def test_other_codings(k, m):
    with Bucketsd(name="coding", k=k, m=m).format() as node:
        node.start()
        with Wire(node) as wire:
            wire.request("PUT", "/bucket")
            bodies = {f"k{size}": body(size, size) for size in (0, 1, 100 * KIB, 128 * KIB + 1, 3 * MIB + 7)}
            for key, data in bodies.items():
                assert wire.put("bucket", key, data).status == 200
        node.kill()
        # Where M > K, no more than half of the disks: the rest must hold what a majority acknowledged.
        for disk in node.disks[: min(m, (k + m) // 2)]:
            shutil.rmtree(disk)
        node.start()
        with Wire(node) as wire:
            for key, data in bodies.items():
                assert_same(wire.get("bucket", key).body, data, key)


# Stopping


def test_sigterm_drains_what_is_under_way(node):
    node.start()
    data = body(8 * MIB, "drain")
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
    head_sent = threading.Event()
    answers = []

    def upload():
        with Wire(node) as wire:
            path = "/bucket/k"
            headers = wire.signer.sign("PUT", path, [], {"host": wire.host, "content-length": str(len(data))})
            connection = wire.connection
            connection.putrequest("PUT", path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            connection.send(data[: 4 * MIB])
            head_sent.set()
            time.sleep(1)
            connection.send(data[4 * MIB :])
            answers.append(connection.getresponse().status)

    thread = threading.Thread(target=upload)
    thread.start()
    head_sent.wait(10)
    time.sleep(0.2)
    assert node.terminate() == 0
    thread.join()
    assert answers == [200]
    node.start()
    with Wire(node) as wire:
        assert_same(wire.get("bucket", "k").body, data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_well(node, number):
    node.start()
    with Wire(node) as idle:
        idle.request("GET", "/")
        began = time.monotonic()
        node.process.send_signal(number)
        assert node.process.wait(20) == 0, node.log_tail()
        node.process = None
        # An idle connection does not hold it up.
        assert time.monotonic() - began < 10


def test_many_restarts_keep_everything(node):
    kept = {}
    for turn in range(6):
        node.start()
        with Wire(node) as wire:
            wire.request("PUT", "/bucket")
            for size in (10, 200 * KIB):
                kept[f"{turn}/{size}"] = body(size, (turn, size))
                assert wire.put("bucket", f"{turn}/{size}", kept[f"{turn}/{size}"]).status == 200
            for key, data in kept.items():
                assert_same(wire.get("bucket", key).body, data, key)
        if turn % 2:
            node.kill()
        else:
            assert node.terminate() == 0


# Being watched


def test_health_ready_and_metrics(node):
    node.start()
    for path in ("/health", "/ready"):
        assert node.ask(path)[0] == 200
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
        before = node.metrics()
        for number in range(25):
            wire.put("bucket", f"k{number}", b"x" * 1000)
        wire.get("bucket", "k1")
        wire.get("bucket", "never")
        after = node.metrics()

    def requests(samples, operation):
        return sum(
            value
            for name in samples
            if re.fullmatch(r".*requests_total", name)
            for labels, value in samples[name].items()
            if f'"{operation}"' in labels
        )

    assert requests(after, "PutObject") - requests(before, "PutObject") == 25
    assert requests(after, "GetObject") - requests(before, "GetObject") == 2


def test_help_names_every_flag():
    text = run("bucketsd", "--help", check=True).stdout
    for flag in ("--cores", "--disks", "--listen", "--config", "--dev", "--log-format", "--log-level", "--cache", "--region"):
        assert flag in text, flag
    assert "BUCKETS_ROOT_ACCESS_KEY" in text and "BUCKETS_ROOT_SECRET_KEY" in text
    assert re.fullmatch(r"bucketsd \d+\.\d+\.\d+\S*\n", run("bucketsd", "--version", check=True).stdout)
