"""Objects: what was put is what is got; metadata and standard headers come back; copies and deletions."""

import pytest

from bodies import KIB, LARGE_SIZE, MIB, SMALL_SIZES, assert_same, body, md5
from errors import refused


@pytest.mark.parametrize("size", SMALL_SIZES + [1 * MIB, 1 * MIB + 1, 4095, 4096, 4097, 64 * KIB])
def test_what_was_put_is_got(s3, bucket, size):
    data = body(size, "put")
    put = s3.put_object(Bucket=bucket, Key="k", Body=data)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert_same(got["Body"].read(), data)
    head = s3.head_object(Bucket=bucket, Key="k")
    for answer in (got, head):
        assert answer["ContentLength"] == size
        assert answer["ETag"] == put["ETag"] == f'"{md5(data)}"'
        assert answer["AcceptRanges"] == "bytes"
        assert answer["LastModified"].year >= 2024


def test_a_large_body_in_one_put(s3, bucket):
    data = body(LARGE_SIZE, "large")
    assert s3.put_object(Bucket=bucket, Key="k", Body=data)["ETag"] == f'"{md5(data)}"'
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), data)


def test_memory_stays_flat_while_large_bodies_pass(server, s3, bucket):
    data = body(LARGE_SIZE, "flat")
    s3.put_object(Bucket=bucket, Key="first", Body=data)
    before = server.resident_bytes()
    for turn in range(4):
        s3.put_object(Bucket=bucket, Key=f"k{turn}", Body=data)
        assert_same(s3.get_object(Bucket=bucket, Key=f"k{turn}")["Body"].read(), data)
    grown = server.resident_bytes() - before
    assert grown < 100 * MIB, f"{grown / MIB:.0f} MiB more after 800 MiB passed"


def test_the_last_put_wins(s3, bucket):
    for turn, size in enumerate([300 * KIB, 10, 5 * MIB, 0, 129 * KIB]):
        data = body(size, turn)
        s3.put_object(Bucket=bucket, Key="k", Body=data)
        assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), data)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_metadata_and_standard_headers_come_back(s3, bucket):
    given = {
        "ContentType": "text/x-things; charset=utf-8",
        "CacheControl": "max-age=60, private",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "x-own",
        "ContentLanguage": "de, en",
        "Metadata": {"color": "blue", "with-dash": "a  b", "empty": ""},
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **given)
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    for answer in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        for name, value in given.items():
            if name != "Metadata":
                assert answer[name] == value, name
        assert answer["Metadata"]["color"] == "blue"
        assert " ".join(answer["Metadata"]["with-dash"].split()) == "a b"
        assert answer["Metadata"]["empty"] == ""
    assert s3.head_object(Bucket=bucket, Key="plain")["ContentType"] == "binary/octet-stream"


def test_the_expires_header_comes_back_as_it_was(wire, bucket):
    wire.put(bucket, "k", b"x", expires="Thu, 01 Dec 2033 16:00:00 GMT")
    assert wire.get(bucket, "k").headers["expires"] == "Thu, 01 Dec 2033 16:00:00 GMT"


def test_an_overwrite_forgets_the_old_metadata(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"old": "1"}, ContentType="a/b")
    s3.put_object(Bucket=bucket, Key="k", Body=b"y")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert head["Metadata"] == {} and head["ContentType"] == "binary/octet-stream"


def test_too_much_metadata_is_refused(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "v" * 2000})
    with refused(400, "MetadataTooLarge"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "v" * 2100})


def test_the_response_headers_can_be_asked_for(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="a/b")
    answer = s3.get_object(
        Bucket=bucket,
        Key="k",
        ResponseContentType="c/d",
        ResponseCacheControl="no-store",
        ResponseContentDisposition="inline",
    )
    assert (answer["ContentType"], answer["CacheControl"], answer["ContentDisposition"]) == (
        "c/d",
        "no-store",
        "inline",
    )


def test_what_is_deleted_is_gone(s3, bucket):
    for size in (10, 1 * MIB):
        s3.put_object(Bucket=bucket, Key="k", Body=body(size, size))
        s3.delete_object(Bucket=bucket, Key="k")
        with refused(404, "NoSuchKey"):
            s3.get_object(Bucket=bucket, Key="k")
        with refused(404):
            s3.head_object(Bucket=bucket, Key="k")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_deleting_what_is_not_there_is_well(s3, bucket):
    answer = s3.delete_object(Bucket=bucket, Key="never")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204


@pytest.mark.parametrize("size", [0, 1, 128 * KIB + 1, 5 * MIB])
def test_a_copy_has_the_body_and_the_metadata(s3, bucket, size):
    data = body(size, "copy")
    s3.put_object(Bucket=bucket, Key="from here", Body=data, Metadata={"a": "b"}, ContentType="t/u")
    answer = s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from here"})
    assert answer["CopyObjectResult"]["ETag"] == f'"{md5(data)}"'
    got = s3.get_object(Bucket=bucket, Key="to")
    assert_same(got["Body"].read(), data)
    assert got["Metadata"] == {"a": "b"} and got["ContentType"] == "t/u"


def test_a_copy_can_replace_the_metadata(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "b"}, ContentType="t/u")
    s3.copy_object(
        Bucket=bucket,
        Key="to",
        CopySource=f"{bucket}/k",
        MetadataDirective="REPLACE",
        Metadata={"c": "d"},
        ContentType="v/w",
    )
    head = s3.head_object(Bucket=bucket, Key="to")
    assert head["Metadata"] == {"c": "d"} and head["ContentType"] == "v/w"


def test_a_copy_onto_itself_must_change_something(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "b"})
    with refused(400, "InvalidRequest"):
        s3.copy_object(Bucket=bucket, Key="k", CopySource=f"{bucket}/k")
    s3.copy_object(
        Bucket=bucket, Key="k", CopySource=f"{bucket}/k", MetadataDirective="REPLACE", Metadata={"c": "d"}
    )
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"x" and got["Metadata"] == {"c": "d"}


def test_a_copy_is_bound_to_its_conditions(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=etag)
    with refused(412, "PreconditionFailed"):
        s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch='"no"')
    with refused(412, "PreconditionFailed"):
        s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfNoneMatch=etag)


def test_a_copy_of_nothing(s3, bucket, bucket_name):
    with refused(404, "NoSuchKey"):
        s3.copy_object(Bucket=bucket, Key="to", CopySource=f"{bucket}/never")
    with refused(404, "NoSuchBucket"):
        s3.copy_object(Bucket=bucket, Key="to", CopySource=f"{bucket_name}/never")


def test_a_folder_is_an_object_whose_key_ends_in_a_slash(s3, bucket):
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"")
    assert s3.head_object(Bucket=bucket, Key="folder/")["ContentLength"] == 0
    with refused(404):
        s3.head_object(Bucket=bucket, Key="folder")
