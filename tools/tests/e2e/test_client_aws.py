"""aws CLI from PyPI, with its default settings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bodies import LARGE_SIZE, MIB, assert_same, body
from bucketsd import clean_environment
from client_tree import NAMES, assert_trees_equal
from test_presigned_urls import curl

AWS = Path(sys.executable).with_name("aws")


@pytest.fixture
def aws(server, tmp_path):
    def run(*arguments, status=0, stdin=None):
        done = subprocess.run(
            [AWS, "--endpoint-url", server.endpoint, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env={
                **clean_environment(),
                "HOME": str(tmp_path),
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
        assert done.returncode == status, f"aws {arguments}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
        return done.stdout if status == 0 else done.stderr

    return run


def test_aws_cli_from_the_first_bucket_to_the_last(aws, server, tree, tmp_path, bucket_name):
    bucket = f"s3://{bucket_name}"
    assert f"make_bucket: {bucket_name}" in aws("s3", "mb", bucket).decode()
    assert bucket_name in aws("s3", "ls").decode()

    # Up, and again: nothing is left to do.
    aws("s3", "sync", tree, f"{bucket}/tree", "--no-progress")
    assert aws("s3", "sync", tree, f"{bucket}/tree", "--no-progress") == b""

    # Listed, flat and by folder.
    listed = aws("s3", "ls", "--recursive", f"{bucket}/tree/").decode().splitlines()
    assert {(int(line.split()[2]), line.split(None, 3)[3]) for line in listed} == {
        (size, f"tree/{name}") for size, name in NAMES.items()
    }
    folders = aws("s3", "ls", f"{bucket}/tree/").decode()
    assert "PRE deep/" in folders and "PRE inline/" in folders and "one byte.txt" in folders and "100MiB" not in folders
    head = aws("s3api", "head-object", "--bucket", bucket_name, "--key", f"tree/{NAMES[LARGE_SIZE]}").decode()
    assert '-13\\"' in head, "100 MiB go in 13 parts"

    # Down, and equal.
    aws("s3", "sync", f"{bucket}/tree", tmp_path / "back", "--no-progress")
    assert_trees_equal(tmp_path / "back", tree)

    # A changed and a removed file follow.
    changed = tmp_path / "changed"
    shutil.copytree(tmp_path / "back", changed, copy_function=os.link)
    (changed / "empty").unlink()
    (changed / "one byte.txt").unlink()
    (changed / "one byte.txt").write_bytes(b"now more")
    aws("s3", "sync", "--delete", changed, f"{bucket}/tree", "--no-progress")
    aws("s3", "sync", "--delete", f"{bucket}/tree", tmp_path / "again", "--no-progress")
    assert_trees_equal(tmp_path / "again", changed)

    # Copied and moved inside the server, the large one in parts.
    aws("s3", "cp", "--recursive", f"{bucket}/tree", f"{bucket}/copy", "--no-progress")
    aws("s3", "mv", f"{bucket}/copy/{NAMES[LARGE_SIZE]}", f"{bucket}/moved", "--no-progress")
    aws("s3", "cp", f"{bucket}/moved", tmp_path / "moved", "--no-progress")
    assert_same((tmp_path / "moved").read_bytes(), (tree / NAMES[LARGE_SIZE]).read_bytes())

    # Through pipes, of unknown length.
    data = body(9 * MIB, "stream")
    aws("s3", "cp", "-", f"{bucket}/stream", stdin=data)
    assert_same(aws("s3", "cp", f"{bucket}/stream", "-"), data)

    # Presigned, with curl.
    url = aws("s3", "presign", f"{bucket}/stream").decode().strip()
    status, got = curl(url)
    assert status == 200
    assert_same(got, data)

    # Away.
    assert b"BucketNotEmpty" in aws("s3", "rb", bucket, status=1)
    aws("s3", "rm", f"{bucket}/stream")
    aws("s3", "rb", "--force", bucket)
    assert bucket_name not in aws("s3", "ls").decode()


def test_a_wrong_secret_is_told(aws, server):
    server_secret, server.secret_key = server.secret_key, "wrong"
    try:
        assert b"SignatureDoesNotMatch" in aws("s3", "ls", status=255)
    finally:
        server.secret_key = server_secret
