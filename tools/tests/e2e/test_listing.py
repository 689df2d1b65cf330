"""Listings against a plain model: every parameter, both versions, page by page, and under concurrent writes."""

import itertools
import random
import threading
import xml.etree.ElementTree as tree

import pytest

from errors import refused
from wire import NAMESPACE, Wire

KEYS = sorted(
    {
        "a", "a/", "a/b", "a/b/c", "a/b/d", "a/c", "a0", "aa", "ab/", "ab/x", "b", "b//c", "b/c", "b/c/d/e/f", "b/d",
        "photos/2024/a.jpg", "photos/2024/b.jpg", "photos/2025/a.jpg", "photos/index", "photos", "photos-old/x",
        "z/ä/1", "z/ä/2", "z/ö", "Z", "日本/語", "日本/人", "d|e|f", "d|e|g", "d|h", "x y", "x+y", "x%20y", "&<>\"'",
    },
    key=lambda key: key.encode(),
)  # fmt: skip


@pytest.fixture(scope="module")
def filled(shared_server):
    from conftest import empty_bucket, new_bucket

    if shared_server.process is None:
        shared_server.start()
    s3 = shared_server.client()
    name = new_bucket(s3)
    for key in KEYS:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    yield name
    empty_bucket(s3, name)
    s3.delete_bucket(Bucket=name)


def model(keys, prefix="", delimiter="", after=""):
    """What a listing must say, in order: ("key" or "prefix", text). Keys after the start count, and show the prefix that they are
    rolled up into; a start that is itself such a prefix is over and done with."""
    entries = []
    for key in keys:
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = ("prefix", key[: at + len(delimiter)]) if at >= 0 else ("key", key)
        if entry not in entries and entry != ("prefix", after):
            entries.append(entry)
    return entries


def entries_of(page):
    found = [("key", item["Key"]) for item in page.get("Contents", [])]
    found += [("prefix", item["Prefix"]) for item in page.get("CommonPrefixes", [])]
    return sorted(found, key=lambda entry: entry[1].encode())


def cases():
    prefixes = ["", "a", "a/", "b", "b/", "photos/", "photos", "z/ä", "none", "日", "x", "d|"]
    delimiters = ["", "/", "|", "/b", "o", "日本/"]
    return itertools.product(prefixes, delimiters)


def test_v2_agrees_with_the_model(s3, filled):
    for prefix, delimiter in cases():
        for max_keys in (1, 2, 7, 1000):
            found, arguments = [], {}
            for _ in range(len(KEYS) + 2):
                page = s3.list_objects_v2(
                    Bucket=filled, Prefix=prefix, Delimiter=delimiter, MaxKeys=max_keys, **arguments
                )
                entries = entries_of(page)
                assert page["KeyCount"] == len(entries) <= max_keys
                found += entries
                if not page["IsTruncated"]:
                    assert "NextContinuationToken" not in page
                    break
                arguments = {"ContinuationToken": page["NextContinuationToken"]}
            assert found == model(KEYS, prefix, delimiter), (prefix, delimiter, max_keys)


def test_v1_agrees_with_the_model(s3, filled):
    for prefix, delimiter in cases():
        for max_keys in (1, 3, 1000):
            found, marker = [], ""
            for _ in range(len(KEYS) + 2):
                page = s3.list_objects(
                    Bucket=filled, Prefix=prefix, Delimiter=delimiter, MaxKeys=max_keys, Marker=marker
                )
                entries = entries_of(page)
                assert len(entries) <= max_keys
                found += entries
                if not page["IsTruncated"]:
                    break
                # S3 names the next marker only where there is a delimiter.
                marker = page["NextMarker"] if delimiter else entries[-1][1]
            assert found == model(KEYS, prefix, delimiter), (prefix, delimiter, max_keys)


def test_start_after_and_marker_agree_with_the_model(s3, filled):
    draw = random.Random(7)
    starts = KEYS + ["", "a/a", "photos/2024", "photos/2024/", "photos/2024/a.jpg0", "zzz", "\U0010ffff", "A"]
    for prefix, delimiter in cases():
        for start in draw.sample(starts, 6):
            expected = model(KEYS, prefix, delimiter, start)
            page = s3.list_objects_v2(Bucket=filled, Prefix=prefix, Delimiter=delimiter, StartAfter=start)
            assert entries_of(page) == expected, (prefix, delimiter, start)
            page = s3.list_objects(Bucket=filled, Prefix=prefix, Delimiter=delimiter, Marker=start)
            assert entries_of(page) == expected, (prefix, delimiter, start)


