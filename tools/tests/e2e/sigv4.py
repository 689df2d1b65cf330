"""AWS Signature Version 4, written from its specification and independent of botocore.

Tests sign by hand what no client library would send: wrong signatures, chunk signatures, trailers, odd paths.
"""

import datetime
import hashlib
import hmac
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
REGION = "us-east-1"


def encode_path(path):
    """A path as S3 wants it in the request and in the canonical request: encoded once, slashes kept."""
    return quote(path, safe="/-_.~")


def encode_query(pairs):
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(pairs))


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def amz_date(moment):
    return moment.strftime("%Y%m%dT%H%M%SZ")


def signing_key(secret_key, day, region=REGION, service="s3"):
    key = ("AWS4" + secret_key).encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical(method, path, query, headers, signed, payload_hash):
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed)
    return "\n".join([method, path, query, lines, ";".join(signed), payload_hash])


def _text(moment, scope, canonical):
    return "\n".join(["AWS4-HMAC-SHA256", amz_date(moment), scope, hashlib.sha256(canonical.encode()).hexdigest()])


class Signer:
    """The keys of one user, for one region."""

    def __init__(self, access_key, secret_key, region=REGION, service="s3"):
        self.access_key = access_key
        self.secret_key = secret_key
        self.region = region
        self.service = service

    def _scope(self, moment):
        return f"{moment:%Y%m%d}/{self.region}/{self.service}/aws4_request"

    def _key(self, moment):
        return signing_key(self.secret_key, f"{moment:%Y%m%d}", self.region, self.service)

    def sign(self, method, path, query, headers, payload_hash=UNSIGNED, moment=None):
        """The headers with those of the signature added. `path` is encoded; `query` is a list of pairs; `headers` must
        name the host."""
        moment = moment or now()
        headers = {name.lower(): value for name, value in headers.items()}
        headers["x-amz-date"] = amz_date(moment)
        headers["x-amz-content-sha256"] = payload_hash
        signed = sorted(headers)
        canonical = _canonical(method, path, encode_query(query), headers, signed, payload_hash)
        signature = hmac.new(
            self._key(moment), _text(moment, self._scope(moment), canonical).encode(), "sha256"
        ).hexdigest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self._scope(moment)}, "
            f"SignedHeaders={';'.join(signed)}, Signature={signature}"
        )
        return headers

    def presign(self, method, path, host, expires=60, query=(), moment=None):
        """The query of a presigned request."""
        moment = moment or now()
        pairs = list(query) + [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.access_key}/{self._scope(moment)}"),
            ("X-Amz-Date", amz_date(moment)),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", "host"),
        ]
        canonical = _canonical(method, path, encode_query(pairs), {"host": host}, ["host"], UNSIGNED)
        signature = hmac.new(
            self._key(moment), _text(moment, self._scope(moment), canonical).encode(), "sha256"
        ).hexdigest()
        return encode_query(pairs) + f"&X-Amz-Signature={signature}"

    def chunked(self, chunks, headers, moment, trailers=None):
        """The aws-chunked body whose seed is the signature in `headers`; with `trailers`, a signed trailer."""
        previous = headers["authorization"].rsplit("Signature=", 1)[1]
        key = self._key(moment)
        scope = self._scope(moment)
        out = bytearray()
        for chunk in [*chunks, b""]:
            text = "\n".join(
                [
                    "AWS4-HMAC-SHA256-PAYLOAD",
                    amz_date(moment),
                    scope,
                    previous,
                    EMPTY_SHA256,
                    hashlib.sha256(chunk).hexdigest(),
                ]
            )
            previous = hmac.new(key, text.encode(), "sha256").hexdigest()
            out += f"{len(chunk):x};chunk-signature={previous}\r\n".encode()
            if chunk:
                out += chunk + b"\r\n"
        if trailers is None:
            return bytes(out + b"\r\n")
        lines = "".join(f"{name}:{value}\n" for name, value in sorted(trailers.items()))
        text = "\n".join(
            [
                "AWS4-HMAC-SHA256-TRAILER",
                amz_date(moment),
                scope,
                previous,
                hashlib.sha256(lines.encode()).hexdigest(),
            ]
        )
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        for name, value in trailers.items():
            out += f"{name}:{value}\r\n".encode()
        out += f"x-amz-trailer-signature:{signature}\r\n\r\n".encode()
        return bytes(out)


def unsigned_chunked(chunks, trailers):
    """The aws-chunked body of STREAMING-UNSIGNED-PAYLOAD-TRAILER."""
    out = bytearray()
    for chunk in chunks:
        out += f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
    out += b"0\r\n"
    for name, value in trailers.items():
        out += f"{name}:{value}\r\n".encode()
    return bytes(out + b"\r\n")
