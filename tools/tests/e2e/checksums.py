"""The five checksums of S3, computed without the code under test. The CRCs are bit-reflected and table-driven."""

import base64
import functools
import hashlib
import zlib


@functools.cache
def _table(polynomial):
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


def _crc(data, polynomial, bits):
    table, value = _table(polynomial), (1 << bits) - 1
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return (value ^ ((1 << bits) - 1)).to_bytes(bits // 8, "big")


RAW = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: _crc(data, 0x82F63B78, 32),
    "CRC64NVME": lambda data: _crc(data, 0x9A6C9329AC4BC9B5, 64),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}
ALGORITHMS = sorted(RAW)


def checksum(algorithm, data):
    """As the header carries it."""
    return base64.b64encode(RAW[algorithm](data)).decode()


def composite(algorithm, parts):
    """The checksum of the parts' checksums, as S3 shows it."""
    whole = b"".join(RAW[algorithm](part) for part in parts)
    return f"{base64.b64encode(RAW[algorithm](whole)).decode()}-{len(parts)}"


def header(algorithm):
    return f"x-amz-checksum-{algorithm.lower()}"


def field(algorithm):
    """The name that boto3 gives it."""
    return f"Checksum{algorithm}"


assert RAW["CRC32C"](b"123456789").hex() == "e3069283"
assert RAW["CRC64NVME"](b"123456789").hex() == "ae8b14860a799888"
