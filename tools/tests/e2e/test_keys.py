"""Keys are any UTF-8 of 1 to 1,024 bytes; paths are never tidied up."""

import pytest

from errors import refused
from wire import Wire


def awkward_keys():
    yield from (
        "a/../b", "a/./b", "a//b", "/leading", "trailing/", "//", "/", ".", "..", "../..", "a b", " ", "  lead and trail  ",
        "plus+plus", "percent%41", "%", "%zz", "q?x=y&z", "hash#hash", "semi;colon", "quote'\"`", "<xml>&amp;", "back\\slash",
        "tilde~", "star*(paren)!", "a=b,c:d@e$f", "{1...4}", "[x]|^", "ümläut", "日本語/キー", "🙂", "\u00a0", "\u200b", "\ufeff",
        "e\u0301", "\u00e9", "x" * 1024, "ä" * 512, "🙂" * 256, "s/" * 512, "\u07ff\u0800\uffff\U00010000\U0010ffff",
        "-", "--help", "~", "?uploads", "?delete", "buckets", "health",
    )


@pytest.mark.parametrize("key", list(awkward_keys()), ids=lambda key: repr(key)[:24])
def test_an_awkward_key_is_kept_as_it_is(wire, bucket, key):
    data = key.encode()
    assert wire.put(bucket, key, data).status == 200
    assert wire.get(bucket, key).body == data
    assert [found for found, _, _ in wire.list_all(bucket)] == [key]
    assert wire.list_all(bucket, prefix=key)[0][0] == key
    assert wire.delete(bucket, key).status == 204
    assert wire.get(bucket, key).status == 404


def test_keys_with_every_legal_byte(server, bucket):
    """Every ASCII character but NUL, alone and between others, and every byte that UTF-8 can have."""
    keys = {chr(code) for code in range(1, 128)}
    keys |= {f"a{chr(code)}b" for code in range(1, 128)}
    # Lead bytes c2 to f4, continuation bytes 80 to bf.
    keys |= {chr(code) for code in range(0x80, 0x800, 37)} | {chr(0x80 + low) for low in range(64)}
    keys |= {chr(code) for code in range(0x800, 0x10000, 0x3F7) if not 0xD800 <= code < 0xE000}
    keys |= {chr(code) for code in range(0x10000, 0x110000, 0xFFF7)}
    with Wire(server) as wire:
        for key in keys:
            answer = wire.put(bucket, key, key.encode())
            assert answer.status == 200, (key, answer)
        listed = [key for key, _, _ in wire.list_all(bucket, max_keys=100)]
        assert listed == sorted(keys, key=lambda key: key.encode())
        for key in keys:
            assert wire.get(bucket, key).body == key.encode(), repr(key)
            assert wire.delete(bucket, key).status == 204
        assert wire.list_all(bucket) == []


def test_a_key_that_is_too_long(wire, bucket):
    answer = wire.put(bucket, "x" * 1025, b"x")
    assert (answer.status, answer.code) == (400, "KeyTooLongError")
    assert wire.get(bucket, "ä" * 513).code == "KeyTooLongError"


def test_a_key_that_is_no_utf8(wire, bucket):
    for path in ("%ff", "%c3%28", "%ed%a0%80", "a%"):
        signed = wire.signer.sign("GET", f"/{bucket}/{path}", [], {"host": wire.host})
        answer = wire.send("GET", f"/{bucket}/{path}", headers=signed)
        assert answer.status in (400, 403), (path, answer)


def test_keys_that_look_alike_are_different(s3, bucket):
    for key in ("e\u0301", "\u00e9", "E", "e", "e/", "/e"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in ("e\u0301", "\u00e9", "E", "e", "e/", "/e"):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    with refused(404):
        s3.head_object(Bucket=bucket, Key="E/")
