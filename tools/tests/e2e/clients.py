"""Clients of a deployment whose nodes come and go: they write, read, list, try again as clients do, and know what must be there."""

import hashlib
import random
import threading
import time
import xml.etree.ElementTree as tree

from bodies import KIB, MIB, body, md5
from wire import NAMESPACE, Wire

BUCKET = "clients"
PART = 5 * MIB


class Clients:
    """Each has keys of its own, which it writes (also in parts), reads and lists through nodes that nobody has taken away."""

    def __init__(self, deployment, count=4, tries=4):
        self.deployment = deployment
        self.away = set()
        self.tries = tries
        self.stopping = False
        # What was acknowledged, by client: key -> (md5, ETag).
        self.known = [{} for _ in range(count)]
        self.wrong = []
        self.failed = {"put": [], "get": [], "list": [], "multipart": []}
        self.done = dict.fromkeys(self.failed, 0)
        with Wire(deployment.nodes[0]) as wire:
            assert wire.request("PUT", f"/{BUCKET}").status == 200
        self.threads = [threading.Thread(target=self.work, args=(n,)) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def work(self, number):
        draw = random.Random(number)
        generation = 0
        known = self.known[number]
        while not self.stopping:
            generation += 1
            key = f"c{number}/{draw.randrange(40)}"
            what = draw.random()
            if what < 0.03:
                known.pop(key, None)
                self.put_in_parts(known, key, generation, draw)
            elif what < 0.1:
                self.list(known, f"c{number}/", draw)
            elif what < 0.55 or key not in known:
                size = draw.choice([0, 1, 100, 4 * KIB, 20 * KIB, 100 * KIB, 1500 * KIB])
                data = body(size, f"{key}#{generation}")
                known.pop(key, None)
                if self.ask("put", lambda wire: wire.put(BUCKET, key, data), draw):
                    known[key] = (md5(data), md5(data))
            else:
                answer = self.ask("get", lambda wire: wire.get(BUCKET, key), draw)
                if answer and md5(answer.body) != known[key][0]:
                    self.wrong.append(key)

    def put_in_parts(self, known, key, generation, draw):
        """Each step through another node."""
        path = f"/{BUCKET}/{key}"
        began = self.ask("multipart", lambda wire: wire.request("POST", path, [("uploads", "")]), draw)
        if not began:
            return
        upload = tree.fromstring(began.body).findtext(NAMESPACE + "UploadId")
        bodies = [body(size, f"{key}#{generation}.{part}") for part, size in enumerate((PART, draw.randrange(1, MIB)))]
        etags = []
        for part, data in enumerate(bodies):
            query = [("partNumber", str(part + 1)), ("uploadId", upload)]
            answer = self.ask(
                "multipart", lambda wire, query=query, data=data: wire.request("PUT", path, query, body=data), draw
            )
            if not answer:
                return
            etags.append(answer.headers["etag"])
        parts = "".join(
            f"<Part><PartNumber>{n + 1}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in enumerate(etags)
        )
        document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        query = [("uploadId", upload)]
        if self.ask("multipart", lambda wire: wire.request("POST", path, query, body=document), draw):
            sums = b"".join(hashlib.md5(data).digest() for data in bodies)
            known[key] = (md5(b"".join(bodies)), f"{md5(sums)}-{len(bodies)}")

    def list(self, known, prefix, draw):
        query = [("list-type", "2"), ("prefix", prefix)]
        answer = self.ask("list", lambda wire: wire.request("GET", f"/{BUCKET}", query), draw)
        if not answer:
            return
        listed = {
            item.findtext(NAMESPACE + "Key"): item.findtext(NAMESPACE + "ETag").strip('"')
            for item in tree.fromstring(answer.body).iter(NAMESPACE + "Contents")
        }
        # What is not known may be there or not: its write was not acknowledged.
        for key, (_, etag) in known.items():
            if listed.get(key) != etag:
                self.wrong.append(("listed", key, listed.get(key), etag))

    def ask(self, what, question, draw):
        """The answer, or None where all tries failed on nodes that were there."""
        trouble = None
        tries = 0
        while tries < self.tries:
            nodes = [node for node in self.deployment.nodes if node not in self.away]
            if not nodes:
                time.sleep(0.05)
                continue
            node = draw.choice(nodes)
            try:
                with Wire(node, timeout=20) as wire:
                    answer = question(wire)
                if answer.status == 200:
                    self.done[what] += 1
                    return answer
                trouble = answer
            except Exception as error:  # noqa: BLE001 - whatever a dying node does to a connection
                trouble = error
            if node in self.away:
                # It was taken away under the request.
                continue
            tries += 1
            time.sleep(0.2 * tries)
        self.failed[what].append(repr(trouble)[:300])
        return None

    def take_away(self, node):
        self.away.add(node)

    def give_back(self, node):
        self.away.discard(node)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()

    def check(self):
        """What was acknowledged is there, wherever one asks, and whatever was asked was answered."""
        assert not self.wrong, self.wrong
        for what in ("get", "list"):
            assert not self.failed[what], self.failed
        writes = self.done["put"] + self.done["multipart"]
        assert len(self.failed["put"] + self.failed["multipart"]) <= writes / 1000, (self.done, self.failed)
        assert self.done["put"] > 50 and self.done["get"] > 50, self.done
        assert self.done["list"] > 5 and self.done["multipart"] > 8, self.done
        known = {key: sums for known in self.known for key, sums in known.items()}
        for node in self.deployment.running():
            with Wire(node) as wire:
                listed = {key: etag for key, _, etag in wire.list_all(BUCKET)}
                for key, (sum_, etag) in known.items():
                    assert listed.get(key) == etag, (node.name, key)
                    answer = wire.get(BUCKET, key)
                    assert answer.status == 200, (node.name, key, answer)
                    assert md5(answer.body) == sum_, (node.name, key)
