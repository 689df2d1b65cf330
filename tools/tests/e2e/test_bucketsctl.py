"""bucketsctl: every command, for people and as JSON, with exit codes that scripts can use."""

import json
import shutil
import time

import pytest

import damage
from bodies import KIB, body
from bucketsd import Bucketsd, run, scratch
from wire import Wire

OK, ERROR, USAGE, DEGRADED, AT_RISK = range(5)


@pytest.fixture
def place():
    directory = scratch("ctl")
    for number in range(1, 5):
        (directory / f"disk{number}").mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def node():
    with Bucketsd(name="ctl").format() as server:
        server.start()
        yield server


def ctl(*arguments, status=OK, **options):
    done = run("bucketsctl", *arguments, **options)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    assert "panicked" not in done.stderr
    if status in (ERROR, USAGE):
        assert done.stderr.strip(), "an error without a word"
    return done


COMMANDS = [[], ["format"], ["topology"], ["topology", "show"], ["info"], ["node"], ["node", "list"], ["node", "info"], ["node", "drain"], ["node", "undrain"], ["disk"], ["disk", "list"], ["user"], ["user", "add"], ["user", "list"], ["user", "remove"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "bucketsctl")
def test_every_command_has_help(command):
    text = ctl(*command, "--help").stdout
    assert "Usage: bucketsctl" in text
    if command in (["format"], ["topology", "show"], ["info"], ["node", "list"], ["node", "info"], ["node", "drain"], ["node", "undrain"], ["disk", "list"], ["user", "add"], ["user", "list"], ["user", "remove"]):
        assert "--json" in text


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["format"], ["format", "--disks", "/x"], ["topology", "show"], ["user", "remove"], ["info", "--what"]],
    ids=str,
)
def test_wrong_usage_is_exit_2(arguments):
    ctl(*arguments, status=USAGE)


# format


def test_format_makes_a_deployment(place):
    done = ctl("format", "--disks", f"{place}/disk{{1...4}}", "--ec", "2+2")
    assert done.stdout.strip()
    identities = [json.loads((place / f"disk{n}/.buckets.sys/format.json").read_text()) for n in range(1, 5)]
    assert len({identity["id"] for identity in identities}) == 1, "one deployment"
    assert len({identity["xl"]["this"] for identity in identities}) == 4, "four disks"
    shown = json.loads(ctl("topology", "show", "--disks", f"{place}/disk{{1...4}}", "--json").stdout)
    assert shown["deploymentId"] == identities[0]["id"] and shown["sets"][0]["erasure"] == "2+2"
    assert shown["verdict"] == "safe" and not shown["problems"]


def test_format_speaks_json(place):
    done = ctl("format", "--disks", f"{place}/disk{{1...4}}", "--ec", "2+2", "--json")
    said = json.loads(done.stdout)
    assert json.loads((place / "disk1/.buckets.sys/format.json").read_text())["id"] in json.dumps(said)


def test_format_refuses_what_is_formatted_and_says_what_would_be_lost(node):
    node.terminate()
    before = (node.disks[0] / ".buckets.sys/format.json").read_text()
    done = ctl("format", "--disks", node.pattern, "--ec", "2+2", status=ERROR)
    assert "--force" in done.stderr and str(node.disks[0]) in done.stderr
    assert json.loads(before)["id"] in done.stderr, "it names the deployment that would be destroyed"
    assert (node.disks[0] / ".buckets.sys/format.json").read_text() == before
    ctl("format", "--disks", node.pattern, "--ec", "3+1", "--force")
    after = (node.disks[0] / ".buckets.sys/format.json").read_text()
    assert json.loads(after)["id"] != json.loads(before)["id"]
    node.start()
    with Wire(node) as wire:
        assert wire.request("GET", "/").body.count(b"<Bucket>") == 0


def test_format_refuses_all_where_one_disk_is_formatted(place):
    ctl("format", "--disks", f"{place}/disk{{1...2}}", "--ec", "1+1")
    before = (place / "disk1/.buckets.sys/format.json").read_text()
    ctl("format", "--disks", f"{place}/disk{{1...4}}", "--ec", "2+2", status=ERROR)
    assert not list((place / "disk3").iterdir()) and not list((place / "disk4").iterdir())
    assert (place / "disk1/.buckets.sys/format.json").read_text() == before


def test_format_of_disks_that_a_server_has_open(node):
    """Even --force must not pull the ground from under a running server."""
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
        wire.put("bucket", "k", b"x")
        ctl("format", "--disks", node.pattern, "--ec", "2+2", "--force", status=ERROR)
        assert wire.get("bucket", "k").body == b"x"


@pytest.mark.parametrize("coding", ["0+2", "2+0", "17+1", "1+17", "2", "2+x", "", "2+2+2", "-1+3"])
def test_codings_that_cannot_be(place, coding):
    done = run("bucketsctl", "format", "--disks", f"{place}/disk{{1...4}}", f"--ec={coding}")
    assert done.returncode in (ERROR, USAGE) and done.stderr.strip()
    assert not list((place / "disk1").iterdir())


@pytest.mark.parametrize("coding", ["2+1", "3+2", "4+1"])
def test_codings_that_do_not_fit_the_disks(place, coding):
    ctl("format", "--disks", f"{place}/disk{{1...4}}", "--ec", coding, status=ERROR)
    assert not list((place / "disk1").iterdir())