def test_every_field_of_a_listing(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, Prefix="photos/", MaxKeys=2, FetchOwner=True, StartAfter="photos/2024/a.jpg")
    assert (page["Name"], page["Prefix"], page["MaxKeys"], page["KeyCount"]) == (filled, "photos/", 2, 2)
    assert page["StartAfter"] == "photos/2024/a.jpg"
    item = page["Contents"][0]
    head = s3.head_object(Bucket=filled, Key=item["Key"])
    assert (item["ETag"], item["Size"]) == (head["ETag"], head["ContentLength"])
    assert item["LastModified"].replace(microsecond=0) == head["LastModified"]
    assert item["StorageClass"] == "STANDARD" and item["Owner"]["ID"]
    assert "Owner" not in s3.list_objects_v2(Bucket=filled, MaxKeys=1)["Contents"][0]
    assert s3.list_objects(Bucket=filled, MaxKeys=1)["Contents"][0]["Owner"]["ID"]


def test_no_keys_asked_for(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert page["KeyCount"] == 0 and not page["IsTruncated"] and "Contents" not in page


def test_more_than_a_thousand_keys_asked_for_gives_a_thousand(wire, filled):
    answer = wire.request("GET", f"/{filled}", [("list-type", "2"), ("max-keys", "5000")])
    assert tree.fromstring(answer.body).findtext(NAMESPACE + "MaxKeys") == "1000"


@pytest.mark.parametrize(
    "query",
    [
        [("list-type", "2"), ("max-keys", "-1")],
        [("list-type", "2"), ("max-keys", "many")],
        [("list-type", "2"), ("max-keys", "99999999999999999999")],
        [("list-type", "2"), ("encoding-type", "base64")],
        [("list-type", "2"), ("continuation-token", "not a token of ours")],
        [("list-type", "2"), ("continuation-token", "")],
        [("max-keys", "-5")],
        [("encoding-type", "other")],
    ],
)
def test_bad_parameters_are_refused(wire, filled, query):
    answer = wire.request("GET", f"/{filled}", query)
    assert (answer.status, answer.code) == (400, "InvalidArgument"), answer


@pytest.mark.parametrize("version", [[], [("list-type", "2")]])
def test_encoding_type_url_encodes_names_and_nothing_else(wire, filled, version):
    query = [("encoding-type", "url"), ("prefix", "x"), ("delimiter", "+")]
    page = tree.fromstring(wire.request("GET", f"/{filled}", version + query).body)
    assert page.findtext(NAMESPACE + "EncodingType") == "url"
    keys = [item.findtext(NAMESPACE + "Key") for item in page.iter(NAMESPACE + "Contents")]
    # A blank is `+` as S3 writes it, or %20.
    assert [key.replace("%20", "+") for key in keys] == ["x+y", "x%2520y"]
    assert page.findtext(NAMESPACE + "Delimiter") == "%2B"
    assert page.find(NAMESPACE + "CommonPrefixes").findtext(NAMESPACE + "Prefix") == "x%2B"


def test_without_encoding_type_names_are_plain(wire, filled):
    page = tree.fromstring(wire.request("GET", f"/{filled}", [("list-type", "2"), ("prefix", "&")]).body)
    assert page.find(NAMESPACE + "EncodingType") is None
    assert [item.findtext(NAMESPACE + "Key") for item in page.iter(NAMESPACE + "Contents")] == ["&<>\"'"]


def test_a_listing_shows_every_acknowledged_write(server, bucket):
    """Writers check after each write and each deletion that the listing knows, while the others go on."""
    writers, rounds, broken = 6, 40, []

    def write(number):
        try:
            with Wire(server) as wire:
                for turn in range(rounds):
                    key = f"{turn % 5}/{number}-{turn}"
                    assert wire.put(bucket, key, b"x").status == 200
                    assert [found for found, _, _ in wire.list_all(bucket, prefix=key)] == [key]
                    whole = [found for found, _, _ in wire.list_all(bucket, max_keys=50)]
                    assert key in whole, f"{key} is missing from a whole listing"
                    assert whole == sorted(set(whole))
                    if turn % 3 == 0:
                        assert wire.delete(bucket, key).status == 204
                        assert wire.list_all(bucket, prefix=key) == []
        except Exception as error:  # noqa: BLE001 - told to the main thread
            broken.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken, broken[0]


def test_a_bucket_that_is_not_there_has_no_listing(s3, bucket_name):
    with refused(404, "NoSuchBucket"):
        s3.list_objects_v2(Bucket=bucket_name)
