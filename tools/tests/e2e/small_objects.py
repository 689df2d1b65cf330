"""Puts many small objects from several processes and says how the server bore it."""

import multiprocessing
import random
import time

from bodies import MIB, body
from wire import Wire
from writers import Endpoint

PUTTERS = 8
BUCKET = "many"


def key_of(number):
    """Folders of a thousand, as backups and data sets have them."""
    return f"d{number // 1000:05}/object-{number:09}"


def body_of(number):
    return body(200 + number % 1800, number)


def _each(work, server, numbers):
    with multiprocessing.get_context("spawn").Pool(PUTTERS) as pool:
        done = pool.starmap(work, [(Endpoint(server), numbers[n::PUTTERS]) for n in range(PUTTERS)])
    return sum(done)


def _put(endpoint, numbers):
    with Wire(endpoint) as wire:
        for number in numbers:
            answer = wire.put(BUCKET, key_of(number), body_of(number))
            assert answer.status == 200, answer
    return len(numbers)


def _get(endpoint, numbers):
    with Wire(endpoint) as wire:
        for number in numbers:
            answer = wire.get(BUCKET, key_of(number))
            assert answer.status == 200 and answer.body == body_of(number), (key_of(number), answer)
    return len(numbers)


def _delete(endpoint, numbers):
    with Wire(endpoint) as wire:
        for number in numbers:
            answer = wire.delete(BUCKET, key_of(number))
            assert answer.status == 204, answer
    return len(numbers)


class Soak:
    """One server, its objects, and the checks in the order of the story."""

    def __init__(self, server, objects, tell):
        self.server = server
        self.objects = objects
        self.there = set(range(objects))
        self.tell = tell
        self.resident_at_tenth = 0

    def fill(self):
        self.server.start()
        with Wire(self.server) as wire:
            assert wire.request("PUT", f"/{BUCKET}").status == 200
        began = time.monotonic()
        tenth = max(self.objects // 10, 1)
        for first in range(0, self.objects, tenth):
            _each(_put, self.server, list(range(first, min(first + tenth, self.objects))))
            if first == tenth * 2:
                # By now every buffer and cache has had its chance to fill.
                self.resident_at_tenth = self.server.resident_bytes()
        took = time.monotonic() - began
        self.tell(f"{self.objects} objects in {took:.1f} s: {self.objects / took:.0f} a second")

    def check_memory(self, grown_max=192 * MIB):
        """What a server holds must not follow the number of objects."""
        resident = self.server.resident_bytes()
        self.tell(f"memory {self.resident_at_tenth / MIB:.0f} MiB early, {resident / MIB:.0f} MiB now")
        assert resident - self.resident_at_tenth < grown_max

    def crash_and_time_the_start(self, seconds_max):
        self.server.kill()
        began = time.monotonic()
        self.server.start()
        took = time.monotonic() - began
        self.tell(f"ready {took:.2f} s after a kill -9")
        assert took < seconds_max, f"{took:.1f} s\n{self.server.log_tail()}"

    def check_listing(self):
        began = time.monotonic()
        with Wire(self.server) as wire:
            listed = [key for key, _, _ in wire.list_all(BUCKET)]
        took = time.monotonic() - began
        self.tell(f"{len(listed)} keys listed in {took:.1f} s: {len(listed) / took:.0f} a second")
        assert listed == [key_of(number) for number in sorted(self.there)]

    def check_bodies(self, share):
        chosen = random.Random(1).sample(sorted(self.there), int(len(self.there) * share))
        _each(_get, self.server, chosen)

    def delete_every(self, nth):
        gone = [number for number in sorted(self.there) if number % nth == 0]
        _each(_delete, self.server, gone)
        self.there -= set(gone)
