"""Many small objects: a crash is over soon, memory stays flat, listings are exact. A million of them: soak_million.py."""

import pytest

from bucketsd import Bucketsd
from small_objects import Soak


@pytest.mark.seconds(900)
@pytest.mark.parametrize("objects", [50_000])
def test_many_small_objects(objects):
    with Bucketsd(name="small").format() as server:
        soak = Soak(server, objects, tell=print)
        soak.fill()
        soak.crash_and_time_the_start(seconds_max=5.0)
        soak.check_listing()
        soak.check_bodies(share=0.02)
        soak.check_memory()
        soak.delete_every(3)
        soak.check_listing()
        assert server.terminate() == 0
