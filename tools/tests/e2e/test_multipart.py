"""Multipart uploads: checked part by part; nothing is seen before it is complete."""

import hashlib
import threading

import pytest

from bodies import MIB, assert_same, body, md5
from errors import refused

PART = 5 * MIB


def begin(s3, bucket, key="k", **arguments):
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **arguments)["UploadId"]


def upload(s3, bucket, upload_id, number, data, key="k"):
    answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data)
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(s3, bucket, upload_id, parts, key="k", **arguments):
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}, **arguments
    )


def multipart_etag(bodies):
    return f'"{md5(b"".join(hashlib.md5(data).digest() for data in bodies))}-{len(bodies)}"'


def test_parts_become_one_object(s3, bucket):
    bodies = [body(PART, 1), body(PART + 4097, 2), body(3, 3)]
    upload_id = begin(s3, bucket, ContentType="a/b", Metadata={"m": "n"})
    # In any order, and from several connections at once.
    parts = [None] * 3
    threads = [
        threading.Thread(
            target=lambda number=number: parts.__setitem__(
                number, upload(s3, bucket, upload_id, number + 1, bodies[number])
            )
        )
        for number in (2, 0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with refused(404):
        s3.head_object(Bucket=bucket, Key="k")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    answer = complete(s3, bucket, upload_id, parts)
    assert answer["ETag"] == multipart_etag(bodies)
    assert (answer["Bucket"], answer["Key"]) == (bucket, "k") and answer["Location"]
    got = s3.get_object(Bucket=bucket, Key="k")
    assert_same(got["Body"].read(), b"".join(bodies))
    assert got["ETag"] == multipart_etag(bodies)
    assert got["ContentType"] == "a/b" and got["Metadata"] == {"m": "n"}
    item = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (item["Size"], item["ETag"]) == (sum(map(len, bodies)), multipart_etag(bodies))


def test_ranges_cross_parts(s3, bucket):
    bodies = [body(PART, 1), body(PART + 1, 2), body(100, 3)]
    whole = b"".join(bodies)
    upload_id = begin(s3, bucket)
    complete(s3, bucket, upload_id, [upload(s3, bucket, upload_id, n + 1, data) for n, data in enumerate(bodies)])
    edges = [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, len(whole) - 1]
    for first in edges:
        for last in edges:
            if first <= last:
                got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={first}-{last}")
                assert_same(got["Body"].read(), whole[first : last + 1], f"{first}-{last}")
    for number, data in enumerate(bodies, 1):
        got = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert got["PartsCount"] == 3
        assert_same(got["Body"].read(), data, f"part {number}")
    with refused(416):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=4)


def test_a_part_can_be_uploaded_again(s3, bucket):
    upload_id = begin(s3, bucket)
    first = upload(s3, bucket, upload_id, 1, body(PART, "first"))
    second = upload(s3, bucket, upload_id, 1, body(PART + 5, "second"))
    with refused(400, "InvalidPart"):
        complete(s3, bucket, upload_id, [first])
    complete(s3, bucket, upload_id, [second])
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), body(PART + 5, "second"))


def test_only_the_named_parts_are_used(s3, bucket):
    upload_id = begin(s3, bucket)
    parts = {number: upload(s3, bucket, upload_id, number, body(PART, number)) for number in (2, 5, 9, 10_000)}
    complete(s3, bucket, upload_id, [parts[5], parts[10_000]])
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), body(PART, 5) + body(PART, 10_000))


def test_the_part_list_is_checked(s3, bucket):
    upload_id = begin(s3, bucket)
    one = upload(s3, bucket, upload_id, 1, body(PART, 1))
    two = upload(s3, bucket, upload_id, 2, body(10, 2))
    three = upload(s3, bucket, upload_id, 3, body(10, 3))
    with refused(400, "InvalidPartOrder"):
        complete(s3, bucket, upload_id, [two, one])
    with refused(400, "InvalidPartOrder"):
        complete(s3, bucket, upload_id, [one, one])
    with refused(400, "InvalidPart"):
        complete(s3, bucket, upload_id, [one, {"PartNumber": 2, "ETag": one["ETag"]}])
    with refused(400, "InvalidPart"):
        complete(s3, bucket, upload_id, [one, {"PartNumber": 4, "ETag": two["ETag"]}])
    with refused(400, "EntityTooSmall"):
        complete(s3, bucket, upload_id, [one, two, three])
    with refused(400, "MalformedXML"):
        complete(s3, bucket, upload_id, [])
    with refused(404):
        s3.head_object(Bucket=bucket, Key="k")
    # None of the refusals has spoiled the upload.
    complete(s3, bucket, upload_id, [one, three])
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), body(PART, 1) + body(10, 3))


