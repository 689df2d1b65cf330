"""Errors are S3's: code, status, XML and request id; what is not implemented says so and does nothing."""

import datetime
import xml.etree.ElementTree as tree

import pytest

import sigv4
from wire import Wire


def test_an_error_is_the_xml_that_s3_sends(wire, bucket):
    answer = wire.get(bucket, "a<b>&c")
    assert answer.status == 404 and answer.headers["content-type"] == "application/xml"
    document = tree.fromstring(answer.body)
    assert document.tag == "Error" and document.findtext("Code") == "NoSuchKey" and document.findtext("Message")
    assert document.findtext("Key") == "a<b>&c"
    assert document.findtext("RequestId") == answer.headers["x-amz-request-id"]
    assert document.findtext("Resource")


def test_every_answer_has_its_own_request_id(wire, bucket):
    ids = {wire.request("GET", f"/{bucket}").headers["x-amz-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_an_error_to_head_has_no_body(wire, bucket):
    answer = wire.request("HEAD", f"/{bucket}/never")
    assert answer.status == 404 and answer.body == b""
    assert wire.request("HEAD", f"/{bucket}").status == 200


UNIMPLEMENTED = [
    ("PUT", "bucket", name)
    for name in (
        "accelerate", "acl", "analytics", "cors", "encryption", "intelligent-tiering", "inventory", "lifecycle", "logging",
        "metrics", "notification", "object-lock", "ownershipControls", "policy", "publicAccessBlock", "replication",
        "requestPayment", "tagging", "versioning", "website",
    )
] + [
    ("PUT", "object", "acl"),
    ("PUT", "object", "tagging"),
    ("PUT", "object", "retention"),
    ("PUT", "object", "legal-hold"),
    ("PUT", "object", "renameObject"),
    ("DELETE", "object", "tagging"),
    ("POST", "object", "restore"),
    ("POST", "object", "select"),
    ("GET", "bucket", "inventory"),
    ("GET", "bucket", "analytics"),
    ("GET", "bucket", "session"),
]  # fmt: skip


@pytest.mark.parametrize("method, level, name", UNIMPLEMENTED)
def test_unknown_subresources_are_not_implemented_and_do_nothing(wire, bucket, method, level, name):
    wire.put(bucket, "k", b"before")
    path = f"/{bucket}" if level == "bucket" else f"/{bucket}/k"
    answer = wire.request(method, path, [(name, "")], body=b"<x/>" if method != "GET" else b"")
    assert (answer.status, answer.code) == (501, "NotImplemented"), answer
    assert wire.get(bucket, "k").body == b"before"


@pytest.mark.parametrize(
    "name, value",
    [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-website-redirect-location", "/elsewhere"),
        ("x-amz-tagging", "a=b"),
    ],
)
def test_headers_that_promise_more_than_there_is_are_refused(wire, bucket, name, value):
    """An object must not look encrypted, locked or tagged when it is not."""
    answer = wire.put(bucket, "k", b"x", **{name: value})
    assert answer.status in (400, 501), answer
    assert wire.get(bucket, "k").status == 404


def test_settings_have_their_fixed_form(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    grants = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]


# Signatures


def sent(wire, **changes):
    """A signed GET of the service, with its headers changed after it was signed."""
    headers = wire.signer.sign("GET", "/", [], {"host": wire.host}, sigv4.EMPTY_SHA256, changes.pop("moment", None))
    for name, value in changes.items():
        name = name.replace("_", "-")
        if value is None:
            headers.pop(name, None)
        else:
            headers[name] = value(headers[name]) if callable(value) else value
    return wire.send("GET", "/", headers=headers)


def test_a_request_without_a_signature_is_denied(wire, bucket):
    wire.put(bucket, "k", b"x")
    for method, path in (("GET", "/"), ("GET", f"/{bucket}"), ("GET", f"/{bucket}/k"), ("PUT", f"/{bucket}/n"), ("DELETE", f"/{bucket}/k")):
        answer = wire.send(method, path)
        assert (answer.status, answer.code) == (403, "AccessDenied"), answer
    assert wire.get(bucket, "k").body == b"x"


def test_a_wrong_secret(server):
    with Wire(server, secret_key="not the secret at all") as wire:
        answer = wire.request("GET", "/")
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), answer


def test_an_unknown_access_key(server):
    with Wire(server, access_key="nobody0000000000") as wire:
        answer = wire.request("GET", "/")
        assert (answer.status, answer.code) == (403, "InvalidAccessKeyId"), answer


def test_what_was_signed_must_be_what_is_sent(wire):
    assert sent(wire).status == 200
    assert sent(wire, host="other.example:80").code == "SignatureDoesNotMatch"
    assert sent(wire, authorization=lambda text: text[:-1] + ("0" if text[-1] != "0" else "1")).code == "SignatureDoesNotMatch"
    assert sent(wire, x_amz_meta_added="1").code == "AccessDenied"


@pytest.mark.parametrize(
    "text",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=, SignedHeaders=, Signature=",
        "AWS nobody:signature",
        "Bearer token",
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA256 " + "x" * 5000,
        "\x7f",
        "",
    ],
)
def test_authorizations_that_are_none(wire, text):
    answer = sent(wire, authorization=text)
    assert answer.status in (400, 403) and answer.code, answer


@pytest.mark.parametrize("region, service", [("mars-1", "s3"), ("us-east-1", "sqs")])
def test_a_signature_for_elsewhere(server, region, service):
    with Wire(server) as wire:
        wire.signer = sigv4.Signer(server.access_key, server.secret_key, region, service)
        answer = wire.request("GET", "/")
        assert (answer.status, answer.code) == (400, "AuthorizationHeaderMalformed"), answer


@pytest.mark.parametrize("minutes", [-16, 16, -60 * 24 * 365])
def test_a_clock_that_is_off(wire, minutes):
    moment = sigv4.now() + datetime.timedelta(minutes=minutes)
    answer = sent(wire, moment=moment)
    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed"), answer
    assert sent(wire, moment=sigv4.now() + datetime.timedelta(minutes=minutes / abs(minutes) * 14)).status == 200


def test_a_date_that_is_none(wire):
    for text in ("", "yesterday", "20260230T000000Z", "99999999T999999Z"):
        answer = sent(wire, x_amz_date=text)
        assert answer.status in (400, 403) and answer.code, answer
