"""rclone with its default settings; where those would not send parts, also with parts."""

import subprocess

import pytest

from bodies import LARGE_SIZE, MIB, assert_same, body
from bucketsd import clean_environment
from client_tree import NAMES, assert_trees_equal
from test_presigned_urls import curl


@pytest.fixture
def rclone(server, tmp_path):
    def run(*arguments, status=0, stdin=b""):
        done = subprocess.run(
            ["rclone", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env={
                **clean_environment(),
                "HOME": str(tmp_path),
                "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
                "RCLONE_CONFIG_B_TYPE": "s3",
                "RCLONE_CONFIG_B_PROVIDER": "Other",
                "RCLONE_CONFIG_B_ENDPOINT": server.endpoint,
                "RCLONE_CONFIG_B_ACCESS_KEY_ID": server.access_key,
                "RCLONE_CONFIG_B_SECRET_ACCESS_KEY": server.secret_key,
            },
        )
        assert done.returncode == status, f"rclone {arguments}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
        return done.stdout

    return run


def test_rclone_from_the_first_bucket_to_the_last(rclone, tree, tmp_path, bucket_name):
    bucket = f"b:{bucket_name}"
    rclone("mkdir", bucket)
    assert bucket_name in rclone("lsd", "b:").decode()
    rclone("copy", tree, f"{bucket}/tree")
    rclone("check", tree, f"{bucket}/tree")
    rclone("check", "--download", tree, f"{bucket}/tree")
    assert set(rclone("lsf", "--recursive", "--files-only", "--format", "sp", f"{bucket}/tree").decode().splitlines()) == {
        f"{size};{name}" for size, name in NAMES.items()
    }
    assert rclone("lsf", f"{bucket}/tree").decode().splitlines() == ["deep/", "empty", "inline/", "large/", "one byte.txt"]

    # In parts, and copied in parts on the server.
    rclone("copyto", "--s3-upload-cutoff", "5M", tree / NAMES[LARGE_SIZE], f"{bucket}/parts")
    rclone("copyto", "--s3-copy-cutoff", "20M", f"{bucket}/parts", f"{bucket}/copy")
    rclone("moveto", f"{bucket}/copy", f"{bucket}/moved")
    rclone("copyto", f"{bucket}/moved", tmp_path / "moved")
    assert_same((tmp_path / "moved").read_bytes(), (tree / NAMES[LARGE_SIZE]).read_bytes())
    data = body(20 * MIB, "rcat")
    rclone("rcat", f"{bucket}/rcat", stdin=data)
    assert_same(rclone("cat", f"{bucket}/rcat"), data)
    assert_same(rclone("cat", "--offset", "1000", "--count", "5000", f"{bucket}/rcat"), data[1000:6000])

    rclone("sync", f"{bucket}/tree", tmp_path / "back")
    assert_trees_equal(tmp_path / "back", tree)
    (tmp_path / "back" / "empty").unlink()
    (tmp_path / "back" / "one byte.txt").write_bytes(b"changed")
    rclone("sync", tmp_path / "back", f"{bucket}/tree")
    rclone("check", "--download", tmp_path / "back", f"{bucket}/tree")

    status, got = curl(rclone("link", f"{bucket}/rcat").decode().strip())
    assert status == 200
    assert_same(got, data)

    rclone("deletefile", f"{bucket}/rcat")
    rclone("purge", f"{bucket}/tree")
    rclone("delete", bucket)
    rclone("rmdir", bucket)
    assert bucket_name not in rclone("lsd", "b:").decode()


def test_times_of_files_are_kept(rclone, tree, bucket):
    rclone("copyto", tree / "one byte.txt", f"b:{bucket}/timed")
    kept = rclone("lsf", "--format", "t", f"b:{bucket}/timed").decode()
    assert kept == rclone("lsf", "--format", "t", tree / "one byte.txt").decode()
    rclone("touch", "--timestamp", "2020-02-02T02:02:02", f"b:{bucket}/timed")
    assert rclone("lsf", "--format", "t", f"b:{bucket}/timed").decode().startswith("2020-02-0")
