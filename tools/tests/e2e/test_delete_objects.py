"""DeleteObjects: many keys in one request."""

import base64
import hashlib

from errors import refused


def test_many_are_deleted_at_once(s3, bucket):
    keys = [f"k{number:04}" for number in range(1000)]
    for key in keys[::10]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    # What is not there counts as deleted.
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == keys
    assert not answer.get("Errors")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_quiet_names_only_errors(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}], "Quiet": True})
    assert not answer.get("Deleted") and not answer.get("Errors")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_awkward_keys_are_deleted(s3, bucket):
    keys = ["a&b", "<k>", "ümläut", " lead", "trail ", "a\tb", "quote\"'", "%41", "a//b"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    s3.put_object(Bucket=bucket, Key="A", Body=b"stays")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert sorted(entry["Key"] for entry in answer["Deleted"]) == sorted(keys)
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["A"]


def test_more_than_a_thousand_are_refused(s3, bucket):
    with refused(400, "MalformedXML"):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"k{n}"} for n in range(1001)]})


def delete(wire, bucket, document, digest=None):
    digest = digest or base64.b64encode(hashlib.md5(document).digest()).decode()
    return wire.request("POST", f"/{bucket}", [("delete", "")], {"content-md5": digest}, document)


def test_bad_documents_are_refused_and_delete_nothing(wire, bucket):
    wire.put(bucket, "k", b"x")
    for document in (
        b"",
        b"<Delete>",
        b"<Delete></Delete>",
        b"<Delete><Object><Key>k</Key></Object>",
        b"<Other><Object><Key>k</Key></Object></Other>",
        b"<Delete><Object></Object></Delete>",
        b"<Delete><Object><Key>k</Key></Object></Delete><More/>",
        b"not xml at all",
        b"\xff\xfe\x00",
        b"<Delete>" + b"<a>" * 10_000,
        b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e "k">]><Delete><Object><Key>&e;</Key></Object></Delete>',
    ):
        answer = delete(wire, bucket, document)
        assert answer.status == 400, (document[:60], answer)
        assert answer.code in ("MalformedXML", "MissingRequestBodyError", "InvalidRequest"), (document[:60], answer)
    assert wire.get(bucket, "k").body == b"x"


def test_a_wrong_content_md5_deletes_nothing(wire, bucket):
    wire.put(bucket, "k", b"x")
    document = b"<Delete><Object><Key>k</Key></Object></Delete>"
    answer = delete(wire, bucket, document, base64.b64encode(b"0" * 16).decode())
    assert (answer.status, answer.code) == (400, "BadDigest")
    assert wire.get(bucket, "k").body == b"x"


def test_the_namespace_does_not_matter(wire, bucket):
    for document in (
        b'<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Object><Key>k</Key></Object></Delete>",
        b"<Delete><Quiet>true</Quiet><Object><Key>k</Key></Object></Delete>",
        b"<Delete>\n  <Object>\n    <Key><![CDATA[k]]></Key>\n  </Object>\n</Delete>",
    ):
        wire.put(bucket, "k", b"x")
        assert delete(wire, bucket, document).status == 200
        assert wire.get(bucket, "k").status == 404
