"""boto3 with its default settings: managed transfers, default checksums, paginators, waiters, the resource interface."""

import io

import boto3
import pytest

from bodies import LARGE_SIZE, MIB, assert_same, body
from client_tree import NAMES, assert_trees_equal


@pytest.fixture
def plain(server):
    """A client without any configuration but where and who."""
    return boto3.session.Session(
        aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key, region_name="us-east-1"
    )


def test_boto3_from_the_first_bucket_to_the_last(server, plain, tree, tmp_path, bucket_name):
    s3 = plain.client("s3", endpoint_url=server.endpoint)
    s3.create_bucket(Bucket=bucket_name)
    s3.get_waiter("bucket_exists").wait(Bucket=bucket_name)
    for name in NAMES.values():
        s3.upload_file(str(tree / name), bucket_name, f"tree/{name}", ExtraArgs={"Metadata": {"from": "boto3"}})
    s3.get_waiter("object_exists").wait(Bucket=bucket_name, Key="tree/empty")
    for name in NAMES.values():
        path = tmp_path / "back" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket_name, f"tree/{name}", str(path))
    assert_trees_equal(tmp_path / "back", tree)

    page = s3.list_objects_v2(Bucket=bucket_name, Prefix="tree/", Delimiter="/")
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["tree/deep/", "tree/inline/", "tree/large/"]
    assert [item["Key"] for item in page["Contents"]] == ["tree/empty", "tree/one byte.txt"]
    head = s3.head_object(Bucket=bucket_name, Key=f"tree/{NAMES[LARGE_SIZE]}", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-13"') and head["Metadata"] == {"from": "boto3"}

    # Managed copy of 100 MiB, streamed upload, streamed download.
    s3.copy({"Bucket": bucket_name, "Key": f"tree/{NAMES[LARGE_SIZE]}"}, bucket_name, "copy")
    got = io.BytesIO()
    s3.download_fileobj(bucket_name, "copy", got)
    assert_same(got.getvalue(), (tree / NAMES[LARGE_SIZE]).read_bytes())
    data = body(17 * MIB, "fileobj")
    s3.upload_fileobj(io.BytesIO(data), bucket_name, "fileobj")
    assert_same(b"".join(s3.get_object(Bucket=bucket_name, Key="fileobj")["Body"].iter_chunks(100_000)), data)

    bucket = plain.resource("s3", endpoint_url=server.endpoint).Bucket(bucket_name)
    assert {item.key for item in bucket.objects.filter(Prefix="tree/")} == {f"tree/{name}" for name in NAMES.values()}
    bucket.objects.all().delete()
    bucket.delete()
    s3.get_waiter("bucket_not_exists").wait(Bucket=bucket_name)


def test_default_checksums_are_kept(server, plain, bucket):
    s3 = plain.client("s3", endpoint_url=server.endpoint)
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    assert put["ChecksumCRC32"] == "NhCmhg==" and put["ChecksumType"] == "FULL_OBJECT"
    got = s3.get_object(Bucket=bucket, Key="k")
    # The body is checked as it is read.
    assert got["ChecksumCRC32"] == "NhCmhg==" and got["Body"].read() == b"hello"


@pytest.mark.parametrize("expectation", [{}, {"request_checksum_calculation": "when_required"}])
def test_bodies_that_can_be_read_only_once(server, bucket, expectation):
    """A file-like body: boto3 may send it with Expect: 100-continue and from an iterator."""
    s3 = server.client(**expectation)
    data = body(3 * MIB, "once")
    s3.put_object(Bucket=bucket, Key="k", Body=io.BytesIO(data), ContentLength=len(data))
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), data)


def test_virtual_hosts_are_not_needed(server, bucket):
    s3 = server.client(s3={"addressing_style": "path"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
