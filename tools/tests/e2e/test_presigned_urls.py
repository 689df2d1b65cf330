"""Presigned URLs with curl, and what happens to them once they were changed or are over.

boto3's own default is a URL of signature version 2 where the region is us-east-1; version 4 is asked for. Both must work.
"""

import datetime
import re
import subprocess

import pytest

import sigv4
from bodies import KIB, MIB, assert_same, body


def curl(*arguments):
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "%{stderr}%{http_code}", *arguments],
        capture_output=True,
        check=False,
    )
    return int(done.stderr[-3:]), done.stdout


@pytest.fixture(params=["as boto3 does by default", "s3v4"])
def presigner(server, request):
    return server.client(**({"signature_version": "s3v4"} if request.param == "s3v4" else {}))


@pytest.mark.parametrize("size", [0, 1, 128 * KIB + 1, 5 * MIB])
def test_get_and_put_with_curl(presigner, bucket, tmp_path, size):
    data = body(size, "presigned")
    path = tmp_path / "body"
    path.write_bytes(data)
    key = "a key/with ünïcode & signs+.bin"
    url = presigner.generate_presigned_url("put_object", {"Bucket": bucket, "Key": key}, ExpiresIn=60)
    status, answer = curl("--upload-file", str(path), url)
    assert status == 200, answer
    url = presigner.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=60)
    status, answer = curl(url)
    assert status == 200
    assert_same(answer, data)
    status, answer = curl("--head", presigner.generate_presigned_url("head_object", {"Bucket": bucket, "Key": key}))
    assert status == 200 and f"content-length: {size}".encode() in answer.lower()
    assert curl("--range", "0-0", url)[0] == (206 if size else 416)


def test_delete_and_list_with_curl(s3, presigner, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    status, answer = curl(presigner.generate_presigned_url("list_objects_v2", {"Bucket": bucket, "Prefix": "k"}))
    assert status == 200 and b"<Key>k</Key>" in answer
    url = presigner.generate_presigned_url("delete_object", {"Bucket": bucket, "Key": "k"})
    assert curl("--request", "DELETE", url)[0] == 204
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_the_signed_response_headers_are_used(s3, presigner, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = presigner.generate_presigned_url(
        "get_object", {"Bucket": bucket, "Key": "k", "ResponseContentType": "text/x-asked-for"}
    )
    status, answer = curl("--include", url)
    assert status == 200 and b"content-type: text/x-asked-for" in answer.lower()


def test_a_url_is_for_what_it_was_signed_for(s3, presigner, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_object(Bucket=bucket, Key="other", Body=b"secret")
    url = presigner.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    for changed in (
        url.replace("/k?", "/other?"),
        re.sub(r"Expires=(\d+)", r"Expires=1\1", url),
        url + "&response-content-type=text/html",
        re.sub(r"Signature=(.)", lambda match: "Signature=" + ("0" if match[1] != "0" else "1"), url),
        url + "&acl",
    ):
        status, answer = curl(changed)
        assert status == 403 and b"SignatureDoesNotMatch" in answer, answer
    assert curl("--request", "DELETE", url)[0] == 403
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def presigned(wire, path, **arguments):
    query = wire.signer.presign("GET", path, wire.host, **arguments)
    return curl(f"http://{wire.host}{path}?{query}")


def test_a_url_that_is_over(wire, bucket):
    wire.put(bucket, "k", b"x")
    path = f"/{bucket}/k"
    assert presigned(wire, path)[0] == 200
    before = sigv4.now() - datetime.timedelta(seconds=120)
    status, answer = presigned(wire, path, moment=before, expires=100)
    assert status == 403 and b"Request has expired" in answer
    assert presigned(wire, path, moment=before, expires=600)[0] == 200
    later = sigv4.now() + datetime.timedelta(hours=1)
    assert presigned(wire, path, moment=later)[0] == 403


@pytest.mark.parametrize("expires", [0, -1, 604_801, 10**30])
def test_how_long_a_url_may_be_valid(wire, bucket, expires):
    status, answer = presigned(wire, f"/{bucket}", expires=expires)
    assert status in (400, 403) and b"<Code>" in answer, (status, answer)
