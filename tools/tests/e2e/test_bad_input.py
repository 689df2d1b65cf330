"""Bytes that no client library sends. The server gives the right error or closes; it never hangs, never takes one
request for two, and is well afterwards."""

import hashlib
import socket
import threading
import time

import pytest

import sigv4
from bodies import KIB, MIB, assert_same, body
from wire import Wire

# Longer than any answer to a request that has come in full, shorter than the time the server gives slow clients.
PATIENCE = 10


class Raw:
    """A connection that sends what it is told."""

    def __init__(self, server, patience=PATIENCE):
        self.socket = socket.create_connection((server.host, server.port), timeout=patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has refused already; what it said is still to be read.
        return self

    def _more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def answer(self):
        """The next response: (status, headers, body); None where the connection was closed instead."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                assert not self.buffer, f"half an answer: {self.buffer[:200]!r}"
                return None
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        status = int(lines[0].split()[1])
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        length = 0 if status in (100, 204, 304) else int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            assert self._more(), "the connection was closed inside an answer"
        data, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, headers, data

    def rest(self):
        """Everything until the server closes."""
        while self._more():
            pass
        return self.buffer


@pytest.fixture
def raw(server):
    with Raw(server) as raw:
        yield raw


@pytest.fixture(autouse=True)
def well_afterwards(server, bucket):
    """After each test: health, a put and a get."""
    yield
    status, _ = server.ask("/health")
    assert status == 200
    with Wire(server) as wire:
        data = body(200 * KIB, "well")
        assert wire.put(bucket, "well", data).status == 200
        assert_same(wire.get(bucket, "well").body, data)


def signed(server, method, path, headers=None, data=b"", payload_hash=None, query=(), omit=()):
    """The head of a signed request, as bytes, without its empty line's following body."""
    host = f"{server.host}:{server.port}"
    signer = sigv4.Signer(server.access_key, server.secret_key)
    payload_hash = payload_hash or hashlib.sha256(data).hexdigest()
    encoded = sigv4.encode_path(path)
    names = signer.sign(method, encoded, list(query), {"host": host, **(headers or {})}, payload_hash)
    target = encoded + ("?" + sigv4.encode_query(query) if query else "")
    lines = [f"{method} {target} HTTP/1.1"] + [f"{name}: {value}" for name, value in names.items() if name not in omit]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def put_head(server, bucket, key, data, length=None, **headers):
    headers = {"content-length": str(len(data) if length is None else length), **headers}
    return signed(server, "PUT", f"/{bucket}/{key}", headers, data, sigv4.UNSIGNED)


MALFORMED = [
    b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
    b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    b"GET / HTTP/1.1\nhost: x\n\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nbad\x00: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\na: b\x00c\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET nothing HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
    b"\x00" * 64 + b"\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:24]))
def test_a_malformed_head_is_refused(raw, data):
    raw.send(data)
    answer = raw.answer()
    assert answer is None or 400 <= answer[0] < 600, answer
    raw.socket.shutdown(socket.SHUT_WR)
    assert b"HTTP/1.1 2" not in raw.rest()


@pytest.mark.parametrize(
    "length", ["-1", "+5", "5x", "0x5", "5,5", "5, 6", "99999999999999999999", "18446744073709551616", "", " ", "1e3"]
)
def test_a_length_that_is_none(server, raw, bucket, length):
    raw.send(put_head(server, bucket, "k", b"", length) + b"hello")
    assert 400 <= raw.answer()[0] < 500
    with Wire(server) as wire:
        assert wire.get(bucket, "k").status == 404


SMUGGLED = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"content-length: 5\r\n content-length: 9\r\n",
    ],
    ids=repr,
)
def test_a_body_with_two_lengths_is_no_second_request(server, raw, bucket, lines):
    head = signed(server, "PUT", f"/{bucket}/k", payload_hash=sigv4.UNSIGNED)
    raw.send(head[:-2] + lines + b"\r\n0\r\n\r\n" + SMUGGLED)
    assert raw.answer()[0] in (400, 501)
    assert raw.answer() is None, "the connection goes on after a body that two parties read differently"