@pytest.mark.parametrize(
    "document",
    [
        b"<CompleteMultipartUpload>",
        b"<CompleteMultipartUpload><Part><PartNumber>x</PartNumber><ETag>e</ETag></Part></CompleteMultipartUpload>",
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>",
        b"<Other/>",
        b"",
        b"\x00",
    ],
)
def test_a_bad_document_completes_nothing(s3, wire, bucket, document):
    upload_id = begin(s3, bucket)
    upload(s3, bucket, upload_id, 1, b"x")
    answer = wire.request("POST", f"/{bucket}/k", [("uploadId", upload_id)], body=document)
    assert answer.status == 400 and answer.code in ("MalformedXML", "InvalidRequest", "MissingRequestBodyError"), answer
    with refused(404):
        s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("number", [0, 10_001, -1])
def test_part_numbers_have_bounds(s3, bucket, number):
    upload_id = begin(s3, bucket)
    with refused(400, "InvalidArgument"):
        upload(s3, bucket, upload_id, number, b"x")


def test_an_unknown_upload(s3, wire, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    upload_id = begin(s3, bucket)
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id)
    for unknown in (upload_id, "no-such-upload", "00000000000000000000000000000000", "\u00e4"):
        with refused(404, "NoSuchUpload"):
            upload(s3, bucket, unknown, 1, b"x")
        with refused(404, "NoSuchUpload"):
            complete(s3, bucket, unknown, [{"PartNumber": 1, "ETag": '"x"'}])
        with refused(404, "NoSuchUpload"):
            s3.list_parts(Bucket=bucket, Key="k", UploadId=unknown)
        with refused(404, "NoSuchUpload"):
            s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=unknown)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_an_upload_belongs_to_its_key(s3, bucket):
    upload_id = begin(s3, bucket, "mine")
    with refused(404, "NoSuchUpload"):
        upload(s3, bucket, upload_id, 1, b"x", key="other")


