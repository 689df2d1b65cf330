"""S3 by hand: a signed keep-alive connection for tests that need every byte in their control, or many requests a second."""

import datetime
import hashlib
import http.client
import socket
import xml.etree.ElementTree as tree
from urllib.parse import unquote

import sigv4

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Answer:
    """A response, read to its end."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self):
        """The S3 error code."""
        return tree.fromstring(self.body).findtext("Code") if self.body else None

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body[:600]!r}"


class Wire:
    """One connection. `request` connects again where the server closed in between."""

    def __init__(self, server, timeout=60, access_key=None, secret_key=None):
        self.host = f"{server.host}:{server.port}"
        self.ahead = datetime.timedelta(seconds=server.seconds_ahead)
        self.signer = sigv4.Signer(access_key or server.access_key, secret_key or server.secret_key)
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout)

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def request(self, method, path, query=(), headers=None, body=b"", payload_hash=None, moment=None):
        """`path` is not encoded yet; `query` is pairs. Signs the body's hash unless told otherwise, at the server's time."""
        path = sigv4.encode_path(path)
        query = list(query)
        if payload_hash is None:
            payload_hash = hashlib.sha256(body).hexdigest()
        signed = self.signer.sign(
            method, path, query, {"host": self.host, **(headers or {})}, payload_hash, moment or sigv4.now() + self.ahead
        )
        return self.send(method, path, query, signed, body)

    def send(self, method, path, query=(), headers=None, body=b""):
        """Sends what is given, signed or not. `path` is encoded."""
        target = path + ("?" + sigv4.encode_query(query) if query else "")
        if self.connection.sock is None:
            self.connection.connect()
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            headers = dict(headers or {})
            headers.setdefault("host", self.host)
            names = {name.lower() for name in headers}
            if (body or method in ("PUT", "POST")) and not names & {"content-length", "transfer-encoding"}:
                headers["content-length"] = str(len(body))
            for name, value in headers.items():
                self.connection.putheader(name, value)
            self.connection.endheaders(body if body else None)
            response = self.connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def put(self, bucket, key, data, **headers):
        return self.request("PUT", f"/{bucket}/{key}", headers=headers, body=data)

    def get(self, bucket, key, **headers):
        return self.request("GET", f"/{bucket}/{key}", headers=headers)

    def delete(self, bucket, key):
        return self.request("DELETE", f"/{bucket}/{key}")

    def list_all(self, bucket, prefix="", max_keys=1000):
        """Every (key, size, etag) of a bucket, page by page."""
        found, token = [], None
        while True:
            query = [("list-type", "2"), ("prefix", prefix), ("max-keys", str(max_keys)), ("encoding-type", "url")]
            if token:
                query.append(("continuation-token", token))
            answer = self.request("GET", f"/{bucket}", query)
            assert answer.status == 200, answer
            page = tree.fromstring(answer.body)
            for item in page.iter(NAMESPACE + "Contents"):
                found.append(
                    (
                        unquote(item.findtext(NAMESPACE + "Key")),
                        int(item.findtext(NAMESPACE + "Size")),
                        item.findtext(NAMESPACE + "ETag").strip('"'),
                    )
                )
            if page.findtext(NAMESPACE + "IsTruncated") != "true":
                return found
            token = page.findtext(NAMESPACE + "NextContinuationToken")
