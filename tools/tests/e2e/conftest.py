"""One server for the tests that only use it; tests that break servers start their own."""

import itertools
import os
import shutil
import signal

import pytest

from bucketsd import BINARIES, DATA, Bucketsd
from wire import Wire

SECONDS_DEFAULT = 300


def pytest_configure():
    for binary in ("bucketsd", "bucketsctl"):
        if not (BINARIES / binary).exists():
            pytest.exit(f"{BINARIES / binary} is missing: cargo build --release --package buckets-tools", 2)


def pytest_report_header():
    # Many a failure of a test that writes is a file system with too little room: each disk keeps its last GiB.
    DATA.mkdir(parents=True, exist_ok=True)
    return f"free for data in {DATA}: {shutil.disk_usage(DATA).free / 2**30:.1f} GiB"


def pytest_sessionfinish():
    try:
        DATA.rmdir()
    except OSError:
        pass


@pytest.fixture(autouse=True)
def broken_off_in_time(request):
    """A test that hangs fails, and the ones after it still run."""
    marker = request.node.get_closest_marker("seconds")
    seconds = marker.args[0] if marker else SECONDS_DEFAULT

    def expire(*_):
        raise TimeoutError(f"{request.node.name} ran for more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="session")
def shared_server():
    with Bucketsd(name="shared").format() as server:
        yield server


@pytest.fixture
def server(shared_server):
    """A node that is well before the test and after it."""
    if shared_server.process is None:
        shared_server.start()
    yield shared_server
    shared_server.check_alive()
    status, text = shared_server.ask("/ready")
    assert status == 200, (status, text)


@pytest.fixture
def s3(server):
    return server.client()


@pytest.fixture
def wire(server):
    with Wire(server) as wire:
        yield wire


_numbers = itertools.count(1)


@pytest.fixture
def bucket(s3):
    """A new bucket, removed afterwards with all that is in it."""
    name = new_bucket(s3)
    yield name
    empty_bucket(s3, name)
    s3.delete_bucket(Bucket=name)


@pytest.fixture
def bucket_name():
    """A name that no bucket has yet."""
    return f"e2e-{os.getpid()}-{next(_numbers)}"


def new_bucket(s3):
    name = f"e2e-{os.getpid()}-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name


def empty_bucket(s3, name):
    uploads = s3.get_paginator("list_multipart_uploads").paginate(Bucket=name)
    for upload in [upload for page in uploads for upload in page.get("Uploads", [])]:
        s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        # A document for a thousand keys cannot hold characters that XML does not have.
        plain = [key for key in keys if all(ch >= " " and ch not in "\ufffe\uffff" for ch in key["Key"])]
        if plain:
            answer = s3.delete_objects(Bucket=name, Delete={"Objects": plain, "Quiet": True})
            assert not answer.get("Errors"), answer
        for key in keys:
            if key not in plain:
                s3.delete_object(Bucket=name, Key=key["Key"])


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A folder with a file of every size that matters; not to be changed."""
    from client_tree import plant

    return plant(tmp_path_factory.mktemp("tree"))
