"""Processes that write, and a journal of what was acknowledged to them.

The journal knows for each key every state that it may be in: the last acknowledged one, and the one that was under way
when the server died. A state is None (no object) or (generation, size); the body follows from key and state.
"""

import multiprocessing
import random
import threading

from bodies import KIB, MIB, body, md5

KEYS_PER_WRITER = 60
SIZES = [0, 1, 100, 4 * KIB, 64 * KIB, 128 * KIB, 128 * KIB + 1, 300 * KIB, 1 * MIB, 3 * MIB]
WEIGHTS = [1, 2, 8, 8, 4, 3, 3, 3, 2, 1]


def expected_body(key, generation, size):
    return body(size, f"{key}#{generation}")


class Journal:
    """What is known of each key after some rounds."""

    def __init__(self):
        self.states = {}
        self.acknowledged = 0

    def begin(self, key, state):
        known = self.states.setdefault(key, [None])
        if state not in known:
            known.append(state)

    def acknowledge(self, key, state):
        self.states[key] = [state]
        self.acknowledged += 1

    def settle(self, seen):
        """What was read once must stay."""
        for key, state in seen.items():
            self.states[key] = [state]


def write(endpoint, bucket, number, seed, pipe):
    """One writer: puts, overwrites, deletes and multipart uploads, each told to the pipe before and after."""
    from wire import Wire

    draw = random.Random(f"{seed}/{number}")
    generation = seed * 1_000_000
    try:
        with Wire(endpoint, timeout=10) as wire:
            while True:
                generation += 1
                key = f"w{number}/{draw.randrange(KEYS_PER_WRITER):03}"
                action = draw.random()
                if action < 0.15:
                    pipe.send(("begin", key, None))
                    good = wire.delete(bucket, key).status == 204
                    state = None
                else:
                    size = draw.choices(SIZES, WEIGHTS)[0]
                    if action > 0.97:
                        size = 5 * MIB + size
                    state = (generation, size)
                    data = expected_body(key, *state)
                    pipe.send(("begin", key, state))
                    good = put_parts(wire, bucket, key, data) if action > 0.97 else wire.put(bucket, key, data).status == 200
                pipe.send(("done" if good else "refused", key, state))
    except OSError:
        pass
    except Exception as error:  # noqa: BLE001 - http.client's many ways to say that the server is gone
        if type(error).__module__ != "http.client":
            pipe.send(("broken", repr(error), None))
    finally:
        pipe.send(("end", None, None))
        pipe.close()


def put_parts(wire, bucket, key, data):
    """A multipart upload of two parts."""
    import xml.etree.ElementTree as tree

    from wire import NAMESPACE

    answer = wire.request("POST", f"/{bucket}/{key}", [("uploads", "")])
    if answer.status != 200:
        return False
    upload = tree.fromstring(answer.body).findtext(NAMESPACE + "UploadId")
    document = ""
    for part, piece in enumerate((data[: 5 * MIB], data[5 * MIB :]), 1):
        if piece or part == 1:
            answer = wire.request(
                "PUT", f"/{bucket}/{key}", [("partNumber", str(part)), ("uploadId", upload)], body=piece
            )
            if answer.status != 200:
                return False
            document += f"<Part><PartNumber>{part}</PartNumber><ETag>{md5(piece)}</ETag></Part>"
    document = f"<CompleteMultipartUpload>{document}</CompleteMultipartUpload>".encode()
    answer = wire.request("POST", f"/{bucket}/{key}", [("uploadId", upload)], body=document)
    return answer.status == 200 and b"<Error>" not in answer.body


class Endpoint:
    """What a writer's process needs to know of the server."""

    def __init__(self, server):
        self.host, self.port = server.host, server.port
        self.seconds_ahead = server.seconds_ahead
        self.access_key, self.secret_key = server.access_key, server.secret_key


class Writers:
    """Runs the writers until the server is killed or they are stopped; the journal is complete at the end of the block."""

    def __init__(self, server, bucket, count, seed, journal):
        self.journal = journal
        self.acknowledged = 0
        self.broken = []
        context = multiprocessing.get_context("spawn")
        self.processes, self.readers = [], []
        started = threading.Semaphore(0)
        for number in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=write, args=(Endpoint(server), bucket, number, seed, theirs), daemon=True)
            process.start()
            theirs.close()
            reader = threading.Thread(target=self._read, args=(ours, started), daemon=True)
            reader.start()
            self.processes.append(process)
            self.readers.append(reader)
        # Python starts slowly; the load begins when every writer has something under way.
        for _ in range(count):
            if not started.acquire(timeout=60):
                raise AssertionError("a writer has not started")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.stop()
        for process, reader in zip(self.processes, self.readers):
            process.join(30)
            reader.join(30)
        if kind is None:
            assert not self.broken, f"a writer broke: {self.broken[0]}"

    def stop(self):
        """Stops the writers in the middle of what they do."""
        for process in self.processes:
            process.terminate()

    def _read(self, pipe, started):
        # Keys belong to one writer, so the order between pipes does not matter.
        while True:
            try:
                kind, key, state = pipe.recv()
            except (EOFError, OSError):
                return
            started.release()
            if kind == "begin":
                self.journal.begin(key, state)
            elif kind == "done":
                self.journal.acknowledge(key, state)
                self.acknowledged += 1
            elif kind == "broken":
                self.broken.append(key)
            elif kind == "end":
                return
