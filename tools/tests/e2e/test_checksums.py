"""Content-MD5 and the five checksums of S3: verified, stored, given back; in headers and in trailers."""

import base64
import hashlib

import pytest

import sigv4
from bodies import KIB, MIB, assert_same, body
from checksums import ALGORITHMS, checksum, composite, field, header
from errors import refused

SIZES = [0, 10, 200 * KIB]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_a_right_checksum_is_kept_and_shown(s3, wire, bucket, algorithm, size):
    data = body(size, algorithm)
    value = checksum(algorithm, data)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, **{field(algorithm): value})
    assert put[field(algorithm)] == value
    for method in ("GET", "HEAD"):
        answer = wire.request(method, f"/{bucket}/k", headers={"x-amz-checksum-mode": "ENABLED"})
        assert answer.headers[header(algorithm)] == value, answer
        assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        assert header(algorithm) not in wire.request(method, f"/{bucket}/k").headers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_is_refused_and_leaves_what_was(s3, bucket, algorithm):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    for size in SIZES:
        with refused(400, "BadDigest"):
            s3.put_object(
                Bucket=bucket, Key="k", Body=body(size, 1), **{field(algorithm): checksum(algorithm, b"other")}
            )
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


@pytest.mark.parametrize("value", ["AAAA", "!", "", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"])
def test_a_checksum_that_is_none(wire, bucket, value):
    answer = wire.put(bucket, "k", b"x", **{"x-amz-checksum-crc32": value})
    assert (answer.status, answer.code) == (400, "InvalidRequest"), answer
    assert wire.get(bucket, "k").status == 404


def test_two_checksums_at_once_are_refused(wire, bucket):
    answer = wire.put(
        bucket, "k", b"x",
        **{header("CRC32"): checksum("CRC32", b"x"), header("SHA1"): checksum("SHA1", b"x")},
    )  # fmt: skip
    assert (answer.status, answer.code) == (400, "InvalidRequest"), answer


def test_content_md5(wire, bucket):
    def md5(data):
        return base64.b64encode(hashlib.md5(data).digest()).decode()

    assert wire.put(bucket, "k", b"right", **{"content-md5": md5(b"right")}).status == 200
    for size in SIZES:
        answer = wire.put(bucket, "k", body(size, 1), **{"content-md5": md5(b"other")})
        assert (answer.status, answer.code) == (400, "BadDigest"), answer
    for bad in ("x", "", "AAAA", md5(b"x") + "A"):
        answer = wire.put(bucket, "k", b"x", **{"content-md5": bad})
        assert (answer.status, answer.code) == (400, "InvalidDigest"), (bad, answer)
    assert wire.get(bucket, "k").body == b"right"


def test_the_signed_hash_of_the_body_must_be_its_hash(wire, bucket):
    for size in SIZES:
        answer = wire.request("PUT", f"/{bucket}/k", body=body(size, 1), payload_hash="0" * 64)
        assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch"), answer
    assert wire.get(bucket, "k").status == 404


def chunks_of(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def put_unsigned_trailer(wire, bucket, data, trailers, announced, chunk=64 * KIB):
    path = f"/{bucket}/k"
    headers = wire.signer.sign(
        "PUT",
        path,
        [],
        {
            "host": wire.host,
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(data)),
            "x-amz-trailer": announced,
        },
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    )
    return wire.send("PUT", path, headers=headers, body=sigv4.unsigned_chunked(chunks_of(data, chunk), trailers))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_a_checksum_in_an_unsigned_trailer(wire, bucket, algorithm, size):
    data = body(size, "trailer")
    trailers = {header(algorithm): checksum(algorithm, data)}
    assert put_unsigned_trailer(wire, bucket, data, trailers, header(algorithm)).status == 200
    answer = wire.get(bucket, "k", **{"x-amz-checksum-mode": "ENABLED"})
    assert_same(answer.body, data)
    assert answer.headers[header(algorithm)] == checksum(algorithm, data)
    # The framing is not part of the object.
    assert "aws-chunked" not in answer.headers.get("content-encoding", "")

    wrong = {header(algorithm): checksum(algorithm, b"other")}
    answer = put_unsigned_trailer(wire, bucket, data + b"!", wrong, header(algorithm))
    assert (answer.status, answer.code) == (400, "BadDigest"), answer
    assert_same(wire.get(bucket, "k").body, data)


def test_a_trailer_that_was_not_announced_or_does_not_come(wire, bucket):
    right = {header("CRC32"): checksum("CRC32", b"x")}
    for trailers, announced in (
        ({}, header("CRC32")),
        (right, header("SHA1")),
        ({"x-other": "1"}, header("CRC32")),
    ):
        answer = put_unsigned_trailer(wire, bucket, b"x", trailers, announced)
        assert answer.status == 400, (trailers, answer)
        assert answer.code in ("MalformedTrailerError", "InvalidRequest", "IncompleteBody"), answer
    assert wire.get(bucket, "k").status == 404


def put_signed_chunks(wire, bucket, data, trailers=None, chunk=64 * KIB, spoil=lambda sent: sent, decoded=None):
    path, moment = f"/{bucket}/k", sigv4.now()
    headers = {
        "host": wire.host,
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(data) if decoded is None else decoded),
    }
    name = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    if trailers is not None:
        name += "-TRAILER"
        headers["x-amz-trailer"] = ",".join(trailers)
    headers = wire.signer.sign("PUT", path, [], headers, name, moment)
    sent = wire.signer.chunked(chunks_of(data, chunk), headers, moment, trailers)
    return wire.send("PUT", path, headers=headers, body=spoil(sent))


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1, 1 * MIB])
@pytest.mark.parametrize("chunk", [8 * KIB, 64 * KIB, 333_333])
def test_signed_chunks(wire, bucket, size, chunk):
    data = body(size, "signed")
    assert put_signed_chunks(wire, bucket, data, chunk=chunk).status == 200
    assert_same(wire.get(bucket, "k").body, data)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signed_chunks_with_a_signed_trailer(wire, bucket, algorithm):
    data = body(150_000, algorithm)
    trailers = {header(algorithm): checksum(algorithm, data)}
    assert put_signed_chunks(wire, bucket, data, trailers).status == 200
    answer = wire.get(bucket, "k", **{"x-amz-checksum-mode": "ENABLED"})
    assert_same(answer.body, data)
    assert answer.headers[header(algorithm)] == checksum(algorithm, data)