def test_complete_may_have_a_condition(s3, bucket):
    upload_id = begin(s3, bucket)
    part = upload(s3, bucket, upload_id, 1, b"new")
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    with refused(412, "PreconditionFailed"):
        complete(s3, bucket, upload_id, [part], IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"
    s3.delete_object(Bucket=bucket, Key="k")
    complete(s3, bucket, upload_id, [part], IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"


def test_an_upload_that_was_completed_is_over(s3, bucket):
    upload_id = begin(s3, bucket)
    part = upload(s3, bucket, upload_id, 1, b"x")
    complete(s3, bucket, upload_id, [part])
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    with refused(404, "NoSuchUpload"):
        upload(s3, bucket, upload_id, 2, b"x")


def test_a_completion_that_was_not_heard_may_be_asked_for_again(s3, bucket):
    upload_id = begin(s3, bucket, ChecksumAlgorithm="CRC32")
    parts = [upload(s3, bucket, upload_id, 1, body(PART, 1)), upload(s3, bucket, upload_id, 2, b"x")]
    first = complete(s3, bucket, upload_id, parts, IfNoneMatch="*")
    again = complete(s3, bucket, upload_id, parts, IfNoneMatch="*")
    assert [first[name] for name in ("ETag", "Location", "ChecksumCRC32")] == [
        again[name] for name in ("ETag", "Location", "ChecksumCRC32")
    ]
    # Another list is no repetition, another key no upload, and what is there no more was not completed just now.
    with refused(404, "NoSuchUpload"):
        complete(s3, bucket, upload_id, parts[:1])
    with refused(404, "NoSuchUpload"):
        complete(s3, bucket, upload_id, [parts[0], {"PartNumber": 2, "ETag": '"x"'}])
    with refused(404, "NoSuchUpload"):
        complete(s3, bucket, upload_id, parts, key="other")
    s3.put_object(Bucket=bucket, Key="k", Body=b"newer")
    with refused(404, "NoSuchUpload"):
        complete(s3, bucket, upload_id, parts)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"newer"


def test_a_bucket_with_an_upload_is_removed_only_without_it(s3, bucket_name):
    s3.create_bucket(Bucket=bucket_name)
    upload_id = begin(s3, bucket_name)
    upload(s3, bucket_name, upload_id, 1, b"x")
    with refused(409, "BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket_name)
    s3.abort_multipart_upload(Bucket=bucket_name, Key="k", UploadId=upload_id)
    s3.delete_bucket(Bucket=bucket_name)


def test_parts_are_listed_page_by_page(s3, bucket):
    upload_id = begin(s3, bucket)
    numbers = [1, 2, 3, 7, 100, 101, 9999, 10_000]
    for number in reversed(numbers):
        upload(s3, bucket, upload_id, number, body(number % 50, number))
    for max_parts in (1, 3, 8, 1000):
        found, marker = [], 0
        while True:
            page = s3.list_parts(
                Bucket=bucket, Key="k", UploadId=upload_id, MaxParts=max_parts, PartNumberMarker=marker
            )
            parts = page.get("Parts", [])
            assert len(parts) <= max_parts
            for part in parts:
                data = body(part["PartNumber"] % 50, part["PartNumber"])
                assert (part["Size"], part["ETag"]) == (len(data), f'"{md5(data)}"')
            found += [part["PartNumber"] for part in parts]
            if not page["IsTruncated"]:
                break
            marker = page["NextPartNumberMarker"]
        assert found == numbers
    assert (page["Bucket"], page["Key"], page["UploadId"]) == (bucket, "k", upload_id)


def test_uploads_are_listed_page_by_page(s3, bucket):
    keys = ["a", "a", "a", "b/1", "b/2", "c", "日本"]
    uploads = sorted((key, begin(s3, bucket, key)) for key in keys)
    for max_uploads in (1, 2, 1000):
        found, markers = [], {}
        for _ in range(len(keys) + 1):
            page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=max_uploads, **markers)
            found += [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
            if not page["IsTruncated"]:
                break
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        assert sorted(found) == uploads and [key for key, _ in found] == [key for key, _ in uploads]
    page = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["b/"]
    assert [item["Key"] for item in page["Uploads"]] == ["a", "a", "a", "c", "日本"]
    page = s3.list_multipart_uploads(Bucket=bucket, Prefix="b/")
    assert [item["Key"] for item in page["Uploads"]] == ["b/1", "b/2"]
    page = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="a")
    assert [item["Key"] for item in page["Uploads"]] == ["b/1", "b/2", "c", "日本"]


def test_parts_can_be_copied_from_objects(s3, bucket):
    source = body(12 * MIB + 5, "source")
    s3.put_object(Bucket=bucket, Key="source key", Body=source)
    upload_id = begin(s3, bucket)
    parts = []
    for number, (first, last) in enumerate([(1, PART), (PART + 1, len(source) - 1)], 1):
        answer = s3.upload_part_copy(
            Bucket=bucket,
            Key="k",
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": "source key"},
            CopySourceRange=f"bytes={first}-{last}",
        )
        result = answer["CopyPartResult"]
        assert result["ETag"] == f'"{md5(source[first:last + 1])}"'
        parts.append({"PartNumber": number, "ETag": result["ETag"]})
    complete(s3, bucket, upload_id, parts)
    assert_same(s3.get_object(Bucket=bucket, Key="k")["Body"].read(), source[1:])


def test_a_part_copy_beyond_its_source(s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload_id = begin(s3, bucket)
    for text in ("bytes=0-10", "bytes=20-30", "bytes=5-", "0-5", "bytes=5-4"):
        with refused(400, "InvalidArgument"):
            s3.upload_part_copy(
                Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, CopySource=f"{bucket}/source",
                CopySourceRange=text,
            )  # fmt: skip
    with refused(404, "NoSuchKey"):
        s3.upload_part_copy(
            Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=1, CopySource=f"{bucket}/never"
        )


def test_completing_a_large_upload_moves_no_data(s3, bucket):
    """The time of a completion does not follow the size of the object."""
    import time

    upload_id = begin(s3, bucket)
    parts = [upload(s3, bucket, upload_id, number, body(10 * MIB, number)) for number in range(1, 11)]
    began = time.monotonic()
    complete(s3, bucket, upload_id, parts)
    took = time.monotonic() - began
    assert took < 2, f"{took:.2f} s"
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 100 * MIB
