"""Bodies that are known by their seed, so that a journal need not keep them."""

import hashlib
import random

KIB = 1024
MIB = 1024 * KIB

# The sizes at which something changes: nothing, one byte, around the inline limit, several stripes, multipart.
SMALL_SIZES = [0, 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 5 * MIB]
LARGE_SIZE = 100 * MIB


def body(size, seed):
    """`size` bytes that no other seed gives."""
    return random.Random(str(seed)).randbytes(size)


def md5(data):
    return hashlib.md5(data).hexdigest()


def describe(data):
    """What an assertion prints in place of megabytes."""
    return f"{len(data)} bytes, md5 {md5(data)}"


def assert_same(actual, expected, what=""):
    """Byte equality; says where the first difference is."""
    if actual == expected:
        return
    at = next((i for i, (a, b) in enumerate(zip(actual, expected)) if a != b), min(len(actual), len(expected)))
    raise AssertionError(
        f"{what}: got {describe(actual)}, expected {describe(expected)}, first difference at byte {at}: "
        f"{actual[at:at + 16].hex()} / {expected[at:at + 16].hex()}"
    )