def test_format_of_directories_that_are_not_there(place):
    done = ctl("format", "--disks", f"{place}/none{{1...4}}", "--ec", "2+2", status=ERROR)
    assert "none1" in done.stderr


# topology show


def test_topology_show_sees_what_is_lost(node):
    node.terminate()
    damage.take_away(node.disks[1])
    done = ctl("topology", "show", "--disks", node.pattern, status=DEGRADED)
    assert "degraded" in done.stdout and "disk2" in done.stdout
    damage.empty(node.disks[2])
    shown = json.loads(ctl("topology", "show", "--disks", node.pattern, "--json", status=AT_RISK).stdout)
    assert shown["verdict"] == "at-risk" and len(shown["problems"]) >= 2


def test_topology_show_of_nothing(place):
    ctl("topology", "show", "--disks", f"{place}/disk{{1...4}}", status=ERROR)


# info


def opened(node):
    """A node is ready when enough of its disks are open; what it says of all of them counts when the others are, too."""
    deadline = time.monotonic() + 10
    while any(disk["condition"] == "unknown" for group in node.info()["sets"] for disk in group["disks"]):
        assert time.monotonic() < deadline, node.info()
        time.sleep(0.05)


def test_info_says_safe_degraded_at_risk(node):
    opened(node)
    done = node.control("info")
    assert done.returncode == OK and done.stdout.splitlines()[0].startswith("safe: all 4 disks ok, 2 more"), done
    info = node.info()
    assert info["verdict"] == "safe" and info["sets"][0]["failuresTolerated"] == 2
    assert [disk["condition"] for disk in info["sets"][0]["disks"]] == ["ok"] * 4
    assert all(disk["totalBytes"] > disk["freeBytes"] > 0 for disk in info["sets"][0]["disks"])

    for lost, status, word, tolerated in ((1, DEGRADED, "degraded:", 1), (3, AT_RISK, "at risk:", 0)):
        node.terminate()
        damage.take_away(node.disks[lost])
        node.start()
        opened(node)
        done = node.control("info")
        assert done.returncode == status and done.stdout.splitlines()[0].startswith(word), done
        assert node.info()["sets"][0]["failuresTolerated"] == tolerated
        assert node.info()["sets"][0]["disks"][lost]["condition"] == "missing"


def test_info_of_nobody(node):
    node.kill()
    done = node.control("info", "--json")
    assert done.returncode == ERROR and node.endpoint.split("//")[1] in done.stderr


def test_info_with_the_wrong_secret(node):
    secret, node.secret_key = node.secret_key, "not-the-secret"
    assert node.control("info").returncode == ERROR
    node.secret_key = secret


# user


def test_users_come_and_go(node):
    added = json.loads(node.control("user", "add", "--json", check=True).stdout)
    named = json.loads(node.control("user", "add", "a-named-user", "--json", check=True).stdout)
    assert named["accessKey"] == "a-named-user" and len(named["secretKey"]) >= 16
    text = node.control("user", "add", "told-to-people", check=True).stdout
    assert "told-to-people" in text

    keys = [user["accessKey"] for user in json.loads(node.control("user", "list", "--json", check=True).stdout)["users"]]
    assert {added["accessKey"], "a-named-user", "told-to-people"} <= set(keys)
    listed = node.control("user", "list", check=True).stdout
    assert "a-named-user" in listed and named["secretKey"] not in listed

    s3 = node.client(named["accessKey"], named["secretKey"])
    s3.create_bucket(Bucket="of-the-user")
    s3.put_object(Bucket="of-the-user", Key="k", Body=b"x")

    # Users outlive a crash.
    node.kill()
    node.start()
    s3 = node.client(named["accessKey"], named["secretKey"])
    assert s3.get_object(Bucket="of-the-user", Key="k")["Body"].read() == b"x"

    node.control("user", "remove", "a-named-user", check=True)
    with Wire(node, access_key=named["accessKey"], secret_key=named["secretKey"]) as wire:
        answer = wire.get("of-the-user", "k")
        assert (answer.status, answer.code) == (403, "InvalidAccessKeyId"), answer
    assert "a-named-user" not in node.control("user", "list", check=True).stdout


def test_users_that_cannot_be_made_or_removed(node):
    node.control("user", "add", "twice", check=True)
    assert node.control("user", "add", "twice").returncode == ERROR
    assert node.control("user", "remove", "nobody-at-all").returncode == ERROR
    assert node.control("user", "add", node.access_key).returncode == ERROR
    assert node.control("user", "remove", node.access_key).returncode == ERROR
    assert node.control("user", "add", "a b").returncode == ERROR


def test_a_user_is_no_administrator(node):
    user = json.loads(node.control("user", "add", "--json", check=True).stdout)
    root = node.access_key, node.secret_key
    node.access_key, node.secret_key = user["accessKey"], user["secretKey"]
    try:
        for command in (["info"], ["user", "list"], ["user", "add"], ["user", "remove", root[0]]):
            done = node.control(*command)
            assert done.returncode == ERROR and ("denied" in done.stderr.lower() or "root" in done.stderr.lower()), done
    finally:
        node.access_key, node.secret_key = root
    with Wire(node) as wire:
        wire.request("PUT", "/bucket")
        data = body(1 * KIB, "root")
        assert wire.put("bucket", "k", data).status == 200