def flip(at):
    def spoil(sent):
        sent = bytearray(sent)
        sent[at] ^= 1
        return bytes(sent)

    return spoil


@pytest.mark.parametrize("at", [2000, 70_000, -40], ids=["first chunk", "second chunk", "last signature"])
def test_a_chunk_that_is_not_what_was_signed(wire, bucket, at):
    answer = put_signed_chunks(wire, bucket, body(100_000, 1), spoil=flip(at))
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), answer
    assert wire.get(bucket, "k").status == 404


def test_a_trailer_that_is_not_what_was_signed(wire, bucket):
    data = b"x" * 1000
    trailers = {header("CRC32"): checksum("CRC32", data)}
    other = checksum("CRC32", b"y").encode()
    answer = put_signed_chunks(
        wire, bucket, data, trailers, spoil=lambda sent: sent.replace(trailers[header("CRC32")].encode(), other)
    )
    assert answer.status in (400, 403) and answer.code in ("SignatureDoesNotMatch", "BadDigest"), answer
    assert wire.get(bucket, "k").status == 404


def test_the_decoded_length_must_be_the_bodys(wire, bucket):
    for decoded in (999, 1001):
        answer = put_signed_chunks(wire, bucket, b"x" * 1000, decoded=decoded)
        assert answer.status == 400, answer
        wire.close()
    assert wire.get(bucket, "k").status == 404


def multipart(s3, bucket, bodies, algorithm, kind):
    upload_id = s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind
    )["UploadId"]
    parts = []
    for number, data in enumerate(bodies, 1):
        value = checksum(algorithm, data)
        answer = s3.upload_part(
            Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=data, **{field(algorithm): value}
        )
        assert answer[field(algorithm)] == value
        parts.append({"PartNumber": number, "ETag": answer["ETag"], field(algorithm): value})
    return upload_id, parts


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_a_composite_checksum_of_parts(s3, wire, bucket, algorithm):
    bodies = [bytes(5 * MIB) if algorithm == "CRC32C" else body(5 * MIB, 1), body(777, 2)]
    upload_id, parts = multipart(s3, bucket, bodies, algorithm, "COMPOSITE")
    wrong = [dict(parts[0], **{field(algorithm): checksum(algorithm, b"no")}), parts[1]]
    with refused(400):
        s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": wrong})
    answer = s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts}
    )
    expected = composite(algorithm, bodies)
    assert answer[field(algorithm)] == expected
    answer = wire.request("HEAD", f"/{bucket}/k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert answer.headers[header(algorithm)] == expected
    assert answer.headers["x-amz-checksum-type"] == "COMPOSITE"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_a_full_object_checksum_of_parts(s3, wire, bucket, algorithm):
    bodies = [body(5 * MIB, 1), body(777, 2)]
    upload_id, parts = multipart(s3, bucket, bodies, algorithm, "FULL_OBJECT")
    expected = checksum(algorithm, b"".join(bodies))
    with refused(400, "BadDigest"):
        s3.complete_multipart_upload(
            Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts},
            **{field(algorithm): checksum(algorithm, b"no")},
        )  # fmt: skip
    answer = s3.complete_multipart_upload(
        Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts}, **{field(algorithm): expected}
    )
    assert answer[field(algorithm)] == expected
    answer = wire.request("HEAD", f"/{bucket}/k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert answer.headers[header(algorithm)] == expected
    assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"


def test_object_attributes_name_the_checksum_and_the_parts(s3, bucket):
    bodies = [body(5 * MIB, 1), body(777, 2)]
    upload_id, parts = multipart(s3, bucket, bodies, "SHA256", "COMPOSITE")
    s3.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload_id, MultipartUpload={"Parts": parts})
    answer = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "ObjectSize", "StorageClass"]
    )
    assert answer["ObjectSize"] == sum(map(len, bodies)) and answer["ObjectParts"]["TotalPartsCount"] == 2
    assert answer["Checksum"]["ChecksumSHA256"].split("-")[0] == composite("SHA256", bodies).split("-")[0]