@pytest.mark.parametrize(
    "framing",
    [b"5\nhello\r\n0\r\n\r\n", b"zz\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n",
     b"fffffffffffffffff\r\nhello", b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_bad_chunks_store_nothing(server, raw, bucket, framing):
    raw.send(signed(server, "PUT", f"/{bucket}/k", {"transfer-encoding": "chunked"}, payload_hash=sigv4.UNSIGNED))
    raw.send(framing + SMUGGLED)
    answer = raw.answer()
    assert answer is None or 400 <= answer[0] < 500, answer
    with Wire(server) as wire:
        assert wire.get(bucket, "k").status == 404


def test_a_put_without_a_length(server, raw, bucket):
    raw.send(signed(server, "PUT", f"/{bucket}/k", payload_hash=sigv4.UNSIGNED))
    status, _, data = raw.answer()
    assert status == 411 and b"MissingContentLength" in data


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        b"X" * (1 << 20),
    ],
    ids=["header", "path", "many headers", "no end"],
)
def test_an_oversized_head_is_refused(raw, head):
    raw.send(head)
    answer = raw.answer()
    assert answer is None or answer[0] in (400, 414, 431), answer


def test_a_body_larger_than_any_object(server, raw, bucket):
    raw.send(put_head(server, bucket, "k", b"", 6 << 30))
    status, _, data = raw.answer()
    assert status == 400 and b"EntityTooLarge" in data


def test_a_body_that_ends_early_stores_nothing(server, bucket):
    for sent in (0, 1, 100_000, 999_999):
        with Raw(server) as raw:
            raw.send(put_head(server, bucket, "k", b"", 1_000_000) + body(sent, 1))
            raw.socket.shutdown(socket.SHUT_WR)
            answer = raw.answer()
            assert answer is None or (answer[0] == 400 and b"IncompleteBody" in answer[2]), answer
    with Wire(server) as wire:
        assert wire.get(bucket, "k").status == 404
        assert wire.list_all(bucket) == []


def test_clients_that_vanish_leave_nothing(server, bucket):
    for turn in range(40):
        with Raw(server) as raw:
            raw.send(put_head(server, bucket, "k", b"", 1_000_000) + body(turn * 20_000, 1))
            # RST instead of FIN.
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    with Wire(server) as wire:
        assert wire.get(bucket, "k").status == 404


def test_a_reader_that_vanishes(server, bucket):
    with Wire(server) as wire:
        data = body(20 * MIB, "vanish")
        wire.put(bucket, "k", data)
        for _ in range(20):
            with Raw(server) as raw:
                raw.send(signed(server, "GET", f"/{bucket}/k"))
                raw.socket.recv(1000)
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        assert_same(wire.get(bucket, "k").body, data)


def test_a_reader_that_is_slow_gets_its_bytes(server, bucket):
    data = body(30 * MIB, "slow")
    with Wire(server) as wire:
        wire.put(bucket, "k", data)
        with Raw(server) as raw:
            raw.send(signed(server, "GET", f"/{bucket}/k"))
            time.sleep(2)
            # The others do not wait for it.
            assert_same(wire.get(bucket, "k").body, data)
            status, _, got = raw.answer()
            assert status == 200
            assert_same(got, data)


def test_a_head_that_comes_byte_by_byte(server, raw, bucket):
    data = b"hello"
    head = put_head(server, bucket, "k", data)
    for byte in head + data:
        raw.send(bytes([byte]))
    assert raw.answer()[0] == 200
    with Wire(server) as wire:
        assert wire.get(bucket, "k").body == data


def test_a_body_that_comes_slowly(server, raw, bucket):
    data = body(300_000, "slowly")
    raw.send(put_head(server, bucket, "k", data))
    for at in range(0, len(data), 50_000):
        raw.send(data[at : at + 50_000])
        time.sleep(0.2)
    assert raw.answer()[0] == 200
    with Wire(server) as wire:
        assert_same(wire.get(bucket, "k").body, data)


def test_many_clients_that_send_nothing_do_not_keep_others_out(server, bucket):
    idle = [Raw(server) for _ in range(200)]
    half = [Raw(server).send(b"GET / HTTP/1.1\r\nhost:") for _ in range(200)]
    try:
        with Wire(server) as wire:
            assert wire.put(bucket, "k", b"x").status == 200
    finally:
        for raw in idle + half:
            raw.socket.close()


def test_expect_100_continue(server, raw, bucket):
    data = body(1 * MIB, "expected")
    raw.send(put_head(server, bucket, "k", data, expect="100-continue"))
    assert raw.answer()[0] == 100
    raw.send(data)
    assert raw.answer()[0] == 200
    with Wire(server) as wire:
        assert_same(wire.get(bucket, "k").body, data)


