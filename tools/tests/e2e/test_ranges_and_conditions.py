"""Ranges and conditional reads."""

import datetime

import pytest

from bodies import KIB, MIB, assert_same, body
from errors import refused

SIZE = 3 * MIB + 77


@pytest.fixture
def large(s3, bucket):
    data = body(SIZE, "ranges")
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    return data


def edges(size):
    """Ranges around everything that is stored in pieces."""
    marks = sorted({0, 1, 4095, 4096, 64 * KIB, 128 * KIB, 256 * KIB - 1, 256 * KIB, MIB, 2 * MIB, size - 1})
    for first in marks:
        for last in marks:
            if first <= last < size:
                yield first, last


def test_every_range_is_its_bytes(wire, bucket, large):
    for first, last in edges(SIZE):
        answer = wire.get(bucket, "k", range=f"bytes={first}-{last}")
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
        assert_same(answer.body, large[first : last + 1], f"{first}-{last}")


@pytest.mark.parametrize(
    "text, first, last",
    [
        ("bytes=100-", 100, SIZE - 1),
        ("bytes=-100", SIZE - 100, SIZE - 1),
        (f"bytes=-{SIZE * 2}", 0, SIZE - 1),
        (f"bytes=5-{SIZE * 9}", 5, SIZE - 1),
        ("bytes=0-0", 0, 0),
    ],
)
def test_open_and_suffix_ranges(wire, bucket, large, text, first, last):
    answer = wire.get(bucket, "k", range=text)
    assert answer.status == 206 and answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert_same(answer.body, large[first : last + 1], text)


@pytest.mark.parametrize("text", [f"bytes={SIZE}-", f"bytes={SIZE * 2}-{SIZE * 3}", "bytes=-0"])
def test_ranges_outside_are_not_satisfiable(wire, bucket, large, text):
    answer = wire.get(bucket, "k", range=text)
    assert (answer.status, answer.code) == (416, "InvalidRange"), answer
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "text", ["bytes=", "bytes=a-b", "bytes=5-4", "lines=1-2", "bytes=99999999999999999999999-", "1-2", "bytes=--5"]
)
def test_ranges_without_sense_give_the_whole_or_an_error_but_no_other_bytes(wire, bucket, large, text):
    answer = wire.get(bucket, "k", range=text)
    if answer.status == 200:
        assert_same(answer.body, large, text)
    else:
        assert answer.status in (400, 416), answer


def test_a_range_of_an_empty_object(wire, bucket):
    wire.put(bucket, "empty", b"")
    assert wire.get(bucket, "empty", range="bytes=0-0").status == 416
    assert wire.get(bucket, "empty").status == 200


def test_head_of_a_range(wire, bucket, large):
    answer = wire.request("HEAD", f"/{bucket}/k", headers={"range": "bytes=1-9"})
    assert answer.status == 206 and answer.headers["content-length"] == "9" and answer.body == b""


def test_conditional_reads(s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    etag = put["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    hour = datetime.timedelta(hours=1)
    for read in (s3.get_object, s3.head_object):
        read(Bucket=bucket, Key="k", IfMatch=etag)
        read(Bucket=bucket, Key="k", IfMatch="*")
        read(Bucket=bucket, Key="k", IfNoneMatch='"other"')
        read(Bucket=bucket, Key="k", IfModifiedSince=modified - hour)
        read(Bucket=bucket, Key="k", IfUnmodifiedSince=modified + hour)
        with refused(412):
            read(Bucket=bucket, Key="k", IfMatch='"other"')
        with refused(304):
            read(Bucket=bucket, Key="k", IfNoneMatch=etag)
        with refused(304):
            read(Bucket=bucket, Key="k", IfModifiedSince=modified + hour)
        with refused(412):
            read(Bucket=bucket, Key="k", IfUnmodifiedSince=modified - hour)
        # The ETag decides before the date does.
        read(Bucket=bucket, Key="k", IfMatch=etag, IfUnmodifiedSince=modified - hour)
        with refused(304):
            read(Bucket=bucket, Key="k", IfNoneMatch=etag, IfModifiedSince=modified - hour)


def test_a_304_has_the_etag_and_no_body(wire, bucket):
    wire.put(bucket, "k", b"x")
    etag = wire.get(bucket, "k").headers["etag"]
    answer = wire.get(bucket, "k", **{"if-none-match": etag})
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    # The connection is still in step.
    assert wire.get(bucket, "k").body == b"x"
