"""Buckets: made, found, listed, located, removed."""

import pytest

from errors import refused


def test_a_bucket_is_there_from_its_creation_to_its_removal(s3, bucket_name):
    with refused(404):
        s3.head_bucket(Bucket=bucket_name)
    s3.create_bucket(Bucket=bucket_name)
    s3.head_bucket(Bucket=bucket_name)
    assert bucket_name in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    s3.delete_bucket(Bucket=bucket_name)
    with refused(404):
        s3.head_bucket(Bucket=bucket_name)
    assert bucket_name not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def test_list_buckets_is_sorted_and_dated(s3, bucket):
    answer = s3.list_buckets()
    names = [entry["Name"] for entry in answer["Buckets"]]
    assert names == sorted(names)
    assert all(entry["CreationDate"].year >= 2024 for entry in answer["Buckets"])
    assert answer["Owner"]["ID"]


def test_a_bucket_that_exists_is_yours_already(s3, bucket):
    with refused(409, "BucketAlreadyOwnedByYou"):
        s3.create_bucket(Bucket=bucket)


def test_a_bucket_with_an_object_is_not_removed(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused(409, "BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_bucket_made_again_is_empty(s3, bucket_name):
    s3.create_bucket(Bucket=bucket_name)
    s3.put_object(Bucket=bucket_name, Key="k", Body=b"x")
    s3.delete_object(Bucket=bucket_name, Key="k")
    s3.delete_bucket(Bucket=bucket_name)
    s3.create_bucket(Bucket=bucket_name)
    assert s3.list_objects_v2(Bucket=bucket_name)["KeyCount"] == 0
    with refused(404, "NoSuchKey"):
        s3.get_object(Bucket=bucket_name, Key="k")
    s3.delete_bucket(Bucket=bucket_name)


def test_the_location_is_what_was_asked_for(s3, bucket, bucket_name):
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    s3.create_bucket(
        Bucket=bucket_name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    assert s3.get_bucket_location(Bucket=bucket_name)["LocationConstraint"] == "eu-central-1"
    s3.delete_bucket(Bucket=bucket_name)


@pytest.mark.parametrize("name", ["ab", "Upper", "under_score", "dot..dot", "-dash", "192.168.0.1", "a" * 64])
def test_names_that_no_bucket_may_have(wire, name):
    answer = wire.request("PUT", f"/{name}")
    assert (answer.status, answer.code) == (400, "InvalidBucketName"), answer


def test_what_asks_for_a_bucket_that_is_not_there(s3, bucket_name):
    for ask in (
        lambda: s3.list_objects_v2(Bucket=bucket_name),
        lambda: s3.list_objects(Bucket=bucket_name),
        lambda: s3.put_object(Bucket=bucket_name, Key="k", Body=b"x"),
        lambda: s3.get_object(Bucket=bucket_name, Key="k"),
        lambda: s3.delete_object(Bucket=bucket_name, Key="k"),
        lambda: s3.get_bucket_location(Bucket=bucket_name),
        lambda: s3.create_multipart_upload(Bucket=bucket_name, Key="k"),
        lambda: s3.list_multipart_uploads(Bucket=bucket_name),
        lambda: s3.delete_objects(Bucket=bucket_name, Delete={"Objects": [{"Key": "k"}]}),
        lambda: s3.delete_bucket(Bucket=bucket_name),
    ):
        with refused(404, "NoSuchBucket"):
            ask()
