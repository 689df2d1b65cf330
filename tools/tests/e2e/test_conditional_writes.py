"""Conditional writes are decided once, inside the partition: of many at once, one wins."""

import threading

import pytest

from bodies import KIB, body
from errors import refused
from wire import Wire

CREATORS = 32


def test_if_none_match_creates_once(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")
    with refused(412, "PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"third"


def test_if_match_replaces_what_was_seen(s3, bucket):
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"first")["ETag"]
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfMatch=first)["ETag"]
    with refused(412, "PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfMatch=first)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"second"
    s3.put_object(Bucket=bucket, Key="k", Body=b"fourth", IfMatch=second)


def test_if_match_of_nothing(s3, bucket):
    with refused(404, "NoSuchKey"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", IfMatch='"d41d8cd98f00b204e9800998ecf8427e"')
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_delete_may_have_a_condition(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    with refused(412, "PreconditionFailed"):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch='"no"')
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    with refused(404):
        s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize("size", [100, 300 * KIB])
def test_of_many_creators_one_wins(server, s3, bucket, size):
    for turn in range(5):
        key, barrier = f"k{turn}", threading.Barrier(CREATORS)
        answers = [None] * CREATORS

        def create(number, key=key, barrier=barrier, answers=answers):
            with Wire(server) as wire:
                data = body(size, number)
                barrier.wait()
                answers[number] = wire.request(
                    "PUT", f"/{bucket}/{key}", headers={"if-none-match": "*"}, body=data
                )

        threads = [threading.Thread(target=create, args=(number,)) for number in range(CREATORS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [number for number, answer in enumerate(answers) if answer.status == 200]
        # 409 is what S3 answers where two conditional writes meet.
        assert {answer.status for answer in answers} <= {200, 412, 409}, answers
        assert len(winners) == 1, f"{len(winners)} winners"
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body(size, winners[0])


def test_a_counter_by_compare_and_swap_loses_nothing(server, s3, bucket):
    """Eight clients add to one counter, each by If-Match on what it read."""
    s3.put_object(Bucket=bucket, Key="counter", Body=b"0")
    adders, additions = 8, 10
    broken = []

    def add():
        try:
            with Wire(server) as wire:
                for _ in range(additions):
                    while True:
                        seen = wire.get(bucket, "counter")
                        assert seen.status == 200, seen
                        answer = wire.request(
                            "PUT",
                            f"/{bucket}/counter",
                            headers={"if-match": seen.headers["etag"]},
                            body=str(int(seen.body) + 1).encode(),
                        )
                        if answer.status == 200:
                            break
                        assert answer.status in (409, 412), answer
        except AssertionError as error:
            broken.append(error)

    threads = [threading.Thread(target=add) for _ in range(adders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken, broken[0]
    assert int(s3.get_object(Bucket=bucket, Key="counter")["Body"].read()) == adders * additions