def test_expect_100_continue_of_what_is_refused(server, raw, bucket):
    """The refusal comes in place of the 100, and no body has to be sent."""
    head = put_head(server, bucket, "k", b"", 5 << 30, expect="100-continue").replace(b"Signature=", b"Signature=0")
    raw.send(head)
    status, _, data = raw.answer()
    assert status in (400, 403) and b"<Code>" in data


def test_other_expectations_are_refused(server, raw, bucket):
    raw.send(put_head(server, bucket, "k", b"x", expect="200-ok") + b"x")
    assert raw.answer()[0] == 417


def test_requests_in_a_pipeline_are_answered_in_order(server, raw, bucket):
    bodies = [body(size, size) for size in (10, 200_000, 0, 5, 1_000_000, 3)]
    sent = b""
    for number, data in enumerate(bodies):
        sent += put_head(server, bucket, f"k{number}", data) + data
    for number in range(len(bodies)):
        sent += signed(server, "GET", f"/{bucket}/k{number}")
    sent += signed(server, "GET", f"/{bucket}/never")
    sender = threading.Thread(target=raw.send, args=(sent,))
    sender.start()
    for _ in bodies:
        assert raw.answer()[0] == 200
    for data in bodies:
        status, _, got = raw.answer()
        assert status == 200
        assert_same(got, data)
    assert raw.answer()[0] == 404
    sender.join()


def test_half_close_still_gets_the_answer(server, raw, bucket):
    data = body(200_000, "half")
    raw.send(put_head(server, bucket, "k", data) + data)
    raw.socket.shutdown(socket.SHUT_WR)
    assert raw.answer()[0] == 200
    assert raw.rest() == b""
    with Raw(server) as raw:
        raw.send(signed(server, "GET", f"/{bucket}/k"))
        raw.socket.shutdown(socket.SHUT_WR)
        assert_same(raw.answer()[2], data)


def test_connections_are_kept_and_closed_as_asked(server, raw, bucket):
    for _ in range(3):
        raw.send(signed(server, "HEAD", f"/{bucket}"))
        assert raw.answer()[0] == 200
    raw.send(signed(server, "GET", f"/{bucket}", {"connection": "close"}))
    assert raw.answer()[0] == 200
    assert raw.answer() is None
    with Raw(server) as raw:
        raw.send(b"GET /health HTTP/1.0\r\nhost: x\r\n\r\n")
        assert raw.answer()[0] == 200
        assert raw.answer() is None


def test_a_refused_upload_says_why_before_the_body_is_through(server, raw):
    """A client that sends on while it is refused must still be able to read the error."""
    data = body(3 * MIB, 1)
    sender = threading.Thread(target=raw.send, args=(put_head(server, "no-such-bucket-here", "k", data) + data,))
    sender.start()
    answer = raw.answer()
    sender.join()
    assert answer is not None and answer[0] == 404 and b"NoSuchBucket" in answer[2], answer


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "x" * 100])
def test_methods_that_s3_does_not_have(server, raw, method):
    raw.send(f"{method} /b HTTP/1.1\r\nhost: {server.host}:{server.port}\r\ncontent-length: 0\r\n\r\n".encode())
    answer = raw.answer()
    assert answer is None or answer[0] in (400, 403, 405, 501), answer


def test_random_bytes(server):
    for seed in range(100):
        with Raw(server) as raw:
            raw.send(body(50 + seed * 20, seed) + b"\r\n\r\n")
            raw.socket.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 2" not in raw.rest()


def test_requests_with_a_flipped_byte(server, bucket):
    """A valid request, one byte of its head changed: refused, or the same request still."""
    head = put_head(server, bucket, "flip", b"hello", x=("y" * 20))
    for at in range(0, len(head) - 4, 3):
        changed = bytearray(head)
        changed[at] ^= 0x11
        with Raw(server) as raw:
            raw.send(bytes(changed) + b"hello")
            raw.socket.shutdown(socket.SHUT_WR)
            answer = raw.answer()
            assert answer is None or answer[0] == 200 or answer[0] >= 400, answer
    with Wire(server) as wire:
        assert {key for key, _, _ in wire.list_all(bucket)} <= {"flip"}
        if (stored := wire.get(bucket, "flip")).status == 200:
            assert stored.body == b"hello"
