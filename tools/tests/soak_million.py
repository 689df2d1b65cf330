#!/usr/bin/env python3
"""A million small objects on one node, kill -9, and every check of the small suite. Takes a while and about 20 GB below target/.

    ./test.sh e2e                                                    # once: builds the binaries and the venv
    target/e2e-venv/bin/python tools/tests/soak_million.py           # a million
    target/e2e-venv/bin/python tools/tests/soak_million.py 5000000   # five
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "e2e"))

from bodies import MIB  # noqa: E402
from bucketsd import Bucketsd  # noqa: E402
from small_objects import Soak  # noqa: E402


def main():
    objects = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with Bucketsd(name="soak").format() as server:
        soak = Soak(server, objects, tell=lambda text: print(text, flush=True))
        soak.fill()
        soak.check_memory(grown_max=256 * MIB)
        soak.crash_and_time_the_start(seconds_max=5.0)
        soak.check_listing()
        soak.check_bodies(share=0.01)
        soak.check_memory(grown_max=256 * MIB)
        soak.delete_every(10)
        soak.check_listing()
        status = server.terminate()
        assert status == 0, f"SIGTERM ended with {status}"
        print("all well")


if __name__ == "__main__":
    main()
