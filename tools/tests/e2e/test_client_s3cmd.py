"""s3cmd with its default settings."""

import subprocess
import sys
from pathlib import Path

import pytest

from bodies import LARGE_SIZE, assert_same
from bucketsd import clean_environment
from client_tree import NAMES, assert_trees_equal
from test_presigned_urls import curl

S3CMD = Path(sys.executable).with_name("s3cmd")


@pytest.fixture
def s3cmd(server, tmp_path):
    configuration = tmp_path / "s3cfg"
    configuration.write_text(
        "[default]\n"
        f"access_key = {server.access_key}\nsecret_key = {server.secret_key}\n"
        f"host_base = {server.host}:{server.port}\nhost_bucket = {server.host}:{server.port}\nuse_https = False\n"
    )

    def run(*arguments, status=0):
        done = subprocess.run(
            [S3CMD, "--config", configuration, "--no-progress", *map(str, arguments)],
            capture_output=True,
            env={**clean_environment(), "HOME": str(tmp_path)},
            text=True,
        )
        assert done.returncode == status, f"s3cmd {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_s3cmd_from_the_first_bucket_to_the_last(s3cmd, tree, tmp_path, bucket_name):
    bucket = f"s3://{bucket_name}"
    s3cmd("mb", bucket)
    assert bucket in s3cmd("ls")
    for name in NAMES.values():
        s3cmd("put", tree / name, f"{bucket}/put/{name}")
    for name in NAMES.values():
        s3cmd("get", f"{bucket}/put/{name}", tmp_path / "got")
        assert_same((tmp_path / "got").read_bytes(), (tree / name).read_bytes(), name)
        (tmp_path / "got").unlink()

    s3cmd("sync", f"{tree}/", f"{bucket}/tree/")
    # s3cmd compares by MD5, and finds it of large files in its own metadata.
    assert "upload:" not in s3cmd("sync", f"{tree}/", f"{bucket}/tree/")
    listed = s3cmd("ls", "--recursive", f"{bucket}/tree/").splitlines()
    assert {(int(line.split()[2]), line.split(None, 3)[3]) for line in listed} == {
        (size, f"{bucket}/tree/{name}") for size, name in NAMES.items()
    }
    folders = s3cmd("ls", f"{bucket}/tree/")
    assert f"DIR  {bucket}/tree/deep/" in folders and "100MiB" not in folders
    s3cmd("sync", f"{bucket}/tree/", f"{tmp_path}/back/")
    assert_trees_equal(tmp_path / "back", tree)

    s3cmd("cp", f"{bucket}/tree/{NAMES[LARGE_SIZE]}", f"{bucket}/copy")
    s3cmd("mv", f"{bucket}/copy", f"{bucket}/moved")
    s3cmd("get", f"{bucket}/moved", tmp_path / "moved")
    assert_same((tmp_path / "moved").read_bytes(), (tree / NAMES[LARGE_SIZE]).read_bytes())
    information = s3cmd("info", f"{bucket}/moved")
    assert str(LARGE_SIZE) in information
    assert "Location" in s3cmd("info", bucket)
    assert s3cmd("du", bucket).split()[0].isdigit()

    status, got = curl(s3cmd("signurl", f"{bucket}/put/{NAMES[1]}", "+60").strip())
    assert status == 200
    assert_same(got, (tree / NAMES[1]).read_bytes())

    s3cmd("del", f"{bucket}/moved")
    s3cmd("del", "--recursive", "--force", bucket)
    assert s3cmd("ls", bucket).strip() == ""
    s3cmd("rb", bucket)
    assert bucket not in s3cmd("ls")


def test_an_upload_that_s3cmd_left_is_listed_and_aborted(s3cmd, s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="left")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="left", UploadId=upload, PartNumber=1, Body=b"x")
    assert upload in s3cmd("multipart", f"s3://{bucket}")
    assert "left" not in s3cmd("ls", f"s3://{bucket}")
    s3cmd("abortmp", f"s3://{bucket}/left", upload)
    assert upload not in s3cmd("multipart", f"s3://{bucket}")
